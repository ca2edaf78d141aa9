//! Intake from outside: a raw gRPC client over mTLS, a real cluster on a real disk.

#![allow(clippy::unwrap_used)]

mod asking;
mod attaching;
mod bundles;
mod databases;
mod edge;
mod forging;
mod keeping;
mod leases;
mod opening;
mod quorum;
mod releasing;
mod reporting;
mod signing;
mod town;
mod world;
