//! What can go wrong, in sentences for the person who has to do something about it.

/// Why nothing was sealed, unsealed, wrapped or opened. Names files and reasons, never values.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "no vault was made: {0} is there already; unseal that one, or choose an empty data directory"
    )]
    AlreadyExists(String),
    #[error(
        "nothing was unsealed: {path} is damaged ({what}); restore it from a backup, it cannot be repaired"
    )]
    Damaged { path: String, what: &'static str },
    #[error("nothing was sealed to the edge: its HPKE public key is not a usable X25519 key")]
    EdgeKey,
    #[error(
        "the passphrase is empty: give one, for instance `openssl rand -base64 24` makes a good one"
    )]
    EmptyPassphrase,
    #[error("{doing}: {path}: {source}")]
    File { doing: &'static str, path: String, source: std::io::Error },
    #[error(
        "the key file {0} does not hold 64 hexadecimal digits; give the file that the vault was made with"
    )]
    KeyFileMalformed(String),
    #[error(
        "the key file {0} is not there; give the path of the file that the vault was made with"
    )]
    KeyFileMissing(String),
    #[error(
        "the key file {path} can be read by others (mode {mode:03o}); run `chmod 600 {path}` and try again"
    )]
    KeyFileMode { path: String, mode: u32 },
    #[error("nothing was unsealed: there is no {0}; this data directory has no vault yet")]
    Missing(String),
    #[error(
        "nothing was installed: what was given is not a seal file ({0}); ask a member of the cluster for its own"
    )]
    NotASealFile(&'static str),
    #[error(
        "the stored secret does not belong to this record, or was changed on disk: nothing was opened"
    )]
    Tampered,
    #[error(
        "nothing was opened: it was sealed under keyring term {0}, which this vault does not have"
    )]
    UnknownTerm(u64),
    #[error("the key file {0} is not the one that this vault was made with: nothing was unsealed")]
    WrongKeyFile(String),
    #[error("wrong passphrase: nothing was unsealed; try again")]
    WrongPassphrase,
    #[error(
        "this vault was made with a {made_with}, not a {given}: nothing was unsealed; give the {made_with}"
    )]
    WrongProvider { made_with: &'static str, given: &'static str },
}
