//! Intake from outside: a raw gRPC client over mTLS, a real cluster on a real disk.

#![allow(clippy::unwrap_used)]

mod attaching;
mod bundles;
mod edge;
mod leases;
mod opening;
mod releasing;
mod world;
