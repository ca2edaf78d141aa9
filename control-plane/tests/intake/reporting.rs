//! What an edge reports on a session is known before what it opens on it next.

use countersign_control_plane::state::VoteWord;
use countersign_proto::v1::{ExecutionOutcome, SettledReason as Reason};

use crate::edge::{approve, refund};
use crate::quorum::attached;
use crate::releasing::receipt;
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_once_more_right_behind_its_receipt_is_a_new_request() {
    const COUNT: u32 = 20;
    let world = World::new().await;
    let (process, mut session) = attached(&world, "one").await;
    let mut first = Vec::new();
    for amount in 0..COUNT {
        let held = process.hold(refund(amount), approve("refunds"), session.version());
        session.announce(&held).await;
        let approval = session.opened().await.unwrap();
        world.vote(approval, VoteWord::Approve).await;
        session.decision().await;
        first.push((held.ticket().circumstances.request_id, approval));
    }
    // Nothing waits for the other's answer: each receipt is being committed while the same is opened anew.
    let version = session.version();
    let anew = (0..COUNT).map(|n| process.hold(refund(n), approve("refunds"), version));
    for ((id, _), held) in first.iter().zip(anew.collect::<Vec<_>>()) {
        session.say(receipt(id, ExecutionOutcome::Completed, 200)).await;
        session.announce(&held).await;
    }
    for _ in 0..COUNT {
        let again = session.opened().await.expect("people are asked");
        assert!(first.iter().all(|(_, approval)| *approval != again), "and about a new request");
    }
    assert_eq!(world.approvals(), 2 * COUNT as usize);
    let recorded = ["request.report", "request.claim"].map(|action| world.recorded(action));
    assert_eq!(recorded, [COUNT as usize; 2], "nothing was released that nobody approved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_is_refused_keeps_nothing_that_comes_behind_it_from_being_opened() {
    let world = World::new().await;
    let (process, mut session) = attached(&world, "one").await;
    for amount in 0..3 {
        // Of a request that was never held.
        session.say(receipt(&rand::random(), ExecutionOutcome::Completed, 200)).await;
        let held = process.hold(refund(amount), approve("refunds"), session.version());
        session.announce(&held).await;
        session.opened().await.expect("people are asked");
    }
    assert_eq!((world.approvals(), world.recorded("request.report")), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_opened_without_a_receipt_before_it_is_still_the_former_request() {
    let world = World::new().await;
    let (process, mut session) = attached(&world, "one").await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Approve).await;
    session.decision().await;
    let again = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&again).await;
    assert_eq!(session.opened().await.unwrap(), approval);
    assert_eq!(session.settled().await.reason(), Reason::OutcomeUnknown);
    assert_eq!((world.approvals(), world.recorded("request.claim")), (1, 1));
}
