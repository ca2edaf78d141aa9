//! Doors for fuzzers (`tests/fuzzing`) to what is private here. Nothing else uses them, and nothing is decided by them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use countersign_gate::{Destination, Injection, Origin, Payload, Request as Frozen, Scheme};
use http::{Response, request};
use tokio::io::{AsyncRead, ReadBuf};

use crate::bundle::{Around, Bundle, Credential, Pair, Parts, Place};
use crate::frames::Frames as Http2Frames;
use crate::freeze::Draft;
use crate::inject;
use crate::names;
use crate::postgres;
use crate::postgres::message::{self, Frontend};
use crate::redact::Redactor;
use crate::refuse::{Form, NotUpgraded, Refusal};
use crate::socket::Cleaner;
use crate::socket::frame::{self, Opcode, Piece};
use crate::tripwire::{Tripwire, Watch};
use crate::tunnel;
use crate::upstream::BoxBody;

/// The fake keys of what [`freeze`] knows.
pub const FAKE_KEYS: [&str; 8] = [
    "tk_fake_bearer_0123456789",
    "tk_fake_exact_0123456789",
    "ghp_fake_basic_0123456789",
    "qk_fake_query_0123456789",
    "123456:FAKEpath0123456789",
    "ck_fake_cookie_0123456789",
    "fk_fake_form_0123456789",
    "jk_fake_json_0123456789",
];
pub const HOST: &str = "api.test";

/// From a head that came through a tunnel to [`HOST`], or to the proxy itself, to what would leave: read strictly, its
/// fake key taken out. None for what is refused.
pub fn freeze(parts: request::Parts, tunnelled: bool, mut body: Bytes) -> Option<Frozen> {
    let bundle = bundle();
    let tunnel = Destination::parse(Scheme::Https, HOST, Some(443)).ok()?;
    let mut draft = match tunnelled {
        true => Draft::tunnelled(parts, &tunnel, &bundle.policy).ok()?,
        false => Draft::proxied(parts, &bundle.policy).ok()?,
    };
    let found = inject::find(&mut draft, bundle).ok()?;
    let found = inject::find_in_body(&mut draft, bundle, &mut body, found).ok()?;
    let injections: Vec<Injection> = found.map(inject::Found::into_injection).into_iter().collect();
    let origin = Origin { cluster: "c".into(), org: "o".into(), agent: "a".into() };
    let Draft { destination, method, path, query, headers, .. } = draft;
    let payload = Payload::Whole(body);
    Frozen::new(origin, destination, method, path, query, headers, payload, injections).ok()
}

fn bundle() -> &'static Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| {
        let authorization = http::header::AUTHORIZATION;
        let places = [
            Place::Header { name: authorization, around: Around::Scheme },
            Place::Header {
                name: http::HeaderName::from_static("x-api-key"),
                around: Around::Exact { before: "<".into(), after: ">".into() },
            },
            Place::Basic(Pair::Either),
            Place::Query { name: "key".into() },
            Place::Path { before: "bot".into(), after: String::new() },
            Place::Cookie { name: "session".into() },
            Place::Form { name: "token".into() },
            Place::Json { pointer: "/login/key".into() },
        ];
        let credential = |(fake, place): (&&str, Place)| Credential {
            id: (*fake).into(),
            name: (*fake).into(),
            version: 1,
            destination: api(),
            place,
            fake_keys: vec![(*fake).into()],
            leasable: true,
            token_endpoint: None,
        };
        let parts = Parts {
            revision: 1,
            policy_version: 1,
            policy: format!(
                "version = 1\n[[rule]]\nname = \"all\"\nhost = \"{HOST}\"\nthen = \"allow\"\n"
            ),
            agents: Vec::new(),
            credentials: FAKE_KEYS.iter().zip(places).map(credential).collect(),
            forbidden: Vec::new(),
        };
        #[allow(clippy::unwrap_used)] // it is always the same
        Bundle::new(parts).unwrap()
    })
}

#[allow(clippy::unwrap_used)] // it is always the same
fn api() -> Destination {
    Destination::parse(Scheme::Https, HOST, Some(443)).unwrap()
}

/// Whether a host says what it means.
pub fn is_plain(destination: &Destination) -> bool {
    names::is_plain(destination)
}

/// Whether a fake key is found in the pieces as they stream past, and in the whole.
pub fn tripwire(keys: &[&str], pieces: &[&[u8]]) -> (bool, bool) {
    let Ok(wire) = Tripwire::new(keys.iter().copied().enumerate()) else { return (false, false) };
    let mut watch = Watch::default();
    let streamed = pieces.iter().any(|piece| watch.feed(&wire, piece).is_some());
    (streamed, wire.find(&pieces.concat()).is_some())
}

/// What the pieces of an HTTP/2 connection come to: the number of the head that is half there, or that it is a flood.
pub fn frames(pieces: &[&[u8]]) -> Result<Option<u64>, String> {
    let now = Instant::now();
    let mut frames = Http2Frames::new(now);
    for piece in pieces {
        frames.feed(piece, || now).map_err(|flood| flood.to_string())?;
    }
    Ok(frames.head())
}

/// A frame of a WebSocket, put together again where it went by in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whether it may stand within another message.
    pub control: bool,
    /// Whether it goes on with what an earlier frame has begun.
    pub continues: bool,
    /// Whether its message ends with it, and all of it is there.
    pub last: bool,
    pub payload: Vec<u8>,
}

/// What came of the frames that one side has sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// What went on, as it came.
    pub passed: Vec<u8>,
    pub messages: Vec<Message>,
    /// Why the rest was not read.
    pub refused: Option<&'static str>,
}

/// Reads the frames of one direction of a WebSocket in these pieces.
pub fn websocket(pieces: &[&[u8]], masked: bool, extended: bool) -> Frames {
    let mut came = Frames::default();
    read_frames(pieces, masked, extended, &mut came, |came, piece| {
        came.passed.extend_from_slice(&piece.written);
        came.passed.extend_from_slice(&piece.payload);
    });
    came
}

/// The same of an upstream, as it goes on to an agent that must not see this key: what an agent reads then.
pub fn cleaned(key: &[u8], pieces: &[&[u8]]) -> Option<Frames> {
    let mut cleaner = Cleaner::new(Redactor::new(&[key]).masker()?);
    let mut came = Frames::default();
    read_frames(pieces, false, false, &mut came, |came, piece| {
        came.passed.extend(cleaner.clean(piece).unwrap_or_default());
    });
    let refused = came.refused;
    Some(Frames { refused, ..websocket(&[&came.passed], false, false) })
}

fn read_frames(
    pieces: &[&[u8]],
    masked: bool,
    extended: bool,
    came: &mut Frames,
    mut pass: impl FnMut(&mut Frames, Piece),
) {
    let mut frames = frame::Frames::new(masked, extended);
    let mut read = BytesMut::new();
    for bytes in pieces {
        read.extend_from_slice(bytes);
        loop {
            let piece = match frames.next(&mut read) {
                Ok(None) => break,
                Ok(Some(piece)) => piece,
                Err(malformed) => {
                    came.refused = Some(malformed.0);
                    return;
                }
            };
            let (head, last) = (piece.head, piece.head.last && piece.ends);
            let payload = piece.unmasked();
            match came.messages.last_mut().filter(|_| piece.written.is_empty()) {
                Some(message) => {
                    message.payload.extend(payload);
                    message.last = last;
                }
                None => came.messages.push(Message {
                    control: head.opcode.is_control(),
                    continues: head.opcode == Opcode::Continuation,
                    last,
                    payload,
                }),
            }
            pass(came, piece);
        }
    }
}

/// The server name in the TLS that begins a tunnel, read in these pieces, of which the first came with CONNECT; and how many
/// bytes were read by then. An error where it does not begin so.
pub fn hello(pieces: &[&[u8]]) -> Result<(Option<String>, usize), String> {
    let (first, rest) = pieces.split_first().map_or((&[][..], &[][..]), |(it, rest)| (*it, rest));
    let mut rest = Pieces(rest.iter().map(|piece| Bytes::copy_from_slice(piece)).collect());
    let reading = tunnel::hello(&mut rest, Bytes::copy_from_slice(first));
    let (read, name) = futures::executor::block_on(reading).map_err(|why| why.to_string())?;
    Ok((name, read.len()))
}

/// A stream from which one piece after the other is read.
struct Pieces(VecDeque<Bytes>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(piece) = self.0.front_mut() {
            if piece.is_empty() {
                self.0.pop_front();
                continue;
            }
            let size = piece.len().min(into.remaining());
            into.put_slice(&piece.split_to(size));
            break;
        }
        Poll::Ready(Ok(()))
    }
}

/// Refusals with this text wherever text goes, as clients of Kubernetes read them.
pub fn statuses(text: &str) -> Vec<Response<BoxBody>> {
    all_refusals(text).into_iter().map(|refusal| refusal.in_form(Form::Kubernetes)).collect()
}

/// What an agent's messages to a Postgres server are taken for, in these pieces, and what ended that. Each that binds or
/// prepares is written again, and has to be read as the same.
pub fn postgres(pieces: &[&[u8]]) -> (Vec<String>, Option<String>) {
    const MOST: usize = 64 * 1024;
    let (mut read, mut messages) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        read.extend_from_slice(piece);
        loop {
            match message::next(&mut read, MOST) {
                Ok(None) => break,
                Ok(Some(said)) => {
                    let mut again = BytesMut::new();
                    match &said {
                        Frontend::Bind(bind) => message::put_bind(&mut again, bind),
                        Frontend::Parse(parse) => message::put_parse(&mut again, parse),
                        Frontend::Query(text) => message::put_query(&mut again, text),
                        _ => {}
                    }
                    if !again.is_empty() {
                        // Formats of values may be written in another way, which may be longer.
                        let once_more = message::next(&mut again, 4 * MOST);
                        assert_eq!(
                            once_more,
                            Ok(Some(said.clone())),
                            "it is read as it was written"
                        );
                    }
                    messages.push(format!("{said:?}"));
                }
                Err(why) => return (messages, Some(why.to_string())),
            }
        }
    }
    (messages, None)
}

/// Whether these bytes are what a connection to Postgres begins with, or what SCRAM begins and ends with.
pub fn postgres_beginnings(bytes: &[u8]) -> [bool; 2] {
    postgres::beginnings(bytes)
}

/// Refusals with this text wherever text goes.
pub fn refusals(text: &str) -> Vec<Response<BoxBody>> {
    all_refusals(text).into_iter().map(|refusal| refusal.in_form(Form::Problem)).collect()
}

fn all_refusals(text: &str) -> Vec<Refusal> {
    let (why, detail) = (text.to_owned(), text.to_owned());
    let approval_id = Some(text.to_owned());
    vec![
        Refusal::AddressDenied { why: why.clone() },
        Refusal::AlreadyExecuted { approval_id: approval_id.clone(), kept: true },
        Refusal::AmbiguousTarget { why: why.clone() },
        Refusal::ApprovalCancelled { approval_id: approval_id.clone(), detail: detail.clone() },
        Refusal::ApprovalDenied { approval_id: approval_id.clone(), detail: detail.clone() },
        Refusal::ApprovalPending { approval_id: why.clone(), request: why.clone(), parked: true },
        Refusal::BadRequest { why: why.clone() },
        Refusal::DestinationMismatch { why: why.clone() },
        Refusal::Draining { approval_id: approval_id.clone() },
        Refusal::FakeKeyMisplaced { why: why.clone() },
        Refusal::FakeKeyMissing {
            credentials: vec![why.clone(), why.clone()],
            basic: true,
            why: "it",
        },
        Refusal::LeaseRefused { credential: why.clone(), detail: detail.clone() },
        Refusal::NoToken { approval_id: approval_id.clone(), detail: detail.clone() },
        Refusal::NoResult { approval_id: why.clone(), code: "result_pending", why: why.clone() },
        Refusal::OutcomeUnknown { approval_id },
        Refusal::PolicyDenied { rule: Some(why.clone()), detail: Some(detail.clone()) },
        Refusal::PolicyDenied { rule: None, detail: Some(detail.clone()) },
        Refusal::TooManyPending { detail },
        Refusal::UpgradeRefused { rule: why.clone(), because: NotUpgraded::Asked },
        Refusal::UpgradeRefused {
            rule: why.clone(),
            because: NotUpgraded::Unlooked { protocol: why.clone() },
        },
        Refusal::UpstreamFailed { why },
    ]
}
