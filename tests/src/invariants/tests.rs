//! A whole run that passes, and everything that can be wrong with it: each must be found, by its own number.

use super::*;
use crate::history::{Op, Told};

const NOTHING: [u8; 0] = [];
const KEY: &str = "sk_live_R3alKeyOfTheInvariantTests0001";

fn record(index: u64, at: u64, action: &str, subject: &str, details: &[(&str, &str)]) -> Record {
    let pairs = details.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    Record {
        index,
        at,
        actor: "system".into(),
        action: action.into(),
        subject: subject.into(),
        details: pairs.collect(),
        previous: String::new(),
        hash: String::new(),
    }
}

/// Numbers the records and links them.
fn chained(mut records: Vec<Record>) -> Vec<Record> {
    let mut previous = "0".repeat(64);
    for (number, record) in records.iter_mut().enumerate() {
        record.index = number as u64 + 1;
        record.previous = previous;
        record.hash = record.computed_hash();
        previous = record.hash.clone();
    }
    records
}

fn claim<'a>(approval: &'a str, policy: &'a str, key: &'a str) -> [(&'a str, &'a str); 7] {
    [
        ("approval", approval),
        ("edge", "edge-1"),
        ("agent", "agent-1"),
        ("rule", "change"),
        ("approvers", "ana"),
        ("policy_version", policy),
        ("credentials", key),
    ]
}

fn card(id: &str, state: Seen, target: &str) -> Card {
    Card {
        id: id.into(),
        state,
        method: "DELETE".into(),
        target: target.into(),
        body_sha256: "00".into(),
        intent_digest: id.into(),
        expires_at: 900_000,
        open_ended: false,
    }
}

fn arrival(at: Instant) -> Arrival {
    let before = b"Bearer ".to_vec();
    Arrival {
        at,
        method: "DELETE".into(),
        target: "/yes".into(),
        body_sha256: "00".into(),
        body_bytes: 1,
        host: "api.example.test".into(),
        headers: vec![("x-dry-run".into(), b"no".to_vec())],
        slot: Some(Slot { name: "authorization".into(), before, after: Vec::new() }),
        keyed: true,
        risky: true,
    }
}

fn audit() -> Vec<Record> {
    let vote = |word| [("principal", "ana"), ("word", word)];
    chained(vec![
        record(0, 1_000, "policy.set", "1", &[]),
        record(0, 1_100, "credential.create", "example", &[("id", "key-1"), ("version", "1")]),
        record(0, 1_200, "edge.enroll", "north", &[("id", "edge-1")]),
        record(0, 2_000, "approval.vote", "yes", &vote("approve")),
        record(0, 2_010, "request.claim", "r1", &claim("yes", "1", "key-1@1")),
        record(0, 4_000, "approval.vote", "no", &vote("deny")),
    ])
}

/// A release and a denial, three seconds apart, seen alike by three nodes.
fn sound() -> Evidence {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let operation = |approval: &str, op, from, to, told| Operation {
        approval: approval.into(),
        op,
        at: "n1".into(),
        invoked: at(from),
        returned: Some((at(to), told)),
    };
    let shown = intent::digest("c1", &audit()[4], &arrival(start)).unwrap();
    let yes = Card { intent_digest: shown, ..card("yes", Seen::Released, "/yes") };
    let node = |name: &str| Node {
        name: name.into(),
        cards: vec![yes.clone(), card("no", Seen::Denied, "/no")],
        audit: audit(),
    };
    Evidence {
        cluster: "c1".into(),
        arrivals: vec![arrival(at(1_020))],
        operations: vec![
            operation("yes", Op::Approve("ana".into()), 990, 1_005, Told::Accepted),
            operation("yes", Op::Claim("r1".into()), 900, 1_020, Told::Accepted),
            operation("no", Op::Deny("ana".into()), 2_990, 3_005, Told::Accepted),
            operation("no", Op::Read, 3_100, 3_101, Told::State(Seen::Denied)),
        ],
        quorum: 1,
        nodes: vec![node("n1"), node("n2"), node("n3")],
        sinks: vec![("the log of n1".into(), b"nothing of the kind".to_vec())],
        secrets: vec![KEY.into()],
        attempts: vec![Attempt {
            node: "n4".into(),
            shut_out: "sealed".into(),
            what: "listed approvals".into(),
            answered: false,
        }],
        services: vec![Service {
            what: "an approval".into(),
            healed: at(5_000),
            completed: Some(at(6_000)),
        }],
        harmless: vec![Harmless { what: "GET /".into(), leased: true, status: 200 }],
        healed_for: Duration::from_secs(61),
    }
}

/// The numbers of what is found after a change.
fn found(change: impl FnOnce(&mut Evidence)) -> Vec<u8> {
    let mut evidence = sound();
    change(&mut evidence);
    let mut numbers: Vec<u8> = check(&evidence).iter().map(|v| v.invariant).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn on_every_node(evidence: &mut Evidence, change: impl Fn(&mut Node)) {
    evidence.nodes.iter_mut().for_each(change);
}

fn with_records(evidence: &mut Evidence, change: impl Fn(&mut Vec<Record>)) {
    on_every_node(evidence, |node| {
        change(&mut node.audit);
        node.audit = chained(std::mem::take(&mut node.audit));
    });
}

#[test]
fn a_sound_run_passes() {
    demand(&sound());
}

#[test]
fn i1_other_bytes_than_those_shown_are_found() {
    assert!(found(|e| e.arrivals[0].body_sha256 = "01".into()).contains(&1));
    assert!(found(|e| e.arrivals[0].target = "/yes?all=1".into()).contains(&1));
}

#[test]
fn i1_another_host_header_key_agent_or_rule_than_shown_is_found() {
    assert_eq!(found(|e| e.arrivals[0].host = "api.example.test:8443".into()), [1]);
    assert_eq!(found(|e| e.arrivals[0].headers[0].1 = b"yes".to_vec()), [1]);
    assert_eq!(found(|e| drop(e.arrivals[0].headers.pop())), [1]);
    assert_eq!(found(|e| e.arrivals[0].slot.as_mut().unwrap().name = "x-key".into()), [1]);
    assert_eq!(found(|e| e.arrivals[0].slot = None), [1]);
    assert_eq!(found(|e| e.cluster = "c2".into()), [1]);
    for (detail, other) in [("agent", "agent-2"), ("rule", "read")] {
        let changed = found(|e| {
            with_records(e, |records| {
                let mut details = records[4].details.iter_mut();
                details.find(|(name, _)| name == detail).unwrap().1 = other.into();
            });
        });
        assert_eq!(changed, [1], "{detail}");
    }
    let volatile = ("user-agent".to_owned(), b"another/1.0".to_vec());
    assert_eq!(found(|e| e.arrivals[0].headers.push(volatile.clone())), NOTHING);
}

#[test]
fn i1_an_arrival_before_the_approval_or_without_one_is_found() {
    let late = found(|e| {
        e.operations[0].invoked += Duration::from_millis(50);
        e.operations[0].returned.as_mut().unwrap().0 += Duration::from_millis(50);
    });
    assert!(late.contains(&1));
    assert!(found(|e| drop(e.operations.remove(0))).contains(&1));
    assert!(found(|e| e.quorum = 2).contains(&1));
    let refused = found(|e| {
        let returned = e.operations[0].returned.as_mut().unwrap();
        returned.1 = Told::Refused;
    });
    assert!(refused.contains(&1));
}

#[test]
fn an_arrival_without_a_key_or_one_that_policy_allows_needs_no_approval() {
    assert_eq!(
        found(|e| {
            let mut harmless = e.arrivals[0].clone();
            (harmless.target, harmless.keyed) = ("/elsewhere".into(), false);
            e.arrivals.push(harmless.clone());
            (harmless.keyed, harmless.risky) = (true, false);
            e.arrivals.push(harmless);
        }),
        NOTHING
    );
}

#[test]
fn i2_a_second_arrival_and_a_second_claim_are_found() {
    assert!(found(|e| e.arrivals.push(e.arrivals[0].clone())).contains(&2));
    let twice = found(|e| {
        with_records(e, |records| {
            records
                .insert(5, record(0, 2_020, "request.claim", "r2", &claim("yes", "1", "key-1@1")));
        });
    });
    assert!(twice.contains(&2));
}

#[test]
fn i3_a_lost_or_reversed_decision_is_found() {
    let state = |approval: usize, state: Seen| {
        found(|e| on_every_node(e, |node| node.cards[approval].state = state))
    };
    assert!(state(1, Seen::Pending).contains(&3));
    assert!(state(1, Seen::Expired).contains(&3));
    assert!(state(0, Seen::Pending).contains(&3));
    assert!(found(|e| on_every_node(e, |node| drop(node.cards.pop()))).contains(&3));
}

#[test]
fn i4_a_release_of_what_was_denied_or_late_is_found() {
    assert!(found(|e| on_every_node(e, |node| node.cards[0].state = Seen::Denied)).contains(&4));
    assert!(found(|e| on_every_node(e, |node| node.cards[0].expires_at = 2_010)).contains(&4));
}

#[test]
fn i5_a_release_without_a_record_and_a_broken_chain_are_found() {
    assert!(found(|e| with_records(e, |records| drop(records.remove(4)))).contains(&5));
    assert!(found(|e| with_records(e, |records| drop(records.remove(5)))).contains(&5));
    assert!(found(|e| e.nodes[1].audit[2].subject = "south".into()).contains(&5));
    assert!(found(|e| drop(e.nodes[2].audit.remove(1))).contains(&5));
}

#[test]
fn i6_a_stale_read_is_found() {
    let stale = found(|e| {
        e.operations[3].returned.as_mut().unwrap().1 = Told::State(Seen::Pending);
    });
    assert_eq!(stale, [6]);
}

#[test]
fn i7_a_key_is_found_in_every_form() {
    for form in forms(KEY) {
        let sink = [b"before ".as_slice(), &form, b" after"].concat();
        assert_eq!(found(|e| e.sinks[0].1 = sink), [7]);
    }
}

#[test]
fn i8_an_answer_of_a_node_that_is_out_is_found() {
    assert_eq!(found(|e| e.attempts[0].answered = true), [8]);
}

#[test]
fn i9_a_claim_by_what_was_in_force_before_is_found() {
    let before_the_claim =
        |record: Record| found(|e| with_records(e, |records| records.insert(4, record.clone())));
    assert!(before_the_claim(record(0, 2_005, "policy.set", "2", &[])).contains(&9));
    assert!(
        before_the_claim(record(0, 2_005, "edge.evict", "north", &[("id", "edge-1")])).contains(&9)
    );
    assert!(before_the_claim(record(0, 2_005, "principal.remove", "ana", &[])).contains(&9));
    let key = [("id", "key-1"), ("version", "2")];
    assert!(before_the_claim(record(0, 2_005, "credential.rotate", "example", &key)).contains(&9));
    assert!(before_the_claim(record(0, 2_005, "credential.revoke", "example", &key)).contains(&9));
    assert_eq!(before_the_claim(record(0, 2_005, "principal.remove", "bo", &[])), NOTHING);
}

#[test]
fn i10_nodes_that_differ_are_found() {
    assert!(found(|e| drop(e.nodes[2].audit.pop())).contains(&10));
    assert!(found(|e| drop(e.nodes[1].cards.pop())).contains(&10));
    let other = found(|e| {
        e.nodes[1].audit[0].at += 1;
        e.nodes[1].audit = chained(std::mem::take(&mut e.nodes[1].audit));
    });
    assert_eq!(other, [10]);
}

#[test]
fn i11_no_service_or_a_late_one_is_found() {
    assert_eq!(found(|e| e.services[0].completed = None), [11]);
    let late =
        found(|e| e.services[0].completed = Some(e.services[0].healed + Duration::from_secs(11)));
    assert_eq!(late, [11]);
}

#[test]
fn i12_a_failure_under_a_valid_lease_is_found_and_one_without_is_none() {
    assert_eq!(found(|e| e.harmless[0].status = 503), [12]);
    assert_eq!(
        found(|e| e.harmless.push(Harmless { what: "GET /".into(), leased: false, status: 503 })),
        NOTHING
    );
}

#[test]
fn i13_a_release_without_an_end_is_found() {
    assert_eq!(found(|e| on_every_node(e, |node| node.cards[0].open_ended = true)), [13]);
}

#[test]
fn i14_time_that_goes_back_or_too_slowly_is_found() {
    assert!(found(|e| with_records(e, |records| records[3].at = 1_150)).contains(&14));
    assert_eq!(found(|e| with_records(e, |records| records[5].at = 2_900)), [14]);
}

#[test]
fn an_export_is_read_as_it_was_hashed_and_other_lines_are_passed_over() {
    let line = |record: &Record| {
        let details: Vec<_> = record
            .details
            .iter()
            .map(|(name, value)| serde_json::json!({ "name": name, "value": value }))
            .collect();
        let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(record.at);
        serde_json::json!({
            "index": record.index,
            "at": humantime::format_rfc3339_millis(at).to_string(),
            "actor": record.actor,
            "action": record.action,
            "subject": record.subject,
            "details": details,
            "previous_hash": record.previous,
            "hash": record.hash,
        })
        .to_string()
    };
    let mut lines: Vec<String> = audit().iter().map(line).collect();
    lines.push(r#"{"checkpoint":{"signatures":[]}}"#.into());
    assert_eq!(parse_export(&lines.join("\n")).unwrap(), audit());
    assert!(parse_export("not json").is_err());
}
