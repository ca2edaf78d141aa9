//! The replicated side: vault, policy, approvals, signed releases.

pub mod config;
pub mod node;

pub mod peers;

mod listen;
mod tap;
mod tls;
mod web;

pub mod access;
pub mod intake;
pub mod mint;
mod operator;

mod card;
mod notify;
mod request_signature;
pub mod sign;
pub mod vault;

pub mod cluster;
pub mod state;
pub mod telemetry;

mod planted;
