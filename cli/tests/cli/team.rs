//! A vault that a team holds, on a control plane as it is: from its first command on.

use age::x25519::Identity;
use countersign_control_plane::config::{Begin, ClusterConfig};
use countersign_control_plane::node::{Config, ControlPlane, SealConfig};
use tokio::runtime::Runtime;

use super::run::Place;

/// A node that waits for `cluster init`, in this process; it stops when this is dropped.
struct Node {
    control: Option<ControlPlane>,
    runtime: Runtime,
}

impl Node {
    fn start(place: &mut Place, dir: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            data_dir: place.path().join(dir),
            api_listen: anywhere,
            gateway_listen: anywhere,
            seal: SealConfig::Shamir,
            cluster: ClusterConfig {
                name: "n1".into(),
                begin: Begin::Manual,
                ..ClusterConfig::default()
            },
            ..Config::default()
        };
        let runtime = Runtime::new().unwrap();
        let control = runtime.block_on(ControlPlane::start(config)).unwrap();
        place.set("COUNTERSIGN_ADDR", &format!("https://{}", control.api_addr()));
        place.set("COUNTERSIGN_CA", control.api_ca_path().to_str().unwrap());
        Self { control: Some(control), runtime }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(control) = self.control.take() {
            self.runtime.block_on(control.shutdown());
        }
    }
}

/// Three people, two of whom open the vault.
struct Team {
    people: Vec<Identity>,
    /// The public key of the trust root.
    root: String,
}

impl Team {
    /// Begins a cluster on the node that the place knows.
    fn begins(place: &mut Place) -> Self {
        let people: Vec<Identity> = (0..3).map(|_| Identity::generate()).collect();
        let recipients: Vec<String> =
            people.iter().map(|person| format!("--recipient={}", person.to_public())).collect();
        let mut init = vec!["cluster", "init", "--seal", "shamir", "--threshold", "2"];
        init.extend(["--admin-token-file", "token", "--root-key-file", "root.key"]);
        init.extend(["--shares-dir", "shares"]);
        init.extend(recipients.iter().map(String::as_str));
        let said = place.run(&init).ok();
        let root = said.lines().find_map(|line| line.strip_prefix("root public key")).unwrap();
        place.run(&init).fails(1, &["token is there already"]);
        place.set("COUNTERSIGN_TOKEN_FILE", "token");
        Self { people, root: root.trim().to_owned() }
    }

    /// What somebody reads when they decrypt what is theirs; counted from 0.
    fn share(&self, place: &Place, person: usize) -> String {
        let encrypted = place.read(&format!("shares/share-{}.age", person + 1));
        let read = age::decrypt(&self.people[person], encrypted.as_bytes()).unwrap();
        String::from_utf8(read).unwrap()
    }
}

#[test]
fn a_team_begins_a_cluster_opens_it_and_gives_it_away() {
    let mut place = Place::empty();
    let node = Node::start(&mut place, "n1");
    let team = Team::begins(&mut place);
    let root = team.root.as_str();
    assert!(place.run(&["status"]).ok().contains("1 voter, n1 leads"));
    let status = place.run(&["seal", "status"]).ok();
    assert!(status.contains("open") && status.contains("2 of 3 shares"), "{status}");

    // Sealed, nothing is answered; two of the three open it.
    place.run(&["seal", "seal"]).ok();
    place.run(&["agent", "list"]).fails(1, &["sealed"]);
    let share = |person| team.share(&place, person);
    let mut mistyped = share(0).trim_end().to_owned();
    let last = mistyped.pop();
    mistyped.push(if last == Some('0') { '1' } else { '0' });
    place.run_with(&["seal", "unseal"], &mistyped).fails(1, &["share 1"]);
    let said = place.run_with(&["seal", "unseal"], &share(0)).ok();
    assert_eq!(said, "Still sealed: 1 of 2 (share 1).\n");
    assert!(place.run(&["seal", "status"]).ok().contains("1 of 2 (share 1)"));
    assert_eq!(place.run_with(&["seal", "unseal"], &share(2)).ok(), "Open.\n");

    // To a passphrase: it takes two shares once more, and then opens with nothing else.
    place.write("first", &share(1));
    place.write("second", &share(2));
    place.write("new", "correct horse\n");
    let mut rekey = vec!["seal", "rekey", "--seal", "passphrase", "--new-passphrase-file", "new"];
    let began = place.run(&rekey).ok();
    let id = began.split_whitespace().nth(1).unwrap();
    assert!(began.contains(&format!("--rekey-id {id} --authorize")), "{began}");
    place.run(&["seal", "rekey", "--rekey-id", id, "--cancel"]).ok();
    rekey.extend(["--share-file", "first", "--share-file", "second"]);
    let said = place.run(&rekey).ok();
    assert!(said.contains("Authorised by 1 of 2 (share 2)"), "{said}");
    assert!(said.contains("The new seal is in force"), "{said}");
    place.run(&["seal", "seal"]).ok();
    place.run_with(&["seal", "unseal"], "wrong\n").fails(1, &["wrong passphrase"]);
    assert_eq!(place.run_with(&["seal", "unseal"], "correct horse\n").ok(), "Open.\n");

    // What was done is on record, signed, for whoever has the root's public key.
    place.run(&["audit", "export", "--to", "audit.jsonl"]).ok();
    let kept = place.run(&["audit", "checkpoint"]).ok();
    place.write("kept", &kept);
    let verify = ["audit", "verify", "audit.jsonl", "--root-key", root];
    let said = place.run(&verify).ok();
    assert!(said.contains("Enough nodes signed it"), "{said}");
    place.run(&["audit", "export", "--to", "audit.jsonl"]).ok();
    place.run(&[&verify[..], &["--checkpoint", "kept"]].concat()).ok();
    let shown = place.run(&["cluster", "trust"]).ok();
    assert!(shown.contains(root) && shown.contains("1 of 1 nodes"), "{shown}");
    drop(node);
}

#[test]
fn a_backup_comes_to_life_as_a_cluster_of_one_new_node() {
    let mut place = Place::empty();
    let node = Node::start(&mut place, "n1");
    let team = Team::begins(&mut place);
    place.run(&["approver", "add", "ana"]).ok();
    place.write("kept", &place.run(&["audit", "checkpoint"]).ok());
    let former = place.run(&["cluster", "status", "-o", "json"]).json()["node_id"].clone();
    place.run(&["cluster", "backup", "copy"]).ok();
    assert_eq!(place.mode("copy"), 0o600);
    drop(node);

    for person in 0..3 {
        place.write(&format!("share-{person}"), &team.share(&place, person));
    }
    let restore = |file, dir, shares: &[&'static str]| {
        let flags = shares.iter().flat_map(|share| ["--share-file", share]);
        let command = ["cluster", "restore", file, "--data-dir", dir, "-o", "json"];
        place.run(&command.into_iter().chain(flags).collect::<Vec<_>>())
    };
    restore("copy", "n1", &["share-0", "share-2"]).fails(1, &["n1", "empty directory"]);
    restore("copy", "n2", &["share-0"]).fails(2, &["2 shares"]);
    restore("copy", "n2", &["share-0", "share-0"]).fails(1, &["share 1"]);
    let whole = std::fs::read(place.path().join("copy")).unwrap();
    std::fs::write(place.path().join("cut"), &whole[..whole.len() - 1]).unwrap();
    restore("cut", "n3", &["share-0", "share-2"]).fails(1, &["damaged"]);
    let made = restore("copy", "n2", &["share-0", "share-2"]).json();
    assert_ne!(made["node_id"], former, "an id is never used again");
    restore("copy", "n2", &["share-0", "share-2"]).fails(1, &["n2", "empty directory"]);

    let node = Node::start(&mut place, "n2");
    place.run(&["approver", "list"]).fails(1, &["sealed"]);
    place.run(&["seal", "unseal", "--share-file", "share-1"]).ok();
    place.run(&["seal", "unseal", "--share-file", "share-2"]).ok();
    assert!(place.run(&["approver", "list"]).ok().contains("ana"));

    // Edges trust it once the trust root says so, and not the node that is lost.
    let trust = place.run(&["cluster", "trust", "-o", "json"]).json();
    assert!(trust["proposed"]["epoch"].as_u64().unwrap() > 1000, "{trust}");
    let said = place.run(&["cluster", "trust", "--root-key", "root.key", "--yes"]).ok();
    let lost = said.lines().find(|line| line.contains(former.as_str().unwrap())).unwrap();
    assert!(lost.starts_with("- ") && lost.contains("signs no more"), "{said}");
    place.run(&["audit", "export", "--to", "audit.jsonl"]).ok();
    let against = ["--root-key", &team.root, "--checkpoint", "kept"];
    place.run(&[&["audit", "verify", "audit.jsonl"][..], &against].concat()).ok();
    drop(node);
}
