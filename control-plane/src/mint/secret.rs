//! What is stored of a credential whose tokens are minted: read from what an operator gave, and from the vault.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::call::NoToken;
use super::jwt;
use super::target::Target;
use crate::state::{ClientAuth, Mint, OAuthGrant};

/// The long-lived secret. It never leaves the control plane, save for a call to its issuer.
pub(crate) enum Secret {
    Client(ClientSecret),
    Key(SigningKey),
}

/// Of an OAuth client.
pub(crate) struct ClientSecret {
    pub(crate) refresh_token: Option<Zeroizing<String>>,
    pub(crate) client_secret: Option<Zeroizing<String>>,
}

/// An RSA key, PEM, and what its issuer calls it.
pub(crate) struct SigningKey {
    pub(crate) pem: Zeroizing<String>,
    pub(crate) key_id: Option<String>,
}

/// As it is given, and as it is read back.
#[derive(Deserialize)]
struct GivenClient {
    client_secret: Option<String>,
    refresh_token: Option<String>,
}

/// As it is stored.
#[derive(Serialize)]
struct StoredClient<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

#[derive(Serialize)]
struct StoredKey<'a> {
    private_key: &'a str,
    private_key_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct ReadKey {
    private_key: String,
    private_key_id: Option<String>,
}

/// A key file as Google gives it out.
#[derive(Deserialize)]
struct GoogleKey {
    #[serde(rename = "type")]
    kind: Option<String>,
    client_email: Option<String>,
    private_key: Option<String>,
    private_key_id: Option<String>,
    token_uri: Option<String>,
}

/// Longer than any secret of a client.
const LONGEST: usize = 8 * 1024;

impl Secret {
    /// Reads what an operator gave. A Google key says by itself whose it is and where it is shown: that completes
    /// `mint`, where it does not say so yet.
    ///
    /// # Errors
    /// What is wrong with it, in words that hold nothing of it.
    pub(crate) fn given(mint: &mut Mint, value: &[u8]) -> Result<Self, String> {
        match mint {
            Mint::GitHubApp { .. } => {
                let pem = String::from_utf8(value.to_vec()).map_err(|_| NO_PEM.to_owned())?;
                SigningKey { pem: Zeroizing::new(pem), key_id: None }.tried()
            }
            Mint::GoogleServiceAccount { token_url, email, .. } => {
                google_key(value, token_url, email)?.tried()
            }
            Mint::OAuth { grant, client_auth, .. } => client(value, *grant, *client_auth),
        }
    }

    /// Reads what the vault gave.
    pub(crate) fn stored(mint: &Mint, bytes: &[u8]) -> Result<Self, NoToken> {
        let unreadable = || NoToken::for_good("what is stored is no secret of its kind: rotate it");
        match mint {
            Mint::OAuth { .. } => {
                let given: GivenClient = serde_json::from_slice(bytes).map_err(|_| unreadable())?;
                Ok(Self::Client(given.into()))
            }
            Mint::GitHubApp { .. } | Mint::GoogleServiceAccount { .. } => {
                let key: ReadKey = serde_json::from_slice(bytes).map_err(|_| unreadable())?;
                let pem = Zeroizing::new(key.private_key);
                Ok(Self::Key(SigningKey { pem, key_id: key.private_key_id }))
            }
        }
    }

    /// As it goes into the vault.
    pub(crate) fn to_store(&self) -> Zeroizing<Vec<u8>> {
        // Large enough: a buffer that moves leaves a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(64 * 1024));
        let written = match self {
            Self::Client(client) => serde_json::to_writer(
                &mut *bytes,
                &StoredClient {
                    client_secret: client.client_secret.as_ref().map(|it| it.as_str()),
                    refresh_token: client.refresh_token.as_ref().map(|it| it.as_str()),
                },
            ),
            Self::Key(key) => serde_json::to_writer(
                &mut *bytes,
                &StoredKey { private_key: &key.pem, private_key_id: key.key_id.as_deref() },
            ),
        };
        debug_assert!(written.is_ok(), "text is always JSON");
        bytes
    }

    /// Whether a call may make it worthless, and bring another in its place.
    pub(super) fn may_be_used_up(&self) -> bool {
        matches!(self, Self::Client(ClientSecret { refresh_token: Some(_), .. }))
    }

    /// What an agent's own client would show for it: the fake key has its shape.
    pub(crate) fn shown_by_clients(&self) -> Option<&str> {
        match self {
            Self::Client(client) => client
                .refresh_token
                .as_ref()
                .or(client.client_secret.as_ref())
                .map(|it| it.as_str()),
            Self::Key(_) => None,
        }
    }
}

impl ClientSecret {
    /// The same with another refresh token; None where it is the same.
    pub(super) fn replaced_by(&self, next: String) -> Result<Option<Self>, NoToken> {
        let next = Zeroizing::new(next);
        let Some(former) = &self.refresh_token else { return Ok(None) };
        if *former == next {
            return Ok(None);
        }
        if !usable(&next) {
            return Err(NoToken::for_good(
                "its issuer answered with another refresh token, which is none that can be sent back",
            ));
        }
        let client_secret = self.client_secret.clone();
        Ok(Some(Self { refresh_token: Some(next), client_secret }))
    }
}

impl From<GivenClient> for ClientSecret {
    fn from(given: GivenClient) -> Self {
        Self {
            refresh_token: given.refresh_token.map(Zeroizing::new),
            client_secret: given.client_secret.map(Zeroizing::new),
        }
    }
}

impl SigningKey {
    /// Signs something with it, so that a key that cannot is refused now and not when it is needed.
    fn tried(self) -> Result<Secret, String> {
        match jwt::signed(&self.pem, None, &serde_json::json!({})) {
            Ok(_) => Ok(Secret::Key(self)),
            Err(_) => Err(NO_PEM.into()),
        }
    }
}

const NO_PEM: &str = "is no RSA private key in PEM: give the file as it was downloaded, with its BEGIN and END lines";

fn client(value: &[u8], grant: OAuthGrant, auth: ClientAuth) -> Result<Secret, String> {
    let shape = || {
        r#"is not JSON such as {"refresh_token":"…","client_secret":"…"}: write it so, or give the parts in files of their own"#.to_owned()
    };
    let given: GivenClient = serde_json::from_slice(value).map_err(|_| shape())?;
    let client = ClientSecret::from(given);
    let wants_refresh = grant == OAuthGrant::RefreshToken;
    if wants_refresh != client.refresh_token.is_some() {
        return Err(if wants_refresh {
            "has no refresh_token, which this grant is made with".into()
        } else {
            "has a refresh_token, which this grant does not use".into()
        });
    }
    let wants_secret = auth != ClientAuth::None;
    if wants_secret != client.client_secret.is_some() {
        return Err(if wants_secret {
            "has no client_secret, which this client is known by".into()
        } else {
            "has a client_secret, which a public client does not have".into()
        });
    }
    let mut parts = client.refresh_token.iter().chain(&client.client_secret);
    if !parts.all(|part| usable(part)) {
        return Err("has a part that is empty, longer than 8 KiB, or not plain ASCII".into());
    }
    Ok(Secret::Client(client))
}

fn google_key(
    value: &[u8],
    token_url: &mut String,
    email: &mut String,
) -> Result<SigningKey, String> {
    let key: GoogleKey = serde_json::from_slice(value).map_err(|_| {
        "is no key of a service account: give the JSON file as Google made it".to_owned()
    })?;
    let pem = key.private_key.map(Zeroizing::new);
    let (Some(pem), Some(whose)) = (pem, key.client_email) else {
        return Err(
            "has no private_key or no client_email: give the JSON file as Google made it".into()
        );
    };
    if key.kind.is_some_and(|kind| kind != "service_account") {
        return Err("is of another type than service_account".into());
    }
    if email.is_empty() {
        *email = whose;
    } else if *email != whose {
        return Err("is the key of another service account".into());
    }
    if token_url.is_empty() {
        let uri = key.token_uri.unwrap_or_else(|| "https://oauth2.googleapis.com/token".into());
        *token_url = Target::parse(&uri).map_err(|why| format!("has a token_uri {why}"))?.url();
    }
    Ok(SigningKey { pem, key_id: key.private_key_id })
}

fn usable(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Made for these tests, and used nowhere else.
    pub(crate) const RSA_PEM: &str = include_str!("test_key.pem");

    fn oauth(grant: OAuthGrant, client_auth: ClientAuth) -> Mint {
        Mint::OAuth {
            grant,
            token_url: "https://auth.example.com/token".into(),
            client_id: "client".into(),
            client_auth,
            scopes: Vec::new(),
            parameters: BTreeMap::new(),
        }
    }

    fn google() -> Mint {
        let (token_url, email) = (String::new(), String::new());
        Mint::GoogleServiceAccount {
            token_url,
            email,
            scopes: vec!["s".into()],
            subject: String::new(),
        }
    }

    fn key_file(email: &str) -> Vec<u8> {
        let file = serde_json::json!({
            "type": "service_account",
            "client_email": email,
            "private_key": RSA_PEM,
            "private_key_id": "k1",
            "token_uri": "https://oauth2.googleapis.com/token",
        });
        file.to_string().into_bytes()
    }

    #[test]
    fn a_client_brings_what_its_grant_and_its_way_to_show_itself_need_and_nothing_else() {
        let both = br#"{"refresh_token":"r-1","client_secret":"s-1"}"#.as_slice();
        let refresh = br#"{"refresh_token":"r-1"}"#.as_slice();
        let secret = br#"{"client_secret":"s-1"}"#.as_slice();
        let (code, own) = (OAuthGrant::RefreshToken, OAuthGrant::ClientCredentials);
        for (grant, auth, right) in [
            (code, ClientAuth::Basic, both),
            (code, ClientAuth::Body, both),
            (code, ClientAuth::None, refresh),
            (own, ClientAuth::Basic, secret),
        ] {
            for value in [both, refresh, secret, b"{}", b"r-1", br#"{"refresh_token":""}"#] {
                let mut mint = oauth(grant, auth);
                let read = Secret::given(&mut mint, value);
                assert_eq!(read.is_ok(), value == right, "{grant:?} {auth:?}");
                if let Ok(read) = read {
                    let again = Secret::stored(&mint, &read.to_store());
                    let Ok(Secret::Client(again)) = again else { panic!("is read back") };
                    assert_eq!(again.refresh_token.is_some(), grant == code);
                }
            }
        }
    }

    #[test]
    fn a_google_key_says_whose_it_is_and_another_accounts_is_refused() {
        let mut mint = google();
        let read = Secret::given(&mut mint, &key_file("robot@p.iam.gserviceaccount.com"));
        let read = read.unwrap_or_else(|why| panic!("{why}"));
        let Mint::GoogleServiceAccount { token_url, email, .. } = &mint else { panic!("no") };
        assert_eq!(token_url, "https://oauth2.googleapis.com/token");
        assert_eq!(email, "robot@p.iam.gserviceaccount.com");
        let Ok(Secret::Key(again)) = Secret::stored(&mint, &read.to_store()) else { panic!("no") };
        assert_eq!((again.pem.as_str(), again.key_id.as_deref()), (RSA_PEM, Some("k1")));
        let other = Secret::given(&mut mint, &key_file("other@p.iam.gserviceaccount.com"));
        assert!(other.is_err_and(|why| why.contains("another service account")));
    }

    #[test]
    fn what_cannot_sign_is_refused_when_it_is_given_and_not_repeated() {
        let mut mint = Mint::GitHubApp {
            api_url: "https://api.github.com".into(),
            app_id: "1".into(),
            installation_id: 1,
            repositories: Vec::new(),
            permissions: BTreeMap::new(),
        };
        assert!(Secret::given(&mut mint, RSA_PEM.as_bytes()).is_ok());
        for wrong in [
            "canary-of-a-key",
            "-----BEGIN RSA PRIVATE KEY-----\ncanary\n-----END RSA PRIVATE KEY-----",
        ] {
            let why = Secret::given(&mut mint, wrong.as_bytes()).err().expect("refused");
            assert!(!why.contains("canary"), "{why}");
        }
    }
}
