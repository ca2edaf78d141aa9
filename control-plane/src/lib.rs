//! The replicated side: vault, policy, approvals, signed releases.

pub mod config;
pub mod intake;
pub mod sign;
pub mod vault;

pub mod cluster;
pub mod state;
pub mod telemetry;
mod tls;
