//! What a process and its children cost, and on which core they run.

use std::fs;
use std::process::Command;

/// CPU seconds, user and system, of this process and all that descend from it: by nanoseconds (schedstat of each thread)
/// or by ticks of 10 ms (proc(5), stat, fields 14 and 15), whichever is more.
pub fn cpu(pid: u32) -> f64 {
    family(pid).into_iter().map(own_cpu).sum()
}

/// Resident memory of all of them, MiB.
pub fn rss_mib(pid: u32) -> f64 {
    let resident = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    family(pid).into_iter().filter_map(resident).sum::<f64>() / 1024.0
}

/// Keeps a process, its children and its threads on one core.
pub fn pin(pid: u32, core: usize) {
    for pid in family(pid) {
        let pinned = Command::new("taskset")
            .args(["-acp", &core.to_string(), &pid.to_string()])
            .output()
            .unwrap();
        assert!(pinned.status.success(), "{}", String::from_utf8_lossy(&pinned.stderr));
    }
}

fn own_cpu(pid: u32) -> f64 {
    let counted = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds: f64 = tasks.filter_map(counted).sum();
    // Of threads that have ended, only the ticks remember.
    f64::max(nanoseconds / 1e9, ticks(pid) / 100.0)
}

fn ticks(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, after)) = stat.rsplit_once(')') else { return 0.0 };
    after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
}

fn family(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let child = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((child, parent))
        })
        .collect();
    let mut all = vec![pid];
    let mut looked_at = 0;
    while let Some(parent) = all.get(looked_at).copied() {
        looked_at += 1;
        all.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
    }
    all
}
