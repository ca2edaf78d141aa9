//! Tunnels that are not looked into: to hosts that a rule names for it and that have no key. What is checked is where it
//! goes, that it begins as TLS for the same name, how much it is, and how long it lasts.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use countersign_gate::Destination;
use countersign_policy::Tunnel;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::agent::{Badge, Seat};
use crate::bundle::InForce;
use crate::channel::{End, Kind, Open};
use crate::refuse::Refusal;
use crate::rooms::Rooms;
use crate::wait;

/// A tunnel that may be opened.
pub(crate) struct Allowed {
    tunnel: Tunnel,
    badge: Badge,
    destination: Destination,
    _seat: Seat,
}

/// The whole of the client's first message must be here by then, and fit into this.
const HELLO_TIME: Duration = Duration::from_secs(10);
const MOST_OF_HELLO: usize = 64 * 1024;
const CHUNK: usize = 16 * 1024;

/// Whether a rule says that this agent is tunnelled to this destination; None where it is to be looked into. Where it may
/// go was checked.
///
/// # Errors
/// When it says so, and it must not be all the same.
pub(crate) async fn allowed(
    rooms: &Rooms,
    force: &InForce,
    badge: &Badge,
    destination: &Destination,
) -> Result<Option<Allowed>, Refusal> {
    let agent = force.bundle.agent(badge).ok_or(Refusal::ProxyCredential)?;
    let Some(tunnel) = force.bundle.policy.tunnel(&agent.name, destination) else {
        return Ok(None);
    };
    if let Err(why) = without_key(force, destination) {
        let detail = Some(why.to_owned());
        return Err(Refusal::PolicyDenied { rule: Some(tunnel.rule), detail });
    }
    rooms.control.lets_through().await.map_err(wait::unreachable)?;
    let seat = rooms.hall.seats(&agent.id).moving().await?;
    let (badge, destination) = (badge.clone(), destination.clone());
    Ok(Some(Allowed { tunnel, badge, destination, _seat: seat }))
}

/// Whatever the port: a key must never seem to be put in where it is not.
fn without_key(force: &InForce, destination: &Destination) -> Result<(), &'static str> {
    let mut credentials = force.bundle.credentials.iter();
    let keyed = credentials.any(|credential| credential.destination.host() == destination.host());
    if keyed {
        Err("there is a key for this host, and none can be put into a tunnel")
    } else {
        Ok(())
    }
}

impl Allowed {
    /// Carries it, from the agent's 200 on, to its end.
    pub(crate) async fn carry(self, rooms: &Rooms, upgrade: OnUpgrade) {
        let Self { tunnel, badge, destination, .. } = &self;
        let host = destination.host();
        let open = Open::new(rooms, Kind::Tunnel, &badge.name, host, &tunnel.rule, tunnel.channel);
        let end = tokio::select! {
            end = open.over(rooms, |force| self.stands(force)) => end,
            end = self.joined(rooms, upgrade, &open) => end,
        };
        open.ended(rooms, &end);
    }

    fn stands(&self, force: &InForce) -> Result<(), &'static str> {
        let agent = force
            .bundle
            .agent(&self.badge)
            .ok_or("the agent is no longer known to this gateway")?;
        let tunnel = force.bundle.policy.tunnel(&agent.name, &self.destination);
        tunnel.ok_or("the policy no longer tunnels this")?;
        if force.bundle.forbids(&self.destination) {
            return Err("the destination is part of Countersign itself");
        }
        without_key(force, &self.destination)
    }

    async fn joined(&self, rooms: &Rooms, upgrade: OnUpgrade, open: &Open) -> End {
        let host = self.destination.host();
        let Ok(upgraded) = upgrade.await else { return End::Broken };
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return End::Broken };
        let mut agent = parts.io.into_inner();
        let hello = tokio::time::timeout(HELLO_TIME, hello(&mut agent, parts.read_buf));
        let (hello, name) = match hello.await {
            Ok(Ok(hello)) => hello,
            Ok(Err(why)) => {
                tracing::warn!(agent = self.badge.name, host, %why, "a tunnel was closed");
                return End::Malformed("it does not begin with TLS");
            }
            Err(_) => return End::Malformed("no TLS came in time"),
        };
        if let Err(why) = same(name.as_deref(), host) {
            tracing::warn!(agent = self.badge.name, host, asked = name, why, "a tunnel was closed");
            return End::Malformed(why);
        }
        let mut upstream = match rooms.upstream.connect(&self.destination).await {
            Ok(upstream) => upstream,
            Err(why) => {
                tracing::warn!(agent = self.badge.name, host, %why, "a tunnel was closed");
                return End::Broken;
            }
        };
        if let Err(end) = open.spend(hello.len()) {
            return end;
        }
        if upstream.write_all(&hello).await.is_err() {
            return End::Broken;
        }
        drop(hello);
        let (from_agent, to_agent) = agent.split();
        let (from_upstream, to_upstream) = upstream.split();
        let both = tokio::try_join!(
            copy(from_agent, to_upstream, open),
            copy(from_upstream, to_agent, open)
        );
        both.map_or_else(|end| end, |_| End::Closed)
    }
}

/// TLS has to be for the name that was asked for. An address has none (RFC 6066 §3).
fn same(name: Option<&str>, host: &str) -> Result<(), &'static str> {
    match name {
        Some(name) if name.eq_ignore_ascii_case(host) => Ok(()),
        Some(_) => Err("TLS in it asked for another name"),
        None if host.parse::<IpAddr>().is_ok() => Ok(()),
        None => Err("TLS in it asked for no name"),
    }
}

/// The bytes of the client's first message, which must be TLS, and the server name in it.
pub(crate) async fn hello(
    stream: &mut (impl AsyncRead + Unpin),
    read_already: Bytes,
) -> io::Result<(BytesMut, Option<String>)> {
    let mut acceptor = Acceptor::default();
    let mut read = BytesMut::from(&read_already[..]);
    let mut looked_at = 0;
    loop {
        while looked_at < read.len() {
            looked_at += acceptor.read_tls(&mut &read[looked_at..])?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_owned);
                    return Ok((read, name));
                }
                Err((why, _)) => return Err(io::Error::other(why)),
            }
        }
        if read.len() >= MOST_OF_HELLO {
            return Err(io::Error::other("its first message does not end"));
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Passes on what comes, to its end.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    open: &Open,
) -> Result<(), End> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await.map_err(|_| End::Broken)?;
        if read == 0 {
            return to.shutdown().await.map_err(|_| End::Broken);
        }
        open.spend(read)?;
        to.write_all(&chunk[..read]).await.map_err(|_| End::Broken)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n_16_tls_is_for_the_host_that_was_asked_for() {
        assert_eq!(same(Some("Mail.Test"), "mail.test"), Ok(()));
        assert_eq!(same(None, "192.0.2.1"), Ok(()));
        assert_eq!(same(None, "2001:db8::1"), Ok(()));
        for (name, host) in
            [(Some("evil.test"), "mail.test"), (None, "mail.test"), (Some("a"), "192.0.2.1")]
        {
            assert!(same(name, host).is_err(), "{name:?} {host}");
        }
    }
}
