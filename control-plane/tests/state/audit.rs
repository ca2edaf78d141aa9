//! The audit log: what it holds, what it never holds, and what tampering it shows.

use countersign_control_plane::state::audit::{BrokenAt, Record, verify_records};
use countersign_control_plane::state::{Command, Open, ReportedOutcome};
use sha2::{Digest, Sha256};

use crate::world::{World, open};

fn lived() -> World {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.approve("ana", id).expect("counts");
    world.claim(1).expect("is released");
    world.report(1, ReportedOutcome::Completed).expect("is taken");
    world
}

fn detail<'a>(record: &'a Record, name: &str) -> &'a str {
    record.details.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
}

#[test]
fn i_5_every_release_has_the_record_that_says_all_of_it() {
    let world = lived();
    let claims: Vec<_> =
        world.state.audit().records().iter().filter(|r| r.action == "request.claim").collect();
    let [record] = claims[..] else { panic!("one release, one record: {claims:?}") };
    assert_eq!(record.subject, hex::encode([1; 16]));
    assert_eq!(detail(record, "approval"), open(1).approval.to_string());
    assert_eq!(detail(record, "intent_digest"), hex::encode([1; 32]));
    assert_eq!(detail(record, "request_digest"), hex::encode([1; 32]));
    assert_eq!(detail(record, "approvers"), "ana");
    assert_eq!(detail(record, "credentials"), "c1@1");
    let claim =
        world.state.approval(open(1).approval).and_then(|a| a.claim.clone()).expect("is claimed");
    assert_eq!(detail(record, "decision"), hex::encode(claim.decision_id));
    assert_eq!(
        detail(record, "position"),
        format!("{}.{}", claim.position.term, claim.position.index)
    );
}

#[test]
fn i_5_one_record_for_each_step_in_order_and_whole() {
    let world = lived();
    let begun = World::begun().records();
    assert_eq!(
        world.actions_since(begun),
        ["request.open", "approval.vote", "request.claim", "request.report"]
    );
    assert_eq!(world.state.audit().verify(), Ok(()));
    let indices: Vec<_> = world.state.audit().records().iter().map(|r| r.index).collect();
    assert_eq!(indices, (1..=indices.len() as u64).collect::<Vec<_>>());
}

#[test]
fn refused_votes_and_claims_are_recorded_and_other_refusals_are_not() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    let records = world.records();
    world.approve("dan", id).expect_err("owns the agent");
    world.claim(1).expect_err("is pending");
    world.open(Open { policy_version: 9, ..open(2) }).expect_err("no such policy");
    assert_eq!(world.actions_since(records), ["vote.refused", "claim.refused"]);
    assert!(detail(&world.state.audit().records()[records], "why").contains("owns the agent"));
}

#[test]
fn a_tick_leaves_one_record_for_each_approval_that_it_settles() {
    let mut world = World::begun();
    world.opened(open(1));
    world.opened(Open { shown: crate::world::shown(2), ..open(2) });
    let records = world.records();
    world.tick();
    assert_eq!(world.records(), records);
    world.pass(crate::world::EXPIRES);
    world.tick();
    assert_eq!(world.actions_since(records), ["approval.expire", "approval.expire"]);
}

#[test]
fn a_note_is_recorded_as_it_is() {
    let mut world = World::begun();
    world
        .system(Command::Note {
            action: "seal.refused".into(),
            subject: "node 1".into(),
            details: vec![("why".into(), "wrong passphrase".into())],
        })
        .expect("is noted");
    let record = world.state.audit().records().last().expect("is there");
    assert_eq!((record.action.as_str(), record.actor.as_str()), ("seal.refused", "system"));
}

#[test]
fn i_7_no_fake_key_body_or_token_is_ever_recorded() {
    let mut world = lived();
    world.system(Command::RevokeCredential { name: "stripe".into() }).expect("is revoked");
    let everything = format!("{:?}", world.state.audit().records());
    for canary in ["fake-of-c1", "canary-body-7", &hex::encode([3; 32]), &hex::encode([4; 32])] {
        assert!(!everything.contains(canary), "{canary}");
    }
}

#[test]
fn the_hash_of_a_record_is_what_the_documentation_says() {
    let world = lived();
    let record = world.state.audit().records().last().expect("is there");
    let text = |t: &str| [&(t.len() as u32).to_be_bytes()[..], t.as_bytes()].concat();
    let mut bytes = b"countersign/v1/audit\0".to_vec();
    bytes.extend(record.index.to_be_bytes());
    bytes.extend(record.at.to_be_bytes());
    bytes.extend([text(&record.actor), text(&record.action), text(&record.subject)].concat());
    bytes.extend((record.details.len() as u32).to_be_bytes());
    for (name, value) in &record.details {
        bytes.extend([text(name), text(value)].concat());
    }
    bytes.extend(record.previous);
    assert_eq!(record.hash, <[u8; 32]>::from(Sha256::digest(&bytes)));
    assert_eq!(record.hash, world.state.audit().head());
}

#[test]
fn c_9_any_edit_of_any_field_shows_where() {
    let world = lived();
    let good = world.state.audit().records().to_vec();
    let edits: [fn(&mut Record); 8] = [
        |r| r.index += 1,
        |r| r.at += 1,
        |r| r.actor.push('x'),
        |r| r.action.push('x'),
        |r| r.subject.push('x'),
        |r| r.details.push((String::new(), String::new())),
        |r| r.previous[0] ^= 1,
        |r| r.hash[0] ^= 1,
    ];
    for place in 0..good.len() {
        for edit in edits {
            let mut records = good.clone();
            edit(&mut records[place]);
            let broken = verify_records(&records).expect_err("shows");
            assert!(
                broken.0 == place as u64 + 1 || (place == 0 && broken.0 <= 2),
                "{broken} at {place}"
            );
        }
    }
}

#[test]
fn c_9_moving_text_between_fields_shows() {
    let mut records = lived().state.audit().records().to_vec();
    let last = records.last_mut().expect("is there");
    let moved = last.action.pop().expect("has an action");
    last.subject.insert(0, moved);
    assert!(verify_records(&records).is_err());
}

#[test]
fn c_9_a_record_that_is_taken_out_or_swapped_shows() {
    let good = lived().state.audit().records().to_vec();
    for place in 1..good.len() - 1 {
        let mut without = good.clone();
        without.remove(place);
        assert_eq!(verify_records(&without), Err(BrokenAt(place as u64 + 1)));
        let mut swapped = good.clone();
        swapped.swap(place, place + 1);
        assert_eq!(verify_records(&swapped), Err(BrokenAt(place as u64 + 1)));
    }
}

#[test]
fn c_9_that_the_last_record_was_dropped_shows_only_beside_a_head() {
    let world = lived();
    let head = world.state.audit().head();
    let mut records = world.state.audit().records().to_vec();
    records.pop();
    assert_eq!(verify_records(&records), Ok(()), "the chain alone cannot know");
    assert_ne!(records.last().map(|r| r.hash), Some(head));
}

#[test]
fn c_9_a_rewritten_end_is_whole_in_itself_and_has_another_head() {
    let world = lived();
    let mut fork = world.state.audit().records().to_vec();
    let place = fork.len() - 2;
    fork[place].details.push(("approvers".into(), "mallory".into()));
    for n in place..fork.len() {
        fork[n].previous = fork[n - 1].hash;
        fork[n].hash = fork[n].computed_hash();
    }
    assert_eq!(verify_records(&fork), Ok(()));
    assert_ne!(fork.last().map(|r| r.hash), Some(world.state.audit().head()));
    assert_eq!(
        fork[place - 1].hash,
        world.state.audit().records()[place - 1].hash,
        "common until the fork"
    );
}

#[test]
fn a_stretch_that_begins_later_verifies_and_a_log_that_does_not_begin_at_one_does_not() {
    let good = lived().state.audit().records().to_vec();
    assert_eq!(verify_records(&good[3..]), Ok(()));
    assert_eq!(verify_records(&[]), Ok(()));
    let mut forged_start = good;
    forged_start[0].previous = [1; 32];
    forged_start[0].hash = forged_start[0].computed_hash();
    assert_eq!(verify_records(&forged_start), Err(BrokenAt(1)));
}
