//! The binary from its command line.

use std::process::Command;

use countersign_edge_gateway::config::Config;

fn edge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign-edge-gateway"));
    command.env_clear();
    command
}

#[test]
fn every_mistake_of_a_configuration_is_said_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("edge.toml");
    let text = "listen = \"nowhere\"\n[identity]\nname = \"edge-1\"\nkey_file = \"/does/not/exist\"\n\
                [control_plane]\nroot_key = \"abc\"\n[upstream]\nconnect_to = [\"nonsense\"]\n\
                allow_private = [\"10.0.0.0/99\"]\n";
    std::fs::write(&file, text).expect("written");
    let output = edge()
        .arg(&file)
        .env("COUNTERSIGN_EDGE_LIMITS_MAX_HELD_BODY", "many")
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    for key in [
        "listen:",
        "identity.certificate_file:",
        "identity.key_file:",
        "control_plane.addresses:",
        "control_plane.ca_file:",
        "control_plane.root_key:",
        "upstream.connect_to:",
        "upstream.allow_private:",
        "COUNTERSIGN_EDGE_LIMITS_MAX_HELD_BODY:",
    ] {
        assert!(said.contains(key), "{key} is not in: {said}");
    }
}

#[test]
fn a_key_that_the_file_does_not_know_is_a_mistake() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("edge.toml");
    std::fs::write(&file, "lisen = \"127.0.0.1:0\"\n").expect("written");
    let Err(mistakes) = Config::read(Some(&file), |_| None) else { panic!("it is refused") };
    assert!(mistakes.to_string().contains("lisen"), "{mistakes}");
}

#[test]
fn variables_win_over_the_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(["edge".to_owned()])
        .expect("a name")
        .self_signed(&key)
        .expect("a certificate");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let certificate = file("edge.pem", &certificate.pem());
    let key = file("edge.key", &key.serialize_pem());
    let config = format!(
        "listen = \"127.0.0.1:1\"\n[identity]\nname = \"a\"\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n\
         [control_plane]\naddresses = [\"control.test:7443\"]\nca_file = \"{certificate}\"\nroot_key = \"{}\"\n",
        "ab".repeat(32)
    );
    let path = file("edge.toml", &config);
    let variable =
        |name: &str| (name == "COUNTERSIGN_EDGE_LISTEN").then(|| "127.0.0.1:2".to_owned());
    let Ok(config) = Config::read(Some(path.as_ref()), variable) else { panic!("it is accepted") };
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.gateway.server_name, None);
    assert!(config.gateway.passthrough_when_disconnected);
    assert_eq!(config.gateway.root_key, [0xab; 32]);
    assert_eq!(config.limits.max_held_per_agent, 16);
}

#[test]
fn the_sample_is_accepted_and_its_defaults_are_the_defaults() {
    let sample =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/edge-gateway.toml");
    let Err(mistakes) = Config::read(Some(&sample), |_| None) else {
        panic!("its files are not here")
    };
    let missing_file = |mistake: &String| mistake.contains("/etc/countersign/");
    assert!(mistakes.0.iter().all(missing_file), "{mistakes}");

    let dir = tempfile::tempdir().expect("a folder");
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["edge".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let pem = dir.path().join("both.pem");
    std::fs::write(&pem, certificate.pem() + &key.serialize_pem()).expect("written");
    let variable = |name: &str| {
        let file = name.ends_with("_CERTIFICATE_FILE")
            || name.ends_with("_KEY_FILE")
            || name.ends_with("PLANE_CA_FILE");
        file.then(|| pem.display().to_string())
    };
    let config =
        Config::read(Some(&sample), variable).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.limits, countersign_edge_gateway::config::Limits::default());
    let timeout = config.upstream.response_header_timeout;
    assert_eq!(timeout, countersign_edge_gateway::config::RESPONSE_HEADER_TIMEOUT);
}
