//! An edge that was evicted is told, or finds out when it attaches: from then on it forwards nothing.

use std::time::{Duration, Instant};

use countersign_edge_gateway::config::Limits;
use tonic::Status;

use crate::world::{Setup, World, no};

/// Everything is refused, whatever it is.
async fn forwards_nothing(world: &World) {
    let before = world.origin.got().len();
    for host in ["api.test", "query.test", "open.test"] {
        let (answer, _) = world.agent.ask_for(&format!("{host}:443")).await;
        assert_eq!(no(&answer).0, 503, "{host}");
    }
    assert_eq!(world.origin.got().len(), before);
}

#[tokio::test]
async fn t3_evict_fifty_held_requests_are_refused_at_once_and_nothing_is_injected_after() {
    let world = World::with(Limits { max_held_per_agent: 50, ..Limits::default() }).await;
    world.borrow().await;
    let mut tunnel = world.agent.tunnel("api.test").await;
    let held: Vec<_> = (0..50).map(|_| world.ask(30)).collect();
    let mut opens = Vec::new();
    for _ in 0..50 {
        opens.push(world.control.open().await);
    }
    let began = Instant::now();
    world.control.evict().await;
    for waiting in held {
        let answer = waiting.await.expect("no panic");
        assert_eq!(no(&answer), (503, "edge_evicted".into()));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // A decision that was on its way, and the key that was lent, are worth nothing.
    world.control.release(&opens[0]).await;
    let key = crate::world::bearer("api");
    let answer = crate::agent::send(&mut tunnel, "api.test", "GET /things/1", &key, "").await;
    assert_eq!(no(&answer), (503, "edge_evicted".into()));
    forwards_nothing(&world).await;
    assert!(world.origin.got().iter().all(|got| got.method == "GET"));
    assert_eq!(world.origin.got().len(), 1, "what was lent before");
}

#[tokio::test]
async fn an_edge_that_was_evicted_while_it_was_away_learns_it_when_it_attaches() {
    let world = World::start().await;
    world.borrow().await;
    world.control.kill(0);
    world.detached().await;
    assert_eq!(world.lent().await.status, 200, "until its time is over, nobody can tell it");
    let waiting = tokio::spawn({
        let agent = world.agent.clone();
        let key = crate::world::bearer("api");
        // Opened before the edge attaches, so that it sees the change from inside.
        async move {
            let mut tunnel = agent.tunnel("api.test").await;
            loop {
                let get = "GET /things/1";
                let answer = crate::agent::send(&mut tunnel, "api.test", get, &key, "").await;
                if answer.status != 200 {
                    return answer;
                }
            }
        }
    });
    world.control.evict().await;
    world.control.revive(0).await;
    let answer = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it ends");
    assert_eq!(no(&answer.expect("no panic")), (503, "edge_evicted".into()));
    forwards_nothing(&world).await;
}

#[tokio::test]
async fn a_session_that_is_not_permitted_is_an_eviction() {
    let world = World::start().await;
    world.borrow().await;
    let waiting = world.ask(30);
    world.control.open().await;
    let why = "this edge was evicted; enroll it under another name";
    world.control.hang_up(Some(Status::permission_denied(why)));
    assert_eq!(no(&waiting.await.expect("no panic")), (503, "edge_evicted".into()));
    forwards_nothing(&world).await;
}

#[tokio::test]
async fn an_edge_that_another_node_lets_in_serves_again_under_the_bundle_that_it_had() {
    let world = Setup::cluster(2, 1).start().await;
    world.control.hello().await;
    let at = world.control.attached_to();
    world.control.kill(1 - at);
    let why = "this edge is not enrolled";
    world.control.answers(at, Some(Status::permission_denied(why)));
    world.control.drop_session();
    let evicted = async {
        while world.agent.ask_for("open.test:443").await.0.status == 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), evicted).await.expect("it is evicted");
    forwards_nothing(&world).await;
    world.control.revive(1 - at).await;
    world.control.hello().await;
    world.ready().await;
    assert_eq!(world.keyless().await.status, 200);
}
