//! Who a browser belongs to: a random cookie for a token that was shown once, and the token that its forms carry.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

const COOKIE: &str = "countersign";
const LASTS: Duration = Duration::from_secs(12 * 60 * 60);
/// More browsers than people who approve.
const MOST: usize = 1000;

/// Sessions by the SHA-256 of their cookie. They end with the process.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

#[derive(Clone)]
pub(super) struct Session {
    /// Of the bearer token that opened it: looked up anew with each request, so that it ends when the token does.
    pub(super) token_sha256: [u8; 32],
    /// What a form must carry to be this session's.
    pub(super) form_token: String,
    began: Instant,
}

impl Sessions {
    /// Begins a session and gives the value of `Set-Cookie`.
    pub(super) fn begin(&self, token_sha256: [u8; 32]) -> String {
        let cookie = hex::encode(rand::random::<[u8; 32]>());
        let form_token = hex::encode(rand::random::<[u8; 32]>());
        let session = Session { token_sha256, form_token, began: Instant::now() };
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.began.elapsed() < LASTS);
        if sessions.len() >= MOST {
            sessions.clear();
        }
        sessions.insert(Sha256::digest(&cookie).into(), session);
        format!("{COOKIE}={cookie}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}", LASTS.as_secs())
    }

    pub(super) fn of(&self, headers: &HeaderMap) -> Option<Session> {
        let key = key_of(headers)?;
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&key).filter(|session| session.began.elapsed() < LASTS).cloned()
    }

    pub(super) fn end(&self, headers: &HeaderMap) {
        if let Some(key) = key_of(headers) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
    }
}

impl Session {
    pub(super) fn made(&self, form_token: &str) -> bool {
        self.form_token.as_bytes().ct_eq(form_token.as_bytes()).into()
    }
}

fn key_of(headers: &HeaderMap) -> Option<[u8; 32]> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, cookie) = pairs.find(|(name, _)| *name == COOKIE)?;
    Some(Sha256::digest(cookie).into())
}
