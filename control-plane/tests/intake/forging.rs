//! A node that lies: whatever it asks others to sign, they sign what their own state says or nothing.

use std::time::Duration;

use countersign_control_plane::sign::CoSigner as _;
use countersign_control_plane::state::{Actor, ApprovalState, Command, VoteWord};
use countersign_gate::{DECISION_TYPE, Decision, Outcome, SealedRef, TRUST_TYPE, Word};
use countersign_proto::v1;
use countersign_proto::v1::co_sign_request::Subject;
use prost::Message as _;
use tonic::Code;

use crate::edge::{decoded, outcome};
use crate::quorum::{attached, opened};
use crate::town::Town;
use crate::world::{CLUSTER, World};

fn about(decision: &Decision, index: u64) -> v1::CoSignRequest {
    v1::CoSignRequest {
        cluster_id: CLUSTER.into(),
        index,
        payload_type: DECISION_TYPE.into(),
        payload: decision.encode().into(),
        subject: Some(Subject::RequestId(decision.request_id.to_vec().into())),
    }
}

/// One decision for each field, in which that field alone differs from the true one. A field without a line here
/// does not compile.
fn forgeries(truth: &Decision) -> Vec<(&'static str, Decision)> {
    let Decision {
        cluster: _,
        decision_id: _,
        word: _,
        approval_id: _,
        request_id: _,
        request_digest: _,
        intent_digest: _,
        edge: _,
        incarnation: _,
        term: _,
        index: _,
        policy_version: _,
        approvers: _,
        not_before_ms: _,
        expires_ms: _,
        sealed: _,
        epoch: _,
    } = truth;
    let with = |change: fn(&mut Decision)| {
        let mut forged = truth.clone();
        change(&mut forged);
        assert_ne!(forged, *truth);
        forged
    };
    vec![
        ("cluster", with(|d| d.cluster = "other".into())),
        ("decision_id", with(|d| d.decision_id = [1; 16])),
        ("word", with(|d| d.word = Word::Deny)),
        ("approval_id: none", with(|d| d.approval_id = None)),
        ("approval_id: another", with(|d| d.approval_id = Some([1; 16]))),
        ("request_id", with(|d| d.request_id = [1; 16])),
        ("request_digest", with(|d| d.request_digest = [1; 32])),
        ("intent_digest", with(|d| d.intent_digest = [1; 32])),
        ("edge", with(|d| d.edge = "id-of-two".into())),
        ("incarnation", with(|d| d.incarnation = [1; 16])),
        ("term", with(|d| d.term += 1)),
        ("index", with(|d| d.index += 1)),
        ("policy_version", with(|d| d.policy_version += 1)),
        ("approvers: none", with(|d| d.approvers.clear())),
        ("approvers: another", with(|d| d.approvers[0].principal = "mallory".into())),
        ("approvers: one more", with(|d| d.approvers.push(d.approvers[0].clone()))),
        ("approvers: channel", with(|d| d.approvers[0].channel = "web".into())),
        ("approvers: time", with(|d| d.approvers[0].at_ms += 1)),
        ("not_before_ms", with(|d| d.not_before_ms -= 1)),
        ("expires_ms", with(|d| d.expires_ms += 60_000)),
        ("sealed: none", with(|d| d.sealed.clear())),
        ("sealed: another key", with(|d| d.sealed[0].credential = "cred-prices".into())),
        ("sealed: another version", with(|d| d.sealed[0].version = 2)),
        ("sealed: one more", with(|d| d.sealed.push(d.sealed[0].clone()))),
        ("epoch", with(|d| d.epoch += 1)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn t4_forge_decision_a_decision_that_differs_in_any_field_gets_no_second_signature() {
    let town = Town::of(3).await;
    let [liar, honest] = town.followers().map(|number| &town.nodes[number]);
    let (process, mut session) = attached(liar, "one").await;
    let (held, approval) = opened(&process, &mut session).await;
    liar.vote(approval, VoteWord::Approve).await;
    let decision = session.decision().await;
    let truth = decoded(&decision);
    town.level().await;

    for (field, forged) in forgeries(&truth) {
        // With the request's own id as the subject, and with whatever the forgery says.
        for subject in [truth.request_id, forged.request_id] {
            let mut request = about(&forged, truth.index);
            request.subject = Some(Subject::RequestId(subject.to_vec().into()));
            let signed = liar.asks(honest, request).await;
            assert!(signed.is_err(), "{field}: {signed:?}");
        }
    }
    let signed = liar.asks(honest, about(&truth, truth.index)).await.unwrap();
    assert_eq!(signed.signatures.len(), 1, "and the true one is signed");

    // By itself it is not enough for any edge.
    let mut alone = decision.clone();
    let own = v1::CoSignRequest { ..about(&truth, truth.index) };
    let own = liar.witness.co_sign(liar.cluster.node_id(), own).await.unwrap();
    alone.envelope.as_mut().unwrap().signatures = own.signatures;
    let Outcome::Ignore(held, _) = outcome(held, &alone, &session.trust) else {
        panic!("one node released it")
    };
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_of_a_sealed_key_alone_is_its_sealers_word() {
    let town = Town::of(3).await;
    let [one, other] = town.followers().map(|number| &town.nodes[number]);
    let (process, mut session) = attached(one, "one").await;
    let (_, approval) = opened(&process, &mut session).await;
    one.vote(approval, VoteWord::Approve).await;
    let mut again = decoded(&session.decision().await);
    town.level().await;
    // Sealed anew for the same claim: another ciphertext, the same decision.
    again.sealed =
        again.sealed.into_iter().map(|key| SealedRef { sha256: [5; 32], ..key }).collect();
    one.asks(other, about(&again, again.index)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_not_claimed_or_has_ended_is_signed() {
    let world = World::new().await;
    let (process, mut session) = attached(&world, "one").await;
    let (_, approval) = opened(&process, &mut session).await;
    let me = world.cluster.node_id();
    let codes = async |decision: &Decision| {
        world.witness.co_sign(me, about(decision, decision.index)).await.map_err(|e| e.code())
    };
    world.vote(approval, VoteWord::Approve).await;
    let decision = decoded(&session.decision().await);
    codes(&decision).await.unwrap();

    let waiting = process.hold(crate::edge::refund(6), crate::edge::approve("refunds"), 1);
    session.announce(&waiting).await;
    session.opened().await.unwrap();
    let mut unclaimed = decision.clone();
    unclaimed.request_id = waiting.ticket().circumstances.request_id;
    unclaimed.request_digest = waiting.ticket().request_digest;
    unclaimed.intent_digest = waiting.ticket().intent_digest;
    assert_eq!(codes(&unclaimed).await.unwrap_err(), Code::FailedPrecondition);

    // Another process of the edge attached: what the former one claimed is signed for nobody.
    let restarted = crate::edge::Process::new(process.enrolled.clone());
    let mut session = restarted.attach(&world).await;
    assert_eq!(codes(&decision).await.unwrap_err(), Code::FailedPrecondition);

    let held = restarted.hold(crate::edge::refund(7), crate::edge::approve("refunds"), 1);
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Approve).await;
    let expiring = decoded(&session.decision().await);
    codes(&expiring).await.unwrap();
    world.clock.advance(Duration::from_secs(301));
    assert_eq!(codes(&expiring).await.unwrap_err(), Code::FailedPrecondition);

    let world = World::new().await;
    let (process, mut session) = attached(&world, "one").await;
    let (_, approval) = opened(&process, &mut session).await;
    world.vote(approval, VoteWord::Approve).await;
    let decision = decoded(&session.decision().await);
    let me = world.cluster.node_id();
    world.propose(Command::EvictEdge { name: "one".into(), reason: "stolen".into() }).await;
    let refused = world.witness.co_sign(me, about(&decision, decision.index)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_of_this_cluster_are_signed_for_and_only_as_what_it_is() {
    let world = World::new().await;
    let (process, mut session) = attached(&world, "one").await;
    let (_, approval) = opened(&process, &mut session).await;
    world.vote(approval, VoteWord::Approve).await;
    world.until(approval, ApprovalState::Released).await;
    let truth = decoded(&session.decision().await);
    let (me, honest) = (world.cluster.node_id(), about(&truth, truth.index));
    let code = async |from: u64, request: v1::CoSignRequest| {
        world.witness.co_sign(from, request).await.unwrap_err().code()
    };
    assert_eq!(code(me + 1, honest.clone()).await, Code::PermissionDenied, "a stranger");
    let other = v1::CoSignRequest { cluster_id: "other".into(), ..honest.clone() };
    assert_eq!(code(me, other).await, Code::FailedPrecondition);
    // A trust bundle is the root key's alone to sign, whatever its bytes are called.
    let trust = v1::CoSignRequest { payload_type: TRUST_TYPE.into(), ..honest.clone() };
    assert_eq!(code(me, trust).await, Code::InvalidArgument);
    let bundle = Some(Subject::EdgeBundle(v1::EdgeBundleSubject {}));
    assert!(
        world
            .witness
            .co_sign(me, v1::CoSignRequest { subject: bundle, ..honest.clone() })
            .await
            .is_err()
    );
    assert_eq!(
        code(me, v1::CoSignRequest { subject: None, ..honest }).await,
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_differs_gets_no_signature() {
    let world = World::new().await;
    let (_, session) = attached(&world, "one").await;
    let me = world.cluster.node_id();
    let code = async |state: &v1::EdgeState| {
        let request = v1::CoSignRequest {
            cluster_id: CLUSTER.into(),
            index: 1,
            payload_type: "application/vnd.countersign.edge-bundle.v1".into(),
            payload: state.encode_to_vec().into(),
            subject: Some(Subject::EdgeBundle(v1::EdgeBundleSubject {})),
        };
        world.witness.co_sign(me, request).await.map(|_| ()).map_err(|e| e.code())
    };
    assert_eq!(code(&session.bundle).await, Ok(()));
    let changes: [fn(&mut v1::EdgeState); 6] = [
        |state| state.policy_version += 1,
        |state| state.policy.push('\n'),
        |state| state.agents[0].token_sha256 = vec![1; 32].into(),
        |state| state.credentials[0].host = "evil.example".into(),
        |state| state.credentials.iter_mut().for_each(|c| c.leasable = true),
        |state| state.forbidden_destinations.clear(),
    ];
    for change in changes {
        let mut forged = session.bundle.clone();
        change(&mut forged);
        assert_ne!(forged, session.bundle);
        assert_eq!(code(&forged).await, Err(Code::PermissionDenied));
    }
    let mut newer = session.bundle.clone();
    newer.revision += 1;
    assert_eq!(code(&newer).await, Err(Code::Aborted), "it may be this node that is behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_before_it_is_applied() {
    let world = World::new().await;
    let me = world.cluster.node_id();
    let note = || Command::Note { action: "test".into(), subject: "x".into(), details: Vec::new() };
    let records = world.cluster.peek(|state| state.audit().records().len() as u64);
    // What will be the next record, at the next index: asked for before it is there.
    let next = world.cluster.applied_index() + 1;
    let witness = world.witness.clone();
    let early = tokio::spawn(async move {
        let request = v1::CoSignRequest {
            cluster_id: CLUSTER.into(),
            index: next,
            payload_type: "application/vnd.countersign.audit-checkpoint.v1".into(),
            payload: Vec::new().into(),
            subject: Some(Subject::AuditIndex(records + 1)),
        };
        witness.co_sign(me, request).await.unwrap_err()
    });
    tokio::task::yield_now().await;
    world.cluster.propose(Actor::System, note()).await.unwrap();
    // It waited, and then compared with the record that there is now.
    assert_eq!(early.await.unwrap().code(), Code::PermissionDenied);

    let never = v1::CoSignRequest {
        cluster_id: CLUSTER.into(),
        index: world.cluster.applied_index() + 1000,
        payload_type: "application/vnd.countersign.audit-checkpoint.v1".into(),
        payload: Vec::new().into(),
        subject: Some(Subject::AuditIndex(1)),
    };
    let begun = std::time::Instant::now();
    assert_eq!(world.witness.co_sign(me, never).await.unwrap_err().code(), Code::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(10));
}
