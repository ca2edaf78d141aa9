//! WebSockets (RFC 6455). The handshake is a request like any other: judged, its key swapped in its slot, written once.
//! What comes after the 101 is not judged, so it is looked into frame by frame: for the real key on the way to the agent,
//! which is masked wherever it is, and for fake keys on the way out, at which the connection ends.
//!
//! The library that writes and reads our own WebSockets puts messages together and answers pings by itself; here frames
//! have to go on as they came, pieces of large ones before the rest is there. So they are read in [`frame`].
//!
//! What an upstream spreads over messages, or encrypts, is not recognised; what of a key comes last in such a row is.

pub(crate) mod frame;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use countersign_gate::{Destination, Released};
use countersign_policy::{Body, Head, Subject};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tracing::Instrument as _;

use crate::agent::{Badge, Seat};
use crate::bundle::{Credential, InForce};
use crate::carry::{lent, not_sent, seated};
use crate::channel::{End, Kind, Open};
use crate::control::Alarm;
use crate::inject::Misplaced;
use crate::judge::{Passing, Socket};
use crate::redact::{Masker, Redactor};
use crate::refuse::{Refusal, whole};
use crate::rooms::Rooms;
use crate::tripwire::Watch;
use crate::upstream::{BoxBody, Switched};
use frame::{Frames, Opcode, frame};

/// When one side is gone, how long what the other one still says is waited for.
const LINGER: Duration = Duration::from_secs(2);

/// Sends the handshake that the policy released. An answer other than 101 goes back as any other; after a 101 the agent
/// and the upstream are connected, in a task of its own.
pub(crate) async fn open(
    rooms: &Arc<Rooms>,
    badge: &Badge,
    passing: Passing,
    socket: Socket,
    seat: Seat,
) -> Result<Response<BoxBody>, Refusal> {
    let Passing { agent, released, credential, .. } = passing;
    let standing = Standing::of(badge, &released, credential.as_deref());
    let (keys, redactor, _) = lent(rooms, credential.as_deref(), &agent).await?;
    let outbound =
        released.with_keys(keys).map_err(|why| Refusal::UpstreamFailed { why: why.to_string() })?;
    let (mut head, upstream, extended) =
        match rooms.upstream.switch(outbound).await.map_err(not_sent)? {
            Switched::Answer(answer) => return Ok(seated(redactor.response(answer), seat)),
            Switched::Socket { head, upstream, extended } => (head, upstream, extended),
        };
    redactor.headers(&mut head.headers);
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let open = Open::new(
        rooms,
        Kind::WebSocket,
        &agent.name,
        standing.destination.host(),
        &socket.rule,
        socket.channel,
    );
    let relay = Relay { agent_id: agent.id.clone(), standing, redactor, extended, open };
    let going = Arc::clone(rooms);
    let connected = async move {
        let Socket { upgrade, place, .. } = socket;
        // As long as the agent has its seat and its connection its place.
        let _kept = (seat, place);
        relay.run(&going, upgrade, upstream).await;
    };
    rooms.carried.spawn(Box::pin(connected.in_current_span()));
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = head.headers;
    Ok(answer)
}

/// What the handshake was, to judge it again when the bundle changes.
struct Standing {
    badge: Badge,
    destination: Destination,
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    /// Id and version of the credential whose key went along.
    key: Option<(String, u64)>,
}

impl Standing {
    fn of(badge: &Badge, released: &Released, credential: Option<&Credential>) -> Self {
        let request = released.request();
        Self {
            badge: badge.clone(),
            destination: request.destination().clone(),
            method: request.method().clone(),
            path: request.path().to_owned(),
            query: request.query().map(str::to_owned),
            headers: request.headers().clone(),
            key: credential.map(|credential| (credential.id.clone(), credential.version)),
        }
    }

    /// Whether this bundle would let the same handshake through, with the same key.
    fn stands(&self, force: &InForce) -> Result<(), &'static str> {
        let agent = force
            .bundle
            .agent(&self.badge)
            .ok_or("the agent is no longer known to this gateway")?;
        let head = Head {
            agent: &agent.name,
            destination: &self.destination,
            method: &self.method,
            path: crate::planted::path(&self.path),
            query: self.query.as_deref(),
            headers: &self.headers,
        };
        let decision = force.bundle.policy.decide(&Subject { head, body: Body::Whole(&[]) });
        decision.channel.ok_or("the policy no longer allows this WebSocket")?;
        let Some((id, version)) = &self.key else { return Ok(()) };
        let current = force.bundle.credential(id).filter(|current| {
            current.version == *version
                && current.leasable
                && decision.credentials.contains(&current.name)
        });
        current.map(|_| ()).ok_or("the key that it was opened with is no longer in use")
    }
}

/// Two connections that are one WebSocket.
struct Relay {
    agent_id: String,
    standing: Standing,
    redactor: Redactor,
    /// Whether an extension was agreed on.
    extended: bool,
    open: Open,
}

impl Relay {
    async fn run(self, rooms: &Rooms, upgrade: OnUpgrade, upstream: Upgraded) {
        let Ok(agent) = upgrade.await else { return self.open.ended(rooms, &End::Broken) };
        let (from_agent, to_agent) = tokio::io::split(TokioIo::new(agent));
        let (from_upstream, to_upstream) = tokio::io::split(TokioIo::new(upstream));
        let (mut to_agent, mut to_upstream) = (Out::new(to_agent), Out::new(to_upstream));
        let end = {
            let mut out = std::pin::pin!(self.outward(rooms, from_agent, &mut to_upstream));
            let mut back = std::pin::pin!(self.back(from_upstream, &mut to_agent));
            let over = self.open.over(rooms, |force| self.standing.stands(force));
            tokio::select! {
                end = over => end,
                end = back.as_mut() => end,
                end = out.as_mut() => match end {
                    End::Broken | End::Closed => {
                        tokio::time::timeout(LINGER, back).await.unwrap_or(end)
                    }
                    end => end,
                },
            }
        };
        if let End::Tripped(owner) = &end {
            self.alarm(rooms, *owner);
        }
        let bye = async {
            let mask = Some(rand::random());
            tokio::join!(to_agent.close(&end, None), to_upstream.close(&end, mask));
        };
        // Whoever does not read is not waited for.
        let _ = tokio::time::timeout(LINGER, bye).await;
        self.open.ended(rooms, &end);
    }

    /// From the agent to the upstream: every frame as it came, unless a fake key is in it.
    async fn outward(
        &self,
        rooms: &Rooms,
        mut from: impl AsyncRead + Unpin,
        to: &mut Out<impl AsyncWrite + Unpin>,
    ) -> End {
        let mut frames = Frames::new(true, self.extended);
        let (mut read, mut watch) = (BytesMut::new(), Watch::default());
        loop {
            let Some(force) = rooms.control.in_force() else {
                return End::Forbidden("this gateway is out of use");
            };
            let wire = &force.bundle.tripwire;
            loop {
                let piece = match frames.next(&mut read) {
                    Ok(None) => break,
                    Ok(Some(piece)) => piece,
                    Err(malformed) => return End::Malformed(malformed.0),
                };
                let clear = piece.unmasked();
                let found = match piece.head.opcode.is_control() {
                    true => wire.find(&clear),
                    false => watch.feed(wire, &clear),
                };
                if let Some(owner) = found {
                    return End::Tripped(owner);
                }
                if let Err(end) = self.open.spend(piece.size()) {
                    return end;
                }
                if to.piece(&piece.written, &piece.payload, piece.ends).await.is_err() {
                    return End::Broken;
                }
            }
            match from.read_buf(&mut read).await {
                Ok(0) => return End::Closed,
                Ok(_) => {}
                Err(_) => return End::Broken,
            }
        }
    }

    /// From the upstream to the agent: without the real key.
    async fn back(
        &self,
        mut from: impl AsyncRead + Unpin,
        to: &mut Out<impl AsyncWrite + Unpin>,
    ) -> End {
        let mut frames = Frames::new(false, self.extended);
        let mut cleaner = self.redactor.masker().map(Cleaner::new);
        let mut read = BytesMut::new();
        loop {
            loop {
                let piece = match frames.next(&mut read) {
                    Ok(None) => break,
                    Ok(Some(piece)) => piece,
                    Err(malformed) => return End::Malformed(malformed.0),
                };
                if let Err(end) = self.open.spend(piece.size()) {
                    return end;
                }
                let written = match &mut cleaner {
                    None => to.piece(&piece.written, &piece.payload, piece.ends).await,
                    Some(cleaner) => match cleaner.clean(piece) {
                        None => Ok(()),
                        Some(frame) => to.piece(&frame, &[], true).await,
                    },
                };
                if written.is_err() {
                    return End::Broken;
                }
            }
            match from.read_buf(&mut read).await {
                Ok(0) => return End::Closed,
                Ok(_) => {}
                Err(_) => return End::Broken,
            }
        }
    }

    fn alarm(&self, rooms: &Rooms, owner: usize) {
        let force = rooms.control.in_force();
        let credential = force.as_ref().and_then(|force| force.bundle.credentials.get(owner));
        let Some(credential) = credential else { return };
        let Misplaced { credential_id, why } = Misplaced::new(credential, "in a WebSocket");
        rooms.control.alarm(Alarm {
            kind: "fake_key_misplaced",
            agent_id: self.agent_id.clone(),
            credential_id,
            host: self.standing.destination.host().to_owned(),
            detail: why,
        });
    }
}

/// Takes a key out of frames. A message has the same bytes after it as before, save for those of a key, and may come in
/// other frames: what could be the beginning of a key waits for what follows, up to the end of its message.
pub(crate) struct Cleaner {
    data: Masker,
    control: Masker,
    /// The kind of the message that has begun, if nothing of it was passed on yet.
    begun: Option<Opcode>,
}

impl Cleaner {
    pub(crate) fn new(masker: Masker) -> Self {
        Self { control: masker.another(), data: masker, begun: None }
    }

    /// The frame that goes on now, if one does.
    pub(crate) fn clean(&mut self, piece: frame::Piece) -> Option<Vec<u8>> {
        let opcode = piece.head.opcode;
        if opcode.is_control() {
            // Small, and whole.
            let mut payload = BytesMut::from(&self.control.pass(piece.payload.freeze())[..]);
            payload.extend_from_slice(&self.control.flush());
            return Some(frame(true, opcode, None, &payload));
        }
        if opcode != Opcode::Continuation && !piece.written.is_empty() {
            self.begun = Some(opcode);
        }
        let ends = piece.ends && piece.head.last;
        let mut payload = BytesMut::from(&self.data.pass(piece.payload.freeze())[..]);
        if ends {
            payload.extend_from_slice(&self.data.flush());
        }
        if payload.is_empty() && !ends {
            return None;
        }
        let opcode = self.begun.take().unwrap_or(Opcode::Continuation);
        Some(frame(ends, opcode, None, &payload))
    }
}

/// Where frames go, and whether what went there ends with one.
struct Out<W> {
    to: W,
    whole: bool,
}

impl<W: AsyncWrite + Unpin> Out<W> {
    fn new(to: W) -> Self {
        Self { to, whole: true }
    }

    /// A frame, or some of it.
    async fn piece(&mut self, written: &[u8], payload: &[u8], ends: bool) -> io::Result<()> {
        self.whole = false;
        self.to.write_all(written).await?;
        self.to.write_all(payload).await?;
        self.to.flush().await?;
        self.whole = ends;
        Ok(())
    }

    /// Says why it ends, where a frame may be written, and closes.
    async fn close(&mut self, end: &End, mask: Option<[u8; 4]>) {
        if let (true, Some((code, why))) = (self.whole, said(end)) {
            let mut payload = code.to_be_bytes().to_vec();
            payload.extend(why.as_bytes());
            // It is going away: that it cannot be told is no news.
            let _ = self.piece(&frame(true, Opcode::Close, mask, &payload), &[], true).await;
        }
        let _ = self.to.shutdown().await;
    }
}

/// The close code of RFC 6455 §7.4.1 and what it is about; none where the other side's own words went through, or where
/// nobody is left to hear it. At most 123 bytes.
fn said(end: &End) -> Option<(u16, &'static str)> {
    Some(match end {
        End::Broken | End::Closed => return None,
        End::Draining => (1001, "this gateway is going down: open it again"),
        End::Forbidden(why) => (1008, why),
        End::Malformed(why) => (1002, why),
        End::TooLong => {
            (1001, "the policy's time for one WebSocket is over: open another if it is needed")
        }
        End::TooMuch => (1009, "more than the policy lets through one WebSocket"),
        End::Tripped(_) => (1008, "a key was where none is replaced"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_into_a_control_frame() {
        let ends = [
            End::Draining,
            End::Forbidden("the key that it was opened with is no longer in use"),
            End::Malformed("a message that begins within another, or goes on without one"),
            End::Malformed("a frame that is masked and should not be, or the other way round"),
            End::TooLong,
            End::TooMuch,
            End::Tripped(0),
        ];
        for end in ends {
            let (code, why) = said(&end).expect("it is said");
            assert!((1001..=1009).contains(&code) && why.len() <= 123, "{end:?}");
        }
        assert_eq!(said(&End::Closed), None);
    }

    /// The messages in these frames, joined, and the control frames between them.
    fn messages(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut reader = Frames::new(false, false);
        let mut read = BytesMut::from(&frames.concat()[..]);
        let (mut done, mut now) = (Vec::new(), Vec::new());
        while let Some(piece) = reader.next(&mut read).expect("frames") {
            if piece.head.opcode.is_control() {
                done.push(piece.payload.to_vec());
                continue;
            }
            now.extend_from_slice(&piece.payload);
            if piece.ends && piece.head.last {
                done.push(std::mem::take(&mut now));
            }
        }
        assert!(read.is_empty() && now.is_empty());
        done
    }

    fn cleaned(frames: &[Vec<u8>], size: usize) -> Vec<Vec<u8>> {
        let redactor = Redactor::new(&[b"tk_REAL_0123456789"]);
        let mut cleaner = Cleaner::new(redactor.masker().expect("a key"));
        let mut reader = Frames::new(false, false);
        let (mut read, mut out) = (BytesMut::new(), Vec::new());
        for chunk in frames.concat().chunks(size) {
            read.extend_from_slice(chunk);
            while let Some(piece) = reader.next(&mut read).expect("frames") {
                out.extend(cleaner.clean(piece));
            }
        }
        out
    }

    #[test]
    fn a_key_is_masked_across_fragments_and_messages_keep_their_ends() {
        for size in [1, 2, 3, 7, 1000] {
            let frames = [
                frame(false, Opcode::Text, None, b"before tk_REAL"),
                frame(true, Opcode::Ping, None, b"tk_REAL_0123456789"),
                frame(false, Opcode::Continuation, None, b"_01234"),
                frame(true, Opcode::Continuation, None, b"56789 after tk_"),
                frame(true, Opcode::Binary, None, b"plain"),
            ];
            let out = cleaned(&frames, size);
            assert_eq!(
                messages(&out),
                [
                    b"******************".to_vec(),
                    b"before ****************** after tk_".to_vec(),
                    b"plain".to_vec()
                ],
                "in pieces of {size}"
            );
            assert_eq!(out.first().map(|frame| frame[0]), Some(0x01), "text that goes on");
        }
    }

    #[test]
    fn an_empty_message_stays_one() {
        let out = cleaned(&[frame(true, Opcode::Text, None, b"")], 10);
        assert_eq!(out, [frame(true, Opcode::Text, None, b"")]);
    }

    #[test]
    fn a_whole_frame_stays_one_frame_whatever_it_ends_with() {
        let out = cleaned(&[frame(true, Opcode::Text, None, b"ends like a key: tk_REAL")], 3);
        assert_eq!(out, [frame(true, Opcode::Text, None, b"ends like a key: tk_REAL")]);
    }

    #[test]
    fn the_rest_of_a_key_that_began_in_another_message_is_masked() {
        let frames = [
            frame(true, Opcode::Text, None, b"tk_REAL_012345"),
            frame(true, Opcode::Text, None, b"6789"),
        ];
        assert_eq!(messages(&cleaned(&frames, 50))[1], b"****");
    }

    #[test]
    fn a_large_frame_goes_on_in_pieces_with_its_key_masked() {
        let mut payload = vec![b'x'; 200_000];
        payload[131_060..131_078].copy_from_slice(b"tk_REAL_0123456789");
        let out = cleaned(&[frame(true, Opcode::Binary, None, &payload)], 4096);
        assert!(out.len() > 3, "it did not wait for all of it");
        payload[131_060..131_078].fill(b'*');
        assert!(messages(&out) == [payload]);
    }
}
