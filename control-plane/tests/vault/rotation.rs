//! One seal file after another: what a rotation brings, who takes it in, and what nobody does.

use std::fs;
use std::path::Path;

use countersign_control_plane::cluster::{Barrier as _, NotAdopted, Purpose};
use countersign_control_plane::vault::{Binding, KeyringTerm, SealError, Unsealing, Vault};

use crate::{again, edited, field, vault};

const ALL: [Purpose; 4] = [Purpose::Backup, Purpose::Entry, Purpose::Forward, Purpose::Snapshot];
const DAY: u64 = 24 * 60 * 60 * 1000;

fn on_disk(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("seal.json")).unwrap()
}

/// A second node of the same cluster: the same seal file, the same key file.
fn second(first: &Path, dir: &Path) -> Vault {
    Vault::install(dir, &on_disk(first)).unwrap();
    fs::copy(first.join("seal.key"), dir.join("seal.key")).unwrap();
    again(dir)
}

fn is_tampered(adopted: Result<(), NotAdopted>) -> bool {
    matches!(adopted, Err(NotAdopted::Tampered(_)))
}

#[test]
fn what_was_sealed_before_a_rotation_opens_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let made = vault(dir.path());
    let binding = Binding::key("c1", "node-key", "1");
    let payload = made.seal_payload(&binding, b"secret");
    let token = made.derive("token", &["1"]);
    let before = ALL.map(|purpose| (purpose, made.seal(purpose, b"old")));

    made.adopt(&made.rotate(1)).unwrap();
    let after = made.seal(Purpose::Entry, b"new");
    drop(made);
    let vault = again(dir.path());
    assert_eq!(vault.keyring_term().term, 2);
    for (purpose, sealed) in &before {
        assert_eq!(vault.open(*purpose, sealed).unwrap().as_slice(), b"old", "{purpose:?}");
    }
    assert_eq!(vault.open(Purpose::Entry, &after).unwrap().as_slice(), b"new");
    assert_eq!(vault.open_payload(&binding, &payload).unwrap().as_slice(), b"secret");
    assert_eq!(vault.derive("token", &["1"]), token, "a request that comes again gets the same");
}

#[test]
fn a_rotation_that_is_not_adopted_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let made = vault(dir.path());
    let before = on_disk(dir.path());
    let rotated = made.rotate(1);
    assert_ne!(rotated, before);
    assert_eq!(on_disk(dir.path()), before);
    assert_eq!(made.seal_file(), before);
    assert_eq!(made.keyring_term().term, 1);
}

#[test]
fn a_second_vault_adopts_what_the_first_rotated() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = vault(here.path());
    let theirs = second(here.path(), there.path());
    let rotated = ours.rotate(7);
    ours.adopt(&rotated).unwrap();
    let sealed = ours.seal(Purpose::Entry, b"entry");
    assert!(theirs.open(Purpose::Entry, &sealed).is_err());
    assert!(theirs.is_ahead(&sealed));

    theirs.adopt(&rotated).unwrap();
    assert!(!theirs.is_ahead(&sealed));
    assert_eq!(theirs.open(Purpose::Entry, &sealed).unwrap().as_slice(), b"entry");
    assert_eq!(theirs.keyring_term(), KeyringTerm { term: 2, created_at: 7, operations: 0 });
    for (dir, vault) in [(&here, &ours), (&there, &theirs)] {
        assert_eq!(on_disk(dir.path()), rotated);
        assert_eq!(vault.seal_file(), rotated);
    }
    drop(theirs);
    assert_eq!(again(there.path()).open(Purpose::Entry, &sealed).unwrap().as_slice(), b"entry");
}

#[test]
fn a_node_that_was_away_goes_straight_to_the_newest_file() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = vault(here.path());
    let theirs = second(here.path(), there.path());
    for now in 1..4 {
        ours.adopt(&ours.rotate(now)).unwrap();
    }
    theirs.adopt(&ours.seal_file()).unwrap();
    assert_eq!(theirs.keyring_term().term, 4);
}

#[test]
fn files_that_were_adopted_before_change_nothing_when_the_log_is_applied_again() {
    let dir = tempfile::tempdir().unwrap();
    let made = vault(dir.path());
    let mut files = vec![made.seal_file()];
    for now in 1..4 {
        files.push(made.rotate(now));
        made.adopt(files.last().unwrap()).unwrap();
    }
    drop(made);
    let vault = again(dir.path());
    for file in &files {
        vault.adopt(file).unwrap();
        assert_eq!(&on_disk(dir.path()), files.last().unwrap());
        assert_eq!(vault.keyring_term().term, 4);
    }
}

#[test]
fn of_two_rotations_of_one_file_the_second_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let (one, other) = (vault.rotate(1), vault.rotate(1));
    vault.adopt(&one).unwrap();
    assert!(is_tampered(vault.adopt(&other)));
    vault.adopt(&vault.rotate(2)).unwrap();
    assert!(is_tampered(vault.adopt(&other)), "nor later, when it could be one of the past");
    assert_eq!(vault.keyring_term().term, 3);
}

#[test]
fn a_file_of_another_root_or_of_changed_parts_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, other) = (vault(here.path()), vault(there.path()));
    other.adopt(&other.rotate(1)).unwrap();
    assert!(is_tampered(ours.adopt(&other.seal_file())));
    assert!(is_tampered(ours.adopt(b"")));

    let good = ours.rotate(1);
    let swap = |file: &[u8], name| {
        let (from, to) = (field(file, name), field(&other.seal_file(), name));
        edited(file, |text| text.replace(&from, &to))
    };
    let later = edited(&good, |text| text.replace(r#""revision":2"#, r#""revision":3"#));
    for (what, file) in
        [("keyring", swap(&good, "keyring")), ("root", swap(&good, "root")), ("revision", later)]
    {
        assert_ne!(file, good);
        assert!(is_tampered(ours.adopt(&file)), "{what}");
    }
    assert_eq!(ours.keyring_term().term, 1);
    // The helper that edits is not what made them fail.
    ours.adopt(&edited(&good, |text| text)).unwrap();
}

#[test]
fn a_file_with_fewer_terms_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = vault(here.path());
    let theirs = second(here.path(), there.path());
    ours.adopt(&ours.rotate(1)).unwrap();
    // Theirs knows nothing of that term, and is a revision further.
    let fork = [theirs.rotate(2), theirs.rotate(3)];
    assert!(is_tampered(ours.adopt(&fork[0])));
    theirs.adopt(&fork[1]).unwrap();
    assert!(is_tampered(ours.adopt(&theirs.rotate(4))));
    assert_eq!(ours.keyring_term().created_at, 1);
}

#[test]
fn seal_swap_a_file_of_parts_of_two_vaults_does_not_unseal() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = vault(here.path());
    let first = on_disk(here.path());
    ours.adopt(&ours.rotate(1)).unwrap();
    let second = on_disk(here.path());
    drop(ours);
    drop(vault(there.path()));
    let own = Unsealing::KeyFile(here.path().join("seal.key"));
    let refused = |file: &[u8]| {
        fs::write(here.path().join("seal.json"), file).unwrap();
        Vault::unseal(here.path(), &own).err().expect("it was unsealed")
    };

    assert!(matches!(refused(&on_disk(there.path())), SealError::WrongKeyFile(_)));
    for other in [&first, &on_disk(there.path())] {
        let file = edited(&second, |text| {
            text.replace(&field(&second, "keyring"), &field(other, "keyring"))
        });
        assert!(matches!(refused(&file), SealError::Damaged { .. }));
    }
    let renumbered = edited(&second, |text| text.replace(r#""revision":2"#, r#""revision":9"#));
    assert!(matches!(refused(&renumbered), SealError::Damaged { .. }));
    fs::write(here.path().join("seal.json"), &second).unwrap();
    assert_eq!(again(here.path()).keyring_term().term, 2);
}

#[test]
fn a_file_that_cannot_be_written_is_not_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let vault = vault(&data);
    let rotated = vault.rotate(1);
    fs::rename(&data, dir.path().join("elsewhere")).unwrap();
    assert!(matches!(vault.adopt(&rotated), Err(NotAdopted::Disk(_))));
    assert_eq!(vault.keyring_term().term, 1);
    fs::rename(dir.path().join("elsewhere"), &data).unwrap();
    vault.adopt(&rotated).unwrap();
    assert_eq!(on_disk(&data), rotated);
}

#[test]
fn only_a_header_that_names_a_newer_term_is_ahead() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = vault(here.path());
    let theirs = second(here.path(), there.path());
    let old = theirs.seal(Purpose::Entry, b"entry");
    ours.adopt(&ours.rotate(1)).unwrap();
    for purpose in ALL {
        assert!(theirs.is_ahead(&ours.seal(purpose, b"entry")), "{purpose:?}");
        assert!(!ours.is_ahead(&ours.seal(purpose, b"entry")), "{purpose:?}");
    }
    assert!(!theirs.is_ahead(&old));
    assert!(!ours.is_ahead(&old));
    assert!(!theirs.is_ahead(b""));
    let mut nonsense = ours.seal(Purpose::Entry, b"entry");
    nonsense[0] ^= 1;
    assert!(!theirs.is_ahead(&nonsense));
    nonsense[0] ^= 1;
    nonsense[4] = 9;
    assert!(!theirs.is_ahead(&nonsense));
}

#[test]
fn each_purpose_opens_as_itself_alone() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    for sealed_as in ALL {
        let sealed = vault.seal(sealed_as, b"x");
        for opened_as in ALL {
            let opens = vault.open(opened_as, &sealed).is_ok();
            assert_eq!(opens, sealed_as == opened_as, "{sealed_as:?} {opened_as:?}");
        }
    }
}

#[test]
fn rotation_is_due_after_thirty_days_or_two_to_the_thirty_two_operations() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    assert!(!vault.rotation_due(30 * DAY - 1));
    assert!(vault.rotation_due(30 * DAY));
    let term = KeyringTerm { term: 1, created_at: 5, operations: (1 << 32) - 1 };
    assert!(!term.is_due(5));
    assert!(!term.is_due(0), "a clock that went back");
    assert!(KeyringTerm { operations: 1 << 32, ..term }.is_due(5));

    vault.seal(Purpose::Entry, b"one");
    vault.seal_payload(&Binding::key("c1", "kind", "id"), b"two");
    assert_eq!(vault.keyring_term().operations, 2);
    vault.adopt(&vault.rotate(30 * DAY)).unwrap();
    let fresh = KeyringTerm { term: 2, created_at: 30 * DAY, operations: 0 };
    assert_eq!(vault.keyring_term(), fresh);
    assert!(!vault.rotation_due(60 * DAY - 1));
    assert!(vault.rotation_due(60 * DAY));
}

#[test]
fn a_seal_file_is_installed_where_none_is_only() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = vault(here.path());
    let (file, rotated) = (ours.seal_file(), ours.rotate(1));
    let dir = there.path().join("data");
    assert!(matches!(Vault::install(&dir, b"{}"), Err(SealError::NotASealFile(_))));
    assert!(!Vault::exists(&dir));
    Vault::install(&dir, &file).unwrap();
    Vault::install(&dir, &file).unwrap();
    assert!(matches!(Vault::install(&dir, &rotated), Err(SealError::AlreadyExists(_))));
    assert_eq!(on_disk(&dir), file);
    let parameters = Vault::parameters(&dir).unwrap();
    assert_eq!((parameters.provider, parameters.revision), ("key-file", 1));
}
