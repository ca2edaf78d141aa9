//! One session: hello, what is held is announced, then reading and writing until it ends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use countersign_gate::Decision;
use countersign_proto::v1 as pb;
use countersign_proto::v1::gateway_service_client::GatewayServiceClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::unanswered::{Asked, Unanswered};
use super::{Alarm, Answer, Control, Kept, NotLeased, Out, RequestId, lock, wire};

/// A control plane that takes nothing in for this long has lost us.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// One that says nothing for this long as well: it pings every 15 seconds.
const SILENCE: Duration = Duration::from_secs(60);
const LARGEST_MESSAGE: usize = 4 * 1024 * 1024;

/// A session after its HelloAck.
pub(super) struct Session {
    writer: Writer,
    incoming: Streaming<pb::AttachResponse>,
    names: Names,
}

/// The names of a session.
#[derive(Clone)]
pub(super) struct Names {
    pub(super) cluster: String,
    pub(super) org: String,
    pub(super) edge: String,
}

/// Why a node that answers is left.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("this edge was evicted: {0}")]
    Evicted(String),
    /// What it says cannot be worked with.
    #[error("{0}")]
    Unusable(String),
}

impl Session {
    /// Says hello and hears the answer: the session, and where the node says that all of them are.
    ///
    /// # Errors
    /// A [`Fault`], the node's own status, or what became of the connection.
    pub(super) async fn begin(
        control: &Control,
        channel: Channel,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        use pb::attach_response::Message;
        let (mut writer, outgoing) = Writer::new();
        writer.write(hello(control)).await?;
        let mut incoming = subscribe(channel, outgoing).await?;
        let first = incoming.message().await.context("the answer to Hello")?;
        let (sequence, ack) = match first.map(|first| (first.sequence, first.message)) {
            Some((sequence, Some(Message::HelloAck(ack)))) => (sequence, ack),
            Some((_, Some(Message::Evicted(evicted)))) => bail!(Fault::Evicted(evicted.reason)),
            _ => bail!(Fault::Unusable("it began with something other than HelloAck".into())),
        };
        let named = wire::addresses(&ack.gateway_addresses);
        let names = accept(control, ack).map_err(|why| Fault::Unusable(format!("{why:#}")))?;
        writer.taken_in.store(sequence, Ordering::Relaxed);
        Ok((Self { writer, incoming, names }, named))
    }

    /// Announces what is held, then reads and writes. It never ends well: `Ok` cannot be.
    pub(super) async fn serve(self, control: &Arc<Control>) -> anyhow::Result<Infallible> {
        let Self { mut writer, mut incoming, names } = self;
        announce_all(control);
        let (taken_in, acknowledged) =
            (Arc::clone(&writer.taken_in), Arc::clone(&writer.acknowledged));
        let mut unacknowledged = Unacknowledged { control, messages: VecDeque::new() };
        let unanswered = Unanswered::new();
        tokio::select! {
            ended = write(control, &mut writer, &mut unacknowledged.messages, &unanswered) => ended,
            ended = read(control, &mut incoming, &names, &unanswered, &taken_in, &acknowledged) => ended,
            () = unanswered.too_long() => {
                Err(Fault::Unusable("it answers nothing that is announced to it".into()).into())
            }
        }
    }
}

/// What the control plane may not have taken in. However the session ends, it goes out again in the next one, before
/// anything newer.
struct Unacknowledged<'a> {
    control: &'a Control,
    messages: VecDeque<(u64, Kept)>,
}

impl Drop for Unacknowledged<'_> {
    fn drop(&mut self) {
        let mut outbox = lock(&self.control.outbox);
        for (_, kept) in self.messages.drain(..).rev() {
            outbox.push_front(Out::Kept(kept));
        }
    }
}

async fn subscribe(
    channel: Channel,
    outgoing: mpsc::Receiver<pb::AttachRequest>,
) -> anyhow::Result<Streaming<pb::AttachResponse>> {
    let mut client = GatewayServiceClient::new(channel)
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE);
    let attached = client.attach(ReceiverStream::new(outgoing)).await.context("attaching")?;
    Ok(attached.into_inner())
}

fn hello(control: &Control) -> pb::attach_request::Message {
    let ids = |ids: &mut dyn Iterator<Item = &RequestId>| {
        ids.map(|id| Bytes::copy_from_slice(id)).collect()
    };
    let floor = control.verified.floor();
    pb::attach_request::Message::Hello(pb::EdgeHello {
        incarnation: Bytes::copy_from_slice(&control.incarnation.id),
        hpke_public_key: Bytes::copy_from_slice(&control.incarnation.public),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        held_request_ids: ids(&mut lock(&control.held).keys()),
        settled_request_ids: ids(&mut lock(&control.settled).order.iter()),
        fence_term: floor.fence.0,
        fence_index: floor.fence.1,
        bundle_revision: floor.bundle_revision,
        trust_epoch: control.trust().map_or(0, |trust| trust.epoch),
    })
}

/// Puts the session's trust bundle in force, if it counts.
fn accept(control: &Control, ack: pb::HelloAck) -> anyhow::Result<Names> {
    let trust = control.take_trust(ack.trust_bundle.context("HelloAck without a trust bundle")?)?;
    if trust.cluster != ack.cluster_id {
        bail!(
            "the control plane says it is cluster {}, but its trust bundle is of {}",
            ack.cluster_id,
            trust.cluster
        );
    }
    Ok(Names { cluster: ack.cluster_id, org: ack.org_id, edge: ack.edge_id })
}

/// Whatever is still held is announced, and leases and agents' approvals are asked for anew. From when on the link is up, leases are asked for
/// in the outbox as well: what is asked for in between is asked for twice, rather than not at all.
fn announce_all(control: &Control) {
    // Locked before what is held is read: a request that is opened meanwhile queues behind, at worst a second time.
    let mut outbox = lock(&control.outbox);
    let held: Vec<RequestId> = lock(&control.held).keys().copied().collect();
    outbox.retain(|out| matches!(out, Out::Kept(_)));
    for request_id in held {
        outbox.push_back(Out::Open(request_id));
    }
    drop(outbox);
    for ask_id in control.asks.open() {
        control.push(Out::Ask(ask_id));
    }
    for (credential_id, agent_id) in control.leases.wanted() {
        control.push(Out::Lease { credential_id, agent_id });
    }
    control.outbox_filled.notify_one();
}

/// Numbers what is sent.
struct Writer {
    wire: mpsc::Sender<pb::AttachRequest>,
    sequence: u64,
    /// The highest number that we have taken in, which is sent along.
    taken_in: Arc<AtomicU64>,
    /// The highest number that the control plane has taken in.
    acknowledged: Arc<AtomicU64>,
}

impl Writer {
    fn new() -> (Self, mpsc::Receiver<pb::AttachRequest>) {
        let (wire, outgoing) = mpsc::channel(64);
        (
            Self { wire, sequence: 0, taken_in: Arc::default(), acknowledged: Arc::default() },
            outgoing,
        )
    }

    async fn write(&mut self, message: pb::attach_request::Message) -> anyhow::Result<u64> {
        self.sequence += 1;
        let acknowledged = self.taken_in.load(Ordering::Relaxed);
        let request =
            pb::AttachRequest { sequence: self.sequence, acknowledged, message: Some(message) };
        self.wire
            .send_timeout(request, WRITE_PATIENCE)
            .await
            .context("the control plane takes nothing in")?;
        Ok(self.sequence)
    }
}

async fn write(
    control: &Control,
    writer: &mut Writer,
    unacknowledged: &mut VecDeque<(u64, Kept)>,
    unanswered: &Unanswered,
) -> anyhow::Result<Infallible> {
    use pb::attach_request::Message;
    loop {
        let acknowledged = writer.acknowledged.load(Ordering::Relaxed);
        while unacknowledged.front().is_some_and(|(sequence, _)| *sequence <= acknowledged) {
            unacknowledged.pop_front();
        }
        let next = lock(&control.outbox).pop_front();
        let Some(out) = next else {
            control.outbox_filled.notified().await;
            continue;
        };
        match out {
            Out::Ask(ask_id) => {
                let Some(ask) = control.asks.message(ask_id) else { continue };
                writer.write(Message::AskApprovals(ask)).await?;
            }
            Out::Kept(kept) => {
                let message = match kept.clone() {
                    Kept::Alarm(alarm) => Message::Alarm(alarm),
                    Kept::Cancelled(cancelled) => Message::HeldCancelled(cancelled),
                    Kept::Receipt(receipt) => Message::ExecutionReceipt(receipt),
                };
                if let Message::HeldCancelled(cancelled) = &message {
                    let request_id = wire::id(&cancelled.request_id)?;
                    unanswered.cancelled(&Asked::Open(request_id));
                }
                // Kept before it is written: a session that ends in the middle of it sends it again.
                unacknowledged.push_back((writer.sequence + 1, kept));
                writer.write(message).await?;
            }
            Out::Lease { credential_id, agent_id } => {
                let asked = Asked::Lease { credential_id: credential_id.clone() };
                writer
                    .write(Message::LeaseRequest(pb::LeaseRequest { credential_id, agent_id }))
                    .await?;
                unanswered.asked(asked);
            }
            Out::Open(request_id) => {
                let entry = lock(&control.held)
                    .get(&request_id)
                    .map(|e| (Arc::clone(&e.head), e.body.clone()));
                let Some((head, body)) = entry else { continue };
                writer.write(Message::OpenHead(pb::OpenHead::clone(&head))).await?;
                for piece in wire::open_body(request_id, &body) {
                    writer.write(Message::OpenBody(piece)).await?;
                }
                unanswered.asked(Asked::Open(request_id));
            }
            Out::Pong => {
                writer
                    .write(Message::Pong(pb::Pong { edge_unix_ms: control.clock.wall_ms() }))
                    .await?;
            }
        }
    }
}

async fn read(
    control: &Arc<Control>,
    incoming: &mut Streaming<pb::AttachResponse>,
    names: &Names,
    unanswered: &Unanswered,
    taken_in: &AtomicU64,
    acknowledged: &AtomicU64,
) -> anyhow::Result<Infallible> {
    /// So many messages without a word of ours, and we say which we have taken in.
    const WITHOUT_A_WORD: u64 = 64;
    let mut confirmed = false;
    loop {
        let said = timeout(SILENCE, incoming.message()).await;
        let said = said.context("the control plane is silent")?.context("the session")?;
        let Some(response) = said else { bail!("the control plane closed the session") };
        acknowledged.fetch_max(response.acknowledged, Ordering::Relaxed);
        let bundle = matches!(response.message, Some(pb::attach_response::Message::Bundle(_)));
        if let Some(message) = response.message {
            take_in(control, message, names, unanswered)?;
        }
        confirmed |= bundle;
        control.freshness.heard(confirmed);
        let before = taken_in.fetch_max(response.sequence, Ordering::Relaxed);
        // Whoever changed what we decide with is answered once we say that it is in force.
        if bundle || before / WITHOUT_A_WORD != response.sequence / WITHOUT_A_WORD {
            control.push(Out::Pong);
        }
    }
}

/// # Errors
/// What makes the session useless; a message that cannot be read is logged and passed over.
fn take_in(
    control: &Arc<Control>,
    message: pb::attach_response::Message,
    names: &Names,
    unanswered: &Unanswered,
) -> anyhow::Result<()> {
    use pb::attach_response::Message;
    let answer = match message {
        Message::HelloAck(_) => bail!("a second HelloAck"),
        Message::Bundle(bundle) => {
            return control.take_bundle(bundle, names).map_err(|why| {
                Fault::Unusable(format!("its bundle is not put in force: {why:#}")).into()
            });
        }
        Message::Decision(decision) => wire::decision(decision),
        Message::Opened(opened) => wire::opened(&opened),
        Message::ApprovalsAnswer(answer) => {
            control.asks.answered(answer);
            return Ok(());
        }
        Message::Reopen(reopen) => wire::id(&reopen.request_id).map(|id| (id, Answer::Reopen)),
        Message::Settled(settled) => wire::settled(settled),
        Message::Lease(lease) => {
            if let Some(sealed) = &lease.sealed {
                let credential_id = sealed.credential_id.clone();
                unanswered.answered(&Asked::Lease { credential_id });
            }
            control.take_lease(lease, &names.cluster, &names.edge);
            return Ok(());
        }
        Message::LeaseRefused(refused) => {
            let credential_id = refused.credential_id.clone();
            unanswered.answered(&Asked::Lease { credential_id });
            let now_ms = control.clock.boottime_ms();
            let why = if refused.for_now { NotLeased::NoToken } else { NotLeased::Refused };
            control.leases.refuse(&refused.credential_id, why(refused.detail), now_ms);
            return Ok(());
        }
        Message::Evicted(evicted) => bail!(Fault::Evicted(evicted.reason)),
        Message::Ping(ping) => {
            if let Some(skew_ms) = control.freshness.told_time(ping.log_time_unix_ms) {
                let detail = format!(
                    "its clock is {} seconds off the control plane's: until it is set right, nothing is held and no \
                     key is lent here",
                    skew_ms / 1_000
                );
                control.alarm(Alarm::of_the_edge("clock_off", detail));
            }
            control.push(Out::Pong);
            return Ok(());
        }
        Message::RenewNow(_) => {
            control.renewal_asked.send_replace(true);
            return Ok(());
        }
        Message::Nodes(nodes) => {
            *lock(&control.named) = wire::addresses(&nodes.addresses);
            return Ok(());
        }
        Message::TrustBundle(envelope) => {
            // What is wrong with it was said; the one in force stays, and the session with it.
            let _ = control.take_trust(envelope);
            return Ok(());
        }
    };
    match answer {
        Ok((request_id, answer)) => {
            unanswered.answered(&Asked::Open(request_id));
            deliver(control, request_id, answer)
        }
        Err(why) => {
            tracing::error!(why = format!("{why:#}"), "a message that cannot be read");
            Ok(())
        }
    }
}

fn deliver(control: &Control, request_id: RequestId, answer: Answer) -> anyhow::Result<()> {
    let held = lock(&control.held);
    let Some(entry) = held.get(&request_id) else {
        drop(held);
        if let Answer::Signed { signed, .. } = answer {
            // Only read for whom it was; what follows from it needs no authority.
            let approval_id =
                Decision::decode(&signed.payload).ok().and_then(|decision| decision.approval_id);
            control.orphan(request_id, approval_id);
        }
        return Ok(());
    };
    match entry.answers.try_send(Box::new(answer)) {
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        // Rather the session than the decision: the next one brings it again.
        Err(mpsc::error::TrySendError::Full(_)) => bail!("a held request takes no more answers"),
    }
}
