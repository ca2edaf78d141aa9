//! What is read of statements, and what is not.

mod smuggling;
mod statements;
mod strict;
