//! The newest bundle for edges, kept signed: once for each revision and trust bundle, for all sessions of this node.

use std::sync::Arc;
use std::time::Duration;

use countersign_proto::v1;
use countersign_proto::v1::co_sign_request::Subject;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::gather::{Draft, Gathered, gather};
use super::witness::Witness;
use super::{BUNDLE_TYPE, SignError};
use crate::state::Event;

/// A bundle that a quorum signed.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedBundle {
    pub revision: u64,
    /// Of the trust bundle whose keys signed it.
    pub epoch: u64,
    pub envelope: v1::Envelope,
}

/// Before it is tried again when too few nodes signed.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a session waits for its first.
const PATIENCE: Duration = Duration::from_secs(2);

type Newest = watch::Receiver<Option<Arc<SignedBundle>>>;

/// Signs whenever what edges decide with has changed, or whom they trust.
pub(super) fn keep_signed(witness: Arc<Witness>, stop: CancellationToken) -> Newest {
    let (sender, newest) = watch::channel(None);
    tokio::spawn(async move {
        stop.run_until_cancelled(sign_changes(&witness, &sender)).await;
    });
    newest
}

async fn sign_changes(witness: &Witness, newest: &watch::Sender<Option<Arc<SignedBundle>>>) {
    let mut events = witness.cluster.subscribe();
    let mut failing = false;
    loop {
        let wanted = (witness.bundle().revision, witness.in_force().map(|known| known.trust.epoch));
        let has = newest.borrow().as_ref().map(|has| (has.revision, Some(has.epoch)));
        if has != Some(wanted) {
            if let Err(why) = witness.drop_former_keys().await {
                tracing::error!(%why, "a former signing key stays on disk");
            }
            match sign(witness).await {
                Ok(signed) => {
                    tracing::debug!(
                        revision = signed.revision,
                        epoch = signed.epoch,
                        "a bundle for edges was signed"
                    );
                    newest.send_replace(Some(Arc::new(signed)));
                    failing = false;
                }
                Err(why) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%why, "edges do not get the newest bundle");
                    }
                    sleep(PAUSE).await;
                }
            }
            continue;
        }
        loop {
            match events.recv().await {
                Ok(event) if concerns(&event) => break,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}

fn concerns(event: &Event) -> bool {
    event.changes_bundle() || matches!(event, Event::TrustChanged { .. })
}

async fn sign(witness: &Witness) -> Result<SignedBundle, SignError> {
    let gathered = gather(witness, |_| {
        let unsigned = witness.bundle();
        Ok(Draft {
            index: unsigned.revision,
            payload_type: BUNDLE_TYPE,
            payload: unsigned.payload.clone(),
            subject: Subject::EdgeBundle(v1::EdgeBundleSubject {}),
        })
    });
    let Gathered { index: revision, epoch, envelope } = gathered.await?;
    Ok(SignedBundle { revision, epoch, envelope })
}

/// One of this revision and epoch, or of later ones.
pub(super) async fn wait_for(
    mut newest: Newest,
    revision: u64,
    epoch: u64,
) -> Result<Arc<SignedBundle>, SignError> {
    let new_enough = |newest: &Option<Arc<SignedBundle>>| {
        newest.as_ref().is_some_and(|has| has.revision >= revision && has.epoch >= epoch)
    };
    let waited = timeout(PATIENCE, newest.wait_for(new_enough)).await;
    let found = waited.ok().and_then(Result::ok).and_then(|found| found.clone());
    found.ok_or(SignError::Unavailable)
}
