//! What the bytes of a request say, each protocol in a file of its own: [`coding`] (Content-Encoding), [`git`], gRPC,
//! [`mail`], [`mcp`] and [`multipart`]; JSON, GraphQL and queries have theirs beside this one. Policies decide by them and cards
//! are written by them, so that people are shown what was judged.
//!
//! Each takes bytes and returns values or [`Undecodable`](crate::body::Undecodable): no I/O, no panics, and bounds on all that
//! grows. Where loose readers would see something else than strict ones, nothing is certain.
//!
//! Here: percent-decoding that refuses what it does not understand, and folding of what loose readers take for the same.

use std::borrow::Cow;

pub mod coding;
pub mod git;
pub(crate) mod grpc;
pub mod mail;
pub mod mcp;
pub mod multipart;

/// Decodes every `%xx` once. None when a `%` is not followed by two hexadecimal digits.
pub fn percent(text: &str) -> Option<Cow<'_, [u8]>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(Cow::Owned(out))
}

/// As `application/x-www-form-urlencoded` decodes: `+` is a space. None when it is not percent-encoded UTF-8.
pub fn form(text: &str) -> Option<String> {
    let spaced =
        if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    String::from_utf8(percent(&spaced)?.into_owned()).ok()
}

/// What readers that ignore case take a text for, beyond ASCII too (`ſ` is an `s` to some, the Kelvin sign a `k`).
pub(crate) fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Cow::Owned(text.to_ascii_lowercase());
        }
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect())
}
