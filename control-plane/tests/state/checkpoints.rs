//! Checkpoints of the audit log: what nodes sign, and what the state takes.

use countersign_control_plane::state::audit::{CHECKPOINT_TYPE, Checkpoint, SignedCheckpoint};
use countersign_control_plane::state::{Actor, Command, Event, KeySignature, Refused};
use proptest::prelude::*;

use crate::nodes::{add_key, three_nodes};
use crate::world::{CLUSTER, World, signed, signed_trust, trust};

/// By these keys, under the bundle of this epoch.
pub(crate) fn checkpointed(
    world: &World,
    index: u64,
    epoch: u64,
    signers: &[u8],
) -> SignedCheckpoint {
    let checkpoint = world.state.checkpoint_at(index).expect("is recorded");
    let signatures = signed(CHECKPOINT_TYPE, checkpoint.encode(), signers).signatures;
    SignedCheckpoint { checkpoint, epoch, signatures }
}

fn take(world: &mut World, checkpoint: SignedCheckpoint) -> Result<Event, Refused> {
    world.system(Command::CheckpointAudit(checkpoint))
}

#[test]
fn enough_signatures_make_a_checkpoint_and_no_record() {
    let mut world = three_nodes();
    let records = world.records();
    let checkpoint = checkpointed(&world, 5, 2, &[1, 3]);
    assert_eq!(take(&mut world, checkpoint.clone()), Ok(Event::AuditCheckpointed { index: 5 }));
    assert_eq!(world.state.audit_checkpoints(), std::slice::from_ref(&checkpoint));
    assert_eq!(world.records(), records);
    assert_eq!(checkpoint.checkpoint.cluster_id, CLUSTER);
    assert_eq!(checkpoint.checkpoint.head, world.state.audit().records()[4].hash);
}

#[test]
fn c_9_a_checkpoint_that_too_few_signed_is_refused() {
    let mut world = three_nodes();
    world.system(add_key(1, 11, 1)).expect("is added");
    let both_keys = trust(3, 2, &[(1, 1), (1, 11), (2, 2), (3, 3)]);
    world.admin(Command::SetTrust(signed_trust(&both_keys))).expect("is set");
    for signers in [&[][..], &[1], &[1, 1, 1], &[1, 11], &[1, 4], &[1, 200]] {
        let checkpoint = checkpointed(&world, 5, 3, signers);
        let outcome = take(&mut world, checkpoint);
        assert!(matches!(outcome, Err(Refused::Denied(_))), "{signers:?}");
    }
    // Under another bundle than the one in force, or signed as something else.
    let checkpoint = checkpointed(&world, 5, 2, &[1, 2]);
    assert!(matches!(take(&mut world, checkpoint), Err(Refused::Denied(_))));
    let mut otherwise = checkpointed(&world, 5, 3, &[]);
    otherwise.signatures = signed("other", otherwise.checkpoint.encode(), &[1, 2]).signatures;
    assert!(matches!(take(&mut world, otherwise), Err(Refused::Denied(_))));
    assert!(world.state.audit_checkpoints().is_empty());
    let checkpoint = checkpointed(&world, 5, 3, &[11, 2]);
    assert!(take(&mut world, checkpoint).is_ok());
}

#[test]
fn a_removed_node_signs_no_checkpoint() {
    let mut world = three_nodes();
    world.admin(Command::RemoveNode { id: 3, reason: String::new() }).expect("is removed");
    let checkpoint = checkpointed(&world, 5, 2, &[1, 3]);
    assert!(matches!(take(&mut world, checkpoint), Err(Refused::Denied(_))));
    let checkpoint = checkpointed(&world, 5, 2, &[1, 2]);
    assert!(take(&mut world, checkpoint).is_ok());
}

#[test]
fn c_9_a_checkpoint_of_another_log_is_refused_however_many_signed() {
    let mut world = three_nodes();
    let good = checkpointed(&world, 5, 2, &[]).checkpoint;
    let mut head = good.head;
    head[0] ^= 1;
    for other in [
        Checkpoint { head, ..good.clone() },
        Checkpoint { index: 4, ..good.clone() },
        Checkpoint { index: 0, ..good.clone() },
        Checkpoint { index: u64::MAX, ..good.clone() },
        Checkpoint { at: good.at + 1, ..good.clone() },
        Checkpoint { cluster_id: "other".into(), ..good },
    ] {
        let signatures = signed(CHECKPOINT_TYPE, other.encode(), &[1, 2, 3]).signatures;
        let outcome =
            take(&mut world, SignedCheckpoint { checkpoint: other, epoch: 2, signatures });
        assert!(matches!(outcome, Err(Refused::Invalid(_))), "{outcome:?}");
    }
}

#[test]
fn checkpoints_ascend() {
    let mut world = three_nodes();
    for (index, taken) in [(5, 1), (5, 1), (4, 1), (7, 2), (6, 2)] {
        let checkpoint = checkpointed(&world, index, 2, &[1, 2, 3]);
        assert_eq!(take(&mut world, checkpoint), Ok(Event::AuditCheckpointed { index }));
        assert_eq!(world.state.audit_checkpoints().len(), taken);
    }
}

#[test]
fn only_the_control_plane_takes_checkpoints() {
    let mut world = three_nodes();
    let checkpoint = checkpointed(&world, 5, 2, &[1, 2]);
    for actor in [Actor::Principal("admin".into()), Actor::Edge("e1".into())] {
        let outcome = world.act(actor, Command::CheckpointAudit(checkpoint.clone()));
        assert!(matches!(outcome, Err(Refused::Denied(_))));
    }
}

#[test]
fn the_encoding_of_a_checkpoint_is_what_the_documentation_says() {
    let checkpoint = Checkpoint {
        cluster_id: "c-1".into(),
        index: 258,
        head: [0xab; 32],
        at: 1_700_000_000_000,
    };
    let hex = concat!(
        "636f756e7465727369676e2f76312f61756469742d636865636b706f696e7400", // countersign/v1/audit-checkpoint\0
        "00000003",
        "632d31",
        "0000000000000102",
        "abababababababababababababababababababababababababababababababab",
        "0000018bcfe56800",
    );
    assert_eq!(hex::encode(checkpoint.encode()), hex);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_checkpoint_decodes_from_what_it_encodes_to_and_from_nothing_else(
        cluster_id in any::<String>(),
        index in any::<u64>(),
        head in any::<[u8; 32]>(),
        at in any::<u64>(),
        place in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let checkpoint = Checkpoint { cluster_id, index, head, at };
        let bytes = checkpoint.encode();
        prop_assert_eq!(Checkpoint::decode(&bytes), Some(checkpoint.clone()));
        let mut changed = bytes.clone();
        changed[place.index(bytes.len())] ^= flip;
        // Whatever is read of changed bytes encodes to them: no two byte strings are one checkpoint.
        if let Some(other) = Checkpoint::decode(&changed) {
            prop_assert_ne!(&other, &checkpoint);
            prop_assert_eq!(other.encode(), changed);
        }
        prop_assert_eq!(Checkpoint::decode(&bytes[..place.index(bytes.len())]), None);
        prop_assert_eq!(Checkpoint::decode(&[&bytes[..], &[0]].concat()), None);
    }
}

#[test]
fn a_signature_of_another_length_counts_for_nothing() {
    let mut world = three_nodes();
    let mut checkpoint = checkpointed(&world, 5, 2, &[1, 2]);
    checkpoint.signatures[1].signature.push(0);
    checkpoint.signatures.push(KeySignature { key_id: vec![], signature: vec![] });
    assert!(matches!(take(&mut world, checkpoint), Err(Refused::Denied(_))));
}
