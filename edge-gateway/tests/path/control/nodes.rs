//! The nodes: each listens at an address of its own, behind a line that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use countersign_edge_gateway::clock::Clock;
use countersign_gate as gate;
use countersign_proto::v1 as pb;
use countersign_proto::v1::gateway_service_server::GatewayServiceServer;
use ed25519_dalek::SigningKey;
use rcgen::ExtendedKeyUsagePurpose;
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::face::Face;
use super::secrets::{SECRETS, Secret, slot};
use super::{CLUSTER, Control, Ears, Inner, OTHER_TOKEN, TOKEN};
use crate::world::{Authority, POLICY};

/// A node and the line to it.
pub(super) struct Node {
    /// Where edges reach it.
    addr: SocketAddr,
    /// Where it serves.
    behind: SocketAddr,
    /// None while nobody listens at its address.
    line: Mutex<Option<Line>>,
}

/// The connections to a node.
struct Line {
    cut: CancellationToken,
    /// Bytes stop here while this is set: the connections stay, and nothing comes through.
    stuck: Arc<watch::Sender<bool>>,
}

impl Control {
    /// So many nodes, of which `threshold` have to sign. The certificate of each names its own address, and
    /// `control.test`; that of the last is signed by `of_last`.
    pub(crate) async fn cluster(
        authority: &Authority,
        of_last: &Authority,
        nodes: usize,
        threshold: u32,
        clock: Clock,
    ) -> Self {
        let signers: Vec<SigningKey> =
            (0..nodes).map(|node| SigningKey::from_bytes(&[7 + 10 * node as u8; 32])).collect();
        let keys = signers.iter().zip(1..).map(|(signer, node)| gate::NodeKey {
            node,
            public: signer.verifying_key().to_bytes(),
            state: gate::KeyState::Active,
        });
        let trust =
            gate::Trust { cluster: CLUSTER.into(), epoch: 1, threshold, keys: keys.collect() };
        let inner = Arc::new(Inner {
            signers,
            root: SigningKey::from_bytes(&[9; 32]),
            clock,
            authority: authority.clone(),
            trust: Mutex::new(trust),
            state: Mutex::new(state()),
            edge_key: Mutex::default(),
            edge_certificate: Mutex::default(),
            session: Mutex::default(),
            refusals: Mutex::new(vec![None; nodes]),
            evicts: Mutex::default(),
            sends_bundles: Mutex::new(true),
            named: Mutex::default(),
            renewal: Mutex::default(),
            grant_leases: Mutex::new(true),
            ignore_leases: Mutex::default(),
            lease_ttl_ms: Mutex::new(900_000),
            opens: Ears::new(),
            receipts: Ears::new(),
            alarms: Ears::new(),
            cancelled: Ears::new(),
            hellos: Ears::new(),
            leases: Ears::new(),
            asks: Ears::new(),
            pongs: Ears::new(),
            renewals: Ears::new(),
        });
        let mut started = Vec::new();
        for node in 0..nodes {
            let shown = if node + 1 == nodes { of_last } else { authority };
            started.push(Node::start(&inner, node, shown).await);
        }
        Self { inner, nodes: Arc::new(started) }
    }

    /// Changes what edges decide with before anybody has heard it.
    pub(crate) fn prepare(&self, change: impl FnOnce(&mut pb::EdgeState)) {
        change(&mut self.inner.state.lock().expect("no panic"));
    }

    /// Where edges reach the first node.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.nodes[0].addr
    }

    /// `host:port` of every node.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.addr.to_string()).collect()
    }

    /// The node with the session.
    pub(crate) fn attached_to(&self) -> usize {
        self.inner.session.lock().expect("no panic").as_ref().expect("a session").node
    }

    /// A node dies: its connections break, and nobody listens at its address.
    pub(crate) fn kill(&self, node: usize) {
        if let Some(line) = self.nodes[node].line.lock().expect("no panic").take() {
            line.cut.cancel();
        }
    }

    pub(crate) fn kill_all(&self) {
        (0..self.nodes.len()).for_each(|node| self.kill(node));
    }

    /// A node that was dead is there again, at the same address.
    pub(crate) async fn revive(&self, node: usize) {
        self.nodes[node].listen().await;
    }

    /// A node falls silent: its connections stay, new ones are taken, and nothing comes through.
    pub(crate) fn mute(&self, node: usize) {
        if let Some(line) = &*self.nodes[node].line.lock().expect("no panic") {
            line.stuck.send_replace(true);
        }
    }

    /// Whoever is attached is hung up on.
    pub(crate) fn drop_session(&self) {
        self.inner.session.lock().expect("no panic").take();
    }

    /// What edges decide with, as an older state has it.
    pub(crate) fn go_back_to_revision(&self, revision: u64) {
        *self.inner.state.lock().expect("no panic") = pb::EdgeState { revision, ..state() };
    }

    /// What one node answers whoever attaches, from now on.
    pub(crate) fn answers(&self, node: usize, status: Option<Status>) {
        self.inner.refusals.lock().expect("no panic")[node] = status;
    }

    /// What HelloAck says of where the nodes are.
    pub(crate) fn name_nodes(&self, addresses: Vec<String>) {
        *self.inner.named.lock().expect("no panic") = addresses;
    }
}

impl Node {
    async fn start(inner: &Arc<Inner>, node: usize, authority: &Authority) -> Self {
        let host = Ipv4Addr::new(127, 0, 0, node as u8 + 1);
        let serving = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let behind = serving.local_addr().expect("an address");
        let names = [host.to_string(), "control.test".to_owned()];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (certificate, key) = authority.leaf_for(&names, ExtendedKeyUsagePurpose::ServerAuth);
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(inner.authority.pem()));
        let service = GatewayServiceServer::new(Face { inner: Arc::clone(inner), node })
            .max_decoding_message_size(8 * 1024 * 1024);
        let server = Server::builder().tls_config(tls).expect("TLS").add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(serving)));
        // A port that is free, and stays free while the node is dead.
        let free = TcpListener::bind((host, 0)).await.expect("a port");
        let addr = free.local_addr().expect("an address");
        drop(free);
        let started = Self { addr, behind, line: Mutex::new(None) };
        started.listen().await;
        started
    }

    async fn listen(&self) {
        let listener = TcpListener::bind(self.addr).await.expect("its port");
        let (cut, behind) = (CancellationToken::new(), self.behind);
        let stuck = Arc::new(watch::Sender::new(false));
        let line = Line { cut: cut.clone(), stuck: Arc::clone(&stuck) };
        *self.line.lock().expect("no panic") = Some(line);
        tokio::spawn(cut.clone().run_until_cancelled_owned(async move {
            while let Ok((edge, _)) = listener.accept().await {
                let carried = carry(edge, behind, stuck.subscribe());
                tokio::spawn(cut.clone().run_until_cancelled_owned(carried));
            }
        }));
    }
}

/// Carries bytes both ways until either side ends, or for ever none once it is stuck.
async fn carry(mut edge: TcpStream, behind: SocketAddr, mut stuck: watch::Receiver<bool>) {
    let Ok(mut node) = TcpStream::connect(behind).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut edge, &mut node) => return,
        Ok(_) = stuck.wait_for(|stuck| *stuck) => {}
    }
    std::future::pending::<()>().await;
}

/// What edges decide with at first.
fn state() -> pb::EdgeState {
    let credential = |secret: &Secret| pb::EdgeCredential {
        credential_id: format!("id-{}", secret.name),
        name: secret.name.into(),
        version: 1,
        host: secret.host.into(),
        port: if secret.host == "db.test" { 5432 } else { 443 },
        slot: Some(slot(secret.name)),
        fake_keys: vec![secret.fake.into()],
        leasable: secret.leasable,
        token_endpoint: None,
    };
    pb::EdgeState {
        revision: 1,
        policy_version: 1,
        policy: POLICY.into(),
        agents: [("agent-1", "robot", TOKEN), ("agent-2", "other", OTHER_TOKEN)]
            .map(|(agent_id, name, token)| pb::EdgeAgent {
                agent_id: agent_id.into(),
                name: name.into(),
                token_sha256: Bytes::copy_from_slice(&Sha256::digest(token)),
            })
            .to_vec(),
        credentials: SECRETS.iter().map(credential).collect(),
        forbidden_destinations: vec!["control.test".into()],
        gateway_ca_pem: String::new(),
    }
}
