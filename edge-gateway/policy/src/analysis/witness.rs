//! A request as an example of many.

use std::fmt;

use super::Example;
use super::set::Set;
use super::space::{AGENT, DATABASE, EFFECTS, METHOD, PATH, ROLE, SAID, Said, Space, Value};
use crate::rules::Protocol;

/// A request of the kind that is reported. There are usually many more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// None: any agent that no rule names.
    pub agent: Option<String>,
    /// On the wire.
    pub method: String,
    /// What the request says its method is instead, as `X-HTTP-Method-Override` does; `?` for what is no method.
    pub overrides: Vec<String>,
    pub host: String,
    pub port: u16,
    pub path: String,
    /// Without the `?`.
    pub query: Option<String>,
    /// Of a database: as which role, and what its statements do, least to worst.
    pub asked: Option<Asked>,
    /// What has to be so as well. Conditions are not looked into: none that is here need be possible.
    pub conditions: Vec<Condition>,
}

/// What is asked of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// None: any database that no rule names.
    pub database: Option<String>,
    /// None: any role that no rule names.
    pub role: Option<String>,
    /// `connect`, `undecidable`, or the effects of the statements in one text.
    pub effects: Vec<String>,
}

/// A `when`, and what it has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub when: String,
    pub holds: Holds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    No,
    Undecidable,
    Yes,
}

impl Witness {
    /// A point of what was found.
    pub(crate) fn of(space: &Space, host: &Example, found: &[Set]) -> Self {
        let first =
            |dimension: usize| found.get(dimension).and_then(Set::first).unwrap_or_default();
        let methods = match space.methods[first(METHOD)] {
            Some(methods) => methods.names().map(str::to_owned).collect::<Vec<_>>(),
            None => vec!["POST".to_owned(), "?".to_owned()],
        };
        let mut methods = methods.into_iter();
        let mut query = Vec::new();
        for (number, (name, values)) in space.names.iter().enumerate() {
            let name = encoded(name);
            match &values[first(space.name(number))] {
                Value::Absent => {}
                Value::Doubtful => query.push(format!("{name}=1&{name}=2")),
                Value::One(value) => query.push(format!("{name}={}", encoded(value))),
            }
        }
        let mut conditions = Vec::new();
        for (number, when) in space.conditions.iter().enumerate() {
            let domain = &found[space.condition(number)];
            let possible = (0..SAID.len()).filter(|said| domain.contains(*said)).count();
            if possible == SAID.len() {
                continue;
            }
            let holds = match SAID[domain.first().unwrap_or_default()] {
                Said::Yes => Holds::Yes,
                Said::No => Holds::No,
                Said::Undecidable => Holds::Undecidable,
            };
            conditions.push(Condition { when: when.clone(), holds });
        }
        let asked = (host.protocol == Protocol::Postgres).then(|| Asked {
            database: space.databases[first(DATABASE)].clone(),
            role: space.roles[first(ROLE)].clone(),
            effects: space.effects[first(EFFECTS)].words().map(str::to_owned).collect(),
        });
        Self {
            agent: space.agents[first(AGENT)].clone(),
            method: methods.next().unwrap_or_default(),
            overrides: methods.collect(),
            host: host.name.clone(),
            port: host.port,
            path: space.paths[first(PATH)].path.clone(),
            query: Some(query.join("&")).filter(|query| !query.is_empty()),
            asked,
            conditions,
        }
    }

    /// `https://host/path?query`, or `postgres://role@host/database`.
    pub fn url(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let (_, usual) = match self.asked {
            Some(_) => Protocol::Postgres.usual(),
            None => Protocol::Http.usual(),
        };
        let port = if self.port == usual { String::new() } else { format!(":{}", self.port) };
        if let Some(asked) = &self.asked {
            let named =
                |name: &Option<String>| name.as_deref().map_or_else(|| "any".to_owned(), encoded);
            let (role, database) = (named(&asked.role), named(&asked.database));
            return format!("postgres://{role}@{host}{port}/{database}");
        }
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("https://{host}{port}{}{query}", self.path)
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.asked {
            Some(asked) => f.write_str(&asked.effects.join(" and "))?,
            None => f.write_str(&self.method)?,
        }
        if !self.overrides.is_empty() {
            write!(f, " (overridden: {})", self.overrides.join(", "))?;
        }
        write!(f, " {} by ", self.url())?;
        match &self.agent {
            Some(agent) => write!(f, "{agent}")?,
            None => f.write_str("any agent")?,
        }
        for (number, condition) in self.conditions.iter().enumerate() {
            let word = match condition.holds {
                Holds::No => "does not hold",
                Holds::Undecidable => "cannot be decided",
                Holds::Yes => "holds",
            };
            let joint = if number == 0 { ", if" } else { " and" };
            write!(f, "{joint} `{}` {word}", condition.when)?;
        }
        Ok(())
    }
}

/// As a query writes it.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut written, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'[' | b']' => {
                written.push(char::from(byte));
            }
            _ => written.push_str(&format!("%{byte:02X}")),
        }
        written
    })
}
