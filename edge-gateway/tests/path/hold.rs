//! What waits for people: held whole, released once, refused with a reason.

use std::time::Duration;

use countersign_edge_gateway::config::Limits;
use countersign_gate as gate;
use countersign_proto::v1 as pb;
use ed25519_dalek::SigningKey;
use tokio::io::AsyncWriteExt as _;

use crate::agent::{Agent, Answer, read, request};
use crate::control::secret;
use crate::world::World;

const APPROVAL: [u8; 16] = [1; 16];

fn admin() -> String {
    format!("Authorization: Bearer {}\r\n", secret("api-admin").fake)
}

fn delete(agent: &Agent, rest: &str) -> tokio::task::JoinHandle<Answer> {
    let (agent, rest) = (agent.clone(), format!("{}{rest}", admin()));
    tokio::spawn(async move { agent.send("api.test", "DELETE /things/1", &rest, "").await })
}

#[tokio::test]
async fn a_held_request_leaves_with_the_real_key_once_it_is_released() {
    let world = World::start().await;
    let waiting = delete(&world.agent, "");
    let open = world.control.open().await;
    assert_eq!((open.head.rule.as_str(), open.head.allowed), ("delete a thing", false));
    assert!(open.head.traceparent.starts_with("00-"));
    assert!(!format!("{:?}", open.head).contains(secret("api-admin").fake));
    world.control.opened_as(&open, &APPROVAL).await;
    assert!(world.origin.got().is_empty(), "nothing leaves before the decision");
    world.control.release(&open).await;
    let answer = waiting.await.expect("no panic");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("countersign-approval-id"), Some("01010101010101010101010101010101"));
    let got = world.origin.got();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].headers["authorization"], format!("Bearer {}", secret("api-admin").real));
    let receipt = world.control.receipt().await;
    assert_eq!((receipt.outcome(), receipt.status), (pb::ExecutionOutcome::Completed, 200));
    assert_eq!(receipt.approval_id.as_ref(), APPROVAL);
}

#[tokio::test]
async fn the_agents_trace_goes_on_in_the_control_plane() {
    let world = World::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let waiting = delete(&world.agent, &format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n"));
    let open = world.control.open().await;
    assert_eq!(open.head.traceparent.split('-').nth(1), Some(trace));
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_1_a_decision_that_is_sent_twice_releases_once() {
    let world = World::start().await;
    let waiting = delete(&world.agent, "");
    let open = world.control.open().await;
    let decision = world.control.decision(&open, |_| {});
    for _ in 0..5 {
        world.control.say_decision(decision.clone()).await;
    }
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(world.control.receipt().await.outcome(), pb::ExecutionOutcome::Completed);
    world.control.say_decision(decision).await;
    // Whatever comes of the stray decision comes before what is asked for next.
    assert_eq!(world.agent.send("open.test", "GET /", "", "").await.status, 200);
    assert!(world.control.received().await.is_none(), "no second receipt");
    assert_eq!(world.origin.got().iter().filter(|got| got.method == "DELETE").count(), 1);
}

#[tokio::test]
async fn a_1_a_recorded_decision_is_no_use_to_another_edge_or_process() {
    let world = World::start().await;
    let waiting = delete(&world.agent, "");
    let open = world.control.open().await;
    let recorded = world.control.decision(&open, |_| {});
    world.control.say_decision(recorded.clone()).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);

    // A process that holds the same bytes for the same agent, under an id of its own.
    let other = World::start().await;
    let held = delete(&other.agent, "");
    let theirs = other.control.open().await;
    other.control.say_decision(recorded).await;
    assert_eq!(other.control.alarm().await.kind, "orphan_decision");
    assert_eq!(other.agent.send("open.test", "GET /", "", "").await.status, 200);
    assert!(!held.is_finished(), "it waits for a decision of its own");
    assert!(other.origin.got().iter().all(|got| got.method != "DELETE"));
    other.control.say_decision(other.control.decision(&theirs, |_| {})).await;
    assert_eq!(held.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn decisions_that_do_not_count_release_nothing_and_kill_nothing() {
    let world = World::start().await;
    let waiting = delete(&world.agent, "");
    let open = world.control.open().await;
    let control = &world.control;
    let mut bad: Vec<pb::Decision> = vec![
        control.decision(&open, |d| d.request_digest[0] ^= 1),
        control.decision(&open, |d| d.intent_digest[0] ^= 1),
        control.decision(&open, |d| d.edge = "edge-2".into()),
        control.decision(&open, |d| d.incarnation[0] ^= 1),
        control.decision(&open, |d| d.cluster = "other".into()),
        control.decision(&open, |d| d.expires_ms = 1),
        control.decision(&open, |d| d.not_before_ms = u64::MAX - 100_000),
        control.decision(&open, |d| d.sealed.clear()),
    ];
    let mut unsigned = control.decision(&open, |_| {});
    unsigned.envelope.as_mut().expect("an envelope").signatures.clear();
    bad.push(unsigned);
    let mut forged = control.decision(&open, |_| {});
    let envelope = forged.envelope.as_mut().expect("an envelope");
    let signature =
        gate::sign(&SigningKey::from_bytes(&[66; 32]), gate::DECISION_TYPE, &envelope.payload);
    envelope.signatures[0].signature = signature.to_vec().into();
    bad.push(forged);
    for decision in bad {
        control.say_decision(decision).await;
    }
    assert_eq!(world.agent.send("open.test", "GET /", "", "").await.status, 200);
    assert!(!waiting.is_finished());
    control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(world.origin.got().iter().filter(|got| got.method == "DELETE").count(), 1);
}

#[tokio::test]
async fn a_key_that_was_exchanged_on_the_way_is_not_used() {
    let world = World::start().await;
    let waiting = delete(&world.agent, "");
    let open = world.control.open().await;
    let mut decision = world.control.decision(&open, |_| {});
    let mut other = world.control.decision(&open, |_| {});
    std::mem::swap(&mut decision.sealed_credentials, &mut other.sealed_credentials);
    world.control.say_decision(decision).await;
    assert_eq!(waiting.await.expect("no panic").status, 502);
    assert_eq!(world.control.receipt().await.outcome(), pb::ExecutionOutcome::NotSent);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn every_unsigned_no_has_its_answer() {
    use pb::SettledReason as R;
    let world = World::start().await;
    for (reason, status, code) in [
        (R::Denied, 403, "approval_denied"),
        (R::Expired, 403, "approval_expired"),
        (R::Cancelled, 403, "approval_cancelled"),
        (R::Revoked, 403, "approval_denied"),
        (R::AlreadyExecuted, 409, "already_executed"),
        (R::OutcomeUnknown, 409, "outcome_unknown"),
        (R::PolicyDenied, 403, "policy_denied"),
        (R::Unavailable, 503, "control_plane_unavailable"),
        (R::Overloaded, 429, "too_many_pending"),
    ] {
        let waiting = delete(&world.agent, "");
        let open = world.control.open().await;
        world.control.settle(&open, reason, "because of the moon").await;
        let answer = waiting.await.expect("no panic");
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let last = (status != 503 && status != 429).then_some("false");
        assert_eq!(answer.header("x-should-retry"), last, "{reason:?}");
        if reason == R::Denied {
            assert!(answer.body.contains("because of the moon"), "the reason: {}", answer.body);
        }
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn a_signed_no_is_obeyed() {
    let world = World::start().await;
    for (word, code) in [
        (gate::Word::Deny, "approval_denied"),
        (gate::Word::Expire, "approval_expired"),
        (gate::Word::Cancel, "approval_cancelled"),
    ] {
        let waiting = delete(&world.agent, "");
        let open = world.control.open().await;
        world.control.say_decision(world.control.decision(&open, |d| d.word = word)).await;
        let answer = waiting.await.expect("no panic");
        assert_eq!((answer.status, answer.code().as_str()), (403, code));
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn nobody_answers_within_hold() {
    let world = World::start().await;
    let waiting = delete(&world.agent, "Countersign-Approval-Wait: 1\r\n");
    let open = world.control.open().await;
    assert_eq!(open.head.hold_ms, 1_000);
    world.control.opened_as(&open, &APPROVAL).await;
    let answer = waiting.await.expect("no panic");
    assert_eq!((answer.status, answer.code().as_str()), (503, "approval_pending"));
    assert_eq!(answer.header("retry-after"), Some("15"));
    assert_eq!(answer.header("countersign-approval-id"), Some("01010101010101010101010101010101"));
    assert_eq!(answer.header("countersign-approval-status"), Some("pending"));
    assert_eq!(world.control.cancelled().await.request_id, open.head.request_id);
    // Too late: nothing is sent, and the control plane hears so.
    world.control.release(&open).await;
    assert_eq!(world.control.receipt().await.outcome(), pb::ExecutionOutcome::NotSent);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn an_identical_retry_has_the_same_intent_and_another_request() {
    let world = World::start().await;
    let first = delete(&world.agent, "Countersign-Approval-Wait: 1\r\nX-Request-Id: 1\r\n");
    let one = world.control.open().await;
    world.control.opened_as(&one, &APPROVAL).await;
    assert_eq!(first.await.expect("no panic").status, 503);
    let second = delete(&world.agent, "X-Request-Id: 2\r\n");
    let two = world.control.open().await;
    assert_eq!(one.head.intent_digest, two.head.intent_digest);
    assert_ne!(one.head.request_digest, two.head.request_digest);
    world.control.release(&two).await;
    assert_eq!(second.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn an_agent_that_goes_away_while_held_cancels() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("api.test").await;
    tunnel
        .write_all(request("api.test", "DELETE /things/1", &admin(), "").as_bytes())
        .await
        .expect("written");
    let open = world.control.open().await;
    drop(tunnel);
    assert_eq!(world.control.cancelled().await.request_id, open.head.request_id);
    world.control.release(&open).await;
    assert_eq!(world.control.receipt().await.outcome(), pb::ExecutionOutcome::NotSent);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn b_1_nothing_is_opened_until_the_whole_body_is_here() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("api.test").await;
    let benign = "amount=1&note=".to_owned() + &"x".repeat(16 * 1024);
    let rest = "&amount=1000000";
    let length = benign.len() + rest.len();
    let head = format!(
        "POST /refunds HTTP/1.1\r\nHost: api.test\r\nContent-Length: {length}\r\n{}\r\n",
        admin()
    );
    tunnel.write_all(format!("{head}{benign}").as_bytes()).await.expect("written");
    tunnel.flush().await.expect("flushed");
    // Another request goes all the way meanwhile, so the first one had its chance.
    assert_eq!(world.agent.send("open.test", "GET /", "", "").await.status, 200);
    assert!(world.control.opened().await.is_none(), "half a body opens nothing");
    tunnel.write_all(rest.as_bytes()).await.expect("written");
    let open = world.control.open().await;
    assert_eq!(open.body, format!("{benign}{rest}").as_bytes());
    world.control.release(&open).await;
    assert_eq!(read(&mut tunnel).await.expect("an answer").status, 200);
    assert_eq!(world.origin.got().last().expect("it arrived").body, open.body);
}

#[tokio::test]
async fn b_3_a_body_that_is_too_large_is_413_before_anybody_is_asked() {
    let world = World::with(Limits { max_held_body: 1_000, ..Limits::default() }).await;
    let answer = world.agent.send("api.test", "POST /refunds", &admin(), &"x".repeat(1_001)).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    let chunked = format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1_001));
    let rest = format!("{}Transfer-Encoding: chunked\r\n", admin());
    let answer = world.agent.send("api.test", "POST /refunds", &rest, &chunked).await;
    assert_eq!(answer.status, 413);
    assert!(world.control.opened().await.is_none());
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn one_agent_holds_only_so_many() {
    let world = World::with(Limits { max_held_per_agent: 1, ..Limits::default() }).await;
    let first = delete(&world.agent, "");
    let open = world.control.open().await;
    let second = delete(&world.agent, "").await.expect("no panic");
    assert_eq!((second.status, second.code().as_str()), (503, "overloaded"));
    assert!(second.header("retry-after").is_some());
    assert!(world.control.opened().await.is_none(), "nobody was asked about the second");
    world.control.release(&open).await;
    assert_eq!(first.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_large_body_arrives_whole_on_both_sides() {
    let world = World::start().await;
    let body = "0123456789abcdef".repeat(200_000);
    let (agent, sent) = (world.agent.clone(), body.clone());
    let waiting =
        tokio::spawn(async move { agent.send("api.test", "POST /refunds", &admin(), &sent).await });
    let open = world.control.open().await;
    assert!(open.body == body.as_bytes());
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert!(world.origin.got()[0].body == body.as_bytes());
}

#[tokio::test]
async fn a_shutdown_sends_the_held_away_to_ask_again() {
    let world = World::start().await;
    let waiting = delete(&world.agent, "");
    let open = world.control.open().await;
    world.control.opened_as(&open, &APPROVAL).await;
    tokio::time::timeout(Duration::from_secs(15), world.edge.shutdown()).await.expect("it drains");
    let answer = waiting.await.expect("no panic");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    assert_eq!(world.control.cancelled().await.request_id, open.head.request_id);
}

#[tokio::test]
async fn a_release_whose_answer_never_comes_is_unknown_and_not_repeated() {
    let world = World::start().await;
    let agent = world.agent.clone();
    let waiting = tokio::spawn(async move {
        agent.send("api.test", "DELETE /things/hang-up", &admin(), "").await
    });
    let open = world.control.open().await;
    world.control.release(&open).await;
    let answer = waiting.await.expect("no panic");
    assert_eq!((answer.status, answer.code().as_str()), (409, "outcome_unknown"));
    assert_eq!(world.control.receipt().await.outcome(), pb::ExecutionOutcome::Unknown);
    assert_eq!(world.origin.got().len(), 1, "one attempt");
}

#[tokio::test]
async fn a_release_to_an_upstream_that_is_down_was_not_sent() {
    let world = World::start().await;
    let agent = world.agent.clone();
    let waiting = tokio::spawn(async move { agent.send("down.test", "POST /x", "", "a=1").await });
    let open = world.control.open().await;
    world.control.release(&open).await;
    let answer = waiting.await.expect("no panic");
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_failed"));
    assert_eq!(world.control.receipt().await.outcome(), pb::ExecutionOutcome::NotSent);
}

#[tokio::test]
async fn an_agent_that_goes_away_after_the_release_stops_nothing() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("api.test").await;
    let text = request("api.test", "DELETE /things/slow", &admin(), "");
    tunnel.write_all(text.as_bytes()).await.expect("written");
    let open = world.control.open().await;
    world.control.release(&open).await;
    world.origin.reached().await;
    drop(tunnel);
    // Its connection is gone for certain once another request was served.
    assert_eq!(world.agent.send("open.test", "GET /", "", "").await.status, 200);
    world.origin.answer_slow_one();
    let receipt = world.control.receipt().await;
    assert_eq!((receipt.outcome(), receipt.status), (pb::ExecutionOutcome::Completed, 200));
}

#[tokio::test]
async fn a_hold_that_ends_without_the_control_plane_says_so() {
    let world = World::start().await;
    let waiting = delete(&world.agent, "Countersign-Approval-Wait: 1\r\n");
    let open = world.control.open().await;
    world.control.opened_as(&open, &APPROVAL).await;
    world.control.hang_up(Some(tonic::Status::unavailable("no leader")));
    let answer = waiting.await.expect("no panic");
    assert_eq!((answer.status, answer.code().as_str()), (503, "control_plane_unavailable"));
    world.control.answer_again();
    assert_eq!(world.control.cancelled().await.request_id, open.head.request_id);
    let receipt = world.control.receipt().await;
    assert_eq!(receipt.outcome(), pb::ExecutionOutcome::NotSent, "if it was claimed meanwhile");
}
