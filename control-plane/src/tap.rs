//! The face for people's answers from chats: a webhook, what was polled, or a frame of a connection becomes a proposal; what
//! came of it is told to whoever answered, and to nobody before it is committed.

mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use countersign_chat::{
    Call, Code, Evidence, Failure, Forged, Handle, Heard, Inbound, NAMED, Outcome, Reply, Said,
    Text, Typed, What, Wire, Words,
};
use http::StatusCode;
use sha2::{Digest as _, Sha256};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cluster::{Clock as _, Cluster, ProposeError, SystemClock};
use crate::node::Unsealed;
use crate::notify::channels::{Channels, OpenChannel};
use crate::state::{
    Account, Actor, ApprovalState, Attempt, Command, Delivery, DeliveryStatus, Event, Message,
    Recipient, State, Tap, VoteWord,
};

/// Platforms wait three seconds for an answer.
const PATIENCE: Duration = Duration::from_millis(2500);
/// How long a card may be there already, for people to react to, while it is not known yet which message it is: a call of
/// ours and its place on record take less.
const SENDING: Duration = Duration::from_secs(20);
/// Between two polls that failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Answers a webhook of a channel. Whoever is not the platform learns nothing but that.
pub(crate) async fn hook(
    house: &Arc<Unsealed>,
    channels: &Channels,
    name: &str,
    inbound: &Inbound<'_>,
) -> Reply {
    let open = match opened(house, channels, name) {
        Some(Ok(open)) => open,
        Some(Err(())) => return Reply::empty(StatusCode::SERVICE_UNAVAILABLE),
        None => return Reply::empty(StatusCode::NOT_FOUND),
    };
    let keys = open.keys(false).await;
    let mut heard = open.adapter.hear(inbound, &keys, SystemTime::now());
    if heard == Err(Forged::Key) {
        let keys = open.keys(true).await;
        heard = open.adapter.hear(inbound, &keys, SystemTime::now());
    }
    for _ in 0..NAMED {
        let Ok(Heard::Named(named)) = &heard else { break };
        heard = Ok(match fetched(&open, named).await {
            Ok(heard) => heard,
            Err(failure) => {
                // The platform sends it again.
                tracing::warn!(
                    channel = name,
                    ?failure,
                    "what a webhook names could not be fetched"
                );
                return Reply::empty(StatusCode::SERVICE_UNAVAILABLE);
            }
        });
    }
    match heard {
        Ok(heard) => reply(house, &open, heard).await.unwrap_or_else(|unknown| unknown),
        Err(forged) => {
            tracing::warn!(channel = name, why = %forged, "a webhook was refused");
            Reply::empty(StatusCode::UNAUTHORIZED)
        }
    }
}

/// Listens where nobody calls us, until the node is sealed; only the leader does.
pub(crate) async fn listen(house: Arc<Unsealed>, channels: Arc<Channels>) {
    let mut listening: BTreeMap<String, (Arc<OpenChannel>, JoinHandle<()>)> = BTreeMap::new();
    let mut looks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            () = house.closing.cancelled() => break,
            _ = looks.tick() => {}
        }
        let names: Vec<_> = match house.cluster.is_leader() {
            true => house
                .cluster
                .peek(|state| state.channels().map(|channel| channel.name.clone()).collect()),
            false => Vec::new(),
        };
        listening.retain(|name, (open, task)| {
            // A channel that was changed has other secrets by now, or another address.
            let is_same = |now: &Arc<OpenChannel>| Arc::ptr_eq(open, now);
            let goes_on = names.contains(name)
                && !task.is_finished()
                && matches!(opened(&house, &channels, name), Some(Ok(now)) if is_same(&now));
            if !goes_on {
                task.abort();
            }
            goes_on
        });
        for name in
            names.into_iter().filter(|name| !listening.contains_key(name)).collect::<Vec<_>>()
        {
            let Some(Ok(open)) = opened(&house, &channels, &name) else { continue };
            let task = match open.adapter.caps().wire {
                Wire::Poll => tokio::spawn(poll(house.clone(), channels.clone(), open.clone())),
                Wire::Socket => tokio::spawn(socket::listen(house.clone(), open.clone())),
                Wire::Webhook => continue,
            };
            listening.insert(name, (open, task));
        }
    }
    listening.values().for_each(|(_, task)| task.abort());
}

/// What is replied to what was heard; an error is what can be said while it is not known what became of it.
async fn reply(
    house: &Arc<Unsealed>,
    open: &Arc<OpenChannel>,
    heard: Heard,
) -> Result<Reply, Reply> {
    match heard {
        Heard::Challenge(reply) => Ok(reply),
        Heard::Named(_) | Heard::Nothing => Ok(Reply::empty(StatusCode::OK)),
        Heard::Said(said) => {
            let mut reply = Ok(Reply::empty(StatusCode::OK));
            for said in said {
                let next = answer(house, open, &said).await;
                reply = if reply.is_ok() { next } else { reply };
            }
            reply
        }
    }
}

/// What a webhook only named, by a call of ours.
async fn fetched(open: &OpenChannel, named: &str) -> Result<Heard, Failure> {
    match open.adapter.fetch(named) {
        Some(call) => open.adapter.fetched(named, &open.send(call).await?),
        None => Ok(Heard::Nothing),
    }
}

async fn poll(house: Arc<Unsealed>, channels: Arc<Channels>, mut open: Arc<OpenChannel>) {
    // Events that are answered since the place that is on record: they are heard again while others wait.
    let mut answered = BTreeSet::new();
    loop {
        // It may have been changed meanwhile.
        match opened(&house, &channels, &open.name) {
            Some(Ok(now)) if house.cluster.is_leader() => open = now,
            _ => return,
        }
        let since = house.cluster.peek(|state| state.cursor(&open.name).map(str::to_owned));
        let Some(call) = open.adapter.poll(since.as_deref()) else { return };
        let polled = match open.poll(call).await {
            Ok(answer) => open.adapter.polled(&answer),
            Err(failure) => Err(failure),
        };
        let polled = match polled {
            Ok(polled) => polled,
            Err(failure) => {
                tracing::warn!(channel = open.name, ?failure, "nothing could be heard");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let mut known = true;
        for said in &polled.said {
            if answered.contains(&said.event) {
                continue;
            }
            match answer(&house, &open, said).await {
                Ok(_) => drop(answered.insert(said.event.clone())),
                Err(_) => known = false,
            }
        }
        // After what was said is committed: whoever listens next hears the rest again, and each event counts once.
        if !known {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        if !polled.since.is_empty() && since.as_deref() != Some(&polled.since) {
            let cursor = Command::SetCursor { channel: open.name.clone(), cursor: polled.since };
            match house.cluster.propose(Actor::System, cursor).await {
                Ok(_) => answered.clear(),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// What is answered to one who said something, as in [`reply`]; what is told to them alone goes on by itself.
async fn answer(
    house: &Arc<Unsealed>,
    open: &Arc<OpenChannel>,
    said: &Said,
) -> Result<Reply, Reply> {
    if is_early(&house.cluster, open, said).await {
        return Err(Reply::empty(StatusCode::SERVICE_UNAVAILABLE));
    }
    let taken = timeout(PATIENCE, take(&house.cluster, open, said)).await;
    let taken = taken.unwrap_or_else(|_| {
        Err(Text::of(
            "It is not recorded yet: look at the card, and answer again if it does not change.",
        ))
    });
    let known = taken.is_ok();
    let (reply, private) = open.adapter.reply(said, &taken.unwrap_or_else(Outcome::Refused));
    if let Some(call) = private {
        send_aside(house, open, call);
    }
    if known { Ok(reply) } else { Err(reply) }
}

/// A call that answers somebody in private: nobody waits for it, and nothing hangs on it.
fn send_aside(house: &Unsealed, open: &Arc<OpenChannel>, call: Call) {
    let open = open.clone();
    house.spawn(async move {
        if let Err(failure) = open.send(call).await {
            tracing::debug!(channel = open.name, ?failure, "a private answer was not delivered");
        }
    });
}

/// What became of what somebody said; an error says that it is not known.
async fn take(cluster: &Cluster, open: &OpenChannel, said: &Said) -> Result<Outcome, Text> {
    let account = Account {
        platform: open.platform.to_owned(),
        tenant: said.by.tenant.clone(),
        user: said.by.id.clone(),
    };
    let tap = match &said.what {
        What::Typed(Typed::Link(code)) => return link(cluster, code, account).await,
        What::Tap(token) => match open.taps.open(&open.name, &said.message.place, token) {
            Some((Handle(handle), word)) => tap(open, said, account, handle, word, String::new()),
            None => {
                return Ok(refused(
                    "This vote does not count: the card is not one that was sent here.",
                ));
            }
        },
        What::Reaction(word) => match cluster.peek(|state| reacted_to(state, open, said)) {
            Some(handle) => tap(open, said, account, handle, *word, String::new()),
            None => return Ok(refused("There is nothing to answer.")),
        },
        What::Typed(Typed::Answer { word, code, reason }) => {
            match cluster.peek(|state| coded(state, open, &account, &said.message.place, code)) {
                Some(handle) => tap(open, said, account, handle, *word, reason.clone()),
                None => {
                    // On record, and counted: codes are not to be guessed.
                    let _ = cluster.propose(Actor::System, Command::WrongCode { account }).await;
                    return Ok(refused(
                        "This vote does not count: the code is none of a card that was sent to you.",
                    ));
                }
            }
        }
    };
    match cluster.propose(Actor::System, Command::Tap(Box::new(tap))).await {
        Ok(event) => Ok(Outcome::Taken(match &*event {
            Event::Voted { approval, state } => {
                Text::of(&cluster.peek(|now| taken(now, *approval, *state)))
            }
            _ => Text::of("It was heard."),
        })),
        Err(error) => failed(&error),
    }
}

/// What was refused is committed as such.
fn failed(error: &ProposeError) -> Result<Outcome, Text> {
    let words = Text::of(&error.to_string());
    match error {
        ProposeError::Refused(_) => Ok(Outcome::Refused(words)),
        ProposeError::Unavailable(_) => Err(words),
    }
}

fn tap(
    open: &OpenChannel,
    said: &Said,
    account: Account,
    handle: [u8; 16],
    word: Words,
    reason: String,
) -> Tap {
    let typed = matches!(said.what, What::Typed(_));
    Tap {
        channel: open.name.clone(),
        handle,
        word: match word {
            Words::Approve => VoteWord::Approve,
            Words::Deny => VoteWord::Deny,
        },
        account,
        place: said.message.place.clone(),
        // Some platforms do not say which message it was; the button's token is of this place alone all the same.
        message: Some(said.message.id.clone()).filter(|id| !typed && !id.is_empty()),
        button: matches!(said.what, What::Tap(_)),
        event: said.event.clone(),
        reason,
        evidence: match open.adapter.caps().evidence {
            Evidence::Asymmetric => "asymmetric",
            Evidence::SharedMac => "shared-mac",
            Evidence::StaticSecret => "static-secret",
            Evidence::TransportOnly => "transport-only",
        }
        .into(),
    }
}

async fn link(cluster: &Cluster, code: &str, account: Account) -> Result<Outcome, Text> {
    let code = code.replace('-', "").to_ascii_uppercase();
    let code_sha256 = Sha256::digest(&code).into();
    match cluster.propose(Actor::System, Command::LinkAccount { code_sha256, account }).await {
        Ok(event) => Ok(match &*event {
            Event::PrincipalChanged { name, .. } => {
                Outcome::Taken(Text::of(&format!("This account is {name}'s from now on.")))
            }
            _ => refused(
                "The account was not linked: the code is wrong or too old. Get one with: countersign approver link",
            ),
        }),
        Err(error) => failed(&error),
    }
}

/// Whether it is still not known, after some patience, if what somebody reacts to is a card: the message is there before the
/// sender can say which one it is. Nothing is told then, and it is heard again.
async fn is_early(cluster: &Cluster, open: &OpenChannel, said: &Said) -> bool {
    if !matches!(said.what, What::Reaction(_)) {
        return false;
    }
    let mut events = cluster.subscribe();
    let known = async {
        while cluster.peek(|state| may_become_known(state, open, said)) {
            if let Err(RecvError::Closed) = events.recv().await {
                break;
            }
        }
    };
    timeout(PATIENCE, known).await.is_err()
}

/// Whether a card is on its way to where somebody reacts to a message that is none of those that are known.
fn may_become_known(state: &State, open: &OpenChannel, said: &Said) -> bool {
    let now = SystemClock.wall();
    let is_on_its_way = |(delivery, attempt): (&Delivery, &Attempt)| {
        let since = Duration::from_millis(now.saturating_sub(attempt.at));
        attempt.message.is_none()
            && matches!(delivery.status, DeliveryStatus::Due { .. })
            && since < SENDING
    };
    reacted_to(state, open, said).is_none()
        && state.attempts_in(&open.name, &said.message.place).any(is_on_its_way)
}

/// The card that a reaction is on.
fn reacted_to(state: &State, open: &OpenChannel, said: &Said) -> Option<[u8; 16]> {
    let id = said.message.id.as_str();
    let mut attempts = state.attempts_in(&open.name, &said.message.place);
    let found = attempts.find(|(_, attempt)| attempt.message.as_deref() == Some(id));
    found.map(|(_, attempt)| attempt.handle)
}

/// The card whose code was typed: one that was sent to this account, or into the room where it was typed.
fn coded(
    state: &State,
    open: &OpenChannel,
    account: &Account,
    place: &str,
    code: &Code,
) -> Option<[u8; 16]> {
    let may_answer = |delivery: &Delivery| {
        matches!(delivery.what, Message::Card(_) | Message::Test { .. })
            && matches!(delivery.status, DeliveryStatus::Sent { .. })
    };
    let to_account = state.deliveries_to(&open.name, Recipient::Account(account.clone()));
    let to_account = to_account.filter(|delivery| may_answer(delivery));
    let here = state
        .attempts_in(&open.name, place)
        .filter(|(delivery, _)| matches!(delivery.to, Recipient::Room(_)) && may_answer(delivery));
    let mut attempts =
        to_account.flat_map(|delivery| &delivery.attempts).chain(here.map(|(_, attempt)| attempt));
    let is_it = |attempt: &&Attempt| {
        open.taps.code(&open.name, &attempt.place, Handle(attempt.handle)).is(code)
    };
    attempts.find(is_it).map(|attempt| attempt.handle)
}

/// What came of a vote, to whoever gave it.
fn taken(state: &State, approval: crate::state::ApprovalId, reached: ApprovalState) -> String {
    let rule = state.approval(approval).map(|a| a.rule.clone()).unwrap_or_default();
    match reached {
        ApprovalState::Pending => {
            format!("Your word is recorded. Others have to agree (rule {rule:?}).")
        }
        ApprovalState::Approved => {
            "Approved. It is carried out once, now or when the agent asks again.".into()
        }
        ApprovalState::Denied => "Denied. Nothing was sent.".into(),
        other => format!("It is {other} already."),
    }
}

/// None: there is no such channel. An error is on the log.
fn opened(
    house: &Unsealed,
    channels: &Channels,
    name: &str,
) -> Option<Result<Arc<OpenChannel>, ()>> {
    let (channel, cluster) = house
        .cluster
        .peek(|state| Some((state.channel(name)?.clone(), state.genesis()?.cluster_id.clone())))?;
    Some(channels.open(&house.vault, &cluster, &channel).map_err(|unfit| {
        tracing::error!(channel = name, %unfit, "the channel cannot be opened");
    }))
}

fn refused(words: &str) -> Outcome {
    Outcome::Refused(Text::of(words))
}
