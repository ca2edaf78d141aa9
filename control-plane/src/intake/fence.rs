//! What an edge has seen committed must be committed still: a cluster that lost it was rolled back.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use countersign_proto::v1;
use tonic::Status;

use super::identity::PeerEdge;
use super::{Rooms, actor};
use crate::state::{Command, State};

/// Process starts of edges that raised the alarm, so that each does so once.
#[derive(Default)]
pub(super) struct Fences {
    alarmed: Mutex<BTreeSet<Vec<u8>>>,
}

const ALARMS: usize = 1024;

/// Refuses an edge that knows more than this cluster: its approvals may have been used before. The log's position is
/// read up to date, so a node that merely lags is not taken for one that lost something.
pub(super) async fn demand_kept(
    rooms: &Rooms,
    edge: &PeerEdge,
    hello: &v1::EdgeHello,
) -> Result<(), Status> {
    let position = rooms
        .cluster
        .read(State::position)
        .await
        .map_err(|_| Status::unavailable("the state cannot be read now; attach again"))?;
    let seen = hello.fence_index.max(hello.bundle_revision);
    let epoch = rooms.signer.trust_bundle().map_or(0, |(epoch, _)| epoch);
    if position.index >= seen && position.term >= hello.fence_term && epoch >= hello.trust_epoch {
        return Ok(());
    }
    let end = |term, index, epoch| format!("{term}.{index}, trust bundle {epoch}");
    let here = end(position.term, position.index, epoch);
    let there = end(hello.fence_term, seen, hello.trust_epoch);
    tracing::error!(
        edge = edge.id,
        here,
        there,
        "ALARM: an edge has seen more committed than this cluster has: the cluster was rolled back"
    );
    if rooms.fences.is_first(&hello.incarnation) {
        let details =
            vec![("edge_saw".to_owned(), there.clone()), ("committed".to_owned(), here.clone())];
        let note = Command::Note {
            action: "cluster.rolled_back".into(),
            subject: edge.id.clone(),
            details,
        };
        if let Err(why) = rooms.cluster.propose(actor(&edge.id), note).await {
            tracing::error!(%why, "and that was perhaps not recorded");
        }
    }
    Err(Status::failed_precondition(format!(
        "rolled back: this cluster's log ends at {here}, and this edge has seen {there}; \
         find out what was lost, then restart the edge"
    )))
}

impl Fences {
    fn is_first(&self, incarnation: &[u8]) -> bool {
        let mut alarmed = self.alarmed.lock().unwrap_or_else(PoisonError::into_inner);
        if alarmed.len() >= ALARMS {
            alarmed.clear();
        }
        alarmed.insert(incarnation.to_vec())
    }
}
