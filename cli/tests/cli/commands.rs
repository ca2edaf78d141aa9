//! Each command: what it asks for, and the shape of what it prints.

use countersign_proto::v1;
use prost_types::Timestamp;
use serde_json::{Value, json};
use v1::ApprovalState::{Approved, Denied, Pending};

use super::control_plane::ControlPlane;
use super::run::Place;

const ID: &str = "0123456789abcdef0123456789abcdef";

fn approval(state: v1::ApprovalState) -> v1::Approval {
    v1::Approval {
        approval_id: ID.into(),
        state: state.into(),
        agent: "robot".into(),
        method: "DELETE".into(),
        scheme: "https".into(),
        host: "api.github.com".into(),
        port: 443,
        path: "/repos/me/doomed".into(),
        body_sha256: "e3b0".into(),
        intent_digest: "abcd".into(),
        rule: "delete a repository".into(),
        credentials: vec!["github".into()],
        created_at: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        expires_at: Some(Timestamp { seconds: 1_700_000_900, nanos: 0 }),
        votes: vec![v1::Vote {
            approver: "ana".into(),
            decision: v1::VoteDecision::Approve.into(),
            channel: "api".into(),
            at: Some(Timestamp { seconds: 1_700_000_060, nanos: 0 }),
            reason: "agreed".into(),
            ..v1::Vote::default()
        }],
        ..v1::Approval::default()
    }
}

fn card(state: &str) -> Value {
    json!({
        "id": ID, "state": state, "agent": "robot", "method": "DELETE", "scheme": "https", "host": "api.github.com", "port": 443,
        "path": "/repos/me/doomed", "query": null, "body_bytes": 0, "body_sha256": "e3b0", "intent_digest": "abcd",
        "rule": "delete a repository", "credentials": ["github"], "created_at": "2023-11-14T22:13:20.000Z",
        "expires_at": "2023-11-14T22:28:20.000Z",
        "votes": [{"approver": "ana", "decision": "approve", "channel": "api", "at": "2023-11-14T22:14:20.000Z", "reason": "agreed"}],
        "outcome": null, "summary": null, "risk": null, "facts": [], "also_contains": null
    })
}

fn agent(name: &str) -> Option<v1::Agent> {
    Some(v1::Agent { name: name.into(), ..v1::Agent::default() })
}

#[test]
fn agent_create_prints_the_token_and_the_proxy() {
    let made = v1::CreateAgentResponse { agent: agent("robot"), token: "cs_agt_x".into() };
    let control_plane = ControlPlane::start().answers("CreateAgent", &[made]);
    let mut place = Place::knowing(&control_plane);
    place.set("COUNTERSIGN_EDGE", "http://127.0.0.1:40001");
    let made = place.run(&["agent", "create", "robot", "--owner", "ana", "-o", "json"]).json();
    assert_eq!(
        made,
        json!({"agent": "robot", "token": "cs_agt_x", "proxy": "http://robot:cs_agt_x@127.0.0.1:40001"})
    );
    let asked: v1::CreateAgentRequest = control_plane.asked("CreateAgent");
    assert_eq!((asked.name.as_str(), asked.owner.as_str()), ("robot", "ana"));
    assert_eq!(asked.request_id.len(), 32, "every mutation has an identity");
}

#[test]
fn agent_create_knows_the_edge_from_the_context_beside_the_ca() {
    let made = v1::CreateAgentResponse { agent: agent("robot"), token: "cs_agt_x".into() };
    let control_plane = ControlPlane::start().answers("CreateAgent", &[made]);
    let place = Place::knowing(&control_plane);
    let saved = json!({"addr": control_plane.addr(), "token": "cs_adm_other", "edge_proxy": "http://127.0.0.1:40001"});
    place.write("context.json", &saved.to_string());
    let made = place.run(&["agent", "create", "robot", "-o", "json"]).json();
    assert_eq!(made["proxy"], "http://robot:cs_agt_x@127.0.0.1:40001");
}

#[test]
fn lists_are_read_to_their_last_page() {
    let page = |name: &str, next: &str| v1::ListAgentsResponse {
        agents: agent(name).into_iter().collect(),
        next_page_token: next.into(),
    };
    let control_plane = ControlPlane::start()
        .answers_in_turn("ListAgents", &[page("a", "2"), page("b", "3"), page("c", "")]);
    let listed = Place::knowing(&control_plane).run(&["agent", "list", "-o", "json"]).json();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|agent| agent["agent"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let asked: Vec<v1::ListAgentsRequest> = control_plane.all_asked("ListAgents");
    let tokens: Vec<&str> = asked.iter().map(|asked| asked.page_token.as_str()).collect();
    assert_eq!(tokens, ["", "2", "3"]);
}

#[test]
fn a_credential_value_comes_from_standard_input_or_a_file_without_its_line_break() {
    let credential =
        v1::Credential { name: "github".into(), version: 1, ..v1::Credential::default() };
    let made = || v1::CreateCredentialResponse {
        credential: Some(credential.clone()),
        fake_key: "ghp_fake".into(),
    };
    let create = [
        "credential",
        "create",
        "github",
        "--host",
        "api.github.com",
        "--slot",
        "header",
        "-o",
        "json",
    ];

    let control_plane = ControlPlane::start().answers("CreateCredential", &[made()]);
    let printed = Place::knowing(&control_plane).run_with(&create, "ghp_real\n").json();
    assert_eq!(printed, json!({"credential": "github", "version": 1, "fake_key": "ghp_fake"}));
    let asked: v1::CreateCredentialRequest = control_plane.asked("CreateCredential");
    assert_eq!(asked.value.as_ref(), b"ghp_real");
    assert_eq!(
        (asked.host.as_str(), asked.slot.as_str(), asked.template.as_str()),
        ("api.github.com", "header", "")
    );
    assert_eq!(asked.class(), v1::CredentialClass::Auto);

    let control_plane = ControlPlane::start().answers("CreateCredential", &[made()]);
    let place = Place::knowing(&control_plane);
    place.write("key", " two\nlines \r\n");
    place
        .run_with(
            &[&create[..], &["--from-file", "key", "--class", "per-request"]].concat(),
            "not this",
        )
        .ok();
    let asked: v1::CreateCredentialRequest = control_plane.asked("CreateCredential");
    assert_eq!(asked.value.as_ref(), b" two\nlines ");
    assert_eq!(asked.class(), v1::CredentialClass::PerRequest);
}

#[test]
fn what_tokens_are_minted_with_comes_in_files_and_how_is_said_in_options() {
    let made = v1::CreateCredentialResponse {
        credential: Some(v1::Credential { name: "crm".into(), ..Default::default() }),
        fake_key: "fake".into(),
    };
    let control_plane = ControlPlane::start().answers("CreateCredential", &[made]);
    let place = Place::knowing(&control_plane);
    place.write("refresh", "refresh-1\n");
    place.write("secret", "s\"cret\n");
    let create = [
        "credential",
        "create",
        "crm",
        "--host",
        "api.example.com",
        "--slot",
        "header",
        "--mint",
        "oauth-refresh-token",
        "--token-url",
        "https://auth.example.com/token",
        "--client-id",
        "client",
        "--scope",
        "read",
        "--scope",
        "write",
        "--parameter",
        "audience=https://api.example.com",
        "--refresh-token-file",
        "refresh",
        "--client-secret-file",
        "secret",
    ];
    place.run(&create).ok();
    let asked: v1::CreateCredentialRequest = control_plane.asked("CreateCredential");
    let value: Value = serde_json::from_slice(&asked.value).unwrap();
    assert_eq!(value, json!({"refresh_token": "refresh-1", "client_secret": "s\"cret"}));
    let Some(v1::mint::Kind::Oauth(mint)) = asked.mint.and_then(|mint| mint.kind) else {
        panic!("an OAuth client")
    };
    assert_eq!(
        (mint.grant(), mint.client_auth()),
        (v1::OauthGrant::RefreshToken, v1::OauthClientAuth::Basic)
    );
    assert_eq!(mint.scopes, ["read", "write"]);
    assert_eq!(mint.parameters["audience"], "https://api.example.com");
}

#[test]
fn an_option_of_another_way_to_mint_or_one_that_is_missing_is_a_mistake_before_anything_is_read() {
    let control_plane = ControlPlane::start();
    let place = Place::knowing(&control_plane);
    let create = ["credential", "create", "x", "--host", "api.example.com", "--slot", "header"];
    let mint = |more: &[&str]| place.run_with(&[&create[..], more].concat(), "canary");
    mint(&["--mint", "github-app", "--app-id", "1"]).fails(2, &["needs --installation-id"]);
    mint(&["--mint", "google-service-account", "--scope", "a", "--app-id", "1"])
        .fails(2, &["--app-id is not for"]);
    mint(&["--mint", "oauth-refresh-token", "--client-id", "c"]).fails(2, &["needs --token-url"]);
    mint(&["--token-url", "https://auth.example.com/"]).fails(2, &["--token-url goes with --mint"]);
    assert!(control_plane.was_asked_nothing());
}

#[test]
fn an_empty_credential_value_is_not_stored() {
    let control_plane = ControlPlane::start();
    let place = Place::knowing(&control_plane);
    let create = ["credential", "create", "github", "--host", "api.github.com", "--slot", "header"];
    place.run_with(&create, "\n").fails(2, &["value is empty"]);
    assert!(control_plane.was_asked_nothing());
}

#[test]
fn approval_list_and_show_have_the_stable_shape() {
    let control_plane = ControlPlane::start()
        .answers(
            "ListApprovals",
            &[v1::ListApprovalsResponse {
                approvals: vec![approval(Pending)],
                next_page_token: String::new(),
            }],
        )
        .answers("GetApproval", &[v1::GetApprovalResponse { approval: Some(approval(Pending)) }]);
    let place = Place::knowing(&control_plane);
    assert_eq!(
        place.run(&["approval", "list", "--state", "pending", "-o", "json"]).json(),
        json!([card("pending")])
    );
    let asked: v1::ListApprovalsRequest = control_plane.asked("ListApprovals");
    assert_eq!(asked.state(), Pending);
    assert_eq!(place.run(&["approval", "show", ID, "-o", "json"]).json(), card("pending"));
}

#[test]
fn approval_show_is_sentences_for_a_person() {
    let control_plane = ControlPlane::start()
        .answers("GetApproval", &[v1::GetApprovalResponse { approval: Some(approval(Pending)) }]);
    let shown = Place::knowing(&control_plane).run(&["approval", "show", ID]).ok();
    assert!(
        shown.starts_with("robot wants to DELETE https://api.github.com/repos/me/doomed.\n"),
        "{shown}"
    );
    assert!(shown.contains("It has no body.") && shown.contains("real key of github"), "{shown}");
}

#[test]
fn a_vote_is_bound_to_the_bytes_that_were_read() {
    let control_plane = ControlPlane::start()
        .answers("GetApproval", &[v1::GetApprovalResponse { approval: Some(approval(Pending)) }])
        .answers(
            "VoteApproval",
            &[v1::VoteApprovalResponse { approval: Some(approval(Approved)) }],
        );
    let place = Place::knowing(&control_plane);
    let said = place.run(&["approval", "approve", ID, "--reason", "agreed with Ana"]).ok();
    assert_eq!(said, "Approved: robot wants to DELETE https://api.github.com/repos/me/doomed.\n");
    let asked: v1::VoteApprovalRequest = control_plane.asked("VoteApproval");
    assert_eq!(
        (asked.decision(), asked.intent_digest.as_str()),
        (v1::VoteDecision::Approve, "abcd")
    );
    assert_eq!(asked.reason, "agreed with Ana");
}

#[test]
fn approval_wait_exits_0_when_approved_and_1_when_denied() {
    let control_plane = |end| {
        let change = |state| v1::WatchApprovalsResponse { approval: Some(approval(state)) };
        ControlPlane::start()
            .answers(
                "GetApproval",
                &[v1::GetApprovalResponse { approval: Some(approval(Pending)) }],
            )
            .answers("WatchApprovals", &[change(Pending), change(end)])
    };
    let approved = control_plane(Approved);
    assert_eq!(
        Place::knowing(&approved).run(&["approval", "wait", ID, "-o", "json"]).json(),
        card("approved")
    );
    let denied = control_plane(Denied);
    let ran = Place::knowing(&denied).run(&["approval", "wait", ID]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.said.contains("is denied"), "{}", ran.said);
}

#[test]
fn approval_wait_gives_up_when_told_to() {
    let control_plane = ControlPlane::start()
        .answers("GetApproval", &[v1::GetApprovalResponse { approval: Some(approval(Pending)) }])
        .answers(
            "WatchApprovals",
            &[v1::WatchApprovalsResponse { approval: Some(approval(Pending)) }],
        );
    let place = Place::knowing(&control_plane);
    place.run(&["approval", "wait", ID, "--timeout", "200ms"]).fails(1, &["nobody has answered"]);
}

#[test]
fn approval_watch_is_a_line_of_json_for_each_change() {
    let change = |state| v1::WatchApprovalsResponse { approval: Some(approval(state)) };
    let control_plane =
        ControlPlane::start().answers("WatchApprovals", &[change(Pending), change(Denied)]);
    let ran = Place::knowing(&control_plane).run(&["approval", "watch", "-o", "json"]);
    let lines: Vec<Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [card("pending"), card("denied")]);
    assert_eq!(ran.code, Some(3), "the stream ended, and whoever relies on it has to know");
}

#[test]
fn policy_test_needs_no_control_plane() {
    let place = Place::empty();
    let rule = "version = 1\n\n[[rule]]\nname = \"read\"\nhost = \"a.example\"\nmethods = [\"GET\"]\nthen = \"allow\"\n";
    let test = |expect| {
        format!(
            "\n[[test]]\nname = \"reads pass\"\nurl = \"https://a.example/\"\nexpect = \"{expect}\"\n"
        )
    };
    place.write("good.toml", &format!("{rule}{}", test("allow")));
    place.write("wrong.toml", &format!("{rule}{}", test("deny")));
    place.write(
        "broken.toml",
        "version = 1\n\n[[rule]]\nname = \"x\"\nhost = \"a.example\"\nthen = \"perhaps\"\n",
    );
    assert!(place.run(&["policy", "test", "good.toml"]).ok().contains("1 of 1"));
    let wrong = place.run(&["policy", "test", "wrong.toml"]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.out.contains("FAILED  reads pass (wrong.toml:9)"), "{}", wrong.out);
    place.run(&["policy", "test", "broken.toml"]).fails(1, &["broken.toml:6", "\"x\"", "perhaps"]);
    place.run(&["policy", "test", "absent.toml"]).fails(1, &["absent.toml"]);
}

#[test]
fn descriptors_are_read_beside_the_policy() {
    let place = Place::empty();
    let set = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzzing/src/billing.binpb");
    let beside = place.write("billing.binpb", "");
    std::fs::copy(set, &beside).unwrap();
    let policy = |file: &str| {
        format!(
            r#"
version = 1
[[descriptor]]
name = "billing"
file = "{file}"
[[rule]]
name = "small refunds"
host = "billing.example.com"
path = "/acme.billing.v1.Refunds/Create"
when = "grpc.message.amount < 100"
then = "allow"
[[test]]
method = "POST"
url = "https://billing.example.com/acme.billing.v1.Refunds/Create"
headers = {{ content-type = "application/grpc" }}
body_base64 = "AAAAAAIQBQ=="
expect = "allow"
"#
        )
    };
    place.write("policy.toml", &policy("billing.binpb"));
    assert!(place.run(&["policy", "test", "policy.toml"]).ok().contains("1 of 1"));
    place.write("policy.toml", &policy("other.binpb"));
    place.run(&["policy", "test", "policy.toml"]).fails(1, &["policy.toml", "other.binpb"]);
}

#[test]
fn env_takes_the_token_from_the_environment_a_file_or_standard_input() {
    let mut place = Place::knowing(&ControlPlane::start());
    place.set("COUNTERSIGN_EDGE", "http://127.0.0.1:7080");
    place.set("COUNTERSIGN_EDGE_CA", "/etc/edge-ca.pem");
    let env = ["env", "--agent", "robot", "--format", "json"];
    let proxy = |token: &str| json!(format!("http://robot:{token}@127.0.0.1:7080"));
    assert_eq!(place.run_with(&env, "from_stdin\n").json()["HTTPS_PROXY"], proxy("from_stdin"));
    place.set("COUNTERSIGN_AGENT_TOKEN", "from_env");
    let variables = place.run(&env).json();
    assert_eq!(variables["HTTPS_PROXY"], proxy("from_env"));
    assert_eq!(variables["SSL_CERT_FILE"], "/etc/edge-ca.pem");
    place.write("token", "from_file\n");
    assert_eq!(
        place.run(&[&env[..], &["--token-file", "token"]].concat()).json()["https_proxy"],
        proxy("from_file")
    );
}

#[test]
fn login_remembers_a_control_plane_that_answered_and_only_then() {
    let me = v1::WhoAmIResponse { principal: "ana".into(), ..v1::WhoAmIResponse::default() };
    let control_plane = ControlPlane::start().answers("WhoAmI", &[me]).answers(
        "ListAgents",
        &[v1::ListAgentsResponse {
            agents: agent("robot").into_iter().collect(),
            ..Default::default()
        }],
    );
    let place = Place::empty();
    let ca = place.write("ca.pem", control_plane.ca_pem());
    place
        .run_with(&["login", "--addr", "https://127.0.0.1:1", "--ca", &ca], "cs_adm_right")
        .fails(3, &[]);
    assert!(!place.path().join(".config").exists());
    let said = place
        .run_with(&["login", "--addr", control_plane.addr(), "--ca", &ca], "cs_adm_right\n")
        .ok();
    assert!(said.contains("Logged in as ana"), "{said}");
    assert_eq!(place.run(&["agent", "list", "-o", "json"]).json()[0]["agent"], "robot");
}

#[test]
fn edge_enroll_keeps_the_key_here() {
    use std::os::unix::fs::PermissionsExt as _;
    let enrolled = v1::EnrollEdgeResponse {
        edge: Some(v1::Edge { name: "east".into(), edge_id: "id".into(), ..v1::Edge::default() }),
        certificate_pem: "CERT".into(),
        gateway_ca_pem: "CA".into(),
        gateway_address: "127.0.0.1:8444".into(),
        root_public_key: vec![7; 32].into(),
        ..Default::default()
    };
    let control_plane = ControlPlane::start().answers("EnrollEdge", &[enrolled]);
    let place = Place::knowing(&control_plane);
    let printed = place.run(&["edge", "enroll", "east", "--out", "east", "-o", "json"]).json();
    assert_eq!(printed["gateway_address"], "127.0.0.1:8444");
    let key = place.path().join("east/edge-key.pem");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let asked: v1::EnrollEdgeRequest = control_plane.asked("EnrollEdge");
    assert!(asked.csr_pem.contains("CERTIFICATE REQUEST") && !asked.csr_pem.contains("PRIVATE"));
    let config = std::fs::read_to_string(place.path().join("east/edge.toml")).unwrap();
    assert!(config.contains(&"07".repeat(32)) && config.contains("127.0.0.1:8444"), "{config}");
}

#[test]
fn edge_evict_says_which_keys_to_rotate() {
    let given = |name: &str, version, must_rotate| v1::GivenCredential {
        credential_id: format!("id-{name}"),
        name: name.into(),
        version,
        must_rotate,
        ..Default::default()
    };
    let evicted = v1::EvictEdgeResponse {
        edge: Some(v1::Edge { name: "east".into(), evicted: true, ..v1::Edge::default() }),
        given: vec![given("mail", 1, false), given("mail", 2, true), given("old", 4, false)],
    };
    let control_plane = ControlPlane::start().answers("EvictEdge", &[evicted]);
    let place = Place::knowing(&control_plane);
    let told = place.run(&["edge", "evict", "east"]).ok();
    assert!(told.contains("east is evicted"), "{told}");
    assert!(told.contains("MUST ROTATE") && told.contains("credential rotate mail"), "{told}");
    assert!(!told.contains("credential rotate old"), "{told}");
    let shown = place.run(&["edge", "evict", "east", "-o", "json"]).json();
    assert_eq!((&shown["edge"], &shown["evicted"]), (&"east".into(), &true.into()));
    assert_eq!(
        shown["given"][1],
        serde_json::json!({
            "credential": "mail", "id": "id-mail", "version": 2, "last_given_at": null, "must_rotate": true
        })
    );
    let nothing = v1::EvictEdgeResponse { edge: Some(v1::Edge::default()), given: Vec::new() };
    let control_plane = ControlPlane::start().answers("EvictEdge", &[nothing]);
    let told = Place::knowing(&control_plane).run(&["edge", "evict", "east"]).ok();
    assert!(told.contains("No key was ever given to it."), "{told}");
}

#[test]
fn doctor_names_what_is_missing_and_what_to_do() {
    let ran = Place::empty().run(&["doctor"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.out.contains("BAD   control plane") && ran.out.contains("countersign env"),
        "{}",
        ran.out
    );
}

#[test]
fn completions_and_man_pages_come_from_the_same_source() {
    let place = Place::empty();
    assert!(place.run(&["completions", "bash"]).ok().contains("approval"));
    place.run(&["man", "man1"]).ok();
    assert!(place.path().join("man1/countersign-approval-list.1").exists());
}

#[test]
fn demo_needs_a_terminal_or_an_answer() {
    Place::empty().run(&["demo"]).fails(2, &["--answer approve"]);
}

#[test]
fn dev_says_what_is_wrong_before_anything_starts() {
    let place = Place::empty();
    place.run(&["dev", "--ready-file", "/nowhere/ready.json"]).fails(1, &["/nowhere/ready.json"]);
    place.run(&["dev", "--upstream-ca", "absent.pem"]).fails(1, &["absent.pem"]);
    place.write(
        "p.toml",
        "version = 1\n\n[[rule]]\nname = \"x\"\nhost = \"a.example\"\nthen = \"perhaps\"\n",
    );
    place.run(&["dev", "--policy", "p.toml"]).fails(1, &["p.toml:6", "\"x\"", "perhaps"]);
    place.run(&["dev", "--data-dir", "p.toml"]).fails(1, &["p.toml"]);
    assert_eq!(place.names(), ["p.toml"], "nothing was started");
}
