//! Starting, and every reason not to.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use countersign_control_plane::config::{Config, VARIABLES};
use countersign_control_plane::node::{ControlPlane, SealConfig};
use countersign_proto::v1::{UnsealRequest, WhoAmIRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{World, config};

async fn refusal(config: Config) -> String {
    match ControlPlane::start(config).await {
        Ok(_) => panic!("it started"),
        Err(error) => format!("{error:#}"),
    }
}

fn with_key_file(folder: &Path) -> Config {
    config(&folder.join("data"), SealConfig::KeyFile(folder.join("key")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_on_disk_are_for_their_owner_alone() {
    let world = World::start().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.data_dir().join("admin-token")), 0o600);
    assert_eq!(mode(&world.folder.path().join("key")), 0o600);
    assert_eq!(mode(&world.data_dir().join("trust-root.key")), 0o600);
    assert_eq!(mode(&world.data_dir().join("tls").join("server.key")), 0o600);
    assert_eq!(mode(&world.data_dir().join("tls")), 0o700);
    assert_eq!(mode(&world.data_dir().join("seal.json")), 0o600);
    assert_eq!(mode(&world.data_dir()), 0o700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_in_use_is_left_alone() {
    let world = World::start().await;
    let why = refusal(with_key_file(world.folder.path())).await;
    assert!(why.contains("already in use"), "{why}");
    world.admin().await.who_am_i(WhoAmIRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named_and_nothing_is_made() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for key in ["api.listen", "gateway.listen", "web.listen"] {
        let mut config = with_key_file(folder.path());
        let address = taken.local_addr().unwrap();
        match key {
            "api.listen" => config.api_listen = address,
            "gateway.listen" => config.gateway_listen = address,
            _ => config.web_listen = Some(address),
        }
        let why = refusal(config).await;
        assert!(why.contains(key) && why.contains(&address.to_string()), "{why}");
        assert!(!folder.path().join("data").join("seal.json").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_is_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data"), "not a folder").unwrap();
    let why = refusal(with_key_file(folder.path())).await;
    assert!(why.contains("data"), "{why}");
    assert_eq!(fs::read(folder.path().join("data")).unwrap(), b"not a folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_key_file_opens_nothing_and_changes_nothing() {
    let world = World::start().await;
    let folder = world.folder;
    world.node.shutdown().await;
    let key = fs::read(folder.path().join("key")).unwrap();
    let sealed = fs::read(folder.path().join("data/seal.json")).unwrap();

    fs::write(folder.path().join("key"), "ab".repeat(32)).unwrap();
    let why = refusal(with_key_file(folder.path())).await;
    assert!(why.contains("not the one"), "{why}");
    fs::write(folder.path().join("key"), "nonsense").unwrap();
    assert!(refusal(with_key_file(folder.path())).await.contains("64 hexadecimal digits"));
    fs::remove_file(folder.path().join("key")).unwrap();
    assert!(refusal(with_key_file(folder.path())).await.contains("not there"));
    assert!(!folder.path().join("key").exists(), "a key file that opens nothing is not made");
    fs::write(folder.path().join("key"), &key).unwrap();
    fs::set_permissions(folder.path().join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refusal(with_key_file(folder.path())).await.contains("chmod 600"));
    fs::set_permissions(folder.path().join("key"), fs::Permissions::from_mode(0o600)).unwrap();

    let other = config(&folder.path().join("data"), SealConfig::Passphrase);
    assert!(refusal(other).await.contains("key file"));
    assert_eq!(fs::read(folder.path().join("data/seal.json")).unwrap(), sealed);
    ControlPlane::start(with_key_file(folder.path())).await.unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_its_vault_is_not_begun_anew() {
    let world = World::start().await;
    let folder = world.folder;
    world.node.shutdown().await;
    fs::remove_file(folder.path().join("data/seal.json")).unwrap();
    let why = refusal(with_key_file(folder.path())).await;
    assert!(why.contains("seal.json"), "{why}");
    assert!(!folder.path().join("data/seal.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_are_refused_and_kept() {
    let world = World::start().await;
    let folder = world.folder;
    world.node.shutdown().await;
    for file in ["seal.json", "api-ca.pem", "tls/server.pem", "tls/server.key"] {
        let path = folder.path().join("data").join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let why = refusal(with_key_file(folder.path())).await;
        assert!(why.contains("damaged"), "{file}: {why}");
        assert_eq!(fs::read(&path).unwrap(), &whole[..whole.len() / 2], "{file} is as it was");
        fs::write(&path, whole).unwrap();
    }
    ControlPlane::start(with_key_file(folder.path())).await.unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_ca_s_key_is_on_disk_until_the_cluster_has_begun_and_then_in_the_vault() {
    let world = World::start_sealed().await;
    let key = world.data_dir().join("tls/api-ca.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let ca = fs::read(world.node.api_ca_path()).unwrap();
    let secret = fs::read_to_string(&key).unwrap();
    let unseal = UnsealRequest { passphrase: "correct horse".into(), ..Default::default() };
    world.client("").await.unseal(unseal).await.unwrap();
    assert!(!key.exists());
    world.admin().await.who_am_i(WhoAmIRequest {}).await.unwrap();

    // A first start that was cut short between the two leaves it: the next one takes it away.
    let world = world.restart(|_| SealConfig::Passphrase).await;
    fs::write(&key, &secret).unwrap();
    let world = world.restart(|_| SealConfig::Passphrase).await;
    let unseal = UnsealRequest { passphrase: "correct horse".into(), ..Default::default() };
    world.client("").await.unseal(unseal).await.unwrap();
    assert!(!key.exists());
    assert_eq!(fs::read(world.node.api_ca_path()).unwrap(), ca);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_anything_to_show_says_so() {
    let world = World::start().await;
    let folder = world.folder;
    world.node.shutdown().await;
    fs::remove_file(folder.path().join("data/tls/server.pem")).unwrap();
    let why = refusal(with_key_file(folder.path())).await;
    assert!(why.contains("server.pem is gone"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_web_listener_says_whether_it_is_ready_and_how_it_does() {
    let world = World::start().await;
    assert!(get(&world, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&world, "/readyz").await.starts_with("HTTP/1.1 200"));
    world.admin().await.who_am_i(WhoAmIRequest {}).await.unwrap();
    let metrics = get(&world, "/metrics").await;
    for line in [
        "countersign_sealed 0",
        "countersign_leader 1",
        "# HELP countersign_applied_index",
        "countersign_api_calls_total{code=\"0\",method=\"countersign.v1.AdminService/WhoAmI\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    world.admin().await.seal(countersign_proto::v1::SealRequest {}).await.unwrap();
    assert!(get(&world, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&world, "/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(get(&world, "/metrics").await.contains("countersign_sealed 1"));
}

#[test]
fn every_mistake_in_a_configuration_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    let text = "data_dir = 7\nport = 1\n[api]\nlisten = \"localhost\"\nserver_names = [\"a\", 3]\n[seal]\nprovider = \"magic\"\n";
    fs::write(&file, text).unwrap();
    let variables = [
        ("COUNTERSIGN_WEB_LISTEN".to_owned(), "nowhere".to_owned()),
        ("COUNTERSIGN_TOKEN".to_owned(), "x".to_owned()),
    ];
    let mistakes = Config::load(Some(&file), variables).unwrap_err();
    for key in [
        "`data_dir`",
        "`port`",
        "`api.listen`",
        "`api.server_names`",
        "`web.listen`",
        "`seal.provider`",
    ] {
        assert!(mistakes.sentences().iter().any(|s| s.contains(key)), "{key}: {mistakes}");
    }
    assert_eq!(mistakes.sentences().len(), 6, "{mistakes}");
    assert!(
        Config::load(Some(&folder.path().join("none.toml")), [])
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
    fs::write(&file, "data_dir = \n").unwrap();
    assert!(Config::load(Some(&file), []).unwrap_err().to_string().contains("node.toml:1"));
}

/// What is said about a configuration of these lines.
fn said_about(lines: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    fs::write(&file, lines).unwrap();
    let mistakes = Config::load(Some(&file), []).err();
    mistakes.map(|mistakes| mistakes.sentences().to_vec()).unwrap_or_default()
}

#[test]
fn keys_that_make_no_sense_together_are_named_at_once() {
    let join =
        "join = \"https://cp.example:8443\"\njoin_token_file = \"/t\"\njoin_ca_file = \"/c\"\n";
    for (lines, named) in [
        (
            "[cluster]\njoin = \"https://cp.example:8443\"",
            &["join_token_file", "join_ca_file", "`cluster.name`", "`cluster.listen`"][..],
        ),
        (
            "[cluster]\njoin = \"http://cp.example\"",
            &[
                "must be https://",
                "join_token_file",
                "join_ca_file",
                "`cluster.name`",
                "`cluster.listen`",
            ],
        ),
        ("[cluster]\njoin_token_file = \"/t\"", &["does nothing without cluster.join"]),
        (
            &format!(
                "[cluster]\nlisten = \"127.0.0.1:1\"\nname = \"b\"\nbegin = \"manual\"\n{join}"
            ),
            &["`cluster.begin`"],
        ),
        ("[cluster]\nbegin = \"later\"", &["\"auto\" or \"manual\""]),
        ("[cluster]\nadvertise = \"n1.example:8446\"", &["does nothing without cluster.listen"]),
        ("[cluster]\nlisten = \"127.0.0.1:1\"\nadvertise = \"n1.example\"", &["must be HOST:PORT"]),
        (
            "[cluster]\nlisten = \"0.0.0.0:8446\"\n[api]\nlisten = \"[::]:8443\"\n[gateway]\nlisten = \"0.0.0.0:8444\"",
            &["`cluster.advertise`", "`api.advertise`", "`gateway.advertise`"],
        ),
        ("[cluster]\nelection_ms = 300\nheartbeat_ms = 150", &["three times"]),
        ("[cluster]\nheartbeat_ms = \"soon\"", &["number of milliseconds"]),
        ("[cluster]\nsnapshot_every = 9", &["must be at least 10"]),
        ("[cluster]\nname = \"a b\"", &["`cluster.name`"]),
        (
            "[seal]\nprovider = \"pkcs11\"\npkcs11_module = \"/m\"",
            &["pkcs11_token_label", "pkcs11_key_label", "pkcs11_pin_file"],
        ),
        (
            "[seal]\nprovider = \"shamir\"\nkey_file = \"/k\"\npassphrase_fd = 3",
            &["`seal.key_file`", "`seal.passphrase_fd`"],
        ),
    ] {
        let said = said_about(lines);
        assert_eq!(said.len(), named.len(), "{lines}: {said:?}");
        for (said, named) in said.iter().zip(named) {
            assert!(said.contains(named), "{lines}: {named} in {said}");
        }
    }
    let whole = format!(
        "[cluster]\nlisten = \"127.0.0.1:1\"\nname = \"b\"\n{join}[seal]\nprovider = \"shamir\""
    );
    assert_eq!(said_about(&whole), [""; 0]);
}

#[test]
fn variables_win_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    fs::write(&file, "org = \"acme\"\n[api]\nlisten = \"127.0.0.1:1\"\n[seal]\nprovider = \"key-file\"\nkey_file = \"/k\"\n").unwrap();
    let variables = [
        ("COUNTERSIGN_API_LISTEN", "127.0.0.1:2"),
        ("COUNTERSIGN_SERVER_NAMES", "cp.example, 10.0.0.1"),
    ];
    let config =
        Config::load(Some(&file), variables.map(|(k, v)| (k.to_owned(), v.to_owned()))).unwrap();
    assert_eq!(config.api_listen, "127.0.0.1:2".parse().unwrap());
    assert_eq!(config.server_names, ["cp.example", "10.0.0.1"]);
    assert_eq!(config.org_id, "acme");
    assert_eq!(config.seal, SealConfig::KeyFile("/k".into()));
}

#[test]
fn the_sample_configuration_is_one() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/control-plane.toml");
    let config = Config::load(Some(&sample), []).unwrap();
    assert_eq!(config.seal, SealConfig::Passphrase);
    assert_eq!(config.web_listen, Some("127.0.0.1:8445".parse().unwrap()));
    // It is the manual: what is commented out is there too.
    let text = fs::read_to_string(&sample).unwrap();
    for (key, variable) in VARIABLES {
        let name = key.rsplit('.').next().unwrap();
        assert!(
            text.lines()
                .any(|line| line.trim_start_matches("# ").starts_with(&format!("{name} = "))),
            "{key}"
        );
        assert!(text.contains(variable), "{variable}");
    }
}

/// One GET on the web listener: the whole answer.
pub(crate) async fn get(world: &World, path: &str) -> String {
    get_from(&world.node, path).await
}

pub(crate) async fn get_from(node: &ControlPlane, path: &str) -> String {
    let mut tcp = tokio::net::TcpStream::connect(node.web_addr().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    answer
}
