//! People's attention is not an agent's to use up: A-17 and the caps of threats.md §2.6.

use std::collections::BTreeSet;

use countersign_control_plane::state::{
    Announced, ApprovalId, ApprovalState, Command, Event, Nudge, Open, Refused, Shown,
};

use crate::world::{EXPIRES, MINUTE, World, open, requirement, shown};

/// Request `n` with bytes of its own, to a host of its own if it is not similar to the others.
fn other(n: u8, similar: bool) -> Open {
    let host = if similar { "api.stripe.com".to_owned() } else { format!("api-{n}.example.com") };
    Open { shown: Shown { host, ..shown(n) }, ..open(n) }
}

fn announced(world: &World, id: ApprovalId) -> Announced {
    world.state.approval(id).expect("is kept").announced.clone()
}

fn asked(world: &World, id: ApprovalId) -> Vec<String> {
    match announced(world, id) {
        Announced::Card { to } => to.into_iter().collect(),
        other => panic!("it has no card of its own: {other:?}"),
    }
}

#[test]
fn a_card_goes_to_those_who_can_answer_it_now() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    assert_eq!(asked(&world, id), ["admin", "ana", "ben", "cat"], "dan owns the agent");
    let until = Some(world.now + 60 * MINUTE);
    let away = Command::SetAway {
        name: "ana".into(),
        until,
        stand_in: Some("cat".into()),
        reason: String::new(),
    };
    world.system(away).expect("is away");
    let ops = Open { requirements: vec![requirement(&["ops"], 1)], ..other(2, false) };
    let id = world.opened(ops);
    assert_eq!(asked(&world, id), ["ben", "cat"], "cat in the place of ana");
}

#[test]
fn a_17_similar_requests_are_counted_on_one_card() {
    let mut world = World::begun();
    let first = world.opened(other(1, true));
    let others: Vec<_> = (2..30).map(|n| world.opened(other(n, true))).collect();
    assert!(others.iter().all(|id| announced(&world, *id) == Announced::With(first)));
    assert_eq!(world.state.counted_with(first), others.len());
    // Each is about its own bytes all the same.
    world.approve("ana", first).expect("counts");
    assert_eq!(world.state_of(first), ApprovalState::Approved);
    assert!(others.iter().all(|id| world.state_of(*id) == ApprovalState::Pending));
    // When the first is answered the oldest of the others has the card.
    assert!(matches!(announced(&world, others[0]), Announced::Card { .. }));
    assert_eq!(world.state.counted_with(others[0]), others.len() - 1);
    let next = world.opened(other(40, true));
    assert_eq!(announced(&world, next), Announced::With(others[0]));
}

#[test]
fn what_waits_for_people_again_is_brought_to_them_again() {
    let mut world = World::begun();
    let first = world.opened(other(1, true));
    let second = world.opened(other(2, true));
    world.approve("ana", first).expect("counts");
    assert!(matches!(announced(&world, second), Announced::Card { .. }));
    world.system(Command::RemovePrincipal { name: "ana".into() }).expect("is removed");
    assert_eq!(world.state_of(first), ApprovalState::Pending);
    assert_eq!(announced(&world, first), Announced::With(second));
    world.deny("ben", second).expect("counts");
    assert_eq!(asked(&world, first), ["admin", "ben", "cat"]);
}

#[test]
fn a_14_what_another_rule_asks_about_is_similar_to_others_then() {
    let mut world = World::begun();
    let first = world.opened(other(1, true));
    let second = world.opened(other(2, true));
    let version = world.set_policy();
    let judged = Open {
        policy_version: version,
        rule: "refunds".into(),
        requirements: vec![requirement(&["ops"], 1)],
        ..other(1, true)
    };
    world.open(judged).expect("is judged again");
    assert_eq!(asked(&world, first), ["ana", "ben"]);
    assert!(matches!(announced(&world, second), Announced::Card { .. }));
    // Nothing is counted on a card that is there no more.
    let third = Open { policy_version: version, ..other(3, true) };
    let third = world.opened(third);
    assert_eq!(announced(&world, third), Announced::With(second));
}

#[test]
fn a_17_an_agent_gets_six_cards_a_minute_and_another_agent_its_own() {
    let mut world = World::begun();
    let ids: Vec<_> = (1..=8).map(|n| world.opened(other(n, false))).collect();
    let cards = ids.iter().filter(|id| matches!(announced(&world, **id), Announced::Card { .. }));
    assert_eq!(cards.count(), 6);
    assert_eq!(announced(&world, ids[7]), Announced::Together);
    let theirs = world.opened(Open { agent: "a2".into(), ..other(20, false) });
    assert!(matches!(announced(&world, theirs), Announced::Card { .. }));
    world.pass(MINUTE);
    let later = world.opened(other(21, false));
    assert!(matches!(announced(&world, later), Announced::Card { .. }));
    // What has no card can be answered none the less.
    assert_eq!(world.approve("ana", ids[7]), Ok(ApprovalState::Approved));
}

#[test]
fn a_17_a_person_gets_thirty_cards_an_hour() {
    let mut world = World::begun();
    let mut last = Vec::new();
    for n in 1..=36 {
        let agent = if n % 2 == 0 { "a1" } else { "a2" };
        let id = world.opened(Open { agent: agent.into(), ..other(n, false) });
        world.pass(MINUTE);
        last = asked(&world, id);
        let expected = if n <= 30 { 4 } else { 0 };
        assert!(last.len() >= expected, "{n}: {last:?}");
    }
    assert!(!last.contains(&"ana".to_owned()), "{last:?}");
    world.pass(60 * MINUTE);
    let id = world.opened(other(100, false));
    assert!(asked(&world, id).contains(&"ana".to_owned()));
}

#[test]
fn d_an_agent_has_so_many_waiting_and_no_more() {
    let mut world = World::begun();
    let few = |n: u8| Open { most_pending: 3, ..other(n, false) };
    for n in 1..=3 {
        world.opened(few(n));
    }
    let Err(Refused::Exhausted(why)) = world.open(few(4)) else { panic!("is held") };
    assert!(why.contains("3 others"), "{why}");
    assert!(world.state.held(&[4; 16]).is_none());
    // The same again joins; another agent has its own.
    assert!(world.open(Open { request_id: [9; 16], ..few(1) }).is_ok());
    assert!(world.open(Open { agent: "a2".into(), ..few(5) }).is_ok());
    world.deny("ana", ApprovalId([1; 16])).expect("counts");
    assert!(world.open(few(4)).is_ok());
}

#[test]
fn a_17_a_denial_stands_for_its_cool_down_and_is_counted() {
    let mut world = World::begun();
    let ten = |n: u8| Open { cool_down_ms: 10 * MINUTE, request_id: [n; 16], ..open(1) };
    let id = world.opened(ten(1));
    world.deny("ana", id).expect("counts");
    world.pass(10 * MINUTE - 1);
    for n in 2..8 {
        assert_eq!(world.open(ten(n)), Ok((Some(id), true)));
    }
    assert_eq!(world.state.approval(id).map(|a| a.asked_again), Some(6));
    let record = world.state.audit().records().last().expect("is recorded");
    assert_eq!(record.detail("asked_again").map(String::as_str), Some("6"));
    assert_eq!(world.state.approvals().count(), 1, "nobody was asked again");
    world.pass(1);
    let again = Open { approval: ApprovalId([2; 16]), ..ten(9) };
    assert_eq!(world.open(again), Ok((Some(ApprovalId([2; 16])), false)));
}

#[test]
fn people_are_reminded_once_before_it_expires() {
    let mut world = World::begun();
    let id = world.opened(Open { remind_ms: Some(5 * MINUTE), ..open(1) });
    assert_eq!(world.state.next_due(), Some(world.now + EXPIRES - 5 * MINUTE));
    world.pass(EXPIRES - 5 * MINUTE);
    let nudged = vec![(id, Nudge::Reminded)];
    assert_eq!(world.system(Command::Tick), Ok(Event::Ticked { settled: Vec::new(), nudged }));
    let record = world.state.audit().records().last().expect("is recorded");
    assert_eq!(record.action, "approval.remind");
    assert_eq!(record.detail("to").map(String::as_str), Some("admin,ana,ben,cat"));
    assert_eq!(
        world.system(Command::Tick).ok(),
        Some(Event::Ticked { settled: vec![], nudged: vec![] })
    );
}

#[test]
fn nobody_is_reminded_of_what_was_answered() {
    let mut world = World::begun();
    let id = world.opened(Open { remind_ms: Some(5 * MINUTE), ..open(1) });
    world.approve("ana", id).expect("counts");
    world.claim(1).expect("is released");
    world.pass(EXPIRES - 5 * MINUTE);
    let Ok(Event::Ticked { nudged, .. }) = world.system(Command::Tick) else { panic!("ticks") };
    assert!(nudged.is_empty(), "{nudged:?}");
    assert!(!world.actions_since(0).contains(&"approval.remind"));
}

#[test]
fn what_rests_on_nobody_asks_nobody() {
    let mut world = World::begun();
    let id = world.opened(Open { requirements: vec![requirement(&["nobody"], 1)], ..open(1) });
    assert_eq!(world.state_of(id), ApprovalState::Denied);
    assert_eq!(announced(&world, id), Announced::Together);
    let none: BTreeSet<String> = BTreeSet::new();
    assert_ne!(announced(&world, id), Announced::Card { to: none });
}
