//! A leader that is started again at once may go on leading: what it acknowledged before, it must read.

use std::sync::Arc;

use countersign_control_plane::state::{Actor, Command, CommandId, State};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use turmoil::Sim;

use crate::disk::Word;
use crate::node::{Ask, House};
use crate::town::{self, Town};

/// For a node to come up, and for an answer; simulated milliseconds.
const PATIENCE: u64 = 15_000;

#[test]
fn a_leader_that_is_started_again_at_once_reads_what_it_acknowledged() {
    for seed in 0..3 {
        let (town, mut sim) = town::founded(&mut StdRng::seed_from_u64(seed), Word::Honest);
        let leads = |house: &&Arc<House>| house.up().is_some_and(|up| up.cluster.is_leader());
        let leader = town.houses.iter().find(leads).expect("somebody leads");
        let subject = format!("subject of {seed}");
        acknowledged(&town, &mut sim, leader, &subject);

        leader.moved_out();
        sim.crash(leader.name.as_str());
        leader.disk.lose_power(usize::MAX);
        sim.bounce(leader.name.as_str());

        assert!(town.until(&mut sim, PATIENCE, || leader.up().is_some()), "it did not come up");
        assert!(
            reads(&town, &mut sim, leader, subject),
            "seed {seed}: an acknowledged note is not read"
        );
        town.leave(sim);
    }
}

fn acknowledged(town: &Town, sim: &mut Sim<'_>, house: &House, subject: &str) {
    let note =
        Command::Note { action: "test".into(), subject: subject.into(), details: Vec::new() };
    let (answer, mut answered) = oneshot::channel();
    let id = CommandId { client: rand::random(), serial: 0 };
    assert!(house.ask(Ask::Propose(id, Actor::System, Box::new(note), answer)));
    loop {
        town.step(sim);
        if let Ok(committed) = answered.try_recv() {
            committed.expect("nothing is wrong yet");
            return;
        }
    }
}

fn reads(town: &Town, sim: &mut Sim<'_>, house: &House, subject: String) -> bool {
    let (answer, mut answered) = oneshot::channel();
    let look = move |state: &State| {
        let there = state.audit().records().iter().any(|record| record.subject == subject);
        // The test waits for it.
        let _ = answer.send(there);
    };
    assert!(house.ask(Ask::Read(Box::new(look))));
    let end = town.time.now() + PATIENCE;
    while town.time.now() < end {
        town.step(sim);
        if let Ok(there) = answered.try_recv() {
            return there;
        }
    }
    panic!("nothing was read")
}
