//! What a channel proves itself with, or checks others by.

use std::sync::Arc;

use zeroize::Zeroizing;

/// A token or key of a platform. It cannot be printed or compared; a copy is the same memory, overwritten with the last.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    pub fn new(secret: String) -> Self {
        Self(Arc::new(Zeroizing::new(secret)))
    }

    /// For whoever signs with it or sends it, and nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
