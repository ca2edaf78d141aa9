//! A database behind an edge, as administrators and agents have it from the command line.

use countersign_proto::v1;
use serde_json::{Value, json};

use super::control_plane::ControlPlane;
use super::run::Place;

const TOKEN: &str = "cs_agt_0123456789abcdef";
const FAKE_KEY: &str = "fake key/1";
/// HMAC-SHA256 under SHA-256 of the token, of "countersign/v1/postgres", a NUL and the fake key: computed elsewhere.
const TAG: &str = "9b3f151676876767c7283fb882137ab8f53c6b206e2139361305e19ba52fdbf6";

fn explained() -> v1::ExplainPolicyResponse {
    v1::ExplainPolicyResponse {
        decision: "approve".into(),
        rule: "change the schema".into(),
        policy_version: 7,
        rules: vec![v1::RuleExplanation {
            rule: "change the schema".into(),
            matched: "yes".into(),
            then: "approve".into(),
            why: "it drops a table".into(),
        }],
    }
}

fn headers(asked: &v1::ExplainPolicyRequest) -> Vec<(&str, &[u8])> {
    asked.headers.iter().map(|header| (header.name.as_str(), header.value.as_ref())).collect()
}

#[test]
fn explain_asks_about_a_statement_as_the_edge_would_write_it() {
    let control_plane = ControlPlane::start().answers("ExplainPolicy", &[explained()]);
    let place = Place::knowing(&control_plane);
    let told = place.run(&[
        "policy",
        "explain",
        "--agent",
        "bot",
        "GET",
        "postgres://shop%20app@db.example.com/shop",
    ]);
    // Without a statement, a connection is asked about.
    assert!(told.ok().starts_with("approve: rule \"change the schema\" (policy version 7)."));
    let asked: v1::ExplainPolicyRequest = control_plane.asked("ExplainPolicy");
    assert_eq!((asked.agent.as_str(), asked.method.as_str()), ("bot", "GET"));
    assert_eq!(asked.url, "postgres://db.example.com/shop");
    assert_eq!(headers(&asked), [("postgres-role", &b"shop%20app"[..])]);
    assert!(asked.body.is_empty());

    let control_plane = ControlPlane::start().answers("ExplainPolicy", &[explained()]);
    let place = Place::knowing(&control_plane);
    let statement = "drop table \"orders\"; -- it's\n\tgone";
    let explain = ["policy", "explain", "--agent", "bot", "POST"];
    let of = ["postgres://shop_app@db.example.com/shop", "--sql", statement, "-o", "json"];
    let told = place.run(&[&explain[..], &of].concat()).json();
    assert_eq!(
        told,
        json!({
            "decision": "approve", "rule": "change the schema", "policy_version": 7,
            "rules": [{
                "rule": "change the schema", "matched": "yes", "then": "approve", "why": "it drops a table"
            }],
        })
    );
    let asked: v1::ExplainPolicyRequest = control_plane.asked("ExplainPolicy");
    assert_eq!(
        (asked.method.as_str(), asked.url.as_str()),
        ("POST", "postgres://db.example.com/shop")
    );
    let mut sent = headers(&asked);
    sent.sort_unstable();
    assert_eq!(
        sent,
        [("content-type", &b"application/json"[..]), ("postgres-role", &b"shop_app"[..])]
    );
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(body, json!({"protocol": "simple", "statement": statement, "transaction": "idle"}));
}

#[test]
fn a_statement_without_a_database_or_a_database_without_a_role_is_a_mistake_before_anybody_is_asked()
 {
    let control_plane = ControlPlane::start().answers("ExplainPolicy", &[explained()]);
    let place = Place::knowing(&control_plane);
    let explain = |more: &[&str]| {
        place.run(&[&["policy", "explain", "--agent", "bot", "POST"], more].concat())
    };
    explain(&["https://db.example.com/shop", "--sql", "select 1"])
        .fails(2, &["--sql", "postgres://"]);
    explain(&["postgres://db.example.com/shop", "--sql", "select 1"]).fails(2, &["role@host"]);
    explain(&["postgres://@db.example.com/shop", "--sql", "select 1"]).fails(2, &["role"]);
    let database = "postgres://app@db.example.com/shop";
    for other in [["--header", "a: b"], ["--body", "file"]] {
        let both = explain(&[&[database, "--sql", "select 1"][..], &other].concat());
        assert_eq!(both.code, Some(2), "{other:?}: {}", both.said);
    }
    explain(&[database]).fails(2, &["POST", "--sql a statement"]);
    let explain = ["policy", "explain", "--agent", "bot", "GET", database, "--sql", "select 1"];
    place.run(&explain).fails(2, &["GET is a connection"]);
    assert!(control_plane.was_asked_nothing());
}

#[test]
fn a_roles_password_is_stored_under_its_slot_and_agents_are_told_of_their_url() {
    let credential = v1::Credential {
        name: "shop-db".into(),
        version: 1,
        host: "db.example.com".into(),
        port: 5432,
        slot: "postgres:shop_app".into(),
        ..v1::Credential::default()
    };
    let made =
        v1::CreateCredentialResponse { credential: Some(credential), fake_key: FAKE_KEY.into() };
    let control_plane = ControlPlane::start().answers("CreateCredential", &[made]);
    let place = Place::knowing(&control_plane);
    let create = ["credential", "create", "shop-db", "--host", "db.example.com"];
    let role = ["--postgres-role", "shop_app"];
    let slot = ["--slot", "header"];
    let both = place.run_with(&[&create[..], &role, &slot].concat(), "canary-password");
    assert_eq!(both.code, Some(2), "{}", both.said);
    assert!(control_plane.was_asked_nothing());
    let told = place.run_with(&[&create[..], &role].concat(), "canary-password\n").ok();
    assert!(told.contains("countersign credential postgres-url shop-db"), "{told}");
    assert!(!told.contains("canary"), "{told}");
    let asked: v1::CreateCredentialRequest = control_plane.asked("CreateCredential");
    assert_eq!((asked.slot.as_str(), asked.template.as_str()), ("postgres:shop_app", ""));
    assert_eq!(asked.value.as_ref(), b"canary-password");
}

#[test]
fn an_agents_url_has_a_password_of_its_own_and_neither_its_token_nor_a_question_to_anybody() {
    let control_plane = ControlPlane::start();
    let mut place = Place::knowing(&control_plane);
    place.set("COUNTERSIGN_EDGE_CA", "/etc/edge/the ca.pem");
    place.set("COUNTERSIGN_AGENT_TOKEN", TOKEN);
    place.set("COUNTERSIGN_FAKE_KEY", FAKE_KEY);
    let url = ["credential", "postgres-url", "shop-db", "--agent", "bot", "--database"];
    let told = place.run(&[&url[..], &["shop & co"]].concat()).ok();
    assert_eq!(
        told,
        format!(
            "postgres://bot%2Fshop-db:fake%20key%2F1.{TAG}@127.0.0.1:5433/shop%20%26%20co\
             ?sslmode=verify-full&sslrootcert=%2Fetc%2Fedge%2Fthe%20ca.pem\n"
        )
    );

    // A file that is named is meant, whatever the environment says.
    place.set("COUNTERSIGN_AGENT_TOKEN", "cs_agt_another");
    place.set("COUNTERSIGN_FAKE_KEY", "another");
    place.write("token", &format!("{TOKEN}\n"));
    place.write("fake", &format!("{FAKE_KEY}\n"));
    let files = ["--token-file", "token", "--fake-key-file", "fake"];
    let there = ["--edge", "db.edge.internal:6432", "--ca-path", "ca.pem"];
    let told = place.run(&[&url[..], &["shop"], &files, &there].concat()).ok();
    assert_eq!(
        told,
        format!(
            "postgres://bot%2Fshop-db:fake%20key%2F1.{TAG}@db.edge.internal:6432/shop\
             ?sslmode=verify-full&sslrootcert=ca.pem\n"
        )
    );
    assert!(!told.contains(TOKEN) && control_plane.was_asked_nothing());
}

#[test]
fn an_agents_url_is_not_made_of_what_is_missing_and_no_secret_is_repeated() {
    let control_plane = ControlPlane::start();
    let mut place = Place::knowing(&control_plane);
    let url = ["credential", "postgres-url", "shop-db", "--agent", "bot", "--database", "shop"];
    let with_ca = [&url[..], &["--ca-path", "ca.pem"]].concat();
    place.set("COUNTERSIGN_AGENT_TOKEN", TOKEN);
    place.run(&url).fails(2, &["COUNTERSIGN_EDGE_CA", "--ca-path"]);
    place.run(&with_ca).fails(2, &["the fake key is empty"]);
    place.set("COUNTERSIGN_FAKE_KEY", FAKE_KEY);
    place.set("COUNTERSIGN_AGENT_TOKEN", "canary two");
    let refused = place.run(&with_ca);
    assert!(!refused.said.contains("canary"), "{}", refused.said);
    refused.fails(2, &["COUNTERSIGN_AGENT_TOKEN", "one word"]);
    place.write("empty", "\n");
    place.run(&[&with_ca[..], &["--token-file", "empty"]].concat()).fails(2, &["token is empty"]);
    assert!(control_plane.was_asked_nothing());
}
