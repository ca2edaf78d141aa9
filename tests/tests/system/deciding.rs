//! Who may decide, how, and how often they are asked: over the wire, with the CLI that people have.

use std::process::Output;

use countersign_tests::world::Setup;
use countersign_tests::{Agent, Answer, Credential, Origin, REAL_KEY, Waiting, World, eventually};
use http::Method;
use serde_json::Value;

use super::HOST;

const POLICY: &str = r#"
version = 1

[[rule]]
name = "one"
host = "api.example.test"
methods = ["DELETE"]
path = "/one/{id}"
then = "approve"
credential = "example"
approvers = ["ops"]

[[rule]]
name = "two"
host = "api.example.test"
path = "/two/{id}"
then = "approve"
credential = "example"
panels = [{ of = ["security"], quorum = 1 }, { of = ["finance"], quorum = 1 }]

[[rule]]
name = "strong"
host = "api.example.test"
path = "/strong/{id}"
then = "approve"
credential = "example"
approvers = ["ops"]
strength = "L3"

[[rule]]
name = "short"
host = "api.example.test"
path = "/short/{id}"
then = "approve"
credential = "example"
approvers = ["ops"]
expires = "1s"

[[rule]]
name = "glass"
host = "api.example.test"
path = "/glass/{id}"
then = "approve"
credential = "example"
approvers = ["ops"]
quorum = 2
break_glass = ["lead"]

[[rule]]
name = "critical"
host = "api.example.test"
path = "/critical/{id}"
then = "approve"
credential = "example"
approvers = ["ops"]
critical = true

[[rule]]
name = "late"
host = "api.example.test"
path = "/late/{id}"
then = "approve"
credential = "example"
approvers = ["ops"]
escalate = [{ after = "3s", to = ["lead"] }]

[[rule]]
name = "charge"
host = "api.example.test"
methods = ["POST"]
path = "/charges/{id}"
then = "approve"
credential = "example"
approvers = ["ops"]
cool_down = "10m"

[[rule]]
name = "watched"
host = "api.example.test"
methods = ["PUT"]
path = "/watched/{id}"
then = "observe"
credential = "example"
approvers = ["ops"]
"#;

/// A site, an agent that the principal `owner` answers for, and people: ana and bo of ops, sue of security and
/// finance, fin of finance, lead.
pub(super) struct Team {
    origin: Origin,
    pub(super) world: World,
    pub(super) agent: Agent,
    credential: Credential,
    tokens: Vec<(&'static str, String)>,
}

impl Team {
    pub(super) fn start() -> Self {
        Self::with("", &[])
    }

    /// With more rules, in an environment that says more.
    pub(super) fn with(rules: &str, environment: &[(&str, String)]) -> Self {
        let origin = Origin::start(&[HOST], REAL_KEY);
        let environment = environment.iter().map(|(name, it)| ((*name).to_owned(), it.clone()));
        let world = World::with(Setup {
            policy: format!("{POLICY}{rules}"),
            connect_to: vec![format!("{HOST}:443:127.0.0.1:{}", origin.address().port())],
            upstream_ca: vec![origin.ca_pem().to_owned()],
            environment: environment.collect(),
            ..Setup::default()
        });
        let mut tokens = Vec::new();
        for (name, groups) in [
            ("ana", &["ops"][..]),
            ("bo", &["ops"]),
            ("sue", &["security", "finance"]),
            ("fin", &["finance"]),
            ("lead", &[]),
            ("owner", &["ops"]),
        ] {
            let mut arguments = vec!["approver", "add", name];
            groups.iter().for_each(|group| arguments.extend(["--group", group]));
            let added = world.json(&arguments);
            tokens.push((name, added["token"].as_str().unwrap().to_owned()));
        }
        let agent = world.agent("robot");
        world.ok(&["agent", "owner", "robot", "owner"]);
        let credential =
            world.credential("example", REAL_KEY, &["--host", HOST, "--slot", "header"]);
        Self { origin, world, agent, credential, tokens }
    }

    fn arguments<'a>(&'a self, method: &'a str, url: &'a str, bearer: &'a str) -> [&'a str; 7] {
        ["-X", method, "-H", bearer, "-H", "countersign-approval-wait: 30", url]
    }

    /// Sends a request and leaves it held.
    pub(super) fn hold(&self, method: &str, path: &str) -> (Waiting, String) {
        let (url, bearer) = (format!("https://{HOST}{path}"), self.bearer());
        let waiting = self.world.fetch_later(&self.agent, &self.arguments(method, &url, &bearer));
        let id = eventually("that it is held", || {
            let held = self.world.json(&["approval", "list"]);
            let found = held.as_array()?.iter().find(|a| a["path"] == path)?.clone();
            found["id"].as_str().map(str::to_owned)
        });
        (waiting, id)
    }

    fn send(&self, method: &str, path: &str) -> Answer {
        let (url, bearer) = (format!("https://{HOST}{path}"), self.bearer());
        self.world.fetch(&self.agent, &self.arguments(method, &url, &bearer))
    }

    /// A request whose client has gone; the approval stays.
    fn send_and_leave(&self, method: &str, path: &str) -> String {
        let (url, bearer) = (format!("https://{HOST}{path}"), self.bearer());
        let wait = "countersign-approval-wait: 1";
        let arguments = ["-X", method, "-H", &bearer, "-H", wait, &url];
        let answer = self.world.fetch(&self.agent, &arguments);
        assert_eq!((answer.status, answer.code().as_str()), (503, "approval_pending"));
        answer.header("countersign-approval-id").unwrap().to_owned()
    }

    /// The same, with a body.
    pub(super) fn post_and_leave(&self, path: &str, content_type: &str, body: &str) -> String {
        std::fs::write(self.world.dir().join("body"), body).unwrap();
        let file = format!("@{}", self.world.dir().join("body").display());
        let (url, bearer) = (format!("https://{HOST}{path}"), self.bearer());
        let content_type = format!("content-type: {content_type}");
        let wait = "countersign-approval-wait: 1";
        let (post, data) = (["-X", "POST", "-H", &bearer], ["--data-binary", &file, &url]);
        let arguments = [&post[..], &["-H", wait, "-H", &content_type], &data].concat();
        let answer = self.world.fetch(&self.agent, &arguments);
        assert_eq!((answer.status, answer.code().as_str()), (503, "approval_pending"));
        answer.header("countersign-approval-id").unwrap().to_owned()
    }

    pub(super) fn bearer(&self) -> String {
        format!("authorization: Bearer {}", self.credential.fake_key)
    }

    fn by(&self, who: &str, arguments: &[&str]) -> Output {
        let token = &self.tokens.iter().find(|(name, _)| *name == who).expect("is one of them").1;
        self.world.cli_as(token, arguments).output().unwrap()
    }

    /// It is done, and this is what is said.
    pub(super) fn does(&self, who: &str, arguments: &[&str]) -> String {
        let output = self.by(who, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{who} {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// It is refused, and this is why.
    fn may_not(&self, who: &str, arguments: &[&str]) -> String {
        let output = self.by(who, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{who} {arguments:?}: {said}");
        said
    }

    pub(super) fn state(&self, id: &str) -> String {
        self.shown(id)["state"].as_str().unwrap().to_owned()
    }

    pub(super) fn shown(&self, id: &str) -> Value {
        self.world.json(&["approval", "show", id])
    }

    /// How many requests have arrived at the site.
    pub(super) fn requests(&self) -> usize {
        self.origin.seen().len()
    }

    /// Actions on the record.
    pub(super) fn actions(&self) -> Vec<String> {
        let records = self.world.json(&["audit", "list"]);
        let records = records.as_array().unwrap().iter();
        records.map(|record| record["action"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_stranger_who_is_no_approver_of_the_rule_changes_nothing_and_is_on_record() {
    let team = Team::start();
    let (mut waiting, id) = team.hold("DELETE", "/one/1");
    for who in ["sue", "fin", "lead"] {
        let said = team.may_not(who, &["approval", "approve", &id]);
        assert!(said.contains(&format!("no rule of this approval names {who}")), "{said}");
        team.may_not(who, &["approval", "deny", &id]);
    }
    let nobody = team.world.cli_as("cs_apr_guessed", &["approval", "approve", &id]);
    assert_eq!({ nobody }.output().unwrap().status.code(), Some(1));
    assert_eq!(team.state(&id), "pending");
    assert!(waiting.is_waiting());
    assert!(team.origin.seen().is_empty());
    assert_eq!(team.actions().iter().filter(|action| *action == "vote.refused").count(), 6);
    team.does("ana", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
    assert_eq!(team.origin.count(&Method::DELETE), 1);
}

#[test]
fn a_11_the_owner_of_the_agent_does_not_approve_its_requests() {
    let team = Team::start();
    let (waiting, id) = team.hold("DELETE", "/one/1");
    let said = team.may_not("owner", &["approval", "approve", &id]);
    assert!(said.contains("owns the agent that asks"), "{said}");
    assert_eq!(team.state(&id), "pending");
    team.does("bo", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn a_strength_a_session_is_not_enough_where_the_rule_asks_for_a_passkey() {
    let team = Team::start();
    let (mut waiting, id) = team.hold("DELETE", "/strong/1");
    let said = team.may_not("ana", &["approval", "approve", &id]);
    assert!(said.contains("asks for strength L3"), "{said}");
    assert_eq!(team.state(&id), "pending");
    assert!(waiting.is_waiting());
    let shown = team.does("ana", &["approval", "show", &id]);
    assert!(shown.contains("A yes counts from strength L3 on."), "{shown}");
    team.does("ana", &["approval", "deny", &id, "--reason", "no passkeys yet"]);
    let answer = waiting.answer();
    assert_eq!((answer.status, answer.code().as_str()), (403, "approval_denied"));
    assert!(team.origin.seen().is_empty());
}

#[test]
fn two_panels_take_two_people_whatever_groups_they_are_in() {
    let team = Team::start();
    let (mut waiting, id) = team.hold("DELETE", "/two/1");
    let said = team.does("sue", &["approval", "approve", &id]);
    assert!(said.contains("others have to agree"), "{said}");
    assert_eq!(team.state(&id), "pending");
    assert!(waiting.is_waiting());
    assert!(team.origin.seen().is_empty());
    team.does("fin", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
    let votes = team.shown(&id)["votes"].as_array().unwrap().len();
    assert_eq!(votes, 2);
}

#[test]
fn a_3_a_yes_after_the_expiry_comes_too_late() {
    let team = Team::start();
    let (waiting, id) = team.hold("DELETE", "/short/1");
    let answer = waiting.answer();
    assert_eq!((answer.status, answer.code().as_str()), (403, "approval_expired"), "{answer:?}");
    let said = team.may_not("ana", &["approval", "approve", &id]);
    assert!(said.contains("too late"), "{said}");
    assert_eq!(team.state(&id), "expired");
    assert!(team.origin.seen().is_empty());
}

#[test]
fn a_9_a_yes_and_a_no_at_once_come_to_one_outcome_everywhere() {
    let team = Team::start();
    for n in 0..6 {
        let path = format!("/one/{n}");
        let (waiting, id) = team.hold("DELETE", &path);
        let (yes, no) = std::thread::scope(|scope| {
            let yes = scope.spawn(|| team.by("ana", &["approval", "approve", &id]));
            let no = scope.spawn(|| team.by("bo", &["approval", "deny", &id]));
            (yes.join().unwrap(), no.join().unwrap())
        });
        let answer = waiting.answer();
        let arrived = team.origin.seen().iter().filter(|seen| seen.target == path).count();
        let state = eventually("its end", || {
            Some(team.state(&id)).filter(|s| s == "denied" || s == "completed")
        });
        match state.as_str() {
            "denied" => {
                assert!(no.status.success(), "{no:?}");
                assert_eq!((answer.code().as_str(), arrived), ("approval_denied", 0));
            }
            _ => {
                assert!(yes.status.success() && !no.status.success(), "{yes:?} {no:?}");
                assert_eq!((answer.status, arrived), (200, 1));
            }
        }
    }
}

#[test]
fn a_12_whoever_is_removed_or_leaves_the_group_before_the_claim_has_not_approved() {
    let team = Team::start();
    let gone = team.send_and_leave("DELETE", "/one/1");
    team.does("ana", &["approval", "approve", &gone]);
    assert_eq!(team.state(&gone), "approved");
    team.world.ok(&["approver", "groups", "ana", "elsewhere"]);
    assert_eq!(team.state(&gone), "pending");
    team.does("bo", &["approval", "approve", &gone]);
    assert_eq!(team.state(&gone), "approved");
    team.world.ok(&["approver", "remove", "bo"]);
    // The owner is of ops too, and does not count: nobody is left.
    assert_eq!(team.state(&gone), "denied");
    let answer = team.send("DELETE", "/one/1");
    assert_eq!(answer.code(), "approval_denied", "{answer:?}");
    assert!(answer.body.contains("nobody can approve"), "{answer:?}");
    assert!(team.origin.seen().is_empty());
}

#[test]
fn a_16_a_grant_lets_so_many_through_and_ends_when_it_is_revoked() {
    let team = Team::start();
    let (waiting, id) = team.hold("POST", "/charges/1");
    let grant = ["grant", "create", &id, "--path", "/charges/{id}", "--uses", "2", "--for", "1h"];
    let refused = team.may_not("sue", &grant);
    assert!(refused.contains("nothing was granted"), "{refused}");
    let granted = team.does("ana", &[&grant[..], &["-o", "json"]].concat());
    let granted: Value = serde_json::from_str(&granted).unwrap();
    let grant_id = granted["grant"].as_str().unwrap();
    assert_eq!(waiting.answer().status, 200, "the request that it was asked beside");
    assert_eq!(team.send("POST", "/charges/2").status, 200);
    let listed = team.world.json(&["grant", "list"]);
    assert_eq!((&listed[0]["uses"], &listed[0]["usable"]), (&2.into(), &false.into()), "{listed}");
    assert_eq!(listed[0]["given_by"], serde_json::json!(["ana"]));
    // A third one, and another path, ask people.
    let third = team.send_and_leave("POST", "/charges/3");
    assert_eq!(team.state(&third), "pending");
    assert_eq!(team.origin.count(&Method::POST), 2);
    // Another grant, and it is revoked before it is used.
    let again =
        ["grant", "create", &third, "--path", "/charges/{id}", "--uses", "9", "--for", "1h"];
    let second: Value =
        serde_json::from_str(&team.does("bo", &[&again[..], &["-o", "json"]].concat())).unwrap();
    assert_eq!(team.state(&third), "approved");
    team.does("ana", &["grant", "revoke", second["grant"].as_str().unwrap()]);
    assert_eq!(team.state(&third), "pending");
    let fourth = team.send_and_leave("POST", "/charges/4");
    assert_eq!(team.state(&fourth), "pending");
    assert_eq!(team.origin.count(&Method::POST), 2);
    assert_ne!(grant_id, second["grant"]);
}

#[test]
fn a_16_no_grant_and_no_broken_glass_stand_in_for_people_where_the_rule_is_critical() {
    let team = Team::start();
    let (waiting, id) = team.hold("DELETE", "/critical/1");
    let grant = ["grant", "create", &id, "--uses", "5", "--for", "1h"];
    let said = team.may_not("ana", &grant);
    assert!(said.contains("critical"), "{said}");
    let glass = ["approval", "approve", &id, "--break-glass", "--reason", "it burns"];
    let said = team.may_not("ana", &glass);
    assert!(said.contains("does not let ana break the glass"), "{said}");
    assert_eq!(team.state(&id), "pending");
    team.does("ana", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn broken_glass_is_alone_with_a_reason_and_for_everyone_to_see() {
    let team = Team::start();
    let (waiting, id) = team.hold("DELETE", "/glass/1");
    let without = team.by("lead", &["approval", "approve", &id, "--break-glass"]);
    assert_eq!(without.status.code(), Some(2), "a reason is asked for");
    team.may_not("lead", &["approval", "approve", &id]);
    team.may_not("ana", &["approval", "approve", &id, "--break-glass", "--reason", "me"]);
    team.does("lead", &["approval", "approve", &id, "--break-glass", "--reason", "it burns"]);
    assert_eq!(waiting.answer().status, 200);
    let shown = team.does("bo", &["approval", "show", &id]);
    assert!(shown.contains("THE GLASS WAS BROKEN by lead: it burns"), "{shown}");
    assert!(team.actions().contains(&"approval.break_glass".to_owned()));
}

#[test]
fn escalation_lets_others_decide_when_nobody_has() {
    let team = Team::start();
    let (waiting, id) = team.hold("DELETE", "/late/1");
    let early = team.may_not("lead", &["approval", "approve", &id]);
    assert!(early.contains("only when nobody else has decided for 3 seconds"), "{early}");
    eventually("that others are let in", || {
        team.actions().contains(&"approval.escalate".to_owned()).then_some(())
    });
    team.does("lead", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn a_stand_in_decides_while_somebody_is_away_and_no_longer() {
    let team = Team::start();
    team.does("ana", &["approver", "away", "--for", "7d", "--stand-in", "lead"]);
    let (waiting, id) = team.hold("DELETE", "/one/1");
    team.does("lead", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
    team.does("ana", &["approver", "back"]);
    let (waiting, id) = team.hold("DELETE", "/one/2");
    team.may_not("lead", &["approval", "approve", &id]);
    team.does("ana", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
    // Nobody lends what is another's.
    team.may_not("bo", &["approver", "away", "ana", "--for", "7d", "--stand-in", "lead"]);
}

#[test]
fn a_17_a_hundred_similar_requests_are_one_card_and_a_denial_is_not_asked_again() {
    let team = Team::start();
    let first = team.send_and_leave("POST", "/charges/0");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = |n: usize| {
            let (url, bearer) = (format!("https://{HOST}/charges/{n}"), team.bearer());
            let wait = "countersign-approval-wait: 1";
            let arguments = ["-X", "POST", "-H", &bearer, "-H", wait, &url];
            team.world.fetch(&team.agent, &arguments).code()
        };
        let asking: Vec<_> = (1..=100).map(|n| scope.spawn(move || ask(n))).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let of = |code: &str| answers.iter().filter(|answer| *answer == code).count();
    assert_eq!(of("approval_pending"), 63, "{answers:?}");
    assert_eq!(of("too_many_pending"), 37, "{answers:?}");
    let shown = team.does("ana", &["approval", "show", &first]);
    assert!(shown.contains("63 similar requests of this agent wait beside it."), "{shown}");
    // Each is bound to its own bytes: the first one's yes is no other one's.
    team.does("ana", &["approval", "deny", &first, "--reason", "stop"]);
    for _ in 0..5 {
        let again = team.send("POST", "/charges/0");
        assert_eq!(again.code(), "approval_denied");
        assert!(again.body.contains("stop"), "{again:?}");
    }
    let shown = team.does("ana", &["approval", "show", &first]);
    assert!(shown.contains("The agent has asked for the same 5 times since."), "{shown}");
    assert!(team.origin.seen().is_empty());
}

#[test]
fn a_19_the_same_word_twice_is_said_once_and_answered_with_what_is() {
    let team = Team::start();
    let (waiting, id) = team.hold("DELETE", "/two/1");
    team.does("sue", &["approval", "approve", &id]);
    let again = team.does("sue", &["approval", "approve", &id]);
    assert!(again.contains("others have to agree"), "{again}");
    assert_eq!(team.shown(&id)["votes"].as_array().unwrap().len(), 1);
    team.does("fin", &["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
    let after = team.does("fin", &["approval", "approve", &id]);
    assert!(after.contains("Approved"), "{after}");
    assert_eq!(team.origin.count(&Method::DELETE), 1);
    let votes = team.actions().iter().filter(|action| *action == "approval.vote").count();
    assert_eq!(votes, 2);
}

#[test]
fn c_two_person_one_of_two_administrators_widens_nothing_alone() {
    let team = Team::start();
    let added = team.world.json(&["approver", "add", "eve", "--role", "admin"]);
    let eve = added["token"].as_str().unwrap().to_owned();
    let wider = POLICY.replace("quorum = 2\nbreak_glass", "quorum = 1\nbreak_glass");
    std::fs::write(team.world.dir().join("wider.toml"), &wider).unwrap();
    let set = team.world.json(&["policy", "set", "wider.toml"]);
    let change = set["change"].as_u64().unwrap().to_string();
    assert_eq!(team.world.json(&["policy", "show"])["version"], 1, "nothing changed");
    let puppet = team.world.json(&["approver", "add", "puppet", "--group", "ops"]);
    let token = puppet["token"].as_str().unwrap();
    let opens = team.world.cli_as(token, &["approval", "list"]).output().unwrap();
    assert_eq!(opens.status.code(), Some(1), "its token opens nothing");
    let rotated = team.world.json(&["approver", "rotate", "ana"]);
    assert!(rotated["change"].is_u64(), "{rotated}");
    team.does("ana", &["approval", "list"]);
    for own in [&change, &puppet["change"].to_string()] {
        let alone = team.world.cli(&["change", "confirm", own]).output().unwrap();
        assert_eq!(alone.status.code(), Some(1));
        let said = String::from_utf8_lossy(&alone.stderr).into_owned();
        assert!(said.contains("another administrator"), "{said}");
    }
    let by_eve = |arguments: &[&str]| team.world.cli_as(&eve, arguments).output().unwrap();
    let text = by_eve(&["change", "policy", &change]).stdout;
    assert!(String::from_utf8(text).unwrap().contains("break_glass"), "she sees what it is");
    assert!(by_eve(&["change", "confirm", &change]).status.success());
    assert_eq!(team.world.json(&["policy", "show"])["version"], 2);
    let left = team.world.json(&["change", "list"]);
    assert_eq!(left.as_array().unwrap().len(), 2, "{left}");
    // What lets less through is nobody's to hold up.
    let narrower = wider.replace("\ncritical = true", "\nquorum = 2\ncritical = true");
    assert_ne!(narrower, wider);
    std::fs::write(team.world.dir().join("narrower.toml"), narrower).unwrap();
    let set = team.world.json(&["policy", "set", "narrower.toml"]);
    assert_eq!((&set["version"], &set["change"]), (&3.into(), &Value::Null), "{set}");
}

#[test]
fn an_observed_request_passes_and_is_on_record() {
    let team = Team::start();
    assert_eq!(team.send("PUT", "/watched/1").status, 200);
    assert_eq!(team.origin.count(&Method::PUT), 1);
    assert!(team.world.approvals().is_empty(), "nobody was asked");
    let records = team.world.json(&["audit", "list"]);
    let opened = records.as_array().unwrap().iter().find(|r| r["action"] == "request.open");
    let opened = opened.expect("it is on record");
    assert!(opened.to_string().contains("watched"), "{opened}");
}
