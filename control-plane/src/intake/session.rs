//! One edge's session, from its Hello to its place among the attached; `attached` goes on from there.

mod attached;
mod news;
mod outbox;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use countersign_proto::v1;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::announced::Caller;
use super::identity::PeerEdge;
use super::release::Recipient;
use super::{Attached, ConnectedEdge, Rooms, actor, fence};
use crate::cluster::ProposeError;
use crate::state::{Command, Position};
use crate::vault::seal_to_edge;
use outbox::Outbox;
use v1::attach_request::Message as In;

/// Before Hello: whose session it will be.
pub(super) struct Session {
    rooms: Arc<Rooms>,
    edge: PeerEdge,
    outbox: Outbox,
}

const HELLO: Duration = Duration::from_secs(10);
const LONGEST_DETAIL: usize = 1000;

impl Session {
    pub(super) fn new(
        rooms: Arc<Rooms>,
        edge: PeerEdge,
        sender: mpsc::Sender<Result<v1::AttachResponse, Status>>,
    ) -> Self {
        Self { rooms, edge, outbox: Outbox::new(sender) }
    }

    /// Serves until either side ends it. The last word is why.
    pub(super) async fn run(self, mut incoming: Streaming<v1::AttachRequest>) {
        let sender = self.outbox.sender();
        let edge = self.edge.id.clone();
        let closing = self.rooms.closing.clone();
        let mut stranded = self.rooms.stranded.subscribe();
        let ended = tokio::select! {
            Err(ended) = self.attach(&mut incoming) => ended,
            () = closing.cancelled() => Status::unavailable("sealed or going down: attach again"),
            Ok(_) = stranded.wait_for(|stranded| *stranded) => {
                Status::unavailable("this node is out of touch with the others: attach to another")
            }
        };
        tracing::info!(edge, why = ended.message(), "an edge's session ended");
        // Nobody may be there to hear it any more.
        drop(sender.try_send(Err(ended)));
    }

    async fn attach(
        mut self,
        incoming: &mut Streaming<v1::AttachRequest>,
    ) -> Result<Infallible, Status> {
        // First, so that nothing is missed between attaching and listening.
        let events = self.rooms.cluster.subscribe();
        let first = timeout(HELLO, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let first = first.ok_or_else(|| Status::cancelled("the edge left before its Hello"))?;
        let sequence = first.sequence;
        self.outbox.take_in(sequence)?;
        let Some(In::Hello(hello)) = first.message else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        let (caller, since) = self.introduce(&hello).await?;
        self.outbox.settle(sequence);
        let bundle = self.rooms.signer.edge_bundle().await;
        let bundle = bundle.map_err(|why| {
            tracing::warn!(edge = self.edge.id, %why, "an edge was sent away: there is no signed bundle");
            Status::unavailable("too few nodes sign what edges decide with: attach again")
        })?;
        let Self { rooms, edge, outbox } = self;
        let ended = CancellationToken::new();
        let place = Place::take(&rooms, &caller, &hello, ended.clone());
        tracing::info!(edge = edge.id, version = hello.version, "an edge attached");
        let recipient = Recipient { caller, hpke_public_key: hello.hpke_public_key.clone() };
        let session = attached::Session::new(place, since, recipient, &hello, outbox, events);
        session.serve(&bundle, incoming, &ended).await
    }

    /// Commits that this process of the edge is the one that counts, and says where that was committed.
    async fn introduce(&self, hello: &v1::EdgeHello) -> Result<(Caller, Position), Status> {
        let incarnation: [u8; 16] = (hello.incarnation.as_ref().try_into())
            .map_err(|_| Status::invalid_argument("Hello: incarnation must be 16 bytes"))?;
        // A key that nothing can be sealed to would be noticed only after a claim.
        seal_to_edge(&hello.hpke_public_key, b"", b"", b"")
            .map_err(|why| Status::invalid_argument(format!("Hello: hpke_public_key: {why}")))?;
        fence::demand_kept(&self.rooms, &self.edge, hello).await?;
        let attach = Command::AttachEdge { id: self.edge.id.clone(), incarnation };
        let attached = match self.rooms.cluster.propose(actor(&self.edge.id), attach).await {
            Ok(attached) => attached,
            Err(ProposeError::Refused(refused)) => {
                return Err(Status::permission_denied(refused.to_string()));
            }
            Err(ProposeError::Unavailable(_)) => return Err(unknown()),
        };
        let signer = &self.rooms.signer;
        let caller = Caller {
            cluster: signer.cluster_id().to_owned(),
            org: signer.org_id().to_owned(),
            edge: self.edge.clone(),
            incarnation,
        };
        Ok((caller, attached.position()))
    }
}

/// An edge's place among the attached; given up when dropped, unless a newer session has it.
struct Place {
    rooms: Arc<Rooms>,
    edge: String,
    number: u64,
}

impl Place {
    fn take(
        rooms: &Arc<Rooms>,
        caller: &Caller,
        hello: &v1::EdgeHello,
        ended: CancellationToken,
    ) -> Self {
        let edge = caller.edge.id.clone();
        let connected = ConnectedEdge {
            id: edge.clone(),
            version: clipped(hello.version.clone()),
            incarnation: caller.incarnation,
        };
        let mut attached = rooms.attached();
        let number = attached.get(&edge).map_or(0, |former| former.number + 1);
        let former =
            attached.insert(edge.clone(), Attached { edge: connected, ended, number, revision: 0 });
        drop(attached);
        if let Some(former) = former {
            former.ended.cancel();
        }
        Self { rooms: Arc::clone(rooms), edge, number }
    }

    /// The edge has put the bundle of this revision in force.
    fn put_in_force(&self, revision: u64) {
        if let Some(attached) = self.rooms.attached().get_mut(&self.edge)
            && attached.number == self.number
        {
            attached.revision = revision;
        }
        self.rooms.moved.send_replace(());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut attached = self.rooms.attached();
        if attached.get(&self.edge).is_some_and(|current| current.number == self.number) {
            attached.remove(&self.edge);
        }
        drop(attached);
        self.rooms.moved.send_replace(());
    }
}

fn clipped(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST_DETAIL));
    text
}

/// Nothing may be told as if it were known; the next session finds out.
fn unknown() -> Status {
    Status::unavailable("the outcome of something is unknown: attach again")
}
