//! Parked requests: those that outlive their client, because every rule that decided about them says so.
//!
//! One is held as any other, only for longer, and in a task of its own: whether its client is still there changes
//! nothing about what releases it, nor how often. What came of it without a client is kept on the [`Shelf`], in memory
//! alone: a restart loses it, and the approval with which the identical request goes on stays.

mod shelf;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_gate::Released;
use http::Response;
use tokio::sync::{oneshot, watch};
use tracing::Instrument as _;

use crate::agent::{Badge, Seat};
use crate::carry::{carry_out, pass};
use crate::control::{Away, RequestId};
use crate::judge::{Became, judge_again, refused_if_it_fails};
use crate::refuse::Refusal;
use crate::rooms::Rooms;
use crate::telemetry::Counted;
use crate::unseal::Sealed;
use crate::upstream::BoxBody;
use crate::wait::{self, Ended, Waiting};

pub(crate) use shelf::{Body, Kept, Place, Shelf, What};

/// How long an approved request can be used, if the control plane does not say otherwise, and a little more: a parked
/// one is held for so long after its approval could have come.
const USABLE: Duration = Duration::from_secs(20 * 60);
/// How long past its hold a request waits to hear under which approval it is known.
const GRACE: Duration = Duration::from_secs(2);

/// What it takes to park a request that is held.
pub(crate) struct Parking {
    pub(crate) place: Place,
    /// How long its client waits.
    pub(crate) hold: Duration,
}

type Answer = Result<Response<BoxBody>, Refusal>;

/// How long to hold a request that may be parked, when its approval may take so long.
pub(crate) fn hold_for(expires: Duration) -> Duration {
    expires + USABLE
}

/// Waits with the client for as long as it waits, and without it from then on.
///
/// # Errors
/// The refusal that the client is answered with. Nothing can be concluded from it about the parked request but what
/// it says.
pub(crate) async fn outlive(
    rooms: &Arc<Rooms>,
    badge: &Badge,
    waiting: Box<Waiting>,
    parking: Parking,
    seat: Seat,
) -> Answer {
    let (sender, answer) = oneshot::channel();
    let until = rooms.control.clock().boottime_ms() + parking.hold.as_millis() as u64;
    let parked = Parked {
        rooms: Arc::clone(rooms),
        badge: badge.clone(),
        counted: Counted::one(&rooms.metrics.held),
        client: Client { answer: Some(sender), seat: Some(seat), until, in_grace: false },
        place: Some(parking.place),
    };
    rooms.carried.spawn(Box::pin(parked.go_on(waiting)).in_current_span());
    answer.await.unwrap_or(Err(Refusal::OutcomeUnknown { approval_id: None }))
}

/// A request whose client may leave.
struct Parked {
    rooms: Arc<Rooms>,
    badge: Badge,
    counted: Counted,
    client: Client,
    /// None: it is held for its client alone after all.
    place: Option<Place>,
}

impl Parked {
    async fn go_on(mut self, mut waiting: Box<Waiting>) {
        while let Some(ended) = self.decided(waiting).await {
            waiting = match ended {
                Err(refusal) => return self.refused(refusal),
                Ok(Ended::Released { request_id, released, sealed }) => {
                    return self.carried_out(request_id, *released, sealed).await;
                }
                Ok(Ended::Reopened(again)) => match self.judged_again(again).await {
                    Some(again) => again,
                    None => return,
                },
            }
        }
    }

    /// None when nobody waits for it any more.
    async fn decided(&mut self, waiting: Box<Waiting>) -> Option<Result<Ended, Refusal>> {
        let rooms = Arc::clone(&self.rooms);
        let request = waiting.described();
        let mut known = waiting.known();
        let mut deciding = pin!(waiting.decided(&rooms.control, &rooms.metrics, &rooms.drain));
        loop {
            let (there, until) = (self.client.is_there(), self.client.until);
            tokio::select! {
                ended = &mut deciding => {
                    self.is_known(&known);
                    return Some(ended);
                }
                Ok(()) = known.changed() => {
                    known.mark_unchanged();
                    self.is_known(&known);
                }
                () = self.client.gone(), if there => self.client_left(),
                () = rooms.control.clock().reached(until), if there => {
                    self.hold_ran_out(&known, &request);
                }
            }
            if !self.client.is_there() && self.place.is_none() {
                return None;
            }
        }
    }

    /// One request is parked for each approval. Others of the same agent wait for as long as their clients do.
    fn is_known(&mut self, known: &watch::Receiver<Option<String>>) {
        let approval_id = known.borrow().clone();
        if let (Some(approval_id), Some(place)) = (approval_id, &self.place)
            && !place.is_for(&approval_id)
        {
            self.place = None;
        }
    }

    fn hold_ran_out(&mut self, known: &watch::Receiver<Option<String>>, request: &str) {
        self.is_known(known);
        let approval_id = known.borrow().clone();
        match approval_id {
            Some(approval_id) => {
                let request = request.to_owned();
                self.client.tell(Err(Refusal::ApprovalPending {
                    approval_id,
                    request,
                    parked: false,
                }));
                self.client_left();
            }
            None if !self.client.in_grace => {
                self.client.in_grace = true;
                self.client.until += GRACE.as_millis() as u64;
            }
            // Nobody was asked, as far as is known: there is nothing to wait for.
            None => {
                let away = self.rooms.control.away().unwrap_or(Away::Unreachable);
                self.client.tell(Err(wait::unreachable(away)));
                self.place = None;
            }
        }
    }

    fn client_left(&mut self) {
        self.client.answer = None;
        self.client.seat = None;
        if self.place.is_some() {
            self.counted = Counted::one(&self.rooms.metrics.parked);
            tracing::info!("a held request is parked: its client does not wait any more");
        }
    }

    /// By the newest bundle. What the policy does not hold any more is sent only if somebody waits for its answer.
    async fn judged_again(&mut self, waiting: Box<Waiting>) -> Option<Box<Waiting>> {
        let judging = async { judge_again(&self.rooms, &self.badge, waiting) };
        match refused_if_it_fails(judging).await {
            Err(refusal) => {
                self.client.tell(Err(refusal));
                None
            }
            Ok(Became::Answered(answer)) => {
                self.client.tell(Ok(*answer));
                None
            }
            Ok(Became::Passing(passing)) => {
                if self.client.is_there() {
                    let answer = Box::pin(pass(&self.rooms, *passing)).await;
                    self.client.tell(answer);
                }
                None
            }
            Ok(Became::Waiting(waiting, _)) => {
                if !waiting.parks {
                    self.place = None;
                }
                (self.client.is_there() || self.place.is_some()).then_some(waiting)
            }
        }
    }

    fn refused(mut self, refusal: Refusal) {
        if let Some(Err(refusal)) = self.client.tell(Err(refusal)) {
            tracing::info!(code = refusal.code(), "a parked request was not carried out");
        }
    }

    /// As any other is, once. Its answer goes to whoever waits for it, and else on the shelf.
    async fn carried_out(mut self, request_id: RequestId, released: Released, sealed: Vec<Sealed>) {
        if let Some(place) = &self.place {
            place.carrying();
        }
        let answer = carry_out(Arc::clone(&self.rooms), request_id, released, sealed).await;
        let Some(answer) = self.client.tell(answer) else { return };
        if let Some(place) = self.place.take() {
            place.done(answer).await;
        }
    }
}

/// Whoever sent the request, for as long as they wait for its answer.
struct Client {
    answer: Option<oneshot::Sender<Answer>>,
    seat: Option<Seat>,
    /// Boot-time clock, milliseconds.
    until: u64,
    in_grace: bool,
}

impl Client {
    fn is_there(&self) -> bool {
        self.answer.is_some()
    }

    /// Returns once the client has hung up.
    async fn gone(&mut self) {
        match &mut self.answer {
            Some(answer) => answer.closed().await,
            None => std::future::pending().await,
        }
    }

    /// Gives the answer back when nobody is there to hear it.
    fn tell(&mut self, answer: Answer) -> Option<Answer> {
        self.seat = None;
        match self.answer.take() {
            Some(client) => client.send(answer).err(),
            None => Some(answer),
        }
    }
}
