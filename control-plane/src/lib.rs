//! The replicated side: vault, policy, approvals, signed releases.

pub mod state;
