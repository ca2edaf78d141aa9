//! ENV: whose signatures count, over what.

use countersign_gate::{
    DECISION_TYPE, KeyState, NodeKey, Now, Outcome, Signed, TRUST_TYPE, Trust, Unverified, Word,
    verify,
};

use crate::support::{CLUSTER, WALL, decision, envelope, held, node, signed, trust};

const NOW: Now = Now { boottime_ms: 100, wall_ms: WALL + 100 };

fn outcome(signed: impl FnOnce(&countersign_gate::Ticket) -> Signed) -> Outcome {
    let held = held(9, b"{}", 0, 50_000);
    let signed = signed(held.ticket());
    verify(held, &signed, &trust(), NOW)
}

/// Ignored for this reason, and still held as before.
fn assert_ignored(outcome: Outcome, reason: Unverified) {
    match outcome {
        Outcome::Ignore(still, why) => {
            assert_eq!(why, reason);
            assert_eq!(still.ticket(), held(9, b"{}", 0, 50_000).ticket());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn enough_active_signatures_release() {
    for signers in [&[1, 2][..], &[3, 1], &[1, 2, 3], &[9, 1, 9, 2], &[6, 1]] {
        assert!(
            matches!(outcome(|t| signed(&decision(t), signers)), Outcome::Release(_)),
            "{signers:?}"
        );
    }
}

#[test]
fn env_type_bytes_signed_as_one_thing_are_never_another() {
    let other = "application/vnd.countersign.policy-bundle.v1";
    for kind in [
        TRUST_TYPE,
        other,
        "",
        "application/vnd.countersign.release-decision.v1 ",
        "Application/vnd.countersign.release-decision.v1",
    ] {
        assert_ignored(
            outcome(|t| envelope(kind, decision(t).encode(), &[1, 2])),
            Unverified::Type,
        );
        // Signed as the other type, relabelled afterwards.
        let relabelled = outcome(|t| {
            let mut signed = envelope(kind, decision(t).encode(), &[1, 2]);
            signed.payload_type = DECISION_TYPE.into();
            signed
        });
        assert_ignored(relabelled, Unverified::Signatures { valid: 0, needed: 2 });
    }
}

#[test]
fn env_type_a_decision_is_not_a_trust_bundle() {
    let root = node(40);
    let bundle = trust();
    let good = envelope(TRUST_TYPE, bundle.encode(), &[40]);
    assert_eq!(Trust::accept(&good, &root.verifying_key().to_bytes(), None), Ok(bundle.clone()));
    let as_decision = envelope(DECISION_TYPE, bundle.encode(), &[40]);
    assert_eq!(
        Trust::accept(&as_decision, &root.verifying_key().to_bytes(), None),
        Err(Unverified::Type)
    );
    let held = held(9, b"{}", 0, 50_000);
    let decision = envelope(TRUST_TYPE, decision(held.ticket()).encode(), &[40]);
    assert!(matches!(
        Trust::accept(&decision, &root.verifying_key().to_bytes(), None),
        Err(Unverified::Malformed(_))
    ));
}

#[test]
fn env_dupsig_one_signer_counts_once() {
    let one = Unverified::Signatures { valid: 1, needed: 2 };
    assert_ignored(outcome(|t| signed(&decision(t), &[1, 1, 1])), one);
    // Listed under two node ids, one key is still one signer.
    let mut twice = trust();
    twice.keys.push(NodeKey {
        node: 77,
        public: node(1).verifying_key().to_bytes(),
        state: KeyState::Active,
    });
    let held = held(9, b"{}", 0, 50_000);
    let envelope = signed(&decision(held.ticket()), &[1, 1]);
    assert_ignored(verify(held, &envelope, &twice, NOW), one);
}

#[test]
fn env_dupsig_one_node_with_two_keys_counts_once() {
    // While a key is rotated, a node has two that count: signing with both makes it no second signer.
    let key = |node_id, serial: u8, state| NodeKey {
        node: node_id,
        public: node(serial).verifying_key().to_bytes(),
        state,
    };
    let keys = vec![
        key(1, 1, KeyState::Retired),
        key(1, 11, KeyState::Active),
        key(2, 2, KeyState::Active),
        key(2, 12, KeyState::Active),
    ];
    let rotating = Trust { keys, ..trust() };
    let decided = |signers: &[u8]| {
        let held = held(9, b"{}", 0, 50_000);
        let envelope = signed(&decision(held.ticket()), signers);
        verify(held, &envelope, &rotating, NOW)
    };
    let one = Unverified::Signatures { valid: 1, needed: 2 };
    for signers in [&[1, 11][..], &[11, 1], &[2, 12], &[12, 2, 12, 2]] {
        assert_ignored(decided(signers), one);
    }
    for signers in [&[1, 2][..], &[11, 12], &[1, 11, 2], &[12, 2, 11]] {
        assert!(matches!(decided(signers), Outcome::Release(_)), "{signers:?}");
    }
}

#[test]
fn env_dupsig_a_malleated_signature_is_no_second_one() {
    // s + L: the same signature to a verifier that does not insist on the canonical form.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let malleated = outcome(|t| {
        let mut signed = signed(&decision(t), &[1, 2]);
        for signature in &mut signed.signatures {
            let mut carry = 0u16;
            for (byte, add) in signature[32..].iter_mut().zip(ORDER) {
                let sum = u16::from(*byte) + u16::from(add) + carry;
                *byte = sum as u8;
                carry = sum >> 8;
            }
        }
        signed
    });
    assert_ignored(malleated, Unverified::Signatures { valid: 0, needed: 2 });
}

#[test]
fn signatures_of_keys_that_do_not_count_do_not_count() {
    for (signers, valid) in [(&[4, 5][..], 0), (&[1, 4], 1), (&[1, 5], 1), (&[8, 9], 0), (&[], 0)] {
        let reason = Unverified::Signatures { valid, needed: 2 };
        assert_ignored(outcome(|t| signed(&decision(t), signers)), reason);
    }
}

#[test]
fn a_threshold_of_zero_still_takes_one() {
    let mut none_needed = trust();
    none_needed.threshold = 0;
    let held = held(9, b"{}", 0, 50_000);
    let envelope = signed(&decision(held.ticket()), &[]);
    assert_ignored(
        verify(held, &envelope, &none_needed, NOW),
        Unverified::Signatures { valid: 0, needed: 1 },
    );
}

#[test]
fn env_trunc_no_prefix_of_a_decision_is_one() {
    let whole = decision(held(9, b"{}", 0, 50_000).ticket()).encode();
    for length in 0..whole.len() {
        // Cut on the way: the signatures are of something else.
        let cut = outcome(|t| {
            let mut signed = signed(&decision(t), &[1, 2]);
            signed.payload.truncate(length);
            signed
        });
        assert_ignored(cut, Unverified::Signatures { valid: 0, needed: 2 });
        // Even if the nodes had signed it.
        match outcome(|_| envelope(DECISION_TYPE, whole[..length].to_vec(), &[1, 2])) {
            Outcome::Ignore(_, Unverified::Malformed(_)) => {}
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn env_trunc_a_cut_or_flipped_signature_does_not_count() {
    for bit in 0..64 * 8 {
        let flipped = outcome(|t| {
            let mut signed = signed(&decision(t), &[1, 2]);
            signed.signatures[0][bit / 8] ^= 1 << (bit % 8);
            signed
        });
        assert_ignored(flipped, Unverified::Signatures { valid: 1, needed: 2 });
    }
}

#[test]
fn a_key_of_low_order_signs_nothing() {
    // The neutral element verifies anything under lax rules.
    let mut lax = trust();
    let mut public = [0; 32];
    public[0] = 1;
    lax.keys.push(NodeKey { node: 50, public, state: KeyState::Active });
    lax.threshold = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    let held = held(9, b"{}", 0, 50_000);
    let envelope = Signed {
        payload_type: DECISION_TYPE.into(),
        payload: decision(held.ticket()).encode(),
        signatures: vec![signature],
    };
    assert_ignored(
        verify(held, &envelope, &lax, NOW),
        Unverified::Signatures { valid: 0, needed: 1 },
    );
}

#[test]
fn a_signed_no_ends_it_even_late() {
    for word in [Word::Cancel, Word::Deny, Word::Expire] {
        let held = held(9, b"{}", 0, 50_000);
        let mut no = decision(held.ticket());
        no.word = word;
        let late = Now { boottime_ms: 1_000_000, wall_ms: WALL + 10_000_000 };
        match verify(held, &signed(&no, &[1, 2]), &trust(), late) {
            Outcome::Deny(said) => assert_eq!(said, word),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_deadline_is_exact_and_of_the_boot_time_clock() {
    for (boottime_ms, released) in [(0, true), (49_999, true), (50_000, false), (u64::MAX, false)] {
        let held = held(9, b"{}", 0, 50_000);
        let envelope = signed(&decision(held.ticket()), &[1, 2]);
        let outcome = verify(held, &envelope, &trust(), Now { boottime_ms, wall_ms: WALL });
        assert_eq!(matches!(outcome, Outcome::Release(_)), released, "{boottime_ms}");
    }
}

#[test]
fn the_wall_clock_narrows_with_a_minute_of_grace() {
    let (first, last) = (WALL - 60_000, WALL + 300_000 + 60_000);
    for (wall_ms, released) in [
        (first, true),
        (first - 1, false),
        (last, true),
        (last + 1, false),
        (0, false),
        (u64::MAX, false),
    ] {
        let held = held(9, b"{}", 0, 50_000);
        let envelope = signed(&decision(held.ticket()), &[1, 2]);
        let outcome = verify(held, &envelope, &trust(), Now { boottime_ms: 1, wall_ms });
        assert_eq!(matches!(outcome, Outcome::Release(_)), released, "{wall_ms}");
    }
}

#[test]
fn another_clusters_decision_is_not_ours_though_its_nodes_are_trusted() {
    // The bundle in force, the decision and the request must name one cluster.
    for (bundle, decided) in
        [("other.example", CLUSTER), (CLUSTER, "other.example"), ("other.example", "other.example")]
    {
        let held = held(9, b"{}", 0, 50_000);
        let mut decision = decision(held.ticket());
        decision.cluster = decided.into();
        let other = Trust { cluster: bundle.into(), ..trust() };
        assert_ignored(
            verify(held, &signed(&decision, &[1, 2]), &other, NOW),
            Unverified::Mismatch,
        );
    }
}

#[test]
fn a_trust_bundle_never_goes_back() {
    let root = node(40).verifying_key().to_bytes();
    let known = Trust { epoch: 5, threshold: 2, ..trust() };
    for (bundle, fine) in [
        (Trust { epoch: 5, ..known.clone() }, true),
        (Trust { epoch: 6, threshold: 3, ..known.clone() }, true),
        (Trust { epoch: 4, ..known.clone() }, false),
        (Trust { epoch: 6, threshold: 1, ..known.clone() }, false),
        (Trust { epoch: 6, cluster: "other".into(), ..known.clone() }, false),
    ] {
        let accepted =
            Trust::accept(&envelope(TRUST_TYPE, bundle.encode(), &[40]), &root, Some(&known));
        assert_eq!(accepted, if fine { Ok(bundle) } else { Err(Unverified::Downgrade) });
    }
    let zero = Trust { threshold: 0, ..trust() };
    let accepted = Trust::accept(&envelope(TRUST_TYPE, zero.encode(), &[40]), &root, None);
    assert_eq!(accepted, Err(Unverified::Downgrade));
    let unsigned = Trust::accept(&envelope(TRUST_TYPE, known.encode(), &[41]), &root, None);
    assert_eq!(unsigned, Err(Unverified::Signatures { valid: 0, needed: 1 }));
}
