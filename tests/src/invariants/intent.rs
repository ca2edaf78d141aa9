//! What people approve, computed a second time: from the bytes that the upstream got, less the key, and from what the
//! audit log says of their release. The encoding is that of `tests/digests/make_vectors.py`.

use sha2::{Digest as _, Sha256};

use super::{Arrival, Record};

/// Of every cluster that nobody named otherwise.
const ORGANISATION: &str = "default";

/// Headers that may change from one try to the next, as long as nothing else does.
const VOLATILE: [&str; 18] = [
    "accept-encoding",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "baggage",
    "connection",
    "content-length",
    "date",
    "grpc-timeout",
    "postgres-estimated-rows",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-request-id",
    "x-stainless-read-timeout",
    "x-stainless-retry-count",
    "x-stainless-timeout",
    "x-stripe-client-telemetry",
    "x-stripe-client-user-agent",
];

/// The digest, in hex, that people must have been shown if this claim released that arrival. None: the claim does not
/// name what it takes, or no key arrived.
pub(super) fn digest(cluster: &str, claim: &Record, arrival: &Arrival) -> Option<String> {
    let (credential, version) = claim.detail("credentials")?.split_once('@')?;
    let slot = arrival.slot.as_ref()?;
    let injection = Encoded::new(2)
        .field(1, credential)
        .field(2, version.parse::<u64>().ok()?.to_be_bytes())
        .field(3, "header")
        .field(4, &slot.name)
        .field(5, &slot.before)
        .field(6, &slot.after);
    let (host, port) = arrival.host.split_once(':').unwrap_or((&arrival.host, "443"));
    let (path, query) = match arrival.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*arrival.target, None),
    };
    let mut intent = Encoded::new(1)
        .field(1, cluster)
        .field(2, ORGANISATION)
        .field(3, claim.detail("agent")?)
        .field(4, "https")
        .field(5, host)
        .field(6, port.parse::<u16>().ok()?.to_be_bytes())
        .field(7, &arrival.method)
        .field(8, path);
    if let Some(query) = query {
        intent = intent.field(9, query);
    }
    let intent = intent
        .field(10, headers(&arrival.headers))
        .field(11, arrival.body_bytes.to_be_bytes())
        .field(12, hex::decode(&arrival.body_sha256).ok()?)
        .field(13, list(&[injection.0]))
        .field(14, claim.detail("rule")?);
    let named = [b"countersign/v1/intent\0".as_slice(), &intent.0].concat();
    Some(hex::encode(Sha256::digest(named)))
}

/// `"CSCE1\0" ‖ u16 structure ‖ u16 version ‖ (u16 tag ‖ u32 length ‖ value)*`, big-endian.
struct Encoded(Vec<u8>);

impl Encoded {
    fn new(structure: u16) -> Self {
        Self([b"CSCE1\0".as_slice(), &structure.to_be_bytes(), &1_u16.to_be_bytes()].concat())
    }

    fn field(mut self, tag: u16, value: impl AsRef<[u8]>) -> Self {
        self.0.extend(tag.to_be_bytes());
        item(&mut self.0, value.as_ref());
        self
    }
}

fn item(out: &mut Vec<u8>, value: &[u8]) {
    out.extend((value.len() as u32).to_be_bytes());
    out.extend(value);
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let mut out = (items.len() as u32).to_be_bytes().to_vec();
    items.iter().for_each(|value| item(&mut out, value));
    out
}

/// Sorted by name; those of one name in their order.
fn headers(headers: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (place, (name, value)) in headers.iter().enumerate() {
        if !VOLATILE.contains(&&**name) {
            let before = headers[..place].iter().filter(|(other, _)| other == name).count();
            let ordinal = (before as u16).to_be_bytes();
            lines.push([name.as_bytes(), &[0], &ordinal, value].concat());
        }
    }
    lines.sort_unstable();
    list(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::Slot;

    #[test]
    fn intents_are_digested_as_everybody_digests_them() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../digests/vectors.json")).unwrap();
        let mut compared = 0;
        for vector in vectors["requests"].as_array().unwrap() {
            let request = &vector["request"];
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let [injection] = &request["injections"].as_array().unwrap()[..] else { continue };
            let slot = &injection["slot"];
            // An upstream with a name, and a key in a header: what the worlds have.
            let fits = slot["kind"] == "header"
                && request["org"] == "default"
                && request["scheme"] == "https"
                && !text(&request["host"]).contains(':');
            if !fits {
                continue;
            }
            let latin = |text: &str| text.chars().map(|c| c as u8).collect::<Vec<u8>>();
            let body = hex::decode(text(&request["body"])).unwrap();
            let query = request["query"].as_str().map_or_else(String::new, |q| format!("?{q}"));
            let headers = request["headers"].as_array().unwrap().iter();
            let arrival = Arrival {
                method: text(&request["method"]),
                target: format!("{}{query}", text(&request["path"])),
                body_sha256: hex::encode(Sha256::digest(&body)),
                body_bytes: body.len() as u64,
                host: format!("{}:{}", text(&request["host"]), request["port"]),
                headers: headers.map(|pair| (text(&pair[0]), latin(&text(&pair[1])))).collect(),
                slot: Some(Slot {
                    name: text(&slot["name"]),
                    before: text(&slot["before"]).into_bytes(),
                    after: text(&slot["after"]).into_bytes(),
                }),
                at: std::time::Instant::now(),
                keyed: true,
                risky: true,
            };
            let credential = format!("{}@{}", text(&injection["credential"]), injection["version"]);
            let details = [
                ("agent", &*text(&request["agent"])),
                ("rule", &*text(&vector["rule"])),
                ("credentials", &*credential),
            ];
            let pairs =
                details.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let claim = Record {
                index: 1,
                at: 0,
                actor: "system".into(),
                action: "request.claim".into(),
                subject: "r".into(),
                details: pairs.collect(),
                previous: String::new(),
                hash: String::new(),
            };
            let computed = digest(&text(&request["cluster"]), &claim, &arrival);
            assert_eq!(computed, Some(text(&vector["intent_digest"])), "{}", vector["name"]);
            compared += 1;
        }
        assert!(compared > 10, "{compared}");
    }
}
