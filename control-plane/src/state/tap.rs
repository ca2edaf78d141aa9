//! Answers from chats: which card they are on, whose account they are of, and that each is heard once.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::audit::Entry;
use super::delivery::{Attempt, Message, Recipient};
use super::name::{self, clipped};
use super::{
    Account, Actor, ApprovalId, Done, Event, Millis, Proof, Refused, State, Strength, Vote,
    VoteWord, Voter,
};

/// Longer than any platform's webhook counts as fresh, and than it is sent again for.
const HEARD_MS: Millis = 60 * 60 * 1000;
const HEARD: usize = 100_000;

/// What an adapter has verified. Who it is, and whether they may, is decided here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    pub channel: String,
    /// The attempt that the button or code was made for.
    pub handle: [u8; 16],
    pub word: VoteWord,
    pub account: Account,
    /// Where it was said, and, for a button or a reaction, the message that it is on.
    pub place: String,
    pub message: Option<String>,
    /// A button of ours; what is typed, or a reaction, is worth less.
    pub button: bool,
    /// The platform's id of this very event.
    pub event: String,
    pub reason: String,
    /// What the adapter verified it by.
    pub evidence: String,
}

/// Events that were heard, so that each counts once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct HeardEvents {
    at: BTreeMap<[u8; 32], Millis>,
    by_time: BTreeSet<(Millis, [u8; 32])>,
}

impl State {
    /// A vote by an account on a card. Refused, it leaves card and approval as they are.
    pub(super) fn tap(&mut self, actor: &Actor, tap: &Tap) -> Result<Done, Refused> {
        if *actor != Actor::System {
            return Err(Refused::Denied("only an adapter says which account has spoken".into()));
        }
        tap.account.check()?;
        let refused = |why: &str| Err(Refused::Denied(format!("this vote does not count: {why}")));
        if self.channel(&tap.channel).is_none_or(|channel| channel.platform != tap.account.platform)
        {
            return refused("there is no such channel any more");
        }
        let Some((delivery, attempt)) =
            self.attempt(&tap.handle).map(|(d, a)| (d.clone(), a.clone()))
        else {
            return refused("the card is of nothing that is still known");
        };
        if delivery.channel != tap.channel || (tap.message.is_some() && attempt.place != tap.place)
        {
            return refused(
                "the card was forwarded or copied; answer on the one that was sent to you",
            );
        }
        if matches!(&delivery.to, Recipient::Account(to) if *to != tap.account) {
            return refused(
                "the card was sent to somebody else; answer on the one that was sent to you",
            );
        }
        if !tap.button && self.has_guessed_too_often(&tap.account) {
            return refused("too many wrong codes; try again in ten minutes");
        }
        if self.heard.has(&tap.channel, &tap.event) {
            return Ok(self.as_it_is(&delivery.what));
        }
        let is_news = match &tap.message {
            Some(message) => attempt.is_news(message)?,
            None => false,
        };
        let mut done = match &delivery.what {
            Message::Card(approval) => {
                self.demand_whole(tap, *approval, &attempt)?;
                self.vote_by_tap(tap, *approval)?
            }
            Message::Test { .. } => {
                let who = self.principal_of(&tap.account).map(|p| p.name.clone());
                let who = who.unwrap_or_else(|| format!("{}, linked to nobody", tap.account));
                self.outbox.answer_test(delivery.id, who.clone(), self.log_time);
                let entry = Entry::new("channel.tested", &tap.channel).with("by", who);
                Done::changed(Event::DeliveryChanged { id: delivery.id }, entry)
            }
            Message::Words { .. } => return refused("there is nothing to answer"),
        };
        let on_record =
            |entry: Entry| entry.with("evidence", clipped(&tap.evidence, name::CHANNEL_BYTES));
        done.records = done.records.into_iter().map(on_record).collect();
        if let Some(message) = tap.message.as_ref().filter(|_| is_news) {
            self.recognise(&tap.handle, message);
            if done.records.is_empty() {
                let entry = Entry::new("card.recognise", hex::encode(tap.handle));
                done.records.push(entry.with("channel", &tap.channel));
            }
        }
        self.heard.remember(&tap.channel, &tap.event, self.log_time);
        Ok(done)
    }

    /// Somebody has typed a code that is no card's. After a few, none of theirs counts for a while.
    pub(super) fn wrong_code(&mut self, actor: &Actor, account: &Account) -> Result<Done, Refused> {
        if *actor != Actor::System {
            return Err(Refused::Denied("only an adapter says which account has spoken".into()));
        }
        account.check()?;
        let tries = self.count_wrong_code(account);
        let entry = Entry::new("account.refused", account).with("tries", tries);
        Ok(Done::changed(Event::LinkRefused, entry))
    }

    fn vote_by_tap(&mut self, tap: &Tap, approval: ApprovalId) -> Result<Done, Refused> {
        let vote = Vote {
            principal: self.voter(&Voter::Account(tap.account.clone()))?,
            word: tap.word,
            channel: clipped(&tap.channel, name::CHANNEL_BYTES),
            reason: clipped(&tap.reason, name::REASON_BYTES),
            at: self.log_time,
            withdrawn: false,
            strength: if tap.button { Strength::L1 } else { Strength::L0 },
            // What it was verified by is on record; that other nodes could check it again is not so yet.
            proof: Proof::None,
            breaks_glass: false,
        };
        self.vote(&Actor::System, approval, vote, None)
    }

    /// Whoever answers here could see all of the request, where a rule wants that.
    fn demand_whole(
        &self,
        tap: &Tap,
        approval: ApprovalId,
        attempt: &Attempt,
    ) -> Result<(), Refused> {
        let mut rules = self.approvals.get(&approval).into_iter().flat_map(|it| &it.requirements);
        let Some(rule) = rules.find(|rule| rule.whole_card) else { return Ok(()) };
        let is_reaction = !tap.button && tap.message.is_some();
        let why = match attempt.whole {
            true if is_reaction => {
                "a reaction does not tell what was seen; write the code that is on the card, or answer it"
            }
            true => return Ok(()),
            false => "the card here does not show it; answer it",
        };
        Err(Refused::Denied(format!(
            "this vote does not count: rule \"{}\" wants all of the request to be seen, and {why} in the dashboard or with: \
             countersign approval show {approval}",
            rule.rule
        )))
    }

    fn as_it_is(&self, what: &Message) -> Done {
        let event = match what {
            Message::Card(id) => match self.approvals.get(id) {
                Some(approval) => Event::Voted { approval: *id, state: approval.state },
                None => Event::Noted,
            },
            Message::Test { .. } | Message::Words { .. } => Event::Noted,
        };
        Done::unchanged(event)
    }
}

impl HeardEvents {
    fn has(&self, channel: &str, event: &str) -> bool {
        self.at.contains_key(&key(channel, event))
    }

    fn remember(&mut self, channel: &str, event: &str, now: Millis) {
        let key = key(channel, event);
        self.at.insert(key, now);
        self.by_time.insert((now, key));
        while let Some((at, oldest)) = self.by_time.first().copied()
            && (self.at.len() > HEARD || at.saturating_add(HEARD_MS) < now)
        {
            self.by_time.remove(&(at, oldest));
            self.at.remove(&oldest);
        }
    }
}

fn key(channel: &str, event: &str) -> [u8; 32] {
    let digest = Sha256::new().chain_update((channel.len() as u64).to_be_bytes());
    digest.chain_update(channel).chain_update(event).finalize().into()
}
