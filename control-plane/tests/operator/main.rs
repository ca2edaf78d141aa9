//! The operator's face, over TLS, as clients of any language see it.

#![allow(clippy::unwrap_used)] // what is not a test here is a part of one

mod access;
mod approvals;
mod backup;
mod cluster;
mod deliveries;
mod edge;
mod edge_ca;
mod identity;
mod mutations;

mod pages;
mod policies;
mod reveal;
mod seal;
mod shown_ca;
mod start;
mod team;
mod token;
mod town;
mod traces;
mod world;
