//! An agent: what holds fake keys.

use serde::{Deserialize, Serialize};

use super::Millis;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Agent {
    /// Stable: the name's token may change, this does not.
    pub id: String,
    pub name: String,
    pub owner: Option<String>,
    /// SHA-256 of its proxy token.
    pub token_sha256: [u8; 32],
    pub active: bool,
    pub created_at: Millis,
}
