//! A key that never leaves a PKCS#11 token: the token itself wraps and unwraps.
//!
//! AES-256-GCM (`CKM_AES_GCM`) with a key that is sensitive and not extractable. `seal.json` names the token and the
//! key; which library is loaded, and the PIN, come from this node alone: nobody who can write `seal.json` chooses
//! what code runs here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::{Parameters, Provider};
use crate::vault::cipher::{self, Key};
use crate::vault::{SealError, TokenError};

/// A key in a token, and the way to it. It has no `Debug`.
pub struct Token {
    /// The token's own library; absolute.
    pub module: PathBuf,
    pub token_label: String,
    pub key_label: String,
    pub pin: Pin,
}

/// The user's PIN of a token. It has no `Debug`, and comes from a file or a descriptor, never from an argument.
pub struct Pin(Zeroizing<String>);

impl Pin {
    /// The first line of a file that only its owner can read, or of a pipe such as `/dev/fd/3`.
    ///
    /// # Errors
    /// [`TokenError::Pin`].
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let failed = |what: String| TokenError::Pin { path: path.display().to_string(), what };
        let file = File::open(path).map_err(|e| failed(e.to_string()))?;
        let metadata = file.metadata().map_err(|e| failed(e.to_string()))?;
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() && mode & 0o077 != 0 {
            return Err(failed(format!("it can be read by others, mode {mode:03o}")));
        }
        Self::read(file, failed)
    }

    /// The first line of what is read, for a descriptor that this process was given.
    ///
    /// # Errors
    /// [`TokenError::Pin`].
    pub fn from_reader(reader: impl Read) -> Result<Self, TokenError> {
        Self::read(reader, |what| TokenError::Pin { path: "the descriptor".into(), what })
    }

    fn read(reader: impl Read, failed: impl Fn(String) -> TokenError) -> Result<Self, TokenError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_PIN + 2));
        let taken = reader.take(LONGEST_PIN as u64 + 2).read_to_end(&mut bytes);
        taken.map_err(|e| failed(e.to_string()))?;
        let line = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
        match std::str::from_utf8(line) {
            Ok("") => Err(failed("it is empty".into())),
            Ok(pin) if pin.len() <= LONGEST_PIN => Ok(Self(Zeroizing::new(pin.to_owned()))),
            Ok(_) => Err(failed("it is longer than a PIN is".into())),
            Err(_) => Err(failed("it is not UTF-8 text".into())),
        }
    }
}

pub(super) struct TokenKey {
    token: Token,
    parameters: Parameters,
}

impl TokenKey {
    /// With the key of that label, which is made if it is not there.
    pub(super) fn first(token: Token) -> Result<Self, SealError> {
        token.in_session(Pkcs11::open_rw_session, |session| match token.keys(session)?[..] {
            [] => token.make_key(session),
            [key] => token.is_fit(session, key),
            ref several => Err(TokenError::KeyAmbiguous(
                several.len(),
                token.token_label.clone(),
                token.key_label.clone(),
            )),
        })?;
        let parameters =
            Parameters::Pkcs11 { token: token.token_label.clone(), key: token.key_label.clone() };
        Ok(Self { token, parameters })
    }

    pub(super) fn again(given: &Token, token: &str, key: &str) -> Result<Self, SealError> {
        let (token, key) = (token.to_owned(), key.to_owned());
        if (&token, &key) != (&given.token_label, &given.key_label) {
            return Err(TokenError::WrongLabels { token, key }.into());
        }
        let pin = Pin(given.pin.0.clone());
        let copy = Token {
            module: given.module.clone(),
            token_label: token.clone(),
            key_label: key.clone(),
            pin,
        };
        Ok(Self { token: copy, parameters: Parameters::Pkcs11 { token, key } })
    }
}

impl Provider for TokenKey {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// `nonce ‖ ciphertext ‖ tag`.
    fn wrap(&self, root: &Key) -> Result<Vec<u8>, SealError> {
        let mut nonce = cipher::random::<NONCE>();
        let mut out = nonce.to_vec();
        let context = self.parameters.context();
        let wrapped = self.token.in_session(Pkcs11::open_ro_session, |session| {
            let key = self.token.key(session)?;
            let doing = self.token.refused("wrap the root key");
            let gcm = GcmParams::new(&mut nonce, &context, TAG_BITS.into()).map_err(&doing)?;
            session.encrypt(&Mechanism::AesGcm(gcm), key, root.as_slice()).map_err(doing)
        })?;
        out.extend(wrapped);
        Ok(out)
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Key, SealError> {
        let wrong = |what: String| TokenError::WrongKey {
            token: self.token.token_label.clone(),
            key: self.token.key_label.clone(),
            what,
        };
        let (nonce, ciphertext) = wrapped
            .split_first_chunk::<NONCE>()
            .ok_or_else(|| wrong("what it wrapped is cut off".into()))?;
        let (mut nonce, context) = (*nonce, self.parameters.context());
        let root = self.token.in_session(Pkcs11::open_ro_session, |session| {
            let key = self.token.key(session)?;
            let gcm = GcmParams::new(&mut nonce, &context, TAG_BITS.into())
                .map_err(self.token.refused("unwrap the root key"))?;
            let root = session.decrypt(&Mechanism::AesGcm(gcm), key, ciphertext);
            root.map(Zeroizing::new).map_err(|error| wrong(error.to_string()))
        })?;
        let root = root.as_slice().try_into();
        Ok(Zeroizing::new(root.map_err(|_| wrong("what it wrapped has another length".into()))?))
    }
}

impl Token {
    /// One at a time in this process: a login counts for all its sessions, and a wrong PIN must not pass because
    /// somebody else gave the right one.
    fn in_session<T>(
        &self,
        open: fn(&Pkcs11, Slot) -> cryptoki::error::Result<Session>,
        work: impl FnOnce(&Session) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        let module = self.module(&mut modules)?;
        let slot = self.slot(&module)?;
        let session = open(&module, slot).map_err(self.refused("open a session"))?;
        let pin = AuthPin::from(self.pin.0.as_str());
        session.login(UserType::User, Some(&pin)).map_err(|error| match error {
            Error::Pkcs11(
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange,
                Function::Login,
            ) => TokenError::WrongPin(self.token_label.clone()),
            Error::Pkcs11(RvError::PinLocked, _) => TokenError::PinLocked(self.token_label.clone()),
            error => self.refused("let the user in")(error),
        })?;
        let done = work(&session);
        session.logout().map_err(self.refused("let the user out"))?;
        done
    }

    /// Loaded and initialised once for this process, as PKCS#11 demands; never unloaded.
    fn module(&self, loaded: &mut BTreeMap<PathBuf, Pkcs11>) -> Result<Pkcs11, TokenError> {
        if let Some(module) = loaded.get(&self.module) {
            return Ok(module.clone());
        }
        let path = self.module.display().to_string();
        if !self.module.is_absolute() {
            return Err(TokenError::Module { path, what: "its path is not absolute".into() });
        }
        let failed =
            |error: Error| TokenError::Module { path: path.clone(), what: error.to_string() };
        let module = Pkcs11::new(&self.module).map_err(failed)?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(failed(error)),
        }
        loaded.insert(self.module.clone(), module.clone());
        Ok(module)
    }

    fn slot(&self, module: &Pkcs11) -> Result<Slot, TokenError> {
        let mut labels = Vec::new();
        let mut found = Vec::new();
        for slot in module.get_slots_with_token().map_err(self.refused("list the slots"))? {
            let Ok(info) = module.get_token_info(slot) else { continue };
            let label = info.label().trim_end().to_owned();
            if label == self.token_label {
                found.push(slot);
            }
            if info.token_initialized() {
                labels.push(format!("{label:?}"));
            }
        }
        match found[..] {
            [slot] => Ok(slot),
            _ => Err(TokenError::TokenMissing {
                module: self.module.display().to_string(),
                token: self.token_label.clone(),
                shown: match &labels[..] {
                    [] => "none at all".into(),
                    labels => labels.join(", "),
                },
            }),
        }
    }

    fn keys(&self, session: &Session) -> Result<Vec<ObjectHandle>, TokenError> {
        let label = Attribute::Label(self.key_label.clone().into_bytes());
        let wanted = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true), label];
        session.find_objects(&wanted).map_err(self.refused("look for the key"))
    }

    fn key(&self, session: &Session) -> Result<ObjectHandle, TokenError> {
        let (token, key) = (self.token_label.clone(), self.key_label.clone());
        match self.keys(session)?[..] {
            [key] => Ok(key),
            [] => Err(TokenError::KeyMissing { token, key }),
            ref several => Err(TokenError::KeyAmbiguous(several.len(), token, key)),
        }
    }

    fn make_key(&self, session: &Session) -> Result<(), TokenError> {
        let template = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::ValueLen(32.into()),
            Attribute::Label(self.key_label.clone().into_bytes()),
        ];
        let made = session.generate_key(&Mechanism::AesKeyGen, &template);
        let key = made.map_err(self.refused("make a key"))?;
        // Some tokens take a template for a wish.
        self.is_fit(session, key)
    }

    fn is_fit(&self, session: &Session, key: ObjectHandle) -> Result<(), TokenError> {
        let asked = [
            AttributeType::KeyType,
            AttributeType::ValueLen,
            AttributeType::Sensitive,
            AttributeType::Extractable,
        ];
        let found =
            session.get_attributes(key, &asked).map_err(self.refused("describe the key"))?;
        let unfit = |what| Err(TokenError::KeyUnfit { key: self.key_label.clone(), what });
        if !found.contains(&Attribute::KeyType(KeyType::AES))
            || !found.contains(&Attribute::ValueLen(32.into()))
        {
            return unfit("is another kind of key");
        }
        if !found.contains(&Attribute::Sensitive(true))
            || !found.contains(&Attribute::Extractable(false))
        {
            return unfit("can be read out");
        }
        Ok(())
    }

    fn refused(&self, doing: &'static str) -> impl Fn(Error) -> TokenError {
        let token = self.token_label.clone();
        move |error| TokenError::Refused { doing, token: token.clone(), what: error.to_string() }
    }
}

static MODULES: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

const LONGEST_PIN: usize = 256;
const NONCE: usize = 12;
const TAG_BITS: u64 = 128;
