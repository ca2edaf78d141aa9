//! Simulated TCP: between nodes, where who connects says which node it is, and from edges, under their TLS.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_control_plane::cluster::Transport;
use countersign_control_plane::peers::PeerId;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use turmoil::net::{TcpListener, TcpStream};

/// Where nodes listen for nodes, and for edges.
pub(crate) const PEERS: u16 = 9443;
pub(crate) const EDGES: u16 = 443;

const CONNECT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_millis(200);
const KEEPALIVE_ANSWER: Duration = Duration::from_millis(400);

/// One end of a connection, and what is known of the other.
pub(crate) struct Wire<Known> {
    tcp: TcpStream,
    known: Known,
}

impl<Known: Clone + Send + Sync + 'static> Connected for Wire<Known> {
    type ConnectInfo = Known;

    fn connect_info(&self) -> Known {
        self.known.clone()
    }
}

impl<Known: Unpin> AsyncRead for Wire<Known> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl<Known: Unpin> AsyncWrite for Wire<Known> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

/// A node's way to others, for one life of it.
#[derive(Default)]
pub(crate) struct Way {
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
        let connect = || {
            let (me, address) = (Arc::clone(&self.me), address.to_owned());
            let connector = tower::service_fn(move |_| {
                let (me, address) = (Arc::clone(&me), address.clone());
                async move {
                    let me = *me.get().ok_or(io::ErrorKind::NotConnected)?;
                    let mut tcp = connected(TcpStream::connect(address)).await?;
                    tcp.write_all(&me.to_be_bytes()).await?;
                    Ok::<_, io::Error>(TokioIo::new(tcp))
                }
            });
            kept_alive(Endpoint::from_static("http://node")).connect_with_connector_lazy(connector)
        };
        channels.entry((node, address.to_owned())).or_insert_with(connect).clone()
    }
}

/// An edge's way to one node, by its own certificate.
pub(crate) async fn to_gateway(
    node: String,
    tls: ClientTlsConfig,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let node = node.clone();
        async move { connected(TcpStream::connect((node, EDGES))).await.map(TokioIo::new) }
    });
    let endpoint = kept_alive(Endpoint::from_static("https://localhost")).tls_config(tls)?;
    endpoint.connect_with_connector(connector).await
}

fn kept_alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
}

async fn connected(
    connecting: impl Future<Output = io::Result<TcpStream>>,
) -> io::Result<TcpStream> {
    timeout(CONNECT, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Nodes that connect, each by the number that it begins with.
pub(crate) async fn peers_arriving() -> io::Result<ReceiverStream<io::Result<Wire<PeerId>>>> {
    arriving(PEERS, |mut tcp, _| async move {
        let from = timeout(CONNECT, tcp.read_u64()).await.ok()?.ok()?;
        Some(Wire { tcp, known: PeerId(from) })
    })
    .await
}

pub(crate) async fn edges_arriving() -> io::Result<ReceiverStream<io::Result<Wire<TcpConnectInfo>>>>
{
    arriving(EDGES, |tcp, from| async move {
        let known = TcpConnectInfo { local_addr: None, remote_addr: Some(from) };
        Some(Wire { tcp, known })
    })
    .await
}

async fn arriving<Known, Greeted>(
    port: u16,
    greet: impl Fn(TcpStream, SocketAddr) -> Greeted + Send + 'static,
) -> io::Result<ReceiverStream<io::Result<Wire<Known>>>>
where
    Known: Send + 'static,
    Greeted: Future<Output = Option<Wire<Known>>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((tcp, from)) = listener.accept().await {
            let (sender, greeted) = (sender.clone(), greet(tcp, from));
            tokio::spawn(async move {
                if let Some(wire) = greeted.await {
                    // The server may be gone already.
                    let _ = sender.send(Ok(wire)).await;
                }
            });
        }
    });
    Ok(ReceiverStream::new(receiver))
}
