//! Proposals become entries here: those that wait together share one, its log time, and one sync of the disk.

use std::sync::Arc;
use std::time::Duration;

use openraft::Raft;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::barrier::{Barrier, Purpose};
use super::clock::Stamp;
use super::consensus::{Applied, LogId, Sealed, Types};
use super::machine::View;
use crate::state::{Actor, Command, CommandId, Millis, Outcome, Proposal};

/// Per entry.
const COMMANDS: usize = 256;
const BYTES: usize = 512 * 1024;
/// A command larger than this has an entry of its own or, above [`LARGEST`], none.
pub(super) const LARGEST: usize = 2 * 1024 * 1024;
/// Proposals that wait; the next ones wait to wait.
pub(super) const QUEUE: usize = 1024;
/// For an entry to be committed. A leader that was cut off would wait for ever, and so would those behind it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A proposal as it stands in an entry.
#[derive(Clone)]
pub(super) struct Encoded(Zeroizing<Vec<u8>>);

impl Encoded {
    /// # Errors
    /// The size, when it is above [`LARGEST`].
    pub(super) fn new(proposal: &Proposal) -> Result<Self, usize> {
        let mut encoded = Zeroizing::new(Vec::new());
        // Writing to memory fails only for values that have no CBOR form, and commands have no such values; a
        // command that had would be refused as one without any size.
        if ciborium::into_writer(proposal, &mut *encoded).is_err() || encoded.len() > LARGEST {
            return Err(encoded.len());
        }
        Ok(Self(encoded))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A proposal that waits for its entry, and where its outcome goes.
pub(super) struct Queued {
    encoded: Encoded,
    answer: oneshot::Sender<Answer>,
}

/// Where and when the command was committed and what it did; or why nobody knows.
pub(super) type Answer = Result<Done, Failed>;
pub(super) type Done = (LogId, Millis, Outcome);

/// Why the outcome is unknown.
#[derive(Clone, Debug)]
pub(super) enum Failed {
    /// The same command under the same identity may have one soon.
    Again(String),
    /// This node has stopped, and will not know.
    Stopped(String),
}

impl Queued {
    pub(super) fn new(encoded: Encoded) -> (Self, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        (Self { encoded, answer }, answered)
    }
}

pub(super) struct Proposer {
    pub(super) raft: Raft<Types>,
    pub(super) view: View,
    pub(super) barrier: Arc<dyn Barrier>,
    pub(super) stopped: CancellationToken,
}

impl Proposer {
    /// Runs until told to stop. Proposals that are still queued then are dropped: their outcome is unknown.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Queued>) {
        let mut next = None;
        while let Some(first) = match next.take() {
            Some(first) => Some(first),
            None => tokio::select! {
                () = self.stopped.cancelled() => None,
                first = queue.recv() => first,
            },
        } {
            let mut size = first.encoded.bytes().len();
            let mut together = vec![first];
            while together.len() < COMMANDS
                && let Ok(queued) = queue.try_recv()
            {
                let more = queued.encoded.bytes().len();
                if size + more > BYTES {
                    next = Some(queued);
                    break;
                }
                size += more;
                together.push(queued);
            }
            self.commit(together).await;
        }
    }

    /// One entry for all, even for none: what was in the log before it is committed with it.
    pub(super) async fn commit(&self, together: Vec<Queued>) {
        let Stamp { at, jumped } = self.view.stamp();
        let due = self.view.is_due(at);
        let ours: Vec<Encoded> =
            [jumped.and_then(suspicion), due.then(tick).flatten()].into_iter().flatten().collect();
        let encoded = ours.iter().chain(together.iter().map(|queued| &queued.encoded));
        let plaintext = batch(at, &encoded.collect::<Vec<_>>());
        let sealed = Sealed(self.barrier.seal(Purpose::Entry, &plaintext));
        let node_id = self.raft.metrics().borrow().id;
        let mut metrics = self.raft.metrics();
        let replaced = metrics.wait_for(|metrics| metrics.current_leader != Some(node_id));
        let written = tokio::select! {
            biased;
            written = self.raft.client_write(sealed) => written.map_err(|e| failed(&e)),
            _ = replaced => Err(Failed::Again("another node leads now".into())),
            () = tokio::time::sleep(PATIENCE) => {
                Err(Failed::Again("no majority of the nodes answers".into()))
            }
        };
        match written {
            Ok(written) => {
                let Applied { at, outcomes } = written.data;
                let mut outcomes = outcomes.into_iter().skip(ours.len());
                for queued in together {
                    let outcome = outcomes.next().map(|outcome| (written.log_id, at, outcome));
                    // A proposer that went away misses its answer; the command stands.
                    let _ =
                        queued.answer.send(outcome.ok_or_else(|| {
                            Failed::Again("the entry gave no outcome for it".into())
                        }));
                }
            }
            Err(why) => {
                for queued in together {
                    let _ = queued.answer.send(Err(why.clone()));
                }
            }
        }
    }
}

/// Says in the entry itself that its time is not to be believed: nothing in it is claimed either.
fn suspicion(by_ms: Millis) -> Option<Encoded> {
    tracing::error!(
        by_ms,
        "the wall clock jumped ahead: nothing is released until somebody confirms it with `countersign cluster confirm-clock`"
    );
    system(Command::SuspectClock { by_ms })
}

/// What ends by the time of an entry ends before its commands: else one of them is refused as too late, and whoever reads
/// then is told that the approval waits.
fn tick() -> Option<Encoded> {
    system(Command::Tick)
}

fn system(command: Command) -> Option<Encoded> {
    let id = CommandId { client: rand::random(), serial: 0 };
    Encoded::new(&Proposal { id, actor: Actor::System, command }).ok()
}

fn failed(error: &RaftError<u64, ClientWriteError<u64, openraft::BasicNode>>) -> Failed {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            Failed::Again("this node does not lead".into())
        }
        RaftError::APIError(other) => Failed::Again(other.to_string()),
        RaftError::Fatal(fatal) => Failed::Stopped(fatal.to_string()),
    }
}

/// The CBOR of a [`crate::state::Batch`], from proposals that are encoded already.
fn batch(at: Millis, together: &[&Encoded]) -> Zeroizing<Vec<u8>> {
    let size: usize = together.iter().map(|encoded| encoded.bytes().len()).sum();
    let mut out = Zeroizing::new(Vec::with_capacity(size + 64));
    out.push(MAP_OF_TWO);
    out.extend(b"\x62at");
    out.push(UNSIGNED_64);
    out.extend(at.to_be_bytes());
    out.extend(b"\x69proposals");
    out.push(ARRAY_64);
    out.extend((together.len() as u64).to_be_bytes());
    for encoded in together {
        out.extend(encoded.bytes());
    }
    out
}

// RFC 8949 §3: the first byte of an item, with a length that follows in eight bytes.
const MAP_OF_TWO: u8 = 0xa2;
const UNSIGNED_64: u8 = 0x1b;
const ARRAY_64: u8 = 0x9b;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Batch;

    #[test]
    fn a_batch_put_together_from_encoded_proposals_reads_back() {
        let proposal = |serial| Proposal {
            id: CommandId { client: [7; 16], serial },
            actor: Actor::System,
            command: Command::Note {
                action: "test".into(),
                subject: serial.to_string(),
                details: Vec::new(),
            },
        };
        let encoded: Vec<_> =
            (0..300).map(|serial| Encoded::new(&proposal(serial)).unwrap()).collect();
        let encoded: Vec<_> = encoded.iter().collect();
        let read: Batch =
            ciborium::from_reader(batch(1_700_000_000_000, &encoded).as_slice()).unwrap();
        assert_eq!(read.at, 1_700_000_000_000);
        assert_eq!(
            read.proposals.iter().map(|p| p.id.serial).collect::<Vec<_>>(),
            (0..300).collect::<Vec<_>>()
        );
    }
}
