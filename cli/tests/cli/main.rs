//! The binary as people and scripts run it: what it prints, and the code that it exits with.

mod commands;
mod conduct;
mod control_plane;
mod run;
