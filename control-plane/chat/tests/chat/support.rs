//! A card, webhooks to forge, and judges that others wrote.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_chat::{
    Adapter, Answer, Answers, Auth, Body, Call, Card, Configuration, Face, Forged, Handle, Heard,
    Inbound, Keys, Message, Notice, Outgoing, Said, Secret, TapKey, Text, TooLarge, Words,
    platform, visible,
};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use serde_json::Value;

/// When all of this happens.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn open(name: &str, settings: &[(&str, &str)], secrets: &[(&str, &str)]) -> OverHttp {
    let platform = platform(name).unwrap();
    OverHttp((platform.open)(configuration(name, settings, secrets).unwrap()).unwrap())
}

/// An adapter all of whose cards and words are calls.
pub(crate) struct OverHttp(Box<dyn Adapter>);

impl OverHttp {
    pub(crate) fn post(
        &self,
        place: &str,
        notice: &Notice<'_>,
        key: &str,
    ) -> Result<Call, TooLarge> {
        self.0.post(place, notice, key).map(call)
    }

    pub(crate) fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Call {
        call(self.0.say(place, under, words))
    }
}

impl std::ops::Deref for OverHttp {
    type Target = dyn Adapter;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

fn call(outgoing: Outgoing) -> Call {
    match outgoing {
        Outgoing::Call(call) => call,
        Outgoing::Mail(mail) => panic!("{mail:?}"),
    }
}

pub(crate) fn configuration(
    name: &str,
    settings: &[(&str, &str)],
    secrets: &[(&str, &str)],
) -> Result<Configuration, countersign_chat::Unfit> {
    let settings: BTreeMap<_, _> =
        settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let secrets: BTreeMap<_, _> =
        secrets.iter().map(|(k, v)| ((*k).to_owned(), Secret::new((*v).to_owned()))).collect();
    Configuration::of(platform(name).unwrap(), settings, secrets)
}

/// Markup of every platform, mentions, and what cannot be seen: what an agent would put into a path or a body.
pub(crate) const HOSTILE: &str = "/x*_`>~|<!here> @everyone <@U1> [good](https://evil.example) <https://evil.example|good> <b>&amp;</b> \
    ${title} {{evil}} **bold** __u__ \\n ```fence``` :warning: #channel ||spoiler|| \u{202e}dorp\u{200b}\u{e0041}";

pub(crate) fn card(path: &str, body: &str) -> Card {
    Card {
        approval: "00112233445566778899aabbccddeeff".into(),
        sentence: Text::of(&format!("robot (of ana) wants to DELETE api.example.com{path}")),
        facts: vec![
            ("method".into(), Text::of("DELETE")),
            ("to".into(), Text::of("https, api.example.com, port 443")),
            ("path".into(), Text::of(path)),
            ("query".into(), Text::of("none")),
            ("keys".into(), Text::of("production")),
            ("rule".into(), Text::of("delete a project")),
            ("expires".into(), Text::of("2027-01-15T08:15:00Z")),
        ],
        warnings: vec![],
        fingerprint: "absorb fatigue ladder orbit".into(),
        body: Body { text: Some(body.into()), total: body.len() as u64, uninspectable: false },
        demands_whole: false,
        answered_elsewhere: false,
    }
}

/// Any path and any body, with what is hidden and what is markup in them.
pub(crate) fn any_card() -> impl Strategy<Value = Card> {
    let text = "(\\PC|[a-z]|\n|`|://|\u{202e}|\u{0}|\u{1f980}|\u{6771}){0,1500}";
    ("(\\PC|[a-z]|`|://|\u{202e}){0,300}", text, any::<bool>())
        .prop_map(|(path, body, whole)| Card { demands_whole: whole, ..card(&path, &body) })
}

pub(crate) fn key() -> TapKey {
    TapKey::new([9; 32])
}

pub(crate) const HANDLE: Handle = Handle([5; 16]);

/// What people are asked, in a place.
pub(crate) fn asking<'a>(card: &'a Card, channel: &str, place: &str) -> Notice<'a> {
    let answers = Answers {
        approve: key().token(channel, place, HANDLE, Words::Approve),
        deny: key().token(channel, place, HANDLE, Words::Deny),
        code: key().code(channel, place, HANDLE),
        elsewhere: Text::of("countersign approval show 00112233445566778899aabbccddeeff"),
    };
    Notice { card, face: Face::Asking { standing: vec![] }, answers: Some(answers) }
}

pub(crate) fn settled<'a>(card: &'a Card, words: &str) -> Notice<'a> {
    Notice { card, face: Face::Settled { words: vec![Text::of(words)] }, answers: None }
}

pub(crate) fn answer(status: u16, body: &Value) -> Answer {
    let status = StatusCode::from_u16(status).unwrap();
    Answer { status, headers: HeaderMap::new(), body: body.to_string().into() }
}

/// What a call sends.
pub(crate) fn body(call: &Call) -> Value {
    serde_json::from_slice(&call.body).unwrap()
}

/// Does what the control plane's sender does, with curl.
pub(crate) fn carry_out(call: &Call) -> Answer {
    let (header, secret) = match &call.auth {
        Auth::Bearer(secret) => (Some("authorization: Bearer ".to_owned()), secret.expose()),
        Auth::Header(name, secret) => (Some(format!("{name}: ")), secret.expose()),
        Auth::InPath(secret) => (None, secret.expose()),
        Auth::None => (None, ""),
        other => panic!("{other:?}"),
    };
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"]);
    curl.args(["--request", call.method.as_str(), "--data-binary", "@-"]);
    for (name, value) in &call.headers {
        curl.arg("--header").arg(format!("{name}: {}", value.to_str().unwrap()));
    }
    if let Some(header) = header {
        curl.arg("--header").arg(header + secret);
    }
    curl.arg(call.url.replace("{secret}", secret));
    let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&call.body).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "curl: {}", output.status);
    let at = output.stdout.iter().rposition(|b| *b == b'\n').unwrap();
    let status = StatusCode::from_bytes(&output.stdout[at + 1..]).unwrap();
    Answer { status, headers: HeaderMap::new(), body: output.stdout[..at].to_vec().into() }
}

/// Nothing that is sent holds a character that a reader does not see; save for line breaks, which are ours.
pub(crate) fn no_hidden_character(sent: &Value) {
    match sent {
        Value::Array(array) => array.iter().for_each(no_hidden_character),
        Value::Object(object) => object.values().for_each(no_hidden_character),
        Value::String(text) => {
            let hidden: Vec<_> =
                text.chars().filter(|c| *c != '\n' && visible::is_hidden(*c)).collect();
            assert!(hidden.is_empty(), "{hidden:?} in {text}");
        }
        _ => {}
    }
}

/// As a judge is told of them.
pub(crate) fn headers(hook: &Webhook) -> Value {
    let headers = hook.headers.iter();
    headers.map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap()))).collect()
}

/// A webhook as somebody sends it.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Webhook {
    pub(crate) fn post(headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let url = "https://hooks.example/hooks/c".to_owned();
        let mut hook = Self {
            method: Method::POST,
            url,
            query: None,
            headers: HeaderMap::new(),
            body: body.into(),
        };
        headers.iter().for_each(|(name, value)| hook.add(name, value));
        hook
    }

    pub(crate) fn add(&mut self, name: &str, value: &str) {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
    }

    /// As a judge is told of it.
    pub(crate) fn shown(&self) -> Value {
        let headers: serde_json::Map<_, _> = self
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap())))
            .collect();
        let body = String::from_utf8(self.body.clone()).unwrap();
        serde_json::json!({ "headers": headers, "body": body })
    }

    pub(crate) fn heard(
        &self,
        adapter: &dyn Adapter,
        keys: &Keys,
        now: SystemTime,
    ) -> Result<Heard, Forged> {
        let inbound = Inbound {
            method: &self.method,
            public_url: &self.url,
            query: self.query.as_deref(),
            headers: &self.headers,
            body: &self.body,
        };
        adapter.hear(&inbound, keys, now)
    }

    /// What it says, when it is genuine and says one thing.
    pub(crate) fn says(&self, adapter: &dyn Adapter, keys: &Keys, now: SystemTime) -> Said {
        match self.heard(adapter, keys, now) {
            Ok(Heard::Said(said)) if said.len() == 1 => said.into_iter().next().unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// How a platform signs a webhook, in the hands of a forger: with which secret, when, for which app.
pub(crate) struct Signer<'a> {
    pub(crate) secret: &'a str,
    pub(crate) app: &'a str,
    pub(crate) at: SystemTime,
}

/// Nine ways to forge a webhook of a platform (C-10), each refused; the genuine one says something.
///
/// `timed`: the platform says when it sent it. `signature`: the header that proves it. `reserialised`: the genuine body
/// written in other bytes with the same meaning.
pub(crate) struct Forgeries<'a> {
    pub(crate) adapter: &'a dyn Adapter,
    pub(crate) keys: Keys,
    pub(crate) secret: &'a str,
    pub(crate) app: &'a str,
    pub(crate) signature: &'a str,
    pub(crate) timed: bool,
    /// The platform signs the body; one with a mere secret does not.
    pub(crate) covers_body: bool,
    pub(crate) make: &'a dyn Fn(&Signer<'_>) -> Webhook,
    pub(crate) reserialised: &'a dyn Fn(&[u8]) -> Vec<u8>,
}

impl Forgeries<'_> {
    pub(crate) fn are_refused(&self) {
        let at = |at| Signer { secret: self.secret, app: self.app, at };
        let hear = |hook: &Webhook| hook.heard(self.adapter, &self.keys, now());
        let genuine = (self.make)(&at(now()));
        let first = hear(&genuine);
        let says =
            |heard: &Result<Heard, Forged>| matches!(heard, Ok(Heard::Named(_) | Heard::Said(_)));
        assert!(says(&first), "the genuine one: {first:?}");

        let mut unsigned = genuine.clone();
        unsigned.headers.remove(self.signature);
        assert!(hear(&unsigned).is_err(), "no signature");

        let wrong = Signer { secret: "another secret entirely, of the same kind", ..at(now()) };
        assert!(hear(&(self.make)(&wrong)).is_err(), "wrong secret");

        if self.covers_body {
            let mut other = genuine.clone();
            other.body = (self.reserialised)(&genuine.body);
            assert_ne!(other.body, genuine.body);
            assert!(hear(&other).is_err(), "the body in other bytes");
        }

        let app = Signer { app: "another-app", ..at(now()) };
        assert!(!says(&hear(&(self.make)(&app))), "for another app");

        if self.timed {
            for off in [301_i64, -301] {
                let then = if off > 0 {
                    now() + Duration::from_secs(301)
                } else {
                    now() - Duration::from_secs(301)
                };
                let stale = (self.make)(&at(then));
                assert_eq!(hear(&stale), Err(Forged::Stale), "{off} s off");
            }
        }

        // A replay within that time is the same event: it is for the replay set to know.
        let event = |heard: &Result<Heard, Forged>| match heard {
            Ok(Heard::Said(said)) => said.iter().map(|said| said.event.clone()).collect::<Vec<_>>(),
            Ok(Heard::Named(named)) => vec![named.clone()],
            other => panic!("{other:?}"),
        };
        assert_eq!(event(&hear(&genuine)), event(&first));
        assert!(event(&first).iter().all(|event| !event.is_empty()), "an event has an id");

        let mut twice = genuine.clone();
        let value = twice.headers[self.signature].clone();
        twice.headers.append(HeaderName::from_bytes(self.signature.as_bytes()).unwrap(), value);
        assert!(hear(&twice).is_err(), "the signature twice");

        let mut cut = genuine;
        cut.body.pop();
        assert!(!self.covers_body || hear(&cut).is_err(), "a body that was cut");
    }
}

/// A channel whose secret is missing or empty is not opened.
pub(crate) fn demands_secret(
    name: &str,
    settings: &[(&str, &str)],
    secrets: &[(&str, &str)],
    which: &str,
) {
    let without: Vec<_> = secrets.iter().copied().filter(|(name, _)| *name != which).collect();
    let empty: Vec<_> =
        secrets.iter().map(|(name, it)| (*name, if *name == which { "" } else { *it })).collect();
    for secrets in [without, empty] {
        let refused = configuration(name, settings, &secrets).unwrap_err();
        assert!(refused.0.contains(which), "{refused}");
    }
}

/// Asks a judge that others wrote: a script of `oracles/`, with JSON in and out.
pub(crate) fn judge(script: &str, question: &Value) -> Value {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = here.join("tests/oracles").join(script);
    let mut command = match path.extension().and_then(|it| it.to_str()) {
        Some("py") => Command::new(tools().join("python/bin/python3")),
        Some("mjs") => {
            let mut node = Command::new("node");
            node.env("COUNTERSIGN_NODE_PACKAGES", here.join("../../tests/package.json"));
            node
        }
        other => panic!("{other:?}"),
    };
    let mut child = command
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{script}: {error}; ./tests/run setup installs what it needs")
        });
    child.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{script}: {output:?}"))
}

/// Where `./tests/run setup` installs.
pub(crate) fn tools() -> PathBuf {
    std::env::var_os("COUNTERSIGN_TEST_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/.cache"),
        PathBuf::from,
    )
}
