//! C-9: what a stranger finds in an exported audit log that somebody tampered with.

use countersign_control_plane::state::audit::{
    BrokenAt, CHECKPOINT_TYPE, Checkpoint, Export, Fault, Known, Record, SignedCheckpoint, Verdict,
    verify_export,
};
use countersign_control_plane::state::{Command, SignedBytes, State};
use countersign_gate::{KeyState, TRUST_TYPE, Trust};

use crate::checkpoints::checkpointed;
use crate::nodes::{add_key, three_nodes};
use crate::world::{ROOT, World, open, public_key, signed, signed_trust, trust};

/// What was exported, to tamper with.
#[derive(Clone)]
struct File {
    records: Vec<Record>,
    checkpoints: Vec<SignedCheckpoint>,
    trust_bundles: Vec<SignedBytes>,
}

impl File {
    fn of(state: &State) -> Self {
        Self {
            records: state.audit().records().to_vec(),
            checkpoints: state.audit_checkpoints().to_vec(),
            trust_bundles: state.trust_bundles().to_vec(),
        }
    }

    fn verify(&self, known: Option<Known>) -> Verdict {
        let Self { records, checkpoints, trust_bundles } = self;
        verify_export(Export { records, checkpoints, trust_bundles }, &public_key(ROOT), known)
    }

    fn fault(&self) -> Option<Fault> {
        self.verify(None).fault
    }

    /// Writes the chain anew from this record on, as somebody would who can write everything.
    fn rewritten_from(mut self, index: usize) -> Self {
        self.records[index - 1].details.push(("approvers".into(), "mallory".into()));
        for n in index - 1..self.records.len() {
            if n > 0 {
                self.records[n].previous = self.records[n - 1].hash;
            }
            self.records[n].hash = self.records[n].computed_hash();
        }
        self
    }

    fn known(&self, index: usize) -> Known {
        Known { index: index as u64, head: self.records[index - 1].hash }
    }
}

/// Three nodes that lived, with a checkpoint in the middle and one five records before the end.
fn lived() -> (World, File) {
    let mut world = three_nodes();
    let first = world.records() as u64;
    take(&mut world, first, 2, &[1, 2]);
    let id = world.opened(open(1));
    world.approve("ana", id).expect("counts");
    world.claim(1).expect("is released");
    let second = world.records() as u64;
    take(&mut world, second, 2, &[3, 1]);
    for n in 0..5 {
        let subject = n.to_string();
        world
            .system(Command::Note { action: "test.note".into(), subject, details: vec![] })
            .expect("is noted");
    }
    let file = File::of(&world.state);
    (world, file)
}

fn take(world: &mut World, index: u64, epoch: u64, signers: &[u8]) {
    let checkpoint = checkpointed(world, index, epoch, signers);
    world.system(Command::CheckpointAudit(checkpoint)).expect("is taken");
}

#[test]
fn an_export_as_it_was_made_has_no_fault() {
    let (world, file) = lived();
    let entries = world.records() as u64;
    let verdict = file.verify(None);
    let head = world.state.audit().head();
    let as_made = Verdict { entries, head, checkpointed: entries - 5, fault: None };
    assert_eq!(verdict, as_made);
    for index in [1, 7, entries as usize] {
        assert_eq!(file.verify(Some(file.known(index))).fault, None);
    }
    let signed = &world.state.audit_checkpoints()[0].checkpoint;
    assert_eq!(file.verify(Some(signed.into())).fault, None);
    let nothing = File { records: vec![], checkpoints: vec![], trust_bundles: vec![] };
    assert_eq!(
        nothing.verify(None),
        Verdict { entries: 0, head: [0; 32], checkpointed: 0, fault: None }
    );
}

#[test]
fn c_9_an_edit_of_any_record_shows_where() {
    let (_, file) = lived();
    for place in 0..file.records.len() {
        let edits: [fn(&mut Record); 5] = [
            |r| r.at += 1,
            |r| r.actor.push('x'),
            |r| r.subject.push('x'),
            |r| r.details.push((String::new(), String::new())),
            |r| r.hash[31] ^= 1,
        ];
        for edit in edits {
            let mut edited = file.clone();
            edit(&mut edited.records[place]);
            let fault = edited.fault().expect("shows");
            assert_eq!(fault, Fault::Broken(BrokenAt(place as u64 + 1)));
            assert_eq!(fault.record(), Some(place as u64 + 1));
        }
    }
}

#[test]
fn c_9_a_dropped_or_moved_record_shows_where() {
    let (_, file) = lived();
    for place in 0..file.records.len() - 1 {
        let broken = Some(Fault::Broken(BrokenAt(place as u64 + 1)));
        let mut without = file.clone();
        without.records.remove(place);
        assert_eq!(without.fault(), broken);
        let mut moved = file.clone();
        moved.records.swap(place, place + 1);
        assert_eq!(moved.fault(), broken);
        let mut twice = file.clone();
        twice.records.insert(place, file.records[place].clone());
        assert_eq!(twice.fault(), Some(Fault::Broken(BrokenAt(place as u64 + 2))));
    }
}

#[test]
fn c_9_a_log_that_was_cut_before_a_checkpoint_shows() {
    let (_, file) = lived();
    let covered = file.checkpoints[1].checkpoint.index as usize;
    for length in 0..covered {
        let mut cut = file.clone();
        cut.records.truncate(length);
        let fault = cut.fault().expect("shows");
        // Cut before the records that tell of the bundles, it is the bundles that show it.
        let shows = matches!(fault, Fault::Truncated { signed: true, entries, .. } if entries == length as u64)
            || matches!(fault, Fault::UntrustedTrust { .. });
        assert!(shows, "{length}: {fault}");
    }
}

#[test]
fn c_9_what_was_cut_after_the_last_checkpoint_shows_beside_what_was_kept() {
    let (_, file) = lived();
    let entries = file.records.len();
    let mut cut = file.clone();
    cut.records.truncate(entries - 1);
    assert_eq!(cut.fault(), None, "nobody signed for the last one yet");
    let fault = cut.verify(Some(file.known(entries))).fault.expect("shows");
    let index = entries as u64;
    assert_eq!(fault, Fault::Truncated { index, entries: index - 1, signed: false });
    assert_eq!(fault.record(), Some(index));

    // So does a cut that takes the checkpoints with it.
    cut.checkpoints.clear();
    cut.records.truncate(entries - 8);
    assert_eq!(cut.fault(), None);
    let kept = Known::from(&file.checkpoints[1].checkpoint);
    assert!(matches!(cut.verify(Some(kept)).fault, Some(Fault::Truncated { signed: false, .. })));
}

#[test]
fn c_9_a_chain_that_was_written_anew_shows_at_the_next_checkpoint() {
    let (_, file) = lived();
    let covered = file.checkpoints[1].checkpoint.index;
    let from = covered as usize - 1;
    let fork = file.clone().rewritten_from(from);
    let fault = fork.fault();
    assert_eq!(fault, Some(Fault::Forked { index: covered, signed: true }));
    assert_eq!(fork.verify(None).checkpointed, file.checkpoints[0].checkpoint.index);

    // After the last checkpoint it shows beside what was kept, or not at all.
    let last = file.records.len();
    let fork = file.clone().rewritten_from(last - 1);
    assert_eq!(fork.fault(), None);
    let fault = fork.verify(Some(file.known(last))).fault;
    assert_eq!(fault, Some(Fault::Forked { index: last as u64, signed: false }));
    assert_eq!(fork.verify(Some(file.known(last - 2))).fault, None, "common until the fork");

    // Without the checkpoint that is in the way, too.
    let mut fork = file.clone().rewritten_from(from);
    fork.checkpoints.pop();
    assert_eq!(fork.fault(), None);
    let kept = Known::from(&file.checkpoints[1].checkpoint);
    assert_eq!(
        fork.verify(Some(kept)).fault,
        Some(Fault::Forked { index: covered, signed: false })
    );
}

#[test]
fn c_9_a_checkpoint_that_too_few_signed_shows() {
    let (world, file) = lived();
    let index = file.checkpoints[1].checkpoint.index;
    let unsigned = Some(Fault::Unsigned { index });
    for signers in [&[][..], &[1], &[2, 2], &[1, 4], &[1, ROOT]] {
        let mut forged = file.clone();
        forged.checkpoints[1] = checkpointed(&world, index, 2, signers);
        assert_eq!(forged.fault(), unsigned, "{signers:?}");
    }
    let tampered: [fn(&mut SignedCheckpoint); 5] = [
        |c| c.checkpoint.head[0] ^= 1,
        |c| c.checkpoint.at += 1,
        |c| c.checkpoint.cluster_id = "other".into(),
        |c| c.epoch = 3,
        |c| c.signatures[0].signature[0] ^= 1,
    ];
    for tamper in tampered {
        let mut forged = file.clone();
        tamper(&mut forged.checkpoints[1]);
        assert_eq!(forged.fault(), unsigned);
    }
    // By enough nodes, but as something else, or under a bundle under which one sufficed.
    let mut forged = file.clone();
    let payload = forged.checkpoints[1].checkpoint.encode();
    forged.checkpoints[1].signatures = signed(TRUST_TYPE, payload, &[1, 2, 3]).signatures;
    assert_eq!(forged.fault(), unsigned);
    forged.checkpoints[1] = checkpointed(&world, index, 1, &[1]);
    assert_eq!(forged.fault(), unsigned);
    // Out of order, and one twice.
    let mut moved = file.clone();
    moved.checkpoints.swap(0, 1);
    assert_eq!(
        moved.fault(),
        Some(Fault::Unsigned { index: moved.checkpoints[1].checkpoint.index })
    );
    let mut twice = file.clone();
    twice.checkpoints.push(file.checkpoints[1].clone());
    assert_eq!(twice.fault(), unsigned);
}

#[test]
fn c_9_two_keys_of_one_node_are_one_signer_of_a_checkpoint() {
    let (mut world, _) = lived();
    world.system(add_key(1, 11, 1)).expect("is added");
    let next = world.state.next_trust().expect("is called for");
    assert!(next.keys.iter().any(|key| key.state == KeyState::Retired));
    world.admin(Command::SetTrust(signed_trust(&next))).expect("is set");
    let index = world.records() as u64;
    let mut file = File::of(&world.state);
    file.checkpoints.push(checkpointed(&world, index, 3, &[1, 11]));
    assert_eq!(file.fault(), Some(Fault::Unsigned { index }));
    file.checkpoints[2] = checkpointed(&world, index, 3, &[11, 3]);
    assert_eq!(file.verify(None).checkpointed, index);
}

#[test]
fn c_9_keys_that_a_bundle_took_out_of_use_sign_for_nothing_that_came_after_it() {
    let (mut world, _) = lived();
    for id in [4, 5] {
        let name = format!("n{id}");
        let token_sha256 = [1; 32];
        world.admin(Command::InviteNode { name: name.clone(), token_sha256 }).expect("is invited");
        let node = crate::world::node(id, &name);
        world.system(Command::JoinNode { token_sha256, node }).expect("joins");
    }
    // 2 and 3 were stolen: out of use, one named as revoked, one not named any more.
    let mut bundle = trust(3, 2, &[(1, 1), (2, 2), (4, 4), (5, 5)]);
    bundle.keys[1].state = KeyState::Revoked;
    let before = world.records() as u64;
    world.admin(Command::SetTrust(signed_trust(&bundle))).expect("is set");
    let after = world.records() as u64;
    let file = File::of(&world.state);
    for (epoch, signers) in [(2, &[2, 3][..]), (3, &[2, 3]), (3, &[1, 2]), (3, &[1, 3])] {
        let mut forged = file.clone();
        forged.checkpoints.push(checkpointed(&world, after, epoch, signers));
        assert_eq!(forged.fault(), Some(Fault::Unsigned { index: after }), "{epoch} {signers:?}");
    }
    // What they signed for before stands.
    let mut good = file;
    good.checkpoints.push(checkpointed(&world, before, 2, &[2, 3]));
    good.checkpoints.push(checkpointed(&world, after, 3, &[4, 5]));
    assert_eq!((good.fault(), good.verify(None).checkpointed), (None, after));
}

#[test]
fn c_9_trust_bundles_are_the_root_keys_and_all_there() {
    let (_, file) = lived();
    let second = file.records.iter().find(|r| r.action == "trust.set").expect("is there").index;
    let mut without = file.clone();
    without.trust_bundles.pop();
    assert_eq!(without.fault(), Some(Fault::TrustMissing { record: second }));
    let mut without = file.clone();
    without.trust_bundles.remove(0);
    assert_eq!(without.fault(), Some(Fault::TrustMissing { record: 1 }));
    let mut swapped = file.clone();
    swapped.trust_bundles.swap(0, 1);
    assert_eq!(swapped.fault(), Some(Fault::UntrustedTrust { place: 2 }));
    let mut forged = file.clone();
    let mine = Trust { threshold: 2, ..trust(2, 2, &[(1, 90), (2, 91), (3, 92)]) };
    forged.trust_bundles[1] = signed(TRUST_TYPE, mine.encode(), &[90]);
    assert_eq!(forged.fault(), Some(Fault::UntrustedTrust { place: 2 }));
    // Even one that the root key signed, if it was never in force here.
    forged.trust_bundles[1] = signed_trust(&mine);
    assert_eq!(forged.fault(), Some(Fault::TrustMissing { record: second }));
    let mut more = file.clone();
    more.trust_bundles.push(signed_trust(&trust(3, 2, &[(1, 1), (2, 2)])));
    assert_eq!(more.fault(), Some(Fault::UntrustedTrust { place: 3 }));

    // Another root key than the one that is known vouches for nothing.
    let File { records, checkpoints, trust_bundles } = &file;
    let export = Export { records, checkpoints, trust_bundles };
    let verdict = verify_export(export, &public_key(ROOT - 1), None);
    assert_eq!(
        (verdict.fault, verdict.checkpointed),
        (Some(Fault::UntrustedTrust { place: 1 }), 0)
    );
}

#[test]
fn a_whole_log_that_somebody_made_up_has_no_root() {
    // Everything is consistent, and signed by nodes and a root key: by other ones.
    let (world, file) = lived();
    let mut forged = file;
    let theirs = trust(1, 1, &[(1, 90)]);
    forged.trust_bundles = vec![signed(TRUST_TYPE, theirs.encode(), &[99])];
    let checkpoint = Checkpoint { ..world.state.checkpoint_at(3).expect("is there") };
    let signatures = signed(CHECKPOINT_TYPE, checkpoint.encode(), &[90]).signatures;
    forged.checkpoints = vec![SignedCheckpoint { checkpoint, epoch: 1, signatures }];
    assert_eq!(forged.fault(), Some(Fault::UntrustedTrust { place: 1 }));
}

#[test]
fn no_note_says_what_a_command_says_by_itself() {
    let (mut world, file) = lived();
    let said = file.records.iter().map(|r| r.action.clone()).filter(|action| action != "test.note");
    let records = world.records();
    for action in said {
        let note =
            Command::Note { action: action.clone(), subject: String::new(), details: vec![] };
        assert!(world.system(note).is_err(), "{action}");
    }
    assert_eq!(world.records(), records);
}
