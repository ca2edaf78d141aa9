//! Mails, to a channel's own server: over TLS with a certificate for its name, or not at all.
//!
//! RFC 5321 (replies), RFC 3207 (STARTTLS), RFC 4954 (AUTH). What is said over TLS is lettre's to say; TLS is the one of every
//! other call, so that there are no second roots to trust. What a server says before TLS is believed as far as "go on".

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_chat::{Failure, Letter, Relay, Security, Text};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::extension::ClientId;
use rustls_pki_types::ServerName;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
    ReadBuf,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Mail servers take their time on purpose (RFC 5321, section 4.5.3.2, would give them minutes).
const PATIENCE: Duration = Duration::from_secs(30);
/// For the last word, once the mail is theirs.
const FAREWELL: Duration = Duration::from_secs(1);
/// A server's words as people are told of them.
const SAID: usize = 300;
/// More than a server has to say at once before TLS.
const PREAMBLE: u64 = 16 * 1024;
/// What a connection begins with after STARTTLS, when the server has greeted already.
const GREETED: &[u8] = b"220 greeted before TLS\r\n";

/// Why a letter was not handed over, as far as is known.
#[derive(Debug)]
pub(crate) struct Unhanded {
    pub(crate) failure: Failure,
    /// The server was told of it, and has not said what became of it.
    pub(crate) in_doubt: bool,
}

/// Hands a letter to a server; returns once the server has taken it upon itself.
pub(super) async fn hand(
    tls: &TlsConnector,
    relay: &Relay,
    letter: &Letter,
) -> Result<(), Unhanded> {
    let mut is_told = false;
    let handed = timeout(PATIENCE, handed(tls, relay, letter, &mut is_told)).await;
    let late = || (later("the mail server did not answer in time"), false);
    match handed.unwrap_or_else(|_| Err(late())) {
        Ok(mut connection) => {
            let _ = timeout(FAREWELL, connection.abort()).await;
            Ok(())
        }
        Err((failure, is_answered)) => Err(Unhanded { failure, in_doubt: is_told && !is_answered }),
    }
}

/// An error comes with whether the server itself has said it.
async fn handed(
    tls: &TlsConnector,
    relay: &Relay,
    letter: &Letter,
    is_told: &mut bool,
) -> Result<AsyncSmtpConnection, (Failure, bool)> {
    let mut connection = open(tls, relay, letter).await.map_err(|failure| (failure, false))?;
    *is_told = true;
    let sent = connection.send(&letter.envelope, &letter.message).await;
    sent.map_err(|error| {
        (refused("the mail", &error), error.is_permanent() || error.is_transient())
    })?;
    Ok(connection)
}

async fn open(
    tls: &TlsConnector,
    relay: &Relay,
    letter: &Letter,
) -> Result<AsyncSmtpConnection, Failure> {
    let hello = letter.envelope.from().map_or("countersign", |from| from.domain());
    let hello = ClientId::Domain(hello.to_owned());
    let stream = connect(tls, relay, &hello).await?;
    let connected = AsyncSmtpConnection::connect_with_transport(stream, &hello).await;
    let mut connection = connected.map_err(|error| refused("the greeting", &error))?;
    if let Some((user, password)) = &relay.login {
        let login = Credentials::new(user.clone(), password.expose().to_owned());
        connection
            .auth(DEFAULT_MECHANISMS, &login)
            .await
            .map_err(|error| refused("the login", &error))?;
    }
    Ok(connection)
}

async fn connect(
    tls: &TlsConnector,
    relay: &Relay,
    hello: &ClientId,
) -> Result<Box<dyn AsyncTokioStream>, Failure> {
    let tcp = TcpStream::connect((relay.host.as_str(), relay.port)).await;
    let tcp = tcp.map_err(|_| later("the mail server cannot be reached"))?;
    let (tcp, greeting) = match relay.security {
        Security::None => return Ok(Box::new(tcp)),
        Security::Implicit => (tcp, &b""[..]),
        Security::StartTls => (started(tcp, hello).await?, GREETED),
    };
    let address = tcp.peer_addr().map_err(|_| broken())?;
    let name = ServerName::try_from(relay.host.clone());
    let name = name.map_err(|_| later("the mail server's name is none that a certificate has"))?;
    let stream = tls.connect(name, tcp).await.map_err(|error| {
        later(&format!("nothing was sent: TLS with the mail server failed: {}", said(&error)))
    })?;
    Ok(Box::new(Encrypted { greeting, stream, address }))
}

/// As far as STARTTLS: whatever the server said until then is forgotten, and what it says too early is an attack.
async fn started(tcp: TcpStream, hello: &ClientId) -> Result<TcpStream, Failure> {
    let mut talk = BufReader::new(tcp);
    reply(&mut talk, "220").await?;
    talk.write_all(format!("EHLO {hello}\r\n").as_bytes()).await.map_err(|_| broken())?;
    let offers = reply(&mut talk, "250").await?;
    if !offers.iter().any(|offer| offer.eq_ignore_ascii_case("STARTTLS")) {
        return Err(later("nothing was sent: the mail server does not offer STARTTLS"));
    }
    talk.write_all(b"STARTTLS\r\n").await.map_err(|_| broken())?;
    reply(&mut talk, "220").await?;
    if !talk.buffer().is_empty() {
        return Err(later(
            "nothing was sent: somebody has put words between the mail server and TLS",
        ));
    }
    Ok(talk.into_inner())
}

/// The lines of one reply (RFC 5321, section 4.2), without their code, which has to be this one.
async fn reply(talk: &mut BufReader<TcpStream>, code: &str) -> Result<Vec<String>, Failure> {
    let (mut lines, mut left) = (Vec::new(), PREAMBLE);
    loop {
        let mut line = String::new();
        let read = (&mut *talk).take(left).read_line(&mut line).await.map_err(|_| broken())?;
        left -= read as u64;
        let Some(whole) = line.strip_suffix('\n').filter(|line| line.is_ascii() && line.len() >= 3)
        else {
            return Err(broken());
        };
        let (said_code, rest) = whole.trim_end().split_at_checked(3).ok_or_else(broken)?;
        if said_code != code {
            return Err(later(&format!("nothing was sent: the mail server said {}", said(&whole))));
        }
        let rest = rest.strip_prefix(['-', ' ']).map(|words| (rest.starts_with('-'), words));
        let (goes_on, words) = rest.unwrap_or((false, ""));
        lines.push(words.to_owned());
        if !goes_on {
            return Ok(lines);
        }
    }
}

/// A stream under TLS, in front of which the greeting stands that the server gave before.
#[derive(Debug)]
struct Encrypted {
    greeting: &'static [u8],
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    address: SocketAddr,
}

impl AsyncTokioStream for Encrypted {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.greeting.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let (now, rest) = self.greeting.split_at(self.greeting.len().min(into.remaining()));
        into.put_slice(now);
        self.greeting = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What the server refuses for good waits for people; all else is tried again (RFC 5321, section 4.2.1).
fn refused(what: &str, error: &lettre::transport::smtp::Error) -> Failure {
    let why = format!("the mail server did not take {what}: {}", said(error));
    // A login that no server of this kind takes is no passing trouble either.
    if error.is_permanent() || error.is_client() {
        Failure::Never { why }
    } else {
        Failure::Later { after: None, why }
    }
}

fn broken() -> Failure {
    later("the connection to the mail server broke, or something else than a mail server is there")
}

fn later(why: &str) -> Failure {
    Failure::Later { after: None, why: why.to_owned() }
}

fn said(words: &impl fmt::Display) -> Text {
    Text::of(words.to_string().trim_end()).within(SAID)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use countersign_chat::{Mail, Secret};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that says these lines, one after each that it hears, and leaves; gives what came of a mail, and what the server
    /// heard.
    async fn handed_to(lines: &'static [&'static str]) -> (Result<(), Unhanded>, String) {
        handed_over(Security::StartTls, lines).await
    }

    async fn handed_over(
        security: Security,
        lines: &'static [&'static str],
    ) -> (Result<(), Unhanded>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut stream, mut heard) = (BufReader::new(stream), String::new());
            for line in lines {
                stream.write_all(line.as_bytes()).await.unwrap();
                if stream.read_line(&mut heard).await.unwrap() == 0 {
                    break;
                }
            }
            heard
        });
        let roots = rustls::RootCertStore::empty();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let relay = Relay {
            host: "127.0.0.1".into(),
            port,
            login: (security == Security::StartTls)
                .then(|| ("bot".into(), Secret::new("canary".into()))),
            security,
        };
        let mail = Mail {
            id: None,
            under: None,
            from: "bot@example.com".parse().unwrap(),
            to: "ana@example.com".into(),
            subject: "s".into(),
            text: "t".into(),
            html: "h".into(),
        };
        let letter = mail.written(SystemTime::UNIX_EPOCH).unwrap();
        let sent = hand(&TlsConnector::from(Arc::new(tls)), &relay, &letter).await;
        (sent, server.await.unwrap())
    }

    #[tokio::test]
    async fn nothing_of_a_mail_is_said_to_a_server_without_starttls() {
        let (sent, heard) =
            handed_to(&["220 mx\r\n", "250-mx\r\n250 AUTH PLAIN\r\n", "220 go\r\n"]).await;
        let Err(Unhanded { failure: Failure::Later { why, .. }, in_doubt: false }) = sent else {
            panic!("{sent:?}")
        };
        assert!(why.contains("does not offer STARTTLS"), "{why}");
        assert_eq!(heard, "EHLO example.com\r\n");
    }

    #[tokio::test]
    async fn what_is_put_in_front_of_tls_is_not_taken_for_the_servers_word() {
        const OFFERED: &str = "250-mx\r\n250-SIZE 1\r\n250 STARTTLS\r\n";
        let (sent, heard) =
            handed_to(&["220 mx\r\n", OFFERED, "220 go\r\n250 AUTH PLAIN\r\n", "250 ok\r\n"]).await;
        let Err(Unhanded { failure: Failure::Later { why, .. }, in_doubt: false }) = sent else {
            panic!("{sent:?}")
        };
        assert!(why.contains("between the mail server and TLS"), "{why}");
        assert_eq!(heard, "EHLO example.com\r\nSTARTTLS\r\n");
    }

    #[tokio::test]
    async fn a_mail_is_in_doubt_where_the_server_was_told_of_it_and_has_not_said_what_became_of_it()
    {
        const READY: [&str; 2] = ["220 mx\r\n", "250 mx\r\n"];
        const LEAVES: &[&str] = &[READY[0], READY[1], "250 ok\r\n", "250 ok\r\n", "354 go on\r\n"];
        const REFUSES: &[&str] = &[READY[0], READY[1], "250 ok\r\n", "451 later\r\n", "250 ok\r\n"];
        const NEVER: &[&str] = &[READY[0], READY[1], "550 no\r\n", "250 ok\r\n"];
        const MUTE: &[&str] = &[READY[0]];
        for (lines, doubtful) in [(LEAVES, true), (REFUSES, false), (NEVER, false), (MUTE, false)] {
            let (sent, heard) = handed_over(Security::None, lines).await;
            assert_eq!(sent.unwrap_err().in_doubt, doubtful, "{heard}");
        }
    }
}
