//! What can go wrong, in sentences for the person who has to do something about it.

/// Why nothing was sealed, unsealed, wrapped or opened. Names files and reasons, never values.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "no vault was made: {0} is there already; unseal that one, or choose an empty data directory"
    )]
    AlreadyExists(String),
    #[error("nothing was changed: what was presented opens another vault than this one")]
    AnotherVault,
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
    #[error("there is no token of this credential that can be handed out: nothing was opened")]
    NoToken,
    #[error(
        "nothing was installed: what was given is not a seal file ({0}); ask a member of the cluster for its own"
    )]
    NotASealFile(&'static str),
    #[error(
        "nothing was changed: the seal was changed by somebody else meanwhile; begin again with what opens it now"
    )]
    Overtaken,
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error(
        "the stored secret does not belong to this record, or was changed on disk: nothing was opened"
    )]
    Tampered,
    #[error(transparent)]
    Token(#[from] TokenError),
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

/// What is wrong with a share, by its number where that can be read, or with handing shares out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    #[error("share {0} was given already: give another one")]
    AlreadyGiven(u8),
    #[error(
        "no shares were made: {threshold} of {shares} cannot be; hand out 2 to 16 shares, and demand at least 2 of them"
    )]
    Count { threshold: u8, shares: usize },
    #[error(
        "nothing was unsealed: {0} are each as they were handed out, and yet together they do not open this vault; its seal.json was changed, so compare it with another node's or restore it"
    )]
    DoNotFit(String),
    #[error(
        "share {0} is not the one that was handed out under this number, although its checksum is right: somebody changed or made it; ask its keeper, and give another one"
    )]
    Forged(u8),
    #[error("{share} {what}; copy it again, whole, from where it was decrypted")]
    Malformed { share: String, what: &'static str },
    #[error(
        "no shares were made: a vault of shares is made by naming who keeps them, one age recipient (`age1…`) for each share"
    )]
    NoRecipients,
    #[error(
        "share {id} belongs to another set of shares ({theirs}), and this vault was sealed with set {ours}: give the share that was handed out last"
    )]
    OtherSet { id: u8, theirs: String, ours: String },
    #[error(
        "no shares were made: {0:?} is not an age recipient; it begins with `age1`, and `age-keygen -y` prints it"
    )]
    Recipient(String),
    #[error(
        "no shares were made: {0} is named twice; each share goes to somebody else, or fewer than were asked for could unseal"
    )]
    RecipientTwice(String),
    #[error("nothing was unsealed: {have} shares were given and it takes {threshold}; give more")]
    TooFew { have: usize, threshold: u8 },
}

/// What a PKCS#11 token did not do.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(
        "nothing was done: {0} keys of token {1:?} are labelled {2:?}; rename all but one, or choose another label"
    )]
    KeyAmbiguous(usize, String, String),
    #[error(
        "nothing was unsealed: token {token:?} has no key labelled {key:?}; connect the token that the vault was sealed with"
    )]
    KeyMissing { token: String, key: String },
    #[error(
        "nothing was sealed: key {key:?} {what}, and it must be an AES-256 key that cannot leave the token; choose the label of another one, or one that is not there yet to have it made"
    )]
    KeyUnfit { key: String, what: &'static str },
    #[error(
        "the PKCS#11 module {path} was not loaded ({what}); give the path of the token's own library"
    )]
    Module { path: String, what: String },
    #[error(
        "the PIN in {path} was not read ({what}); put it into a file that only its owner can read, on one line"
    )]
    Pin { path: String, what: String },
    #[error(
        "token {0:?} has locked its PIN after wrong ones: its security officer can set a new one"
    )]
    PinLocked(String),
    #[error("token {token:?} did not {doing}: {what}")]
    Refused { doing: &'static str, token: String, what: String },
    #[error(
        "the PKCS#11 module {module} shows no token labelled {token:?}, but {shown}; connect the token or correct its label"
    )]
    TokenMissing { module: String, token: String, shown: String },
    #[error(
        "key {key:?} of token {token:?} is not the one that this vault was sealed with, or was not used: nothing was unsealed ({what})"
    )]
    WrongKey { token: String, key: String, what: String },
    #[error(
        "this vault was sealed with key {key:?} of token {token:?}: nothing was unsealed; set those labels"
    )]
    WrongLabels { token: String, key: String },
    #[error("wrong PIN for token {0:?}: nothing was unsealed; correct it before the token locks")]
    WrongPin(String),
}
