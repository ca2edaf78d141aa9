//! What people are shown before they answer.

use countersign_chat::{Part, warnings};

use crate::state::Shown;

/// What a reader could take for something else: look-alike letters, and what cannot be seen. A sentence each.
pub(crate) fn careful(shown: &Shown) -> Vec<String> {
    let path = Part::PercentEncoded { name: "path", text: &shown.path };
    let query = shown.query.as_deref().map(|text| Part::PercentEncoded { name: "query", text });
    let names: Vec<_> = shown.headers.iter().map(|(name, _)| format!("header {name}")).collect();
    let headers = shown.headers.iter().zip(&names);
    let headers = headers.map(|((_, text), name)| Part::Plain { name, text });
    let body = text(&shown.body_preview).map(|text| Part::Plain { name: "body", text });
    let parts: Vec<_> = [path].into_iter().chain(query).chain(headers).chain(body).collect();
    warnings(&shown.host, &parts)
}

/// What is shown as text: all of it, or all but a character that was cut in half at the end.
fn text(body: &[u8]) -> Option<&str> {
    match std::str::from_utf8(body) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&body[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}
