//! The audit log, as it is: listed, verified, exported.

use std::pin::Pin;

use countersign_gate::{TRUST_TYPE, Trust};
use countersign_proto::v1;
use countersign_proto::v1::export_audit_response::Item;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tonic::Status;

use super::page::{Page, timestamp};
use super::{refuse, trust};
use crate::access::Admitted;
use crate::state::audit::{BrokenAt, CHECKPOINT_TYPE, SignedCheckpoint, verify_records};
use crate::state::{Record, SignedBytes, State};

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListAuditRequest,
) -> Result<v1::ListAuditResponse, Status> {
    let page = Page::of("audit", request.page_size, &request.page_token)?;
    // Records have no gaps, so the index of the last one is how many came before.
    let before = page.after().map_or(Ok(0), str::parse::<usize>);
    let before =
        before.map_err(|_| refuse::field("page_token", "is not one that this list gave"))?;
    let read = asked.house.cluster.read(|state| {
        let rest = state.audit().records().iter().skip(before);
        page.cut_sorted(rest.map(|record| (record.index.to_string(), record)), to_proto)
    });
    let (records, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListAuditResponse { records, next_page_token })
}

/// Verifies the chain and its checkpoints stretch by stretch: nothing is applied while a stretch is read, so it is
/// copied out first.
pub(super) async fn verify(
    asked: &Admitted,
    _: v1::VerifyAuditRequest,
) -> Result<v1::VerifyAuditResponse, Status> {
    let (mut entries, mut head, mut checkpointed) = (0, [0; 32], 0);
    let mut bundles = Bundles::default();
    let broken = loop {
        let Stretch { records, checkpoints, trust_bundles, root } = stretch(asked, entries).await?;
        let Some(first) = records.first() else { break None };
        let follows = first.index == entries + 1 && first.previous == head;
        let verified = if follows { verify_records(&records) } else { Err(BrokenAt(entries + 1)) };
        if let Err(BrokenAt(index)) = verified {
            break Some(index);
        }
        bundles.take(&trust_bundles, &root);
        let wrong = checkpoints.iter().find(|signed| {
            let record = records.iter().find(|record| record.index == signed.checkpoint.index);
            record.is_none_or(|record| record.hash != signed.checkpoint.head)
                || !bundles.of(signed.epoch).is_some_and(|trust| signed.counts(trust))
        });
        if let Some(wrong) = wrong {
            break Some(wrong.checkpoint.index);
        }
        checkpointed = checkpoints.last().map_or(checkpointed, |last| last.checkpoint.index);
        entries += records.len() as u64;
        head = records.last().map_or(head, |record| record.hash);
    };
    Ok(v1::VerifyAuditResponse {
        ok: broken.is_none(),
        entries,
        head: hex::encode(head),
        broken_at: broken,
        checkpointed,
    })
}

/// The trust bundles by their epochs, each signed by the root key and none a step back.
#[derive(Default)]
struct Bundles {
    accepted: Vec<Trust>,
}

impl Bundles {
    /// Goes on from those that it has.
    fn take(&mut self, signed: &[SignedBytes], root: &[u8; 32]) {
        for signed in signed.iter().skip(self.accepted.len()) {
            let known = self.accepted.last();
            let Ok(trust) = Trust::accept(&signed.as_type(TRUST_TYPE), root, known) else { return };
            self.accepted.push(trust);
        }
    }

    fn of(&self, epoch: u64) -> Option<&Trust> {
        self.accepted.iter().find(|trust| trust.epoch == epoch)
    }
}

/// A preamble, then records in order from the first, and after them the checkpoints that are signed over them.
pub(super) type Export =
    Pin<Box<dyn Stream<Item = Result<v1::ExportAuditResponse, Status>> + Send>>;

const AT_ONCE: usize = 1024;

pub(super) async fn export(asked: &Admitted, _: v1::ExportAuditRequest) -> Result<Export, Status> {
    // So that all of it is covered. What is there is exported even while too few nodes can sign.
    match asked.house.signer() {
        Some(signer) => {
            if let Err(why) = signer.checkpoint_now().await {
                tracing::warn!(%why, "the newest audit records are exported without a checkpoint");
            }
        }
        None => return Err(refuse::not_settled()),
    }
    let preamble = asked.house.cluster.read(preamble).await;
    let preamble = preamble.map_err(|e| refuse::unavailable(&e))?;
    let asked = asked.clone();
    let stretches = futures::stream::try_unfold(0, move |before| {
        let asked = asked.clone();
        async move {
            let Stretch { records, checkpoints, .. } = stretch(&asked, before).await?;
            let next = before + records.len() as u64;
            let items = records.iter().map(|record| Item::Record(to_proto(record)));
            let items: Vec<_> = items.chain(checkpoints.iter().map(checkpoint_to_proto)).collect();
            Ok::<_, Status>((!items.is_empty()).then_some((items, next)))
        }
    });
    let items = stretches.map_ok(|items| futures::stream::iter(items.into_iter().map(Ok)));
    let items = futures::stream::iter([Ok(Item::Preamble(preamble))]).chain(items.try_flatten());
    Ok(items.map_ok(|item| v1::ExportAuditResponse { item: Some(item) }).boxed())
}

fn preamble(state: &State) -> v1::AuditPreamble {
    let genesis = state.genesis();
    v1::AuditPreamble {
        cluster_id: genesis.map(|genesis| genesis.cluster_id.clone()).unwrap_or_default(),
        root_public_key: genesis
            .map(|genesis| genesis.root_public_key.to_vec().into())
            .unwrap_or_default(),
        trust_bundles: state
            .trust_bundles()
            .iter()
            .map(|signed| trust::to_envelope(TRUST_TYPE, signed))
            .collect(),
    }
}

/// Some records, the checkpoints over any of them, and whose signatures count.
struct Stretch {
    records: Vec<Record>,
    checkpoints: Vec<SignedCheckpoint>,
    trust_bundles: Vec<SignedBytes>,
    root: [u8; 32],
}

/// The next records after so many.
async fn stretch(asked: &Admitted, before: u64) -> Result<Stretch, Status> {
    let skipped = usize::try_from(before).unwrap_or(usize::MAX);
    let read = asked.house.cluster.read(|state| {
        let records: Vec<_> =
            state.audit().records().iter().skip(skipped).take(AT_ONCE).cloned().collect();
        let covered = before + 1..=before + records.len() as u64;
        let checkpoints = state.audit_checkpoints().iter();
        let checkpoints = checkpoints.filter(|it| covered.contains(&it.checkpoint.index));
        Stretch {
            checkpoints: checkpoints.cloned().collect(),
            trust_bundles: state.trust_bundles().to_vec(),
            root: state.genesis().map(|genesis| genesis.root_public_key).unwrap_or_default(),
            records,
        }
    });
    read.await.map_err(|e| refuse::unavailable(&e))
}

fn checkpoint_to_proto(signed: &SignedCheckpoint) -> Item {
    let SignedCheckpoint { checkpoint, epoch, signatures } = signed;
    let bytes = SignedBytes { payload: checkpoint.encode(), signatures: signatures.clone() };
    Item::Checkpoint(v1::AuditCheckpoint {
        index: checkpoint.index,
        head: hex::encode(checkpoint.head),
        epoch: *epoch,
        envelope: Some(trust::to_envelope(CHECKPOINT_TYPE, &bytes)),
    })
}

fn to_proto(record: &Record) -> v1::AuditRecord {
    let detail = |(name, value): &(String, String)| v1::AuditDetail {
        name: name.clone(),
        value: value.clone(),
    };
    v1::AuditRecord {
        index: record.index,
        at: timestamp(record.at),
        actor: record.actor.clone(),
        action: record.action.clone(),
        subject: record.subject.clone(),
        details: record.details.iter().map(detail).collect(),
        previous_hash: hex::encode(record.previous),
        hash: hex::encode(record.hash),
    }
}
