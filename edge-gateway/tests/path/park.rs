//! Requests that outlive their client: carried out once, by the same decision as any other, and never without one.

use std::time::Duration;

use countersign_edge_gateway::config::Limits;
use countersign_gate as gate;
use countersign_proto::v1 as pb;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;

use crate::agent::{Agent, Answer, Tunnel, request};
use crate::control::{OTHER_TOKEN, Open, secret};
use crate::local::{HOST, ID, approval, ask, json};
use crate::world::{World, bearer, no};
use pb::AgentApprovalState as State;

const APPROVAL: [u8; 16] = [1; 16];

/// Asks for a job whose rule parks it.
fn job(agent: &Agent, path: &str, body: &str, rest: &str) -> JoinHandle<Answer> {
    let (agent, line, body) = (agent.clone(), format!("POST {path}"), body.to_owned());
    let rest = format!("{}{rest}", bearer("api-admin"));
    tokio::spawn(async move { agent.send("api.test", &line, &rest, &body).await })
}

/// The same over a connection that the test can drop.
async fn job_to_leave(world: &World, path: &str, body: &str) -> Tunnel {
    let mut tunnel = world.agent.tunnel("api.test").await;
    let text = request("api.test", &format!("POST {path}"), &bearer("api-admin"), body);
    tunnel.write_all(text.as_bytes()).await.expect("written");
    tunnel
}

/// A job that was asked for, known under an approval, and left by its client.
async fn parked(world: &World, path: &str, body: &str) -> Open {
    let tunnel = job_to_leave(world, path, body).await;
    let open = world.control.open().await;
    world.control.opened_as(&open, &APPROVAL).await;
    drop(tunnel);
    world.until("countersign_edge_parked_requests", 1.0).await;
    open
}

async fn result(agent: &Agent) -> Answer {
    agent.send(HOST, &format!("GET /approvals/{ID}/result"), "", "").await
}

/// Returns the result once it is there.
async fn result_in_time(world: &World) -> Answer {
    world.until("countersign_edge_parked_requests", 0.0).await;
    result(&world.agent).await
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_a_request_that_is_carried_out_once() {
    let world = World::start().await;
    let open = parked(&world, "/jobs/1", "a=1").await;
    assert!(open.head.hold_ms > 600_000, "as long as its approval may take: {}", open.head.hold_ms);
    assert!(world.origin.got().is_empty(), "nothing leaves before the decision");
    assert_eq!(world.metric("countersign_edge_held_requests").await, Some(0.0));

    world.control.release(&open).await;
    let receipt = world.control.receipt().await;
    assert_eq!((receipt.outcome(), receipt.status), (pb::ExecutionOutcome::Completed, 200));
    assert_eq!(receipt.approval_id.as_ref(), APPROVAL);
    let answer = result_in_time(&world).await;
    let seen = json(&answer);
    let real = secret("api-admin").real;
    let got = world.origin.got();
    assert_eq!(got.len(), 1, "once");
    assert_eq!(got[0].headers["authorization"], format!("Bearer {real}"));
    assert_eq!(got[0].body, "a=1");
    assert_eq!((&seen["id"], &seen["state"]), (&ID.into(), &"completed".into()));
    assert_eq!(seen["response"]["status"], 200);
    assert!(seen["response"]["headers"].to_string().contains("x-origin"), "{seen}");
    let body = seen["response"]["body"].as_str().expect("text");
    assert!(body.starts_with("POST /jobs/1"), "{body}");
    assert!(!answer.body.contains(real), "the upstream said the key back, and it is not kept");

    // Sent again, the decision releases nothing: there is nothing to release any more.
    world.control.release(&open).await;
    assert_eq!(world.keyless().await.status, 200);
    assert_eq!(world.origin.got().iter().filter(|got| got.method == "POST").count(), 1);
}

#[tokio::test]
async fn the_result_is_its_agents_alone() {
    let world = World::start().await;
    let open = parked(&world, "/jobs/1", "").await;
    world.control.release(&open).await;
    assert_eq!(result_in_time(&world).await.status, 200);
    let other = world.agent.pretending("other", OTHER_TOKEN);
    let path = format!("/approvals/{ID}/result");
    let (answer, asked) = ask(&world, &other, &path, Vec::new()).await;
    assert_eq!(asked.agent_id, "agent-2");
    assert_eq!(no(&answer), (404, "approval_not_found".into()));
    assert!(!answer.body.contains("jobs"));
}

#[tokio::test]
async fn a_hold_that_ends_says_that_the_request_is_parked_and_where_its_result_will_be() {
    let world = World::start().await;
    let waiting = job(&world.agent, "/jobs/1", "", "Countersign-Approval-Wait: 1\r\n");
    let open = world.control.open().await;
    world.control.opened_as(&open, &APPROVAL).await;
    let answer = waiting.await.expect("no panic");
    assert_eq!(no(&answer), (503, "approval_pending".into()));
    assert_eq!(answer.header("countersign-approval-id"), Some(ID));
    let problem: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let address = format!("https://{HOST}/approvals/{ID}/result");
    assert_eq!((&problem["parked"], &problem["result"]), (&true.into(), &address.as_str().into()));
    assert!(problem["detail"].as_str().expect("text").contains(&address));

    let path = format!("/approvals/{ID}");
    let (answer, _) = ask(&world, &world.agent, &path, vec![approval(State::Pending)]).await;
    let seen = json(&answer);
    assert_eq!((&seen["parked"], &seen["result"]), (&true.into(), &serde_json::Value::Null));
    let path = format!("/approvals/{ID}/result");
    let (answer, _) = ask(&world, &world.agent, &path, vec![approval(State::Pending)]).await;
    assert_eq!(no(&answer), (404, "result_pending".into()));

    world.control.release(&open).await;
    assert_eq!(json(&result_in_time(&world).await)["response"]["status"], 200);
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn one_that_is_released_while_its_client_waits_is_answered_as_any_other() {
    let world = World::start().await;
    let waiting = job(&world.agent, "/jobs/1", "", "");
    let open = world.control.open().await;
    world.control.opened_as(&open, &APPROVAL).await;
    world.control.release(&open).await;
    let answer = waiting.await.expect("no panic");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("countersign-approval-id"), Some(ID));
    let path = format!("/approvals/{ID}/result");
    let (answer, _) = ask(&world, &world.agent, &path, vec![approval(State::Completed)]).await;
    assert_eq!(no(&answer), (404, "result_not_kept".into()), "it had its answer");
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_while_the_upstream_works_finds_the_answer() {
    let world = World::start().await;
    let tunnel = job_to_leave(&world, "/jobs/slow", "").await;
    let open = world.control.open().await;
    world.control.opened_as(&open, &APPROVAL).await;
    world.control.release(&open).await;
    world.origin.reached().await;
    drop(tunnel);
    // Its connection is gone for certain once another request was served.
    assert_eq!(world.agent.send("open.test", "GET /", "", "").await.status, 200);
    let path = format!("/approvals/{ID}/result");
    let (answer, _) = ask(&world, &world.agent, &path, vec![approval(State::Released)]).await;
    assert_eq!(no(&answer), (404, "result_pending".into()));
    world.origin.answer_slow_one();
    let kept = async {
        loop {
            let path = format!("GET /approvals/{ID}");
            let (answer, ()) = tokio::join!(world.agent.send(HOST, &path, "", ""), async {
                let asked = world.control.asked().await;
                world.control.tell(&asked, vec![approval(State::Completed)]).await;
            });
            if json(&answer)["result"].is_string() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), kept).await.expect("it is kept");
    assert_eq!(json(&result(&world.agent).await)["response"]["status"], 200);
    assert_eq!(world.origin.got().iter().filter(|got| got.method == "POST").count(), 1);
}

#[tokio::test]
async fn a_no_to_a_parked_request_lets_nothing_leave() {
    use pb::SettledReason as R;
    let world = World::start().await;
    for (reason, state, code) in [
        (R::Denied, State::Denied, "approval_denied"),
        (R::Expired, State::Expired, "approval_expired"),
        (R::Cancelled, State::Cancelled, "approval_cancelled"),
        (R::Revoked, State::Revoked, "approval_cancelled"),
    ] {
        let open = parked(&world, "/jobs/1", "").await;
        world.control.settle(&open, reason, "by the test").await;
        world.until("countersign_edge_parked_requests", 0.0).await;
        let path = format!("/approvals/{ID}/result");
        let (answer, _) = ask(&world, &world.agent, &path, vec![approval(state)]).await;
        assert_eq!(no(&answer), (404, code.into()));
        // A decision that comes late finds nothing to release.
        world.control.release(&open).await;
        assert_eq!(world.control.receipt().await.outcome(), pb::ExecutionOutcome::NotSent);
    }
    let open = parked(&world, "/jobs/1", "").await;
    world.control.say_decision(world.control.decision(&open, |d| d.word = gate::Word::Deny)).await;
    world.until("countersign_edge_parked_requests", 0.0).await;
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn a_decision_that_does_not_count_releases_nothing_that_is_parked() {
    let world = World::start().await;
    let open = parked(&world, "/jobs/1", "").await;
    let control = &world.control;
    control.say_decision(control.decision(&open, |d| d.request_digest[0] ^= 1)).await;
    control.say_decision(control.decision(&open, |d| d.incarnation[0] ^= 1)).await;
    let mut unsigned = control.decision(&open, |_| {});
    unsigned.envelope.as_mut().expect("an envelope").signatures.clear();
    control.say_decision(unsigned).await;
    assert_eq!(world.keyless().await.status, 200);
    assert!(world.origin.got().iter().all(|got| got.method != "POST"));
    assert_eq!(world.metric("countersign_edge_parked_requests").await, Some(1.0), "it waits on");
    control.release(&open).await;
    assert_eq!(json(&result_in_time(&world).await)["response"]["status"], 200);
}

#[tokio::test]
async fn a_repeated_request_and_the_parked_one_are_carried_out_once_between_them() {
    let world = World::start().await;
    // The repeated one wins: its client is there.
    let first = parked(&world, "/jobs/1", "a=1").await;
    let waiting = job(&world.agent, "/jobs/1", "a=1", "");
    let second = world.control.open().await;
    assert_eq!(second.head.intent_digest, first.head.intent_digest, "it attaches");
    world.control.opened_as(&second, &APPROVAL).await;
    world.control.release(&second).await;
    world.control.settle(&first, pb::SettledReason::AlreadyExecuted, "").await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    world.until("countersign_edge_parked_requests", 0.0).await;
    assert_eq!(world.origin.got().len(), 1, "once between them");

    // The parked one wins: the other is told where the result is.
    let first = parked(&world, "/jobs/1", "a=1").await;
    let waiting = job(&world.agent, "/jobs/1", "a=1", "");
    let second = world.control.open().await;
    world.control.opened_as(&second, &APPROVAL).await;
    world.control.release(&first).await;
    world.control.settle(&second, pb::SettledReason::AlreadyExecuted, "").await;
    let answer = waiting.await.expect("no panic");
    assert_eq!(no(&answer), (409, "already_executed".into()));
    let problem: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(problem["result"], format!("https://{HOST}/approvals/{ID}/result"), "{answer:?}");
    assert_eq!(json(&result_in_time(&world).await)["response"]["status"], 200);
    assert_eq!(world.origin.got().len(), 2, "once more, and no more");
}

#[tokio::test]
async fn one_request_is_parked_for_each_approval() {
    let world = World::start().await;
    let _first = parked(&world, "/jobs/1", "a=1").await;
    let tunnel = job_to_leave(&world, "/jobs/1", "a=1").await;
    let second = world.control.open().await;
    world.control.opened_as(&second, &APPROVAL).await;
    drop(tunnel);
    let cancelled = world.control.cancelled().await;
    assert_eq!(cancelled.request_id, second.head.request_id, "its client alone waited for it");
    assert_eq!(world.metric("countersign_edge_parked_requests").await, Some(1.0));
    assert_eq!(world.metric("countersign_edge_held_requests").await, Some(0.0));
}

#[tokio::test]
async fn the_bound_is_kept_and_beyond_it_nothing_is_parked() {
    let limits = Limits { max_parked: 1, ..Limits::default() };
    let world = World::with(limits).await;
    let _first = parked(&world, "/jobs/1", "").await;
    let tunnel = job_to_leave(&world, "/jobs/2", "").await;
    let second = world.control.open().await;
    assert_eq!(second.head.hold_ms, 30_000, "it is held for its client alone");
    world.control.opened_as(&second, &[2; 16]).await;
    drop(tunnel);
    assert_eq!(world.control.cancelled().await.request_id, second.head.request_id);

    let waiting = job(&world.agent, "/jobs/3", "", "Countersign-Approval-Wait: 1\r\n");
    let third = world.control.open().await;
    world.control.opened_as(&third, &[3; 16]).await;
    let answer = waiting.await.expect("no panic");
    assert_eq!(no(&answer), (503, "approval_pending".into()));
    assert!(answer.body.contains("\"parked\":false"), "{answer:?}");
    assert_eq!(world.control.cancelled().await.request_id, third.head.request_id);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn bodies_are_parked_up_to_a_mebibyte_and_to_what_there_is_room_for() {
    let limits = Limits { max_parked_bytes: 3_000_000, ..Limits::default() };
    let world = World::with(limits).await;
    let large = "x".repeat(1024 * 1024);
    let _tunnel = job_to_leave(&world, "/jobs/1", &format!("{large}x")).await;
    assert_eq!(world.control.open().await.head.hold_ms, 30_000, "larger than a mebibyte");
    let mut tunnels = Vec::new();
    for number in 2..=4 {
        tunnels.push(job_to_leave(&world, &format!("/jobs/{number}"), &large).await);
        let parks = world.control.open().await.head.hold_ms > 30_000;
        assert_eq!(parks, number < 4, "two mebibytes fit into three million bytes, three do not");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_kept_without_its_body() {
    let world = World::start().await;
    // It is said back whole, after its head.
    let open = parked(&world, "/jobs/1", &"x".repeat(1024 * 1024)).await;
    world.control.release(&open).await;
    let seen = json(&result_in_time(&world).await);
    assert_eq!(seen["response"]["status"], 200);
    assert!(seen["response"]["body"].is_null() && seen["response"]["body_base64"].is_null());
    assert!(seen["response"]["body_not_kept"].as_str().expect("why").contains("mebibyte"));
}

#[tokio::test]
async fn a_result_is_gone_after_an_hour() {
    let world = World::start().await;
    let open = parked(&world, "/jobs/1", "").await;
    world.control.release(&open).await;
    assert_eq!(result_in_time(&world).await.status, 200);
    world.hands.advance(Duration::from_secs(59 * 60));
    assert_eq!(result(&world.agent).await.status, 200);
    world.hands.advance(Duration::from_secs(2 * 60));
    // The clocks went on together: the edge is told the time before it is asked again.
    world.control.tell_time(world.clock.wall_ms()).await;
    let path = format!("/approvals/{ID}/result");
    let (answer, _) = ask(&world, &world.agent, &path, vec![approval(State::Completed)]).await;
    assert_eq!(no(&answer), (404, "result_not_kept".into()));
}

#[tokio::test]
async fn what_failed_after_the_release_is_the_result() {
    let world = World::start().await;
    let open = parked(&world, "/jobs/hang-up", "").await;
    world.control.release(&open).await;
    assert_eq!(world.control.receipt().await.outcome(), pb::ExecutionOutcome::Unknown);
    let answer = result_in_time(&world).await;
    assert_eq!(no(&answer), (404, "outcome_unknown".into()));
    assert!(answer.body.contains("may or may not"), "{answer:?}");
    assert_eq!(world.origin.got().len(), 1, "one attempt");
}

#[tokio::test]
async fn a_session_that_ends_is_followed_by_one_that_releases_what_is_parked() {
    let world = World::start().await;
    let open = parked(&world, "/jobs/1", "").await;
    world.control.drop_session();
    let again = world.control.open().await;
    assert_eq!(again.head.request_id, open.head.request_id, "it is announced again");
    world.control.opened_as(&again, &APPROVAL).await;
    world.control.release(&again).await;
    assert_eq!(json(&result_in_time(&world).await)["response"]["status"], 200);
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn a_node_that_cannot_take_it_now_is_asked_again() {
    let world = World::start().await;
    for reason in [pb::SettledReason::Unavailable, pb::SettledReason::Overloaded] {
        let open = parked(&world, "/jobs/1", "").await;
        world.control.settle(&open, reason, "not now").await;
        let again = world.control.open().await;
        assert_eq!(again.head.request_id, open.head.request_id);
        world.control.opened_as(&again, &APPROVAL).await;
        world.control.settle(&again, pb::SettledReason::Denied, "by the test").await;
        world.until("countersign_edge_parked_requests", 0.0).await;
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn a_shutdown_lets_go_of_what_is_parked() {
    let world = World::start().await;
    let open = parked(&world, "/jobs/1", "").await;
    tokio::time::timeout(Duration::from_secs(15), world.edge.shutdown()).await.expect("it drains");
    assert_eq!(world.control.cancelled().await.request_id, open.head.request_id);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn a_parked_request_is_judged_by_the_policy_of_its_release() {
    let world = World::start().await;
    // Held by the new policy too: it is announced again, and waits on.
    let open = parked(&world, "/jobs/1", "").await;
    world.control.change(|state| state.policy_version = 2).await;
    world.control.reopen(&open).await;
    let again = world.control.open().await;
    assert_eq!((again.head.policy_version, &again.head.request_id), (2, &open.head.request_id));
    // Not to be parked any more, it is let go of: nobody waits for its answer.
    world
        .control
        .change(|state| {
            state.policy_version = 3;
            state.policy = state.policy.replace("park = true", "park = false");
        })
        .await;
    world.control.reopen(&again).await;
    assert_eq!(world.control.cancelled().await.request_id, open.head.request_id);
    world.until("countersign_edge_parked_requests", 0.0).await;
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn what_the_policy_allows_meanwhile_is_not_sent_for_nobody() {
    let world = World::start().await;
    let open = parked(&world, "/jobs/1", "").await;
    world.control.change(|state| {
        state.policy_version = 2;
        let asks = "then = \"approve\"\ncredential = \"api-admin\"\napprovers = [\"ops\"]\nhold = \"30s\"\nexpires = \"10m\"\npark = true";
        assert!(state.policy.contains(asks));
        state.policy = state.policy.replace(asks, "then = \"allow\"\ncredential = \"api-admin\"");
        for credential in &mut state.credentials {
            credential.leasable = true;
        }
    }).await;
    world.control.reopen(&open).await;
    assert_eq!(world.control.cancelled().await.request_id, open.head.request_id);
    world.until("countersign_edge_parked_requests", 0.0).await;
    assert!(world.origin.got().is_empty());
}
