//! Tokens that are minted here: what is stored never leaves the control plane, and edges are given what it brings.
//!
//! ```text
//! a need, on any node ─▶ the leader ─ attempt on record ─ call ─ token sealed, on record ─▶ every node has it
//! ```
//!
//! One call at a time for a credential, in the whole cluster: needs that come meanwhile wait for the same one. A token is
//! minted anew before it ends, when somebody needs it; one that nobody asks for just ends. `call` and what it stands on
//! say what is asked and what an answer means, and do nothing; `client` alone calls out.

mod call;
mod client;
mod github;
mod google;
mod jwt;
mod oauth;
mod secret;
mod target;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use countersign_proto::v1;
use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use zeroize::Zeroizing;

pub use client::{ConnectTo, NotConnectTo, Settings};
pub(crate) use secret::Secret;
pub(crate) use target::Target;

use crate::cluster::{Clock as _, Cluster, ProposeError, SystemClock};
use crate::state::{
    Actor, Command, CommandId, Credential, HeldRequest, Minted, NewToken, Refused, State, Successor,
};
use crate::vault::{Binding, SealError, Vault};
use call::{NoToken, Token};

/// For a need, through changes of the leader. Longer than a call and its commit take.
const LONGEST: Duration = Duration::from_secs(20);
/// Before the same is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// What is needed: a token that everybody shares, or one for a single release.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Need {
    credential: String,
    version: u64,
    release: Option<[u8; 16]>,
}

/// Why there is no token, for whoever needs it: it says nothing of what was stored or answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotMinted {
    credential: String,
    why: String,
}

impl fmt::Display for NotMinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no token could be had for the key \"{}\": {}", self.credential, self.why)
    }
}

/// Mints, if this node leads; has it done, if another does.
pub struct Minter {
    cluster: Cluster,
    vault: Arc<Vault>,
    client: client::Client,
    /// Needs that are seen to.
    flights: Mutex<HashMap<Need, Flight>>,
    /// Whoever holds a credential's mints with it, on this node.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// The index of the entry after which the token is there.
type Flight = Shared<BoxFuture<'static, Result<u64, NotMinted>>>;

/// Why an attempt to see to a need came to nothing.
enum Failed {
    /// For now: the same can be tried again at once.
    Again(String),
    No(NotMinted),
}

impl Need {
    /// For a lease.
    pub(crate) fn to_lend(credential: &Credential) -> Option<Self> {
        credential.mint.as_ref()?;
        Some(Self { credential: credential.id.clone(), version: credential.version, release: None })
    }

    /// For the release of a request.
    pub(crate) fn to_release(credential: &Credential, request_id: &[u8; 16]) -> Option<Self> {
        let fresh = credential.mint.as_ref()?.is_fresh_for_each_release();
        Some(Self { release: fresh.then_some(*request_id), ..Self::to_lend(credential)? })
    }

    /// The token that there is.
    fn met<'a>(&self, state: &'a State) -> Option<&'a Minted> {
        let credential =
            state.credential(&self.credential).filter(|it| it.version == self.version)?;
        match &self.release {
            None => credential.token_for(None),
            Some(request_id) => credential.token_for(Some(state.held(request_id)?)),
        }
    }

    fn not_minted(&self, state: &State, why: impl Into<String>) -> NotMinted {
        let name = state.credential(&self.credential).map(|it| it.name.clone());
        NotMinted { credential: name.unwrap_or_default(), why: why.into() }
    }
}

/// What the state says of a need.
enum Standing {
    /// There is one, and there will be for a while.
    Met,
    /// There is one, and it is time for the next.
    Due,
    /// There is none.
    Missing,
}

fn standing(state: &State, need: &Need, now: u64) -> Standing {
    match need.met(state) {
        Some(token) if !token.is_usable(now) => Standing::Missing,
        Some(token) if token.is_due(now) => Standing::Due,
        Some(_) => Standing::Met,
        None => Standing::Missing,
    }
}

impl Minter {
    pub fn new(cluster: Cluster, vault: Arc<Vault>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            vault,
            client: client::Client::new(settings),
            flights: Mutex::default(),
            turns: Mutex::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        })
    }

    /// Whether a credential's issuer may be named with http.
    pub(crate) fn speaks_http(&self) -> bool {
        self.client.speaks_http()
    }

    /// Begins nothing new.
    pub fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
    }

    /// Returns once what was under way is over: ten seconds at most for a call that uses up what is stored, since what it
    /// brings in its place must not be lost.
    pub async fn ended(&self) {
        self.tasks.wait().await;
    }

    /// Returns once the state here has a token that can be handed out.
    ///
    /// # Errors
    /// Why there is none. Whatever was begun for it goes on.
    pub(crate) async fn ready(
        self: &Arc<Self>,
        need: &Need,
        patience: Duration,
    ) -> Result<(), NotMinted> {
        let now = self.cluster.log_time();
        let (stands, pausing) = self.cluster.peek(|state| {
            let credential = state.credential(&need.credential);
            let pausing = credential.is_some_and(|it| it.minting.pause(now).is_some());
            (standing(state, need, now), pausing)
        });
        match stands {
            Standing::Met => return Ok(()),
            Standing::Due => {
                if !pausing {
                    drop(self.flight(need));
                }
                return Ok(());
            }
            Standing::Missing => {}
        }
        let not = |why: &str| Err(self.cluster.peek(|state| need.not_minted(state, why)));
        match timeout(patience, self.flight(need)).await {
            Ok(Ok(_index)) => {
                let now = self.cluster.log_time();
                match self.cluster.peek(|state| standing(state, need, now)) {
                    Standing::Met | Standing::Due => Ok(()),
                    Standing::Missing => not("the one that was minted has ended"),
                }
            }
            Ok(Err(why)) => Err(why),
            Err(_elapsed) => not("its issuer has not answered yet"),
        }
    }

    /// Opens what is handed out: the stored value itself, or the token in its place.
    ///
    /// # Errors
    /// [`SealError::NoToken`] where no token is there that still counts; else as [`Vault::open_payload`].
    pub(crate) fn key(
        &self,
        cluster: &str,
        credential: &Credential,
        release: Option<&HeldRequest>,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let Some(mint) = &credential.mint else {
            let binding = Binding::of_credential(cluster, credential);
            return self.vault.open_payload(&binding, &credential.payload);
        };
        let now = self.cluster.log_time();
        let token = credential.token_for(release).filter(|token| token.left(now) > 0);
        let token = token.ok_or(SealError::NoToken)?;
        let fresh = mint.is_fresh_for_each_release();
        let release = release.filter(|_| fresh).map(|held| &held.request_id);
        let binding = Binding::of_token(cluster, credential, token.expires_at, release);
        self.vault.open_payload(&binding, &token.token)
    }

    /// What another node needs, if this one leads.
    pub(crate) async fn for_peer(
        self: &Arc<Self>,
        asked: v1::MintTokenRequest,
    ) -> Result<v1::MintTokenResponse, Status> {
        if !self.cluster.is_leader() {
            return Err(Status::unavailable("nothing was minted: this node does not lead"));
        }
        let release = match asked.request_id.as_ref() {
            [] => None,
            id => Some(id.try_into().map_err(|_| {
                Status::invalid_argument("nothing was minted: request_id must be 16 bytes")
            })?),
        };
        let need =
            Need { credential: asked.credential_id, version: asked.credential_version, release };
        let outcome = match self.flight(&need).await {
            Ok(index) => v1::mint_token_response::Outcome::Index(index),
            Err(no) => v1::mint_token_response::Outcome::WhyNot(no.why),
        };
        Ok(v1::MintTokenResponse { outcome: Some(outcome) })
    }

    /// Sees to a need, in a task that goes on when whoever needs it is gone; once for all who need the same.
    fn flight(self: &Arc<Self>, need: &Need) -> Flight {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(need) {
            return flight.clone();
        }
        let (minter, of) = (Arc::clone(self), need.clone());
        let task = self.tasks.spawn(async move {
            let outcome = minter.see_to(&of).await;
            lock(&minter.flights).remove(&of);
            outcome
        });
        let broke = self.cluster.peek(|state| need.not_minted(state, "the control plane failed"));
        let flight = task.map(move |done| done.unwrap_or(Err(broke))).boxed().shared();
        flights.insert(need.clone(), flight.clone());
        flight
    }

    async fn see_to(&self, need: &Need) -> Result<u64, NotMinted> {
        let deadline = Instant::now() + LONGEST;
        loop {
            let why = match self.once(need, deadline).await {
                Ok(index) => return Ok(index),
                Err(Failed::No(no)) => return Err(no),
                Err(Failed::Again(why)) => why,
            };
            let closed = tokio::select! {
                () = self.closing.cancelled() => true,
                () = tokio::time::sleep(PAUSE) => false,
            };
            if closed || Instant::now() >= deadline {
                return Err(self.cluster.peek(|state| need.not_minted(state, why)));
            }
        }
    }

    async fn once(&self, need: &Need, deadline: Instant) -> Result<u64, Failed> {
        match self.cluster.leader() {
            Some(leader) if leader == self.cluster.node_id() => self.mint(need).await,
            Some(leader) => tokio::select! {
                minted = self.mint_at(leader, need, deadline) => minted,
                () = self.replaced(leader) => Err(Failed::Again("another node leads now".into())),
            },
            None => Err(Failed::Again("the control plane has no leader".into())),
        }
    }

    async fn replaced(&self, leader: u64) {
        while self.cluster.leader() == Some(leader) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn mint_at(&self, leader: u64, need: &Need, deadline: Instant) -> Result<u64, Failed> {
        let again = |what: &str| Failed::Again(what.to_owned());
        let channel =
            self.cluster.channel_to(leader).ok_or_else(|| again("the leader has no address"))?;
        let release = need.release.as_ref().map(|id| Bytes::copy_from_slice(id));
        let mut request = tonic::Request::new(v1::MintTokenRequest {
            cluster_id: self.cluster.cluster_id(),
            credential_id: need.credential.clone(),
            credential_version: need.version,
            request_id: release.unwrap_or_default(),
        });
        let left = deadline.saturating_duration_since(Instant::now());
        request.set_timeout(left);
        let answer = ClusterServiceClient::new(channel).mint_token(request).await;
        let answer = answer.map_err(|status| Failed::Again(status.message().to_owned()))?;
        match answer.into_inner().outcome {
            Some(v1::mint_token_response::Outcome::Index(index)) => {
                let applied = self.cluster.wait_applied(index, left).await;
                applied.map(|()| index).map_err(|why| Failed::Again(why.to_string()))
            }
            Some(v1::mint_token_response::Outcome::WhyNot(why)) => {
                Err(Failed::No(self.cluster.peek(|state| need.not_minted(state, why))))
            }
            None => Err(again("the leader said nothing")),
        }
    }

    /// The leader's part.
    async fn mint(&self, need: &Need) -> Result<u64, Failed> {
        let turn = Arc::clone(lock(&self.turns).entry(need.credential.clone()).or_default());
        let _turn = turn.lock().await;
        let now = self.cluster.log_time();
        let ground = self.cluster.read(|state| Ground::of(state, need, now)).await;
        let ground = ground.map_err(|why| Failed::Again(why.to_string()))?;
        let Ground { cluster_id, credential, index } = ground?;
        if let Some(index) = index {
            return Ok(index);
        }
        let attempt: [u8; 16] = rand::random();
        self.begin(need, attempt).await?;
        let began = self.cluster.log_time();
        let asked = self.asked(&cluster_id, &credential).await;
        match asked {
            Ok((token, former)) => {
                let ends = began.saturating_add(token.lasts.as_millis() as u64);
                let binding =
                    Binding::of_token(&cluster_id, &credential, ends, need.release.as_ref());
                let new = NewToken {
                    credential: need.credential.clone(),
                    version: need.version,
                    attempt,
                    token: self.vault.seal_payload(&binding, token.value.as_bytes()),
                    expires_at: ends,
                    request_id: need.release,
                    successor: None,
                };
                let successor = token.successor;
                let successor = successor.map(|next| UsedUp { next: next.to_store(), former });
                self.keep(need, &cluster_id, new, successor).await
            }
            Err(no) => {
                let NoToken { why, for_good } = no;
                tracing::warn!(credential = credential.name, why, "no token was minted");
                let command = Command::FailMint {
                    id: need.credential.clone(),
                    version: need.version,
                    attempt,
                    why: why.clone(),
                    for_good,
                };
                if let Err(error) = self.cluster.propose(Actor::System, command).await {
                    tracing::warn!(%error, "and that is perhaps not on record");
                }
                Err(Failed::No(NotMinted { credential: credential.name.clone(), why }))
            }
        }
    }

    async fn begin(&self, need: &Need, attempt: [u8; 16]) -> Result<(), Failed> {
        let command =
            Command::BeginMint { id: need.credential.clone(), version: need.version, attempt };
        match self.cluster.propose(Actor::System, command).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Refused(Refused::Exhausted(why))) => {
                Err(Failed::No(self.cluster.peek(|state| need.not_minted(state, why))))
            }
            Err(why) => Err(Failed::Again(why.to_string())),
        }
    }

    /// Opens what is stored, calls, and reads the answer; gives what was stored as well.
    async fn asked(
        &self,
        cluster_id: &str,
        credential: &Credential,
    ) -> Result<(Token, Zeroizing<Vec<u8>>), NoToken> {
        let Some(mint) = &credential.mint else { return Err(NoToken::unreadable()) };
        let binding = Binding::of_credential(cluster_id, credential);
        let stored = self.vault.open_payload(&binding, &credential.payload).map_err(|error| {
            tracing::error!(%error, credential = credential.name, "a stored secret does not open");
            NoToken::for_good("what is stored does not open")
        })?;
        let secret = Secret::stored(mint, &stored)?;
        let call = call::request(mint, &secret, SystemClock.wall())?;
        let uses_it_up = secret.may_be_used_up();
        let answer = tokio::select! {
            answer = self.client.send(call) => answer?,
            () = self.closing.cancelled(), if !uses_it_up => {
                return Err(NoToken::for_now("this node is going down"));
            }
        };
        let token = call::answer(mint, &secret, &answer, SystemClock.wall())?;
        Ok((token, stored))
    }

    /// Commits what a call brought. A secret that takes the place of the one that it used up is all that there is of it:
    /// that is tried for as long as this node is there.
    async fn keep(
        &self,
        need: &Need,
        cluster_id: &str,
        mut new: NewToken,
        successor: Option<UsedUp>,
    ) -> Result<u64, Failed> {
        let mut id = CommandId { client: rand::random(), serial: 0 };
        loop {
            if let Some(UsedUp { next, former }) = &successor
                && new.successor.is_none()
            {
                new.successor = self.in_the_place_of(need, cluster_id, next, former);
                if new.successor.is_none() {
                    tracing::warn!(
                        credential = need.credential,
                        "a token came for a secret that was replaced meanwhile"
                    );
                    return Err(Failed::Again("its secret was replaced meanwhile".into()));
                }
            }
            let command = Command::KeepToken(Box::new(new.clone()));
            match self.cluster.propose_as(id, Actor::System, command).await {
                Ok(kept) => return Ok(kept.position().index),
                Err(ProposeError::Refused(Refused::Precondition(_))) if new.successor.is_some() => {
                    // It may have been sealed under another term of the keyring, and be the same still.
                    new.successor = None;
                    id = CommandId { client: rand::random(), serial: 0 };
                }
                Err(ProposeError::Refused(refused)) => {
                    return Err(Failed::Again(refused.to_string()));
                }
                Err(ProposeError::Unavailable(why)) if successor.is_none() => {
                    return Err(Failed::Again(why));
                }
                Err(ProposeError::Unavailable(why)) if self.closing.is_cancelled() => {
                    tracing::error!(
                        credential = need.credential,
                        why,
                        "a secret that was used up may not have been replaced: if its tokens cannot be minted any more, rotate it"
                    );
                    return Err(Failed::Again(why));
                }
                Err(ProposeError::Unavailable(why)) => {
                    tracing::warn!(
                        credential = need.credential,
                        why,
                        "a secret that was used up is not replaced yet"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// `next` in the place of `former`, if that is what is stored.
    fn in_the_place_of(
        &self,
        need: &Need,
        cluster_id: &str,
        next: &[u8],
        former: &[u8],
    ) -> Option<Successor> {
        let there = self.cluster.peek(|state| state.credential(&need.credential).cloned());
        let there = there.filter(|it| it.active && it.version == need.version)?;
        let binding = Binding::of_credential(cluster_id, &there);
        let stored = self.vault.open_payload(&binding, &there.payload).ok()?;
        (stored.as_slice() == former).then(|| Successor {
            former_sha256: there.payload.sha256(),
            payload: self.vault.seal_payload(&binding, next),
        })
    }
}

/// What was stored, and is worth nothing any more; and what takes its place.
struct UsedUp {
    former: Zeroizing<Vec<u8>>,
    next: Zeroizing<Vec<u8>>,
}

/// What a call starts from.
struct Ground {
    cluster_id: String,
    credential: Credential,
    /// The token is there already, as of this entry.
    index: Option<u64>,
}

impl Ground {
    fn of(state: &State, need: &Need, now: u64) -> Result<Self, Failed> {
        let no = |why: &str| Failed::No(need.not_minted(state, why));
        let credential = state
            .credential(&need.credential)
            .filter(|it| it.active && it.version == need.version && it.mint.is_some())
            .ok_or_else(|| no("it was rotated or revoked meanwhile"))?;
        let gone = |id: &[u8; 16]| state.held(id).is_none();
        if need.release.as_ref().is_some_and(gone) {
            return Err(no("the request that it was for is gone"));
        }
        let met = matches!(standing(state, need, now), Standing::Met);
        if !met {
            if let Some(failure) = credential.minting.pause(now) {
                return Err(no(&failure.why));
            }
            if credential.minting.attempt.as_ref().is_some_and(|attempt| attempt.until > now) {
                return Err(Failed::Again("its issuer has not answered yet".into()));
            }
        }
        Ok(Self {
            cluster_id: state
                .genesis()
                .map(|genesis| genesis.cluster_id.clone())
                .unwrap_or_default(),
            credential: credential.clone(),
            index: met.then(|| state.position().index),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked while holding it left the map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
