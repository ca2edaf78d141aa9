//! I7: a real key is nowhere but in the request to its own upstream.

use base64::Engine as _;

use super::{Evidence, Violation};

/// The forms in which a secret could lie about: raw, hex, base64 at each alignment, base64url, percent, UTF-16.
pub fn forms(secret: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![
        secret.as_bytes().to_vec(),
        hex::encode(secret).into_bytes(),
        hex::encode_upper(secret).into_bytes(),
    ];
    for pad in 0..3 {
        let padded = [&vec![b' '; pad], secret.as_bytes()].concat();
        for engine in
            [&base64::prelude::BASE64_STANDARD_NO_PAD, &base64::prelude::BASE64_URL_SAFE_NO_PAD]
        {
            let text = engine.encode(&padded);
            // Characters that depend on neighbours are left out at both ends.
            forms.push(text.as_bytes()[[0, 2, 3][pad]..text.len() - 1].to_vec());
        }
    }
    forms.push(secret.bytes().flat_map(|b| format!("%{b:02X}").into_bytes()).collect());
    forms.push(secret.encode_utf16().flat_map(u16::to_le_bytes).collect());
    forms
}

/// Whether the secret is in there, in any of its [`forms`].
pub fn holds(bytes: &[u8], secret: &str) -> bool {
    forms(secret).iter().any(|form| memchr::memmem::find(bytes, form).is_some())
}

pub(super) fn keys_stay_inside(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for (name, bytes) in &evidence.sinks {
        for (number, secret) in evidence.secrets.iter().enumerate() {
            if holds(bytes, secret) {
                found.push(Violation::new(7, format!("secret {number} is readable in {name}")));
            }
        }
    }
    found
}
