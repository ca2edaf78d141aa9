//! Assertions: signed with RS256 (RFC 7519, RFC 7518 §3.3) by a key that is stored.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use zeroize::Zeroizing;

use super::call::NoToken;

pub(super) fn signed(
    key_pem: &str,
    key_id: Option<&str>,
    claims: &impl Serialize,
) -> Result<Zeroizing<String>, NoToken> {
    let unusable = |_| NoToken::for_good("its private key is none that can sign with RS256");
    let key = EncodingKey::from_rsa_pem(key_pem.as_bytes()).map_err(unusable)?;
    let mut header = Header::new(Algorithm::RS256);
    header.kid = key_id.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &key).map(Zeroizing::new).map_err(unusable)
}
