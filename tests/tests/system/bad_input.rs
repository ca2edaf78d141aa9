//! Mistakes of the people who run it: one sentence that says what to do, and nothing lost.

use std::process::{Command, Output};

use countersign_tests::world::binary;
use tempfile::TempDir;

use super::request_path::world;

fn dev(dir: &TempDir, arguments: &[&str]) -> Output {
    let listen = [
        "--edge-listen",
        "127.0.0.1:0",
        "--api-listen",
        "127.0.0.1:0",
        "--web-listen",
        "127.0.0.1:0",
    ];
    Command::new(binary())
        .current_dir(dir.path())
        .arg("dev")
        .args(listen)
        .args(arguments)
        .output()
        .unwrap()
}

/// The last line of standard error: what the person is told, after the banner and the log.
fn sentence(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_ready_file_that_cannot_be_written_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let output = dev(&dir, &["--ready-file", "/nowhere/at/all/ready.json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence(&output).contains("/nowhere/at/all/ready.json"), "{}", sentence(&output));
}

#[test]
fn a_broken_policy_names_file_line_and_rule() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("p.toml"),
        "version = 1\n\n[[rule]]\nname = \"x\"\nhost = \"a.example\"\nthen = \"perhaps\"\n",
    )
    .unwrap();
    let output = dev(&dir, &["--policy", "p.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("p.toml:6") && said.contains("\"x\"") && said.contains("perhaps"),
        "{said}"
    );
}

#[test]
fn a_port_in_use_is_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--edge-listen", "--api-listen", "--web-listen"] {
        let dir = tempfile::tempdir().unwrap();
        let mut arguments = vec!["dev"];
        for other in ["--edge-listen", "--api-listen", "--web-listen"] {
            arguments.extend([other, if other == flag { &address } else { "127.0.0.1:0" }]);
        }
        let output =
            Command::new(binary()).current_dir(dir.path()).args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag}");
        assert!(sentence(&output).contains(&address), "{flag}: {}", sentence(&output));
    }
}

#[test]
fn a_data_directory_in_use_is_refused_and_the_first_process_goes_on() {
    let (_origin, world, _agent, _credential) = world();
    let dir = tempfile::tempdir().unwrap();
    let output = dev(&dir, &["--data-dir", world.data_dir().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence(&output).contains("in use"), "{}", sentence(&output));
    assert_eq!(
        world.json(&["agent", "list"]).as_array().unwrap().len(),
        1,
        "the first one still serves"
    );
}

#[test]
fn r_12_a_corrupt_data_directory_is_refused_and_nothing_in_it_is_touched() {
    let (_origin, mut world, _agent, _credential) = world();
    world.kill();
    let biggest = world
        .files()
        .into_iter()
        .filter(|(path, _)| path.to_string_lossy().contains("db"))
        .max_by_key(|(_, b)| b.len());
    let (path, bytes) = biggest.expect("a database file");
    std::fs::write(&path, vec![0x5a; bytes.len()]).unwrap();
    let before = world.files();
    let dir = tempfile::tempdir().unwrap();
    let output = dev(&dir, &["--data-dir", world.data_dir().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", sentence(&output));
    assert!(!sentence(&output).contains("panicked"), "{}", sentence(&output));
    let names = |files: &[(std::path::PathBuf, Vec<u8>)]| {
        files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>()
    };
    for name in names(&before) {
        assert!(name.exists(), "{} was deleted", name.display());
    }
}

#[test]
fn wrong_tokens_and_unknown_names_exit_1_and_an_absent_server_3_and_nonsense_2() {
    let (_origin, world, _agent, _credential) = world();
    let code = |mut command: Command| {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
        output.status.code()
    };
    assert_eq!(code(world.cli_as("cs_adm_wrong", &["agent", "list"])), Some(1));
    assert_eq!(code(world.cli(&["approval", "show", "00000000000000000000000000000000"])), Some(1));
    assert_eq!(code(world.cli(&["agent", "revoke", "nobody"])), Some(1));
    let mut away = world.cli(&["agent", "list"]);
    away.env("COUNTERSIGN_ADDR", "https://127.0.0.1:1");
    assert_eq!(code(away), Some(3));
    let nonsense = world.cli(&["agent", "explode"]).output().unwrap();
    assert_eq!(nonsense.status.code(), Some(2));
}

#[test]
fn a_credential_value_on_the_command_line_is_not_taken() {
    let (_origin, world, _agent, _credential) = world();
    let output = world
        .cli(&[
            "credential",
            "create",
            "other",
            "--host",
            "a.example",
            "--slot",
            "header",
            "--value",
            "secret",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "usage");
}
