//! One edge, one control plane, one upstream.

use std::sync::Arc;
use std::time::Duration;

use countersign_edge_gateway::Edge;
use countersign_edge_gateway::config::{Config, Gateway, Identity, Limits};
use countersign_edge_gateway::upstream::Settings;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, ExtendedKeyUsagePurpose,
    IsCa, KeyPair,
};
use zeroize::Zeroizing;

use crate::agent::Agent;
use crate::control::Control;
use crate::origin::Origin;

pub(crate) const POLICY: &str = r#"
version = 1

[[rule]]
name = "read things"
host = "api.test"
methods = ["GET", "HEAD"]
path = "/things/{rest...}"
then = "allow"
credential = "api"

[[rule]]
name = "post things"
host = "api.test"
methods = ["POST"]
path = "/things/{rest...}"
then = "allow"
credential = "api"

[[rule]]
name = "delete a thing"
host = "api.test"
methods = ["DELETE"]
path = "/things/{id}"
then = "approve"
credential = "api-admin"
approvers = ["ops"]
hold = "30s"

[[rule]]
name = "refund"
host = "api.test"
methods = ["POST"]
path = "/refunds"
then = "approve"
credential = "api-admin"
approvers = ["ops"]
hold = "30s"

[[rule]]
name = "never"
host = "api.test"
path = "/never/{rest...}"
then = "deny"

[[rule]]
name = "what is down"
host = "down.test"
then = "approve"

[[rule]]
name = "one key at a time"
host = "single.test"
then = "allow"
credential = "single"

[[rule]]
name = "open to all"
host = "open.test"
then = "allow"

[[rule]]
name = "clone"
host = "git.test"
then = "allow"
credential = "git"

[[rule]]
name = "search"
host = "query.test"
then = "allow"
credential = "query"

[[rule]]
name = "chat"
host = "bot.test"
then = "allow"
credential = "bot"
"#;

/// Every host of [`POLICY`]; all of them are the one origin.
pub(crate) const HOSTS: [&str; 6] =
    ["api.test", "single.test", "open.test", "git.test", "query.test", "bot.test"];

pub(crate) struct World {
    pub(crate) edge: Edge,
    pub(crate) control: Control,
    pub(crate) origin: Origin,
    pub(crate) agent: Agent,
}

impl World {
    /// Everything up, and the first bundle in force.
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let world = Self::unattached(limits).await;
        tokio::time::timeout(Duration::from_secs(20), world.edge.ready())
            .await
            .expect("the edge attaches");
        world
    }

    /// The same before the edge is ready.
    pub(crate) async fn unattached(limits: Limits) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        let authority = Authority::new();
        let control = Control::start(&authority).await;
        let origin = Origin::start(&authority).await;
        let (certificate_pem, key_pem) =
            authority.leaf("edge-1", ExtendedKeyUsagePurpose::ClientAuth);
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            metrics_listen: Some(([127, 0, 0, 1], 0).into()),
            ca_file: None,
            identity: Identity {
                name: "edge-1".into(),
                certificate_pem,
                key_pem: Zeroizing::new(key_pem),
                certificate_file: None,
            },
            gateway: Gateway {
                addresses: vec![control.addr().to_string()],
                server_name: Some("control.test".into()),
                ca_pem: authority.pem(),
                root_key: control.root_key(),
                passthrough_when_disconnected: true,
            },
            upstream: Settings {
                extra_roots: vec![authority.0.der().clone()],
                connect_to: HOSTS
                    .iter()
                    .map(|host| format!("{host}::127.0.0.1:{}", origin.addr().port()))
                    .chain(["down.test::127.0.0.1:1".to_owned()])
                    .map(|mapping| mapping.parse().expect("a mapping"))
                    .collect(),
                allow_private: Vec::new(),
                forbidden: Vec::new(),
                response_header_timeout: Duration::from_secs(20),
            },
            limits,
        };
        let edge = Edge::start(config).await.expect("the edge starts");
        let agent = Agent::new(edge.proxy_addr(), edge.ca_pem(), "robot", crate::control::TOKEN);
        Self { edge, control, origin, agent }
    }
}

/// Signs everybody's certificate.
#[derive(Clone)]
pub(crate) struct Authority(Arc<CertifiedIssuer<'static, KeyPair>>);

impl Authority {
    pub(crate) fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key");
        Self(Arc::new(CertifiedIssuer::self_signed(params, key).expect("a certificate")))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key, both PEM.
    pub(crate) fn leaf(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        self.leaf_for(&[name], usage)
    }

    pub(crate) fn leaf_for(
        &self,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &*self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// A certificate for what a PKCS #10 request asks for.
    pub(crate) fn sign(&self, csr_pem: &str) -> String {
        let asked = CertificateSigningRequestParams::from_pem(csr_pem).expect("a request");
        asked.signed_by(&*self.0).expect("a certificate").pem()
    }
}
