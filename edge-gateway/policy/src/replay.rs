//! Many requests that were made, decided anew.

use std::num::NonZero;

use countersign_gate::Destination;
use http::{HeaderMap, Method};

use crate::policy::Policy;
use crate::{Body, Head, Subject, Then, fixtures};

/// A request that was made.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The agent's name.
    pub agent: String,
    pub destination: Destination,
    pub method: Method,
    pub path: String,
    /// Without the `?`.
    pub query: Option<String>,
    pub headers: HeaderMap,
    /// None: it was not kept, and counts as unread.
    pub body: Option<Vec<u8>>,
}

/// What a policy says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// [`Then::Unnamed`] also when the target can be read in two ways.
    pub then: Then,
    /// The rule that decides; empty when none does.
    pub rule: String,
    /// The observe rules that would record it.
    pub observed: Vec<String>,
}

impl Recorded {
    /// Reads the parts of a request; nothing is normalised.
    ///
    /// # Errors
    /// What is wrong with the method or the URL.
    pub fn new(
        agent: &str,
        method: &str,
        url: &str,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<Self, String> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("{method:?} is no method"))?;
        let (destination, path, query) =
            fixtures::split(url).map_err(|why| format!("{url:?}: {why}"))?;
        Ok(Self { agent: agent.to_owned(), destination, method, path, query, headers, body })
    }

    /// What the policy says of it.
    pub fn decide(&self, policy: &Policy) -> Replayed {
        let Self { agent, destination, method, path, query, headers, body } = self;
        if policy.check_target(destination, path, query.as_deref()).is_err() {
            return Replayed { then: Then::Unnamed, rule: String::new(), observed: Vec::new() };
        }
        let head = Head { agent, destination, method, path, query: query.as_deref(), headers };
        let body = body.as_deref().map_or(Body::Streamed, Body::Whole);
        let decision = policy.decide(&Subject { head, body });
        Replayed { then: decision.then, rule: decision.rule, observed: decision.observed }
    }
}

/// What the policy says of each, in their order; on as many threads as there are processors.
pub fn replay(policy: &Policy, requests: &[Recorded]) -> Vec<Replayed> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = requests.len().div_ceil(threads).max(1);
    let decide = |requests: &[Recorded]| -> Vec<Replayed> {
        requests.iter().map(|request| request.decide(policy)).collect()
    };
    let decide = &decide;
    std::thread::scope(|scope| {
        let shares: Vec<_> = requests
            .chunks(share)
            .map(|share| {
                let thread =
                    std::thread::Builder::new().name("replay".to_owned()).stack_size(STACK);
                (share, thread.spawn_scoped(scope, move || decide(share)))
            })
            .collect();
        let mut all = Vec::with_capacity(requests.len());
        for (share, thread) in shares {
            // A thread that could not be made, or fell, leaves its share to this one.
            let decided = thread.ok().and_then(|thread| thread.join().ok());
            all.extend(decided.unwrap_or_else(|| decide(share)));
        }
        all
    })
}

/// Bytes: conditions are evaluated as deep as they are nested.
const STACK: usize = 8 * 1024 * 1024;
