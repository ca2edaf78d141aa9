//! What goes wrong, when, and for how long: chosen by the seed. Each seed knows only some kinds of trouble, so that each
//! kind is also met without the others.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use std::time::Duration;
use turmoil::Sim;

use crate::node::Ask;
use crate::town::{LATENCY, Town};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    ClockJump,
    CrashAll,
    CrashEdge,
    CrashNode,
    CutEdgeOff,
    Delay,
    HandOver,
    HoldLink,
    Isolate,
    OneWay,
    Partition,
}

const ALL: [Trouble; 11] = [
    Trouble::ClockJump,
    Trouble::CrashAll,
    Trouble::CrashEdge,
    Trouble::CrashNode,
    Trouble::CutEdgeOff,
    Trouble::Delay,
    Trouble::HandOver,
    Trouble::HoldLink,
    Trouble::Isolate,
    Trouble::OneWay,
    Trouble::Partition,
];

/// What ends a trouble.
enum Relief {
    Hasten,
    Release(String, String),
    Repair(String, String),
    StartEdge(usize),
    StartNode(usize),
}

pub(crate) struct Chaos<'a> {
    town: &'a Town,
    dice: StdRng,
    kinds: Vec<Trouble>,
    /// The longest that clocks jump, milliseconds.
    leap: i64,
    next_at: u64,
    reliefs: Vec<(u64, Relief)>,
    pub(crate) injected: usize,
}

impl<'a> Chaos<'a> {
    pub(crate) fn new(town: &'a Town, seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut kinds = ALL.to_vec();
        kinds.shuffle(&mut dice);
        kinds.truncate(dice.random_range(2..=7));
        // From one end to the other less than an hour: beyond that, releases wait for a person.
        let leap = if dice.random_bool(0.5) { 1_700_000 } else { 30_000 };
        Self { town, dice, kinds, leap, next_at: 0, reliefs: Vec::new(), injected: 0 }
    }

    /// Of a town in which whole machines lose their power, and little else happens.
    pub(crate) fn of_power_cuts(town: &'a Town, seed: u64) -> Self {
        let kinds = vec![Trouble::CrashAll, Trouble::CrashNode];
        Self { kinds, ..Self::new(town, seed) }
    }

    /// Does what is due now.
    pub(crate) fn act(&mut self, sim: &mut Sim<'_>) {
        let now = self.town.time.now();
        while let Some(due) = self.reliefs.iter().position(|(at, _)| *at <= now) {
            let (_, relief) = self.reliefs.swap_remove(due);
            self.relieve(relief, sim);
        }
        if now >= self.next_at {
            self.next_at = now + self.dice.random_range(200..2500);
            if let Some(trouble) = self.kinds.choose(&mut self.dice).copied() {
                tracing::debug!(?trouble, now, "trouble");
                self.injected += 1;
                self.strike(trouble, sim);
            }
        }
    }

    fn strike(&mut self, trouble: Trouble, sim: &mut Sim<'_>) {
        let town = self.town;
        let node = self.dice.random_range(0..town.houses.len());
        let edge = self.dice.random_range(0..town.gateways.len());
        match trouble {
            Trouble::ClockJump => {
                let watches: Vec<_> = town.watches().collect();
                let by = self.dice.random_range(-self.leap..=self.leap);
                watches.choose(&mut self.dice).expect("a town has clocks").jump(by);
            }
            Trouble::CrashAll => (0..town.houses.len()).for_each(|node| self.crash(node, sim)),
            Trouble::CrashEdge => {
                sim.crash(town.gateways[edge].name.as_str());
                self.later(3000, Relief::StartEdge(edge));
            }
            Trouble::CrashNode => self.crash(node, sim),
            Trouble::CutEdgeOff => {
                let edge = town.gateways[edge].name.clone();
                for node in &town.houses {
                    self.partition(edge.clone(), node.name.clone(), sim);
                }
            }
            Trouble::Delay => {
                sim.set_max_message_latency(Duration::from_millis(self.dice.random_range(50..600)));
                self.later(3000, Relief::Hasten);
            }
            Trouble::HandOver => {
                for house in &town.houses {
                    if house.up().is_some_and(|up| up.cluster.is_leader()) {
                        house.ask(Ask::HandOver);
                    }
                }
            }
            Trouble::HoldLink => {
                let (a, b) = self.link();
                sim.hold(a.as_str(), b.as_str());
                self.later(2000, Relief::Release(a, b));
            }
            Trouble::Isolate => {
                let one = town.houses[node].name.clone();
                for other in town.houses.iter().filter(|other| other.name != one) {
                    self.partition(one.clone(), other.name.clone(), sim);
                }
            }
            Trouble::OneWay => {
                let (a, b) = self.link();
                sim.partition_oneway(a.as_str(), b.as_str());
                self.later(6000, Relief::Repair(a, b));
            }
            Trouble::Partition => {
                let (a, b) = self.link();
                self.partition(a, b, sim);
            }
        }
    }

    fn partition(&mut self, a: String, b: String, sim: &Sim<'_>) {
        sim.partition(a.as_str(), b.as_str());
        self.later(6000, Relief::Repair(a, b));
    }

    /// Of a node: its process is killed, or its machine loses power: then what was not synced is gone, but for a few writes.
    fn crash(&mut self, node: usize, sim: &mut Sim<'_>) {
        let house = &self.town.houses[node];
        house.moved_out();
        sim.crash(house.name.as_str());
        if self.dice.random_bool(0.3) {
            house.disk.lose_power(usize::MAX);
        } else {
            house.disk.lose_power(self.dice.random_range(0..3));
            house.watch.boot();
        }
        self.later(4000, Relief::StartNode(node));
    }

    /// Two machines that speak with each other: nodes as a rule, sometimes a node and an edge.
    fn link(&mut self) -> (String, String) {
        let nodes = self.town.houses.iter().map(|house| house.name.clone());
        let mut ends: Vec<_> = nodes.collect();
        ends.shuffle(&mut self.dice);
        if self.dice.random_bool(0.3) {
            let edge = self.town.gateways.choose(&mut self.dice).expect("a town has edges");
            ends[1] = edge.name.clone();
        }
        let mut two = ends.into_iter();
        let (a, b) = (two.next().unwrap(), two.next().unwrap());
        if self.dice.random() { (a, b) } else { (b, a) }
    }

    fn later(&mut self, within: u64, relief: Relief) {
        let at = self.town.time.now() + self.dice.random_range(100..within);
        self.reliefs.push((at, relief));
    }

    fn relieve(&self, relief: Relief, sim: &mut Sim<'_>) {
        let start = |name: &str, sim: &mut Sim<'_>| {
            if !sim.is_host_running(name) {
                sim.bounce(name);
            }
        };
        match relief {
            Relief::Hasten => sim.set_max_message_latency(LATENCY),
            Relief::Release(a, b) => sim.release(a.as_str(), b.as_str()),
            Relief::Repair(a, b) => sim.repair(a.as_str(), b.as_str()),
            Relief::StartEdge(edge) => start(&self.town.gateways[edge].name, sim),
            Relief::StartNode(node) => start(&self.town.houses[node].name, sim),
        }
    }

    /// Everything runs again, everyone reaches everyone, and all clocks are set.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>) {
        for (_, relief) in std::mem::take(&mut self.reliefs) {
            self.relieve(relief, sim);
        }
        let names = self.town.names();
        for (number, a) in names.iter().enumerate() {
            for b in &names[number + 1..] {
                sim.release(a.as_str(), b.as_str());
                sim.repair(a.as_str(), b.as_str());
            }
        }
        let now = self.town.now();
        self.town.watches().for_each(|watch| watch.set(now));
    }
}
