//! Lists in pages: an opaque token says after which item the next one begins.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use prost::Message;
use prost_types::Timestamp;
use tonic::Status;

use super::refuse;
use crate::state::Millis;

const DEFAULT: usize = 100;
const MOST: usize = 1000;
/// Below the 4 MiB that gRPC clients take in unless they are told otherwise.
const BYTES: usize = 3 * 1024 * 1024;

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

    /// The page's items by their keys, smallest first, as `shown`, and the token of the next page (empty: there is
    /// none). A page ends early when it would become larger than what clients take in.
    pub(super) fn cut<S, T: Message>(
        &self,
        mut keyed: Vec<(String, S)>,
        shown: impl Fn(S) -> T,
    ) -> (Vec<T>, String) {
        if let Some(after) = &self.after {
            keyed.retain(|(key, _)| key > after);
        }
        keyed.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.cut_sorted(keyed.into_iter(), shown)
    }

    /// As [`Page::cut`], for what comes with its smallest key first and begins after [`Page::after`].
    pub(super) fn cut_sorted<S, T: Message>(
        &self,
        keyed: impl Iterator<Item = (String, S)>,
        shown: impl Fn(S) -> T,
    ) -> (Vec<T>, String) {
        let (mut page, mut bytes, mut last) = (Vec::new(), 0, String::new());
        for (key, item) in keyed {
            let item = shown(item);
            bytes += item.encoded_len();
            if page.len() == self.size || (bytes > BYTES && !page.is_empty()) {
                let token = format!("{}\n{last}", self.kind);
                return (page, BASE64_URL_SAFE_NO_PAD.encode(token));
            }
            page.push(item);
            last = key;
        }
        (page, String::new())
    }

    /// The key of the last item of the page before.
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
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

/// None for what is before 1970, or further than counts.
pub(super) fn millis(at: &Timestamp) -> Option<Millis> {
    let seconds = u64::try_from(at.seconds).ok()?;
    let nanos = u64::try_from(at.nanos).ok()?;
    seconds.checked_mul(1000)?.checked_add(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use countersign_proto::v1::Approval;

    use super::*;

    #[test]
    fn a_page_stays_below_what_clients_take_in() {
        let large = |n: u32| Approval {
            approval_id: n.to_string(),
            body_preview: vec![0; 1024 * 1024].into(),
            ..Approval::default()
        };
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page = Page::of("approvals", 0, &token).unwrap();
            let keyed = (0..7).map(|n| (n.to_string(), n)).collect();
            let (approvals, next) = page.cut(keyed, large);
            assert!(approvals.iter().map(Message::encoded_len).sum::<usize>() < 4 * 1024 * 1024);
            seen.extend(approvals.into_iter().map(|a| a.approval_id));
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6"]);
    }

    #[test]
    fn what_is_larger_than_a_page_is_one() {
        let page = Page::of("approvals", 0, "").unwrap();
        let huge = |_| Approval { body_preview: vec![0; BYTES + 1].into(), ..Approval::default() };
        let (approvals, next) = page.cut(vec![("a".into(), ()), ("b".into(), ())], huge);
        assert_eq!(approvals.len(), 1);
        assert!(!next.is_empty());
    }
}
