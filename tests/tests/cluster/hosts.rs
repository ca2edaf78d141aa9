//! The same faults where each party has a host of its own and packets are lost without a word: nothing is kept back
//! and let through later, no connection is reset, and there is no way around.

use std::time::Duration;

use countersign_tests::cluster_world::{
    ClusterWorld, Edge, Faults, Load, Mix, Node, Plan, is_long,
};
use countersign_tests::hosts::left_out;

use super::crashes::settle;
use super::partitions::{nothing_is_acknowledged_by_the_deaf, nothing_leaves_a_minority};
use super::{SEED, my_turn};

fn hosts() -> ClusterWorld {
    ClusterWorld::with(Plan { hosts: true, ..Plan::default() })
}

#[test]
fn r_5_a_leader_and_an_edge_that_are_silently_cut_off_release_nothing() {
    if left_out() {
        return;
    }
    let _turn = my_turn();
    nothing_leaves_a_minority(hosts(), "R-5 between hosts", |world, leader| {
        let (name, hosts) = (world.nodes[leader].name(), world.hosts());
        for other in world.others(leader) {
            let other = world.nodes[other].name();
            hosts.part(name, other);
            hosts.part("e1", other);
        }
        hosts.part(name, "e2");
        lost_something(world);
    });
}

#[test]
fn long_r_6_a_leader_whose_packets_arrive_and_which_hears_nothing_acknowledges_nothing() {
    if left_out() {
        return;
    }
    let _turn = my_turn();
    nothing_is_acknowledged_by_the_deaf(hosts(), "R-6 between hosts", |world, leader| {
        for other in world.others(leader) {
            world.hosts().cut(world.nodes[other].name(), world.nodes[leader].name());
        }
        lost_something(world);
    });
}

#[test]
fn long_a_network_that_loses_packets_loses_nothing_that_was_acknowledged() {
    if left_out() {
        return;
    }
    let _turn = my_turn();
    let world = hosts();
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    for percent in if is_long() { &[20, 30, 20, 30][..] } else { &[25] } {
        let (nodes, edges) = (world.nodes.iter(), world.edges.iter());
        let parties: Vec<&str> = nodes.map(Node::name).chain(edges.map(Edge::name)).collect();
        for one in &parties {
            for other in parties.iter().filter(|other| *other != one) {
                world.hosts().lose(*percent, one, other);
            }
        }
        faults.injected();
        lost_something(&world);
        // Whether it serves meanwhile is not promised; that it lies about nothing is.
        let (before, terms) = (load.count(true, 200), world.term());
        std::thread::park_timeout(Duration::from_secs(10));
        println!(
            "with {percent} % lost: {} things done, {} elections, {} packets lost so far",
            load.count(true, 200) - before,
            world.term().saturating_sub(terms),
            world.hosts().dropped()
        );
        world.heal();
        world.leader();
    }
    settle(world, load, "packets lost between hosts", faults);
}

/// A fault that nothing came across would show nothing.
fn lost_something(world: &ClusterWorld) {
    let before = world.hosts().dropped();
    world.eventually("a packet is lost", || (world.hosts().dropped() > before).then_some(()));
}
