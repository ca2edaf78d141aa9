//! A vault that several people open: each bad share is known as that one.

use std::fs;

use countersign_control_plane::cluster::{Barrier as _, Purpose};
use countersign_control_plane::vault::{
    Created, NewSeal, Progress, Recipient, SealError, Share, ShareError, UnsealProgress, Unsealing,
    Vault,
};

use crate::team::{Team, bytes, commitment, given, share, vault_of, written};
use crate::{edited, field, passphrase};

fn refusal(dir: &std::path::Path, unsealing: &Unsealing) -> ShareError {
    match Vault::unseal(dir, unsealing) {
        Ok(_) => panic!("it was unsealed"),
        Err(SealError::Share(error)) => error,
        Err(error) => panic!("{error}"),
    }
}

fn not_read(text: &str) -> ShareError {
    text.parse::<Share>().err().expect("it was read")
}

fn progress(dir: &std::path::Path) -> UnsealProgress {
    let set = Vault::parameters(dir).unwrap().shares.unwrap();
    UnsealProgress::new(set).unwrap()
}

#[test]
fn any_three_of_five_open_the_vault() {
    let dir = tempfile::tempdir().unwrap();
    let (made, texts) = vault_of(dir.path(), 3, 5);
    let sealed = made.seal(Purpose::Entry, b"entry");
    drop(made);
    let parameters = Vault::parameters(dir.path()).unwrap();
    let set = parameters.shares.unwrap();
    assert_eq!((parameters.provider, set.threshold(), set.shares()), ("shamir", 3, 5));
    for ids in [&[1, 2, 3][..], &[5, 1, 3], &[4, 5, 2], &[1, 2, 3, 4, 5], &[5, 4, 3, 2]] {
        let vault = Vault::unseal(dir.path(), &given(&texts, ids)).unwrap();
        assert_eq!(vault.open(Purpose::Entry, &sealed).unwrap().as_slice(), b"entry", "{ids:?}");
    }
    assert!(matches!(
        Vault::unseal(dir.path(), &passphrase("any")),
        Err(SealError::WrongProvider { made_with: "shamir", .. })
    ));
}

#[test]
fn one_share_fewer_opens_nothing_whatever_the_file_says_of_the_threshold() {
    let dir = tempfile::tempdir().unwrap();
    let (_, texts) = vault_of(dir.path(), 3, 5);
    let refused = refusal(dir.path(), &given(&texts, &[1, 4]));
    assert_eq!(refused, ShareError::TooFew { have: 2, threshold: 3 });
    let refused = refusal(dir.path(), &Unsealing::Shares(Vec::new()));
    assert_eq!(refused, ShareError::TooFew { have: 0, threshold: 3 });

    // Somebody who can write the file asks for two only, and commits to shares that say so.
    let path = dir.path().join("seal.json");
    let (file, mut shares) = (fs::read(&path).unwrap(), Vec::new());
    let salt = field(&file, "salt");
    let file = [0, 3].into_iter().fold(file, |file, at| {
        let real = bytes(&texts[at]);
        let mut asks_for_two = real.clone();
        asks_for_two[0] = 2;
        shares.push(share(&written(&asks_for_two)));
        let (from, to) = (commitment(&salt, &real), commitment(&salt, &asks_for_two));
        edited(&file, |text| text.replace(&from, &to))
    });
    let file = edited(&file, |text| text.replace(r#""threshold":3"#, r#""threshold":2"#));
    fs::write(&path, file).unwrap();
    let refused = refusal(dir.path(), &Unsealing::Shares(shares));
    assert_eq!(refused, ShareError::DoNotFit("shares 1 and 4".into()));
}

#[test]
fn a_share_survives_copy_and_paste() {
    let dir = tempfile::tempdir().unwrap();
    let (_, texts) = vault_of(dir.path(), 2, 2);
    let text = texts[0].trim();
    assert!(text.starts_with("cs-share-1-"), "it says which it is");
    assert!(!text.contains(char::is_whitespace));
    let wrapped = format!("  {}\r\n\t{}  \n", &text[..40], &text[40..]);
    let mail = text.replace('-', "-\n > ").replace(" > ", " ");
    for mangled in [text.to_uppercase(), wrapped, mail, text.replace('1', "l").replace('0', "O")] {
        // The number in front is a number; only the digits behind it are read so.
        let mangled = mangled.replacen("cs-share-l", "cs-share-1", 1);
        let shares = vec![share(&mangled), share(&texts[1])];
        assert!(Vault::unseal(dir.path(), &Unsealing::Shares(shares)).is_ok(), "{mangled}");
    }
}

#[test]
fn a_mistyped_share_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_, texts) = vault_of(dir.path(), 2, 4);
    let text = texts[2].trim();
    let digits = text.find("-3-").unwrap() + 3;
    for at in (digits..text.len()).filter(|at| &text[*at..=*at] != "-") {
        let other = if &text[at..=at] == "x" { "y" } else { "x" };
        let error = not_read(&format!("{}{other}{}", &text[..at], &text[at + 1..]));
        assert!(error.to_string().starts_with("share 3 "), "{error}");
        assert!(!error.to_string().contains(&text[digits..]), "it does not repeat the share");
    }
    for mangled in [
        text[..text.len() - 1].to_owned(),
        format!("{text}0"),
        format!("{text}z"),
        format!("{text}{text}"),
        text.replacen("-3-", "-3-u", 1),
        format!("{}é", &text[..text.len() - 1]),
        "cs-share-3-".to_owned(),
    ] {
        let error = not_read(&mangled);
        assert!(matches!(error, ShareError::Malformed { .. }), "{error}");
        assert!(error.to_string().starts_with("share 3 "), "{error}");
    }
    let error = not_read(&text.replacen("-3-", "-2-", 1));
    assert!(error.to_string().starts_with("share 2 has the number of one share"), "{error}");
    for nothing in ["", "cs-share-", "cs-share-x-00000", "cs-share-300-0", "correct horse", "age1"]
    {
        let error = not_read(nothing);
        assert!(error.to_string().starts_with("what was given is not a share: it "), "{error}");
    }
}

#[test]
fn a_share_that_was_given_twice_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_, texts) = vault_of(dir.path(), 3, 3);
    let refused = refusal(dir.path(), &given(&texts, &[1, 2, 2]));
    assert_eq!(refused, ShareError::AlreadyGiven(2));
}

#[test]
fn a_share_of_another_set_is_named() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, ours) = vault_of(here.path(), 2, 3);
    let (_, theirs) = vault_of(there.path(), 2, 3);
    let mixed = Unsealing::Shares(vec![share(&ours[0]), share(&theirs[1])]);
    let refused = refusal(here.path(), &mixed);
    let set = |dir: &tempfile::TempDir| {
        Vault::parameters(dir.path()).unwrap().shares.unwrap().id().to_owned()
    };
    let (theirs, ours) = (set(&there), set(&here));
    assert_eq!(refused, ShareError::OtherSet { id: 2, theirs, ours });
}

#[test]
fn a_forged_share_with_a_right_checksum_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_, texts) = vault_of(dir.path(), 2, 3);
    assert_eq!(
        written(&bytes(&texts[1])),
        texts[1].trim().replace('-', "").replacen("csshare2", "cs-share-2-", 1)
    );
    let forge = |position: usize, byte: u8| {
        let mut forged = bytes(&texts[1]);
        assert_ne!(forged[position], byte);
        forged[position] = byte;
        share(&written(&forged))
    };
    let last = !bytes(&texts[1])[41];
    // Its value, its threshold, and its number: of another share, of none.
    for (id, position, byte) in [(2, 41, last), (2, 0, 3), (3, 1, 3), (9, 1, 9)] {
        let shares = vec![share(&texts[0]), forge(position, byte)];
        assert_eq!(refusal(dir.path(), &Unsealing::Shares(shares)), ShareError::Forged(id));
        let submitted = progress(dir.path()).submit(forge(position, byte), 0);
        assert_eq!(submitted, Err(ShareError::Forged(id)));
    }
    let zero = forge(1, 0);
    assert_eq!(progress(dir.path()).submit(zero, 0), Err(ShareError::Forged(0)));
}

#[test]
fn shares_that_are_right_one_by_one_and_open_nothing_together_are_said_to() {
    let dir = tempfile::tempdir().unwrap();
    let (_, texts) = vault_of(dir.path(), 2, 3);
    let path = dir.path().join("seal.json");
    let file = fs::read(&path).unwrap();
    let (real, mut forged) = (bytes(&texts[1]), bytes(&texts[1]));
    forged[41] ^= 1;
    let salt = field(&file, "salt");
    let (from, to) = (commitment(&salt, &real), commitment(&salt, &forged));
    let committed = edited(&file, |text| text.replace(&from, &to));
    assert_ne!(committed, edited(&file, |text| text), "the commitment was there");
    fs::write(&path, committed).unwrap();
    let shares = vec![share(&texts[0]), share(&written(&forged))];
    let refused = refusal(dir.path(), &Unsealing::Shares(shares));
    assert_eq!(refused, ShareError::DoNotFit("shares 1 and 2".into()));
}

#[test]
fn a_seal_that_asks_for_impossible_shares_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (_, texts) = vault_of(dir.path(), 2, 3);
    let path = dir.path().join("seal.json");
    let file = fs::read(&path).unwrap();
    for threshold in [0, 1, 4, 255] {
        let to = format!(r#""threshold":{threshold}"#);
        fs::write(&path, edited(&file, |text| text.replace(r#""threshold":2"#, &to))).unwrap();
        let refused = Vault::unseal(dir.path(), &given(&texts, &[1, 2])).err();
        assert!(matches!(refused, Some(SealError::Damaged { .. })), "{threshold}");
        let set = Vault::parameters(dir.path()).unwrap().shares.unwrap();
        assert!(matches!(UnsealProgress::new(set), Err(SealError::Damaged { .. })));
    }
}

#[test]
fn shares_are_made_for_different_people_only_and_for_as_many_as_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |threshold, recipients: Vec<Recipient>| {
        let made = Vault::create(dir.path(), NewSeal::Shares { threshold, recipients }, 0);
        assert!(!Vault::exists(dir.path()));
        match made.err() {
            Some(SealError::Share(error)) => error,
            other => panic!("{:?}", other.map(|error| error.to_string())),
        }
    };
    assert_eq!(refused(2, Vec::new()), ShareError::NoRecipients);
    let people = Team::of(17).recipients();
    for (threshold, shares) in [(1, 1), (1, 3), (4, 3), (0, 2), (2, 17)] {
        let error = refused(threshold, people[..shares].to_vec());
        assert_eq!(error, ShareError::Count { threshold, shares });
    }
    let twice = vec![people[0].clone(), people[1].clone(), people[0].clone()];
    assert_eq!(refused(2, twice), ShareError::RecipientTwice(people[0].to_string()));
    for text in ["", "age1", "ssh-ed25519 AAAA", &people[0].to_string()[..60]] {
        let error = text.parse::<Recipient>().err().unwrap();
        assert_eq!(error, ShareError::Recipient(text.into()));
    }
    // What opens a vault with shares makes none.
    assert!(matches!(
        NewSeal::try_from(Unsealing::Shares(Vec::new())),
        Err(SealError::Share(ShareError::NoRecipients))
    ));
}

#[test]
fn each_share_opens_for_its_keeper_alone_and_no_share_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let team = Team::of(3);
    let Created { shares, .. } = Vault::create(dir.path(), team.seal(2), 0).unwrap();
    let texts = team.decrypt(&shares);
    assert!(shares.iter().map(|share| share.id).eq(1..=3));
    for (keeper, share) in shares.iter().enumerate() {
        assert!(share.encrypted.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
        for other in (0..3).filter(|other| *other != keeper) {
            assert!(age::decrypt(team.identity(other), share.encrypted.as_bytes()).is_err());
        }
    }
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["seal.json"]);
    let file = fs::read_to_string(dir.path().join("seal.json")).unwrap();
    for text in &texts {
        assert!(!file.contains(&hex::encode(&bytes(text)[10..])));
        assert!(!file.contains(text.trim()));
    }
}

#[test]
fn progress_counts_shares_until_they_are_enough_and_then_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_, texts) = vault_of(dir.path(), 3, 5);
    let mut progress = progress(dir.path());
    let standing = |have, ids: &[u8]| Progress { threshold: 3, have, ids: ids.to_vec() };
    assert_eq!(progress.standing(0), standing(0, &[]));
    assert_eq!(progress.submit(share(&texts[4]), 1), Ok(standing(1, &[5])));
    assert_eq!(progress.submit(share(&texts[1]), 2), Ok(standing(2, &[2, 5])));
    assert_eq!(progress.submit(share(&texts[1]), 3), Err(ShareError::AlreadyGiven(2)));
    assert!(progress.take(3).is_none());
    assert_eq!(progress.standing(3), standing(2, &[2, 5]), "a bad share costs nothing");
    assert_eq!(progress.submit(share(&texts[0]), 4), Ok(standing(3, &[1, 2, 5])));
    assert!(progress.standing(4).is_complete());
    let unsealing = progress.take(4).unwrap();
    assert!(Vault::unseal(dir.path(), &unsealing).is_ok());
    assert_eq!(progress.standing(4), standing(0, &[]));
}

#[test]
fn progress_is_forgotten_after_ten_minutes_without_a_share_and_on_demand() {
    const MINUTE: u64 = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let (_, texts) = vault_of(dir.path(), 3, 5);
    let mut progress = progress(dir.path());
    let start = 1_000 * MINUTE;
    progress.submit(share(&texts[0]), start).unwrap();
    progress.submit(share(&texts[1]), start + 10 * MINUTE - 1).unwrap();
    // A share that is refused is no progress.
    assert!(progress.submit(share(&texts[1]), start + 15 * MINUTE).is_err());
    assert_eq!(progress.standing(start + 20 * MINUTE - 2).have, 2);
    assert_eq!(progress.standing(start + 20 * MINUTE - 1).have, 0);
    let again = progress.submit(share(&texts[2]), start + 20 * MINUTE).unwrap();
    assert_eq!(again.ids, [3]);
    // Enough shares that nobody used are forgotten too.
    progress.submit(share(&texts[0]), start + 20 * MINUTE).unwrap();
    progress.submit(share(&texts[1]), start + 20 * MINUTE).unwrap();
    assert!(progress.take(start + 30 * MINUTE).is_none());
    progress.submit(share(&texts[0]), start + 30 * MINUTE).unwrap();
    progress.reset();
    assert_eq!(progress.standing(start + 30 * MINUTE).have, 0);
}
