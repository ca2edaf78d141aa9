//! What was answered to whom: what makes proposing the same command twice harmless.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CommandId, Millis, Outcome, Refused};

/// A client that asks again later than this must look at the state first.
const REMEMBERED_MS: Millis = 24 * 60 * 60 * 1000;
const REMEMBERED: usize = 100_000;

/// The last serial of each client and what it was told, oldest forgotten first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answered {
    by_client: BTreeMap<[u8; 16], Answer>,
    /// In the order in which they were given: log time never decreases, so the first is the oldest.
    order: BTreeMap<u64, [u8; 16]>,
    given: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    serial: u64,
    outcome: Outcome,
    at: Millis,
    place: u64,
}

impl Answered {
    /// The first outcome of this very command; a refusal when the client has gone on since; None when it is new.
    pub(super) fn recall(&self, id: CommandId) -> Option<Outcome> {
        let answer = self.by_client.get(&id.client)?;
        match id.serial.cmp(&answer.serial) {
            std::cmp::Ordering::Less => Some(Err(Refused::Invalid(format!(
                "command {} of this client was not carried out: it has sent command {} since; send it under a new serial",
                id.serial, answer.serial
            )))),
            std::cmp::Ordering::Equal => Some(answer.outcome.clone()),
            std::cmp::Ordering::Greater => None,
        }
    }

    pub(super) fn remember(&mut self, id: CommandId, outcome: Outcome, at: Millis) {
        self.given += 1;
        let answer = Answer { serial: id.serial, outcome, at, place: self.given };
        if let Some(former) = self.by_client.insert(id.client, answer) {
            self.order.remove(&former.place);
        }
        self.order.insert(self.given, id.client);
        while self.oldest_is_too_old(at) || self.order.len() > REMEMBERED {
            if let Some((_, client)) = self.order.pop_first() {
                self.by_client.remove(&client);
            }
        }
    }

    fn oldest_is_too_old(&self, now: Millis) -> bool {
        let oldest =
            self.order.first_key_value().and_then(|(_, client)| self.by_client.get(client));
        oldest.is_some_and(|answer| now.saturating_sub(answer.at) > REMEMBERED_MS)
    }
}
