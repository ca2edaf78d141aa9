//! The cluster room from outside: what is acknowledged stays, what is damaged is refused.

mod node;
mod support;
