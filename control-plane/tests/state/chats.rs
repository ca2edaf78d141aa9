//! Arbitrary commands about chats, from a vocabulary so small that handles, messages and events collide all the time.

use std::collections::{BTreeMap, BTreeSet};

use countersign_control_plane::state::{Account, Channel, Command, Tap};
use proptest::prelude::*;

use crate::properties::word;
use crate::world::sealed;

/// Channels, cards and presses: two accounts that speak for ana and ben, if they were linked.
pub(crate) fn chats() -> impl Strategy<Value = Command> {
    let account = || {
        (1u8..4).prop_map(|n| Account {
            platform: "slack".into(),
            tenant: "T".into(),
            user: format!("U{n}"),
        })
    };
    let handle = || (1u8..6).prop_map(|n| [n; 16]);
    let channel = |version: u64, room: bool| {
        Command::SetChannel(Box::new(Channel {
            name: "chat".into(),
            platform: "slack".into(),
            version,
            settings: BTreeMap::new(),
            secrets: sealed(1),
            tenant: None,
            room: room.then(|| "C".to_owned()),
            only: BTreeSet::new(),
            after_ms: 0,
            fallback: None,
            active: true,
            created_at: 0,
        }))
    };
    prop_oneof![
        3 => (1u64..3, any::<bool>()).prop_map(move |(version, room)| channel(version, room)),
        1 => Just(Command::RemoveChannel { name: "chat".into() }),
        2 => Just(Command::OfferLink { platform: "slack".into(), code_sha256: [6; 32] }),
        2 => account().prop_map(|account| Command::LinkAccount { code_sha256: [6; 32], account }),
        6 => (1u64..8, handle()).prop_map(|(delivery, handle)| Command::AttemptDelivery { delivery, handle, place: "D".into(), whole: true }),
        4 => (handle(), 1u8..3).prop_map(|(handle, n)| Command::Delivered {
            handle,
            place: "D".into(),
            message: format!("m{n}"),
            rendered_sha256: [1; 32],
            face: [1; 32],
        }),
        2 => (1u64..8, any::<bool>()).prop_map(|(delivery, for_good)| Command::NotDelivered {
            delivery,
            why: "no".into(),
            not_before: None,
            for_good,
        }),
        2 => (1u64..8, 1u8..3).prop_map(|(delivery, n)| Command::Faced { delivery, face: [n; 32], why_not: String::new() }),
        6 => (handle(), word(), account(), 1u8..3, any::<bool>(), 1u8..9).prop_map(|(handle, word, account, n, button, event)| {
            Command::Tap(Box::new(Tap {
                channel: "chat".into(),
                handle,
                word,
                account,
                place: "D".into(),
                message: button.then(|| format!("m{n}")),
                button,
                event: event.to_string(),
                reason: String::new(),
                evidence: String::new(),
            }))
        }),
        1 => account().prop_map(|account| Command::WrongCode { account }),
        1 => Just(Command::SetCursor { channel: "chat".into(), cursor: "7".into() }),
    ]
}
