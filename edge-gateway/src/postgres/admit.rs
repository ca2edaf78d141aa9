//! From the first byte of an agent's connection to an open one on both sides: who it is, whether it may connect to this
//! database, and as which role.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use super::back::masked;
use super::deed::Deed;
use super::ledger::Ledger;
use super::message::{HEADER, Malformed, body_length, put_text, write};
use super::report::{PROTOCOL, Report, Severity};
use super::scram::{Exchange, MECHANISM, NotProven};
use super::session::{Session, Sides};
use super::startup::{self, CancelRequest, First, Startup};
use super::weigh::{Holding, LetGo, Scales, Weighed};
use super::{Gate, scram};
use crate::agent::Badge;
use crate::bundle::{Bundle, Credential};
use crate::doorway::Stranger;
use crate::judge::refused_if_it_fails;
use crate::pace::HEAD_TIME;
use crate::redact::Redactor;
use crate::refuse::Refusal;
use crate::rooms::Place;
use crate::serve::may_be_reached;
use crate::upstream::{ALPN, Opened};
use crate::wait;

/// A client's proof, and its name for the mechanism.
const LONGEST_PROOF: usize = 4096;
/// How often encryption is asked for: once for each kind, at most.
const QUESTIONS: usize = 3;

type Agent = TlsStream<TcpStream>;

/// What a connection turned out to be.
enum Visitor {
    /// It says what to cancel, and goes.
    Cancels(CancelRequest),
    /// It connects.
    Connects(Box<Agent>, Startup),
    /// It was told why it cannot.
    Gone,
}

/// Serves one connection of an agent, to its end.
pub(super) async fn serve(gate: &Gate, stream: TcpStream, place: Place, stranger: Stranger) {
    let sent_away = stranger.sent_away();
    let known = async {
        let greeted = tokio::time::timeout(HEAD_TIME, Box::pin(greet(gate, stream))).await;
        match greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))? {
            Visitor::Gone => Ok(None),
            Visitor::Cancels(request) => {
                gate.cancel(&request).await;
                Ok(None)
            }
            Visitor::Connects(mut agent, startup) => {
                let proving = Box::pin(authenticate(gate, &mut agent, &startup));
                let proven = tokio::time::timeout(HEAD_TIME, proving).await;
                let proven = proven.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                Ok::<_, io::Error>(proven.map(|who| (agent, startup, who)))
            }
        }
    };
    let known = tokio::select! {
        known = known => known,
        () = sent_away.cancelled() => {
            tracing::debug!("a connection was closed that had not said whose it is: others came");
            return;
        }
    };
    let (agent, startup, who) = match known {
        Ok(Some(known)) => known,
        Ok(None) => return,
        Err(why) => {
            tracing::debug!(%why, "a connection ended before it was known whose it is");
            return;
        }
    };
    let seat = gate.rooms.hall.seats(&who.agent_id).connection();
    match seat {
        Ok(seat) => {
            let _ = place.seat.set(seat);
            drop(stranger);
            Box::pin(connected(gate, *agent, &startup, who)).await;
        }
        Err(refusal) => tell(*agent, &Report::refused(&refusal, Severity::Fatal)).await,
    }
}

/// From the first byte to the startup message, which is read over TLS alone.
async fn greet(gate: &Gate, mut stream: TcpStream) -> io::Result<Visitor> {
    for _ in 0..QUESTIONS {
        let packet = startup::read(&mut stream).await?;
        match startup::parse(&packet) {
            Ok(First::Gss) => stream.write_all(b"N").await?,
            Ok(First::Cancel(request)) => return Ok(Visitor::Cancels(request)),
            Ok(First::Tls) => {
                stream.write_all(b"S").await?;
                return encrypted(gate, stream).await;
            }
            Ok(First::Startup(_)) => {
                let why = "This gateway is reached over TLS alone: connect with sslmode=verify-full and its CA.";
                let report = Report::fatal("28000", "no TLS", why.into());
                tell(stream, &report).await;
                return Ok(Visitor::Gone);
            }
            Err(refused) => {
                tell(
                    stream,
                    &Report::fatal(refused.code, "not a connection that can be made", refused.why),
                )
                .await;
                return Ok(Visitor::Gone);
            }
        }
    }
    Err(io::Error::other("it asked for encryption too often"))
}

async fn encrypted(gate: &Gate, stream: TcpStream) -> io::Result<Visitor> {
    let address = stream.local_addr()?.ip().to_canonical().to_string();
    let accepted = gate.rooms.authority.accept_named(stream, &gate.names, &address, ALPN).await;
    let mut stream = accepted.map_err(io::Error::other)?;
    let packet = startup::read(&mut stream).await?;
    match startup::parse(&packet) {
        Ok(First::Startup(startup)) => Ok(Visitor::Connects(Box::new(stream), startup)),
        Ok(First::Cancel(request)) => Ok(Visitor::Cancels(request)),
        Ok(First::Tls | First::Gss) => Err(io::Error::other("it asked for encryption within TLS")),
        Err(refused) => {
            let report =
                Report::fatal(refused.code, "not a connection that can be made", refused.why);
            tell(stream, &report).await;
            Ok(Visitor::Gone)
        }
    }
}

/// Whose connection it is, and with whose password it is to be opened.
struct Who {
    badge: Badge,
    agent_id: String,
    credential_id: String,
}

/// Has the client prove that it knows a password of an agent and a credential. None: it did not, and was told so; whether
/// there is such an agent it is not told.
async fn authenticate(
    gate: &Gate,
    agent: &mut Agent,
    startup: &Startup,
) -> io::Result<Option<Who>> {
    let mut out = BytesMut::new();
    startup.put_negotiation(&mut out);
    let control = &gate.rooms.control;
    let Some(force) = control.in_force() else {
        let report = Report::refused(&wait::nothing_in_force(control), Severity::Fatal);
        say(agent, &report).await?;
        return Ok(None);
    };
    write(&mut out, b'R', |out| {
        out.put_u32(10);
        put_text(out, MECHANISM);
        out.put_u8(0);
    });
    send(agent, &out).await?;

    let candidates = candidates(&force.bundle, gate, &startup.user);
    let passwords: Vec<_> = candidates.iter().map(|it| it.password.clone()).collect();
    let proven = prove(gate, agent, &startup.user, &passwords).await?;
    let who = proven.ok().and_then(|index| candidates.into_iter().nth(index)).map(|it| it.who);
    if who.is_none() {
        tracing::warn!("a client at a Postgres listener did not prove who it is");
        let report = Report {
            hint: "The user is the agent's name, and the password is made with: countersign credential postgres-url"
                .into(),
            ..Report::fatal("28P01", "password authentication failed", "Nothing was opened.".into())
        };
        say(agent, &report).await?;
    }
    Ok(who)
}

/// The index of the password that the client proved to know.
async fn prove(
    gate: &Gate,
    agent: &mut Agent,
    user: &str,
    passwords: &[Zeroizing<String>],
) -> io::Result<Result<usize, NotProven>> {
    let first = proof(agent).await?;
    let Some(first) = initial(&first) else { return Ok(Err(NotProven)) };
    let (salt, nonce) = (gate.verifiers.salt(user), hex::encode(rand::random::<[u8; 18]>()));
    let (exchange, answer) = match Exchange::begin(first, &salt, &nonce) {
        Ok(begun) => begun,
        Err(not) => return Ok(Err(not)),
    };
    let verifiers = gate.verifiers.of(user, passwords).await;
    send_authentication(agent, 11, answer.as_bytes()).await?;
    let last = proof(agent).await?;
    match exchange.end(&last, &verifiers) {
        Ok((index, answer)) => {
            send_authentication(agent, 12, answer.as_bytes()).await?;
            Ok(Ok(index))
        }
        Err(not) => Ok(Err(not)),
    }
}

/// What a client begins SCRAM with: the mechanism's name, and a message.
fn initial(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body.strip_prefix(MECHANISM.as_bytes())?.strip_prefix(b"\0")?;
    let length = usize::try_from(rest.try_get_i32().ok()?).ok()?;
    (rest.len() == length).then_some(rest)
}

/// Reads one message that proves something, and not a byte more.
async fn proof(agent: &mut Agent) -> io::Result<Vec<u8>> {
    let mut header = [0; HEADER];
    agent.read_exact(&mut header).await?;
    let length = body_length(&header).map_err(|Malformed(why)| io::Error::other(why))?;
    let length = length.filter(|length| header[0] == b'p' && *length <= LONGEST_PROOF);
    let length = length.ok_or_else(|| io::Error::other("something else than a proof came"))?;
    let mut body = vec![0; length];
    agent.read_exact(&mut body).await?;
    Ok(body)
}

/// A password that would do, and what it stands for.
struct Candidate {
    who: Who,
    password: Zeroizing<String>,
}

/// `AGENT`, or `AGENT/CREDENTIAL`: what the agent of this name can connect with here.
fn candidates(bundle: &Bundle, gate: &Gate, user: &str) -> Vec<Candidate> {
    let (name, only) = match user.split_once('/') {
        Some((name, credential)) => (name, Some(credential)),
        None => (user, None),
    };
    let Some(badge) = bundle.agent_named(name) else { return Vec::new() };
    let Some(agent) = bundle.agent(&badge) else { return Vec::new() };
    let mut candidates = Vec::new();
    for credential in bundle.serving(&gate.destination) {
        if credential.postgres_role().is_none() || only.is_some_and(|only| only != credential.name)
        {
            continue;
        }
        candidates.extend(credential.fake_keys.iter().map(|fake_key| Candidate {
            who: Who {
                badge: badge.clone(),
                agent_id: agent.id.clone(),
                credential_id: credential.id.clone(),
            },
            password: scram::password(&badge.token_sha256, fake_key),
        }));
    }
    candidates
}

/// Opens the connection to the server, if the policy or people let it, and carries it to its end.
async fn connected(gate: &Gate, mut agent: Agent, startup: &Startup, who: Who) {
    let opened = opened(gate, &mut agent, startup, &who).await;
    let (opened, credential, scales, redactor, agent_read) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(refusal) => {
            gate.rooms.metrics.requests.with_label_values(&[refusal.code()]).inc();
            return tell(agent, &Report::refused(&refusal, Severity::Fatal)).await;
        }
    };
    let Opened { stream, read: server_read, parameters, cancel } = opened;
    let mut ledger = Ledger::new();
    parameters.iter().for_each(|(name, value)| ledger.reported(name, value));
    let utf8 = parameters.iter().any(|(name, value)| name == "client_encoding" && value == "UTF8");
    if !utf8 || ledger.misread {
        let why = "The server does not speak UTF8, and nothing else can be read here.".to_owned();
        return tell(agent, &Report::fatal(PROTOCOL, "the server is not understood", why)).await;
    }
    let mut masker = redactor.masker();
    let session = Arc::new(Session::new(scales, redactor, ledger));
    let (_entered, request) = gate.line(&session, cancel);
    let mut out = BytesMut::new();
    write(&mut out, b'R', |out| out.put_u32(0));
    for (name, value) in &parameters {
        let mut pair = BytesMut::new();
        put_text(&mut pair, name);
        put_text(&mut pair, value);
        write(&mut out, b'S', |out| masked(masker.as_mut(), pair.freeze(), out));
    }
    write(&mut out, b'K', |out| {
        out.put_i32(request.process);
        out.put_i32(request.secret);
    });
    write(&mut out, b'Z', |out| out.put_u8(b'I'));
    if send(&mut agent, &out).await.is_err() {
        return;
    }
    tracing::info!(
        agent = session.scales.badge.name,
        host = gate.destination.host(),
        credential = credential.name,
        "a Postgres connection was opened"
    );
    let sides = Sides { agent, agent_read, server: stream, server_read };
    let end = Box::pin(session.run(&credential, sides)).await;
    tracing::info!(
        agent = session.scales.badge.name,
        host = gate.destination.host(),
        end = end.word(),
        "a Postgres connection ended"
    );
}

/// What it takes to go on: the connection, the credential that opened it, what statements are weighed by, what is masked,
/// and what the agent said meanwhile.
type Ready = (Opened, Arc<Credential>, Scales, Redactor, BytesMut);

/// None: the agent left.
async fn opened(
    gate: &Gate,
    agent: &mut Agent,
    startup: &Startup,
    who: &Who,
) -> Result<Option<Ready>, Refusal> {
    let rooms = &gate.rooms;
    let force = rooms.control.in_force().ok_or_else(|| wait::nothing_in_force(&rooms.control))?;
    may_be_reached(rooms, &force, &gate.destination).await?;
    let credential = force.bundle.credential(&who.credential_id).cloned();
    let Some(credential) = credential.filter(|it| it.serves(&gate.destination)) else {
        return Err(Refusal::ProxyCredential);
    };
    let role = credential.postgres_role().unwrap_or_default().to_owned();
    let scales = Scales::new(
        Arc::clone(rooms),
        who.badge.clone(),
        gate.destination.clone(),
        &startup.database,
        &role,
    )?;
    let (weighed, redactor) = refused_if_it_fails(scales.weigh_opening(&credential)).await?;
    let mut agent_read = BytesMut::new();
    let (outbound, deed, redactor) = match weighed {
        Weighed::Passes(outbound, _) => (outbound, None, redactor),
        Weighed::Holds(holding) => {
            let waited = wait_with(agent, &mut agent_read, *holding, &scales);
            let Some(LetGo { outbound, by, body, redactor }) = waited.await? else {
                return Ok(None);
            };
            let approval_id = outbound.approval_id().copied();
            let deed = by.map(|id| Deed::new(Arc::clone(&rooms.control), id, approval_id, body));
            (outbound, deed, redactor)
        }
    };
    let opened = rooms.upstream.open_postgres(outbound, &startup.parameters).await;
    match (&opened, deed) {
        (Ok(_), Some(deed)) => deed.done(),
        (Err(_), Some(deed)) => deed.not_sent(),
        (_, None) => {}
    }
    let opened = opened.map_err(crate::carry::not_sent)?;
    rooms.metrics.requests.with_label_values(&["forwarded"]).inc();
    Ok(Some((opened, credential, scales, redactor, agent_read)))
}

/// Waits for people, or for the key, with an agent that may leave meanwhile.
async fn wait_with(
    agent: &mut Agent,
    read: &mut BytesMut,
    holding: Holding,
    scales: &Scales,
) -> Result<Option<LetGo>, Refusal> {
    /// Nothing is said before the server is ready, except goodbye.
    const MOST: usize = 1024;
    let mut letting_go = pin!(holding.let_go(&scales.rooms, &scales.badge));
    loop {
        let room = read.len() < MOST;
        tokio::select! {
            let_go = &mut letting_go => return let_go.map(Some),
            came = agent.read_buf(read), if room => {
                if came.unwrap_or(0) == 0 {
                    return Ok(None);
                }
            }
        }
    }
}

async fn send_authentication<S>(stream: &mut S, kind: u32, text: &[u8]) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let mut out = BytesMut::new();
    write(&mut out, b'R', |out| {
        out.put_u32(kind);
        out.put_slice(text);
    });
    send(stream, &out).await
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, report: &Report) -> io::Result<()> {
    let mut out = BytesMut::new();
    report.put(&mut out);
    send(stream, &out).await
}

/// Says why, and closes.
async fn tell<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, report: &Report) {
    // It is going away: that it cannot be told is no news.
    let _ = tokio::time::timeout(HEAD_TIME, async {
        say(&mut stream, report).await?;
        stream.shutdown().await
    })
    .await;
}
