//! What is more than one request: a WebSocket, or a tunnel. Each is bounded in bytes and in time, ends when the policy in
//! force does not allow it any more, and is counted and logged when it ends.

use std::sync::atomic::{AtomicU64, Ordering};

use countersign_policy::Channel;
use prometheus::IntGauge;

use crate::bundle::InForce;
use crate::rooms::Rooms;
use crate::telemetry::Counted;

/// Which kind it is, as figures and log lines call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tunnel,
    WebSocket,
}

/// Why a channel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A connection broke off.
    Broken,
    /// One side closed it.
    Closed,
    /// This edge goes down.
    Draining,
    /// The bundle in force does not let it stay open.
    Forbidden(&'static str),
    /// What came is not what was agreed on.
    Malformed(&'static str),
    TooLong,
    TooMuch,
    /// A fake key was in it: of the credential with this index.
    Tripped(usize),
}

/// An open channel: how much of it is left, and who opened it.
pub(crate) struct Open {
    kind: Kind,
    agent: String,
    host: String,
    rule: String,
    max_bytes: u64,
    passed: AtomicU64,
    began_ms: u64,
    deadline_ms: u64,
    _counted: Counted,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::WebSocket => "websocket",
        }
    }

    fn gauge(self, rooms: &Rooms) -> &IntGauge {
        match self {
            Self::Tunnel => &rooms.metrics.tunnels,
            Self::WebSocket => &rooms.metrics.websockets,
        }
    }
}

impl End {
    fn word(&self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Closed => "closed",
            Self::Draining => "draining",
            Self::Forbidden(_) => "forbidden",
            Self::Malformed(_) => "malformed",
            Self::TooLong => "too_long",
            Self::TooMuch => "too_much",
            Self::Tripped(_) => "fake_key_misplaced",
        }
    }
}

impl Open {
    /// Opens it under `rule`, from now on.
    pub(crate) fn new(
        rooms: &Rooms,
        kind: Kind,
        agent: &str,
        host: &str,
        rule: &str,
        channel: Channel,
    ) -> Self {
        let began_ms = rooms.control.clock().boottime_ms();
        let most = u64::try_from(channel.max_time.as_millis()).unwrap_or(u64::MAX);
        Self {
            kind,
            agent: agent.to_owned(),
            host: host.to_owned(),
            rule: rule.to_owned(),
            max_bytes: channel.max_bytes,
            passed: AtomicU64::new(0),
            began_ms,
            deadline_ms: began_ms.saturating_add(most),
            _counted: Counted::one(kind.gauge(rooms)),
        }
    }

    /// Counts bytes that are about to be passed on, in either direction.
    ///
    /// # Errors
    /// [`End::TooMuch`] when they are more than is left: they must not be passed on.
    pub(crate) fn spend(&self, bytes: usize) -> Result<(), End> {
        let before = self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
        if before.saturating_add(bytes as u64) <= self.max_bytes {
            return Ok(());
        }
        self.passed.fetch_sub(bytes as u64, Ordering::Relaxed);
        Err(End::TooMuch)
    }

    /// Returns when it may not stay open any longer: its time is over, the edge goes down, or a bundle came under which
    /// it does not stand.
    pub(crate) async fn over(
        &self,
        rooms: &Rooms,
        stands: impl Fn(&InForce) -> Result<(), &'static str>,
    ) -> End {
        let mut bundles = rooms.control.bundles();
        loop {
            let force = bundles.borrow_and_update().clone();
            let stands = force.map_or(Err("this gateway is out of use"), |force| stands(&force));
            if let Err(why) = stands {
                return End::Forbidden(why);
            }
            tokio::select! {
                changed = bundles.changed() => if changed.is_err() {
                    return End::Draining;
                },
                () = rooms.control.clock().reached(self.deadline_ms) => return End::TooLong,
                () = rooms.drain.cancelled() => return End::Draining,
            }
        }
    }

    /// Counts and logs how it ended.
    pub(crate) fn ended(self, rooms: &Rooms, end: &End) {
        let Self { kind, agent, host, rule, passed, began_ms, .. } = self;
        let (kind, end, bytes) = (kind.word(), end.word(), passed.into_inner());
        rooms.metrics.channels_ended.with_label_values(&[&format!("{kind}_{end}")]).inc();
        rooms.metrics.channel_bytes.with_label_values(&[kind]).inc_by(bytes);
        let milliseconds = rooms.control.clock().boottime_ms().saturating_sub(began_ms);
        tracing::info!(agent, host, rule, kind, bytes, milliseconds, end, "a channel ended");
    }
}
