//! The way to other nodes. Whoever gives a channel vouches that the node at its other end is the one asked for.

use std::io;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

/// Makes channels to other nodes, and keeps them: it is asked often, for every vote and every read.
pub trait Transport: Send + Sync + 'static {
    /// A channel that connects when it is first used, and again when it was cut. `address` is `host:port`.
    fn channel(&self, node: u64, address: &str) -> Channel;
}

/// For a node that is to stay alone: nobody can be reached.
pub struct NoPeers;

impl Transport for NoPeers {
    fn channel(&self, _node: u64, _address: &str) -> Channel {
        Endpoint::from_static("http://nobody").connect_with_connector_lazy(tower::service_fn(
            |_| async {
                Err::<TokioIo<tokio::io::DuplexStream>, _>(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "this node was started without a way to other nodes",
                ))
            },
        ))
    }
}
