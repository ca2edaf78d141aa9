//! The arrows of ARCHITECTURE.md, read off the sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(folder: &str) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.insert(
                    path.strip_prefix(root()).unwrap().to_owned(),
                    std::fs::read_to_string(&path).unwrap(),
                );
            }
        }
    }
    found
}

/// Files below `folder` that mention `word` outside comments, save for those below `allowed`.
fn mentions(folder: &str, word: &str, allowed: &[&str]) -> Vec<PathBuf> {
    let code = |text: &str| {
        text.lines().filter(|l| !l.trim_start().starts_with("//")).any(|l| l.contains(word))
    };
    sources(folder)
        .into_iter()
        .filter(|(path, text)| code(text) && !allowed.iter().any(|a| path.starts_with(a)))
        .map(|(path, _)| path)
        .collect()
}

#[test]
fn packages_depend_along_the_arrows_only() {
    let output = std::process::Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("countersign-chat", &[][..]),
        ("countersign-gate", &[]),
        ("countersign-proto", &[]),
        ("countersign-sql", &[]),
        ("countersign-policy", &["countersign-gate", "countersign-sql"]),
        ("countersign-describe", &["countersign-gate", "countersign-policy", "countersign-sql"]),
        (
            "countersign-control-plane",
            &[
                "countersign-chat",
                "countersign-describe",
                "countersign-gate",
                "countersign-policy",
                "countersign-proto",
            ],
        ),
        (
            "countersign-edge-gateway",
            &["countersign-proto", "countersign-gate", "countersign-policy", "countersign-sql"],
        ),
        (
            "countersign-cli",
            &[
                "countersign-chat",
                "countersign-control-plane",
                "countersign-edge-gateway",
                "countersign-gate",
                "countersign-policy",
                "countersign-proto",
            ],
        ),
        (
            "countersign-tests",
            &[
                "countersign-control-plane",
                "countersign-edge-gateway",
                "countersign-gate",
                "countersign-policy",
                "countersign-proto",
                "countersign-sql",
            ],
        ),
    ]);
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), allowed.len(), "a package that ARCHITECTURE.md does not name");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            let test_only = dependency["kind"] == "dev";
            assert!(
                !on.starts_with("countersign-") || test_only || allowed[name].contains(&on),
                "{name} depends on {on}"
            );
        }
    }
}

#[test]
fn the_gate_uses_the_five_crates_that_it_may() {
    let manifest = std::fs::read_to_string(root().join("edge-gateway/gate/Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names: Vec<&str> = section
        .lines()
        .filter_map(|l| l.split(['.', ' ', '=']).next())
        .filter(|n| !n.is_empty())
        .collect();
    assert_eq!(names, ["bytes", "ed25519-dalek", "http", "sha2", "zeroize"]);
    for banned in [
        "async ",
        "std::fs",
        "std::net",
        "std::env",
        "std::process",
        "std::thread",
        "std::time",
        "SystemTime",
        "unsafe",
        "static mut",
        "println!",
        "tracing",
    ] {
        assert_eq!(
            mentions("edge-gateway/gate/src", banned, &[]),
            Vec::<PathBuf>::new(),
            "{banned}"
        );
    }
}

#[test]
fn what_reads_statements_is_pure_and_stands_alone() {
    let manifest = std::fs::read_to_string(root().join("edge-gateway/sql/Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    assert_eq!(section.trim(), "", "it has no dependencies");
    for banned in [
        "std::fs",
        "std::net",
        "std::env",
        "std::thread",
        "std::time",
        "unsafe",
        ".unwrap()",
        ".expect(",
    ] {
        assert_eq!(
            mentions("edge-gateway/sql/src", banned, &[]),
            Vec::<PathBuf>::new(),
            "{banned}"
        );
    }
}

#[test]
fn what_describes_reads_with_the_policys_readers_and_touches_nothing() {
    for banned in [
        "std::fs",
        "std::net",
        "std::env",
        "std::time",
        "SystemTime",
        "tokio",
        "serde_json",
        "unsafe",
    ] {
        assert_eq!(
            mentions("control-plane/describe/src", banned, &[]),
            Vec::<PathBuf>::new(),
            "{banned}"
        );
    }
}

#[test]
fn only_the_cluster_room_knows_openraft_and_sled() {
    for word in ["openraft::", "sled::"] {
        assert_eq!(
            mentions("control-plane/src", word, &["control-plane/src/cluster"]),
            Vec::<PathBuf>::new(),
            "{word}"
        );
    }
}

#[test]
fn the_state_knows_no_proto_no_raft_no_clock_and_no_dice() {
    for word in
        ["countersign_proto", "openraft", "SystemTime", "Instant", "rand::", "tokio", "std::fs"]
    {
        assert_eq!(mentions("control-plane/src/state", word, &[]), Vec::<PathBuf>::new(), "{word}");
    }
}

#[test]
fn at_the_edge_only_control_and_the_bundle_know_proto_and_only_upstream_dials() {
    let doors =
        ["edge-gateway/src/control.rs", "edge-gateway/src/control", "edge-gateway/src/bundle.rs"];
    assert_eq!(mentions("edge-gateway/src", "countersign_proto", &doors), Vec::<PathBuf>::new());
    assert_eq!(
        mentions(
            "edge-gateway/src",
            "TcpStream::connect",
            &["edge-gateway/src/upstream.rs", "edge-gateway/src/upstream"]
        ),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn in_the_control_plane_only_the_clients_of_notify_and_mint_call_out_and_only_peers_and_they_dial()
{
    let client = ["control-plane/src/notify/client.rs", "control-plane/src/notify/client"];
    for word in ["reqwest::", "lettre::", "tungstenite::client"] {
        assert_eq!(mentions("control-plane/src", word, &client), Vec::<PathBuf>::new(), "{word}");
    }
    let dialling =
        [&client[..], &["control-plane/src/mint/client.rs", "control-plane/src/peers"]].concat();
    let found = mentions("control-plane/src", "TcpStream::connect", &dialling);
    assert_eq!(found, Vec::<PathBuf>::new());
}

#[test]
fn the_platforms_do_no_io() {
    let words = [
        "tokio",
        "std::net",
        "std::fs",
        "lettre::transport",
        "SystemTime::now",
        "rand::",
        "async ",
    ];
    for word in words {
        assert_eq!(mentions("control-plane/chat/src", word, &[]), Vec::<PathBuf>::new(), "{word}");
    }
}

#[test]
fn only_refuse_picks_a_status() {
    assert_eq!(
        mentions("edge-gateway/src", "StatusCode::FORBIDDEN", &["edge-gateway/src/refuse.rs"]),
        Vec::<PathBuf>::new()
    );
    assert_eq!(
        mentions("edge-gateway/src", "StatusCode::CONFLICT", &["edge-gateway/src/refuse.rs"]),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn nothing_at_the_root_but_the_card() {
    let output =
        std::process::Command::new("git").current_dir(root()).args(["ls-files"]).output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let rooms = ["Cargo.toml", "proto", "control-plane", "edge-gateway", "cli", "tests", "deploy"];
    let documents = [
        "README.md",
        "APPROVERS.md",
        "POLICY.md",
        "ARCHITECTURE.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE",
        "Cargo.lock",
        "rust-toolchain.toml",
    ];
    for name in listed.lines().filter_map(|line| line.split('/').next()) {
        assert!(
            name.starts_with('.') || rooms.contains(&name) || documents.contains(&name),
            "{name} is not on the card"
        );
    }
}
