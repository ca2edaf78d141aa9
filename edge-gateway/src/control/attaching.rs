//! From a list of nodes to a session with one of them, and to the next one when it ends.

use std::convert::Infallible;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::nodes::{self, Nodes, Word};
use super::session::{Fault, Session};
use super::{Answer, Control, Link, Reason, lock, renewal};
use crate::config;

/// How the control plane is dialled.
pub(super) struct Dialler {
    /// None: a node's certificate names the host that it was dialled at.
    server_name: Option<String>,
}

impl Dialler {
    /// # Errors
    /// No address, or one that cannot be dialled.
    pub(super) fn new(
        gateway: config::Gateway,
        control: &Control,
    ) -> anyhow::Result<(Self, Nodes)> {
        let config::Gateway { addresses, server_name, .. } = gateway;
        let dialler = Self { server_name };
        for address in &addresses {
            dialler.endpoint(control, address)?;
        }
        if addresses.is_empty() {
            bail!("no address of the control plane");
        }
        Ok((dialler, Nodes::new(addresses)))
    }

    fn endpoint(&self, control: &Control, address: &str) -> anyhow::Result<Endpoint> {
        let name = self.server_name.as_deref().unwrap_or_else(|| nodes::host(address));
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(control.authorities.pem()))
            .identity(control.passport.for_tls())
            .domain_name(name);
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .with_context(|| format!("the control plane's address {address}"))?;
        // A node that is gone without a word is noticed within five seconds.
        Ok(endpoint
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true))
    }
}

/// How long a node may take to be connected to, and to answer: longer once all of them were tried in vain.
struct Patience {
    connect: Duration,
    hello: Duration,
}

impl Patience {
    fn after(rounds: u32) -> Self {
        let times = 1 << rounds.min(2);
        Self {
            connect: Duration::from_millis(1_500) * times,
            hello: Duration::from_secs(3) * times,
        }
    }
}

/// Keeps a session up with one of the nodes, or tries to, until `stop`.
pub(super) async fn keep_attached(
    control: Arc<Control>,
    dialler: Dialler,
    mut nodes: Nodes,
    stop: CancellationToken,
) {
    loop {
        let (address, rounds) = nodes.next();
        let attached = attach(&control, &dialler, &mut nodes, &address, Patience::after(rounds));
        let Some(Err(ended)) = stop.run_until_cancelled(attached).await else { break };
        let named = std::mem::take(&mut *lock(&control.named));
        nodes.learn(&address, named);
        let word = word(&ended);
        let said_before = nodes.heard(&address, word);
        if word == Word::Evicted {
            evicted(&control);
        }
        let before = control.link.send_replace(nodes.link());
        if before == Link::Attached {
            control.freshness.lost();
            control.metrics.attached.set(0);
        }
        if before == Link::Attached || !said_before {
            let why = format!("{ended:#}");
            tracing::warn!(address, why, "no session with this node of the control plane");
        }
        if stop.run_until_cancelled(tokio::time::sleep(nodes.pause())).await.is_none() {
            break;
        }
    }
    control.link.send_replace(Link::Down);
}

/// One node, from the first packet to the end of its session. It never ends well: `Ok` cannot be.
async fn attach(
    control: &Arc<Control>,
    dialler: &Dialler,
    nodes: &mut Nodes,
    address: &str,
    patience: Patience,
) -> anyhow::Result<Infallible> {
    let endpoint = dialler.endpoint(control, address)?;
    let channel = timeout(patience.connect, endpoint.connect()).await;
    let channel = channel.context("it does not take the connection")?.context("connecting")?;
    let begun = timeout(patience.hello, Session::begin(control, channel.clone())).await;
    let (session, named) =
        begun.map_err(|_| Fault::Unusable("it does not answer Hello".into()))??;

    nodes.attached(address, named);
    control.freshness.heard(false);
    control.link.send_replace(Link::Attached);
    control.metrics.attached.set(1);
    tracing::info!(address, "attached to the control plane");
    tokio::select! {
        ended = session.serve(control) => ended,
        never = renewal::keep_renewed(control, channel) => match never {},
    }
}

/// What the end of a session, or of the attempt at one, says about the node.
fn word(ended: &anyhow::Error) -> Word {
    match ended.downcast_ref() {
        Some(Fault::Evicted(_)) => return Word::Evicted,
        Some(Fault::Unusable(_)) => return Word::Unable,
        None => {}
    }
    let status = ended.chain().find_map(|cause| cause.downcast_ref::<Status>());
    match status {
        // A status with a source was made here, of what became of the connection.
        Some(status) if status.source().is_some() => Word::Silent,
        Some(status) if status.code() == Code::PermissionDenied => Word::Evicted,
        Some(status)
            if status.code() == Code::Unavailable && status.message().starts_with("sealed") =>
        {
            Word::Sealed
        }
        Some(_) => Word::Unable,
        None => Word::Silent,
    }
}

/// Everything is refused from now on, whatever was lent is forgotten, and what waits is told.
fn evicted(control: &Control) {
    if control.in_force.send_replace(None).is_some() {
        tracing::error!("this edge was evicted: nothing is forwarded any more");
    }
    control.leases.clear();
    for entry in lock(&control.held).values() {
        let detail = String::new();
        let no = Answer::Settled { reason: Reason::Evicted, approval_id: None, detail };
        // One that has too many answers waiting finds out by itself that nothing is in force.
        let _ = entry.answers.try_send(Box::new(no));
    }
}
