//! One session after another: attach, say hello, announce what is held, then read and write until it ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use countersign_gate::{Decision, Trust};
use countersign_proto::v1 as pb;
use countersign_proto::v1::gateway_service_client::GatewayServiceClient;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status, Streaming};

use super::{Answer, Control, Kept, Link, Out, RequestId, lock, wire};
use crate::bundle::{Bundle, InForce};
use crate::{clock, config};

/// DSSE payload type of an edge bundle.
const BUNDLE_TYPE: &str = "application/vnd.countersign.edge-bundle.v1";
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A control plane that takes nothing in for this long has lost us.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
const LARGEST_MESSAGE: usize = 4 * 1024 * 1024;

/// Where the control plane is, and who we are to it.
pub(super) struct Dialler {
    endpoints: Vec<Endpoint>,
    root_key: [u8; 32],
}

impl Dialler {
    pub(super) fn new(
        gateway: config::Gateway,
        identity: &config::Identity,
    ) -> anyhow::Result<Self> {
        let endpoint = |address: &String| {
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(&gateway.ca_pem))
                .identity(Identity::from_pem(
                    &identity.certificate_pem,
                    identity.key_pem.as_bytes(),
                ))
                .domain_name(&gateway.server_name);
            Endpoint::from_shared(format!("https://{address}"))
                .and_then(|endpoint| endpoint.tls_config(tls))
                .map(|endpoint| {
                    endpoint
                        .connect_timeout(Duration::from_secs(3))
                        .tcp_nodelay(true)
                        .http2_keep_alive_interval(Duration::from_secs(10))
                        .keep_alive_timeout(Duration::from_secs(5))
                        .keep_alive_while_idle(true)
                })
                .with_context(|| format!("the control plane's address {address}"))
        };
        let endpoints =
            gateway.addresses.iter().map(endpoint).collect::<anyhow::Result<Vec<_>>>()?;
        if endpoints.is_empty() {
            bail!("no address of the control plane");
        }
        Ok(Self { endpoints, root_key: gateway.root_key })
    }
}

/// Keeps a session up, or tries to, until `stop`.
pub(super) async fn keep_attached(
    control: Arc<Control>,
    dialler: Dialler,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    for endpoint in dialler.endpoints.iter().cycle() {
        let attached = stop
            .run_until_cancelled(attach(&control, endpoint, &dialler.root_key, &mut pause))
            .await;
        let Some(Err(ended)) = attached else { break };
        let link = if is_sealed(&ended) { Link::Sealed } else { Link::Down };
        let before = control.link.send_replace(link);
        control.metrics.attached.set(0);
        if before != link {
            tracing::warn!(why = format!("{ended:#}"), "the session with the control plane ended");
        }
        let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
        if stop.run_until_cancelled(tokio::time::sleep(jittered)).await.is_none() {
            break;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    control.link.send_replace(Link::Down);
}

fn is_sealed(ended: &anyhow::Error) -> bool {
    let status = ended.chain().find_map(|cause| cause.downcast_ref::<Status>());
    status.is_some_and(|status| {
        status.code() == Code::Unavailable && status.message().starts_with("sealed")
    })
}

/// One session, from its beginning to its end. It never ends well: `Ok` cannot be.
async fn attach(
    control: &Arc<Control>,
    endpoint: &Endpoint,
    root_key: &[u8; 32],
    pause: &mut Duration,
) -> anyhow::Result<std::convert::Infallible> {
    let channel = endpoint.connect().await.context("connecting to the control plane")?;
    let (mut writer, outgoing) = Writer::new();
    writer.write(hello(control)).await?;
    let mut incoming = subscribe(channel, outgoing).await?;

    let first = tokio::time::timeout(HELLO_PATIENCE, incoming.message())
        .await
        .context("no answer to hello")??;
    let Some((sequence, pb::attach_response::Message::HelloAck(ack))) =
        first.and_then(|first| Some((first.sequence, first.message?)))
    else {
        bail!("the control plane began with something other than HelloAck");
    };
    let names = accept(control, ack, root_key)?;
    writer.taken_in.store(sequence, Ordering::Relaxed);
    let taken_in = Arc::clone(&writer.taken_in);
    let acknowledged = Arc::clone(&writer.acknowledged);

    announce_all(control);
    control.link.send_replace(Link::Attached);
    control.metrics.attached.set(1);
    *pause = FIRST_PAUSE;
    tracing::info!(edge = names.edge, cluster = names.cluster, "attached to the control plane");

    let mut unacknowledged = VecDeque::new();
    let ended = tokio::select! {
        ended = write(control, &mut writer, &mut unacknowledged) => ended,
        ended = read(control, &mut incoming, &names, &taken_in, &acknowledged) => ended,
    };
    // What the control plane may not have taken in goes out again in the next session, before anything newer.
    let mut outbox = lock(&control.outbox);
    for (_, kept) in unacknowledged.into_iter().rev() {
        outbox.push_front(Out::Kept(kept));
    }
    ended
}

async fn subscribe(
    channel: Channel,
    outgoing: mpsc::Receiver<pb::AttachRequest>,
) -> anyhow::Result<Streaming<pb::AttachResponse>> {
    let mut client = GatewayServiceClient::new(channel)
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE);
    let attached =
        tokio::time::timeout(HELLO_PATIENCE, client.attach(ReceiverStream::new(outgoing)));
    Ok(attached.await.context("no answer to attaching")?.context("attaching")?.into_inner())
}

fn hello(control: &Control) -> pb::attach_request::Message {
    let ids = |ids: &mut dyn Iterator<Item = &RequestId>| {
        ids.map(|id| Bytes::copy_from_slice(id)).collect()
    };
    pb::attach_request::Message::Hello(pb::EdgeHello {
        incarnation: Bytes::copy_from_slice(&control.incarnation.id),
        hpke_public_key: Bytes::copy_from_slice(&control.incarnation.public),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        held_request_ids: ids(&mut lock(&control.held).keys()),
        settled_request_ids: ids(&mut lock(&control.settled).order.iter()),
        ..Default::default()
    })
}

/// The names of a session.
struct Names {
    cluster: String,
    org: String,
    edge: String,
}

/// Checks the trust bundle against the pinned root key and puts it in force.
fn accept(control: &Control, ack: pb::HelloAck, root_key: &[u8; 32]) -> anyhow::Result<Names> {
    let signed = wire::signed(ack.trust_bundle.context("HelloAck without a trust bundle")?)?;
    let mut known = lock(&control.trust);
    let trust = Trust::accept(&signed, root_key, known.as_deref())
        .map_err(|why| anyhow::anyhow!("the trust bundle is refused: {why:?}"))?;
    if trust.cluster != ack.cluster_id {
        bail!(
            "the control plane says it is cluster {}, but its trust bundle is of {}",
            ack.cluster_id,
            trust.cluster
        );
    }
    *known = Some(Arc::new(trust));
    Ok(Names { cluster: ack.cluster_id, org: ack.org_id, edge: ack.edge_id })
}

/// Whatever is still held goes to the front of the outbox, and leases are asked for anew.
fn announce_all(control: &Control) {
    let wanted = control.leases.wanted();
    // Locked before what is held is read: a request that is opened meanwhile queues behind, at worst a second time.
    let mut outbox = lock(&control.outbox);
    let held: Vec<RequestId> = lock(&control.held).keys().copied().collect();
    outbox.retain(|out| matches!(out, Out::Kept(_)));
    for request_id in held {
        outbox.push_back(Out::Open(request_id));
    }
    for (credential_id, agent_id) in wanted {
        outbox.push_back(Out::Lease { credential_id, agent_id });
    }
    drop(outbox);
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
) -> anyhow::Result<std::convert::Infallible> {
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
            Out::Kept(kept) => {
                let message = match kept.clone() {
                    Kept::Alarm(alarm) => Message::Alarm(alarm),
                    Kept::Cancelled(cancelled) => Message::HeldCancelled(cancelled),
                    Kept::Receipt(receipt) => Message::ExecutionReceipt(receipt),
                };
                // Kept before it is written: a session that ends in the middle of it sends it again.
                unacknowledged.push_back((writer.sequence + 1, kept));
                writer.write(message).await?;
            }
            Out::Lease { credential_id, agent_id } => {
                writer
                    .write(Message::LeaseRequest(pb::LeaseRequest { credential_id, agent_id }))
                    .await?;
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
            }
            Out::Pong => {
                writer.write(Message::Pong(pb::Pong { edge_unix_ms: clock::wall_ms() })).await?;
            }
        }
    }
}

async fn read(
    control: &Arc<Control>,
    incoming: &mut Streaming<pb::AttachResponse>,
    names: &Names,
    taken_in: &AtomicU64,
    acknowledged: &AtomicU64,
) -> anyhow::Result<std::convert::Infallible> {
    /// So many messages without a word of ours, and we say which we have taken in.
    const SILENCE: u64 = 64;
    loop {
        let Some(response) = incoming.message().await.context("the session")? else {
            bail!("the control plane closed the session");
        };
        acknowledged.fetch_max(response.acknowledged, Ordering::Relaxed);
        let bundle = matches!(response.message, Some(pb::attach_response::Message::Bundle(_)));
        if let Some(message) = response.message {
            take_in(control, message, names)?;
        }
        let before = taken_in.fetch_max(response.sequence, Ordering::Relaxed);
        // Whoever changed what we decide with is answered once we say that it is in force.
        if bundle || before / SILENCE != response.sequence / SILENCE {
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
) -> anyhow::Result<()> {
    use pb::attach_response::Message;
    let answer = match message {
        Message::HelloAck(_) => bail!("a second HelloAck"),
        Message::Bundle(bundle) => {
            return take_bundle(control, bundle, names)
                .context("a bundle that cannot be put in force");
        }
        Message::Decision(decision) => wire::decision(decision),
        Message::Opened(opened) => wire::opened(&opened),
        Message::Reopen(reopen) => wire::id(&reopen.request_id).map(|id| (id, Answer::Reopen)),
        Message::Settled(settled) => wire::settled(settled),
        Message::Lease(lease) => {
            control.take_lease(lease, &names.cluster, &names.edge);
            return Ok(());
        }
        Message::LeaseRefused(refused) => {
            control.leases.refuse(&refused.credential_id, refused.detail);
            return Ok(());
        }
        Message::Evicted(evicted) => {
            tracing::error!(
                reason = evicted.reason,
                "this edge was evicted: nothing is forwarded any more"
            );
            control.in_force.send_replace(None);
            control.leases.clear();
            bail!("this edge was evicted");
        }
        Message::Ping(_) => {
            control.push(Out::Pong);
            return Ok(());
        }
        Message::TrustBundle(_) => {
            return Ok(());
        }
    };
    match answer {
        Ok((request_id, answer)) => deliver(control, request_id, answer),
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

/// Verifies a bundle and puts it in force. An older one than that in force is refused.
fn take_bundle(control: &Control, bundle: pb::EdgeBundle, names: &Names) -> anyhow::Result<()> {
    let signed = wire::signed(bundle.envelope.context("a bundle without its envelope")?)?;
    let trust = control.trust().context("a bundle before any trust")?;
    trust
        .check(&signed, BUNDLE_TYPE)
        .map_err(|why| anyhow::anyhow!("it is not signed as it must be: {why:?}"))?;
    let state = pb::EdgeState::decode(signed.payload.as_slice())
        .context("a payload that is no EdgeState")?;
    let known = control.in_force().map(|known| known.bundle.revision);
    match known {
        Some(known) if state.revision < known => {
            bail!("its revision {} is lower than {known}", state.revision)
        }
        Some(known) if state.revision == known => return Ok(()),
        _ => {}
    }
    let bundle = Bundle::new(wire::bundle(state)?)?;
    tracing::info!(
        revision = bundle.revision,
        policy_version = bundle.policy_version,
        "a bundle is in force"
    );
    control.metrics.bundle_revision.set(i64::try_from(bundle.revision).unwrap_or(i64::MAX));
    control.leases.keep(|id, version| {
        bundle.credential(id).is_some_and(|c| c.version == version && c.leasable)
    });
    let Names { cluster, org, edge } = names;
    control.in_force.send_replace(Some(Arc::new(InForce {
        cluster: cluster.clone(),
        org: org.clone(),
        edge: edge.clone(),
        bundle,
    })));
    Ok(())
}
