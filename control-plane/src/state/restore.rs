//! A state that comes out of a backup, for a cluster of one new node.
//!
//! Nobody knows what the cluster that made the backup did after it. Somebody may have used an approval that is open in
//! it: so none stays open, and the agent's next try is a new question to people. Edges may know younger positions and
//! trust bundles: so both go on far beyond those of the backup. And what was taken back since, such as a removed
//! principal, a revoked key or an evicted edge, is as it was in the backup: whoever restores takes it back again.

use super::answered::Answered;
use super::audit::Entry;
use super::name::{check_name, joined};
use super::node::node_name;
use super::{Actor, Addresses, Approval, ApprovalState, Node, Position, Refused, State};

/// More trust bundles than anybody signs between a backup and its use.
const EPOCHS_AHEAD: u64 = 1_000;
const REASON: &str = "restored from a backup";

/// The one node of a restored cluster.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub name: String,
    pub addresses: Addresses,
    /// Ed25519. No bundle counts it: whoever holds the root key has to sign one.
    pub public_key: [u8; 32],
}

impl State {
    /// Makes this the state of a cluster that goes on at `position` with one node, `id`:
    ///
    /// * All nodes that there were are removed, their ids and keys burned; invitations are void. Of two CAs of
    ///   one kind the newer is left.
    /// * No edge process is attached. Requests that nothing was released to are forgotten; what was released, and not
    ///   reported, is unknown.
    /// * Approvals that could still be voted on or used are revoked, and so is every grant. Changes that waited for a
    ///   second administrator, and codes that link accounts, are void.
    /// * The next trust bundle has an epoch that edges have not seen.
    /// * No answer is remembered: what was claimed before cannot be had again by asking again.
    ///
    /// # Errors
    /// When the audit log in it is not whole, the cluster had not begun, or the node's id or key was used before;
    /// the state is to be thrown away then.
    pub fn restore_for(
        &mut self,
        id: u64,
        newcomer: &Newcomer,
        position: Position,
    ) -> Result<(), Refused> {
        let Newcomer { name, addresses, public_key } = newcomer;
        check_name("a node", name)?;
        addresses.check()?;
        let Some(genesis) = self.genesis() else {
            return Err(Refused::Precondition(
                "nothing was restored: the backup is of a cluster that had not begun".into(),
            ));
        };
        let cluster_id = genesis.cluster_id.clone();
        if let Some(fault) = self.verify_audit(None).fault {
            return Err(Refused::Invalid(format!(
                "nothing was restored: of the audit log in the backup, {fault}"
            )));
        }
        if id == 0 || self.nodes.contains_key(&id) || self.is_key_known(public_key) {
            return Err(Refused::AlreadyExists(
                "nothing was restored: the node's id or signing key was used in this cluster before; begin again in an empty directory".into(),
            ));
        }
        let from = self.position;
        self.position = position;
        self.bundle_revision = position.index;
        self.least_trust_epoch = self.next_trust_epoch().saturating_add(EPOCHS_AHEAD);
        self.answered = Answered::default();
        self.invitations.clear();

        let former =
            self.nodes.values().filter(|node| !node.removed).map(|node| node_name(node.id));
        let entry = Entry::new("cluster.restore", cluster_id)
            .with("from", format_args!("{}.{}", from.term, from.index))
            .with("position", format_args!("{}.{}", position.term, position.index))
            .with("removed", joined(former))
            .with("node", node_name(id))
            .with("node_public_key", hex::encode(public_key));
        for node in self.nodes.values_mut() {
            node.removed = true;
        }
        let node = Node {
            id,
            name: name.clone(),
            addresses: addresses.clone(),
            public_keys: vec![*public_key],
            removed: false,
            joined_at: self.log_time,
        };
        self.nodes.insert(id, node);
        self.joins_under_newest_cas(id);
        let entry = self.end_former_cas(entry);
        self.record(entry);

        for edge in self.edges.values_mut() {
            edge.incarnation = None;
        }
        self.end_all_approvals();
        self.end_all_grants();
        self.leave_all_requests();
        self.changes.clear();
        self.offers = super::account::Offers::default();
        Ok(())
    }

    fn end_all_approvals(&mut self) {
        let unended = |a: &&Approval| !a.state.is_terminal() || a.state == ApprovalState::Released;
        let unended: Vec<_> = self.approvals.values().filter(unended).map(|a| a.id).collect();
        for id in unended {
            let Some(approval) = self.approvals.get(&id) else { continue };
            let digest = hex::encode(approval.shown.intent_digest);
            let action = if let Some(claim) = &approval.claim {
                let request_id = claim.request_id;
                self.lose_track(&request_id);
                "approval.unknown"
            } else {
                self.settle(id, ApprovalState::Revoked, REASON.to_owned());
                "approval.revoke"
            };
            let entry = Entry::new(action, id).with("intent_digest", digest).with("reason", REASON);
            self.record(entry);
        }
    }

    /// How often they were used since, and whether they were revoked, the backup does not know.
    fn end_all_grants(&mut self) {
        let now = self.log_time;
        let usable = self.grants.values_mut().filter(|grant| grant.is_usable(now));
        let ended: Vec<_> = usable
            .map(|grant| {
                grant.revoked = Some((now, Actor::System.to_string(), REASON.to_owned()));
                grant.entry("grant.revoke").with("reason", REASON)
            })
            .collect();
        for entry in ended {
            self.record(entry);
        }
    }

    fn leave_all_requests(&mut self) {
        let (released, waiting): (Vec<_>, Vec<_>) = self
            .held
            .values()
            .map(|held| (held.request_id, held.claim.is_some()))
            .partition(|(_, released)| *released);
        for (request_id, _) in waiting {
            self.forget_held(&request_id);
        }
        for (request_id, _) in released {
            if self.lose_track(&request_id)
                && let Some(held) = self.held.get(&request_id)
            {
                let entry = held.entry("request.unknown").with("reason", REASON);
                self.record(entry);
            }
        }
    }

    fn record(&mut self, entry: Entry) {
        self.audit.append(self.log_time, &Actor::System, entry);
    }
}
