//! Trust bundles and seal files: what is taken, and what never is.

use countersign_control_plane::state::{Command, Event, Refused, SignedBytes};
use countersign_gate::{KeyState, NodeKey, TRUST_TYPE, Trust};
use sha2::{Digest as _, Sha256};

use crate::nodes::{add_key, three_nodes};
use crate::world::{ROOT, World, genesis, node, public_key, signed, signed_trust, trust};

const THREE: [(u64, u8); 3] = [(1, 1), (2, 2), (3, 3)];

fn set(trust: &Trust) -> Command {
    Command::SetTrust(signed_trust(trust))
}

/// Refused, and nothing is different but the memory of having refused it.
fn refused(world: &mut World, signed: SignedBytes) -> Refused {
    let (bundles, records) = (world.state.trust_bundles().to_vec(), world.records());
    let refused = world.admin(Command::SetTrust(signed)).expect_err("is refused");
    assert_eq!(world.state.trust_bundles(), bundles);
    assert_eq!(world.records(), records);
    refused
}

#[test]
fn the_next_epoch_is_taken_and_no_other() {
    let mut world = three_nodes();
    for epoch in [0, 1, 4, 5, u64::MAX] {
        refused(&mut world, signed_trust(&trust(epoch, 2, &THREE)));
    }
    assert_eq!(world.admin(set(&trust(3, 2, &THREE))), Ok(Event::TrustChanged { epoch: 3 }));
    assert_eq!(world.state.trust().map(|t| t.epoch), Some(3));
    assert_eq!(world.state.trust_bundles().len(), 3);
}

#[test]
fn the_bundle_in_force_again_changes_nothing_and_another_of_its_epoch_is_refused() {
    let mut world = three_nodes();
    let records = world.records();
    assert_eq!(world.admin(set(&trust(2, 2, &THREE))), Ok(Event::TrustChanged { epoch: 2 }));
    assert_eq!((world.records(), world.state.trust_bundles().len()), (records, 2));
    refused(&mut world, signed_trust(&trust(2, 2, &THREE[..2])));
}

#[test]
fn the_threshold_never_goes_down_and_is_never_less_than_half() {
    let mut world = three_nodes();
    refused(&mut world, signed_trust(&trust(3, 1, &THREE)));
    refused(&mut world, signed_trust(&trust(3, 1, &THREE[..1])));
    refused(&mut world, signed_trust(&trust(3, 0, &THREE)));
    assert!(world.admin(set(&trust(3, 3, &THREE))).is_ok());
    refused(&mut world, signed_trust(&trust(4, 2, &THREE)));

    let mut world = World::begun();
    world
        .admin(Command::InviteNode { name: "second".into(), token_sha256: [1; 32] })
        .expect("is invited");
    let joining = Command::JoinNode { token_sha256: [1; 32], node: node(2, "second") };
    world.system(joining).expect("joins");
    assert!(world.admin(set(&trust(2, 1, &THREE[..2]))).is_ok(), "one of two is half");
}

#[test]
fn two_signers_of_one_node_do_not_make_a_threshold_of_two() {
    let mut world = three_nodes();
    world.system(add_key(1, 11, 1)).expect("is added");
    // Two keys that count, of one node, where two nodes must sign.
    refused(&mut world, signed_trust(&trust(3, 2, &[(1, 1), (1, 11)])));
    refused(&mut world, signed_trust(&trust(3, 4, &[(1, 1), (1, 11), (2, 2), (3, 3)])));
    assert!(world.admin(set(&trust(3, 3, &[(1, 1), (1, 11), (2, 2), (3, 3)]))).is_ok());
}

#[test]
fn a_strangers_key_is_not_trusted() {
    let mut world = three_nodes();
    for (keys, why) in [
        (&[(1, 1), (2, 2), (4, 4)][..], "no such node"),
        (&[(1, 1), (2, 2), (3, 4)], "not that node's key"),
        (&[(1, 2), (2, 1), (3, 3)], "each other's keys"),
        (&[(1, 1), (2, 2), (2, 2)], "a key twice"),
    ] {
        assert!(
            matches!(refused(&mut world, signed_trust(&trust(3, 2, keys))), Refused::Invalid(_)),
            "{why}"
        );
    }
    // Not even one that is only to count later.
    let mut later = trust(3, 2, &THREE);
    later.keys.push(NodeKey { node: 4, public: public_key(4), state: KeyState::Next });
    refused(&mut world, signed_trust(&later));
    // A revoked one is anybody's.
    later.keys[3].state = KeyState::Revoked;
    assert!(world.admin(set(&later)).is_ok());

    world.admin(Command::RemoveNode { id: 3, reason: String::new() }).expect("is removed");
    refused(&mut world, signed_trust(&trust(4, 2, &THREE)));
    assert!(world.admin(set(&trust(4, 2, &THREE[..2]))).is_ok());
}

#[test]
fn a_key_that_nothing_can_be_signed_with_is_not_trusted() {
    let mut world = World::begun();
    // The neutral element: some verifiers take any signature for one of its.
    let mut weak = [0; 32];
    weak[0] = 1;
    let node =
        countersign_control_plane::state::Node { public_keys: vec![weak], ..node(2, "second") };
    let token_sha256 = [1; 32];
    world.admin(Command::InviteNode { name: "second".into(), token_sha256 }).expect("is invited");
    world.system(Command::JoinNode { token_sha256, node }).expect("joins");
    let mut bundle = trust(2, 1, &THREE[..1]);
    bundle.keys.push(NodeKey { node: 2, public: weak, state: KeyState::Active });
    refused(&mut world, signed_trust(&bundle));
}

#[test]
fn only_the_root_key_signs_bundles() {
    let mut world = three_nodes();
    let bundle = trust(3, 2, &THREE);
    for signers in [&[][..], &[1, 2, 3], &[ROOT - 1]] {
        refused(&mut world, signed(TRUST_TYPE, bundle.encode(), signers));
    }
    refused(&mut world, signed("application/vnd.countersign.other.v1", bundle.encode(), &[ROOT]));
    let mut changed = signed_trust(&bundle);
    *changed.payload.last_mut().expect("has bytes") ^= 1;
    refused(&mut world, changed);
    refused(&mut world, signed(TRUST_TYPE, b"no bundle".to_vec(), &[ROOT]));
    let other = Trust { cluster: "cluster-2".into(), ..bundle.clone() };
    refused(&mut world, signed_trust(&other));
    assert!(
        world.admin(Command::SetTrust(signed(TRUST_TYPE, bundle.encode(), &[9, ROOT]))).is_ok()
    );
}

#[test]
fn a_cluster_begins_only_with_a_bundle_of_its_own_node_signed_by_its_root_key() {
    let begin = |trust: SignedBytes| {
        let mut world = World::empty();
        let genesis = countersign_control_plane::state::Genesis { trust, ..genesis() };
        world.system(Command::Genesis(Box::new(genesis)))
    };
    assert_eq!(begin(signed_trust(&trust(1, 1, &[(1, 1)]))), Ok(Event::Began));
    for (wrong, why) in [
        (signed(TRUST_TYPE, trust(1, 1, &[(1, 1)]).encode(), &[1]), "not the root key"),
        (signed_trust(&trust(1, 1, &[(2, 1)])), "another node"),
        (signed_trust(&trust(1, 1, &[(1, 2)])), "another key"),
        (signed_trust(&trust(1, 1, &[(1, 1), (2, 2)])), "a stranger too"),
        (signed_trust(&trust(1, 2, &[(1, 1)])), "two signers of one node"),
        (signed_trust(&trust(1, 1, &[])), "nobody"),
        (signed_trust(&Trust { cluster: "other".into(), ..trust(1, 1, &[(1, 1)]) }), "elsewhere"),
    ] {
        assert!(matches!(begin(wrong), Err(Refused::Invalid(_))), "{why}");
    }
}

#[test]
fn a_bundle_is_tied_to_the_audit_log() {
    let world = three_nodes();
    let records = world.state.audit().records();
    let digest = |n: usize| hex::encode(Sha256::digest(&world.state.trust_bundles()[n].payload));
    for (action, bundle) in [("cluster.begin", 0), ("trust.set", 1)] {
        let record = records.iter().find(|r| r.action == action).expect("is recorded");
        assert!(record.details.contains(&("sha256".into(), digest(bundle))), "{record:?}");
    }
}

#[test]
fn a_seal_replaces_the_one_that_was_expected() {
    let mut world = World::begun();
    let set = |seal_file: &[u8], former: &[u8]| Command::SetSeal {
        seal_file: seal_file.to_vec(),
        former_sha256: Sha256::digest(former).into(),
        what: "rekey".into(),
    };
    assert!(matches!(world.admin(set(b"seal 2", b"seal 0")), Err(Refused::Precondition(_))));
    assert_eq!(world.admin(set(b"seal 2", b"seal 1")), Ok(Event::SealChanged));
    assert_eq!(world.state.seal_file(), b"seal 2");
    // Somebody who began from the first one comes too late; who asks again learns that it is done.
    assert!(matches!(world.admin(set(b"seal 3", b"seal 1")), Err(Refused::Precondition(_))));
    let records = world.records();
    assert_eq!(world.admin(set(b"seal 2", b"seal 1")), Ok(Event::SealChanged));
    assert_eq!((world.state.seal_file(), world.records()), (&b"seal 2"[..], records));
}
