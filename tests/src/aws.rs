//! AWS as moto plays it, behind a front of ours that lets through only what the real key signed a moment ago.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::origin::certificate;
use crate::peers::{clients, free_port, tools};
use crate::world::{Setup, eventually};

pub const ACCESS_KEY_ID: &str = "AKIAREALREALREALREAL";
pub const SECRET_ACCESS_KEY: &str = "0peratorsRealSecretAccessKey/0123456789+";

/// The hosts that it serves.
pub const HOSTS: [&str; 3] = [
    "s3.eu-central-1.amazonaws.com",
    "ec2.eu-central-1.amazonaws.com",
    "dynamodb.eu-central-1.amazonaws.com",
];

pub struct Aws {
    dir: TempDir,
    port: u16,
    ca_pem: String,
    front: Child,
}

impl Aws {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ca_pem, leaf, key) = certificate(&HOSTS);
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("leaf.pem", &leaf);
        write("key.pem", &key);
        let port = free_port();
        let said = std::fs::File::create(dir.path().join("front.log")).unwrap();
        let front = Command::new(tools().join("python/bin/python"))
            .current_dir(dir.path())
            .arg(clients().join("aws_front.py"))
            .args([&port.to_string(), "leaf.pem", "key.pem", "seen.jsonl"])
            .args([ACCESS_KEY_ID, SECRET_ACCESS_KEY])
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .expect("python starts: ./tests/run installs what the tests need");
        let aws = Self { dir, port, ca_pem, front };
        eventually(&format!("moto\n{}", aws.said()), || {
            std::net::TcpStream::connect(("127.0.0.1", aws.port)).ok()
        });
        aws
    }

    /// What a world needs to reach it.
    pub fn setup(&self, policy: &str) -> Setup {
        let connect_to =
            HOSTS.iter().map(|host| format!("{host}:443:127.0.0.1:{}", self.port)).collect();
        let upstream_ca = vec![self.ca_pem.clone()];
        Setup { policy: policy.into(), connect_to, upstream_ca, ..Setup::default() }
    }

    /// Every request that arrived: `method`, `url`, `headers`, `body`, who signed it, whether that was `valid`, and its
    /// `age` in seconds.
    pub fn seen(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.seen_file()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn seen_file(&self) -> PathBuf {
        self.dir.path().join("seen.jsonl")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("front.log")).unwrap_or_default()
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        let _ = self.front.kill();
        let _ = self.front.wait();
        if std::thread::panicking() {
            eprintln!("--- the front of AWS\n{}", self.said());
        }
    }
}
