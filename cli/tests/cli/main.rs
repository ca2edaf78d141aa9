//! The binary as people and scripts run it: what it prints, and the code that it exits with.

#![allow(clippy::unwrap_used)] // what is not a test here is a part of one

mod audit;
mod channel;
mod cluster;
mod commands;
mod conduct;
mod control_plane;
mod databases;
mod edge_ca;
mod nodes;
mod policy;
mod run;
mod seal;
mod shown_ca;
mod site;
mod team;
mod trust;
