//! One seed: a town of nodes, edges and people that is founded, troubled, healed, and then asked to serve.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_control_plane::cluster::Clock as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use turmoil::{Builder, Sim};

use crate::chaos::Chaos;
use crate::disk::{SimulatedDisk, Word};
use crate::gateway::{Gateway, Wishes};
use crate::ledger::Ledger;
use crate::mayor::Mayor;
use crate::node::House;
use crate::oracle;
use crate::people::People;
use crate::time::{Time, Watch};
use crate::world::Ground;

/// The longest that a message takes when nothing is wrong.
pub(crate) const LATENCY: Duration = Duration::from_millis(12);
/// Simulated milliseconds.
const FOUNDED_WITHIN: u64 = 60_000;
const TROUBLED_FOR: std::ops::Range<u64> = 10_000..20_000;
/// From the end of all trouble until every edge has had a new request approved and carried out.
const SERVES_WITHIN: u64 = 20_000;
const SETTLES_WITHIN: u64 = 20_000;

/// A town's machines.
pub(crate) struct Town {
    pub(crate) time: Time,
    pub(crate) true_time: Arc<Watch>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) houses: Vec<Arc<House>>,
    pub(crate) gateways: Vec<Arc<Gateway>>,
    wishes: Arc<Wishes>,
}

/// What a seed came to.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) faults: usize,
    pub(crate) histories: usize,
    pub(crate) executions: usize,
    pub(crate) compared: usize,
    /// Simulated.
    pub(crate) seconds: u64,
    pub(crate) violations: Vec<String>,
}

impl Town {
    fn new(dice: &mut StdRng, word: Word) -> Self {
        let (time, ledger) = (Time::default(), Arc::<Ledger>::default());
        let mut watch = || {
            let rate = if dice.random_bool(0.2) {
                dice.random_range(500..2000)
            } else {
                dice.random_range(990..=1010)
            };
            Watch::new(time.clone(), rate)
        };
        let watches: Vec<_> = (0..8).map(|_| watch()).collect();
        let count = if dice.random_bool(0.15) { 5 } else { 3 };
        let sync_ms = match word {
            Word::Honest => [3, 6, 60][dice.random_range(0..3)],
            // What is in a disk's own memory stays there for long.
            Word::Lying => 1500,
        };
        let snapshot_every = [20, 60, 10_000][dice.random_range(0..3)];
        let mut grounds = vec![Ground::new()];
        while grounds.len() < count {
            grounds.push(grounds[0].beside());
        }
        let houses: Vec<_> = grounds
            .into_iter()
            .zip(&watches)
            .enumerate()
            .map(|(number, (ground, watch))| {
                House::new(
                    format!("node-{}", number + 1),
                    ground,
                    SimulatedDisk::new(word, sync_ms),
                    Arc::clone(watch),
                    snapshot_every,
                    Arc::clone(&ledger),
                    dice.random(),
                )
            })
            .collect();
        let names: Vec<_> = houses.iter().map(|house| house.name.clone()).collect();
        let wishes = Arc::<Wishes>::default();
        let gateways = (0..dice.random_range(2..=3)).map(|number| {
            Gateway::new(
                format!("edge-{}", number + 1),
                names.clone(),
                Arc::clone(&watches[5 + number]),
                Arc::clone(&ledger),
                Arc::clone(&wishes),
                dice.random(),
            )
        });
        let gateways = gateways.collect();
        let true_time = Watch::new(time.clone(), 1000);
        Self { time, true_time, ledger, houses, gateways, wishes }
    }

    pub(crate) fn watches(&self) -> impl Iterator<Item = &Watch> {
        let nodes = self.houses.iter().map(|house| house.watch.as_ref());
        nodes.chain(self.gateways.iter().map(|gateway| gateway.watch.as_ref()))
    }

    /// What clocks are set to: the cluster's time where that is ahead, for log time never goes back, and edges refuse what
    /// is not valid yet.
    pub(crate) fn now(&self) -> u64 {
        let up = self.houses.iter().filter_map(|house| house.up());
        let log_time = up.map(|up| up.cluster.peek(|state| state.log_time()));
        self.true_time.wall().max(log_time.max().unwrap_or_default())
    }

    /// Nodes that were all away when the clocks were set say only later how far the cluster's time is.
    fn set_late_clocks(&self) {
        let now = self.now();
        self.watches().filter(|watch| watch.wall() < now).for_each(|watch| watch.set(now));
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let nodes = self.houses.iter().map(|house| house.name.clone());
        nodes.chain(self.gateways.iter().map(|gateway| gateway.name.clone())).collect()
    }

    /// The machines go before what they stand on.
    pub(crate) fn leave(&self, sim: Sim<'_>) {
        self.houses.iter().for_each(|house| house.moved_out());
        drop(sim);
    }

    /// One millisecond; true when the mayor is done.
    pub(crate) fn step(&self, sim: &mut Sim<'_>) -> bool {
        let done = sim.step().unwrap_or_else(|why| {
            self.ledger.violated(format!("a machine stopped: {why}"));
            true
        });
        self.time.is(sim.elapsed());
        if self.time.now().is_multiple_of(5) {
            for house in &self.houses {
                if let Some(up) = house.up() {
                    self.ledger.watch(&house.name, &up.cluster);
                }
            }
        }
        done
    }

    /// Steps until it is so, or for so long; says whether it is so.
    pub(crate) fn until(&self, sim: &mut Sim<'_>, within: u64, is_so: impl Fn() -> bool) -> bool {
        let end = self.time.now() + within;
        while self.time.now() < end && !is_so() {
            self.step(sim);
        }
        is_so()
    }

    /// Whether every edge carried something out that was wished for after this.
    fn serves(&self, after: u32) -> bool {
        let inner = self.ledger.inner();
        self.gateways.iter().all(|gateway| {
            let Some(enrollment) = gateway.enrolled.get() else { return false };
            let mut executions = inner.executions.iter();
            executions.any(|e| e.edge == enrollment.enrolled.id && e.amount > after)
        })
    }

    /// Whether every node is there and has applied as much as the others.
    fn agrees(&self) -> bool {
        let mut applied = self.houses.iter().map(|house| {
            house.up().map(|up| (up.cluster.applied_index(), up.cluster.commit_index()))
        });
        let first = applied.next().flatten();
        first.is_some_and(|(applied, committed)| applied == committed)
            && applied.all(|other| other == first)
    }

    fn live_through(&self, sim: &mut Sim<'_>, mut chaos: Chaos<'_>, troubled_for: u64) -> usize {
        let end = self.time.now() + troubled_for;
        while self.time.now() < end {
            chaos.act(sim);
            self.step(sim);
        }
        chaos.heal(sim);
        self.ledger.inner().everyone_agrees = true;
        let (healed, before) = (self.time.now(), self.wishes.greatest());
        let serves = || {
            self.set_late_clocks();
            self.serves(before)
        };
        if !self.until(sim, SERVES_WITHIN, serves) {
            self.ledger.violated(format!(
                "I11: {SERVES_WITHIN} ms after all trouble was over, not every edge had a new request carried out"
            ));
        }
        tracing::info!(after = self.time.now() - healed, "the town serves again");
        self.wishes.end();
        self.until(sim, 3_000, || false);
        if !self.until(sim, SETTLES_WITHIN, || self.agrees()) {
            self.ledger.violated("I10: the nodes did not come to agree");
        }
        chaos.injected
    }
}

/// A town that is founded, and its machines at work.
pub(crate) fn founded<'a>(dice: &mut StdRng, word: Word) -> (Town, Sim<'a>) {
    let began = Instant::now();
    let town = Town::new(dice, word);
    let mut sim = Builder::new()
        .simulation_duration(Duration::from_secs(3600))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(LATENCY)
        .tcp_capacity(4096)
        .rng_seed(dice.random())
        .enable_random_order()
        .build();
    for house in &town.houses {
        let machine = Arc::clone(house);
        sim.host(house.name.as_str(), move || Arc::clone(&machine).live());
    }
    for gateway in &town.gateways {
        let machine = Arc::clone(gateway);
        sim.host(gateway.name.as_str(), move || Arc::clone(&machine).live());
    }
    let people = Arc::new(People {
        houses: town.houses.clone(),
        ledger: Arc::clone(&town.ledger),
        seed: dice.random(),
    });
    sim.host("people", move || Arc::clone(&people).live());
    let mayor = Mayor { houses: town.houses.clone(), gateways: town.gateways.clone() };
    sim.client("mayor", mayor.found());
    while !town.step(&mut sim) {
        if town.time.now() > FOUNDED_WITHIN {
            town.ledger.violated("the town was not founded");
            break;
        }
    }
    tracing::info!(at = town.time.now(), took = ?began.elapsed(), "the town is founded");
    (town, sim)
}

/// Lives through one seed.
pub(crate) fn live(seed: u64, word: Word) -> Outcome {
    let mut dice = StdRng::seed_from_u64(seed);
    let (town, mut sim) = founded(&mut dice, word);
    let chaos = match word {
        Word::Honest => Chaos::new(&town, dice.random()),
        Word::Lying => Chaos::of_power_cuts(&town, dice.random()),
    };
    let faults = town.live_through(&mut sim, chaos, dice.random_range(TROUBLED_FOR));
    let histories = oracle::check(&town);
    let mut inner = town.ledger.inner();
    let outcome = Outcome {
        faults,
        histories,
        executions: inner.executions.len(),
        compared: inner.compared(),
        seconds: town.time.now() / 1000,
        violations: std::mem::take(&mut inner.violations).into_iter().collect(),
    };
    drop(inner);
    town.leave(sim);
    outcome
}
