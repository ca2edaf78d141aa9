//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side of it: what an agent's client proves that it knows its password
//! with, without sending it. Without channel binding: the agent's TLS ends here, in front of a certificate of our own.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// As PostgreSQL itself has it.
pub(crate) const ITERATIONS: u32 = 4096;
pub(crate) const MECHANISM: &str = "SCRAM-SHA-256";

const PURPOSE: &[u8] = b"countersign/v1/postgres\0";

/// The password with which an agent opens connections in whose place a credential's are opened: the credential's fake key,
/// and what only somebody could have made of it who has the agent's token. Of the token its SHA-256 is enough, which is
/// what an edge knows of it.
///
/// `fake_key ‖ "." ‖ hex(HMAC-SHA256(SHA-256(token), "countersign/v1/postgres" ‖ 0 ‖ fake_key))`
pub fn password(token_sha256: &[u8; 32], fake_key: &str) -> Zeroizing<String> {
    let tag = Zeroizing::new(hmac(token_sha256, &[PURPOSE, fake_key.as_bytes()]));
    let tag = Zeroizing::new(hex::encode(*tag));
    Zeroizing::new(format!("{fake_key}.{}", *tag))
}

/// What is kept of a password to check proofs by.
#[derive(Clone)]
pub(crate) struct Verifier {
    stored_key: Zeroizing<[u8; 32]>,
    server_key: Zeroizing<[u8; 32]>,
}

impl Verifier {
    /// Of a password in ASCII, so that SASLprep (RFC 4013) changes nothing. It takes milliseconds, which is the point of
    /// it.
    pub(crate) fn of(password: &[u8], salt: &[u8]) -> Self {
        let salted = Zeroizing::new(hi(password, salt, ITERATIONS));
        let client_key = Zeroizing::new(hmac(&*salted, &[b"Client Key"]));
        Self {
            stored_key: Zeroizing::new(Sha256::digest(*client_key).into()),
            server_key: Zeroizing::new(hmac(&*salted, &[b"Server Key"])),
        }
    }

    fn proves(&self, auth_message: &[u8], proof: &[u8; 32]) -> bool {
        let signature = hmac(&*self.stored_key, &[auth_message]);
        let mut client_key = Zeroizing::new([0; 32]);
        for (byte, (proof, signature)) in client_key.iter_mut().zip(proof.iter().zip(signature)) {
            *byte = proof ^ signature;
        }
        let stored: [u8; 32] = Sha256::digest(*client_key).into();
        stored.ct_eq(&*self.stored_key).into()
    }
}

/// What a client's messages are not. It learns no more than that it is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotProven;

/// An exchange whose first half is over: what the client begins with was read, and answered.
pub(crate) struct Exchange {
    /// As the client wrote it, `n,,` or `y,,`.
    gs2_header: &'static str,
    nonce: String,
    /// `client-first-message-bare ‖ "," ‖ server-first-message`
    begun: String,
}

impl Exchange {
    /// Reads the client's first message; `nonce` is our own half, of visible ASCII without a comma. Gives the answer to it
    /// as well.
    pub(crate) fn begin(
        first: &[u8],
        salt: &[u8],
        nonce: &str,
    ) -> Result<(Self, String), NotProven> {
        let text = std::str::from_utf8(first).map_err(|_| NotProven)?;
        // `y`: the client could bind the channel, and saw that we do not. `p`: it does, and was told of no such thing.
        let (gs2_header, bare) = ["n,,", "y,,"]
            .into_iter()
            .find_map(|header| Some((header, text.strip_prefix(header)?)))
            .ok_or(NotProven)?;
        // The name is that of the startup message, whatever stands here, as PostgreSQL has it; nothing else may follow.
        let (name, theirs) = bare.split_once(",r=").ok_or(NotProven)?;
        let printable = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
        };
        let named = name.strip_prefix("n=").is_some_and(|name| !name.contains(','));
        if !named || !printable(theirs) || theirs.len() > 256 {
            return Err(NotProven);
        }
        let nonce = format!("{theirs}{nonce}");
        let answer = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(salt));
        Ok((Self { gs2_header, begun: format!("{bare},{answer}"), nonce }, answer))
    }

    /// Reads the client's last message. Gives which of these verifiers it proves, and the answer to it. All of them are
    /// tried, whichever it is.
    pub(crate) fn end(
        self,
        last: &[u8],
        verifiers: &[Verifier],
    ) -> Result<(usize, String), NotProven> {
        let text = std::str::from_utf8(last).map_err(|_| NotProven)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(NotProven)?;
        let expected = format!("c={},r={}", STANDARD.encode(self.gs2_header), self.nonce);
        if without_proof != expected {
            return Err(NotProven);
        }
        let proof = STANDARD.decode(proof).map_err(|_| NotProven)?;
        let proof: [u8; 32] = proof.try_into().map_err(|_| NotProven)?;
        let auth_message = format!("{},{without_proof}", self.begun);
        let mut proven = None;
        for (index, verifier) in verifiers.iter().enumerate() {
            if verifier.proves(auth_message.as_bytes(), &proof) {
                proven = Some(index);
            }
        }
        let index = proven.ok_or(NotProven)?;
        let signature = hmac(&*verifiers[index].server_key, &[auth_message.as_bytes()]);
        Ok((index, format!("v={}", STANDARD.encode(signature))))
    }
}

/// Verifiers of passwords, so that each is derived once; and the salts that they are derived with, which are those of this
/// process.
pub(crate) struct Verifiers {
    secret: Zeroizing<[u8; 32]>,
    known: Mutex<HashMap<[u8; 32], Verifier>>,
    /// Deriving is work: so many at a time.
    working: Semaphore,
}

/// More are not kept: strangers could bring as many names as they like.
const MOST_KNOWN: usize = 10_000;
const AT_A_TIME: usize = 2;

impl Verifiers {
    /// `secret` is fresh randomness.
    pub(crate) fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self { secret, known: Mutex::default(), working: Semaphore::new(AT_A_TIME) }
    }

    /// The salt for this user: the same with every try, whether there is such a user or not.
    pub(crate) fn salt(&self, user: &str) -> [u8; 16] {
        let long = hmac(&*self.secret, &[b"salt", user.as_bytes()]);
        let mut salt = [0; 16];
        salt.copy_from_slice(&long[..16]);
        salt
    }

    /// Verifiers of these passwords, in their order. For a user who has none it is as much work, and what comes of it is
    /// a verifier of a password that nobody has.
    pub(crate) async fn of(&self, user: &str, passwords: &[Zeroizing<String>]) -> Vec<Verifier> {
        let nobody =
            Zeroizing::new(hex::encode(hmac(&*self.secret, &[b"nobody", user.as_bytes()])));
        let passwords =
            if passwords.is_empty() { std::slice::from_ref(&nobody) } else { passwords };
        let salt = self.salt(user);
        let mut verifiers = Vec::with_capacity(passwords.len());
        for password in passwords {
            let name =
                hmac(&*self.secret, &[b"known", user.as_bytes(), b"\0", password.as_bytes()]);
            let known = super::lock(&self.known).get(&name).cloned();
            if let Some(known) = known {
                verifiers.push(known);
                continue;
            }
            let _working = self.working.acquire().await;
            let password = password.clone();
            let derive = move || Verifier::of(password.as_bytes(), &salt);
            let Ok(verifier) = tokio::task::spawn_blocking(derive).await else { continue };
            let mut known = super::lock(&self.known);
            if known.len() >= MOST_KNOWN {
                known.clear();
            }
            known.insert(name, verifier.clone());
            verifiers.push(verifier);
        }
        verifiers
    }
}

pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed(key);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of any length (RFC 2104 §2).
    Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("a key of any length"))
}

/// `Hi` of RFC 5802 §2.2: PBKDF2 with one block.
fn hi(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let mac = keyed(password);
    let round = |data: &[&[u8]]| -> [u8; 32] {
        let mut mac = mac.clone();
        data.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    };
    let mut last = round(&[salt, &1u32.to_be_bytes()]);
    let mut all = last;
    for _ in 1..iterations {
        last = round(&[&last]);
        all.iter_mut().zip(last).for_each(|(all, last)| *all ^= last);
    }
    all
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::*;

    const SALT: &[u8] = b"0123456789abcdef";

    fn exchange(
        password: &[u8],
        binding: ChannelBinding,
        verifiers: &[Verifier],
    ) -> Result<usize, NotProven> {
        let mut client = ScramSha256::new(password, binding);
        let (exchange, answer) = Exchange::begin(client.message(), SALT, "ours")?;
        client.update(answer.as_bytes()).expect("the client goes on");
        let (index, answer) = exchange.end(client.message(), verifiers)?;
        client.finish(answer.as_bytes()).expect("the client knows us as well");
        Ok(index)
    }

    #[test]
    fn a_client_that_others_wrote_proves_which_password_it_has() {
        let verifiers = [b"first".as_slice(), b"second"].map(|it| Verifier::of(it, SALT));
        assert_eq!(exchange(b"first", ChannelBinding::unsupported(), &verifiers), Ok(0));
        assert_eq!(exchange(b"second", ChannelBinding::unrequested(), &verifiers), Ok(1));
        assert_eq!(exchange(b"third", ChannelBinding::unsupported(), &verifiers), Err(NotProven));
        assert_eq!(exchange(b"first", ChannelBinding::unsupported(), &[]), Err(NotProven));
        let bound = ChannelBinding::tls_server_end_point(vec![1; 32]);
        assert_eq!(exchange(b"first", bound, &verifiers), Err(NotProven), "we bind no channel");
    }

    #[test]
    fn the_example_of_rfc_7677_is_proven() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let (exchange, answer) = Exchange::begin(
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            &salt,
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        )
        .expect("a first message");
        let expected = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(answer, expected);
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let verifier = Verifier::of(b"pencil", &salt);
        let (_, answer) = exchange.end(last, &[verifier]).expect("proven");
        assert_eq!(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn messages_that_say_something_else_prove_nothing() {
        for first in [
            &b""[..],
            b"n,,",
            b"n,a=admin,n=,r=abc",
            b"p=tls-unique,,n=,r=abc",
            b"n,,n=,r=",
            b"n,,n=,r=a b",
            b"n,,m=x,n=,r=abc",
            b"n,,n=,r=abc,x=y",
            b"n,,n=\xff,r=abc",
        ] {
            assert!(Exchange::begin(first, SALT, "ours").is_err(), "{}", first.escape_ascii());
        }
        let verifiers = [Verifier::of(b"first", SALT)];
        for (from, to) in
            [("c=biws", "c=eSws"), (",r=", ",r=x"), (",p=", ",x=y,p="), ("p=", "p=AA")]
        {
            let mut client = ScramSha256::new(b"first", ChannelBinding::unsupported());
            let (exchange, answer) = Exchange::begin(client.message(), SALT, "ours").expect("it");
            client.update(answer.as_bytes()).expect("the client goes on");
            let last = String::from_utf8(client.message().to_vec()).expect("text");
            let changed = last.replacen(from, to, 1);
            assert_ne!(changed, last);
            assert!(exchange.end(changed.as_bytes(), &verifiers).is_err(), "{changed}");
        }
    }

    #[test]
    fn a_password_is_good_for_one_agent_and_one_credential() {
        let [one, other] = [&b"token"[..], b"other"].map(|token| Sha256::digest(token).into());
        let made = password(&one, "fake_0123456789");
        assert!(made.starts_with("fake_0123456789.") && made.len() == 16 + 64, "{}", *made);
        assert_eq!(*made, *password(&one, "fake_0123456789"));
        assert_ne!(*made, *password(&other, "fake_0123456789"));
        assert_ne!(made[16..], password(&one, "fake_9876543210")[16..]);
    }
}
