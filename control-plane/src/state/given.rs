//! Which keys an edge was ever given: what has to be rotated when it falls into other hands.

use std::collections::BTreeMap;

use super::{Millis, State};

/// One version of a credential, lent or released to an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub credential: String,
    pub version: u64,
    /// When it was given last.
    pub at: Millis,
    /// It is the version in force: whoever has it can use it until it is rotated.
    pub in_force: bool,
}

impl State {
    /// By the audit log, which has every lease and every release since the cluster began.
    pub fn given_to(&self, edge: &str) -> Vec<Given> {
        let mut given = BTreeMap::new();
        for record in self.audit.records() {
            if record.detail("edge").is_none_or(|to| to != edge) {
                continue;
            }
            match (record.action.as_str(), record.detail("credentials")) {
                ("credential.lease", _) => {
                    let version = record.detail("version").and_then(|it| it.parse().ok());
                    if let (Some(id), Some(version)) = (record.detail("id"), version) {
                        given.insert((id.clone(), version), record.at);
                    }
                }
                ("request.claim", Some(credentials)) => {
                    for credential in credentials.split(',') {
                        if let Some((id, version)) = credential.rsplit_once('@')
                            && let Ok(version) = version.parse()
                        {
                            given.insert((id.to_owned(), version), record.at);
                        }
                    }
                }
                _ => {}
            }
        }
        let known = |((credential, version), at): ((String, u64), Millis)| {
            let now = self.credential(&credential);
            let in_force = now.is_some_and(|it| it.active && it.version == version);
            Given { credential, version, at, in_force }
        };
        given.into_iter().map(known).collect()
    }
}
