//! `credential create --mint`: how what is stored becomes what is handed out.

use std::path::PathBuf;

use clap::ValueEnum;

/// How tokens are minted. Nothing here is secret.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Minting tokens")]
#[group(skip)]
pub(crate) struct Mint {
    /// The value is what tokens are minted with, in this way
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) mint: Option<MintKind>,
    /// OAuth: where tokens come from (a service account's key file says it by itself)
    #[arg(long, value_name = "URL")]
    pub(crate) token_url: Option<String>,
    /// OAuth: the client's id
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// OAuth: how the client shows its secret
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) client_auth: Option<ClientAuth>,
    /// OAuth and service accounts: what tokens are for; once for each
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Vec<String>,
    /// OAuth: what else is asked with, such as `audience=https://api.example.com`
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) parameter: Vec<String>,
    /// Service accounts: whom it acts for, by domain-wide delegation
    #[arg(long, value_name = "EMAIL")]
    pub(crate) subject: Option<String>,
    /// GitHub: the app's id, or its client id
    #[arg(long, value_name = "ID")]
    pub(crate) app_id: Option<String>,
    /// GitHub: the number of its installation
    #[arg(long, value_name = "NUMBER")]
    pub(crate) installation_id: Option<u64>,
    /// GitHub: a repository that tokens are for, without its owner; once for each. None: all that the installation may
    #[arg(long, value_name = "NAME")]
    pub(crate) repository: Vec<String>,
    /// GitHub: what tokens may, such as contents=read; once for each. None: all that the installation may
    #[arg(long, value_name = "NAME=LEVEL")]
    pub(crate) permission: Vec<String>,
    /// GitHub: the API of a server of your own
    #[arg(long, value_name = "URL")]
    pub(crate) api_url: Option<String>,
}

/// An OAuth client's value in parts, each from a file of its own.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Parts {
    /// OAuth: read the refresh token from this file, instead of all from one
    #[arg(long, value_name = "FILE", conflicts_with = "from_file")]
    pub(crate) refresh_token_file: Option<PathBuf>,
    /// OAuth: read the client's secret from this file, instead of all from one
    #[arg(long, value_name = "FILE", conflicts_with = "from_file")]
    pub(crate) client_secret_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MintKind {
    /// An installation token of a GitHub App; the value is the app's private key, PEM
    GithubApp,
    /// A token of a Google service account; the value is its key file, JSON
    GoogleServiceAccount,
    /// A token of an OAuth client for itself; the value is JSON with "client_secret"
    OauthClientCredentials,
    /// A token of an OAuth client for a user; the value is JSON with "refresh_token" and "client_secret"
    OauthRefreshToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientAuth {
    /// In the Authorization header
    Basic,
    /// In the body
    Body,
    /// It has none
    None,
}
