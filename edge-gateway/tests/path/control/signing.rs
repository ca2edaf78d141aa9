//! What the control plane signs and seals.

use bytes::Bytes;
use countersign_gate as gate;
use countersign_proto::v1 as pb;
use ed25519_dalek::SigningKey;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeS, Serializable as _};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{CLUSTER, Inner, Open, secret};

pub(super) const BUNDLE_TYPE: &str = "application/vnd.countersign.edge-bundle.v1";

impl Inner {
    /// Signed by every node.
    fn signed(&self, payload_type: &str, payload: Vec<u8>) -> pb::Envelope {
        let keys: Vec<&SigningKey> = self.signers.iter().collect();
        envelope_by(&keys, payload_type, payload)
    }

    pub(super) fn bundle(&self, state: &pb::EdgeState) -> pb::EdgeBundle {
        pb::EdgeBundle { envelope: Some(self.signed(BUNDLE_TYPE, state.encode_to_vec())) }
    }

    /// As the root key signs it.
    pub(super) fn trust_bundle(&self, trust: &gate::Trust) -> pb::Envelope {
        envelope_by(&[&self.root], gate::TRUST_TYPE, trust.encode())
    }

    pub(super) fn hello_ack(&self) -> pb::HelloAck {
        let trust = self.trust.lock().expect("no panic").clone();
        pb::HelloAck {
            cluster_id: CLUSTER.into(),
            org_id: "org-1".into(),
            edge_id: "edge-1".into(),
            trust_bundle: Some(self.trust_bundle(&trust)),
            gateway_addresses: self.named.lock().expect("no panic").clone(),
        }
    }

    pub(super) fn decision(
        &self,
        open: &Open,
        change: impl FnOnce(&mut gate::Decision),
    ) -> pb::Decision {
        let head = &open.head;
        let request_digest: gate::Digest =
            head.request_digest.as_ref().try_into().expect("32 bytes");
        let decision_id = [3; 16];
        let mut sealed = Vec::new();
        for injection in &head.injections {
            let context = gate::seal_context(
                &request_digest,
                &decision_id,
                &injection.credential_id,
                injection.credential_version,
            );
            sealed.push(self.seal(
                &injection.credential_id,
                injection.credential_version,
                &context,
            ));
        }
        let wall = self.clock.wall_ms();
        let mut decision = gate::Decision {
            cluster: CLUSTER.into(),
            decision_id,
            word: gate::Word::Release,
            approval_id: (!head.allowed).then_some([1; 16]),
            request_id: head.request_id.as_ref().try_into().expect("16 bytes"),
            request_digest,
            intent_digest: head.intent_digest.as_ref().try_into().expect("32 bytes"),
            edge: "edge-1".into(),
            incarnation: self.hello().incarnation.as_ref().try_into().expect("16 bytes"),
            term: 1,
            index: 1,
            policy_version: head.policy_version,
            approvers: Vec::new(),
            not_before_ms: wall - 1_000,
            expires_ms: wall + 60_000,
            sealed: sealed
                .iter()
                .map(|s| gate::SealedRef {
                    credential: s.credential_id.clone(),
                    version: s.version,
                    sha256: Sha256::new()
                        .chain_update(&s.encapsulated_key)
                        .chain_update(&s.ciphertext)
                        .finalize()
                        .into(),
                })
                .collect(),
            epoch: self.trust.lock().expect("no panic").epoch,
        };
        change(&mut decision);
        pb::Decision {
            request_id: head.request_id.clone(),
            envelope: Some(self.signed(gate::DECISION_TYPE, decision.encode())),
            sealed_credentials: sealed,
        }
    }

    pub(super) fn seal(
        &self,
        credential_id: &str,
        version: u64,
        context: &[u8],
    ) -> pb::SealedCredential {
        let hello = self.hello();
        let incarnation: [u8; 16] = hello.incarnation.as_ref().try_into().expect("16 bytes");
        let info = gate::seal_info(CLUSTER, "edge-1", &incarnation);
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&hello.hpke_public_key)
            .expect("a key");
        let real = secret(credential_id.strip_prefix("id-").expect("an id of the test")).real;
        let (encapsulated, ciphertext) = hpke::single_shot_seal::<
            ChaCha20Poly1305,
            HkdfSha256,
            X25519HkdfSha256,
        >(
            &OpModeS::Base, &public, &info, real.as_bytes(), context
        )
        .expect("sealed");
        pb::SealedCredential {
            credential_id: credential_id.into(),
            version,
            encapsulated_key: Bytes::copy_from_slice(&encapsulated.to_bytes()),
            ciphertext: ciphertext.into(),
        }
    }
}

/// One signature of each key.
pub(super) fn envelope_by(
    keys: &[&SigningKey],
    payload_type: &str,
    payload: Vec<u8>,
) -> pb::Envelope {
    let signature = |key: &&SigningKey| pb::Signature {
        key_id: Bytes::new(),
        signature: Bytes::copy_from_slice(&gate::sign(key, payload_type, &payload)),
    };
    let signatures = keys.iter().map(signature).collect();
    pb::Envelope { payload_type: payload_type.into(), payload: payload.into(), signatures }
}
