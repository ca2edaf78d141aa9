//! One node's rooms with intake in front, and the people and keys of the tests.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use countersign_control_plane::cluster::engine::FailStop;
use countersign_control_plane::cluster::{Clock, Cluster, Settings, Surroundings, SystemClock};
use countersign_control_plane::intake::{Intake, IntakeSettings};
use countersign_control_plane::mint::{self, Minter};
use countersign_control_plane::sign::{self, Beginning, RootKey, Signer, SigningKeys, Witness};
use countersign_control_plane::state::{
    Actor, Addresses, Approval, ApprovalId, ApprovalState, Audience, Command, Credential, Event,
    Fake, Genesis, Minting, Node, Payload, Proof, ReleaseClass, Role, State, Strength, VoteWord,
    Voter,
};
use countersign_control_plane::vault::{Binding, NewSeal, Unsealing, Vault};
use countersign_gate::Trust;
use rcgen::{CertificateParams, KeyPair};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

pub(crate) const CLUSTER: &str = "test-cluster";
pub(crate) const ORG: &str = "test-org";
pub(crate) const STRIPE_KEY: &[u8] = b"sk_live_canary_51";
pub(crate) const AGENT: &str = "agent-1";

/// Refunds are asked about, balances are read per request, prices by lease, and deleting customers is denied.
pub(crate) const POLICY: &str = r#"version = 1
[[rule]]
name = "refunds"
host = "api.stripe.com"
methods = ["POST"]
path = "/v1/refunds"
then = "approve"
credential = "stripe"
approvers = ["finance"]

[[rule]]
name = "balance"
host = "api.stripe.com"
methods = ["GET"]
path = "/v1/balance"
then = "allow"
credential = "stripe"

[[rule]]
name = "no deletions"
host = "api.stripe.com"
methods = ["DELETE"]
then = "deny"
reason = "customers stay"

[[rule]]
name = "prices"
agents = ["deploy"]
host = "api.prices.example"
methods = ["GET"]
then = "allow"
credential = "prices"
"#;

/// Everything of one node. The data directory goes with it.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) vault: Arc<Vault>,
    pub(crate) intake: Intake,
    pub(crate) signer: Arc<Signer>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) genesis: Genesis,
    pub(crate) root: RootKey,
    pub(crate) address: SocketAddr,
    pub(crate) clock: Arc<AheadClock>,
    pub(crate) ground: Ground,
}

/// A directory, an open vault in it, and a clock.
pub(crate) struct Ground {
    pub(crate) vault: Arc<Vault>,
    pub(crate) clock: Arc<AheadClock>,
    leaving: Arc<AtomicBool>,
    dir: TempDir,
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.leaving.store(true, Ordering::SeqCst);
    }
}

impl Ground {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let seal = NewSeal::KeyFile(dir.path().join("seal.key"));
        let vault = Vault::create(&dir.path().join("data"), seal, 0).unwrap().vault;
        Self { vault: Arc::new(vault), clock: Arc::default(), leaving: Arc::default(), dir }
    }

    /// Beside another one, with the same vault.
    pub(crate) fn beside(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        std::fs::create_dir(&data_dir).unwrap();
        Vault::install(&data_dir, &self.vault.seal_file()).unwrap();
        let key_file = Unsealing::KeyFile(self.dir.path().join("seal.key"));
        let vault = Arc::new(Vault::unseal(&data_dir, &key_file).unwrap());
        Self { vault, clock: Arc::clone(&self.clock), leaving: Arc::default(), dir }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn keys(&self) -> SigningKeys {
        SigningKeys::open_or_make(&self.data_dir(), &self.vault).unwrap()
    }

    pub(crate) fn witness(&self, cluster: &Cluster) -> Witness {
        Witness::open(cluster, &self.data_dir(), &self.vault).unwrap()
    }

    pub(crate) async fn start(&self, settings: Settings) -> Cluster {
        let leaving = Arc::clone(&self.leaving);
        let fail = FailStop::then(move |why| {
            // A test that is over takes the directory away below its node.
            if !leaving.load(Ordering::SeqCst) {
                eprintln!("a node stops: {why}");
                std::process::abort();
            }
        });
        let surroundings = Surroundings { clock: self.clock.clone(), fail, ..Default::default() };
        Cluster::start_in(settings, self.vault.clone(), surroundings).await.unwrap()
    }
}

/// The machine's clocks, and as far ahead of them as a test says.
#[derive(Default)]
pub(crate) struct AheadClock(AtomicU64);

impl AheadClock {
    pub(crate) fn advance(&self, duration: Duration) {
        self.0.fetch_add(duration.as_millis() as u64, Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

impl Clock for AheadClock {
    fn since_boot(&self) -> Duration {
        SystemClock.since_boot() + self.ahead()
    }

    fn wall(&self) -> u64 {
        SystemClock.wall() + self.ahead().as_millis() as u64
    }
}

/// What an edge was enrolled with.
#[derive(Clone)]
pub(crate) struct Enrolled {
    pub(crate) id: String,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
    pub(crate) key_sha256: [u8; 32],
}

impl World {
    pub(crate) async fn new() -> Self {
        // One agent asks for whatever a test asks for.
        let settings = IntakeSettings { max_pending_per_agent: 100_000, ..Default::default() };
        Self::with(settings).await
    }

    pub(crate) async fn with(settings: IntakeSettings) -> Self {
        let ground = Ground::new();
        let stored = Settings::alone(ground.data_dir(), 10_000);
        let cluster = ground.start(stored).await;
        let root = RootKey::generate();
        let genesis = beginning(&ground.vault, &root, &ground.keys(), cluster.node_id(), "");
        cluster.propose(Actor::System, Command::Genesis(Box::new(genesis.clone()))).await.unwrap();
        let world = Self::settle(ground, cluster, genesis, root, settings).await;
        world.populate().await;
        world
    }

    /// Of a cluster that has begun.
    pub(crate) async fn settle(
        ground: Ground,
        cluster: Cluster,
        genesis: Genesis,
        root: RootKey,
        settings: IntakeSettings,
    ) -> Self {
        let witness = Arc::new(ground.witness(&cluster));
        let signer = Arc::new(Signer::open(Arc::clone(&witness)).await.unwrap());
        let vault = Arc::clone(&ground.vault);
        let minter = Minter::new(cluster.clone(), vault.clone(), mint::Settings::default());
        let intake =
            Intake::new(cluster.clone(), vault.clone(), Arc::clone(&signer), minter, settings);
        let address = serve(&intake, &vault, &genesis).await;
        let clock = Arc::clone(&ground.clock);
        Self { cluster, vault, intake, signer, witness, genesis, root, address, clock, ground }
    }

    pub(crate) fn keys(&self) -> SigningKeys {
        self.ground.keys()
    }

    /// Has the root key's holder sign the bundle that the members call for.
    pub(crate) async fn sign_next_trust(&self) -> Trust {
        let next = self.cluster.peek(State::next_trust).expect("nothing is to change");
        self.set_trust(&next).await;
        next
    }

    pub(crate) async fn set_trust(&self, trust: &Trust) {
        self.propose(Command::SetTrust(self.root.sign(trust.encode()))).await;
    }

    pub(crate) fn trust(&self) -> Trust {
        self.cluster.peek(State::trust).unwrap()
    }

    pub(crate) async fn populate(&self) {
        for command in population(&self.vault) {
            self.propose(command).await;
        }
    }

    pub(crate) async fn propose(&self, command: Command) -> Event {
        Event::clone(&self.cluster.propose(Actor::System, command).await.unwrap())
    }

    pub(crate) async fn add_agent(&self, id: &str, name: &str) {
        self.propose(agent(id, name)).await;
    }

    /// See [`credential`].
    pub(crate) async fn add_credential(
        &self,
        name: &str,
        host: &str,
        slot: &str,
        class: ReleaseClass,
    ) {
        self.propose(credential(&self.vault, name, host, slot, class)).await;
    }

    pub(crate) async fn add_credential_with(
        &self,
        name: &str,
        host: &str,
        slot: &str,
        template: &str,
        class: ReleaseClass,
    ) {
        self.propose(credential_with(&self.vault, name, host, slot, template, class)).await;
    }

    /// With a value of its own.
    pub(crate) async fn add_credential_of(
        &self,
        name: &str,
        (slot, template): (&str, &str),
        class: ReleaseClass,
        value: &[u8],
    ) {
        let host = format!("{name}.example");
        let command = credential_with(&self.vault, name, &host, slot, template, class);
        let Command::CreateCredential(mut credential) = command else { unreachable!() };
        credential.payload =
            self.vault.seal_payload(&Binding::of_credential(CLUSTER, &credential), value);
        self.propose(Command::CreateCredential(credential)).await;
    }

    pub(crate) async fn set_policy(&self, text: &str) {
        self.propose(policy(text)).await;
    }

    pub(crate) async fn enroll(&self, name: &str) -> Enrolled {
        let enrolled = self.issue(&format!("id-of-{name}"));
        let Enrolled { id, key_sha256, .. } = enrolled.clone();
        self.propose(Command::EnrollEdge { id, name: name.into(), key_sha256 }).await;
        enrolled
    }

    /// A certificate without an enrolment.
    pub(crate) fn issue(&self, id: &str) -> Enrolled {
        issue(&self.genesis, &self.vault, id)
    }

    pub(crate) async fn vote(&self, approval: ApprovalId, word: VoteWord) {
        let command = Command::Vote {
            approval,
            by: Voter::Principal("alice".into()),
            word,
            channel: "cli".into(),
            reason: "because".into(),
            intent_digest: None,
            strength: Strength::L2,
            proof: Proof::None,
            breaks_glass: false,
        };
        self.cluster.propose(Actor::Principal("alice".into()), command).await.unwrap();
    }

    pub(crate) fn approval(&self, id: ApprovalId) -> Approval {
        self.cluster.peek(|state| state.approval(id).cloned()).unwrap()
    }

    pub(crate) fn approvals(&self) -> usize {
        self.cluster.peek(|state| state.approvals().count())
    }

    /// Waits for an approval's state by the events, not by the clock.
    pub(crate) async fn until(&self, id: ApprovalId, wanted: ApprovalState) {
        self.until_true(|state| {
            state.approval(id).is_some_and(|approval| approval.state == wanted)
        })
        .await;
    }

    pub(crate) async fn until_true(&self, is_so: impl Fn(&State) -> bool) {
        let mut events = self.cluster.subscribe();
        let waiting = async {
            while !self.cluster.peek(&is_so) {
                let _ = events.recv().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .expect("it did not come about");
    }

    /// How many audit records there are of an action.
    pub(crate) fn recorded(&self, action: &str) -> usize {
        self.cluster.peek(|state| {
            state.audit().records().iter().filter(|record| record.action == action).count()
        })
    }
}

/// Whom and what the tests know, under [`POLICY`].
pub(crate) fn population(vault: &Vault) -> Vec<Command> {
    let people = ["alice", "bob"].map(|name| Command::AddPrincipal {
        name: name.into(),
        roles: BTreeSet::from([Role::Approver]),
        groups: BTreeSet::from(["finance".into()]),
        token_sha256: Sha256::digest(name).into(),
    });
    let (stripe, prices) =
        (("api.stripe.com", "header:authorization"), ("api.prices.example", "header:x-api-key"));
    let mut population = people.to_vec();
    population.push(agent(AGENT, "deploy"));
    for (name, (host, slot)) in [("stripe", stripe), ("prices", prices)] {
        population.push(credential(vault, name, host, slot, ReleaseClass::Auto));
    }
    population.push(policy(POLICY));
    population
}

fn agent(id: &str, name: &str) -> Command {
    let token_sha256 = Sha256::digest(format!("token of {name}")).into();
    Command::CreateAgent { id: id.into(), name: name.into(), owner: None, token_sha256 }
}

/// Its id is `cred-NAME` and its fake `fake-NAME`; every one has [`STRIPE_KEY`] as its value.
fn credential(vault: &Vault, name: &str, host: &str, slot: &str, class: ReleaseClass) -> Command {
    let template = if slot == "header:authorization" { "Bearer {key}" } else { "{key}" };
    credential_with(vault, name, host, slot, template, class)
}

fn credential_with(
    vault: &Vault,
    name: &str,
    host: &str,
    slot: &str,
    template: &str,
    class: ReleaseClass,
) -> Command {
    let mut credential = Credential {
        id: format!("cred-{name}"),
        name: name.into(),
        version: 1,
        host: host.into(),
        port: 443,
        slot: slot.into(),
        template: template.into(),
        class,
        fakes: vec![Fake { key: format!("fake-{name}"), active: true }],
        payload: Payload::Sealed {
            keyring_term: 0,
            wrapped_key: Vec::new(),
            ciphertext: Vec::new(),
        },
        active: true,
        created_at: 0,
        acts_as: None,
        mint: None,
        minting: Minting::default(),
    };
    credential.payload =
        vault.seal_payload(&Binding::of_credential(CLUSTER, &credential), STRIPE_KEY);
    Command::CreateCredential(Box::new(credential))
}

fn policy(text: &str) -> Command {
    countersign_policy::Policy::compile(text, "policy.toml").unwrap();
    let sha256 = Sha256::digest(text).into();
    Command::SetPolicy { text: text.into(), sha256, expected_version: None, narrows: false }
}

/// A certificate for an edge of this cluster; its enrolment is another thing.
pub(crate) fn issue(genesis: &Genesis, vault: &Vault, id: &str) -> Enrolled {
    let (csr, key_pem) = request();
    let ca = genesis.edge_ca();
    let issued = sign::issue_edge_certificate(CLUSTER, &ca, vault, &csr, id).unwrap();
    Enrolled { id: id.into(), certificate_pem: issued.pem, key_pem, key_sha256: issued.key_sha256 }
}

/// What an edge's door shows.
pub(crate) fn server_tls(genesis: &Genesis, vault: &Vault) -> ServerTlsConfig {
    let (csr, key) = request();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let (id, ca) = (&genesis.cluster_id, genesis.shown_ca(Audience::Clients));
    let certificate = sign::issue_server_certificate(id, &ca, vault, &csr, &names).unwrap();
    ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(&genesis.edge_ca_pem))
}

/// A cluster's first keys, and a node that it begins with, where others find it.
pub(crate) fn beginning(
    vault: &Vault,
    root: &RootKey,
    keys: &SigningKeys,
    node: u64,
    address: &str,
) -> Genesis {
    let (api_ca_pem, api_ca_key_pem) = ca();
    let beginning = Beginning {
        cluster_id: CLUSTER,
        org_id: ORG,
        node: member(node, "node-1", address, Vec::new()),
        admin_token_sha256: [9; 32],
        api_ca_pem: &api_ca_pem,
        api_ca_key_pem: &api_ca_key_pem,
    };
    sign::genesis(vault, root, keys, beginning).unwrap()
}

/// Edges find it at `gateway.NAME`, and may not dial it as `NAME`.
pub(crate) fn member(id: u64, name: &str, address: &str, public_keys: Vec<[u8; 32]>) -> Node {
    let addresses = Addresses {
        cluster: address.into(),
        api: String::new(),
        gateway: format!("gateway.{name}:443"),
        own: vec![name.into()],
    };
    Node { id, name: name.into(), addresses, public_keys, removed: false, joined_at: 0 }
}

/// A certificate request, and its key, both PEM.
pub(crate) fn request() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    (request.pem().unwrap(), key.serialize_pem())
}

/// Serves intake over mTLS on a free port, as the node does.
async fn serve(intake: &Intake, vault: &Vault, genesis: &Genesis) -> SocketAddr {
    let tls = server_tls(genesis, vault);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server =
        Server::builder().tls_config(tls).unwrap().add_service(intake.clone().into_service());
    tokio::spawn(server.serve_with_incoming(arriving(listener)));
    address
}

/// As the node's own listeners hand them on.
pub(crate) fn arriving(listener: TcpListener) -> impl Stream<Item = std::io::Result<TcpStream>> {
    TcpListenerStream::new(listener).map(|tcp| tcp.inspect(|tcp| tcp.set_nodelay(true).unwrap()))
}

fn ca() -> (String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}
