//! Several nodes in one process, over loopback TCP that can be cut.

mod net;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_control_plane::cluster::engine::FailStop;
use countersign_control_plane::cluster::{
    Cluster, ProposeError, Settings, Start, StartError, Surroundings, Timing,
};
use countersign_control_plane::peers::CoSigner;
use countersign_control_plane::state::{
    Actor, Addresses, Command, CommandId, Event, Genesis, Node,
};
use countersign_proto::v1;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub(crate) use net::Net;

use crate::support::{barrier, note};
use crate::world;

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster, and the network that its nodes see each other through.
pub(crate) struct Town {
    pub(crate) net: Arc<Net>,
    houses: BTreeMap<u64, House>,
    snapshot_every: u64,
    /// Serial of each node's signing key, the removed ones' too.
    keys: Mutex<BTreeMap<u64, u8>>,
}

/// A node, up or down.
struct House {
    dir: TempDir,
    address: SocketAddr,
    up: Option<Up>,
}

struct Up {
    cluster: Cluster,
    stop: CancellationToken,
}

impl Town {
    /// One node that has begun the cluster `cluster-1`.
    pub(crate) async fn founded() -> Self {
        Self::founded_with(10_000).await
    }

    pub(crate) async fn founded_with(snapshot_every: u64) -> Self {
        if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
            // The first test that comes here has said it for all.
            let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
            let _ = log.with_env_filter(filter).try_init();
        }
        let mut town = Self {
            net: Arc::default(),
            houses: BTreeMap::new(),
            snapshot_every,
            keys: Mutex::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let dir = tempfile::tempdir().unwrap();
        let up = town.open(dir.path().into(), address, Start::Found, false).await.unwrap();
        let (id, cluster) = (up.cluster.node_id(), up.cluster.clone());
        town.houses.insert(id, House { dir, address, up: Some(up) });
        let mut beginning = world::beginning().into_iter();
        let Some(Command::Genesis(genesis)) = beginning.next() else { panic!("no genesis") };
        town.keys.lock().unwrap().insert(id, 1);
        let first = node(id, "node-1", address, 1);
        let genesis = Genesis { node: first, ..began_by(*genesis, id) };
        cluster.propose(Actor::System, Command::Genesis(Box::new(genesis))).await.unwrap();
        town
    }

    /// As many voters as that.
    pub(crate) async fn of(nodes: usize) -> Self {
        let mut town = Self::founded().await;
        for number in 2..=nodes {
            town.join(&format!("node-{number}")).await;
        }
        town.settled().await;
        town
    }

    /// A new node, invited, in the state and started; nobody waits until it is a member.
    pub(crate) async fn join(&mut self, name: &str) -> u64 {
        let (id, address) = self.invite(name).await;
        let dir = tempfile::tempdir().unwrap();
        let start = Start::Join { node_id: id };
        let up = self.open(dir.path().into(), address, start, false).await.unwrap();
        self.houses.insert(id, House { dir, address, up: Some(up) });
        id
    }

    /// A node that is in the state and was never started.
    pub(crate) async fn invite(&self, name: &str) -> (u64, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let id = rand::random();
        let token_sha256 = Sha256::digest(name).into();
        let serial = {
            let mut keys = self.keys.lock().unwrap();
            let serial = keys.len() as u8 + 1;
            keys.insert(id, serial);
            serial
        };
        let any = self.any();
        command(any, Command::InviteNode { name: name.into(), token_sha256 }).await;
        command(any, Command::JoinNode { token_sha256, node: node(id, name, address, serial) })
            .await;
        (id, address)
    }

    /// Removes a node, by another one's hand, once edges count the others' signatures.
    pub(crate) async fn remove(&self, id: u64) {
        let by = self.any_but(id);
        let (epoch, threshold, staying) = by.peek(|state| {
            let staying = state.nodes().filter(|node| !node.removed && node.id != id);
            let trust = state.trust().unwrap();
            (trust.epoch, trust.threshold, staying.map(|node| node.id).collect::<Vec<_>>())
        });
        let keys: Vec<_> = {
            let keys = self.keys.lock().unwrap();
            staying.iter().map(|id| (*id, keys[id])).collect()
        };
        let threshold = threshold.max((keys.len() as u32).div_ceil(2));
        let trust = world::signed_trust(&world::trust(epoch + 1, threshold, &keys));
        command(by, Command::SetTrust(trust)).await;
        command(by, Command::RemoveNode { id, reason: "test".into() }).await;
    }

    /// Whether a node is down; its house is no more then.
    pub(crate) fn gone(&mut self, id: u64) -> bool {
        self.houses.get(&id).is_some_and(|house| house.up.is_none())
            && self.houses.remove(&id).is_some()
    }

    /// Ends a node as a crash would look to the others.
    pub(crate) async fn stop(&mut self, id: u64) {
        self.net.isolate(id);
        let up = self.houses.get_mut(&id).unwrap().up.take().unwrap();
        up.stop.cancel();
        up.cluster.shutdown().await;
    }

    pub(crate) async fn start(&mut self, id: u64) {
        self.start_with(id, false).await;
    }

    pub(crate) async fn start_with(&mut self, id: u64, accept_rollback: bool) {
        self.net.heal(id);
        let house = &self.houses[&id];
        let (dir, address) = (house.dir.path().into(), house.address);
        // What a directory says of itself counts, not what is asked for here.
        let up = self.open(dir, address, Start::Found, accept_rollback).await.unwrap();
        assert_eq!(up.cluster.node_id(), id);
        self.houses.get_mut(&id).unwrap().up = Some(up);
    }

    /// As [`start`](Self::start); when the node stops by itself, it says why there.
    pub(crate) async fn start_and_listen(&mut self, id: u64) -> Arc<Mutex<Vec<String>>> {
        let last_words = Arc::<Mutex<Vec<String>>>::default();
        let heard = last_words.clone();
        let fail = FailStop::then(move |why| heard.lock().unwrap().push(why.to_owned()));
        self.net.heal(id);
        let house = &self.houses[&id];
        let (dir, address) = (house.dir.path().into(), house.address);
        let up = self.open_with(dir, address, Start::Found, false, fail).await.unwrap();
        self.houses.get_mut(&id).unwrap().up = Some(up);
        last_words
    }

    async fn open(
        &self,
        data_dir: PathBuf,
        address: SocketAddr,
        start: Start,
        accept_rollback: bool,
    ) -> Result<Up, StartError> {
        // A test that fails takes its directories away while nodes are running: that must not end the other tests.
        let fail = FailStop::then(|why| eprintln!("a node stops: {why}"));
        self.open_with(data_dir, address, start, accept_rollback, fail).await
    }

    async fn open_with(
        &self,
        data_dir: PathBuf,
        address: SocketAddr,
        start: Start,
        accept_rollback: bool,
        fail: FailStop,
    ) -> Result<Up, StartError> {
        let way = self.net.way();
        let settings = Settings {
            data_dir,
            snapshot_every: self.snapshot_every,
            start,
            transport: way.clone(),
            cluster_id: match start {
                Start::Found => String::new(),
                Start::Join { .. } => world::CLUSTER.into(),
            },
            timing: Timing::default(),
            accept_rollback,
        };
        let surroundings = Surroundings { fail, ..Surroundings::default() };
        let cluster = Cluster::start_in(settings, barrier(), surroundings).await?;
        way.is_of(cluster.node_id());
        let stop = CancellationToken::new();
        let service =
            countersign_control_plane::peers::service(cluster.clone(), Arc::new(Nobody), None);
        let listener = TcpListener::bind(address).await.unwrap();
        let (net, to) = (self.net.clone(), cluster.node_id());
        let arriving =
            TcpListenerStream::new(listener).then(move |tcp| net.clone().accept(tcp, to));
        let arriving = arriving.filter(Result::is_ok);
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(arriving, stop.clone().cancelled_owned());
        tokio::spawn(serving);
        Ok(Up { cluster, stop })
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.houses.keys().copied().collect()
    }

    pub(crate) fn node(&self, id: u64) -> &Cluster {
        &self.houses[&id].up.as_ref().expect("it is down").cluster
    }

    pub(crate) fn dir(&self, id: u64) -> &std::path::Path {
        self.houses[&id].dir.path()
    }

    /// Those that are up.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Cluster> {
        self.houses.values().filter_map(|house| house.up.as_ref()).map(|up| &up.cluster)
    }

    pub(crate) fn any(&self) -> &Cluster {
        self.nodes().next().unwrap()
    }

    pub(crate) fn any_but(&self, id: u64) -> &Cluster {
        self.nodes().find(|node| node.node_id() != id).unwrap()
    }

    /// The one whom a majority of those that are up follows.
    pub(crate) async fn leader(&self) -> u64 {
        let up = self.nodes().count();
        eventually("a leader", || {
            let said: Vec<_> = self.nodes().filter_map(Cluster::leader).collect();
            said.iter().copied().find(|id| {
                said.iter().filter(|other| *other == id).count() * 2 > up
                    && self.nodes().any(|node| node.node_id() == *id)
            })
        })
        .await
    }

    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.any_but(leader).node_id()
    }

    /// Returns once the members are exactly the nodes of the state that were not removed, voters all, and that is
    /// committed: before, a node that is lost could still be one too many.
    pub(crate) async fn settled(&self) {
        let leader = self.leader().await;
        eventually("a settled membership", || {
            let node =
                self.nodes().find(|node| node.is_leader()).unwrap_or_else(|| self.node(leader));
            let wanted: Vec<_> =
                node.peek(|state| state.nodes().filter(|n| !n.removed).map(|n| n.id).collect());
            let members = node.members();
            let voters: Vec<_> = members.iter().filter(|m| m.voter).map(|m| m.id).collect();
            (voters == wanted && members.len() == wanted.len()).then_some(())
        })
        .await;
        insist(self.any(), rand::random(), "settled").await;
    }

    /// Returns once these nodes have applied as much as the first of them, and their states' chains are the same.
    pub(crate) async fn agree(&self, ids: &[u64]) {
        eventually("agreement", || {
            let reached: Vec<_> = ids
                .iter()
                .map(|id| (self.node(*id).applied_index(), self.node(*id).chain()))
                .collect();
            reached.iter().all(|one| *one == reached[0]).then_some(())
        })
        .await;
    }

    pub(crate) async fn shutdown(mut self) {
        for id in self.ids() {
            if self.houses[&id].up.is_some() {
                self.stop(id).await;
            }
        }
    }
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A note of a client that has proposed nothing else, so that it can propose it again.
pub(crate) async fn propose_as(
    node: &Cluster,
    client: u64,
    subject: &str,
) -> Result<Event, ProposeError> {
    let id = CommandId { client: u128::from(client).to_be_bytes(), serial: 1 };
    node.propose_as(id, Actor::System, note(subject)).await.map(|committed| (*committed).clone())
}

/// As [`propose_as`], until the outcome is known: on a busy machine a leader may be missed for longer than a proposal
/// waits.
pub(crate) async fn insist(node: &Cluster, client: u64, subject: &str) -> Event {
    let until = Instant::now() + PATIENCE;
    loop {
        match propose_as(node, client, subject).await {
            Ok(event) => return event,
            Err(error) => assert!(Instant::now() < until, "{subject}: {error}"),
        }
    }
}

/// A command that can be given again.
async fn command(node: &Cluster, command: Command) {
    let id = CommandId { client: rand::random(), serial: 0 };
    let until = Instant::now() + PATIENCE;
    while let Err(error) = node.propose_as(id, Actor::System, command.clone()).await {
        assert!(Instant::now() < until, "{error}");
    }
}

fn node(id: u64, name: &str, address: SocketAddr, serial: u8) -> Node {
    Node {
        id,
        name: name.into(),
        addresses: Addresses { cluster: address.to_string(), ..Addresses::default() },
        public_keys: vec![world::public_key(serial)],
        removed: false,
        joined_at: 0,
    }
}

/// The trust bundle of the first node, whichever it is.
fn began_by(genesis: Genesis, id: u64) -> Genesis {
    let trust = world::signed_trust(&world::trust(1, 1, &[(id, 1)]));
    Genesis { trust, ..genesis }
}

/// Signs nothing.
pub(crate) struct Nobody;

#[tonic::async_trait]
impl CoSigner for Nobody {
    async fn co_sign(
        &self,
        _from: u64,
        _request: v1::CoSignRequest,
    ) -> Result<v1::CoSignResponse, Status> {
        Err(Status::unimplemented("nothing is signed here"))
    }
}
