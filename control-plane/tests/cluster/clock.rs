//! TIME-JUMP: the leader tells a clock that jumped from time in which nothing was asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_control_plane::cluster::{Cluster, Surroundings};
use countersign_control_plane::state::{Actor, ClockJump, Command, Open};

use crate::support::{TestClock, barrier, note, settings};
use crate::world;

const HOUR: u64 = 60 * 60 * 1000;

async fn start(dir: &std::path::Path, clock: &Arc<TestClock>) -> Cluster {
    let surroundings = Surroundings { clock: clock.clone(), ..Surroundings::default() };
    Cluster::start_in(settings(dir), barrier(), surroundings).await.unwrap()
}

async fn jump_after_something(cluster: &Cluster) -> Option<ClockJump> {
    cluster.propose(Actor::System, note("something")).await.unwrap();
    cluster.peek(|state| state.clock_jump())
}

#[tokio::test(flavor = "multi_thread")]
async fn time_jump_of_more_than_an_hour_is_marked_in_the_entry_that_it_stamps() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    clock.wall.store(world::START, Ordering::SeqCst);
    let cluster = start(dir.path(), &clock).await;
    for command in world::beginning_with(world::genesis_of(cluster.node_id())) {
        cluster.propose(Actor::System, command).await.unwrap();
    }
    let open = Open { requirements: vec![], hold_ms: 100 * HOUR, ..world::open(1) };
    cluster.propose(Actor::System, Command::Open(Box::new(open))).await.unwrap();

    // An hour is believed; and so is a night in which nothing was asked.
    clock.wall.fetch_add(HOUR, Ordering::SeqCst);
    assert_eq!(jump_after_something(&cluster).await, None);
    clock.wall.fetch_add(10 * HOUR, Ordering::SeqCst);
    clock.since_boot.fetch_add(10 * HOUR, Ordering::SeqCst);
    assert_eq!(jump_after_something(&cluster).await, None);
    // Back, and to where it was before, is no time that did not pass.
    clock.wall.fetch_sub(2 * HOUR, Ordering::SeqCst);
    assert_eq!(jump_after_something(&cluster).await, None);
    clock.wall.fetch_add(2 * HOUR, Ordering::SeqCst);
    assert_eq!(jump_after_something(&cluster).await, None);

    // The very claim that is stamped by such a clock is refused.
    clock.wall.fetch_add(2 * HOUR, Ordering::SeqCst);
    let claim = Command::Claim { request_id: [1; 16], decision_id: [9; 16], policy_version: 1 };
    let refused = cluster.propose(Actor::System, claim.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("confirm-clock"), "{refused}");
    let at = clock.wall.load(Ordering::SeqCst);
    let jump = cluster.peek(|state| state.clock_jump());
    assert_eq!(jump, Some(ClockJump { at, by_ms: 2 * HOUR }));
    assert_eq!(cluster.log_time(), at, "log time is what the clock says all the same");

    // It outlasts a restart, and a restart is none: nobody knows how long the node was away.
    cluster.shutdown().await;
    clock.wall.fetch_add(50 * HOUR, Ordering::SeqCst);
    clock.since_boot.store(7, Ordering::SeqCst);
    let cluster = start(dir.path(), &clock).await;
    assert_eq!(jump_after_something(&cluster).await, jump);
    cluster.propose(Actor::System, Command::ConfirmClock).await.unwrap();
    assert_eq!(jump_after_something(&cluster).await, None);
    cluster.propose(Actor::System, claim).await.unwrap();
    cluster.shutdown().await;
}
