//! Everything an edge decides with, from the state as it stands.

use bytes::Bytes;
use countersign_policy::{Policy, Use};
use countersign_proto::v1;

use super::slot::Place;
use super::{IntakeSettings, Rooms};
use crate::state::{Credential, ReleaseClass, State};

/// The newest version, unsigned.
pub(super) fn of_state(rooms: &Rooms) -> v1::EdgeState {
    let Rooms { cluster, policies, settings, .. } = rooms;
    loop {
        let (version, policy) = policies.in_force(cluster);
        let bundle = cluster.peek(|state| {
            // Policy and state are read one after the other: what changed in between is read again.
            let same = state.policy().map_or(0, |current| current.version) == version;
            same.then(|| describe(state, &policy, settings))
        });
        if let Some(bundle) = bundle {
            return bundle;
        }
    }
}

fn describe(state: &State, policy: &Policy, settings: &IntakeSettings) -> v1::EdgeState {
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
                    .map(|fake| fake.key.clone())
                    .collect(),
                leasable: leasable(credential, policy.credential_use(&credential.name)),
            })
        });
    v1::EdgeState {
        revision: state.position().index,
        policy_version: state.policy().map_or(0, |policy| policy.version),
        policy: state.policy().map(|policy| policy.text.clone()).unwrap_or_default(),
        agents: agents.collect(),
        credentials: credentials.collect(),
        forbidden_destinations: settings.forbidden_destinations.clone(),
    }
}

/// Whether an edge may have the key itself for a while: only for what the policy allows outright. A key that people
/// are asked about stays here, unless the policy accepts that the edge alone enforces that (T3-CLASS).
pub(super) fn leasable(credential: &Credential, used: Use) -> bool {
    match credential.class {
        ReleaseClass::Auto => used.allow && !used.approve,
        ReleaseClass::Lease => used.allow && (!used.approve || used.accept_edge_enforced),
        ReleaseClass::PerRequest => false,
    }
}
