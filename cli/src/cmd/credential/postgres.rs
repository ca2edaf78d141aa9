//! `countersign credential postgres-url`: how an agent reaches a database through the edge.

use std::path::Path;

use countersign_edge_gateway::postgres::password;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::args::PostgresUrl;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{print, secret, variable};

/// RFC 3986 §2.3: what needs no escape.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(super) fn url(context: &Context, wanted: &PostgresUrl) -> Done {
    let ca = wanted.ca_path.as_deref().or(context.edge.ca.as_deref()).ok_or_else(|| {
        Failure::usage(
            "the edge's CA file is not known here: set COUNTERSIGN_EDGE_CA, or give --ca-path",
        )
    })?;
    let token = word(wanted.token_file.as_deref(), "COUNTERSIGN_AGENT_TOKEN", "the agent's token")?;
    let fake_key = word(wanted.fake_key_file.as_deref(), "COUNTERSIGN_FAKE_KEY", "the fake key")?;
    let password = password(&Sha256::digest(token.as_bytes()).into(), &fake_key);
    let part = |text: &str| Zeroizing::new(utf8_percent_encode(text, PART).to_string());
    print::raw(&Zeroizing::new(format!(
        "postgres://{}:{}@{}/{}?sslmode=verify-full&sslrootcert={}\n",
        *part(&format!("{}/{}", wanted.agent, wanted.name)),
        *part(&password),
        wanted.edge,
        *part(&wanted.database),
        *part(&ca.display().to_string()),
    )))
}

/// From the file, else from the variable.
fn word(file: Option<&Path>, name: &str, what: &str) -> Result<Zeroizing<String>, Failure> {
    match variable(name).map(Zeroizing::new) {
        Some(value) if file.is_none() => secret::word(value.as_bytes(), name),
        None if file.is_none() => Err(Failure::Usage(format!(
            "{what} is not here: set {name}, or name a file that holds it"
        ))),
        _ => secret::read_word(file, what),
    }
}
