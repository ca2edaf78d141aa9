//! `seal.json`: made once, opened by its own provider only, each failure in one sentence.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use countersign_control_plane::cluster::{Barrier as _, Purpose};
use countersign_control_plane::vault::{NewSeal, SealError, Unsealing, Vault};

use crate::{passphrase, vault};

fn refusal(dir: &Path, provider: &Unsealing) -> SealError {
    match Vault::unseal(dir, provider) {
        Ok(_) => panic!("it was unsealed"),
        Err(error) => error,
    }
}

#[test]
fn a_passphrase_unseals_and_a_wrong_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let made = Vault::create(dir.path(), passphrase("correct horse").try_into().unwrap(), 0)
        .unwrap()
        .vault;
    let sealed = made.seal(Purpose::Entry, b"entry");
    drop(made);

    assert_eq!(Vault::parameters(dir.path()).unwrap().provider, "passphrase");
    let wrong = refusal(dir.path(), &passphrase("wrong horse"));
    assert!(matches!(wrong, SealError::WrongPassphrase), "{wrong}");
    assert!(!wrong.to_string().contains("horse"));
    assert!(matches!(refusal(dir.path(), &passphrase("")), SealError::EmptyPassphrase));

    let again = Vault::unseal(dir.path(), &passphrase("correct horse")).unwrap();
    assert_eq!(again.open(Purpose::Entry, &sealed).unwrap().as_slice(), b"entry");
}

#[test]
fn a_key_file_unseals_and_another_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let sealed = vault(dir.path()).seal(Purpose::Snapshot, b"snapshot");
    let own = Unsealing::KeyFile(dir.path().join("seal.key"));
    let opened = Vault::unseal(dir.path(), &own).unwrap().open(Purpose::Snapshot, &sealed).unwrap();
    assert_eq!(opened.as_slice(), b"snapshot");

    let other = dir.path().join("other.key");
    fs::write(&other, "0".repeat(64)).unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(refusal(dir.path(), &Unsealing::KeyFile(other)), SealError::WrongKeyFile(_)));
    let missing = Unsealing::KeyFile(dir.path().join("no.key"));
    assert!(matches!(refusal(dir.path(), &missing), SealError::KeyFileMissing(_)));
    assert!(!dir.path().join("no.key").exists(), "unsealing makes no key file");
    let refused = refusal(dir.path(), &passphrase("any"));
    assert!(
        matches!(refused, SealError::WrongProvider { made_with: "key-file", given: "passphrase" }),
        "{refused}"
    );
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(vault(dir.path()));
    let path = dir.path().join("seal.key");
    for mode in [0o640, 0o604, 0o660, 0o644] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let refused = refusal(dir.path(), &Unsealing::KeyFile(path.clone()));
        assert!(matches!(refused, SealError::KeyFileMode { .. }), "{mode:o}: {refused}");
        assert!(refused.to_string().contains("chmod 600"), "it says what to do: {refused}");
    }
}

#[test]
fn a_key_file_without_a_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seal.key");
    for text in ["", "abc", &"z".repeat(64), &"0".repeat(66)] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let made = Vault::create(&dir.path().join("data"), NewSeal::KeyFile(path.clone()), 0);
        assert!(matches!(made, Err(SealError::KeyFileMalformed(_))));
        assert!(!Vault::exists(&dir.path().join("data")));
    }
}

#[test]
fn a_vault_is_never_made_over_another() {
    let dir = tempfile::tempdir().unwrap();
    drop(vault(dir.path()));
    let before = fs::read(dir.path().join("seal.json")).unwrap();
    let again = Vault::create(dir.path(), NewSeal::KeyFile(dir.path().join("seal.key")), 0);
    assert!(matches!(again, Err(SealError::AlreadyExists(_))));
    assert_eq!(fs::read(dir.path().join("seal.json")).unwrap(), before);
}

#[test]
fn the_seal_is_its_owners_alone_and_nothing_is_left_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(vault(dir.path()));
    let mut names = Vec::new();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{:?}",
            entry.file_name()
        );
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["seal.json", "seal.key"]);
}

#[test]
fn a_seal_with_any_one_byte_changed_is_damaged_and_is_not_called_a_wrong_key() {
    let dir = tempfile::tempdir().unwrap();
    drop(vault(dir.path()));
    let path = dir.path().join("seal.json");
    let own = Unsealing::KeyFile(dir.path().join("seal.key"));
    let whole = fs::read(&path).unwrap();
    for position in (0..whole.len()).filter(|at| !whole[*at].is_ascii_whitespace()) {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        fs::write(&path, &changed).unwrap();
        let refused = refusal(dir.path(), &own);
        assert!(matches!(refused, SealError::Damaged { .. }), "byte {position}: {refused}");
    }
    for length in 0..whole.len() - 2 {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(refusal(dir.path(), &own), SealError::Damaged { .. }), "cut at {length}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(refusal(dir.path(), &own), SealError::Missing(_)));
}

#[test]
fn an_entry_does_not_open_as_a_snapshot_nor_changed_nor_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let ours = vault(dir.path());
    let sealed = ours.seal(Purpose::Entry, b"what was committed");
    assert!(!sealed.windows(4).any(|w| w == b"what"));
    assert!(ours.open(Purpose::Snapshot, &sealed).is_err());
    for position in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[position] ^= 1;
        assert!(ours.open(Purpose::Entry, &changed).is_err(), "byte {position}");
        assert!(ours.open(Purpose::Entry, &sealed[..position]).is_err(), "cut at {position}");
    }
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(vault(elsewhere.path()).open(Purpose::Entry, &sealed).is_err());
}

#[test]
fn the_same_request_derives_the_same_token_and_no_other_does() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let token = vault.derive("agent-token", &["deploy", "1"]);
    assert_eq!(token, vault.derive("agent-token", &["deploy", "1"]));
    let own = Unsealing::KeyFile(dir.path().join("seal.key"));
    assert_eq!(
        token,
        Vault::unseal(dir.path(), &own).unwrap().derive("agent-token", &["deploy", "1"])
    );
    assert_ne!(token, vault.derive("fake-key", &["deploy", "1"]));
    assert_ne!(token, vault.derive("agent-token", &["deploy1", ""]));
    assert_ne!(token, vault.derive("agent-token", &["deploy", "1", ""]));
}
