//! From a held request to a decision that the gate takes, once.

use std::time::Duration;

use countersign_control_plane::state::{ApprovalState, Command, ReportedOutcome, VoteWord};
use countersign_gate::{Outcome, Word};
use countersign_proto::v1;
use countersign_proto::v1::SettledReason as Reason;
use countersign_proto::v1::attach_request::Message as In;
use countersign_proto::v1::attach_response::Message as Out;

use crate::edge::{
    Process, Session, allow_per_request, approve, balance, decoded, outcome, refund,
};
use crate::world::{STRIPE_KEY, World};

async fn attached(world: &World) -> (Process, Session) {
    let process = Process::new(world.enroll("one").await);
    let session = process.attach(world).await;
    (process, session)
}

pub(crate) fn receipt(request_id: &[u8; 16], outcome: v1::ExecutionOutcome, status: u32) -> In {
    In::ExecutionReceipt(v1::ExecutionReceipt {
        request_id: bytes::Bytes::copy_from_slice(request_id),
        outcome: outcome.into(),
        status,
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_becomes_a_decision_that_the_gate_takes_and_a_key_that_opens() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    let shown = world.approval(approval).shown;
    assert_eq!(
        (shown.method.as_str(), shown.host.as_str(), shown.path.as_str()),
        ("POST", "api.stripe.com", "/v1/refunds")
    );
    assert_eq!(shown.body_preview, b"{\"amount\":5}");
    assert!(!shown.uninspectable);
    assert_eq!(shown.intent_digest, held.ticket().intent_digest);

    world.vote(approval, VoteWord::Approve).await;
    let decision = session.decision().await;
    let claims = decoded(&decision);
    assert_eq!((claims.word, claims.approval_id), (Word::Release, Some(approval.0)));
    assert_eq!(claims.approvers[0].principal, "alice");
    let key = process.open(&held, &claims.decision_id, &decision.sealed_credentials[0]).unwrap();
    let request_id = held.ticket().circumstances.request_id;
    let Outcome::Release(released) = outcome(held, &decision, &session.trust) else {
        panic!("not released")
    };
    let sent = released.with_keys(vec![key]).unwrap().into_parts();
    let expected = [b"Bearer ".as_slice(), STRIPE_KEY].concat();
    assert_eq!(sent.headers["authorization"].as_bytes(), expected);

    session.say(receipt(&request_id, v1::ExecutionOutcome::Completed, 200)).await;
    world.until(approval, ApprovalState::Completed).await;
    assert_eq!(
        world.approval(approval).outcome.map(|(word, status, _)| (word, status)),
        Some((ReportedOutcome::Completed, 200))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_allows_per_request_is_released_without_asking() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(balance(), allow_per_request("balance"), session.version());
    session.announce(&held).await;
    assert_eq!(session.opened().await, None);
    let decision = session.decision().await;
    assert_eq!(decoded(&decision).approval_id, None);
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
    assert_eq!(world.approvals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_settles_the_request_with_its_reason() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Deny).await;
    let settled = session.settled().await;
    assert_eq!(settled.reason(), Reason::Denied);
    assert_eq!(settled.approval_id, approval.0.to_vec());
    assert!(settled.detail.contains("because"), "{}", settled.detail);
    assert_eq!(world.recorded("request.claim"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_is_left_to_approve_gets_its_no_and_the_reason_at_once() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    for name in ["alice", "bob"] {
        world.propose(Command::RemovePrincipal { name: name.into() }).await;
    }
    let settled = session.settled().await;
    assert_eq!(settled.reason(), Reason::Denied);
    assert_eq!(settled.approval_id, approval.0.to_vec());
    assert!(settled.detail.contains("nobody can approve"), "{}", settled.detail);
    assert_eq!(world.recorded("approval.deny"), 1);
    assert_eq!(world.recorded("request.claim"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_jump_what_was_approved_waits_until_the_clock_is_confirmed() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    world.propose(Command::SuspectClock { by_ms: 2 * 60 * 60 * 1000 }).await;
    let asked = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&asked).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Approve).await;
    let allowed = process.hold(balance(), allow_per_request("balance"), session.version());
    session.announce(&allowed).await;
    assert_eq!(session.opened().await, None);
    world.propose(Command::ConfirmClock).await;
    assert_eq!(world.recorded("request.claim"), 0, "nothing before");
    for _ in 0..2 {
        session.decision().await;
    }
    let recorded = ["request.claim", "claim.refused"].map(|action| world.recorded(action));
    assert_eq!(recorded, [2, 0], "and nothing was asked again and again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_2_fifty_identical_requests_get_one_decision() {
    let world = World::new().await;
    let (one, mut first) = attached(&world).await;
    let two = Process::new(world.enroll("two").await);
    let mut second = two.attach(&world).await;
    let mut approvals = Vec::new();
    for number in 0..50 {
        let (process, session) =
            if number % 2 == 0 { (&one, &mut first) } else { (&two, &mut second) };
        let held = process.hold(refund(5), approve("refunds"), session.version());
        session.announce(&held).await;
        approvals.push(session.opened().await.unwrap());
    }
    approvals.dedup();
    assert_eq!(approvals.len(), 1, "nobody is asked twice");

    world.vote(approvals[0], VoteWord::Approve).await;
    let (mut decisions, mut settled) = (0, 0);
    for session in [&mut first, &mut second] {
        for _ in 0..25 {
            match session.answer().await {
                Out::Decision(_) => decisions += 1,
                Out::Settled(no) if no.reason() == Reason::AlreadyExecuted => settled += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((decisions, settled), (1, 49));
    assert_eq!(world.recorded("request.claim"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_joins_the_approval_and_is_released_at_once_when_it_was_approved_meanwhile() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let first = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&first).await;
    let approval = session.opened().await.unwrap();
    let request_id = first.ticket().circumstances.request_id;
    let cancelled = v1::HeldCancelled {
        request_id: bytes::Bytes::copy_from_slice(&request_id),
        reason: "the hold ran out".into(),
    };
    session.say(In::HeldCancelled(cancelled)).await;
    world.until_true(|state| state.held(&request_id).is_none()).await;

    world.vote(approval, VoteWord::Approve).await;
    let retry = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&retry).await;
    assert_eq!(session.opened().await, Some(approval));
    let decision = session.decision().await;
    assert_eq!(decision.request_id, retry.ticket().circumstances.request_id.to_vec());
    assert!(matches!(outcome(retry, &decision, &session.trust), Outcome::Release(_)));
    assert_eq!(world.approvals(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconnected_edge_gets_the_same_decision_again_sealed_anew() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Approve).await;
    let lost = session.decision().await;
    drop(session);

    let mut session = process.attach(&world).await;
    session.announce(&held).await;
    assert_eq!(session.opened().await, Some(approval));
    let again = session.decision().await;
    let (before, after) = (decoded(&lost), decoded(&again));
    assert_eq!(
        (before.decision_id, before.term, before.index),
        (after.decision_id, after.term, after.index)
    );
    assert_ne!(
        lost.sealed_credentials[0].encapsulated_key,
        again.sealed_credentials[0].encapsulated_key
    );
    assert!(process.open(&held, &after.decision_id, &again.sealed_credentials[0]).is_some());
    assert!(matches!(outcome(held, &again, &session.trust), Outcome::Release(_)));
    assert_eq!(world.recorded("request.claim"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_edge_gets_nothing_of_what_its_former_process_claimed() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Approve).await;
    session.decision().await;
    drop(session);

    let restarted = Process::new(process.enrolled.clone());
    let mut session = restarted.attach(&world).await;
    let retry = restarted.hold(refund(5), approve("refunds"), session.version());
    session.announce(&retry).await;
    assert_eq!(session.opened().await, Some(approval));
    assert_eq!(session.settled().await.reason(), Reason::OutcomeUnknown);
    assert_eq!(world.recorded("request.claim"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_while_the_edge_was_away_is_told_when_it_is_back() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    drop(session);
    world.vote(approval, VoteWord::Approve).await;

    let mut session = process.attach(&world).await;
    session.announce(&held).await;
    assert_eq!(session.opened().await, Some(approval));
    let decision = session.decision().await;
    assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn s_disk_swap_a_key_moved_under_another_record_is_not_released() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    // Sealed for another credential's record, and put in this one's place.
    let stolen =
        world.cluster.peek(|state| state.credential_named("prices").unwrap().payload.clone());
    world
        .propose(Command::RotateCredential {
            name: "stripe".into(),
            expected_version: 1,
            payload: stolen,
        })
        .await;
    let mut key = crate::edge::stripe_key();
    key.version = 2;
    let request = crate::edge::request(
        http::Method::POST,
        "api.stripe.com:443",
        "/v1/refunds",
        bytes::Bytes::from_static(b"{}"),
        Some(key),
    );
    let held = process.hold(request, approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Approve).await;
    let settled = session.settled().await;
    assert_eq!(settled.reason(), Reason::Unavailable);
    let outcome = world.approval(approval).outcome.map(|(word, ..)| word);
    assert_eq!(outcome, Some(ReportedOutcome::NotSent), "and it is known that nothing was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_acknowledged_once_it_is_committed() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(balance(), allow_per_request("balance"), session.version());
    session.announce(&held).await;
    session.opened().await;
    session.decision().await;
    let request_id = held.ticket().circumstances.request_id;
    session.say(receipt(&request_id, v1::ExecutionOutcome::Completed, 200)).await;
    world.until_true(|state| state.held(&request_id).is_none()).await;
    // Hello, head and receipt; a bundle carries the acknowledgement of whatever was recorded by then.
    loop {
        world
            .add_agent(
                &format!("agent-{}", rand::random::<u64>()),
                &format!("a{}", rand::random::<u32>()),
            )
            .await;
        session.hear().await.unwrap();
        if session.acknowledged == 3 {
            break;
        }
    }
    assert_eq!(world.recorded("request.report"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_nobody_answers_expires() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.clock.advance(Duration::from_secs(16 * 60));
    let settled = session.settled().await;
    assert_eq!(
        (settled.reason(), settled.approval_id.to_vec()),
        (Reason::Expired, approval.0.to_vec())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_too_old_is_not_given_again_and_is_asked_for_once() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Approve).await;
    session.decision().await;
    drop(session);
    // Past the hold, and before its outcome counts as unknown.
    world.clock.advance(Duration::from_secs(330));

    let mut session = process.attach(&world).await;
    session.announce(&held).await;
    assert_eq!(session.opened().await, Some(approval));
    assert_eq!(session.settled().await.reason(), Reason::OutcomeUnknown);
    assert_eq!(world.approval(approval).state, ApprovalState::Released);
    assert_eq!(world.recorded("claim.refused"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_requests_wait_at_once_and_each_gets_its_own_decision() {
    const COUNT: u32 = 2_000;
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let mut waiting = std::collections::HashMap::new();
    // As far ahead as the wire takes, and never so far that both sides wait for each other.
    for batch in (0..COUNT).collect::<Vec<_>>().chunks(50) {
        for amount in batch {
            let held = process.hold(refund(*amount), approve("refunds"), session.version());
            session.announce(&held).await;
            waiting.insert(held.ticket().circumstances.request_id, held);
        }
        for _ in batch {
            session.opened().await.unwrap();
        }
    }
    let approvals: Vec<_> =
        world.cluster.peek(|state| state.approvals().map(|approval| approval.id).collect());
    assert_eq!(approvals.len(), COUNT as usize);
    let votes = approvals.iter().map(|approval| world.vote(*approval, VoteWord::Approve));
    futures::future::join_all(votes).await;
    for _ in 0..COUNT {
        let decision = session.decision().await;
        let id: [u8; 16] = decision.request_id.as_ref().try_into().unwrap();
        let held = waiting.remove(&id).expect("one decision each");
        assert!(matches!(outcome(held, &decision, &session.trust), Outcome::Release(_)));
    }
    assert!(waiting.is_empty());
    assert_eq!(world.recorded("request.claim"), COUNT as usize);
}
