//! JSON-RPC 2.0, and what the Model Context Protocol calls in it: single calls and batches.

use countersign_policy::Head;
use countersign_policy::body::{Declared, declared};
use countersign_policy::json::Json;

use crate::ask::Ask;
use crate::words::{count, row, within, word};
use crate::{Risk, Said, Undecidable};

/// Calls of a batch of which every argument is told.
const MOST_TOLD: usize = 8;
/// A name in the sentence, bytes.
const IN_VALUE: usize = 400;

/// Whether a body is worth reading for it.
pub(crate) fn may_be(head: &Head<'_>, body: &[u8]) -> bool {
    const MARK: &[u8] = b"\"jsonrpc\"";
    head.method == http::Method::POST
        && declared(head.headers) == Declared::Json
        && body.windows(MARK.len()).take(64 * 1024).any(|window| window == MARK)
}

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let calls: Vec<Call> = match ask.json()? {
        Json::List(items) if !items.is_empty() => {
            let calls = items.iter().enumerate();
            let calls: Option<Vec<_>> =
                calls.map(|(at, item)| Call::read(item, format!(".{at}."))).collect();
            match calls {
                Some(calls) => calls,
                None => return Err(Undecidable("a batch of which not all are calls")),
            }
        }
        one => match Call::read(one, ".".into()) {
            Some(call) => vec![call],
            None => return Ok(None),
        },
    };
    let host = word(ask.host);
    let several = calls.len() > 1;
    let mut words = Vec::new();
    let mut risk = Risk::Read;
    for (at, call) in calls.iter().enumerate() {
        risk = risk.max(call.risk());
        words.push(call.words());
        if at < MOST_TOLD {
            call.tell(ask, &if several { format!("{}: ", at + 1) } else { String::new() });
        }
    }
    Ok(Some((
        risk,
        match words.as_slice() {
            [one] => format!("Call {one} of {host}"),
            several => format!("Make {} at {host}: {}", count(several.len(), "call"), row(several)),
        },
    )))
}

/// One call or notification.
struct Call {
    /// Where it stands: `.` or `.3.`.
    at: String,
    method: String,
    tool: Option<String>,
    /// By name, rendered; of a list, by number.
    arguments: Vec<(String, String)>,
}

impl Call {
    fn read(value: &Json, at: String) -> Option<Self> {
        let Json::Object(members) = value else { return None };
        let member =
            |wanted: &str| members.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        let Some(Json::Text(version)) = member("jsonrpc") else { return None };
        let Some(Json::Text(method)) = member("method") else { return None };
        (version == "2.0").then_some(())?;
        let parameters = member("params");
        let inner = |wanted: &str| match parameters {
            Some(Json::Object(members)) => {
                members.iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
            }
            _ => None,
        };
        let tool = match (method.as_str(), inner("name")) {
            ("tools/call", Some(Json::Text(tool))) => Some(tool.clone()),
            ("tools/call", _) => return None,
            _ => None,
        };
        let given = if tool.is_some() { inner("arguments") } else { parameters };
        let arguments = match given {
            Some(Json::Object(members)) => members
                .iter()
                .map(|(name, value)| (name.clone(), within(value, IN_VALUE)))
                .collect(),
            Some(Json::List(items)) => items
                .iter()
                .enumerate()
                .map(|(at, value)| ((at + 1).to_string(), within(value, IN_VALUE)))
                .collect(),
            _ => Vec::new(),
        };
        Some(Self { at, method: method.clone(), tool, arguments })
    }

    /// What a tool or an unknown method does is the server's affair.
    fn risk(&self) -> Risk {
        const READS: [&str; 8] = [
            "completion/complete",
            "initialize",
            "ping",
            "prompts/get",
            "prompts/list",
            "resources/list",
            "resources/read",
            "tools/list",
        ];
        let reads = READS.contains(&self.method.as_str())
            || self.method.starts_with("notifications/")
            || self.method == "resources/templates/list";
        if reads { Risk::Read } else { Risk::Code }
    }

    fn words(&self) -> String {
        match &self.tool {
            Some(tool) => format!("tool {}", word(tool)),
            None => format!("method {}", word(&self.method)),
        }
    }

    fn tell(&self, ask: &mut Ask<'_>, number: &str) {
        let Self { at, .. } = self;
        ask.cover(&format!("{at}jsonrpc"));
        ask.say(&format!("{number}Method"), self.method.clone(), &[&format!("{at}method")]);
        if let Some(tool) = &self.tool {
            ask.say(
                &format!("{number}Tool"),
                tool.clone(),
                &[&format!("{at}params.name"), &format!("{at}params.arguments")],
            );
        } else {
            ask.cover(&format!("{at}params"));
        }
        for (name, value) in &self.arguments {
            ask.say(&format!("{number}Argument"), format!("{}: {value}", word(name)), &[]);
        }
    }
}
