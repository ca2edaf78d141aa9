//! The mark's file: two slots, written in turn and in place, each with a sequence number and a checksum.
//!
//! A torn write spoils only the slot that was not yet acknowledged. The file has its full length from birth, so a
//! shorter one was cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Fsync;

const MAGIC: [u8; 4] = *b"CSM1";
/// Apart by a page, so that one torn page cannot hold both.
const SLOT: u64 = 4096;
const LARGEST: usize = 1024;
const HEAD: usize = 4 + 8 + 4;
const CHECKSUM: usize = 32;

pub(super) struct MarkFile {
    path: PathBuf,
    file: File,
    sequence: u64,
    held: Vec<u8>,
}

impl MarkFile {
    /// Creates the file, whole or not at all.
    pub(super) fn create(path: &Path, first: &[u8], sync: &dyn Fsync) -> io::Result<Self> {
        let temporary = path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let mut both = vec![0; 2 * SLOT as usize];
        let slot = encode(1, first)?;
        both[SLOT as usize..][..slot.len()].copy_from_slice(&slot);
        file.write_all(&both)?;
        sync.whole(&file)?;
        fs::rename(&temporary, path)?;
        sync.folder(path.parent().unwrap_or_else(|| Path::new(".")))?;
        Self::open(path)?.ok_or_else(|| io::Error::other("the file just written is gone"))
    }

    /// `None` when there is no such file; an error of kind `InvalidData` when no slot of it is whole.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let length = file.metadata()?.len();
        if length != 2 * SLOT {
            return Err(invalid(format!("it is {length} bytes long and should be {}", 2 * SLOT)));
        }
        let mut slots = Vec::new();
        for place in 0..2 {
            let mut bytes = vec![0; SLOT as usize];
            file.read_exact_at(&mut bytes, place * SLOT)?;
            slots.extend(decode(&bytes).filter(|(sequence, _)| sequence % 2 == place));
        }
        let newest = slots.into_iter().max_by_key(|(sequence, _)| *sequence);
        let (sequence, held) =
            newest.ok_or_else(|| invalid("neither of its two slots is whole".into()))?;
        Ok(Some(Self { path: path.to_owned(), file, sequence, held }))
    }

    /// Replaces the mark; durable when this returns.
    pub(super) fn write(&mut self, mark: &[u8], sync: &dyn Fsync) -> io::Result<()> {
        let sequence = self.sequence + 1;
        self.file.write_all_at(&encode(sequence, mark)?, (sequence % 2) * SLOT)?;
        sync.data(&self.file)?;
        self.sequence = sequence;
        self.held = mark.to_vec();
        Ok(())
    }

    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn encode(sequence: u64, mark: &[u8]) -> io::Result<Vec<u8>> {
    if mark.len() > LARGEST {
        return Err(invalid(format!("a mark of {} bytes is larger than {LARGEST}", mark.len())));
    }
    let mut slot = MAGIC.to_vec();
    slot.extend(sequence.to_be_bytes());
    slot.extend((mark.len() as u32).to_be_bytes());
    slot.extend(mark);
    let checksum: [u8; CHECKSUM] = Sha256::digest(&slot).into();
    slot.extend(checksum);
    Ok(slot)
}

fn decode(slot: &[u8]) -> Option<(u64, Vec<u8>)> {
    let magic = slot.get(..4)?;
    let sequence = u64::from_be_bytes(slot.get(4..12)?.try_into().ok()?);
    let length = u32::from_be_bytes(slot.get(12..HEAD)?.try_into().ok()?) as usize;
    if magic != MAGIC || length > LARGEST {
        return None;
    }
    let (written, checksum) = slot.get(..HEAD + length + CHECKSUM)?.split_at(HEAD + length);
    let expected: [u8; CHECKSUM] = Sha256::digest(written).into();
    (checksum == expected).then(|| (sequence, written[HEAD..].to_vec()))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
