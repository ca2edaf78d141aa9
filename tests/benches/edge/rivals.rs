//! Others that do this work, or a part of it: each with the load of the same upstream, each a process of its own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use countersign_tests::cluster_world::{HOST, READ_KEY};
use countersign_tests::{eventually, peers};
use tempfile::TempDir;

use crate::load::Route;
use crate::upstream::Upstream;

pub(crate) struct Rival {
    pub(crate) name: &'static str,
    pub(crate) route: Route,
    /// Whether its client side has HTTP/2.
    pub(crate) http2: bool,
    /// It is given a request for this many of the edge's.
    pub(crate) slower: usize,
    child: Child,
    dir: TempDir,
}

impl Rival {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that are installed; says which are not, and how to get them.
pub(crate) fn start(upstream: &Upstream) -> Vec<Rival> {
    let all = [
        ("nginx, TLS to TLS, one header set", nginx as fn(&Upstream) -> Option<Rival>),
        ("tinyproxy, plain tunnel", tinyproxy),
        ("squid, plain tunnel", squid_tunnel),
        ("squid ssl-bump, one header set", squid_bump),
        ("mitmproxy, one header set", mitmproxy),
    ];
    let started = all.into_iter().filter_map(|(name, start)| {
        let rival = start(upstream);
        if rival.is_none() {
            println!("{name}: not measured, it is not installed (./tests/bench setup)");
        }
        rival
    });
    started.collect()
}

/// The practical limit of the same work: it ends TLS, sets one header, and begins TLS again.
fn nginx(upstream: &Upstream) -> Option<Rival> {
    let program = program("nginx")?;
    let dir = folder();
    let at = |name: &str| dir.path().join(name).display().to_string();
    write(&dir, "leaf.pem", &upstream.leaf_pem);
    write(&dir, "key.pem", &upstream.key_pem);
    write(&dir, "ca.pem", &upstream.ca_pem);
    let (address, origin) = (free(), upstream.address);
    let (pid, errors, temporary) = (at("pid"), at("error.log"), at("temporary"));
    let (leaf, key, ca) = (at("leaf.pem"), at("key.pem"), at("ca.pem"));
    let text = format!(
        r#"user root; daemon off; worker_processes 1; pid {pid}; error_log {errors} warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {temporary}; proxy_temp_path {temporary}; fastcgi_temp_path {temporary};
  uwsgi_temp_path {temporary}; scgi_temp_path {temporary};
  upstream origin {{ server {origin}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen {address} ssl http2;
    server_name {HOST};
    ssl_certificate {leaf}; ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:sessions:4m;
    keepalive_requests 100000000;
    location / {{
      proxy_pass https://origin;
      proxy_http_version 1.1;
      proxy_max_temp_file_size 0;
      proxy_set_header Host {HOST};
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {READ_KEY}";
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_server_name on; proxy_ssl_name {HOST};
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca};
    }}
  }}
}}
"#
    );
    write(&dir, "nginx.conf", &text);
    let child = spawn(Command::new(program).args(["-c", &at("nginx.conf")]), &dir);
    listening("nginx", address);
    let route = Route {
        address,
        connect: None,
        ca_pem: upstream.ca_pem.clone(),
        key: "Bearer fake".into(),
    };
    Some(Rival { name: "nginx", route, http2: true, slower: 1, child, dir })
}

fn tinyproxy(upstream: &Upstream) -> Option<Rival> {
    let program = program("tinyproxy")?;
    let dir = folder();
    let address = free();
    let text = format!(
        "Port {}\nListen 127.0.0.1\nTimeout 600\nMaxClients 1000\nConnectPort {}\nLogLevel Error\n",
        address.port(),
        upstream.address.port()
    );
    write(&dir, "tinyproxy.conf", &text);
    let child = spawn(
        Command::new(program).arg("-d").arg("-c").arg(dir.path().join("tinyproxy.conf")),
        &dir,
    );
    listening("tinyproxy", address);
    Some(Rival {
        name: "tinyproxy",
        route: tunnelled(address, upstream),
        http2: true,
        slower: 1,
        child,
        dir,
    })
}

fn squid_tunnel(upstream: &Upstream) -> Option<Rival> {
    squid("squid tunnel", upstream, |address, _| format!("http_port {address}\n"))
}

fn squid_bump(upstream: &Upstream) -> Option<Rival> {
    let generator = Path::new("/usr/lib/squid/security_file_certgen");
    if !generator.exists() {
        return None;
    }
    let mut rival = squid("squid ssl-bump", upstream, |address, dir| {
        let (ca, key) = authority();
        std::fs::write(dir.join("bump.pem"), ca + &key).unwrap();
        std::fs::write(dir.join("origin.pem"), &upstream.ca_pem).unwrap();
        let dir = dir.display();
        let made = Command::new(generator)
            .args(["-c", "-s", &format!("{dir}/certificates"), "-M", "4MB"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        format!(
            r#"http_port {address} ssl-bump tls-cert={dir}/bump.pem generate-host-certificates=on dynamic_cert_mem_cache_size=4MB
sslcrtd_program {generator} -s {dir}/certificates -M 4MB
sslcrtd_children 1
ssl_bump bump all
cache_peer 127.0.0.1 parent {port} 0 originserver no-query no-digest tls tls-cafile={dir}/origin.pem ssldomain={HOST}
never_direct allow all
request_header_access Authorization deny all
request_header_add Authorization "Bearer {READ_KEY}" all
"#,
            port = upstream.address.port(),
            generator = generator.display()
        )
    })?;
    let authority = std::fs::read_to_string(rival.dir.path().join("bump.pem")).unwrap();
    rival.route.ca_pem =
        authority.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().into();
    rival.route.key = "Bearer fake".into();
    rival.http2 = false;
    Some(rival)
}

fn squid(
    name: &'static str,
    upstream: &Upstream,
    door: impl FnOnce(SocketAddr, &Path) -> String,
) -> Option<Rival> {
    let program = program("squid")?;
    let dir = folder();
    let address = free();
    let door = door(address, dir.path());
    let path = dir.path().display();
    let text = format!(
        r#"{door}http_access allow all
hosts_file {path}/hosts
pid_filename {path}/pid
cache_log {path}/cache.log
coredump_dir {path}
access_log none
cache_store_log none
cache deny all
shutdown_lifetime 0 seconds
"#
    );
    write(&dir, "hosts", &format!("127.0.0.1 {HOST}\n"));
    write(&dir, "squid.conf", &text);
    // Started by root it becomes somebody else, who has to write here.
    let opened = Command::new("chmod").args(["-R", "a+rwX"]).arg(dir.path()).status().unwrap();
    assert!(opened.success());
    let child = spawn(
        Command::new(program)
            // Of this name are its segments of shared memory: each needs its own.
            .args(["-N", "-n", &format!("bench{}", address.port()), "-f"])
            .arg(dir.path().join("squid.conf")),
        &dir,
    );
    listening(name, address);
    let mut route = tunnelled(address, upstream);
    route.connect = Some((format!("{HOST}:{}", upstream.address.port()), String::new()));
    Some(Rival { name, route, http2: true, slower: 1, child, dir })
}

fn mitmproxy(upstream: &Upstream) -> Option<Rival> {
    let program = program("mitmdump")?;
    let dir = folder();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let address = free();
    write(&dir, "origin.pem", &upstream.ca_pem);
    // It counts connections by the address that it was told, so the name has to lead there by itself.
    let route = format!(
        r#"import socket

found = socket.getaddrinfo


def getaddrinfo(host, port, *more, **named):
    if host == "{HOST}":
        host, port = "127.0.0.1", {}
    return found(host, port, *more, **named)


socket.getaddrinfo = getaddrinfo
"#,
        upstream.address.port()
    );
    write(&dir, "route.py", &route);
    let child = spawn(
        Command::new(program)
            .args(["--quiet", "--listen-host", "127.0.0.1", "--listen-port"])
            .arg(address.port().to_string())
            .args(["--scripts", &at("route.py"), "--set", "connection_strategy=lazy"])
            .args(["--set", "flow_detail=0", "--set", &format!("confdir={}", at("home"))])
            .args(["--set", &format!("ssl_verify_upstream_trusted_ca={}", at("origin.pem"))])
            .args(["--modify-headers", &format!("/~q/Authorization/Bearer {READ_KEY}")]),
        &dir,
    );
    listening("mitmproxy", address);
    let ca = dir.path().join("home/mitmproxy-ca-cert.pem");
    let ca_pem = eventually("mitmproxy's authority", || {
        std::fs::read_to_string(&ca).ok().filter(|pem| pem.ends_with("-----END CERTIFICATE-----\n"))
    });
    let connect = Some((format!("{HOST}:443"), String::new()));
    let route = Route { address, connect, ca_pem, key: "Bearer fake".into() };
    Some(Rival { name: "mitmproxy", route, http2: true, slower: 20, child, dir })
}

/// Through a tunnel the client speaks with the upstream itself, and has the real key.
fn tunnelled(address: SocketAddr, upstream: &Upstream) -> Route {
    Route {
        address,
        connect: Some((upstream.address.to_string(), String::new())),
        ca_pem: upstream.ca_pem.clone(),
        key: format!("Bearer {READ_KEY}"),
    }
}

/// An authority's certificate and key.
fn authority() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "bench CA");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    (ca.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn write(dir: &TempDir, name: &str, text: &str) {
    std::fs::write(dir.path().join(name), text).unwrap();
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn spawn(command: &mut Command, dir: &TempDir) -> Child {
    let log = std::fs::File::create(dir.path().join("output")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn listening(name: &str, address: SocketAddr) {
    eventually(name, || TcpStream::connect(address).ok());
}

fn program(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    folders.extend([
        "/usr/sbin".into(),
        peers::tools().join("bin"),
        peers::tools().join("mitmproxy/bin"),
    ]);
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.exists())
}
