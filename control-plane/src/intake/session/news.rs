//! What a run of committed events means for a session.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Committed;
use crate::state::{ApprovalId, Event, Position};

/// What a run of events is about, as far as a session is concerned.
#[derive(Default)]
pub(super) struct News {
    pub(super) approvals: BTreeSet<ApprovalId>,
    pub(super) agents: bool,
    /// Where each edge was last attached, enrolled or evicted.
    pub(super) edges: BTreeMap<String, Position>,
    /// Another trust bundle is in force.
    pub(super) trust: bool,
    /// Another CA signs edges' certificates.
    pub(super) edge_ca: bool,
    /// Nodes came, went, or are found elsewhere.
    pub(super) nodes: bool,
    /// Any approval may have changed.
    pub(super) everything: bool,
    /// Events were missed.
    pub(super) missed: bool,
}

impl News {
    pub(super) fn everything() -> Self {
        Self {
            agents: true,
            edge_ca: true,
            nodes: true,
            trust: true,
            everything: true,
            missed: true,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, event: &Committed<Event>) {
        match &**event {
            Event::AgentChanged { approvals, .. } => {
                self.approvals.extend(approvals);
                self.agents = true;
                self.everything = true;
            }
            Event::ClockConfirmed | Event::PrincipalChanged { .. } => self.everything = true,
            Event::EdgeChanged { id } => {
                self.edges.insert(id.clone(), event.position());
                self.everything = true;
            }
            Event::Claimed { approval, reopened, .. } => {
                self.approvals.extend(approval.iter().chain(reopened));
            }
            Event::GrantChanged { approvals, .. } => self.approvals.extend(approvals),
            Event::Opened { approval, .. } | Event::Reported { approval, .. } => {
                self.approvals.extend(*approval);
            }
            Event::Voted { approval, .. } | Event::Settled { approval, .. } => {
                self.approvals.insert(*approval);
            }
            Event::Ticked { settled, .. } => {
                self.approvals.extend(settled.iter().map(|(approval, _)| *approval))
            }
            Event::EdgeCaChanged { .. } => self.edge_ca = true,
            Event::NodeChanged { .. } => self.nodes = true,
            Event::TrustChanged { .. } => self.trust = true,
            Event::Restored => *self = Self::everything(),
            Event::AuditCheckpointed { .. }
            | Event::Began
            | Event::ChangeProposed { .. }
            | Event::ChangeSettled { .. }
            | Event::ChannelChanged { .. }
            | Event::ClockSuspected(_)
            | Event::CredentialChanged { .. }
            | Event::CredentialResealed { .. }
            | Event::DeliveryChanged { .. }
            | Event::Detached { .. }
            | Event::EdgeRenewed { .. }
            | Event::CaChanged { .. }
            | Event::NodeRenewed { .. }
            | Event::JoinRefused { .. }
            | Event::Leased { .. }
            | Event::LinkOffered { .. }
            | Event::LinkRefused
            | Event::MintBegun { .. }
            | Event::MintFailed { .. }
            | Event::NodeInvited { .. }
            | Event::Noted
            | Event::PolicyChanged { .. }
            | Event::SealChanged
            | Event::TokenMinted { .. } => {}
        }
    }
}
