//! `countersign cluster backup`.

use std::fs;
use std::path::{Path, PathBuf};

use countersign_proto::v1;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::args::{Output, Show};
use crate::client::{self, Admin};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::keep::{Place, sync_parent};
use crate::print;
use crate::progress::Progress;

#[derive(Serialize)]
struct Backup<'a> {
    file: &'a Path,
    bytes: u64,
    sha256: String,
}

/// It has its name once all of it is on the disk: what is there is whole.
pub(super) async fn run(context: &Context, file: &Path, show: &Show) -> Done {
    let there =
        || Failure::Refused(format!("{} is there already: nothing was done", file.display()));
    if fs::symlink_metadata(file).is_ok() {
        return Err(there());
    }
    let partial = partial(file)?;
    let mut place = Place::take(&partial, "the backup")?;
    let mut admin = client::connect_to_watch(context).await?;
    let (bytes, sha256) = copy(&mut admin, &mut place, file).await?;
    let whole = place.finish()?;
    let failed = |error: std::io::Error| {
        Failure::Refused(format!("{} cannot be written: {error}", file.display()))
    };
    let named = rename(&whole, file).inspect_err(|_| drop(fs::remove_file(&whole)));
    named.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => there(),
        _ => failed(error),
    })?;
    sync_parent(file).map_err(failed)?;
    match show.output {
        Output::Json => print::json(&Backup { file, bytes, sha256 }),
        Output::Table => print::line(&format!(
            "{bytes} bytes are in {}, encrypted: what opens the vault opens them. SHA-256 {sha256}.",
            file.display()
        )),
    }
}

async fn copy(admin: &mut Admin, place: &mut Place, file: &Path) -> Result<(u64, String), Failure> {
    let mut parts = admin.backup_cluster(v1::BackupClusterRequest {}).await?.into_inner();
    let mut progress = Progress::begin();
    let (mut bytes, mut digest) = (0, Sha256::new());
    // A stream that ends without the server's word that it is complete is an error here.
    while let Some(part) = parts.message().await? {
        place.write(&part.data)?;
        digest.update(&part.data);
        bytes += part.data.len() as u64;
        progress.say_bytes(&file.display().to_string(), bytes);
    }
    if bytes == 0 {
        return Err(Failure::refused("nothing was backed up: the control plane sent nothing"));
    }
    Ok((bytes, hex::encode(digest.finalize())))
}

fn partial(file: &Path) -> Result<PathBuf, Failure> {
    let name = file
        .file_name()
        .ok_or_else(|| Failure::Usage(format!("{} names no file", file.display())))?;
    let mut partial = name.to_owned();
    partial.push(".partial");
    Ok(file.with_file_name(partial))
}

/// Over nothing. Some file systems cannot promise that; there it is looked at once more.
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(std::io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        renamed => Ok(renamed?),
    }
}
