//! The door: connections of agents, CONNECT, and the tunnel behind it.

use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use countersign_gate::{Destination, Scheme};
use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::Badge;
use crate::ahead::{Ahead, Together};
use crate::bundle::InForce;
use crate::doorway::{Doorway, Stranger};
use crate::local;
use crate::names;
use crate::pace::{Along, Brisk, HEAD_TIME, Turn};
use crate::refuse::{Refusal, answer, whole};
use crate::rooms::{Place, Rooms};
use crate::serve::{Entrance, may_be_reached, serve};
use crate::tunnel;
use crate::upstream::BoxBody;
use crate::wait;

/// Behind the door agents are known, and keep connections open between requests for longer than that.
const IDLE_TIME: Duration = Duration::from_secs(120);
const MAX_HEADERS: usize = 100;
const MAX_HEAD: usize = 64 * 1024;
const MAX_STREAMS: u32 = 256;
/// Streams that were given up before we had looked at them, and that we gave up because the client broke the protocol.
const MAX_UNSEEN_RESETS: usize = 20;
const MAX_BROKEN_STREAMS: usize = 256;
/// Of a request's body, before we take it: of one stream, and of one connection.
const WINDOW: u32 = 1024 * 1024;
/// Of an answer's body, while the client does not take it: of one stream.
const SEND_BUFFER: usize = 256 * 1024;
const HEADER_TABLE: u32 = 4096;
const FRAME: u32 = 16 * 1024;
/// How long a connection that was told to go stays until it is cut.
const GOODBYE: Duration = Duration::from_secs(1);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The first byte of TLS (RFC 8446 §5.1: handshake).
const TLS_HANDSHAKE: u8 = 0x16;

/// Accepts connections until `stop`, then lets those that are open finish.
pub(crate) async fn accept(
    listener: TcpListener,
    rooms: Arc<Rooms>,
    stop: CancellationToken,
    open: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(rooms.limits.max_connections));
    let doorway = Doorway::new(rooms.limits.max_connections);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(why) => {
                // Out of file descriptors, most likely: they come back when others close.
                tracing::warn!(%why, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Shed: one that there is no place for is closed at once.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let stranger = doorway.enter();
        let sent_away = stranger.sent_away();
        let visit = Visit {
            rooms: Arc::clone(&rooms),
            stop: stop.clone(),
            tunnels: open.clone(),
            stranger: Mutex::new(Some(stranger)),
            place: Arc::new(Place::new(Arc::clone(&rooms.metrics), place)),
        };
        open.spawn(proxy(stream, Arc::new(visit), sent_away));
    }
}

/// Small answers leave at once, and a held connection stays known to the boxes on its way: the connections of a listener
/// have its settings from their beginning (tcp(7), socket(7)).
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    use rustix::net::sockopt::{
        set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay,
    };
    set_tcp_nodelay(listener, true)?;
    set_socket_keepalive(listener, true)?;
    set_tcp_keepidle(listener, KEEP_ALIVE)?;
    set_tcp_keepintvl(listener, KEEP_ALIVE)?;
    Ok(())
}

fn http1(head_time: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD);
    builder
}

/// One connection of an agent, as long as it or the tunnel that it became is open.
struct Visit {
    rooms: Arc<Rooms>,
    stop: CancellationToken,
    tunnels: TaskTracker,
    /// Until it is known whose it is.
    stranger: Mutex<Option<Stranger>>,
    place: Arc<Place>,
}

impl Visit {
    /// It is this agent's.
    ///
    /// # Errors
    /// When the agent has as many as it may.
    fn is_of(&self, agent_id: &str) -> Result<(), Refusal> {
        if self.place.seat.get().is_none() {
            let _ = self.place.seat.set(self.rooms.hall.seats(agent_id).connection()?);
            self.stranger.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Ok(())
    }
}

/// One connection to the proxy itself.
async fn proxy(stream: TcpStream, visit: Arc<Visit>, sent_away: CancellationToken) {
    let stop = visit.stop.clone();
    let service = service_fn(move |request| {
        let visit = Arc::clone(&visit);
        async move { Ok::<_, Infallible>(at_the_door(visit, request).await) }
    });
    let mut connection =
        pin!(http1(HEAD_TIME).serve_connection(TokioIo::new(stream), service).with_upgrades());
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = sent_away.cancelled() => {
            tracing::debug!("a connection was closed that had not said whose it is: others came");
            return;
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(why) = served {
        tracing::debug!(%why, "a connection to the proxy broke off");
    }
}

async fn at_the_door(visit: Arc<Visit>, request: Request<Incoming>) -> Response<BoxBody> {
    let rooms = &visit.rooms;
    let to_the_proxy = request.method() != Method::CONNECT && request.uri().authority().is_none();
    if to_the_proxy && request.method() == Method::GET && request.uri().path() == "/healthz" {
        return healthz(rooms);
    }
    let badge = match admitted(&visit, &request) {
        Ok(badge) => badge,
        Err(refusal) => return refused(rooms, refusal),
    };
    if to_the_proxy {
        let why = "this is a proxy, and the request is for the proxy itself: set HTTPS_PROXY to it instead".into();
        return refused(rooms, Refusal::BadRequest { why });
    }
    if request.method() != Method::CONNECT {
        return serve(rooms, &badge, &Entrance::Proxy, request).await;
    }
    match tunnel_to(&request) {
        Err(refusal) => refused(rooms, refusal),
        Ok(destination) => match passage(rooms, &badge, &destination).await {
            Err(refusal) => refused(rooms, refusal),
            Ok(passage) => {
                let upgrade = hyper::upgrade::on(request);
                let through = Arc::clone(&visit);
                visit.tunnels.spawn(async move {
                    match passage {
                        Some(allowed) => Box::pin(allowed.carry(&through.rooms, upgrade)).await,
                        None => within(upgrade, &through, &badge, destination).await,
                    }
                });
                Response::new(whole(Bytes::new()))
            }
        },
    }
}

/// What a tunnel is to be: none of our business where a rule says so, and otherwise intercepted.
async fn passage(
    rooms: &Rooms,
    badge: &Badge,
    destination: &Destination,
) -> Result<Option<tunnel::Allowed>, Refusal> {
    let in_force =
        || rooms.control.in_force().ok_or_else(|| wait::nothing_in_force(&rooms.control));
    let agent = in_force()?.bundle.agent(badge).ok_or(Refusal::ProxyCredential)?.id.clone();
    rooms.hall.seats(&agent).may_open(rooms.control.clock().boottime_ms()).await;
    let force = in_force()?;
    if let Some(allowed) = tunnel::allowed(rooms, &force, badge, destination).await? {
        may_be_reached(rooms, &force, destination).await?;
        rooms.metrics.requests.with_label_values(&["tunnelled"]).inc();
        return Ok(Some(allowed));
    }
    may_be_minted(rooms, &force, badge, destination).await.map(|()| None)
}

fn healthz(rooms: &Rooms) -> Response<BoxBody> {
    match (rooms.control.in_force(), rooms.control.away()) {
        (Some(_), None) => answer(StatusCode::OK, "text/plain", "ok\n".into()),
        (Some(_), _) => {
            answer(StatusCode::OK, "text/plain", "ok, without the control plane\n".into())
        }
        (None, _) => {
            answer(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "no bundle yet\n".into())
        }
    }
}

/// Whom the proxy serves. Without a bundle nobody is known, which is not the agent's fault.
fn admitted(visit: &Visit, request: &Request<Incoming>) -> Result<Badge, Refusal> {
    let control = &visit.rooms.control;
    let force = control.in_force().ok_or_else(|| wait::nothing_in_force(control))?;
    let badge = Badge::read(request.headers()).ok_or(Refusal::ProxyCredential)?;
    let agent = force.bundle.agent(&badge).ok_or(Refusal::ProxyCredential)?;
    visit.is_of(&agent.id)?;
    Ok(badge)
}

/// The one destination of a tunnel.
fn tunnel_to(request: &Request<Incoming>) -> Result<Destination, Refusal> {
    let bad = |why: String| Refusal::BadRequest { why };
    let authority =
        request.uri().authority().ok_or_else(|| bad("CONNECT names no host:port".into()))?;
    let destination = Destination::parse(Scheme::Https, authority.as_str(), None)
        .map_err(|why| bad(format!("CONNECT names {why}")))?;
    if !names::is_plain(&destination) {
        return Err(
            bad("CONNECT names an xn-- host that is not written as its letters are".into()),
        );
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let same = |host: &HeaderValue| {
        let named = host
            .to_str()
            .ok()
            .and_then(|host| Destination::parse(Scheme::Https, host, Some(443)).ok());
        named.is_some_and(|named| named.host() == destination.host())
    };
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(bad("there is more than one Host header".into())),
        (Some(host), None) if !same(host) => Err(Refusal::DestinationMismatch {
            why: "CONNECT and its Host header name two hosts".into(),
        }),
        _ => Ok(destination),
    }
}

/// Each new host costs a signature: an agent has so many a minute. Hosts that nothing names get a certificate too, so
/// that the agent can read why it is refused, but fewer.
async fn may_be_minted(
    rooms: &Rooms,
    force: &InForce,
    badge: &Badge,
    destination: &Destination,
) -> Result<(), Refusal> {
    if rooms.authority.has(destination.host()) {
        return Ok(());
    }
    let agent = force.bundle.agent(badge).ok_or(Refusal::ProxyCredential)?;
    let (seats, now) = (rooms.hall.seats(&agent.id), rooms.control.clock().boottime_ms());
    let named = force.bundle.policy.names_host(destination)
        || force.bundle.issues_tokens(destination)
        || local::is(destination);
    let counted = if !named && !seats.stray(destination.host(), now) {
        let detail = Some("and too many such hosts were asked for".into());
        Err(Refusal::PolicyDenied { rule: None, detail })
    } else {
        seats.new_host(destination.host(), now)
    };
    if counted.is_err() {
        seats.turn_away().await;
    }
    counted
}

fn refused(rooms: &Rooms, refusal: Refusal) -> Response<BoxBody> {
    rooms.metrics.requests.with_label_values(&[refusal.code()]).inc();
    refusal.into_response()
}

/// What happens inside a tunnel that is looked into: TLS, then requests, each judged for itself.
async fn within(upgrade: OnUpgrade, visit: &Visit, badge: &Badge, destination: Destination) {
    let Visit { rooms, stop, .. } = visit;
    // Boxed, so that what a handshake takes is gone while requests wait: thousands do.
    let intercepted = Box::pin(intercepted(upgrade, rooms, badge, &destination));
    let Some(Some(stream)) = stop.run_until_cancelled(intercepted).await else { return };
    let entrance = Entrance::Tunnel(destination);
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        Box::pin(serve_h2(stream, rooms, badge, &entrance, stop)).await;
    } else {
        Box::pin(serve_h1(stream, visit, badge, &entrance)).await;
    }
}

/// TLS with the agent, if that is what it speaks, and for the destination that it asked for.
async fn intercepted(
    upgrade: OnUpgrade,
    rooms: &Rooms,
    badge: &Badge,
    destination: &Destination,
) -> Option<TlsStream<Ahead<TcpStream>>> {
    let upgraded = upgrade.await.ok()?;
    let stream = match tokio::time::timeout(HEAD_TIME, hello(upgraded)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(why)) => {
            tracing::warn!(agent = badge.name, host = destination.host(), %why, "a tunnel was closed");
            return None;
        }
        Err(_) => {
            tracing::info!(
                agent = badge.name,
                host = destination.host(),
                "nothing came through a tunnel"
            );
            return None;
        }
    };
    let accepted = rooms.authority.accept(stream, destination).await;
    let host = destination.host();
    accepted
        .inspect_err(|why| {
            tracing::warn!(agent = badge.name, host, %why, "a tunnel was not intercepted");
        })
        .ok()
}

async fn serve_h1(
    stream: TlsStream<Ahead<TcpStream>>,
    visit: &Visit,
    badge: &Badge,
    entrance: &Entrance,
) {
    let Visit { rooms, stop, place, .. } = visit;
    let turn = Turn::default();
    let service = service_fn(|mut request: Request<Incoming>| {
        let taken = turn.take();
        if request.headers().contains_key(UPGRADE) {
            // What the connection becomes, should it become something else, keeps its place.
            request.extensions_mut().insert(Arc::clone(place));
        }
        async {
            let mut response = serve(rooms, badge, entrance, request).await;
            if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let taken = if switches { taken.for_good() } else { taken };
            Ok::<_, Infallible>(response.map(|body| Along::new(body, taken)))
        }
    });
    let stream = TokioIo::new(Brisk::one(Together::new(stream), turn.clone()));
    let mut connection = pin!(http1(IDLE_TIME).serve_connection(stream, service).with_upgrades());
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(why) = served {
        tracing::debug!(%why, "a tunnel broke off");
    }
}

async fn serve_h2(
    stream: TlsStream<Ahead<TcpStream>>,
    rooms: &Arc<Rooms>,
    badge: &Badge,
    entrance: &Entrance,
    stop: &CancellationToken,
) {
    let known = Arc::new((badge.clone(), entrance.clone()));
    let service = service_fn(|request| {
        let (rooms, known) = (Arc::clone(rooms), Arc::clone(&known));
        async move {
            let (badge, entrance) = &*known;
            let mut response = serve(&rooms, badge, entrance, request).await;
            response.headers_mut().remove(CONNECTION);
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .max_frame_size(FRAME)
        .header_table_size(HEADER_TABLE)
        .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
        .max_local_error_reset_streams(MAX_BROKEN_STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let calm = CancellationToken::new();
    let stream = TokioIo::new(Brisk::two(Together::new(stream), calm.clone()));
    let mut connection = pin!(builder.serve_connection(stream, service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = calm.cancelled() => {
            was_cut_off(rooms, badge);
            // GOAWAY, and the end of it: nothing more is read.
            connection.as_mut().graceful_shutdown();
            return drop(tokio::time::timeout(GOODBYE, connection).await);
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(why) = served {
        tracing::debug!(%why, "a tunnel broke off");
        if !why.source().is_some_and(|source| source.is::<io::Error>()) {
            was_cut_off(rooms, badge);
        }
    }
}

/// Not by the network: what came over a connection was none of HTTP/2, or too much.
fn was_cut_off(rooms: &Rooms, badge: &Badge) {
    let force = rooms.control.in_force();
    if let Some(agent) = force.as_ref().and_then(|force| force.bundle.agent(badge)) {
        rooms.hall.seats(&agent.id).was_cut_off(rooms.control.clock().boottime_ms());
    }
}

/// Waits for the first byte through the tunnel, which must begin a TLS handshake: what is not known is refused.
async fn hello(upgraded: Upgraded) -> io::Result<Ahead<TcpStream>> {
    let parts = upgraded
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| io::Error::other("the tunnel is not on the connection that asked for it"))?;
    let mut stream = Ahead::after(parts.io.into_inner(), &parts.read_buf);
    match stream.first().await? {
        None => Err(io::ErrorKind::UnexpectedEof.into()),
        Some(TLS_HANDSHAKE) => Ok(stream),
        Some(_) => Err(io::Error::other(
            "the client speaks something other than TLS, which cannot be looked into",
        )),
    }
}
