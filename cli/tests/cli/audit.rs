//! The audit log, with a control plane and without.

use countersign_control_plane::sign::RootKey;
use countersign_control_plane::state::Record;
use countersign_control_plane::state::audit::{CHECKPOINT_TYPE, Checkpoint};
use countersign_gate::{KeyState, NodeKey, TRUST_TYPE, Trust};
use countersign_proto::v1;
use ed25519_dalek::SigningKey;
use prost_types::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use v1::export_audit_response::Item;

use super::control_plane::ControlPlane;
use super::run::Place;

/// A log of ten records under one trust bundle of two nodes, and a checkpoint of record 8 that both signed.
struct Log {
    root: RootKey,
    keys: [SigningKey; 2],
    trust: Trust,
    records: Vec<Record>,
}

impl Log {
    fn new() -> Self {
        let keys = [1, 2].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        let key = |(node, key): (u64, &SigningKey)| NodeKey {
            node,
            public: key.verifying_key().to_bytes(),
            state: KeyState::Active,
        };
        let trust = Trust {
            cluster: "c1".into(),
            epoch: 1,
            threshold: 2,
            keys: (1..).zip(&keys).map(key).collect(),
        };
        let root = RootKey::from_hex(&"5a".repeat(32)).unwrap();
        let mut log = Self { root, keys, trust, records: Vec::new() };
        let bundle = hex::encode(Sha256::digest(log.trust.encode()));
        log.append("cluster.begin", "c1", vec![("sha256".into(), bundle)]);
        for index in 2..=10 {
            log.append("approval.vote", &format!("a{index}"), Vec::new());
        }
        log
    }

    fn append(&mut self, action: &str, subject: &str, details: Vec<(String, String)>) {
        let index = self.records.len() as u64 + 1;
        let mut record = Record {
            index,
            at: 1_700_000_000_000 + index,
            actor: "principal:ana".into(),
            action: action.into(),
            subject: subject.into(),
            details,
            previous: self.records.last().map_or([0; 32], |last| last.hash),
            hash: [0; 32],
        };
        record.hash = record.computed_hash();
        self.records.push(record);
    }

    /// The same, with another history from this record on.
    fn forked_at(mut self, index: usize) -> Self {
        self.records.truncate(index - 1);
        for again in index..=10 {
            self.append("approval.vote", &format!("forged{again}"), Vec::new());
        }
        self
    }

    fn public(&self) -> String {
        hex::encode(self.root.public())
    }

    fn preamble(&self) -> Item {
        let signed = self.root.sign(self.trust.encode());
        let signature = signed.signatures[0].signature.clone();
        Item::Preamble(v1::AuditPreamble {
            cluster_id: "c1".into(),
            root_public_key: self.root.public().to_vec().into(),
            trust_bundles: vec![envelope(TRUST_TYPE, signed.payload, vec![signature])],
        })
    }

    /// Of record 8 as it is here, signed by so many nodes.
    fn checkpoint(&self, signers: usize) -> Item {
        let record = &self.records[7];
        let (head, at) = (record.hash, record.at);
        let checkpoint = Checkpoint { cluster_id: "c1".into(), index: 8, head, at };
        let payload = checkpoint.encode();
        let sign = |key| countersign_gate::sign(key, CHECKPOINT_TYPE, &payload).to_vec();
        let signatures = self.keys.iter().take(signers).map(sign).collect();
        Item::Checkpoint(v1::AuditCheckpoint {
            index: 8,
            head: hex::encode(head),
            epoch: 1,
            envelope: Some(envelope(CHECKPOINT_TYPE, payload, signatures)),
        })
    }

    fn items(&self) -> Vec<Item> {
        let record = |record: &Record| {
            let at = i64::try_from(record.at).unwrap();
            let nanos = i32::try_from(at % 1000 * 1_000_000).unwrap();
            let detail = |(name, value): &(String, String)| v1::AuditDetail {
                name: name.clone(),
                value: value.clone(),
            };
            Item::Record(v1::AuditRecord {
                index: record.index,
                at: Some(Timestamp { seconds: at / 1000, nanos }),
                actor: record.actor.clone(),
                action: record.action.clone(),
                subject: record.subject.clone(),
                details: record.details.iter().map(detail).collect(),
                previous_hash: hex::encode(record.previous),
                hash: hex::encode(record.hash),
            })
        };
        [self.preamble()].into_iter().chain(self.records.iter().map(record)).collect()
    }

    /// All of it, and this checkpoint.
    fn exported(&self, checkpoint: Item) -> Place {
        let mut items = self.items();
        items.push(checkpoint);
        exported(items)
    }
}

fn envelope(payload_type: &str, payload: Vec<u8>, signatures: Vec<Vec<u8>>) -> v1::Envelope {
    let signature = |signature: Vec<u8>| v1::Signature {
        key_id: Vec::new().into(),
        signature: signature.into(),
    };
    v1::Envelope {
        payload_type: payload_type.into(),
        signatures: signatures.into_iter().map(signature).collect(),
        payload: payload.into(),
    }
}

/// A place with what a control plane exported, in `audit.jsonl`, and its newest checkpoint in `kept`.
fn exported(items: Vec<Item>) -> Place {
    let answers: Vec<_> =
        items.into_iter().map(|item| v1::ExportAuditResponse { item: Some(item) }).collect();
    let control_plane = ControlPlane::start().answers("ExportAudit", &answers);
    let place = Place::knowing(&control_plane);
    place.run(&["audit", "export", "--to", "audit.jsonl"]).ok();
    let kept = place.run(&["audit", "checkpoint"]);
    place.write("kept", &kept.out);
    place
}

const VERIFY: [&str; 5] = ["audit", "verify", "audit.jsonl", "-o", "json"];

fn verify(place: &Place, against: &[&str]) -> (Option<i32>, Value) {
    let ran = place.run(&[&VERIFY[..], against].concat());
    (ran.code, serde_json::from_str(&ran.out).unwrap_or_else(|why| panic!("{why}: {}", ran.said)))
}

#[test]
fn audit_verify_says_so_and_exits_1_when_it_does_not_hold() {
    let head = "ab".repeat(32);
    let verdict = |ok, broken_at| v1::VerifyAuditResponse {
        ok,
        entries: 42,
        head: head.clone(),
        broken_at,
        checkpointed: 40,
    };
    let control_plane = ControlPlane::start().answers("VerifyAudit", &[verdict(true, None)]);
    let place = Place::knowing(&control_plane);
    let printed = place.run(&["audit", "verify", "-o", "json"]).json();
    assert_eq!(printed, json!({"ok": true, "entries": 42, "head": head, "checkpointed": 40}));
    assert!(place.run(&["audit", "verify"]).ok().contains("signed it up to record 40"));
    let control_plane = ControlPlane::start().answers("VerifyAudit", &[verdict(false, Some(7))]);
    let place = Place::knowing(&control_plane);
    place.run(&["audit", "verify"]).fails(1, &["at record 7"]);
    assert_eq!(place.run(&["audit", "verify", "-o", "json"]).code, Some(1));
}

#[test]
fn an_export_is_lines_that_say_what_they_are() {
    let log = Log::new();
    let place = log.exported(log.checkpoint(2));
    let text = place.read("audit.jsonl");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 12);
    assert_eq!(lines[0]["type"], "preamble");
    assert_eq!(
        (&lines[0]["cluster_id"], &lines[0]["root_public_key"]),
        (&json!("c1"), &json!(log.public()))
    );
    assert_eq!(
        lines[2],
        json!({
            "type": "record", "index": 2, "at": "2023-11-14T22:13:20.002Z", "actor": "principal:ana",
            "action": "approval.vote", "subject": "a2", "details": [], "previous_hash": lines[1]["hash"],
            "hash": hex::encode(log.records[1].hash)
        })
    );
    assert_eq!((&lines[11]["type"], &lines[11]["index"]), (&json!("checkpoint"), &json!(8)));
    assert_eq!(serde_json::from_str::<Value>(&place.read("kept")).unwrap(), lines[11]);
}

#[test]
fn c_9_a_file_alone_is_never_called_verified() {
    let log = Log::new();
    let place = log.exported(log.checkpoint(2));
    let said = place.run(&["audit", "verify", "audit.jsonl"]).ok();
    assert!(said.contains("Chain ok, signatures not checked: give --root-key"), "{said}");
    let (code, verdict) = verify(&place, &[]);
    assert_eq!(code, Some(0));
    assert_eq!(
        verdict,
        json!({
            "ok": true, "entries": 10, "head": hex::encode(log.records[9].hash), "checkpointed": 0,
            "signatures_checked": false
        })
    );
}

#[test]
fn c_9_an_export_is_verified_against_the_root_key_and_what_was_kept() {
    let log = Log::new();
    let place = log.exported(log.checkpoint(2));
    let against = ["--root-key", &log.public(), "--checkpoint", "kept"];
    let (code, verdict) = verify(&place, &against);
    assert_eq!(code, Some(0));
    assert_eq!(
        verdict,
        json!({
            "ok": true, "entries": 10, "head": hex::encode(log.records[9].hash), "checkpointed": 8,
            "signatures_checked": true, "continues": 8
        })
    );
    place.write("root.pub", &format!("{}\n", log.public()));
    let said = place.run(&["audit", "verify", "audit.jsonl", "--root-key-file", "root.pub"]).ok();
    assert!(said.contains("Enough nodes signed it up to record 8."), "{said}");
}

#[test]
fn c_9_another_root_key_and_too_few_signatures_do_not_verify() {
    let log = Log::new();
    let place = log.exported(log.checkpoint(2));
    let other = hex::encode(RootKey::from_hex(&"5b".repeat(32)).unwrap().public());
    let (code, verdict) = verify(&place, &["--root-key", &other]);
    assert_eq!((code, &verdict["ok"]), (Some(1), &json!(false)));
    assert!(verdict["fault"].as_str().unwrap().contains("root key"), "{verdict}");
    let place = log.exported(log.checkpoint(1));
    let (code, verdict) = verify(&place, &["--root-key", &log.public()]);
    assert_eq!((code, &verdict["checkpointed"]), (Some(1), &json!(0)));
    assert!(verdict["fault"].as_str().unwrap().contains("too few"), "{verdict}");
}

#[test]
fn c_9_a_fork_is_found_beside_what_was_kept_or_signed() {
    let honest = Log::new();
    let kept = honest.exported(honest.checkpoint(2)).read("kept");
    // The forger has one node's key: what both signed is of another history.
    let forged = Log::new().forked_at(5);
    let place = forged.exported(honest.checkpoint(2));
    let (code, verdict) = verify(&place, &["--root-key", &forged.public()]);
    assert_eq!((code, &verdict["broken_at"]), (Some(1), &json!(8)));
    assert!(verdict["fault"].as_str().unwrap().contains("forked"), "{verdict}");
    // Without the checkpoint nothing in the file says so; what was kept does.
    let place = exported(forged.items());
    place.write("kept", &kept);
    assert_eq!(verify(&place, &["--root-key", &forged.public()]).0, Some(0));
    for against in
        [&["--checkpoint", "kept"][..], &["--checkpoint", "kept", "--root-key", &forged.public()]]
    {
        let (code, verdict) = verify(&place, against);
        assert_eq!((code, &verdict["broken_at"]), (Some(1), &json!(8)), "{verdict}");
    }
}

#[test]
fn c_9_a_log_that_was_cut_is_found_beside_what_was_kept() {
    let log = Log::new();
    let kept = log.exported(log.checkpoint(2)).read("kept");
    let mut items = log.items();
    items.truncate(1 + 6);
    let place = exported(items);
    place.write("kept", &kept);
    for against in
        [&["--checkpoint", "kept"][..], &["--checkpoint", "kept", "--root-key", &log.public()]]
    {
        let (code, verdict) = verify(&place, against);
        assert_eq!((code, &verdict["broken_at"]), (Some(1), &json!(7)), "{verdict}");
        assert!(verdict["fault"].as_str().unwrap().contains("cut"), "{verdict}");
    }
}

#[test]
fn c_9_an_export_that_was_edited_or_reordered_does_not_verify() {
    let log = Log::new();
    let place = log.exported(log.checkpoint(2));
    let text = place.read("audit.jsonl");
    let root = ["--root-key", &log.public()];
    place.write("audit.jsonl", &text.replace("\"a5\"", "\"a6\""));
    assert_eq!(verify(&place, &root).1["broken_at"], 5);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.swap(3, 4);
    place.write("audit.jsonl", &lines.join("\n"));
    assert_eq!(verify(&place, &[]).1["broken_at"], 3);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.remove(6);
    place.write("audit.jsonl", &lines.join("\n"));
    assert_eq!(verify(&place, &root).1["broken_at"], 6);
    // A checkpoint that says another index or head than what is signed is none.
    place.write("audit.jsonl", &text.replace("\"index\":8,\"head\"", "\"index\":9,\"head\""));
    place.run(&["audit", "verify", "audit.jsonl"]).fails(1, &["audit.jsonl:12:"]);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.swap(0, 1);
    place.write("audit.jsonl", &lines.join("\n"));
    place.run(&["audit", "verify", "audit.jsonl"]).fails(1, &["audit.jsonl:2:"]);
    place.write("audit.jsonl", "{}\n");
    place.run(&["audit", "verify", "audit.jsonl"]).fails(1, &["audit.jsonl:1:"]);
}

#[test]
fn audit_verify_takes_no_private_key_for_a_public_one() {
    let log = Log::new();
    let place = log.exported(log.checkpoint(2));
    let seed = "5a".repeat(32);
    let ran = place.run(&["audit", "verify", "audit.jsonl", "--root-key", &seed]);
    assert!(!ran.said.contains(&seed), "{}", ran.said);
    ran.fails(2, &["keep it offline", &log.public()]);
    place.run(&["audit", "verify", "audit.jsonl", "--root-key", "5a5a"]).fails(2, &["64 hex"]);
    place
        .run(&["audit", "verify", "audit.jsonl", "--checkpoint", "audit.jsonl"])
        .fails(2, &["not a checkpoint"]);
}

#[test]
fn audit_checkpoint_says_when_there_is_none() {
    let items: Vec<_> = Log::new()
        .items()
        .into_iter()
        .map(|item| v1::ExportAuditResponse { item: Some(item) })
        .collect();
    let control_plane = ControlPlane::start().answers("ExportAudit", &items);
    Place::knowing(&control_plane).run(&["audit", "checkpoint"]).fails(1, &["no checkpoint yet"]);
}
