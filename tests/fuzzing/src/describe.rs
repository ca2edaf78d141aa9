//! The describers of the control plane.

use countersign_describe::{Description, describe};
use countersign_gate::{Destination, Scheme};
use countersign_policy::{Body, Head, Subject};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::{Value, json};

/// A name, and what is done with the bytes.
type Target = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: &[Target] = &[("describers", describers)];

/// What the package says that it keeps to, with some room for "(shown 600 of 12345 bytes)".
const SENTENCE: usize = 660;
const FACT: usize = 460;
const FACTS: usize = 40;
const LISTED: usize = 24;
const IN_LIST: usize = 220;

/// A request: its first line is the method and the URL, then come headers, and after an empty line the body. What is said of it
/// is bounded, the same each time, and hides nothing.
fn describers(data: &[u8]) {
    let Some(asked) = Asked::read(data) else { return };
    let said = asked.described(&asked.body);
    assert_eq!(said, asked.described(&asked.body), "the same each time");
    if let Some(said) = said {
        bounded(&said);
    }
    let json = asked.headers.get("content-type").is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.starts_with(b"application/json") || kind.ends_with(b"+json")
    });
    // Its leaves are given marks, which then have to be somewhere; a mail is decoded before it is told.
    let mail = asked.uri.path().contains("/gmail/");
    if json
        && !mail
        && let Ok(mut body) = serde_json::from_slice::<Value>(&asked.body)
    {
        let mut leaves = Vec::new();
        mark(&mut body, "", &mut 0, &mut leaves);
        if let Some(said) = asked.described(body.to_string().as_bytes()) {
            bounded(&said);
            // What is not read as JSON after all is listed as so many bytes.
            let mut listed = said.also.listed.iter();
            let unread = listed.any(|(at, it)| at == "body" && it.contains("that are not decoded"));
            let missing = unsaid(&said, &leaves);
            assert!(
                unread || missing.len() as u64 <= said.also.more,
                "{missing:?} of {body} in {said:#?}"
            );
        }
    }
}

struct Asked {
    method: Method,
    destination: Destination,
    uri: Uri,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Asked {
    fn read(data: &[u8]) -> Option<Self> {
        let (head, body) = match data.windows(2).position(|pair| pair == b"\n\n") {
            Some(at) => (&data[..at], &data[at + 2..]),
            None => (data, &[][..]),
        };
        let mut lines = head.split(|byte| *byte == b'\n');
        let mut words = lines.next()?.split(|byte| *byte == b' ');
        let method = Method::from_bytes(words.next()?).ok()?;
        let uri: Uri = words.next()?.to_vec().try_into().ok()?;
        let authority = uri.authority()?.as_str();
        let destination = Destination::parse(Scheme::Https, authority, Some(443)).ok()?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let at = line.iter().position(|byte| *byte == b':')?;
            let name = HeaderName::from_bytes(&line[..at]).ok()?;
            headers.append(name, HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?);
        }
        Some(Self { method, destination, uri, headers, body: body.to_vec() })
    }

    fn described(&self, body: &[u8]) -> Option<Description> {
        let head = Head {
            agent: "robot",
            destination: &self.destination,
            method: &self.method,
            path: self.uri.path(),
            query: self.uri.query(),
            headers: &self.headers,
        };
        match describe(&Subject { head, body: Body::Whole(body) }) {
            Ok(said) => said,
            Err(why) => {
                assert!(!why.0.is_empty());
                None
            }
        }
    }
}

fn bounded(said: &Description) {
    assert!(!said.sentence.is_empty() && said.sentence.len() <= SENTENCE, "{said:#?}");
    assert!(said.facts.len() <= FACTS && said.also.listed.len() <= LISTED, "{said:#?}");
    for fact in &said.facts {
        assert!(!fact.name.is_empty() && fact.value.len() <= FACT, "{fact:#?}");
    }
    for (name, value) in &said.also.listed {
        assert!(!name.is_empty() && name.len() <= IN_LIST && value.len() <= FACT, "{said:#?}");
    }
}

/// Gives every leaf a mark of its own, and returns where each stands. `at` is empty, or ends with a point.
pub(crate) fn mark(
    value: &mut Value,
    at: &str,
    next: &mut usize,
    found: &mut Vec<(String, String)>,
) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            for (number, item) in items.iter_mut().enumerate() {
                mark(item, &format!("{at}{number}."), next, found);
            }
        }
        Value::Object(members) if !members.is_empty() => {
            for (name, item) in members.iter_mut() {
                mark(item, &format!("{at}{name}."), next, found);
            }
        }
        leaf => {
            *next += 1;
            if let Value::String(text) = leaf {
                *text = format!("m{next}m{text}");
            } else if leaf.is_number() {
                *leaf = json!(900_000 + *next);
            }
            let text = match leaf {
                Value::String(_) => format!("m{next}m"),
                other => other.to_string(),
            };
            found.push((at.to_owned(), text));
        }
    }
}

/// Which of the leaves are neither in a fact nor where something is listed, and not hidden by a cut that says so.
pub(crate) fn unsaid(said: &Description, leaves: &[(String, String)]) -> Vec<String> {
    let cut = |text: &str| text.contains(" in all)") || text.contains("(shown ");
    let told =
        |text: &str| said.facts.iter().any(|fact| fact.value.contains(text) || cut(&fact.value));
    let listed = |at: &str, text: &str| {
        said.also.listed.iter().any(|(name, value)| {
            let here = name == "body" || at.starts_with(&format!("{name}."));
            (here || cut(name)) && (value.contains(text) || cut(value))
        })
    };
    let missing = leaves.iter().filter(|(at, text)| !told(text) && !listed(at, text));
    missing.map(|(at, text)| format!("{at}: {text}")).collect()
}
