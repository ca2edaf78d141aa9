//! One edge, one control plane, one upstream.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use countersign_edge_gateway::addresses::Network;
use countersign_edge_gateway::clock::{Clock, Hands};
use countersign_edge_gateway::config::{Config, Gateway, Identity, Limits, Postgres};
use countersign_edge_gateway::upstream::{Resolve, Settings};
use countersign_edge_gateway::{Edge, Surroundings};
use countersign_gate::{Destination, Scheme};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, ExtendedKeyUsagePurpose,
    IsCa, KeyPair,
};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::agent::{Agent, Answer};
use crate::control::{Control, secret};
use crate::origin::Origin;
use crate::postgres::Database;
use crate::raw::{Raw, Script};
use crate::stage::Stage;

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
name = "a long job"
host = "api.test"
methods = ["POST"]
path = "/jobs/{id}"
then = "approve"
credential = "api-admin"
approvers = ["ops"]
hold = "30s"
expires = "10m"
park = true

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
name = "watch things"
host = "api.test"
methods = ["GET"]
path = "/things/watched"
then = "observe"
credential = "api"

[[rule]]
name = "watch what is open"
host = "open.test"
path = "/watched"
when = "body.text.contains('secret')"
then = "observe"

[[rule]]
name = "listen"
host = "stage.test"
methods = ["GET"]
path = "/socket"
then = "allow"
credential = "stage"
upgrade = "websocket"
max_bytes = "300KiB"
max_time = "20m"

[[rule]]
name = "play"
host = "stage.test"
path = "/play/{rest...}"
then = "allow"
credential = "stage"

[[rule]]
name = "call"
host = "stage.test"
methods = ["POST"]
path = "/test.Echo/{method}"
then = "allow"
credential = "stage"

[[rule]]
name = "ask first"
host = "stage.test"
path = "/asked/{rest...}"
then = "approve"
credential = "stage-admin"
approvers = ["ops"]
hold = "30s"

[[rule]]
name = "call what is dangerous"
host = "stage.test"
methods = ["POST"]
path = "/test.Danger/{method}"
then = "approve"
credential = "stage-admin"
approvers = ["ops"]
hold = "30s"

[[rule]]
name = "listen to what is watched"
host = "stage.test"
path = "/watched"
then = "allow"
credential = "stage"
upgrade = "websocket"

[[rule]]
name = "watch who listens"
host = "stage.test"
path = "/watched"
then = "observe"
credential = "stage"

[[rule]]
name = "listen in turns"
host = "turns.test"
then = "allow"
credential = "one-by-one"
upgrade = "websocket"

[[rule]]
name = "listen freely"
host = "free.test"
then = "allow"
upgrade = "websocket"

[[rule]]
name = "behind a front"
host = "hidden.test"
then = "allow"

[[rule]]
name = "through"
agents = ["robot"]
host = "through.test"
then = "tunnel"
max_bytes = "300KiB"
max_time = "20m"

[[rule]]
name = "through to a key"
host = "sealed.test"
then = "tunnel"

[[rule]]
name = "through to the house"
host = "192.168.7.7"
then = "tunnel"

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

[[rule]]
name = "cookies"
host = "cookie.test"
then = "allow"
credential = "session"

[[rule]]
name = "tokens"
host = "form.test"
path = "/token"
then = "allow"
credential = "form"

[[rule]]
name = "revoke a token"
host = "form.test"
path = "/revoke"
then = "approve"
credential = "form"
approvers = ["ops"]
hold = "30s"

[[rule]]
name = "uploads"
host = "form.test"
path = "/upload"
then = "allow"

[[rule]]
name = "buckets"
host = "aws.test"
then = "allow"
credential = "aws"

[[rule]]
name = "call a hook"
host = "hook.test"
then = "approve"
credential = "hook"
approvers = ["ops"]
hold = "30s"

[[rule]]
name = "log in"
host = "json.test"
then = "allow"
credential = "json"
"#;

/// Every host of [`POLICY`]; all of them are the one origin.
pub(crate) const HOSTS: [&str; 11] = [
    "api.test",
    "single.test",
    "open.test",
    "git.test",
    "query.test",
    "bot.test",
    "cookie.test",
    "form.test",
    "json.test",
    "aws.test",
    "hook.test",
];

/// Every host of [`POLICY`] that is the stage. The front's certificate covers all of them save for `hidden.test`.
pub(crate) const STAGED: [&str; 6] =
    ["stage.test", "turns.test", "free.test", "hidden.test", "through.test", "sealed.test"];

pub(crate) struct World {
    pub(crate) edge: Edge,
    pub(crate) control: Control,
    pub(crate) origin: Origin,
    /// The upstream instead of `origin`, where the test wants one.
    pub(crate) raw: Option<Raw>,
    /// An upstream that the test plays itself.
    pub(crate) stage: Stage,
    /// A server of Postgres that the test plays itself.
    pub(crate) database: Database,
    pub(crate) authority: Authority,
    pub(crate) agent: Agent,
    /// What the edge and the control plane tell the time by.
    pub(crate) clock: Clock,
    pub(crate) hands: Hands,
}

/// Status and code of an answer.
pub(crate) fn no(answer: &Answer) -> (u16, String) {
    (answer.status, answer.code())
}

/// A credential's fake key in its header.
pub(crate) fn bearer(name: &str) -> String {
    format!("Authorization: Bearer {}\r\n", secret(name).fake)
}

/// What a world is like.
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) nodes: usize,
    pub(crate) threshold: u32,
    /// How many of the nodes' addresses the edge is started with.
    pub(crate) configured: usize,
    pub(crate) server_name: Option<String>,
    /// Whether the edge is told a name for the first node that is not in its certificate.
    pub(crate) misnamed: bool,
    pub(crate) passthrough_when_disconnected: bool,
    /// Hours from now to the end of the edge's certificate; it began a day before that end.
    pub(crate) certificate_hours: i64,
    /// Where the edge's certificate is kept.
    pub(crate) certificate_file: Option<PathBuf>,
    /// Where the CA that the edge knows the nodes by is kept.
    pub(crate) ca_file: Option<PathBuf>,
    /// What signed the last node's certificate, if that is another CA.
    pub(crate) of_last: Option<Authority>,
    /// What the upstream of every host does, if it is not the one that writes down what it got.
    pub(crate) raw: Option<Script>,
    /// Finds the addresses of names that are none of [`HOSTS`].
    pub(crate) resolver: Option<Arc<dyn Resolve>>,
    /// Ranges that are dialled although they are private.
    pub(crate) allow_private: Vec<Network>,
    /// How long the upstream may be silent.
    pub(crate) patience: Duration,
    /// Rules besides those of [`POLICY`].
    pub(crate) rules: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            nodes: 1,
            threshold: 1,
            configured: 1,
            server_name: None,
            misnamed: false,
            passthrough_when_disconnected: true,
            certificate_hours: 24,
            certificate_file: None,
            ca_file: None,
            of_last: None,
            raw: None,
            resolver: None,
            allow_private: Vec::new(),
            patience: Duration::from_secs(20),
            rules: String::new(),
        }
    }
}

impl World {
    /// Everything up, and the first bundle in force.
    pub(crate) async fn start() -> Self {
        Setup::default().start().await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Setup { limits, ..Setup::default() }.start().await
    }

    /// An upstream that does what the test says.
    pub(crate) async fn against(script: Script) -> Self {
        Setup { raw: Some(script), ..Setup::default() }.start().await
    }

    /// The same before the edge is ready.
    pub(crate) async fn unattached(limits: Limits) -> Self {
        Setup { limits, ..Setup::default() }.unattached(|_| {}).await.expect("the edge starts")
    }
}

impl Setup {
    /// So many nodes, of which so many sign; the edge is told of all of them.
    pub(crate) fn cluster(nodes: usize, threshold: u32) -> Self {
        Self { nodes, threshold, configured: nodes, ..Self::default() }
    }

    pub(crate) async fn start(self) -> World {
        let world = self.unattached(|_| {}).await.expect("the edge starts");
        world.ready().await;
        world
    }

    /// Before the edge is ready, and after `prepare` has been at the control plane.
    pub(crate) async fn unattached(self, prepare: impl FnOnce(&Control)) -> anyhow::Result<World> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        let authority = Authority::new();
        let (clock, hands) = Clock::with_hands();
        let of_last = self.of_last.as_ref().unwrap_or(&authority);
        let control =
            Control::cluster(&authority, of_last, self.nodes, self.threshold, clock.clone()).await;
        control.prepare(|state| state.policy.push_str(&self.rules));
        prepare(&control);
        let mut addresses = control.addresses();
        addresses.truncate(self.configured);
        if self.misnamed {
            addresses[0] = format!("localhost:{}", control.addr().port());
        }
        let origin = Origin::start(&authority).await;
        let raw = match self.raw {
            None => None,
            Some(script) => Some(Raw::start(&authority, script).await),
        };
        let upstream = raw.as_ref().map_or_else(|| origin.addr(), Raw::addr);
        let stage = Stage::start(&authority).await;
        let database = Database::start(&authority).await;
        let (certificate_pem, key_pem) = authority.edge(self.certificate_hours);
        if let Some(file) = &self.certificate_file {
            std::fs::write(file, &certificate_pem).expect("written");
        }
        if let Some(file) = &self.ca_file {
            std::fs::write(file, authority.pem()).expect("written");
        }
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            metrics_listen: Some(([127, 0, 0, 1], 0).into()),
            ca_file: None,
            identity: Identity {
                name: "edge-1".into(),
                certificate_pem,
                key_pem: Zeroizing::new(key_pem),
                certificate_file: self.certificate_file,
            },
            gateway: Gateway {
                addresses,
                server_name: self.server_name,
                ca_pem: authority.pem(),
                ca_file: self.ca_file,
                root_key: control.root_key(),
                passthrough_when_disconnected: self.passthrough_when_disconnected,
            },
            upstream: Settings {
                extra_roots: vec![authority.0.der().clone()],
                connect_to: HOSTS
                    .iter()
                    .map(|host| format!("{host}::127.0.0.1:{}", upstream.port()))
                    .chain(["down.test::127.0.0.1:1".to_owned()])
                    .chain([format!("db.test::127.0.0.1:{}", database.port())])
                    .chain(STAGED.iter().map(|host| format!("{host}::127.0.0.1:{}", stage.port())))
                    .map(|mapping| mapping.parse().expect("a mapping"))
                    .collect(),
                allow_private: self.allow_private,
                forbidden: Vec::new(),
                response_header_timeout: self.patience,
            },
            postgres: vec![Postgres {
                listen: ([127, 0, 0, 1], 0).into(),
                upstream: Destination::parse(Scheme::Postgres, "db.test", Some(5432))
                    .expect("a destination"),
                names: vec!["db.edge.test".into()],
            }],
            limits: self.limits,
        };
        let mut surroundings = Surroundings { clock: clock.clone(), ..Surroundings::default() };
        if let Some(resolver) = self.resolver {
            surroundings.resolver = resolver;
        }
        let edge = Edge::start_in(config, surroundings).await?;
        let agent = Agent::new(edge.proxy_addr(), edge.ca_pem(), "robot", crate::control::TOKEN);
        Ok(World { edge, control, origin, raw, stage, database, authority, agent, clock, hands })
    }
}

impl World {
    /// Another agent is served, whatever else goes on.
    pub(crate) async fn another_is_served(&self) {
        let other = self.agent.pretending("other", crate::control::OTHER_TOKEN);
        let served = other.send("open.test", "GET /of-another", "", "");
        let answer = tokio::time::timeout(Duration::from_secs(5), served).await;
        assert_eq!(answer.expect("in time").status, 200, "another agent is served meanwhile");
    }

    /// The first bundle is in force.
    pub(crate) async fn ready(&self) {
        tokio::time::timeout(Duration::from_secs(20), self.edge.ready())
            .await
            .expect("the edge attaches");
    }

    /// High risk: a person is asked, for so many seconds at most.
    pub(crate) fn ask(&self, seconds: u32) -> JoinHandle<Answer> {
        let (agent, key) = (self.agent.clone(), bearer("api-admin"));
        let rest = format!("{key}Countersign-Approval-Wait: {seconds}\r\n");
        tokio::spawn(async move { agent.send("api.test", "DELETE /things/1", &rest, "").await })
    }

    /// Low risk, with the key that `borrow` has leased already.
    pub(crate) async fn lent(&self) -> Answer {
        self.agent.send("api.test", "GET /things/1", &bearer("api"), "").await
    }

    /// Leases the key of [`World::lent`].
    pub(crate) async fn borrow(&self) {
        assert_eq!(self.lent().await.status, 200);
        assert!(self.control.lease_asked().await.is_some());
    }

    /// Low risk, with a key that nobody has leased yet.
    pub(crate) async fn unlent(&self) -> Answer {
        let target = format!("GET /search?key={}", secret("query").fake);
        self.agent.send("query.test", &target, "", "").await
    }

    /// Allowed, and without any key.
    pub(crate) async fn keyless(&self) -> Answer {
        self.agent.send("open.test", "GET /", "", "").await
    }

    /// A metric's value; none when it is not there.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let addr = self.edge.metrics_addr().expect("a metrics listener");
        let mut stream = tokio::net::TcpStream::connect(addr).await.expect("it listens");
        let asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(asked).await.expect("written");
        let answer = crate::agent::read(&mut stream).await.expect("an answer");
        let line = answer.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().expect("a number"))
    }

    /// Returns once a metric has this value.
    pub(crate) async fn until(&self, name: &str, value: f64) {
        let there = async {
            while self.metric(name).await != Some(value) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), there)
            .await
            .unwrap_or_else(|_| panic!("{name} never was {value}"));
    }

    /// Returns once the edge has noticed that it is without a session.
    pub(crate) async fn detached(&self) {
        self.until("countersign_edge_attached", 0.0).await;
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

    /// An edge's certificate that lasts a day and ends so many hours from now, and its key.
    pub(crate) fn edge(&self, hours: i64) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::new(vec!["edge-1".to_owned()]).expect("a name");
        let request = request.serialize_request(&key).expect("a request").pem().expect("PEM");
        (self.sign_for(&request, hours), key.serialize_pem())
    }

    /// A certificate for what a PKCS #10 request asks for, for a day or more that ends so many hours from now.
    pub(crate) fn sign_for(&self, csr_pem: &str, hours: i64) -> String {
        let mut asked = CertificateSigningRequestParams::from_pem(csr_pem).expect("a request");
        let hour = Duration::from_secs(60 * 60);
        let until = match u32::try_from(hours) {
            Ok(hours) => SystemTime::now() + hour * hours,
            Err(_) => SystemTime::now() - hour * hours.unsigned_abs() as u32,
        };
        asked.params.not_before = (until - hour * 24).min(SystemTime::now()).into();
        asked.params.not_after = until.into();
        asked.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        asked.signed_by(&*self.0).expect("a certificate").pem()
    }

    /// A certificate for what a PKCS #10 request asks for.
    pub(crate) fn sign(&self, csr_pem: &str) -> String {
        let asked = CertificateSigningRequestParams::from_pem(csr_pem).expect("a request");
        asked.signed_by(&*self.0).expect("a certificate").pem()
    }
}
