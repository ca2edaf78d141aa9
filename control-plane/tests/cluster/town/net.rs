//! Loopback TCP between nodes: who connects says which node it is, and any pair can be cut.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_control_plane::cluster::Transport;
use countersign_control_plane::peers::PeerId;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

#[derive(Default)]
pub(crate) struct Net {
    /// Pairs, the smaller id first, between which nothing passes.
    cut: Mutex<BTreeSet<(u64, u64)>>,
    isolated: Mutex<BTreeSet<u64>>,
    connections: Mutex<Vec<(u64, u64, CancellationToken)>>,
    /// Bytes that may still be sent on any one connection that is made from now on; none are left at 0.
    allowance: Mutex<Option<Arc<AtomicU64>>>,
    /// Every byte that went over any connection.
    tap: Arc<Mutex<Vec<u8>>>,
}

#[allow(dead_code)]
impl Net {
    /// A node's way to others.
    pub(crate) fn way(self: &Arc<Self>) -> Arc<Way> {
        Arc::new(Way { net: self.clone(), me: Arc::default(), channels: Mutex::default() })
    }

    pub(crate) fn cut(&self, a: u64, b: u64) {
        self.cut.lock().unwrap().insert((a.min(b), a.max(b)));
        self.end_what_is_cut();
    }

    pub(crate) fn mend(&self) {
        self.cut.lock().unwrap().clear();
    }

    pub(crate) fn isolate(&self, node: u64) {
        self.isolated.lock().unwrap().insert(node);
        self.end_what_is_cut();
    }

    pub(crate) fn heal(&self, node: u64) {
        self.isolated.lock().unwrap().remove(&node);
    }

    /// All new connections together may send this much more, and then break.
    pub(crate) fn allow(&self, bytes: Option<u64>) {
        *self.allowance.lock().unwrap() = bytes.map(|bytes| Arc::new(AtomicU64::new(bytes)));
        for (_, _, end) in self.connections.lock().unwrap().drain(..) {
            end.cancel();
        }
    }

    /// What somebody between the nodes has seen so far, if they speak in the clear, as they do here.
    pub(crate) fn overheard(&self) -> Vec<u8> {
        self.tap.lock().unwrap().clone()
    }

    pub(crate) fn is_used_up(&self) -> bool {
        let allowance = self.allowance.lock().unwrap();
        allowance.as_ref().is_some_and(|left| left.load(Ordering::SeqCst) == 0)
    }

    fn passes(&self, a: u64, b: u64) -> bool {
        let isolated = self.isolated.lock().unwrap();
        !isolated.contains(&a)
            && !isolated.contains(&b)
            && !self.cut.lock().unwrap().contains(&(a.min(b), a.max(b)))
    }

    fn end_what_is_cut(&self) {
        self.connections.lock().unwrap().retain(|(a, b, end)| {
            let passes = self.passes(*a, *b);
            if !passes {
                end.cancel();
            }
            passes && !end.is_cancelled()
        });
    }

    async fn connect(self: Arc<Self>, from: u64, to: u64, address: &str) -> io::Result<Wire> {
        if !self.passes(from, to) {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let mut tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        tcp.write_all(&from.to_be_bytes()).await?;
        let end = CancellationToken::new();
        self.connections.lock().unwrap().push((from, to, end.clone()));
        self.end_what_is_cut();
        let allowance = self.allowance.lock().unwrap().clone();
        let (end, tap) = (Box::pin(end.cancelled_owned()), self.tap.clone());
        Ok(Wire { tcp, from: PeerId(from), end, allowance, tap })
    }

    pub(crate) async fn accept(
        self: Arc<Self>,
        tcp: io::Result<TcpStream>,
        to: u64,
    ) -> io::Result<Wire> {
        let mut tcp = tcp?;
        tcp.set_nodelay(true)?;
        let from = tcp.read_u64().await?;
        let end = CancellationToken::new();
        self.connections.lock().unwrap().push((from, to, end.clone()));
        self.end_what_is_cut();
        let end = Box::pin(end.cancelled_owned());
        Ok(Wire { tcp, from: PeerId(from), end, allowance: None, tap: self.tap.clone() })
    }
}

pub(crate) struct Way {
    net: Arc<Net>,
    me: Arc<OnceLock<u64>>,
    channels: Mutex<HashMap<(u64, String), Channel>>,
}

impl Way {
    pub(crate) fn is_of(&self, node: u64) {
        self.me.set(node).unwrap();
    }
}

impl Transport for Way {
    fn channel(&self, node: u64, address: &str) -> Channel {
        let mut channels = self.channels.lock().unwrap();
        let key = (node, address.to_owned());
        let connect = || {
            let (net, me, address) = (self.net.clone(), self.me.clone(), address.to_owned());
            Endpoint::from_static("http://node")
                .http2_keep_alive_interval(Duration::from_millis(200))
                .keep_alive_timeout(Duration::from_millis(400))
                .keep_alive_while_idle(true)
                .connect_with_connector_lazy(tower::service_fn(move |_| {
                    let (net, me, address) = (net.clone(), me.clone(), address.clone());
                    async move {
                        let me = *me.get().ok_or(io::ErrorKind::NotConnected)?;
                        net.connect(me, node, &address).await.map(TokioIo::new)
                    }
                }))
        };
        channels.entry(key).or_insert_with(connect).clone()
    }
}

/// One end of a connection.
pub(crate) struct Wire {
    tcp: TcpStream,
    from: PeerId,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    allowance: Option<Arc<AtomicU64>>,
    tap: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    fn is_cut(&mut self, context: &mut Context<'_>) -> bool {
        self.end.as_mut().poll(context).is_ready()
    }
}

impl Connected for Wire {
    type ConnectInfo = PeerId;

    fn connect_info(&self) -> PeerId {
        self.from
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_cut(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if let Some(left) = &self.allowance {
            let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                Some(left.saturating_sub(bytes.len() as u64))
            });
            if taken == Ok(0) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        let written = Pin::new(&mut self.tcp).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.tap.lock().unwrap().extend(&bytes[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
