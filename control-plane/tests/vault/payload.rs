//! Secrets and the records they belong to.

use std::collections::BTreeMap;

use countersign_control_plane::state::{
    ClientAuth, Credential, Fake, Mint, Minting, OAuthGrant, Payload, ReleaseClass,
};
use countersign_control_plane::vault::{Binding, SealError, Vault};

use crate::vault;

const CLUSTER: &str = "c1";

fn stripe() -> Binding {
    Binding::credential(
        CLUSTER,
        "cred-1",
        1,
        "api.stripe.com",
        443,
        "header:authorization",
        "Bearer {key}",
        ReleaseClass::Auto,
    )
}

fn refuses(vault: &Vault, binding: &Binding, payload: &Payload) -> bool {
    matches!(vault.open_payload(binding, payload), Err(SealError::Tampered))
}

#[test]
fn a_secret_opens_under_its_own_record() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let payload = vault.seal_payload(&stripe(), b"sk_live_1");
    assert_eq!(vault.open_payload(&stripe(), &payload).unwrap().as_slice(), b"sk_live_1");
    let empty = vault.seal_payload(&stripe(), b"");
    assert_eq!(vault.open_payload(&stripe(), &empty).unwrap().as_slice(), b"");
}

#[test]
fn s_disk_swap_ciphertexts_of_two_records_do_not_open_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let github = Binding::credential(
        CLUSTER,
        "cred-2",
        1,
        "api.github.com",
        443,
        "header:authorization",
        "Bearer {key}",
        ReleaseClass::Auto,
    );
    let (one, other) =
        (vault.seal_payload(&stripe(), b"sk_live_1"), vault.seal_payload(&github, b"ghp_2"));
    assert!(refuses(&vault, &github, &one));
    assert!(refuses(&vault, &stripe(), &other));

    // Nor does half of one under the data key of the other.
    let (Payload::Sealed { wrapped_key, .. }, Payload::Sealed { keyring_term, ciphertext, .. }) =
        (one, other);
    let mixed = Payload::Sealed { keyring_term, wrapped_key, ciphertext };
    assert!(refuses(&vault, &stripe(), &mixed));
    assert!(refuses(&vault, &github, &mixed));
}

#[test]
fn s_disk_swap_an_edited_record_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let payload = vault.seal_payload(&stripe(), b"sk_live_1");
    let (header, template) = ("header:authorization", "Bearer {key}");
    let auto = ReleaseClass::Auto;
    let edited = [
        (
            "cluster",
            Binding::credential("c2", "cred-1", 1, "api.stripe.com", 443, header, template, auto),
        ),
        (
            "id",
            Binding::credential(
                CLUSTER,
                "cred-2",
                1,
                "api.stripe.com",
                443,
                header,
                template,
                auto,
            ),
        ),
        (
            "version",
            Binding::credential(
                CLUSTER,
                "cred-1",
                2,
                "api.stripe.com",
                443,
                header,
                template,
                auto,
            ),
        ),
        (
            "host",
            Binding::credential(
                CLUSTER,
                "cred-1",
                1,
                "api.attacker.example",
                443,
                header,
                template,
                auto,
            ),
        ),
        (
            "port",
            Binding::credential(
                CLUSTER,
                "cred-1",
                1,
                "api.stripe.com",
                444,
                header,
                template,
                auto,
            ),
        ),
        (
            "slot",
            Binding::credential(
                CLUSTER,
                "cred-1",
                1,
                "api.stripe.com",
                443,
                "header:x-api-key",
                template,
                auto,
            ),
        ),
        (
            "template",
            Binding::credential(CLUSTER, "cred-1", 1, "api.stripe.com", 443, header, "{key}", auto),
        ),
        (
            "class",
            Binding::credential(
                CLUSTER,
                "cred-1",
                1,
                "api.stripe.com",
                443,
                header,
                template,
                ReleaseClass::Lease,
            ),
        ),
        ("kind", Binding::key(CLUSTER, "credential", "cred-1")),
        (
            "shifted",
            Binding::credential(
                CLUSTER,
                "cred-1",
                1,
                "api.stripe.com",
                443,
                "header:authorizationBearer ",
                "{key}",
                auto,
            ),
        ),
    ];
    for (field, binding) in edited {
        assert!(refuses(&vault, &binding, &payload), "{field}");
    }
}

#[test]
fn a_payload_with_any_one_bit_changed_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let Payload::Sealed { keyring_term, wrapped_key, ciphertext } =
        vault.seal_payload(&stripe(), b"sk_live_1");
    let with = |wrapped_key: &[u8], ciphertext: &[u8]| Payload::Sealed {
        keyring_term,
        wrapped_key: wrapped_key.to_vec(),
        ciphertext: ciphertext.to_vec(),
    };
    for bit in 0..wrapped_key.len() * 8 {
        let mut changed = wrapped_key.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(
            refuses(&vault, &stripe(), &with(&changed, &ciphertext)),
            "bit {bit} of the data key"
        );
    }
    for bit in 0..ciphertext.len() * 8 {
        let mut changed = ciphertext.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(
            refuses(&vault, &stripe(), &with(&wrapped_key, &changed)),
            "bit {bit} of the secret"
        );
    }
    let unknown = Payload::Sealed { keyring_term: 9, wrapped_key, ciphertext };
    assert!(matches!(vault.open_payload(&stripe(), &unknown), Err(SealError::UnknownTerm(9))));
}

#[test]
fn another_vault_opens_nothing() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let payload = vault(here.path()).seal_payload(&stripe(), b"sk_live_1");
    assert!(refuses(&vault(there.path()), &stripe(), &payload));
}

fn minted(token_url: &str) -> Credential {
    Credential {
        id: "cred-1".into(),
        name: "stripe".into(),
        version: 1,
        host: "api.stripe.com".into(),
        port: 443,
        slot: "header:authorization".into(),
        template: "Bearer {key}".into(),
        class: ReleaseClass::Auto,
        fakes: vec![Fake { key: "fake".into(), active: true }],
        payload: Payload::Sealed {
            keyring_term: 0,
            wrapped_key: Vec::new(),
            ciphertext: Vec::new(),
        },
        active: true,
        created_at: 0,
        acts_as: None,
        mint: Some(Mint::OAuth {
            grant: OAuthGrant::RefreshToken,
            token_url: token_url.into(),
            client_id: "client".into(),
            client_auth: ClientAuth::Basic,
            scopes: Vec::new(),
            parameters: BTreeMap::new(),
        }),
        minting: Minting::default(),
    }
}

#[test]
fn s_disk_swap_a_secret_that_tokens_are_minted_with_opens_for_its_own_issuer_alone() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let own = minted("https://auth.stripe.com/token");
    let payload = vault.seal_payload(&Binding::of_credential(CLUSTER, &own), b"refresh");
    assert!(vault.open_payload(&Binding::of_credential(CLUSTER, &own), &payload).is_ok());
    let evil = minted("https://evil.example.com/token");
    assert!(refuses(&vault, &Binding::of_credential(CLUSTER, &evil), &payload));
    let handed_out = Credential { mint: None, ..own };
    assert!(refuses(&vault, &Binding::of_credential(CLUSTER, &handed_out), &payload));
    assert!(refuses(&vault, &stripe(), &payload));
    // What was stored before there was minting is bound as it was.
    let before = vault.seal_payload(&stripe(), b"key");
    assert!(vault.open_payload(&Binding::of_credential(CLUSTER, &handed_out), &before).is_ok());
}

#[test]
fn s_disk_swap_a_token_counts_until_it_says_and_for_whom_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(dir.path());
    let own = minted("https://auth.stripe.com/token");
    let bind = |ends, release| Binding::of_token(CLUSTER, &own, ends, release);
    let (one, other) = ([1; 16], [2; 16]);
    let shared = vault.seal_payload(&bind(1_000, None), b"token");
    assert!(vault.open_payload(&bind(1_000, None), &shared).is_ok());
    assert!(refuses(&vault, &bind(1_001, None), &shared));
    assert!(refuses(&vault, &bind(1_000, Some(&one)), &shared));
    assert!(refuses(&vault, &Binding::of_credential(CLUSTER, &own), &shared));
    let fresh = vault.seal_payload(&bind(1_000, Some(&one)), b"token");
    assert!(vault.open_payload(&bind(1_000, Some(&one)), &fresh).is_ok());
    assert!(refuses(&vault, &bind(1_000, Some(&other)), &fresh));
}
