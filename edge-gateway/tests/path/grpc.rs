//! gRPC through the edge, frame by frame: both directions at once, trailers, and refusals that a client can read.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::control::secret;
use crate::stage::{Frames, Streamed, in_time, streamed};
use crate::world::{World, bearer};

/// A message as gRPC frames it.
fn message(payload: impl AsRef<[u8]>) -> Bytes {
    let payload = payload.as_ref();
    [&[0][..], &(payload.len() as u32).to_be_bytes(), payload].concat().into()
}

/// A client, and a call of it whose messages are still to come.
struct Caller {
    client: SendRequest<Streamed>,
}

struct Calling {
    frames: Option<Frames>,
    answer: tokio::task::JoinHandle<hyper::Result<Response<Incoming>>>,
}

impl Caller {
    async fn to(world: &World, host: &str) -> Self {
        let tunnel = world.agent.tunnel_with(host, host, &[b"h2"]).await.expect("a tunnel");
        let (client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tunnel))
                .await
                .expect("h2");
        tokio::spawn(connection);
        Self { client }
    }

    fn call(&mut self, path: &str, key: &str, more: &[(&'static str, &str)]) -> Calling {
        let authorization = bearer(key);
        let authorization = authorization.trim().trim_start_matches("Authorization: ");
        let mut head = Request::builder()
            .method("POST")
            .uri(format!("https://stage.test{path}"))
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .header("authorization", authorization);
        for (name, value) in more {
            head = head.header(*name, *value);
        }
        let (frames, body) = streamed();
        let request = head.body(body).expect("a request");
        let answer = self.client.send_request(request);
        Calling { frames: Some(frames), answer: tokio::spawn(answer) }
    }
}

impl Calling {
    async fn say(&self, bytes: impl Into<Bytes>) {
        let frames = self.frames.as_ref().expect("not ended");
        frames.send(Ok(Frame::data(bytes.into()))).await.expect("heard");
    }

    fn end(&mut self) {
        self.frames = None;
    }

    async fn answer(&mut self) -> Response<Incoming> {
        in_time("an answer", &mut self.answer).await.expect("no panic").expect("an answer")
    }
}

/// Reads so many bytes of a body.
async fn heard(body: &mut Incoming, length: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < length {
        let frame = in_time("a message", body.frame()).await.expect("more").expect("no error");
        read.extend_from_slice(&frame.into_data().expect("data"));
    }
    read
}

async fn trailers(body: &mut Incoming) -> HeaderMap {
    let frame = in_time("trailers", body.frame()).await.expect("more").expect("no error");
    frame.into_trailers().unwrap_or_else(|frame| panic!("not {frame:?}"))
}

fn grpc() -> http::response::Builder {
    Response::builder().header("content-type", "application/grpc+proto")
}

#[tokio::test]
async fn both_directions_stream_at_once_and_the_trailers_come_back() {
    let world = World::start().await;
    let mut caller = Caller::to(&world, "stage.test").await;
    let more =
        [("grpc-timeout", "90S"), ("grpc-accept-encoding", "gzip, deflate"), ("x-mine-bin", "AAE")];
    let mut calling = caller.call("/test.Echo/Chat", "stage", &more);
    calling.say(message("one")).await;
    let call = world.stage.call().await;
    let headers = call.request.headers().clone();
    let real = format!("Bearer {}", secret("stage").real);
    for (name, value) in [
        ("authorization", real.as_str()),
        ("te", "trailers"),
        ("content-type", "application/grpc+proto"),
        ("grpc-timeout", "90S"),
        ("x-mine-bin", "AAE"),
        ("grpc-accept-encoding", "identity"),
    ] {
        assert_eq!(headers.get(name).and_then(|v| v.to_str().ok()), Some(value), "{headers:?}");
    }
    let mut upstream = call.answer(grpc().header("x-initial", "yes"));
    let mut answer = calling.answer().await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-initial"]),
        (200, &"yes".parse().expect("a value"))
    );
    let body = answer.body_mut();
    assert_eq!(upstream.hear().await, Some(message("one")));
    for turn in 0..3 {
        let (said, replied) = (message(format!("say {turn}")), message(format!("reply {turn}")));
        upstream.say(replied.clone()).await;
        assert_eq!(heard(body, replied.len()).await, replied, "before the other side says more");
        calling.say(said.clone()).await;
        assert_eq!(upstream.hear().await, Some(said));
    }
    calling.end();
    assert_eq!(upstream.hear().await, None);
    upstream.end(&[("grpc-status", "0"), ("x-final", "yes")]).await;
    let trailers = trailers(body).await;
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-final"]),
        (&"0".parse().expect("a value"), &"yes".parse().expect("a value"))
    );
    assert!(world.control.opened().await.is_none(), "nobody was asked");
}

#[tokio::test]
async fn a_message_that_ends_like_a_key_does_not_wait_for_the_next_one() {
    let world = World::start().await;
    let mut caller = Caller::to(&world, "stage.test").await;
    let mut calling = caller.call("/test.Echo/Chat", "stage", &[]);
    let upstream = world.stage.call().await.answer(grpc());
    let mut answer = calling.answer().await;
    let (begin, rest) = secret("stage").real.split_at(9);
    let first = message(format!("it ends with {begin}"));
    upstream.say(first.clone()).await;
    assert_eq!(heard(answer.body_mut(), first.len()).await, first);
    // In one message, but not in one frame.
    let second = message(format!("{begin}{rest} and more"));
    upstream.say(second.slice(..10)).await;
    upstream.say(second.slice(10..)).await;
    let masked = message(format!("{} and more", "*".repeat(begin.len() + rest.len())));
    assert_eq!(heard(answer.body_mut(), second.len()).await, masked);
    calling.end();
}

#[tokio::test]
async fn n_echo_12_a_key_in_the_trailers_is_masked_and_the_status_is_kept() {
    let world = World::start().await;
    let mut caller = Caller::to(&world, "stage.test").await;
    let mut calling = caller.call("/test.Echo/Get", "stage", &[]);
    calling.end();
    let mut upstream = world.stage.call().await.answer(grpc());
    let mut answer = calling.answer().await;
    let real = secret("stage").real;
    upstream.end(&[("grpc-status", "16"), ("grpc-message", &format!("bad key {real}"))]).await;
    let trailers = trailers(answer.body_mut()).await;
    assert_eq!(trailers["grpc-status"], "16");
    assert_eq!(trailers["grpc-message"], format!("bad key {}", "*".repeat(real.len())));
}

#[tokio::test]
async fn an_answer_that_is_all_trailers_stays_one() {
    let world = World::start().await;
    let mut caller = Caller::to(&world, "stage.test").await;
    let mut calling = caller.call("/test.Echo/Get", "stage", &[]);
    calling.end();
    let head = grpc().header("grpc-status", "5").header("grpc-message", "nothing");
    let _session = world.stage.call().await.answer_at_once(head);
    let answer = calling.answer().await;
    let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
    assert_eq!((header("grpc-status"), header("grpc-message")), ("5".into(), "nothing".into()));
    assert!(answer.body().is_end_stream(), "no body and no other trailers");
}

#[tokio::test]
async fn a_compressed_message_that_nobody_asked_for_breaks_off_and_is_not_passed_on() {
    let world = World::start().await;
    let mut caller = Caller::to(&world, "stage.test").await;
    let mut calling = caller.call("/test.Echo/Get", "stage", &[]);
    calling.end();
    let upstream = world.stage.call().await.answer(grpc().header("grpc-encoding", "gzip"));
    let mut answer = calling.answer().await;
    upstream.say(&b"\x01\0\0\0\x04abcd"[..]).await;
    let came = in_time("the end", answer.body_mut().frame()).await.expect("an error");
    assert!(came.is_err(), "{came:?}");
}

#[tokio::test]
async fn p_14_a_fake_key_in_a_later_message_breaks_off_and_is_reported() {
    let world = World::start().await;
    let mut caller = Caller::to(&world, "stage.test").await;
    let mut calling = caller.call("/test.Echo/Chat", "stage", &[]);
    calling.say(message("one")).await;
    let mut upstream = world.stage.call().await.answer(grpc());
    let mut answer = calling.answer().await;
    upstream.say(message("reply")).await;
    heard(answer.body_mut(), message("reply").len()).await;
    assert_eq!(upstream.hear().await, Some(message("one")));
    calling.say(message(secret("api").fake)).await;
    let alarm = world.control.alarm().await;
    assert_eq!(
        (alarm.kind.as_str(), alarm.credential_id.as_str()),
        ("fake_key_misplaced", "id-api")
    );
    assert_eq!(upstream.hear().await, None, "it did not arrive");
    let came = in_time("the end", answer.body_mut().frame()).await;
    assert!(came.is_none_or(|frame| frame.is_err()));
    assert!(world.control.alarmed().await.is_none(), "once");
}

#[tokio::test]
async fn a_dangerous_unary_call_is_held_and_leaves_once_it_is_released() {
    let world = World::start().await;
    let mut caller = Caller::to(&world, "stage.test").await;
    let mut calling = caller.call("/test.Danger/Delete", "stage-admin", &[("grpc-timeout", "90S")]);
    calling.say(message("all of it")).await;
    let frames = calling.frames.take().expect("not ended");
    let late =
        HeaderMap::from_iter([(http::header::AUTHORIZATION, "smuggled".parse().expect("a value"))]);
    frames.send(Ok(Frame::trailers(late))).await.expect("heard");
    drop(frames);
    let open = world.control.open().await;
    assert_eq!(
        (open.head.rule.as_str(), &open.body[..]),
        ("call what is dangerous", &message("all of it")[..])
    );
    assert!(world.stage.is_empty(), "nothing has left");
    world.control.release(&open).await;
    let call = world.stage.call().await;
    assert_eq!(
        call.request.headers()["authorization"],
        format!("Bearer {}", secret("stage-admin").real)
    );
    assert_eq!(call.request.headers()["te"], "trailers");
    let mut upstream = call.answer(grpc());
    assert_eq!(upstream.hear().await, Some(message("all of it")));
    assert_eq!(upstream.hear().await, None);
    let after = in_time("the end", upstream.request.body_mut().frame()).await;
    assert!(after.is_none(), "its trailers stay here: {after:?}");
    upstream.say(message("done")).await;
    upstream.end(&[("grpc-status", "0")]).await;
    let mut answer = calling.answer().await;
    assert!(answer.headers().contains_key("countersign-approval-id"));
    assert_eq!(heard(answer.body_mut(), message("done").len()).await, message("done"));
    assert_eq!(trailers(answer.body_mut()).await["grpc-status"], "0");
}

/// The status of an answer that has nothing else in it.
async fn refused(calling: &mut Calling) -> (HeaderMap, Status) {
    let mut answer = calling.answer().await;
    assert_eq!(answer.status(), 200, "a gRPC client reads nothing else");
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    assert!(in_time("the end", answer.body_mut().frame()).await.is_none(), "no body, no trailers");
    let headers = answer.headers().clone();
    let status = Status::from_header_map(&headers).expect("a status");
    (headers, status)
}

#[tokio::test]
async fn a_refusal_is_a_status_that_a_client_reads() {
    let world = World::start().await;
    let mut caller = Caller::to(&world, "stage.test").await;
    let mut calling = caller.call("/test.Unknown/Get", "stage", &[]);
    calling.end();
    let (headers, status) = refused(&mut calling).await;
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert_eq!(headers["countersign-code"], "policy_denied");
    assert_eq!(
        (&headers["x-should-retry"], &headers["grpc-retry-pushback-ms"]),
        (&"false".parse().expect("a value"), &"-1".parse().expect("a value"))
    );
    assert!(status.message().starts_with("Not sent: no rule of the policy names this request"));
    let details = status.get_error_details();
    assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("policy_denied"));

    let mut calling = caller.call("/test.Echo/Get", "api", &[]);
    calling.end();
    let (headers, status) = refused(&mut calling).await;
    assert_eq!(
        (status.code(), &headers["countersign-code"]),
        (tonic::Code::PermissionDenied, &"fake_key_misplaced".parse().expect("a value"))
    );
    assert!(world.stage.is_empty());
}

#[tokio::test]
async fn a_call_that_nobody_answers_within_its_deadline_is_told_so_before_it() {
    let world = World::start().await;
    let mut caller = Caller::to(&world, "stage.test").await;
    // The rule holds for thirty seconds, and this client would be gone by then.
    let mut calling =
        caller.call("/test.Danger/Delete", "stage-admin", &[("grpc-timeout", "5000m")]);
    calling.end();
    let open = world.control.open().await;
    assert_eq!(open.head.hold_ms, 4_000);
    world.control.opened_as(&open, &[7; 16]).await;
    world.hands.advance(std::time::Duration::from_secs(5));
    let (headers, status) = refused(&mut calling).await;
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(headers["countersign-code"], "approval_pending");
    assert_eq!(headers["countersign-approval-id"], hex::encode([7; 16]));
    assert_eq!(headers["countersign-approval-status"], "pending");
    assert_eq!(
        (&headers["retry-after"], &headers["grpc-retry-pushback-ms"]),
        (&"15".parse().expect("a value"), &"15000".parse().expect("a value"))
    );
    let delay = status.get_error_details().retry_info().and_then(|retry| retry.retry_delay);
    assert_eq!(delay, Some(std::time::Duration::from_secs(15)));
    assert!(world.stage.is_empty());
}

#[tokio::test]
async fn a_call_that_is_made_again_with_what_is_left_of_its_time_is_the_same_call() {
    let world = World::start().await;
    let mut caller = Caller::to(&world, "stage.test").await;
    let mut intents = Vec::new();
    for timeout in ["90S", "89999m"] {
        let mut calling =
            caller.call("/test.Danger/Delete", "stage-admin", &[("grpc-timeout", timeout)]);
        calling.say(message("all of it")).await;
        calling.end();
        intents.push(world.control.open().await.head.intent_digest);
    }
    assert_eq!(intents[0], intents[1], "people are asked once");
}
