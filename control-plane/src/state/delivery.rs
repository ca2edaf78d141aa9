//! The outbox: which card goes where, what became of it, and which message it is over there.
//!
//! Rows come about here, in the same step as what they tell of, so that none is forgotten by a crash. The leader sends them,
//! at least once. An attempt is on record before its call leaves, with the handle that its buttons carry: a card that was
//! sent by a leader who died before saying so is known all the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::name::{REASON_BYTES, clipped};
use super::{
    Account, Actor, Announced, ApprovalId, ApprovalState, Done, Event, Millis, Refused, State,
};

/// Given up after so many failures, or when the approval is settled before.
const TRIES: u32 = 8;
const ATTEMPTS: usize = 12;
const BACKOFF_MS: Millis = 1000;
const LONGEST_BACKOFF_MS: Millis = 60 * 1000;
/// Tests and broadcasts are kept so long.
const KEPT_MS: Millis = 24 * 60 * 60 * 1000;
/// Dead letters and others that are no approval's: at most so many.
const LOOSE: usize = 1000;

/// From 1; never used again.
pub type DeliveryId = u64;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    pub id: DeliveryId,
    pub channel: String,
    pub to: Recipient,
    pub what: Message,
    pub status: DeliveryStatus,
    /// Failures so far.
    pub tries: u32,
    pub attempts: Vec<Attempt>,
    pub created_at: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Recipient {
    Account(Account),
    Room(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A card, which changes its face.
    Card(ApprovalId),
    /// A harmless card; `answered` says who has tapped it.
    Test { by: String, answered: Option<(String, Millis)> },
    /// Said once.
    Words { about: Option<ApprovalId>, words: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliveryStatus {
    /// It was given up: a dead letter.
    Dead {
        why: String,
        at: Millis,
    },
    Due {
        at: Millis,
        why: String,
    },
    Sent {
        at: Millis,
    },
}

/// One try to deliver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What its buttons carry.
    pub handle: [u8; 16],
    /// The conversation or room, as the platform calls it.
    pub place: String,
    /// It shows all of the request; known before it is sent.
    #[serde(default)]
    pub whole: bool,
    /// The message there, once the platform has said so; none while that is in doubt.
    pub message: Option<String>,
    /// SHA-256 of what was sent.
    pub rendered_sha256: Option<[u8; 32]>,
    /// What its message shows now, as the sender describes it; none while that is in doubt.
    pub face: Option<[u8; 32]>,
    pub at: Millis,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "StoredOutbox")]
pub(super) struct Outbox {
    rows: BTreeMap<DeliveryId, Delivery>,
    last: DeliveryId,
    due: BTreeSet<(Millis, DeliveryId)>,
    of: BTreeMap<ApprovalId, BTreeSet<DeliveryId>>,
    by_handle: BTreeMap<[u8; 16], DeliveryId>,
    /// Attempts by channel and place.
    by_place: BTreeMap<(String, String), BTreeSet<[u8; 16]>>,
    /// Deliveries by channel and recipient.
    by_recipient: BTreeMap<(String, Recipient), BTreeSet<DeliveryId>>,
    /// Those that are no approval's, oldest first.
    loose: BTreeSet<DeliveryId>,
}

/// As a snapshot has it. How rows are found is made of the rows: a snapshot of before there was a way to find them has no such
/// field, and one that has may not say otherwise than its rows.
#[derive(Deserialize)]
struct StoredOutbox {
    rows: BTreeMap<DeliveryId, Delivery>,
    last: DeliveryId,
    due: BTreeSet<(Millis, DeliveryId)>,
    of: BTreeMap<ApprovalId, BTreeSet<DeliveryId>>,
    loose: BTreeSet<DeliveryId>,
}

impl From<StoredOutbox> for Outbox {
    fn from(stored: StoredOutbox) -> Self {
        let StoredOutbox { rows, last, due, of, loose } = stored;
        let mut outbox = Self { last, due, of, loose, ..Self::default() };
        for (id, row) in &rows {
            let recipient = (row.channel.clone(), row.to.clone());
            outbox.by_recipient.entry(recipient).or_default().insert(*id);
            for attempt in &row.attempts {
                outbox.by_handle.insert(attempt.handle, *id);
                let place = (row.channel.clone(), attempt.place.clone());
                outbox.by_place.entry(place).or_default().insert(attempt.handle);
            }
        }
        Self { rows, ..outbox }
    }
}

impl State {
    pub fn delivery(&self, id: DeliveryId) -> Option<&Delivery> {
        self.outbox.rows.get(&id)
    }

    pub fn deliveries(&self) -> impl DoubleEndedIterator<Item = &Delivery> {
        self.outbox.rows.values()
    }

    /// Of one approval, oldest first.
    pub fn deliveries_of(&self, approval: ApprovalId) -> impl Iterator<Item = &Delivery> {
        let ids = self.outbox.of.get(&approval).into_iter().flatten();
        ids.filter_map(|id| self.outbox.rows.get(id))
    }

    /// What is to be sent by now, longest due first.
    pub fn deliveries_due(&self, now: Millis) -> impl Iterator<Item = &Delivery> {
        let due = self.outbox.due.range(..=(now, DeliveryId::MAX));
        due.filter_map(|(_, id)| self.outbox.rows.get(id))
    }

    /// When the next delivery is due.
    pub fn next_delivery_due(&self) -> Option<Millis> {
        self.outbox.due.first().map(|(at, _)| *at)
    }

    /// The delivery, and the try of it, that a handle stands for.
    pub fn attempt(&self, handle: &[u8; 16]) -> Option<(&Delivery, &Attempt)> {
        let delivery = self.outbox.rows.get(self.outbox.by_handle.get(handle)?)?;
        let attempt = delivery.attempts.iter().find(|attempt| attempt.handle == *handle)?;
        Some((delivery, attempt))
    }

    /// The attempts that were made by a channel into a place.
    pub fn attempts_in(
        &self,
        channel: &str,
        place: &str,
    ) -> impl Iterator<Item = (&Delivery, &Attempt)> + use<'_> {
        let handles = self.outbox.by_place.get(&(channel.to_owned(), place.to_owned()));
        handles.into_iter().flatten().filter_map(|handle| self.attempt(handle))
    }

    /// What goes by a channel to a recipient, newest first.
    pub fn deliveries_to(
        &self,
        channel: &str,
        to: Recipient,
    ) -> impl Iterator<Item = &Delivery> + use<'_> {
        let ids = self.outbox.by_recipient.get(&(channel.to_owned(), to));
        ids.into_iter().flatten().rev().filter_map(|id| self.outbox.rows.get(id))
    }

    /// Cards for whoever is asked about an approval from now on, beside those that are there.
    pub(super) fn deliver_cards(&mut self, id: ApprovalId) {
        let Some(approval) = self.approvals.get(&id) else { return };
        let Announced::Card { to } = &approval.announced else { return };
        let mut wanted: Vec<(String, Recipient, Millis)> = Vec::new();
        for principal in to.iter().filter_map(|name| self.principals.get(name)) {
            for account in &principal.accounts {
                if let Some(channel) = self.channel_to(account) {
                    wanted.push((
                        channel.name.clone(),
                        Recipient::Account(account.clone()),
                        channel.after_ms,
                    ));
                }
            }
        }
        for channel in self.channels() {
            if let Some(room) = &channel.room
                && channel.concerns(approval)
            {
                wanted.push((
                    channel.name.clone(),
                    Recipient::Room(room.clone()),
                    channel.after_ms,
                ));
            }
        }
        let there: BTreeSet<_> = self
            .deliveries_of(id)
            .filter(|d| d.what == Message::Card(id))
            .map(|d| (d.channel.clone(), d.to.clone()))
            .collect();
        for (channel, to, after) in wanted {
            if !there.contains(&(channel.clone(), to.clone())) {
                let at = self.log_time.saturating_add(after);
                self.post(channel, to, Message::Card(id), at);
            }
        }
    }

    /// Words for everyone who has a card of an approval.
    pub(super) fn tell_of(&mut self, id: ApprovalId, words: &str) {
        let cards = self.deliveries_of(id).filter(|d| d.what == Message::Card(id));
        let to: Vec<_> = cards.map(|d| (d.channel.clone(), d.to.clone())).collect();
        for (channel, to) in to {
            let words = Message::Words { about: Some(id), words: words.to_owned() };
            self.post(channel, to, words, self.log_time);
        }
    }

    /// A harmless card by one channel.
    pub(super) fn test_channel(
        &mut self,
        actor: &Actor,
        channel: &str,
        to: &Recipient,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[super::Role::Admin])?;
        let Actor::Principal(by) = actor else {
            return Err(Refused::Denied("only people test channels".into()));
        };
        if self.channel(channel).is_none() {
            return Err(Refused::NotFound(format!(
                "nothing was sent: there is no channel {channel}; list the channels to see their names"
            )));
        }
        let what = Message::Test { by: by.clone(), answered: None };
        let id = self.post(channel.to_owned(), to.clone(), what, self.log_time);
        let entry = Entry::new("channel.test", channel).with("delivery", id).with("to", to);
        Ok(Done::changed(Event::DeliveryChanged { id }, entry))
    }

    /// An attempt is about to be made; its buttons will carry this handle.
    pub(super) fn attempt_delivery(
        &mut self,
        actor: &Actor,
        id: DeliveryId,
        handle: &[u8; 16],
        place: &str,
        whole: bool,
    ) -> Result<Done, Refused> {
        demand_sender(actor)?;
        if self.outbox.by_handle.contains_key(handle) {
            return Err(Refused::AlreadyExists("the handle is another attempt's".into()));
        }
        let now = self.log_time;
        let delivery = self.outbox.rows.get_mut(&id).ok_or_else(gone)?;
        if !matches!(delivery.status, DeliveryStatus::Due { .. })
            || delivery.attempts.len() >= ATTEMPTS
        {
            return Err(Refused::Precondition("the delivery waits for no attempt".into()));
        }
        let place = clipped(place, REASON_BYTES);
        delivery.attempts.push(Attempt {
            handle: *handle,
            place: place.clone(),
            whole,
            message: None,
            rendered_sha256: None,
            face: None,
            at: now,
        });
        let entry = delivery.entry("card.attempt").with("attempt", delivery.attempts.len());
        let channel = delivery.channel.clone();
        self.outbox.by_handle.insert(*handle, id);
        self.outbox.by_place.entry((channel, place)).or_default().insert(*handle);
        Ok(Done::changed(Event::DeliveryChanged { id }, entry))
    }

    /// The platform has it.
    pub(super) fn delivered(
        &mut self,
        actor: &Actor,
        handle: &[u8; 16],
        place: &str,
        message: &str,
        rendered_sha256: &[u8; 32],
        face: &[u8; 32],
    ) -> Result<Done, Refused> {
        demand_sender(actor)?;
        let now = self.log_time;
        let id = *self.outbox.by_handle.get(handle).ok_or_else(gone)?;
        let delivery = self.outbox.rows.get_mut(&id).ok_or_else(gone)?;
        let attempt = delivery
            .attempts
            .iter_mut()
            .find(|attempt| attempt.handle == *handle)
            .ok_or_else(gone)?;
        if attempt.rendered_sha256.is_some() {
            return Ok(Done::unchanged(Event::DeliveryChanged { id }));
        }
        let former = std::mem::replace(&mut attempt.place, clipped(place, REASON_BYTES));
        let moved = (former, attempt.place.clone());
        // A tap may have said before the sender could.
        attempt.message.get_or_insert_with(|| clipped(message, REASON_BYTES));
        attempt.rendered_sha256 = Some(*rendered_sha256);
        attempt.face = Some(*face);
        if let DeliveryStatus::Due { at, .. } = delivery.status {
            self.outbox.due.remove(&(at, id));
        }
        delivery.status = DeliveryStatus::Sent { at: now };
        let entry = delivery
            .entry("card.deliver")
            .with("message", clipped(message, REASON_BYTES))
            .with("rendered_card_sha256", hex::encode(rendered_sha256));
        let channel = delivery.channel.clone();
        self.outbox.forget_place(&channel, moved.0, handle);
        self.outbox.by_place.entry((channel, moved.1)).or_default().insert(*handle);
        Ok(Done::changed(Event::DeliveryChanged { id }, entry))
    }

    /// It was not taken: again after a while, or, when that is of no use, by the channel's fallback.
    pub(super) fn not_delivered(
        &mut self,
        actor: &Actor,
        id: DeliveryId,
        why: &str,
        not_before: Option<Millis>,
        for_good: bool,
    ) -> Result<Done, Refused> {
        demand_sender(actor)?;
        let now = self.log_time;
        let delivery = self.outbox.rows.get_mut(&id).ok_or_else(gone)?;
        let DeliveryStatus::Due { at: due, .. } = delivery.status else {
            return Ok(Done::unchanged(Event::DeliveryChanged { id }));
        };
        self.outbox.due.remove(&(due, id));
        let why = clipped(why, REASON_BYTES);
        delivery.tries += 1;
        if !for_good && delivery.tries < TRIES {
            let backoff = (BACKOFF_MS << delivery.tries.min(16)).min(LONGEST_BACKOFF_MS);
            let at = now.saturating_add(backoff).max(not_before.unwrap_or(0));
            let entry =
                delivery.entry("card.retry").with("why", &why).with("tries", delivery.tries);
            delivery.status = DeliveryStatus::Due { at, why };
            self.outbox.due.insert((at, id));
            return Ok(Done::changed(Event::DeliveryChanged { id }, entry));
        }
        let entry = delivery.entry("card.dead").with("why", &why).with("tries", delivery.tries);
        delivery.status = DeliveryStatus::Dead { why, at: now };
        self.fall_back(id);
        Ok(Done::changed(Event::DeliveryChanged { id }, entry))
    }

    /// The platform shows another face now, or never will.
    pub(super) fn faced(
        &mut self,
        actor: &Actor,
        id: DeliveryId,
        face: &[u8; 32],
        why_not: &str,
    ) -> Result<Done, Refused> {
        demand_sender(actor)?;
        let now = self.log_time;
        let delivery = self.outbox.rows.get_mut(&id).ok_or_else(gone)?;
        if delivery.shows(face) {
            return Ok(Done::unchanged(Event::DeliveryChanged { id }));
        }
        delivery.attempts.iter_mut().for_each(|attempt| attempt.face = Some(*face));
        // Those in doubt have heard how it ends: there is nothing left to send.
        if let DeliveryStatus::Due { at, .. } = delivery.status {
            self.outbox.due.remove(&(at, id));
            delivery.status = DeliveryStatus::Sent { at: now };
        }
        let entry = delivery.entry("card.update").with("why_not", clipped(why_not, REASON_BYTES));
        Ok(Done::changed(Event::DeliveryChanged { id }, entry))
    }

    /// The message of an attempt that was in doubt, now that a press has named it.
    pub(super) fn recognise(&mut self, handle: &[u8; 16], message: &str) {
        let delivery =
            self.outbox.by_handle.get(handle).and_then(|id| self.outbox.rows.get_mut(id));
        let attempts = delivery.into_iter().flat_map(|delivery| &mut delivery.attempts);
        for attempt in attempts.filter(|attempt| attempt.handle == *handle) {
            attempt.message.get_or_insert_with(|| clipped(message, REASON_BYTES));
        }
    }

    /// An approval is forgotten: so are its cards.
    pub(super) fn drop_deliveries_of(&mut self, approval: ApprovalId) {
        for id in self.outbox.of.remove(&approval).unwrap_or_default() {
            self.outbox.drop_row(id);
        }
    }

    pub(super) fn drop_deliveries_by(&mut self, channel: &str) {
        let rows = self.outbox.rows.values().filter(|d| d.channel == channel);
        let ids: Vec<_> = rows.map(|d| d.id).collect();
        ids.into_iter().for_each(|id| self.outbox.drop_row(id));
    }

    /// Whoever has not been asked yet needs not be, once there is an answer.
    pub(super) fn call_off(&mut self, approval: ApprovalId) {
        let due = self.deliveries_of(approval).filter(|d| {
            matches!(d.status, DeliveryStatus::Due { .. })
                && d.attempts.is_empty()
                && d.what == Message::Card(approval)
        });
        let ids: Vec<_> = due.map(|d| d.id).collect();
        ids.into_iter().for_each(|id| self.outbox.drop_row(id));
    }

    /// How far a channel was listened to that nobody calls us by.
    pub fn cursor(&self, channel: &str) -> Option<&str> {
        self.cursors.get(channel).map(String::as_str)
    }

    pub(super) fn set_cursor(
        &mut self,
        actor: &Actor,
        channel: &str,
        cursor: &str,
    ) -> Result<Done, Refused> {
        demand_sender(actor)?;
        if self.channel(channel).is_some() && cursor.len() <= REASON_BYTES {
            self.cursors.insert(channel.to_owned(), cursor.to_owned());
        }
        Ok(Done::unchanged(Event::Noted))
    }

    fn post(&mut self, channel: String, to: Recipient, what: Message, at: Millis) -> DeliveryId {
        let now = self.log_time;
        let outbox = &mut self.outbox;
        outbox.last += 1;
        let id = outbox.last;
        match what.about() {
            Some(approval) => drop(outbox.of.entry(approval).or_default().insert(id)),
            None => drop(outbox.loose.insert(id)),
        }
        outbox.due.insert((at, id));
        outbox.by_recipient.entry((channel.clone(), to.clone())).or_default().insert(id);
        let status = DeliveryStatus::Due { at, why: String::new() };
        let row = Delivery {
            id,
            channel,
            to,
            what,
            status,
            tries: 0,
            attempts: Vec::new(),
            created_at: now,
        };
        outbox.rows.insert(id, row);
        while let Some(oldest) = outbox.loose.first().copied().filter(|oldest| {
            outbox.loose.len() > LOOSE
                || outbox
                    .rows
                    .get(oldest)
                    .is_none_or(|d| d.created_at.saturating_add(KEPT_MS) < now)
        }) {
            outbox.drop_row(oldest);
        }
        id
    }

    fn fall_back(&mut self, id: DeliveryId) {
        let Some(delivery) = self.outbox.rows.get(&id).cloned() else { return };
        let settled = |id: ApprovalId| {
            self.approvals.get(&id).is_none_or(|a| a.state != ApprovalState::Pending)
        };
        if matches!(delivery.what, Message::Card(about) if settled(about))
            || matches!(delivery.what, Message::Test { .. })
        {
            return;
        }
        let Some(fallback) = self.channel(&delivery.channel).and_then(|c| c.fallback.clone())
        else {
            return;
        };
        let Some(channel) = self.channel(&fallback) else { return };
        let reached = |account: &Account| {
            account.platform == channel.platform
                && channel.tenant.as_ref().is_none_or(|tenant| *tenant == account.tenant)
        };
        let to = match (&channel.room, &delivery.to) {
            (Some(room), _) => Some(Recipient::Room(room.clone())),
            (None, Recipient::Account(account)) => {
                let accounts =
                    self.principal_of(account).map(|p| &p.accounts).into_iter().flatten();
                accounts.into_iter().find(|it| reached(it)).cloned().map(Recipient::Account)
            }
            (None, Recipient::Room(_)) => None,
        };
        let Some(to) = to else { return };
        let there = delivery.what.about().is_some_and(|about| {
            self.deliveries_of(about)
                .any(|d| d.channel == fallback && d.to == to && d.what == delivery.what)
        });
        if !there {
            self.post(fallback, to, delivery.what, self.log_time);
        }
    }
}

impl Outbox {
    fn drop_row(&mut self, id: DeliveryId) {
        let Some(row) = self.rows.remove(&id) else { return };
        if let DeliveryStatus::Due { at, .. } = row.status {
            self.due.remove(&(at, id));
        }
        self.loose.remove(&id);
        for attempt in row.attempts {
            self.by_handle.remove(&attempt.handle);
            self.forget_place(&row.channel, attempt.place, &attempt.handle);
        }
        let recipient = (row.channel, row.to);
        if let Some(ids) = self.by_recipient.get_mut(&recipient) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_recipient.remove(&recipient);
            }
        }
        if let Some(about) = row.what.about()
            && let Some(ids) = self.of.get_mut(&about)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.of.remove(&about);
            }
        }
    }

    fn forget_place(&mut self, channel: &str, place: String, handle: &[u8; 16]) {
        let place = (channel.to_owned(), place);
        if let Some(handles) = self.by_place.get_mut(&place) {
            handles.remove(handle);
            if handles.is_empty() {
                self.by_place.remove(&place);
            }
        }
    }

    pub(super) fn answer_test(&mut self, id: DeliveryId, who: String, at: Millis) {
        if let Some(Delivery { what: Message::Test { answered, .. }, .. }) = self.rows.get_mut(&id)
        {
            answered.get_or_insert((who, at));
        }
    }
}

impl Delivery {
    /// Whether every message of it that the platform may have shows this.
    pub fn shows(&self, face: &[u8; 32]) -> bool {
        self.attempts.iter().all(|attempt| attempt.face.as_ref() == Some(face))
    }

    fn entry(&self, action: &str) -> Entry {
        let subject = match &self.what {
            Message::Card(id) | Message::Words { about: Some(id), .. } => id.to_string(),
            Message::Test { .. } | Message::Words { about: None, .. } => {
                format!("delivery {}", self.id)
            }
        };
        Entry::new(action, subject).with("channel", &self.channel).with("to", &self.to)
    }
}

impl Attempt {
    /// Whether it is not known yet which message this attempt is. A press on another one than it is counts for nothing.
    pub(super) fn is_news(&self, message: &str) -> Result<bool, Refused> {
        match &self.message {
            None => Ok(true),
            Some(known) if known == message => Ok(false),
            Some(_) => Err(Refused::Denied(
                "this vote does not count: the card was forwarded or copied; answer on the one that was sent to you".into(),
            )),
        }
    }
}

impl Message {
    pub fn about(&self) -> Option<ApprovalId> {
        match self {
            Self::Card(id) => Some(*id),
            Self::Test { .. } => None,
            Self::Words { about, .. } => *about,
        }
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Account(account) => account.fmt(f),
            Self::Room(room) => write!(f, "room {room}"),
        }
    }
}

fn demand_sender(actor: &Actor) -> Result<(), Refused> {
    if *actor == Actor::System {
        return Ok(());
    }
    Err(Refused::Denied("only the control plane says what it has sent".into()))
}

fn gone() -> Refused {
    Refused::NotFound("there is no such delivery any more".into())
}
