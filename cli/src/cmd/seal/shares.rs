//! Encrypted shares: each into a file of its own, to be handed to whoever can open it.

use std::path::{Path, PathBuf};

use countersign_proto::v1;
use serde::Serialize;

use crate::failure::{Done, Failure};
use crate::keep::{Place, private_dir};
use crate::print;

/// One operator's share, encrypted to them.
#[derive(Serialize)]
pub(crate) struct Share {
    id: u32,
    recipient: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

/// Which share is whose, and where it is: here, if it has no file. Nobody but its keeper can open it.
pub(crate) fn told_shares(shares: &[Share]) -> Done {
    shares.iter().try_for_each(|Share { id, recipient, encrypted, file }| match (file, encrypted) {
        (Some(file), _) => print::line(&format!("share {id} for {recipient}: {}", file.display())),
        (None, encrypted) => {
            print::line(&format!("share {id} for {recipient}:"))?;
            print::lines(encrypted.as_deref().unwrap_or_default())
        }
    })
}

/// A directory for shares, with nothing of that name in it.
pub(crate) struct SharesDir(PathBuf);

impl SharesDir {
    /// # Errors
    /// When it cannot be made, or shares are in it already.
    pub(crate) fn take(path: &Path) -> Result<Self, Failure> {
        private_dir(path)?;
        let unread = |error: std::io::Error| {
            Failure::Refused(format!(
                "nothing was done: {} cannot be read: {error}",
                path.display()
            ))
        };
        for entry in std::fs::read_dir(path).map_err(unread)? {
            let name = entry.map_err(unread)?.file_name();
            if name.to_string_lossy().starts_with("share-") {
                return Err(Failure::Refused(format!(
                    "{} is there already: nothing was done; the shares need a directory without any",
                    path.join(name).display()
                )));
            }
        }
        Ok(Self(path.to_owned()))
    }
}

/// Each into a file of its own, if there is a directory; else as they are.
pub(crate) fn keep_shares(
    shares: Vec<v1::EncryptedShare>,
    dir: Option<SharesDir>,
) -> Result<Vec<Share>, Failure> {
    let one = |share: v1::EncryptedShare| {
        let v1::EncryptedShare { id, recipient, encrypted } = share;
        let Some(SharesDir(dir)) = &dir else {
            return Ok(Share { id, recipient, encrypted: Some(encrypted), file: None });
        };
        let place = Place::take(&dir.join(format!("share-{id}.age")), "an encrypted share")?;
        let file = Some(place.keep(encrypted.as_bytes())?);
        Ok(Share { id, recipient, encrypted: None, file })
    };
    shares.into_iter().map(one).collect()
}
