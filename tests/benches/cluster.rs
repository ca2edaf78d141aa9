//! A cluster of three nodes as processes, with real fsync: `./tests/bench cluster`. Prints ratios, because an absolute
//! rate of a shared machine means nothing tomorrow. It asserts only that the work was really done.

#![allow(clippy::unwrap_used)] // a bench that cannot measure stops

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use countersign_proto::v1;
use countersign_tests::cluster_world::{
    ClusterWorld, Desk, Errand, HOST, POLICY, Plan, Robot, Timing, tap,
};
use http::Method;

/// As nodes have it by default; other worlds are slower to miss somebody.
const SHIPPED: Timing = Timing { heartbeat_ms: 150, election_ms: 600 };

fn main() {
    // On hosts of their own: the doors of other worlds, through which every word between nodes goes, would be measured too.
    // Held as long as an agent may wait, so that nothing here is about retries; pending until everything was measured.
    let policy = POLICY.replace(
        "approvers = [\"ana\", \"bo\"]",
        "approvers = [\"ana\", \"bo\"]\nhold = \"280s\"\nexpires = \"12h\"",
    );
    let mut world =
        ClusterWorld::with(Plan { policy, hosts: true, timing: SHIPPED, ..Plan::default() });
    println!("load average: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    let floor = fsync_floor(world.root());
    println!("append 256 bytes + fdatasync: p50 {:.2} ms", ms(floor));

    group_commit(&world, floor);
    vote_to_upstream(&world, floor);
    failover(&mut world);
    a_large_state(&mut world);
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn quantile(times: &mut [Duration], q: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * q).round() as usize]
}

fn fsync_floor(dir: &Path) -> Duration {
    let mut file = File::create(dir.join("floor")).unwrap();
    let once = |_| {
        let start = Instant::now();
        file.write_all(&[7; 256]).unwrap();
        file.sync_data().unwrap();
        start.elapsed()
    };
    let mut times: Vec<Duration> = (0..200).map(once).collect();
    quantile(&mut times, 0.5)
}

/// Votes through the leader's API, one caller and sixty-four, each on an approval of its own that was opened before:
/// nothing but the way to a commit.
fn group_commit(world: &ClusterWorld, floor: Duration) {
    const ALONE: usize = 200;
    const TOGETHER: usize = 2_000;
    const ROUNDS: usize = 3;
    const WARM: usize = 100;
    open(world, "votes", WARM + ROUNDS * (ALONE + TOGETHER));
    let desk = world.desk(world.leader()).as_person(&world.people[0]);
    let pending = world.block_on(desk.approvals(v1::ApprovalState::Pending)).unwrap();
    let mut ids = pending.into_iter().map(|approval| approval.approval_id);
    let mut rate = |callers: usize, votes: usize| {
        let ballots = Arc::new(Mutex::new(ids.by_ref().take(votes).collect::<Vec<_>>()));
        assert_eq!(ballots.lock().unwrap().len(), votes);
        let start = Instant::now();
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let (desk, ballots) = (desk.clone(), Arc::clone(&ballots));
                world.runtime.spawn(async move {
                    loop {
                        let Some(approval_id) = ballots.lock().unwrap().pop() else { return };
                        let decision = v1::VoteDecision::Approve.into();
                        let vote =
                            v1::VoteApprovalRequest { approval_id, decision, ..Default::default() };
                        desk.client().vote_approval(desk.ask(vote)).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            world.block_on(task).unwrap();
        }
        votes as f64 / start.elapsed().as_secs_f64()
    };
    rate(4, WARM);
    // In turns, so that what else the machine does hits both.
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        one.push(rate(1, ALONE));
        many.push(rate(64, TOGETHER));
    }
    let middle = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (one, many) = (middle(&mut one), middle(&mut many));
    let disk = 1.0 / floor.as_secs_f64();
    println!(
        "committed approvals: 64 callers {many:.0}/s, one caller {one:.0}/s, the one ÷ the other {:.1} (goal ≥ 20); one caller ÷ the disk's own rate {:.2}, 64 ÷ it {:.2}",
        many / one,
        one / disk,
        many / disk
    );
}

/// Has so many requests asked about, by many agents at every edge, and leaves them pending.
fn open(world: &ClusterWorld, name: &str, count: usize) {
    const ROBOTS: usize = 64;
    let robots: Vec<Robot> = (0..ROBOTS).map(|n| world.robot(&format!("{name}-{n}"))).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..256)
        .map(|n| {
            let (robot, next) = (robots[n % ROBOTS].clone(), Arc::clone(&next));
            let way = world.edges[n % world.edges.len()].way().unwrap();
            let name = name.to_owned();
            world.runtime.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let errand = Errand::new(Method::DELETE, HOST, &format!("/{name}/{number}"))
                        .waiting(Duration::from_secs(1));
                    while !robot.send(&way, &errand).await.is_ok_and(|r| r.approval().is_some()) {}
                }
            })
        })
        .collect();
    for task in tasks {
        world.block_on(task).unwrap();
    }
}

/// Something that is refused: the cheapest thing that leaves a record, and nobody else hears of it.
async fn refused(desk: &Desk) {
    let refused = desk.client().seal(desk.ask(v1::SealRequest {})).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
}

/// One approval at a time, from the call of VoteApproval to the request's arrival at the upstream.
fn vote_to_upstream(world: &ClusterWorld, floor: Duration) {
    let robot = world.robot("voted");
    // Whoever taps is connected already: making a connection is not what is measured.
    let desks = world.desks(&world.people[0]);
    for desk in &desks {
        world.block_on(desk.status()).unwrap();
    }
    let mut times = Vec::new();
    for round in 0..100 {
        let path = format!("/voted/{round}");
        let (client, id) = held(world, &robot, 0, &path);
        let start = Instant::now();
        world.block_on(tap(&desks, &world.journal, &id, true, Duration::ZERO));
        assert_eq!(world.block_on(client).unwrap(), 200);
        let arrived = world.origin.seen().iter().find(|s| s.target == path).unwrap().arrived;
        times.push(arrived - start);
    }
    let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
    println!(
        "vote → bytes upstream: p50 {:.1} ms, p99 {:.1} ms; p50 over the fsync floor {:.1} ms (goal ≤ 5)",
        ms(p50),
        ms(p99),
        ms(p50.saturating_sub(floor))
    );
}

/// A request that is held at an edge, and its approval.
fn held(
    world: &ClusterWorld,
    robot: &Robot,
    edge: usize,
    path: &str,
) -> (tokio::task::JoinHandle<u16>, String) {
    let way = world.edges[edge].way().unwrap();
    let (robot, errand) = (robot.clone(), Errand::new(Method::DELETE, HOST, path));
    let client = world
        .runtime
        .spawn(async move { robot.send(&way, &errand).await.map_or(0, |reply| reply.status) });
    let id = world.eventually("an approval", || {
        let running = world.nodes.iter().position(|node| node.process.is_running())?;
        let desk = world.desk(running);
        let listed = world.block_on(desk.approvals(v1::ApprovalState::Pending)).ok()?;
        Some(listed.into_iter().find(|a| a.path == path)?.approval_id)
    });
    (client, id)
}

/// From `kill -9` of the leader to the next request that is approved and arrives.
fn failover(world: &mut ClusterWorld) {
    let robot = world.robot("outlived");
    let mut times = Vec::new();
    for round in 0..20 {
        let leader = world.leader();
        let path = format!("/outlived/{round}");
        let (client, id) = held(world, &robot, round % 2, &path);
        world.nodes[leader].process.kill();
        let start = Instant::now();
        let desks: Vec<Desk> = world
            .others(leader)
            .into_iter()
            .map(|node| world.desk(node).as_person(&world.people[0]))
            .collect();
        world.block_on(tap(&desks, &world.journal, &id, true, Duration::from_secs(30)));
        assert_eq!(world.block_on(client).unwrap(), 200);
        let arrived = world.origin.seen().iter().find(|s| s.target == path).unwrap().arrived;
        times.push(arrived - start);
        world.start_node(leader);
        world.serving(leader);
    }
    println!(
        "leader killed → next completed approval: p50 {:.2} s (goal ≤ 3), p99 {:.2} s, worst of {} {:.2} s (goal ≤ 5)",
        quantile(&mut times, 0.5).as_secs_f64(),
        quantile(&mut times, 0.99).as_secs_f64(),
        times.len(),
        quantile(&mut times, 1.0).as_secs_f64()
    );
}

/// 10,000 pending approvals and 50,000 audit records.
fn a_large_state(world: &mut ClusterWorld) {
    const PENDING: usize = 10_000;
    const RECORDS: u64 = 50_000;
    open(world, "many", PENDING);
    let leader = world.leader();
    let desk = world.desk(leader);
    let records = || {
        let verified =
            world.block_on(desk.client().verify_audit(desk.ask(v1::VerifyAuditRequest {})));
        verified.unwrap().into_inner().entries
    };
    while records() < RECORDS {
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let desk = desk.as_person(&world.people[0]);
                world.runtime.spawn(async move {
                    for _ in 0..20 {
                        refused(&desk).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            world.block_on(task).unwrap();
        }
    }

    let pending = world.block_on(desk.approvals(v1::ApprovalState::Pending)).unwrap();
    assert_eq!(pending.len(), PENDING, "none expired or was decided meanwhile");
    let mut pages: Vec<Duration> = (0..20)
        .map(|_| {
            let request = v1::ListApprovalsRequest {
                page_size: 50,
                state: v1::ApprovalState::Pending.into(),
                ..Default::default()
            };
            let start = Instant::now();
            let page = world.block_on(desk.client().list_approvals(desk.ask(request))).unwrap();
            assert_eq!(page.into_inner().approvals.len(), 50);
            start.elapsed()
        })
        .collect();
    let rss = world.nodes[leader].process.id().map_or(0, resident);
    let node = world.others(leader)[0];
    let snapshot = world.block_on(async {
        let asked = desk.client().backup_cluster(desk.ask(v1::BackupClusterRequest {})).await;
        let (mut backup, mut bytes) = (asked.unwrap().into_inner(), 0);
        while let Some(part) = backup.message().await.unwrap() {
            bytes += part.data.len();
        }
        bytes
    });
    world.nodes[node].process.kill();
    let start = Instant::now();
    world.start_node(node);
    world.serving(node);
    println!(
        "10,000 pending, 50,000 records: a page of the list p50 {:.1} ms (goal ≤ 10); restart {:.2} s (goal ≤ 2); a backup, which is a snapshot, {:.1} MB; leader's memory {:.0} MB",
        ms(quantile(&mut pages, 0.5)),
        start.elapsed().as_secs_f64(),
        snapshot as f64 / 1e6,
        rss as f64 / 1e6
    );
}

/// Bytes of memory that a process has.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or_default() * 1024
}
