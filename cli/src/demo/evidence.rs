//! What is left behind: the audit trail, and everything on disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::client::Admin;
use crate::cmd::audit::{self, Entry, Line, Verdict};

/// The audit log, verified.
pub(super) struct Trail {
    entries: Vec<Entry>,
    verdict: Verdict,
}

impl Trail {
    /// Exports the log and verifies it here.
    pub(super) async fn read(admin: &mut Admin) -> anyhow::Result<Self> {
        let lines = audit::exported(admin).await?;
        let verdict = audit::chained(&lines)
            .map_err(|position| anyhow!("record {position} of the audit log is not one"))?;
        ensure!(verdict.ok, "the audit log does not verify");
        let entries = lines.into_iter().filter_map(|line| match line {
            Line::Record(entry) => Some(entry),
            Line::Checkpoint(_) | Line::Preamble(_) => None,
        });
        Ok(Self { entries: entries.collect(), verdict })
    }

    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        self.entries.iter().map(Entry::brief).collect()
    }

    /// How many records of this action name the approval.
    pub(super) fn count(&self, action: &str, approval: &str) -> usize {
        self.entries.iter().filter(|entry| entry.action == action && entry.names(approval)).count()
    }

    pub(super) fn entries(&self) -> u64 {
        self.verdict.entries
    }

    pub(super) fn head(&self) -> &str {
        &self.verdict.head
    }
}

/// What a search of a directory came to.
pub(super) struct Search {
    pub(super) files: usize,
    pub(super) bytes: u64,
    /// A file that holds the secret.
    pub(super) found: Option<PathBuf>,
}

/// Looks for the secret in every file below `dir`.
pub(super) fn search(dir: &Path, secret: &str) -> anyhow::Result<Search> {
    let mut search = Search { files: 0, bytes: 0, found: None };
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let bytes = fs::read(&path)?;
                search.files += 1;
                search.bytes += bytes.len() as u64;
                if holds(&bytes, secret) {
                    search.found = Some(path);
                }
            }
        }
    }
    Ok(search)
}

/// Whether the secret is in these bytes: raw, in hex, or in base64 at any alignment.
pub(super) fn holds(bytes: &[u8], secret: &str) -> bool {
    forms(secret.as_bytes())
        .iter()
        .any(|form| bytes.windows(form.len()).any(|window| window == form.as_slice()))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![
        secret.to_vec(),
        hex::encode(secret).into_bytes(),
        hex::encode_upper(secret).into_bytes(),
    ];
    for shift in 0..3 {
        let shifted: Vec<u8> =
            std::iter::repeat_n(0, shift).chain(secret.iter().copied()).collect();
        // Letters that also hold bits of what comes before or after the secret are left away.
        let (first, end) = ((shift * 8).div_ceil(6), shifted.len() * 8 / 6);
        forms.extend(
            [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)]
                .map(|text| text.as_bytes()[first..end].to_vec()),
        );
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "sk_live_0123456789abcdef";

    #[test]
    fn every_form_is_found() {
        assert!(holds(format!("x{SECRET}y").as_bytes(), SECRET));
        assert!(holds(hex::encode(format!("x{SECRET}y")).as_bytes(), SECRET));
        for before in ["", "a", "ab", "abc", "abcd"] {
            let text = format!("{before}{SECRET}after");
            assert!(holds(STANDARD_NO_PAD.encode(&text).as_bytes(), SECRET), "{before}");
            assert!(holds(URL_SAFE_NO_PAD.encode(&text).as_bytes(), SECRET), "{before}");
        }
        assert!(!holds(b"sk_live_0123456789abcdeX", SECRET));
    }

    #[test]
    fn a_file_in_a_directory_below_is_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("clean"), "nothing").unwrap();
        assert!(search(dir.path(), SECRET).unwrap().found.is_none());
        let dirty = dir.path().join("below/dirty");
        fs::write(&dirty, format!("\0\0{SECRET}")).unwrap();
        let search = search(dir.path(), SECRET).unwrap();
        assert_eq!((search.files, search.found), (2, Some(dirty)));
    }
}
