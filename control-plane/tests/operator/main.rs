//! The operator's face, over TLS, as clients of any language see it.

mod access;
mod mutations;
mod reveal;
mod seal;
mod start;
mod world;
