//! JSON Web Tokens as the platforms sign them, by PyJWT.

use std::sync::OnceLock;

use countersign_chat::Keys;
use serde_json::{Value, json};

use crate::support::{answer, judge};

/// A pair of RSA keys.
pub(crate) struct Pair {
    pub(crate) pem: String,
    /// The public one, as a key set has it.
    pub(crate) key: Value,
}

/// The platform's, and somebody else's.
pub(crate) fn pairs() -> &'static [Pair; 2] {
    static PAIRS: OnceLock<[Pair; 2]> = OnceLock::new();
    PAIRS.get_or_init(|| {
        let made = judge("jwt_sign.py", &json!({ "make": 2 }));
        [0, 1].map(|at| Pair {
            pem: made[at]["pem"].as_str().unwrap().to_owned(),
            key: made[at]["key"].clone(),
        })
    })
}

/// A key set with the platform's key under this id.
pub(crate) fn key_set(id: &str, endorsements: &Value) -> Value {
    let mut key = pairs()[0].key.clone();
    key["kid"] = id.into();
    if !endorsements.is_null() {
        key["endorsements"] = endorsements.clone();
    }
    json!({ "keys": [key] })
}

pub(crate) fn keys(set: &Value) -> Keys {
    Keys::parse(&answer(200, set)).unwrap()
}

pub(crate) fn token(pem: &str, id: &str, claims: &Value) -> String {
    let signed = judge("jwt_sign.py", &json!({ "pem": pem, "kid": id, "claims": claims }));
    signed["token"].as_str().unwrap().to_owned()
}
