//! What edges are told when agents ask after their approvals: the agent's own, and nothing follows from asking.

use std::time::Duration;

use bytes::Bytes;
use countersign_control_plane::state::{ApprovalId, ApprovalState, Command, VoteWord};
use countersign_proto::v1;
use countersign_proto::v1::AgentApprovalState as Told;
use countersign_proto::v1::attach_request::Message as In;
use countersign_proto::v1::attach_response::Message as Out;

use crate::edge::{Process, Session, approve, refund};
use crate::world::{AGENT, World};

const OTHER: &str = "agent-2";

async fn attached(world: &World) -> (Process, Session) {
    let process = Process::new(world.enroll("one").await);
    let session = process.attach(world).await;
    (process, session)
}

/// A refund of so much that waits for people.
async fn held(process: &Process, session: &mut Session, amount: u32) -> ApprovalId {
    let held = process.hold(refund(amount), approve("refunds"), session.version());
    session.announce(&held).await;
    session.opened().await.unwrap()
}

fn ask(ask_id: u64, agent: &str, approval: Option<ApprovalId>, wait: Duration) -> In {
    In::AskApprovals(v1::AskApprovals {
        ask_id,
        agent_id: agent.into(),
        approval_id: approval.map(|id| Bytes::copy_from_slice(&id.0)).unwrap_or_default(),
        wait_ms: wait.as_millis() as u64,
    })
}

impl Session {
    async fn told(&mut self) -> v1::ApprovalsAnswer {
        match self.answer().await {
            Out::ApprovalsAnswer(answer) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }

    async fn asked(&mut self, agent: &str, approval: Option<ApprovalId>) -> Vec<v1::AgentApproval> {
        self.say(ask(1, agent, approval, Duration::ZERO)).await;
        let told = self.told().await;
        assert_eq!((told.ask_id, told.unavailable), (1, false));
        told.approvals
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_told_of_its_own_approvals_and_no_other_agent_is() {
    let world = World::new().await;
    world.add_agent(OTHER, "other").await;
    let (process, mut session) = attached(&world).await;
    let first = held(&process, &mut session, 5).await;
    let second = held(&process, &mut session, 6).await;

    let told = session.asked(AGENT, Some(first)).await;
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(one.approval_id, first.0[..]);
    assert_eq!(one.state(), Told::Pending);
    assert_eq!(
        (one.method.as_str(), one.url.as_str()),
        ("POST", "https://api.stripe.com/v1/refunds")
    );
    assert_eq!((one.rule.as_str(), one.status), ("refunds", 0));
    assert!(one.created_at_unix_ms > 0 && one.expires_at_unix_ms > one.created_at_unix_ms);

    let told = session.asked(AGENT, None).await;
    let mut ids: Vec<_> = told.iter().map(|told| told.approval_id.to_vec()).collect();
    ids.sort();
    let mut both = [first.0.to_vec(), second.0.to_vec()];
    both.sort();
    assert_eq!(ids, both);

    for other in [OTHER, "nobody", ""] {
        assert_eq!(session.asked(other, Some(first)).await, [], "{other}");
        assert_eq!(session.asked(other, None).await, [], "{other}");
    }
    assert_eq!(session.asked(AGENT, Some(ApprovalId([9; 16]))).await, []);
    let mut odd = ask(7, AGENT, None, Duration::ZERO);
    if let In::AskApprovals(odd) = &mut odd {
        odd.approval_id = Bytes::from_static(b"short");
    }
    session.say(odd).await;
    assert_eq!(session.told().await, v1::ApprovalsAnswer { ask_id: 7, ..Default::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_told_nothing_even_of_what_it_waited_for() {
    let world = World::new().await;
    world.add_agent(OTHER, "other").await;
    let (process, mut session) = attached(&world).await;
    let approval = held(&process, &mut session, 5).await;
    session.say(ask(1, AGENT, Some(approval), Duration::from_secs(50))).await;
    // It waits once another question, which was asked after it, is answered.
    assert_eq!(session.asked(OTHER, None).await, []);
    let name = world.cluster.peek(|state| state.agent(AGENT).unwrap().name.clone());
    world.propose(Command::RevokeAgent { name }).await;
    loop {
        match session.answer().await {
            Out::ApprovalsAnswer(told) => {
                assert_eq!(told, v1::ApprovalsAnswer { ask_id: 1, ..Default::default() });
                break;
            }
            Out::Settled(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(session.asked(AGENT, Some(approval)).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_waits_is_answered_when_a_person_decides() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let approval = held(&process, &mut session, 5).await;
    session.say(ask(1, AGENT, Some(approval), Duration::from_secs(50))).await;
    session.say(ask(2, AGENT, Some(approval), Duration::from_millis(1))).await;
    let first = session.told().await;
    assert_eq!(first.ask_id, 2, "the other one waits");
    assert_eq!(first.approvals[0].state(), Told::Pending, "how it stood when its time was over");
    world.vote(approval, VoteWord::Deny).await;
    let mut answers = Vec::new();
    while answers.len() < 2 {
        answers.push(session.answer().await);
    }
    let told = answers.iter().find_map(|answer| match answer {
        Out::ApprovalsAnswer(told) => Some(told),
        _ => None,
    });
    let told = told.expect("an answer");
    assert_eq!((told.ask_id, told.approvals[0].state()), (1, Told::Denied));
    assert!(told.approvals[0].reason.contains("denied by"), "{told:?}");
    assert!(answers.iter().any(|answer| matches!(answer, Out::Settled(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_changes_nothing() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let approval = held(&process, &mut session, 5).await;
    for _ in 0..20 {
        let _ = session.asked(AGENT, Some(approval)).await;
        let _ = session.asked(AGENT, None).await;
    }
    assert_eq!(world.approval(approval).state, ApprovalState::Pending);
    assert!(world.approval(approval).votes.is_empty());
    assert_eq!(world.recorded("approval.vote"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_is_listed_for_an_hour() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let approval = held(&process, &mut session, 5).await;
    world.vote(approval, VoteWord::Deny).await;
    session.settled().await;
    assert_eq!(session.asked(AGENT, None).await[0].state(), Told::Denied);
    world.clock.advance(Duration::from_secs(59 * 60));
    world.propose(tick()).await;
    assert_eq!(session.asked(AGENT, None).await.len(), 1);
    world.clock.advance(Duration::from_secs(2 * 60));
    world.propose(tick()).await;
    assert_eq!(session.asked(AGENT, None).await, []);
    assert_eq!(session.asked(AGENT, Some(approval)).await.len(), 1, "by its id it is still known");
}

/// Anything, so that time passes.
fn tick() -> Command {
    Command::Note { action: "test".into(), subject: String::new(), details: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_url_is_cut_where_people_still_read_it() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let mut request = refund(7);
    request = {
        let query = format!("q={}", "ü".repeat(4000));
        countersign_gate::Request::new(
            request.origin().clone(),
            request.destination().clone(),
            request.method().clone(),
            request.path().to_owned(),
            Some(percent(&query)),
            request.headers().clone(),
            request.payload().clone(),
            request.injections().to_vec(),
        )
        .unwrap()
    };
    let held = process.hold(request, approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    let told = session.asked(AGENT, Some(approval)).await;
    assert!(told[0].url.len() <= 2048 + '…'.len_utf8() && told[0].url.ends_with('…'));
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii() { (byte as char).to_string() } else { format!("%{byte:02X}") }
            },
        )
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_request_is_held_for_as_long_as_its_approval_and_no_longer_than_eight_days() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    for (days, opens) in [(7, true), (9, false)] {
        let mut circumstances = process
            .hold(refund(days), approve("refunds"), session.version())
            .ticket()
            .circumstances
            .clone();
        circumstances.hold_ms = u64::from(days) * 24 * 60 * 60 * 1000;
        let held = process.hold_in(refund(days), approve("refunds"), circumstances);
        session.announce(&held).await;
        match session.answer().await {
            Out::Opened(_) => assert!(opens, "{days} days"),
            Out::Settled(no) => {
                assert_eq!(
                    (opens, no.reason()),
                    (false, v1::SettledReason::Invalid),
                    "{days} days"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
