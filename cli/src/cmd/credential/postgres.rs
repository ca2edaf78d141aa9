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
    // It has the shape of a password, so that there may be spaces in it.
    let fake_key = match variable("COUNTERSIGN_FAKE_KEY").map(Zeroizing::new) {
        Some(value) if wanted.fake_key_file.is_none() => value,
        _ => {
            let file = wanted.fake_key_file.as_deref();
            let read = secret::read(file, "the fake key")?;
            let text = std::str::from_utf8(&read);
            Zeroizing::new(text.map_err(|_| Failure::usage("the fake key is not text"))?.to_owned())
        }
    };
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

/// From the file, else from the variable, else from standard input.
fn word(file: Option<&Path>, name: &str, what: &str) -> Result<Zeroizing<String>, Failure> {
    match variable(name).map(Zeroizing::new) {
        Some(value) if file.is_none() => secret::word(value.as_bytes(), name),
        _ => secret::read_word(file, what),
    }
}
