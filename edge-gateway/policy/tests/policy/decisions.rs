//! What rules say together.

use std::time::Duration;

use countersign_policy::{Match, Need, Panel, Policy, Proof, Requirement, Strength, Then, Use};

use crate::support::{ask, policy};

const RULES: &str = r#"
[[rule]]
name = "read GitHub"
agents = ["*"]
host = "api.github.com"
methods = ["GET", "HEAD"]
then = "allow"
credential = "github"

[[rule]]
name = "delete a repository"
host = "api.github.com"
methods = ["DELETE"]
path = "/repos/{owner}/{repo}"
then = "approve"
credential = "github-admin"
approvers = ["platform"]
quorum = 1
expires = "15m"
hold = "50s"

[[rule]]
name = "security looks at deletions"
host = "*.github.com"
methods = ["DELETE"]
then = "approve"
credential = "github-admin"
approvers = ["security", "alice"]
quorum = 2
expires = "5m"
hold = "20s"
reason = "deletions are final"

[[rule]]
name = "large refunds"
host = "api.stripe.com"
methods = ["POST"]
path = "/v1/refunds"
when = "body.form.amount >= 10000"
then = "approve"
credential = "stripe"
approvers = ["finance"]
quorum = 2

[[rule]]
name = "small refunds"
host = "api.stripe.com"
methods = ["POST"]
path = "/v1/refunds"
when = "body.form.amount < 10000"
then = "allow"
credential = "stripe"

[[rule]]
name = "ops"
agents = ["ops-bot"]
host = "ops.example.com"
path = "/files/{rest...}"
then = "allow"
"#;

#[test]
fn what_no_rule_names_is_unnamed() {
    let rules = policy(RULES);
    let decision = ask("GET", "https://other.example.com/").decide(&rules);
    assert_eq!((decision.then, decision.rule.as_str()), (Then::Unnamed, ""));
    assert!(decision.credentials.is_empty() && decision.requirements.is_empty());
    assert_eq!(ask("POST", "https://api.github.com/user").then(&rules), Then::Unnamed);
    assert_eq!(ask("GET", "https://api.github.com/user").then(&Policy::empty()), Then::Unnamed);
    assert_eq!(ask("GET", "https://api.github.com/user").needs(&Policy::empty()), Need::Refuse);
}

#[test]
fn an_allow_rule_passes_with_its_credential() {
    let decision = ask("GET", "https://api.github.com/user").decide(&policy(RULES));
    assert_eq!((decision.then, decision.rule.as_str()), (Then::Allow, "read GitHub"));
    assert_eq!(decision.credentials, ["github"]);
    assert!(decision.requirements.is_empty() && !decision.uninspectable);
}

#[test]
fn every_approve_rule_that_matches_has_to_be_met() {
    let decision = ask("DELETE", "https://api.github.com/repos/acme/x").decide(&policy(RULES));
    assert_eq!((decision.then, decision.rule.as_str()), (Then::Approve, "delete a repository"));
    assert_eq!(decision.credentials, ["github-admin"]);
    let requirement = |rule: &str, approvers: &[&str], quorum| Requirement {
        rule: rule.to_owned(),
        panels: vec![Panel { of: approvers.iter().map(|&name| name.to_owned()).collect(), quorum }],
        strength: Strength::L1,
        proof: Proof::None,
        owner_may_approve: false,
        escalations: Vec::new(),
        break_glass: Vec::new(),
        critical: false,
        whole_card: false,
    };
    assert_eq!(
        decision.requirements,
        [
            requirement("delete a repository", &["platform"], 1),
            requirement("security looks at deletions", &["security", "alice"], 2)
        ]
    );
    assert_eq!(decision.expires, Duration::from_secs(300), "the shortest");
    assert_eq!(decision.hold, Duration::from_secs(20), "the shortest");
    assert_eq!(decision.credential_rules["github-admin"].len(), 2);
}

#[test]
fn a_rule_without_approvers_asks_whoever_may_approve() {
    let rules = policy("[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"approve\"");
    let decision = ask("GET", "https://a.example/").decide(&rules);
    assert_eq!(decision.requirements[0].panels, [Panel { of: vec!["*".to_owned()], quorum: 1 }]);
    assert_eq!(
        (decision.expires, decision.hold),
        (Duration::from_secs(900), Duration::from_secs(50))
    );
}

#[test]
fn deny_wins_over_approve_and_gives_its_reason() {
    let rules = policy(&format!(
        "{RULES}\n[[rule]]\nname = \"never\"\nhost = \"api.github.com\"\nmethods = [\"DELETE\"]\nthen = \"deny\"\nreason = \"not by agents\"\n"
    ));
    let decision = ask("DELETE", "https://api.github.com/repos/acme/x").decide(&rules);
    assert_eq!((decision.then, decision.rule.as_str()), (Then::Deny, "never"));
    assert_eq!(decision.reason.as_deref(), Some("not by agents"));
    assert!(decision.credentials.is_empty() && decision.requirements.is_empty());
}

#[test]
fn the_body_decides_where_a_rule_looks_at_it() {
    let rules = policy(RULES);
    let refund = ask("POST", "https://api.stripe.com/v1/refunds");
    assert_eq!(refund.clone().form("amount=10000").then(&rules), Then::Approve);
    assert_eq!(refund.clone().form("amount=9999").then(&rules), Then::Allow);
    assert_eq!(refund.clone().form("amount=9999&amount=10000").then(&rules), Then::Approve, "b_8");
    assert_eq!(refund.clone().json(r#"{"amount":1}"#).then(&rules), Then::Approve, "b_11");
    assert_eq!(refund.clone().form("").streamed().then(&rules), Then::Approve);
    assert_eq!(refund.form("").needs(&rules), Need::Body);
}

#[test]
fn needs_says_what_can_be_streamed() {
    let rules = policy(RULES);
    assert_eq!(ask("GET", "https://api.github.com/user").needs(&rules), Need::Nothing);
    assert_eq!(ask("DELETE", "https://api.github.com/repos/a/b").needs(&rules), Need::Body);
    assert_eq!(ask("POST", "https://api.github.com/repos/a/b").needs(&rules), Need::Refuse);
    assert_eq!(ask("GET", "https://nowhere.example/").needs(&rules), Need::Refuse);
    // Handed out one request at a time: it is also used where people decide.
    let shared = policy(
        "[[rule]]\nname = \"a\"\nhost = \"a.example\"\nmethods = [\"GET\"]\nthen = \"allow\"\ncredential = \"k\"\n[[rule]]\nname = \"b\"\nhost = \"a.example\"\nmethods = [\"PUT\"]\nthen = \"approve\"\ncredential = \"k\"\n",
    );
    assert_eq!(ask("GET", "https://a.example/").needs(&shared), Need::Body);
}

#[test]
fn t3_class_how_credentials_are_used_is_known() {
    let rules = policy(RULES);
    assert_eq!(
        rules.credential_use("github"),
        Use { allow: true, approve: false, accept_edge_enforced: false }
    );
    assert_eq!(
        rules.credential_use("github-admin"),
        Use { allow: false, approve: true, accept_edge_enforced: false }
    );
    assert_eq!(
        rules.credential_use("stripe"),
        Use { allow: true, approve: true, accept_edge_enforced: false }
    );
    assert_eq!(rules.credential_use("nothing"), Use::default());
    let accepted = |both: &str| {
        let text = format!(
            "[[rule]]\nname = \"a\"\nhost = \"a.example\"\nthen = \"allow\"\ncredential = \"k\"\n[[rule]]\nname = \"b\"\nhost = \"a.example\"\nthen = \"approve\"\ncredential = \"k\"\naccept_edge_enforced = true\n[[rule]]\nname = \"c\"\nhost = \"b.example\"\nthen = \"approve\"\ncredential = \"k\"\n{both}"
        );
        policy(&text).credential_use("k").accept_edge_enforced
    };
    assert!(accepted("accept_edge_enforced = true"));
    assert!(!accepted(""), "one rule does not accept it for another");
    assert_eq!(
        rules.credentials().into_iter().collect::<Vec<_>>(),
        ["github", "github-admin", "stripe"]
    );
    assert_eq!(
        rules.approvers().into_iter().collect::<Vec<_>>(),
        ["alice", "finance", "platform", "security"]
    );
}

#[test]
fn agents_and_the_rest_of_a_path() {
    let rules = policy(RULES);
    let get = |path: &str, agent: &str| {
        ask("GET", &format!("https://ops.example.com{path}")).agent(agent).then(&rules)
    };
    assert_eq!(get("/files/a", "ops-bot"), Then::Allow);
    assert_eq!(get("/files/a/b/c", "ops-bot"), Then::Allow);
    assert_eq!(get("/files/", "ops-bot"), Then::Allow);
    assert_eq!(get("/files", "ops-bot"), Then::Unnamed);
    assert_eq!(get("/other/a", "ops-bot"), Then::Unnamed);
    assert_eq!(get("/files/a", "ops-bot2"), Then::Unnamed);
    assert_eq!(get("/files/a", "*"), Then::Unnamed);
}

#[test]
fn a_hole_in_the_path_is_a_segment_or_part_of_one() {
    let rules = policy(
        "[[rule]]\nname = \"a\"\nhost = \"api.telegram.org\"\npath = \"/bot{key}/sendMessage\"\nthen = \"approve\"\n[[rule]]\nname = \"b\"\nhost = \"hooks.example.com\"\npath = \"/services/{token}\"\nthen = \"allow\"\n",
    );
    assert_eq!(
        ask("POST", "https://api.telegram.org/bot{key}/sendMessage").then(&rules),
        Then::Approve
    );
    assert_eq!(
        ask("POST", "https://api.telegram.org/bot123/sendMessage").then(&rules),
        Then::Unnamed
    );
    assert_eq!(ask("POST", "https://hooks.example.com/services/{key}").then(&rules), Then::Allow);
}

#[test]
fn explanations_name_every_rule_and_why() {
    let rules = policy(RULES);
    let request = ask("POST", "https://api.stripe.com/v1/refunds").form("amount=1&amount=2");
    let explanation = rules.explain(&request.subject());
    assert_eq!(explanation.decision, request.decide(&rules));
    let names: Vec<_> =
        explanation.rules.iter().map(|rule| (rule.rule.as_str(), rule.matched)).collect();
    assert_eq!(
        names,
        [("large refunds", Match::Undecidable), ("small refunds", Match::Undecidable)]
    );
    assert!(explanation.rules[0].why.contains("more than once"), "{}", explanation.rules[0].why);
    assert!(explanation.rules[0].line > 1);

    let request = ask("GET", "https://api.github.com/user");
    let explanation = rules.explain(&request.subject());
    assert_eq!(explanation.rules[0].matched, Match::Yes);
    let missed: Vec<_> =
        explanation.missed.iter().map(|rule| (rule.rule.as_str(), rule.why.as_str())).collect();
    assert_eq!(
        missed,
        [
            ("delete a repository", "its `methods` is about other requests"),
            ("security looks at deletions", "its `methods` is about other requests")
        ]
    );
}

#[test]
fn a_request_is_parked_only_where_every_rule_that_asks_says_so() {
    let rule = |name: &str, park: &str| {
        format!("[[rule]]\nname = \"{name}\"\nhost = \"a.test\"\nthen = \"approve\"\n{park}\n")
    };
    for (first, second, parks) in [
        ("park = true", "park = true", true),
        ("park = true", "", false),
        ("", "park = true", false),
        ("park = true", "park = false", false),
        ("", "", false),
    ] {
        let both = policy(&[rule("one", first), rule("two", second)].concat());
        assert_eq!(ask("POST", "https://a.test/").decide(&both).park, parks, "{first}/{second}");
    }
    // Of no use to a rule that is not the strictest.
    let deny = "[[rule]]\nname = \"no\"\nhost = \"a.test\"\nthen = \"deny\"\n";
    let both = policy(&[rule("one", "park = true"), deny.to_owned()].concat());
    assert!(!ask("POST", "https://a.test/").decide(&both).park);
}
