//! Connections that wait for the next request of the same agent with the same credential to the same destination.
//! Nothing else ever gets one: what one request leaves behind on a connection cannot reach anyone else's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use countersign_gate::Destination;
use hyper::client::conn::http2;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::connection::{Connection, One, Watched};

const IDLE_LIMIT: Duration = Duration::from_secs(60);
const SWEEP_EVERY: Duration = Duration::from_secs(10);
const IDLE_PER_KEY: usize = 64;

/// By destination, and then by key.
type Shelves = HashMap<Destination, HashMap<Box<str>, Arc<Shelf>>>;

/// Every shelf. Requests of different keys share nothing but the reading of this.
pub(super) struct Pool {
    shelves: RwLock<Shelves>,
    began: Instant,
    /// Milliseconds after it began.
    swept: AtomicU64,
}

/// The connections of one key to one destination.
#[derive(Default)]
pub(super) struct Shelf(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// HTTP/1.1: one request at a time, the last one back is the first one out.
    idle: Vec<(One, Instant)>,
    /// HTTP/2: shared by all requests, with the time of the last.
    shared: Option<(http2::SendRequest<Watched>, Instant)>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { shelves: RwLock::default(), began: Instant::now(), swept: AtomicU64::new(0) }
    }
}

impl Pool {
    /// Where the connections of this key to there are kept.
    pub(super) fn shelf(&self, destination: &Destination, key: &str) -> Arc<Shelf> {
        self.sweep();
        // A panic while it was held left a map of whole entries: there is nothing to repair.
        let shelves = self.shelves.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(shelf) = shelves.get(destination).and_then(|keys| keys.get(key)) {
            return Arc::clone(shelf);
        }
        drop(shelves);
        let mut shelves = self.shelves.write().unwrap_or_else(PoisonError::into_inner);
        let keys = shelves.entry(destination.clone()).or_default();
        Arc::clone(keys.entry(key.into()).or_default())
    }

    /// Now and then drops what is too old, and the shelves that nobody uses.
    fn sweep(&self) {
        let now = Instant::now();
        let since = now.duration_since(self.began).as_millis() as u64;
        let swept = self.swept.load(Ordering::Relaxed);
        let due = since.saturating_sub(swept) >= SWEEP_EVERY.as_millis() as u64;
        let (old, new, order) = (swept, since, Ordering::Relaxed);
        if !due || self.swept.compare_exchange(old, new, order, order).is_err() {
            return;
        }
        let mut shelves = self.shelves.write().unwrap_or_else(PoisonError::into_inner);
        shelves.retain(|_, keys| {
            keys.retain(|_, shelf| shelf.sweep(now) || Arc::strong_count(shelf) > 1);
            !keys.is_empty()
        });
    }
}

impl Shelf {
    pub(super) fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut kept = self.lock();
        if let Some((sender, used)) = &mut kept.shared {
            if !sender.is_closed() {
                *used = now;
                return Some(Connection::Two(sender.clone()));
            }
            kept.shared = None;
        }
        while let Some((mut one, since)) = kept.idle.pop() {
            if now.duration_since(since) < IDLE_LIMIT && !one.is_closed() {
                return Some(Connection::One(one));
            }
        }
        None
    }

    /// Lets others use a new HTTP/2 connection at once, unless there is one already.
    pub(super) fn share(&self, connection: &Connection) {
        let Connection::Two(sender) = connection else { return };
        let mut kept = self.lock();
        if kept.shared.as_ref().is_none_or(|(old, _)| old.is_closed()) {
            kept.shared = Some((sender.clone(), Instant::now()));
        }
    }

    /// Takes an HTTP/1.1 connection back once its answer has been read to the end; until then it is nobody's.
    pub(super) fn keep(self: Arc<Self>, connection: Connection) {
        let Connection::One(mut one) = connection else { return };
        if one.is_ready() {
            return self.put(one);
        }
        // The end of the request may still be on its way, behind that of the answer. Where nobody else writes it, it is
        // given up; and where no runtime is left, nobody asks for anything any more.
        let Ok(runtime) = Handle::try_current() else { return };
        if one.is_apart() {
            runtime.spawn(async move {
                if one.ready().await.is_ok() {
                    self.put(one);
                }
            });
        }
    }

    fn put(&self, one: One) {
        let mut kept = self.lock();
        if kept.idle.len() < IDLE_PER_KEY {
            kept.idle.push((one, Instant::now()));
        }
    }

    /// Drops what is too old; whether anything is left.
    fn sweep(&self, now: Instant) -> bool {
        let fresh = |since: &Instant| now.duration_since(*since) < IDLE_LIMIT;
        let mut kept = self.lock();
        kept.idle.retain_mut(|(one, since)| fresh(since) && !one.is_closed());
        kept.shared =
            kept.shared.take().filter(|(sender, used)| fresh(used) && !sender.is_closed());
        !kept.idle.is_empty() || kept.shared.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
