//! What TLS is made of, on either side of us.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// AES-128 with SHA-256 comes first. It is as strong as the key exchange, every implementation has it (RFC 8446 §9.1), and
/// processors have instructions for all of it: with SHA-384, which they have none for, a tenth of a new connection goes
/// into its keys.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    let later = |suite: &rustls::SupportedCipherSuite| {
        suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256
    };
    provider.cipher_suites.sort_by_key(later);
    Arc::new(provider)
}
