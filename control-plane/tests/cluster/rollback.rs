//! a node whose disk was put back is told so by the others, and does not count any more.

use std::fs;
use std::path::Path;
use std::time::Duration;

use countersign_control_plane::state::Event;

use crate::support::noted;
use crate::town::{Town, eventually, insist, propose_as};

#[tokio::test(flavor = "multi_thread")]
async fn r_16_a_node_that_was_put_back_stops_and_is_added_anew() {
    let mut town = Town::of(3).await;
    let back = town.follower().await;
    let earlier = tempfile::tempdir().unwrap();
    town.stop(back).await;
    copy(town.dir(back), earlier.path());
    town.start(back).await;
    for serial in 0..100 {
        insist(town.node(back), serial, &format!("subject-{serial}")).await;
    }
    town.agree(&town.ids()).await;
    let leader = town.leader().await;
    for id in town.ids() {
        has_seen(&town, id, back).await;
    }
    town.stop(back).await;

    put_back(town.dir(back), earlier.path());
    // Two nodes tell it, maybe at once.
    let last_words = town.start_and_listen(back).await;
    let told = eventually("that it is told", || town.node(back).rolled_back()).await;
    assert!(told.contains("its disk was put back"), "{told}");
    assert!(told.contains("remove the node and add it anew"), "{told}");
    assert!(last_words.lock().unwrap().is_empty(), "{last_words:?}");
    let proposed = propose_as(town.node(back), 500, "back").await;
    assert!(proposed.unwrap_err().to_string().contains("put back"));
    assert!(town.node(back).read(|_| ()).await.is_err());
    let reached = town.node(back).applied_index();

    // The other two are a majority, and need both: it does not count.
    assert_eq!(insist(town.node(leader), 200, "two of three").await, Event::Noted);
    let third = town.ids().into_iter().find(|id| *id != back && *id != leader).unwrap();
    town.net.isolate(third);
    assert!(propose_as(town.node(leader), 201, "one of three").await.is_err());
    town.net.heal(third);
    assert_eq!(insist(town.node(leader), 201, "one of three").await, Event::Noted);

    // It remembers, even when nobody is there to tell it.
    town.stop(back).await;
    town.start(back).await;
    assert!(town.node(back).rolled_back().is_some(), "it forgot what it was told");
    assert_eq!(town.node(back).applied_index(), reached, "it went on");
    town.stop(back).await;

    town.remove(back).await;
    town.settled().await;
    assert!(town.gone(back));
    town.join("anew").await;
    town.settled().await;
    town.agree(&town.ids()).await;
    assert_eq!(noted(town.any()).get("two of three"), Some(&1));
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_16_a_node_that_was_put_back_and_is_alone_for_long_is_told_all_the_same() {
    let mut town = Town::of(3).await;
    let back = town.follower().await;
    let earlier = tempfile::tempdir().unwrap();
    town.stop(back).await;
    copy(town.dir(back), earlier.path());
    town.start(back).await;
    for serial in 0..20 {
        insist(town.node(back), serial, &format!("subject-{serial}")).await;
    }
    town.agree(&town.ids()).await;
    town.stop(back).await;

    put_back(town.dir(back), earlier.path());
    let others: Vec<_> = town.ids().into_iter().filter(|id| *id != back).collect();
    others.iter().for_each(|other| town.net.isolate(*other));
    town.start(back).await;
    let term = town.node(back).term();
    // Long past its wait for the others, and several elections: it could not win one, and begins none.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(town.node(back).term(), term, "a term of its own hides what it forgot");
    others.iter().for_each(|other| town.net.heal(*other));
    eventually("that it is told", || town.node(back).rolled_back()).await;
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_17_two_followers_that_were_put_back_elect_nobody_until_an_operator_accepts_it() {
    let town = Town::of(3).await;
    let sound = town.leader().await;
    two_of_three_were_put_back(town, sound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r_17_a_leader_and_a_follower_that_were_put_back_lead_nobody_either() {
    let town = Town::of(3).await;
    let sound = town.follower().await;
    two_of_three_were_put_back(town, sound).await;
}

async fn two_of_three_were_put_back(mut town: Town, sound: u64) {
    let back: Vec<_> = town.ids().into_iter().filter(|id| *id != sound).collect();
    let earlier = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (id, earlier) in back.iter().zip(&earlier) {
        town.stop(*id).await;
        copy(town.dir(*id), earlier.path());
        town.start(*id).await;
    }
    for serial in 0..50 {
        insist(town.node(sound), serial, &format!("subject-{serial}")).await;
    }
    town.agree(&town.ids()).await;
    for id in &back {
        has_seen(&town, sound, *id).await;
    }
    for id in town.ids() {
        town.stop(id).await;
    }
    for (id, earlier) in back.iter().zip(&earlier) {
        put_back(town.dir(*id), earlier.path());
    }

    town.start(sound).await;
    for id in &back {
        town.start(*id).await;
    }
    for id in &back {
        eventually("that both are told", || town.node(*id).rolled_back()).await;
    }
    for id in town.ids() {
        assert!(propose_as(town.node(id), 100, "resurrected").await.is_err());
        assert!(town.node(id).read(|_| ()).await.is_err(), "it may not be what was acknowledged");
    }
    // Neither a start without the witness makes the two believe one another.
    town.stop(sound).await;
    for id in &back {
        town.stop(*id).await;
        town.start(*id).await;
    }
    assert!(propose_as(town.node(back[0]), 100, "resurrected").await.is_err());
    for id in &back {
        town.stop(*id).await;
    }

    for id in town.ids() {
        town.start_with(id, true).await;
    }
    assert_eq!(insist(town.node(back[0]), 101, "accepted").await, Event::Noted);
    town.agree(&town.ids()).await;
    // The node that was not put back brought everything along.
    assert_eq!(noted(town.node(back[0])).get("subject-49"), Some(&1));
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_gets_its_own_disk_again_is_listened_to_again() {
    let mut town = Town::of(3).await;
    let back = town.follower().await;
    let (earlier, newest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    town.stop(back).await;
    copy(town.dir(back), earlier.path());
    town.start(back).await;
    for serial in 0..20 {
        insist(town.node(back), serial, &format!("subject-{serial}")).await;
    }
    town.agree(&town.ids()).await;
    town.stop(back).await;
    copy(town.dir(back), newest.path());
    put_back(town.dir(back), earlier.path());
    town.start(back).await;
    eventually("that it is told", || town.node(back).rolled_back()).await;
    town.stop(back).await;

    put_back(town.dir(back), newest.path());
    town.start(back).await;
    assert_eq!(insist(town.node(back), 100, "well again").await, Event::Noted);
    assert_eq!(town.node(back).rolled_back(), None);
    town.agree(&town.ids()).await;
    town.shutdown().await;
}

/// Until one node saw, or was told, that the other acknowledged all that there is.
async fn has_seen(town: &Town, one: u64, other: u64) {
    let all = town.node(one).applied_index();
    let seen = || (town.node(one).acknowledged_by(other) >= Some(all)).then_some(());
    if one != other {
        eventually("that a node was seen", seen).await;
    }
}

fn put_back(directory: &Path, earlier: &Path) {
    fs::remove_dir_all(directory).unwrap();
    copy(earlier, directory);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
