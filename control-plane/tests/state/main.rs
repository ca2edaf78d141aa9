//! The replicated state machine: facts about single commands, and properties of arbitrary sequences of them.

mod approvals;
mod audit;
mod checkpoints;
mod exports;
mod nodes;
mod objects;
mod properties;
mod releases;
mod restores;
mod trust;
mod world;
