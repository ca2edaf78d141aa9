//! How a credential's tokens are minted, between proto and the state; what is wrong with it is said at once.

use std::collections::BTreeMap;

use countersign_gate::Scheme;
use countersign_proto::v1;
use v1::mint::Kind;

use crate::mint::Target;
use crate::state::{ClientAuth, Mint, OAuthGrant};

/// One field of a request and what is wrong with it.
type Wrong = (String, String);

const GITHUB: &str = "https://api.github.com";
/// Of a list, and of one text in it.
const FEW: usize = 100;
const SHORT: usize = 512;

/// # Errors
/// Everything that is wrong with it.
pub(super) fn from_proto(mint: v1::Mint, speaks_http: bool) -> Result<Mint, Vec<Wrong>> {
    let mut wrong = Wrongs(Vec::new());
    let read = match mint.kind {
        None => {
            wrong.note("kind", "is missing: say how tokens are minted");
            None
        }
        Some(Kind::GithubApp(app)) => {
            // The call is to a path below it.
            let api_url = if app.api_url.is_empty() { GITHUB } else { &app.api_url };
            let api_url = wrong.url("github_app.api_url", api_url, speaks_http);
            wrong.word("github_app.app_id", &app.app_id);
            if app.installation_id == 0 {
                wrong.note(
                    "github_app.installation_id",
                    "is missing: it is the number at the end of the installation's page",
                );
            }
            wrong.list("github_app.repositories", &app.repositories);
            if app.repositories.iter().any(|name| name.contains('/')) {
                wrong.note("github_app.repositories", "are named without their owner");
            }
            let permissions: BTreeMap<_, _> = app.permissions.into_iter().collect();
            wrong.map("github_app.permissions", &permissions);
            Some(Mint::GitHubApp {
                api_url: api_url.trim_end_matches('/').to_owned(),
                app_id: app.app_id,
                installation_id: app.installation_id,
                repositories: app.repositories,
                permissions,
            })
        }
        Some(Kind::GoogleServiceAccount(account)) => {
            let token_url = match account.token_url.as_str() {
                // The key file says it.
                "" => String::new(),
                url => wrong.url("google_service_account.token_url", url, speaks_http),
            };
            wrong.list("google_service_account.scopes", &account.scopes);
            if account.scopes.is_empty() {
                wrong.note(
                    "google_service_account.scopes",
                    "are missing: say what its tokens are for",
                );
            }
            if !account.subject.is_empty() {
                wrong.word("google_service_account.subject", &account.subject);
            }
            Some(Mint::GoogleServiceAccount {
                token_url,
                email: String::new(),
                scopes: account.scopes,
                subject: account.subject,
            })
        }
        Some(Kind::Oauth(client)) => {
            let grant = match client.grant() {
                v1::OauthGrant::ClientCredentials => Some(OAuthGrant::ClientCredentials),
                v1::OauthGrant::RefreshToken => Some(OAuthGrant::RefreshToken),
                v1::OauthGrant::Unspecified => None,
            };
            let client_auth = match client.client_auth() {
                v1::OauthClientAuth::Unspecified | v1::OauthClientAuth::Basic => ClientAuth::Basic,
                v1::OauthClientAuth::Body => ClientAuth::Body,
                v1::OauthClientAuth::None => ClientAuth::None,
            };
            if grant.is_none() {
                wrong.note("oauth.grant", "must be a refresh token or client credentials");
            }
            if grant == Some(OAuthGrant::ClientCredentials) && client_auth == ClientAuth::None {
                wrong.note(
                    "oauth.client_auth",
                    "must be basic or body: such a client has nothing but its secret",
                );
            }
            let token_url = wrong.url("oauth.token_url", &client.token_url, speaks_http);
            wrong.word("oauth.client_id", &client.client_id);
            wrong.list("oauth.scopes", &client.scopes);
            let parameters: BTreeMap<_, _> = client.parameters.into_iter().collect();
            wrong.map("oauth.parameters", &parameters);
            const OWN: [&str; 6] =
                ["client_id", "client_secret", "grant_type", "refresh_token", "scope", "assertion"];
            if let Some(own) = OWN.iter().find(|name| parameters.contains_key(**name)) {
                wrong.note("oauth.parameters", &format!("has {own}, which is said elsewhere"));
            }
            grant.map(|grant| Mint::OAuth {
                grant,
                token_url,
                client_id: client.client_id,
                client_auth,
                scopes: client.scopes,
                parameters,
            })
        }
    };
    match read {
        Some(mint) if wrong.0.is_empty() => Ok(mint),
        _ => Err(wrong.0),
    }
}

pub(super) fn to_proto(mint: &Mint) -> v1::Mint {
    let kind = match mint.clone() {
        Mint::GitHubApp { api_url, app_id, installation_id, repositories, permissions } => {
            Kind::GithubApp(v1::GithubAppMint {
                api_url,
                app_id,
                installation_id,
                repositories,
                permissions: permissions.into_iter().collect(),
            })
        }
        Mint::GoogleServiceAccount { token_url, email, scopes, subject } => {
            Kind::GoogleServiceAccount(v1::GoogleServiceAccountMint {
                token_url,
                email,
                scopes,
                subject,
            })
        }
        Mint::OAuth { grant, token_url, client_id, client_auth, scopes, parameters } => {
            let grant = match grant {
                OAuthGrant::ClientCredentials => v1::OauthGrant::ClientCredentials,
                OAuthGrant::RefreshToken => v1::OauthGrant::RefreshToken,
            };
            let client_auth = match client_auth {
                ClientAuth::Basic => v1::OauthClientAuth::Basic,
                ClientAuth::Body => v1::OauthClientAuth::Body,
                ClientAuth::None => v1::OauthClientAuth::None,
            };
            Kind::Oauth(v1::OauthMint {
                grant: grant.into(),
                token_url,
                client_id,
                client_auth: client_auth.into(),
                scopes,
                parameters: parameters.into_iter().collect(),
            })
        }
    };
    v1::Mint { kind: Some(kind) }
}

struct Wrongs(Vec<Wrong>);

impl Wrongs {
    fn note(&mut self, field: &str, what: &str) {
        self.0.push((format!("mint.{field}"), what.to_owned()));
    }

    /// As it is called from now on.
    fn url(&mut self, field: &str, url: &str, speaks_http: bool) -> String {
        match Target::parse(url) {
            Ok(target) if target.destination.scheme() == Scheme::Http && !speaks_http => {
                self.note(field, "must begin with https://: in the clear, what is stored would be anybody's on the way");
                String::new()
            }
            Ok(target) => target.url(),
            Err(why) => {
                self.note(field, &format!("is an address {why}"));
                String::new()
            }
        }
    }

    fn word(&mut self, field: &str, text: &str) {
        if !is_word(text) {
            self.note(field, "must be a word of visible ASCII, of at most 512 characters");
        }
    }

    fn list(&mut self, field: &str, list: &[String]) {
        if list.len() > FEW || !list.iter().all(|text| is_word(text)) {
            self.note(field, "must be at most 100 words of visible ASCII");
        }
    }

    fn map(&mut self, field: &str, map: &BTreeMap<String, String>) {
        let value = |text: &String| {
            (1..=SHORT).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b))
        };
        if map.len() > FEW || !map.iter().all(|(name, text)| is_word(name) && value(text)) {
            self.note(field, "must be at most 100 names, each a word, with values of plain ASCII");
        }
    }
}

fn is_word(text: &str) -> bool {
    (1..=SHORT).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}
