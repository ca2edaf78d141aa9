//! A private key and the certificate that goes with it, as two files of which the key is written once.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use zeroize::Zeroizing;

use super::{write_private, write_public};

/// Where they lie.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

/// A certificate that was read, of this pair's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    /// DNS names and addresses.
    pub(crate) names: BTreeSet<String>,
    /// Seconds since 1970.
    not_before: i64,
    not_after: i64,
    /// Of the CA's key, as it says.
    authority: Option<Vec<u8>>,
}

impl Pair {
    pub(super) fn named(folder: &Path, name: &str) -> Self {
        Self {
            certificate: folder.join(name).with_extension("pem"),
            key: folder.join(name).with_extension("key"),
        }
    }

    /// Makes the key if there is none.
    ///
    /// # Errors
    /// It cannot be written, or what is there is no key.
    pub(crate) fn key(&self) -> anyhow::Result<KeyPair> {
        match self.key_pem() {
            Ok(pem) => KeyPair::from_pem(&pem).with_context(|| self.damaged()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                let pem = Zeroizing::new(key.serialize_pem());
                write_private(&self.key, pem.as_bytes()).with_context(|| {
                    format!("a private key could not be written to {}", self.key.display())
                })?;
                Ok(key)
            }
            Err(e) => Err(e).with_context(|| self.damaged()),
        }
    }

    pub(crate) fn key_pem(&self) -> std::io::Result<Zeroizing<String>> {
        fs::read_to_string(&self.key).map(Zeroizing::new)
    }

    /// A certificate request (PKCS #10, PEM) for its key. What is to be in the certificate, the issuer decides.
    pub(crate) fn request(&self) -> anyhow::Result<String> {
        Ok(CertificateParams::default().serialize_request(&self.key()?)?.pem()?)
    }

    /// The certificate; none before one was issued.
    ///
    /// # Errors
    /// It cannot be read, or belongs to another key.
    pub(crate) fn certificate(&self) -> anyhow::Result<Option<Certificate>> {
        match fs::read_to_string(&self.certificate) {
            Ok(pem) => self.parse(pem).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| self.damaged()),
        }
    }

    /// Puts a certificate that was issued for the key in the place of the one that is there.
    ///
    /// # Errors
    /// It is no certificate of this key, or cannot be written.
    pub(crate) fn install(&self, pem: &str) -> anyhow::Result<Certificate> {
        let certificate = self.parse(pem.to_owned()).context("no certificate was taken")?;
        write_public(&self.certificate, pem.as_bytes()).with_context(|| {
            format!("a certificate could not be written to {}", self.certificate.display())
        })?;
        Ok(certificate)
    }

    pub(crate) fn certificate_path(&self) -> &Path {
        &self.certificate
    }

    fn parse(&self, pem: String) -> anyhow::Result<Certificate> {
        let damaged = || self.damaged();
        let key =
            KeyPair::from_pem(&self.key_pem().with_context(damaged)?).with_context(damaged)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok().with_context(damaged)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).ok().with_context(damaged)?;
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            anyhow::bail!(damaged());
        }
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let names = names.filter_map(text_of).collect();
        let (not_before, not_after) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let authority = key_ids(&parsed).authority;
        Ok(Certificate {
            der: der.clone().into_owned(),
            names,
            not_before,
            not_after,
            authority,
            pem,
        })
    }

    fn damaged(&self) -> String {
        format!(
            "{} is damaged, or {} is of another key: restore both from a backup of this node, or remove the node and add it anew",
            self.certificate.display(),
            self.key.display()
        )
    }
}

impl Certificate {
    /// Whether it names this CA's key as the one that signed it. What is on this node's own disk is no adversary's.
    pub(crate) fn is_of(&self, ca_pem: &str) -> bool {
        let Ok(ca) = CertificateDer::from_pem_slice(ca_pem.as_bytes()) else { return false };
        let Ok((_, ca)) = x509_parser::parse_x509_certificate(&ca) else { return false };
        self.authority.is_some() && self.authority == key_ids(&ca).own
    }

    /// Whether two thirds of its life are over.
    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        now >= self.not_after - (self.not_after - self.not_before) / 3
    }
}

/// What a certificate says of the keys in question (RFC 5280 §4.2.1.1, §4.2.1.2).
struct KeyIds {
    own: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
}

fn key_ids(certificate: &X509Certificate<'_>) -> KeyIds {
    let mut ids = KeyIds { own: None, authority: None };
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => ids.own = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(authority) => {
                ids.authority = authority.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
    ids
}

fn text_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn certificate_of(key: &KeyPair, days: u32) -> String {
        let mut params = CertificateParams::new(["cp.example".into(), "10.0.0.1".into()]).unwrap();
        params.not_before = SystemTime::now().into();
        params.not_after = (SystemTime::now() + DAY * days).into();
        params.self_signed(key).unwrap().pem()
    }

    #[test]
    fn a_certificate_is_due_when_two_thirds_of_its_life_are_over() {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pair::named(folder.path(), "server");
        let certificate = pair.install(&certificate_of(&pair.key().unwrap(), 30)).unwrap();
        assert_eq!(certificate.names, ["10.0.0.1".to_owned(), "cp.example".to_owned()].into());
        let now = SystemTime::now();
        assert!(!certificate.is_due(now + DAY * 19));
        assert!(certificate.is_due(now + DAY * 20 + Duration::from_secs(1)));
        assert!(certificate.is_due(now + DAY * 40));
    }

    #[test]
    fn the_key_stays_and_a_certificate_of_another_key_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pair::named(folder.path(), "server");
        assert_eq!(pair.certificate().unwrap(), None);
        let key = pair.key().unwrap();
        assert_eq!(pair.key().unwrap().public_key_raw(), key.public_key_raw());
        let stranger = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        assert!(pair.install(&certificate_of(&stranger, 30)).is_err());
        assert_eq!(pair.certificate().unwrap(), None);
        let installed = pair.install(&certificate_of(&key, 30)).unwrap();
        assert_eq!(pair.certificate().unwrap(), Some(installed));
    }
}
