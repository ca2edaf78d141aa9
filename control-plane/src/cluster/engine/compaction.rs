//! Giving space back: after many unclean ends sled's file can be many times what lives in it.
//!
//! Everything is copied into a new folder, synced, and the two folders change places in one step. The old one stays
//! until the new one has been read and checked.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::disk::{Trees, open_sled, sync_everything};
use super::{FailStop, Fsync};
use crate::cluster::data_dir::{DataDir, StartError, private_folder};

/// Below this it is not worth the trouble.
const WORTHWHILE: u64 = 64 * 1024 * 1024;
const TIMES: u64 = 16;
/// Pairs copied in one batch; values are chunks of 3 KiB.
const TOGETHER: usize = 256;

/// Whether the file is more than sixteen times what lives in it.
pub(super) fn is_bloated(trees: &Trees, folder: &Path) -> io::Result<bool> {
    let size = fs::metadata(folder.join("db"))?.len();
    if size < WORTHWHILE {
        return Ok(false);
    }
    let mut live = 0;
    for tree in [&trees.log, &trees.meta] {
        for pair in tree {
            let (key, value) = pair.map_err(io::Error::other)?;
            live += (key.len() + value.len()) as u64;
        }
    }
    Ok(size > TIMES * live)
}

/// Puts a copy in the place of a log that was checked and closed. On an error the log is as it was.
///
/// # Errors
/// When the copy cannot be written, or the file system cannot swap two folders.
pub fn compact(directory: &DataDir, fsync: &dyn Fsync, fail: &FailStop) -> Result<(), StartError> {
    let (folder, new) = (directory.log(), directory.log_aside());
    clear_aside(directory)?;
    private_folder(&new)?;
    let failed =
        |source| StartError::Io { doing: "give back space in", path: folder.clone(), source };
    {
        let (from, to) = (open_sled(&folder)?, open_sled(&new)?);
        copy(&from.log, &to.log).map_err(failed)?;
        copy(&from.meta, &to.meta).map_err(failed)?;
        to.db.flush().map_err(|e| failed(io::Error::other(e)))?;
    }
    sync_everything(&new, fsync).map_err(failed)?;
    renameat_with(CWD, &folder, CWD, &new, RenameFlags::EXCHANGE).map_err(|e| failed(e.into()))?;
    // Which of the two is the log must be certain before either is written to or removed.
    let certain = fsync.folder(directory.path());
    certain.map_err(|e| {
        failed(io::Error::other(fail.trip(format!("syncing the data directory failed: {e}"))))
    })
}

/// Removes what a compaction left aside: to be called only after the log in place was checked.
///
/// # Errors
/// When it cannot be removed.
pub fn clear_aside(directory: &DataDir) -> Result<(), StartError> {
    match fs::remove_dir_all(directory.log_aside()) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StartError::Io { doing: "remove", path: directory.log_aside(), source })
        }
        _ => Ok(()),
    }
}

fn copy(from: &sled::Tree, to: &sled::Tree) -> io::Result<()> {
    let mut batch = sled::Batch::default();
    for (count, pair) in from.iter().enumerate() {
        let (key, value) = pair.map_err(io::Error::other)?;
        batch.insert(key, value);
        if count % TOGETHER == TOGETHER - 1 {
            to.apply_batch(std::mem::take(&mut batch)).map_err(io::Error::other)?;
        }
    }
    to.apply_batch(batch).map_err(io::Error::other)
}
