//! A real PostgreSQL: Debian's, in a directory of its own, over TLS and with SCRAM-SHA-256 alone.

mod edge;

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::eventually;

pub use edge::EdgeBefore;

/// The name in its certificate.
pub const HOST: &str = "db.example.test";
/// Who owns the database, and whose password agents never see.
pub const ROLE: &str = "shop_app";
pub const PASSWORD: &str = "dbREAL-4f1c9a77e0b2d6538e1a";
pub const DATABASE: &str = "shop";

pub struct Postgres {
    running: Child,
    dir: TempDir,
    port: u16,
    ca_pem: String,
}

/// A program of the newest PostgreSQL that is installed.
pub fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql");
    let named = versions.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let newest: u32 = named.max().expect("a version");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin/{name}"))
}

/// The server does not run as root: there, it is Debian's user for it that does.
pub fn as_its_user(program: impl AsRef<OsStr>) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

/// Gives a folder to that user.
pub fn give_to_its_user(folder: &Path) {
    if rustix::process::geteuid().is_root() {
        let given = Command::new("chown").args(["-R", "postgres:postgres"]).arg(folder).status();
        assert!(given.unwrap().success());
    }
}

impl Postgres {
    /// Starts it, with [`DATABASE`], which [`ROLE`] owns.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        let (ca_pem, certificate, key) = certificates();
        for (name, text) in
            [("server.pem", &certificate), ("server.key", &key), ("password", &PASSWORD.into())]
        {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        give_to_its_user(dir.path());
        let data = dir.path().join("data");
        let made = as_its_user(program("initdb"))
            .args(["--auth=scram-sha-256", "--username", ROLE, "--no-sync", "--no-instructions"])
            .args(["--encoding=UTF8", "--locale=C", "--pwfile"])
            .arg(dir.path().join("password"))
            .arg("-D")
            .arg(&data)
            .current_dir("/")
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let setting = |name: &str, value: &Path| format!("{name}={}", value.display());
        let running = as_its_user(program("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-F"])
            .args(["-c", &setting("unix_socket_directories", dir.path())])
            .args(["-c", "ssl=on", "-c", "shared_buffers=16MB", "-c", "max_connections=60"])
            .args(["-c", &setting("ssl_cert_file", &dir.path().join("server.pem"))])
            .args(["-c", &setting("ssl_key_file", &dir.path().join("server.key"))])
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { running, dir, port, ca_pem };
        eventually("the server answers", || {
            server.psql("postgres", "select 1").status.success().then_some(())
        });
        let made = server.psql("postgres", &format!("create database {DATABASE}"));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its certificate and that one's key, for [`HOST`]: files of its user's.
    pub fn certificate(&self) -> [PathBuf; 2] {
        ["server.pem", "server.key"].map(|name| self.dir.path().join(name))
    }

    /// Of whom its certificate is.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What the database itself says, with nothing between it and us: the first column of each row.
    pub fn says(&self, text: &str) -> Vec<String> {
        let output = self.psql(DATABASE, text);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// Whether there is a table of this name.
    pub fn has(&self, table: &str) -> bool {
        self.says(&format!("select to_regclass('{table}') is not null")) == ["t"]
    }

    fn psql(&self, database: &str, text: &str) -> std::process::Output {
        Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h"])
            .arg(self.dir.path())
            .args(["-p", &self.port.to_string(), "-U", ROLE, "-d", database, "-c", text])
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: at once, with its processes.
        if let Some(pid) = rustix::process::Pid::from_raw(self.running.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.running.wait();
    }
}

/// An authority's certificate, and a certificate and key of [`HOST`]: PEM.
fn certificates() -> (String, String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Another name than the leaf's: OpenSSL takes one that names itself as its issuer for self-signed.
    params.distinguished_name.push(DnType::CommonName, "database CA");
    let key = KeyPair::generate().unwrap();
    let ca_pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    (ca_pem, leaf.pem(), key.serialize_pem())
}
