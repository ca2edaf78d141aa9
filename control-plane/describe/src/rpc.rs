//! JSON-RPC 2.0, and what the Model Context Protocol calls in it: single calls and batches.

use countersign_policy::decode::mcp::{self, Message};
use countersign_policy::json::Json;

use crate::ask::Ask;
use crate::words::{count, row, within, word};
use crate::{Risk, Said};

/// Calls of a batch of which every argument is told.
const MOST_TOLD: usize = 8;
/// A name in the sentence, bytes.
const IN_VALUE: usize = 400;

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let json = ask.json()?;
    if !mcp::may_be(json) {
        return Ok(None);
    }
    let messages = mcp::read(json)?;
    let at = |at: usize| if messages.batch { format!(".{at}.") } else { ".".to_owned() };
    let calls: Vec<Call> =
        messages.list.iter().enumerate().map(|(number, it)| Call::of(it, at(number))).collect();
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
            [one] if calls.iter().all(|call| call.method.is_none()) => {
                format!("Give {host} {one}")
            }
            [one] => format!("Call {one} of {host}"),
            several => format!("Make {} at {host}: {}", count(several.len(), "call"), row(several)),
        },
    )))
}

/// One message.
struct Call {
    /// Where it stands: `.` or `.3.`.
    at: String,
    /// None: an answer to what the server asked.
    method: Option<String>,
    tool: Option<String>,
    /// By name, rendered; of a list, by number.
    arguments: Vec<(String, String)>,
}

impl Call {
    fn of(message: &Message<'_>, at: String) -> Self {
        let Message::Call(call) = message else {
            return Self { at, method: None, tool: None, arguments: Vec::new() };
        };
        let (tool, given) = match call.tool {
            Some((tool, arguments)) => (Some(tool.to_owned()), arguments),
            None => (None, call.parameters),
        };
        let arguments = match given {
            Some(Json::Object(members)) => members
                .iter()
                .map(|(name, value)| (name.to_string(), within(value, IN_VALUE)))
                .collect(),
            Some(Json::List(items)) => items
                .iter()
                .enumerate()
                .map(|(at, value)| ((at + 1).to_string(), within(value, IN_VALUE)))
                .collect(),
            _ => Vec::new(),
        };
        Self { at, method: Some(call.method.to_owned()), tool, arguments }
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
        // What an answer lets the server do is not in it.
        let Some(method) = self.method.as_deref() else { return Risk::Code };
        let reads = READS.contains(&method)
            || method.starts_with("notifications/")
            || method == "resources/templates/list";
        if reads { Risk::Read } else { Risk::Code }
    }

    fn words(&self) -> String {
        match (&self.tool, &self.method) {
            (Some(tool), _) => format!("tool {}", word(tool)),
            (None, Some(method)) => format!("method {}", word(method)),
            (None, None) => "an answer to what it asked".to_owned(),
        }
    }

    fn tell(&self, ask: &mut Ask<'_>, number: &str) {
        let Self { at, .. } = self;
        ask.cover(&format!("{at}jsonrpc"));
        let Some(method) = &self.method else { return };
        ask.say(&format!("{number}Method"), method.clone(), &[&format!("{at}method")]);
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
