//! What `--mint` and the options that go with it say.

use std::collections::HashMap;

use bytes::Bytes;
use countersign_proto::v1;
use serde::Serialize;
use v1::mint::Kind;
use zeroize::Zeroizing;

use crate::args::{ClientAuth, Mint, MintKind, Parts};
use crate::failure::Failure;
use crate::secret;

/// An option, and whether it was given.
type Given = (&'static str, bool);

/// # Errors
/// Options that the kind does not have, and those that it needs.
pub(super) fn from_args(args: Mint) -> Result<Option<v1::Mint>, Failure> {
    let given: [Given; 11] = [
        ("--token-url", args.token_url.is_some()),
        ("--client-id", args.client_id.is_some()),
        ("--client-auth", args.client_auth.is_some()),
        ("--scope", !args.scope.is_empty()),
        ("--parameter", !args.parameter.is_empty()),
        ("--subject", args.subject.is_some()),
        ("--app-id", args.app_id.is_some()),
        ("--installation-id", args.installation_id.is_some()),
        ("--repository", !args.repository.is_empty()),
        ("--permission", !args.permission.is_empty()),
        ("--api-url", args.api_url.is_some()),
    ];
    let Some(kind) = args.mint else {
        return match given.into_iter().find(|(_, is_given)| *is_given) {
            None => Ok(None),
            Some((option, _)) => Err(Failure::Usage(format!(
                "{option} goes with --mint KIND: say how tokens are minted, or leave it out"
            ))),
        };
    };
    let (takes, needs): (&[&str], &[&str]) = match kind {
        MintKind::GithubApp => (
            &["--app-id", "--installation-id", "--repository", "--permission", "--api-url"],
            &["--app-id", "--installation-id"],
        ),
        MintKind::GoogleServiceAccount => (&["--token-url", "--scope", "--subject"], &["--scope"]),
        MintKind::OauthClientCredentials | MintKind::OauthRefreshToken => (
            &["--token-url", "--client-id", "--client-auth", "--scope", "--parameter"],
            &["--token-url", "--client-id"],
        ),
    };
    let name = name(kind);
    for (option, is_given) in given {
        if is_given && !takes.contains(&option) {
            return Err(Failure::Usage(format!("{option} is not for --mint {name}: leave it out")));
        }
        if !is_given && needs.contains(&option) {
            return Err(Failure::Usage(format!("--mint {name} needs {option}")));
        }
    }
    let text = Option::unwrap_or_default;
    let kind = match kind {
        MintKind::GithubApp => Kind::GithubApp(v1::GithubAppMint {
            api_url: text(args.api_url),
            app_id: text(args.app_id),
            installation_id: args.installation_id.unwrap_or_default(),
            repositories: args.repository,
            permissions: pairs("--permission", args.permission)?,
        }),
        MintKind::GoogleServiceAccount => {
            Kind::GoogleServiceAccount(v1::GoogleServiceAccountMint {
                token_url: text(args.token_url),
                email: String::new(),
                scopes: args.scope,
                subject: text(args.subject),
            })
        }
        MintKind::OauthClientCredentials | MintKind::OauthRefreshToken => {
            let grant = match kind {
                MintKind::OauthRefreshToken => v1::OauthGrant::RefreshToken,
                _ => v1::OauthGrant::ClientCredentials,
            };
            let client_auth = match args.client_auth {
                None | Some(ClientAuth::Basic) => v1::OauthClientAuth::Basic,
                Some(ClientAuth::Body) => v1::OauthClientAuth::Body,
                Some(ClientAuth::None) => v1::OauthClientAuth::None,
            };
            Kind::Oauth(v1::OauthMint {
                grant: grant.into(),
                token_url: text(args.token_url),
                client_id: text(args.client_id),
                client_auth: client_auth.into(),
                scopes: args.scope,
                parameters: pairs("--parameter", args.parameter)?,
            })
        }
    };
    Ok(Some(v1::Mint { kind: Some(kind) }))
}

/// The parts as one value; None where there are none.
pub(super) fn value(parts: &Parts) -> Result<Option<Bytes>, Failure> {
    #[derive(Serialize)]
    struct Value<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        refresh_token: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        client_secret: Option<&'a str>,
    }
    let Parts { refresh_token_file, client_secret_file } = parts;
    if refresh_token_file.is_none() && client_secret_file.is_none() {
        return Ok(None);
    }
    let read = |file: &Option<std::path::PathBuf>, what: &str| {
        file.as_deref().map(|file| secret::read_word(Some(file), what)).transpose()
    };
    let refresh_token = read(refresh_token_file, "the refresh token")?;
    let client_secret = read(client_secret_file, "the client's secret")?;
    let value = Value {
        refresh_token: refresh_token.as_ref().map(|it| it.as_str()),
        client_secret: client_secret.as_ref().map(|it| it.as_str()),
    };
    // Larger than both: a buffer that moves leaves a copy behind.
    let mut json = Zeroizing::new(Vec::with_capacity(257 * 1024));
    serde_json::to_writer(&mut *json, &value).map_err(Failure::refused)?;
    Ok(Some(Bytes::from_owner(json)))
}

/// As a table calls it.
pub(super) fn kind(mint: Option<&v1::Mint>) -> &'static str {
    match mint.and_then(|mint| mint.kind.as_ref()) {
        None => "value",
        Some(Kind::GithubApp(_)) => name(MintKind::GithubApp),
        Some(Kind::GoogleServiceAccount(_)) => name(MintKind::GoogleServiceAccount),
        Some(Kind::Oauth(client)) => match client.grant() {
            v1::OauthGrant::ClientCredentials => name(MintKind::OauthClientCredentials),
            v1::OauthGrant::RefreshToken | v1::OauthGrant::Unspecified => {
                name(MintKind::OauthRefreshToken)
            }
        },
    }
}

fn name(kind: MintKind) -> &'static str {
    match kind {
        MintKind::GithubApp => "github-app",
        MintKind::GoogleServiceAccount => "google-service-account",
        MintKind::OauthClientCredentials => "oauth-client-credentials",
        MintKind::OauthRefreshToken => "oauth-refresh-token",
    }
}

fn pairs(option: &str, texts: Vec<String>) -> Result<HashMap<String, String>, Failure> {
    let mut pairs = HashMap::new();
    for text in texts {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("{option} {text:?} is not NAME=VALUE")))?;
        if pairs.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::Usage(format!("{option} {name} is given twice")));
        }
    }
    Ok(pairs)
}
