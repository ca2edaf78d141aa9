//! Everything an edge decides with, from the state as it stands: equal states give equal bytes.

use std::collections::BTreeSet;

use bytes::Bytes;
use countersign_gate::Scheme;
use countersign_policy::{Policy, Use};
use countersign_proto::v1;

use super::slot::Place;
use crate::mint::Target;
use crate::state::{Audience, Credential, ReleaseClass, State};

/// The newest version, given the policy in force.
pub(super) fn of_state(state: &State, policy: &Policy) -> v1::EdgeState {
    let agents = state.agents().filter(|agent| agent.active).map(|agent| v1::EdgeAgent {
        agent_id: agent.id.clone(),
        name: agent.name.clone(),
        token_sha256: Bytes::copy_from_slice(&agent.token_sha256),
    });
    let credentials =
        state.credentials().filter(|credential| credential.active).filter_map(|credential| {
            Some(v1::EdgeCredential {
                credential_id: credential.id.clone(),
                name: credential.name.clone(),
                version: credential.version,
                host: credential.host.clone(),
                port: credential.port.into(),
                slot: Some(Place::of(credential)?.to_proto()),
                fake_keys: credential
                    .fakes
                    .iter()
                    .filter(|fake| fake.active)
                    .flat_map(|fake| credential.fake_parts(&fake.key))
                    .collect(),
                leasable: leasable(credential, policy.credential_use(&credential.name)),
                token_endpoint: token_endpoint(credential),
            })
        });
    let nodes = state.nodes().filter(|node| !node.removed);
    let own: BTreeSet<&String> = nodes.flat_map(|node| &node.addresses.own).collect();
    v1::EdgeState {
        revision: state.bundle_revision(),
        policy_version: state.policy().map_or(0, |policy| policy.version),
        policy: state.policy().map(|policy| policy.text.clone()).unwrap_or_default(),
        agents: agents.collect(),
        credentials: credentials.collect(),
        forbidden_destinations: own.into_iter().cloned().collect(),
        gateway_ca_pem: state
            .shown_ca(Audience::Clients)
            .filter(|ca| ca.number > 1)
            .map(|ca| ca.trusted_pem())
            .unwrap_or_default(),
    }
}

fn token_endpoint(credential: &Credential) -> Option<v1::TokenEndpoint> {
    let target = Target::parse(credential.mint.as_ref()?.token_url()?).ok()?;
    let destination = &target.destination;
    (destination.scheme() == Scheme::Https).then(|| v1::TokenEndpoint {
        host: destination.host().to_owned(),
        port: destination.port().into(),
        path: target.path.clone(),
    })
}

/// Whether an edge may have the key itself for a while: only for what the policy allows outright. A key that people
/// are asked about stays here, unless the policy accepts that the edge alone enforces that (T3-CLASS). A key that signs
/// stays here whatever the policy says.
pub(crate) fn leasable(credential: &Credential, used: Use) -> bool {
    if Place::of(credential).is_some_and(|place| place.signs()) {
        return false;
    }
    match credential.class {
        ReleaseClass::Auto => used.allow && !used.approve,
        ReleaseClass::Lease => used.allow && (!used.approve || used.accept_edge_enforced),
        ReleaseClass::PerRequest => false,
    }
}
