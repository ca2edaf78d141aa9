//! Credentials: what is known of a key, and the key itself only as ciphertext.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::audit::Entry;
use super::name::{REASON_BYTES, check_id, check_name, clipped};
use super::{Account, Actor, Done, Event, Millis, Mint, Minting, Refused, Role, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleaseClass {
    /// A lease where only allow rules use it, per request otherwise.
    Auto,
    Lease,
    PerRequest,
}

/// A secret as it is replicated. A variant, so that keys split over the nodes can join it later.
#[derive(Clone, Serialize, Deserialize)]
pub enum Payload {
    /// XChaCha20-Poly1305 under a fresh data key that is itself wrapped by the barrier key of `keyring_term`.
    Sealed {
        keyring_term: u64,
        #[serde(with = "serde_bytes")]
        wrapped_key: Vec<u8>,
        #[serde(with = "serde_bytes")]
        ciphertext: Vec<u8>,
    },
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Payload(sealed)")
    }
}

/// A fake key that agents hold. Low in secrecy, high in tripwire value.
#[derive(Clone, Serialize, Deserialize)]
pub struct Fake {
    pub key: String,
    pub active: bool,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fake").field("active", &self.active).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Credential {
    pub id: String,
    pub name: String,
    /// Grows with each rotation, from 1.
    pub version: u64,
    pub host: String,
    pub port: u16,
    /// "header:authorization", "basic", "cookie:sid", "query:api_key", "path", "form:client_secret", "json:/auth/secret",
    /// "aws-sigv4", "hmac:x-signature,x-timestamp", "postgres:app".
    pub slot: String,
    /// With one "{key}"; "" where the slot needs none.
    pub template: String,
    pub class: ReleaseClass,
    pub fakes: Vec<Fake>,
    pub payload: Payload,
    pub active: bool,
    pub created_at: Millis,
    /// The chat account that whoever has this key can speak as: it must not be one that approves.
    pub acts_as: Option<Account>,
    /// How the key becomes what is handed out; None: it is handed out itself.
    #[serde(default)]
    pub mint: Option<Mint>,
    #[serde(default)]
    pub minting: Minting,
}

impl Payload {
    pub fn keyring_term(&self) -> u64 {
        let Self::Sealed { keyring_term, .. } = self;
        *keyring_term
    }

    /// No two are the same: every data key is fresh.
    pub fn sha256(&self) -> [u8; 32] {
        let Self::Sealed { keyring_term, wrapped_key, ciphertext } = self;
        Sha256::new()
            .chain_update(keyring_term.to_be_bytes())
            .chain_update((wrapped_key.len() as u64).to_be_bytes())
            .chain_update(wrapped_key)
            .chain_update(ciphertext)
            .finalize()
            .into()
    }

    /// What is left of a revoked key: nothing that any keyring opens.
    pub(super) fn dropped() -> Self {
        Self::Sealed { keyring_term: 0, wrapped_key: Vec::new(), ciphertext: Vec::new() }
    }
}

impl State {
    /// Version, activity and time of creation are set here, whatever was proposed.
    pub(super) fn create_credential(
        &mut self,
        actor: &Actor,
        proposed: &Credential,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        check_id("a credential", &proposed.id)?;
        check_name("a credential", &proposed.name)?;
        if self.credentials.contains_key(&proposed.id)
            || self.active_credential_named(&proposed.name).is_ok()
        {
            return Err(Refused::AlreadyExists(format!(
                "credential {} was not created: there is one of that name or id; choose another name, or rotate its key",
                proposed.name
            )));
        }
        if proposed.host.is_empty() || proposed.port == 0 || proposed.slot.is_empty() {
            return Err(Refused::Invalid(format!(
                "credential {} was not created: say for which host and port it is, and which slot it goes into",
                proposed.name
            )));
        }
        if let Some(account) = &proposed.acts_as {
            account.check()?;
        }
        let taken = |key: &str| {
            self.credentials.values().flat_map(|c| &c.fakes).any(|fake| fake.key == key)
        };
        if proposed.fakes.iter().any(|fake| taken(&fake.key)) {
            return Err(Refused::AlreadyExists(format!(
                "credential {} was not created: its fake key is another's; make a fresh one",
                proposed.name
            )));
        }
        let credential = Credential {
            version: 1,
            active: true,
            created_at: self.log_time,
            minting: Minting::default(),
            ..proposed.clone()
        };
        let mut entry = credential
            .entry("credential.create")
            .with("host", format_args!("{}:{}", credential.host, credential.port))
            .with("slot", &credential.slot)
            .with("class", format_args!("{:?}", credential.class));
        if let Some(mint) = &credential.mint {
            entry = entry.with("mint", mint.kind()).with("mint_sha256", hex::encode(mint.sha256()));
        }
        let event = Event::CredentialChanged { id: credential.id.clone(), version: 1 };
        self.credentials.insert(credential.id.clone(), credential);
        Ok(Done::changed(event, entry))
    }

    /// Agents go on with the fake key that they hold.
    pub(super) fn rotate_credential(
        &mut self,
        actor: &Actor,
        name: &str,
        expected_version: u64,
        payload: &Payload,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let credential = self.active_credential_named(name)?;
        if credential.version != expected_version {
            return Err(Refused::Precondition(format!(
                "credential {name} was not rotated: it is at version {}, not {expected_version}; look at it and rotate it again",
                credential.version
            )));
        }
        credential.version = credential.version.saturating_add(1);
        credential.payload = payload.clone();
        credential.minting = Minting::default();
        let event =
            Event::CredentialChanged { id: credential.id.clone(), version: credential.version };
        Ok(Done::changed(event, credential.entry("credential.rotate")))
    }

    /// Neither the key nor its version changes: whoever rotated it meanwhile has another payload there.
    pub(super) fn reseal_credential(
        &mut self,
        actor: &Actor,
        id: &str,
        version: u64,
        former_sha256: &[u8; 32],
        payload: &Payload,
    ) -> Result<Done, Refused> {
        if *actor != Actor::System {
            return Err(Refused::Denied("only the control plane seals keys anew".into()));
        }
        let there = |c: &&mut Credential| {
            c.active && c.version == version && c.payload.sha256() == *former_sha256
        };
        let Some(credential) = self.credentials.get_mut(id).filter(there) else {
            return Err(Refused::Precondition(
                "nothing was sealed anew: the credential was rotated or revoked meanwhile".into(),
            ));
        };
        if payload.keyring_term() <= credential.payload.keyring_term() {
            return Err(Refused::Invalid(
                "nothing was sealed anew: it is not under a newer term of the keyring".into(),
            ));
        }
        credential.payload = payload.clone();
        let entry =
            credential.entry("credential.reseal").with("keyring_term", payload.keyring_term());
        Ok(Done::changed(Event::CredentialResealed { id: id.to_owned() }, entry))
    }

    /// The key itself is dropped in the same step.
    pub(super) fn revoke_credential(&mut self, actor: &Actor, name: &str) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let credential = self.active_credential_named(name)?;
        credential.active = false;
        credential.payload = Payload::dropped();
        credential.minting = Minting::default();
        credential.fakes.iter_mut().for_each(|fake| fake.active = false);
        let event =
            Event::CredentialChanged { id: credential.id.clone(), version: credential.version };
        Ok(Done::changed(event, credential.entry("credential.revoke")))
    }

    pub(super) fn demand_credential(&self, id: &str, version: u64) -> Result<&Credential, Refused> {
        match self.credentials.get(id) {
            Some(credential) if credential.active && credential.version == version => {
                self.demand_untainted(credential)?;
                Ok(credential)
            }
            Some(credential) if credential.active => Err(Refused::Precondition(format!(
                "credential {} was rotated meanwhile: it is at version {}, not {version}",
                credential.name, credential.version
            ))),
            Some(credential) => {
                Err(Refused::Denied(format!("credential {} was revoked", credential.name)))
            }
            None => Err(Refused::NotFound(format!(
                "there is no credential with the id {:?}",
                clipped(id, REASON_BYTES)
            ))),
        }
    }

    /// A key that speaks as somebody who may decide could be made to approve what it is used for.
    fn demand_untainted(&self, credential: &Credential) -> Result<(), Refused> {
        let speaks_as = credential.acts_as.as_ref().and_then(|account| self.principal_of(account));
        match speaks_as.filter(|principal| principal.is_approver()) {
            None => Ok(()),
            Some(principal) => Err(Refused::Denied(format!(
                "credential {} is given to no agent: it speaks as the account of {}, who may approve",
                credential.name, principal.name
            ))),
        }
    }

    fn active_credential_named(&mut self, name: &str) -> Result<&mut Credential, Refused> {
        self.credentials.values_mut().find(|c| c.active && c.name == name).ok_or_else(|| {
            Refused::NotFound(format!(
                "there is no active credential {:?}: list the credentials to see their names",
                clipped(name, REASON_BYTES)
            ))
        })
    }
}

impl Credential {
    /// What agents hold, as it is recognised. Who signs with an access key of AWS never sends its secret half: that
    /// is of no use to anybody, and made from the other.
    pub fn fake_parts(&self, key: &str) -> Vec<String> {
        if self.slot != "aws-sigv4" {
            return vec![key.to_owned()];
        }
        const ALPHABET: &[u8; 62] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let halves = ["first", "second"].map(|half| Sha256::digest(format!("{half} {key}")));
        let letters = halves.iter().flatten().map(|byte| ALPHABET[usize::from(*byte) % 62]);
        vec![key.to_owned(), letters.take(40).map(char::from).collect()]
    }

    fn entry(&self, action: &str) -> Entry {
        Entry::new(action, &self.name).with("id", &self.id).with("version", self.version)
    }
}
