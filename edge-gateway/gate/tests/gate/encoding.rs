//! CE1 is injective: one value, one encoding, and nothing else decodes.

use countersign_gate::{Approver, Decision, SealedRef, Word};
use proptest::prelude::*;

fn any_decision() -> impl Strategy<Value = Decision> {
    let word = prop::sample::select(vec![Word::Cancel, Word::Deny, Word::Expire, Word::Release]);
    let approver = (".{0,8}", ".{0,8}", any::<u64>())
        .prop_map(|(principal, channel, at_ms)| Approver { principal, channel, at_ms });
    let sealed = (".{0,8}", any::<u64>(), any::<[u8; 32]>())
        .prop_map(|(credential, version, sha256)| SealedRef { credential, version, sha256 });
    let ids = (any::<[u8; 16]>(), any::<Option<[u8; 16]>>(), any::<[u8; 16]>(), any::<[u8; 16]>());
    let digests = (any::<[u8; 32]>(), any::<[u8; 32]>());
    let numbers = any::<[u64; 6]>();
    let lists = (prop::collection::vec(approver, 0..4), prop::collection::vec(sealed, 0..3));
    (".{0,12}", ".{0,12}", word, ids, digests, numbers, lists).prop_map(
        |(cluster, edge, word, ids, digests, numbers, (approvers, sealed))| {
            let (decision_id, approval_id, request_id, incarnation) = ids;
            let (request_digest, intent_digest) = digests;
            let [term, index, policy_version, not_before_ms, expires_ms, epoch] = numbers;
            Decision {
                cluster,
                decision_id,
                word,
                approval_id,
                request_id,
                request_digest,
                intent_digest,
                edge,
                incarnation,
                term,
                index,
                policy_version,
                approvers,
                not_before_ms,
                expires_ms,
                sealed,
                epoch,
            }
        },
    )
}

/// Either it is no encoding, or it is the encoding of what it decodes to: bytes never have two readings.
fn is_nothing_or_itself(mutated: &[u8], original: &Decision) -> Result<(), TestCaseError> {
    if let Ok(read) = Decision::decode(mutated) {
        prop_assert_eq!(&read.encode(), mutated);
        prop_assert_ne!(&read, original);
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(decision in any_decision()) {
        prop_assert_eq!(Decision::decode(&decision.encode()).unwrap(), decision);
    }

    #[test]
    fn different_decisions_have_different_encodings(a in any_decision(), b in any_decision()) {
        prop_assert_eq!(a == b, a.encode() == b.encode());
    }

    #[test]
    fn a_byte_inserted_is_nothing_or_another_decision(decision in any_decision(), at: prop::sample::Index, byte: u8) {
        let mut bytes = decision.encode();
        bytes.insert(at.index(bytes.len() + 1), byte);
        is_nothing_or_itself(&bytes, &decision)?;
    }

    #[test]
    fn a_byte_deleted_is_nothing_or_another_decision(decision in any_decision(), at: prop::sample::Index) {
        let mut bytes = decision.encode();
        bytes.remove(at.index(bytes.len()));
        is_nothing_or_itself(&bytes, &decision)?;
    }

    #[test]
    fn a_byte_changed_is_nothing_or_another_decision(decision in any_decision(), at: prop::sample::Index, flip in 1u8..) {
        let mut bytes = decision.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        is_nothing_or_itself(&bytes, &decision)?;
    }

    #[test]
    fn two_bytes_swapped_are_nothing_or_another_decision(
        decision in any_decision(), one: prop::sample::Index, other: prop::sample::Index,
    ) {
        let original = decision.encode();
        let mut bytes = original.clone();
        bytes.swap(one.index(original.len()), other.index(original.len()));
        if bytes != original {
            is_nothing_or_itself(&bytes, &decision)?;
        }
    }

    #[test]
    fn noise_is_not_a_decision(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Decision::decode(&bytes).is_err());
    }
}
