//! pgbouncer before the same database, with a client that proves itself as the edge's does.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};

use countersign_tests::database::{
    DATABASE, PASSWORD, Postgres, ROLE, as_its_user, give_to_its_user,
};
use countersign_tests::eventually;
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = "/usr/sbin/pgbouncer";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// A connection to the server for each client, as the edge has it.
    Session,
    Transaction,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    /// To the client and to the server.
    BothSides,
    None,
}

pub(crate) struct Bouncer {
    child: Child,
    pub(crate) address: SocketAddr,
    dir: TempDir,
}

impl Bouncer {
    pub(crate) fn start(server: &Postgres, pooling: Pooling, tls: Tls) -> Self {
        let dir = tempfile::Builder::new().prefix("pgbouncer").tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let [certificate, key] = server.certificate();
        let ca = dir.path().join("ca.pem");
        let users = dir.path().join("users.txt");
        let configuration = dir.path().join("pgbouncer.ini");
        let encryption = match tls {
            Tls::BothSides => format!(
                "client_tls_sslmode = require\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n\
                 server_tls_sslmode = verify-ca\nserver_tls_ca_file = {}\n",
                certificate.display(),
                key.display(),
                ca.display()
            ),
            Tls::None => "client_tls_sslmode = disable\nserver_tls_sslmode = disable\n".into(),
        };
        let mode = match pooling {
            Pooling::Session => "session",
            Pooling::Transaction => "transaction",
        };
        let text = format!(
            "[databases]\n{DATABASE} = host=127.0.0.1 port={}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {mode}\ndefault_pool_size = 20\n\
             max_client_conn = 100\nlog_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n{encryption}",
            server.port(),
            address.port(),
            users.display()
        );
        std::fs::write(&ca, server.ca_pem()).unwrap();
        // With the password itself it proves itself to the server by SCRAM, as it has clients do.
        std::fs::write(&users, format!("\"{ROLE}\" \"{PASSWORD}\"\n")).unwrap();
        std::fs::write(&configuration, text).unwrap();
        let output = File::create(dir.path().join("output")).unwrap();
        give_to_its_user(dir.path());
        let child = as_its_user(PROGRAM)
            .arg(&configuration)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut bouncer = Self { child, address, dir };
        eventually("pgbouncer listens", || {
            if let Some(status) = bouncer.child.try_wait().unwrap() {
                let said = std::fs::read_to_string(bouncer.dir.path().join("output"));
                panic!("pgbouncer ended with {status}: {}", said.unwrap());
            }
            TcpStream::connect(address).ok()
        });
        bouncer
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = std::fs::read_to_string(self.dir.path().join("output"));
            eprintln!("--- what pgbouncer said\n{}", said.unwrap_or_default());
        }
    }
}
