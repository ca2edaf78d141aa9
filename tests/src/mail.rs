//! A mail server that others wrote, and what it was handed.

use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::peers::{clients, free_port, tools};
use crate::platforms::people::oracle;
use crate::world::eventually;

pub const USER: &str = "countersign-bot";
pub const PASSWORD: &str = "canary-smtp-passw0rd-that-nobody-else-sees";

/// aiosmtpd, which takes mails only over TLS and from whoever has logged in.
pub struct MailServer {
    dir: TempDir,
    child: Child,
    pub port: u16,
    /// Mails that were read already.
    read: Mutex<Vec<Arrived>>,
}

/// A mail as Python's library reads it.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub to: Vec<String>,
    /// Of the headers, parts and defects, as `mail_read.py` gives them.
    pub read: Value,
}

impl MailServer {
    /// `tls`: `starttls` or `implicit`, with this certificate and its key, in PEM.
    pub fn start(tls: &str, certificate: &str, key: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("certificate.pem"), certificate).unwrap();
        std::fs::write(at("key.pem"), key).unwrap();
        let port = free_port();
        let settings = json!({
            "port": port, "tls": tls, "certificate": at("certificate.pem"), "key": at("key.pem"),
            "said": at("said"), "swallow": at("swallow"), "user": USER, "password": PASSWORD,
        });
        let child = Command::new(tools().join("python/bin/python3"))
            .arg(clients().join("mail_server.py"))
            .arg(settings.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("aiosmtpd: {error}; ./tests/run setup installs it"));
        let server = Self { dir, child, port, read: Mutex::default() };
        eventually("the mail server", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        server
    }

    /// The next mail is taken, and its sender never hears of it.
    pub fn swallow_next(&self) {
        std::fs::write(self.dir.path().join("swallow"), "").unwrap();
    }

    /// What was said to it, in order: `event` is greeting, login, from, to or mail, and `tls` whether anybody could read it.
    pub fn said(&self) -> Vec<Value> {
        let said = std::fs::read_to_string(self.dir.path().join("said")).unwrap_or_default();
        let whole = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Everything that it was handed, oldest first.
    pub fn mails(&self) -> Vec<Arrived> {
        let said = self.said();
        let mails = said.iter().filter(|said| said["event"] == "mail");
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let known = read.len();
        read.extend(mails.skip(known).map(|mail| Arrived {
            to: serde_json::from_value(mail["to"].clone()).unwrap(),
            read: oracle("mail_read.py", &json!({ "message": mail["raw"] })),
        }));
        read.clone()
    }

    /// The bytes of all of them.
    pub fn raw(&self) -> String {
        let said = self.said();
        let raw = said.iter().filter_map(|said| BASE64_STANDARD.decode(said["raw"].as_str()?).ok());
        raw.map(|raw| String::from_utf8(raw).unwrap()).collect()
    }
}

impl Arrived {
    pub fn header(&self, name: &str) -> String {
        let headers = self.read["headers"].as_array().unwrap().iter();
        let mut named = headers.filter(|it| it[0].as_str().unwrap().eq_ignore_ascii_case(name));
        named.next().map(|it| it[1].as_str().unwrap().to_owned()).unwrap_or_default()
    }

    /// The part of this type.
    pub fn part(&self, kind: &str) -> String {
        let parts = self.read["parts"].as_array().unwrap().iter();
        let mut named = parts.filter(|part| part["type"] == kind);
        named.next().map(|part| part["text"].as_str().unwrap().to_owned()).unwrap_or_default()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
