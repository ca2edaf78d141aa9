//! What holds for every command: where it looks, what it exits with, and what never reaches a terminal.

use countersign_proto::v1;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::control_plane::ControlPlane;
use super::run::Place;

#[test]
fn help_lists_every_command() {
    let help = Place::empty().run(&["--help"]).ok();
    for command in [
        "agent",
        "approval",
        "approver",
        "audit",
        "cluster",
        "completions",
        "credential",
        "demo",
        "dev",
        "doctor",
        "edge",
        "env",
        "login",
        "man",
        "policy",
        "seal",
        "status",
    ] {
        let listed = help.lines().any(|line| line.trim_start().starts_with(&format!("{command} ")));
        assert!(listed, "{command} is not in {help}");
    }
}

#[test]
fn what_means_nothing_exits_2() {
    let place = Place::empty();
    for nonsense in [
        &[][..],
        &["explode"],
        &["agent", "explode"],
        &["approval", "list", "--state", "maybe"],
        &["approval", "list", "-o", "yaml"],
        &["approval", "wait", "x", "--timeout", "soon"],
        &[
            "credential",
            "create",
            "x",
            "--host",
            "a.example",
            "--slot",
            "header",
            "--value",
            "secret",
        ],
        &["cluster", "explode"],
        &["cluster", "add"],
        &["cluster", "add", "n2", "--timeout", "soon"],
        &["cluster", "init", "--seal", "wax"],
        &["cluster", "init", "--seal", "shamir", "--threshold", "2"],
        &["cluster", "trust", "--yes"],
        &["seal", "rekey", "--rekey-id", "x", "--authorize", "--verify"],
        &["seal", "rekey", "--start"],
        &["seal", "rekey", "--verify"],
        &["seal", "unseal", "--share", "cs-share-1-secret"],
        &["seal", "unseal", "--share-file", "a", "--passphrase-file", "b"],
        &["audit", "verify", "--checkpoint", "kept"],
        &["audit", "verify", "--root-key", "5a"],
        &["dev", "--connect-to", "nonsense"],
        &["dev", "--allow-private", "10.0.0.0/64"],
        &["dev", "--edge-listen", "7080"],
    ] {
        assert_eq!(place.run(nonsense).code, Some(2), "{nonsense:?}");
    }
    assert_eq!(place.names(), Vec::<String>::new(), "nothing was left behind");
}

#[test]
fn without_a_context_every_command_says_how_to_get_one() {
    let place = Place::empty();
    for command in [
        &["agent", "list"][..],
        &["status"],
        &["approval", "list"],
        &["policy", "show"],
        &["audit", "verify"],
        &["audit", "checkpoint"],
        &["cluster", "status"],
        &["cluster", "backup", "copy"],
        &["seal", "rotate"],
    ] {
        place.run(command).fails(2, &["countersign login", "countersign dev", "COUNTERSIGN_ADDR"]);
    }
}

#[test]
fn an_address_without_a_token_asks_for_one() {
    let control_plane = ControlPlane::start();
    let mut place = Place::knowing(&control_plane);
    place.set("COUNTERSIGN_TOKEN", "");
    place.run(&["agent", "list"]).fails(2, &["COUNTERSIGN_TOKEN"]);
    assert!(control_plane.was_asked_nothing());
}

#[test]
fn nobody_there_exits_3() {
    let control_plane = ControlPlane::start();
    let mut place = Place::knowing(&control_plane);
    place.set("COUNTERSIGN_ADDR", "https://127.0.0.1:1");
    place
        .run(&["agent", "list"])
        .fails(3, &["https://127.0.0.1:1 cannot be reached", "is it running"]);
}

#[test]
fn a_server_of_another_authority_gets_no_token() {
    let control_plane = ControlPlane::start();
    let other = ControlPlane::start();
    let mut place = Place::knowing(&control_plane);
    place.set("COUNTERSIGN_ADDR", other.addr());
    place.run(&["agent", "list"]).fails(3, &["certificate", "COUNTERSIGN_CA"]);
    assert!(other.was_asked_nothing());
}

#[test]
fn a_ca_file_that_is_none_exits_2() {
    let mut place = Place::knowing(&ControlPlane::start());
    let broken = place.write("broken.pem", "not a certificate");
    place.set("COUNTERSIGN_CA", &broken);
    place.run(&["agent", "list"]).fails(2, &["broken.pem"]);
    place.set("COUNTERSIGN_CA", "/nowhere/ca.pem");
    place.run(&["agent", "list"]).fails(2, &["/nowhere/ca.pem"]);
}

#[test]
fn every_refusal_is_one_sentence_with_its_exit_code() {
    let cases = [
        (Status::not_found("there is no agent named x"), 1, "there is no agent named x"),
        (Status::permission_denied("that takes the role admin"), 1, "that takes the role admin"),
        (Status::unauthenticated("unknown token"), 1, "countersign login"),
        (Status::unavailable("sealed: unseal it with `countersign seal unseal`"), 1, "seal unseal"),
        (Status::unavailable("no leader"), 3, "no leader"),
        (Status::deadline_exceeded(""), 3, "in time"),
        (Status::unimplemented(""), 1, "older"),
        (Status::internal(""), 1, "refused"),
    ];
    for (status, code, words) in cases {
        let control_plane = ControlPlane::start().refuses("ListAgents", status);
        Place::knowing(&control_plane).run(&["agent", "list"]).fails(code, &[words]);
    }
}

#[test]
fn what_is_wrong_with_a_policy_is_a_line_each() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("text", "policy.toml:3: rule \"a\": no host");
    details.add_bad_request_violation("text", "policy.toml:9: rule \"b\": then is not a word");
    let status = Status::with_error_details(tonic::Code::InvalidArgument, "two mistakes", details);
    let control_plane = ControlPlane::start().refuses("SetPolicy", status);
    let place = Place::knowing(&control_plane);
    place.write("policy.toml", "version = 1\n");
    let ran = place.run(&["policy", "set", "policy.toml"]);
    assert_eq!(ran.code, Some(1));
    let lines: Vec<&str> = ran.said.lines().collect();
    assert_eq!(
        lines,
        [
            "countersign: policy.toml:3: rule \"a\": no host",
            "countersign: policy.toml:9: rule \"b\": then is not a word"
        ]
    );
}

#[test]
fn c_8_what_a_server_says_cannot_steer_the_terminal() {
    let evil = "x\x1b]0;owned\x07\x1b[2J\r\u{9b}31m\u{202e}y";
    let agent = v1::Agent { name: evil.into(), ..v1::Agent::default() };
    let control_plane = ControlPlane::start()
        .answers(
            "ListAgents",
            &[v1::ListAgentsResponse { agents: vec![agent], next_page_token: String::new() }],
        )
        .refuses("RevokeAgent", Status::not_found(evil.replace(['\x07', '\x1b', '\r'], "")));
    let place = Place::knowing(&control_plane);
    let table = place.run(&["agent", "list"]).ok();
    let json = place.run(&["agent", "list", "-o", "json"]).ok();
    let error = place.run(&["agent", "revoke", "x"]).said;
    for text in [&table, &json, &error] {
        let raw = text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
        assert!(!raw, "{text:?}");
    }
    assert!(table.contains("x\\u{1b}]0;owned"), "{table}");
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed[0]["agent"], evil, "nothing is lost for programs");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let script = format!("{} completions bash | head -c 1", env!("CARGO_BIN_EXE_countersign"));
    let output = std::process::Command::new("bash")
        .args(["-o", "pipefail", "-c", &script])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
