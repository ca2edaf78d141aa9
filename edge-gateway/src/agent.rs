//! Who is asking: the proxy credential, and the seats that one agent may take at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, PROXY_AUTHORIZATION};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use crate::config::Limits;
use crate::refuse::Refusal;

/// What an agent showed: its name, and the hash of its token. The token itself is not kept.
#[derive(Clone, Debug)]
pub(crate) struct Badge {
    pub(crate) name: String,
    pub(crate) token_sha256: [u8; 32],
}

impl Badge {
    /// Reads `Proxy-Authorization: Basic base64(name:token)`; nothing for none, two, or another scheme.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(PROXY_AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
        let (name, token) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
        Some(Self { name: name.to_owned(), token_sha256: Sha256::digest(token).into() })
    }
}

/// The seats of every agent, by agent id; they outlive bundles and connections.
pub(crate) struct Hall {
    limits: Limits,
    seats: Mutex<HashMap<String, Arc<Seats>>>,
}

/// How much of this edge one agent has taken.
pub(crate) struct Seats {
    moving: Arc<Semaphore>,
    held: Arc<Semaphore>,
    asking: Arc<Semaphore>,
    /// Tunnels to hosts that no rule names.
    strays: Mutex<Counted>,
    /// Questions about approvals.
    asked: Mutex<Counted>,
}

/// So many of something, in the minute that began on the boot-time clock at `since` (milliseconds).
#[derive(Default)]
struct Counted {
    since: u64,
    count: u32,
}

/// So many of them a minute.
const STRAYS: u32 = 60;
/// Questions about its own approvals that one agent may have waiting.
const ASKING: usize = 16;
/// And so many a minute, each of which makes the control plane read its state.
const ASKED: u32 = 600;

/// One request's seat; free again when dropped.
pub(crate) struct Seat {
    _permit: OwnedSemaphorePermit,
}

impl Hall {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, seats: Mutex::default() }
    }

    /// The seats of this agent.
    pub(crate) fn seats(&self, agent_id: &str) -> Arc<Seats> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seats) = seats.get(agent_id) {
            return Arc::clone(seats);
        }
        // Agents that are gone leave their (empty) seats; a burst of them is swept out here.
        if seats.len() > 10_000 {
            seats.retain(|_, seats| Arc::strong_count(seats) > 1);
        }
        let fresh = Arc::new(Seats {
            moving: Arc::new(Semaphore::new(self.limits.max_in_flight_per_agent)),
            held: Arc::new(Semaphore::new(self.limits.max_held_per_agent)),
            asking: Arc::new(Semaphore::new(ASKING)),
            strays: Mutex::default(),
            asked: Mutex::default(),
        });
        seats.insert(agent_id.to_owned(), Arc::clone(&fresh));
        fresh
    }
}

impl Counted {
    /// Whether one more is within what a minute may have.
    fn one_more(counted: &Mutex<Self>, now_ms: u64, most: u32) -> bool {
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms >= counted.since + 60_000 {
            *counted = Self { since: now_ms, count: 0 };
        }
        counted.count = counted.count.saturating_add(1);
        counted.count <= most
    }
}

impl Seats {
    /// A seat for a request that is being read, judged or forwarded.
    pub(crate) fn moving(&self) -> Result<Seat, Refusal> {
        Self::take(&self.moving, "requests in flight")
    }

    /// A seat for a request that waits for people.
    pub(crate) fn held(&self) -> Result<Seat, Refusal> {
        Self::take(&self.held, "requests waiting for approval")
    }

    /// A seat for a question about approvals, counted by the boot-time clock.
    pub(crate) fn asking(&self, now_ms: u64) -> Result<Seat, Refusal> {
        const OF: &str = "questions about approvals";
        if !Counted::one_more(&self.asked, now_ms, ASKED) {
            return Err(Refusal::Overloaded { of: OF });
        }
        Self::take(&self.asking, OF)
    }

    /// Counts a tunnel to a host that no rule names, by the boot-time clock; false when there were too many within the
    /// minute.
    pub(crate) fn stray(&self, now_ms: u64) -> bool {
        Counted::one_more(&self.strays, now_ms, STRAYS)
    }

    fn take(seats: &Arc<Semaphore>, of: &'static str) -> Result<Seat, Refusal> {
        let permit =
            Arc::clone(seats).try_acquire_owned().map_err(|_| Refusal::Overloaded { of })?;
        Ok(Seat { _permit: permit })
    }
}
