//! Keys as they were written, and everything that was wrong with them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, Mistakes, VARIABLES};

/// Keys with their values as they were written, and what was wrong with them.
#[derive(Default)]
pub(super) struct Source {
    values: BTreeMap<&'static str, Value>,
    mistakes: Vec<String>,
}

impl Source {
    pub(super) fn read_file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) => {
                return self.mistakes.push(format!("{} cannot be read ({e})", path.display()));
            }
        };
        match text.parse::<Table>() {
            Ok(table) => self.take_table("", &table),
            Err(e) => {
                let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
                self.mistakes.push(format!("{}:{line}: {}", path.display(), e.message()));
            }
        }
    }

    fn take_table(&mut self, prefix: &str, table: &Table) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match (VARIABLES.iter().find(|(known, _)| *known == key), value) {
                (Some((known, _)), value) => drop(self.values.insert(known, value.clone())),
                (None, Value::Table(inner)) if prefix.is_empty() => self.take_table(&key, inner),
                (None, _) => self.mistakes.push(format!(
                    "`{key}` is not a key; remove it, or see deploy/control-plane.toml"
                )),
            }
        }
    }

    pub(super) fn read_environment(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) {
        for (name, value) in environment {
            if let Some((key, _)) = VARIABLES.iter().find(|(_, variable)| *variable == name) {
                self.values.insert(key, Value::String(value));
            }
        }
    }

    /// Whether anything was written for this key.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.values.contains_key(key)
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.values.get(key)? {
            Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
            _ => {
                self.mistake(key, "must be text that is not empty");
                None
            }
        }
    }

    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    pub(super) fn address(&mut self, key: &'static str) -> Option<SocketAddr> {
        let text = self.text(key)?;
        let address = text.parse().ok();
        if address.is_none() {
            self.mistake(key, "must be ADDRESS:PORT, such as 127.0.0.1:8443 or [::]:8443");
        }
        address
    }

    /// What others dial: a name or an address, and a port.
    pub(super) fn host_and_port(&mut self, key: &'static str) -> Option<String> {
        let text = self.text(key)?;
        let known = text.parse::<http::uri::Authority>().ok().filter(|authority| {
            authority.port_u16().is_some_and(|port| port != 0)
                && !authority.host().is_empty()
                && !authority.as_str().contains('@')
        });
        if known.is_none() {
            self.mistake(
                key,
                "must be HOST:PORT, such as node-1.example:8446 or [2001:db8::1]:8446",
            );
        }
        known.map(|authority| authority.to_string())
    }

    /// A whole number that is not negative.
    pub(super) fn number(&mut self, key: &'static str, what: &str) -> Option<u32> {
        let number = match self.values.get(key)? {
            Value::Integer(number) => u32::try_from(*number).ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.mistake(key, what);
        }
        number
    }

    /// A list, or (from the environment) names with commas between them.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        let texts = match self.values.get(key) {
            None => return Vec::new(),
            Some(Value::String(text)) => {
                text.split(',').map(|t| Some(t.trim().to_owned())).collect()
            }
            Some(Value::Array(values)) => {
                values.iter().map(|v| v.as_str().map(str::to_owned)).collect()
            }
            Some(_) => None,
        };
        texts.unwrap_or_else(|| {
            self.mistake(key, "must be a list of texts");
            Vec::new()
        })
    }

    pub(super) fn mistake(&mut self, key: &str, what: &str) {
        let variable =
            VARIABLES.iter().find(|(known, _)| *known == key).map_or("", |(_, variable)| variable);
        self.mistakes.push(format!("`{key}` ({variable}) {what}"));
    }

    pub(super) fn finish(self, config: Config) -> Result<Config, Mistakes> {
        if self.mistakes.is_empty() { Ok(config) } else { Err(Mistakes(self.mistakes)) }
    }
}
