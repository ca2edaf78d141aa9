//! A client of Postgres that writes bytes: what goes over the socket is what the test says.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};
use countersign_edge_gateway::postgres::password;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::database::{message, read};
use crate::control::{TOKEN, secret};
use crate::world::World;

/// One connection of a client.
pub(crate) struct Client {
    pub(crate) stream: TlsStream<TcpStream>,
    /// What it was given to cancel with.
    pub(crate) cancel: Vec<u8>,
    /// What the server reported.
    pub(crate) parameters: Vec<String>,
}

/// An error or a notice.
#[derive(Debug)]
pub(crate) struct Said(pub(crate) Vec<(char, String)>);

impl Said {
    pub(crate) fn of(body: &[u8]) -> Self {
        let field = |field: &[u8]| {
            let (kind, text) = field.split_first()?;
            Some((char::from(*kind), String::from_utf8_lossy(text).into_owned()))
        };
        Self(body.split(|b| *b == 0).filter_map(field).collect())
    }

    pub(crate) fn field(&self, kind: char) -> &str {
        self.0.iter().find(|(k, _)| *k == kind).map_or("", |(_, text)| text)
    }

    pub(crate) fn code(&self) -> &str {
        self.field('C')
    }
}

/// The address of the edge's listener.
pub(crate) fn address(world: &World) -> SocketAddr {
    world.edge.postgres_addrs()[0]
}

/// The password with which the agent "robot" uses this credential.
pub(crate) fn robots(credential: &str) -> String {
    password(&Sha256::digest(TOKEN).into(), secret(credential).fake).to_string()
}

/// TLS, once it is agreed on.
pub(crate) async fn encrypted(world: &World, name: &str) -> TlsStream<TcpStream> {
    let mut stream = TcpStream::connect(address(world)).await.expect("the edge listens");
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.expect("written");
    assert_eq!(stream.read_u8().await.expect("an answer"), b'S');
    shake(world, stream, name).await.expect("TLS")
}

pub(crate) async fn shake(
    world: &World,
    stream: TcpStream,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(world.edge.ca_pem().as_bytes()).expect("a CA");
    roots.add(ca).expect("a root");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

pub(crate) fn startup(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_u32(3 << 16);
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        body.put_slice(text.as_bytes());
        body.put_u8(0);
    }
    body.put_u8(0);
    message(0, &body)[1..].to_vec()
}

impl Client {
    /// Connects as "robot" to the database "app", with this credential.
    pub(crate) async fn connect(world: &World, credential: &str) -> Result<Self, Said> {
        let pairs = [("user", "robot"), ("database", "app"), ("application_name", "test")];
        Self::connect_as(world, &pairs, &robots(credential)).await
    }

    pub(crate) async fn connect_as(
        world: &World,
        pairs: &[(&str, &str)],
        password: &str,
    ) -> Result<Self, Said> {
        let mut stream = Self::proven(world, pairs, password).await?;
        let (mut cancel, mut parameters) = (Vec::new(), Vec::new());
        loop {
            let (tag, body) = read(&mut stream).await.expect("an answer");
            match tag {
                b'R' => assert_eq!(body, [0; 4]),
                b'S' => parameters.push(String::from_utf8_lossy(&body).replace('\0', "=")),
                b'K' => cancel = body,
                b'Z' => return Ok(Self { stream, cancel, parameters }),
                b'E' => return Err(Said::of(&body)),
                other => panic!("{} came", char::from(other)),
            }
        }
    }

    /// A connection on which the password was proven.
    pub(crate) async fn proven(
        world: &World,
        pairs: &[(&str, &str)],
        password: &str,
    ) -> Result<TlsStream<TcpStream>, Said> {
        let mut stream = encrypted(world, "localhost").await;
        stream.write_all(&startup(pairs)).await.expect("written");
        let (tag, body) = read(&mut stream).await.expect("an answer");
        if tag == b'E' {
            return Err(Said::of(&body));
        }
        assert_eq!((tag, &body[..]), (b'R', &b"\0\0\0\x0aSCRAM-SHA-256\0\0"[..]));
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let mut first = b"SCRAM-SHA-256\0".to_vec();
        first.extend(u32::try_from(scram.message().len()).expect("short").to_be_bytes());
        first.extend(scram.message());
        stream.write_all(&message(b'p', &first)).await.expect("written");
        let (tag, body) = read(&mut stream).await.expect("an answer");
        if tag == b'E' {
            return Err(Said::of(&body));
        }
        scram.update(&body[4..]).expect("a challenge");
        stream.write_all(&message(b'p', scram.message())).await.expect("written");
        let (tag, body) = read(&mut stream).await.expect("an answer");
        if tag == b'E' {
            return Err(Said::of(&body));
        }
        scram.finish(&body[4..]).expect("the edge proves itself as well");
        Ok(stream)
    }

    pub(crate) async fn say(&mut self, messages: &[Vec<u8>]) {
        self.stream.write_all(&messages.concat()).await.expect("written");
        self.stream.flush().await.expect("flushed");
    }

    pub(crate) async fn hear(&mut self) -> (u8, Vec<u8>) {
        self.heard().await.expect("a message")
    }

    pub(crate) async fn heard(&mut self) -> Option<(u8, Vec<u8>)> {
        read(&mut self.stream).await
    }

    /// All up to ReadyForQuery: the tags, and the first error.
    pub(crate) async fn ready(&mut self) -> (String, Option<Said>) {
        let (mut tags, mut error) = (String::new(), None);
        loop {
            let (tag, body) = self.hear().await;
            tags.push(char::from(tag));
            match tag {
                b'E' => error = error.or_else(|| Some(Said::of(&body))),
                b'Z' => {
                    tags.push(char::from(body[0]));
                    return (tags, error);
                }
                _ => {}
            }
        }
    }
}

pub(crate) fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

pub(crate) fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

/// With one value, in text.
pub(crate) fn bind(portal: &str, statement: &str, value: &str) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0").into_bytes();
    body.extend(b"\0\0\0\x01");
    body.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
    body.extend(value.as_bytes());
    body.extend(b"\0\0");
    message(b'B', &body)
}

pub(crate) fn execute(portal: &str) -> Vec<u8> {
    message(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', b"")
}
