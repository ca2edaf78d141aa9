//! The session with the control plane: what it takes to be believed, and what happens when it breaks.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use tonic::Status;

use crate::agent::Answer;
use crate::control::secret;
use crate::world::World;

fn key(name: &str) -> String {
    format!("Authorization: Bearer {}\r\n", secret(name).fake)
}

async fn delete(world: &World) -> Answer {
    world.agent.send("api.test", "DELETE /things/1", &key("api-admin"), "").await
}

#[tokio::test]
async fn a_held_request_outlives_the_session_and_is_announced_again() {
    let world = World::start().await;
    world.control.hello().await;
    let agent = world.agent.clone();
    let waiting = tokio::spawn(async move {
        agent.send("api.test", "DELETE /things/1", &key("api-admin"), "").await
    });
    let first = world.control.open().await;
    world.control.hang_up(None);
    let hello = world.control.hello().await;
    assert_eq!(hello.held_request_ids.as_slice(), std::slice::from_ref(&first.head.request_id));
    let again = world.control.open().await;
    assert_eq!(again.head, first.head);
    world.control.release(&again).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn without_the_control_plane_high_risk_fails_fast_and_leases_go_on() {
    let world = World::start().await;
    assert_eq!(world.agent.send("api.test", "GET /things/1", &key("api"), "").await.status, 200);
    world.control.hang_up(Some(Status::unavailable("no leader")));
    let answer = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            let answer = delete(&world).await;
            if answer.status == 503 {
                return answer;
            }
        }
    })
    .await
    .expect("it fails fast");
    assert_eq!(answer.code(), "control_plane_unavailable");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(
        world.agent.send("api.test", "GET /things/1", &key("api"), "").await.status,
        200,
        "leased"
    );
    assert_eq!(world.agent.send("open.test", "GET /", "", "").await.status, 200, "no key needed");
    assert!(world.origin.got().iter().all(|got| got.method == "GET"));
}

#[tokio::test]
async fn a_sealed_vault_is_said_to_be_sealed() {
    let world = World::start().await;
    world.control.hang_up(Some(Status::unavailable("sealed: an operator must unseal it")));
    let mut answer = delete(&world).await;
    while answer.code() == "control_plane_unavailable" {
        answer = delete(&world).await;
    }
    assert_eq!((answer.status, answer.code().as_str()), (503, "sealed"));
    world.control.answer_again();
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn a_bundle_that_is_not_signed_or_older_changes_nothing() {
    let world = World::start().await;
    let mut open_to_all = world.control.state();
    open_to_all.revision = 9;
    open_to_all.policy = open_to_all.policy.replace("then = \"deny\"", "then = \"allow\"");
    let stranger = SigningKey::from_bytes(&[66; 32]);
    world.control.bundle_by(&[&stranger], &open_to_all).await;
    world.control.hello().await;
    world.control.hello().await;
    let answer = world.agent.send("api.test", "GET /never/1", "", "").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "policy_denied"));
    open_to_all.revision = 0;
    let ours = world.control.signer(0).clone();
    world.control.bundle_by(&[&ours], &open_to_all).await;
    world.control.hello().await;
    assert_eq!(world.agent.send("api.test", "GET /never/1", "", "").await.status, 403);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn a_request_is_judged_again_when_the_policy_changed() {
    let world = World::start().await;
    let agent = world.agent.clone();
    let waiting = tokio::spawn(async move {
        agent.send("api.test", "DELETE /things/1", &key("api-admin"), "").await
    });
    let before = world.control.open().await;
    world.control.change(|state| state.policy_version = 2).await;
    world.control.reopen(&before).await;
    let after = world.control.open().await;
    assert_eq!((after.head.policy_version, &after.head.request_id), (2, &before.head.request_id));
    assert_eq!(after.head.intent_digest, before.head.intent_digest);
    // What was decided about it as it was counts no more.
    world.control.release(&before).await;
    world.control.release(&after).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn a_request_that_the_new_policy_forbids_is_not_held_any_longer() {
    let world = World::start().await;
    let agent = world.agent.clone();
    let waiting = tokio::spawn(async move {
        agent.send("api.test", "DELETE /things/1", &key("api-admin"), "").await
    });
    let open = world.control.open().await;
    world.control.change(|state| state.policy = String::new()).await;
    world.control.reopen(&open).await;
    let answer = waiting.await.expect("no panic");
    assert_eq!((answer.status, answer.code().as_str()), (403, "policy_denied"));
    assert_eq!(world.control.cancelled().await.request_id, open.head.request_id);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn metrics_say_how_requests_ended() {
    let world = World::start().await;
    assert_eq!(world.agent.send("open.test", "GET /?token=in-the-query", "", "").await.status, 200);
    let addr = world.edge.metrics_addr().expect("a metrics listener");
    let mut stream = tokio::net::TcpStream::connect(addr).await.expect("it listens");
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("written");
    let answer = crate::agent::read(&mut stream).await.expect("an answer");
    assert!(
        answer.body.contains("countersign_edge_requests_total{outcome=\"forwarded\"} 1"),
        "{}",
        answer.body
    );
    assert!(answer.body.contains("# HELP countersign_edge_held_requests"));
    assert!(!answer.body.contains("in-the-query"));
}

#[tokio::test]
async fn an_evicted_edge_forwards_nothing_any_more() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("open.test").await;
    assert_eq!(crate::agent::send(&mut tunnel, "open.test", "GET /", "", "").await.status, 200);
    world.control.hang_up_after_evicting().await;
    let mut answer = crate::agent::send(&mut tunnel, "open.test", "GET /", "", "").await;
    while answer.status == 200 {
        answer = crate::agent::send(&mut tunnel, "open.test", "GET /", "", "").await;
    }
    assert_eq!(answer.status, 503);
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_refuses_everything() {
    let world = World::start().await;
    world.control.change(|state| state.policy = "version = 99".into()).await;
    let mut answer = world.agent.send("open.test", "GET /", "", "").await;
    while answer.status == 200 {
        answer = world.agent.send("open.test", "GET /", "", "").await;
    }
    assert_eq!((answer.status, answer.code().as_str()), (403, "policy_denied"));
}
