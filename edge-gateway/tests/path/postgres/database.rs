//! A Postgres server that the test plays itself: it takes connections as they come, has their clients prove that they know
//! the role's password, and says what the test wants from then on.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, BytesMut};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::world::Authority;

pub(crate) const HOST: &str = "db.test";
const SALT: &[u8] = b"salt of a server";
const ITERATIONS: u32 = 4096;
/// What the names of the edge's own statements begin with.
pub(crate) const OURS: &[u8] = b"countersign ";
/// What running statements are cancelled with.
pub(crate) const CANCEL_KEY: [u8; 8] = [0, 0, 0x12, 0x34, 1, 2, 3, 4];

pub(crate) struct Database {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    certificate: CertificateDer<'static>,
}

/// How a server has its clients prove that they know the password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    Scram,
    /// And bind the channel.
    Plus,
}

/// One session, whose client proved that it knows the password.
pub(crate) struct Line {
    from: Source,
    to: To,
    /// The startup message's names and values.
    pub(crate) startup: Vec<(String, String)>,
    /// The mechanism that the client chose.
    pub(crate) mechanism: String,
}

/// What a session is read from.
enum Source {
    /// Questions of the edge's own are answered meanwhile: the server knows no table. They are not among the messages.
    Answering {
        messages: mpsc::Receiver<(u8, Vec<u8>)>,
        _answers: AbortOnDropHandle<()>,
    },
    Itself(ReadHalf<TlsStream<TcpStream>>),
}

type To = Arc<tokio::sync::Mutex<WriteHalf<TlsStream<TcpStream>>>>;

impl Database {
    pub(crate) async fn start(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (certificate, key) = authority.leaf(HOST, ExtendedKeyUsagePurpose::ServerAuth);
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a leaf");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .expect("TLS");
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), certificate }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().expect("an address").port()
    }

    /// The next connection, before anything is said on it.
    pub(crate) async fn bare(&self) -> TcpStream {
        let accepted = tokio::time::timeout(Duration::from_secs(20), self.listener.accept());
        accepted.await.expect("a connection in time").expect("a connection").0
    }

    /// Whether nobody is at the door.
    pub(crate) fn is_empty(&self) -> bool {
        futures::FutureExt::now_or_never(self.listener.accept()).is_none()
    }

    /// The next connection, once it is encrypted.
    pub(crate) async fn encrypted(&self) -> TlsStream<TcpStream> {
        let mut stream = self.bare().await;
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).await.expect("a request for TLS");
        assert_eq!(asked, [0, 0, 0, 8, 4, 210, 22, 47]);
        stream.write_all(b"S").await.expect("written");
        self.acceptor.accept(stream).await.expect("TLS")
    }

    /// The next session, on which the server is ready. It answers what the edge itself asks about tables.
    pub(crate) async fn line(&self, password: &str) -> Line {
        self.line_that(Asks::Scram, password).await.answering()
    }

    /// The next session, on which the server is ready. Whatever is asked there, the test answers.
    pub(crate) async fn played_line(&self, password: &str) -> Line {
        self.line_that(Asks::Scram, password).await
    }

    pub(crate) async fn line_that(&self, asks: Asks, password: &str) -> Line {
        let mut line = self.begun().await;
        let offered: &[u8] = match asks {
            Asks::Scram => b"\0\0\0\x0aSCRAM-SHA-256\0\0",
            Asks::Plus => b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
        };
        line.say(b'R', offered).await;
        let (tag, body) = line.hear().await;
        assert_eq!(tag, b'p');
        let end = body.iter().position(|b| *b == 0).expect("a mechanism");
        line.mechanism = String::from_utf8(body[..end].to_vec()).expect("text");
        let first = String::from_utf8(body[end + 5..].to_vec()).expect("text");
        let bare = first.splitn(3, ',').nth(2).expect("what is behind the header");
        let header = &first[..first.len() - bare.len()];
        let nonce = format!("{}theirs", bare.split_once("r=").expect("a nonce").1);
        let challenge = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(SALT));
        line.say(b'R', &[&[0, 0, 0, 11], challenge.as_bytes()].concat()).await;

        let (_, last) = line.hear().await;
        let last = String::from_utf8(last).expect("text");
        let (without, proof) = last.rsplit_once(",p=").expect("a proof");
        let mut bound = header.as_bytes().to_vec();
        if line.mechanism.ends_with("PLUS") {
            // RFC 5929 §4.1: its signature has SHA-256.
            bound.extend(Sha256::digest(&self.certificate));
        }
        assert_eq!(without, format!("c={},r={nonce}", STANDARD.encode(&bound)), "the channel");
        let salted = hi(password.as_bytes());
        let message = format!("{bare},{challenge},{without}");
        let client_key = hmac(&salted, b"Client Key");
        let signature = hmac(&Sha256::digest(client_key), message.as_bytes());
        let expected: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        assert_eq!(STANDARD.decode(proof).expect("base64"), expected, "the real password");
        let signature = hmac(&hmac(&salted, b"Server Key"), message.as_bytes());
        let answer = format!("v={}", STANDARD.encode(signature));
        line.say(b'R', &[&[0, 0, 0, 12], answer.as_bytes()].concat()).await;
        line.say(b'R', &[0; 4]).await;
        for (name, value) in [
            ("client_encoding", "UTF8"),
            ("server_version", "15.0"),
            ("standard_conforming_strings", "on"),
        ] {
            line.say(b'S', format!("{name}\0{value}\0").as_bytes()).await;
        }
        line.say(b'K', &CANCEL_KEY).await;
        line.say(b'Z', b"I").await;
        line
    }

    /// The next connection, up to its startup message.
    pub(crate) async fn begun(&self) -> Line {
        let mut stream = self.encrypted().await;
        let length = stream.read_u32().await.expect("a length") as usize;
        let mut packet = vec![0; length - 4];
        stream.read_exact(&mut packet).await.expect("a startup message");
        assert_eq!(packet[..4], [0, 3, 0, 0]);
        let texts: Vec<String> = packet[4..]
            .split(|b| *b == 0)
            .map(|text| String::from_utf8(text.to_vec()).expect("text"))
            .collect();
        let pairs = texts.chunks_exact(2).filter(|pair| !pair[0].is_empty());
        let startup = pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        let (from, to) = tokio::io::split(stream);
        let (from, to) = (Source::Itself(from), Arc::new(tokio::sync::Mutex::new(to)));
        Line { from, to, startup, mechanism: String::new() }
    }

    /// The next connection, which asks for something to be cancelled: what it says.
    pub(crate) async fn cancelled(&self) -> Vec<u8> {
        let mut stream = self.encrypted().await;
        let mut said = Vec::new();
        let reading = async {
            let length = stream.read_u32().await.expect("a length") as usize;
            said = vec![0; length - 4];
            stream.read_exact(&mut said).await.expect("a request");
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("in time");
        said
    }
}

impl Line {
    /// From now on, it answers what the edge itself asks.
    fn answering(self) -> Self {
        let Self { from, to, startup, mechanism } = self;
        let Source::Itself(mut from) = from else { panic!("it does already") };
        let (sender, messages) = mpsc::channel(1024);
        let ours = Arc::clone(&to);
        let answers = tokio::spawn(async move {
            while let Some((tag, body)) = next(&mut from).await {
                if tag != b'P' || !body.starts_with(OURS) {
                    if sender.send((tag, body)).await.is_err() {
                        return;
                    }
                    continue;
                }
                let mut answer = message(b'1', b"");
                loop {
                    let (tag, _) = next(&mut from).await.expect("the rest of a question");
                    match tag {
                        b'B' => answer.extend(message(b'2', b"")),
                        b'E' => answer.extend(message(b'C', b"SELECT 0\0")),
                        b'C' => answer.extend(message(b'3', b"")),
                        b'S' => break,
                        other => panic!("{} in a question", char::from(other)),
                    }
                }
                answer.extend(message(b'Z', b"I"));
                written(&ours, &answer).await;
            }
        });
        let from = Source::Answering { messages, _answers: AbortOnDropHandle::new(answers) };
        Self { from, to, startup, mechanism }
    }

    pub(crate) async fn say(&self, tag: u8, body: &[u8]) {
        self.write(&message(tag, body)).await;
    }

    pub(crate) async fn write(&self, bytes: &[u8]) {
        written(&self.to, bytes).await;
    }

    /// The next message.
    pub(crate) async fn hear(&mut self) -> (u8, Vec<u8>) {
        self.heard().await.expect("a message")
    }

    /// The next message; none when the other side has gone.
    pub(crate) async fn heard(&mut self) -> Option<(u8, Vec<u8>)> {
        match &mut self.from {
            Source::Answering { messages, .. } => {
                let message = tokio::time::timeout(Duration::from_secs(20), messages.recv());
                message.await.expect("a message in time")
            }
            Source::Itself(stream) => read(stream).await,
        }
    }

    /// The tags of what comes next, up to this one.
    pub(crate) async fn tags_to(&mut self, last: u8) -> String {
        let mut tags = String::new();
        loop {
            let (tag, _) = self.hear().await;
            tags.push(char::from(tag));
            if tag == last {
                return tags;
            }
        }
    }

    /// Answers a Query that selects one row.
    pub(crate) async fn one_row(&self) {
        let column = b"\0\x01n\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
        self.say(b'T', column).await;
        self.say(b'D', b"\0\x01\0\0\0\x011").await;
        self.done("SELECT 1").await;
    }

    /// Says that a Query is done.
    pub(crate) async fn done(&self, tag: &str) {
        self.say(b'C', format!("{tag}\0").as_bytes()).await;
        self.say(b'Z', b"I").await;
    }
}

/// The next message on a stream, in time; none at its end.
pub(crate) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<(u8, Vec<u8>)> {
    let reading = tokio::time::timeout(Duration::from_secs(20), next(stream));
    reading.await.expect("a message in time")
}

/// The next message on a stream, whenever it comes; none at its end.
async fn next<S: AsyncRead + Unpin>(stream: &mut S) -> Option<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await.ok()?;
    let length = stream.read_u32().await.expect("a length") as usize;
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await.expect("a body");
    Some((tag, body))
}

async fn written(to: &To, bytes: &[u8]) {
    let mut to = to.lock().await;
    to.write_all(bytes).await.expect("written");
    to.flush().await.expect("flushed");
}

pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u8(tag);
    out.put_u32(u32::try_from(body.len() + 4).expect("short"));
    out.put_slice(body);
    out.to_vec()
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

fn hi(password: &[u8]) -> [u8; 32] {
    let mut last = hmac(password, &[SALT, &[0, 0, 0, 1]].concat());
    let mut all = last;
    for _ in 1..ITERATIONS {
        last = hmac(password, &last);
        all.iter_mut().zip(last).for_each(|(all, last)| *all ^= last);
    }
    all
}
