//! Policies as their authors write them, against requests as agents send them.

mod support;
mod when;
