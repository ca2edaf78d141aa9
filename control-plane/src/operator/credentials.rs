//! Credentials: a value goes in and never comes out; what agents hold is a fake of its shape.

use bytes::Bytes;
use countersign_gate::{Destination, HOLE, Scheme};
use countersign_proto::v1;
use http::header::HeaderName;
use tonic::Status;
use zeroize::{Zeroize as _, Zeroizing};

use super::accounts::{account_from_proto, account_to_proto};
use super::once::{Once, reused};
use super::page::{Page, timestamp};
use super::{fake, policy, refuse};
use crate::access::Admitted;
use crate::state::{Command, Credential, Event, Fake, ReleaseClass};
use crate::vault::Binding;

const VALUE_BYTES: usize = 16 * 1024;

pub(super) async fn create(
    asked: &Admitted,
    request: v1::CreateCredentialRequest,
) -> Result<v1::CreateCredentialResponse, Status> {
    let house = &asked.house;
    let once = Once::of(asked, "CreateCredential", &request.request_id)?;
    let value = taken(request.value);
    let mut wrong = Vec::new();
    let mut note = |field: &str, what: String| wrong.push((field.to_owned(), what));
    let destination = Destination::parse(Scheme::Https, &request.host, Some(443))
        .map_err(|e| note("host", format!("{e}: write \"host\" or \"host:port\"")))
        .ok();
    let slot = slot_of(&request.slot).map_err(|what| note("slot", what)).ok();
    let template = slot.as_ref().and_then(|slot| {
        template_of(slot, &request.template).map_err(|what| note("template", what)).ok()
    });
    let class = class_of(request.class).map_err(|what| note("class", what)).ok();
    let key = check_value(&value)
        .and_then(|()| fake::shaped_like(&value, once.bytes(&house.vault, "fake-key")))
        .map_err(|what| note("value", what.to_owned()))
        .ok();
    let (Some(destination), Some(slot), Some(template), Some(class), Some(key)) =
        (destination, slot, template, class, key)
    else {
        return Err(refuse::fields(wrong));
    };

    let read = house.cluster.read(|state| {
        let cluster = state.genesis().map(|genesis| genesis.cluster_id.clone()).unwrap_or_default();
        (cluster, state.policy().map(|policy| policy.text.clone()))
    });
    let (cluster, policy_text) = read.await.map_err(|e| refuse::unavailable(&e))?;
    if let Some(text) = policy_text {
        let (name, rules) = (request.name.as_str(), policy::compiled(&text)?);
        if class == ReleaseClass::Lease {
            policy::refuse_leases_of_approved([name], &rules)?;
        }
        policy::refuse_tunnels_to_keyed([(name, destination.host())], &rules)?;
    }
    let mut credential = Credential {
        id: once.id("crd_"),
        name: request.name,
        version: 1,
        host: destination.host().to_owned(),
        port: destination.port(),
        slot,
        template,
        class,
        fakes: vec![Fake { key, active: true }],
        payload: nothing_sealed(),
        active: true,
        created_at: 0,
        acts_as: request.acts_as.map(account_from_proto),
    };
    credential.payload =
        house.vault.seal_payload(&Binding::of_credential(&cluster, &credential), &value);
    drop(value);
    let name = credential.name.clone();
    let (credential, fake_key) =
        changed(asked, &once, Command::CreateCredential(Box::new(credential)), &name).await?;
    Ok(v1::CreateCredentialResponse { credential: Some(credential), fake_key })
}

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListCredentialsRequest,
) -> Result<v1::ListCredentialsResponse, Status> {
    let page = Page::of("credentials", request.page_size, &request.page_token)?;
    let read = asked.house.cluster.read(|state| {
        let keyed = state.credentials().map(|c| (format!("{} {}", c.name, c.id), c));
        page.cut(keyed.collect(), to_proto)
    });
    let (credentials, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListCredentialsResponse { credentials, next_page_token })
}

pub(super) async fn rotate(
    asked: &Admitted,
    request: v1::RotateCredentialRequest,
) -> Result<v1::RotateCredentialResponse, Status> {
    let house = &asked.house;
    let once = Once::of(asked, "RotateCredential", &request.request_id)?;
    let value = taken(request.value);
    check_value(&value).map_err(|what| refuse::field("value", what))?;
    let read = house.cluster.read(|state| {
        let cluster = state.genesis().map(|genesis| genesis.cluster_id.clone()).unwrap_or_default();
        let current = state.credentials().find(|c| c.active && c.name == request.name).cloned();
        (cluster, current)
    });
    let (cluster, current) = read.await.map_err(|e| refuse::unavailable(&e))?;
    let current = current.ok_or_else(|| {
        refuse::not_found(format!(
            "there is no active credential {:?}: list the credentials to see their names",
            request.name
        ))
    })?;
    let expected_version = current.version;
    let next = Credential { version: expected_version + 1, ..current };
    let payload = house.vault.seal_payload(&Binding::of_credential(&cluster, &next), &value);
    drop(value);
    let command =
        Command::RotateCredential { name: request.name.clone(), expected_version, payload };
    let (credential, fake_key) = changed(asked, &once, command, &request.name).await?;
    Ok(v1::RotateCredentialResponse { credential: Some(credential), fake_key })
}

pub(super) async fn revoke(
    asked: &Admitted,
    request: v1::RevokeCredentialRequest,
) -> Result<v1::RevokeCredentialResponse, Status> {
    let once = Once::of(asked, "RevokeCredential", &request.request_id)?;
    let command = Command::RevokeCredential { name: request.name.clone() };
    let (credential, _) = changed(asked, &once, command, &request.name).await?;
    Ok(v1::RevokeCredentialResponse { credential: Some(credential) })
}

/// The credential as it is now, and the fake key that agents hold.
async fn changed(
    asked: &Admitted,
    once: &Once,
    command: Command,
    name: &str,
) -> Result<(v1::Credential, String), Status> {
    let event = once.propose(asked, command).await?;
    let Event::CredentialChanged { id, .. } = &*event else { return Err(reused(name)) };
    let found = asked.house.cluster.peek(|state| {
        state.credential(id).map(|credential| {
            let fake = credential.fakes.iter().rev().find(|fake| fake.active);
            (to_proto(credential), fake.map(|fake| fake.key.clone()).unwrap_or_default())
        })
    });
    found.filter(|(credential, _)| credential.name == name).ok_or_else(|| reused(name))
}

/// The value where it is overwritten when dropped; what carried it is overwritten now, where nobody else holds it.
fn taken(value: Bytes) -> Zeroizing<Vec<u8>> {
    let copy = Zeroizing::new(value.to_vec());
    if let Ok(mut carrier) = value.try_into_mut() {
        carrier.as_mut().zeroize();
    }
    copy
}

fn check_value(value: &[u8]) -> Result<(), &'static str> {
    match value {
        [] => Err("is empty: give the key itself"),
        value if value.len() > VALUE_BYTES => Err("is longer than 16 KiB: that is no key"),
        value if value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) => Err(
            "has a line break or a NUL in it, which no slot can hold: give the key alone, without a trailing newline",
        ),
        value if std::str::from_utf8(value).is_err() => Err("is not UTF-8 text"),
        _ => Ok(()),
    }
}

/// `header[:NAME]`, `basic`, `query:NAME` or `path`, as it is stored.
fn slot_of(text: &str) -> Result<String, String> {
    const NOT_FOR_KEYS: [&str; 12] = [
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let grammar =
        || format!("{text:?} is not a slot: write header, header:NAME, basic, query:NAME or path");
    let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name)));
    match (kind, name) {
        ("header", None) => Ok("header:authorization".into()),
        ("header", Some(name)) => {
            let name: HeaderName =
                name.parse().map_err(|_| format!("{name:?} is not a header's name"))?;
            if NOT_FOR_KEYS.contains(&name.as_str()) {
                return Err(format!("the header {name} belongs to the connection, not to a key"));
            }
            Ok(format!("header:{name}"))
        }
        ("basic" | "path", None) => Ok(kind.into()),
        ("query", Some(name)) => {
            let plain = |b: u8| {
                b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'[' | b']')
            };
            if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
                return Err(format!(
                    "{name:?} is not a parameter's name: use up to 64 letters, digits and -._~[]"
                ));
            }
            Ok(text.into())
        }
        _ => Err(grammar()),
    }
}

/// The template as it is stored: the slot's own where none is given.
fn template_of(slot: &str, text: &str) -> Result<String, String> {
    let default = match slot {
        // Behind whatever scheme the client writes.
        "header:authorization" => "",
        slot if slot.starts_with("header:") => HOLE,
        "path" => HOLE,
        _ => "",
    };
    if text.is_empty() {
        return Ok(default.into());
    }
    if text.len() > 256 || text.matches(HOLE).count() != 1 {
        return Err("must hold {key} exactly once, in at most 256 characters".into());
    }
    let around = text.replacen(HOLE, "", 1);
    let fits = match slot {
        "basic" => around.bytes().all(|b| b.is_ascii_graphic()) && around.matches(':').count() <= 1,
        "path" => {
            around.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b))
        }
        slot if slot.starts_with("query:") => {
            return Err("is not for a query parameter: leave it empty".into());
        }
        _ => around.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) && text.trim() == text,
    };
    let what = match slot {
        "basic" => "must be {key}, NAME:{key} or {key}:PASSWORD in visible ASCII",
        "path" => "must be one path segment, such as bot{key}",
        _ => "must be a header's value in ASCII without space around it",
    };
    if fits { Ok(text.into()) } else { Err(what.into()) }
}

fn class_of(class: i32) -> Result<ReleaseClass, String> {
    match v1::CredentialClass::try_from(class) {
        Ok(v1::CredentialClass::Unspecified | v1::CredentialClass::Auto) => Ok(ReleaseClass::Auto),
        Ok(v1::CredentialClass::Lease) => Ok(ReleaseClass::Lease),
        Ok(v1::CredentialClass::PerRequest) => Ok(ReleaseClass::PerRequest),
        Err(_) => Err("must be auto, lease or per-request".into()),
    }
}

/// In the payload's place until the binding of the whole record is known.
fn nothing_sealed() -> crate::state::Payload {
    crate::state::Payload::Sealed {
        keyring_term: 0,
        wrapped_key: Vec::new(),
        ciphertext: Vec::new(),
    }
}

fn to_proto(credential: &Credential) -> v1::Credential {
    let class = match credential.class {
        ReleaseClass::Auto => v1::CredentialClass::Auto,
        ReleaseClass::Lease => v1::CredentialClass::Lease,
        ReleaseClass::PerRequest => v1::CredentialClass::PerRequest,
    };
    v1::Credential {
        credential_id: credential.id.clone(),
        name: credential.name.clone(),
        version: credential.version,
        host: credential.host.clone(),
        port: credential.port.into(),
        slot: credential.slot.clone(),
        template: credential.template.clone(),
        class: class.into(),
        revoked: !credential.active,
        created_at: timestamp(credential.created_at),
        acts_as: credential.acts_as.as_ref().map(account_to_proto),
    }
}
