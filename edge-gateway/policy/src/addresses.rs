//! Addresses that are not the public internet's: which range closes one, and which ranges somebody opened.
//!
//! Both sides that dial on others' behalf ask here: the edge for agents, the control plane for what operators name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The name of the range for which an address may not be dialled, where `opened` are the ranges that may be.
pub fn closed_to(ip: IpAddr, opened: &[Network]) -> Option<&'static str> {
    if let Some(name) = closed_range(ip)
        && !opened.iter().any(|network| network.contains(ip))
    {
        return Some(name);
    }
    // Opening a range of translators doesn't open what lies behind them.
    translated(ip).and_then(|inner| closed_to(IpAddr::V4(inner), opened))
}

/// A range of addresses, written `10.1.0.0/16` or `fd00::/8`; an address alone is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => within_v4(ip, base, self.prefix),
            (IpAddr::V6(base), IpAddr::V6(ip)) => within_v6(ip, base, self.prefix),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| NotANetwork)?;
        let bits = if base.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| NotANetwork)?
            }
            Some(_) => return Err(NotANetwork),
            None => bits,
        };
        if prefix > bits {
            return Err(NotANetwork);
        }
        Ok(Self { base, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// Text that is no range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotANetwork;

impl fmt::Display for NotANetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a range of addresses: write it as 10.1.0.0/16 or fd00::/8")
    }
}

impl std::error::Error for NotANetwork {}

/// The name of the range that keeps this address from being dialled; none for an ordinary public address.
pub fn closed_range(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => CLOSED_V4
            .iter()
            .find(|(base, prefix, _)| within_v4(ip, *base, *prefix))
            .map(|(_, _, name)| *name),
        IpAddr::V6(ip) => CLOSED_V6
            .iter()
            .find(|(base, prefix, _)| within_v6(ip, *base, *prefix))
            .map(|(_, _, name)| *name)
            .or_else(|| {
                (!within_v6(ip, GLOBAL_UNICAST.0, GLOBAL_UNICAST.1))
                    .then_some("not a public IPv6 address")
            }),
    }
}

fn within_v4(ip: Ipv4Addr, base: Ipv4Addr, prefix: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    ip.to_bits() & mask == base.to_bits() & mask
}

fn within_v6(ip: Ipv6Addr, base: Ipv6Addr, prefix: u8) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    ip.to_bits() & mask == base.to_bits() & mask
}

/// The IPv4 address that an IPv6 one stands for (RFC 4291 §2.5.5, 6052 §2.2, 8215, 3056 §2, 4380 §4).
fn translated(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let bits = ip.to_bits();
    let low = Ipv4Addr::from_bits(bits as u32);
    let starts = |base: Ipv6Addr, prefix| within_v6(ip, base, prefix);
    if starts(Ipv6Addr::UNSPECIFIED, 96) || starts(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96) {
        // The same hosts twice, not a translator: `::` and `::1` are in the table themselves.
        return (bits > 1).then_some(low);
    }
    if starts(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96)
        || starts(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48)
    {
        return Some(low);
    }
    if starts(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16) {
        return Some(Ipv4Addr::from_bits((bits >> 80) as u32));
    }
    starts(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32)
        .then(|| Ipv4Addr::from_bits(!(bits as u32)))
}

const GLOBAL_UNICAST: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// The narrowest name first.
const CLOSED_V4: &[(Ipv4Addr, u8, &str)] = &[
    (Ipv4Addr::new(169, 254, 169, 254), 32, "a cloud's metadata service"),
    (Ipv4Addr::new(169, 254, 170, 2), 32, "a cloud's metadata service (container credentials)"),
    (Ipv4Addr::new(169, 254, 170, 23), 32, "a cloud's metadata service (pod credentials)"),
    (Ipv4Addr::new(100, 100, 100, 200), 32, "a cloud's metadata service"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a cloud's platform service"),
    (Ipv4Addr::new(192, 0, 0, 192), 32, "a cloud's metadata service"),
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network (0.0.0.0/8)"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private (10.0.0.0/8)"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier's shared space (100.64.0.0/10)"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback (127.0.0.0/8)"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local (169.254.0.0/16)"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private (172.16.0.0/12)"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "protocol assignments (192.0.0.0/24)"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation (192.0.2.0/24)"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relays (192.88.99.0/24)"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private (192.168.0.0/16)"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking (198.18.0.0/15)"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation (198.51.100.0/24)"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation (203.0.113.0/24)"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast (224.0.0.0/4)"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved (240.0.0.0/4)"),
];

const CLOSED_V6: &[(Ipv6Addr, u8, &str)] = &[
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, "a cloud's metadata service"),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128, "a cloud's metadata service"),
    (Ipv6Addr::UNSPECIFIED, 128, "this host (::)"),
    (Ipv6Addr::LOCALHOST, 128, "loopback (::1)"),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, "IPv4 written as IPv6 (::ffff:0:0/96)"),
    (Ipv6Addr::UNSPECIFIED, 96, "IPv4 written as IPv6 (::/96)"),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96, "IPv4 behind a translator (64:ff9b::/96)"),
    (
        Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0),
        48,
        "IPv4 behind a translator (64:ff9b:1::/48)",
    ),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, "discarded (100::/64)"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, "IPv4 in a tunnel (Teredo, 2001::/32)"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "protocol assignments (2001::/23)"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "documentation (2001:db8::/32)"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "IPv4 in a tunnel (6to4, 2002::/16)"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "documentation (3fff::/20)"),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16, "segment routing (5f00::/16)"),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "private (fc00::/7)"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local (fe80::/10)"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "site-local (fec0::/10)"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast (ff00::/8)"),
];
