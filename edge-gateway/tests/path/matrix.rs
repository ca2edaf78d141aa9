//! What is refused and what goes on when something is missing: a module for each situation, a test for each kind of
//! request.

mod away;
mod edge;
mod people;
