//! A client that does as libpq does, on one connection, and with nothing between it and the clock: no runtime, no thread.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How a client gets to the database.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) address: SocketAddr,
    /// The name in the certificate at that address.
    pub(crate) host: String,
    /// A file of the authority's; none where nothing is encrypted.
    pub(crate) ca: Option<String>,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) database: String,
}

impl Route {
    /// As libpq takes it, but for the password.
    pub(crate) fn conninfo(&self) -> String {
        let Self { address, host, user, database, .. } = self;
        let tls = match &self.ca {
            Some(ca) => format!("sslmode=verify-full sslrootcert='{ca}'"),
            None => "sslmode=disable".into(),
        };
        format!(
            "host={host} hostaddr={} port={} user='{user}' dbname={database} {tls}",
            address.ip(),
            address.port()
        )
    }
}

/// How one row is asked for by its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Bind, Describe, Execute and Sync of what was parsed once.
    Prepared,
    /// A Query with the key in its text.
    Simple,
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// One connection, kept open.
pub(crate) struct Client {
    wire: Box<dyn Wire>,
    /// What was read and not looked at.
    read: Vec<u8>,
}

/// SSLRequest.
const ENCRYPT: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The type of the key: int4.
const INT4: [u8; 4] = [0, 0, 0, 23];

impl Client {
    pub(crate) fn connect(route: &Route) -> Self {
        let mut stream = TcpStream::connect(route.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let wire: Box<dyn Wire> = match &route.ca {
            None => Box::new(stream),
            Some(ca) => {
                stream.write_all(&ENCRYPT).unwrap();
                let mut answer = [0];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(answer, *b"S", "TLS");
                let name = ServerName::try_from(route.host.clone()).unwrap();
                let tls = ClientConnection::new(Arc::new(config(ca)), name).unwrap();
                Box::new(StreamOwned::new(tls, stream))
            }
        };
        let mut client = Self { wire, read: Vec::new() };
        client.log_in(route);
        client.say(&message(
            b'P',
            &[b"one\0select name from orders where id = $1\0\0\x01", &INT4[..]].concat(),
        ));
        client.say(&message(b'S', b""));
        client.rows();
        client
    }

    /// Asks for one row, and gives how long it took until the server was ready for more.
    pub(crate) fn select(&mut self, protocol: Protocol, id: u32) -> Duration {
        let id = id.to_string();
        let asked = match protocol {
            Protocol::Prepared => {
                let length = u32::try_from(id.len()).unwrap().to_be_bytes();
                let bound = [b"\0one\0\0\0\0\x01", &length[..], id.as_bytes(), b"\0\0"].concat();
                [
                    message(b'B', &bound),
                    message(b'D', b"P\0"),
                    message(b'E', b"\0\0\0\0\0"),
                    message(b'S', b""),
                ]
                .concat()
            }
            Protocol::Simple => {
                message(b'Q', format!("select name from orders where id = {id}\0").as_bytes())
            }
        };
        let start = Instant::now();
        self.say(&asked);
        let rows = self.rows();
        let took = start.elapsed();
        assert_eq!(rows, 1, "one row of this key");
        took
    }

    fn log_in(&mut self, route: &Route) {
        let Route { user, database, .. } = route;
        let startup = format!("user\0{user}\0database\0{database}\0\0");
        let length = u32::try_from(startup.len() + 8).unwrap().to_be_bytes();
        self.say(&[&length[..], &[0, 3, 0, 0], startup.as_bytes()].concat());
        let password = route.password.as_bytes();
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        loop {
            let (tag, body) = self.hear();
            match (tag, body.get(..4)) {
                (b'R', Some([0, 0, 0, 10])) => {
                    let first = scram.message().to_vec();
                    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                    let first = [b"SCRAM-SHA-256\0", &length[..], &first].concat();
                    self.say(&message(b'p', &first));
                }
                (b'R', Some([0, 0, 0, 11])) => {
                    scram.update(&body[4..]).unwrap();
                    self.say(&message(b'p', scram.message()));
                }
                (b'R', Some([0, 0, 0, 12])) => scram.finish(&body[4..]).unwrap(),
                (b'R', Some([0, 0, 0, 0])) => break,
                other => panic!("SCRAM-SHA-256 was to come, not {other:?}"),
            }
        }
        self.rows();
    }

    /// Up to ReadyForQuery, how many rows came.
    fn rows(&mut self) -> usize {
        let mut rows = 0;
        loop {
            match self.hear() {
                (b'D', _) => rows += 1,
                (b'Z', _) => return rows,
                _ => {}
            }
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).unwrap();
        self.wire.flush().unwrap();
    }

    /// The next message.
    fn hear(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some((head, rest)) = self.read.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if rest.len() + 4 >= length {
                    let (tag, body) = (head[0], rest[..length - 4].to_vec());
                    self.read.drain(..=length);
                    assert_ne!(tag, b'E', "{}", String::from_utf8_lossy(&body));
                    return (tag, body);
                }
            }
            let mut more = [0; 4096];
            let count = self.wire.read(&mut more).unwrap();
            assert_ne!(count, 0, "the connection was closed");
            self.read.extend(&more[..count]);
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag], &length[..], body].concat()
}

fn config(ca: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
