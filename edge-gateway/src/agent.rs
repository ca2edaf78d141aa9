//! Who is asking: the proxy credential, and the seats that one agent may take at a time.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, PROXY_AUTHORIZATION};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
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
    seats: RwLock<HashMap<String, Arc<Seats>>>,
}

/// How much of this edge one agent has taken.
pub(crate) struct Seats {
    connections: Arc<Semaphore>,
    moving: Arc<Semaphore>,
    /// Requests that wait for one of those.
    queue: Arc<Semaphore>,
    held: Arc<Semaphore>,
    /// Bytes of bodies that are kept until they are sent.
    spool: Arc<Semaphore>,
    asking: Arc<Semaphore>,
    /// Hosts that no rule names.
    strays: Mutex<Hosts>,
    /// Hosts that no leaf was at hand for.
    new_hosts: Mutex<Hosts>,
    /// Questions about approvals.
    asked: Mutex<Counted>,
    /// When the next may be told that there are too many.
    next_no: Mutex<Option<Instant>>,
    /// Connections that were cut off for what came over them, and when the next tunnel opens once these are too many.
    cut_off: Mutex<Counted>,
    next_tunnel: Mutex<Option<Instant>>,
}

/// So many of something, in the minute that began on the boot-time clock at `since` (milliseconds).
#[derive(Default)]
struct Counted {
    since: u64,
    count: u32,
}

/// Which hosts were asked for in the minute that began on the boot-time clock at `since` (milliseconds).
#[derive(Default)]
struct Hosts {
    since: u64,
    asked: HashSet<Box<str>>,
}

const MINUTE_MS: u64 = 60_000;
/// So many of them a minute.
const STRAYS: usize = 60;
/// So many of them a minute: each costs a signature.
const NEW_HOSTS: usize = 600;
/// How many requests of one agent wait for a seat, beside those that have one, and for how long.
const QUEUE: usize = 256;
const QUEUE_TIME: Duration = Duration::from_secs(10);
/// How far apart one agent is told that it has too many of something.
const NO_SOONER: Duration = Duration::from_millis(1);
/// So many connections of one agent may be cut off in a minute before its tunnels open one by one, so far apart.
const CUT_OFF: u32 = 16;
const ONE_BY_ONE: Duration = Duration::from_secs(1);
/// The longest that anybody waits for one of these turns.
const NO_LATER: Duration = Duration::from_secs(10);
/// Questions about its own approvals that one agent may have waiting.
const ASKING: usize = 16;
/// And so many a minute, each of which makes the control plane read its state.
const ASKED: u32 = 600;

/// One request's seat; free again when dropped.
pub(crate) struct Seat {
    _permit: OwnedSemaphorePermit,
    _spooled: Option<Spooled>,
}

/// So much of an agent's spool; free again when dropped.
pub(crate) struct Spooled(OwnedSemaphorePermit);

impl Hall {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, seats: RwLock::default() }
    }

    /// The seats of this agent.
    pub(crate) fn seats(&self, agent_id: &str) -> Arc<Seats> {
        let seats = self.seats.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(seats) = seats.get(agent_id) {
            return Arc::clone(seats);
        }
        drop(seats);
        let mut seats = self.seats.write().unwrap_or_else(PoisonError::into_inner);
        // Agents that are gone leave their (empty) seats; a burst of them is swept out here.
        if seats.len() > 10_000 {
            seats.retain(|_, seats| Arc::strong_count(seats) > 1);
        }
        let seats = seats.entry(agent_id.to_owned());
        Arc::clone(seats.or_insert_with(|| Arc::new(self.none_taken())))
    }

    fn none_taken(&self) -> Seats {
        Seats {
            connections: Arc::new(Semaphore::new(self.limits.max_connections_per_agent)),
            moving: Arc::new(Semaphore::new(self.limits.max_in_flight_per_agent)),
            queue: Arc::new(Semaphore::new(QUEUE)),
            held: Arc::new(Semaphore::new(self.limits.max_held_per_agent)),
            spool: Arc::new(Semaphore::new(self.limits.max_spooled_bytes_per_agent)),
            asking: Arc::new(Semaphore::new(ASKING)),
            strays: Mutex::default(),
            new_hosts: Mutex::default(),
            asked: Mutex::default(),
            next_no: Mutex::default(),
            cut_off: Mutex::default(),
            next_tunnel: Mutex::default(),
        }
    }
}

impl Counted {
    fn in_minute(counted: &Mutex<Self>, now_ms: u64) -> u32 {
        let counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms >= counted.since + MINUTE_MS { 0 } else { counted.count }
    }

    /// Whether one more is within what a minute may have.
    fn one_more(counted: &Mutex<Self>, now_ms: u64, most: u32) -> bool {
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms >= counted.since + MINUTE_MS {
            *counted = Self { since: now_ms, count: 0 };
        }
        counted.count = counted.count.saturating_add(1);
        counted.count <= most
    }
}

impl Hosts {
    /// Whether this one is among as many as a minute may have.
    fn among(hosts: &Mutex<Self>, host: &str, now_ms: u64, most: usize) -> bool {
        let mut hosts = hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms >= hosts.since + MINUTE_MS {
            *hosts = Self { since: now_ms, asked: HashSet::new() };
        }
        if hosts.asked.contains(host) {
            return true;
        }
        let room = hosts.asked.len() < most;
        if room {
            hosts.asked.insert(host.into());
        }
        room
    }
}

/// Takes the next turn; turns are so far apart, as long as nobody has to wait too long for that.
fn turn(next: &Mutex<Option<Instant>>, apart: Duration) -> Instant {
    let now = Instant::now();
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    let turn = next.map_or(now, |next| next.clamp(now, now + NO_LATER));
    *next = Some(turn + apart);
    turn
}

impl Seats {
    /// A seat for a connection.
    pub(crate) fn connection(&self) -> Result<Seat, Refusal> {
        Self::take(&self.connections, "connections")
    }

    /// A seat for a request that is being read, judged or forwarded, and for its answer. It waits for its turn, for a
    /// while and behind so many others.
    pub(crate) async fn moving(&self) -> Result<Seat, Refusal> {
        const OF: &str = "requests in flight";
        if let Ok(seat) = Self::take(&self.moving, OF) {
            return Ok(seat);
        }
        let _standing = match Self::take(&self.queue, OF) {
            Ok(standing) => standing,
            Err(full) => return self.turned_away(full).await,
        };
        let seat = tokio::time::timeout(QUEUE_TIME, Arc::clone(&self.moving).acquire_owned()).await;
        match seat {
            Ok(Ok(permit)) => Ok(Seat { _permit: permit, _spooled: None }),
            Ok(Err(_)) | Err(_) => Err(Refusal::Overloaded { of: OF }),
        }
    }

    /// Room for so many bytes more of a body, added to what it has.
    pub(crate) fn spool(&self, bytes: usize, spooled: &mut Option<Spooled>) -> Result<(), Refusal> {
        let full = Refusal::Overloaded { of: "bytes of request bodies" };
        let Ok(count) = u32::try_from(bytes) else { return Err(full) };
        let more = Arc::clone(&self.spool).try_acquire_many_owned(count).map_err(|_| full)?;
        match spooled {
            Some(spooled) => spooled.0.merge(more),
            None => *spooled = Some(Spooled(more)),
        }
        Ok(())
    }

    /// A seat for a request that waits for people.
    pub(crate) async fn held(&self) -> Result<Seat, Refusal> {
        match Self::take(&self.held, "requests waiting for approval") {
            Ok(seat) => Ok(seat),
            Err(full) => self.turned_away(full).await,
        }
    }

    /// A seat for a question about approvals, counted by the boot-time clock.
    pub(crate) async fn asking(&self, now_ms: u64) -> Result<Seat, Refusal> {
        const OF: &str = "questions about approvals";
        let seat = match Counted::one_more(&self.asked, now_ms, ASKED) {
            true => Self::take(&self.asking, OF),
            false => Err(Refusal::Overloaded { of: OF }),
        };
        match seat {
            Ok(seat) => Ok(seat),
            Err(full) => self.turned_away(full).await,
        }
    }

    /// Waits for this agent's turn to be told that there are too many. Saying no costs next to nothing, and is asked for
    /// again at once: without that, one agent's flood of it would be all that this edge does.
    pub(crate) async fn turn_away(&self) {
        tokio::time::sleep_until(turn(&self.next_no, NO_SOONER)).await;
    }

    /// A connection of this agent was cut off for what came over it, by the boot-time clock.
    pub(crate) fn was_cut_off(&self, now_ms: u64) {
        Counted::one_more(&self.cut_off, now_ms, CUT_OFF);
    }

    /// Waits until this agent may open a tunnel: at once, unless too many of its connections were cut off. What is sent
    /// before that happens, and the handshake, would cost others again and again.
    pub(crate) async fn may_open(&self, now_ms: u64) {
        if Counted::in_minute(&self.cut_off, now_ms) > CUT_OFF {
            tokio::time::sleep_until(turn(&self.next_tunnel, ONE_BY_ONE)).await;
        }
    }

    async fn turned_away<T>(&self, refusal: Refusal) -> Result<T, Refusal> {
        self.turn_away().await;
        Err(refusal)
    }

    /// Counts a host that no rule names, by the boot-time clock; false when there were too many within the minute.
    pub(crate) fn stray(&self, host: &str, now_ms: u64) -> bool {
        Hosts::among(&self.strays, host, now_ms, STRAYS)
    }

    /// Counts a host for which a leaf has to be signed, by the boot-time clock.
    pub(crate) fn new_host(&self, host: &str, now_ms: u64) -> Result<(), Refusal> {
        const OF: &str = "hosts that were not asked for before";
        let among = Hosts::among(&self.new_hosts, host, now_ms, NEW_HOSTS);
        among.then_some(()).ok_or(Refusal::Overloaded { of: OF })
    }

    fn take(seats: &Arc<Semaphore>, of: &'static str) -> Result<Seat, Refusal> {
        let permit =
            Arc::clone(seats).try_acquire_owned().map_err(|_| Refusal::Overloaded { of })?;
        Ok(Seat { _permit: permit, _spooled: None })
    }
}

impl Seat {
    /// Keeps what was spooled for as long as the seat is taken.
    pub(crate) fn with(self, spooled: Option<Spooled>) -> Self {
        Self { _spooled: spooled, ..self }
    }
}
