//! Channels as they are open on this node: adapters with their secrets, made anew whenever the state says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use countersign_chat::{
    Acquaintance, Adapter, Address, Answer, Auth, Call, Chance, Configuration, Failure, Keys, Mail,
    Secret, TapKey, Unfit, platform,
};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::client::Client;
pub(crate) use super::client::{Connection, Unhanded};
use super::pace::Pace;
use crate::state::{Account, Channel};
use crate::vault::{Binding, Vault};

/// A key set is fetched again after so long, and for a key that it has not, no more often than this.
const KEYS_AGE: Duration = Duration::from_secs(6 * 60 * 60);
const KEYS_PAUSE: Duration = Duration::from_secs(30);
/// An access token is not used in the last of its time.
const GRANT_MARGIN: Duration = Duration::from_secs(60);

/// What a conversation is sealed with is asked about again after so long, in so many steps at most.
const ACQUAINTANCE_AGE: Duration = Duration::from_secs(60 * 60);
const ACQUAINTANCE_STEPS: usize = 6;

/// So many tries that came to nothing are remembered.
const REFUSED: usize = 10_000;

/// All of them.
pub(crate) struct Channels {
    client: Client,
    hook_base: String,
    open: RwLock<BTreeMap<String, Arc<OpenChannel>>>,
}

/// One of them.
pub(crate) struct OpenChannel {
    pub(crate) name: String,
    pub(crate) platform: &'static str,
    pub(crate) adapter: Box<dyn Adapter>,
    pub(crate) taps: TapKey,
    pace: Arc<Pace>,
    pub(super) version: u64,
    bases: Vec<String>,
    client: Client,
    granted: AsyncMutex<Option<(Secret, Instant)>>,
    keys: AsyncMutex<(Arc<Keys>, Option<Instant>)>,
    /// Direct conversations that were opened.
    places: Mutex<BTreeMap<Account, String>>,
    /// What the platform has said about those that are encrypted, by place; nothing of it is secret.
    acquaintances: AsyncMutex<BTreeMap<String, (Vec<Answer>, Instant)>>,
    /// Attempts that the platform has not got, by their handles.
    refused: Mutex<BTreeSet<[u8; 16]>>,
}

impl Channels {
    /// `hook_base`: where platforms reach this node, such as `https://countersign.example.com`; empty: nowhere.
    pub(crate) fn new(hook_base: String) -> anyhow::Result<Self> {
        Ok(Self { client: Client::new()?, hook_base, open: RwLock::default() })
    }

    /// Where the platform of a channel is to call.
    pub(crate) fn hook_url(&self, name: &str) -> String {
        match self.hook_base.trim_end_matches('/') {
            "" => String::new(),
            base => format!("{base}/hooks/{name}"),
        }
    }

    /// The channel as the state has it.
    ///
    /// # Errors
    /// A sentence: a secret is missing, a setting is none of the platform's.
    pub(crate) fn open(
        &self,
        vault: &Vault,
        cluster: &str,
        channel: &Channel,
    ) -> Result<Arc<OpenChannel>, Unfit> {
        let known =
            self.open.read().unwrap_or_else(PoisonError::into_inner).get(&channel.name).cloned();
        let former = match known {
            Some(open) if open.version == channel.version => return Ok(open),
            former => former,
        };
        let mut opened = OpenChannel::open(self.client.clone(), vault, cluster, channel)?;
        // What the platform has been sent is not undone by other settings.
        if let Some(former) = former.filter(|former| former.keeps_the_pace_of(&opened)) {
            opened.pace = former.pace.clone();
        }
        let opened = Arc::new(opened);
        let mut all = self.open.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(channel.name.clone(), opened.clone());
        Ok(opened)
    }
}

impl OpenChannel {
    fn open(
        client: Client,
        vault: &Vault,
        cluster: &str,
        channel: &Channel,
    ) -> Result<Self, Unfit> {
        let known = platform(&channel.platform)
            .ok_or_else(|| Unfit(format!("there is no platform {}", channel.platform)))?;
        let sealed = vault.open_payload(&Binding::of_channel(cluster, channel), &channel.secrets);
        let sealed = sealed.map_err(|error| Unfit(format!("its secrets do not open: {error}")))?;
        let secrets =
            read_secrets(&sealed).ok_or_else(|| Unfit("its secrets cannot be read".into()))?;
        let configuration = Configuration::of(known, channel.settings.clone(), secrets)?;
        let bases = configuration.bases();
        let adapter = (known.open)(configuration)?;
        let caps = adapter.caps();
        Ok(Self {
            name: channel.name.clone(),
            platform: known.name,
            adapter,
            taps: TapKey::new(*vault.derive("tap-key", &[&channel.name])),
            pace: Arc::new(Pace::new(caps.per_second, caps.burst)),
            version: channel.version,
            bases,
            client,
            granted: AsyncMutex::default(),
            keys: AsyncMutex::default(),
            places: Mutex::default(),
            acquaintances: AsyncMutex::default(),
            refused: Mutex::default(),
        })
    }

    /// Whether what is sent again is one message for certain. That a mail is the same again, its id says; whether anybody
    /// heeds that is up to every server and program on its way.
    pub(super) fn takes_once(&self) -> bool {
        self.adapter.caps().keyed_send && self.adapter.relay().is_none()
    }

    /// Returns when a card may leave for this place.
    pub(crate) async fn turn(&self, place: &str) {
        self.pace.turn(place, self.adapter.per_second_in(place)).await;
    }

    /// What the platform has said of a call; if it has had enough, nothing leaves for so long.
    pub(crate) fn heed<T>(&self, said: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(Failure::Later { after: Some(after), .. }) = &said {
            self.pace.hold_back(Instant::now() + *after);
        }
        said
    }

    fn keeps_the_pace_of(&self, other: &Self) -> bool {
        let (mine, others) = (self.adapter.caps(), other.adapter.caps());
        self.platform == other.platform
            && (mine.per_second, mine.burst) == (others.per_second, others.burst)
    }

    /// Sends a call, with an access token where it wants one, and sealed where it has to be.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Failure> {
        let token = match call.auth {
            Auth::Granted => Some(self.token().await?),
            _ => None,
        };
        let (call, sealed_for) = match &call.auth {
            Auth::Sealed { place, .. } => {
                let place = place.clone();
                (self.sealed(call, &place).await?, Some(place))
            }
            _ => (call, None),
        };
        let answer = self.client.send(call, &self.bases, token.as_ref(), false).await?;
        if token.is_some() && answer.status == http::StatusCode::UNAUTHORIZED {
            // It was taken back before its time: the next call gets another.
            *self.granted.lock().await = None;
        }
        if let Some(place) = sealed_for.filter(|_| !answer.status.is_success()) {
            // Other keys may be in use there by now: the next call asks.
            self.acquaintances.lock().await.remove(&place);
        }
        let _ = self.heed(answer.done());
        Ok(answer)
    }

    /// A call as its conversation's people alone can read it.
    async fn sealed(&self, call: Call, place: &str) -> Result<Call, Failure> {
        let chance = || Chance::new(rand::random());
        let mut acquaintances = self.acquaintances.lock().await;
        if let Some((known, _)) =
            acquaintances.get(place).filter(|(_, at)| at.elapsed() < ACQUAINTANCE_AGE)
        {
            return self.adapter.seal(call, known, &chance());
        }
        acquaintances.remove(place);
        let mut known = Vec::new();
        for _ in 0..ACQUAINTANCE_STEPS {
            let step = self.adapter.acquaint(place, &known, &chance(), SystemTime::now())?;
            let Acquaintance::Ask(ask) = step else {
                let sealed = self.adapter.seal(call, &known, &chance())?;
                acquaintances.insert(place.to_owned(), (known, Instant::now()));
                return Ok(sealed);
            };
            known.push(self.client.send(*ask, &self.bases, None, false).await?);
        }
        let why =
            "nothing was sent: there is no end to what the platform asks about a conversation";
        Err(Failure::Later { after: None, why: why.into() })
    }

    /// Hands a mail to the channel's server.
    pub(crate) async fn mail(&self, mail: &Mail) -> Result<(), Unhanded> {
        let none = || Unhanded {
            failure: Failure::Never { why: "the channel has no mail server".into() },
            in_doubt: false,
        };
        self.client.mail(mail, self.adapter.relay().ok_or_else(none)?).await
    }

    /// That the platform has not got what was sent with this handle is known by this node, and forgotten with it.
    pub(super) fn did_not_take(&self, handle: [u8; 16]) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= REFUSED {
            refused.clear();
        }
        refused.insert(handle);
    }

    pub(super) fn has_not_taken(&self, handle: &[u8; 16]) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(handle)
    }

    /// Waits on the platform's side for what people say.
    pub(crate) async fn poll(&self, call: Call) -> Result<Answer, Failure> {
        self.client.send(call, &self.bases, None, true).await
    }

    /// Connects, to be told what people say.
    pub(crate) async fn dial(&self, address: &Address) -> Result<Connection, Failure> {
        self.client.dial(address).await
    }

    /// Where an account is spoken to directly.
    pub(crate) async fn place(&self, account: &Account) -> Result<String, Failure> {
        let known =
            self.places.lock().unwrap_or_else(PoisonError::into_inner).get(account).cloned();
        if let Some(place) = known {
            return Ok(place);
        }
        let user =
            countersign_chat::User { tenant: account.tenant.clone(), id: account.user.clone() };
        let place = match self.adapter.converse(&user) {
            None => account.user.clone(),
            Some(call) => self.adapter.conversed(&self.send(call).await?)?,
        };
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.insert(account.clone(), place.clone());
        Ok(place)
    }

    /// The platform's public keys; fetched anew when they are old, or `missing` one.
    pub(crate) async fn keys(&self, missing: bool) -> Arc<Keys> {
        let Some(call) = self.adapter.key_set() else { return Arc::default() };
        let mut held = self.keys.lock().await;
        let age = held.1.map(|at| at.elapsed());
        let old = age.is_none_or(|age| age > KEYS_AGE || (missing && age > KEYS_PAUSE));
        if old {
            match self
                .client
                .send(call, &self.bases, None, false)
                .await
                .and_then(|answer| Keys::parse(&answer))
            {
                Ok(keys) => *held = (Arc::new(keys), Some(Instant::now())),
                Err(failure) => {
                    // Whoever calls the webhook must not make us ask again and again.
                    let retry = Instant::now().checked_sub(KEYS_AGE.saturating_sub(KEYS_PAUSE));
                    held.1 = Some(retry.unwrap_or_else(Instant::now));
                    tracing::warn!(
                        channel = self.name,
                        ?failure,
                        "the platform's keys were not fetched"
                    );
                }
            }
        }
        held.0.clone()
    }

    async fn token(&self) -> Result<Secret, Failure> {
        let mut granted = self.granted.lock().await;
        if let Some((token, until)) = granted.as_ref()
            && Instant::now() + GRANT_MARGIN < *until
        {
            return Ok(token.clone());
        }
        let none = || Failure::Never { why: "the platform gives no access tokens".into() };
        let call = self.adapter.grant(SystemTime::now()).ok_or_else(none)?;
        let answer = self.client.send(call, &self.bases, None, false).await?;
        let (token, good_for) = self.adapter.granted(&answer)?;
        *granted = Some((token.clone(), Instant::now() + good_for));
        Ok(token)
    }
}

/// Secrets as they are sealed: name, NUL, value, NUL. No secret of a platform has a NUL in it.
pub(crate) fn write_secrets(secrets: &BTreeMap<String, Secret>) -> Zeroizing<Vec<u8>> {
    let room = secrets.iter().map(|(name, it)| name.len() + it.expose().len() + 2).sum();
    let mut sealed = Zeroizing::new(Vec::with_capacity(room));
    for (name, secret) in secrets {
        for part in [name.as_str(), secret.expose()] {
            sealed.extend_from_slice(part.as_bytes());
            sealed.push(0);
        }
    }
    sealed
}

pub(crate) fn read_secrets(sealed: &[u8]) -> Option<BTreeMap<String, Secret>> {
    let mut secrets = BTreeMap::new();
    let mut rest = sealed;
    while !rest.is_empty() {
        let mut part = || {
            let end = rest.iter().position(|b| *b == 0)?;
            let text = std::str::from_utf8(&rest[..end]).ok()?;
            rest = &rest[end + 1..];
            Some(text.to_owned())
        };
        let (name, value) = (part()?, part()?);
        secrets.insert(name, Secret::new(value));
    }
    Some(secrets)
}
