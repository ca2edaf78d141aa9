//! Principals: the people (and their tokens) that operate, approve and audit.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Millis;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    Admin,
    Approver,
    Auditor,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Principal {
    pub name: String,
    pub roles: BTreeSet<Role>,
    pub groups: BTreeSet<String>,
    pub token_sha256: [u8; 32],
    pub active: bool,
    pub created_at: Millis,
}
