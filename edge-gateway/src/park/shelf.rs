//! What is parked, and what came of it: so many, so many bytes, and for an hour.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt as _;

use crate::clock::Clock;
use crate::config::Limits;
use crate::refuse::Refusal;
use crate::upstream::BoxBody;

/// Of a request, and of an answer.
const LARGEST_BODY: usize = 1024 * 1024;
/// How long what came of a parked request is kept.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// By then an answer must have arrived whole.
const BODY_TIME: Duration = Duration::from_secs(5 * 60);

/// What an upstream answered to a parked request, without any real key.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) status: u16,
    /// Names and values as they came, but for bytes that are not UTF-8.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// And why not.
    NotKept(&'static str),
    Whole(Bytes),
}

/// What there is of an approval.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// It was sent, and the upstream's answer is here, as of this reading of the wall clock (milliseconds).
    Answered(Arc<Kept>, u64),
    /// It is being sent.
    Carrying,
    /// It was released, and this came of it.
    Failed(Box<Refusal>),
    /// It waits for its approval.
    Parked,
}

/// The shelf of one edge.
pub(crate) struct Shelf {
    most: usize,
    most_bytes: usize,
    most_per_agent: usize,
    clock: Clock,
    shelved: Mutex<Shelved>,
}

#[derive(Default)]
struct Shelved {
    next: u64,
    places: HashMap<u64, Taken>,
    /// Oldest first.
    results: VecDeque<Outcome>,
    /// Of requests and of answers.
    bytes: usize,
}

/// A place that is taken by a request that may be parked.
struct Taken {
    agent: String,
    approval: Option<String>,
    carrying: bool,
    bytes: usize,
}

struct Outcome {
    agent: String,
    approval: String,
    what: What,
    bytes: usize,
    /// Boot-time clock, milliseconds.
    ends: u64,
}

/// One request's place; free again when dropped.
pub(crate) struct Place {
    shelf: Arc<Shelf>,
    number: u64,
}

impl Shelf {
    pub(crate) fn new(limits: &Limits, clock: Clock) -> Self {
        Self {
            most: limits.max_parked,
            most_bytes: limits.max_parked_bytes,
            most_per_agent: limits.max_held_per_agent,
            clock,
            shelved: Mutex::default(),
        }
    }

    /// A place for a request with so many bytes of body; none when it is too large, or the shelf is full.
    pub(crate) fn place(self: &Arc<Self>, agent: &str, bytes: usize) -> Option<Place> {
        let mut shelved = self.shelved();
        let of_agent = shelved.places.values().filter(|taken| taken.agent == agent).count();
        let full = shelved.places.len() >= self.most
            || of_agent >= self.most_per_agent
            || shelved.bytes + bytes > self.most_bytes;
        if bytes > LARGEST_BODY || full {
            return None;
        }
        let number = shelved.next;
        shelved.next += 1;
        shelved.bytes += bytes;
        let taken = Taken { agent: agent.to_owned(), approval: None, carrying: false, bytes };
        shelved.places.insert(number, taken);
        drop(shelved);
        Some(Place { shelf: Arc::clone(self), number })
    }

    /// What there is of this agent's approval, if anything.
    pub(crate) fn look(&self, agent: &str, approval: &str) -> Option<What> {
        let shelved = self.shelved();
        let result =
            shelved.results.iter().rev().find(|r| r.agent == agent && r.approval == approval);
        if let Some(result) = result {
            return Some(result.what.clone());
        }
        let taken = shelved.places.values().find(|taken| taken.is_of(agent, approval))?;
        Some(if taken.carrying { What::Carrying } else { What::Parked })
    }

    /// As it is now: what was kept long enough is gone.
    fn shelved(&self) -> MutexGuard<'_, Shelved> {
        let mut shelved = self.shelved.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.boottime_ms();
        while shelved.results.front().is_some_and(|result| result.ends <= now) {
            shelved.drop_oldest();
        }
        shelved
    }

    fn put(self: &Arc<Self>, agent: String, approval: String, mut what: What) {
        let mut shelved = self.shelved();
        let mut bytes = 0;
        if let What::Answered(kept, _) = &mut what {
            let named: usize =
                kept.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            bytes = named;
            if let Body::Whole(body) = &kept.body {
                bytes += body.len();
            }
            if shelved.bytes + bytes > self.most_bytes
                && let Some(kept) = Arc::get_mut(kept)
            {
                kept.body = Body::NotKept("too much is kept already");
                bytes = named;
            }
        }
        if shelved.results.len() >= self.most {
            shelved.drop_oldest();
        }
        let ends = self.clock.boottime_ms() + KEPT.as_millis() as u64;
        shelved.bytes += bytes;
        shelved.results.push_back(Outcome { agent, approval, what, bytes, ends });
        drop(shelved);
        // Nobody may ask for it again, and even so it goes.
        let shelf = Arc::downgrade(self);
        let clock = self.clock.clone();
        tokio::spawn(async move {
            clock.reached(ends).await;
            if let Some(shelf) = shelf.upgrade() {
                drop(shelf.shelved());
            }
        });
    }
}

impl Shelved {
    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.results.pop_front() {
            self.bytes = self.bytes.saturating_sub(oldest.bytes);
        }
    }
}

impl Taken {
    fn is_of(&self, agent: &str, approval: &str) -> bool {
        self.agent == agent && self.approval.as_deref() == Some(approval)
    }
}

impl Place {
    /// Its request waits for this approval. False when another one of the agent's has a place for it.
    pub(crate) fn is_for(&self, approval: &str) -> bool {
        let mut shelved = self.shelf.shelved();
        let Some(own) = shelved.places.get(&self.number) else { return false };
        let agent = own.agent.clone();
        let mut others = shelved.places.iter().filter(|(number, _)| **number != self.number);
        if others.any(|(_, taken)| taken.is_of(&agent, approval)) {
            return false;
        }
        if let Some(own) = shelved.places.get_mut(&self.number) {
            own.approval = Some(approval.to_owned());
        }
        true
    }

    /// Its request was released, and leaves.
    pub(crate) fn carrying(&self) {
        if let Some(own) = self.shelf.shelved().places.get_mut(&self.number) {
            own.carrying = true;
        }
    }

    /// Keeps what came of it in its place.
    pub(crate) async fn done(self, answer: Result<Response<BoxBody>, Refusal>) {
        let what = match answer {
            Ok(response) => {
                let kept = take_in(response).await;
                What::Answered(Arc::new(kept), self.shelf.clock.wall_ms())
            }
            Err(refusal) => What::Failed(Box::new(refusal)),
        };
        let taken = self
            .shelf
            .shelved()
            .places
            .get(&self.number)
            .map(|taken| (taken.agent.clone(), taken.approval.clone()));
        let shelf = Arc::clone(&self.shelf);
        if let Some((agent, Some(approval))) = taken {
            shelf.put(agent, approval, what);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shelved = self.shelf.shelved();
        if let Some(taken) = shelved.places.remove(&self.number) {
            shelved.bytes = shelved.bytes.saturating_sub(taken.bytes);
        }
    }
}

/// The answer, as much of it as is kept.
async fn take_in(response: Response<BoxBody>) -> Kept {
    let (parts, body) = response.into_parts();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers =
        parts.headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes())));
    let whole = tokio::time::timeout(BODY_TIME, whole(body)).await;
    let body = whole.unwrap_or(Body::NotKept("it did not arrive whole within five minutes"));
    Kept { status: parts.status.as_u16(), headers: headers.collect(), body }
}

async fn whole(mut body: BoxBody) -> Body {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Body::NotKept("it broke off") };
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > LARGEST_BODY {
            return Body::NotKept("it is larger than a mebibyte");
        }
        whole.extend_from_slice(&data);
    }
    // Without the room that it grew into.
    Body::Whole(Bytes::copy_from_slice(&whole))
}
