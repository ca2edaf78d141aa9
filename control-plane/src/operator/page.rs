//! Lists in pages: an opaque token says after which item the next one begins.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use prost_types::Timestamp;
use tonic::Status;

use super::refuse;
use crate::state::Millis;

const DEFAULT: usize = 100;
const MOST: usize = 1000;

/// Which items a caller asks for.
pub(super) struct Page {
    kind: &'static str,
    size: usize,
    after: Option<String>,
}

impl Page {
    /// `kind` keeps the tokens of one list from being used for another.
    pub(super) fn of(kind: &'static str, page_size: i32, page_token: &str) -> Result<Self, Status> {
        let size = match usize::try_from(page_size) {
            Ok(0) => DEFAULT,
            Ok(size) => size.min(MOST),
            Err(_) => {
                return Err(refuse::field(
                    "page_size",
                    "must not be negative; 0 takes 100, and 1000 is the most",
                ));
            }
        };
        let after = match page_token {
            "" => None,
            token => Some(open(kind, token).ok_or_else(|| {
                refuse::field(
                    "page_token",
                    "is not one that this list gave: leave it out to begin at the first page",
                )
            })?),
        };
        Ok(Self { kind, size, after })
    }

    /// The page's items by their keys, smallest first, and the token of the next page (empty: there is none).
    pub(super) fn cut<T>(&self, mut keyed: Vec<(String, T)>) -> (Vec<T>, String) {
        keyed.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.cut_sorted(keyed.into_iter())
    }

    /// As [`Page::cut`], for what comes with its smallest key first.
    pub(super) fn cut_sorted<T>(
        &self,
        keyed: impl Iterator<Item = (String, T)>,
    ) -> (Vec<T>, String) {
        let mut rest =
            keyed.skip_while(|(key, _)| self.after.as_ref().is_some_and(|after| key <= after));
        let page: Vec<_> = rest.by_ref().take(self.size).collect();
        let next = match (page.last(), rest.next()) {
            (Some((key, _)), Some(_)) => {
                BASE64_URL_SAFE_NO_PAD.encode(format!("{}\n{key}", self.kind))
            }
            _ => String::new(),
        };
        (page.into_iter().map(|(_, item)| item).collect(), next)
    }
}

fn open(kind: &str, token: &str) -> Option<String> {
    let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (made_for, after) = text.split_once('\n')?;
    (made_for == kind).then(|| after.to_owned())
}

pub(super) fn timestamp(at: Millis) -> Option<Timestamp> {
    let seconds = i64::try_from(at / 1000).ok()?;
    let nanos = i32::try_from(at % 1000 * 1_000_000).ok()?;
    Some(Timestamp { seconds, nanos })
}
