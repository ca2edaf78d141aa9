//! Answers that stream: events go on as they come, and what people approved ends.

use std::time::Duration;

use countersign_edge_gateway::config::Limits;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::agent::{Tunnel, read, read_head, request};
use crate::control::secret;
use crate::stage::{Line, head, in_time, say};
use crate::world::{World, bearer};

const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// What a chunked body says next, as many bytes as this; the chunks are whoever wrote them's.
async fn heard(stream: &mut (impl AsyncRead + Unpin), length: usize) -> String {
    let reading = async {
        let mut text = Vec::new();
        while text.len() < length {
            let mut size = String::new();
            while !size.ends_with("\r\n") {
                size.push(char::from(stream.read_u8().await.expect("a chunk")));
            }
            let size = usize::from_str_radix(size.trim(), 16).expect("a size");
            let mut bytes = vec![0; size + 2];
            stream.read_exact(&mut bytes).await.expect("a chunk");
            text.extend(&bytes[..size]);
        }
        String::from_utf8(text).expect("text")
    };
    in_time("what was said", reading).await
}

/// A stream that has begun, in HTTP/1.1 on the agent's side.
async fn stream(world: &World, path: &str, key: &str) -> (Tunnel, crate::stage::Answering) {
    let mut agent = world.agent.tunnel("stage.test").await;
    let asked = request("stage.test", &format!("GET {path}"), &bearer(key), "");
    say(&mut agent, asked).await;
    let call = world.stage.call().await;
    assert_eq!(call.request.uri().path(), path);
    let answering =
        call.answer(http::Response::builder().header("content-type", "text/event-stream"));
    let answer = read_head(&mut agent).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    (agent, answering)
}

#[tokio::test]
async fn sse_an_event_is_here_while_the_stream_stalls() {
    let world = World::start().await;
    let (mut agent, upstream) = stream(&world, "/play/events", "stage").await;
    // `t` begins the key, and `\n` does not: nothing of an event is held back.
    for event in ["data: a first thought\n\n", "data: at\n\n", ": tk_REAL_stage_\n\n"] {
        upstream.say(event).await;
        assert_eq!(heard(&mut agent, event.len()).await, event, "before anything else is sent");
    }
}

#[tokio::test]
async fn sse_only_what_may_begin_a_key_waits_and_a_key_in_two_pieces_is_masked() {
    let world = World::start().await;
    let (mut agent, upstream) = stream(&world, "/play/events", "stage").await;
    let (one, two) = secret("stage").real.split_at(11);
    upstream.say(format!("data: {one}")).await;
    assert_eq!(heard(&mut agent, 6).await, "data: ", "the rest waits for what follows it");
    upstream.say(format!("{two}\n\ndata: {one}")).await;
    let masked = format!("{}\n\ndata: ", "*".repeat(one.len() + two.len()));
    assert_eq!(heard(&mut agent, masked.len()).await, masked);
    // Of the second one something else came of it.
    upstream.say("\n\n").await;
    let whole = format!("{one}\n\n");
    assert_eq!(heard(&mut agent, whole.len()).await, whole);
}

#[tokio::test]
async fn sse_over_http_1_upstream_and_with_its_own_chunks_an_event_is_here_at_once() {
    let world = World::start().await;
    let mut agent = world.agent.tunnel("stage.test").await;
    say(&mut agent, request("stage.test", "GET /play/events", &bearer("stage"), "")).await;
    // This upstream speaks HTTP/1.1 alone: what was offered is for it to choose.
    let mut line = world.stage.line_in_http_1().await;
    let asked = head(&mut line).await;
    assert!(asked.head.starts_with("GET /play/events HTTP/1.1\r\n"), "{asked:?}");
    say(&mut line, STREAM).await;
    assert_eq!(read_head(&mut agent).await.expect("an answer").status, 200);
    for event in ["data: one\n\n", "data: two\n\n"] {
        say(&mut line, chunk(event)).await;
        assert_eq!(heard(&mut agent, event.len()).await, event);
    }
}

/// A stream that people approved.
async fn approved(world: &World) -> (Tunnel, crate::stage::Answering) {
    let mut agent = world.agent.tunnel("stage.test").await;
    let asked = request("stage.test", "GET /asked/events", &bearer("stage-admin"), "");
    say(&mut agent, asked).await;
    let open = world.control.open().await;
    assert!(world.stage.is_empty(), "nothing leaves before it is approved");
    world.control.release(&open).await;
    let call = world.stage.call().await;
    let answering = call.answer(http::Response::builder());
    assert_eq!(read_head(&mut agent).await.expect("an answer").status, 200);
    (agent, answering)
}

/// Whether a chunked body broke off: the connection ends, and its last chunk never came.
async fn broke_off(mut agent: Tunnel) -> bool {
    let mut rest = Vec::new();
    let _ = in_time("the end", agent.read_to_end(&mut rest)).await;
    !rest.ends_with(b"0\r\n\r\n")
}

#[tokio::test]
async fn u_5_the_answer_to_an_approval_breaks_off_when_its_time_is_over() {
    let limits = Limits { approved_response_time: Duration::from_secs(60), ..Limits::default() };
    let world = World::with(limits).await;
    let (mut agent, upstream) = approved(&world).await;
    let (mut other, allowed) = stream(&world, "/play/events", "stage").await;
    world.hands.advance(Duration::from_secs(55));
    upstream.say("in time\n").await;
    assert_eq!(heard(&mut agent, 8).await, "in time\n");
    world.hands.advance(Duration::from_secs(6));
    assert!(broke_off(agent).await, "an answer that says more and more is no answer");
    allowed.say("as long as it likes\n").await;
    assert_eq!(
        heard(&mut other, 20).await,
        "as long as it likes\n",
        "what the policy allows goes on"
    );
}

#[tokio::test]
async fn u_5_the_answer_to_an_approval_breaks_off_when_it_is_too_much() {
    let limits = Limits { max_approved_response: 1_000, ..Limits::default() };
    let world = World::with(limits).await;
    let (mut agent, upstream) = approved(&world).await;
    upstream.say("x".repeat(1_000)).await;
    assert_eq!(heard(&mut agent, 1_000).await, "x".repeat(1_000));
    upstream.say("y").await;
    assert!(broke_off(agent).await);
    let (mut agent, mut upstream) = approved(&world).await;
    upstream.say("x".repeat(1_000)).await;
    upstream.end(&[]).await;
    assert_eq!(heard(&mut agent, 1_000).await, "x".repeat(1_000));
    assert!(!broke_off_kept(agent).await, "all of it is within the bound");
}

#[tokio::test]
async fn a_shutdown_lets_an_answer_that_is_under_way_end() {
    let world = World::start().await;
    let (mut agent, mut upstream) = stream(&world, "/play/events", "stage").await;
    upstream.say("one ").await;
    assert_eq!(heard(&mut agent, 4).await, "one ");
    let World { edge, .. } = world;
    let door = edge.proxy_addr();
    let down = tokio::spawn(edge.shutdown());
    let nobody = async { while tokio::net::TcpStream::connect(door).await.is_ok() {} };
    in_time("a closed door", nobody).await;
    assert!(!down.is_finished(), "it waits for what is under way");
    upstream.say("two").await;
    upstream.end(&[]).await;
    assert_eq!(heard(&mut agent, 3).await, "two");
    assert!(!broke_off(agent).await);
    down.await.expect("it waited for it");
}

#[tokio::test]
async fn an_upload_streams_on_while_its_answer_has_begun() {
    let world = World::start().await;
    let mut agent = world.agent.tunnel("stage.test").await;
    let rest = format!("{}Transfer-Encoding: chunked\r\n", bearer("stage"));
    say(&mut agent, request("stage.test", "POST /play/upload", &rest, "")).await;
    say(&mut agent, chunk("first")).await;
    let mut upstream = world.stage.call().await.answer(http::Response::builder());
    assert_eq!(upstream.hear().await.as_deref(), Some(&b"first"[..]));
    upstream.say("got one").await;
    assert_eq!(read_head(&mut agent).await.expect("an answer").status, 200);
    assert_eq!(heard(&mut agent, 7).await, "got one");
    say(&mut agent, chunk("second")).await;
    assert_eq!(upstream.hear().await.as_deref(), Some(&b"second"[..]));
    say(&mut agent, "0\r\n\r\n").await;
    assert_eq!(upstream.hear().await, None);
    upstream.end(&[]).await;
    assert!(!broke_off_kept(agent).await);
}

/// The same of a connection that is kept: its last chunk comes.
async fn broke_off_kept(mut agent: Tunnel) -> bool {
    let mut last = [0; 5];
    in_time("the end", agent.read_exact(&mut last)).await.is_err() || &last != b"0\r\n\r\n"
}

#[tokio::test]
async fn an_upstream_without_http_2_is_spoken_to_in_http_1_and_kept() {
    let world = World::start().await;
    let mut agent = world.agent.tunnel("stage.test").await;
    let asked = request("stage.test", "GET /play/1", &bearer("stage"), "");
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    say(&mut agent, &asked).await;
    let mut line: Line = world.stage.line_in_http_1().await;
    for _ in 0..3 {
        head(&mut line).await;
        say(&mut line, answer).await;
        assert_eq!(read(&mut agent).await.expect("an answer").body, "ok");
        say(&mut agent, &asked).await;
    }
    assert!(world.stage.is_empty(), "one connection for all of them");
}
