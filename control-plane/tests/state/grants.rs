//! grants have a scope, an end, a cap, and a record of each use.

use countersign_control_plane::state::{
    Actor, ApprovalId, ApprovalState, Command, Event, GrantId, GrantWish, Open, Proof, Refused,
    Requirement, Shown, Strength,
};

use crate::world::{MINUTE, World, open, requirement, shown};

const ID: GrantId = GrantId([7; 16]);

/// Intent and request `n`: POST to a charge of its own.
fn charge(n: u8) -> Open {
    let shown = Shown { path: format!("/v1/charges/{n}"), ..shown(n) };
    Open { shown, ..open(n) }
}

fn wish(beside: u8) -> GrantWish {
    GrantWish {
        id: ID,
        beside: ApprovalId([beside; 16]),
        path: "/v1/charges/{id}".into(),
        most_uses: 2,
        ttl_ms: 60 * MINUTE,
        reason: "the monthly run".into(),
        channel: "cli".into(),
        strength: Strength::L2,
        proof: Proof::None,
    }
}

fn ask(world: &mut World, who: &str, wish: GrantWish) -> Result<Vec<ApprovalId>, Refused> {
    let ask = Command::AskGrant(Box::new(wish));
    match world.act(Actor::Principal(who.into()), ask)? {
        Event::GrantChanged { approvals, .. } => Ok(approvals),
        other => panic!("a grant answers with what it changed, not {other:?}"),
    }
}

fn support(world: &mut World, who: &str) -> Result<Vec<ApprovalId>, Refused> {
    let support = Command::SupportGrant {
        id: ID,
        principal: who.into(),
        channel: "cli".into(),
        reason: String::new(),
        strength: Strength::L2,
        proof: Proof::None,
    };
    match world.act(Actor::Principal(who.into()), support)? {
        Event::GrantChanged { approvals, .. } => Ok(approvals),
        other => panic!("a grant answers with what it changed, not {other:?}"),
    }
}

fn uses(world: &World) -> Vec<u8> {
    let grant = world.state.grant(ID).expect("is kept");
    grant.uses.iter().map(|used| used.approval.0[0]).collect()
}

/// Ana has granted two charges beside the first, which is approved by it.
fn granted() -> World {
    let mut world = World::begun();
    let first = world.opened(charge(1));
    assert_eq!(ask(&mut world, "ana", wish(1)), Ok(vec![first]));
    world
}

#[test]
fn a_16_a_grant_lets_so_many_of_the_same_through_and_no_more() {
    let mut world = granted();
    assert!(world.claim(1).is_ok());
    let second = world.opened(charge(2));
    assert_eq!(world.state_of(second), ApprovalState::Approved);
    assert!(world.claim(2).is_ok());
    assert_eq!(uses(&world), [1, 2]);
    let third = world.opened(charge(3));
    assert_eq!(world.state_of(third), ApprovalState::Pending);
    assert!(matches!(world.claim(3), Err(Refused::Precondition(_))));
    assert_eq!(uses(&world), [1, 2]);
    let claims = world.state.audit().records().iter().filter(|r| r.action == "request.claim");
    let grants: Vec<_> = claims.filter_map(|r| r.detail("grant")).collect();
    assert_eq!(grants, [&ID.to_string(), &ID.to_string()]);
}

#[test]
fn a_16_the_last_use_sends_the_others_back_to_people() {
    let mut world = granted();
    let others = [world.opened(charge(2)), world.opened(charge(3))];
    assert!(others.iter().all(|id| world.state_of(*id) == ApprovalState::Approved));
    assert!(world.claim(3).is_ok());
    assert!(world.claim(1).is_ok());
    assert_eq!(world.state_of(others[0]), ApprovalState::Pending);
    assert!(matches!(world.claim(2), Err(Refused::Precondition(_))));
    assert_eq!(uses(&world).len(), 2);
}

#[test]
fn a_16_a_use_is_counted_only_where_people_did_not_approve_themselves() {
    let mut world = granted();
    world.approve("ben", ApprovalId([1; 16])).expect("counts");
    assert!(world.claim(1).is_ok());
    assert!(uses(&world).is_empty());
}

#[test]
fn a_16_nothing_else_than_its_scope_rests_on_it() {
    let other_agent = Open { agent: "a2".into(), ..charge(2) };
    let of = |n: u8, change: &dyn Fn(&mut Shown)| {
        let mut open = charge(n);
        change(&mut open.shown);
        open
    };
    let others = [
        other_agent,
        of(2, &|shown| shown.host = "api.stripe.com.evil.example".into()),
        of(2, &|shown| shown.port = 8443),
        of(2, &|shown| shown.method = "DELETE".into()),
        of(2, &|shown| shown.scheme = "http".into()),
        of(2, &|shown| shown.path = "/v1/charges".into()),
        of(2, &|shown| shown.path = "/v1/charges/".into()),
        of(2, &|shown| shown.path = "/v1/charges/2/refund".into()),
        of(2, &|shown| shown.path = "/v1/charges/%2e%2e".into()),
        of(2, &|shown| shown.path = "/v1/Charges/2".into()),
        of(2, &|shown| shown.path = "/v1/charges/2%2Frefund".into()),
        of(2, &|shown| shown.uninspectable = true),
    ];
    for other in others {
        let mut world = granted();
        let what = format!("{} {:?}", other.agent, other.shown);
        let id = world.opened(other);
        assert_eq!(world.state_of(id), ApprovalState::Pending, "{what}");
        assert!(matches!(world.claim(2), Err(Refused::Precondition(_))), "{what}");
    }
}

#[test]
fn a_16_it_ends_at_its_end_even_for_what_was_approved_by_it() {
    let mut world = granted();
    let second = world.opened(charge(2));
    world.pass(60 * MINUTE - 1);
    let third = world.opened(charge(3));
    assert_eq!(world.state_of(third), ApprovalState::Approved);
    world.pass(1);
    assert!(matches!(world.claim(3), Err(Refused::Precondition(_))));
    let settled = world.tick();
    assert!(settled.contains(&(third, ApprovalState::Pending)), "{settled:?}");
    assert_eq!(world.state_of(third), ApprovalState::Pending);
    assert_eq!(world.state_of(second), ApprovalState::Expired, "not used for long enough");
    let fourth = world.opened(charge(4));
    assert_eq!(world.state_of(fourth), ApprovalState::Pending);
    assert!(uses(&world).is_empty());
}

#[test]
fn a_16_it_is_never_for_a_critical_rule() {
    let mut world = World::begun();
    let critical = Requirement { critical: true, ..requirement(&["*"], 1) };
    let asking = |n| Open { requirements: vec![critical.clone()], ..charge(n) };
    world.opened(asking(1));
    let Err(Refused::Denied(why)) = ask(&mut world, "ana", wish(1)) else { panic!("is granted") };
    assert!(why.contains("critical"), "{why}");
    // Granted while it was not critical, and then it is.
    let mut world = granted();
    let id = world.opened(asking(2));
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    let version = world.set_policy();
    let judged_again = Open { policy_version: version, ..asking(1) };
    world.open(judged_again).expect("is judged again");
    assert_eq!(world.state_of(ApprovalId([1; 16])), ApprovalState::Pending);
    assert!(world.claim(1).is_err());
}

#[test]
fn a_16_it_is_worth_what_its_givers_are_worth_now() {
    let mut world = granted();
    let second = world.opened(charge(2));
    world.system(Command::RemovePrincipal { name: "ana".into() }).expect("is removed");
    assert_eq!(world.state_of(second), ApprovalState::Pending);
    let third = world.opened(charge(3));
    assert_eq!(world.state_of(third), ApprovalState::Pending);
    assert!(matches!(world.claim(2), Err(Refused::Precondition(_))));
}

#[test]
fn a_16_where_two_have_to_agree_two_have_to_grant() {
    let mut world = World::begun();
    let asking = |n| Open { requirements: vec![requirement(&["ops"], 2)], ..charge(n) };
    let first = world.opened(asking(1));
    assert_eq!(ask(&mut world, "ana", wish(1)), Ok(vec![]));
    assert_eq!(world.state_of(first), ApprovalState::Pending);
    assert!(matches!(support(&mut world, "cat"), Err(Refused::Denied(_))), "is not asked");
    assert_eq!(support(&mut world, "ana"), Ok(vec![]), "again");
    assert_eq!(world.state_of(first), ApprovalState::Pending);
    assert_eq!(support(&mut world, "ben"), Ok(vec![first]));
    let second = world.opened(asking(2));
    assert_eq!(world.state_of(second), ApprovalState::Approved);
}

#[test]
fn a_16_a_place_that_is_filled_ahead_is_not_filled_again_by_who_stands_in() {
    let mut world = World::begun();
    let until = Some(world.now + 60 * MINUTE);
    let stand_in = Some("cat".into());
    let away = Command::SetAway { name: "ben".into(), until, stand_in, reason: String::new() };
    world.system(away).expect("is away");
    let id = world.opened(Open { requirements: vec![requirement(&["ops"], 2)], ..charge(1) });
    assert_eq!(world.approve("cat", id), Ok(ApprovalState::Pending), "in the place of ben");
    assert_eq!(ask(&mut world, "ben", wish(1)), Ok(vec![]), "ben himself, ahead");
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
    assert_eq!(world.approve("ana", id), Ok(ApprovalState::Approved));
}

#[test]
fn a_16_who_may_not_approve_may_not_grant() {
    let mut world = World::begun();
    world.opened(Open { requirements: vec![requirement(&["ops"], 1)], ..charge(1) });
    for who in ["cat", "dan", "nobody"] {
        assert!(matches!(ask(&mut world, who, wish(1)), Err(Refused::Denied(_))), "{who}");
    }
    let ask = Command::AskGrant(Box::new(wish(1)));
    let by_edge = world.act(Actor::Edge("e1".into()), ask.clone());
    assert!(matches!(by_edge, Err(Refused::Denied(_))));
    assert!(matches!(world.system(ask), Err(Refused::Denied(_))));
    assert!(world.state.grant(ID).is_none());
}

#[test]
fn a_16_there_is_no_grant_for_everything_or_for_ever() {
    let mut world = World::begun();
    world.opened(charge(1));
    let day = 24 * 60 * MINUTE;
    let wishes = [
        GrantWish { most_uses: 0, ..wish(1) },
        GrantWish { most_uses: 1_001, ..wish(1) },
        GrantWish { ttl_ms: 0, ..wish(1) },
        GrantWish { ttl_ms: 31 * day, ..wish(1) },
        GrantWish { path: "/{all...}".into(), ..wish(1) },
        GrantWish { path: "v1/charges/1".into(), ..wish(1) },
        GrantWish { path: "/v1/*/1".into(), ..wish(1) },
        GrantWish { path: "/v1/ch{x}/1".into(), ..wish(1) },
        GrantWish { path: "/v1/{rest...}/1".into(), ..wish(1) },
        GrantWish { path: "/v2/charges/{id}".into(), ..wish(1) },
    ];
    for wish in wishes {
        let path = wish.path.clone();
        assert!(matches!(ask(&mut world, "ana", wish), Err(Refused::Invalid(_))), "{path}");
    }
    assert!(world.state.grant(ID).is_none());
    let rest = GrantWish { path: "/v1/{rest...}".into(), ..wish(1) };
    assert!(ask(&mut world, "ana", rest).is_ok());
}

#[test]
fn a_16_revoking_it_is_at_once_and_any_approvers() {
    let mut world = granted();
    let second = world.opened(charge(2));
    let revoke = |world: &mut World, who: &str| {
        let revoke = Command::RevokeGrant { id: ID, reason: "enough".into() };
        world.act(Actor::Principal(who.into()), revoke)
    };
    assert!(matches!(revoke(&mut world, "nobody"), Err(Refused::Denied(_))));
    assert!(revoke(&mut world, "cat").is_ok());
    for id in [ApprovalId([1; 16]), second] {
        assert_eq!(world.state_of(id), ApprovalState::Pending);
    }
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
    assert!(matches!(support(&mut world, "ben"), Err(Refused::Expired(_))));
}

#[test]
fn the_decision_of_a_release_that_rests_on_a_grant_says_who_gave_it() {
    let mut world = granted();
    world.claim(1).expect("is released");
    let approval = world.state.approval(ApprovalId([1; 16])).expect("is kept");
    let votes: Vec<_> =
        approval.votes.iter().map(|v| (v.principal.as_str(), v.channel.clone())).collect();
    assert_eq!(votes, [("ana", format!("grant {ID}"))]);
}
