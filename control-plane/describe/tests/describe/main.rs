//! Requests as clients send them, and the sentences that people read of them.

mod never_hides;
mod requests;
mod strict;
