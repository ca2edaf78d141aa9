//! Credentials: a value goes in and never comes out; what agents hold is a fake of its shape.

use bytes::Bytes;
use countersign_gate::{Destination, HOLE, Scheme};
use countersign_policy::body;
use countersign_proto::v1;
use http::header::HeaderName;
use tonic::Status;
use zeroize::{Zeroize as _, Zeroizing};

use super::accounts::{account_from_proto, account_to_proto};
use super::once::{Once, reused};
use super::page::{Page, timestamp};
use super::{fake, mint, policy, refuse};
use crate::access::Admitted;
use crate::mint::Secret;
use crate::request_signature::{Recipe, check_aws_key};
use crate::state::{Command, Credential, Event, Fake, Mint, Minting, ReleaseClass};
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
    let postgres = opens_postgres(&request.slot);
    let (scheme, port) = if postgres { (Scheme::Postgres, 5432) } else { (Scheme::Https, 443) };
    let destination = Destination::parse(scheme, &request.host, Some(port))
        .map_err(|e| note("host", format!("{e}: write \"host\" or \"host:port\"")))
        .ok();
    let slot = slot_of(&request.slot).map_err(|what| note("slot", what)).ok();
    let template = slot.as_ref().and_then(|slot| {
        template_of(slot, &request.template).map_err(|what| note("template", what)).ok()
    });
    let class = class_of(request.class).map_err(|what| note("class", what)).ok();
    if class == Some(ReleaseClass::Lease) && slot.as_deref().is_some_and(signs) {
        note(
            "class",
            "cannot be lease: with this slot the control plane signs, and the key never leaves it"
                .into(),
        );
    }
    if request.mint.is_some() && postgres {
        note(
            "mint",
            "does not go with a role's password: SCRAM proves that, and takes no token".into(),
        );
    }
    if request.mint.is_some() && slot.as_deref().is_some_and(signs) {
        note("mint", "does not go with a slot that signs: there a key stays what it is".into());
    }
    let mut mint = None;
    if let Some(asked) = request.mint {
        match mint::from_proto(asked, house.minter.speaks_http()) {
            Ok(read) => mint = Some(read),
            Err(all) => return Err(refuse::fields(wrong.into_iter().chain(all).collect())),
        }
    }
    let (kind, form) =
        (slot.as_deref().unwrap_or_default(), template.as_deref().unwrap_or_default());
    let random = once.bytes(&house.vault, "fake-key");
    let key = stored(mint.as_mut(), kind, form, value)
        .and_then(|Stored { bytes, pattern }| {
            let fake = match kind {
                "aws-sigv4" => fake::access_key_id(random),
                _ => fake::shaped_like(&pattern, random)?,
            };
            Ok((bytes, fake))
        })
        .map_err(|what| wrong.push(("value".to_owned(), what)))
        .ok();
    let class = class.filter(|_| wrong.is_empty());
    let (Some(destination), Some(slot), Some(template), Some(class), Some((value, key))) =
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
        mint,
        minting: Minting::default(),
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
    let mut mint = current.mint.clone();
    let Stored { bytes: value, .. } =
        stored(mint.as_mut(), &current.slot, &current.template, value)
            .map_err(|what| refuse::field("value", what))?;
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
            let fake = fake.map(|fake| credential.fake_parts(&fake.key).join(":"));
            (to_proto(credential), fake.unwrap_or_default())
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

/// What becomes of a value that was given.
struct Stored {
    bytes: Zeroizing<Vec<u8>>,
    /// The fake key for it has this shape.
    pattern: Zeroizing<Vec<u8>>,
}

/// What is stored of a value that was given, and what the fake key for it looks like. Of a credential whose tokens are
/// minted, agents' clients take it for a token, and for what they would have one with.
fn stored(
    mint: Option<&mut Mint>,
    slot: &str,
    template: &str,
    value: Zeroizing<Vec<u8>>,
) -> Result<Stored, String> {
    /// As an installation's token looks, one of Google's, and one of nobody in particular.
    const GITHUB: &[u8] = b"ghs_a0A0a0A0a0A0a0A0a0A0a0A0a0A0a0A0a0A0";
    const GOOGLE: &[u8] = b"ya29.a0A0a0A0a0A0a0A0a0A0a0A0a0A0a0A0a0A0a0A0a0A0a0A0";
    const OTHER: &[u8] = b"a0A0a0A0a0A0a0A0a0A0a0A0a0A0a0A0a0A0a0A0";
    let Some(mint) = mint else {
        let bytes = kept(slot, template, value)?;
        let pattern = bytes.clone();
        return Ok(Stored { bytes, pattern });
    };
    if value.len() > VALUE_BYTES {
        return Err("is longer than 16 KiB: that is no key".into());
    }
    let secret = Secret::given(mint, &value)?;
    let pattern = match (&*mint, secret.shown_by_clients()) {
        (Mint::GitHubApp { .. }, _) => GITHUB,
        (Mint::GoogleServiceAccount { .. }, _) => GOOGLE,
        (Mint::OAuth { .. }, Some(shown)) if (20..=256).contains(&shown.len()) => shown.as_bytes(),
        (Mint::OAuth { .. }, _) => OTHER,
    };
    let pattern = Zeroizing::new(pattern.to_vec());
    Ok(Stored { bytes: secret.to_store(), pattern })
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

/// The value as the vault keeps it.
fn kept(
    slot: &str,
    template: &str,
    value: Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let value = if slot == "aws-sigv4" { check_aws_key(&value)? } else { value };
    check_value(&value)?;
    check_fits(slot, &value)?;
    if let Some(Ok(recipe)) = slot.strip_prefix("hmac:").map(|names| recipe(names, template)) {
        recipe.check_key(&value)?;
    }
    Ok(value)
}

fn recipe(names: &str, template: &str) -> Result<Recipe, String> {
    let names: Result<Vec<HeaderName>, _> = names.split(',').map(str::parse).collect();
    Recipe::parse(names.map_err(|_| "is for headers that are none")?, template)
}

/// Whether the key of this slot signs here, and goes nowhere.
fn signs(slot: &str) -> bool {
    slot == "aws-sigv4" || slot.starts_with("hmac:")
}

/// Whether it opens a connection to a Postgres server.
fn opens_postgres(slot: &str) -> bool {
    slot.starts_with("postgres:")
}

/// A value that its slot could not be filled with would be found out only when somebody needs it.
fn check_fits(slot: &str, value: &[u8]) -> Result<(), &'static str> {
    if opens_postgres(slot) && value.iter().any(u8::is_ascii_control) {
        return Err("has a control character in it, which no password here can have");
    }
    let octet = |b: &u8| b.is_ascii_graphic() && !b"\",;\\".contains(b);
    if slot.starts_with("cookie:") && !value.iter().all(octet) {
        return Err(
            "has a character that no cookie can hold (RFC 6265): space, quote, comma, semicolon, backslash, or one outside ASCII",
        );
    }
    Ok(())
}

/// A slot as it is stored.
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
    let grammar = || {
        format!(
            "{text:?} is not a slot: write header, header:NAME, basic, cookie:NAME, query:NAME, path, form:FIELD, json:POINTER, aws-sigv4, hmac:HEADER, or postgres:ROLE"
        )
    };
    let header = |name: &str| -> Result<HeaderName, String> {
        let name: HeaderName =
            name.parse().map_err(|_| format!("{name:?} is not a header's name"))?;
        if NOT_FOR_KEYS.contains(&name.as_str()) {
            return Err(format!("the header {name} belongs to the connection, not to a key"));
        }
        Ok(name)
    };
    let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name)));
    match (kind, name) {
        ("header", None) => Ok("header:authorization".into()),
        ("header", Some(name)) => Ok(format!("header:{}", header(name)?)),
        ("hmac", Some(names)) => {
            let names: Result<Vec<HeaderName>, String> = names.split(',').map(header).collect();
            match names?.as_slice() {
                [signature] => Ok(format!("hmac:{signature}")),
                [signature, timestamp] if signature != timestamp => {
                    Ok(format!("hmac:{signature},{timestamp}"))
                }
                _ => Err(
                    "hmac takes the header of the signature, and that of the timestamp if it has one of its own".into(),
                ),
            }
        }
        ("aws-sigv4" | "basic" | "path", None) => Ok(kind.into()),
        ("cookie", Some(name)) => {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
                return Err(format!(
                    "{name:?} is not a cookie's name: use up to 64 letters, digits and !#$%&'*+-.^_`|~"
                ));
            }
            Ok(text.into())
        }
        ("form" | "query", Some(name)) => {
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
        ("json", Some(pointer)) => {
            if pointer.len() > 256 || !body::is_json_pointer(pointer) {
                return Err(format!(
                    "{pointer:?} is not a JSON pointer: write the names on the way, each after a slash, as in /auth/client_secret (RFC 6901)"
                ));
            }
            Ok(text.into())
        }
        ("postgres", Some(role)) => {
            let plain = |b: u8| b.is_ascii_graphic() && b != b'%';
            if role.is_empty() || role.len() > 63 || !role.bytes().all(plain) {
                return Err(format!(
                    "{role:?} is not a role's name: use up to 63 visible ASCII characters without %"
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
    if let Some(names) = slot.strip_prefix("hmac:") {
        if text.len() > 512 {
            return Err("is longer than 512 characters".into());
        }
        return recipe(names, text).map(|_| text.into());
    }
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
        "aws-sigv4" => return Err("is not for a signature: leave it empty".into()),
        slot if opens_postgres(slot) => {
            return Err("is not for a role's password: leave it empty".into());
        }
        slot if ["cookie:", "form:", "json:", "query:"]
            .iter()
            .any(|kind| slot.starts_with(kind)) =>
        {
            return Err("is not for this slot, which the key fills alone: leave it empty".into());
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
    let (token, failure) = (credential.token_for(None), credential.minting.failure.as_ref());
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
        mint: credential.mint.as_ref().map(mint::to_proto),
        token_expires_at: token.and_then(|token| timestamp(token.expires_at)),
        mint_failure: failure.map(|failure| failure.why.clone()).unwrap_or_default(),
    }
}
