//! What conditions see of what was decoded further than a form or JSON: one function a protocol.

use std::collections::HashMap;

use cel::common::types::{CelBool, CelInt, CelList, CelMap, CelMapKey};
use cel::common::value::Val;

use crate::Body;
use crate::decode::git::{Request, Update};
use crate::decode::grpc::Descriptors;
use crate::decode::mail::{Address, Mail};
use crate::decode::mcp::{self, Call, Message, Messages};
use crate::decode::multipart::Form;
use crate::expression::Uses;
use crate::graphql::Operation;
use crate::judge::Case;
use crate::query::Found;
use crate::when::{MOST_NESTED, Scope, object, small, text, value};

type Bound<'v> = Result<Box<dyn Val + 'v>, &'static str>;

/// Binds what an expression looks at. The body is here.
pub(crate) fn bind<'v>(
    case: &'v Case<'_>,
    uses: &Uses,
    descriptors: &Descriptors,
    scope: &mut Scope<'v>,
) {
    if !matches!(case.body, Body::Whole(_)) || uses.decoded.is_empty() {
        return;
    }
    let calls = uses.decoded.iter().any(|name| name.starts_with("mcp."));
    let calls = if calls { messages(case, uses) } else { Err(NOT_HERE) };
    for name in &uses.decoded {
        let bound = match *name {
            "body.mail" => case.mail().map(|it| it.as_ref().map_err(|why| why.0)).map(mail),
            "body.multipart" => case
                .multipart()
                .map(|it| it.as_ref().map_err(|why| why.0).and_then(|it| multipart(it, uses))),
            "graphql.operations" => case
                .operations()
                .map(|it| it.as_ref().map_err(|why| why.0).and_then(|it| operations(it, uses))),
            "grpc.message" => case.grpc(descriptors).map(|it| {
                let message = it.as_ref().map_err(|why| why.0)?;
                value(small(message, uses)?, &uses.fields)
            }),
            name if name.starts_with("git.") => {
                case.git().map(|it| git(it.as_ref().map_err(|why| why.0)?, name, uses))
            }
            name => Some(calls.as_ref().map_err(|why| *why).and_then(|it| rpc(it, name, uses))),
        };
        scope.bind(name, bound.unwrap_or(Err(NOT_HERE)));
    }
}

const NOT_HERE: &str = "a body that is not here";
const LONG: &str = "a list with too many values for a comprehension inside another one";

fn list<'v>(items: impl IntoIterator<Item = Box<dyn Val + 'v>>) -> Box<dyn Val + 'v> {
    Box::new(CelList::from(items.into_iter().collect::<Vec<_>>()))
}

fn texts<'v, T: AsRef<str> + 'v>(items: &'v [T]) -> Box<dyn Val + 'v> {
    list(items.iter().map(|item| text(item.as_ref())))
}

fn size<'v>(bytes: usize) -> Box<dyn Val + 'v> {
    Box::new(CelInt::from(i64::try_from(bytes).unwrap_or(i64::MAX)))
}

fn flag<'v>(holds: bool) -> Box<dyn Val + 'v> {
    Box::new(CelBool::from(holds))
}

/// Lists are gone through once for each element of another one only while they are short.
fn short(items: usize, uses: &Uses) -> Result<(), &'static str> {
    if uses.nested && items > MOST_NESTED { Err(LONG) } else { Ok(()) }
}

fn mail<'v>(mail: Result<&'v Mail, &'static str>) -> Bound<'v> {
    let mail = mail?;
    let mut members = HashMap::new();
    for (name, value) in [
        ("bcc", addresses(&mail.bcc)),
        ("cc", addresses(&mail.cc)),
        ("from", addresses(&mail.from)),
        ("recipients", addresses(mail.recipients())),
        ("to", addresses(&mail.to)),
    ] {
        members.insert(CelMapKey::from(name), value);
    }
    for (name, value) in [("subject", &mail.subject), ("text", &mail.text)] {
        if let Some(value) = value {
            members.insert(CelMapKey::from(name), text(value));
        }
    }
    let parts = mail.parts.iter().map(|part| {
        let name = part.name.as_deref().unwrap_or_default();
        object([("name", text(name)), ("size", size(part.size)), ("type", text(&part.kind))])
    });
    members.insert(CelMapKey::from("parts"), list(parts));
    Ok(Box::new(CelMap::from(members)))
}

fn addresses<'v>(addresses: impl IntoIterator<Item = &'v Address>) -> Box<dyn Val + 'v> {
    list(addresses.into_iter().map(|it| text(&it.address)))
}

fn multipart<'v>(form: &'v Form<'_>, uses: &Uses) -> Bound<'v> {
    short(form.parts.len(), uses)?;
    // A name that some reader takes for one that is asked for is that one to it.
    if uses.fields.iter().any(|field| form.names.find(field) == Found::Doubtful) {
        return Err("a body in parts with a name that some readers take for one that is asked for");
    }
    let mut fields = HashMap::new();
    for part in form.parts.iter().filter(|part| part.file.is_none()) {
        let content = std::str::from_utf8(part.content).map_err(|_| "a field that is not UTF-8")?;
        fields.insert(CelMapKey::from(part.name), text(content));
    }
    let files = form.parts.iter().filter_map(|part| {
        Some(object([
            ("field", text(part.name)),
            ("name", text(part.file?)),
            ("size", size(part.content.len())),
            ("type", text(part.kind.unwrap_or_default())),
        ]))
    });
    let fields: Box<dyn Val + 'v> = Box::new(CelMap::from(fields));
    Ok(object([("fields", fields), ("files", list(files))]))
}

fn operations<'v>(operations: &'v [Operation], uses: &Uses) -> Bound<'v> {
    short(operations.iter().map(|it| 1 + it.calls.len()).sum(), uses)?;
    Ok(list(operations.iter().map(|operation| {
        // As often as they are there: two of one name are two.
        let fields = operation.calls.iter().map(|call| text(&call.field));
        object([
            ("fields", list(fields)),
            ("name", text(&operation.name)),
            ("type", text(operation.kind)),
        ])
    })))
}

fn git<'v>(request: &'v Request<'_>, name: &str, uses: &Uses) -> Bound<'v> {
    if name == "git.service" {
        return Ok(text(request.service().name()));
    }
    let Request::Push(push) = request else { return Err("a request of Git's that is no push") };
    Ok(match name {
        "git.atomic" => flag(push.atomic),
        "git.options" => texts(&push.options),
        _ => {
            short(push.updates.len(), uses)?;
            list(push.updates.iter().map(reference))
        }
    })
}

/// Without `forced` where that is not known: what asks for it is undecidable then.
fn reference<'v>(update: &'v Update<'_>) -> Box<dyn Val + 'v> {
    let known = [
        ("kind", text(update.change().word())),
        ("new", text(update.new)),
        ("old", text(update.old)),
        ("ref", text(update.reference)),
    ];
    object(known.into_iter().chain(update.forced().map(|forced| ("forced", flag(forced)))))
}

fn messages<'v>(case: &'v Case<'_>, uses: &Uses) -> Result<Messages<'v>, &'static str> {
    let json = case.json().ok_or(NOT_HERE)?.as_ref().map_err(|why| why.0)?;
    let messages = mcp::read(small(json, uses)?).map_err(|why| why.0)?;
    match mcp::agree(case.head.headers, &messages) {
        true => Ok(messages),
        false => Err("a call whose headers say that it is another one"),
    }
}

fn rpc<'v>(messages: &Messages<'v>, name: &str, uses: &Uses) -> Bound<'v> {
    if name == "mcp.calls" {
        let each = messages.list.iter().map(|message| whole(message, uses));
        return Ok(list(each.collect::<Result<Vec<_>, _>>()?));
    }
    let [message] = messages.list.as_slice() else {
        return Err("a batch of calls, of which each is in mcp.calls");
    };
    // A batch of one is a batch to servers that know none.
    if messages.batch {
        return Err("a batch of calls, of which each is in mcp.calls");
    }
    if name == "mcp.kind" {
        return Ok(text(message.kind()));
    }
    let Message::Call(call) = message else {
        return Err("an answer to what the server asked, which calls nothing");
    };
    let part = name.strip_prefix("mcp.").unwrap_or(name);
    let found = parts(call).into_iter().find(|(known, _)| *known == part);
    match found.map(|(_, part)| part) {
        Some(Part::Absent) | None => Err("a call of another kind than the one that is asked for"),
        Some(part) => part.value(uses),
    }
}

/// One message with the parts that it has.
fn whole<'v>(message: &Message<'v>, uses: &Uses) -> Bound<'v> {
    let mut members = vec![("kind", text(message.kind()))];
    if let Message::Call(call) = message {
        for (name, part) in parts(call) {
            if !matches!(part, Part::Absent) {
                members.push((name, part.value(uses)?));
            }
        }
    }
    Ok(object(members))
}

/// A part of a call.
enum Part<'v> {
    Absent,
    /// An object that was left out, which is an empty one to servers.
    Empty,
    Json(&'v crate::json::Json<'v>),
    Text(&'v str),
}

impl<'v> Part<'v> {
    fn value(self, uses: &Uses) -> Bound<'v> {
        match self {
            Self::Absent => Err(NOT_HERE),
            Self::Empty => Ok(object([])),
            Self::Json(json) => value(json, &uses.fields),
            Self::Text(said) => Ok(text(said)),
        }
    }
}

fn parts<'v>(call: &Call<'v>) -> [(&'static str, Part<'v>); 4] {
    let (tool, arguments) = match call.tool {
        None => (Part::Absent, Part::Absent),
        Some((tool, arguments)) => (Part::Text(tool), arguments.map_or(Part::Empty, Part::Json)),
    };
    let params = call.parameters.map_or(Part::Empty, Part::Json);
    [
        ("arguments", arguments),
        ("method", Part::Text(call.method)),
        ("params", params),
        ("tool", tool),
    ]
}

/// What is wrong with a condition over `grpc.message` in a rule with this path: no method that it could be about, and fields
/// that its message does not have.
pub(crate) fn misfits(
    descriptors: &Descriptors,
    path: Option<&str>,
    fields: &[String],
) -> Vec<String> {
    if descriptors.is_empty() {
        return vec!["grpc.message needs a [[descriptor]] of the service".to_owned()];
    }
    let Some(path) = path.filter(|path| !path.contains('{')) else { return Vec::new() };
    let Some(method) = descriptors.method(path) else {
        return vec![format!("no [[descriptor]] has a method {path}")];
    };
    if method.is_client_streaming() {
        return vec![format!("{path} takes a stream of messages, which cannot be looked into")];
    }
    let message = method.input();
    let unknown = fields.iter().filter(|field| message.get_field_by_name(field).is_none());
    unknown
        .map(|field| {
            let known: Vec<String> =
                message.fields().map(|field| field.name().to_owned()).collect();
            let name = message.full_name();
            format!("there is no `{field}` in {name}: it has {}", known.join(", "))
        })
        .collect()
}
