//! The story of one connection to a Postgres server, from when it is open to its end: what the agent says goes out one way
//! ([`super::outward`]), what the server says comes back the other ([`super::back`]), and it is watched meanwhile whether
//! it may stay.

use std::io;
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

use bytes::BytesMut;
use countersign_policy::{Body, Subject, Then};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, oneshot};

use super::back::Back;
use super::ledger::Ledger;
use super::lock;
use super::message::put_bare;
use super::outward::Outward;
use super::report::{GOING_DOWN, PROTOCOL, Report, Severity};
use super::weigh::Scales;
use crate::bundle::{Credential, InForce};
use crate::redact::Redactor;
use crate::refuse::Refusal;
use crate::rooms::Rooms;

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The agent said goodbye.
    Closed,
    /// The bundle in force does not let it stay open.
    Forbidden(&'static str),
    /// This edge goes down.
    Draining,
    /// The agent's client is gone.
    Gone,
    /// The agent's client said what is not understood, or what is not in its place.
    Malformed(&'static str),
    /// Something was asked that ends it.
    Refused(Box<Refusal>),
    /// The server is gone.
    ServerGone,
    /// The server said what is not understood.
    ServerMalformed(&'static str),
}

impl End {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Draining => "draining",
            Self::Forbidden(_) => "forbidden",
            Self::Gone => "gone",
            Self::Malformed(_) => "malformed",
            Self::Refused(_) => "refused",
            Self::ServerGone => "server_gone",
            Self::ServerMalformed(_) => "server_malformed",
        }
    }

    /// What the agent's client is told, if it can still be told something.
    fn said(&self) -> Option<Report> {
        Some(match self {
            Self::Closed | Self::Gone => return None,
            Self::Draining => Report::fatal(
                GOING_DOWN,
                "this gateway is going down",
                "What had not been answered may or may not have been carried out. Connect again."
                    .into(),
            ),
            Self::Forbidden(why) => Report::fatal(
                GOING_DOWN,
                "this connection may not stay open",
                format!("It was ended: {why}."),
            ),
            Self::Malformed(what) => Report::fatal(
                PROTOCOL,
                "this is not understood",
                format!("There is {what}. Nothing of it was sent."),
            ),
            Self::Refused(refusal) => Report::refused(refusal, Severity::Fatal),
            Self::ServerGone => Report::fatal(
                "08006",
                "the server closed the connection",
                "What had not been answered may or may not have been carried out.".into(),
            ),
            Self::ServerMalformed(what) => Report::fatal(
                PROTOCOL,
                "the server is not understood",
                format!(
                    "There is {what}. What had not been answered may or may not have been carried out."
                ),
            ),
        })
    }
}

/// What both ways of a session share.
pub(super) struct Session {
    pub(super) scales: Scales,
    pub(super) redactor: Redactor,
    ledger: Mutex<Ledger>,
    /// Answers have come: for the way out.
    pub(super) moved: Notify,
    /// There are words of our own to be said: for the way back.
    pub(super) words: Notify,
    /// While something is held: ends that.
    hold: Mutex<Option<oneshot::Sender<()>>>,
}

/// While it lives, what is held can be cancelled.
pub(super) struct Cancellable<'a>(&'a Session);

impl Drop for Cancellable<'_> {
    fn drop(&mut self) {
        lock(&self.0.hold).take();
    }
}

impl Session {
    pub(super) fn new(scales: Scales, redactor: Redactor, ledger: Ledger) -> Self {
        let (moved, words) = (Notify::new(), Notify::new());
        Self { scales, redactor, ledger: Mutex::new(ledger), moved, words, hold: Mutex::default() }
    }

    pub(super) fn rooms(&self) -> &Rooms {
        &self.scales.rooms
    }

    pub(super) fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Something is held from now on. The receiver hears when it is cancelled.
    pub(super) fn holds(&self) -> (Cancellable<'_>, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        *lock(&self.hold) = Some(sender);
        (Cancellable(self), receiver)
    }

    /// Cancels what is held; false when nothing is.
    pub(super) fn cancel_held(&self) -> bool {
        lock(&self.hold).take().is_some_and(|hold| hold.send(()).is_ok())
    }

    /// Returns when it may not stay open any longer.
    async fn over(&self, credential: &Credential) -> End {
        let mut bundles = self.rooms().control.bundles();
        loop {
            let force = bundles.borrow_and_update().clone();
            let stands = force
                .map_or(Err("this gateway is out of use"), |force| self.stands(&force, credential));
            if let Err(why) = stands {
                return End::Forbidden(why);
            }
            tokio::select! {
                changed = bundles.changed() => if changed.is_err() {
                    return End::Draining;
                },
                () = self.rooms().drain.cancelled() => return End::Draining,
            }
        }
    }

    /// Whether this bundle would let the same connection be opened, with the same key.
    fn stands(&self, force: &InForce, credential: &Credential) -> Result<(), &'static str> {
        let agent = force
            .bundle
            .agent(&self.scales.badge)
            .ok_or("the agent is no longer known to this gateway, or has another token")?;
        if force.bundle.forbids(&self.scales.destination) {
            return Err("the server is part of Countersign itself");
        }
        let same = force.bundle.credential(&credential.id).is_some_and(|current| {
            current.version == credential.version
                && current.place == credential.place
                && current.serves(&self.scales.destination)
        });
        if !same {
            return Err("the password that it was opened with is no longer in use");
        }
        let head = self.scales.opening_head(&agent.name);
        let decision = force.bundle.policy.decide(&Subject { head, body: Body::Whole(&[]) });
        let stays = matches!(decision.then, Then::Allow | Then::Approve | Then::Observe)
            && decision.credentials.contains(&credential.name);
        stays.then_some(()).ok_or("the policy no longer lets this connection be opened")
    }
}

/// Where messages go, and whether what went there ends with one.
pub(super) struct Out<W> {
    to: W,
    whole: bool,
    /// Nobody is there any more: what goes there is dropped.
    deaf: bool,
}

impl<W: AsyncWrite + Unpin> Out<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, whole: true, deaf: false }
    }

    /// Writes messages, the last of which may go on.
    pub(super) async fn write(&mut self, bytes: &[u8], ends: bool) -> io::Result<()> {
        if self.deaf || bytes.is_empty() {
            return Ok(());
        }
        self.whole = false;
        self.to.write_all(bytes).await?;
        self.to.flush().await?;
        self.whole = ends;
        Ok(())
    }

    /// Says one thing more, where that can be said, and closes.
    async fn close(&mut self, last: &[u8]) {
        if self.whole && !self.deaf {
            // It is going away: that it cannot be told is no news.
            let _ = self.write(last, true).await;
        }
        let _ = self.to.shutdown().await;
    }
}

/// How long either side has to take what is said last.
const GOODBYE: Duration = Duration::from_secs(2);

/// Both sides of a connection, and what of each was read already.
pub(super) struct Sides<A, S> {
    pub(super) agent: A,
    pub(super) agent_read: BytesMut,
    pub(super) server: S,
    pub(super) server_read: BytesMut,
}

impl Session {
    /// Carries it to its end.
    pub(super) async fn run<A, S>(&self, credential: &Credential, sides: Sides<A, S>) -> End
    where
        A: AsyncRead + AsyncWrite,
        S: AsyncRead + AsyncWrite,
    {
        let Sides { agent, agent_read, server, server_read } = sides;
        let (from_agent, to_agent) = tokio::io::split(agent);
        let (from_server, to_server) = tokio::io::split(server);
        let (mut to_agent, mut to_server) = (Out::new(to_agent), Out::new(to_server));
        let mut back = Back::new(self, from_server, server_read);
        let end = {
            let mut outward = Outward::new(self, from_agent, agent_read, &mut to_server);
            let mut out = pin!(outward.run());
            let mut back = pin!(back.run(&mut to_agent));
            tokio::select! {
                end = self.over(credential) => end,
                end = &mut back => end,
                end = &mut out => end,
            }
        };
        if matches!(end, End::Closed | End::Gone) {
            to_agent.deaf = true;
            self.see_through(&mut back, &mut to_agent).await;
        }
        let mut goodbye = BytesMut::new();
        if let Some(report) = end.said() {
            report.put(&mut goodbye);
        }
        let mut terminate = BytesMut::new();
        put_bare(&mut terminate, b'X');
        let bye = async { tokio::join!(to_agent.close(&goodbye), to_server.close(&terminate)) };
        // Whoever does not read is not waited for.
        let _ = tokio::time::timeout(GOODBYE, bye).await;
        end
    }

    /// Hears what became of what people released, now that the agent has left.
    async fn see_through<R, W>(&self, back: &mut Back<'_, R>, to_agent: &mut Out<W>)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let heard = async {
            let mut back = pin!(back.run(to_agent));
            while self.ledger().has_deeds() {
                tokio::select! {
                    _ = &mut back => return,
                    () = self.moved.notified() => {}
                }
            }
        };
        let most = self.rooms().limits.approved_response_time;
        tokio::select! {
            _ = tokio::time::timeout(most, heard) => {}
            () = self.rooms().drain.cancelled() => {}
        }
    }
}

/// Ends a session for what may not be done: nothing of it was sent.
pub(super) fn forbidden(refusal: Refusal) -> End {
    End::Refused(Box::new(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leaves_is_told_nothing_and_everybody_else_why() {
        assert!(End::Closed.said().is_none() && End::Gone.said().is_none());
        for end in [
            End::Draining,
            End::Forbidden("x"),
            End::Malformed("x"),
            End::ServerGone,
            End::ServerMalformed("x"),
            End::Refused(Box::new(Refusal::PolicyFailed)),
        ] {
            let report = end.said().expect("it is said");
            assert_eq!(report.severity, Severity::Fatal, "{end:?}");
            assert!(!report.detail.is_empty(), "{end:?}");
        }
    }
}
