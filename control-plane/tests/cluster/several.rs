//! Several nodes: they agree, any of them serves, and one that is gone is not missed.

use std::time::{Duration, Instant};

use countersign_control_plane::cluster::ProposeError;
use countersign_control_plane::state::{Actor, Event};

use crate::support::{note, noted};
use crate::town::{Town, insist, propose_as};

#[tokio::test(flavor = "multi_thread")]
async fn any_node_commits_and_every_node_reads_what_any_committed() {
    let town = Town::of(3).await;
    let ids = town.ids();
    for (serial, id) in ids.iter().cycle().take(12).enumerate() {
        let subject = format!("subject-{serial}");
        let committed = town.node(*id).propose(Actor::System, note(&subject)).await.unwrap();
        assert_eq!(*committed, Event::Noted);
        assert!(town.node(*id).applied_index() >= committed.position().index, "applied here");
        for other in &ids {
            let seen = town.node(*other).read(|state| {
                state.audit().records().iter().any(|record| record.subject == subject)
            });
            assert!(seen.await.unwrap(), "read at once, on a node that did not commit it");
        }
    }
    town.agree(&ids).await;
    town.shutdown().await;
}

/// What is proposed, forwarded, replicated and sent in snapshots goes through the barrier first: somebody who reads what
/// nodes say to each other, past TLS, learns nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn s_disk_grep_nothing_that_was_proposed_passes_between_nodes_in_the_clear() {
    let mut town = Town::founded_with(20).await;
    for number in 2..=3 {
        town.join(&format!("node-{number}")).await;
    }
    town.settled().await;
    let leader = town.leader().await;
    let away = town.follower().await;
    town.stop(away).await;
    let via_a_follower = town.nodes().map(|node| node.node_id()).find(|id| *id != leader).unwrap();
    for serial in 0..60 {
        let by = if serial % 2 == 0 { leader } else { via_a_follower };
        insist(town.node(by), serial, &format!("canary-{serial}")).await;
    }
    // It gets a snapshot: what it lacks is not in the log any more.
    town.start(away).await;
    town.agree(&town.ids()).await;
    assert_eq!(noted(town.node(away)).get("canary-59"), Some(&1));
    let overheard = town.net.overheard();
    town.shutdown().await;

    assert!(overheard.len() > 50_000, "{} bytes", overheard.len());
    let turned: Vec<u8> = b"canary-".iter().map(|byte| !byte).collect();
    let has = |word: &[u8]| overheard.windows(word.len()).any(|window| window == word);
    assert!(has(&turned), "the tap hears what was proposed, behind the barrier");
    for word in [&b"canary-"[..], b"node-2", b"org-1"] {
        assert!(!has(word), "{} is readable on the way", String::from_utf8_lossy(word));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_another_leads_and_what_was_proposed_twice_is_done_once() {
    let mut town = Town::of(3).await;
    let old = town.leader().await;
    insist(town.any_but(old), 1, "before").await;
    let term = town.any_but(old).term();
    town.stop(old).await;

    let other = town.any_but(old);
    assert_eq!(insist(other, 1, "before").await, Event::Noted);
    assert_eq!(insist(other, 2, "after").await, Event::Noted);
    let new = town.leader().await;
    assert_ne!(new, old);
    assert!(other.term() > term);
    assert_eq!(noted(other).get("before"), Some(&1), "done once");

    town.start(old).await;
    assert_eq!(insist(town.node(old), 2, "after").await, Event::Noted);
    town.agree(&town.ids()).await;
    assert_eq!(noted(town.node(old)).get("after"), Some(&1));
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_5_a_leader_without_a_majority_neither_commits_nor_reads() {
    let mut town = Town::of(3).await;
    let old = town.leader().await;
    insist(town.node(old), 1, "before").await;
    let others: Vec<_> = town.ids().into_iter().filter(|id| *id != old).collect();
    town.net.isolate(old);

    let minority = town.node(old).clone();
    let lonely = tokio::spawn(async move { propose_as(&minority, 2, "alone").await });
    let began = Instant::now();
    assert!(town.node(old).read(|_| ()).await.is_err(), "it may have missed what others committed");
    assert!(began.elapsed() < Duration::from_secs(7), "a read is not waited for longer");

    // The others go on meanwhile.
    assert_eq!(insist(town.node(others[0]), 3, "together").await, Event::Noted);
    assert_eq!(noted(town.node(old)).get("together"), None);
    let alone = lonely.await.unwrap();
    assert!(matches!(alone, Err(ProposeError::Unavailable(_))), "{alone:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "a proposal is not waited for longer");
    for id in &others {
        assert_eq!(noted(town.node(*id)).get("alone"), None);
    }

    town.net.heal(old);
    assert_eq!(insist(town.node(old), 2, "alone").await, Event::Noted);
    town.agree(&town.ids()).await;
    let times = noted(town.node(others[0]));
    for subject in ["before", "alone", "together"] {
        assert_eq!(times.get(subject), Some(&1), "{subject}");
    }
    town.stop(old).await;
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_majority_is_up_and_says_that_it_cannot_serve() {
    let mut town = Town::of(3).await;
    let ids = town.ids();
    for id in &ids {
        town.stop(*id).await;
    }
    let began = Instant::now();
    town.start(ids[0]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "a start does not wait for the others");
    assert!(town.node(ids[0]).read(|_| ()).await.is_err());
    assert_eq!(town.node(ids[0]).peek(|state| state.nodes().count()), 3, "what it knew it knows");

    town.start(ids[1]).await;
    assert_eq!(insist(town.node(ids[0]), 1, "two of three").await, Event::Noted);
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_follower_knows_the_address_of_is_found_by_the_state() {
    let town = Town::of(2).await;
    let follower = town.follower().await;
    let leader = town.leader().await;
    assert!(town.node(follower).channel_to(leader).is_some());
    assert!(town.node(leader).channel_to(follower).is_some());
    assert!(town.node(leader).channel_to(leader).is_none(), "nobody calls itself");
    assert!(town.node(leader).channel_to(1).is_none());
    assert!(town.node(leader).commit_index() >= town.node(leader).applied_index());
    let beyond = town.node(leader).applied_index() + 1_000;
    let waited = town.node(leader).wait_applied(beyond, Duration::from_millis(50)).await;
    assert!(waited.is_err());
    town.shutdown().await;
}
