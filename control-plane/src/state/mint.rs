//! Credentials whose tokens are minted: how that is done, whose turn it is to do it, and the token that there is.
//!
//! ```text
//! BeginMint ─▶ (the leader calls) ─┬▶ KeepToken: sealed, with its end, for everybody or for one release
//!                                  └▶ FailMint: the next attempt waits
//! ```
//!
//! An attempt is on record before its call leaves, and while it is under way nobody begins another: not even a leader
//! that has just taken over. So a secret that changes with each use is used by one at a time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::audit::Entry;
use super::name::{REASON_BYTES, clipped};
use super::{Actor, Credential, Done, Event, HeldRequest, Millis, Payload, Refused, State};

/// An attempt that nobody has heard of for so long is over: more than a call and its commit take.
const ATTEMPT_MS: Millis = 20_000;
/// After one failure, after the next, and so on twice as long, up to a bound: for what may pass by itself, and for what
/// somebody has to put right.
const PAUSE_MS: Millis = 1_000;
const LONGEST_PAUSE_MS: Millis = 30_000;
const LONGEST_PAUSE_WHEN_REFUSED_MS: Millis = 300_000;
/// No token is kept longer, whatever its issuer says: so every one is under the newest term of the keyring in a day.
pub const LONGEST_LIFE_MS: Millis = 24 * 60 * 60 * 1000;
/// A token that has less left when it is to be kept is none to hand out.
pub const SHORTEST_LIFE_MS: Millis = 5_000;

/// How what is stored becomes what is handed out. Nothing here is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mint {
    /// An installation token of a GitHub App. Stored: the app's private key.
    GitHubApp {
        /// `https://api.github.com`, or the API of a server of one's own.
        api_url: String,
        /// The app's id, or its client id.
        app_id: String,
        installation_id: u64,
        /// Names without their owner; none: all that the installation may.
        repositories: Vec<String>,
        /// "contents" to "read" and so on; none: all that the installation may.
        permissions: BTreeMap<String, String>,
    },
    /// An access token of a Google service account (RFC 7523). Stored: its private key.
    GoogleServiceAccount {
        token_url: String,
        email: String,
        scopes: Vec<String>,
        /// Whom it acts for, by domain-wide delegation; "" for itself.
        subject: String,
    },
    /// An access token of an OAuth 2 client (RFC 6749). Stored: its refresh token, its secret, or both.
    OAuth {
        grant: OAuthGrant,
        token_url: String,
        client_id: String,
        client_auth: ClientAuth,
        scopes: Vec<String>,
        /// What else the request says, such as an audience.
        parameters: BTreeMap<String, String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OAuthGrant {
    /// RFC 6749 §4.4.
    ClientCredentials,
    /// RFC 6749 §6.
    RefreshToken,
}

/// How a client shows its secret (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientAuth {
    Basic,
    Body,
    /// A public client has none.
    None,
}

/// Where the minting of a credential stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Minting {
    /// The newest token that whoever may have the credential shares.
    pub token: Option<Minted>,
    pub attempt: Option<Attempt>,
    /// Of the last attempts: none once one has succeeded.
    pub failure: Option<MintFailure>,
}

/// A token, sealed, and its life in log time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Minted {
    pub token: Payload,
    /// Of the credential that it was minted with.
    pub version: u64,
    pub minted_at: Millis,
    pub expires_at: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub id: [u8; 16],
    /// From then on it is taken for lost.
    pub until: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MintFailure {
    pub at: Millis,
    /// In a row.
    pub times: u32,
    /// No attempt begins before.
    pub not_before: Millis,
    /// A sentence of ours, never a provider's words.
    pub why: String,
}

/// What came of an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewToken {
    pub credential: String,
    pub version: u64,
    pub attempt: [u8; 16],
    pub token: Payload,
    /// Log time.
    pub expires_at: Millis,
    /// The one release that it is for; None: whoever may have the credential shares it.
    pub request_id: Option<[u8; 16]>,
    /// The stored secret was used up, and this takes its place.
    pub successor: Option<Successor>,
}

/// Another secret in the place of that very payload and of no other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Successor {
    pub former_sha256: [u8; 32],
    pub payload: Payload,
}

impl Mint {
    /// As operators call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::GitHubApp { .. } => "github-app",
            Self::GoogleServiceAccount { .. } => "google-service-account",
            Self::OAuth { grant: OAuthGrant::ClientCredentials, .. } => "oauth-client-credentials",
            Self::OAuth { grant: OAuthGrant::RefreshToken, .. } => "oauth-refresh-token",
        }
    }

    /// Whether a key that is released per request is a token that was minted for that release alone. A call of these
    /// costs nothing but time; one of the others may use its secret up.
    pub fn is_fresh_for_each_release(&self) -> bool {
        match self {
            Self::GitHubApp { .. } | Self::GoogleServiceAccount { .. } => true,
            Self::OAuth { .. } => false,
        }
    }

    /// Where an agent's own client would ask for a token, with what it takes for its secret.
    pub fn token_url(&self) -> Option<&str> {
        match self {
            Self::OAuth { token_url, .. } => Some(token_url),
            Self::GitHubApp { .. } | Self::GoogleServiceAccount { .. } => None,
        }
    }

    /// Where the secret goes, and for what: what is sealed is bound to it.
    pub fn sha256(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut put = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        let list = |put: &mut dyn FnMut(&[u8]), list: &[String]| {
            put(&(list.len() as u64).to_be_bytes());
            list.iter().for_each(|item| put(item.as_bytes()));
        };
        let map = |put: &mut dyn FnMut(&[u8]), map: &BTreeMap<String, String>| {
            put(&(map.len() as u64).to_be_bytes());
            map.iter().flat_map(|(k, v)| [k, v]).for_each(|item| put(item.as_bytes()));
        };
        put(self.kind().as_bytes());
        match self {
            Self::GitHubApp { api_url, app_id, installation_id, repositories, permissions } => {
                put(api_url.as_bytes());
                put(app_id.as_bytes());
                put(&installation_id.to_be_bytes());
                list(&mut put, repositories);
                map(&mut put, permissions);
            }
            Self::GoogleServiceAccount { token_url, email, scopes, subject } => {
                put(token_url.as_bytes());
                put(email.as_bytes());
                list(&mut put, scopes);
                put(subject.as_bytes());
            }
            Self::OAuth { grant: _, token_url, client_id, client_auth, scopes, parameters } => {
                put(token_url.as_bytes());
                put(client_id.as_bytes());
                put(match client_auth {
                    ClientAuth::Basic => b"basic",
                    ClientAuth::Body => b"body",
                    ClientAuth::None => b"none",
                });
                list(&mut put, scopes);
                map(&mut put, parameters);
            }
        }
        digest.finalize().into()
    }
}

impl Minted {
    /// Whether it may still be handed out: a tenth of its life has to be left, or half a minute of a long one.
    pub fn is_usable(&self, now: Millis) -> bool {
        self.left(now) >= self.margin()
    }

    /// Whether another one should be minted by now: four fifths of its life are over.
    pub fn is_due(&self, now: Millis) -> bool {
        self.left(now) <= (self.life() / 5).max(2 * self.margin())
    }

    /// Milliseconds until it ends.
    pub fn left(&self, now: Millis) -> Millis {
        self.expires_at.saturating_sub(now)
    }

    fn life(&self) -> Millis {
        self.expires_at.saturating_sub(self.minted_at)
    }

    fn margin(&self) -> Millis {
        (self.life() / 10).clamp(2_000, 30_000)
    }
}

impl Minting {
    /// Why no attempt may begin now, if none may.
    pub fn pause(&self, now: Millis) -> Option<&MintFailure> {
        self.failure.as_ref().filter(|failure| failure.not_before > now)
    }
}

impl State {
    /// From here on, and for twenty seconds, this attempt alone may call.
    pub(super) fn begin_mint(
        &mut self,
        actor: &Actor,
        id: &str,
        version: u64,
        attempt: [u8; 16],
    ) -> Result<Done, Refused> {
        demand_system(actor)?;
        let now = self.log_time;
        let credential = self.minting_credential(id, version)?;
        let minting = &credential.minting;
        if let Some(under_way) = minting.attempt.as_ref().filter(|it| it.until > now) {
            return Err(Refused::Precondition(format!(
                "no token of {} was asked for: attempt {} is under way",
                credential.name,
                hex::encode(under_way.id)
            )));
        }
        if let Some(failure) = minting.pause(now) {
            return Err(Refused::Exhausted(failure.why.clone()));
        }
        credential.minting.attempt = Some(Attempt { id: attempt, until: now + ATTEMPT_MS });
        let entry = credential.mint_entry("credential.mint_attempt", &attempt);
        Ok(Done::changed(Event::MintBegun { id: id.to_owned() }, entry))
    }

    /// A token that comes late, after another attempt began, is taken all the same: it is as good, and a secret that it
    /// used up is replaced only where it is still the one that is stored.
    pub(super) fn keep_token(&mut self, actor: &Actor, new: &NewToken) -> Result<Done, Refused> {
        demand_system(actor)?;
        let now = self.log_time;
        let credential = self.minting_credential(&new.credential, new.version)?;
        let expires_at = new.expires_at;
        if expires_at > now.saturating_add(LONGEST_LIFE_MS) {
            return Err(Refused::Invalid(format!(
                "no token of {} was kept: none is kept for more than a day",
                credential.name
            )));
        }
        if expires_at < now.saturating_add(SHORTEST_LIFE_MS) {
            return Err(Refused::Expired(format!(
                "no token of {} was kept: it has ended, or nearly",
                credential.name
            )));
        }
        if let Some(successor) = &new.successor {
            if credential.payload.sha256() != successor.former_sha256 {
                return Err(Refused::Precondition(format!(
                    "no token of {} was kept: its secret was replaced meanwhile",
                    credential.name
                )));
            }
            credential.payload = successor.payload.clone();
        }
        let minted =
            Minted { token: new.token.clone(), version: new.version, minted_at: now, expires_at };
        let minting = &mut credential.minting;
        if minting.attempt.as_ref().is_some_and(|attempt| attempt.id == new.attempt) {
            minting.attempt = None;
        }
        minting.failure = None;
        let mut entry = credential
            .mint_entry("credential.mint", &new.attempt)
            .with("expires_at", expires_at)
            .with("secret_replaced", new.successor.is_some());
        match new.request_id {
            None => credential.minting.token = Some(minted),
            Some(request_id) => {
                entry = entry.with("request", hex::encode(request_id));
                // Whoever waited for it may be gone; then nobody ever has it.
                if let Some(held) = self.held.get_mut(&request_id) {
                    held.tokens.retain(|(id, _)| *id != new.credential);
                    held.tokens.push((new.credential.clone(), minted));
                }
            }
        }
        let event = Event::TokenMinted { id: new.credential.clone(), version: new.version };
        Ok(Done::changed(event, entry))
    }

    /// `for_good`: it will fail again until somebody does something about it.
    pub(super) fn fail_mint(
        &mut self,
        actor: &Actor,
        id: &str,
        version: u64,
        attempt: [u8; 16],
        why: &str,
        for_good: bool,
    ) -> Result<Done, Refused> {
        demand_system(actor)?;
        let now = self.log_time;
        let credential = self.minting_credential(id, version)?;
        let minting = &mut credential.minting;
        if minting.attempt.as_ref().is_none_or(|it| it.id != attempt) {
            return Err(Refused::Precondition(
                "nothing was noted: that attempt is not the one that is under way".into(),
            ));
        }
        minting.attempt = None;
        let times = minting.failure.as_ref().map_or(0, |failure| failure.times).saturating_add(1);
        let most = if for_good { LONGEST_PAUSE_WHEN_REFUSED_MS } else { LONGEST_PAUSE_MS };
        let pause = PAUSE_MS.saturating_mul(1 << (times - 1).min(16)).min(most);
        let why = clipped(why, REASON_BYTES);
        let not_before = now.saturating_add(pause);
        minting.failure = Some(MintFailure { at: now, times, not_before, why: why.clone() });
        let entry = credential
            .mint_entry("credential.mint_failed", &attempt)
            .with("why", why)
            .with("times", times)
            .with("not_before", not_before);
        Ok(Done::changed(Event::MintFailed { id: id.to_owned() }, entry))
    }

    fn minting_credential(&mut self, id: &str, version: u64) -> Result<&mut Credential, Refused> {
        let there = |c: &&mut Credential| c.active && c.version == version && c.mint.is_some();
        self.credentials.get_mut(id).filter(there).ok_or_else(|| {
            Refused::Precondition(
                "nothing was minted: the credential was rotated or revoked meanwhile".into(),
            )
        })
    }
}

impl Credential {
    /// What may be handed out: for this one release, where a token was minted for it, else what everybody shares.
    pub fn token_for<'a>(&'a self, release: Option<&'a HeldRequest>) -> Option<&'a Minted> {
        let own = release.and_then(|held| {
            held.tokens.iter().find(|(id, _)| *id == self.id).map(|(_, token)| token)
        });
        let fresh = self.mint.as_ref().is_some_and(Mint::is_fresh_for_each_release);
        let shared = || self.minting.token.as_ref();
        let token = if release.is_some() && fresh { own } else { shared() };
        token.filter(|token| token.version == self.version)
    }

    fn mint_entry(&self, action: &str, attempt: &[u8; 16]) -> Entry {
        Entry::new(action, &self.name)
            .with("id", &self.id)
            .with("version", self.version)
            .with("attempt", hex::encode(attempt))
    }
}

fn demand_system(actor: &Actor) -> Result<(), Refused> {
    match actor {
        Actor::System => Ok(()),
        _ => Err(Refused::Denied("only the control plane mints tokens".into())),
    }
}
