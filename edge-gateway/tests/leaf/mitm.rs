//! N-1, N-3, N-18, N-19: the agent's side of TLS.

use std::net::IpAddr;
use std::sync::Arc;

use countersign_edge_gateway::mitm::{Authority, NotIntercepted};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{EchConfig, EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, EchConfigListBytes, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::support::https;

fn trusting(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

async fn shake(
    authority: &Authority,
    config: ClientConfig,
    asks: &str,
    tunnel: &str,
) -> (std::io::Result<TlsStream<DuplexStream>>, Result<Option<Vec<u8>>, NotIntercepted>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(asks.to_owned()).unwrap();
    let client = TlsConnector::from(Arc::new(config));
    let tunnel = https(tunnel);
    let (client, server) = tokio::join!(client.connect(name, near), authority.accept(far, &tunnel));
    (client, server.map(|stream| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)))
}

#[tokio::test]
async fn an_agent_that_trusts_the_authority_accepts_the_leaf() {
    let authority = Authority::generate("edge-1").unwrap();
    let (client, server) =
        shake(&authority, trusting(&authority), "api.example.com", "api.example.com:8443").await;
    client.unwrap();
    server.unwrap();
    assert_eq!(authority.minted(), 1);
}

#[tokio::test]
async fn an_address_literal_gets_a_leaf_for_the_address() {
    let authority = Authority::generate("edge-1").unwrap();
    for literal in ["192.0.2.1", "2001:db8::1"] {
        let tunnel = if literal.contains(':') { format!("[{literal}]") } else { literal.into() };
        let (client, server) = shake(&authority, trusting(&authority), literal, &tunnel).await;
        client.unwrap();
        server.unwrap();
    }
}

#[tokio::test]
async fn both_versions_of_http_are_offered_and_nothing_else() {
    let authority = Authority::generate("edge-1").unwrap();
    for protocol in ["h2", "http/1.1"] {
        let mut config = trusting(&authority);
        config.alpn_protocols = vec![protocol.into()];
        let (_, server) = shake(&authority, config, "a.example", "a.example").await;
        assert_eq!(server.unwrap().unwrap(), protocol.as_bytes());
    }
    let mut config = trusting(&authority);
    config.alpn_protocols = vec![b"spdy/3".to_vec()];
    let (client, server) = shake(&authority, config, "a.example", "a.example").await;
    assert!(client.is_err() && matches!(server, Err(NotIntercepted::Handshake(_))));
}

#[tokio::test]
async fn n_1_another_server_name_than_the_tunnels_is_refused_and_no_leaf_minted() {
    let authority = Authority::generate("edge-1").unwrap();
    let (client, server) =
        shake(&authority, trusting(&authority), "evil.tld", "api.allowed:443").await;
    assert!(client.is_err());
    let refused =
        NotIntercepted::ServerName { asked: "evil.tld".into(), tunnel: "api.allowed".into() };
    assert_eq!(server.unwrap_err(), refused);
    assert_eq!(authority.minted(), 0);
}

#[tokio::test]
async fn n_3_without_a_server_name_the_tunnels_host_is_served() {
    let authority = Authority::generate("edge-1").unwrap();
    let mut config = trusting(&authority);
    config.enable_sni = false;
    let (client, server) = shake(&authority, config, "api.example.com", "api.example.com").await;
    client.unwrap();
    server.unwrap();
}

/// A list of one configuration for Encrypted Client Hello (RFC 9849 §4) whose outer name is `public`.
fn ech_list(public: &str) -> Vec<u8> {
    let mut contents = vec![7, 0x00, 0x20, 0, 32];
    contents.extend([9; 32]); // an X25519 key that nobody has the other half of
    contents.extend([0, 4, 0x00, 0x01, 0x00, 0x01, 0]);
    contents.push(public.len() as u8);
    contents.extend(public.bytes());
    contents.extend([0, 0]);
    let mut config = vec![0xfe, 0x0d];
    config.extend((contents.len() as u16).to_be_bytes());
    config.extend(contents);
    let mut list = (config.len() as u16).to_be_bytes().to_vec();
    list.extend(config);
    list
}

#[tokio::test]
async fn n_3_a_hello_that_is_encrypted_for_somebody_else_hides_no_name() {
    let suites = aws_lc_rs::hpke::ALL_SUPPORTED_SUITES;
    let hiding = |authority: &Authority, mode: EchMode| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_ech(mode)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    // GREASE: it looks like one and is none. The name in the open is the tunnel's.
    let authority = Authority::generate("edge-1").unwrap();
    let (public, _) = suites[0].generate_key_pair().unwrap();
    let grease = EchMode::Grease(EchGreaseConfig::new(suites[0], public));
    let (client, server) =
        shake(&authority, hiding(&authority, grease), "api.example.com", "api.example.com").await;
    client.unwrap();
    server.unwrap();
    // A real one: whatever is inside, the name in the open counts, and the client does not accept it in its place.
    for (outer, inner) in [("evil.tld", "api.allowed"), ("api.allowed", "evil.tld")] {
        let authority = Authority::generate("edge-1").unwrap();
        let list = EchConfigListBytes::from(ech_list(outer));
        let mode = EchMode::Enable(EchConfig::new(list, suites).unwrap());
        let (client, server) =
            shake(&authority, hiding(&authority, mode), inner, "api.allowed").await;
        assert!(client.is_err(), "{outer} in front of {inner}");
        if outer == "evil.tld" {
            assert!(matches!(server, Err(NotIntercepted::ServerName { .. })), "{server:?}");
            assert_eq!(authority.minted(), 0);
        }
    }
}

#[tokio::test]
async fn n_7_the_server_name_is_compared_without_case() {
    let authority = Authority::generate("edge-1").unwrap();
    let (client, server) =
        shake(&authority, trusting(&authority), "API.Example.com", "api.example.COM.").await;
    client.unwrap();
    server.unwrap();
}

#[tokio::test]
async fn what_is_not_tls_is_not_served() {
    let authority = Authority::generate("edge-1").unwrap();
    for first in [
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let (mut near, far) = tokio::io::duplex(1024);
        near.write_all(first.as_bytes()).await.unwrap();
        let refused = authority.accept(far, &https("a.example")).await.unwrap_err();
        assert_eq!(refused, NotIntercepted::NotTls, "{first:?}");
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert!(!answer.starts_with(b"HTTP"));
    }
    assert_eq!(authority.minted(), 0);
}

/// Takes the ten real seconds that the limit is: paused time would need another build of tokio for every package.
#[tokio::test]
async fn d_a_client_that_says_nothing_or_half_a_hello_is_given_up() {
    let authority = Authority::generate("edge-1").unwrap();
    let tunnel = https("a.example");
    let given_up = [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"].map(async |part| {
        let (mut near, far) = tokio::io::duplex(1024);
        near.write_all(part).await.unwrap();
        authority.accept(far, &tunnel).await.unwrap_err()
    });
    assert_eq!(futures::future::join_all(given_up).await, [const { NotIntercepted::Timeout }; 3]);
}

#[tokio::test]
async fn n_18_one_name_is_minted_once_however_many_ask_at_once() {
    let authority = Arc::new(Authority::generate("edge-1").unwrap());
    let agents: Vec<_> = (0..32)
        .map(|_| {
            let authority = authority.clone();
            tokio::spawn(async move {
                let (client, server) =
                    shake(&authority, trusting(&authority), "a.example", "a.example").await;
                client.unwrap();
                server.unwrap();
            })
        })
        .collect();
    for agent in agents {
        agent.await.unwrap();
    }
    assert_eq!(authority.minted(), 1);
}

#[tokio::test]
async fn n_18_the_cache_of_leaves_is_bounded() {
    let authority = Authority::generate("edge-1").unwrap();
    for n in 0..1_200 {
        // The client goes away once it was heard: minting is what is counted here.
        let host = format!("h{n}.example");
        let mut config = trusting(&authority);
        config.alpn_protocols = vec![b"none".to_vec()];
        let (_, server) = shake(&authority, config, &host, &host).await;
        assert!(server.is_err());
    }
    assert_eq!(authority.minted(), 1_200);
    assert!(authority.cached().await <= 1_024);
}

fn days(certificate: &X509Certificate<'_>) -> i64 {
    (certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp())
        / 86_400
}

#[test]
fn n_19_the_authority_is_narrow_short_lived_and_the_edges_own() {
    let authority = Authority::generate("edge-1").unwrap();
    let der = CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap();
    let (_, ca) = X509Certificate::from_der(&der).unwrap();
    let basic = ca.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.ca);
    assert_eq!(basic.value.path_len_constraint, Some(0));
    let usage = ca.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
    assert!(
        ca.validity().is_valid()
            && ca.validity().time_to_expiration().unwrap().whole_days() <= 30
            && days(&ca) <= 30
    );
    assert!(ca.subject().to_string().contains("edge-1"));
    assert!(
        authority.ca_pem().matches("BEGIN").count() == 1 && !authority.ca_pem().contains("PRIVATE")
    );

    let other = Authority::generate("edge-1").unwrap();
    let other_der = CertificateDer::from_pem_slice(other.ca_pem().as_bytes()).unwrap();
    let (_, other) = X509Certificate::from_der(&other_der).unwrap();
    assert_ne!(ca.public_key().raw, other.public_key().raw);
    assert_ne!(ca.subject().to_string(), other.subject().to_string());
}

#[tokio::test]
async fn n_19_a_leaf_is_for_its_name_only_and_not_of_the_authoritys_key() {
    let authority = Authority::generate("edge-1").unwrap();
    let ca_der = CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap();
    let (_, ca) = X509Certificate::from_der(&ca_der).unwrap();
    let long = format!("{}.{}.example", "a".repeat(60), "b".repeat(60));
    let mut serials = Vec::new();
    for host in ["a.example", "b.example", "192.0.2.1", &long] {
        let (client, _) = shake(&authority, trusting(&authority), host, host).await;
        let client = client.unwrap();
        let chain = client.get_ref().1.peer_certificates().unwrap();
        assert_eq!(chain.len(), 1, "the authority itself is not sent");
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        assert!(
            !leaf.is_ca()
                && days(&leaf) <= 2
                && leaf.validity().not_after <= ca.validity().not_after
        );
        assert_ne!(leaf.public_key().raw, ca.public_key().raw);
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        match (&names[..], host.parse::<IpAddr>()) {
            ([GeneralName::DNSName(name)], Err(_)) => assert_eq!(*name, host),
            ([GeneralName::IPAddress(octets)], Ok(IpAddr::V4(ip))) => {
                assert_eq!(*octets, ip.octets())
            }
            other => panic!("{other:?}"),
        }
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth && !extended.any);
        assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
        serials.push(leaf.raw_serial().to_vec());
    }
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 4, "clients refuse two certificates of one issuer with one number");
}

#[tokio::test]
async fn a_client_resumes_its_session() {
    let authority = Authority::generate("edge-1").unwrap();
    let config = trusting(&authority);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let client = TlsConnector::from(Arc::new(config.clone()));
        let tunnel = https("a.example");
        let name = ServerName::try_from("a.example").unwrap();
        let (client, server) =
            tokio::join!(client.connect(name, near), authority.accept(far, &tunnel));
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        client.read_u8().await.unwrap(); // the ticket comes before it
        kinds.push(client.get_ref().1.handshake_kind().unwrap());
    }
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
}

#[tokio::test]
async fn a_client_that_would_have_the_longest_key_first_is_given_one_that_costs_less() {
    let authority = Authority::generate("edge-1").unwrap();
    let config = trusting(&authority);
    let offered: Vec<_> =
        config.crypto_provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
    assert_eq!(offered[0], rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = TlsConnector::from(Arc::new(config));
    let tunnel = https("a.example");
    let name = ServerName::try_from("a.example").unwrap();
    let (client, server) = tokio::join!(client.connect(name, near), authority.accept(far, &tunnel));
    server.unwrap();
    let agreed = client.unwrap().get_ref().1.negotiated_cipher_suite().unwrap();
    assert_eq!(agreed.suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
}

/// Takes any certificate: for clients that only want to be heard.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[tokio::test]
async fn n_1_even_a_client_that_checks_nothing_gets_nothing_for_another_name() {
    let authority = Authority::generate("edge-1").unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    let (client, server) = shake(&authority, config, "sub.api.allowed", "api.allowed").await;
    assert!(client.is_err() && matches!(server, Err(NotIntercepted::ServerName { .. })));
    assert_eq!(authority.minted(), 0);
}
