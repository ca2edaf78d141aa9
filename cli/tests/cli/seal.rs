//! Opening, closing and changing the vault's seal.

use countersign_proto::v1;
use serde_json::json;
use tonic::Status;
use v1::seal_parameters::Provider;

use super::control_plane::{Authority, ControlPlane};
use super::run::Place;

const SHARE: &str = "cs-share-2-abcde-fghjk";

fn sealed_by(provider: &str) -> ControlPlane {
    ControlPlane::start()
        .answers(
            "GetSealStatus",
            &[v1::GetSealStatusResponse {
                sealed: true,
                provider: provider.into(),
                ..Default::default()
            }],
        )
        .answers("Unseal", &[v1::UnsealResponse::default()])
}

#[test]
fn seal_unseal_takes_the_passphrase_from_standard_input() {
    let control_plane = sealed_by("passphrase");
    let place = Place::knowing(&control_plane);
    place.run_with(&["seal", "unseal"], "correct horse\n").ok();
    let asked: v1::UnsealRequest = control_plane.asked("Unseal");
    assert_eq!(asked.passphrase.as_ref(), b"correct horse");
}

#[test]
fn seal_unseal_asks_for_no_passphrase_where_a_key_file_opens_the_vault() {
    let control_plane = sealed_by("key-file");
    Place::knowing(&control_plane).run(&["seal", "unseal"]).ok();
    let asked: v1::UnsealRequest = control_plane.asked("Unseal");
    assert!(asked.passphrase.is_empty());
}

fn shamir(sealed: bool, given: &[u32]) -> v1::GetSealStatusResponse {
    v1::GetSealStatusResponse {
        sealed,
        provider: "shamir".into(),
        shares: 5,
        threshold: 3,
        given: given.to_vec(),
        initialized: true,
        ..Default::default()
    }
}

fn unsealed(sealed: bool, given: &[u32]) -> v1::UnsealResponse {
    v1::UnsealResponse { sealed, threshold: 3, given: given.to_vec() }
}

#[test]
fn seal_unseal_takes_one_share_and_says_how_far_it_is() {
    let control_plane = ControlPlane::start()
        .answers("GetSealStatus", &[shamir(true, &[4])])
        .answers_in_turn("Unseal", &[unsealed(true, &[2, 4]), unsealed(false, &[])]);
    let place = Place::knowing(&control_plane);
    let said = place.run_with(&["seal", "unseal"], &format!("{SHARE}\n")).ok();
    assert_eq!(said, "Still sealed: 2 of 3 (shares 2, 4).\n");
    place.write("share", SHARE);
    assert_eq!(place.run(&["seal", "unseal", "--share-file", "share"]).ok(), "Open.\n");
    let asked: Vec<v1::UnsealRequest> = control_plane.all_asked("Unseal");
    assert_eq!(asked.len(), 2);
    for asked in asked {
        assert_eq!((asked.share.as_ref(), asked.passphrase.len()), (SHARE.as_bytes(), 0));
    }
}

#[test]
fn seal_unseal_gives_the_share_to_every_node_that_is_sealed() {
    let authority = Authority::new();
    let node = |sealed| {
        let status = shamir(sealed, &[]);
        ControlPlane::of(&authority).answers("GetSealStatus", &[status])
    };
    let sealed = node(true).answers("Unseal", &[unsealed(true, &[2])]);
    let open = node(false);
    let last = node(true).answers("Unseal", &[unsealed(false, &[])]);
    let place = Place::knowing_all(&[&sealed, &open, &last]);
    let opened = place.run_with(&["seal", "unseal", "-o", "json"], SHARE).json();
    assert_eq!(
        opened,
        json!([
            {"addr": open.addr(), "sealed": false, "threshold": 3, "given": []},
            {"addr": sealed.addr(), "sealed": true, "threshold": 3, "given": [2]},
            {"addr": last.addr(), "sealed": false, "threshold": 3, "given": []},
        ])
    );
    assert!(!open.was_asked("Unseal"));
    let asked: v1::UnsealRequest = last.asked("Unseal");
    assert_eq!(asked.share.as_ref(), SHARE.as_bytes());
}

#[test]
fn seal_unseal_says_what_is_of_no_use_before_it_gives_anything_away() {
    let control_plane = ControlPlane::start().answers("GetSealStatus", &[shamir(true, &[])]);
    let place = Place::knowing(&control_plane);
    place.write("passphrase", "correct horse");
    place
        .run(&["seal", "unseal", "--passphrase-file", "passphrase"])
        .fails(2, &["shamir", "--passphrase-file"]);
    place.run_with(&["seal", "unseal"], "").fails(2, &["the share is empty"]);
    assert!(!control_plane.was_asked("Unseal"));
}

#[test]
fn seal_unseal_reports_a_bad_share_and_does_not_repeat_it() {
    let control_plane = ControlPlane::start()
        .answers("GetSealStatus", &[shamir(true, &[])])
        .refuses("Unseal", Status::permission_denied("share 2 is mistyped"));
    let ran = Place::knowing(&control_plane).run_with(&["seal", "unseal"], SHARE);
    assert!(!ran.said.contains(SHARE), "{}", ran.said);
    ran.fails(1, &["share 2 is mistyped"]);
}

#[test]
fn seal_unseal_forgets_what_was_given_when_told_to() {
    let control_plane = ControlPlane::start()
        .answers("GetSealStatus", &[shamir(true, &[1, 2])])
        .answers("Unseal", &[unsealed(true, &[])]);
    Place::knowing(&control_plane).run(&["seal", "unseal", "--reset"]).ok();
    let asked: v1::UnsealRequest = control_plane.asked("Unseal");
    assert!(asked.reset && asked.share.is_empty());
}

#[test]
fn seal_status_has_its_shape_and_names_every_node() {
    let authority = Authority::new();
    let sealed = ControlPlane::of(&authority).answers("GetSealStatus", &[shamir(true, &[2])]);
    let mut place = Place::knowing(&sealed);
    place.set("COUNTERSIGN_ADDR", &format!("{},https://127.0.0.1:1", sealed.addr()));
    assert_eq!(
        place.run(&["seal", "status", "-o", "json"]).json(),
        json!({
            "sealed": true, "provider": "shamir", "initialized": true, "shares": 5, "threshold": 3, "given": [2],
            "keyring_term": 0, "keyring_created_at": null, "under_older_terms": 0,
            "nodes": [
                {"addr": sealed.addr(), "sealed": true, "given": [2]},
                {"addr": "https://127.0.0.1:1", "sealed": null, "given": []},
            ]
        })
    );
    let told = place.run(&["seal", "status"]).ok();
    assert!(told.contains("3 of 5 shares") && told.contains("1 of 3 (share 2)"), "{told}");
    assert!(told.contains("does not answer"), "{told}");
}

#[test]
fn seal_seal_closes_one_node_when_it_is_told_which() {
    let authority = Authority::new();
    let node =
        || ControlPlane::of(&authority).answers("Seal", &[v1::SealResponse { sealed: true }]);
    let (first, second) = (node(), node());
    let place = Place::knowing_all(&[&first, &second]);
    place.run(&["seal", "seal", "--node", second.address()]).ok();
    assert!(!first.was_asked("Seal") && second.was_asked("Seal"));
    place
        .run(&["seal", "seal", "--node", "https://127.0.0.1:1"])
        .fails(2, &["none of the nodes that are known"]);
}

#[test]
fn seal_seal_closes_every_node() {
    let authority = Authority::new();
    let node =
        || ControlPlane::of(&authority).answers("Seal", &[v1::SealResponse { sealed: true }]);
    let (first, second) = (node(), node());
    Place::knowing_all(&[&first, &second]).run(&["seal", "seal"]).ok();
    assert!(first.was_asked("Seal") && second.was_asked("Seal"));
}

#[test]
fn seal_rotate_says_which_term_it_is() {
    let control_plane = ControlPlane::start()
        .answers("RotateKeyring", &[v1::RotateKeyringResponse { keyring_term: 7 }]);
    let place = Place::knowing(&control_plane);
    assert_eq!(place.run(&["seal", "rotate", "-o", "json"]).json(), json!({"keyring_term": 7}));
    let asked: v1::RotateKeyringRequest = control_plane.asked("RotateKeyring");
    assert_eq!(asked.request_id.len(), 32);
}

/// A node that takes a passphrase now, and two of three shares from then on.
fn rekeying() -> ControlPlane {
    let share = |id: u32| v1::EncryptedShare {
        id,
        recipient: format!("age1{id}"),
        encrypted: format!("-----BEGIN AGE ENCRYPTED FILE-----\n{id}\n"),
    };
    let now = v1::GetSealStatusResponse { provider: "passphrase".into(), ..shamir(false, &[]) };
    let verified = |given: &[u32], complete| v1::VerifyRekeyResponse {
        needed: 2,
        given: given.to_vec(),
        complete,
    };
    ControlPlane::start()
        .answers("GetSealStatus", &[now])
        .answers("StartRekey", &[v1::StartRekeyResponse { rekey_id: "rk1".into(), needed: 1 }])
        .answers(
            "AuthorizeRekey",
            &[v1::AuthorizeRekeyResponse {
                needed: 1,
                given: vec![],
                shares: vec![share(1), share(2), share(3)],
                authorized: true,
            }],
        )
        .answers_in_turn("VerifyRekey", &[verified(&[2], false), verified(&[2, 3], true)])
        .answers("CancelRekey", &[v1::CancelRekeyResponse {}])
}

const TO_SHARES: [&str; 10] = [
    "--seal",
    "shamir",
    "--threshold",
    "2",
    "--recipient",
    "age11",
    "--recipient",
    "age12",
    "--recipient",
    "age13",
];

#[test]
fn seal_rekey_walks_from_a_passphrase_to_shares() {
    let control_plane = rekeying();
    let place = Place::knowing(&control_plane);
    place.write("old", "correct horse\n");
    let rekey =
        [&["seal", "rekey", "--shares-dir", "new", "--passphrase-file", "old"][..], &TO_SHARES]
            .concat();
    let said = place.run(&rekey).ok();
    assert!(said.contains("rk1 has begun") && said.contains("Authorised"), "{said}");
    assert!(said.contains("countersign seal rekey --rekey-id rk1 --verify"), "{said}");
    assert!(!said.contains("correct horse") && !said.contains("BEGIN AGE"), "{said}");
    for id in 1..=3 {
        let name = format!("new/share-{id}.age");
        assert_eq!(place.mode(&name), 0o600);
        assert!(place.read(&name).contains("BEGIN AGE ENCRYPTED FILE"));
    }
    let asked: v1::StartRekeyRequest = control_plane.asked("StartRekey");
    let Some(Provider::Shamir(to)) = asked.to.unwrap().provider else { panic!("not shamir") };
    assert_eq!((to.threshold, to.recipients.len()), (2, 3));
    let asked: v1::AuthorizeRekeyRequest = control_plane.asked("AuthorizeRekey");
    assert_eq!(
        (asked.rekey_id.as_str(), asked.passphrase.as_ref()),
        ("rk1", &b"correct horse"[..])
    );

    // Whoever holds a share shows it, one run each.
    let verify = ["seal", "rekey", "--rekey-id", "rk1", "--verify"];
    let said = place.run_with(&verify, SHARE).ok();
    assert!(said.starts_with("Verified by 1 of 2 (share 2).\n"), "{said}");
    place.write("share", SHARE);
    let ran = place.run(&[&verify[..], &["--share-file", "share", "-o", "json"]].concat()).json();
    assert_eq!(ran, json!({"rekey_id": "rk1", "step": "complete", "needed": 2, "given": [2, 3]}));
    let asked: Vec<v1::VerifyRekeyRequest> = control_plane.all_asked("VerifyRekey");
    assert!(asked.iter().all(|asked| asked.share.as_ref() == SHARE.as_bytes()));
}

#[test]
fn seal_rekey_takes_each_step_by_itself() {
    let control_plane = rekeying();
    let place = Place::knowing(&control_plane);
    let start = [&["seal", "rekey", "--start", "-o", "json"][..], &TO_SHARES].concat();
    assert_eq!(
        place.run(&start).json(),
        json!({"rekey_id": "rk1", "step": "authorize", "needed": 1, "given": []})
    );
    assert!(!control_plane.was_asked("AuthorizeRekey"));
    let authorize =
        ["seal", "rekey", "--rekey-id", "rk1", "--authorize", "--shares-dir", "new", "-o", "json"];
    let ran = place.run_with(&authorize, "correct horse").json();
    assert_eq!(ran["step"], "verify");
    assert_eq!(ran["shares"][1], json!({"id": 2, "recipient": "age12", "file": "new/share-2.age"}));
    let cancelled =
        place.run(&["seal", "rekey", "--rekey-id", "rk1", "--cancel", "-o", "json"]).json();
    assert_eq!(cancelled["step"], "cancelled");
    let asked: v1::CancelRekeyRequest = control_plane.asked("CancelRekey");
    assert_eq!(asked.rekey_id, "rk1");
}

#[test]
fn seal_rekey_to_a_passphrase_shows_it_back_from_where_it_came() {
    let now = v1::GetSealStatusResponse { provider: "key-file".into(), ..shamir(false, &[]) };
    let control_plane = ControlPlane::start()
        .answers("GetSealStatus", &[now])
        .answers("StartRekey", &[v1::StartRekeyResponse { rekey_id: "rk1".into(), needed: 1 }])
        .answers(
            "AuthorizeRekey",
            &[v1::AuthorizeRekeyResponse { authorized: true, ..Default::default() }],
        )
        .answers(
            "VerifyRekey",
            &[v1::VerifyRekeyResponse { complete: true, ..Default::default() }],
        );
    let place = Place::knowing(&control_plane);
    place.write("new", "battery staple\n");
    let rekey = ["seal", "rekey", "--seal", "passphrase", "--new-passphrase-file", "new"];
    let said = place.run(&rekey).ok();
    assert!(said.contains("The new seal is in force"), "{said}");
    let asked: v1::AuthorizeRekeyRequest = control_plane.asked("AuthorizeRekey");
    assert!(
        asked.passphrase.is_empty() && asked.share.is_empty(),
        "a key file authorises by itself"
    );
    let asked: v1::VerifyRekeyRequest = control_plane.asked("VerifyRekey");
    assert_eq!(asked.passphrase.as_ref(), b"battery staple");
}

#[test]
fn seal_rekey_goes_on_where_it_stopped() {
    let authorized = v1::AuthorizeRekeyResponse { authorized: true, ..Default::default() };
    let control_plane = ControlPlane::start()
        .answers("GetSealStatus", &[shamir(false, &[])])
        .answers("AuthorizeRekey", &[authorized]);
    let place = Place::knowing(&control_plane);
    let said = place.run(&["seal", "rekey", "--rekey-id", "rk1"]).ok();
    assert!(said.contains("Authorised") && said.contains("--rekey-id rk1 --verify"), "{said}");
    let asked: v1::AuthorizeRekeyRequest = control_plane.asked("AuthorizeRekey");
    assert!(asked.share.is_empty(), "nobody is asked for what was given already");
    assert!(!control_plane.was_asked("StartRekey"));
}

#[test]
fn seal_rekey_says_what_is_missing_before_anything_begins() {
    let control_plane = rekeying();
    let place = Place::knowing(&control_plane);
    let shares_to = |more: &[&'static str]| [&["seal", "rekey"][..], &TO_SHARES, more].concat();
    place.run(&["seal", "rekey"]).fails(2, &["--seal", "--rekey-id"]);
    place.run(&shares_to(&[])).fails(2, &["--shares-dir"]);
    place.write("taken/share-1.age", "another's");
    place.run(&shares_to(&["--shares-dir", "taken"])).fails(1, &["taken/share-1.age", "is there"]);
    assert_eq!(place.read("taken/share-1.age"), "another's");
    place
        .run(&["seal", "rekey", "--seal", "key-file", "--threshold", "2"])
        .fails(2, &["--threshold is of --seal shamir"]);
    let lone = ["seal", "rekey", "--seal", "shamir", "--threshold", "1", "--recipient", "age1x"];
    place
        .run(&[&lone[..], &["--shares-dir", "new"]].concat())
        .fails(2, &["1 of 1 shares cannot open a vault"]);
    let stranger = ["--recipient", "ssh-ed25519 AAAA", "--shares-dir", "new"];
    place.run(&shares_to(&stranger)).fails(2, &["ssh-ed25519", "age-keygen"]);
    assert!(!control_plane.was_asked("StartRekey"));
}
