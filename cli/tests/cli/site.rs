//! A whole site: `dev` as a process, and the story that `demo` plays.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;

use super::run::Place;

const ANYWHERE: [&str; 6] =
    ["--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--web-listen", "127.0.0.1:0"];

/// `countersign dev` in a place, serving.
struct Dev {
    process: Child,
    log: JoinHandle<String>,
    ready: Value,
}

impl Dev {
    /// Starts it and reads its log until everything serves.
    fn start(place: &Place) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .current_dir(place.path())
            .env_remove("COUNTERSIGN_LOG")
            .env_remove("RUST_LOG")
            .args(["dev", "--ready-file", "ready.json"])
            .args(ANYWHERE)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut read = String::new();
        while !read.contains("everything serves") {
            assert_ne!(log.read_line(&mut read).unwrap(), 0, "dev ended: {read}");
        }
        let rest = std::thread::spawn(move || {
            log.read_to_string(&mut read).unwrap();
            read
        });
        let ready = std::fs::read_to_string(place.path().join("ready.json")).unwrap();
        Self { process, log: rest, ready: serde_json::from_str(&ready).unwrap() }
    }

    fn text(&self, pointer: &str) -> &str {
        self.ready
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("{pointer} of {}", self.ready))
    }

    /// SIGTERM: its exit code, and all that it logged.
    fn stop(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        (self.process.wait().unwrap().code(), self.log.join().unwrap())
    }
}

#[test]
fn dev_announces_itself_stops_when_told_to_and_comes_back_with_what_it_had() {
    let place = Place::empty();
    let dev = Dev::start(&place);
    let ready = place.path().join("ready.json");
    assert_eq!(std::fs::metadata(&ready).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(dev.text("/edge/proxy").starts_with("http://127.0.0.1:"));
    assert!(dev.text("/api/addr").starts_with("https://127.0.0.1:"));
    assert!(dev.text("/web").starts_with("http://127.0.0.1:"));
    for pointer in ["/edge/ca", "/api/ca"] {
        assert!(dev.text(pointer).starts_with('/'), "an absolute path");
        assert!(std::fs::read_to_string(dev.text(pointer)).unwrap().contains("BEGIN CERTIFICATE"));
    }
    assert_eq!(dev.ready["pid"], dev.process.id());
    let token = dev.text("/admin_token").to_owned();

    // In the same directory, nothing has to be set.
    let made = place.run(&["agent", "create", "robot", "-o", "json"]).json();
    let proxy = made["proxy"].as_str().unwrap();
    assert!(proxy.ends_with(dev.text("/edge/proxy").trim_start_matches("http://")), "{proxy}");
    assert_eq!(place.run(&["status", "-o", "json"]).json()["connected_edges"], 1);

    let (code, log) = dev.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("NOT FOR PRODUCTION"), "{log}");
    assert!(!log.contains(&token) && !log.contains(made["token"].as_str().unwrap()), "{log}");
    place.run(&["agent", "list"]).fails(3, &["cannot be reached"]);

    let again = Dev::start(&place);
    assert_eq!(again.text("/admin_token"), token);
    assert_eq!(place.run(&["agent", "list", "-o", "json"]).json()[0]["agent"], "robot");
    assert!(place.run(&["audit", "verify", "-o", "json"]).json()["ok"].as_bool().unwrap());
    assert_eq!(again.stop().0, Some(0));
}

#[test]
fn dev_says_which_port_is_taken_and_by_whom_a_directory_is_used() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--edge-listen", "--api-listen", "--web-listen", "--gateway-listen"] {
        let mut arguments = vec!["dev"];
        for pair in ANYWHERE.chunks(2).filter(|pair| pair[0] != flag) {
            arguments.extend(pair);
        }
        arguments.extend([flag, &address]);
        let ran = Place::empty().run(&arguments);
        assert_eq!(ran.code, Some(1), "{}", ran.said);
        let last = ran.said.lines().last().unwrap();
        assert!(
            last.starts_with("countersign: ") && last.contains(&address),
            "{flag}: {}",
            ran.said
        );
    }
    let place = Place::empty();
    let dev = Dev::start(&place);
    let ran = place.run(&[&["dev"][..], &ANYWHERE].concat());
    assert_eq!(ran.code, Some(1));
    assert!(ran.said.lines().last().unwrap().contains("in use"), "{}", ran.said);
    assert_eq!(place.run(&["status"]).code, Some(0), "the first one still serves");
    assert_eq!(dev.stop().0, Some(0));
}

#[test]
fn the_story_holds_when_the_answer_is_yes() {
    let ran = Place::empty().run(&["demo", "--answer", "approve"]);
    assert_eq!(ran.said, "", "nothing interrupts the story");
    let told = ran.ok();
    for sentence in [
        "The API saw one DELETE, with the real key",
        "yes was for one delete",
        "Every sentence above was checked",
    ] {
        assert!(told.contains(sentence), "{sentence:?} is not in {told}");
    }
}

#[test]
fn the_story_holds_when_the_answer_is_no() {
    let ran = Place::empty().run(&["demo", "--answer", "deny"]);
    assert_eq!(ran.said, "", "nothing interrupts the story");
    let told = ran.ok();
    for sentence in
        ["403 approval_denied", "The API saw nothing of it", "Every sentence above was checked"]
    {
        assert!(told.contains(sentence), "{sentence:?} is not in {told}");
    }
    assert!(!told.contains("The API saw one DELETE"), "{told}");
}
