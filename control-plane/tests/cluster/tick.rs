//! Time passes in the state although nobody asks for anything.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use countersign_control_plane::cluster::{Cluster, Surroundings};
use countersign_control_plane::state::{
    Actor, ApprovalId, ApprovalState, Command, Event, VoteWord,
};

use crate::support::{TestClock, barrier, note, settings};
use crate::world;

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_expires_by_the_clock_since_boot_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    clock.wall.store(world::START, Ordering::SeqCst);
    let surroundings = Surroundings { clock: clock.clone(), ..Surroundings::default() };
    let cluster = Cluster::start_in(settings(dir.path()), barrier(), surroundings).await.unwrap();
    for command in world::beginning_with(world::genesis_of(cluster.node_id())) {
        cluster.propose(Actor::System, command).await.unwrap();
    }
    let open = Command::Open(Box::new(world::open(1)));
    cluster.propose(Actor::System, open).await.unwrap();
    let approval = ApprovalId([1; 16]);
    let due = cluster.peek(|state| state.next_due()).unwrap();
    assert_eq!(due, world::START + world::EXPIRES);

    let mut events = cluster.subscribe();
    clock.since_boot.store(world::EXPIRES - 1, Ordering::SeqCst);
    let last_moment = cluster.propose(Actor::System, note("still there")).await.unwrap();
    assert_eq!(last_moment.at(), due - 1);
    assert_eq!(**events.recv().await.unwrap(), Event::Noted, "nothing settled before");
    let pending = cluster.read(|state| state.approval(approval).map(|a| a.state)).await.unwrap();
    assert_eq!(pending, Some(ApprovalState::Pending));

    clock.since_boot.store(world::EXPIRES, Ordering::SeqCst);
    let ticked =
        tokio::time::timeout(Duration::from_secs(30), events.recv()).await.unwrap().unwrap();
    assert_eq!(
        **ticked,
        Event::Ticked { settled: vec![(approval, ApprovalState::Expired)], nudged: Vec::new() }
    );
    assert_eq!(ticked.at(), due);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_that_comes_too_late_and_whoever_reads_after_it_agree_that_the_approval_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    clock.wall.store(world::START, Ordering::SeqCst);
    let surroundings = Surroundings { clock: clock.clone(), ..Surroundings::default() };
    let cluster = Cluster::start_in(settings(dir.path()), barrier(), surroundings).await.unwrap();
    for command in world::beginning_with(world::genesis_of(cluster.node_id())) {
        cluster.propose(Actor::System, command).await.unwrap();
    }
    for number in 1..=50 {
        let open = Command::Open(Box::new(world::open(number)));
        cluster.propose(Actor::System, open).await.unwrap();
        let approval = ApprovalId([number; 16]);
        let due = cluster.peek(|state| state.approval(approval).map(|a| a.due)).unwrap();
        let mut events = cluster.subscribe();
        // Whoever is first, the vote or the node's own look at the clock.
        clock.since_boot.store(due - world::START, Ordering::SeqCst);
        let vote = world::vote("ana", VoteWord::Approve, approval);
        let refused = cluster.propose(Actor::Principal("ana".into()), vote).await.unwrap_err();
        assert!(refused.to_string().contains("expired"), "{refused}");
        let seen = cluster.peek(|state| state.approval(approval).map(|a| a.state));
        assert_eq!(seen, Some(ApprovalState::Expired));
        let told = std::iter::from_fn(|| events.try_recv().ok());
        let expired = (approval, ApprovalState::Expired);
        let settles = |event: &Event| matches!(event, Event::Ticked { settled, .. } if settled.contains(&expired));
        assert_eq!(told.filter(|event| settles(event)).count(), 1, "and everybody is told, once");
    }
    cluster.shutdown().await;
}
