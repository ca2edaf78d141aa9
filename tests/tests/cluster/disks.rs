//! Disks that are full, and disks that changed their minds, below one node of a serving cluster.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use countersign_tests::cluster_world::{ClusterWorld, Errand, Faults, HOST, Load, Mix};
use countersign_tests::history::Told;
use http::Method;

use super::crashes::settle;
use super::{SEED, my_turn};

fn mount(arguments: &[&str]) {
    let output = Command::new("mount").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "mount {arguments:?} (this scenario needs root): {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Puts the data directory of a stopped node on a small disk of its own.
fn on_a_small_disk(world: &ClusterWorld, node: usize) -> Mounted {
    let (data, kept) = (world.nodes[node].data_dir(), world.root().join("moved"));
    world.nodes[node].copy_data(&kept);
    mount(&["-t", "tmpfs", "-o", "size=96m,mode=700", "countersign-test", data.to_str().unwrap()]);
    let copied = Command::new("cp").arg("-a").arg(kept.join(".")).arg(&data).status().unwrap();
    assert!(copied.success());
    std::fs::remove_dir_all(kept).unwrap();
    Mounted(data)
}

/// Takes all the space that is left, and gives the file that has it.
fn fill(disk: &Path) -> PathBuf {
    let ballast = disk.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    ballast
}

#[test]
fn long_r_11_a_full_disk_stops_its_node_and_nobody_else() {
    let _turn = my_turn();
    let mut world = ClusterWorld::start();
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    let mut mounted = Vec::new();
    // A follower, then whoever leads.
    for round in 0..2 {
        let leader = world.leader();
        let node = if round == 0 { world.others(leader)[0] } else { leader };
        world.nodes[node].process.kill();
        let disk = on_a_small_disk(&world, node);
        world.start_node(node);
        world.serving(node);
        let ballast = fill(&disk.0);
        faults.injected();
        let ended = world.within(Duration::from_secs(60), "the node stops", || {
            world.nodes[node].process.ended()
        });
        assert!(!ended.success(), "it says that something is wrong: {ended}");
        let before = load.count(true, 200);
        world
            .eventually("the others go on", || (load.count(true, 200) >= before + 2).then_some(()));
        std::fs::remove_file(ballast).unwrap();
        world.start_node(node);
        world.serving(node);
        mounted.push(disk);
    }
    let (mut world, _) = settle(world, load, "R-11", faults);
    world.nodes.clear();
}

#[test]
fn long_r_11_a_majority_on_full_disks_acknowledges_nothing_and_loses_nothing() {
    let _turn = my_turn();
    let mut world = ClusterWorld::start();
    let robot = world.robot("robot");
    let errand = Errand::new(Method::DELETE, HOST, "/full").waiting(Duration::from_secs(1));
    let way = world.edges[0].way().unwrap();
    let held = world.block_on(robot.send(&way, &errand)).unwrap();
    let id = held.approval().unwrap().to_owned();
    let load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    let (mut mounted, mut ballast) = (Vec::new(), Vec::new());
    for node in 0..2 {
        world.nodes[node].process.kill();
        mounted.push(on_a_small_disk(&world, node));
        world.start_node(node);
        world.serving(node);
    }
    for disk in &mounted {
        ballast.push(fill(&disk.0));
        faults.injected();
    }
    for node in 0..2 {
        world.within(Duration::from_secs(60), "the node stops", || {
            world.nodes[node].process.ended()
        });
    }
    // The one that is left may have heard of everything, and says nothing of it.
    let ana = world.desk(2).as_person(&world.people[0]);
    let told = world.block_on(ana.tap(&world.journal, &id, true));
    assert_ne!(told, Some(Told::Accepted), "one of three acknowledges");
    for file in ballast {
        std::fs::remove_file(file).unwrap();
    }
    let (mut world, _) = settle(world, load, "R-11, a majority", faults);
    world.nodes.clear();
}

/// What can be wrong with a disk that was not looked at for a while.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit, at this many thousandths of the file.
    Bit(u64),
    /// The end is missing.
    Short(u64),
    /// A stretch in the middle is zeros.
    Hole(u64),
}

fn damage(path: &Path, damage: Damage) {
    let mut file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    match damage {
        Damage::Bit(place) => {
            let at = length * place / 1000;
            let mut byte = [0];
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(&mut byte).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[byte[0] ^ 0x10]).unwrap();
        }
        Damage::Short(bytes) => file.set_len(length.saturating_sub(bytes)).unwrap(),
        Damage::Hole(place) => {
            file.seek(SeekFrom::Start(length * place / 1000)).unwrap();
            file.write_all(&[0; 4096]).unwrap();
        }
    }
    file.sync_all().unwrap();
}

#[test]
fn long_r_12_a_damaged_disk_is_refused_or_made_good_and_never_served_from() {
    let _turn = my_turn();
    let mut world = ClusterWorld::start();
    let mut load = Load::start(&world, Mix { seed: SEED, ..Mix::default() });
    let mut faults = Faults::default();
    let kinds = [
        Damage::Bit(900),
        Damage::Short(64),
        Damage::Bit(300),
        Damage::Short(65_536),
        Damage::Hole(500),
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let before = load.count(true, 200);
        world.eventually("things are done", || (load.count(true, 200) >= before + 3).then_some(()));
        let victim = *world.others(world.leader()).last().unwrap();
        world.nodes[victim].process.kill();
        let log = world.nodes[victim].data_dir().join("cluster").join("log").join("db");
        damage(&log, kind);
        faults.injected();
        world.nodes[victim].start(&world.network);
        // It stops and says why, or it serves; what it then serves is held against the others at the end.
        let refused = world.eventually("it stops or serves", || {
            if world.nodes[victim].process.ended().is_some() {
                return Some(true);
            }
            let status = world.block_on(world.desk(victim).status()).ok()?;
            (!status.sealed && !status.leader_node_id.is_empty()).then_some(false)
        });
        println!("{number}: {kind:?}: {}", if refused { "refused" } else { "made good" });
        if refused {
            // The way back is that of a new node.
            let root_key = world.root_key();
            let name = world.nodes[victim].name().to_owned();
            let root_key = root_key.to_str().unwrap();
            world.cli_ok(&["cluster", "remove", &name, "--root-key", root_key, "--yes"]);
            world.nodes.remove(victim);
            world.add_node();
        }
    }
    let healed = std::time::Instant::now();
    let services = world.serve_again(&world.robot("after"), healed);
    let unfinished = load.finish(&world, Duration::from_secs(40));
    assert!(unfinished.is_empty(), "{unfinished:#?}");
    let gathered = world.gather(&[&load], services, healed);
    countersign_tests::cluster_world::conclude("R-12", SEED, faults, &gathered);
}
