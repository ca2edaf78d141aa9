//! Whose yes counts: panels, strength, owners, escalation, people who stand in, broken glass.

use countersign_control_plane::state::{
    ApprovalId, ApprovalState, Command, Escalation, Event, Nudge, Open, Panel, Proof, Refused,
    Requirement, Role, Strength, VoteWord, Voter,
};

use crate::world::{MINUTE, World, add_principal, open, requirement};

fn asking(requirement: Requirement) -> Open {
    Open { requirements: vec![requirement], ..open(1) }
}

fn panels(panels: &[(&[&str], u32)]) -> Requirement {
    let panel = |(of, quorum): &(&[&str], u32)| Panel {
        of: of.iter().map(|name| (*name).to_owned()).collect(),
        quorum: *quorum,
    };
    Requirement { panels: panels.iter().map(panel).collect(), ..requirement(&["*"], 1) }
}

fn surely(
    world: &mut World,
    principal: &str,
    id: ApprovalId,
    strength: Strength,
    proof: Proof,
) -> Result<ApprovalState, Refused> {
    let vote = Command::Vote {
        approval: id,
        by: Voter::Principal(principal.into()),
        word: VoteWord::Approve,
        channel: "slack".into(),
        reason: String::new(),
        intent_digest: None,
        strength,
        proof,
        breaks_glass: false,
    };
    match world.system(vote)? {
        Event::Voted { state, .. } => Ok(state),
        other => panic!("a vote answers with a state, not {other:?}"),
    }
}

fn break_glass(
    world: &mut World,
    principal: &str,
    id: ApprovalId,
    reason: &str,
) -> Result<ApprovalState, Refused> {
    let vote = Command::Vote {
        approval: id,
        by: Voter::Principal(principal.into()),
        word: VoteWord::Approve,
        channel: "cli".into(),
        reason: reason.into(),
        intent_digest: None,
        strength: Strength::L2,
        proof: Proof::None,
        breaks_glass: true,
    };
    match world.system(vote)? {
        Event::Voted { state, .. } => Ok(state),
        other => panic!("a vote answers with a state, not {other:?}"),
    }
}

fn away(world: &mut World, name: &str, millis: u64, stand_in: Option<&str>) {
    let until = Some(world.now + millis);
    let stand_in = stand_in.map(Into::into);
    let command = Command::SetAway { name: name.into(), until, stand_in, reason: String::new() };
    world.system(command).expect("is away");
}

#[test]
fn several_panels_need_distinct_people() {
    let mut world = World::begun();
    world.system(add_principal("sue", &[Role::Approver], &["security", "finance"])).unwrap();
    world.system(add_principal("fin", &[Role::Approver], &["finance"])).unwrap();
    let id = world.opened(asking(panels(&[(&["security"], 1), (&["finance"], 1)])));
    assert_eq!(world.approve("sue", id), Ok(ApprovalState::Pending), "one person is one person");
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
    assert_eq!(world.approve("fin", id), Ok(ApprovalState::Approved));
    assert!(world.claim(1).is_ok());
}

#[test]
fn people_move_to_the_panel_that_nobody_else_can_fill() {
    let mut world = World::begun();
    world.system(add_principal("sue", &[Role::Approver], &["security", "finance"])).unwrap();
    world.system(add_principal("sec", &[Role::Approver], &["security"])).unwrap();
    let id = world.opened(asking(panels(&[(&["security"], 1), (&["finance"], 1)])));
    // Sue fills the first panel until somebody comes who can fill no other.
    assert_eq!(world.approve("sue", id), Ok(ApprovalState::Pending));
    assert_eq!(world.approve("sec", id), Ok(ApprovalState::Approved));
}

#[test]
fn panels_that_too_few_people_can_fill_are_denied_at_once() {
    let mut world = World::begun();
    world.system(add_principal("sue", &[Role::Approver], &["security", "finance"])).unwrap();
    let id = world.opened(asking(panels(&[(&["security"], 1), (&["finance"], 1)])));
    assert_eq!(world.state_of(id), ApprovalState::Denied);
    let reason = world.state.approval(id).map(|a| a.reason.clone()).unwrap_or_default();
    assert!(reason.contains("1 of security and 1 of finance"), "{reason}");
}

#[test]
fn a_strength_a_vote_that_is_too_weak_does_not_count_and_says_what_would() {
    let mut world = World::begun();
    let strong = Requirement { strength: Strength::L3, ..requirement(&["ops"], 1) };
    let id = world.opened(asking(strong));
    for weak in [Strength::L0, Strength::L1, Strength::L2] {
        let refused = surely(&mut world, "ana", id, weak, Proof::Transferable);
        let Err(Refused::Denied(why)) = refused else { panic!("{weak}: {refused:?}") };
        assert!(why.contains("strength L3"), "{why}");
    }
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    assert!(world.state.approval(id).is_some_and(|a| a.votes.is_empty()));
    let counted = surely(&mut world, "ana", id, Strength::L3, Proof::Transferable);
    assert_eq!(counted, Ok(ApprovalState::Approved));
}

#[test]
fn a_strength_the_proof_that_a_rule_asks_for_is_the_votes_own() {
    let mut world = World::begun();
    let proven = Requirement { proof: Proof::Shared, ..requirement(&["ops"], 1) };
    let id = world.opened(asking(proven));
    assert!(matches!(
        surely(&mut world, "ana", id, Strength::L3, Proof::None),
        Err(Refused::Denied(_))
    ));
    let counted = surely(&mut world, "ana", id, Strength::L1, Proof::Shared);
    assert_eq!(counted, Ok(ApprovalState::Approved));
}

#[test]
fn a_strength_a_weak_account_can_still_say_no() {
    let mut world = World::begun();
    let strong = Requirement { strength: Strength::L3, ..requirement(&["ops"], 1) };
    let id = world.opened(asking(strong));
    assert_eq!(world.deny("ana", id), Ok(ApprovalState::Denied));
}

#[test]
fn a_strength_a_surer_vote_takes_the_place_of_a_weaker_one() {
    let mut world = World::begun();
    let weak = requirement(&["ops"], 1);
    let strong =
        Requirement { rule: "strong".into(), strength: Strength::L3, ..requirement(&["ops"], 1) };
    let id = world.opened(Open { requirements: vec![weak, strong], ..open(1) });
    let first = surely(&mut world, "ana", id, Strength::L1, Proof::None);
    assert_eq!(first, Ok(ApprovalState::Pending));
    let second = surely(&mut world, "ana", id, Strength::L3, Proof::None);
    assert_eq!(second, Ok(ApprovalState::Approved));
    assert_eq!(world.state.approval(id).map(|a| a.votes.len()), Some(1));
}

#[test]
fn a_11_an_owner_approves_only_where_the_rule_says_so() {
    let mut world = World::begun();
    let id = world.opened(asking(requirement(&["*"], 1)));
    assert!(matches!(world.approve("dan", id), Err(Refused::Denied(_))), "dan owns the agent");
    let allowed = Requirement { owner_may_approve: true, ..requirement(&["*"], 1) };
    let other = Open {
        approval: ApprovalId([2; 16]),
        request_id: [2; 16],
        shown: crate::world::shown(2),
        ..asking(allowed)
    };
    let id = world.opened(other);
    assert_eq!(world.approve("dan", id), Ok(ApprovalState::Approved));
}

#[test]
fn a_11_who_becomes_the_owner_counts_no_more() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    assert_eq!(world.approve("ana", id), Ok(ApprovalState::Approved));
    let owner = Some("ana".into());
    world.system(Command::SetOwner { agent: "mailer".into(), owner }).expect("is set");
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
}

#[test]
fn escalation_lets_others_in_when_its_time_has_come_and_tells_them() {
    let mut world = World::begun();
    let escalations = vec![Escalation { after_ms: 5 * MINUTE, to: vec!["cat".into()] }];
    let id = world.opened(asking(Requirement { escalations, ..requirement(&["ana"], 1) }));
    let Err(Refused::Denied(why)) = world.approve("cat", id) else { panic!("counts too early") };
    assert!(why.contains("300 seconds"), "{why}");
    assert_eq!(world.state.next_due(), Some(world.now + 5 * MINUTE));
    world.pass(5 * MINUTE);
    let ticked = world.system(Command::Tick);
    let nudged = vec![(id, Nudge::Escalated)];
    assert_eq!(ticked, Ok(Event::Ticked { settled: Vec::new(), nudged }));
    assert_eq!(world.approve("cat", id), Ok(ApprovalState::Approved));
    assert!(world.claim(1).is_ok());
}

#[test]
fn who_is_named_by_a_later_step_can_say_no_at_once() {
    let mut world = World::begun();
    let escalations = vec![Escalation { after_ms: 5 * MINUTE, to: vec!["cat".into()] }];
    let id = world.opened(asking(Requirement { escalations, ..requirement(&["ana"], 1) }));
    assert_eq!(world.deny("cat", id), Ok(ApprovalState::Denied));
}

#[test]
fn a_stand_in_votes_in_the_place_of_somebody_who_is_away_until_they_are_back() {
    let mut world = World::begun();
    let id = world.opened(asking(requirement(&["ana"], 1)));
    assert!(matches!(world.approve("cat", id), Err(Refused::Denied(_))));
    away(&mut world, "ana", 5 * MINUTE, Some("cat"));
    assert_eq!(world.approve("cat", id), Ok(ApprovalState::Approved));
    // The power was lent, and the claim asks who has it then.
    world.pass(5 * MINUTE);
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
    assert_eq!(world.tick(), vec![(id, ApprovalState::Pending)]);
    assert!(world.actions_since(0).contains(&"approval.reopen"));
    assert_eq!(world.approve("ana", id), Ok(ApprovalState::Approved));
    assert!(world.claim(1).is_ok());
}

#[test]
fn one_place_is_filled_once_whoever_fills_it() {
    let mut world = World::begun();
    away(&mut world, "ana", 60 * MINUTE, Some("cat"));
    let id = world.opened(asking(requirement(&["ana", "ben"], 2)));
    assert_eq!(world.approve("cat", id), Ok(ApprovalState::Pending));
    assert_eq!(world.approve("ana", id), Ok(ApprovalState::Pending), "her own place, again");
    assert_eq!(world.approve("ben", id), Ok(ApprovalState::Approved));
}

#[test]
fn nobody_stands_in_for_the_owner_of_the_agent_nor_hands_a_place_on() {
    let mut world = World::begun();
    let id = world.opened(asking(requirement(&["dan"], 1)));
    assert_eq!(world.state_of(id), ApprovalState::Denied, "dan owns the agent");
    away(&mut world, "dan", 60 * MINUTE, Some("cat"));
    let both = asking(requirement(&["dan", "ana"], 1));
    let id = world.opened(Open {
        approval: ApprovalId([3; 16]),
        shown: crate::world::shown(3),
        request_id: [3; 16],
        ..both
    });
    assert!(matches!(world.approve("cat", id), Err(Refused::Denied(_))), "in the owner's place");
    away(&mut world, "ana", 60 * MINUTE, Some("dan"));
    assert!(matches!(world.approve("dan", id), Err(Refused::Denied(_))), "as the owner");
    assert!(matches!(world.approve("cat", id), Err(Refused::Denied(_))), "at second hand");
    assert_eq!(world.approve("ana", id), Ok(ApprovalState::Approved));
}

#[test]
fn a_place_cannot_be_lent_to_nobody_to_oneself_or_for_ever() {
    let mut world = World::begun();
    let set = |until: u64, stand_in: &str| Command::SetAway {
        name: "ana".into(),
        until: Some(until),
        stand_in: Some(stand_in.into()),
        reason: String::new(),
    };
    let now = world.now;
    for command in [
        set(now + MINUTE, "ana"),
        set(now + MINUTE, "nobody"),
        set(now, "ben"),
        set(now + 90 * 24 * 60 * MINUTE, "ben"),
    ] {
        assert!(matches!(world.system(command), Err(Refused::Invalid(_))));
    }
    assert!(world.state.principal("ana").is_some_and(|p| p.away.is_none()));
}

#[test]
fn broken_glass_approves_alone_with_a_reason_on_the_record() {
    let mut world = World::begun();
    let rule = Requirement { break_glass: vec!["cat".into()], ..requirement(&["ops"], 2) };
    let id = world.opened(asking(rule));
    assert!(matches!(break_glass(&mut world, "ana", id, "it burns"), Err(Refused::Denied(_))));
    assert!(matches!(break_glass(&mut world, "cat", id, "  "), Err(Refused::Invalid(_))));
    assert!(matches!(world.approve("cat", id), Err(Refused::Denied(_))), "not without saying so");
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    assert_eq!(break_glass(&mut world, "cat", id, "it burns"), Ok(ApprovalState::Approved));
    let record = world.state.audit().records().last().expect("is recorded");
    assert_eq!(record.action, "approval.break_glass");
    assert_eq!(record.detail("reason").map(String::as_str), Some("it burns"));
    assert!(world.claim(1).is_ok());
}

#[test]
fn the_glass_is_not_broken_by_the_owner_nor_by_one_who_was_removed() {
    let mut world = World::begun();
    let named = vec!["dan".into(), "cat".into()];
    let rule = Requirement { break_glass: named, ..requirement(&["ops"], 2) };
    let id = world.opened(asking(rule));
    assert!(matches!(break_glass(&mut world, "dan", id, "mine"), Err(Refused::Denied(_))));
    assert_eq!(break_glass(&mut world, "cat", id, "it burns"), Ok(ApprovalState::Approved));
    world.system(Command::RemovePrincipal { name: "cat".into() }).expect("is removed");
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
}

#[test]
fn a_critical_rule_that_names_who_breaks_the_glass_is_refused() {
    let mut world = World::begun();
    let rule =
        Requirement { critical: true, break_glass: vec!["cat".into()], ..requirement(&["ops"], 1) };
    assert!(matches!(world.open(asking(rule)), Err(Refused::Invalid(_))));
}

#[test]
fn a_12_leaving_a_group_takes_its_vote_back_and_what_nobody_can_approve_is_denied() {
    let mut world = World::begun();
    let one = world.opened(asking(requirement(&["ops"], 1)));
    let both = Open {
        approval: ApprovalId([2; 16]),
        request_id: [2; 16],
        shown: crate::world::shown(2),
        ..asking(requirement(&["ops"], 2))
    };
    let two = world.opened(both);
    assert_eq!(world.approve("ana", one), Ok(ApprovalState::Approved));
    let left = Command::SetGroups { name: "ana".into(), groups: std::collections::BTreeSet::new() };
    let changed = world.system(left);
    let approvals = vec![one, two];
    assert_eq!(changed, Ok(Event::PrincipalChanged { name: "ana".into(), approvals }));
    assert_eq!(world.state_of(one), ApprovalState::Pending);
    assert_eq!(world.state_of(two), ApprovalState::Denied);
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
}
