//! The audit log: a hash chain of records, one for every command that did something.

use serde::{Deserialize, Serialize};

use super::Millis;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// From 1, without gaps.
    pub index: u64,
    pub at: Millis,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub details: Vec<(String, String)>,
    pub previous: [u8; 32],
    pub hash: [u8; 32],
}

/// Append-only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Log {
    records: Vec<Record>,
}

impl Log {
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Hash of the last record; zeros before the first.
    pub fn head(&self) -> [u8; 32] {
        self.records.last().map_or([0; 32], |r| r.hash)
    }
}
