//! nodes join, leave and hand over, and nothing that was acknowledged is lost on the way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_control_plane::cluster::{Cluster, Member};
use countersign_control_plane::state::{Actor, Event};

use crate::support::{note, noted};
use crate::town::{Town, eventually, insist, propose_as};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_waits_to_be_called_and_votes_once_it_has_caught_up() {
    let mut town = Town::founded().await;
    for serial in 0..200 {
        town.any().propose(Actor::System, note(&serial.to_string())).await.unwrap();
    }
    let founder = town.ids()[0];
    let joined = town.join("node-2").await;
    town.settled().await;
    let members = town.node(founder).members();
    assert!(members.iter().all(|member| member.voter));
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), town.ids());
    town.agree(&town.ids()).await;
    assert_eq!(noted(town.node(joined)).len(), noted(town.node(founder)).len());

    // Its directory says what it is, whatever it is asked to be.
    town.stop(joined).await;
    town.start(joined).await;
    eventually("a leader", || town.node(joined).leader()).await;
    town.agree(&town.ids()).await;
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_answers_is_never_given_a_vote() {
    let town = Town::founded().await;
    let founder = town.ids()[0];
    let (absent, _) = town.invite("node-2").await;
    eventually("a learner", || {
        town.node(founder).members().iter().any(|member| member.id == absent).then_some(())
    })
    .await;
    // Twenty looks of the steward, and commits that need no other vote.
    for serial in 0..20 {
        insist(town.node(founder), serial, "alone").await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let learner = Member { id: absent, voter: false, matched: None };
    assert!(town.node(founder).members().contains(&learner));
    town.remove(absent).await;
    town.settled().await;
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_to_whom_it_is_meant_for() {
    let town = Town::of(3).await;
    let ids = town.ids();
    for serial in 0..2 {
        let old = town.leader().await;
        let to = *ids.iter().find(|id| **id != old).unwrap();
        let during = town.node(to).clone();
        let proposed = tokio::spawn(async move { propose_as(&during, serial, "during").await });
        assert_eq!(town.node(old).transfer(Some(to)).await.unwrap(), to);
        assert_eq!(town.leader().await, to);
        assert_eq!(proposed.await.unwrap().unwrap(), Event::Noted, "it waited");
        // The old leader serves as any node does.
        assert_eq!(insist(town.node(old), serial + 10, "after").await, Event::Noted);

        let refused = town.node(old).transfer(None).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("node {to:016x} leads")), "{refused}");
        let refused = town.node(to).transfer(Some(7)).await.unwrap_err().to_string();
        assert!(refused.contains("is no other voter"), "{refused}");
        let refused = town.node(to).transfer(Some(to)).await.unwrap_err().to_string();
        assert!(refused.contains("is no other voter"), "{refused}");
    }
    town.agree(&ids).await;
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_to_one_who_cannot_be_reached_ends_and_the_leader_goes_on() {
    let town = Town::of(3).await;
    let old = town.leader().await;
    let gone = town.any_but(old).node_id();
    town.net.isolate(gone);
    insist(town.node(old), 1, "one more entry").await;
    let refused = town.node(old).transfer(Some(gone)).await.unwrap_err().to_string();
    assert!(refused.contains("too far behind"), "{refused}");
    assert_eq!(insist(town.node(old), 2, "goes on").await, Event::Noted);
    town.net.heal(gone);
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_hands_over_and_its_id_is_burned() {
    let mut town = Town::of(3).await;
    let old = town.leader().await;
    town.remove(old).await;
    eventually("that it is out", || {
        let other = town.any_but(old);
        let members = other.members();
        (members.len() == 2 && !members.iter().any(|member| member.id == old)).then_some(())
    })
    .await;
    assert_eq!(insist(town.any_but(old), 1, "without it").await, Event::Noted);
    assert!(town.any_but(old).channel_to(old).is_none());
    // It may know that it is out or not: nobody listens to it any more.
    let late = town.node(old).clone();
    assert!(propose_as(&late, 2, "late").await.is_err());
    assert_eq!(noted(town.any_but(old)).get("late"), None);
    town.stop(old).await;
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_18_all_nodes_are_replaced_one_by_one_under_load() {
    let mut town = Town::of(3).await;
    let originals = town.ids();
    let stop = Arc::new(AtomicBool::new(false));
    let mut acknowledged = BTreeSet::new();
    for (round, original) in originals.iter().enumerate() {
        stop.store(false, Ordering::SeqCst);
        let loads: Vec<_> = town
            .nodes()
            .filter(|node| node.node_id() != *original)
            .map(|node| tokio::spawn(load(node.clone(), round, stop.clone())))
            .collect();
        town.join(&format!("new-{round}")).await;
        town.settled().await;
        town.remove(*original).await;
        eventually("that it is out", || {
            let members = town.any_but(*original).members();
            (!members.iter().any(|member| member.id == *original)).then_some(())
        })
        .await;
        town.stop(*original).await;
        assert!(town.gone(*original));
        stop.store(true, Ordering::SeqCst);
        for load in loads {
            acknowledged.extend(load.await.unwrap());
        }
        town.settled().await;
    }
    let now = town.ids();
    assert!(originals.iter().all(|original| !now.contains(original)));
    assert!(acknowledged.len() > 30, "only {} proposals were acknowledged", acknowledged.len());
    town.agree(&now).await;
    for id in now {
        let times = noted(town.node(id));
        let lost: Vec<_> =
            acknowledged.iter().filter(|subject| times.get(*subject) != Some(&1)).collect();
        assert!(lost.is_empty(), "not there exactly once: {lost:?}");
    }
    town.shutdown().await;
}

/// Proposes until told to stop; what was acknowledged.
async fn load(node: Cluster, round: usize, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for serial in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let subject = format!("{round}-{:016x}-{serial}", node.node_id());
        if node.propose(Actor::System, note(&subject)).await.is_ok() {
            acknowledged.push(subject);
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_while_others_joined_listens_to_a_leader_it_never_heard_of() {
    let mut town = Town::of(3).await;
    let away = town.follower().await;
    town.stop(away).await;
    let new = town.join("node-4").await;
    eventually("a fourth voter", || {
        let members = town.any_but(away).members();
        members.iter().any(|member| member.id == new && member.voter).then_some(())
    })
    .await;
    let leader = town.leader().await;
    if leader != new {
        town.node(leader).transfer(Some(new)).await.unwrap();
    }
    town.start(away).await;
    town.agree(&town.ids()).await;
    assert_eq!(town.node(away).leader(), Some(new));
    town.shutdown().await;
}
