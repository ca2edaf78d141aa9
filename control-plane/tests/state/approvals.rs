//! An approval's life up to its release: opening, votes, expiry.

use countersign_control_plane::state::{
    Actor, ApprovalState, Command, Event, Open, Proof, Refused, Requirement, Role, Strength,
    VoteWord, Voter,
};

use crate::world::{EXPIRES, MINUTE, UNUSED, World, add_principal, open, requirement, shown, vote};

fn asking(request: u8, requirements: &[Requirement]) -> Open {
    Open { requirements: requirements.to_vec(), ..open(request) }
}

#[test]
fn an_open_makes_a_pending_approval_that_is_due_when_it_expires() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    let approval = world.state.approval(id).expect("is there");
    assert_eq!((approval.state, approval.due), (ApprovalState::Pending, world.now + EXPIRES));
    assert_eq!(world.state.next_due(), Some(world.now + EXPIRES));
    assert_eq!(world.state.held_for(id).count(), 1);
}

#[test]
fn identical_requests_join_one_approval() {
    let mut world = World::begun();
    let first = world.open(open(1));
    let second = world.open(open(2));
    assert_eq!(first, Ok((Some(open(1).approval), false)));
    assert_eq!(second, Ok((Some(open(1).approval), true)));
    assert_eq!(world.state.held_for(open(1).approval).count(), 2);
    assert!(world.state.approval(open(2).approval).is_none());
}

#[test]
fn opening_the_same_request_again_changes_nothing() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    let records = world.records();
    assert_eq!(world.open(open(1)), Ok((Some(id), true)));
    assert_eq!(world.records(), records);
    assert_eq!(world.state.held_for(id).count(), 1);
}

#[test]
fn a_request_id_of_another_agent_or_edge_is_not_taken_over() {
    let mut world = World::begun();
    world.opened(open(1));
    let other_agent = Open { agent: "a2".into(), ..open(1) };
    let other_edge = Open { edge: "e2".into(), ..open(1) };
    assert!(matches!(world.open(other_agent), Err(Refused::Invalid(_))));
    assert!(matches!(world.open(other_edge), Err(Refused::Invalid(_))));
    assert_eq!(world.state.held(&[1; 16]).map(|h| h.agent.as_str()), Some("a1"));
}

#[test]
fn a_15_the_same_bytes_of_another_agent_get_their_own_approval() {
    let mut world = World::begun();
    let mine = world.opened(open(1));
    world.approve("ana", mine).expect("counts");
    let theirs = world.open(Open { agent: "a2".into(), ..open(2) });
    assert_eq!(theirs, Ok((Some(open(2).approval), false)));
    assert_eq!(world.state_of(open(2).approval), ApprovalState::Pending);
    assert!(matches!(world.claim(2), Err(Refused::Precondition(_))));
}

#[test]
fn what_policy_allows_is_held_without_an_approval() {
    let mut world = World::begun();
    assert_eq!(world.open(asking(1, &[])), Ok((None, false)));
    assert_eq!(world.state.approvals().count(), 0);
    assert!(world.state.held(&[1; 16]).is_some());
}

#[test]
fn a_quorum_that_nobody_can_meet_is_denied_at_once() {
    let mut world = World::begun();
    let id = world.opened(asking(1, &[requirement(&["ops"], 3)]));
    let approval = world.state.approval(id).expect("is there");
    assert_eq!(approval.state, ApprovalState::Denied);
    assert!(approval.reason.starts_with("nobody can approve: "), "{}", approval.reason);
    assert!(approval.reason.contains("payments"), "{}", approval.reason);
    assert!(matches!(world.claim(1), Err(Refused::Denied(_))));
}

#[test]
fn an_open_under_another_policy_version_is_refused() {
    let mut world = World::begun();
    world.set_policy();
    assert_eq!(world.open(open(1)), Err(Refused::PolicyChanged));
    assert_eq!(world.open(Open { policy_version: 3, ..open(1) }), Err(Refused::PolicyChanged));
    assert!(world.state.held(&[1; 16]).is_none());
}

#[test]
fn an_open_of_an_edge_process_that_is_not_attached_is_refused() {
    let mut world = World::begun();
    assert!(matches!(
        world.open(Open { incarnation: [9; 16], ..open(1) }),
        Err(Refused::Precondition(_))
    ));
    assert!(matches!(
        world.open(Open { edge: "nobody".into(), ..open(1) }),
        Err(Refused::NotFound(_))
    ));
}

#[test]
fn an_edge_speaks_only_for_itself() {
    let mut world = World::begun();
    let outcome = world.act(Actor::Edge("e2".into()), Command::Open(Box::new(open(1))));
    assert!(matches!(outcome, Err(Refused::Denied(_))));
    assert!(world.act(Actor::Edge("e1".into()), Command::Open(Box::new(open(1)))).is_ok());
}

#[test]
fn votes_that_meet_every_requirement_approve() {
    let mut world = World::begun();
    let id = world.opened(asking(1, &[requirement(&["ops"], 1), requirement(&["cat", "dan"], 1)]));
    assert_eq!(world.approve("ana", id), Ok(ApprovalState::Pending));
    assert_eq!(world.approve("ben", id), Ok(ApprovalState::Pending));
    world.pass(MINUTE);
    assert_eq!(world.approve("cat", id), Ok(ApprovalState::Approved));
    assert_eq!(world.state.approval(id).map(|a| a.due), Some(world.now + UNUSED));
    assert_eq!(world.state.next_due(), Some(world.now + UNUSED));
}

#[test]
fn a_3_a_vote_after_expiry_is_refused_even_before_the_tick() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.pass(EXPIRES);
    assert!(matches!(world.approve("ana", id), Err(Refused::Expired(_))));
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
    assert_eq!(world.tick(), vec![(id, ApprovalState::Expired)]);
    assert!(matches!(world.approve("ana", id), Err(Refused::Expired(_))));
    assert!(matches!(world.claim(1), Err(Refused::Expired(_))));
    assert!(world.state.approval(id).is_some_and(|a| a.votes.is_empty()));
}

#[test]
fn a_3_a_clock_that_is_behind_makes_no_vote_timely() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.pass(EXPIRES);
    world.tick();
    world.now -= 10 * MINUTE;
    assert!(matches!(world.approve("ana", id), Err(Refused::Expired(_))));
    assert_eq!(world.state.log_time(), world.now + 10 * MINUTE);
}

#[test]
fn a_9_deny_beats_approve_in_either_order() {
    for deny_first in [true, false] {
        let mut world = World::begun();
        let id = world.opened(open(1));
        if deny_first {
            assert_eq!(world.deny("ben", id), Ok(ApprovalState::Denied));
            assert!(matches!(world.approve("ana", id), Err(Refused::Precondition(_))));
        } else {
            assert_eq!(world.approve("ana", id), Ok(ApprovalState::Approved));
            assert_eq!(world.deny("ben", id), Ok(ApprovalState::Denied));
        }
        assert_eq!(world.state_of(id), ApprovalState::Denied);
        assert!(matches!(world.claim(1), Err(Refused::Denied(_))));
    }
}

#[test]
fn a_9_a_denial_after_the_claim_comes_too_late() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.approve("ana", id).expect("counts");
    world.claim(1).expect("is released");
    assert!(matches!(world.deny("ben", id), Err(Refused::Precondition(_))));
    assert_eq!(world.state_of(id), ApprovalState::Released);
}

#[test]
fn who_approved_can_deny_until_the_claim() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.approve("ana", id).expect("counts");
    assert_eq!(world.deny("ana", id), Ok(ApprovalState::Denied));
    assert_eq!(world.state.approval(id).map(|a| a.votes.len()), Some(1));
    assert!(matches!(world.approve("ana", id), Err(Refused::Precondition(_))));
}

#[test]
fn a_10_one_person_on_two_channels_counts_once() {
    let mut world = World::begun();
    let id = world.opened(asking(1, &[requirement(&["ops"], 2)]));
    for channel in ["slack", "telegram"] {
        let outcome = world.system(Command::Vote {
            approval: id,
            by: Voter::Principal("ana".into()),
            word: VoteWord::Approve,
            channel: channel.into(),
            reason: String::new(),
            intent_digest: None,
            strength: Strength::L2,
            proof: Proof::None,
            breaks_glass: false,
        });
        assert_eq!(outcome, Ok(Event::Voted { approval: id, state: ApprovalState::Pending }));
    }
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
    assert_eq!(world.approve("ben", id), Ok(ApprovalState::Approved));
}

#[test]
fn a_11_the_agents_owner_does_not_vote_and_does_not_count() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    assert!(matches!(world.approve("dan", id), Err(Refused::Denied(_))));
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    let only_owner =
        Open { requirements: vec![requirement(&["dan"], 1)], shown: shown(2), ..open(2) };
    let id = world.opened(only_owner);
    assert_eq!(world.state_of(id), ApprovalState::Denied);
}

#[test]
fn a_11_who_has_not_the_role_or_is_not_named_does_not_vote() {
    let mut world = World::begun();
    world.admin(add_principal("eve", &[Role::Auditor], &["ops"])).expect("is added");
    let id = world.opened(asking(1, &[requirement(&["ops"], 1)]));
    for outsider in ["eve", "cat", "nobody"] {
        assert!(matches!(world.approve(outsider, id), Err(Refused::Denied(_))), "{outsider}");
    }
    let for_another = world.act(Actor::Principal("cat".into()), vote("ana", VoteWord::Approve, id));
    let by_edge = world.act(Actor::Edge("e1".into()), vote("ana", VoteWord::Approve, id));
    assert!(matches!(for_another, Err(Refused::Denied(_))));
    assert!(matches!(by_edge, Err(Refused::Denied(_))));
    assert_eq!(world.state_of(id), ApprovalState::Pending);
}

#[test]
fn a_12_an_approver_who_was_removed_before_the_vote_is_applied_does_not_vote() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.admin(Command::RemovePrincipal { name: "ana".into() }).expect("is removed");
    assert!(matches!(world.approve("ana", id), Err(Refused::Denied(_))));
    assert_eq!(world.state_of(id), ApprovalState::Pending);
}

#[test]
fn a_12_votes_of_a_removed_approver_stay_visible_and_count_no_more() {
    let mut world = World::begun();
    let id = world.opened(asking(1, &[requirement(&["*"], 2)]));
    world.approve("ana", id).expect("counts");
    world.approve("ben", id).expect("counts");
    assert_eq!(world.state_of(id), ApprovalState::Approved);
    world.admin(Command::RemovePrincipal { name: "ana".into() }).expect("is removed");
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    assert_eq!(world.state.approval(id).map(|a| a.votes.len()), Some(2));
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
    assert_eq!(world.approve("cat", id), Ok(ApprovalState::Approved));
    assert!(world.claim(1).is_ok());
}

#[test]
fn a_12_a_name_that_comes_back_brings_no_old_votes_with_it() {
    let mut world = World::begun();
    let id = world.opened(asking(1, &[requirement(&["*"], 2)]));
    world.approve("ana", id).expect("counts");
    world.admin(Command::RemovePrincipal { name: "ana".into() }).expect("is removed");
    world.admin(add_principal("ana", &[Role::Approver], &[])).expect("is added again");
    assert_eq!(world.approve("ben", id), Ok(ApprovalState::Pending));
    assert_eq!(world.approve("ana", id), Ok(ApprovalState::Approved));
}

#[test]
fn what_too_few_are_left_to_approve_is_denied_with_the_removal() {
    let mut world = World::begun();
    let of_ops = world.opened(asking(1, &[requirement(&["ops"], 2)]));
    let of_all = world.opened(Open { shown: shown(2), ..asking(2, &[requirement(&["*"], 4)]) });
    let of_other =
        Open { shown: shown(3), agent: "a2".into(), ..asking(3, &[requirement(&["*"], 4)]) };
    let of_other = world.opened(of_other);
    world.approve("ben", of_ops).expect("counts");
    let records = world.records();
    let removed = world.admin(Command::RemovePrincipal { name: "ana".into() });
    // Dan owns a1, so three are left for its second request; a2 is nobody's, and four are left for it.
    let approvals = vec![of_ops, of_all];
    assert_eq!(removed, Ok(Event::PrincipalChanged { name: "ana".into(), approvals }));
    assert_eq!(
        world.actions_since(records),
        ["principal.remove", "approval.deny", "approval.deny"]
    );
    let denial = &world.state.audit().records()[records + 1];
    let approval = world.state.approval(of_ops).expect("is there");
    assert_eq!(approval.state, ApprovalState::Denied);
    assert!(approval.reason.starts_with("nobody can approve: "), "{}", approval.reason);
    assert_eq!(
        (&denial.subject, denial.detail("reason")),
        (&of_ops.to_string(), Some(&approval.reason))
    );
    assert_eq!(denial.actor, "principal:admin");
    assert_eq!(world.state_of(of_all), ApprovalState::Denied);
    assert_eq!(world.state_of(of_other), ApprovalState::Pending);
    assert!(matches!(world.claim(1), Err(Refused::Denied(_))));
    assert!(matches!(world.approve("ben", of_all), Err(Refused::Precondition(_))));
}

#[test]
fn a_removal_denies_what_was_approved_with_a_vote_that_nobody_can_replace() {
    let mut world = World::begun();
    let id = world.opened(asking(1, &[requirement(&["ops"], 2)]));
    world.approve("ana", id).expect("counts");
    assert_eq!(world.approve("ben", id), Ok(ApprovalState::Approved));
    let removed = world.admin(Command::RemovePrincipal { name: "ana".into() });
    assert_eq!(removed, Ok(Event::PrincipalChanged { name: "ana".into(), approvals: vec![id] }));
    assert_eq!(world.state_of(id), ApprovalState::Denied);
}

#[test]
fn a_removal_leaves_alone_what_is_approved_without_the_one_who_goes() {
    let mut world = World::begun();
    let id = world.opened(asking(1, &[requirement(&["ops"], 1)]));
    world.approve("ana", id).expect("counts");
    let records = world.records();
    world.admin(Command::RemovePrincipal { name: "ben".into() }).expect("is removed");
    assert_eq!(world.actions_since(records), ["principal.remove"]);
    assert_eq!(world.state_of(id), ApprovalState::Approved);
    assert!(world.claim(1).is_ok());
}

#[test]
fn a_14_a_stricter_policy_takes_an_approval_back_to_pending() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.approve("cat", id).expect("counts");
    let version = world.set_policy();
    assert_eq!(world.claim(1), Err(Refused::PolicyChanged), "judged under the version before");
    let stricter = Open { policy_version: version, ..asking(1, &[requirement(&["ops"], 1)]) };
    assert_eq!(world.open(stricter), Ok((Some(id), true)));
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
    assert_eq!(world.approve("ana", id), Ok(ApprovalState::Approved));
    assert!(world.claim(1).is_ok());
}

#[test]
fn a_14_a_policy_that_still_permits_it_keeps_the_approval() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.approve("cat", id).expect("counts");
    let version = world.set_policy();
    assert_eq!(world.open(Open { policy_version: version, ..open(1) }), Ok((Some(id), true)));
    assert_eq!(world.state_of(id), ApprovalState::Approved);
    assert!(world.claim(1).is_ok());
}

#[test]
fn a_14_a_policy_that_nobody_can_meet_denies() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.approve("cat", id).expect("counts");
    let version = world.set_policy();
    world.opened(Open { policy_version: version, ..asking(2, &[requirement(&["legal"], 1)]) });
    assert_eq!(world.state_of(id), ApprovalState::Denied);
}

#[test]
fn a_17_the_same_intent_meets_its_denial_for_a_minute() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.deny("ana", id).expect("denies");
    world.pass(MINUTE - 1);
    assert_eq!(world.open(open(2)), Ok((Some(id), true)));
    assert!(matches!(world.claim(2), Err(Refused::Denied(_))));
    world.pass(1);
    assert_eq!(world.open(open(3)), Ok((Some(open(3).approval), false)));
    assert_eq!(world.state_of(open(3).approval), ApprovalState::Pending);
}

#[test]
fn a_19_the_same_command_twice_gives_the_first_outcome() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    let first = world.approve("ana", id);
    let records = world.records();
    assert_eq!(world.approve("ana", id), first, "a double click under two command ids");
    assert_eq!(world.records(), records);
    world.deny("ben", id).expect("denies");
    assert_eq!(
        world.approve("ana", id),
        Ok(ApprovalState::Denied),
        "the second click tells the current state"
    );
    assert_eq!(world.state.approval(id).map(|a| a.votes.len()), Some(2));
}

#[test]
fn a_vote_about_other_bytes_is_refused() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    let outcome = world.system(Command::Vote {
        approval: id,
        by: Voter::Principal("ana".into()),
        word: VoteWord::Approve,
        channel: "web".into(),
        reason: String::new(),
        intent_digest: Some([2; 32]),
        strength: Strength::L2,
        proof: Proof::None,
        breaks_glass: false,
    });
    assert!(matches!(outcome, Err(Refused::Invalid(_))));
    assert_eq!(world.state_of(id), ApprovalState::Pending);
}

#[test]
fn a_denial_is_not_refused_for_being_wordy() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    let outcome = world.system(Command::Vote {
        approval: id,
        by: Voter::Principal("ana".into()),
        word: VoteWord::Deny,
        channel: "é".repeat(500),
        reason: "ñ".repeat(5_000),
        intent_digest: None,
        strength: Strength::L2,
        proof: Proof::None,
        breaks_glass: false,
    });
    assert_eq!(outcome, Ok(Event::Voted { approval: id, state: ApprovalState::Denied }));
    assert!(world.state.approval(id).is_some_and(|a| a.votes[0].reason.len() <= 1_000));
}

#[test]
fn a_cancelled_or_revoked_approval_is_over() {
    for (command, state) in [
        (
            Command::Cancel { approval: open(1).approval, reason: "mistake".into() },
            ApprovalState::Cancelled,
        ),
        (
            Command::Revoke { approval: open(1).approval, reason: "policy".into() },
            ApprovalState::Revoked,
        ),
    ] {
        let mut world = World::begun();
        let id = world.opened(open(1));
        world.approve("ana", id).expect("counts");
        assert_eq!(world.admin(command.clone()), Ok(Event::Settled { approval: id, state }));
        assert!(matches!(world.claim(1), Err(Refused::Denied(_))));
        let records = world.records();
        assert_eq!(world.admin(command), Ok(Event::Settled { approval: id, state }));
        assert_eq!(world.records(), records, "twice is once");
        assert_eq!(
            world.open(open(2)),
            Ok((Some(open(2).approval), false)),
            "a fresh request asks anew"
        );
    }
}

#[test]
fn a_detached_request_leaves_its_approval_behind() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    let detach = Command::Detach { request_id: [1; 16], reason: "agent hung up".into() };
    assert!(world.system(detach.clone()).is_ok());
    assert!(matches!(world.system(detach), Err(Refused::NotFound(_))));
    assert_eq!(world.state.held_for(id).count(), 0);
    assert_eq!(world.approve("ana", id), Ok(ApprovalState::Approved));
    assert!(matches!(world.claim(1), Err(Refused::NotFound(_))));
    assert_eq!(world.open(open(2)), Ok((Some(id), true)), "the retry finds it approved");
    assert!(world.claim(2).is_ok());
}

#[test]
fn held_requests_are_forgotten_ten_minutes_after_the_end() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.deny("ana", id).expect("denies");
    world.pass(10 * MINUTE - 1);
    world.tick();
    assert!(world.state.held(&[1; 16]).is_some());
    world.pass(1);
    assert_eq!(world.tick(), vec![]);
    assert!(world.state.held(&[1; 16]).is_none());
    assert_eq!(world.state.next_due(), None);
}

#[test]
fn bodies_and_then_approvals_of_long_ago_are_dropped() {
    let mut world = World::begun();
    let id = |n: u64| countersign_control_plane::state::ApprovalId(u128::from(n).to_be_bytes());
    for n in 0..20_001u64 {
        let mut shown = shown(0);
        shown.intent_digest[..8].copy_from_slice(&n.to_be_bytes());
        let request_id = u128::from(n).to_be_bytes();
        world.opened(Open { approval: id(n), request_id, shown, ..open(1) });
        world.deny("ana", id(n)).expect("denies");
        world.pass(1_000);
        if n % 100 == 0 {
            world.tick();
        }
    }
    assert!(world.state.approval(id(0)).is_none());
    assert!(world.state.approval(id(1)).is_some_and(|a| a.shown.body_preview.is_empty()));
    assert!(world.state.approval(id(20_000)).is_some_and(|a| !a.shown.body_preview.is_empty()));
    assert_eq!(world.state.approvals().count(), 20_000);
}
