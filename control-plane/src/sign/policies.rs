//! The policy in force, compiled once per version.

use std::sync::{Arc, Mutex, PoisonError};

use countersign_policy::Policy;

use crate::cluster::Cluster;

/// Keeps the compiled policy of the newest version.
#[derive(Default)]
pub(super) struct Policies {
    compiled: Mutex<Option<(u64, Arc<Policy>)>>,
}

impl Policies {
    /// Version and policy in force; version 0 and a policy that refuses everything before the first was set. One that
    /// does not compile refuses everything too: it was compiled before it was proposed, so this build cannot read it.
    pub(super) fn in_force(&self, cluster: &Cluster) -> (u64, Arc<Policy>) {
        let version = cluster.peek(|state| state.policy().map_or(0, |policy| policy.version));
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, policy)) = &*compiled
            && *known == version
        {
            return (version, Arc::clone(policy));
        }
        let current = cluster
            .peek(|state| state.policy().map(|policy| (policy.version, policy.text.clone())));
        let (version, policy) = match current {
            None => (0, Policy::empty()),
            Some((version, text)) => (version, compile(version, &text)),
        };
        let policy = Arc::new(policy);
        *compiled = Some((version, Arc::clone(&policy)));
        (version, policy)
    }
}

fn compile(version: u64, text: &str) -> Policy {
    Policy::compile(text, "policy.toml").unwrap_or_else(|diagnostics| {
        let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            version,
            first,
            "the policy in force does not compile: everything is refused"
        );
        Policy::empty()
    })
}
