//! How a secret goes out: into a file that was not there before, for its owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// An empty file, mode 0600, made before there is anything to put into it: what is shown once must have its place. It
/// goes away again unless something is kept in it.
pub(crate) struct Place {
    path: PathBuf,
    what: &'static str,
    file: Option<File>,
}

impl Place {
    /// `what` it is for, in messages.
    ///
    /// # Errors
    /// When something is at that path already, or nothing can be written there.
    pub(crate) fn take(path: &Path, what: &'static str) -> Result<Self, Failure> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::Refused(format!(
                "{} is there already: nothing was done; {what} needs a new file",
                path.display()
            )),
            _ => Failure::Refused(format!(
                "nothing was done: {what} cannot be written to {}: {error}",
                path.display()
            )),
        })?;
        Ok(Self { path: path.to_owned(), what, file: Some(file) })
    }

    /// Writes it through to the disk.
    ///
    /// # Errors
    /// When it cannot be written; nothing is left behind then.
    pub(crate) fn keep(mut self, bytes: &[u8]) -> Result<PathBuf, Failure> {
        self.write(bytes)?;
        self.finish()
    }

    /// A part of what is kept.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        written.map_err(|error| self.failed(&error))
    }

    /// Once everything is written.
    ///
    /// # Errors
    /// When it does not reach the disk; nothing is left behind then.
    pub(crate) fn finish(mut self) -> Result<PathBuf, Failure> {
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_all);
        synced.and_then(|()| sync_parent(&self.path)).map_err(|error| self.failed(&error))?;
        self.file = None;
        Ok(self.path.clone())
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        let (what, path) = (self.what, self.path.display());
        Failure::Refused(format!("{what} cannot be written to {path}: {error}"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A directory for its owner alone; one that is there stays as it is.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn private_dir(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Failure::Refused(format!("nothing was done: {} cannot be made: {error}", path.display()))
    })
}

/// A file's name is on the disk once its directory is.
pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_kept_is_private_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        Place::take(&path, "the token").unwrap().keep(b"secret\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"secret\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Place::take(&path, "the token").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"secret\n");
    }

    #[test]
    fn a_place_that_nothing_came_into_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        drop(Place::take(&path, "the token").unwrap());
        assert!(!path.exists());
    }
}
