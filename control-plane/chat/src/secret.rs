//! What a channel proves itself with, or checks others by.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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

    /// The key that `whsec_` and base64 stand for, of 24 to 64 bytes (Standard Webhooks).
    pub fn key(&self) -> Option<Zeroizing<Vec<u8>>> {
        let key = STANDARD.decode(self.0.strip_prefix("whsec_")?).ok().map(Zeroizing::new)?;
        (24..=64).contains(&key.len()).then_some(key)
    }
}

/// Random bytes that a caller threw for one call. It cannot be printed, copied or compared, and is overwritten when dropped.
pub struct Chance(Zeroizing<[u8; 96]>);

impl Chance {
    /// `bytes` have to be of a generator for keys, and are used for nothing else.
    pub fn new(bytes: [u8; 96]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Three times thirty-two of them, for what must not be guessed.
    pub(crate) fn parts(&self) -> [&[u8; 32]; 3] {
        let (parts, _) = self.0.as_chunks::<32>();
        [&parts[0], &parts[1], &parts[2]]
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
