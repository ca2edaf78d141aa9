//! What GraphQL documents ask for, at services whose mutations are known by name.

use countersign_policy::graphql::{Argument, operation};

use crate::ask::Ask;
use crate::words::{apart, count, row, within, word};
use crate::{Risk, Said};

/// A mutation, its risk, and its words.
pub(crate) type Known = &'static [(&'static str, Risk, &'static str)];

/// Arguments of which the values are told.
const MOST_TOLD: usize = 12;
const IN_VALUE: usize = 400;

/// A query reads. A mutation is named by its fields, known or not, and its risk is the worst of theirs.
pub(crate) fn describe(ask: &mut Ask<'_>, service: &str, known: Known) -> Said {
    let operation = operation(ask.json()?)?;
    let mut risk = Risk::Read;
    let mut words = Vec::new();
    let mut told = 0;
    let several = operation.calls.len() > 1;
    for (at, call) in operation.calls.iter().enumerate() {
        let found = known.iter().find(|(name, ..)| *name == call.field);
        if operation.kind == "mutation" {
            risk = risk.max(found.map_or_else(|| by_name(&call.field), |(_, risk, _)| *risk));
        }
        let mut object = String::new();
        for (name, argument) in &call.arguments {
            if told == MOST_TOLD {
                break;
            }
            told += 1;
            let label = match several {
                true => format!("{}: {}", at + 1, apart(name)),
                false => apart(name),
            };
            match argument {
                Argument::Block => ask.say(&label, "in the document".into(), &[]),
                Argument::Literal(text) => {
                    let text = text.trim_matches('"').to_owned();
                    if name == "id" || name.ends_with("Id") {
                        object = format!(" {}", word(&text));
                    }
                    ask.say(&label, text, &[]);
                }
                Argument::Variable(variable) => {
                    let field = format!(".variables.{variable}");
                    let Some(value) = ask.find(&field).map(|it| within(&it, IN_VALUE)) else {
                        if operation.defaults {
                            ask.say(&label, "its default, if the document gives one".into(), &[]);
                        }
                        continue;
                    };
                    if name == "id" || name.ends_with("Id") {
                        object = format!(" {}", word(&value));
                    }
                    ask.say(&label, value, &[&field]);
                }
            }
        }
        let what = found.map_or_else(|| call.field.clone(), |(.., words)| (*words).to_owned());
        let maybe = if call.conditional { " (under a condition)" } else { "" };
        words.push(format!("{what}{object}{maybe}"));
    }
    ask.fact("Document", ".query");
    ask.fact("Operation", ".operationName");
    let sentence = match (operation.kind, words.as_slice()) {
        ("query", words) => format!("Read from {service}: {}", row(words)),
        ("subscription", words) => format!("Listen to {service}: {}", row(words)),
        (_, [one]) => format!("{service}: {one}"),
        (_, several) => {
            format!("{service}: {}: {}", count(several.len(), "change"), row(several))
        }
    };
    Ok(Some((risk, sentence)))
}

/// The risk of a mutation that is not listed, by the verbs in its name.
fn by_name(field: &str) -> Risk {
    let words = apart(field);
    let has = |list: &[&str]| words.split(' ').any(|word| list.contains(&word));
    if has(&["archive", "clear", "delete", "destroy", "purge", "remove", "transfer"]) {
        return Risk::Destructive;
    }
    let people = [
        "access",
        "collaborator",
        "enterprise",
        "invite",
        "invitation",
        "key",
        "member",
        "members",
        "membership",
        "organization",
        "permission",
        "protection",
        "role",
        "token",
        "user",
        "visibility",
        "webhook",
    ];
    if has(&people) {
        return Risk::People;
    }
    if has(&["comment", "discussion", "email", "message", "notification", "notify", "post"]) {
        return Risk::Messages;
    }
    Risk::Write
}
