//! JSON-RPC 2.0, and what the Model Context Protocol calls in it, over streamable HTTP: one message or a batch of them.
//!
//! A server that reads loosely may see another message than this one: a member in another case, a method or a tool with
//! white space around its name, a header that names another. Such a message is undecidable.

use std::borrow::Cow;

use http::HeaderMap;

use crate::Head;
use crate::body::{Declared, Undecodable, declared};
use crate::decode::fold;
use crate::json::Json;

/// One message. Its texts are those of the document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Message<'j> {
    Call(Call<'j>),
    /// The answer to something that the server asked.
    Response,
}

/// A request or a notification.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Call<'j> {
    pub method: &'j str,
    /// What an answer would be to; a notification has none.
    pub id: Option<&'j Json<'j>>,
    /// An object or a list.
    pub parameters: Option<&'j Json<'j>>,
    /// Of `tools/call`: which tool, and what it is given. None given is an empty object to servers.
    pub tool: Option<(&'j str, Option<&'j Json<'j>>)>,
}

impl Message<'_> {
    /// `request`, `notification` or `response`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Call(call) if call.id.is_some() => "request",
            Self::Call(_) => "notification",
            Self::Response => "response",
        }
    }
}

/// The messages of a body, and whether it was a list of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Messages<'j> {
    pub list: Vec<Message<'j>>,
    pub batch: bool,
}

const BROKEN: Undecodable = Undecodable("a body that is not JSON-RPC 2.0");
/// Messages of a batch.
const MOST_MESSAGES: usize = 100;
const TOOLS_CALL: &str = "tools/call";

/// Whether a body is worth reading for it: for cards, which say nothing of others.
pub fn is_marked(head: &Head<'_>, body: &[u8]) -> bool {
    let beginning = &body[..body.len().min(64 * 1024)];
    head.method == http::Method::POST
        && declared(head.headers) == Declared::Json
        && memchr::memmem::find(beginning, b"\"jsonrpc\"").is_some()
}

/// Whether a body is JSON-RPC at all, to whoever reads the first message.
pub fn may_be(body: &Json<'_>) -> bool {
    let first = match body {
        Json::List(items) => items.first(),
        one => Some(one),
    };
    let version = first.and_then(|message| message.member("jsonrpc"));
    matches!(version, Some(Json::Text(version)) if version == "2.0")
}

/// Reads a body. Every message of a batch counts.
///
/// # Errors
/// An empty batch, one of more than 100, and whatever has a message that is not one.
pub fn read<'j>(body: &'j Json<'j>) -> Result<Messages<'j>, Undecodable> {
    match body {
        Json::List(items) if (1..=MOST_MESSAGES).contains(&items.len()) => {
            let list = items.iter().map(message).collect::<Result<_, _>>()?;
            Ok(Messages { list, batch: true })
        }
        Json::List(_) => Err(Undecodable("an empty batch of calls, or one of more than 100")),
        one => Ok(Messages { list: vec![message(one)?], batch: false }),
    }
}

/// Whether the headers that repeat what a message is about, for whoever routes by them, say the same.
pub fn agree(headers: &HeaderMap, messages: &Messages<'_>) -> bool {
    let call = match messages.list.as_slice() {
        [Message::Call(call)] if !messages.batch => Some(call),
        _ => None,
    };
    let about = call.and_then(|call| {
        let parameters = call.parameters?;
        parameters.member("name").or_else(|| parameters.member("uri"))
    });
    let about = match about {
        Some(Json::Text(text)) => Some(&**text),
        _ => None,
    };
    let said = |name: &str, wanted: Option<&str>| {
        headers.get_all(name).iter().all(|it| Some(it.as_bytes()) == wanted.map(str::as_bytes))
    };
    said("mcp-method", call.map(|call| call.method)) && said("mcp-name", about)
}

fn message<'j>(value: &'j Json<'j>) -> Result<Message<'j>, Undecodable> {
    let Json::Object(members) = value else { return Err(BROKEN) };
    let only = |known: &[&str]| members.iter().all(|(name, _)| known.contains(&&**name));
    if !matches!(value.member("jsonrpc"), Some(Json::Text(version)) if version == "2.0") {
        return Err(BROKEN);
    }
    let id = value.member("id");
    if !matches!(id, None | Some(Json::Text(_) | Json::Whole(_) | Json::Large(_))) {
        return Err(BROKEN);
    }
    let method = match value.member("method") {
        Some(Json::Text(method)) => &**method,
        Some(_) => return Err(BROKEN),
        None => {
            let (result, error) = (value.member("result"), value.member("error"));
            let one = result.is_some() != error.is_some() && id.is_some();
            let response = one && only(&["error", "id", "jsonrpc", "result"]);
            return if response { Ok(Message::Response) } else { Err(BROKEN) };
        }
    };
    if !only(&["id", "jsonrpc", "method", "params"]) || !is_name(method) {
        return Err(BROKEN);
    }
    // Another case of it is another method, or the same one to a server that ignores case.
    if method != TOOLS_CALL && fold(method) == TOOLS_CALL {
        return Err(BROKEN);
    }
    let parameters = value.member("params");
    if !matches!(parameters, None | Some(Json::List(_) | Json::Object(_))) {
        return Err(BROKEN);
    }
    let tool = (method == TOOLS_CALL).then(|| tool(parameters)).transpose()?;
    Ok(Message::Call(Call { method, id, parameters, tool }))
}

/// The tool and its arguments.
fn tool<'j>(
    parameters: Option<&'j Json<'j>>,
) -> Result<(&'j str, Option<&'j Json<'j>>), Undecodable> {
    let unclear = Undecodable("a call of a tool that is not clearly named");
    let Some(Json::Object(members)) = parameters else { return Err(unclear) };
    let twin = |name: &Cow<'_, str>| {
        ["arguments", "name"].iter().any(|known| name != known && fold(name) == *known)
    };
    if members.iter().any(|(name, _)| twin(name)) {
        return Err(unclear);
    }
    let member = |wanted: &str| members.iter().find(|(name, _)| name == wanted).map(|(_, it)| it);
    let Some(Json::Text(name)) = member("name") else { return Err(unclear) };
    let arguments = member("arguments");
    if !is_name(name) || !matches!(arguments, None | Some(Json::Object(_))) {
        return Err(unclear);
    }
    Ok((name, arguments))
}

/// Visible ASCII, with spaces inside at most.
fn is_name(text: &str) -> bool {
    let visible = text.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    visible && !text.is_empty() && text.trim() == text
}
