//! What policy authors work with: comparing, replaying, reviewing, and the policies to begin with.

use std::path::PathBuf;

use countersign_proto::v1;
use prost_types::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::control_plane::ControlPlane;
use super::run::Place;

const OLD: &str = r#"version = 1

[[rule]]
name = "read"
host = "a.example"
methods = ["GET"]
then = "allow"

[[rule]]
name = "write"
host = "a.example"
methods = ["POST"]
path = "/things/{id}"
then = "approve"
quorum = 2
"#;

fn in_force(text: &str) -> v1::GetPolicyResponse {
    v1::GetPolicyResponse { version: 7, text: text.into(), sha256: "00".into() }
}

/// One that people approved.
fn approved(path: &str, body: &str, whole: bool) -> v1::Approval {
    let at = |seconds: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seconds = i64::try_from(now.as_secs()).unwrap() - 100 + seconds;
        Some(Timestamp { seconds, nanos: 0 })
    };
    let digest = Sha256::digest(if whole { body } else { "something else" });
    v1::Approval {
        state: v1::ApprovalState::Completed.into(),
        agent: "robot".into(),
        method: "POST".into(),
        scheme: "https".into(),
        host: "a.example".into(),
        port: 443,
        path: path.into(),
        rule: "write".into(),
        headers: vec![v1::Header { name: "content-type".into(), value: "application/json".into() }],
        body_preview: body.to_owned().into(),
        body_bytes: body.len() as u64,
        body_sha256: hex::encode(digest),
        created_at: at(0),
        votes: vec![v1::Vote {
            approver: "ana".into(),
            decision: v1::VoteDecision::Approve.into(),
            at: at(30),
            ..v1::Vote::default()
        }],
        ..v1::Approval::default()
    }
}

fn listed(approvals: &[v1::Approval]) -> v1::ListApprovalsResponse {
    v1::ListApprovalsResponse { approvals: approvals.to_vec(), next_page_token: String::new() }
}

#[test]
fn every_policy_to_begin_with_holds_and_has_nothing_to_be_warned_about() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/policies");
    let files = |directory: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.is_file()).collect();
        files.sort();
        files
    };
    let (examples, services) = (files(directory), files(&format!("{directory}/services")));
    assert_eq!((examples.len(), services.len()), (12, 16));
    let files = examples.into_iter().chain(services);
    let place = Place::empty();
    for file in files {
        let tested = place.run(&["policy", "test", file.to_str().unwrap(), "-o", "json"]).json();
        assert_eq!(tested["ok"], true, "{}: {tested:#}", file.display());
        assert!(tested["tests"].as_array().unwrap().len() >= 4, "{}", file.display());
        assert_eq!(tested["warnings"], json!([]), "{}", file.display());
        assert!(
            std::fs::read_to_string(&file).unwrap().starts_with("# "),
            "it says what it is for"
        );
    }
}

#[test]
fn several_policies_are_tested_at_once_and_one_that_fails_stops_none() {
    let place = Place::empty();
    let test = |expect: &str| {
        format!(
            "{OLD}\n[[test]]\nname = \"it\"\nurl = \"https://b.example/\"\nexpect = \"{expect}\"\n"
        )
    };
    place.write("good.toml", &test("refuse"));
    place.write("bad.toml", &test("allow"));
    place.write("last.toml", &test("refuse"));
    let told = place.run(&["policy", "test", "good.toml", "last.toml"]).ok();
    assert!(told.contains("good.toml:\n") && told.contains("last.toml:\n"), "{told}");
    let failed = place.run(&["policy", "test", "bad.toml", "last.toml"]);
    assert_eq!(failed.code, Some(1));
    assert!(failed.out.contains("last.toml:\n"), "{}", failed.out);
    assert!(failed.said.contains("bad.toml: 1 of 1 fixtures"), "{}", failed.said);
    assert_eq!(place.run(&["policy", "test"]).code, Some(2));
}

#[test]
fn diff_says_what_a_policy_opens_with_an_example() {
    let place = Place::empty();
    place.write("old.toml", OLD);
    place.write("same.toml", &OLD.replace("\"read\"", "\"reads\""));
    place.write(
        "new.toml",
        &OLD.replace("[\"GET\"]", "[\"GET\", \"DELETE\"]").replace("quorum = 2", ""),
    );
    let nothing = place.run(&["policy", "diff", "old.toml", "same.toml"]).ok();
    assert!(nothing.starts_with("Nothing passes newly"), "{nothing}");
    let told = place.run(&["policy", "diff", "old.toml", "new.toml"]).ok();
    for says in [
        "Passes, and did not:\n  rule \"read\" (line 3, allow) lets through what no rule let through before; for example DELETE",
        "Takes less of people:\n  rule \"write\" (line 9, approve)",
        "1 of all approvers approve it, not 2 of all approvers",
    ] {
        assert!(told.contains(says), "{told}");
    }
    let compared = place.run(&["policy", "diff", "old.toml", "new.toml", "-o", "json"]).json();
    assert_eq!((&compared["widens"], &compared["gave_up"]), (&json!(true), &json!([])));
    let first = &compared["widenings"][0];
    assert_eq!((&first["kind"], &first["was"]["then"]), (&json!("passes"), &json!("refuse")));
    assert_eq!(first["example"]["method"], "DELETE");
}

#[test]
fn diff_holds_a_policy_against_the_one_in_force() {
    let control_plane = ControlPlane::start().answers("GetPolicy", &[in_force(OLD)]);
    let place = Place::knowing(&control_plane);
    place.write("new.toml", &OLD.replace("then = \"approve\"\nquorum = 2", "then = \"allow\""));
    let told = place.run(&["policy", "diff", "new.toml"]).ok();
    assert!(told.contains("what rule \"write\" (line 9, approve) answered before"), "{told}");
    assert_eq!(place.run(&["policy", "diff"]).code, Some(2));
}

#[test]
fn test_says_what_is_probably_not_meant() {
    let place = Place::empty();
    place.write(
        "policy.toml",
        &format!("{OLD}\n[[rule]]\nname = \"never\"\nhost = \"a.example\"\nthen = \"deny\"\n"),
    );
    let told = place.run(&["policy", "test", "policy.toml"]).ok();
    assert!(
        told.contains("warning: rule \"read\" (line 3) never decides: \"never\" (line 17)"),
        "{told}"
    );
}

#[test]
fn replay_says_first_what_newly_passes() {
    let place = Place::empty();
    place.write("new.toml", &OLD.replace("methods = [\"GET\"]", "when = 'body.json.n < 5'"));
    let line = |method: &str, path: &str, body: &str, decision: &str| {
        json!({"agent": "robot", "method": method, "url": format!("https://a.example{path}"),
               "headers": {"content-type": "application/json"}, "body": body, "decision": decision})
        .to_string()
    };
    let lines = [
        line("GET", "/x", "", "allow"),
        line("PUT", "/y", "{\"n\":1}", "refuse"),
        line("PUT", "/y", "{\"n\":2}", "refuse"),
        line("POST", "/things/1", "{\"n\":1}", "approve"),
    ];
    place.write("made.jsonl", &lines.join("\n"));
    let run = ["policy", "replay", "new.toml", "--requests", "made.jsonl"];
    let told = place.run(&run).ok();
    assert!(told.starts_with("4 requests: 2 pass newly, 1 change otherwise, 1 stay"), "{told}");
    let rows: Vec<&str> = told.lines().skip(2).collect();
    assert!(
        rows[0].starts_with("2      refuse  allow") && rows[0].contains("PUT a.example/y"),
        "{told}"
    );
    assert!(rows[1].contains("allow   refuse"), "{told}");
    let replayed = place.run(&[&run[..], &["-o", "json"]].concat()).json();
    assert_eq!((&replayed["newly_allowed"], &replayed["changed"]), (&json!(2), &json!(3)));

    place.write("made.jsonl", "\n{\"agent\": \"robot\", \"methd\": \"GET\"}");
    place.run(&run).fails(1, &["nothing was replayed", "line 2", "methd"]);
}

#[test]
fn replay_takes_what_people_were_asked_about_and_reads_no_body_that_was_not_kept_whole() {
    let approvals =
        [approved("/things/1", "{\"n\":1}", true), approved("/things/2", "{\"n\":1}", false)];
    let control_plane = ControlPlane::start().answers("ListApprovals", &[listed(&approvals)]);
    let place = Place::knowing(&control_plane);
    let allow =
        OLD.replace("then = \"approve\"\nquorum = 2", "when = 'body.json.n < 5'\nthen = \"allow\"");
    place.write("new.toml", &allow);
    let replayed = place.run(&["policy", "replay", "new.toml", "-o", "json"]).json();
    assert_eq!((&replayed["requests"], &replayed["bodies_unread"]), (&json!(2), &json!(1)));
    let changes: Vec<(&Value, &Value)> = replayed["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (&c["now"], &c["request"]))
        .collect();
    assert_eq!(
        changes,
        [
            (&json!("allow"), &json!("POST a.example/things/1")),
            (&json!("refuse"), &json!("POST a.example/things/2")),
        ],
        "what was not read is not allowed"
    );
}

#[test]
fn replay_without_decisions_asks_the_policy_in_force() {
    let control_plane = ControlPlane::start().answers("GetPolicy", &[in_force(OLD)]);
    let place = Place::knowing(&control_plane);
    place.write("new.toml", "version = 1\n");
    place.write(
        "made.jsonl",
        "{\"agent\":\"robot\",\"method\":\"GET\",\"url\":\"https://a.example/x\"}",
    );
    let run = ["policy", "replay", "new.toml", "--requests", "made.jsonl", "-o", "json"];
    let replayed = place.run(&run).json();
    assert_eq!(
        (&replayed["changes"][0]["was"], &replayed["changes"][0]["now"]),
        (&json!("allow"), &json!("refuse"))
    );
}

#[test]
fn review_suggests_to_ask_less_where_everything_was_approved() {
    let approvals: Vec<_> = (0..5).map(|_| approved("/things/7", "{}", true)).collect();
    let control_plane = ControlPlane::start()
        .answers("GetPolicy", &[in_force(OLD)])
        .answers("ListApprovals", &[listed(&approvals)]);
    let place = Place::knowing(&control_plane);
    let told = place.run(&["policy", "review"]).ok();
    for says in [
        "Rule \"write\" asked 5 times and was never denied, by ana; half of the answers came within 30s.",
        "--- version 7",
        "+when = '!(agent == \"robot\" && request.method == \"POST\" && request.path == \"/things/7\")'",
        "+name = \"write, as always approved\"",
        "+path = \"/things/7\"",
    ] {
        assert!(told.contains(says), "{says}\n{told}");
    }
}

#[test]
fn review_says_nothing_of_what_was_asked_too_seldom() {
    let control_plane = ControlPlane::start()
        .answers("GetPolicy", &[in_force(OLD)])
        .answers("ListApprovals", &[listed(&[approved("/things/7", "{}", true)])]);
    let place = Place::knowing(&control_plane);
    assert!(place.run(&["policy", "review"]).ok().starts_with("No rule was approved so often"));
    let one = place.run(&["policy", "review", "--least", "1", "-o", "json"]).json();
    assert_eq!(
        (&one[0]["rule"], &one[0]["approved"], &one[0]["median_seconds"]),
        (&json!("write"), &json!(1), &json!(30))
    );
}
