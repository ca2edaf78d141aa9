//! `[mint]`: the way to issuers of tokens.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::source::Source;
use crate::mint::Settings;

pub(super) const CA_FILES: &str = "mint.ca_files";
pub(super) const ALLOW_PRIVATE: &str = "mint.allow_private";
pub(super) const CONNECT_TO: &str = "mint.connect_to";

pub(super) fn read(source: &mut Source) -> Settings {
    let mut settings = Settings::default();
    for file in source.texts(CA_FILES) {
        match authorities(Path::new(&file)) {
            Some(found) => settings.roots.extend(found),
            None => source.mistake(
                CA_FILES,
                &format!("names {file}, which is no file of certificates in PEM"),
            ),
        }
    }
    for text in source.texts(ALLOW_PRIVATE) {
        match text.parse() {
            Ok(network) => settings.allow_private.push(network),
            Err(why) => source.mistake(ALLOW_PRIVATE, &format!("has {text:?}, {why}")),
        }
    }
    for text in source.texts(CONNECT_TO) {
        match text.parse() {
            Ok(way) => settings.connect_to.push(way),
            Err(why) => source.mistake(CONNECT_TO, &format!("has {text:?}, {why}")),
        }
    }
    settings
}

fn authorities(file: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(file).ok()?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().ok()?;
    (!found.is_empty()).then_some(found)
}
