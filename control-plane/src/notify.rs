//! From the outbox of the state to the chats, by the node that leads.
//!
//! ```text
//! outbox row due ─▶ attempt on record ─▶ the platform ─▶ delivered on record        approval changed ─▶ the card's new face
//! ```
//!
//! At least once: what was sent and not recorded is sent again, and the first card is known by the handle of its attempt.
//! Nothing here decides anything, and nothing that fails here stops an approval: it is in the list all the same.

pub(crate) mod channels;
mod client;
mod pace;
mod send;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::card;
use crate::cluster::{Clock as _, SystemClock};
use crate::node::Unsealed;
use crate::operator;
use crate::state::{ApprovalId, DeliveryId, DeliveryStatus, Event, Message, State};
use channels::Channels;

/// How late at most a node notices that it leads, and that something is due.
const LOOK: Duration = Duration::from_millis(250);
/// A face that could not be shown is tried again after so long, at first and at most.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// Until the node is sealed.
pub(crate) async fn run(house: Arc<Unsealed>, channels: Arc<Channels>) {
    let mut events = house.cluster.subscribe();
    let work = Arc::new(Work::default());
    let mut leading = false;
    loop {
        let event = tokio::select! {
            () = house.closing.cancelled() => return,
            event = events.recv() => Some(event),
            () = tokio::time::sleep(LOOK) => None,
        };
        match event {
            Some(Ok(event)) => work.about(&event),
            Some(Err(RecvError::Lagged(_))) => work.look_everywhere(),
            Some(Err(RecvError::Closed)) => return,
            None => {}
        }
        while let Ok(event) = events.try_recv() {
            work.about(&event);
        }
        let led = leading;
        leading = house.cluster.is_leader();
        if !leading {
            continue;
        }
        if !led {
            work.look_everywhere();
        }
        work.begin(&house, &channels);
    }
}

/// What is to be looked at, and what is under way on this node.
#[derive(Default)]
struct Work(Mutex<Looking>);

#[derive(Default)]
struct Looking {
    everywhere: bool,
    changed: BTreeSet<ApprovalId>,
    busy: BTreeSet<DeliveryId>,
    /// Faces that could not be shown, when they are tried again, and how long it is until then the next time.
    again: BTreeMap<DeliveryId, (Instant, Duration)>,
}

/// What to do about one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    Face,
    Send,
}

impl Work {
    fn looking(&self) -> std::sync::MutexGuard<'_, Looking> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about(&self, event: &Event) {
        let mut looking = self.looking();
        match event {
            Event::Restored => looking.everywhere = true,
            _ => looking.changed.extend(operator::changed_by(event)),
        }
    }

    fn look_everywhere(&self) {
        self.looking().everywhere = true;
    }

    /// Starts a task for everything that is to be done and is not under way.
    fn begin(self: &Arc<Self>, house: &Arc<Unsealed>, channels: &Arc<Channels>) {
        let errands = {
            let mut looking = self.looking();
            let everywhere = std::mem::take(&mut looking.everywhere);
            let changed = std::mem::take(&mut looking.changed);
            let now = Instant::now();
            let again: Vec<_> =
                looking.again.iter().filter(|(_, (at, _))| *at <= now).map(|(id, _)| *id).collect();
            let mut errands = house.cluster.peek(|state| {
                let mut errands: BTreeMap<DeliveryId, Errand> = BTreeMap::new();
                let stale = |state: &State, id: DeliveryId| has_old_face(state, id);
                if everywhere {
                    let sent = state.deliveries().map(|delivery| delivery.id);
                    errands
                        .extend(sent.filter(|id| stale(state, *id)).map(|id| (id, Errand::Face)));
                }
                let of_changed =
                    changed.iter().flat_map(|id| state.deliveries_of(*id)).map(|d| d.id);
                let again = again.iter().copied();
                errands.extend(
                    of_changed
                        .chain(again)
                        .filter(|id| stale(state, *id))
                        .map(|id| (id, Errand::Face)),
                );
                let due = state.deliveries_due(SystemClock.wall());
                errands.extend(due.map(|delivery| (delivery.id, Errand::Send)));
                errands
            });
            for id in again {
                if !errands.contains_key(&id) {
                    looking.again.remove(&id);
                }
            }
            // What is busy is looked at again when it is done.
            errands.retain(|id, _| looking.busy.insert(*id));
            errands
        };
        for (id, errand) in errands {
            let (work, house, channels) = (self.clone(), house.clone(), channels.clone());
            house.clone().spawn(async move {
                let done = send::carry_out(&house, &channels, id, errand).await;
                work.done(&house, id, done);
            });
        }
    }

    fn done(&self, house: &Unsealed, id: DeliveryId, shown: bool) {
        let mut looking = self.looking();
        looking.busy.remove(&id);
        if shown {
            looking.again.remove(&id);
        } else {
            let pause =
                looking.again.get(&id).map_or(AGAIN, |(_, pause)| (*pause * 2).min(AGAIN_AT_MOST));
            looking.again.insert(id, (Instant::now() + pause, pause));
        }
        // It may have changed while it was being shown.
        let about = house.cluster.peek(|state| state.delivery(id).and_then(|d| d.what.about()));
        looking.changed.extend(about);
    }
}

/// Whether the platform shows something else than where the approval stands.
fn has_old_face(state: &State, id: DeliveryId) -> bool {
    let Some(delivery) = state.delivery(id) else { return false };
    let sent = matches!(delivery.status, DeliveryStatus::Sent { .. });
    match delivery.what {
        Message::Card(about) if sent => {
            let Some(approval) = state.approval(about) else { return false };
            !delivery.shows(&card::face_digest(&card::face(state, approval)))
        }
        _ => false,
    }
}
