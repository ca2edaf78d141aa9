use std::time::{Duration, Instant};

use super::{Hosts, NAMES, OURS, cable, ip, left_out};

/// Where no host of these tests listens.
const CLOSED: u16 = 9;

/// Sends datagrams from one host to another.
fn say(hosts: &Hosts, from: &str, to: &str, times: u32) {
    let sent = format!(
        "for n in $(seq {times}); do echo > /dev/udp/{}/{CLOSED}; done",
        hosts.host(to).address
    );
    assert!(hosts.host(from).command("bash").args(["-c", &sent]).status().unwrap().success());
}

/// Datagrams that have arrived at a host.
fn heard(hosts: &Hosts, host: &str) -> u64 {
    let table = hosts.host(host).command("cat").arg("/proc/net/snmp").output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let columns: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("Udp: ")).collect();
    let place = columns[0].split(' ').position(|name| name == "NoPorts").unwrap();
    columns[1].split(' ').nth(place).unwrap().parse().unwrap()
}

fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let start = Instant::now();
    while !fact() {
        assert!(start.elapsed() < Duration::from_secs(5), "never came about: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether whoever dials a closed port is told that it is.
fn is_told(hosts: &Hosts, from: &str, to: &str) -> bool {
    let dialled = format!(": > /dev/tcp/{}/{CLOSED}", hosts.host(to).address);
    let mut command = hosts.host(from).command("timeout");
    let output = command.args(["1", "bash", "-c", &dialled]).output().unwrap();
    String::from_utf8_lossy(&output.stderr).contains("refused")
}

#[test]
fn a_host_can_be_deaf_to_another_that_hears_it() {
    if left_out() {
        return;
    }
    let hosts = Hosts::new();
    hosts.add("n1");
    hosts.add("n2");
    hosts.cut("n2", "n1");
    say(&hosts, "n1", "n2", 3);
    eventually("n2 hears n1", || heard(&hosts, "n2") == 3);
    let before = hosts.dropped();
    say(&hosts, "n2", "n1", 3);
    eventually("what n2 says is lost", || hosts.dropped() >= before + 3);
    assert_eq!(heard(&hosts, "n1"), 0);
    hosts.heal();
    say(&hosts, "n2", "n1", 3);
    eventually("n1 hears n2", || heard(&hosts, "n1") == 3);
    let lost = hosts.dropped();
    say(&hosts, "n2", "n1", 3);
    eventually("n1 hears n2 again", || heard(&hosts, "n1") == 6);
    assert_eq!(hosts.dropped(), lost, "nothing is lost any more");
}

#[test]
fn a_cut_is_silent() {
    if left_out() {
        return;
    }
    let hosts = Hosts::new();
    for name in ["n1", "n2", "n3"] {
        hosts.add(name);
    }
    assert!(is_told(&hosts, "n1", "n2"));
    hosts.part("n1", "n2");
    assert!(!is_told(&hosts, "n1", "n2"));
    assert!(!is_told(&hosts, "n2", "n1"));
    assert!(is_told(&hosts, "n1", "n3"), "others are not concerned");
    hosts.heal();
    assert!(is_told(&hosts, "n1", "n2"));
}

#[test]
fn some_packets_are_lost_and_some_are_not() {
    if left_out() {
        return;
    }
    let hosts = Hosts::new();
    hosts.add("n1");
    hosts.add("n2");
    hosts.lose(30, "n1", "n2");
    say(&hosts, "n1", "n2", 300);
    eventually("each is heard or lost", || heard(&hosts, "n2") + hosts.dropped() == 300);
    assert!((40..=150).contains(&hosts.dropped()), "{} of 300", hosts.dropped());
}

#[test]
fn nothing_is_left_neither_of_this_test_nor_of_one_that_died() {
    if left_out() {
        return;
    }
    let mut died = std::process::Command::new("true").spawn().unwrap();
    died.wait().unwrap();
    let leftover = format!("{OURS}-{}-0-n1", died.id());
    ip(&["netns", "add", &leftover]);
    let hosts = Hosts::new();
    let named = |name: &str| std::path::Path::new(NAMES).join(name).exists();
    assert!(!named(&leftover));
    let host = hosts.add("n1");
    let mut running = host.command("sleep").arg("600").spawn().unwrap();
    assert!(named(&host.namespace));
    let outside = std::path::Path::new("/sys/class/net").join(cable(hosts.net));
    assert!(outside.exists());
    drop(hosts);
    assert!(!named(&host.namespace));
    assert!(!running.wait().unwrap().success(), "it was killed");
    eventually("the cable is gone", || !outside.exists());
}
