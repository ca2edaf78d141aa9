//! Policy versions: text that was compiled before it was proposed.

use serde::{Deserialize, Serialize};

use super::Millis;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// From 1.
    pub version: u64,
    pub text: String,
    pub sha256: [u8; 32],
    pub set_at: Millis,
    pub set_by: String,
}
