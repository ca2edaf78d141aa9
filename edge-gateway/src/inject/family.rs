//! One request, one identity. A service that looks for who is asking in several places of a head takes one of them first; where
//! that is not the one that our key goes into, it acts for whomever the agent has named, and people were told of somebody else.

use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE, HeaderName};

use crate::bundle::{Credential, Place};
use crate::freeze::Draft;

/// Headers in which services look for keys. Proxy-Authorization never gets as far as here.
const FAMILY: [HeaderName; 11] = [
    HeaderName::from_static("api-key"),
    HeaderName::from_static("apikey"),
    AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("deploy-token"),
    HeaderName::from_static("job-token"),
    HeaderName::from_static("private-token"),
    HeaderName::from_static("x-access-token"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Takes from a request that gets this credential's key every other key that the agent has put into its head, and gives the
/// names of the headers. A signature is over what the request says of itself, so nothing is taken from one that is signed.
pub(super) fn strip<'a>(
    draft: &mut Draft,
    credential: &Credential,
    beside: impl Iterator<Item = &'a Arc<Credential>>,
) -> Vec<HeaderName> {
    if matches!(credential.place, Place::AwsSigv4 | Place::Hmac { .. }) {
        return Vec::new();
    }
    let others = beside.filter_map(|other| match &other.place {
        Place::Header { name, .. } => Some(name.clone()),
        _ => None,
    });
    let keeps =
        |name: &HeaderName| matches!(credential.place, Place::Cookie { .. }) && *name == COOKIE;
    let mut taken = Vec::new();
    for name in FAMILY.into_iter().chain(others).filter(|name| !keeps(name)) {
        if draft.headers.remove(&name).is_some() {
            taken.push(name);
        }
    }
    taken
}
