//! A mail for people: what it says, and what sending it would do.

use countersign_policy::decode::mail::{Address, Mail, Part};

use crate::ask::Ask;
use crate::words::{count, cut, quoted, row};
use crate::{Risk, Said};

/// Of the text, bytes.
const EXCERPT: usize = 380;

/// Tells it, and says what sending it would do. `verb`: "Send", "Draft".
pub(crate) fn tell(ask: &mut Ask<'_>, mail: &Mail, verb: &str, risk: Risk) -> Said {
    let everyone: Vec<_> = mail.recipients().map(shown).collect();
    let lists = [("To", &mail.to), ("Cc", &mail.cc), ("Bcc (hidden from the others)", &mail.bcc)];
    if !mail.from.is_empty() {
        ask.say("From", all(&mail.from), &[]);
    }
    for (name, addresses) in lists {
        if !addresses.is_empty() {
            ask.say(name, all(addresses), &[]);
        }
    }
    if let Some(subject) = &mail.subject {
        ask.say("Subject", subject.clone(), &[]);
    }
    if let Some(text) = &mail.text {
        ask.say("Text", cut(text, EXCERPT), &[]);
    }
    for part in &mail.parts {
        ask.say("Part", format!("{}, {} bytes", label(part), part.size), &[]);
    }
    for (name, value) in &mail.others {
        ask.also(&format!("mail header {name}"), value);
    }
    let subject = mail
        .subject
        .as_deref()
        .map_or_else(|| " without a subject".into(), |subject| format!(" {}", quoted(subject)));
    let attached = match mail.parts.len() {
        0 => String::new(),
        parts => format!(", with {}", count(parts, "more part")),
    };
    let to = match everyone.len() {
        0 => "nobody".to_owned(),
        1 => row(&everyone),
        several => format!("{several} addresses: {}", row(&everyone)),
    };
    Ok(Some((risk, format!("{verb} mail{subject} to {to}{attached}"))))
}

/// The address first, since names are anybody's to choose.
fn shown(to: &Address) -> String {
    match to.name.as_str() {
        "" => to.address.clone(),
        name => format!("{} ({})", to.address, quoted(name)),
    }
}

fn all(addresses: &[Address]) -> String {
    addresses.iter().map(shown).collect::<Vec<_>>().join(", ")
}

fn label(part: &Part) -> String {
    match &part.name {
        Some(name) => format!("{} ({})", quoted(name), part.kind),
        None => part.kind.clone(),
    }
}
