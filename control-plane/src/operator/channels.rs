//! Channels: set with their secrets, which never come out again; listed, tested, removed; and what became of cards.

use std::collections::BTreeMap;

use countersign_chat::{Configuration, Secret, platform};
use countersign_proto::v1;
use tonic::Status;
use zeroize::Zeroize as _;

use super::once::{Once, reused};
use super::page::{Page, timestamp};
use super::{approvals, refuse};
use crate::access::Admitted;
use crate::notify::channels::{read_secrets, write_secrets};
use crate::state::{
    Channel, Command, Delivery, DeliveryStatus, Event, Message, Payload, Recipient,
};
use crate::vault::Binding;

const SECRET_BYTES: usize = 16 * 1024;
const LONGEST_AFTER_MS: u64 = 24 * 60 * 60 * 1000;

pub(super) async fn set(
    asked: &Admitted,
    request: v1::SetChannelRequest,
) -> Result<v1::SetChannelResponse, Status> {
    let house = &asked.house;
    let once = Once::of(asked, "SetChannel", &request.request_id)?;
    let given = taken(request.secrets)?;
    let known = platform(&request.platform).ok_or_else(|| {
        refuse::field("platform", format!("{:?} is none: {}", request.platform, platforms()))
    })?;
    if request.after_ms > LONGEST_AFTER_MS {
        return Err(refuse::field("after_ms", "must be at most 24 hours"));
    }
    let read = house.cluster.read(|state| {
        let cluster = state.genesis().map(|genesis| genesis.cluster_id.clone()).unwrap_or_default();
        (cluster, state.channel(&request.name).cloned(), state.next_channel_version(&request.name))
    });
    let (cluster, current, version) = read.await.map_err(|e| refuse::unavailable(&e))?;
    // What is not named stays as it is; an empty setting takes its default again.
    let current = current.filter(|channel| channel.platform == request.platform);
    let mut settings = current.as_ref().map(|channel| channel.settings.clone()).unwrap_or_default();
    settings.extend(request.settings);
    settings.retain(|_, value| !value.is_empty());
    let mut secrets = match &current {
        None => BTreeMap::new(),
        Some(channel) => {
            let sealed =
                house.vault.open_payload(&Binding::of_channel(&cluster, channel), &channel.secrets);
            let sealed = sealed.map_err(|e| refuse::internal(&e))?;
            read_secrets(&sealed).unwrap_or_default()
        }
    };
    secrets.extend(given);
    let configuration = Configuration::of(known, settings.clone(), secrets.clone())
        .map_err(|unfit| refuse::field("settings", unfit.to_string()))?;
    (known.open)(configuration).map_err(|unfit| refuse::field("settings", unfit.to_string()))?;
    let filled = |text: String| Some(text).filter(|text| !text.is_empty());
    let mut channel = Channel {
        name: request.name.clone(),
        platform: request.platform,
        version,
        settings,
        secrets: Payload::Sealed {
            keyring_term: 0,
            wrapped_key: Vec::new(),
            ciphertext: Vec::new(),
        },
        tenant: filled(request.tenant),
        room: filled(request.room),
        only: request.only.into_iter().collect(),
        after_ms: request.after_ms,
        fallback: filled(request.fallback),
        active: true,
        created_at: 0,
    };
    channel.secrets = house
        .vault
        .seal_payload(&Binding::of_channel(&cluster, &channel), &write_secrets(&secrets));
    let event = once.propose(asked, Command::SetChannel(Box::new(channel))).await?;
    let change_id = match &*event {
        Event::ChangeProposed { id } => *id,
        Event::ChannelChanged { name } if *name == request.name => 0,
        _ => return Err(reused(&request.name)),
    };
    let now = house.cluster.peek(|state| state.channel(&request.name).cloned());
    let channel = now.filter(|_| change_id == 0).map(|channel| to_proto(asked, &channel));
    Ok(v1::SetChannelResponse { channel, change_id })
}

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListChannelsRequest,
) -> Result<v1::ListChannelsResponse, Status> {
    let page = Page::of("channels", request.page_size, &request.page_token)?;
    let read = asked.house.cluster.read(|state| {
        let keyed = state.channels().map(|channel| (channel.name.clone(), channel));
        page.cut(keyed.collect(), |channel| to_proto(asked, channel))
    });
    let (channels, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListChannelsResponse { channels, next_page_token })
}

pub(super) async fn remove(
    asked: &Admitted,
    request: v1::RemoveChannelRequest,
) -> Result<v1::RemoveChannelResponse, Status> {
    let once = Once::of(asked, "RemoveChannel", &request.request_id)?;
    let event = once.propose(asked, Command::RemoveChannel { name: request.name.clone() }).await?;
    match &*event {
        Event::ChannelChanged { name } if *name == request.name => Ok(v1::RemoveChannelResponse {}),
        _ => Err(reused(&request.name)),
    }
}

pub(super) async fn test(
    asked: &Admitted,
    request: v1::TestChannelRequest,
) -> Result<v1::TestChannelResponse, Status> {
    let once = Once::of(asked, "TestChannel", &request.request_id)?;
    let caller = asked.caller.name.clone();
    let to = match (request.account.as_str(), request.room.as_str()) {
        ("", "") => {
            let found = asked.house.cluster.peek(|state| {
                let channel = state.channel(&request.name)?;
                if let Some(room) = &channel.room {
                    return Some(Recipient::Room(room.clone()));
                }
                let accounts = &state.principal(&caller)?.accounts;
                accounts
                    .iter()
                    .find(|it| it.platform == channel.platform)
                    .cloned()
                    .map(Recipient::Account)
            });
            found.ok_or_else(|| {
                refuse::field(
                    "account",
                    "is missing: there is no such channel, or it has no room and no account of yours is linked there; say to whom",
                )
            })?
        }
        (account, "") => Recipient::Account(
            account.parse().map_err(|why: String| refuse::field("account", why))?,
        ),
        ("", room) => Recipient::Room(room.to_owned()),
        _ => return Err(refuse::field("room", "and account exclude each other")),
    };
    let command = Command::TestChannel { channel: request.name.clone(), to };
    let event = once.propose(asked, command).await?;
    let Event::DeliveryChanged { id } = &*event else { return Err(reused(&request.name)) };
    let delivery = asked.house.cluster.peek(|state| state.delivery(*id).map(delivery_to_proto));
    Ok(v1::TestChannelResponse { delivery })
}

pub(super) async fn deliveries(
    asked: &Admitted,
    request: v1::ListDeliveriesRequest,
) -> Result<v1::ListDeliveriesResponse, Status> {
    let page = Page::of("deliveries", request.page_size, &request.page_token)?;
    let about = match request.approval_id.as_str() {
        "" => None,
        text => Some(approvals::id_of(text)?),
    };
    let wanted = v1::DeliveryState::try_from(request.state)
        .map_err(|_| refuse::field("state", "is not one of DeliveryState"))?;
    let read = asked.house.cluster.read(|state| {
        let fitting = state.deliveries().filter(|delivery| {
            about.is_none_or(|about| delivery.what.about() == Some(about))
                && (request.delivery_id == 0 || delivery.id == request.delivery_id)
                && (wanted == v1::DeliveryState::Unspecified || state_of(delivery) == wanted)
        });
        // Newest first.
        let keyed = fitting.map(|delivery| (format!("{:020}", u64::MAX - delivery.id), delivery));
        page.cut(keyed.collect(), delivery_to_proto)
    });
    let (deliveries, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListDeliveriesResponse { deliveries, next_page_token })
}

/// Secrets where they are overwritten when dropped; what carried them is overwritten now.
fn taken(
    given: std::collections::HashMap<String, bytes::Bytes>,
) -> Result<BTreeMap<String, Secret>, Status> {
    let mut secrets = BTreeMap::new();
    for (name, value) in given {
        let text = std::str::from_utf8(&value).map(str::to_owned);
        if let Ok(mut carrier) = value.try_into_mut() {
            carrier.as_mut().zeroize();
        }
        let text =
            text.map_err(|_| refuse::field("secrets", format!("{name} is not UTF-8 text")))?;
        let bad = text.is_empty() || text.len() > SECRET_BYTES || text.contains('\0');
        let secret = Secret::new(text);
        if bad {
            return Err(refuse::field(
                "secrets",
                format!("{name} is empty, longer than 16 KiB, or has a NUL in it"),
            ));
        }
        secrets.insert(name, secret);
    }
    Ok(secrets)
}

fn platforms() -> String {
    let names: Vec<_> = countersign_chat::PLATFORMS.iter().map(|platform| platform.name).collect();
    format!("there are {}", names.join(", "))
}

fn to_proto(asked: &Admitted, channel: &Channel) -> v1::Channel {
    v1::Channel {
        name: channel.name.clone(),
        platform: channel.platform.clone(),
        version: channel.version,
        settings: channel.settings.clone().into_iter().collect(),
        tenant: channel.tenant.clone().unwrap_or_default(),
        room: channel.room.clone().unwrap_or_default(),
        only: channel.only.iter().cloned().collect(),
        after_ms: channel.after_ms,
        fallback: channel.fallback.clone().unwrap_or_default(),
        created_at: timestamp(channel.created_at),
        hook_url: asked.house.channels.hook_url(&channel.name),
    }
}

fn state_of(delivery: &Delivery) -> v1::DeliveryState {
    match delivery.status {
        DeliveryStatus::Dead { .. } => v1::DeliveryState::Dead,
        DeliveryStatus::Due { .. } => v1::DeliveryState::Due,
        DeliveryStatus::Sent { .. } => v1::DeliveryState::Sent,
    }
}

fn delivery_to_proto(delivery: &Delivery) -> v1::Delivery {
    let (at, why) = match &delivery.status {
        DeliveryStatus::Dead { why, at } | DeliveryStatus::Due { at, why } => (*at, why.clone()),
        DeliveryStatus::Sent { at } => (*at, String::new()),
    };
    let (kind, answered_by) = match &delivery.what {
        Message::Card(_) => ("card", String::new()),
        Message::Test { answered, .. } => {
            ("test", answered.as_ref().map(|(who, _)| who.clone()).unwrap_or_default())
        }
        Message::Words { .. } => ("words", String::new()),
    };
    v1::Delivery {
        delivery_id: delivery.id,
        channel: delivery.channel.clone(),
        to: delivery.to.to_string(),
        approval_id: delivery.what.about().map(|id| id.to_string()).unwrap_or_default(),
        kind: kind.into(),
        state: state_of(delivery).into(),
        why,
        tries: delivery.tries,
        created_at: timestamp(delivery.created_at),
        at: timestamp(at),
        messages: u32::try_from(delivery.attempts.len()).unwrap_or(u32::MAX),
        answered_by,
    }
}
