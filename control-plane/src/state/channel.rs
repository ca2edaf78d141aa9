//! Channels: the chats that cards go to, and what the nodes prove themselves with there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::audit::Entry;
use super::name::{check_name, joined};
use super::{Account, Actor, Approval, Done, Event, Millis, Payload, Refused, Role, State};

const CHANNELS: usize = 64;
const FIELD_BYTES: usize = 2048;
const FIELDS: usize = 32;

/// One bot, app or number on one platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Channel {
    pub name: String,
    /// As accounts name it: "slack".
    pub platform: String,
    /// Grows with every change, from 1; a name that comes back goes on from there.
    pub version: u64,
    /// What the platform's adapter is told; nothing of it is secret.
    pub settings: BTreeMap<String, String>,
    /// The platform's secrets, and the key that this channel's buttons are made with.
    pub secrets: Payload,
    /// Accounts of this tenant are reached by it; none: of any.
    pub tenant: Option<String>,
    /// A place that cards are posted to for everybody there to see. None: they go to the accounts of those who are asked.
    pub room: Option<String>,
    /// What is posted to the room: what one of these groups or principals is asked about; empty: everything.
    pub only: BTreeSet<String>,
    /// Cards go out so long after people are asked, if nobody has answered by then.
    pub after_ms: Millis,
    /// Where a card goes that this channel could not deliver.
    pub fallback: Option<String>,
    pub active: bool,
    pub created_at: Millis,
}

impl State {
    /// Makes a channel, or changes the one of that name.
    pub(super) fn set_channel(
        &mut self,
        actor: &Actor,
        proposed: &Channel,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        check_name("a channel", &proposed.name)?;
        check_name("a platform", &proposed.platform)?;
        proposed.check_fields()?;
        let former = self.channels.get(&proposed.name);
        let expected = former.map_or(0, |channel| channel.version) + 1;
        if proposed.version != expected {
            return Err(Refused::Precondition(format!(
                "channel {} was not changed: it was changed meanwhile; look at it and try again",
                proposed.name
            )));
        }
        if let Some(former) =
            former.filter(|former| former.active && former.platform != proposed.platform)
        {
            return Err(Refused::Invalid(format!(
                "channel {} was not changed: it is a channel of {}; remove it first, or choose another name",
                proposed.name, former.platform
            )));
        }
        if former.is_none_or(|former| !former.active) && self.channels().count() >= CHANNELS {
            return Err(Refused::Exhausted(format!(
                "channel {} was not added: there are {CHANNELS}; remove one first",
                proposed.name
            )));
        }
        if let Some(fallback) = &proposed.fallback
            && (*fallback == proposed.name || self.channel(fallback).is_none())
        {
            return Err(Refused::Invalid(format!(
                "channel {} was not added: its fallback {fallback:?} is no other channel; add that one first",
                proposed.name
            )));
        }
        let channel = Channel { active: true, created_at: self.log_time, ..proposed.clone() };
        let entry = Entry::new("channel.set", &channel.name)
            .with("platform", &channel.platform)
            .with("version", channel.version)
            .with("room", channel.room.as_deref().unwrap_or_default())
            .with("only", joined(channel.only.iter().cloned()))
            .with("settings_sha256", hex::encode(channel.settings_sha256()));
        let event = Event::ChannelChanged { name: channel.name.clone() };
        self.channels.insert(channel.name.clone(), channel);
        Ok(Done::changed(event, entry))
    }

    /// Nothing is sent by it any more, and what it hears counts for nothing.
    pub(super) fn remove_channel(&mut self, actor: &Actor, name: &str) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let event = Event::ChannelChanged { name: name.to_owned() };
        let Some(channel) = self.channels.get_mut(name) else {
            return Err(Refused::NotFound(format!(
                "there is no channel {name}: list the channels to see their names"
            )));
        };
        if !channel.active {
            return Ok(Done::unchanged(event));
        }
        channel.active = false;
        channel.secrets = Payload::dropped();
        let entry = Entry::new("channel.remove", name);
        self.drop_deliveries_by(name);
        Ok(Done::changed(event, entry))
    }

    /// The same secrets under another term of the keyring, in the place of those very ones and of no others.
    pub(super) fn reseal_channel(
        &mut self,
        actor: &Actor,
        name: &str,
        former_sha256: &[u8; 32],
        secrets: &Payload,
    ) -> Result<Done, Refused> {
        if *actor != Actor::System {
            return Err(Refused::Denied("only the control plane seals anew what it has".into()));
        }
        let channel = self.channels.get_mut(name).filter(|channel| channel.active);
        let channel =
            channel.ok_or_else(|| Refused::NotFound(format!("there is no channel {name}")))?;
        if channel.secrets.sha256() != *former_sha256 {
            return Err(Refused::Precondition(format!("channel {name} was changed meanwhile")));
        }
        if secrets.keyring_term() <= channel.secrets.keyring_term() {
            return Err(Refused::Invalid(
                "nothing was sealed anew: it is not under a newer term of the keyring".into(),
            ));
        }
        channel.secrets = secrets.clone();
        let term = secrets.keyring_term();
        let entry = Entry::new("channel.reseal", name).with("keyring_term", term);
        Ok(Done::changed(Event::ChannelChanged { name: name.to_owned() }, entry))
    }

    /// Channels whose secrets are sealed under an earlier term of the keyring than this one.
    pub fn channels_under_older_terms(&self, term: u64) -> impl Iterator<Item = &Channel> {
        self.channels().filter(move |channel| channel.secrets.keyring_term() < term)
    }

    pub fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.channels.values().filter(|channel| channel.active)
    }

    /// The active one of that name.
    pub fn channel(&self, name: &str) -> Option<&Channel> {
        self.channels.get(name).filter(|channel| channel.active)
    }

    /// The version that a channel of this name gets next.
    pub fn next_channel_version(&self, name: &str) -> u64 {
        self.channels.get(name).map_or(1, |channel| channel.version + 1)
    }

    /// By which channel an account is reached directly.
    pub(super) fn channel_to(&self, account: &Account) -> Option<&Channel> {
        self.channels().find(|channel| {
            channel.room.is_none()
                && channel.platform == account.platform
                && channel.tenant.as_ref().is_none_or(|tenant| *tenant == account.tenant)
        })
    }
}

impl Channel {
    /// What its secrets are bound to: moved to another platform, or sent to another address, they do not open.
    pub fn settings_sha256(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let pairs = self.settings.iter().flat_map(|(name, value)| [name, value]);
        for part in std::iter::once(&self.platform).chain(pairs) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// Whether its room is told of an approval.
    pub(super) fn concerns(&self, approval: &Approval) -> bool {
        let asked = approval.requirements.iter().flat_map(|requirement| {
            let steps = requirement.escalations.iter().map(|step| &step.to);
            requirement.panels.iter().map(|panel| &panel.of).chain(steps)
        });
        self.only.is_empty() || asked.flatten().any(|name| name == "*" || self.only.contains(name))
    }

    fn check_fields(&self) -> Result<(), Refused> {
        let settings = self.settings.iter().flat_map(|(name, value)| [name, value]);
        let others = self.tenant.iter().chain(&self.room).chain(&self.only);
        let fits =
            settings.chain(others).all(|text| text.len() <= FIELD_BYTES && !text.contains('\0'));
        let few = self.settings.len() <= FIELDS && self.only.len() <= FIELDS;
        let empty = self.room.as_deref() == Some("") || self.tenant.as_deref() == Some("");
        if fits && few && !empty {
            return Ok(());
        }
        Err(Refused::Invalid(format!(
            "channel {} was not set: at most {FIELDS} settings and {FIELDS} groups, of at most {FIELD_BYTES} bytes, and no empty \
             room or tenant",
            self.name
        )))
    }
}
