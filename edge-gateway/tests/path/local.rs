//! What an agent is told of its own approvals at `countersign.local`: no more than that, and nothing comes of it.

use countersign_gate as gate;
use countersign_proto::v1 as pb;
use serde_json::Value;

use crate::agent::{Agent, Answer, send};
use crate::control::{OTHER_TOKEN, secret};
use crate::world::{World, no};
use pb::AgentApprovalState as State;

pub(crate) const HOST: &str = "countersign.local";
pub(crate) const ID: &str = "01010101010101010101010101010101";

/// An approval as the control plane tells of it.
pub(crate) fn approval(state: State) -> pb::AgentApproval {
    pb::AgentApproval {
        approval_id: bytes::Bytes::copy_from_slice(&[1; 16]),
        state: state.into(),
        method: "DELETE".into(),
        url: "https://api.test/things/1".into(),
        rule: "delete a thing".into(),
        reason: String::new(),
        created_at_unix_ms: 1_700_000_000_000,
        expires_at_unix_ms: 1_700_000_900_000,
        status: 0,
    }
}

pub(crate) fn json(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    serde_json::from_str(&answer.body).expect("JSON")
}

/// Asks, and has the control plane answer with these.
pub(crate) async fn ask(
    world: &World,
    agent: &Agent,
    path: &str,
    told: Vec<pb::AgentApproval>,
) -> (Answer, pb::AskApprovals) {
    let line = format!("GET {path}");
    let asking = agent.send(HOST, &line, "", "");
    let telling = async {
        let asked = world.control.asked().await;
        world.control.tell(&asked, told).await;
        asked
    };
    tokio::join!(asking, telling)
}

#[tokio::test]
async fn an_agent_sees_its_own_approvals_and_what_to_do_about_each() {
    let world = World::start().await;
    let told = vec![approval(State::Pending), approval(State::Completed)];
    let (answer, asked) = ask(&world, &world.agent, "/approvals", told).await;
    assert_eq!((asked.agent_id.as_str(), asked.approval_id.as_ref()), ("agent-1", &[][..]));
    let seen = json(&answer);
    let seen = &seen["approvals"][0];
    assert_eq!(seen["id"], ID);
    assert_eq!(seen["state"], "pending");
    assert_eq!(
        (&seen["method"], &seen["url"]),
        (&"DELETE".into(), &"https://api.test/things/1".into())
    );
    assert_eq!(seen["rule"], "delete a thing");
    assert_eq!(seen["created_at"], "2023-11-14T22:13:20Z");
    assert_eq!(seen["expires_at"], "2023-11-14T22:28:20Z");
    assert!(seen["why"].as_str().expect("a sentence").contains("\"delete a thing\""));
    assert!(seen["next"].as_str().expect("a sentence").contains("identical request"));
    assert_eq!((&seen["parked"], &seen["result"]), (&false.into(), &Value::Null));
    assert!(world.origin.got().is_empty(), "nothing was dialled");
    assert!(world.control.opened().await.is_none(), "nobody was asked");
}

#[tokio::test]
async fn plain_http_through_the_proxy_is_answered_alike() {
    let world = World::start().await;
    let request = format!(
        "GET http://{HOST}/approvals/{ID} HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n",
        world.agent.authorization()
    );
    let (answer, asked) = tokio::join!(world.agent.to_proxy(&request), async {
        let asked = world.control.asked().await;
        world.control.tell(&asked, vec![approval(State::Denied)]).await;
        asked
    });
    assert_eq!(asked.approval_id.as_ref(), [1; 16]);
    assert_eq!(asked.wait_ms, 0, "it is answered at once");
    assert_eq!(json(&answer)["state"], "denied");
}

#[tokio::test]
async fn a_wait_is_handed_on_capped_and_ends_with_the_answer() {
    let world = World::start().await;
    let path = format!("/approvals/{ID}?wait=3600");
    let (answer, asked) = ask(&world, &world.agent, &path, vec![approval(State::Approved)]).await;
    assert!((40_000..=50_000).contains(&asked.wait_ms), "{asked:?}");
    let seen = json(&answer);
    assert_eq!(seen["state"], "approved");
    assert!(
        seen["next"].as_str().expect("a sentence").starts_with("Repeat the identical request now")
    );
}

#[tokio::test]
async fn a_question_outlives_its_session() {
    let world = World::start().await;
    let path = format!("GET /approvals/{ID}?wait=50");
    let asking = world.agent.send(HOST, &path, "", "");
    let (answer, ()) = tokio::join!(asking, async {
        let first = world.control.asked().await;
        world.control.drop_session();
        let again = world.control.asked().await;
        assert_eq!(again.approval_id, first.approval_id);
        world.control.tell(&again, vec![approval(State::Expired)]).await;
    });
    assert_eq!(json(&answer)["state"], "expired");
}

#[tokio::test]
async fn another_agents_approval_looks_like_none() {
    let world = World::start().await;
    let other = world.agent.pretending("other", OTHER_TOKEN);
    let path = format!("/approvals/{ID}");
    // The control plane says nothing of what is another agent's.
    let (answer, asked) = ask(&world, &other, &path, Vec::new()).await;
    assert_eq!(asked.agent_id, "agent-2", "it is asked as whom it is");
    assert_eq!(no(&answer), (404, "approval_not_found".into()));
    let unknown = world.agent.send(HOST, "GET /approvals/nothing", "", "").await;
    assert_eq!((unknown.status, &unknown.body), (404, &answer.body), "and the same to the letter");
    // Even if it did, another approval is not the answer.
    let (answer, _) = ask(
        &world,
        &other,
        "/approvals/02020202020202020202020202020202",
        vec![approval(State::Pending)],
    )
    .await;
    assert_eq!(no(&answer), (404, "approval_not_found".into()));
}

#[tokio::test]
async fn without_the_agents_credential_nothing_is_said() {
    let world = World::start().await;
    let request = format!("GET http://{HOST}/approvals HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    assert_eq!(no(&world.agent.to_proxy(&request).await), (407, "proxy_credential".into()));
    let wrong = world.agent.pretending("robot", "another");
    let (answer, _) = wrong.ask_for(&format!("{HOST}:443")).await;
    assert_eq!(answer.status, 407);
    // A revoked agent is out at once, in the tunnel that it has open.
    let mut tunnel = world.agent.tunnel(HOST).await;
    world.control.change(|state| state.agents.clear()).await;
    world.until("countersign_edge_bundle_revision", 2.0).await;
    assert_eq!(send(&mut tunnel, HOST, "GET /approvals", "", "").await.status, 407);
    assert!(world.control.was_asked().await.is_none());
}

#[tokio::test]
async fn nothing_that_an_agent_sends_there_is_a_vote() {
    let world = World::start().await;
    let waiting = world.ask(30);
    let open = world.control.open().await;
    world.control.opened_as(&open, &[1; 16]).await;
    let bodies = [
        r#"{"decision":"approve"}"#,
        r#"{"state":"approved","approver":"ops"}"#,
        "decision=approve&reason=me",
        "",
    ];
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "VOTE"] {
        for path in ["", "/approve", "/vote", "/votes", "/result", "?decision=approve"] {
            for body in bodies {
                let line = format!("{method} /approvals/{ID}{path}");
                let rest = "Content-Type: application/json\r\nConnection: close\r\n";
                let answer = world.agent.send(HOST, &line, rest, body).await;
                assert_eq!(no(&answer), (405, "method_not_allowed".into()), "{line}");
                assert_eq!(answer.header("allow"), Some("GET, HEAD"));
                assert!(answer.body.contains("nothing can be decided"), "{answer:?}");
            }
        }
    }
    for path in
        ["/approve", "/vote", "/votes/1", "/../admin", "?decision=approve", "/result/approve"]
    {
        let line = format!("GET /approvals/{ID}{path}");
        let answer = world.agent.send(HOST, &line, "", "").await;
        assert!([400, 404].contains(&answer.status), "{line}: {answer:?}");
        let rest = "X-HTTP-Method-Override: POST\r\nCountersign-Vote: approve\r\n";
        let answer = world.agent.send(HOST, &line, rest, "").await;
        assert!([400, 404].contains(&answer.status), "{line}: {answer:?}");
    }
    for path in
        ["/", "/countersign.v1.AdminService/VoteApproval", "/healthz", "/metrics", "/approvalss"]
    {
        let answer = world.agent.send(HOST, &format!("GET {path}"), "", "").await;
        assert_eq!(no(&answer), (404, "not_found".into()), "{path}");
    }
    assert!(world.control.was_asked().await.is_none(), "the control plane heard nothing of it");
    assert!(!waiting.is_finished(), "the request waits on");
    assert!(world.origin.got().is_empty(), "and nothing left");
    let deny = world.control.decision(&open, |d| d.word = gate::Word::Deny);
    world.control.say_decision(deny).await;
    assert_eq!(no(&waiting.await.expect("no panic")), (403, "approval_denied".into()));
}

#[tokio::test]
async fn what_names_two_hosts_is_refused_on_either_way() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel(HOST).await;
    let answer = send(&mut tunnel, HOST, "GET /approvals", "Host: api.test\r\n", "").await;
    assert_eq!(no(&answer), (421, "destination_mismatch".into()));
    let mut tunnel = world.agent.tunnel("api.test").await;
    let key = format!("Host: {HOST}\r\nAuthorization: Bearer {}\r\n", secret("api").fake);
    let answer = send(&mut tunnel, "api.test", "GET /approvals", &key, "").await;
    assert_eq!(no(&answer), (421, "destination_mismatch".into()));
    assert!(world.control.was_asked().await.is_none());
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn a_control_plane_that_is_away_is_said_to_be_so() {
    let world = World::start().await;
    let path = format!("GET /approvals/{ID}");
    let (answer, ()) = tokio::join!(world.agent.send(HOST, &path, "", ""), async {
        world.control.cannot_tell(&world.control.asked().await).await;
    });
    assert_eq!(no(&answer), (503, "control_plane_unavailable".into()));
    assert!(answer.header("retry-after").is_some());
    world.control.hang_up(Some(tonic::Status::unavailable("sealed: waiting for shares")));
    world.detached().await;
    let sealed = async { while world.agent.send(HOST, &path, "", "").await.code() != "sealed" {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), sealed).await.expect("it is told");
    world.control.answer_again();
}

#[tokio::test]
async fn an_evicted_edge_says_nothing_of_any_approval() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel(HOST).await;
    world.control.evict().await;
    world.detached().await;
    let answer = send(&mut tunnel, HOST, "GET /approvals", "", "").await;
    assert_eq!(no(&answer), (503, "edge_evicted".into()));
}

#[tokio::test]
async fn one_agent_asks_only_so_much_at_a_time() {
    let world = World::start().await;
    let path = format!("GET /approvals/{ID}?wait=50");
    let ask = |agent: Agent| {
        let path = path.clone();
        tokio::spawn(async move { agent.send(HOST, &path, "", "").await })
    };
    let mut waiting = Vec::new();
    for _ in 0..16 {
        waiting.push(ask(world.agent.clone()));
    }
    let mut asked = Vec::new();
    for _ in 0..16 {
        asked.push(world.control.asked().await);
    }
    let one_more = world.agent.send(HOST, &path, "", "").await;
    assert_eq!(no(&one_more), (503, "overloaded".into()));
    let other = world.agent.pretending("other", OTHER_TOKEN);
    let (answer, _) = self::ask(&world, &other, "/approvals", Vec::new()).await;
    assert_eq!(
        json(&answer)["approvals"],
        serde_json::json!([]),
        "others are not kept from asking"
    );
    for asked in &asked {
        world.control.tell(asked, vec![approval(State::Cancelled)]).await;
    }
    for waiting in waiting {
        assert_eq!(json(&waiting.await.expect("no panic"))["state"], "cancelled");
    }
}

#[tokio::test]
async fn a_client_that_stops_waiting_takes_its_question_back() {
    let world = World::start().await;
    for _ in 0..40 {
        let mut tunnel = world.agent.tunnel(HOST).await;
        let text = crate::agent::request(HOST, &format!("GET /approvals/{ID}?wait=50"), "", "");
        tokio::io::AsyncWriteExt::write_all(&mut tunnel, text.as_bytes()).await.expect("written");
        let _ = world.control.asked().await;
    }
    // Each that left freed its place: else there would be none any more, and the answer were "overloaded".
    let (answer, _) = ask(&world, &world.agent, "/approvals", Vec::new()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}
