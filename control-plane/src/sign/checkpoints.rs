//! Checkpoints of the audit log: signed by a quorum and committed, so that nobody can drop or rewrite its end later.

use std::sync::Arc;
use std::time::Duration;

use countersign_proto::v1::co_sign_request::Subject;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::SignError;
use super::gather::{Draft, gather};
use super::witness::Witness;
use crate::state::audit::{CHECKPOINT_TYPE, Checkpoint, SignedCheckpoint};
use crate::state::{Actor, Command, Event, KeySignature, State};

/// So many records at most are not signed yet.
const RECORDS: u64 = 256;
/// And none of them for longer than this after the last one.
const QUIET: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(1);

/// Signs the audit log while this node leads.
pub(super) fn keep_signed(witness: Arc<Witness>, stop: CancellationToken) {
    tokio::spawn(async move {
        stop.run_until_cancelled(sign_when_due(&witness)).await;
    });
}

async fn sign_when_due(witness: &Witness) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = (0, Instant::now());
    loop {
        looks.tick().await;
        let (last, signed) = witness.cluster.peek(|state| (last_record(state), last_signed(state)));
        if last != seen.0 {
            seen = (last, Instant::now());
        }
        let due = last >= signed + RECORDS || (last > signed && seen.1.elapsed() >= QUIET);
        if !due || !witness.cluster.is_leader() {
            continue;
        }
        match checkpoint(witness).await {
            Ok(index) => tracing::debug!(index, "the audit log was signed"),
            Err(why) => tracing::warn!(%why, "the newest audit records are not signed"),
        }
    }
}

/// Signs and commits, unless that was done up to the last record already; gives the last one that is signed.
pub(super) async fn checkpoint(witness: &Witness) -> Result<u64, SignError> {
    let read = witness.cluster.read(|state| (last_record(state), last_signed(state)));
    let (last, signed) = read.await.map_err(|_| SignError::Unavailable)?;
    if last <= signed {
        return Ok(signed);
    }
    let gathered = gather(witness, |_| {
        let drafted = witness
            .cluster
            .peek(|state| Some((state.checkpoint_at(last)?, state.position().index)));
        let (checkpoint, index) = drafted.ok_or(SignError::NotBegun)?;
        Ok(Draft {
            index,
            payload_type: CHECKPOINT_TYPE,
            payload: checkpoint.encode(),
            subject: Subject::AuditIndex(last),
        })
    });
    let gathered = gathered.await?;
    let checkpoint = Checkpoint::decode(&gathered.envelope.payload).ok_or(SignError::NotBegun)?;
    let signatures = gathered.envelope.signatures.into_iter().map(|signature| KeySignature {
        key_id: signature.key_id.to_vec(),
        signature: signature.signature.to_vec(),
    });
    let signed =
        SignedCheckpoint { checkpoint, epoch: gathered.epoch, signatures: signatures.collect() };
    let committed =
        witness.cluster.propose(Actor::System, Command::CheckpointAudit(signed)).await?;
    match *committed {
        Event::AuditCheckpointed { index } => Ok(index),
        _ => Err(SignError::Unavailable),
    }
}

fn last_record(state: &State) -> u64 {
    state.audit().records().len() as u64
}

fn last_signed(state: &State) -> u64 {
    state.audit_checkpoints().last().map_or(0, |last| last.checkpoint.index)
}
