//! Requests that are signed here, because the key never leaves: what their signature is made of, kept while they wait,
//! and the headers that an edge gets in the key's place.
//!
//! ```text
//! announced request ─ Unsigned::of ─▶ Unsigned ── waits ── claimed ─▶ sign(key, now) ─▶ headers ─ sealed ─▶ edge
//! ```
//!
//! What is signed is the request as it was frozen and approved, at the moment of its release: an edge can neither have
//! another one signed nor keep a signature for later.

mod aws;
mod shared_secret;

use bytes::Bytes;
use countersign_gate::{Digest, Held, Payload, Request, Slot};
use http::header::{HeaderMap, HeaderName};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub(crate) use aws::check_key as check_aws_key;
pub(crate) use shared_secret::Recipe;

use crate::state::Millis;

/// How a plan says that its request is to be signed, read and found to fit that request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Aws(aws::Scope),
    Hmac(Recipe),
}

/// What signing needs of a frozen request. It has no key in it.
pub(crate) struct Unsigned {
    request_digest: Digest,
    manner: Manner,
    method: String,
    authority: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    body_sha256: Digest,
    /// Empty unless it is needed to the letter.
    body: Bytes,
}

/// A key of the vault that does not sign: it is not in the form that its slot wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoSigningKey;

impl Manner {
    /// `None` unless the plan is one of signing by AWS Signature Version 4 whose parts fit the request.
    pub(crate) fn aws(names: &[HeaderName], manner: &str, request: &Request) -> Option<Self> {
        aws::Scope::read(names, manner, request).map(Self::Aws)
    }

    /// `None` unless the plan is one of signing with a shared secret whose parts are in the request.
    pub(crate) fn hmac(names: &[HeaderName], manner: &str, request: &Request) -> Option<Self> {
        Recipe::read(names, manner, request).map(Self::Hmac)
    }

    /// Of a plan that was found to agree with its credential's record.
    fn of(request: &Request) -> Option<Self> {
        let plan = request.injections().first()?;
        let Slot::Signed { names, manner } = &plan.slot else { return None };
        Self::aws(names, manner, request).or_else(|| Self::hmac(names, manner, request))
    }
}

impl Unsigned {
    /// `None` for a request that needs no signature.
    pub(crate) fn of(held: &Held) -> Option<Self> {
        let request = held.request();
        let manner = Manner::of(request)?;
        let Payload::Whole(body) = request.payload() else { return None };
        Some(Self {
            request_digest: held.ticket().request_digest,
            method: request.method().to_string(),
            authority: request.destination().authority(),
            path: request.path().to_owned(),
            query: request.query().map(str::to_owned),
            headers: request.headers().clone(),
            body_sha256: Sha256::digest(body).into(),
            body: match &manner {
                Manner::Hmac(recipe) if recipe.signs_body() => body.clone(),
                Manner::Aws(_) | Manner::Hmac(_) => Bytes::new(),
            },
            manner,
        })
    }

    pub(crate) fn request_digest(&self) -> &Digest {
        &self.request_digest
    }

    /// How much of the request is kept, bytes.
    pub(crate) fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
        self.path.len() + self.query.as_ref().map_or(0, String::len) + headers + self.body.len()
    }

    /// The headers that make it a signed request, as the gate reads them: lines `name: value`.
    ///
    /// # Errors
    /// [`NoSigningKey`].
    pub(crate) fn sign(&self, key: &[u8], now: Millis) -> Result<Zeroizing<Vec<u8>>, NoSigningKey> {
        match &self.manner {
            Manner::Aws(scope) => aws::sign(self, scope, key, now),
            Manner::Hmac(recipe) => shared_secret::sign(self, recipe, key, now),
        }
    }
}
