//! The door for edges: what they hold comes in, what was decided goes out.
//!
//! ```text
//! AttachRequest ─ session ─┬─ spool ─ announced ─ open ─▶ Command::Open ─▶ Opened
//!                          └─ (cancelled, receipt, alarm, lease, what agents ask about their approvals)
//! Committed<Event> ─ session ─ look ─ release ─▶ Command::Claim ─▶ Committed<Claimed> ─ sign, seal ─▶ Decision
//! ```
//!
//! Who an edge is, its certificate says, and nothing else. What an edge says about a request is computed again from the
//! request's own bytes. Nothing is announced or signed before it is committed: what signs takes `&Committed<Event>`.

mod announced;
mod asked;
mod fence;
mod identity;
mod lease;
mod open;
mod release;
mod session;
mod shown;
mod spool;
mod waiting;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_proto::v1;
use countersign_proto::v1::gateway_service_server::{GatewayService, GatewayServiceServer};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::{Cluster, Committed};
use crate::mint::Minter;
use crate::sign::Signer;
use crate::state::{Actor, Event, State};
use crate::vault::Vault;
use fence::Fences;
use session::Session;

/// Serves edges. Clones are the same intake.
#[derive(Clone)]
pub struct Intake {
    rooms: Arc<Rooms>,
}

/// What operators choose.
#[derive(Clone, Debug)]
pub struct IntakeSettings {
    /// The largest body that can be held, bytes.
    pub max_body_bytes: u64,
    /// How many requests one edge may have waiting.
    pub max_waiting: usize,
    /// How many approvals of one agent may wait for people at once.
    pub max_pending_per_agent: u32,
}

impl Default for IntakeSettings {
    fn default() -> Self {
        Self { max_body_bytes: 8 * 1024 * 1024, max_waiting: 20_000, max_pending_per_agent: 64 }
    }
}

/// An edge that is attached right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedEdge {
    pub id: String,
    /// What it says that it runs.
    pub version: String,
    pub incarnation: [u8; 16],
}

/// The rooms behind the door, and who stands in it.
struct Rooms {
    cluster: Cluster,
    vault: Arc<Vault>,
    signer: Arc<Signer>,
    minter: Arc<Minter>,
    settings: IntakeSettings,
    attached: Mutex<HashMap<String, Attached>>,
    /// Changes when an edge takes a bundle in, or leaves.
    moved: watch::Sender<()>,
    closing: CancellationToken,
    /// Whether this node cannot read the state: nothing that is decided elsewhere reaches it.
    stranded: watch::Sender<bool>,
    fences: Fences,
}

/// The one session that an edge has: a newer one ends it.
struct Attached {
    edge: ConnectedEdge,
    ended: CancellationToken,
    number: u64,
    /// Of the newest bundle that it has put in force.
    revision: u64,
}

/// Messages that wait for an edge to take them in. One that is this far behind is dropped, and attaches again.
const QUEUE: usize = 16_384;
const LARGEST_MESSAGE: usize = 4 * 1024 * 1024;

impl Intake {
    pub fn new(
        cluster: Cluster,
        vault: Arc<Vault>,
        signer: Arc<Signer>,
        minter: Arc<Minter>,
        settings: IntakeSettings,
    ) -> Self {
        let rooms = Rooms {
            cluster,
            vault,
            signer,
            minter,
            settings,
            attached: Mutex::default(),
            moved: watch::Sender::new(()),
            closing: CancellationToken::new(),
            stranded: watch::Sender::new(false),
            fences: Fences::default(),
        };
        Self { rooms: Arc::new(rooms) }
    }

    /// While this node is out of touch with the others, its edges are sent to them.
    pub fn strand(&self, stranded: bool) {
        self.rooms.stranded.send_replace(stranded);
    }

    pub fn into_service(self) -> GatewayServiceServer<Self> {
        GatewayServiceServer::new(self)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    /// Edges that are attached right now, by id.
    pub fn connected_edges(&self) -> Vec<ConnectedEdge> {
        let mut edges: Vec<_> =
            self.rooms.attached().values().map(|attached| attached.edge.clone()).collect();
        edges.sort_by(|a, b| a.id.cmp(&b.id));
        edges
    }

    /// Returns once every attached edge decides with what was committed, so that whoever is answered now can rely on
    /// it there: at once for what edges do not decide with, and after two seconds whatever an edge does.
    pub async fn told(&self, committed: &Committed<Event>) {
        const PATIENCE: Duration = Duration::from_secs(2);
        if !committed.changes_bundle() {
            return;
        }
        // What had no effect made no new bundle.
        let newest = self.rooms.cluster.peek(State::bundle_revision);
        let revision = committed.position().index.min(newest);
        let mut moved = self.rooms.moved.subscribe();
        let all_told = async {
            while self.rooms.attached().values().any(|attached| attached.revision < revision) {
                if moved.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all_told).await.is_err() {
            tracing::warn!(revision, "an attached edge has not taken the newest bundle in yet");
        }
    }

    /// Ends every session, and every one to come: the node is sealed or stops. Edges keep what they hold and attach
    /// again later.
    pub fn close(&self) {
        self.rooms.closing.cancel();
        self.rooms.signer.close();
    }
}

#[tonic::async_trait]
impl GatewayService for Intake {
    type AttachStream = ReceiverStream<Result<v1::AttachResponse, Status>>;

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        let certificates = request.peer_certs();
        let edge = identity::of_peer(certificates.as_deref(), self.rooms.signer.cluster_id())?;
        identity::admit(&self.rooms, &edge).await?;
        let certificate_pem =
            identity::renew(&self.rooms, &edge, &request.get_ref().csr_pem).await?;
        Ok(Response::new(v1::RenewCertificateResponse { certificate_pem }))
    }

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let certificates = request.peer_certs();
        let edge = identity::of_peer(certificates.as_deref(), self.rooms.signer.cluster_id())?;
        identity::admit(&self.rooms, &edge).await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(QUEUE);
        tokio::spawn(Session::new(Arc::clone(&self.rooms), edge, sender).run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Rooms {
    fn attached(&self) -> MutexGuard<'_, HashMap<String, Attached>> {
        // Whoever panicked while holding it left the map whole.
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The actor that an edge's session proposes as.
fn actor(edge: &str) -> Actor {
    Actor::Edge(edge.to_owned())
}
