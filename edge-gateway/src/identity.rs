//! Who this edge is to the control plane: its key, which stays, and its certificate, which is renewed.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail, ensure};
use countersign_gate::Digest;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

/// What `countersign edge enroll` left.
pub struct Identity {
    pub name: String,
    pub certificate_pem: String,
    /// PKCS #8.
    pub key_pem: Zeroizing<String>,
    /// Where the certificate came from, and its successors are written. None: they stay in memory.
    pub certificate_file: Option<PathBuf>,
}

impl Identity {
    /// SHA-256 of the certificate's SubjectPublicKeyInfo: what requests are bound to.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn key_digest(&self) -> anyhow::Result<Digest> {
        Ok(Certificate::read(self.certificate_pem.clone())?.key_sha256)
    }
}

/// The identity of a running edge.
pub(crate) struct Passport {
    key_pem: Zeroizing<String>,
    file: Option<PathBuf>,
    certificate: Mutex<Certificate>,
}

/// A certificate and what is read in it.
#[derive(Clone)]
struct Certificate {
    pem: String,
    key_sha256: Digest,
    /// When it begins and ends, milliseconds since 1970.
    from_ms: u64,
    until_ms: u64,
    /// The end as people read it.
    until: String,
}

/// Where a renewed certificate is now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Written,
    /// In memory only, and why.
    Kept(String),
}

impl Certificate {
    fn read(pem: String) -> anyhow::Result<Self> {
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).context("this edge's certificate")?;
        let (_, certificate) =
            X509Certificate::from_der(&der).context("this edge's certificate")?;
        let validity = certificate.validity();
        let since_1970_ms =
            |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
        Ok(Self {
            key_sha256: Sha256::digest(certificate.public_key().raw).into(),
            from_ms: since_1970_ms(validity.not_before.timestamp()),
            until_ms: since_1970_ms(validity.not_after.timestamp()),
            until: validity.not_after.to_string(),
            pem,
        })
    }
}

impl Passport {
    /// # Errors
    /// A certificate that cannot be read, or that has ended: no node lets its holder in, not even to renew it.
    pub(crate) fn new(identity: Identity, wall_ms: u64) -> anyhow::Result<Self> {
        let Identity { name, certificate_pem, key_pem, certificate_file } = identity;
        let certificate = Certificate::read(certificate_pem)?;
        ensure!(
            wall_ms < certificate.until_ms,
            "this edge's certificate ended at {}, so that no node would let it in: enroll again with \
             `countersign edge enroll {name}`, and start the edge with the new certificate and key",
            certificate.until
        );
        Ok(Self { key_pem, file: certificate_file, certificate: Mutex::new(certificate) })
    }

    /// SHA-256 of the SubjectPublicKeyInfo. A renewal keeps it: held requests are bound to it.
    pub(crate) fn key_digest(&self) -> Digest {
        self.current().key_sha256
    }

    /// When the certificate ends, milliseconds since 1970.
    pub(crate) fn until_ms(&self) -> u64 {
        self.current().until_ms
    }

    /// When two thirds of the certificate's life are over, milliseconds since 1970.
    pub(crate) fn renew_from_ms(&self) -> u64 {
        let Certificate { from_ms, until_ms, .. } = self.current();
        from_ms + until_ms.saturating_sub(from_ms) / 3 * 2
    }

    /// Certificate and key, for the next session.
    pub(crate) fn for_tls(&self) -> tonic::transport::Identity {
        tonic::transport::Identity::from_pem(self.current().pem, self.key_pem.as_bytes())
    }

    /// PKCS #10, PEM, signed with the key that this edge has.
    ///
    /// # Errors
    /// A key that cannot be read.
    pub(crate) fn request(&self) -> anyhow::Result<String> {
        let key = KeyPair::from_pem(&self.key_pem).context("this edge's key")?;
        let request = CertificateParams::default().serialize_request(&key);
        request.and_then(|request| request.pem()).context("a certificate request")
    }

    /// Puts a renewed certificate in the place of the former one, for the sessions that begin from now on.
    ///
    /// # Errors
    /// One that cannot be read, is for another key, or ends before the former one: that one stays.
    pub(crate) fn renew(&self, certificate_pem: String, wall_ms: u64) -> anyhow::Result<Stored> {
        let renewed = Certificate::read(certificate_pem)?;
        let former = self.current();
        if renewed.key_sha256 != former.key_sha256 {
            bail!("the new certificate is for another key");
        }
        if renewed.until_ms < former.until_ms || renewed.until_ms <= wall_ms {
            bail!(
                "the new certificate ends at {}, and that is no gain on {}",
                renewed.until,
                former.until
            );
        }
        let stored = match &self.file {
            None => Stored::Kept("the edge was started without a file for it".into()),
            Some(file) => match replace(file, &former.pem, &renewed.pem) {
                Ok(()) => Stored::Written,
                Err(why) => Stored::Kept(format!("{}: {why:#}", file.display())),
            },
        };
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(stored)
    }

    fn current(&self) -> Certificate {
        self.certificate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Written beside it and renamed, readable by its owner alone. A file that no longer says what was read there is left:
/// somebody enrolled the edge anew, or keeps more in it than the certificate.
pub(crate) fn replace(file: &Path, former: &str, renewed: &str) -> anyhow::Result<()> {
    let there = std::fs::read_to_string(file).context("reading it")?;
    ensure!(there == former, "it was changed since this edge read it");
    ensure!(!there.contains("PRIVATE KEY"), "the private key is in the same file");
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let beside = file.with_extension("new");
    let mut new = std::fs::OpenOptions::new();
    new.write(true).create(true).truncate(true).mode(0o600);
    let mut new = new.open(&beside).context("writing beside it")?;
    new.write_all(renewed.as_bytes()).and_then(|()| new.sync_all()).context("writing beside it")?;
    std::fs::rename(&beside, file).context("putting the new one in its place")?;
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .context("syncing its folder")?;
    Ok(())
}
