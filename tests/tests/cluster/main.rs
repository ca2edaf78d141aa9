//! Clusters of real processes, and everything that can happen to them. One world at a time: what many processes on few
//! cores do to each other must not look like a fault.
//!
//! Scenarios are named after their number in the plan (R-1 …). With `COUNTERSIGN_TEST_LONG` they run at full length.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod chats;
mod clocks;
mod crashes;
mod disks;
mod edges;
mod hosts;
#[cfg(feature = "planted-bugs")]
mod lying;
mod membership;
mod minting;
mod partitions;
mod promises;
mod quiet;
mod readme;
mod relay;
mod restore;
mod rollback;
mod rotations;
mod seals;
mod storms;
mod strangers;
mod surface;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the dice of loads are thrown with.
const SEED: u64 = 20_261_123;

/// Held by a test for as long as its world runs.
fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
