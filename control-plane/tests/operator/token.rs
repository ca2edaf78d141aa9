//! A node that opens itself with a key in a PKCS#11 token: SoftHSM2, from Debian's `softhsm2`.
//!
//! SoftHSM reads its environment when it is loaded, once in a process, so the test runs in a process of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_control_plane::config::Pkcs11Config;
use countersign_control_plane::node::{Config, ControlPlane, SealConfig};
use countersign_proto::v1;
use countersign_proto::v1::seal_parameters::Provider;
use tonic::Code;

use crate::town::{agent, refusal};
use crate::world::{World, config};

const DIRECTORY: &str = "COUNTERSIGN_TEST_SOFTHSM";
const DONE: &str = "child: done";
const PIN: &str = "7301-pin";
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

#[test]
fn a_node_opens_itself_with_its_token_and_with_no_other_pin() {
    if let Some(dir) = std::env::var_os(DIRECTORY) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(live(Path::new(&dir)));
        println!("{DONE}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (conf, tokens) = (dir.path().join("softhsm2.conf"), dir.path().join("tokens"));
    fs::create_dir(&tokens).unwrap();
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    fs::write(&conf, text).unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--so-pin", "so-7301", "--pin", PIN])
        .args(["--label", "countersign"])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .unwrap_or_else(|e| panic!("softhsm2-util ({e}): {INSTALL}"));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "token::a_node_opens_itself_with_its_token_and_with_no_other_pin"])
        .args(["--nocapture", "--test-threads=1"])
        .env("SOFTHSM2_CONF", &conf)
        .env(DIRECTORY, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let complained = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains(DONE), "{said}{complained}");
}

async fn live(dir: &Path) {
    let pin_file = |name: &str, pin: &str| {
        let path = dir.join(name);
        fs::write(&path, pin).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    };
    let with_pin = |pin_file| {
        SealConfig::Pkcs11(Pkcs11Config {
            module: module(),
            token_label: "countersign".into(),
            key_label: "root-wrapping".into(),
            pin_file,
        })
    };
    let (right, wrong) = (pin_file("pin", PIN), pin_file("wrong", "0000-pin"));
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let started = |seal| ControlPlane::start(config(&data_dir, seal));
    let node = started(with_pin(right.clone())).await.unwrap();
    let world = World { node, folder: tempfile::tempdir().unwrap() };
    let token = world.admin_token();
    world.client(&token).await.create_agent(agent("bot")).await.unwrap();

    // Somebody sealed it: it takes an administrator.
    world.client(&token).await.seal(v1::SealRequest {}).await.unwrap();
    let nobody = world.client("").await.unseal(v1::UnsealRequest::default()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let open = world.client(&token).await.unseal(v1::UnsealRequest::default()).await.unwrap();
    assert!(!open.into_inner().sealed);
    world.node.shutdown().await;

    let refused: Config = config(&data_dir, with_pin(wrong));
    assert!(refusal(refused).await.contains("wrong PIN"));
    assert!(refusal(config(&data_dir, SealConfig::Shamir)).await.contains("PKCS#11"));

    // It opens itself, and can be given another seal.
    let node = started(with_pin(right)).await.unwrap();
    let world = World { node, folder: tempfile::tempdir().unwrap() };
    let mut admin = world.client(&token).await;
    let status = admin.get_seal_status(v1::GetSealStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.sealed, status.provider.as_str()), (false, "pkcs11"));
    let passphrase = v1::PassphraseSeal { passphrase: "correct horse".into() };
    let to = v1::SealParameters { provider: Some(Provider::Passphrase(passphrase)) };
    let start = v1::StartRekeyRequest { to: Some(to), ..Default::default() };
    let rekey_id = admin.start_rekey(start).await.unwrap().into_inner().rekey_id;
    let authorize = v1::AuthorizeRekeyRequest { rekey_id: rekey_id.clone(), ..Default::default() };
    assert!(admin.authorize_rekey(authorize).await.unwrap().into_inner().authorized);
    let passphrase = "correct horse".into();
    let back = v1::VerifyRekeyRequest { rekey_id, passphrase, ..Default::default() };
    assert!(admin.verify_rekey(back).await.unwrap().into_inner().complete);
    world.node.shutdown().await;
    let node = started(SealConfig::Passphrase).await.unwrap();
    let world = World { node, folder: tempfile::tempdir().unwrap() };
    let open = v1::UnsealRequest { passphrase: "correct horse".into(), ..Default::default() };
    assert!(!world.client("").await.unseal(open).await.unwrap().into_inner().sealed);
    world.node.shutdown().await;
}
