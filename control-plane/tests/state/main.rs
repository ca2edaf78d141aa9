//! The replicated state machine: facts about single commands, and properties of arbitrary sequences of them.

mod approvals;
mod audit;
mod checkpoints;
mod clock;
mod edge_ca;
mod exports;
mod nodes;
mod objects;
mod properties;
mod releases;
mod restores;
mod trust;
#[allow(dead_code)] // some words are the cluster's tests' alone
mod world;
