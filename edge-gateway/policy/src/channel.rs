//! What a rule may open besides single requests: a WebSocket, or a tunnel. Nothing in it is judged one by one, so it is
//! bounded.

use std::fmt;
use std::time::Duration;

use crate::Then;
use crate::fields::Fields;

/// How much may go through what was opened, both ways together, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Bytes.
    pub max_bytes: u64,
    pub max_time: Duration,
}

/// Who tunnels, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The first rule by name that says so.
    pub rule: String,
    pub channel: Channel,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

const MAX_BYTES: u64 = 64 * MIB;
const MOST_BYTES: u64 = 64 * GIB;
const MAX_TIME: Duration = HOUR;
const MOST_TIME: Duration = HOUR.saturating_mul(24);

/// Every key that says something of one request: a tunnel has none that could be seen.
const OF_REQUESTS: [&str; 9] = [
    "methods",
    "path",
    "query",
    "when",
    "credential",
    "hold",
    "accept_edge_enforced",
    "allow_encoded_slash",
    "upgrade",
];

impl Channel {
    /// Reads the keys of a rule; None for `then` when that is not known.
    pub(crate) fn read(fields: &mut Fields<'_, '_, '_>, then: Option<Then>) -> Option<Self> {
        let upgrade = fields.word("upgrade", &[("websocket", ())]).is_some();
        let max_bytes = fields.size("max_bytes", KIB, MOST_BYTES);
        let max_time = fields.duration("max_time", SECOND, MOST_TIME);
        match then {
            Some(Then::Tunnel) => fields.misplaced(
                &OF_REQUESTS,
                "it tunnels: requests are not seen, and no key can be put into them",
            ),
            Some(Then::Approve) => fields.misplaced(
                &["upgrade"],
                "it asks people, and one answer must not open more than one request",
            ),
            Some(Then::Observe) => fields.misplaced(
                &["upgrade"],
                "it records request by request, and a WebSocket is one request without end",
            ),
            Some(Then::Deny) => fields.misplaced(&["upgrade"], "it denies: nothing leaves"),
            Some(Then::Allow | Then::Unnamed) | None => {}
        }
        let opens = upgrade || then == Some(Then::Tunnel);
        if !opens {
            fields.misplaced(
                &["max_bytes", "max_time"],
                "it bounds what `upgrade = \"websocket\"` or `then = \"tunnel\"` opens",
            );
        }
        opens.then(|| Self {
            max_bytes: max_bytes.unwrap_or(MAX_BYTES),
            max_time: max_time.unwrap_or(MAX_TIME),
        })
    }

    /// What both allow together.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            max_bytes: self.max_bytes.max(other.max_bytes),
            max_time: self.max_time.max(other.max_time),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration(self.max_time);
        write!(f, "up to {} and {time}", size(self.max_bytes))
    }
}

/// Bytes as policies write them.
pub(crate) fn size(bytes: u64) -> String {
    let whole = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];
    match whole.into_iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// Reads bytes as policies write them; None for what is not written so.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}
