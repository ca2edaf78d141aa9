//! The cluster room from outside: what is acknowledged stays, what is damaged is refused.

#![allow(clippy::unwrap_used)] // what is not a test here is a part of one

mod backups;
mod child;
mod crash;
mod damage;
mod disk_error;
mod disk_full;
mod history;
mod model;
mod node;
mod power_cut;
mod replica;
mod sealed;
mod storm;
mod suite;
mod support;
mod tick;

#[allow(dead_code)] // more words than are needed here
#[path = "../state/world.rs"]
mod world;
