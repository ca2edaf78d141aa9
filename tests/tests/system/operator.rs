//! The admin API from the outside: grpcurl (or buf curl), roles, reflection.

use std::process::{Command, Output};

use countersign_tests::World;
use countersign_tests::peers::tools;

use super::request_path::{bearer, world};

fn grpcurl(world: &World, token: Option<&str>, arguments: &[&str], input: &str) -> Output {
    let address = world.api_address();
    let path = tools().join("bin/grpcurl");
    if path.exists() {
        let mut command = Command::new(path);
        command.args(["-cacert", &world.api_ca(), "-max-time", "20"]);
        if let Some(token) = token {
            command.args(["-H", &format!("authorization: Bearer {token}")]);
        }
        if !input.is_empty() {
            command.args(["-d", input]);
        }
        return command
            .arg(address.trim_start_matches("https://"))
            .args(arguments)
            .output()
            .unwrap();
    }
    let buf = countersign_tests::peers::clients().join("../node_modules/.bin/buf");
    assert!(buf.exists(), "neither grpcurl nor buf is here: ./tests/run installs them");
    let mut command = Command::new(buf);
    command.args(["curl", "--cacert", &world.api_ca(), "--protocol", "grpc"]);
    if let Some(token) = token {
        command.args([
            "-H",
            &format!("authorization: Bearer {token}"),
            "--reflect-header",
            &format!("authorization: Bearer {token}"),
        ]);
    }
    match arguments {
        ["list"] => command.args(["--list-services", &address]).output().unwrap(),
        [method] => command
            .args([
                "-d",
                if input.is_empty() { "{}" } else { input },
                &format!("{address}/{method}"),
            ])
            .output()
            .unwrap(),
        _ => panic!("not a call: {arguments:?}"),
    }
}

#[test]
fn grpcurl_lists_services_and_approvals_by_reflection() {
    let (_origin, world, agent, credential) = world();
    let _waiting = world.fetch_later(
        &agent,
        &["-X", "DELETE", "-H", &bearer(&credential), "https://api.example.test/v1/projects/9"],
    );
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    let token = world.admin_token();
    let services = grpcurl(&world, Some(&token), &["list"], "");
    let said = String::from_utf8_lossy(&services.stdout).into_owned();
    assert!(
        said.contains("countersign.v1.AdminService"),
        "{said}{}",
        String::from_utf8_lossy(&services.stderr)
    );
    let list = grpcurl(&world, Some(&token), &["countersign.v1.AdminService/ListApprovals"], "");
    let said = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        said.contains(&id) && said.contains("APPROVAL_STATE_PENDING"),
        "{said}{}",
        String::from_utf8_lossy(&list.stderr)
    );
}

#[test]
fn c_13_reflection_and_calls_need_a_token() {
    let (_origin, world, _agent, _credential) = world();
    for token in [None, Some("cs_adm_wrong")] {
        let services = grpcurl(&world, token, &["list"], "");
        assert!(!services.status.success());
        assert!(!String::from_utf8_lossy(&services.stdout).contains("AdminService"));
        let list = grpcurl(&world, token, &["countersign.v1.AdminService/ListApprovals"], "");
        assert!(!list.status.success());
    }
}

#[test]
fn an_auditor_reads_and_does_not_decide_and_an_approver_decides_and_does_not_administer() {
    let (origin, world, agent, credential) = world();
    world.ok(&["policy", "show"]);
    let token = |name: &str, role: &str| {
        world.json(&["approver", "add", name, "--role", role])["token"]
            .as_str()
            .expect("a token, shown once")
            .to_owned()
    };
    let (auditor, approver) = (token("audrey", "auditor"), token("anna", "approver"));
    let waiting = world.fetch_later(
        &agent,
        &["-X", "DELETE", "-H", &bearer(&credential), "https://api.example.test/v1/projects/9"],
    );
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    let status = |token: &str, arguments: &[&str]| {
        world.cli_as(token, arguments).output().unwrap().status.code()
    };
    assert_eq!(status(&auditor, &["audit", "list"]), Some(0));
    assert_eq!(
        status(&auditor, &["approval", "approve", &id]),
        Some(1),
        "an auditor does not decide"
    );
    assert_eq!(status(&auditor, &["agent", "create", "x"]), Some(1));
    assert_eq!(status(&approver, &["approval", "list"]), Some(0));
    assert_eq!(
        status(&approver, &["agent", "create", "x"]),
        Some(1),
        "an approver does not administer"
    );
    assert_eq!(
        status(&approver, &["approval", "approve", &id]),
        Some(1),
        "the rule names admin, not anna"
    );
    assert!(origin.seen().is_empty());
    world.ok(&["approval", "approve", &id]);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn approval_wait_and_watch_follow_an_approval_to_its_end() {
    let (_origin, world, agent, credential) = world();
    let waiting = world.fetch_later(
        &agent,
        &["-X", "DELETE", "-H", &bearer(&credential), "https://api.example.test/v1/projects/9"],
    );
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    let follower =
        world.cli(&["approval", "wait", &id]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    world.ok(&["approval", "deny", &id]);
    assert_eq!(waiting.answer().status, 403);
    let output = follower.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("denied"));
}

#[test]
fn an_exported_audit_verifies_offline_and_a_change_in_it_is_found() {
    let (_origin, world, agent, credential) = world();
    assert_eq!(
        world.fetch(&agent, &["-H", &bearer(&credential), "https://api.example.test/v1/a"]).status,
        200
    );
    let export = world.ok(&["audit", "export"]);
    let file = world.dir().join("audit.jsonl");
    std::fs::write(&file, &export).unwrap();
    let verify = |path: &std::path::Path| {
        let mut command = Command::new(countersign_tests::world::binary());
        command
            .current_dir(world.dir())
            .args(["audit", "verify", path.to_str().unwrap(), "-o", "json"])
            .output()
            .unwrap()
    };
    assert!(verify(&file).status.success(), "{}", String::from_utf8_lossy(&verify(&file).stderr));
    let forged = export.replacen("robot", "human", 1);
    assert_ne!(forged, export);
    std::fs::write(&file, forged).unwrap();
    assert_eq!(verify(&file).status.code(), Some(1), "C-9");
    let fewer: Vec<&str> =
        export.lines().enumerate().filter(|(i, _)| *i != 2).map(|(_, l)| l).collect();
    std::fs::write(&file, fewer.join("\n")).unwrap();
    assert_eq!(verify(&file).status.code(), Some(1), "a record is missing");
}
