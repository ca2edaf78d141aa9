//! Two administrators, and accounts that speak for people.

use std::collections::BTreeSet;

use countersign_control_plane::state::{
    Account, Actor, ApprovalState, Command, Credential, Event, Open, Proof, Refused, Role,
    Strength, VoteWord, Voter,
};

use crate::world::{MINUTE, World, add_principal, credential, open};

const DAY: u64 = 24 * 60 * MINUTE;

/// Beside `admin` there is `eve`, an administrator too.
fn two_admins() -> World {
    let mut world = World::begun();
    world.admin(add_principal("eve", &[Role::Admin], &[])).expect("the second one takes only one");
    world
}

fn eve(world: &mut World, command: Command) -> Result<Event, Refused> {
    world.act(Actor::Principal("eve".into()), command)
}

fn proposed(outcome: Result<Event, Refused>) -> u64 {
    match outcome {
        Ok(Event::ChangeProposed { id }) => id,
        other => panic!("it waits for a second one, not {other:?}"),
    }
}

fn policy(text: &str, narrows: bool, expected_version: Option<u64>) -> Command {
    Command::SetPolicy { text: text.into(), sha256: [7; 32], expected_version, narrows }
}

fn groups(name: &str, groups: &[&str]) -> Command {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Command::SetGroups { name: name.into(), groups }
}

#[test]
fn c_two_person_whatever_widens_waits_for_another_administrator() {
    let widening = [
        policy("# wider", false, None),
        policy("# said to be narrower than nothing in particular", true, None),
        add_principal("puppet", &[Role::Approver], &["ops"]),
        add_principal("puppet", &[Role::Admin], &[]),
        Command::RotatePrincipal { name: "ana".into(), token_sha256: [8; 32] },
        Command::RemovePrincipal { name: "eve".into() },
        groups("cat", &["ops"]),
        Command::SetOwner { agent: "mailer".into(), owner: None },
    ];
    for command in widening {
        let mut world = two_admins();
        let before = world.state.clone();
        let id = proposed(world.admin(command.clone()));
        assert_eq!(world.state.policy().map(|p| p.version), Some(1), "{command:?}");
        assert!(world.state.principals().eq_by_debug(before.principals()), "{command:?}");
        assert_eq!(world.state.agent("a1").and_then(|a| a.owner.clone()), Some("dan".into()));
        // Not by the one who asked, nor by somebody who is no administrator.
        assert!(matches!(world.admin(Command::ConfirmChange { id }), Err(Refused::Denied(_))));
        let ana = Actor::Principal("ana".into());
        assert!(matches!(world.act(ana, Command::ConfirmChange { id }), Err(Refused::Denied(_))));
        assert!(matches!(
            world.act(Actor::Edge("e1".into()), Command::ConfirmChange { id }),
            Err(Refused::Denied(_))
        ));
        let done = eve(&mut world, Command::ConfirmChange { id });
        assert!(done.is_ok(), "{command:?}: {done:?}");
        assert!(world.actions_since(0).contains(&"change.confirm"));
        assert!(eve(&mut world, Command::ConfirmChange { id }).is_err(), "once");
    }
}

/// Equal in everything that can be shown.
trait EqByDebug: Iterator + Sized {
    fn eq_by_debug<O: Iterator<Item = Self::Item>>(self, other: O) -> bool
    where
        Self::Item: std::fmt::Debug,
    {
        let text = |item| format!("{item:?}");
        self.map(text).eq(other.map(text))
    }
}

impl<I: Iterator> EqByDebug for I {}

#[test]
fn c_two_person_what_takes_power_away_is_done_at_once() {
    let narrowing = [
        policy("# narrower", true, Some(1)),
        Command::RemovePrincipal { name: "ana".into() },
        groups("ana", &[]),
        Command::RotatePrincipal { name: "admin".into(), token_sha256: [8; 32] },
        Command::RevokeAgent { name: "mailer".into() },
        Command::RevokeCredential { name: "stripe".into() },
        add_principal("aud", &[Role::Auditor], &[]),
    ];
    for command in narrowing {
        let mut world = two_admins();
        let outcome = world.admin(command.clone());
        assert!(
            matches!(outcome, Ok(ref event) if !matches!(event, Event::ChangeProposed { .. })),
            "{command:?}: {outcome:?}"
        );
        assert_eq!(world.state.changes().count(), 0);
    }
}

#[test]
fn c_two_person_one_administrator_alone_needs_nobody() {
    let mut world = World::begun();
    assert_eq!(
        world.admin(policy("# wider", false, None)),
        Ok(Event::PolicyChanged { version: 2 })
    );
}

#[test]
fn c_two_person_a_change_is_void_when_its_proposer_was_removed_or_its_ground_has_moved() {
    let mut world = two_admins();
    let id = proposed(eve(&mut world, policy("# hers", false, Some(1))));
    world.system(Command::RemovePrincipal { name: "eve".into() }).expect("is removed");
    assert!(matches!(world.admin(Command::ConfirmChange { id }), Err(Refused::Denied(_))));
    let mut world = two_admins();
    let id = proposed(world.admin(policy("# based on 1", false, Some(1))));
    world.system(policy("# meanwhile", false, None)).expect("is set");
    assert!(matches!(
        eve(&mut world, Command::ConfirmChange { id }),
        Err(Refused::Precondition(_))
    ));
    assert_eq!(world.state.policy().map(|p| p.text.as_str()), Some("# meanwhile"));
}

#[test]
fn c_two_person_a_change_ends_by_itself_or_by_a_no() {
    let mut world = two_admins();
    let first = proposed(world.admin(policy("# one", false, None)));
    let second = proposed(world.admin(policy("# two", false, None)));
    let no = Command::RejectChange { id: first, reason: "no".into() };
    assert_eq!(eve(&mut world, no), Ok(Event::ChangeSettled { id: first }));
    world.pass(DAY);
    world.system(Command::Tick).expect("ticks");
    assert!(world.actions_since(0).contains(&"change.expire"));
    for id in [first, second] {
        assert!(matches!(
            eve(&mut world, Command::ConfirmChange { id }),
            Err(Refused::NotFound(_))
        ));
    }
    assert_eq!(world.state.policy().map(|p| p.version), Some(1));
}

#[test]
fn c_two_person_power_lent_in_anothers_name_takes_two_and_in_ones_own_does_not() {
    let mut world = two_admins();
    let lend = |until| Command::SetAway {
        name: "ana".into(),
        until: Some(until),
        stand_in: Some("cat".into()),
        reason: String::new(),
    };
    let until = world.now + DAY;
    proposed(world.admin(lend(until)));
    assert!(world.state.principal("ana").is_some_and(|p| p.away.is_none()));
    assert!(world.act(Actor::Principal("ana".into()), lend(until)).is_ok());
    assert!(world.state.principal("ana").is_some_and(|p| p.away.is_some()));
    let ben = Actor::Principal("ben".into());
    assert!(matches!(world.act(ben, lend(until)), Err(Refused::Denied(_))), "of others");
}

fn account(user: &str) -> Account {
    Account { platform: "slack".into(), tenant: "T1".into(), user: user.into() }
}

fn offer(world: &mut World, principal: &str, code: u8) {
    let command = Command::OfferLink { platform: "slack".into(), code_sha256: [code; 32] };
    world.act(Actor::Principal(principal.into()), command).expect("is offered");
}

fn say(world: &mut World, user: &str, code: u8) -> Result<Event, Refused> {
    world.system(Command::LinkAccount { code_sha256: [code; 32], account: account(user) })
}

fn tap(
    world: &mut World,
    user: &str,
    id: countersign_control_plane::state::ApprovalId,
) -> Result<ApprovalState, Refused> {
    let vote = Command::Vote {
        approval: id,
        by: Voter::Account(account(user)),
        word: VoteWord::Approve,
        channel: "slack".into(),
        reason: String::new(),
        intent_digest: None,
        strength: Strength::L1,
        proof: Proof::Shared,
        breaks_glass: false,
    };
    match world.system(vote)? {
        Event::Voted { state, .. } => Ok(state),
        other => panic!("a vote answers with a state, not {other:?}"),
    }
}

#[test]
fn a_11_an_account_speaks_for_whom_it_was_linked_to_from_a_session_of_theirs() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    assert!(matches!(tap(&mut world, "U1", id), Err(Refused::Denied(_))), "A-STRANGER");
    offer(&mut world, "ana", 1);
    assert!(say(&mut world, "U1", 1).is_ok());
    assert_eq!(tap(&mut world, "U1", id), Ok(ApprovalState::Approved));
    let votes: Vec<_> =
        world.state.approval(id).into_iter().flat_map(|a| &a.votes).map(|v| &v.principal).collect();
    assert_eq!(votes, ["ana"]);
    // A code is said once.
    assert_eq!(say(&mut world, "U2", 1), Ok(Event::LinkRefused));
    assert!(world.state.principal_of(&account("U2")).is_none());
}

#[test]
fn a_11_only_an_adapter_says_which_account_has_spoken() {
    let mut world = World::begun();
    offer(&mut world, "ana", 1);
    for actor in [Actor::Principal("ben".into()), Actor::Edge("e1".into())] {
        let command = Command::LinkAccount { code_sha256: [1; 32], account: account("U9") };
        assert!(matches!(world.act(actor, command), Err(Refused::Denied(_))));
    }
    assert!(world.state.principal_of(&account("U9")).is_none());
}

#[test]
fn a_11_codes_end_after_ten_minutes_and_five_wrong_ones() {
    let mut world = World::begun();
    offer(&mut world, "ana", 1);
    world.pass(10 * MINUTE);
    assert_eq!(say(&mut world, "U1", 1), Ok(Event::LinkRefused));
    offer(&mut world, "ana", 2);
    for wrong in 10..14 {
        assert_eq!(say(&mut world, "U1", wrong), Ok(Event::LinkRefused));
    }
    let Err(Refused::Denied(why)) = say(&mut world, "U1", 2) else { panic!("tries on") };
    assert!(why.contains("too many"), "{why}");
    assert!(world.state.principal_of(&account("U1")).is_none());
    world.pass(11 * MINUTE);
    world.system(Command::Tick).expect("ticks");
    offer(&mut world, "ana", 3);
    assert!(say(&mut world, "U1", 3).is_ok());
    assert!(world.state.principal_of(&account("U1")).is_some_and(|p| p.name == "ana"));
}

#[test]
fn a_10_two_accounts_of_one_person_are_one_person() {
    let mut world = World::begun();
    let id = world
        .opened(Open { requirements: vec![crate::world::requirement(&["ops"], 2)], ..open(1) });
    for (user, code) in [("U1", 1), ("U2", 2)] {
        offer(&mut world, "ana", code);
        say(&mut world, user, code).expect("is linked");
    }
    assert_eq!(tap(&mut world, "U1", id), Ok(ApprovalState::Pending));
    assert_eq!(tap(&mut world, "U2", id), Ok(ApprovalState::Pending));
    assert!(matches!(world.claim(1), Err(Refused::Precondition(_))));
}

#[test]
fn a_12_an_account_that_was_unlinked_between_tap_and_apply_speaks_for_nobody() {
    let mut world = World::begun();
    let id = world.opened(open(1));
    offer(&mut world, "ana", 1);
    say(&mut world, "U1", 1).expect("is linked");
    let unlink = Command::UnlinkAccount { principal: "ana".into(), account: account("U1") };
    let ben = Actor::Principal("ben".into());
    assert!(matches!(world.act(ben, unlink.clone()), Err(Refused::Denied(_))));
    world.act(Actor::Principal("ana".into()), unlink).expect("is unlinked");
    assert!(matches!(tap(&mut world, "U1", id), Err(Refused::Denied(_))));
    assert_eq!(world.state_of(id), ApprovalState::Pending);
}

#[test]
fn an_account_is_one_persons_and_is_not_taken_over() {
    let mut world = World::begun();
    offer(&mut world, "ana", 1);
    say(&mut world, "U1", 1).expect("is linked");
    offer(&mut world, "ben", 2);
    assert!(matches!(say(&mut world, "U1", 2), Err(Refused::AlreadyExists(_))));
    assert!(world.state.principal_of(&account("U1")).is_some_and(|p| p.name == "ana"));
}

#[test]
fn a_self_a_key_that_speaks_as_an_approver_is_given_to_no_agent() {
    let mut world = World::begun();
    offer(&mut world, "ana", 1);
    say(&mut world, "U1", 1).expect("is linked");
    let key = Credential { acts_as: Some(account("U1")), ..credential("c2", "ana-slack") };
    world.admin(Command::CreateCredential(Box::new(key))).expect("is kept");
    let using = Open { credentials: vec![("c2".into(), 1)], ..open(1) };
    let Err(Refused::Denied(why)) = world.open(using) else { panic!("is given") };
    assert!(why.contains("speaks as the account of ana"), "{why}");
    let lease = Command::Lease {
        id: [1; 16],
        edge: "e1".into(),
        incarnation: [1; 16],
        credential: "c2".into(),
        version: 1,
        agent: "a1".into(),
        ttl_ms: 1000,
    };
    assert!(matches!(world.system(lease), Err(Refused::Denied(_))));
}

#[test]
fn a_self_a_tap_of_an_account_that_an_agent_has_a_key_of_is_tainted() {
    let mut world = World::begun();
    let key = Credential { acts_as: Some(account("U1")), ..credential("c2", "ana-slack") };
    world.admin(Command::CreateCredential(Box::new(key))).expect("is kept");
    let id = world.opened(open(1));
    offer(&mut world, "ana", 1);
    say(&mut world, "U1", 1).expect("is linked");
    let Err(Refused::Denied(why)) = tap(&mut world, "U1", id) else { panic!("counts") };
    assert!(why.contains("tainted"), "{why}");
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    let refused = world.state.audit().records().last().expect("is recorded");
    assert_eq!(refused.action, "vote.refused");
}

#[test]
fn nobody_reads_or_writes_groups_but_administrators() {
    let mut world = World::begun();
    for actor in [Actor::Principal("cat".into()), Actor::Edge("e1".into())] {
        assert!(matches!(world.act(actor, groups("cat", &["ops"])), Err(Refused::Denied(_))));
    }
    assert_eq!(world.state.principal("cat").map(|p| p.groups.clone()), Some(BTreeSet::new()));
}
