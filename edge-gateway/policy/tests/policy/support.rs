//! Requests and policies as the tests write them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gate::{Destination, Scheme};
use countersign_policy::{Body, Decision, Head, Need, Policy, Subject, Then};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// Compiles rules; the `version` line is put in.
pub(crate) fn policy(rules: &str) -> Policy {
    let text = format!("version = 1\n{rules}");
    Policy::compile(&text, "policy.toml").unwrap_or_else(|errors| panic!("{}", list(&errors)))
}

/// What is wrong with rules, one mistake a line, as it is shown.
pub(crate) fn mistakes(rules: &str) -> Vec<String> {
    match Policy::compile(&format!("version = 1\n{rules}"), "policy.toml") {
        Ok(_) => panic!("it compiled: {rules}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn list(errors: &[countersign_policy::Diagnostic]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A request of the agent `bot`.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) agent: String,
    pub(crate) destination: Destination,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Vec<u8>>,
}

/// `ask("GET", "https://host:port/path?query")`, with an empty body.
pub(crate) fn ask(method: &str, url: &str) -> Ask {
    let (scheme, rest) = match url.strip_prefix("http://") {
        Some(rest) => (Scheme::Http, rest),
        None => (Scheme::Https, url.strip_prefix("https://").expect("as tests write it")),
    };
    let start = rest.find('/').unwrap_or(rest.len());
    let (authority, target) = rest.split_at(start);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    Ask {
        agent: "bot".to_owned(),
        destination: Destination::parse(scheme, authority, Some(443)).expect("as tests write it"),
        method: method.parse().expect("as tests write it"),
        path: path.to_owned(),
        query,
        headers: HeaderMap::new(),
        body: Some(Vec::new()),
    }
}

impl Ask {
    pub(crate) fn agent(mut self, name: &str) -> Self {
        self.agent = name.to_owned();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(
            name.parse::<HeaderName>().expect("as tests write it"),
            HeaderValue::from_str(value).expect("as tests write it"),
        );
        self
    }

    pub(crate) fn bytes(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(crate) fn json(self, body: &str) -> Self {
        self.header("content-type", "application/json").bytes(body)
    }

    pub(crate) fn form(self, body: &str) -> Self {
        self.header("content-type", "application/x-www-form-urlencoded").bytes(body)
    }

    pub(crate) fn streamed(mut self) -> Self {
        self.body = None;
        self
    }

    pub(crate) fn head(&self) -> Head<'_> {
        Head {
            agent: &self.agent,
            destination: &self.destination,
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        }
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        let body = self.body.as_deref().map_or(Body::Streamed, Body::Whole);
        Subject { head: self.head(), body }
    }

    pub(crate) fn decide(&self, policy: &Policy) -> Decision {
        policy.decide(&self.subject())
    }

    pub(crate) fn then(&self, policy: &Policy) -> Then {
        self.decide(policy).then
    }

    pub(crate) fn needs(&self, policy: &Policy) -> Need {
        policy.needs(&self.head())
    }
}

/// What a condition says of a request to `a.example`: "yes", "no", or "unknown".
pub(crate) fn said(when: &str, request: &Ask) -> &'static str {
    said_with("", when, request)
}

/// The same beside other tables, such as descriptors.
pub(crate) fn said_with(tables: &str, when: &str, request: &Ask) -> &'static str {
    let then = |then: &str| {
        let rule = format!("[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"{then}\"");
        request.then(&policy(&format!("{tables}\n{rule}\nwhen = \'\'\'{when}\'\'\'\n")))
    };
    match (then("allow"), then("approve")) {
        (Then::Allow, Then::Approve) => "yes",
        (Then::Unnamed, Then::Approve) => "unknown",
        (Then::Unnamed, Then::Unnamed) => "no",
        other => panic!("{when}: {other:?}"),
    }
}

/// Bytes from hexadecimal digits.
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("as tests write it");
    (0..digits.len()).step_by(2).map(digit).collect()
}

/// What an official client sent, from `control-plane/describe/tests/requests`, by name: its body and its Content-Type.
pub(crate) fn captured(file: &str) -> Vec<(String, Ask)> {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/../../control-plane/describe/tests/requests/{file}.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{path}: {why}"));
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let one = |request: &serde_json::Value| {
        let text = |name: &str| request[name].as_str().expect("as it was captured").to_owned();
        let path = text("url").splitn(4, '/').nth(3).expect("a path").to_owned();
        let body = match request["body_base64"].as_str() {
            Some(encoded) => STANDARD.decode(encoded).expect("as it was captured"),
            None => text("body").into_bytes(),
        };
        let asked = ask(&text("method"), &format!("https://a.example/{path}")).bytes(body);
        let kind = request["headers"]["content-type"].as_str().expect("as it was captured");
        (text("name"), asked.header("content-type", kind))
    };
    all["requests"].as_array().expect("a list").iter().map(one).collect()
}
