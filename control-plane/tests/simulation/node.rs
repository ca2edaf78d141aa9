//! One node: the real cluster, signer and intake on a simulated machine.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use countersign_control_plane::cluster::engine::FailStop;
use countersign_control_plane::cluster::{
    Cluster, Committed, ProposeError, Settings, Start, Surroundings, Timing,
};
use countersign_control_plane::intake::{Intake, IntakeSettings};
use countersign_control_plane::mint::{self, Minter};
use countersign_control_plane::peers;
use countersign_control_plane::sign::Signer;
use countersign_control_plane::state::{Actor, Command, CommandId, Event, State};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tonic::transport::Server;

use crate::disk::{NoFsync, SimulatedDisk};
use crate::ledger::Ledger;
use crate::network::{self, Way};
use crate::time::Watch;
use crate::world::{self, CLUSTER, Ground};

const PAUSE: Duration = Duration::from_millis(20);

/// A node's machine, on or off.
pub(crate) struct House {
    pub(crate) name: String,
    pub(crate) ground: Ground,
    pub(crate) disk: Arc<SimulatedDisk>,
    pub(crate) watch: Arc<Watch>,
    /// Not before it is known what the node is to be.
    pub(crate) start: OnceLock<Start>,
    pub(crate) snapshot_every: u64,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) dice: Mutex<StdRng>,
    up: Mutex<Option<Up>>,
}

/// For as long as the machine is on.
#[derive(Clone)]
pub(crate) struct Up {
    pub(crate) cluster: Cluster,
    desk: mpsc::Sender<Ask>,
}

/// What people ask a node. Who is not answered any more knows nothing.
pub(crate) enum Ask {
    HandOver,
    Propose(
        CommandId,
        Actor,
        Box<Command>,
        oneshot::Sender<Result<Committed<Event>, ProposeError>>,
    ),
    /// Up to date, or not at all.
    Read(Box<dyn FnOnce(&State) + Send>),
}

impl House {
    pub(crate) fn new(
        name: String,
        ground: Ground,
        disk: Arc<SimulatedDisk>,
        watch: Arc<Watch>,
        snapshot_every: u64,
        ledger: Arc<Ledger>,
        seed: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            ground,
            disk,
            watch,
            start: OnceLock::new(),
            snapshot_every,
            ledger,
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            up: Mutex::default(),
        })
    }

    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.name, network::PEERS)
    }

    pub(crate) fn up(&self) -> Option<Up> {
        self.up.lock().unwrap().clone()
    }

    /// To be called before the machine is stopped: nothing of its node may outlive it.
    pub(crate) fn moved_out(&self) {
        *self.up.lock().unwrap() = None;
    }

    pub(crate) fn ask(&self, ask: Ask) -> bool {
        self.up().is_some_and(|up| up.desk.try_send(ask).is_ok())
    }

    fn roll(&self, below: u64) -> u64 {
        self.dice.lock().unwrap().random_range(0..below)
    }

    /// What the machine does from its start on.
    pub(crate) async fn live(self: Arc<Self>) -> turmoil::Result {
        let start = loop {
            match self.start.get() {
                Some(start) => break *start,
                None => sleep(PAUSE).await,
            }
        };
        let way = Arc::new(Way::default());
        let settings = Settings {
            data_dir: self.ground.data_dir(),
            snapshot_every: self.snapshot_every,
            start,
            transport: way.clone(),
            cluster_id: match start {
                Start::Found => String::new(),
                Start::Join { .. } => CLUSTER.into(),
            },
            timing: Timing::default(),
            accept_rollback: false,
        };
        let (name, ledger) = (self.name.clone(), Arc::clone(&self.ledger));
        let surroundings = Surroundings {
            clock: self.watch.clone(),
            fsync: Arc::new(NoFsync),
            fail: FailStop::then(move |why| ledger.violated(format!("{name} stopped: {why}"))),
            engine: Some(self.disk.opener()),
        };
        let vault = self.ground.vault.clone();
        let cluster = match Cluster::start_in(settings, vault.clone(), surroundings).await {
            Ok(cluster) => cluster,
            Err(why) => {
                self.ledger.violated(format!("I3: {} did not start again: {why}", self.name));
                return Ok(());
            }
        };
        way.is_of(cluster.node_id());
        self.disk.slow_down();
        tokio::spawn(sync(Arc::clone(&self)));
        let witness = Arc::new(self.ground.witness(&cluster));
        let service = peers::service(cluster.clone(), witness.clone(), None);
        let arriving = network::peers_arriving().await?;
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(arriving));
        let (desk, asked) = mpsc::channel(256);
        tokio::spawn(answer(cluster.clone(), asked));
        *self.up.lock().unwrap() = Some(Up { cluster: cluster.clone(), desk });

        let genesis = loop {
            match cluster.peek(|state: &State| state.genesis().cloned()) {
                Some(genesis) => break genesis,
                None => sleep(PAUSE).await,
            }
        };
        cluster.set_cluster_id(CLUSTER);
        let signer = loop {
            match Signer::open(witness.clone()).await {
                Ok(signer) => break Arc::new(signer),
                Err(_) => sleep(PAUSE).await,
            }
        };
        let minter = Minter::new(cluster.clone(), vault.clone(), mint::Settings::default());
        let intake = Intake::new(cluster, vault.clone(), signer, minter, IntakeSettings::default());
        let tls = world::server_tls(&genesis, &vault);
        let server = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_millis(500)))
            .http2_keepalive_timeout(Some(Duration::from_secs(1)))
            .tls_config(tls)?
            .add_service(intake.into_service());
        server.serve_with_incoming(network::edges_arriving().await?).await?;
        Ok(())
    }
}

/// The disk at work: as a rule everything that waits, sometimes only a part of it.
async fn sync(house: Arc<House>) {
    loop {
        sleep(Duration::from_millis(1 + house.roll(house.disk.sync_ms))).await;
        let steps = if house.roll(4) == 0 { house.roll(4) as usize } else { usize::MAX };
        house.disk.sync(steps);
    }
}

async fn answer(cluster: Cluster, mut asked: mpsc::Receiver<Ask>) {
    while let Some(ask) = asked.recv().await {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            match ask {
                Ask::HandOver => {
                    // Whoever leads now; that it does not succeed is part of the game.
                    let _ = cluster.transfer(None).await;
                }
                Ask::Propose(id, actor, command, answer) => {
                    let _ = answer.send(cluster.propose_as(id, actor, *command).await);
                }
                Ask::Read(look) => {
                    let _ = cluster.read(look).await;
                }
            }
        });
    }
}
