//! Gmail: what is sent, to whom, and what happens to a mailbox.

use countersign_policy::decode;

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::words::within;
use crate::{Risk, Said, mail};
use Risk::{Destructive, Messages, People, Read, Write};

/// Of what stands beside a mail, bytes.
const IN_ALSO: usize = 400;

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let path = ask.path();
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    let (uploads, path) = match path.as_slice() {
        ["upload", rest @ ..] | ["resumable", "upload", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let [root, "v1", "users", _, path @ ..] = path else { return Ok(None) };
    if *root != "gmail" {
        return Ok(None);
    }
    match (ask.method, path) {
        ("POST", ["messages", "send"]) => send(ask, uploads, ".raw", "Send", Messages),
        ("POST", ["messages"]) | ("POST", ["messages", "import"]) => {
            send(ask, uploads, ".raw", "Put into the mailbox, without sending it,", Write)
        }
        ("POST", ["drafts"]) | ("PUT", ["drafts", _]) => {
            send(ask, uploads, ".message.raw", "Draft", Write)
        }
        ("POST", ["drafts", "send"]) if ask.has(".message.raw") => {
            send(ask, uploads, ".message.raw", "Send", Messages)
        }
        _ if uploads => Ok(None),
        _ => look_up(ask, ROWS),
    }
}

fn send(ask: &mut Ask<'_>, uploads: bool, field: &str, verb: &str, risk: Risk) -> Said {
    let mail = if uploads {
        let kind = ask.text("@content-type").unwrap_or_default();
        let (mail, about) = decode::mail::uploaded(&kind, ask.bytes)?;
        ask.cover_body();
        for (name, value) in &about {
            ask.also(name, &within(value, IN_ALSO));
        }
        mail
    } else {
        let mail = decode::mail::raw(&ask.need(field)?)?;
        ask.cover(field);
        mail
    };
    mail::tell(ask, &mail, verb, risk)
}

const ROWS: &[Row] = &[
    Row(
        "DELETE",
        "/gmail/v1/users/{user}/messages/{message}",
        Destructive,
        "Delete mail {message} for good",
        &[],
    ),
    Row(
        "DELETE",
        "/gmail/v1/users/{user}/threads/{thread}",
        Destructive,
        "Delete the conversation {thread} for good",
        &[],
    ),
    Row(
        "POST",
        "/gmail/v1/users/{user}/messages/batchDelete",
        Destructive,
        "Delete mails for good: {.ids}",
        &[("Mails", ".ids")],
    ),
    Row(
        "DELETE",
        "/gmail/v1/users/{user}/labels/{label}",
        Destructive,
        "Delete label {label}",
        &[],
    ),
    Row(
        "DELETE",
        "/gmail/v1/users/{user}/drafts/{draft}",
        Destructive,
        "Delete draft {draft}",
        &[],
    ),
    Row(
        "POST",
        "/gmail/v1/users/{user}/settings/forwardingAddresses",
        People,
        "Add {.forwardingEmail} as an address to forward mail to",
        &[("Address", ".forwardingEmail")],
    ),
    Row(
        "PUT",
        "/gmail/v1/users/{user}/settings/autoForwarding",
        People,
        "Forward mail by itself[ to {.emailAddress}][ (on: {.enabled})]",
        &[("To", ".emailAddress"), ("On", ".enabled"), ("Then", ".disposition")],
    ),
    Row(
        "POST",
        "/gmail/v1/users/{user}/settings/filters",
        People,
        "Add a filter for mail[ that forwards to {.action.forward}]",
        &[
            ("For", ".criteria"),
            ("Forward to", ".action.forward"),
            ("Add labels", ".action.addLabelIds"),
            ("Remove labels", ".action.removeLabelIds"),
        ],
    ),
    Row(
        "POST",
        "/gmail/v1/users/{user}/settings/delegates",
        People,
        "Let {.delegateEmail} read and send all mail",
        &[("To", ".delegateEmail")],
    ),
    Row(
        "POST",
        "/gmail/v1/users/{user}/settings/sendAs",
        People,
        "Add the sender {.sendAsEmail}",
        &[("Address", ".sendAsEmail"), ("Server", ".smtpMsa")],
    ),
    Row(
        "PUT",
        "/gmail/v1/users/{user}/settings/vacation",
        Messages,
        "Answer mail by itself[ (on: {.enableAutoReply})]",
        &[
            ("On", ".enableAutoReply"),
            ("Subject", ".responseSubject"),
            ("Text", ".responseBodyPlainText"),
            ("HTML", ".responseBodyHtml"),
        ],
    ),
    Row(
        "POST",
        "/gmail/v1/users/{user}/drafts/send",
        Messages,
        "Send draft {.id}, whose text is not here",
        &[("Draft", ".id")],
    ),
    Row(
        "POST",
        "/gmail/v1/users/{user}/messages/{message}/trash",
        Write,
        "Move mail {message} to the trash",
        &[],
    ),
    Row(
        "POST",
        "/gmail/v1/users/{user}/messages/{message}/modify",
        Write,
        "Change labels of mail {message}",
        &[("Add", ".addLabelIds"), ("Remove", ".removeLabelIds")],
    ),
    Row(
        "POST",
        "/gmail/v1/users/{user}/messages/batchModify",
        Write,
        "Change labels of mails {.ids}",
        &[("Mails", ".ids"), ("Add", ".addLabelIds"), ("Remove", ".removeLabelIds")],
    ),
    Row(
        "GET",
        "/gmail/v1/users/{user}/messages",
        Read,
        "List mails[ that fit {'?q}]",
        &[("That fit", "?q")],
    ),
    Row(
        "GET",
        "/gmail/v1/users/{user}/messages/{message}",
        Read,
        "Read mail {message}",
        &[("Format", "?format")],
    ),
];
