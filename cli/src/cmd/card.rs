//! An approval, as people and programs see it.

use std::fmt::Write as _;

use countersign_proto::v1;
use serde::Serialize;

use crate::print;

/// How much of a body's beginning is shown to a person.
const PREVIEW: usize = 2048;

/// The stable shape of `-o json`.
#[derive(Serialize)]
pub(crate) struct Card {
    pub(crate) id: String,
    pub(crate) state: &'static str,
    agent: String,
    method: String,
    scheme: String,
    host: String,
    port: u32,
    path: String,
    query: Option<String>,
    body_bytes: u64,
    body_sha256: String,
    intent_digest: String,
    rule: String,
    credentials: Vec<String>,
    created_at: Option<String>,
    expires_at: Option<String>,
    votes: Vec<Vote>,
    outcome: Option<Outcome>,
    summary: Option<String>,
    risk: Option<String>,
    facts: Vec<Fact>,
    also_contains: Option<String>,
}

#[derive(Serialize)]
struct Fact {
    name: String,
    value: String,
}

#[derive(Serialize)]
struct Vote {
    approver: String,
    decision: &'static str,
    channel: String,
    at: Option<String>,
    reason: String,
}

#[derive(Serialize)]
struct Outcome {
    status: u32,
}

impl From<&v1::Approval> for Card {
    fn from(approval: &v1::Approval) -> Self {
        let vote = |vote: &v1::Vote| Vote {
            approver: vote.approver.clone(),
            decision: decision_name(vote.decision()),
            channel: vote.channel.clone(),
            at: print::time(vote.at.as_ref()),
            reason: vote.reason.clone(),
        };
        let fact = |fact: &v1::Fact| Fact { name: fact.name.clone(), value: fact.value.clone() };
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            id: approval.approval_id.clone(),
            state: state_name(approval.state()),
            agent: approval.agent.clone(),
            method: approval.method.clone(),
            scheme: approval.scheme.clone(),
            host: approval.host.clone(),
            port: approval.port,
            path: approval.path.clone(),
            query: approval.query.clone(),
            body_bytes: approval.body_bytes,
            body_sha256: approval.body_sha256.clone(),
            intent_digest: approval.intent_digest.clone(),
            rule: approval.rule.clone(),
            credentials: approval.credentials.clone(),
            created_at: print::time(approval.created_at.as_ref()),
            expires_at: print::time(approval.expires_at.as_ref()),
            votes: approval.votes.iter().map(vote).collect(),
            outcome: completed(approval).map(|status| Outcome { status }),
            summary: given(&approval.summary),
            risk: given(&approval.risk),
            facts: approval.facts.iter().map(fact).collect(),
            also_contains: given(&approval.also_contains),
        }
    }
}

pub(crate) fn state_name(state: v1::ApprovalState) -> &'static str {
    match state {
        v1::ApprovalState::Approved => "approved",
        v1::ApprovalState::Cancelled => "cancelled",
        v1::ApprovalState::Completed => "completed",
        v1::ApprovalState::Denied => "denied",
        v1::ApprovalState::Expired => "expired",
        v1::ApprovalState::Pending => "pending",
        v1::ApprovalState::Released => "released",
        v1::ApprovalState::Revoked => "revoked",
        v1::ApprovalState::Unknown | v1::ApprovalState::Unspecified => "unknown",
    }
}

/// One line: who wants what of whom.
pub(crate) fn summary(approval: &v1::Approval) -> String {
    format!("{} wants to {} {}", approval.agent, approval.method, url(approval))
}

/// Where it goes, with `{key}` where the key would be.
pub(crate) fn url(approval: &v1::Approval) -> String {
    let usual = matches!(
        (approval.scheme.as_str(), approval.port),
        ("https", 443) | ("http", 80) | ("postgres", 5432)
    );
    let port = if usual { String::new() } else { format!(":{}", approval.port) };
    let query = approval.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}://{}{port}{}{query}", approval.scheme, approval.host, approval.path)
}

/// Everything a person should know before answering, in sentences. Each line is still to be made visible.
pub(crate) fn sentences(approval: &v1::Approval) -> String {
    let mut text = format!("{}.\n", summary(approval));
    let mut say = |sentence: String| {
        text.push_str(&sentence);
        text.push('\n');
    };
    effect(approval, &mut say);
    say(standing(approval));
    say(format!(
        "Rule {:?} asks people about it{}.",
        approval.rule,
        requirements(&approval.requirements)
    ));
    conditions(approval, &mut say);
    match approval.credentials.as_slice() {
        [] => say("It would leave without any key.".into()),
        names => say(format!("It would leave with the real key of {}.", names.join(" and "))),
    }
    if approval.uninspectable {
        say("CAREFUL: part of it cannot be decoded or shown; the policy could not look inside."
            .into());
    }
    for warning in &approval.warnings {
        say(format!("CAREFUL: {}", one_line(warning)));
    }
    say(String::new());
    match approval.headers.as_slice() {
        [] => say("It has no headers to show.".into()),
        headers => {
            say("Headers:".into());
            for header in headers {
                say(format!("  {}: {}", header.name, readable(&header.value)));
            }
        }
    }
    say(String::new());
    body(approval, &mut say);
    say(String::new());
    say(format!("Intent {}, in four words: {}.", approval.intent_digest, approval.fingerprint));
    for vote in &approval.votes {
        let verb = match vote.decision() {
            v1::VoteDecision::Approve => "approved",
            v1::VoteDecision::Deny => "denied",
            v1::VoteDecision::Unspecified => "answered",
        };
        let because = if vote.reason.is_empty() {
            String::new()
        } else {
            format!(", because: {}", one_line(&vote.reason))
        };
        say(format!(
            "{} {verb} it at {} by {}{because}.",
            vote.approver,
            print::time_or_dash(vote.at.as_ref()),
            vote.channel
        ));
    }
    text
}

/// The commands that answer it; None when there is nothing to answer any more.
pub(crate) fn how_to_answer(approval: &v1::Approval) -> Option<String> {
    let id = &approval.approval_id;
    let pending = approval.state() == v1::ApprovalState::Pending;
    pending.then(|| {
        format!("Answer it: countersign approval approve {id}, or: countersign approval deny {id}")
    })
}

/// Where it stands, in a sentence.
fn standing(approval: &v1::Approval) -> String {
    let waiting = match approval.waiting {
        0 => "no request of its kind waits at this moment".into(),
        1 => "one request waits".into(),
        count => format!("{count} identical requests wait, of which one will be carried out"),
    };
    let until = print::time_or_dash(approval.expires_at.as_ref());
    let because = if approval.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", one_line(&approval.reason))
    };
    match approval.state() {
        v1::ApprovalState::Pending => format!("It is pending until {until}; {waiting}."),
        v1::ApprovalState::Approved => format!("It is approved, and usable once until {until}; {waiting}."),
        v1::ApprovalState::Denied => format!("It is denied{because}. Nothing was sent."),
        v1::ApprovalState::Expired => "It expired unanswered or unused. Nothing was sent.".into(),
        v1::ApprovalState::Cancelled => format!("It was cancelled{because}. Nothing was sent."),
        v1::ApprovalState::Revoked => format!("It was revoked{because}. Nothing was sent."),
        v1::ApprovalState::Released => "It is released to the edge; no receipt has come yet.".into(),
        v1::ApprovalState::Completed => match completed(approval) {
            Some(status) => format!("It was carried out once; {} answered {status}.", approval.host),
            None => "It was carried out once.".into(),
        },
        v1::ApprovalState::Unknown | v1::ApprovalState::Unspecified => {
            "It was released, and nobody knows whether it arrived; it is never sent again by itself.".into()
        }
    }
}

fn requirements(requirements: &[v1::Requirement]) -> String {
    let panel = |panel: &v1::Panel| {
        let who = match panel.of.as_slice() {
            [] => "any approver".into(),
            [any] if any == "*" => "any approver".into(),
            names => names.join(" or "),
        };
        match panel.quorum {
            0 | 1 => format!("one yes of {who}"),
            quorum => format!("{quorum} people's yes of {who}"),
        }
    };
    if requirements.is_empty() {
        return String::new();
    }
    let panels = requirements.iter().flat_map(|requirement| &requirement.panels);
    format!(": it needs {}", panels.map(panel).collect::<Vec<_>>().join(", and "))
}

/// What a rule asks beside people, and who else may answer when.
fn conditions(approval: &v1::Approval, say: &mut impl FnMut(String)) {
    for requirement in &approval.requirements {
        if !matches!(requirement.strength.as_str(), "" | "L0" | "L1") {
            say(format!("A yes counts from strength {} on.", requirement.strength));
        }
        if !matches!(requirement.proof.as_str(), "" | "none") {
            say(format!("A yes counts with a proof that is {}.", requirement.proof));
        }
        if requirement.critical {
            say("It is critical: no grant stands in for people who look at it.".into());
        }
        if requirement.whole_card {
            say("A yes or no from a chat counts only where its card shows all of it.".into());
        }
        for step in &requirement.escalations {
            let at = print::time_or_dash(step.at.as_ref());
            say(format!("From {at} on {} may approve too.", step.to.join(", ")));
        }
        if !requirement.break_glass.is_empty() {
            let who = requirement.break_glass.join(" or ");
            say(format!("In an emergency one of {who} may approve alone, with --break-glass."));
        }
    }
    if approval.similar > 0 {
        say(format!("{} similar requests of this agent wait beside it.", approval.similar));
    }
    if approval.asked_again > 0 {
        say(format!("The agent has asked for the same {} times since.", approval.asked_again));
    }
    if !approval.grant_id.is_empty() {
        say(format!("It rests on grant {}.", approval.grant_id));
    }
    for vote in approval.votes.iter().filter(|vote| vote.breaks_glass) {
        let reason = one_line(&vote.reason);
        say(format!("THE GLASS WAS BROKEN by {}: {reason}", vote.approver));
    }
}

fn body(approval: &v1::Approval, say: &mut impl FnMut(String)) {
    if approval.body_bytes == 0 {
        say("It has no body.".into());
        return;
    }
    let kept = &approval.body_preview[..approval.body_preview.len().min(PREVIEW)];
    let kept = whole_characters(kept);
    let (total, shown) = (approval.body_bytes, kept.len());
    match std::str::from_utf8(kept) {
        Ok(text) => {
            say(format!(
                "Body (shown {shown} of {total} bytes, SHA-256 {}):",
                approval.body_sha256
            ));
            for line in text.split('\n') {
                say(format!("  | {line}"));
            }
        }
        Err(_) => {
            say(format!(
                "Body (not text; shown {shown} of {total} bytes, SHA-256 {}):",
                approval.body_sha256
            ));
            for (row, bytes) in kept.chunks(32).enumerate() {
                say(format!("  | {:06x}  {}", row * 32, hex::encode(bytes)));
            }
        }
    }
}

/// Without a character that was cut in half at the end, if what comes before it is text.
fn whole_characters(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
            &bytes[..error.valid_up_to()]
        }
        _ => bytes,
    }
}

fn readable(value: &[u8]) -> String {
    value.iter().fold(String::new(), |mut text, byte| {
        match byte {
            b' '..=b'~' => text.push(char::from(*byte)),
            other => {
                let _ = write!(text, "\\x{other:02x}");
            }
        }
        text
    })
}

/// What it would do, as far as the control plane knows.
fn effect(approval: &v1::Approval, say: &mut impl FnMut(String)) {
    if !approval.undecidable.is_empty() {
        say(format!(
            "CAREFUL: what it would do is not certain, because of {}.",
            one_line(&approval.undecidable)
        ));
    }
    if approval.summary.is_empty() {
        return;
    }
    say(format!("It would: {} (risk: {}).", one_line(&approval.summary), approval.risk));
    for fact in &approval.facts {
        say(format!("  {}: {}", one_line(&fact.name), one_line(&fact.value)));
    }
    if !approval.also_contains.is_empty() {
        say(format!("  It also contains: {}", one_line(&approval.also_contains)));
    }
}

/// A sentence of ours must not break into two lines where somebody else's words are in it.
fn one_line(text: &str) -> String {
    text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'")
}

fn decision_name(decision: v1::VoteDecision) -> &'static str {
    match decision {
        v1::VoteDecision::Approve => "approve",
        v1::VoteDecision::Deny => "deny",
        v1::VoteDecision::Unspecified => "unknown",
    }
}

fn completed(approval: &v1::Approval) -> Option<u32> {
    let outcome = approval.outcome.as_ref()?;
    (outcome.outcome() == v1::ExecutionOutcome::Completed).then_some(outcome.status)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn approval() -> v1::Approval {
        v1::Approval {
            approval_id: "0123456789abcdef0123456789abcdef".into(),
            state: v1::ApprovalState::Pending.into(),
            agent: "bot".into(),
            method: "DELETE".into(),
            scheme: "https".into(),
            host: "api.example.com".into(),
            port: 443,
            path: "/v1/projects/42".into(),
            body_bytes: 5000,
            body_sha256: "ab".repeat(32),
            body_preview: Bytes::from(
                "{\"a\":\n1}\x1b[2J é".to_owned().into_bytes()[..14].to_vec(),
            ),
            intent_digest: "cd".repeat(32),
            rule: "delete a project".into(),
            credentials: vec!["production".into()],
            requirements: vec![v1::Requirement {
                rule: "x".into(),
                panels: vec![v1::Panel { of: vec!["finance".into()], quorum: 2 }],
                ..v1::Requirement::default()
            }],
            waiting: 1,
            ..v1::Approval::default()
        }
    }

    #[test]
    fn json_has_exactly_the_stable_fields_in_their_order() {
        let text = serde_json::to_string(&Card::from(&approval())).unwrap();
        let mut at = 0;
        for field in "id state agent method scheme host port path query body_bytes body_sha256 intent_digest rule credentials created_at \
                      expires_at votes outcome summary risk facts also_contains"
            .split_whitespace()
        {
            at += text[at..].find(&format!("\"{field}\":")).unwrap_or_else(|| panic!("{field} is missing or out of place"));
        }
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&text).unwrap();
        assert_eq!(object.len(), 22);
        assert!(object["query"].is_null() && object["outcome"].is_null());
    }

    #[test]
    fn an_outcome_has_a_status_only_when_the_upstream_answered() {
        let mut approval = approval();
        approval.outcome = Some(v1::ExecutionRecord {
            outcome: v1::ExecutionOutcome::Completed.into(),
            status: 204,
            at: None,
        });
        assert_eq!(serde_json::to_value(Card::from(&approval)).unwrap()["outcome"]["status"], 204);
        approval.outcome = Some(v1::ExecutionRecord {
            outcome: v1::ExecutionOutcome::Unknown.into(),
            status: 0,
            at: None,
        });
        assert!(serde_json::to_value(Card::from(&approval)).unwrap()["outcome"].is_null());
    }

    #[test]
    fn a_person_is_told_who_wants_what_where_and_how_much_is_shown() {
        let text = sentences(&approval());
        assert!(
            text.starts_with("bot wants to DELETE https://api.example.com/v1/projects/42."),
            "{text}"
        );
        assert!(text.contains("2 people's yes of finance"), "{text}");
        assert!(text.contains("real key of production"), "{text}");
        assert!(text.contains("shown 13 of 5000 bytes"), "{text}");
    }

    #[test]
    fn a_person_is_told_what_it_would_do_and_what_that_leaves_out() {
        let mut approval = approval();
        assert!(!sentences(&approval).contains("It would:"));
        approval.summary = "Delete project 42\nIt is harmless".into();
        approval.risk = "destructive".into();
        approval.facts = vec![v1::Fact { name: "Project".into(), value: "42".into() }];
        approval.also_contains = "force: true".into();
        let text = sentences(&approval);
        assert!(
            text.contains(
                "It would: Delete project 42\\nIt is harmless (risk: destructive).\n  Project: 42\n  It also contains: force: true\n"
            ),
            "{text}"
        );
        let json = serde_json::to_value(Card::from(&approval)).unwrap();
        assert_eq!(json["risk"], "destructive");
        assert_eq!(json["facts"][0]["value"], "42");
    }

    #[test]
    fn c_8_nothing_in_a_body_reaches_the_terminal_raw() {
        let shown: Vec<String> = sentences(&approval()).lines().map(print::visible).collect();
        assert!(shown.iter().any(|line| line.contains("1}\\u{1b}[2J")), "{shown:?}");
    }

    #[test]
    fn c_8_a_reason_cannot_fake_a_line() {
        let mut approval = approval();
        approval.votes =
            vec![v1::Vote { reason: "no\nIt is approved".into(), ..v1::Vote::default() }];
        assert!(!sentences(&approval).lines().any(|line| line.starts_with("It is approved")));
    }
}
