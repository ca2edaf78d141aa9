//! `countersign credential`. Values come in and never go out.

mod mint;
mod postgres;

use std::path::Path;

use bytes::Bytes;
use countersign_proto::v1;
use serde::Serialize;

use super::approver::parse_account;
use super::{every_page, part, yes_no};
use crate::args::{Class, Credential, Output, Parts, Show};
use crate::client;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{print, secret};

pub(crate) async fn run(context: &Context, command: Credential) -> Done {
    let request_id = client::request_id();
    match command {
        Credential::Create {
            acts_as,
            name,
            host,
            slot,
            postgres_role,
            template,
            class,
            from_file,
            parts,
            mint,
            show,
        } => {
            let mint = mint::from_args(*mint)?;
            let value = value(from_file.as_deref(), &parts)?;
            let template = template.unwrap_or_default();
            let role = postgres_role.map(|role| format!("postgres:{role}"));
            let slot = role.or(slot).unwrap_or_default();
            let class = v1::CredentialClass::from(class).into();
            let request = v1::CreateCredentialRequest {
                request_id,
                name,
                host,
                slot,
                template,
                class,
                value,
                acts_as: acts_as.as_deref().map(parse_account).transpose()?,
                mint,
            };
            let made =
                client::connect(context).await?.create_credential(request).await?.into_inner();
            faked(&part(made.credential)?, &made.fake_key, &show)
        }
        Credential::List(show) => {
            let mut admin = client::connect(context).await?;
            list(
                every_page!(admin, list_credentials, ListCredentialsRequest {}, credentials),
                &show,
            )
        }
        Credential::Rotate { name, from_file, parts, show } => {
            let value = value(from_file.as_deref(), &parts)?;
            let request = v1::RotateCredentialRequest { request_id, name, value };
            let made =
                client::connect(context).await?.rotate_credential(request).await?.into_inner();
            faked(&part(made.credential)?, &made.fake_key, &show)
        }
        Credential::PostgresUrl(wanted) => postgres::url(context, &wanted),
        Credential::Revoke(named) => {
            let request = v1::RevokeCredentialRequest { request_id, name: named.name };
            let answer =
                client::connect(context).await?.revoke_credential(request).await?.into_inner();
            let credential = part(answer.credential)?;
            match named.show.output {
                Output::Json => print::json(&Listed::from(credential)),
                Output::Table => print::line(&format!(
                    "{} is revoked: it goes into no request any more.",
                    credential.name
                )),
            }
        }
    }
}

impl From<Class> for v1::CredentialClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Auto => Self::Auto,
            Class::Lease => Self::Lease,
            Class::PerRequest => Self::PerRequest,
        }
    }
}

#[derive(Serialize)]
struct Faked<'a> {
    credential: &'a str,
    version: u64,
    fake_key: &'a str,
    #[serde(flatten)]
    access_key: Option<AccessKey<'a>>,
}

/// The two halves of a fake key that an agent signs with.
#[derive(Serialize)]
struct AccessKey<'a> {
    fake_access_key_id: &'a str,
    fake_secret_access_key: &'a str,
}

impl<'a> AccessKey<'a> {
    fn of(credential: &v1::Credential, fake_key: &'a str) -> Option<Self> {
        let (fake_access_key_id, fake_secret_access_key) = fake_key.split_once(':')?;
        (credential.slot == "aws-sigv4")
            .then_some(Self { fake_access_key_id, fake_secret_access_key })
    }
}

#[derive(Serialize)]
struct Listed {
    credential: String,
    version: u64,
    host: String,
    port: u32,
    slot: String,
    template: String,
    class: &'static str,
    /// "value", or how its tokens are minted.
    kind: &'static str,
    token_expires_at: Option<String>,
    mint_failure: Option<String>,
    revoked: bool,
    created_at: Option<String>,
}

impl From<v1::Credential> for Listed {
    fn from(credential: v1::Credential) -> Self {
        Self {
            class: class_name(credential.class()),
            created_at: print::time(credential.created_at.as_ref()),
            kind: mint::kind(credential.mint.as_ref()),
            token_expires_at: print::time(credential.token_expires_at.as_ref()),
            mint_failure: Some(credential.mint_failure).filter(|why| !why.is_empty()),
            credential: credential.name,
            version: credential.version,
            host: credential.host,
            port: credential.port,
            slot: credential.slot,
            template: credential.template,
            revoked: credential.revoked,
        }
    }
}

/// The value leaves this memory when the request does: the buffer is wiped with its last owner.
fn value(file: Option<&Path>, parts: &Parts) -> Result<Bytes, Failure> {
    if let Some(value) = mint::value(parts)? {
        return Ok(value);
    }
    Ok(Bytes::from_owner(secret::read(file, "the credential's value")?))
}

fn class_name(class: v1::CredentialClass) -> &'static str {
    match class {
        v1::CredentialClass::Auto | v1::CredentialClass::Unspecified => "auto",
        v1::CredentialClass::Lease => "lease",
        v1::CredentialClass::PerRequest => "per-request",
    }
}

fn faked(credential: &v1::Credential, fake_key: &str, show: &Show) -> Done {
    let access_key = AccessKey::of(credential, fake_key);
    if show.output == Output::Json {
        return print::json(&Faked {
            credential: &credential.name,
            version: credential.version,
            fake_key,
            access_key,
        });
    }
    let mut facts = vec![
        ("credential", credential.name.clone()),
        ("version", credential.version.to_string()),
        ("destination", format!("{}:{}", credential.host, credential.port)),
        ("slot", credential.slot.clone()),
    ];
    match access_key {
        None => facts.push(("fake key", fake_key.to_owned())),
        Some(AccessKey { fake_access_key_id, fake_secret_access_key }) => facts.extend([
            ("AWS_ACCESS_KEY_ID", fake_access_key_id.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", fake_secret_access_key.to_owned()),
        ]),
    }
    print::facts(&facts)?;
    if credential.slot.starts_with("postgres:") {
        return print::line(&format!(
            "Agents never see the password. Each has a URL of its own, made of this fake key and its token: countersign credential postgres-url {}",
            credential.name
        ));
    }
    print::line(match credential.mint {
        None => {
            "Give agents the fake key. The real one is in the vault, and nothing shows it again."
        }
        Some(_) => {
            "Give agents the fake key: it stands for a token that is minted when it is needed. What tokens are minted with is in the vault, and nothing shows it again."
        }
    })
}

fn list(credentials: Vec<v1::Credential>, show: &Show) -> Done {
    let listed: Vec<Listed> = credentials.into_iter().map(Listed::from).collect();
    if show.output == Output::Json {
        return print::json(&listed);
    }
    let row = |c: Listed| {
        let destination = format!("{}:{}", c.host, c.port);
        vec![
            c.credential,
            c.version.to_string(),
            destination,
            c.slot,
            c.class.into(),
            c.kind.into(),
            c.mint_failure
                .map(|why| format!("none: {why}"))
                .or(c.token_expires_at)
                .unwrap_or_default(),
            yes_no(c.revoked),
            c.created_at.unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = listed.into_iter().map(row).collect();
    let heading = [
        "CREDENTIAL",
        "VERSION",
        "DESTINATION",
        "SLOT",
        "CLASS",
        "KIND",
        "TOKEN UNTIL",
        "REVOKED",
        "CREATED",
    ];
    print::table(
        &heading,
        &rows,
        "There are no credentials yet: `countersign credential create --help`.",
    )
}
