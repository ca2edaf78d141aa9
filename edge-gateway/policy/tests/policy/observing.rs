//! Observe rules: they decide and record, and stop nothing.

use countersign_policy::{Need, Then};

use crate::support::{ask, policy};

const RULES: &str = r#"
[[rule]]
name = "read and write"
host = "a.example"
then = "allow"
credential = "key"

[[rule]]
name = "would ask about refunds"
host = "a.example"
path = "/refunds"
when = "body.form.amount >= 100"
then = "observe"
panels = [{ of = ["finance"], quorum = 2 }]
strength = "L2"

[[rule]]
name = "ask about payouts"
host = "a.example"
path = "/payouts/{id}"
then = "approve"

[[rule]]
name = "no admin"
host = "a.example"
path = "/admin/{rest...}"
then = "deny"

[[rule]]
name = "watch everything that deletes"
host = "a.example"
methods = ["DELETE"]
then = "observe"

[[rule]]
name = "try b"
host = "b.example"
path = "/x"
then = "observe"
credential = "other"
"#;

#[test]
fn what_matches_passes_with_its_key_and_is_recorded() {
    let decision = ask("GET", "https://b.example/x").decide(&policy(RULES));
    assert_eq!((decision.then, decision.rule.as_str()), (Then::Observe, "try b"));
    assert_eq!(decision.credentials, ["other"]);
    assert_eq!(decision.observed, ["try b"]);
    assert!(decision.recorded() && decision.requirements.is_empty(), "nobody is asked");
}

#[test]
fn it_takes_no_key_from_what_an_allow_rule_lets_through() {
    let decision =
        ask("POST", "https://a.example/refunds").form("amount=100").decide(&policy(RULES));
    assert_eq!((decision.then, decision.rule.as_str()), (Then::Observe, "would ask about refunds"));
    assert_eq!(decision.credentials, ["key"]);
    assert_eq!(decision.credential_rules["key"], ["read and write"]);
}

#[test]
fn what_could_be_its_request_is_recorded_and_opened_by_others_only() {
    let rules = policy(RULES);
    let doubtful = ask("POST", "https://a.example/refunds").form("amount=1e3").decide(&rules);
    assert_eq!((doubtful.then, doubtful.rule.as_str()), (Then::Allow, "read and write"));
    assert_eq!(doubtful.observed, ["would ask about refunds"]);
    assert!(doubtful.uninspectable);
    let doubtful = ask("GET", "https://b.example/X").decide(&rules);
    assert_eq!(
        (doubtful.then, doubtful.observed.as_slice()),
        (Then::Unnamed, &["try b".to_owned()][..])
    );
    let other = ask("POST", "https://a.example/refunds").form("amount=99").decide(&rules);
    assert_eq!((other.then, other.recorded()), (Then::Allow, false));
}

#[test]
fn what_is_stricter_decides_and_the_record_names_both() {
    let rules = policy(RULES);
    let asked = ask("DELETE", "https://a.example/payouts/1").decide(&rules);
    assert_eq!((asked.then, asked.rule.as_str()), (Then::Approve, "ask about payouts"));
    assert_eq!(asked.observed, ["watch everything that deletes"]);
    let denied = ask("DELETE", "https://a.example/admin/1").decide(&rules);
    assert_eq!((denied.then, denied.rule.as_str()), (Then::Deny, "no admin"));
    assert_eq!(denied.observed, ["watch everything that deletes"]);
}

#[test]
fn what_may_be_observed_is_not_streamed() {
    let rules = policy(RULES);
    assert_eq!(ask("DELETE", "https://a.example/x").needs(&rules), Need::Body);
    assert_eq!(ask("POST", "https://a.example/refunds").needs(&rules), Need::Body);
    assert_eq!(ask("POST", "https://a.example/Refunds").needs(&rules), Need::Body, "it may be");
    assert_eq!(ask("POST", "https://a.example/x").needs(&rules), Need::Nothing);
    assert_eq!(ask("GET", "https://b.example/X").needs(&rules), Need::Refuse);
}

#[test]
fn a_key_that_is_only_observed_is_not_lent() {
    let rules = policy(RULES);
    assert!(!rules.lends("bot", "other") && !rules.credential_use("other").allow);
    assert!(rules.credentials().contains("other"));
}

#[test]
fn it_asks_nobody_yet_so_nobody_need_be_there() {
    assert_eq!(policy(RULES).approvers().into_iter().collect::<Vec<_>>(), ["*"]);
}
