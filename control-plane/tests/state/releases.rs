//! Claims and reports: at most once, only while everything still holds, and what became of it.

use countersign_control_plane::state::{
    Actor, ApprovalId, ApprovalState, Command, Event, Open, Refused, ReleaseClass, ReportedOutcome,
};

use crate::world::{HOLD, MINUTE, UNUSED, World, credential, open, sealed, shown};

fn approved() -> (World, ApprovalId) {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.approve("ana", id).expect("counts");
    (world, id)
}

fn released() -> (World, ApprovalId) {
    let (mut world, id) = approved();
    world.claim(1).expect("is released");
    (world, id)
}

#[test]
fn a_claim_carries_its_place_in_the_log_and_the_time_to_act() {
    let (mut world, id) = approved();
    let claim = world.claim(1).expect("is released");
    assert_eq!(claim.position, world.state.position());
    assert_eq!((claim.at, claim.expires_at), (world.now, world.now + 5 * MINUTE));
    assert_eq!((claim.edge.as_str(), claim.incarnation), ("e1", [1; 16]));
    assert_eq!(world.state_of(id), ApprovalState::Released);
    assert_eq!(world.state.approval(id).and_then(|a| a.claim.clone()), Some(claim));
}

#[test]
fn a_claim_lasts_no_longer_than_its_hold() {
    let mut world = World::begun();
    let id = world.opened(Open { hold_ms: 2 * MINUTE, ..open(1) });
    world.approve("ana", id).expect("counts");
    world.pass(MINUTE);
    assert_eq!(world.claim(1).map(|c| c.expires_at), Ok(world.now + MINUTE));

    let mut world = World::begun();
    let id = world.opened(Open { hold_ms: 2 * MINUTE, ..open(1) });
    world.approve("ana", id).expect("counts");
    world.pass(2 * MINUTE);
    assert!(matches!(world.claim(1), Err(Refused::Expired(_))));
    assert_eq!(world.state_of(id), ApprovalState::Approved);
}

#[test]
fn a_2_fifty_requests_on_two_edges_race_for_one_approval_and_one_is_released() {
    let mut world = World::begun();
    for request in 1..=50 {
        let edge = if request % 2 == 0 { "e1" } else { "e2" };
        assert_eq!(world.opened(Open { edge: edge.into(), ..open(request) }), open(1).approval);
    }
    world.approve("ana", open(1).approval).expect("counts");
    let outcomes: Vec<_> = (1..=50).rev().map(|request| world.claim(request)).collect();
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
    assert_eq!(outcomes.iter().filter(|o| **o == Err(Refused::AlreadyUsed)).count(), 49);
}

#[test]
fn a_2_who_waited_while_another_was_released_is_told_so_when_opening_again() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.opened(open(2));
    world.approve("ana", id).expect("counts");
    world.claim(1).expect("is released");
    assert_eq!(world.open(open(2)), Err(Refused::AlreadyUsed));
    world.report(1, ReportedOutcome::Completed).expect("is taken");
    assert_eq!(world.open(open(2)), Err(Refused::AlreadyUsed));
    assert_eq!(world.open(open(3)), Ok((Some(open(3).approval), false)), "a fresh one asks anew");
    assert_eq!(world.state_of(open(3).approval), ApprovalState::Pending);
}

#[test]
fn the_same_request_claims_again_and_gets_the_first_claim() {
    let (mut world, _) = approved();
    let first = world.claim(1);
    let records = world.records();
    world.pass(MINUTE);
    assert_eq!(world.claim(1), first);
    assert_eq!(world.records(), records);
    world.pass(5 * MINUTE);
    assert!(matches!(world.claim(1), Err(Refused::Expired(_))));
}

#[test]
fn what_was_reported_is_not_claimed_again() {
    let (mut world, _) = released();
    world.report(1, ReportedOutcome::Unknown).expect("is taken");
    assert_eq!(world.claim(1), Err(Refused::AlreadyUsed));
    world.report(1, ReportedOutcome::Completed).expect("is taken");
    assert!(matches!(world.claim(1), Err(Refused::NotFound(_))));
}

#[test]
fn i_4_an_approval_that_was_not_used_in_time_is_not_claimed() {
    let (mut world, id) = approved();
    world.pass(UNUSED);
    assert!(matches!(world.claim(1), Err(Refused::Expired(_))));
    assert_eq!(world.tick(), vec![(id, ApprovalState::Expired)]);
    assert!(matches!(world.claim(1), Err(Refused::Expired(_))));
}

#[test]
fn i_9_no_claim_after_a_committed_revocation() {
    let revocations: [(&str, Command); 8] = [
        ("agent", Command::RevokeAgent { name: "mailer".into() }),
        ("credential", Command::RevokeCredential { name: "stripe".into() }),
        (
            "credential version",
            Command::RotateCredential {
                name: "stripe".into(),
                expected_version: 1,
                payload: sealed(9),
            },
        ),
        ("approver", Command::RemovePrincipal { name: "ana".into() }),
        ("edge", Command::EvictEdge { name: "east".into(), reason: "stolen".into() }),
        (
            "edge key",
            Command::EnrollEdge { id: "e9".into(), name: "east".into(), key_sha256: [9; 32] },
        ),
        ("edge process", Command::AttachEdge { id: "e1".into(), incarnation: [2; 16] }),
        (
            "policy",
            Command::SetPolicy {
                text: "# stricter".into(),
                sha256: [2; 32],
                expected_version: None,
                narrows: false,
            },
        ),
    ];
    for (what, revocation) in revocations {
        let (mut world, id) = approved();
        assert!(world.system(revocation).is_ok(), "{what}");
        assert!(world.claim(1).is_err(), "{what}");
        assert!(world.claim_under(1, 1).is_err(), "{what}");
        assert!(world.state.approval(id).is_some_and(|a| a.claim.is_none()), "{what}");
    }
}

#[test]
fn only_its_own_edge_claims_a_request() {
    let (mut world, _) = approved();
    let claim = Command::Claim { request_id: [1; 16], decision_id: [1; 16], policy_version: 1 };
    for actor in [Actor::Edge("e2".into()), Actor::Principal("admin".into())] {
        assert!(matches!(world.act(actor, claim.clone()), Err(Refused::Denied(_))));
    }
    assert!(world.act(Actor::Edge("e1".into()), claim).is_ok());
}

#[test]
fn what_policy_allows_is_claimed_once_for_each_request() {
    let mut world = World::begun();
    world.open(Open { requirements: vec![], ..open(1) }).expect("opens");
    world.open(Open { requirements: vec![], ..open(2) }).expect("opens");
    let first = world.claim(1).expect("is released");
    assert_eq!(world.claim(1), Ok(first.clone()));
    let second = world.claim(2).expect("is released too");
    assert_ne!(first.decision_id, second.decision_id);
    assert_eq!(world.report(1, ReportedOutcome::Completed), Ok(None));
    assert!(world.state.held(&[1; 16]).is_none());
}

#[test]
fn what_policy_allows_and_nobody_reports_becomes_unknown_and_is_forgotten() {
    let mut world = World::begun();
    world.open(Open { requirements: vec![], ..open(1) }).expect("opens");
    world.claim(1).expect("is released");
    world.pass(7 * MINUTE);
    let records = world.records();
    assert_eq!(world.tick(), vec![]);
    assert_eq!(world.actions_since(records), ["request.unknown"]);
    assert_eq!(world.state.held(&[1; 16]).and_then(|h| h.outcome), Some(ReportedOutcome::Unknown));
    world.pass(10 * MINUTE);
    world.tick();
    assert!(world.state.held(&[1; 16]).is_none());
    assert_eq!(world.state.next_due(), None);
}

#[test]
fn a_report_completes() {
    let (mut world, id) = released();
    assert_eq!(world.report(1, ReportedOutcome::Completed), Ok(Some(ApprovalState::Completed)));
    let now = world.now;
    assert_eq!(
        world.state.approval(id).and_then(|a| a.outcome),
        Some((ReportedOutcome::Completed, 200, now))
    );
    assert!(world.state.held(&[1; 16]).is_none());
    assert_eq!(world.state.next_due(), None);
}

#[test]
fn not_sent_completes_and_the_claim_stays_used() {
    let (mut world, id) = released();
    assert_eq!(world.report(1, ReportedOutcome::NotSent), Ok(Some(ApprovalState::Completed)));
    assert!(world.state.approval(id).is_some_and(|a| a.claim.is_some()));
    assert!(world.claim(1).is_err());
    assert_eq!(
        world.open(open(2)),
        Ok((Some(open(2).approval), false)),
        "a retry asks people again"
    );
}

#[test]
fn released_and_never_reported_becomes_unknown() {
    let (mut world, id) = released();
    assert_eq!(world.state.next_due(), Some(world.now + 7 * MINUTE));
    world.pass(7 * MINUTE - 1);
    assert_eq!(world.tick(), vec![]);
    world.pass(1);
    assert_eq!(world.tick(), vec![(id, ApprovalState::Unknown)]);
    assert_eq!(world.claim(1), Err(Refused::AlreadyUsed));
}

#[test]
fn a_late_report_settles_what_was_unknown() {
    let (mut world, id) = released();
    world.pass(7 * MINUTE);
    world.tick();
    let records = world.records();
    assert_eq!(world.report(1, ReportedOutcome::Unknown), Ok(Some(ApprovalState::Unknown)));
    assert_eq!(world.records(), records, "no news");
    assert_eq!(world.report(1, ReportedOutcome::Completed), Ok(Some(ApprovalState::Completed)));
    assert_eq!(world.state_of(id), ApprovalState::Completed);
}

#[test]
fn a_report_without_a_release_is_refused() {
    let (mut world, id) = approved();
    assert!(matches!(world.report(1, ReportedOutcome::Completed), Err(Refused::Precondition(_))));
    assert_eq!(world.state_of(id), ApprovalState::Approved);
}

#[test]
fn a_retry_while_the_first_is_under_way_joins_it_and_can_never_claim() {
    let (mut world, id) = released();
    world.pass(1);
    assert_eq!(world.open(open(2)), Ok((Some(id), true)));
    assert_eq!(world.open(open(2)), Ok((Some(id), true)));
    assert_eq!(world.claim(2), Err(Refused::AlreadyUsed));
}

#[test]
fn a_retry_of_what_is_unknown_joins_it_within_the_unused_window_only() {
    let (mut world, id) = released();
    world.pass(MINUTE);
    world.report(1, ReportedOutcome::Unknown).expect("is taken");
    world.pass(UNUSED - 1);
    assert_eq!(world.open(open(2)), Ok((Some(id), true)));
    assert_eq!(world.claim(2), Err(Refused::AlreadyUsed));
    world.pass(1);
    assert_eq!(world.open(open(3)), Ok((Some(open(3).approval), false)));
}

#[test]
fn a_new_process_of_an_edge_loses_track_of_what_the_former_released() {
    let (mut world, id) = released();
    world.opened(Open { shown: shown(2), ..open(2) });
    assert!(world.system(Command::AttachEdge { id: "e1".into(), incarnation: [2; 16] }).is_ok());
    assert_eq!(world.state_of(id), ApprovalState::Unknown);
    assert!(world.state.held(&[2; 16]).is_none(), "what waited is detached");
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
}

#[test]
fn the_same_process_attaching_again_keeps_what_it_holds() {
    let (mut world, id) = approved();
    let records = world.records();
    assert!(world.system(Command::AttachEdge { id: "e1".into(), incarnation: [1; 16] }).is_ok());
    assert_eq!(world.records(), records);
    assert!(world.claim(1).is_ok());
    assert_eq!(world.state_of(id), ApprovalState::Released);
}

#[test]
fn what_was_released_is_not_detached_before_its_report() {
    let (mut world, id) = released();
    let detach = Command::Detach { request_id: [1; 16], reason: "agent hung up".into() };
    assert_eq!(world.system(detach), Ok(Event::Detached { request_id: [1; 16] }));
    assert_eq!(world.report(1, ReportedOutcome::Completed), Ok(Some(ApprovalState::Completed)));
    assert_eq!(world.state_of(id), ApprovalState::Completed);
}

#[test]
fn a_request_that_nobody_claims_is_forgotten_after_its_hold() {
    let mut world = World::begun();
    world.open(Open { requirements: vec![], ..open(1) }).expect("opens");
    world.pass(HOLD + 10 * MINUTE - 1);
    world.tick();
    assert!(world.state.held(&[1; 16]).is_some());
    world.pass(1);
    let records = world.records();
    world.tick();
    assert!(world.state.held(&[1; 16]).is_none());
    assert_eq!(world.records(), records, "forgetting is no news");
    assert_eq!(world.state.next_due(), None);
}

#[test]
fn a_lease_needs_a_key_that_may_be_lent_and_an_edge_that_is_current() {
    let mut world = World::begun();
    let mut per_request = credential("c2", "bank");
    per_request.class = ReleaseClass::PerRequest;
    world.admin(Command::CreateCredential(Box::new(per_request))).expect("is created");
    let lease = |edge: &str, incarnation: u8, credential: &str, version, ttl_ms| Command::Lease {
        id: [1; 16],
        edge: edge.into(),
        incarnation: [incarnation; 16],
        credential: credential.into(),
        version,
        agent: "a1".into(),
        ttl_ms,
    };
    assert!(matches!(world.system(lease("e1", 1, "c1", 1, 15 * MINUTE)), Ok(Event::Leased { .. })));
    assert!(matches!(world.system(lease("e1", 2, "c1", 1, MINUTE)), Err(Refused::Precondition(_))));
    assert!(matches!(world.system(lease("e1", 1, "c1", 2, MINUTE)), Err(Refused::Precondition(_))));
    assert!(matches!(world.system(lease("e1", 1, "c2", 1, MINUTE)), Err(Refused::Denied(_))));
    assert!(matches!(world.system(lease("e1", 1, "c1", 1, 0)), Err(Refused::Invalid(_))));
    assert!(matches!(world.system(lease("e1", 1, "c1", 1, 16 * MINUTE)), Err(Refused::Invalid(_))));
}

#[test]
fn t3_evict_what_an_edge_was_given_is_every_lease_and_every_release_to_it() {
    let mut world = World::begun();
    let lease = |edge: &str, version| Command::Lease {
        id: [version as u8; 16],
        edge: edge.into(),
        incarnation: [1; 16],
        credential: "c1".into(),
        version,
        agent: "a1".into(),
        ttl_ms: 1,
    };
    world.system(lease("e1", 1)).expect("is lent");
    world.system(lease("e2", 1)).expect("is lent");
    world.admin(Command::CreateCredential(Box::new(credential("c2", "mail")))).expect("is created");
    let both = vec![("c1".into(), 1), ("c2".into(), 1)];
    world.opened(Open { credentials: both, ..open(1) });
    world.approve("ana", open(1).approval).expect("counts");
    world.pass(MINUTE);
    world.claim(1).expect("is released");
    let released_at = world.now;
    let rotate = Command::RotateCredential {
        name: "stripe".into(),
        expected_version: 1,
        payload: sealed(2),
    };
    world.admin(rotate).expect("is rotated");
    world.pass(MINUTE);
    world.system(lease("e1", 2)).expect("is lent");

    let given = |edge: &str| -> Vec<_> {
        let given = world.state.given_to(edge).into_iter();
        given.map(|it| (it.credential, it.version, it.at, it.in_force)).collect()
    };
    assert_eq!(
        given("e1"),
        [
            ("c1".into(), 1, released_at, false),
            ("c1".into(), 2, world.now, true),
            ("c2".into(), 1, released_at, true)
        ]
    );
    assert_eq!(given("e2").len(), 1);
    assert_eq!(given("e3"), []);
}
