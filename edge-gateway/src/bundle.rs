//! Everything the edge decides with, as one verified version: who the agents are, what the policy says, which fake
//! key stands for which credential, and where.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use countersign_gate::Destination;
use countersign_policy::{Policy, body};
use http::HeaderMap;
use http::header::HeaderName;
use subtle::ConstantTimeEq as _;

use crate::agent::Badge;
use crate::tripwire::Tripwire;

/// A verified bundle, and the names that the control plane gave to itself and to us.
pub(crate) struct InForce {
    pub(crate) cluster: String,
    pub(crate) org: String,
    pub(crate) edge: String,
    pub(crate) bundle: Bundle,
}

/// One version of what is decided with.
pub(crate) struct Bundle {
    pub(crate) revision: u64,
    pub(crate) policy_version: u64,
    pub(crate) policy: Policy,
    pub(crate) credentials: Vec<Arc<Credential>>,
    pub(crate) tripwire: Tripwire,
    /// Indices of the credentials for a destination.
    by_destination: HashMap<Destination, Vec<usize>>,
    /// Indices of the credentials whose tokens come from there.
    by_token_endpoint: HashMap<Destination, Vec<usize>>,
    agents: HashMap<[u8; 32], Arc<Agent>>,
    forbidden: HashSet<String>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// A credential as an edge knows it: everything save its value.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) destination: Destination,
    pub(crate) place: Place,
    pub(crate) fake_keys: Vec<String>,
    pub(crate) leasable: bool,
    /// Where an agent's own client would have its tokens from.
    pub(crate) token_endpoint: Option<TokenEndpoint>,
}

/// An issuer of tokens, over https.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenEndpoint {
    pub(crate) destination: Destination,
    pub(crate) path: String,
}

/// The one place of a request where a credential's fake key is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The control plane signs the request; the fake key is the access key id that the agent signed with.
    AwsSigv4,
    /// `Either` half when the template is empty.
    Basic(Pair),
    /// One cookie's whole value.
    Cookie {
        name: String,
    },
    /// The whole value of a field of a form in the body.
    Form {
        name: String,
    },
    Header {
        name: HeaderName,
        around: Around,
    },
    /// The control plane signs the request; the fake key stands in the first of these headers.
    Hmac {
        names: Vec<HeaderName>,
        template: String,
    },
    /// A whole text of a JSON body.
    Json {
        pointer: String,
    },
    /// A whole segment: `before ‖ key ‖ after`.
    Path {
        before: String,
        after: String,
    },
    /// The password of this role, with which a connection to a Postgres server is opened.
    Postgres {
        role: String,
    },
    Query {
        name: String,
    },
}

/// What stands around a key in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Around {
    Exact {
        before: String,
        after: String,
    },
    /// Whatever scheme the client writes (`Bearer`, `token`), or none: it is bound and shown with the rest.
    Scheme,
}

/// How a key sits in `user:password`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pair {
    /// The user name or the password, whatever the other half is.
    Either,
    Exact {
        before: String,
        after: String,
    },
}

/// A bundle taken apart, as it came over the wire.
pub(crate) struct Parts {
    pub(crate) revision: u64,
    pub(crate) policy_version: u64,
    pub(crate) policy: String,
    /// Token hash to agent.
    pub(crate) agents: Vec<([u8; 32], Agent)>,
    pub(crate) credentials: Vec<Credential>,
    pub(crate) forbidden: Vec<String>,
}

impl Bundle {
    /// Compiles the parts. A policy that this edge cannot read becomes the empty one, which refuses everything:
    /// to stay with the former one could allow what the new one forbids.
    ///
    /// # Errors
    /// When the fake keys do not fit into one automaton.
    pub(crate) fn new(parts: Parts) -> anyhow::Result<Self> {
        let Parts { revision, policy_version, policy, agents, credentials, forbidden } = parts;
        let policy = match policy.as_str() {
            "" => Policy::empty(),
            text => Policy::compile(text, "policy.toml").unwrap_or_else(|diagnostics| {
                let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
                tracing::error!(
                    policy_version,
                    first,
                    "this edge cannot read the policy and refuses everything"
                );
                Policy::empty()
            }),
        };
        let keys = credentials.iter().enumerate();
        let keys =
            keys.flat_map(|(index, c)| c.fake_keys.iter().map(move |key| (index, key.as_str())));
        let tripwire = Tripwire::new(keys)?;
        let mut by_destination: HashMap<Destination, Vec<usize>> = HashMap::new();
        for (index, credential) in credentials.iter().enumerate() {
            by_destination.entry(credential.destination.clone()).or_default().push(index);
        }
        let mut by_token_endpoint: HashMap<Destination, Vec<usize>> = HashMap::new();
        for (index, credential) in credentials.iter().enumerate() {
            let Some(endpoint) = &credential.token_endpoint else { continue };
            by_token_endpoint.entry(endpoint.destination.clone()).or_default().push(index);
        }
        let agents = agents.into_iter().map(|(hash, agent)| (hash, Arc::new(agent))).collect();
        let credentials = credentials.into_iter().map(Arc::new).collect();
        let forbidden = forbidden.into_iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Self {
            revision,
            policy_version,
            policy,
            credentials,
            tripwire,
            by_destination,
            by_token_endpoint,
            agents,
            forbidden,
        })
    }

    /// Whose token it is. What is looked up is a hash, so the time it takes says nothing of any token.
    pub(crate) fn agent(&self, badge: &Badge) -> Option<&Arc<Agent>> {
        let (hash, agent) = self.agents.get_key_value(&badge.token_sha256)?;
        let same =
            hash.ct_eq(&badge.token_sha256) & agent.name.as_bytes().ct_eq(badge.name.as_bytes());
        bool::from(same).then_some(agent)
    }

    /// The agent of this name, as it would show itself: for what proves a token without sending it.
    pub(crate) fn agent_named(&self, name: &str) -> Option<Badge> {
        let (hash, agent) = self.agents.iter().find(|(_, agent)| agent.name == name)?;
        Some(Badge { name: agent.name.clone(), token_sha256: *hash })
    }

    /// The credentials for exactly this destination.
    pub(crate) fn serving<'a>(
        &'a self,
        destination: &Destination,
    ) -> impl Iterator<Item = &'a Arc<Credential>> + use<'a> {
        let indices = self.by_destination.get(destination).map(Vec::as_slice).unwrap_or_default();
        indices.iter().filter_map(|index| self.credentials.get(*index))
    }

    /// Whether tokens of any credential come from this host.
    pub(crate) fn issues_tokens(&self, destination: &Destination) -> bool {
        self.by_token_endpoint.contains_key(destination)
    }

    /// The indices of the credentials whose tokens come from exactly there.
    pub(crate) fn issued_at(
        &self,
        destination: &Destination,
        path: &str,
    ) -> impl Iterator<Item = usize> {
        let indices = self.by_token_endpoint.get(destination);
        let indices = indices.map(Vec::as_slice).unwrap_or_default();
        let there = move |index: &usize| {
            let credential = self.credentials.get(*index);
            credential.and_then(|it| it.token_endpoint.as_ref()).is_some_and(|it| it.path == path)
        };
        indices.iter().copied().filter(there)
    }

    pub(crate) fn credential(&self, id: &str) -> Option<&Arc<Credential>> {
        self.credentials.iter().find(|credential| credential.id == id)
    }

    /// Whether the destination is one of the names that must never be dialled: ourselves.
    pub(crate) fn forbids(&self, destination: &Destination) -> bool {
        let at_this_port = |name: &String| {
            let port = name.strip_prefix(destination.host()).and_then(|it| it.strip_prefix(':'));
            port.is_some_and(|port| port.parse() == Ok(destination.port()))
        };
        self.forbidden.contains(destination.host()) || self.forbidden.iter().any(at_this_port)
    }
}

impl Credential {
    /// Whether it is for exactly this host and port, over what it is used with: https, or Postgres.
    pub(crate) fn serves(&self, destination: &Destination) -> bool {
        self.destination == *destination
    }

    /// The role whose password it is, if it is one's.
    pub(crate) fn postgres_role(&self) -> Option<&str> {
        match &self.place {
            Place::Postgres { role } => Some(role),
            _ => None,
        }
    }
}

impl Place {
    /// Whether the key of a request with these headers would be in its body.
    pub(crate) fn is_in_body(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Form { .. } => body::is_form(headers),
            Self::Json { .. } => body::is_json(headers),
            Self::AwsSigv4
            | Self::Basic(_)
            | Self::Cookie { .. }
            | Self::Header { .. }
            | Self::Hmac { .. }
            | Self::Path { .. }
            | Self::Postgres { .. }
            | Self::Query { .. } => false,
        }
    }

    /// Splits a template at its one `{key}`.
    pub(crate) fn split(template: &str) -> Option<(String, String)> {
        let (before, after) = template.split_once(countersign_gate::HOLE)?;
        (!after.contains(countersign_gate::HOLE)).then(|| (before.to_owned(), after.to_owned()))
    }
}
