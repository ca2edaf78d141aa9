//! The guard: which addresses an agent may never reach through us. It is asked about the address that is about to
//! be dialled, never about a name, and it is asked about every address of a name.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use countersign_policy::addresses::closed_to;
pub use countersign_policy::addresses::{Network, NotANetwork, closed_range};

/// Says of an address whether it may be dialled.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Vec<Network>,
    forbidden: Vec<SocketAddr>,
}

impl Guard {
    /// `allowed` opens ranges that are otherwise closed; `forbidden` are our own listeners, which nothing opens.
    pub fn new(allowed: Vec<Network>, forbidden: Vec<SocketAddr>) -> Self {
        Self { allowed, forbidden }
    }

    /// # Errors
    /// Says which range closes the address.
    pub fn check(&self, address: SocketAddr) -> Result<(), Closed> {
        self.check_own(address)?;
        self.check_range(address.ip())
    }

    /// Only whether the address is one of our own listeners: for addresses that the operator named.
    ///
    /// # Errors
    /// Says so if it is.
    pub fn check_own(&self, address: SocketAddr) -> Result<(), Closed> {
        let ip = address.ip().to_canonical();
        let own = |listener: &SocketAddr| {
            listener.port() == address.port()
                && (listener.ip().to_canonical() == ip
                    || (listener.ip().is_unspecified() && is_local(ip)))
        };
        if self.forbidden.iter().any(own) {
            Err(Closed("one of Countersign's own listeners"))
        } else {
            Ok(())
        }
    }

    fn check_range(&self, ip: IpAddr) -> Result<(), Closed> {
        closed_to(ip, &self.allowed).map_or(Ok(()), |name| Err(Closed(name)))
    }
}

/// The range that an address is refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed(pub &'static str);

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Whether this machine has the address: only then can a socket be bound to it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}
