//! The edge as a process of its own: what its memory still holds, what it logs, and how it goes down.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::ExtendedKeyUsagePurpose;
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::Agent;
use crate::control::{Control, TOKEN, secret};
use crate::origin::Origin;
use crate::raw::{Raw, Script};
use crate::world::{Authority, HOSTS};

pub(crate) struct Process {
    child: Running,
    log: std::thread::JoinHandle<String>,
    pub(crate) control: Control,
    origin: Origin,
    pub(crate) agent: Agent,
    dir: tempfile::TempDir,
    _raw: Option<Raw>,
}

/// Killed when dropped.
struct Running(Child);

impl Running {
    fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.0.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub(crate) async fn start() -> Self {
        Self::with(None).await
    }

    /// An upstream that does what the test says.
    pub(crate) async fn against(script: Script) -> Self {
        Self::with(Some(script)).await
    }

    async fn with(script: Option<Script>) -> Self {
        let authority = Authority::new();
        let control = Control::start(&authority).await;
        let origin = Origin::start(&authority).await;
        let raw = match script {
            None => None,
            Some(script) => Some(Raw::start(&authority, script).await),
        };
        let (certificate, key) = authority.leaf("edge-1", ExtendedKeyUsagePurpose::ClientAuth);
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let port = raw.as_ref().map_or_else(|| origin.addr(), Raw::addr).port();
        let connect_to: Vec<String> =
            HOSTS.iter().map(|host| format!("{host}::127.0.0.1:{port}")).collect();
        let variables = [
            ("LISTEN", "127.0.0.1:0".into()),
            ("CA_FILE", dir.path().join("edge-ca.pem").into_os_string()),
            ("IDENTITY_NAME", "edge-1".into()),
            ("IDENTITY_CERTIFICATE_FILE", file("edge.pem", &certificate).into_os_string()),
            ("IDENTITY_KEY_FILE", file("edge.key", &key).into_os_string()),
            ("CONTROL_PLANE_ADDRESSES", control.addr().to_string().into()),
            ("CONTROL_PLANE_SERVER_NAME", "control.test".into()),
            ("CONTROL_PLANE_CA_FILE", file("ca.pem", &authority.pem()).into_os_string()),
            ("CONTROL_PLANE_ROOT_KEY", hex::encode(control.root_key()).into()),
            ("UPSTREAM_CA_FILES", dir.path().join("ca.pem").into_os_string()),
            ("UPSTREAM_CONNECT_TO", connect_to.join(",").into()),
        ];
        let mut child = Command::new(env!("CARGO_BIN_EXE_countersign-edge-gateway"))
            .env_clear()
            .env("RUST_LOG", "trace,h2=info,hyper=info,tower=info")
            .env("TMPDIR", dir.path())
            .envs(variables.map(|(key, value)| (format!("COUNTERSIGN_EDGE_{key}"), value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let proxy = loop {
            let line = lines.next().expect("it goes on").expect("a line");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if let Some(proxy) = line["proxy"].as_str() {
                break proxy.parse().expect("an address");
            }
        };
        let log = std::thread::spawn(move || lines.map_while(Result::ok).collect::<String>());
        let ca = std::fs::read_to_string(dir.path().join("edge-ca.pem")).expect("its authority");
        let agent = Agent::new(proxy, &ca, "robot", TOKEN);
        control.hello().await;
        let attached = Instant::now();
        while agent.ask_for("open.test:443").await.0.status != 200 {
            assert!(attached.elapsed() < Duration::from_secs(20), "it attaches");
        }
        Self { child: Running(child), log, control, origin, agent, dir, _raw: raw }
    }

    /// Memory that is in use, bytes.
    pub(crate) fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.0.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
        1024 * line.split_whitespace().nth(1).expect("a figure").parse::<u64>().expect("a number")
    }

    /// Files, of any kind but sockets, pipes and the kernel's own, that it has open.
    fn open_files(&self) -> Vec<std::path::PathBuf> {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.child.0.id()));
        let targets = descriptors
            .expect("it runs")
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let file = |path: &std::path::PathBuf| path.is_absolute() && !path.starts_with("/dev");
        targets.filter(file).collect()
    }

    /// One request that is held, released and answered.
    async fn release_one(&self) {
        let agent = self.agent.clone();
        let key = format!("Authorization: Bearer {}\r\n", secret("api-admin").fake);
        let waiting = tokio::spawn(async move {
            agent.send("api.test", "DELETE /things/1?note=in-the-query", &key, "").await
        });
        let open = self.control.open().await;
        self.control.release(&open).await;
        assert_eq!(waiting.await.expect("no panic").status, 200);
        self.control.receipt().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mem_canary_a_released_key_is_gone_from_memory() {
    let process = Process::start().await;
    process.release_one().await;
    let real = secret("api-admin").real;
    let got = &process.origin.got()[0];
    assert_eq!(got.headers["authorization"], format!("Bearer {real}"));
    let canaries = [
        real.as_bytes().to_vec(),
        STANDARD.encode(real).into_bytes(),
        hex::encode(real).into_bytes(),
    ];
    // A leased key stays for the time of its lease: whoever looks properly finds that one.
    let key = format!("Authorization: Bearer {}\r\n", secret("api").fake);
    assert_eq!(process.agent.send("api.test", "GET /things/1", &key, "").await.status, 200);
    let leased = found_in_memory(process.child.0.id(), &[secret("api").real.as_bytes().to_vec()]);
    assert!(leased.is_err() || leased.is_ok_and(|places| !places.is_empty()), "the search finds");
    let began = Instant::now();
    loop {
        match found_in_memory(process.child.0.id(), &canaries) {
            // Not even the same user may look: that is as good.
            Err(why) if why.kind() == std::io::ErrorKind::PermissionDenied => break,
            Err(why) => panic!("the memory cannot be read: {why}"),
            Ok(places) if places.is_empty() => break,
            Ok(places) => {
                assert!(
                    began.elapsed() < Duration::from_secs(5),
                    "the key is still at {places:x?}"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_errleak_nothing_secret_is_logged_and_it_goes_down_when_told() {
    let process = Process::start().await;
    process.release_one().await;
    let agent = process.agent.clone();
    let fake = secret("query").fake;
    assert_eq!(agent.send("query.test", &format!("GET /?key={fake}"), "", "").await.status, 200);
    assert_eq!(agent.send("open.test", "GET /?token=in-the-query", "", "").await.status, 200);
    kill_process(Pid::from_child(&process.child.0), Signal::TERM).expect("it is told");
    let Process { mut child, log, .. } = process;
    let ended = tokio::task::spawn_blocking(move || (child.wait(), log.join()));
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it goes down");
    let (ended, log) = ended.expect("no panic");
    assert!(ended.expect("it ends").success());
    let log = log.expect("no panic");
    assert!(log.contains("\"answered\""), "it does log");
    for secret in &crate::control::SECRETS {
        assert!(!log.contains(secret.fake) && !log.contains(secret.real), "{}", secret.name);
    }
    assert!(!log.contains(TOKEN) && !log.contains("in-the-query"));
}

/// There is no spool on any disk: what is held is in memory, and what is in memory is what was hashed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_2_what_is_held_is_in_no_file() {
    let process = Process::start().await;
    let before: Vec<_> = std::fs::read_dir(process.dir.path())
        .expect("a folder")
        .flatten()
        .map(|e| e.path())
        .collect();
    let body = "a body that nobody can change ".repeat(100_000);
    let key = format!("Authorization: Bearer {}\r\n", secret("api-admin").fake);
    let (agent, sent) = (process.agent.clone(), body.clone());
    let waiting =
        tokio::spawn(async move { agent.send("api.test", "POST /refunds", &key, &sent).await });
    let open = process.control.open().await;
    assert_eq!(process.open_files(), Vec::<std::path::PathBuf>::new());
    let during: Vec<_> = std::fs::read_dir(process.dir.path())
        .expect("a folder")
        .flatten()
        .map(|e| e.path())
        .collect();
    assert_eq!(before, during, "nor in one that was closed again");
    process.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(process.origin.got()[0].body, body, "byte for byte");
}

/// Addresses at which one of the patterns is in writable memory.
fn found_in_memory(pid: u32, patterns: &[Vec<u8>]) -> std::io::Result<Vec<u64>> {
    let process = Path::new("/proc").join(pid.to_string());
    let maps = std::fs::read_to_string(process.join("maps"))?;
    let mut memory = std::fs::File::open(process.join("mem"))?;
    let mut found = Vec::new();
    for line in maps.lines() {
        let Some((range, rest)) = line.split_once(' ') else { continue };
        let Some((from, to)) = range.split_once('-') else { continue };
        let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16))
        else {
            continue;
        };
        if !rest.starts_with("rw") || line.ends_with("[vvar]") {
            continue;
        }
        let mut bytes = vec![0; (to - from) as usize];
        memory.seek(SeekFrom::Start(from))?;
        if memory.read_exact(&mut bytes).is_err() {
            // Unmapped since.
            continue;
        }
        let places = patterns.iter().flat_map(|pattern| {
            bytes.windows(pattern.len()).enumerate().filter(move |(_, window)| window == pattern)
        });
        found.extend(places.map(|(at, _)| from + at as u64));
    }
    Ok(found)
}
