//! A rule, once it is known to be well-formed.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_gate::{Destination, Scheme};
use countersign_sql::Effect;
use http::Method;

use crate::Then;
use crate::asking::Asking;
use crate::channel::Channel;
use crate::path::Pattern;
use crate::when::When;

/// One rule of a policy. `then` is never [`Then::Unnamed`].
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    /// Where it starts in its file, from 1.
    pub(crate) line: usize,
    pub(crate) then: Then,
    pub(crate) protocol: Protocol,
    /// None: any agent.
    pub(crate) agents: Option<Vec<String>>,
    pub(crate) host: HostPattern,
    /// None: any method.
    pub(crate) methods: Option<Methods>,
    pub(crate) path: Option<Pattern>,
    pub(crate) query: Vec<(String, String)>,
    /// None: any database.
    pub(crate) databases: Option<Vec<String>>,
    /// None: any role.
    pub(crate) roles: Option<Vec<String>>,
    /// None: whatever is asked of the database.
    pub(crate) effects: Option<Effects>,
    pub(crate) when: Option<When>,
    pub(crate) credential: Option<String>,
    pub(crate) asks: Asking,
    pub(crate) hold: Duration,
    pub(crate) park: bool,
    /// What it opens besides single requests; a tunnel rule always does.
    pub(crate) channel: Option<Channel>,
    pub(crate) accept_edge_enforced: bool,
    pub(crate) allow_encoded_slash: bool,
    pub(crate) reason: Option<String>,
}

impl Rule {
    /// Whether there is a host and an agent that both rules are about.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let agents = match (&self.agents, &other.agents) {
            (Some(own), Some(others)) => own.iter().any(|name| others.contains(name)),
            _ => true,
        };
        agents && self.host.meets(&other.host)
    }

    /// Whether it is about this agent, by its name.
    pub(crate) fn is_about(&self, agent: &str) -> bool {
        self.agents.as_ref().is_none_or(|agents| agents.iter().any(|name| name == agent))
    }

    /// Which requests to its host it is about: rules that are about the same ones say the same here.
    pub(crate) fn about(&self) -> String {
        let sorted = |list: &Vec<String>| list.iter().cloned().collect::<BTreeSet<_>>();
        let agents = self.agents.as_ref().map(sorted);
        let query: BTreeSet<_> = self.query.iter().collect();
        let when = self.when.as_ref().map(When::identity);
        let [databases, roles] =
            [&self.databases, &self.roles].map(|list| list.as_ref().map(sorted));
        let Self { protocol, methods, path, effects, allow_encoded_slash, .. } = self;
        format!(
            "{protocol:?} {agents:?} {methods:?} {path:?} {query:?} {databases:?} {roles:?} {effects:?} {when:?} \
             {allow_encoded_slash}"
        )
    }
}

/// What is spoken with a rule's host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    /// With TLS or without.
    #[default]
    Http,
    Postgres,
}

impl Protocol {
    pub(crate) fn of(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Http | Scheme::Https => Self::Http,
            Scheme::Postgres => Self::Postgres,
        }
    }

    /// The scheme and the port of hosts that are written without one.
    pub(crate) fn usual(self) -> (Scheme, u16) {
        match self {
            Self::Http => (Scheme::Https, 443),
            Self::Postgres => (Scheme::Postgres, 5432),
        }
    }
}

/// `api.example.com`, `*.example.com:8443`, `[2001:db8::1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPattern {
    /// Whether it stands for every name below this one, and not for this one.
    pub(crate) below: bool,
    /// As [`Destination::host`] writes it.
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl HostPattern {
    /// Whether there is a host that both stand for.
    fn meets(&self, other: &Self) -> bool {
        let under = |name: &str, parent: &str| {
            name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
        };
        let (own, its) = (self.name.as_str(), other.name.as_str());
        self.port == other.port
            && match (self.below, other.below) {
                (false, false) => own == its,
                (true, false) => under(its, own),
                (false, true) => under(own, its),
                (true, true) => own == its || under(own, its) || under(its, own),
            }
    }

    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str, protocol: Protocol) -> Result<Self, String> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if name.contains("://") || name.contains('/') {
            return Err(
                "it is a host and perhaps a port, without https:// and without a path".into()
            );
        }
        if name.contains('*') {
            return Err("a * stands for whole labels at the start only: *.example.com".into());
        }
        let (scheme, port) = protocol.usual();
        let read = Destination::parse(scheme, name, Some(port)).map_err(|why| why.to_string())?;
        let literal =
            read.host().contains(':') || read.host().parse::<std::net::Ipv4Addr>().is_ok();
        if below && literal {
            return Err("an address has no names below it".into());
        }
        Ok(Self { below, name: read.host().to_owned(), port: read.port() })
    }
}

/// A set of effects that texts may have on a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Effects(u8);

impl Effects {
    pub(crate) fn one(effect: Effect) -> Self {
        Self(1 << effect as u8)
    }

    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn has(self, effect: Effect) -> bool {
        self.0 & Self::one(effect).0 != 0
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Least to worst.
    pub(crate) fn words(self) -> impl Iterator<Item = &'static str> {
        Effect::ALL.into_iter().filter(move |effect| self.has(*effect)).map(Effect::word)
    }

    /// What one request can have together: to connect, to be undecidable, or any statements in one text. Small sets first.
    pub(crate) fn every() -> Vec<Self> {
        let alone = [Effect::Connect, Effect::Undecidable].map(Self::one);
        let mut all: Vec<Self> = (1..1 << Effect::ALL.len())
            .map(Self)
            .filter(|set| alone.iter().all(|one| !set.overlaps(*one)))
            .collect();
        all.sort_by_key(|set| set.0.count_ones());
        [all.as_slice(), &alone].concat()
    }
}

/// A set of methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Methods(u8);

impl Methods {
    /// The methods that requests may have.
    pub(crate) const KNOWN: [&'static str; 7] =
        ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

    /// None for a method that is not known.
    pub(crate) fn one(name: &str) -> Option<Self> {
        Self::KNOWN.iter().position(|known| *known == name).map(|index| Self(1 << index))
    }

    pub(crate) fn of(method: &Method) -> Option<Self> {
        Self::one(method.as_str())
    }

    /// Every set of them that is not empty, small ones first.
    pub(crate) fn every() -> impl Iterator<Item = Self> {
        let mut all: Vec<Self> = (1..1 << Self::KNOWN.len()).map(Self).collect();
        all.sort_by_key(|methods| methods.0.count_ones());
        all.into_iter()
    }

    /// The methods in it.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        let named =
            move |(at, name): (usize, &'static str)| (self.0 >> at & 1 == 1).then_some(name);
        Self::KNOWN.into_iter().enumerate().filter_map(named)
    }

    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
