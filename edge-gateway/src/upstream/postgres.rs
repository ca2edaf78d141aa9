//! A connection to a Postgres server: encrypted, with a certificate of the server's name, and opened by SCRAM-SHA-256,
//! bound to the channel where the server offers that. Nothing weaker is ever answered: what asks for the password itself,
//! or for a hash of it that somebody could use, is not told it.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use countersign_gate::{Destination, Outbound, Scheme, Sent};
use http::Method;
use percent_encoding::percent_decode_str;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Failure, Upstream};
use crate::ahead::Ahead;
use crate::postgres::message::{Fields, Malformed, framed, from_server, put_text, write};
use crate::postgres::{PASSWORD, ROLE};

/// As registered for TLS (ALPN). Servers that do not know it ignore it.
pub(crate) const ALPN: &[u8] = b"postgresql";

/// From the startup message to the first ReadyForQuery.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// The most that a server says until then.
const MOST_UNTIL_READY: usize = 256 * 1024;
const CANCEL_WITHIN: Duration = Duration::from_secs(10);
/// RFC 7677 §4 wants 4096 at least; more than this would keep us busy for nothing.
const ITERATIONS: RangeInclusive<u32> = 4096..=1_000_000;
const VERSION_3: i32 = 3 << 16;
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const CANCEL_REQUEST: i32 = 80_877_102;
/// As much of a server's words as an error repeats.
const SAID_BYTES: usize = 500;

/// What a running statement is cancelled with.
#[derive(Clone)]
pub(crate) struct CancelKey {
    process: i32,
    secret: Bytes,
}

/// A connection on which the server waits for statements.
pub(crate) struct Opened {
    pub(crate) stream: TlsStream<Ahead<TcpStream>>,
    /// What came behind its first ReadyForQuery.
    pub(crate) read: BytesMut,
    /// What it reported of itself.
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) cancel: Option<CancelKey>,
}

/// Who opens a connection, and as what.
struct Login<'a> {
    role: &'a str,
    database: &'a str,
    password: &'a [u8],
    parameters: &'a [(String, String)],
}

impl Upstream {
    /// Opens the connection that was released: to its destination, as the role and to the database that it names, with the
    /// password in it. `parameters` go into the startup message.
    ///
    /// # Errors
    /// [`Failure`]. Whatever went wrong, no statement was sent.
    pub(crate) async fn open_postgres(
        &self,
        outbound: Outbound,
        parameters: &[(String, String)],
    ) -> Result<Opened, Failure> {
        let destination = outbound.destination().clone();
        let no = |why: &str| Failure::NotSent { why: why.to_owned() };
        if destination.scheme() != Scheme::Postgres || !outbound.keyed() {
            return Err(no("it is not a connection to a Postgres server"));
        }
        let Sent { method, uri, headers, .. } = outbound.into_parts();
        let database = percent_decode_str(uri.path().trim_start_matches('/')).decode_utf8();
        let role = headers.get(ROLE).and_then(|role| role.to_str().ok());
        let (Ok(database), Some(role), Some(password)) = (database, role, headers.get(PASSWORD))
        else {
            return Err(no("it does not say as whom, or to which database"));
        };
        if method != Method::GET {
            return Err(no("a statement does not open a connection"));
        }
        let mut stream = self.dialler.postgres(&destination).await?;
        let binding = Binding::of(&stream);
        let login = Login { role, database: &database, password: password.as_bytes(), parameters };
        let opening = log_in(&mut stream, &login, binding);
        let opened = tokio::time::timeout(READY_WITHIN, opening).await;
        let opened = opened.unwrap_or_else(|_| {
            Err(format!("the server was not ready within {} s", READY_WITHIN.as_secs()))
        });
        let (read, parameters, cancel) = opened.map_err(|why| Failure::NotSent {
            why: format!("no session with {}: {why}", destination.authority()),
        })?;
        Ok(Opened { stream, read, parameters, cancel })
    }

    /// Asks the server to cancel what runs on the connection with this key; over TLS, as the connection itself. It gives no
    /// answer: whether it did is seen on that connection.
    ///
    /// # Errors
    /// [`Failure`], when it could not be asked.
    pub(crate) async fn cancel_postgres(
        &self,
        destination: &Destination,
        key: &CancelKey,
    ) -> Result<(), Failure> {
        let mut stream = self.dialler.postgres(destination).await?;
        let mut out = BytesMut::new();
        framed(&mut out, |out| {
            out.put_i32(CANCEL_REQUEST);
            out.put_i32(key.process);
            out.put_slice(&key.secret);
        });
        let asked = async {
            stream.write_all(&out).await?;
            stream.flush().await?;
            // The server closes it when it has read that.
            let _ = stream.read(&mut [0; 1]).await;
            Ok(())
        };
        let asked: Result<(), std::io::Error> =
            tokio::time::timeout(CANCEL_WITHIN, asked).await.unwrap_or(Ok(()));
        asked.map_err(|why| Failure::Unknown { why: why.to_string() })
    }
}

/// Asks for TLS. What it answers is one byte: whatever came behind that in the clear is left to TLS, which takes it for
/// no handshake, and never read as if it had been encrypted.
pub(super) async fn ask_for_tls<S>(stream: &mut S) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answered = async {
        stream.write_all(&SSL_REQUEST).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    match answered.await {
        Ok(b'S') => Ok(()),
        Ok(_) => Err("the server does not speak TLS, and a password goes over nothing else".into()),
        Err(why) => Err(why.to_string()),
    }
}

/// What the channel is known by to both of its ends (RFC 5929 §4): a hash of the server's certificate.
struct Binding(Option<Vec<u8>>);

impl Binding {
    /// None for a certificate whose signature has no hash of its own, such as Ed25519's: for these it is not defined.
    fn of(stream: &TlsStream<Ahead<TcpStream>>) -> Self {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Self(certificates.first().and_then(|certificate| hash(certificate)))
    }

    fn agreed(self, server_offers: bool) -> (ChannelBinding, &'static str) {
        match self.0 {
            Some(hash) if server_offers => {
                (ChannelBinding::tls_server_end_point(hash), SCRAM_SHA_256_PLUS)
            }
            // We could have, the server says that it cannot: should somebody have taken its offer away, it notices.
            Some(_) => (ChannelBinding::unrequested(), SCRAM_SHA_256),
            None => (ChannelBinding::unsupported(), SCRAM_SHA_256),
        }
    }
}

/// RFC 5929 §4.1: the hash of the certificate's signature, SHA-256 instead of MD5 and SHA-1.
fn hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    Some(match read.signature_algorithm.algorithm.to_id_string().as_str() {
        // MD5, SHA-1 and SHA-256 with RSA; SHA-1 and SHA-256 with ECDSA.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Sha256::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Sha384::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Sha512::digest(certificate).to_vec(),
        _ => return None,
    })
}

type Ready = (BytesMut, Vec<(String, String)>, Option<CancelKey>);

/// From the startup message to the first ReadyForQuery.
async fn log_in<S>(stream: &mut S, login: &Login<'_>, binding: Binding) -> Result<Ready, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut line = Line { stream, read: BytesMut::new(), left: MOST_UNTIL_READY };
    let mut out = BytesMut::new();
    framed(&mut out, |out| {
        out.put_i32(VERSION_3);
        let named = [("user", login.role), ("database", login.database)];
        let more = login.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in named.into_iter().chain(more) {
            put_text(out, name);
            put_text(out, value);
        }
        out.put_u8(0);
    });
    line.say(&out).await?;
    prove(&mut line, login.password, binding).await?;

    let (mut parameters, mut cancel) = (Vec::new(), None);
    loop {
        let (tag, body) = line.next().await?;
        let mut fields = Fields(&body);
        let read: Result<(), Malformed> = (|| match tag {
            b'S' => {
                parameters.push((fields.text()?, fields.text()?));
                fields.end()
            }
            b'K' => {
                let process = fields.i32()?;
                let secret = body.slice(4..);
                cancel = Some(CancelKey { process, secret });
                Ok(())
            }
            _ => Ok(()),
        })();
        read.map_err(|why| why.to_string())?;
        match tag {
            b'K' | b'S' => {}
            b'Z' => return Ok((line.read, parameters, cancel)),
            _ => return Err("the server said something other than that it is ready".into()),
        }
    }
}

/// Proves that we know the password, and has the server prove that it does.
async fn prove<S>(line: &mut Line<'_, S>, password: &[u8], binding: Binding) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mechanisms = line.asked(10).await?;
    let offered = |name: &str| {
        mechanisms.split(|byte| *byte == 0).any(|mechanism| mechanism == name.as_bytes())
    };
    let (binding, mechanism) = binding.agreed(offered(SCRAM_SHA_256_PLUS));
    if !offered(mechanism) {
        return Err("the server offers no SCRAM-SHA-256".into());
    }
    let mut scram = ScramSha256::new(password, binding);
    let mut out = BytesMut::new();
    write(&mut out, b'p', |out| {
        put_text(out, mechanism);
        let first = scram.message();
        out.put_i32(i32::try_from(first.len()).unwrap_or(i32::MAX));
        out.put_slice(first);
    });
    line.say(&out).await?;

    let challenge = line.asked(11).await?;
    if !iterations(&challenge).is_some_and(|count| ITERATIONS.contains(&count)) {
        return Err(format!(
            "the server asks for fewer than {} or more than {} rounds of SCRAM",
            ITERATIONS.start(),
            ITERATIONS.end()
        ));
    }
    // Thousands of hashes: not where others wait.
    let derived = tokio::task::spawn_blocking(move || {
        let updated = scram.update(&challenge).map_err(|why| why.to_string());
        updated.map(|()| scram)
    });
    let mut scram = derived.await.map_err(|why| why.to_string())??;
    let mut out = BytesMut::new();
    write(&mut out, b'p', |out| out.put_slice(scram.message()));
    line.say(&out).await?;

    let last = line.asked(12).await?;
    scram.finish(&last).map_err(|why| format!("the server did not prove itself: {why}"))?;
    line.asked(0).await.map(drop)
}

/// Of a server's first message: `r=…,s=…,i=COUNT`.
fn iterations(challenge: &[u8]) -> Option<u32> {
    let (_, count) = std::str::from_utf8(challenge).ok()?.rsplit_once(",i=")?;
    count.parse().ok()
}

/// A connection that is not ready yet.
struct Line<'a, S> {
    stream: &'a mut S,
    read: BytesMut,
    /// Bytes that the server may still say.
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<'_, S> {
    async fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        let said = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        said.await.map_err(|why: std::io::Error| why.to_string())
    }

    /// The next message that is no notice.
    async fn next(&mut self) -> Result<(u8, Bytes), String> {
        loop {
            let message = from_server(&mut self.read, MOST_UNTIL_READY);
            match message.map_err(|why| why.to_string())? {
                Some((b'N', _)) => {}
                Some((b'E', body)) => return Err(format!("it says: {}", said(&body))),
                Some(message) => return Ok(message),
                None => {
                    let read = self.stream.read_buf(&mut self.read).await;
                    let count = read.map_err(|why| why.to_string())?;
                    if count == 0 {
                        return Err("the server closed the connection".into());
                    }
                    self.left = self.left.checked_sub(count).ok_or("the server says too much")?;
                }
            }
        }
    }

    /// What the next message asks of us, which must be this kind of authentication.
    async fn asked(&mut self, kind: u32) -> Result<Bytes, String> {
        let (tag, mut body) = self.next().await?;
        if tag != b'R' || body.len() < 4 {
            return Err("the server said something other than how to authenticate".into());
        }
        let asked = body.get_u32();
        match asked {
            _ if asked == kind => Ok(body),
            0 => Err("the server lets anybody in, or did not prove that it knows the password: set it to scram-sha-256".into()),
            3 => Err("the server asks for the password itself: set it to scram-sha-256".into()),
            5 => Err("the server asks for an MD5 of the password, which is as good as the password: set it to scram-sha-256".into()),
            _ => Err("the server asks for something other than SCRAM-SHA-256".into()),
        }
    }
}

/// An error's code and message.
fn said(body: &[u8]) -> String {
    let mut parts = Vec::new();
    for field in body.split(|byte| *byte == 0) {
        if let Some((b'C' | b'M', text)) = field.split_first() {
            parts.push(String::from_utf8_lossy(text).into_owned());
        }
    }
    let mut said = parts.join(" ");
    said.truncate(said.floor_char_boundary(SAID_BYTES));
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_read_where_the_message_ends() {
        assert_eq!(iterations(b"r=abc,s=QUJD,i=4096"), Some(4096));
        for other in [&b""[..], b"r=abc,s=QUJD", b"r=abc,s=QUJD,i=", b"r=a,s=Q,i=4096,x=1", b"\xff"]
        {
            assert_eq!(iterations(other), None, "{}", other.escape_ascii());
        }
    }

    #[tokio::test]
    async fn a_server_that_asks_for_less_than_scram_is_not_told_anything() {
        for (asks, why) in [
            (&b"R\0\0\0\x08\0\0\0\x03"[..], "password itself"),
            (b"R\0\0\0\x0c\0\0\0\x05salt", "MD5"),
            (b"R\0\0\0\x08\0\0\0\0", "lets anybody in"),
            (b"R\0\0\0\x0f\0\0\0\x0aPLAIN\0\0", "no SCRAM"),
            (b"Z\0\0\0\x05I", "other than how to authenticate"),
        ] {
            let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
            let login =
                Login { role: "app", database: "app", password: b"hunter2", parameters: &[] };
            theirs.write_all(asks).await.expect("written");
            let refused = log_in(&mut ours, &login, Binding(None)).await.map(drop);
            let refused = refused.expect_err("refused");
            assert!(refused.contains(why), "{refused}");
            drop(ours);
            let mut told = Vec::new();
            theirs.read_to_end(&mut told).await.expect("read");
            let startup = u32::from_be_bytes(told[..4].try_into().expect("a length"));
            assert_eq!(told.len(), startup as usize, "the startup message, and nothing after it");
        }
    }
}
