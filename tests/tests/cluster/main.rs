//! Clusters of real processes, and everything that can happen to them. One world at a time: what many processes on few
//! cores do to each other must not look like a fault.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod promises;
mod quiet;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by a test for as long as its world runs.
fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
