//! What a run of committed events means for a session.

use std::collections::BTreeSet;

use crate::state::{ApprovalId, Event};

/// What a run of events is about, as far as a session is concerned.
#[derive(Default)]
pub(super) struct News {
    pub(super) approvals: BTreeSet<ApprovalId>,
    pub(super) agents: bool,
    pub(super) bundle: bool,
    pub(super) edges: bool,
    /// Another trust bundle is in force.
    pub(super) trust: bool,
    /// Something was missed, or could have changed any approval.
    pub(super) everything: bool,
}

impl News {
    pub(super) fn everything() -> Self {
        Self {
            approvals: BTreeSet::new(),
            agents: true,
            bundle: true,
            edges: true,
            trust: true,
            everything: true,
        }
    }

    pub(super) fn add(&mut self, event: &Event) {
        match event {
            Event::AgentChanged { .. } => {
                self.agents = true;
                self.bundle = true;
                self.everything = true;
            }
            Event::CredentialChanged { .. } | Event::PolicyChanged { .. } => self.bundle = true,
            Event::PrincipalChanged { .. } => self.everything = true,
            Event::EdgeChanged { .. } => {
                self.edges = true;
                self.everything = true;
            }
            Event::Opened { approval, .. }
            | Event::Claimed { approval, .. }
            | Event::Reported { approval, .. } => {
                self.approvals.extend(*approval);
            }
            Event::Voted { approval, .. } | Event::Settled { approval, .. } => {
                self.approvals.insert(*approval);
            }
            Event::Ticked { settled } => {
                self.approvals.extend(settled.iter().map(|(approval, _)| *approval))
            }
            Event::NodeChanged { .. } => self.bundle = true,
            Event::TrustChanged { .. } => {
                self.trust = true;
                self.bundle = true;
            }
            Event::Restored => *self = Self::everything(),
            Event::AuditCheckpointed { .. }
            | Event::Began
            | Event::Detached { .. }
            | Event::JoinRefused { .. }
            | Event::Leased { .. }
            | Event::NodeInvited { .. }
            | Event::Noted
            | Event::SealChanged => {}
        }
    }
}
