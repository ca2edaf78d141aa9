//! A clock that jumped: nothing is released until somebody confirms it, and everything else goes on.

use countersign_control_plane::state::{
    Actor, ApprovalState, ClockJump, Command, Event, Open, Refused, ReportedOutcome,
};

use crate::world::{MINUTE, World, open, shown};

const JUMP: u64 = 125 * MINUTE;

fn suspected() -> World {
    let mut world = World::begun();
    let id = world.opened(open(1));
    world.approve("ana", id).expect("counts");
    let jump = ClockJump { at: world.now, by_ms: JUMP };
    assert_eq!(
        world.system(Command::SuspectClock { by_ms: JUMP }),
        Ok(Event::ClockSuspected(jump))
    );
    assert_eq!(world.state.clock_jump(), Some(jump));
    world
}

#[test]
fn time_jump_nothing_is_released_until_an_administrator_confirms_the_clock() {
    let mut world = suspected();
    let Err(Refused::Precondition(why)) = world.claim(1) else { panic!("released") };
    assert!(
        why.contains("2 h 5 min") && why.contains("countersign cluster confirm-clock"),
        "{why}"
    );
    assert_eq!(world.state_of(open(1).approval), ApprovalState::Approved);
    let allowed = Open { requirements: vec![], shown: shown(2), ..open(2) };
    world.open(allowed).expect("is held");
    assert!(matches!(world.claim(2), Err(Refused::Precondition(_))), "allowed, and not released");

    for nobody in [Actor::Principal("ana".into()), Actor::Edge("e1".into())] {
        assert!(matches!(world.act(nobody, Command::ConfirmClock), Err(Refused::Denied(_))));
    }
    assert!(world.claim(1).is_err());
    assert_eq!(world.admin(Command::ConfirmClock), Ok(Event::ClockConfirmed));
    assert_eq!(world.state.clock_jump(), None);
    assert!(world.claim(1).is_ok() && world.claim(2).is_ok());
    assert!(matches!(world.admin(Command::ConfirmClock), Err(Refused::Precondition(_))));
}

#[test]
fn time_jump_and_its_confirmation_are_on_record() {
    let mut world = World::begun();
    let records = world.records();
    world.system(Command::SuspectClock { by_ms: JUMP }).expect("is marked");
    world.admin(Command::ConfirmClock).expect("is confirmed");
    assert_eq!(world.actions_since(records), ["clock.jump", "clock.confirm"]);
    let [jump, confirmed] = &world.state.audit().records()[records..] else { panic!("two") };
    assert_eq!((jump.actor.as_str(), confirmed.actor.as_str()), ("system", "principal:admin"));
    assert_eq!(jump.detail("by_ms"), confirmed.detail("by_ms"));
}

#[test]
fn time_jump_everything_but_releases_goes_on() {
    let mut world = World::begun();
    world.opened(open(1));
    world.approve("ana", open(1).approval).expect("counts");
    world.claim(1).expect("is released");
    world.system(Command::SuspectClock { by_ms: JUMP }).expect("is marked");
    assert!(world.claim(1).is_ok(), "what was released before is the same release");
    world.report(1, ReportedOutcome::Completed).expect("is taken");
    let second = world.opened(Open { shown: shown(2), ..open(2) });
    assert_eq!(world.approve("ana", second), Ok(ApprovalState::Approved));
    world.pass(20 * MINUTE);
    assert_eq!(world.tick(), vec![(second, ApprovalState::Expired)]);
}

#[test]
fn time_jump_is_said_by_the_control_plane_alone() {
    let mut world = World::begun();
    let command = Command::SuspectClock { by_ms: JUMP };
    assert!(matches!(world.admin(command), Err(Refused::Denied(_))));
    assert_eq!(world.state.clock_jump(), None);
}
