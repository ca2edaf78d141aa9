//! The control plane is away, in part or wholly.

use std::time::{Duration, Instant};

use tonic::Status;

use crate::control::Open;
use crate::world::{Setup, World, no};

const MINUTE: Duration = Duration::from_secs(60);

/// A new high-risk request, and how long its refusal took.
async fn new_high_risk(world: &World) -> ((u16, String), Duration) {
    let began = Instant::now();
    let answer = world.ask(30).await.expect("no panic");
    (no(&answer), began.elapsed())
}

fn unavailable() -> (u16, String) {
    (503, "control_plane_unavailable".into())
}

/// Leased keys are used until their time is over, and not after it.
async fn lease_until_its_end(world: &World, then: &str) {
    assert_eq!(world.lent().await.status, 200);
    world.hands.advance(14 * MINUTE);
    assert_eq!(world.lent().await.status, 200);
    world.hands.advance(MINUTE);
    assert_eq!(no(&world.lent().await), (503, then.into()));
}

/// A held request stays held until its hold ends, and is then told what is the matter.
async fn held_until_its_hold_ends(
    world: &World,
    gone: impl AsyncFnOnce(&World, &Open),
    told: &str,
) {
    let began = Instant::now();
    let waiting = world.ask(4);
    let open = world.control.open().await;
    world.control.opened_as(&open, &[1; 16]).await;
    gone(world, &open).await;
    let answer = waiting.await.expect("no panic");
    assert!(began.elapsed() >= Duration::from_secs(4), "held to the end: {:?}", began.elapsed());
    assert_eq!(no(&answer), (503, told.into()));
    assert!(world.origin.got().is_empty());
}

mod the_leader_dies {
    use super::*;

    async fn world() -> World {
        let world = Setup::cluster(3, 2).start().await;
        world.control.hello().await;
        world
    }

    #[tokio::test]
    async fn high_risk_is_held_on_under_the_same_request() {
        let world = world().await;
        let waiting = world.ask(30);
        let open = world.control.open().await;
        let began = Instant::now();
        world.control.kill(world.control.attached_to());
        let again = world.control.open().await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(again.head.request_id, open.head.request_id);
        world.control.release(&again).await;
        assert_eq!(waiting.await.expect("no panic").status, 200);
        assert_eq!(world.origin.got().len(), 1);
    }

    #[tokio::test]
    async fn low_risk_with_a_lease_notices_nothing() {
        let world = world().await;
        world.borrow().await;
        world.control.kill(world.control.attached_to());
        for _ in 0..20 {
            assert_eq!(world.lent().await.status, 200);
        }
    }

    #[tokio::test]
    async fn low_risk_without_a_lease_waits_for_the_next_node() {
        let world = world().await;
        world.control.kill(world.control.attached_to());
        world.detached().await;
        assert_eq!(world.unlent().await.status, 200);
    }

    #[tokio::test]
    async fn low_risk_without_a_lease_waits_two_seconds_for_an_election_and_no_longer() {
        let world = world().await;
        world.control.refuse(Some(Status::unavailable("no leader")));
        let began = Instant::now();
        world.control.drop_session();
        world.detached().await;
        assert_eq!(no(&world.unlent().await), unavailable());
        let took = began.elapsed();
        assert!((Duration::from_millis(1_500)..Duration::from_secs(5)).contains(&took), "{took:?}");
    }

    #[tokio::test]
    async fn what_needs_no_key_notices_nothing() {
        let world = world().await;
        world.control.kill(world.control.attached_to());
        for _ in 0..20 {
            assert_eq!(world.keyless().await.status, 200);
        }
    }
}

mod the_majority_is_lost {
    use super::*;

    async fn world() -> World {
        let world = Setup::cluster(3, 2).start().await;
        world.borrow().await;
        world.control.kill_all();
        world.detached().await;
        world
    }

    #[tokio::test]
    async fn high_risk_that_is_held_stays_held_until_its_hold_ends() {
        let world = Setup::cluster(3, 2).start().await;
        let gone = async |world: &World, _: &Open| world.control.kill_all();
        held_until_its_hold_ends(&world, gone, "control_plane_unavailable").await;
    }

    #[tokio::test]
    async fn high_risk_that_is_new_fails_within_a_second() {
        let world = world().await;
        let (told, took) = new_high_risk(&world).await;
        assert_eq!(told, unavailable());
        // A second, and what it takes to send a request here.
        assert!(took < Duration::from_millis(2_500), "{took:?}");
    }

    #[tokio::test]
    async fn low_risk_with_a_lease_goes_on_until_its_end() {
        lease_until_its_end(&world().await, "control_plane_unavailable").await;
    }

    #[tokio::test]
    async fn low_risk_without_a_lease_is_refused() {
        assert_eq!(no(&world().await.unlent().await), unavailable());
    }

    #[tokio::test]
    async fn what_needs_no_key_goes_on() {
        let world = world().await;
        world.hands.advance(48 * 60 * MINUTE);
        assert_eq!(world.keyless().await.status, 200);
    }

    #[tokio::test]
    async fn what_needs_no_key_is_refused_where_that_was_configured() {
        let setup = Setup { passthrough_when_disconnected: false, ..Setup::cluster(3, 2) };
        let world = setup.start().await;
        assert_eq!(world.keyless().await.status, 200);
        world.control.hello().await;
        world.control.kill_all();
        world.detached().await;
        assert_eq!(no(&world.keyless().await), unavailable());
        world.control.revive(1).await;
        world.control.hello().await;
        assert_eq!(world.keyless().await.status, 200);
    }
}

mod all_are_sealed {
    use super::*;

    fn sealed() -> Option<Status> {
        Some(Status::unavailable("sealed: nothing was done; unseal the control plane"))
    }

    async fn world() -> World {
        let world = Setup::cluster(3, 2).start().await;
        world.borrow().await;
        world.control.hang_up(sealed());
        // A new request is told so once every node was asked.
        let began = Instant::now();
        while new_high_risk(&world).await.0.1 != "sealed" {
            assert!(began.elapsed() < Duration::from_secs(20), "it is sealed");
        }
        world
    }

    #[tokio::test]
    async fn high_risk_that_is_held_stays_held_until_its_hold_ends() {
        let world = Setup::cluster(3, 2).start().await;
        let gone = async |world: &World, _: &Open| world.control.hang_up(sealed());
        held_until_its_hold_ends(&world, gone, "sealed").await;
    }

    #[tokio::test]
    async fn high_risk_that_is_new_is_refused_at_once() {
        let world = world().await;
        let (told, took) = new_high_risk(&world).await;
        assert_eq!(told, (503, "sealed".into()));
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(world.control.opened().await.is_none());
    }

    #[tokio::test]
    async fn low_risk_with_a_lease_goes_on_until_its_end() {
        lease_until_its_end(&world().await, "sealed").await;
    }

    #[tokio::test]
    async fn low_risk_without_a_lease_is_refused() {
        assert_eq!(no(&world().await.unlent().await), (503, "sealed".into()));
    }

    #[tokio::test]
    async fn what_needs_no_key_goes_on() {
        assert_eq!(world().await.keyless().await.status, 200);
    }
}

mod too_few_nodes_can_sign {
    use super::*;

    /// Two of three are dead, and the third can neither commit nor have anything signed.
    async fn alone(world: &World) {
        let left = world.control.attached_to();
        (0..3).filter(|node| *node != left).for_each(|node| world.control.kill(node));
        world.control.answers(left, Some(Status::unavailable("too few nodes can sign")));
        world.control.drop_session();
    }

    async fn world() -> World {
        let world = Setup::cluster(3, 2).start().await;
        world.borrow().await;
        alone(&world).await;
        world.detached().await;
        world
    }

    #[tokio::test]
    async fn high_risk_that_is_held_stays_held_whatever_one_node_signs() {
        let world = Setup::cluster(3, 2).start().await;
        let gone = async |world: &World, open: &Open| {
            let one = world.control.signer(world.control.attached_to());
            world.control.say_decision(world.control.decision_by(open, &[one])).await;
            alone(world).await;
        };
        held_until_its_hold_ends(&world, gone, "control_plane_unavailable").await;
    }

    #[tokio::test]
    async fn high_risk_that_is_new_fails_within_a_second() {
        let (told, took) = new_high_risk(&world().await).await;
        assert_eq!(told, unavailable());
        assert!(took < Duration::from_millis(2_500), "{took:?}");
    }

    #[tokio::test]
    async fn low_risk_with_a_lease_goes_on_until_its_end() {
        lease_until_its_end(&world().await, "control_plane_unavailable").await;
    }

    #[tokio::test]
    async fn low_risk_without_a_lease_is_refused() {
        assert_eq!(no(&world().await.unlent().await), unavailable());
    }

    #[tokio::test]
    async fn what_needs_no_key_goes_on() {
        assert_eq!(world().await.keyless().await.status, 200);
    }
}
