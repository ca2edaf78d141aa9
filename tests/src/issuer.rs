//! Issuers of tokens, and the API that takes what they issued: an OAuth server that changes the refresh token with each
//! use, GitHub's installations, Google's service accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;

use crate::origin::{Origin, Seen};

/// Where tokens are issued, and where they are taken.
pub const AUTH: &str = "auth.example.test";
pub const API: &str = "api.example.test";

pub const CLIENT_ID: &str = "client-of-the-tests";
pub const CLIENT_SECRET: &str = "cl13nt-s3cret-canary-0123456789abcdef";
/// The first of them: the next one ends in 2, and so on.
pub const REFRESH_TOKEN: &str = "r3fresh-canary-0123456789abcdef-1";

/// What an issuer has done, and what it is to do.
#[derive(Default)]
pub struct Ledger {
    /// Every request for a token, and whether one was issued.
    pub calls: Vec<(Seen, bool)>,
    pub issued: Vec<String>,
    /// Says no to each of the next calls, with this status and body.
    pub refusing: Option<(u16, String)>,
    pub expires_in: u64,
    /// Which refresh token counts, as the number at its end.
    refresh: u64,
}

pub struct Issuer {
    pub origin: Origin,
    pub ledger: Arc<Mutex<Ledger>>,
}

impl Issuer {
    pub fn start() -> Self {
        let ledger =
            Arc::new(Mutex::new(Ledger { expires_in: 3600, refresh: 1, ..Ledger::default() }));
        let kept = Arc::clone(&ledger);
        let origin = Origin::with(&[API, AUTH], move |seen| {
            let mut ledger = kept.lock().unwrap();
            if seen.host.starts_with(API) { api(&ledger, seen) } else { issue(&mut ledger, seen) }
        });
        Self { origin, ledger }
    }

    /// How often it was asked for a token.
    pub fn calls(&self) -> usize {
        self.ledger.lock().unwrap().calls.len()
    }

    pub fn issued(&self) -> Vec<String> {
        self.ledger.lock().unwrap().issued.clone()
    }

    /// What the API was reached with, in order.
    pub fn used(&self) -> Vec<String> {
        let seen = self.origin.seen().into_iter().filter(|seen| seen.host.starts_with(API));
        seen.filter_map(|seen| seen.credential().map(str::to_owned)).collect()
    }

    /// Every secret that there ever was.
    pub fn secrets(&self) -> Vec<String> {
        let ledger = self.ledger.lock().unwrap();
        let refresh = (1..=ledger.refresh).map(refresh_token);
        let issued = ledger.issued.iter().cloned();
        refresh.chain(issued).chain([CLIENT_SECRET.to_owned()]).collect()
    }
}

pub fn refresh_token(number: u64) -> String {
    format!("{}{number}", REFRESH_TOKEN.trim_end_matches('1'))
}

/// The value of a credential of the OAuth server.
pub fn client_value() -> String {
    format!(r#"{{"refresh_token":"{REFRESH_TOKEN}","client_secret":"{CLIENT_SECRET}"}}"#)
}

/// Takes what was issued, and says it back.
fn api(ledger: &Ledger, seen: &Seen) -> Response<Full<Bytes>> {
    let bearer = seen.credential().and_then(|it| it.strip_prefix("Bearer ")).unwrap_or_default();
    if !ledger.issued.iter().any(|token| token == bearer) {
        return plain(401, "no token, no service\n");
    }
    let body = serde_json::json!({ "ok": true, "echo": bearer, "path": seen.target });
    json(200, &body)
}

fn issue(ledger: &mut Ledger, seen: &Seen) -> Response<Full<Bytes>> {
    if let Some((status, body)) = ledger.refusing.clone() {
        ledger.calls.push((seen.clone(), false));
        return json(status, &serde_json::from_str(&body).unwrap());
    }
    let path = seen.target.as_str();
    let answer = match path {
        "/token" => oauth(ledger, seen),
        "/google" => form(&seen.body).get("assertion").map(|_| token(ledger, "ya29.c-")),
        _ if path.starts_with("/app/installations/") => Some(installation(ledger, seen)),
        _ => return json(404, &serde_json::json!({ "error": "not here" })),
    };
    ledger.calls.push((seen.clone(), answer.is_some()));
    match answer {
        Some(answer) => {
            json(if path == "/token" || path == "/google" { 200 } else { 201 }, &answer)
        }
        None => json(400, &serde_json::json!({ "error": "invalid_grant" })),
    }
}

fn oauth(ledger: &mut Ledger, seen: &Seen) -> Option<serde_json::Value> {
    let form = form(&seen.body);
    let said = |name: &str| form.get(name).map(String::as_str);
    let in_body =
        said("client_id") == Some(CLIENT_ID) && said("client_secret") == Some(CLIENT_SECRET);
    let known = in_body || seen.carries(CLIENT_SECRET);
    match said("grant_type")? {
        "refresh_token"
            if known && said("refresh_token") == Some(&refresh_token(ledger.refresh)) =>
        {
            // A refresh token that was used is worth nothing any more.
            ledger.refresh += 1;
            let mut answer = token(ledger, "at-canary-");
            answer["refresh_token"] = refresh_token(ledger.refresh).into();
            Some(answer)
        }
        "client_credentials" if known => Some(token(ledger, "at-canary-")),
        _ => None,
    }
}

fn token(ledger: &mut Ledger, prefix: &str) -> serde_json::Value {
    let token = format!("{prefix}{:032}-{}", 7_777_777, ledger.issued.len());
    ledger.issued.push(token.clone());
    serde_json::json!({ "access_token": token, "token_type": "Bearer", "expires_in": ledger.expires_in })
}

fn installation(ledger: &mut Ledger, seen: &Seen) -> serde_json::Value {
    let wanted: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    let token = format!("ghs_canary{:026}{}", 7_777_777, ledger.issued.len());
    ledger.issued.push(token.clone());
    let ends = std::time::SystemTime::now() + std::time::Duration::from_secs(ledger.expires_in);
    let some = wanted["repositories"].as_array().is_some_and(|it| !it.is_empty());
    serde_json::json!({
        "token": token,
        "expires_at": humantime::format_rfc3339_seconds(ends).to_string(),
        "permissions": wanted["permissions"],
        "repository_selection": if some { "selected" } else { "all" },
    })
}

/// Fields of a form.
pub fn form(body: &[u8]) -> BTreeMap<String, String> {
    let text = std::str::from_utf8(body).unwrap();
    let decode = |part: &str| {
        let spaced = part.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8().unwrap().into_owned()
    };
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

/// A fresh RSA key in a directory: its private half as GitHub gives it out (PKCS #1), and the file with its public one.
pub fn rsa_key(dir: &Path) -> (String, PathBuf) {
    let (private, public) = (dir.join("app.pem"), dir.join("app-public.pem"));
    let openssl = |arguments: &[&str]| {
        let made = Command::new("openssl").args(arguments).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let (private_path, public_path) = (private.to_str().unwrap(), public.to_str().unwrap());
    openssl(&["genrsa", "-traditional", "-out", private_path, "2048"]);
    openssl(&["rsa", "-in", private_path, "-pubout", "-out", public_path]);
    (std::fs::read_to_string(&private).unwrap(), public)
}

/// Names that are told apart.
pub fn distinct(texts: &[String]) -> usize {
    texts.iter().collect::<BTreeSet<_>>().len()
}

fn json(status: u16, body: &serde_json::Value) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::new(body.to_string().into()))
        .unwrap()
}

fn plain(status: u16, body: &'static str) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}
