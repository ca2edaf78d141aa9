//! Decisions and bundles of three nodes: as many sign as the trust bundle demands, and each for itself.

use countersign_control_plane::state::{ApprovalId, ApprovalState, Command, VoteWord};
use countersign_gate::{Held, KeyState, Outcome, Trust};
use countersign_proto::v1;
use countersign_proto::v1::attach_response::Message as Out;
use tonic::Code;

use crate::edge::{Process, Session, approve, decoded, outcome, refund, signed};
use crate::town::Town;
use crate::world::World;

pub(crate) async fn attached(world: &World, name: &str) -> (Process, Session) {
    let process = Process::new(world.enroll(name).await);
    let session = process.attach(world).await;
    (process, session)
}

pub(crate) async fn opened(process: &Process, session: &mut Session) -> (Held, ApprovalId) {
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    (held, approval)
}

/// Nodes of which a signature in the envelope counts.
pub(crate) fn signers(trust: &Trust, envelope: &v1::Envelope) -> Vec<u64> {
    let signed = signed(envelope);
    let mut nodes: Vec<_> = trust.keys.iter().map(|key| key.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes.retain(|node| {
        let keys = trust.keys.iter().filter(|key| key.node == *node).cloned().collect();
        let alone = Trust { threshold: 1, keys, ..trust.clone() };
        alone.check(&signed, &signed.payload_type).is_ok()
    });
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_at_a_follower_gets_a_decision_that_two_of_three_signed() {
    let town = Town::of(3).await;
    let [follower, other] = town.followers();
    let (process, mut session) = attached(&town.nodes[follower], "one").await;
    assert_eq!(session.trust.threshold, 2);
    let (held, approval) = opened(&process, &mut session).await;
    town.nodes[other].vote(approval, VoteWord::Approve).await;
    let decision = session.decision().await;
    assert!(signers(&session.trust, decision.envelope.as_ref().unwrap()).len() >= 2);
    let key = process.open(&held, &decoded(&decision).decision_id, &decision.sealed_credentials[0]);
    assert!(key.is_some());
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_make_the_same_bundle_and_name_every_node() {
    let town = Town::of(3).await;
    let leader = &town.nodes[town.leader()];
    leader.add_agent("agent-9", "nightly").await;
    town.level().await;
    let (_, one) = attached(&town.nodes[0], "one").await;
    let (_, two) = attached(&town.nodes[1], "two").await;
    assert_eq!(one.envelope.payload, two.envelope.payload);
    assert!(one.bundle.agents.iter().any(|agent| agent.name == "nightly"));
    assert_eq!(one.bundle.forbidden_destinations, ["node-1", "node-2", "node-3"]);
    assert_eq!(one.gateway_addresses.len(), 3);
    assert!(one.gateway_addresses.contains(&"gateway.node-2:443".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_answers_with_signatures_that_are_none_spoils_nothing() {
    let town = Town::of(3).await;
    let leader = town.leader();
    let [liar, _] = town.followers();
    town.nodes[liar].manners.lie();
    let (process, mut session) = attached(&town.nodes[leader], "one").await;
    let (held, approval) = opened(&process, &mut session).await;
    town.nodes[leader].vote(approval, VoteWord::Approve).await;
    let decision = session.decision().await;
    let counted = signers(&session.trust, decision.envelope.as_ref().unwrap());
    assert!(!counted.contains(&town.nodes[liar].cluster.node_id()));
    assert_eq!(counted.len(), decision.envelope.as_ref().unwrap().signatures.len());
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_too_few_sign_is_told_once_they_do() {
    let town = Town::of(3).await;
    let [one, two] = town.followers();
    let (process, mut session) = attached(&town.nodes[one], "one").await;
    let (held, approval) = opened(&process, &mut session).await;
    let leader = town.leader();
    for mute in [leader, two] {
        town.nodes[mute].manners.be_mute();
    }
    town.nodes[one].vote(approval, VoteWord::Approve).await;
    town.nodes[one].until(approval, ApprovalState::Released).await;
    // Something else is heard meanwhile: the session goes on.
    town.nodes[one].propose(Command::RevokeCredential { name: "prices".into() }).await;
    town.nodes[two].manners.be_honest();
    let decision = session.decision().await;
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
    assert_eq!(town.nodes[one].recorded("request.claim"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_between_claim_and_signature_costs_nobody_the_decision() {
    let town = Town::of(3).await;
    let leader = town.leader();
    let [one, two] = town.followers();
    let (process, mut session) = attached(&town.nodes[one], "one").await;
    let (held, approval) = opened(&process, &mut session).await;
    for mute in [leader, two] {
        town.nodes[mute].manners.be_mute();
    }
    town.nodes[leader].vote(approval, VoteWord::Approve).await;
    town.nodes[one].until(approval, ApprovalState::Released).await;
    town.nodes[leader].kill().await;
    town.nodes[two].manners.be_honest();
    let decision = session.decision().await;
    let counted = signers(&session.trust, decision.envelope.as_ref().unwrap());
    assert!(!counted.contains(&town.nodes[leader].cluster.node_id()));
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
    assert_eq!(town.nodes[one].recorded("request.claim"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_moves_to_another_node_gets_the_decision_there() {
    let town = Town::of(3).await;
    let leader = town.leader();
    let [one, two] = town.followers();
    let (process, mut session) = attached(&town.nodes[leader], "one").await;
    let (held, approval) = opened(&process, &mut session).await;
    town.nodes[leader].kill().await;
    drop(session);
    town.nodes[two].vote(approval, VoteWord::Approve).await;
    let mut session = process.attach(&town.nodes[one]).await;
    session.announce(&held).await;
    assert_eq!(session.opened().await, Some(approval));
    let decision = session.decision().await;
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_session_of_an_edge_is_the_one_whatever_node_it_is_at() {
    let town = Town::of(3).await;
    let process = Process::new(town.nodes[0].enroll("one").await);
    let mut first = process.attach(&town.nodes[0]).await;
    let mut second = process.attach(&town.nodes[1]).await;
    assert_eq!(first.hear().await.unwrap_err().code(), Code::Aborted, "the same process");
    let restarted = Process::new(process.enrolled.clone());
    let third = restarted.attach(&town.nodes[2]).await;
    assert_eq!(second.hear().await.unwrap_err().code(), Code::Aborted, "another process");
    assert!(town.nodes[0].intake.connected_edges().is_empty());
    assert!(town.nodes[1].intake.connected_edges().is_empty());
    assert_eq!(town.nodes[2].intake.connected_edges().len(), 1);
    drop(third);
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_evict_an_edge_is_told_at_whatever_node_it_is() {
    let town = Town::of(3).await;
    let [one, two] = town.followers();
    let (process, mut session) = attached(&town.nodes[one], "one").await;
    let evict = Command::EvictEdge { name: "one".into(), reason: "stolen".into() };
    town.nodes[two].propose(evict).await;
    assert!(matches!(session.answer().await, Out::Evicted(_)));
    let again = process.attach_with(&town.nodes[two], Vec::new()).await;
    assert_eq!(again.err().unwrap().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_verify_while_a_key_is_rotated_and_afterwards() {
    let town = Town::of(3).await;
    let leader = &town.nodes[town.leader()];
    let rotating = &town.nodes[town.followers()[0]];
    let id = rotating.cluster.node_id();
    let (old, mut before) = attached(rotating, "one").await;
    let trusted_before = before.trust.clone();

    let public = rotating.signer.rotate(countersign_control_plane::state::Actor::System).await;
    let public = public.unwrap();
    assert_eq!(
        rotating.signer.rotate(countersign_control_plane::state::Actor::System).await.unwrap(),
        public
    );
    let both = leader.sign_next_trust().await;
    let of_it = |trust: &Trust| -> Vec<_> {
        trust.keys.iter().filter(|key| key.node == id).map(|key| key.state).collect()
    };
    assert_eq!(of_it(&both), [KeyState::Retired, KeyState::Active]);
    while !matches!(before.hear().await.unwrap(), Out::TrustBundle(_)) {}
    assert_eq!(before.trust.epoch, both.epoch);

    // Its two keys make two signatures and one signer; whoever has heard nothing of the new one still verifies.
    let (held, approval) = opened(&old, &mut before).await;
    leader.vote(approval, VoteWord::Approve).await;
    let decision = before.decision().await;
    let envelope = decision.envelope.as_ref().unwrap();
    assert!(signers(&before.trust, envelope).contains(&id));
    assert!(signers(&trusted_before, envelope).len() >= 2);
    assert!(trusted_before.check(&signed(envelope), &envelope.payload_type).is_ok());
    assert!(matches!(outcome(held, &decision, &before.trust), Outcome::Release(_)));

    let after = leader.sign_next_trust().await;
    assert_eq!(of_it(&after), [KeyState::Active]);
    rotating
        .until_true(|state| state.trust().is_some_and(|trust| trust.epoch == after.epoch))
        .await;
    let (process, mut session) = attached(rotating, "two").await;
    assert_eq!(session.trust, after);
    let held = process.hold(refund(6), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    leader.vote(approval, VoteWord::Approve).await;
    let decision = session.decision().await;
    assert!(signers(&after, decision.envelope.as_ref().unwrap()).contains(&id));
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
    let kept = std::fs::read_to_string(rotating.ground.data_dir().join("signing-keys.json"));
    let kept: Vec<serde_json::Value> = serde_json::from_str(&kept.unwrap()).unwrap();
    assert_eq!(kept.len(), 1, "the former key is gone from the disk");
    assert_eq!(kept[0]["public"], hex::encode(public));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_nodes_two_keys_count_once() {
    let town = Town::of(3).await;
    let rotating = &town.nodes[town.followers()[0]];
    rotating.signer.rotate(countersign_control_plane::state::Actor::System).await.unwrap();
    rotating.sign_next_trust().await;
    let (process, mut session) = attached(rotating, "one").await;
    let (_, approval) = opened(&process, &mut session).await;
    for node in &town.nodes {
        node.manners.be_mute();
    }
    rotating.vote(approval, VoteWord::Approve).await;
    rotating.until(approval, ApprovalState::Released).await;
    let refused = rotating.signer.checkpoint_now().await.unwrap_err().to_string();
    assert!(refused.contains("1 of the 2 nodes"), "{refused}");
    for node in &town.nodes {
        node.manners.be_honest();
    }
    let decision = session.decision().await;
    assert!(signers(&session.trust, decision.envelope.as_ref().unwrap()).len() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_signs_nothing_any_more() {
    let town = Town::of(3).await;
    let revoked = &town.nodes[town.followers()[0]];
    let id = revoked.cluster.node_id();
    let mut trust = revoked.trust();
    trust.epoch += 1;
    for key in trust.keys.iter_mut().filter(|key| key.node == id) {
        key.state = KeyState::Revoked;
    }
    revoked.set_trust(&trust).await;
    town.level().await;
    let (process, mut session) = attached(revoked, "one").await;
    let (held, approval) = opened(&process, &mut session).await;
    revoked.vote(approval, VoteWord::Approve).await;
    let decision = session.decision().await;
    let envelope = decision.envelope.as_ref().unwrap();
    assert_eq!(envelope.signatures.len(), 2);
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
    let before = signers(&town.nodes[0].trust(), envelope);
    assert!(!before.contains(&id));
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_are_told_whom_to_trust_before_what_only_they_signed() {
    let town = Town::untrusted(3).await;
    let first = &town.nodes[0];
    let (process, mut session) = attached(first, "one").await;
    assert_eq!(session.trust.threshold, 1);
    let (held, approval) = opened(&process, &mut session).await;
    for node in &town.nodes[1..] {
        node.manners.be_mute();
    }
    first.sign_next_trust().await;
    first.vote(approval, VoteWord::Approve).await;
    first.until(approval, ApprovalState::Released).await;
    // What one node signs was enough before, and is not any more.
    let late = Process::new(first.enroll("two").await);
    let refused = late.attach_with(first, Vec::new()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    first.add_agent("agent-9", "nightly").await;
    for node in &town.nodes[1..] {
        node.manners.be_honest();
    }
    // The session checks every bundle with the trust bundle that came before it.
    let decision = session.decision().await;
    assert_eq!(session.trust.threshold, 2);
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
    while !session.bundle.agents.iter().any(|agent| agent.name == "nightly") {
        session.hear().await.unwrap();
    }
    late.attach(first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_the_audit_log_is_signed_by_two_and_committed() {
    let town = Town::of(3).await;
    let follower = &town.nodes[town.followers()[0]];
    let records =
        follower.cluster.read(|state| state.audit().records().len() as u64).await.unwrap();
    let index = follower.signer.checkpoint_now().await.unwrap();
    assert!(index >= records);
    town.level().await;
    for node in &town.nodes {
        let last = node.cluster.peek(|state| state.audit_checkpoints().last().cloned()).unwrap();
        assert_eq!(last.checkpoint.index, index);
        assert!(last.counts(&node.trust()));
        assert!(last.signatures.len() >= 2);
    }
    assert_eq!(
        follower.signer.checkpoint_now().await.unwrap(),
        index,
        "nothing new, nothing signed"
    );
}
