//! What an attached edge says, in the order in which it says it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_proto::v1;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::Instrument as _;

use super::{Done, Session};
use crate::cluster::ProposeError;
use crate::intake::announced::request_id;
use crate::intake::open::open;
use crate::intake::session::clipped;
use crate::intake::spool::Spooled;
use crate::intake::waiting::RequestId;
use crate::intake::{actor, lease};
use crate::state::{Command, ReportedOutcome};
use crate::telemetry;
use v1::SettledReason as Reason;
use v1::attach_request::Message as In;

/// Alarms that are recorded in a minute. Agents raise them at will, and the audit log is for ever.
const ALARMS: u32 = 120;

impl Session {
    pub(super) fn take_in(&mut self, message: v1::AttachRequest) -> Result<(), Status> {
        self.heard = Instant::now();
        let number = message.sequence;
        self.outbox.take_in(number)?;
        while let Some((sent, revision)) = self.bundles.front().copied()
            && sent <= message.acknowledged
        {
            self.bundles.pop_front();
            self.place.put_in_force(revision);
        }
        match message.message {
            Some(In::OpenHead(head)) => self.begin(head)?,
            Some(In::OpenBody(piece)) => self.add(&piece)?,
            Some(In::HeldCancelled(cancelled)) => return self.cancelled(number, cancelled),
            Some(In::ExecutionReceipt(receipt)) => return self.receipt(number, &receipt),
            Some(In::Alarm(alarm)) => {
                self.alarm(number, alarm);
                return Ok(());
            }
            Some(In::LeaseRequest(asked)) => self.lend(asked),
            Some(In::AskApprovals(asked)) => self.ask(asked)?,
            Some(In::Hello(_)) => {
                return Err(Status::invalid_argument("a second Hello: attach again instead"));
            }
            Some(In::Pong(_)) | None => {}
        }
        self.outbox.settle(number);
        Ok(())
    }

    fn begin(&mut self, head: v1::OpenHead) -> Result<(), Status> {
        let id = read_id(&head.request_id)?;
        if self.settled.contains(&id) {
            return self.settle(
                id,
                None,
                Reason::AlreadyExecuted,
                "it was carried out or refused before",
            );
        }
        if self.opening.contains_key(&id) {
            // The answer to the first announcement is on its way.
            return Ok(());
        }
        let most = self.rooms.settings.max_body_bytes;
        if head.body_bytes > most {
            return self.settle(
                id,
                None,
                Reason::Invalid,
                &format!("a body of more than {most} bytes cannot be held"),
            );
        }
        if self.waiting.len() + self.opening.len() >= self.rooms.settings.max_waiting {
            return self.settle(
                id,
                None,
                Reason::Overloaded,
                "too many requests of this edge are waiting",
            );
        }
        if head.body_bytes == 0 {
            self.open(id, head, Bytes::new());
        } else if !self.spools.begin(id, head) {
            return self.settle(id, None, Reason::Overloaded, "too many bodies are on their way");
        }
        Ok(())
    }

    fn add(&mut self, piece: &v1::OpenBody) -> Result<(), Status> {
        let id = read_id(&piece.request_id)?;
        match self.spools.add(id, piece) {
            Spooled::Part | Spooled::Unknown => Ok(()),
            Spooled::Whole(head, body) => {
                self.open(id, *head, body);
                Ok(())
            }
            Spooled::Wrong(why) => self.settle(id, None, Reason::Invalid, why),
        }
    }

    fn open(&mut self, id: RequestId, head: v1::OpenHead, body: Bytes) {
        self.waiting.remove(&id);
        self.opening.insert(id, false);
        let (rooms, recipient) = (Arc::clone(&self.rooms), Arc::clone(&self.recipient));
        let span = tracing::info_span!("intake.open", request = %hex::encode(id));
        let span = telemetry::in_trace(span, &head.traceparent);
        // What was reported first is known first: the same statement or request once more is a new one then.
        let reported = self.reports.clone();
        let opening = async move {
            for report in reported {
                report.cancelled().await;
            }
            Done::Opened(id, open(&rooms, &recipient.caller, head, body).await)
        };
        self.work.spawn(opening.instrument(span));
    }

    fn cancelled(&mut self, number: u64, cancelled: v1::HeldCancelled) -> Result<(), Status> {
        let id = read_id(&cancelled.request_id)?;
        if let Some(gone) = self.opening.get_mut(&id) {
            *gone = true;
        }
        self.spools.forget(&id);
        self.waiting.remove(&id);
        self.reopening.retain(|reopening| *reopening != id);
        let reason = clipped(cancelled.reason);
        self.record(number, Command::Detach { request_id: id, reason });
        Ok(())
    }

    fn receipt(&mut self, number: u64, receipt: &v1::ExecutionReceipt) -> Result<(), Status> {
        let request_id = read_id(&receipt.request_id)?;
        let outcome = match receipt.outcome() {
            v1::ExecutionOutcome::Completed => ReportedOutcome::Completed,
            v1::ExecutionOutcome::NotSent => ReportedOutcome::NotSent,
            v1::ExecutionOutcome::Unknown | v1::ExecutionOutcome::Unspecified => {
                ReportedOutcome::Unknown
            }
        };
        let status = receipt.status.try_into().unwrap_or(0);
        let ended = CancellationToken::new();
        self.reports.retain(|report| !report.is_cancelled());
        self.reports.push(ended.clone());
        let ended = ended.drop_guard();
        self.record_until(number, Command::Report { request_id, outcome, status }, ended);
        Ok(())
    }

    fn alarm(&mut self, number: u64, alarm: v1::Alarm) {
        let v1::Alarm { kind, agent_id, credential_id, host, detail } = alarm;
        tracing::warn!(edge = self.recipient.caller.edge.id, kind, host, "an edge raised an alarm");
        if !self.alarms.take() {
            return self.outbox.settle(number);
        }
        let details = [
            ("agent", agent_id),
            ("credential", credential_id),
            ("host", host),
            ("detail", detail),
        ];
        let details =
            details.into_iter().map(|(name, text)| (name.to_owned(), clipped(text))).collect();
        self.record(
            number,
            Command::Note { action: "edge.alarm".into(), subject: clipped(kind), details },
        );
    }

    fn lend(&mut self, asked: v1::LeaseRequest) {
        let (rooms, recipient) = (Arc::clone(&self.rooms), Arc::clone(&self.recipient));
        self.work.spawn(async move {
            let lent = lease::lend(&rooms, &recipient, &asked).await;
            Done::Lent(asked.credential_id, lent)
        });
    }

    /// Commits what needs no answer but its acknowledgement. A refusal is final: saying it again changes nothing.
    pub(super) fn record(&mut self, number: u64, command: Command) {
        self.record_until(number, command, ());
    }

    /// The same; `ended` is dropped when it is committed, or will not be.
    fn record_until(&mut self, number: u64, command: Command, ended: impl Send + 'static) {
        let (rooms, edge) = (Arc::clone(&self.rooms), self.recipient.caller.edge.id.clone());
        self.work.spawn(async move {
            let _ended = ended;
            match rooms.cluster.propose(actor(&edge), command).await {
                Ok(_) => Done::Recorded(number),
                Err(ProposeError::Refused(why)) => {
                    tracing::debug!(edge, %why, "what an edge reported changed nothing");
                    Done::Recorded(number)
                }
                Err(ProposeError::Unavailable(_)) => Done::Unrecorded,
            }
        });
    }
}

/// So many of something in a minute.
pub(super) struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    pub(super) fn alarms() -> Self {
        Self { left: ALARMS, since: Instant::now() }
    }

    /// Whether one more is within it.
    fn take(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(60) {
            *self = Self::alarms();
        }
        let one = self.left > 0;
        self.left = self.left.saturating_sub(1);
        one
    }
}

fn read_id(bytes: &Bytes) -> Result<RequestId, Status> {
    request_id(bytes).map_err(|invalid| Status::invalid_argument(invalid.0))
}
