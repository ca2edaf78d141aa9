//! One process of a world, which can be killed, stopped, and started again.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use crate::hosts::Host;

/// A program, its directory, and where it listens. It is killed when this is dropped.
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    dir: PathBuf,
    /// None: where the test itself runs.
    host: Option<Host>,
    running: Mutex<Option<Child>>,
}

impl Process {
    /// Nothing is started yet. What it says goes to `DIR/NAME.log`.
    pub fn new(name: &str, program: &str, dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program_path(program),
            arguments: Vec::new(),
            // One thread each: on a small machine more of them only take turns.
            environment: vec![("TOKIO_WORKER_THREADS".into(), "1".into())],
            dir: dir.to_owned(),
            host: None,
            running: Mutex::new(None),
        }
    }

    pub fn argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// Sets a variable for every start from now on.
    pub fn variable(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// It is started on this host from now on.
    pub fn place(&mut self, host: &Host) {
        self.host = Some(host.clone());
    }

    /// Starts it and gives its process id.
    pub fn start(&mut self) -> u32 {
        self.start_with(&[])
    }

    /// Starts it with arguments that hold for this start only.
    pub fn start_with(&mut self, more: &[&str]) -> u32 {
        assert!(!self.is_running(), "{} is running already", self.name);
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let command = self.host.as_ref().map(|host| host.command(&self.program));
        let child = command
            .unwrap_or_else(|| Command::new(&self.program))
            .current_dir(&self.dir)
            .args(&self.arguments)
            .args(more)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let id = child.id();
        *self.child() = Some(child);
        id
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.kill_soon();
        self.reap();
    }

    /// SIGKILL; it may still be there when this returns.
    pub fn kill_soon(&mut self) {
        if let Some(child) = self.child().as_mut() {
            child.kill().unwrap();
        }
    }

    /// Waits until it is gone.
    pub fn reap(&mut self) {
        let child = self.child().take();
        if let Some(mut child) = child {
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        self.reap();
    }

    /// SIGSTOP: it does nothing, and everybody else goes on.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child();
        let child = child.as_ref().unwrap_or_else(|| panic!("{} runs", self.name));
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    pub fn is_running(&self) -> bool {
        self.child().is_some()
    }

    /// How it ended by itself, if it did.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child();
        let status = child.as_mut()?.try_wait().unwrap()?;
        *child = None;
        Some(status)
    }

    pub fn id(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    /// Everything that it has said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The end of it, for a failing test's output.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(25).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("--- the end of {}'s log\n{}", self.name, lines.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.child().as_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program of this workspace: of the directory that `COUNTERSIGN_BIN_DIR` names, else the one that this test was
/// built into.
pub fn program_path(name: &str) -> PathBuf {
    let path = match std::env::var_os("COUNTERSIGN_BIN_DIR") {
        Some(dir) => PathBuf::from(dir).join(name),
        None => std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name),
    };
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// An address that nobody listens on: of this host, else on loopback.
pub(super) fn free_address_of(host: Option<&Host>) -> SocketAddr {
    let mut address = free_address();
    if let Some(host) = host {
        address.set_ip(host.address.into());
    }
    address
}

/// An address on loopback that nobody listens on, below the ports that the system gives to whoever dials, so that
/// it is still free when a process is started on it again.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % 18_000;
        let start = (std::process::id() % 600) as u16 * 30;
        let port = 12_000 + (start + offset) % 18_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
