//! What every attached edge is told: whom to trust, and what to decide with.

use bytes::Bytes;
use countersign_proto::v1;
use tonic::Status;

use super::Session;
use crate::intake::session::unknown;
use crate::intake::waiting::RequestId;
use crate::sign::SignedBundle;
use crate::state::State;
use v1::attach_response::Message as Out;

impl Session {
    pub(super) fn greet(&mut self, bundle: &SignedBundle) -> Result<(), Status> {
        let signer = &self.rooms.signer;
        let (epoch, trust_bundle) = signer.trust_bundle().ok_or_else(unknown)?;
        let ack = v1::HelloAck {
            cluster_id: signer.cluster_id().to_owned(),
            org_id: signer.org_id().to_owned(),
            edge_id: self.recipient.caller.edge.id.clone(),
            trust_bundle: Some(trust_bundle),
            gateway_addresses: self.rooms.cluster.peek(gateway_addresses),
        };
        self.trusting = epoch;
        self.tell(Out::HelloAck(ack))?;
        self.send_bundle(bundle)?;
        self.send_renewal()
    }

    pub(super) fn send_newest(&mut self) -> Result<(), Status> {
        let newest = self.newest.borrow_and_update().clone();
        newest.map_or(Ok(()), |newest| self.send_bundle(&newest))
    }

    /// A bundle that was only signed anew, because others are trusted now, is in force already; and one that is not
    /// signed anew yet would be refused.
    fn send_bundle(&mut self, bundle: &SignedBundle) -> Result<(), Status> {
        self.send_trust()?;
        if bundle.revision <= self.told || bundle.epoch < self.trusting {
            return Ok(());
        }
        let envelope = Some(bundle.envelope.clone());
        let number = self.outbox.send(Out::Bundle(v1::EdgeBundle { envelope }))?;
        self.told = bundle.revision;
        self.bundles.push_back((number, bundle.revision));
        let waiting = std::mem::take(&mut self.reopening);
        waiting.into_iter().try_for_each(|id| self.reopen(id))
    }

    /// Before anything that only a newer trust bundle makes count.
    pub(super) fn send_trust(&mut self) -> Result<(), Status> {
        let Some((epoch, envelope)) = self.rooms.signer.trust_bundle() else { return Ok(()) };
        if epoch <= self.trusting {
            return Ok(());
        }
        self.trusting = epoch;
        self.tell(Out::TrustBundle(envelope))
    }

    /// An edge whose certificate is of a CA that signs no more is to renew it now, and not when it nearly ends.
    pub(super) fn send_renewal(&mut self) -> Result<(), Status> {
        let edge = &self.recipient.caller.edge.id;
        let due = self.rooms.cluster.peek(|state| state.edges_to_renew().any(|it| it.id == *edge));
        if due { self.tell(Out::RenewNow(v1::RenewNow {})) } else { Ok(()) }
    }

    /// An edge stays for as long as its node does: by then all that it was told of in the beginning may be gone.
    pub(super) fn send_nodes(&mut self) -> Result<(), Status> {
        let addresses = self.rooms.cluster.peek(gateway_addresses);
        self.tell(Out::Nodes(v1::GatewayNodes { addresses }))
    }

    /// Asks for it again, judged by the newest bundle, which is sent before.
    pub(super) fn reopen(&mut self, id: RequestId) -> Result<(), Status> {
        let newest = self.rooms.cluster.peek(State::bundle_revision);
        if newest > self.told {
            self.reopening.push(id);
            return Ok(());
        }
        self.tell(Out::Reopen(v1::Reopen { request_id: Bytes::copy_from_slice(&id) }))
    }
}

/// Where edges find the nodes that belong.
fn gateway_addresses(state: &State) -> Vec<String> {
    let nodes = state.nodes().filter(|node| !node.removed);
    let addresses = nodes.map(|node| node.addresses.gateway.clone());
    addresses.filter(|address| !address.is_empty()).collect()
}
