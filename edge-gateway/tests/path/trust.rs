//! Whose signatures count, and how many it takes: what too few have signed releases nothing and kills nothing.

use countersign_gate as gate;
use countersign_proto::v1 as pb;
use ed25519_dalek::SigningKey;

use crate::control::Open;
use crate::world::{Setup, World};

const IGNORED: &str = "countersign_edge_decisions_ignored_total{reason=\"signatures\"}";

/// Three nodes, of which two have to sign, and a request that waits.
async fn held() -> (World, tokio::task::JoinHandle<crate::agent::Answer>, Open) {
    let world = Setup::cluster(3, 2).start().await;
    let waiting = world.ask(30);
    let open = world.control.open().await;
    (world, waiting, open)
}

/// Says a decision that must not count; what waits must still wait after it.
async fn not_enough(
    world: &World,
    waiting: &tokio::task::JoinHandle<crate::agent::Answer>,
    decision: pb::Decision,
) {
    let before = world.metric(IGNORED).await.unwrap_or(0.0);
    world.control.say_decision(decision).await;
    world.until(IGNORED, before + 1.0).await;
    assert!(!waiting.is_finished());
    assert!(world.origin.got().is_empty());
}

/// A second key of the first node.
fn second() -> SigningKey {
    SigningKey::from_bytes(&[99; 32])
}

fn listed(node: u64, key: &SigningKey, state: gate::KeyState) -> gate::NodeKey {
    gate::NodeKey { node, public: key.verifying_key().to_bytes(), state }
}

#[tokio::test]
async fn one_signature_of_two_is_refused_and_the_request_still_held() {
    let (world, waiting, open) = held().await;
    let control = &world.control;
    not_enough(&world, &waiting, control.decision_by(&open, &[control.signer(0)])).await;
    not_enough(&world, &waiting, control.decision_by(&open, &[])).await;
    let two = control.decision_by(&open, &[control.signer(0), control.signer(2)]);
    control.say_decision(two).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn the_same_signature_twice_is_one() {
    let (world, waiting, open) = held().await;
    let one = world.control.signer(1);
    not_enough(&world, &waiting, world.control.decision_by(&open, &[one, one])).await;
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn two_keys_of_one_node_are_one_node() {
    let (world, waiting, open) = held().await;
    let second = second();
    world
        .control
        .set_trust(|trust| trust.keys.push(listed(1, &second, gate::KeyState::Active)))
        .await;
    let by = [world.control.signer(0), &second];
    not_enough(&world, &waiting, world.control.decision_by(&open, &by)).await;
    let by = [world.control.signer(1), &second];
    world.control.say_decision(world.control.decision_by(&open, &by)).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_stranger_and_a_node_are_one_node() {
    let (world, waiting, open) = held().await;
    let by = [world.control.signer(0), &second()];
    not_enough(&world, &waiting, world.control.decision_by(&open, &by)).await;
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_revoked_key_counts_no_more_from_the_moment_the_edge_hears_of_it() {
    let (world, waiting, open) = held().await;
    world.control.set_trust(|trust| trust.keys[1].state = gate::KeyState::Revoked).await;
    let by = [world.control.signer(0), world.control.signer(1)];
    not_enough(&world, &waiting, world.control.decision_by(&open, &by)).await;
    let by = [world.control.signer(0), world.control.signer(2)];
    world.control.say_decision(world.control.decision_by(&open, &by)).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_key_to_come_does_not_count_and_a_retired_one_still_does() {
    let (world, waiting, open) = held().await;
    let next = second();
    world
        .control
        .set_trust(|trust| {
            trust.keys[0].state = gate::KeyState::Retired;
            trust.keys.push(listed(1, &next, gate::KeyState::Next));
        })
        .await;
    let by = [&next, world.control.signer(1)];
    not_enough(&world, &waiting, world.control.decision_by(&open, &by)).await;
    let by = [world.control.signer(0), world.control.signer(1)];
    world.control.say_decision(world.control.decision_by(&open, &by)).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_retired_key_counts_no_more_once_a_bundle_leaves_it_out() {
    let (world, waiting, open) = held().await;
    let next = second();
    world
        .control
        .set_trust(|trust| {
            trust.keys[0].state = gate::KeyState::Retired;
            trust.keys.push(listed(1, &next, gate::KeyState::Active));
        })
        .await;
    let left_out = |trust: &mut gate::Trust| {
        trust.keys.remove(0);
    };
    world.control.set_trust(left_out).await;
    let by = [world.control.signer(0), world.control.signer(1)];
    not_enough(&world, &waiting, world.control.decision_by(&open, &by)).await;
    let by = [&next, world.control.signer(1)];
    world.control.say_decision(world.control.decision_by(&open, &by)).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_decision_that_came_before_the_trust_it_was_signed_in_counts_once_that_is_here() {
    let (world, waiting, open) = held().await;
    let new = second();
    let by = [world.control.signer(0), &new];
    not_enough(&world, &waiting, world.control.decision_by(&open, &by)).await;
    world.control.set_trust(|trust| trust.keys.push(listed(4, &new, gate::KeyState::Active))).await;
    assert_eq!(waiting.await.expect("no panic").status, 200, "nobody said it again");
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn a_decision_that_was_signed_before_a_key_was_revoked_is_asked_for_anew() {
    let (world, waiting, open) = held().await;
    let by = [world.control.signer(0), world.control.signer(1)];
    let late = world.control.decision_by(&open, &by);
    world.control.set_trust(|trust| trust.keys[1].state = gate::KeyState::Revoked).await;
    not_enough(&world, &waiting, late).await;
    let again = world.control.open().await;
    assert_eq!(again.head, open.head);
    world.control.release(&again).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn a_request_whose_decision_never_counted_is_reported_as_not_sent() {
    let world = Setup::cluster(3, 2).start().await;
    let waiting = world.ask(1);
    let open = world.control.open().await;
    world.control.opened_as(&open, &[1; 16]).await;
    let one = world.control.decision_by(&open, &[world.control.signer(0)]);
    world.control.say_decision(one).await;
    assert_eq!(waiting.await.expect("no panic").code(), "approval_pending");
    let receipt = world.control.receipt().await;
    assert_eq!(receipt.request_id, open.head.request_id);
    assert_eq!(receipt.outcome(), pb::ExecutionOutcome::NotSent);
}

#[tokio::test]
async fn a_lower_epoch_or_threshold_or_another_of_the_same_epoch_is_refused_and_reported() {
    let (world, waiting, open) = held().await;
    world.control.set_trust(|_| {}).await;
    world.until("countersign_edge_trust_epoch", 2.0).await;
    let stranger = second();
    let known = world.control.trust();
    let strangers = vec![listed(9, &stranger, gate::KeyState::Active)];
    let refused = [
        gate::Trust { epoch: 1, keys: strangers.clone(), ..known.clone() },
        gate::Trust { epoch: 3, threshold: 1, keys: strangers.clone(), ..known.clone() },
        gate::Trust { keys: strangers.clone(), ..known.clone() },
        gate::Trust { epoch: 3, cluster: "another".into(), ..known.clone() },
    ];
    for trust in refused {
        world.control.say_trust(&trust).await;
        let alarm = world.control.alarm().await;
        assert_eq!(alarm.kind, "trust_bundle_refused", "{trust:?}");
        // The same lie once more is no news. What is in force puts an end to it.
        world.control.say_trust(&trust).await;
        world.control.say_trust(&known).await;
    }
    not_enough(&world, &waiting, world.control.decision_by(&open, &[&stranger])).await;
    assert!(world.control.alarmed().await.is_none(), "one alarm for each");
    assert_eq!(world.metric("countersign_edge_trust_epoch").await, Some(2.0));
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_node_with_a_lower_epoch_is_not_attached_to() {
    let world = Setup::cluster(2, 1).start().await;
    world.control.hello().await;
    world.control.set_trust(|_| {}).await;
    world.until("countersign_edge_trust_epoch", 2.0).await;
    world.control.prepare_trust(|trust| trust.epoch = 1);
    world.control.drop_session();
    assert_eq!(world.control.hello().await.trust_epoch, 2);
    world.control.prepare_trust(|trust| trust.epoch = 2);
    assert_eq!(world.control.alarm().await.kind, "trust_bundle_refused");
    assert_eq!(world.metric("countersign_edge_trust_epoch").await, Some(2.0));
}

#[tokio::test]
async fn a_bundle_that_too_few_have_signed_changes_nothing_and_is_reported() {
    let world = Setup::cluster(3, 2).start().await;
    world.control.hello().await;
    let mut open_to_all = world.control.state();
    open_to_all.revision = 9;
    open_to_all.policy = open_to_all.policy.replace("then = \"deny\"", "then = \"allow\"");
    let one = world.control.signer(1).clone();
    world.control.bundle_by(&[&one, &one], &open_to_all).await;
    assert_eq!(world.control.alarm().await.kind, "bundle_refused");
    let answer = world.agent.send("api.test", "GET /never/1", "", "").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "policy_denied"));
    assert_eq!(world.metric("countersign_edge_bundle_revision").await, Some(1.0));
    assert!(world.origin.got().is_empty());
}
