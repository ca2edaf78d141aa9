//! Another seal for the same vault: nobody is locked out by one that nobody can open.

use std::fs;
use std::path::Path;

use countersign_control_plane::cluster::{Barrier as _, NotAdopted, Purpose};
use countersign_control_plane::vault::{
    NewSeal, Rekey, SealError, ShareError, UnsealProgress, Unsealing, Vault,
};

use crate::team::{Team, given, share, vault_of};
use crate::{again, passphrase, vault};

fn key_file(dir: &Path) -> Unsealing {
    Unsealing::KeyFile(dir.join("seal.key"))
}

fn on_disk(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("seal.json")).unwrap()
}

#[test]
fn new_shares_open_the_vault_and_the_old_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, old) = vault_of(dir.path(), 2, 3);
    let sealed = vault.seal(Purpose::Entry, b"entry");
    let token = vault.derive("token", &["1"]);

    let authority = vault.authority(&given(&old, &[3, 1])).unwrap();
    let team = Team::of(5);
    let rekey = Rekey::start(&vault, authority, team.seal(3)).unwrap();
    let new = team.decrypt(rekey.shares());
    let mut progress = UnsealProgress::new(rekey.share_set().unwrap().clone()).unwrap();
    for text in [&new[4], &new[0], &new[2]] {
        progress.submit(share(text), 0).unwrap();
    }
    let verified = rekey.verify(&vault, &progress.take(0).unwrap()).unwrap();
    let file = verified.finish(&vault).unwrap();
    assert_ne!(on_disk(dir.path()), file, "not in force before it is adopted");
    vault.adopt(&file).unwrap();
    drop(vault);

    let refused = Vault::unseal(dir.path(), &given(&old, &[1, 2])).err().unwrap();
    assert!(matches!(refused, SealError::Share(ShareError::OtherSet { id: 1, .. })), "{refused}");
    let vault = Vault::unseal(dir.path(), &given(&new, &[2, 4, 5])).unwrap();
    assert_eq!(vault.open(Purpose::Entry, &sealed).unwrap().as_slice(), b"entry");
    assert_eq!(vault.derive("token", &["1"]), token);
}

#[test]
fn a_rekey_without_verification_leaves_the_old_shares_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, old) = vault_of(dir.path(), 2, 3);
    let before = on_disk(dir.path());
    let team = Team::of(3);
    let authority = vault.authority(&given(&old, &[1, 2])).unwrap();
    let rekey = Rekey::start(&vault, authority, team.seal(2)).unwrap();
    let new = team.decrypt(rekey.shares());

    // Too few, or the old ones: not verified.
    let refused = rekey.verify(&vault, &given(&new, &[1])).err().unwrap();
    assert!(matches!(refused, SealError::Share(ShareError::TooFew { have: 1, .. })));
    let refused = rekey.verify(&vault, &given(&old, &[1, 2])).err().unwrap();
    assert!(matches!(refused, SealError::Share(ShareError::OtherSet { .. })));
    drop(rekey);
    drop(vault);

    assert_eq!(on_disk(dir.path()), before);
    assert!(Vault::unseal(dir.path(), &given(&new, &[1, 2])).is_err());
    Vault::unseal(dir.path(), &given(&old, &[2, 3])).unwrap();
}

#[test]
fn a_rekey_that_is_dropped_after_its_verification_leaves_the_old_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let before = on_disk(dir.path());
    let authority = vault.authority(&key_file(dir.path())).unwrap();
    let new = NewSeal::Passphrase("correct horse".to_owned().into());
    let rekey = Rekey::start(&vault, authority, new).unwrap();
    let verified = rekey.verify(&vault, &passphrase("correct horse")).unwrap();
    drop(verified.finish(&vault).unwrap());
    assert_eq!(vault.seal_file(), before);
    assert_eq!(on_disk(dir.path()), before);
}

#[test]
fn without_the_threshold_of_old_shares_there_is_no_authority() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (vault, old) = vault_of(dir.path(), 3, 5);
    let (_, elsewhere) = vault_of(other.path(), 2, 2);
    for (what, unsealing) in [
        ("one too few", given(&old, &[1, 2])),
        ("one twice", given(&old, &[1, 2, 2])),
        ("of another vault", given(&elsewhere, &[1, 2])),
        ("nothing", Unsealing::Shares(Vec::new())),
        ("another provider", passphrase("any")),
    ] {
        assert!(vault.authority(&unsealing).is_err(), "{what}");
    }
    assert!(vault.authority(&given(&old, &[1, 2, 4])).is_ok());
}

#[test]
fn a_passphrase_takes_the_place_of_a_key_file_once_it_was_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let sealed = vault.seal(Purpose::Entry, b"entry");
    let authority = vault.authority(&key_file(dir.path())).unwrap();
    let new = NewSeal::Passphrase("correct horse".to_owned().into());
    let rekey = Rekey::start(&vault, authority, new).unwrap();
    assert_eq!((rekey.provider(), rekey.shares().len()), ("passphrase", 0));
    assert!(rekey.share_set().is_none());
    let refused = rekey.verify(&vault, &passphrase("correct hoarse")).err().unwrap();
    assert!(matches!(refused, SealError::WrongPassphrase));
    let refused = rekey.verify(&vault, &key_file(dir.path())).err().unwrap();
    assert!(matches!(refused, SealError::WrongProvider { .. }));
    let verified = rekey.verify(&vault, &passphrase("correct horse")).unwrap();
    vault.adopt(&verified.finish(&vault).unwrap()).unwrap();
    drop(vault);

    assert!(Vault::unseal(dir.path(), &key_file(dir.path())).is_err());
    let vault = Vault::unseal(dir.path(), &passphrase("correct horse")).unwrap();
    assert_eq!(vault.open(Purpose::Entry, &sealed).unwrap().as_slice(), b"entry");
    assert_eq!(Vault::parameters(dir.path()).unwrap().revision, 2);
}

#[test]
fn a_rotation_meanwhile_is_kept_by_a_rekey() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let old = NewSeal::KeyFile(dir.path().join("new.key"));
    let authority = vault.authority(&key_file(dir.path())).unwrap();
    let rekey = Rekey::start(&vault, authority, old).unwrap();
    // The same parameters, another key.
    let back = Unsealing::KeyFile(dir.path().join("new.key"));
    assert!(matches!(rekey.verify(&vault, &key_file(dir.path())), Err(SealError::WrongKeyFile(_))));
    let verified = rekey.verify(&vault, &back).unwrap();
    let late = rekey.verify(&vault, &back).unwrap().finish(&vault).unwrap();
    vault.adopt(&vault.rotate(1)).unwrap();
    let sealed = vault.seal(Purpose::Entry, b"entry");

    assert!(
        matches!(vault.adopt(&late), Err(NotAdopted::Tampered(_))),
        "a file without the new term is refused"
    );
    vault.adopt(&verified.finish(&vault).unwrap()).unwrap();
    drop(vault);
    let vault = Vault::unseal(dir.path(), &back).unwrap();
    assert_eq!(vault.keyring_term().term, 2);
    assert_eq!(vault.open(Purpose::Entry, &sealed).unwrap().as_slice(), b"entry");
}

#[test]
fn of_two_rekeys_of_one_seal_the_later_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let start = |name: &str| {
        let authority = vault.authority(&key_file(dir.path())).unwrap();
        Rekey::start(&vault, authority, NewSeal::KeyFile(dir.path().join(name))).unwrap()
    };
    let (one, other) = (start("one.key"), start("other.key"));
    let back = |name: &str| Unsealing::KeyFile(dir.path().join(name));
    let late = other.verify(&vault, &back("other.key")).unwrap();
    let unused = vault.authority(&key_file(dir.path())).unwrap();
    vault.adopt(&one.verify(&vault, &back("one.key")).unwrap().finish(&vault).unwrap()).unwrap();

    assert!(matches!(late.finish(&vault), Err(SealError::Overtaken)));
    let new = NewSeal::KeyFile(dir.path().join("third.key"));
    assert!(matches!(Rekey::start(&vault, unused, new), Err(SealError::Overtaken)));
    assert!(!dir.path().join("third.key").exists());
    assert!(Vault::unseal(dir.path(), &back("one.key")).is_ok());
}

#[test]
fn a_second_node_takes_the_new_seal_in_and_opens_with_it() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = vault(here.path());
    Vault::install(there.path(), &ours.seal_file()).unwrap();
    fs::copy(here.path().join("seal.key"), there.path().join("seal.key")).unwrap();
    let theirs = again(there.path());

    let team = Team::of(2);
    let authority = ours.authority(&key_file(here.path())).unwrap();
    let rekey = Rekey::start(&ours, authority, team.seal(2)).unwrap();
    let new = team.decrypt(rekey.shares());
    let file = rekey.verify(&ours, &given(&new, &[1, 2])).unwrap().finish(&ours).unwrap();
    theirs.adopt(&file).unwrap();
    let sealed = theirs.seal(Purpose::Entry, b"entry");
    drop(theirs);
    let theirs = Vault::unseal(there.path(), &given(&new, &[2, 1])).unwrap();
    assert_eq!(theirs.open(Purpose::Entry, &sealed).unwrap().as_slice(), b"entry");
}

#[test]
fn a_verification_against_another_vault_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, other) = (vault(here.path()), vault(there.path()));
    let authority = ours.authority(&key_file(here.path())).unwrap();
    let new = NewSeal::KeyFile(here.path().join("new.key"));
    let rekey = Rekey::start(&ours, authority, new).unwrap();
    let back = Unsealing::KeyFile(here.path().join("new.key"));
    assert!(matches!(rekey.verify(&other, &back), Err(SealError::AnotherVault)));
    let verified = rekey.verify(&ours, &back).unwrap();
    assert!(matches!(verified.finish(&other), Err(SealError::Overtaken)));
}
