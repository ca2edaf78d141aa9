//! Nobody answers for minutes and hours: what was lent goes on until its time is over, by a clock that nobody sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::agent::{Agent, send};
use crate::world::{Setup, World, bearer, no};

const MINUTE: Duration = Duration::from_secs(60);
const REMAINING: &str = "countersign_lease_remaining_seconds";

const AGENTS: usize = 8;

/// What agents saw who never stop asking.
#[derive(Default)]
struct Load {
    /// Of each agent, how many of its requests were answered.
    answered: [AtomicU64; AGENTS],
    served: AtomicU64,
    refused: AtomicU64,
    slowest_refusal_ms: AtomicU64,
    over: AtomicBool,
}

impl Load {
    async fn ask(self: Arc<Self>, number: usize, agent: Agent) {
        let mut tunnel = agent.tunnel("api.test").await;
        while !self.over.load(SeqCst) {
            let began = Instant::now();
            let key = bearer("api");
            match send(&mut tunnel, "api.test", "GET /things/1", &key, "").await.status {
                200 => drop(self.served.fetch_add(1, SeqCst)),
                503 => {
                    let took = began.elapsed().as_millis() as u64;
                    self.slowest_refusal_ms.fetch_max(took, SeqCst);
                    self.refused.fetch_add(1, SeqCst);
                }
                status => panic!("{status}"),
            }
            self.answered[number].fetch_add(1, SeqCst);
        }
    }

    /// Returns once each agent has begun and ended a request since: the second answer from now on is of such a one.
    async fn goes_on(&self) {
        for answered in &self.answered {
            let enough = answered.load(SeqCst) + 2;
            while answered.load(SeqCst) < enough {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_12_leases_carry_an_outage_under_load_and_end_with_their_time() {
    let world = Setup::cluster(3, 2).start().await;
    world.borrow().await;
    let load: Arc<Load> = Arc::default();
    let mut agents = tokio::task::JoinSet::new();
    for number in 0..AGENTS {
        agents.spawn(Arc::clone(&load).ask(number, world.agent.clone()));
    }
    // A third of its time is over, and somebody uses it: it is renewed. From then on nobody answers.
    world.hands.advance(5 * MINUTE);
    world.control.lease_wanted().await;
    while world.metric(REMAINING).await.is_none_or(|left| left < 800.0) {}
    world.control.kill_all();
    world.detached().await;
    for _ in 0..14 {
        load.goes_on().await;
        world.hands.advance(MINUTE);
    }
    load.goes_on().await;
    assert_eq!(load.refused.load(SeqCst), 0, "of {}", load.served.load(SeqCst));
    world.hands.advance(MINUTE);
    // What had its key before this is through when each has asked again.
    load.goes_on().await;
    let served = load.served.load(SeqCst);
    load.goes_on().await;
    load.over.store(true, SeqCst);
    while let Some(ended) = agents.join_next().await {
        ended.expect("no panic");
    }
    assert_eq!(load.served.load(SeqCst), served, "none after its time");
    assert!(load.refused.load(SeqCst) > 0);
    let slowest = load.slowest_refusal_ms.load(SeqCst);
    assert!(slowest < 1_000, "a refusal took {slowest} ms");
}

#[tokio::test]
async fn somebody_who_sets_the_date_neither_ends_a_lease_nor_prolongs_it() {
    let world = World::start().await;
    world.borrow().await;
    world.control.kill_all();
    world.detached().await;
    world.hands.set_wall_by(5 * 60 * 60 * 1_000);
    assert_eq!(world.lent().await.status, 200);
    world.hands.advance(15 * MINUTE);
    world.hands.set_wall_by(-10 * 60 * 60 * 1_000);
    assert_eq!(no(&world.lent().await), (503, "control_plane_unavailable".into()));
}

#[tokio::test]
async fn a_lease_is_never_longer_than_an_hour_whatever_was_said_of_it() {
    let world = World::start().await;
    world.control.lend_for(u64::MAX);
    world.borrow().await;
    world.control.kill_all();
    world.detached().await;
    world.hands.advance(59 * MINUTE);
    assert_eq!(world.lent().await.status, 200);
    world.hands.advance(MINUTE);
    assert_eq!(no(&world.lent().await), (503, "control_plane_unavailable".into()));
}

#[tokio::test]
async fn a_bundle_that_nobody_confirmed_for_a_day_lends_no_keys_and_asks_nobody() {
    let world = World::start().await;
    world.control.hello().await;
    world.borrow().await;
    // A node that is attached to, and keeps newer bundles to itself.
    world.control.send_bundles(false);
    world.control.drop_session();
    world.control.hello().await;
    for _ in 0..24 {
        world.hands.advance(60 * MINUTE);
        world.control.tell_time(world.clock.wall_ms()).await;
    }
    assert_eq!(no(&world.lent().await), (503, "control_plane_unavailable".into()));
    let asked = world.ask(5).await.expect("no panic");
    assert_eq!(no(&asked), (503, "control_plane_unavailable".into()));
    assert_eq!(world.keyless().await.status, 200);
    // Another one has it.
    world.control.send_bundles(true);
    world.control.drop_session();
    world.control.hello().await;
    world.borrow().await;
}

#[tokio::test]
async fn time_suspend_a_session_that_slept_asks_nobody_until_it_hears_something() {
    let world = World::start().await;
    world.hands.advance(11 * MINUTE);
    let asked = world.ask(5).await.expect("no panic");
    assert_eq!(no(&asked), (503, "control_plane_unavailable".into()));
    assert!(world.control.opened().await.is_none(), "nobody was asked");
    world.control.tell_time(world.clock.wall_ms()).await;
    let waiting = world.ask(30);
    let open = world.control.open().await;
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn time_suspend_a_hold_ends_while_the_machine_sleeps() {
    let world = World::start().await;
    let waiting = world.ask(30);
    let open = world.control.open().await;
    world.control.opened_as(&open, &[1; 16]).await;
    world.hands.advance(MINUTE);
    assert_eq!(no(&waiting.await.expect("no panic")), (503, "approval_pending".into()));
    world.control.release(&open).await;
    world.control.receipt().await;
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn the_metric_says_how_long_the_leases_in_use_last() {
    let world = World::start().await;
    assert_eq!(world.metric(REMAINING).await, None, "none without a lease");
    world.borrow().await;
    let left = world.metric(REMAINING).await.expect("it is there");
    assert!((800.0..=900.0).contains(&left), "{left}");
    world.control.kill_all();
    world.detached().await;
    world.hands.advance(10 * MINUTE);
    assert_eq!(
        world.metric(REMAINING).await,
        None,
        "nobody used it since it could have been renewed"
    );
    assert_eq!(world.lent().await.status, 200);
    let left = world.metric(REMAINING).await.expect("it is in use");
    assert!((200.0..=300.0).contains(&left), "{left}");
}
