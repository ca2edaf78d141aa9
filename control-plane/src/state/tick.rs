//! Time passes: what is due expires, becomes unknown, or is forgotten.

use super::audit::Entry;
use super::deadline::Due;
use super::{Actor, ApprovalId, ApprovalState, Done, Event, Refused, State};

impl State {
    pub(super) fn tick(&mut self, actor: &Actor) -> Result<Done, Refused> {
        if *actor != Actor::System {
            return Err(Refused::Denied("only the control plane says that time passes".into()));
        }
        let mut settled = Vec::new();
        let mut nudged = Vec::new();
        let mut records = Vec::new();
        for due in self.deadlines.take_due(self.log_time) {
            match due {
                Due::Approval(id) => {
                    let Some((state, entry)) = self.run_out(id) else { continue };
                    settled.push((id, state));
                    records.push(entry);
                }
                Due::Change(id) => records.extend(self.expire_change(id)),
                Due::Grant(id) => {
                    let Some((entry, reopened)) = self.end_grant(id) else { continue };
                    records.push(entry);
                    let pending = |id| (id, ApprovalState::Pending);
                    settled.extend(reopened.into_iter().map(pending));
                }
                Due::Nudge(id) => {
                    let Some((nudge, entry)) = self.nudge(id) else { continue };
                    nudged.push((id, nudge));
                    records.push(entry);
                }
                Due::Offers => self.drop_old_offers(),
                Due::Return => {
                    for (id, state, entry) in self.end_absences() {
                        settled.push((id, state));
                        records.push(entry);
                    }
                }
                Due::FormerEdgeCa => records.extend(self.drop_former_edge_ca()),
                Due::Held(request_id) => {
                    if self.lose_track(&request_id) {
                        records.extend(
                            self.held.get(&request_id).map(|held| held.entry("request.unknown")),
                        );
                    } else {
                        self.forget_held(&request_id);
                    }
                }
            }
        }
        Ok(Done { event: Event::Ticked { settled, nudged }, records })
    }

    fn run_out(&mut self, id: ApprovalId) -> Option<(ApprovalState, Entry)> {
        let approval = self.approvals.get(&id)?;
        let digest = hex::encode(approval.shown.intent_digest);
        let claimed = approval.claim.as_ref().map(|claim| claim.request_id);
        let (state, action, reason) = match approval.state {
            ApprovalState::Pending => {
                (ApprovalState::Expired, "approval.expire", "nobody decided in time")
            }
            ApprovalState::Approved => {
                (ApprovalState::Expired, "approval.expire", "approved, but not used in time")
            }
            ApprovalState::Released => {
                (ApprovalState::Unknown, "approval.unknown", "released, but never reported")
            }
            _ => return None,
        };
        match claimed {
            None => self.settle(id, state, reason.to_owned()),
            Some(request_id) => {
                self.lose_track(&request_id);
            }
        }
        Some((state, Entry::new(action, id).with("intent_digest", digest).with("reason", reason)))
    }
}
