//! Accepts connections, TLS and all, and serves HTTP/2 on them until told to stop.
//!
//! What a listener offers can change while it listens: a [`Door`] is what it offers right now. Connections that came
//! in through a door end when that door is cut.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::transport::server::Connected as _;
use tower::{Service, ServiceExt as _};

const CONNECTIONS: usize = 4096;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long calls that are under way may take once the listener was told to stop.
const GRACE: Duration = Duration::from_secs(3);
const METADATA_BYTES: u32 = 64 * 1024;

/// What a listener offers.
#[derive(Clone)]
pub(crate) struct Door<S> {
    /// None: every connection is closed at once.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) service: S,
    /// Ends every connection that came in through this door, at once.
    pub(crate) cut: CancellationToken,
}

/// Listens on `address`; port 0 picks one. `key` names the setting in errors.
pub(crate) async fn bind(
    address: SocketAddr,
    key: &str,
) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("nothing listens on {address} ({key}): choose another address or port, or stop what is using it")
    })?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Accepts until `stop`; returns when every connection has ended.
pub(crate) async fn serve<S>(
    listener: TcpListener,
    door: watch::Receiver<Door<S>>,
    stop: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (tcp, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly a lack of file descriptors: others must end before the next one can begin.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let (door, stop) = (door.borrow().clone(), stop.clone());
        connections.spawn(async move {
            serve_one(tcp, door, stop).await;
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_one<S>(tcp: TcpStream, door: Door<S>, stop: CancellationToken)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let Some(config) = door.tls else { return };
    let Ok(()) = tcp.set_nodelay(true) else { return };
    let tls = match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let peer = tls.connect_info();
    let service = door.service.map_request(move |request: Request<_>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        request
    });
    let mut http = auto::Builder::new(TokioExecutor::new()).http2_only();
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(256)
        .max_header_list_size(METADATA_BYTES);
    let mut connection =
        std::pin::pin!(http.serve_connection(TokioIo::new(tls), TowerToHyperService::new(service)));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = door.cut.cancelled() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = door.cut.cancelled() => {}
        () = tokio::time::sleep(GRACE) => {}
    }
}
