//! N-10: what an agent may never reach, whatever name it used.

use std::net::{IpAddr, SocketAddr};

use countersign_edge_gateway::addresses::{Guard, Network, closed_range};

const CLOSED: &[&str] = &[
    // clouds' own services
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    // this host, this network
    "0.0.0.0",
    "0.0.0.1",
    "0.255.255.255",
    "127.0.0.1",
    "127.0.0.53",
    "127.1.2.3",
    "127.255.255.255",
    "::",
    "::1",
    // private, shared, link-local
    "10.0.0.0",
    "10.77.0.1",
    "10.255.255.255",
    "172.16.0.0",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "169.254.0.1",
    "169.254.255.255",
    "fc00::1",
    "fd12:3456::1",
    "fdff:ffff::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "feff::1",
    // assignments, documentation, benchmarks, multicast, reserved
    "192.0.0.1",
    "192.0.0.255",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "ff02::1",
    "ff0e::1",
    "100::1",
    "2001:10::1",
    "2001:20::1",
    "4000::1",
    "8000::1",
    "1::1",
    // IPv4 in IPv6, public ones included: nobody writes them honestly
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "::8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::10.0.0.1",
    "64:ff9b:1:ffff::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::",
    "2002:808:808::1",
    "2001:0:4136:e378::1",
];

const OPEN: &[&str] = &[
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700::1111",
    "2001:4860:4860::8888",
    "2a00:1450::1",
    "2003::1",
    "2001:db7::1",
    "3ffe::1",
];

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 443)
}

#[test]
fn n_10_addresses_that_are_not_public_are_closed() {
    let guard = Guard::default();
    assert!(CLOSED.len() >= 60);
    for ip in CLOSED {
        assert!(guard.check(at(ip)).is_err(), "{ip} is open");
    }
}

#[test]
fn n_10_public_addresses_are_open() {
    for ip in OPEN {
        assert_eq!(Guard::default().check(at(ip)), Ok(()), "{ip}");
    }
}

#[test]
fn n_10_an_opened_range_opens_itself_only() {
    let guard =
        Guard::new(vec!["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()], Vec::new());
    for open in ["10.1.0.1", "10.1.255.255", "fd00::5"] {
        assert_eq!(guard.check(at(open)), Ok(()), "{open}");
    }
    for closed in ["10.0.255.255", "10.2.0.0", "fd00:0:0:1::", "127.0.0.1", "::ffff:10.1.0.1"] {
        assert!(guard.check(at(closed)).is_err(), "{closed}");
    }
}

#[test]
fn n_10_an_opened_translator_does_not_open_what_is_behind_it() {
    let guard =
        Guard::new(vec!["64:ff9b::/96".parse().unwrap(), "2002::/16".parse().unwrap()], Vec::new());
    assert_eq!(guard.check(at("64:ff9b::8.8.8.8")), Ok(()));
    assert_eq!(guard.check(at("2002:808:808::1")), Ok(()));
    for closed in ["64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "2002:7f00:1::1"] {
        assert!(guard.check(at(closed)).is_err(), "{closed}");
    }
}

#[test]
fn n_12_our_own_listeners_are_closed_even_where_their_range_is_open() {
    let open = vec!["127.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()];
    let guard =
        Guard::new(open, vec!["127.0.0.1:4000".parse().unwrap(), "0.0.0.0:4001".parse().unwrap()]);
    for own in [
        "127.0.0.1:4000",
        "[::ffff:127.0.0.1]:4000",
        "127.0.0.1:4001",
        "127.9.9.9:4001",
        "[::1]:4001",
    ] {
        assert!(guard.check(own.parse().unwrap()).is_err(), "{own}");
    }
    for other in ["127.0.0.1:4002", "127.0.0.2:4000"] {
        assert_eq!(guard.check(other.parse().unwrap()), Ok(()), "{other}");
    }
}

#[test]
fn a_network_is_read_strictly() {
    for text in [
        "",
        "10.0.0.0/33",
        "::/129",
        "10.0.0/8",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/8 ",
        "host/8",
        "10.0.0.0/8/8",
    ] {
        assert!(text.parse::<Network>().is_err(), "{text:?}");
    }
    let one: Network = "192.0.2.7".parse().unwrap();
    assert!(
        one.contains("192.0.2.7".parse().unwrap()) && !one.contains("192.0.2.8".parse().unwrap())
    );
    let all: Network = "0.0.0.0/0".parse().unwrap();
    assert!(all.contains("255.1.2.3".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
}

proptest::proptest! {
    #[test]
    fn n_10_only_public_space_is_open(bits: u128) {
        let ip = IpAddr::V6(bits.into());
        if closed_range(ip).is_none() {
            proptest::prop_assert_eq!(bits >> 125, 1);
        }
    }
}
