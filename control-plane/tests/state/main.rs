//! The replicated state machine: facts about single commands, and properties of arbitrary sequences of them.

#![allow(clippy::unwrap_used)] // what is not a test here is a part of one

mod approvals;
mod attention;
mod audit;
mod channels;
mod chats;
mod checkpoints;
mod clock;
mod consent;
mod edge_ca;
mod exports;
mod grants;
mod justified;
mod minting;
mod nodes;
mod objects;
mod properties;
mod releases;
mod restores;
mod shown_ca;
mod team;
mod trust;
#[allow(dead_code)] // some words are the cluster's tests' alone
mod world;
