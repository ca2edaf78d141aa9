//! C-4 and C-5: who is not of this cluster, or not who it says, is not listened to; and no cluster begins twice.

use countersign_control_plane::cluster::{
    Cluster, ClusterRpc, ProposeError, Settings, Start, StartError,
};
use countersign_control_plane::state::{Actor, Command, Event, Node};
use countersign_proto::v1;
use tonic::{Code, Status};

use crate::support::{barrier, note, noted, start};
use crate::town::{Town, eventually, insist};
use crate::world::CLUSTER;

/// Every call of the service as `from`, of `cluster`, and what came of it.
async fn every_call(
    rpc: &ClusterRpc,
    from: u64,
    named: u64,
    cluster: &str,
) -> Vec<(&'static str, Result<(), Status>)> {
    let cluster_id = || cluster.to_owned();
    let vote = |committed| Some(v1::RaftVote { term: 1_000, node_id: named, committed });
    let chunk = v1::InstallSnapshotRequest {
        cluster_id: cluster_id(),
        vote: vote(true),
        snapshot_id: "1".into(),
        ..Default::default()
    };
    let greeting = v1::GreetRequest {
        cluster_id: cluster_id(),
        node_id: named,
        vote: vote(false),
        ..Default::default()
    };
    let append = v1::AppendEntriesRequest {
        cluster_id: cluster_id(),
        vote: vote(true),
        ..Default::default()
    };
    let request = v1::RequestVoteRequest {
        cluster_id: cluster_id(),
        vote: vote(false),
        last_log: Some(v1::RaftLogId { term: 1_000, node_id: named, index: 1_000_000 }),
        process: 0,
    };
    let offset = v1::SnapshotOffsetRequest { cluster_id: cluster_id(), snapshot_id: String::new() };
    let stand = v1::StandForElectionRequest { cluster_id: cluster_id() };
    let forward = v1::ForwardProposalRequest { cluster_id: cluster_id(), ..Default::default() };
    let read = v1::ReadIndexRequest { cluster_id: cluster_id() };
    let chunks = futures::stream::iter([Ok(chunk)]);
    vec![
        ("Greet", rpc.greet(from, greeting).await.map(drop)),
        ("AppendEntries", rpc.append_entries(from, append).await.map(drop)),
        ("RequestVote", rpc.request_vote(from, request).await.map(drop)),
        ("InstallSnapshot", rpc.install_snapshot(from, chunks).await.map(drop)),
        ("SnapshotOffset", rpc.snapshot_offset(from, offset).await.map(drop)),
        ("StandForElection", rpc.stand_for_election(from, stand).await.map(drop)),
        ("ForwardProposal", rpc.forward_proposal(from, forward).await.map(drop)),
        ("ReadIndex", rpc.read_index(from, read).await.map(drop)),
        ("CoSign", rpc.admit(from, cluster)),
        ("MintToken", rpc.admit(from, cluster)),
    ]
}

/// Nothing at all came of it.
async fn denied(node: &Cluster, from: u64, named: u64, cluster: &str, only: &[&str]) {
    for (call, outcome) in every_call(&node.rpc(), from, named, cluster).await {
        if only.is_empty() || only.contains(&call) {
            let code = outcome.expect_err(call).code();
            assert_eq!(code, Code::PermissionDenied, "{call}");
        }
    }
    assert!(node.term() < 1_000, "it took the term");
}

#[tokio::test(flavor = "multi_thread")]
async fn c_4_a_stranger_another_cluster_and_a_false_name_are_refused() {
    let town = Town::of(3).await;
    for node in town.ids() {
        let others: Vec<_> = town.ids().into_iter().filter(|id| *id != node).collect();
        denied(town.node(node), 7, 7, CLUSTER, &[]).await;
        denied(town.node(node), others[0], others[0], "cluster-2", &[]).await;
        denied(town.node(node), others[0], others[0], "", &[]).await;
        let naming = ["Greet", "AppendEntries", "RequestVote", "InstallSnapshot"];
        denied(town.node(node), others[0], others[1], CLUSTER, &naming).await;
    }
    assert_eq!(insist(town.any(), 1, "goes on").await, Event::Noted);
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_4_a_removed_node_is_refused_and_its_id_never_comes_back() {
    let mut town = Town::of(3).await;
    let gone = town.follower().await;
    town.stop(gone).await;
    town.remove(gone).await;
    town.settled().await;
    for node in town.nodes() {
        eventually("that it is out everywhere", || {
            (!node.members().iter().any(|member| member.id == gone)).then_some(())
        })
        .await;
        denied(node, gone, gone, CLUSTER, &[]).await;
    }

    // The directory of the removed node is still there, and as it was.
    town.start(gone).await;
    assert!(town.node(gone).propose(Actor::System, note("back")).await.is_err());
    assert!(town.node(gone).read(|_| ()).await.is_err());
    town.stop(gone).await;

    let any = town.any_but(gone);
    let token_sha256 = [3; 32];
    let name = String::from("again");
    let invited = Command::InviteNode { name: name.clone(), token_sha256 };
    any.propose(Actor::System, invited).await.unwrap();
    let node = any.peek(|state| state.node(gone).cloned()).unwrap();
    let node = Node { name, public_keys: vec![[77; 32]], ..node };
    let joined = any.propose(Actor::System, Command::JoinNode { token_sha256, node }).await;
    assert!(matches!(joined, Err(ProposeError::Refused(_))), "{joined:?}");
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_4_entries_of_a_leader_that_was_replaced_are_not_appended_again() {
    let town = Town::of(3).await;
    let old = town.leader().await;
    // Whoever recorded the leader's messages knows of which process they were.
    let (pending, _) = town.invite("node-4").await;
    let greeting = v1::GreetRequest {
        cluster_id: CLUSTER.into(),
        node_id: pending,
        vote: Some(v1::RaftVote::default()),
        ..Default::default()
    };
    let greeted = town.node(old).rpc().greet(pending, greeting).await.unwrap();
    let replayed = v1::AppendEntriesRequest {
        process: greeted.process,
        cluster_id: CLUSTER.into(),
        vote: Some(v1::RaftVote { term: town.node(old).term(), node_id: old, committed: true }),
        previous: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let new = town.node(old).transfer(None).await.unwrap();
    insist(town.node(new), 1, "newer").await;
    town.agree(&town.ids()).await;
    for node in town.nodes().filter(|node| node.node_id() != old) {
        let before = node.commit_index();
        let answer = node.rpc().append_entries(old, replayed.clone()).await.unwrap();
        assert!(
            matches!(answer.outcome, Some(v1::append_entries_response::Outcome::HigherVote(_))),
            "{answer:?}"
        );
        assert!(node.commit_index() >= before);
        assert_ne!(node.leader(), Some(old));
    }
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_raft_to_a_node_that_it_has_not_met() {
    let mut town = Town::of(2).await;
    let (leader, follower) = (town.leader().await, town.follower().await);
    town.stop(leader).await;
    town.stop(follower).await;
    town.start(follower).await;
    eventually("that it stops waiting for the other", || {
        let vote = v1::RaftVote { term: 1, node_id: leader, committed: true };
        let request = v1::AppendEntriesRequest {
            cluster_id: CLUSTER.into(),
            vote: Some(vote),
            ..Default::default()
        };
        let rpc = town.node(follower).rpc();
        let answered = futures::executor::block_on(rpc.append_entries(leader, request));
        let code = answered.unwrap_err().code();
        assert!(matches!(code, Code::Unavailable | Code::FailedPrecondition), "{code}");
        (code == Code::FailedPrecondition).then_some(())
    })
    .await;
    town.start(leader).await;
    assert_eq!(insist(town.node(follower), 1, "met").await, Event::Noted);
    town.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_5_no_cluster_begins_twice_and_a_node_that_was_to_join_begins_none() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path()).await.unwrap();
    cluster.propose(Actor::System, note("mine")).await.unwrap();
    let (id, term) = (cluster.node_id(), cluster.term());
    cluster.shutdown().await;
    let joining = |node_id| Settings {
        start: Start::Join { node_id },
        ..Settings::alone(dir.path().to_owned(), 10_000)
    };
    for settings in [Settings::alone(dir.path().to_owned(), 10_000), joining(7)] {
        let again = Cluster::start(settings, barrier()).await.unwrap();
        assert_eq!((again.node_id(), again.members().len()), (id, 1), "it is what it was");
        assert!(again.term() <= term + 1);
        assert_eq!(noted(&again).get("mine"), Some(&1));
        again.shutdown().await;
    }

    let dir = tempfile::tempdir().unwrap();
    let joining = |node_id| Settings {
        start: Start::Join { node_id },
        ..Settings::alone(dir.path().to_owned(), 10_000)
    };
    for settings in [joining(9), Settings::alone(dir.path().to_owned(), 10_000), joining(9)] {
        let waits = Cluster::start(settings, barrier()).await.unwrap();
        assert_eq!((waits.node_id(), waits.members(), waits.leader()), (9, Vec::new(), None));
        assert!(waits.propose(Actor::System, note("alone")).await.is_err());
        assert_eq!(waits.applied_index(), 0);
        waits.shutdown().await;
    }
    let other = Cluster::start(joining(10), barrier()).await.err().unwrap();
    assert!(matches!(other, StartError::OtherNode { .. }), "{other}");
}
