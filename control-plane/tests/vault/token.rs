//! A vault whose wrapping key is in a PKCS#11 token: SoftHSM2, from Debian's `softhsm2`.
//!
//! SoftHSM reads its environment when it is loaded, once in a process, so each test runs in a process of its own.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_control_plane::cluster::{Barrier as _, Purpose};
use countersign_control_plane::vault::{
    NewSeal, Pin, Rekey, SealError, Token, TokenError, Unsealing, Vault,
};
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use crate::{again, edited, vault};

const DIRECTORY: &str = "COUNTERSIGN_TEST_SOFTHSM";
const DONE: &str = "child: done";
const PIN: &str = "7301-pin";

/// Runs `body` in a child of this test, which has SoftHSM with a token labelled "countersign" in the directory that
/// it is given.
fn with_softhsm(test: &str, body: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(DIRECTORY) {
        body(Path::new(&dir));
        println!("{DONE}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("softhsm2.conf");
    let tokens = dir.path().join("tokens");
    fs::create_dir(&tokens).unwrap();
    fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
        .unwrap();
    module();
    for label in ["countersign", "another"] {
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--so-pin", "so-7301", "--pin", PIN, "--label", label])
            .env("SOFTHSM2_CONF", &conf)
            .output()
            .unwrap_or_else(|e| panic!("softhsm2-util ({e}): {INSTALL}"));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("token::{test}"), "--nocapture", "--test-threads=1"])
        .env("SOFTHSM2_CONF", &conf)
        .env(DIRECTORY, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains(DONE),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

const INSTALL: &str =
    "SoftHSM2 is not here; `apt-get install softhsm2` installs it, and so does tests/run";

fn module() -> PathBuf {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    ];
    let found = places.iter().map(PathBuf::from).find(|place| place.exists());
    found.unwrap_or_else(|| panic!("no libsofthsm2.so in {places:?}: {INSTALL}"))
}

fn pin(text: &str) -> Pin {
    Pin::from_reader(text.as_bytes()).unwrap()
}

fn token() -> Token {
    Token {
        module: module(),
        token_label: "countersign".into(),
        key_label: "root-wrapping".into(),
        pin: pin(PIN),
    }
}

fn refusal(dir: &Path, token: Token) -> TokenError {
    match Vault::unseal(dir, &Unsealing::Token(token)).err() {
        Some(SealError::Token(error)) => error,
        other => panic!("{:?}", other.map(|error| error.to_string())),
    }
}

/// What somebody with the PIN can do beside the vault.
fn session() -> Session {
    let module = Pkcs11::new(module()).unwrap();
    let labelled = |slot: &_| module.get_token_info(*slot).unwrap().label().trim() == "countersign";
    let slot = module.get_slots_with_token().unwrap().into_iter().find(labelled).unwrap();
    let session = module.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::from(PIN))).unwrap();
    session
}

fn labelled(label: &str) -> [Attribute; 2] {
    [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label.into())]
}

#[test]
fn a_token_seals_and_unseals_with_a_key_that_cannot_leave_it() {
    with_softhsm("a_token_seals_and_unseals_with_a_key_that_cannot_leave_it", |dir| {
        let data = dir.join("data");
        let made = Vault::create(&data, NewSeal::Token(token()), 0).unwrap().vault;
        let sealed = made.seal(Purpose::Entry, b"entry");
        made.adopt(&made.rotate(1)).unwrap();
        drop(made);
        assert_eq!(Vault::parameters(&data).unwrap().provider, "pkcs11");
        let vault = Vault::unseal(&data, &Unsealing::Token(token())).unwrap();
        assert_eq!(vault.open(Purpose::Entry, &sealed).unwrap().as_slice(), b"entry");
        assert_eq!(vault.keyring_term().term, 2);

        let session = session();
        let keys = session.find_objects(&labelled("root-wrapping")).unwrap();
        assert_eq!(keys.len(), 1);
        let asked = [AttributeType::Extractable, AttributeType::Sensitive];
        let found = session.get_attributes(keys[0], &asked).unwrap();
        assert!(found.contains(&Attribute::Extractable(false)), "{found:?}");
        assert!(found.contains(&Attribute::Sensitive(true)), "{found:?}");
        let value = session.get_attributes(keys[0], &[AttributeType::Value]);
        assert!(value.is_err() || value.unwrap().is_empty(), "its value was read");
        let file = fs::read_to_string(data.join("seal.json")).unwrap();
        for hidden in [PIN, "libsofthsm2"] {
            assert!(!file.contains(hidden), "{hidden}");
        }
    });
}

#[test]
fn a_wrong_pin_unseals_nothing_and_the_right_one_does_after_it() {
    with_softhsm("a_wrong_pin_unseals_nothing_and_the_right_one_does_after_it", |dir| {
        let data = dir.join("data");
        drop(Vault::create(&data, NewSeal::Token(token()), 0).unwrap());
        for wrong in ["0000-pin", "1"] {
            let refused = refusal(&data, Token { pin: pin(wrong), ..token() });
            assert!(matches!(refused, TokenError::WrongPin(_)), "{refused}");
        }
        let open = Vault::unseal(&data, &Unsealing::Token(token())).unwrap();
        // Not even while somebody else has the vault open.
        let refused = refusal(&data, Token { pin: pin("0000-pin"), ..token() });
        assert!(matches!(refused, TokenError::WrongPin(_)), "{refused}");
        drop(open);
    });
}

#[test]
fn a_missing_token_key_or_module_is_named() {
    with_softhsm("a_missing_token_key_or_module_is_named", |dir| {
        let data = dir.join("data");
        let create = |token| match Vault::create(&data, NewSeal::Token(token), 0).err() {
            Some(SealError::Token(error)) => error,
            other => panic!("{:?}", other.map(|error| error.to_string())),
        };
        let refused = create(Token { token_label: "missing".into(), ..token() });
        assert!(matches!(refused, TokenError::TokenMissing { .. }));
        let said = refused.to_string();
        assert!(said.contains("\"missing\"") && said.contains("\"countersign\""), "{said}");
        let refused = create(Token { module: dir.join("none.so"), ..token() });
        assert!(matches!(refused, TokenError::Module { .. }), "{refused}");
        let refused = create(Token { module: "libsofthsm2.so".into(), ..token() });
        assert!(matches!(refused, TokenError::Module { .. }), "{refused}");
        assert!(!Vault::exists(&data));

        drop(Vault::create(&data, NewSeal::Token(token()), 0).unwrap());
        let refused = refusal(&data, Token { token_label: "another".into(), ..token() });
        assert!(matches!(refused, TokenError::WrongLabels { .. }), "{refused}");
        let refused = refusal(&data, Token { key_label: "another".into(), ..token() });
        assert!(matches!(refused, TokenError::WrongLabels { .. }), "{refused}");

        let session = session();
        let key = session.find_objects(&labelled("root-wrapping")).unwrap()[0];
        session.destroy_object(key).unwrap();
        drop(session);
        let refused = refusal(&data, token());
        assert!(matches!(refused, TokenError::KeyMissing { .. }), "{refused}");
    });
}

#[test]
fn another_key_under_the_same_label_opens_nothing() {
    with_softhsm("another_key_under_the_same_label_opens_nothing", |dir| {
        let (data, other) = (dir.join("data"), dir.join("other"));
        drop(Vault::create(&data, NewSeal::Token(token()), 0).unwrap());
        let here = session();
        here.destroy_object(here.find_objects(&labelled("root-wrapping")).unwrap()[0]).unwrap();
        here.logout().unwrap();
        drop(here);
        drop(Vault::create(&other, NewSeal::Token(token()), 0).unwrap());
        let refused = refusal(&data, token());
        assert!(matches!(refused, TokenError::WrongKey { .. }), "{refused}");
    });
}

#[test]
fn a_key_that_can_be_read_out_or_is_of_another_kind_seals_nothing() {
    with_softhsm("a_key_that_can_be_read_out_or_is_of_another_kind_seals_nothing", |dir| {
        // The vault loads the module before anybody else does.
        drop(Vault::create(&dir.join("first"), NewSeal::Token(token()), 0).unwrap());
        let make = |label: &str, bytes: u64, extractable| {
            let template = [
                Attribute::Token(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(extractable),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::ValueLen(bytes.into()),
                Attribute::Label(label.into()),
            ];
            let session = session();
            session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
            session.logout().unwrap();
        };
        make("open", 32, true);
        make("short", 16, false);
        make("twice", 32, false);
        make("twice", 32, false);
        make("fit", 32, false);
        let create = |key: &str| {
            let token = Token { key_label: key.into(), ..token() };
            Vault::create(&dir.join(key), NewSeal::Token(token), 0)
        };
        let refused = |key| match create(key).err() {
            Some(SealError::Token(error)) => error,
            other => panic!("{:?}", other.map(|error| error.to_string())),
        };
        assert!(matches!(refused("open"), TokenError::KeyUnfit { what: "can be read out", .. }));
        assert!(matches!(refused("short"), TokenError::KeyUnfit { .. }));
        assert!(matches!(refused("twice"), TokenError::KeyAmbiguous(2, _, _)));
        assert!(create("fit").is_ok(), "a key that was made for it is taken");
    });
}

#[test]
fn a_changed_seal_file_does_not_open_with_the_token() {
    with_softhsm("a_changed_seal_file_does_not_open_with_the_token", |dir| {
        let data = dir.join("data");
        drop(Vault::create(&data, NewSeal::Token(token()), 0).unwrap());
        let path = data.join("seal.json");
        let file = fs::read(&path).unwrap();
        let root = crate::field(&file, "root");
        let flipped = format!("{}{}", if root.starts_with('0') { '1' } else { '0' }, &root[1..]);
        for changed in [flipped, root[..20].to_owned(), String::new()] {
            fs::write(&path, edited(&file, |text| text.replace(&root, &changed))).unwrap();
            let refused = refusal(&data, token());
            assert!(matches!(refused, TokenError::WrongKey { .. }), "{refused}");
        }
        fs::write(&path, &file).unwrap();
        assert!(Vault::unseal(&data, &Unsealing::Token(token())).is_ok());
    });
}

#[test]
fn a_token_takes_the_place_of_a_key_file() {
    with_softhsm("a_token_takes_the_place_of_a_key_file", |dir| {
        let data = dir.join("data");
        let vault = vault(&data);
        let sealed = vault.seal(Purpose::Entry, b"entry");
        let authority = vault.authority(&Unsealing::KeyFile(data.join("seal.key"))).unwrap();
        let rekey = Rekey::start(&vault, authority, NewSeal::Token(token())).unwrap();
        let wrong = Unsealing::Token(Token { pin: pin("0000-pin"), ..token() });
        assert!(rekey.verify(&vault, &wrong).is_err());
        let verified = rekey.verify(&vault, &Unsealing::Token(token())).unwrap();
        assert!(again(&data).open(Purpose::Entry, &sealed).is_ok(), "the key file until then");
        vault.adopt(&verified.finish(&vault).unwrap()).unwrap();
        drop(vault);
        let vault = Vault::unseal(&data, &Unsealing::Token(token())).unwrap();
        assert_eq!(vault.open(Purpose::Entry, &sealed).unwrap().as_slice(), b"entry");
    });
}

#[test]
fn a_pin_comes_from_a_file_of_its_owner_or_a_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pin");
    let write = |text: &[u8], mode| {
        fs::File::create(&path).unwrap().write_all(text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Pin::from_file(&path)
    };
    assert!(write(b"1234\n", 0o600).is_ok());
    assert!(write(b"1234", 0o400).is_ok());
    for mode in [0o640, 0o604, 0o644] {
        let error = write(b"1234", mode).err().expect("others can read it");
        assert!(error.to_string().contains("can be read by others"), "{error}");
    }
    for text in [&b""[..], b"\n1234", &[0xff; 4], &[b'1'; 257], &[b'1'; 1000]] {
        let error = write(text, 0o600).err().expect("it is no PIN");
        assert!(!error.to_string().contains("1234"), "{error}");
        assert!(Pin::from_reader(text).is_err());
    }
    assert!(Pin::from_file(&dir.path().join("none")).is_err());
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"1234\n").unwrap();
    drop(writer);
    assert!(Pin::from_reader(reader).is_ok());
}
