//! Whom edges trust: the bundle in force, the one that is called for, and the next one signed.

use std::collections::BTreeMap;

use countersign_gate::{KeyState, NodeKey, TRUST_TYPE, Trust};
use countersign_proto::v1;
use tonic::Status;

use super::once::{Once, reused};
use super::refuse;
use crate::access::Admitted;
use crate::state::node::node_name;
use crate::state::{Command, Event, KeySignature, SignedBytes, State};

pub(super) async fn get(
    asked: &Admitted,
    _: v1::GetTrustRequest,
) -> Result<v1::GetTrustResponse, Status> {
    let read = asked.house.cluster.read(|state| {
        let (current, next) = (state.trust(), state.next_trust());
        let changes = match (&current, &next) {
            (Some(current), Some(next)) => changes(state, current, next),
            _ => Vec::new(),
        };
        v1::GetTrustResponse {
            current: state.trust_bundles().last().map(|signed| to_envelope(TRUST_TYPE, signed)),
            proposed: next.map(|next| next.encode()).unwrap_or_default().into(),
            changes,
            root_public_key: state
                .genesis()
                .map(|genesis| genesis.root_public_key.to_vec().into())
                .unwrap_or_default(),
        }
    });
    read.await.map_err(|e| refuse::unavailable(&e))
}

pub(super) async fn set(
    asked: &Admitted,
    request: v1::SetTrustRequest,
) -> Result<v1::SetTrustResponse, Status> {
    let once = Once::of(asked, "SetTrust", &request.request_id)?;
    let envelope = request.envelope.unwrap_or_default();
    if envelope.payload_type != TRUST_TYPE {
        return Err(refuse::field(
            "envelope",
            format!("its payload type must be {TRUST_TYPE}: sign what GetTrust proposes"),
        ));
    }
    let signatures = envelope.signatures.into_iter().map(|signature| KeySignature {
        key_id: signature.key_id.to_vec(),
        signature: signature.signature.to_vec(),
    });
    let signed =
        SignedBytes { payload: envelope.payload.to_vec(), signatures: signatures.collect() };
    match &*once.propose(asked, Command::SetTrust(signed)).await? {
        Event::TrustChanged { epoch } => Ok(v1::SetTrustResponse { epoch: *epoch }),
        _ => Err(reused("the trust bundle")),
    }
}

pub(super) fn to_envelope(payload_type: &str, signed: &SignedBytes) -> v1::Envelope {
    let signatures = signed.signatures.iter().map(|signature| v1::Signature {
        key_id: signature.key_id.clone().into(),
        signature: signature.signature.clone().into(),
    });
    v1::Envelope {
        payload_type: payload_type.to_owned(),
        signatures: signatures.collect(),
        payload: signed.payload.clone().into(),
    }
}

/// In words, for the person who is to sign it.
fn changes(state: &State, current: &Trust, next: &Trust) -> Vec<String> {
    let by_key = |trust: &Trust| -> BTreeMap<[u8; 32], NodeKey> {
        trust.keys.iter().map(|key| (key.public, key.clone())).collect()
    };
    let name = |key: &NodeKey| {
        let named = state.node(key.node).map_or("unknown", |node| node.name.as_str());
        let key_id = &hex::encode(key.public)[..16];
        format!("node {named} ({}), key {key_id}…", node_name(key.node))
    };
    let (before, after) = (by_key(current), by_key(next));
    let mut words = Vec::new();
    for (public, key) in &after {
        match before.get(public) {
            None => words.push(format!("+ {}", name(key))),
            Some(was) if was.state != key.state => words.push(format!(
                "~ {}: {} -> {}",
                name(key),
                state_name(was.state),
                state_name(key.state)
            )),
            Some(_) => {}
        }
    }
    let gone = before.iter().filter(|(public, _)| !after.contains_key(*public));
    words.extend(gone.map(|(_, key)| format!("- {}", name(key))));
    if current.threshold != next.threshold {
        words.push(format!("threshold {} -> {}", current.threshold, next.threshold));
    }
    words
}

fn state_name(state: KeyState) -> &'static str {
    match state {
        KeyState::Active => "active",
        KeyState::Next => "next",
        KeyState::Retired => "retired",
        KeyState::Revoked => "revoked",
    }
}
