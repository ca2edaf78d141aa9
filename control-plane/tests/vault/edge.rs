//! Secrets on their way to an edge.

use countersign_control_plane::vault::{SealError, SealedToEdge, seal_to_edge};
use countersign_gate::{lease_context, seal_context, seal_info};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem as _, OpModeR, Serializable as _, single_shot_open};
use sha2::{Digest as _, Sha256};

type Private = <X25519HkdfSha256 as hpke::Kem>::PrivateKey;

const INCARNATION: [u8; 16] = [7; 16];

fn open(private: &Private, info: &[u8], aad: &[u8], sealed: &SealedToEdge) -> Option<Vec<u8>> {
    let encapsulated =
        <X25519HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(&sealed.encapsulated_key).ok()?;
    single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        private,
        &encapsulated,
        info,
        &sealed.ciphertext,
        aad,
    )
    .ok()
}

fn sealed_for(public: &[u8]) -> SealedToEdge {
    let info = seal_info("c1", "edge-1", &INCARNATION);
    seal_to_edge(public, &info, &seal_context(&[1; 32], &[2; 16], "cred-1", 3), b"sk_live_1")
        .unwrap()
}

#[test]
fn seal_aad_another_request_decision_credential_or_version_opens_nothing() {
    let (private, public) = X25519HkdfSha256::gen_keypair();
    let sealed = sealed_for(&public.to_bytes());
    let info = seal_info("c1", "edge-1", &INCARNATION);
    let right = seal_context(&[1; 32], &[2; 16], "cred-1", 3);
    assert_eq!(open(&private, &info, &right, &sealed).unwrap(), b"sk_live_1");
    for bit in 0..right.len() * 8 {
        let mut wrong = right.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&private, &info, &wrong, &sealed).is_none(), "bit {bit}");
    }
    assert!(open(&private, &info, &lease_context(&[2; 16], "cred-1", 3), &sealed).is_none());
}

#[test]
fn seal_edge_another_edge_opens_nothing() {
    let (private, public) = X25519HkdfSha256::gen_keypair();
    let (other, _) = X25519HkdfSha256::gen_keypair();
    let sealed = sealed_for(&public.to_bytes());
    let aad = seal_context(&[1; 32], &[2; 16], "cred-1", 3);
    assert!(open(&other, &seal_info("c1", "edge-1", &INCARNATION), &aad, &sealed).is_none());
    assert!(open(&private, &seal_info("c1", "edge-2", &INCARNATION), &aad, &sealed).is_none());
    assert!(open(&private, &seal_info("c2", "edge-1", &INCARNATION), &aad, &sealed).is_none());
}

#[test]
fn seal_inc_the_same_edge_opens_nothing_after_a_restart() {
    let (private, public) = X25519HkdfSha256::gen_keypair();
    let sealed = sealed_for(&public.to_bytes());
    let aad = seal_context(&[1; 32], &[2; 16], "cred-1", 3);
    let (restarted, _) = X25519HkdfSha256::gen_keypair();
    assert!(open(&restarted, &seal_info("c1", "edge-1", &[8; 16]), &aad, &sealed).is_none());
    // Even with a key that did not change, the incarnation counts.
    assert!(open(&private, &seal_info("c1", "edge-1", &[8; 16]), &aad, &sealed).is_none());
}

#[test]
fn every_sealing_is_its_own_context_and_its_digest_covers_all_of_it() {
    let (_, public) = X25519HkdfSha256::gen_keypair();
    let (one, two) = (sealed_for(&public.to_bytes()), sealed_for(&public.to_bytes()));
    assert_ne!(one.encapsulated_key, two.encapsulated_key);
    assert_ne!(one.ciphertext, two.ciphertext);
    let whole = [one.encapsulated_key.as_slice(), &one.ciphertext].concat();
    assert_eq!(one.sha256(), <[u8; 32]>::from(Sha256::digest(whole)));
}

#[test]
fn a_public_key_that_is_none_is_refused() {
    for key in [vec![], vec![1; 31], vec![1; 33], vec![0; 32]] {
        assert!(
            matches!(seal_to_edge(&key, b"", b"", b"sk_live_1"), Err(SealError::EdgeKey)),
            "{} bytes",
            key.len()
        );
    }
}

/// RFC 9180, appendix A.2.1 (base mode, the suite that both sides use), sequence number 0.
#[test]
fn rfc_9180_the_suite_is_the_one_of_a_2_1() {
    let bytes = |text: &str| hex::decode(text).unwrap();
    let private = Private::from_bytes(&bytes(
        "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb",
    ))
    .unwrap();
    let sealed = SealedToEdge {
        encapsulated_key: bytes("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"),
        ciphertext: bytes(
            "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
        ),
    };
    let opened =
        open(&private, &bytes("4f6465206f6e2061204772656369616e2055726e"), b"Count-0", &sealed)
            .unwrap();
    assert_eq!(opened, b"Beauty is truth, truth beauty");
}
