//! The audit log, with a control plane and without.

use countersign_proto::v1;
use prost_types::Timestamp;
use serde_json::json;

use super::control_plane::ControlPlane;
use super::run::Place;

#[test]
fn audit_verify_says_so_and_exits_1_when_it_does_not_hold() {
    let head = "ab".repeat(32);
    let verdict = |ok, broken_at| v1::VerifyAuditResponse {
        ok,
        entries: 42,
        head: head.clone(),
        broken_at,
        checkpointed: 0,
    };
    let control_plane = ControlPlane::start().answers("VerifyAudit", &[verdict(true, None)]);
    let printed = Place::knowing(&control_plane).run(&["audit", "verify", "-o", "json"]).json();
    assert_eq!(printed, json!({"ok": true, "entries": 42, "head": head}));
    let control_plane = ControlPlane::start().answers("VerifyAudit", &[verdict(false, Some(7))]);
    let place = Place::knowing(&control_plane);
    place.run(&["audit", "verify"]).fails(1, &["at record 7"]);
    assert_eq!(place.run(&["audit", "verify", "-o", "json"]).code, Some(1));
}

#[test]
fn c_9_an_export_that_was_edited_does_not_verify() {
    let record = v1::AuditRecord {
        index: 1,
        at: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        actor: "system".into(),
        action: "cluster.begin".into(),
        previous_hash: "00".repeat(32),
        hash: "11".repeat(32),
        ..v1::AuditRecord::default()
    };
    let control_plane = ControlPlane::start().answers(
        "ExportAudit",
        &[v1::ExportAuditResponse { item: Some(v1::export_audit_response::Item::Record(record)) }],
    );
    let place = Place::knowing(&control_plane);
    place.run(&["audit", "export", "--to", "audit.jsonl"]).ok();
    place.run(&["audit", "verify", "audit.jsonl"]).fails(1, &["at record 1"]);
    place.write("other.jsonl", "{}\n");
    Place::empty()
        .run(&["audit", "verify", &place.write("other.jsonl", "{}\n")])
        .fails(1, &["other.jsonl:1:"]);
}
