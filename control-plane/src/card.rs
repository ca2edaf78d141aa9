//! What people are shown of an approval: composed from what the state has of the captured bytes, and from nothing that an
//! agent says about itself.

use std::borrow::Cow;

use countersign_chat as chat;
use countersign_chat::{Body, Card, Face, Part, Text, warnings};
use sha2::{Digest as _, Sha256};

use crate::state::{
    Approval, ApprovalState, Effect, Millis, ReportedOutcome, Shown, State, Strength, VoteWord,
};

/// Of what a request would do, on a card, bytes: some platforms' messages hold a thousand in all.
const CARD_SENTENCE: usize = 240;
const CARD_FACTS: usize = 400;
const CARD_FACT: usize = 120;

/// The whole of it, for where an answer is worth so much.
pub(crate) fn of(state: &State, approval: &Approval, worth: Strength) -> Card {
    let shown = &approval.shown;
    let agent = state.agent(&approval.agent);
    let name = agent.map_or(approval.agent.as_str(), |agent| agent.name.as_str());
    let owner = agent.and_then(|agent| agent.owner.as_deref());
    let who = owner.map_or_else(|| name.to_owned(), |owner| format!("{name} (of {owner})"));
    let usual = matches!(
        (shown.scheme.as_str(), shown.port),
        ("https", 443) | ("http", 80) | ("postgres", 5432)
    );
    let port = if usual { String::new() } else { format!(":{}", shown.port) };
    let sentence = match &shown.effect {
        Effect::Described(described) => {
            format!("{who} asks for this: {}", cut(&described.sentence, CARD_SENTENCE))
        }
        _ => format!("{who} wants to {} {}{port}{}", shown.method, shown.host, shown.path),
    };
    let keys: Vec<_> = approval
        .credentials
        .iter()
        .map(|(id, _)| state.credential(id).map_or(id.as_str(), |it| it.name.as_str()))
        .collect();
    let mut facts = effect(&shown.effect);
    let mut says = |name: &'static str, value: String| facts.push((name.into(), value));
    for (name, value) in [
        ("Method", shown.method.clone()),
        ("To", format!("{}, {}, port {}", shown.scheme, shown.host, shown.port)),
        ("Path", shown.path.clone()),
    ] {
        says(name, value);
    }
    let decoded = decoded(&shown.path);
    if decoded != shown.path {
        says("Path, decoded", decoded);
    }
    match shown.query.as_deref() {
        None => says("Query", "none".into()),
        Some(query) => {
            says("Query", if query.is_empty() { "empty".into() } else { query.into() });
            let pairs: Vec<_> =
                query.split('&').map(|pair| self::decoded(&pair.replace('+', " "))).collect();
            if pairs.join("&") != query {
                says("Query, decoded", pairs.join(", "));
            }
        }
    }
    // What is not the body is not on every card: where all of it has to be seen, it is.
    let demands_whole = approval.requirements.iter().any(|it| it.critical || it.whole_card);
    if demands_whole {
        for (name, value) in &shown.headers {
            says("Header", format!("{name}: {value}"));
        }
    }
    says("Real keys", if keys.is_empty() { "none".into() } else { keys.join(", ") });
    says("Rule", approval.rule.clone());
    says("Needs", needs(approval));
    says("Until", time(approval.due));
    Card {
        approval: approval.id.to_string(),
        sentence: Text::of(&sentence),
        facts: facts.into_iter().map(|(name, value)| (name, Text::of(&value))).collect(),
        warnings: careful(shown).iter().map(|warning| Text::of(warning)).collect(),
        fingerprint: chat::fingerprint(&shown.intent_digest),
        body: body(shown),
        demands_whole,
        answered_elsewhere: approval
            .requirements
            .iter()
            .any(|requirement| requirement.strength > worth),
    }
}

/// As much of it as there is room for, and how much that is; in which everything can be seen.
fn cut(text: &str, room: usize) -> String {
    Text::of(text).within(room).to_string()
}

/// Of what it would do, as much as every platform has room for; how much more there is, it says.
fn effect(effect: &Effect) -> Vec<(Cow<'static, str>, String)> {
    let described = match effect {
        Effect::Unknown => return Vec::new(),
        Effect::Undecidable(why) => {
            let unsaid = format!("not certain, because of {why}");
            return vec![("What it would do".into(), unsaid)];
        }
        Effect::Described(described) => described,
    };
    let mut facts = vec![("Risk".into(), described.risk.word().to_owned())];
    let (mut room, mut unsaid) = (CARD_FACTS, 0);
    for fact in &described.facts {
        let value = cut(&fact.value, CARD_FACT);
        match room.checked_sub(fact.name.len() + value.len()) {
            Some(left) => {
                room = left;
                facts.push((fact.name.clone().into(), value));
            }
            None => unsaid += 1,
        }
    }
    if let Some(line) = described.also.line() {
        facts.push(("Also contains".into(), cut(&line, CARD_FACT)));
    }
    if unsaid > 0 {
        facts.push(("Facts not shown here".into(), unsaid.to_string()));
    }
    facts
}

/// A card about nothing, to see whether a channel works.
pub(crate) fn test(by: &str) -> Card {
    Card {
        approval: "none: this is a test".into(),
        sentence: Text::of(&format!(
            "{by} tests this channel. Nothing happens, whichever you choose."
        )),
        facts: Vec::new(),
        warnings: Vec::new(),
        fingerprint: "none".into(),
        body: Body::default(),
        demands_whole: false,
        answered_elsewhere: false,
    }
}

/// Where it stands.
pub(crate) fn face(state: &State, approval: &Approval) -> Face {
    let settled = |words: String| Face::Settled { words: vec![Text::of(&words)] };
    let by = |word: VoteWord| {
        let votes = approval.votes.iter().filter(|vote| vote.word == word && !vote.withdrawn);
        let names: Vec<_> = votes.map(|vote| vote.principal.as_str()).collect();
        names.join(" and ")
    };
    let approved = match (by(VoteWord::Approve), approval.grant) {
        (names, _) if !names.is_empty() => format!("Approved by {names}"),
        (_, Some(grant)) => format!("Approved by grant {grant}"),
        _ => "Approved".into(),
    };
    let because =
        |reason: &str| if reason.is_empty() { String::new() } else { format!(": {reason}") };
    match approval.state {
        ApprovalState::Pending => {
            let mut standing = Vec::new();
            let names = by(VoteWord::Approve);
            if !names.is_empty() {
                standing.push(format!("{names} said yes; others have to agree."));
            }
            match state.counted_with(approval.id) {
                0 => {}
                1 => standing.push("One similar request of this agent waits beside it.".into()),
                count => {
                    standing.push(format!("{count} similar requests of this agent wait beside it."))
                }
            }
            if approval.asked_again > 0 {
                standing.push(format!(
                    "The agent has asked for the same {} times since.",
                    approval.asked_again
                ));
            }
            Face::Asking { standing: standing.iter().map(|words| Text::of(words)).collect() }
        }
        ApprovalState::Approved => {
            settled(format!("{approved}. It can be used once, until {}.", time(approval.due)))
        }
        ApprovalState::Denied => {
            settled(format!("Denied{}. Nothing was sent.", because(&approval.reason)))
        }
        ApprovalState::Expired => settled("Expired. Nothing was sent.".into()),
        ApprovalState::Cancelled => {
            settled(format!("Cancelled{}. Nothing was sent.", because(&approval.reason)))
        }
        ApprovalState::Revoked => {
            settled(format!("Taken back{}. Nothing was sent.", because(&approval.reason)))
        }
        ApprovalState::Released => settled(format!("{approved}. It is being carried out.")),
        ApprovalState::Completed => settled(match approval.outcome {
            Some((ReportedOutcome::Completed, status, _)) => {
                format!("{approved}. Carried out once; the other side answered {status}.")
            }
            Some((ReportedOutcome::NotSent, ..)) => {
                format!("{approved}. It could not be sent, and is not tried again.")
            }
            _ => format!("{approved}. Carried out once."),
        }),
        ApprovalState::Unknown => settled(format!(
            "{approved}. It was released, and nobody knows whether it arrived; it is never sent again by itself."
        )),
    }
}

/// The same face, the same digest.
pub(crate) fn face_digest(face: &Face) -> [u8; 32] {
    let (kind, words) = match face {
        Face::Asking { standing } => ("asking", standing),
        Face::Settled { words } => ("settled", words),
    };
    let mut digest = Sha256::new().chain_update(kind);
    for line in words {
        digest.update((line.as_str().len() as u64).to_be_bytes());
        digest.update(line.as_str());
    }
    digest.finalize().into()
}

/// What a reader could take for something else: look-alike letters, and what cannot be seen. A sentence each.
pub(crate) fn careful(shown: &Shown) -> Vec<String> {
    let path = Part::PercentEncoded { name: "path", text: &shown.path };
    let query = shown.query.as_deref().map(|text| Part::PercentEncoded { name: "query", text });
    let names: Vec<_> = shown.headers.iter().map(|(name, _)| format!("header {name}")).collect();
    let headers = shown.headers.iter().zip(&names);
    let headers = headers.map(|((_, text), name)| Part::Plain { name, text });
    let body = text(&shown.body_preview).map(|text| Part::Plain { name: "body", text });
    let parts: Vec<_> = [path].into_iter().chain(query).chain(headers).chain(body).collect();
    warnings(&shown.host, &parts)
}

fn body(shown: &Shown) -> Body {
    let kept = shown.body_preview.len();
    Body {
        text: text(&shown.body_preview).map(str::to_owned),
        // What was kept may have been decoded; it is all of it unless the request is uninspectable.
        total: if shown.uninspectable || kept == 0 {
            shown.body_bytes.max(kept as u64)
        } else {
            kept as u64
        },
        uninspectable: shown.uninspectable,
    }
}

/// Whom it takes.
fn needs(approval: &Approval) -> String {
    let panels = approval.requirements.iter().flat_map(|requirement| &requirement.panels);
    let each = panels.map(|panel| {
        let anyone = panel.of.is_empty() || panel.of.iter().any(|name| name == "*");
        let who = if anyone { "whoever may approve".to_owned() } else { panel.of.join(" or ") };
        format!("{} of {who}", panel.quorum)
    });
    each.collect::<Vec<_>>().join(", and ")
}

/// What is shown as text: all of it, or all but a character that was cut in half at the end.
fn text(body: &[u8]) -> Option<&str> {
    match std::str::from_utf8(body) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&body[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// RFC 3339, to the second, in UTC.
fn time(at: Millis) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at / 1000);
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use countersign_describe::{Also, Description, Fact, Risk};

    use super::*;

    #[test]
    fn a_5_a_card_says_how_much_of_what_it_would_do_has_no_room() {
        let fact = |number: usize| Fact { name: format!("Fact {number}"), value: "x".repeat(400) };
        let also = Also { listed: vec![("note".into(), "\u{202e}".repeat(200))], more: 7 };
        let described = Description {
            sentence: "Do it".into(),
            risk: Risk::Money,
            facts: (0..40).map(fact).collect(),
            also,
        };
        let facts = effect(&Effect::Described(described));
        let size: usize = facts.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(size < 700, "{size}: {facts:?}");
        let value = |wanted: &str| facts.iter().find(|(name, _)| name == wanted).map(|it| &*it.1);
        assert_eq!(value("Risk"), Some("money"));
        assert!(value("Fact 0").is_some_and(|it| it.ends_with("of 400 bytes)")), "{facts:?}");
        assert!(value("Also contains").is_some_and(|it| !it.contains('\u{202e}')), "{facts:?}");
        let shown = facts.iter().filter(|(name, _)| name.starts_with("Fact ")).count();
        assert_eq!(value("Facts not shown here"), Some((40 - shown).to_string().as_str()));
        assert!(effect(&Effect::Unknown).is_empty());
    }
}
