//! Edges: enrolled gateways, and which process start of each counts.

use serde::{Deserialize, Serialize};

use super::Millis;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Edge {
    pub id: String,
    pub name: String,
    /// SHA-256 of the SubjectPublicKeyInfo that it was enrolled with.
    pub key_sha256: [u8; 32],
    /// Of the process that attached last; claims of any other are refused.
    pub incarnation: Option<[u8; 16]>,
    pub evicted: bool,
    pub enrolled_at: Millis,
}
