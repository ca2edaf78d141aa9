//! The cluster room from outside: what is acknowledged stays, what is damaged is refused.

#![allow(clippy::unwrap_used)] // what is not a test here is a part of one

mod backups;
mod catching_up;
mod changing;
mod child;
mod clock;
mod crash;
mod damage;
mod disk_error;
mod disk_full;
mod history;
mod model;
mod mutual_tls;
mod node;
mod power_cut;
mod replica;
mod rollback;
mod sealed;
mod several;
mod storm;
mod strangers;
mod suite;
mod support;
mod tick;
mod town;

#[allow(dead_code)] // more words than are needed here
#[path = "../state/world.rs"]
mod world;
