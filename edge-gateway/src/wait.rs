//! A held request and what the control plane says of it → released, or not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_gate::{
    Circumstances, Decision, Held, Judged, Outcome, Released, Signed, Unverified, Word, verify,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::control::{Answer, Away, Control, Opening, Reason, Receipt, RequestId, Why};
use crate::refuse::Refusal;
use crate::telemetry::Metrics;
use crate::unseal::Sealed;

/// Nothing is ever held longer: clients give up at 300 seconds.
pub(crate) const LONGEST: Duration = Duration::from_secs(280);
/// Shorter holds would end before anybody could answer.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long a parked request waits before it is announced to a node again that could not take it.
const ASK_AGAIN_MS: u64 = 2_000;
/// How long past its hold a request waits to hear under which approval it is known.
const GRACE: Duration = Duration::from_secs(2);

/// A request that waits: what the gate holds, and its line to the control plane.
pub(crate) struct Waiting {
    pub(crate) held: Held,
    pub(crate) opening: Opening,
    pub(crate) why: Why,
    /// The policy lets it outlive its client.
    pub(crate) parks: bool,
    approval_id: Option<String>,
    /// The same, for whoever looks on.
    known: watch::Sender<Option<String>>,
}

/// How the wait ended, when it did not end in a no.
pub(crate) enum Ended {
    /// A signed decision releases it. The keys that came along are still sealed.
    Released { request_id: RequestId, released: Box<Released>, sealed: Vec<Sealed> },
    /// The policy changed: it must be judged again.
    Reopened(Box<Waiting>),
}

/// How long to hold: what the rule says, less if the agent asks for less.
pub(crate) fn hold_for(rule: Duration, asked: Option<Duration>) -> Duration {
    asked.unwrap_or(rule).min(rule).clamp(SHORTEST, LONGEST)
}

/// Names the circumstances of a request that is to be held for `hold`.
pub(crate) fn circumstances(
    control: &Control,
    edge: &str,
    protocol: &str,
    policy_version: u64,
    hold: Duration,
) -> Circumstances {
    Circumstances {
        request_id: rand::random(),
        edge: edge.to_owned(),
        edge_key: control.edge_key(),
        incarnation: control.incarnation().id,
        protocol: protocol.to_owned(),
        policy_version,
        started_ms: control.clock().wall_ms(),
        hold_ms: hold.as_millis() as u64,
        nonce: rand::random(),
    }
}

impl Waiting {
    /// Holds a judged request and announces it.
    pub(crate) fn open(
        control: &Arc<Control>,
        judged: Judged,
        circumstances: Circumstances,
        why: Why,
    ) -> Self {
        let held = judged.hold(circumstances, control.clock().boottime_ms());
        let opening = control.open(&held, &why);
        let known = watch::Sender::new(None);
        Self { held, opening, why, parks: false, approval_id: None, known }
    }

    /// Method and URL, as people are shown them.
    pub(crate) fn described(&self) -> String {
        let request = self.held.request();
        format!("{} {}{}", request.method(), request.destination().authority(), request.path())
    }

    /// Under which approval it is known, once it is.
    pub(crate) fn known(&self) -> watch::Receiver<Option<String>> {
        self.known.subscribe()
    }

    /// Announces it anew as a newer policy judged it, under the same id and with the same deadline.
    pub(crate) fn again(self, judged: Judged, policy_version: u64, why: Why) -> Self {
        let Self { held, mut opening, parks, approval_id, known, .. } = self;
        let before = &held.ticket().circumstances;
        let began = held.deadline().saturating_sub(before.hold_ms);
        let held = judged.hold(Circumstances { policy_version, ..before.clone() }, began);
        opening.again(&held, &why);
        Self { held, opening, why, parks, approval_id, known }
    }

    /// Waits until it is released, refused, given up, or to be judged again.
    ///
    /// # Errors
    /// The refusal that the agent is answered with.
    pub(crate) async fn decided(
        mut self: Box<Self>,
        control: &Control,
        metrics: &Metrics,
        drain: &CancellationToken,
    ) -> Result<Ended, Refusal> {
        let deadline = self.held.deadline();
        let request_id = self.held.ticket().circumstances.request_id;
        let mut trust_changes = control.changes_of_trust();
        // A decision that too few of those whom we trust have signed: who that is may change.
        let mut unproven: Option<(Signed, Vec<Sealed>)> = None;
        let mut reminded_epoch = 0;
        // Boot-time clock: when to announce it again.
        let mut again_at: Option<u64> = None;
        loop {
            let answer = tokio::select! {
                answer = self.opening.answer() => answer,
                Ok(()) = trust_changes.changed(), if unproven.is_some() => {
                    unproven.take().map(|(signed, sealed)| Answer::Signed { signed, sealed })
                }
                () = control.clock().reached(again_at.unwrap_or(deadline)), if again_at.is_some() => {
                    again_at = None;
                    self.opening.remind();
                    continue;
                }
                () = control.clock().reached(deadline) => return Err(self.ran_out(control).await),
                () = drain.cancelled() => {
                    self.opening.given_up("the edge is going down");
                    return Err(Refusal::Draining { approval_id: self.approval_id });
                }
            };
            match answer {
                None => return Err(Refusal::ControlPlaneUnavailable),
                Some(Answer::Opened { approval_id }) => {
                    self.approval_id = approval_id.or(self.approval_id);
                    self.known.send_replace(self.approval_id.clone());
                }
                Some(Answer::Reopen) => return Ok(Ended::Reopened(self)),
                // Not now, says a node: nobody may be there to ask again, and people were asked already.
                Some(Answer::Settled {
                    reason: Reason::NoToken | Reason::Overloaded | Reason::Unavailable,
                    ..
                }) if self.parks && self.approval_id.is_some() => {
                    again_at = Some(control.clock().boottime_ms() + ASK_AGAIN_MS);
                }
                Some(Answer::Settled { reason, approval_id, detail }) => {
                    if reason == Reason::Evicted {
                        self.opening.given_up("the edge was evicted");
                        return Err(Refusal::Evicted);
                    }
                    self.opening.refused();
                    return Err(settled(reason, approval_id.or(self.approval_id), detail));
                }
                Some(Answer::Signed { .. }) if control.in_force().is_none() => {
                    self.opening.given_up("the edge was evicted");
                    return Err(nothing_in_force(control));
                }
                Some(Answer::Signed { signed, sealed }) => {
                    let trust = trust_changes.borrow_and_update().clone();
                    let Some(trust) = trust else { continue };
                    match verify(self.held, &signed, &trust, control.clock().now()) {
                        Outcome::Release(released) => {
                            control.saw_decision(&signed.payload);
                            self.opening.carried();
                            let released = Box::new(released);
                            return Ok(Ended::Released { request_id, released, sealed });
                        }
                        Outcome::Deny(word) => {
                            control.saw_decision(&signed.payload);
                            self.opening.refused();
                            return Err(denied(word, self.approval_id));
                        }
                        Outcome::Ignore(held, why) => {
                            self.held = held;
                            self.opening.undecided();
                            ignored(&self.held, why, self.approval_id.as_deref(), control, metrics);
                            if matches!(why, Unverified::Signatures { .. }) {
                                // Signed before those whom we trust changed: they sign it anew if they are asked.
                                let signed_in = Decision::decode(&signed.payload).map(|d| d.epoch);
                                if signed_in.is_ok_and(|epoch| epoch < trust.epoch)
                                    && reminded_epoch < trust.epoch
                                {
                                    reminded_epoch = trust.epoch;
                                    self.opening.remind();
                                }
                                unproven = Some((signed, sealed));
                            }
                        }
                    }
                }
            }
        }
    }

    async fn ran_out(mut self: Box<Self>, control: &Control) -> Refusal {
        let opened = async {
            while self.approval_id.is_none() && !self.why.allowed && control.away().is_none() {
                match self.opening.answer().await {
                    Some(Answer::Opened { approval_id }) => self.approval_id = approval_id,
                    Some(Answer::Settled { reason, approval_id, detail }) => {
                        return Some(settled(reason, approval_id, detail));
                    }
                    Some(Answer::Reopen | Answer::Signed { .. }) => {}
                    None => break,
                }
            }
            None
        };
        let refused = tokio::time::timeout(GRACE, opened).await.ok().flatten();
        self.opening.given_up("the hold ran out");
        if let Some(refusal) = refused {
            return refusal;
        }
        match (control.away(), self.approval_id) {
            (None, Some(approval_id)) => {
                let request = format!(
                    "{} {}{}",
                    self.held.request().method(),
                    self.held.request().destination().authority(),
                    self.held.request().path()
                );
                Refusal::ApprovalPending { approval_id, request, parked: false }
            }
            (away, _) => unreachable(away.unwrap_or(Away::Unreachable)),
        }
    }
}

/// The refusal for a control plane that cannot be asked.
pub(crate) fn unreachable(away: Away) -> Refusal {
    match away {
        Away::ClockOff => Refusal::ClockOff,
        Away::Evicted => Refusal::Evicted,
        Away::Sealed => Refusal::Sealed,
        Away::Unreachable => Refusal::ControlPlaneUnavailable,
    }
}

/// The refusal of an edge without a bundle.
pub(crate) fn nothing_in_force(control: &Control) -> Refusal {
    unreachable(control.away().unwrap_or(Away::Unreachable))
}

/// A decision that does not count leaves the request held. One that came too late was claimed for nothing: nothing
/// was sent, and the control plane is told so.
fn ignored(
    held: &Held,
    why: Unverified,
    approval_id: Option<&str>,
    control: &Control,
    metrics: &Metrics,
) {
    let reason = match why {
        Unverified::Downgrade => "downgrade",
        Unverified::Expired => "expired",
        Unverified::Malformed(_) => "malformed",
        Unverified::Mismatch => "mismatch",
        Unverified::Signatures { .. } => "signatures",
        Unverified::Type => "type",
    };
    metrics.decisions_ignored.with_label_values(&[reason]).inc();
    tracing::warn!(
        request = hex::encode(held.ticket().circumstances.request_id),
        reason,
        "a decision does not count"
    );
    if why == Unverified::Expired {
        let approval_id = approval_id.and_then(|id| hex::decode(id).ok()?.try_into().ok());
        control.receipt(
            held.ticket().circumstances.request_id,
            approval_id,
            Receipt::NotSent,
            &Bytes::new(),
        );
    }
}

fn denied(word: Word, approval_id: Option<String>) -> Refusal {
    match word {
        Word::Cancel => Refusal::ApprovalCancelled { approval_id, detail: String::new() },
        Word::Expire => Refusal::ApprovalExpired { approval_id },
        Word::Deny | Word::Release => {
            Refusal::ApprovalDenied { approval_id, detail: String::new() }
        }
    }
}

fn settled(reason: Reason, approval_id: Option<String>, detail: String) -> Refusal {
    let rule = None;
    match reason {
        Reason::AlreadyExecuted => Refusal::AlreadyExecuted { approval_id, kept: false },
        Reason::Cancelled => Refusal::ApprovalCancelled { approval_id, detail },
        Reason::Evicted => Refusal::Evicted,
        Reason::Denied | Reason::Revoked => Refusal::ApprovalDenied { approval_id, detail },
        Reason::Expired => Refusal::ApprovalExpired { approval_id },
        Reason::Invalid | Reason::PolicyDenied => {
            Refusal::PolicyDenied { rule, detail: Some(detail) }
        }
        Reason::NoToken => Refusal::NoToken { approval_id, detail },
        Reason::OutcomeUnknown => Refusal::OutcomeUnknown { approval_id },
        Reason::Overloaded => Refusal::TooManyPending { detail },
        Reason::Unavailable if detail.starts_with("sealed") => Refusal::Sealed,
        Reason::Unavailable => Refusal::ControlPlaneUnavailable,
    }
}
