//! What a request would do, as people read it before they answer.

use countersign_tests::{Origin, REAL_KEY, World};

use super::request_path::bearer;

const HOST: &str = "api.github.com";
const POLICY: &str = r#"version = 1

[[rule]]
name = "change"
host = "api.github.com"
then = "approve"
credential = "hub"
approvers = ["admin"]
"#;

#[test]
fn a_person_reads_what_it_would_do_and_what_that_does_not_cover_before_anything_is_sent() {
    let origin = Origin::start(&[HOST], REAL_KEY);
    let world = World::start(&origin, &[HOST], POLICY);
    let agent = world.agent("robot");
    let credential = world.credential("hub", REAL_KEY, &["--host", HOST, "--slot", "header"]);
    let bearer = bearer(&credential);
    // The kept beginning of the body ends long before what matters.
    let body = format!(
        r#"{{"description":"a",{}"private":false,"homepage":"https://a.example"}}"#,
        " ".repeat(40 * 1024)
    );
    let json = "content-type: application/json";
    let url = "https://api.github.com/repos/acme/prod";
    let _waiting =
        world.fetch_later(&agent, &["-X", "PATCH", "-H", &bearer, "-H", json, "-d", &body, url]);
    let listed = world.approval("pending");
    let id = listed["id"].as_str().unwrap();
    let shown = world.json(&["approval", "show", id]);
    assert_eq!(shown["summary"], "Make repository acme/prod public");
    assert_eq!(shown["risk"], "people");
    assert_eq!(shown["facts"], serde_json::json!([{ "name": "Private", "value": "false" }]));
    assert_eq!(shown["also_contains"], "description: a; homepage: https://a.example");
    assert_eq!(shown["method"], "PATCH", "what was there before is there still");
    let said = world.ok(&["approval", "show", id]);
    assert!(
        said.contains(
            "It would: Make repository acme/prod public (risk: people).\n  Private: false\n"
        ),
        "{said}"
    );
    assert!(origin.seen().is_empty(), "nothing has left");
}

#[test]
fn b_6_what_can_be_read_in_two_ways_has_no_sentence_and_says_so() {
    let origin = Origin::start(&[HOST], REAL_KEY);
    let world = World::start(&origin, &[HOST], POLICY);
    let agent = world.agent("robot");
    let credential = world.credential("hub", REAL_KEY, &["--host", HOST, "--slot", "header"]);
    let bearer = bearer(&credential);
    let body = r#"{"private":true,"private":false}"#;
    let json = "content-type: application/json";
    let url = "https://api.github.com/repos/acme/prod";
    let _waiting =
        world.fetch_later(&agent, &["-X", "PATCH", "-H", &bearer, "-H", json, "-d", body, url]);
    let listed = world.approval("pending");
    let id = listed["id"].as_str().unwrap();
    let shown = world.json(&["approval", "show", id]);
    assert!(shown["summary"].is_null() && shown["risk"].is_null(), "{shown:#}");
    let said = world.ok(&["approval", "show", id]);
    assert!(
        said.contains(
            "CAREFUL: what it would do is not certain, because of JSON with a name twice"
        ),
        "{said}"
    );
    assert!(origin.seen().is_empty(), "nothing has left");
}
