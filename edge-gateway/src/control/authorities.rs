//! By which CAs this edge knows the nodes: those it was enrolled with, until a bundle names others.
//!
//! A bundle is signed by a quorum of nodes. The connection that it came by is not what makes it true: whoever had the
//! key of the CA before could pose as a node, and must not be able to make that last.

use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context as _, ensure};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::lock;
use crate::identity::{Stored, replace};

pub(super) struct Authorities {
    pem: Mutex<String>,
    /// Where they came from, and their successors are written. None: they stay in memory.
    file: Option<PathBuf>,
    /// What the file holds.
    filed: Mutex<String>,
}

impl Authorities {
    pub(super) fn new(pem: String, file: Option<PathBuf>) -> Self {
        Self { filed: Mutex::new(pem.clone()), pem: Mutex::new(pem), file }
    }

    /// For the next connection.
    pub(super) fn pem(&self) -> String {
        lock(&self.pem).clone()
    }

    /// These, and no others, from the next connection on; says whether they are others than before.
    ///
    /// # Errors
    /// They are no certificates: those before stay.
    pub(super) fn follow(&self, pem: &str) -> anyhow::Result<bool> {
        let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let read = read.context("the CAs of the nodes cannot be read")?;
        ensure!(!read.is_empty(), "of the nodes' CAs, it names none");
        for certificate in read {
            x509_parser::parse_x509_certificate(&certificate)
                .context("the CAs of the nodes cannot be read")?;
        }
        let mut now = lock(&self.pem);
        let others = *now != pem;
        pem.clone_into(&mut now);
        Ok(others)
    }

    /// Writes them to where the former ones were read. Blocks.
    pub(super) fn store(&self) -> Stored {
        let Some(file) = &self.file else {
            return Stored::Kept("the edge was started without a file for them".into());
        };
        // Held while it is written: of two, the newer is written last.
        let mut filed = lock(&self.filed);
        let pem = self.pem();
        match replace(file, &filed, &pem) {
            Ok(()) => {
                *filed = pem;
                Stored::Written
            }
            Err(why) => Stored::Kept(format!("{}: {why:#}", file.display())),
        }
    }
}
