//! Nodes die, fall silent and lie; the edge moves on, and nobody who waits at it notices.

use std::time::{Duration, Instant};

use tonic::Status;

use crate::control::secret;
use crate::world::{Setup, World, bearer, no};

/// What a new request is told, once the edge has tried all nodes.
async fn told(world: &World, code: &str) {
    let began = Instant::now();
    loop {
        let answer = world.ask(1).await.expect("no panic");
        if answer.code() == code {
            assert_eq!(answer.status, 503);
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{answer:?} instead of {code}");
    }
}

#[tokio::test]
async fn a_dead_node_is_left_for_another_and_what_is_held_goes_on() {
    let world = Setup::cluster(3, 2).start().await;
    world.control.hello().await;
    let waiting = world.ask(30);
    let first = world.control.open().await;
    let dead = world.control.attached_to();
    let began = Instant::now();
    world.control.kill(dead);
    let hello = world.control.hello().await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_ne!(world.control.attached_to(), dead);
    assert_eq!(hello.held_request_ids, std::slice::from_ref(&first.head.request_id));
    let again = world.control.open().await;
    assert_eq!(again.head, first.head);
    world.control.release(&again).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn a_session_is_up_again_within_three_seconds_in_99_of_100_losses() {
    let world = Setup::cluster(3, 2).start().await;
    world.control.hello().await;
    world.until("countersign_edge_attached", 1.0).await;
    let mut took = Vec::new();
    for _ in 0..100 {
        let dead = world.control.attached_to();
        let began = Instant::now();
        world.control.kill(dead);
        world.control.hello().await;
        world.until("countersign_edge_attached", 1.0).await;
        took.push(began.elapsed());
        assert_ne!(world.control.attached_to(), dead);
        world.control.revive(dead).await;
    }
    took.sort();
    assert!(took[98] < Duration::from_secs(3), "p99 {:?}", took[98]);
    assert!(took[49] < Duration::from_secs(1), "p50 {:?}", took[49]);
}

#[tokio::test]
async fn an_edge_goes_to_nodes_that_came_while_its_session_went_on() {
    let world = Setup { configured: 1, ..Setup::cluster(2, 1) }.start().await;
    world.control.hello().await;
    assert_eq!(world.control.attached_to(), 0, "it knows no other");
    world.control.nodes_are(world.control.addresses().split_off(1)).await;
    // It has heard that once it has heard what was said after it.
    world.control.tell_time(world.clock.wall_ms()).await;
    world.control.kill(0);
    world.control.hello().await;
    assert_eq!(world.control.attached_to(), 1);
}

#[tokio::test]
async fn a_node_that_falls_silent_is_left_for_another() {
    let world = Setup::cluster(2, 1).start().await;
    world.control.hello().await;
    let silent = world.control.attached_to();
    world.control.mute(silent);
    world.control.hello().await;
    assert_ne!(world.control.attached_to(), silent);
}

#[tokio::test]
async fn a_node_that_takes_everything_in_and_answers_nothing_is_left_for_another() {
    let world = Setup::cluster(2, 1).start().await;
    world.control.hello().await;
    // Cut off from its peers, it can open nothing.
    let cut_off = world.control.attached_to();
    let waiting = world.ask(30);
    let open = world.control.open().await;
    let hello = world.control.hello().await;
    assert_ne!(world.control.attached_to(), cut_off);
    assert_eq!(hello.held_request_ids, std::slice::from_ref(&open.head.request_id));
    let again = world.control.open().await;
    world.control.release(&again).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn a_node_that_lends_nothing_and_refuses_nothing_is_left_for_another() {
    let world = Setup::cluster(2, 1).start().await;
    world.control.hello().await;
    let cut_off = world.control.attached_to();
    world.control.ignore_leases(true);
    let asked = world.unlent();
    let moved = async {
        world.control.hello().await;
        world.control.ignore_leases(false);
    };
    assert_eq!(no(&tokio::join!(asked, moved).0), (503, "control_plane_unavailable".into()));
    assert_ne!(world.control.attached_to(), cut_off);
    assert_eq!(world.unlent().await.status, 200);
}

#[tokio::test]
async fn a_node_that_has_opened_a_request_may_think_about_it() {
    let world = Setup::cluster(2, 1).start().await;
    world.control.hello().await;
    let waiting = world.ask(30);
    let open = world.control.open().await;
    world.control.opened_as(&open, &[1; 16]).await;
    // One that nobody was told of is cancelled, and needs no answer either.
    assert_eq!(world.ask(1).await.expect("no panic").status, 503);
    let longer_than_patience = Duration::from_secs(8);
    let moved = tokio::time::timeout(longer_than_patience, world.control.hello()).await;
    assert!(moved.is_err(), "the session goes on");
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn nodes_that_one_of_them_names_are_used_and_configured_ones_are_not_forgotten() {
    let setup = Setup { configured: 1, ..Setup::cluster(3, 2) };
    let prepare = |control: &crate::control::Control| {
        let mut named = control.addresses().split_off(1);
        named.push("nonsense without a port".into());
        control.name_nodes(named);
    };
    let world = setup.unattached(prepare).await.expect("the edge starts");
    world.ready().await;
    world.control.hello().await;
    assert_eq!(world.control.attached_to(), 0);
    world.control.kill(0);
    world.control.hello().await;
    assert_ne!(world.control.attached_to(), 0, "one that was named");
    world.control.kill(1);
    world.control.kill(2);
    world.control.revive(0).await;
    let mut at = world.control.attached_to();
    while at != 0 {
        world.control.hello().await;
        at = world.control.attached_to();
    }
}

#[tokio::test]
async fn a_node_that_is_sealed_without_a_leader_or_rolled_back_is_left_for_another() {
    for status in [
        Status::unavailable("sealed: unseal it"),
        Status::unavailable("no leader"),
        Status::failed_precondition("rolled back: this node is behind what edges have seen"),
    ] {
        let world = Setup::cluster(2, 1).start().await;
        world.control.hello().await;
        let unable = world.control.attached_to();
        world.control.answers(unable, Some(status));
        let waiting = world.ask(30);
        world.control.open().await;
        world.control.drop_session();
        world.control.hello().await;
        assert_ne!(world.control.attached_to(), unable);
        let again = world.control.open().await;
        world.control.release(&again).await;
        assert_eq!(waiting.await.expect("no panic").status, 200);
    }
}

#[tokio::test]
async fn sealed_is_said_only_when_every_node_that_answers_is() {
    let world = Setup::cluster(3, 2).start().await;
    world.control.hello().await;
    world.control.kill(0);
    world.control.answers(1, Some(Status::unavailable("sealed: unseal it")));
    world.control.answers(2, Some(Status::unavailable("sealed: unseal it")));
    world.control.drop_session();
    told(&world, "sealed").await;
    world.control.answers(2, Some(Status::unavailable("no leader")));
    told(&world, "control_plane_unavailable").await;
    world.control.answers(2, None);
    world.control.hello().await;
    assert_eq!(world.control.attached_to(), 2);
}

#[tokio::test]
async fn a_node_whose_certificate_names_another_host_is_not_talked_to() {
    // The certificates name addresses, and here the first node is reached at a name.
    let setup = Setup { misnamed: true, ..Setup::cluster(2, 1) };
    let world = setup.start().await;
    for _ in 0..3 {
        world.control.hello().await;
        assert_eq!(world.control.attached_to(), 1);
        // The other one is tried before this one is again.
        world.control.drop_session();
    }
}

#[tokio::test]
async fn one_name_for_all_nodes_can_be_configured() {
    let setup =
        Setup { misnamed: true, server_name: Some("control.test".into()), ..Setup::cluster(1, 1) };
    assert_eq!(setup.start().await.keyless().await.status, 200);
}

#[tokio::test]
async fn hello_says_how_far_the_log_had_come_in_what_was_verified() {
    let world = Setup::cluster(3, 2).start().await;
    let hello = world.control.hello().await;
    assert_eq!((hello.fence_term, hello.fence_index, hello.bundle_revision), (0, 0, 0));
    assert_eq!(hello.trust_epoch, 0);
    let waiting = world.ask(30);
    let open = world.control.open().await;
    let at = |term, index| {
        world.control.decision(&open, |decision| (decision.term, decision.index) = (term, index))
    };
    // One that does not count proves nothing.
    let mut forged = at(9, 9_000);
    forged.envelope.as_mut().expect("an envelope").signatures.truncate(1);
    world.control.say_decision(forged).await;
    world.control.say_decision(at(3, 77)).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    let waiting = world.ask(30);
    let open = world.control.open().await;
    let older = world.control.decision(&open, |decision| (decision.term, decision.index) = (2, 50));
    world.control.say_decision(older).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    world.control.kill(world.control.attached_to());
    let hello = world.control.hello().await;
    assert_eq!((hello.fence_term, hello.fence_index), (3, 77));
    assert_eq!((hello.bundle_revision, hello.trust_epoch), (1, 1));
}

#[tokio::test]
async fn a_node_that_is_behind_with_its_bundle_is_left_and_nothing_goes_back() {
    let world = Setup::cluster(2, 1).start().await;
    world.control.hello().await;
    world.control.change(|state| state.policy = String::new()).await;
    world.until("countersign_edge_bundle_revision", 2.0).await;
    world.control.go_back_to_revision(1);
    world.control.drop_session();
    world.control.hello().await;
    world.control.hello().await;
    assert_eq!(world.metric("countersign_edge_bundle_revision").await, Some(2.0));
    let rest = bearer("api");
    let answer = world.agent.send("api.test", "GET /things/1", &rest, "").await;
    assert_eq!(no(&answer), (403, "policy_denied".into()));
    assert!(!answer.body.contains(secret("api").real));
}
