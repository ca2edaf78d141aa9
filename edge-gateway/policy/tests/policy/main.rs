//! Policies as their authors write them, against requests as agents send them.

mod analysis;
mod asking;
mod bodies;
mod bypass;
mod channels;
mod databases;
mod decisions;
mod fixtures;
mod mistakes;
mod observing;
mod properties;
mod support;
mod when;
