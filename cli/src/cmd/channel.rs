//! `countersign channel`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use countersign_chat::{PLATFORMS, Platform, Setting};
use countersign_proto::v1;
use serde::Serialize;
use tokio::time::Instant;

use super::change::waits;
use super::{every_page, part};
use crate::args::{AddChannel, Channel, Delivered, Output, Show};
use crate::client::{self, Admin};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{print, secret};

/// Between two looks at whether a test was answered.
const LOOK: Duration = Duration::from_millis(300);

pub(crate) async fn run(context: &Context, command: Channel) -> Done {
    match command {
        Channel::Add(add) => self::add(context, add).await,
        Channel::Guide { platform, hook_url, manifest } => {
            guide(platform.as_deref(), hook_url.as_deref(), manifest)
        }
        Channel::List(show) => {
            let mut admin = client::connect(context).await?;
            list(every_page!(admin, list_channels, ListChannelsRequest {}, channels), &show)
        }
        Channel::Remove(named) => {
            let mut admin = client::connect(context).await?;
            let request = v1::RemoveChannelRequest {
                request_id: client::request_id(),
                name: named.name.clone(),
            };
            admin.remove_channel(request).await?;
            match named.show.output {
                Output::Json => {
                    print::json(&serde_json::json!({ "channel": named.name, "removed": true }))
                }
                Output::Table => print::line(&format!("{} is disconnected.", named.name)),
            }
        }
        Channel::Deliveries { approval, state, show } => {
            let mut admin = client::connect(context).await?;
            let approval_id = approval.unwrap_or_default();
            let state =
                state.map_or(v1::DeliveryState::Unspecified, v1::DeliveryState::from).into();
            let all = every_page!(
                admin,
                list_deliveries,
                ListDeliveriesRequest {
                    approval_id: approval_id.clone(),
                    state,
                    ..Default::default()
                },
                deliveries
            );
            deliveries(all, &show)
        }
        Channel::Test { name, account, room, wait, show } => {
            let mut admin = client::connect(context).await?;
            let request = v1::TestChannelRequest {
                request_id: client::request_id(),
                name,
                account: account.unwrap_or_default(),
                room: room.unwrap_or_default(),
            };
            let sent = part(admin.test_channel(request).await?.into_inner().delivery)?;
            test(&mut admin, sent, wait, &show).await
        }
    }
}

async fn add(context: &Context, add: AddChannel) -> Done {
    let platform = known(&add.platform)?;
    let mut admin = client::connect(context).await?;
    let settings = pairs(&add.settings, "--set")?;
    let files = pairs(&add.secret_files, "--secret-file")?;
    let there = every_page!(admin, list_channels, ListChannelsRequest {}, channels);
    let there = there.into_iter().find(|it| it.name == add.name && it.platform == add.platform);
    let is_new = there.is_none();
    let mut secrets = std::collections::HashMap::new();
    for (name, file) in &files {
        let value = secret::read(Some(Path::new(file)), &format!("the secret {name}"))?;
        secrets.insert(name.clone(), bytes::Bytes::from(value.to_vec()));
    }
    for needed in
        platform.secrets.iter().filter(|it| is_new && it.required && !files.contains_key(it.name))
    {
        if !secret::can_ask() {
            return Err(Failure::Usage(format!(
                "the secret {} is missing ({}): name a file that holds it with --secret-file {}=FILE",
                needed.name, needed.help, needed.name
            )));
        }
        let value = secret::read(None, &format!("{} ({})", needed.name, needed.help))?;
        secrets.insert(needed.name.to_owned(), bytes::Bytes::from(value.to_vec()));
    }
    // What is not named stays as it is.
    let there = there.unwrap_or_default();
    let request = v1::SetChannelRequest {
        request_id: client::request_id(),
        name: add.name.clone(),
        platform: add.platform,
        settings: settings.into_iter().collect(),
        secrets,
        tenant: add.tenant.unwrap_or(there.tenant),
        room: add.room.unwrap_or(there.room),
        only: if add.only.is_empty() { there.only } else { add.only },
        after_ms: add
            .after
            .map_or(there.after_ms, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        fallback: add.fallback.unwrap_or(there.fallback),
    };
    let answer = admin.set_channel(request).await?.into_inner();
    if let Output::Json = add.show.output {
        return print::json(&Changed {
            channel: &add.name,
            hook_url: answer.channel.as_ref().map(|channel| channel.hook_url.as_str()),
            change: Some(answer.change_id).filter(|id| *id != 0),
        });
    }
    if let Some(words) = waits(answer.change_id) {
        return print::line(&words);
    }
    let channel = part(answer.channel)?;
    print::line(&format!("{} is connected. Over at {}:", channel.name, platform.title))?;
    print::lines(&platform.guide.replace("{hook}", &channel.hook_url))?;
    print::line(&format!("Then try it: countersign channel test {}", channel.name))
}

/// Without a platform: which there are. With `manifest`, the file that it makes its app from.
pub(crate) fn guide(name: Option<&str>, hook_url: Option<&str>, manifest: bool) -> Done {
    let Some(name) = name else {
        let row = |it: &&Platform| vec![it.name.to_owned(), it.title.to_owned()];
        let rows: Vec<_> = PLATFORMS.iter().map(row).collect();
        return print::table(&["PLATFORM", "IS"], &rows, "There is no platform.");
    };
    let platform = known(name)?;
    if manifest {
        return self::manifest(platform, hook_url);
    }
    let hook = hook_url.unwrap_or("PUBLIC_URL/hooks/NAME");
    print::line(&format!("{}:", platform.title))?;
    print::lines(&platform.guide.replace("{hook}", hook))?;
    let rows = |settings: &[Setting], how: &str| -> Vec<Vec<String>> {
        let row = |it: &Setting| {
            let default = match (it.default, it.required) {
                (Some(default), _) => default.to_owned(),
                (None, true) => "needed".into(),
                (None, false) => "-".into(),
            };
            vec![format!("{how} {}", it.name), it.help.to_owned(), default]
        };
        settings.iter().map(row).collect()
    };
    let mut all = rows(platform.settings, "--set");
    all.extend(rows(platform.secrets, "--secret-file"));
    print::line("")?;
    print::table(&["OPTION", "IS", "UNLESS GIVEN"], &all, "It needs nothing.")
}

fn manifest(platform: &Platform, hook_url: Option<&str>) -> Done {
    let Some(manifest) = platform.manifest else {
        return Err(Failure::Usage(format!(
            "{} makes no apps from manifests: countersign channel guide {} says what to do there",
            platform.title, platform.name
        )));
    };
    if hook_url.is_some_and(|url| !url.starts_with("https://")) {
        return Err(Failure::Usage(format!("{} calls only addresses of https", platform.title)));
    }
    print::json(&manifest(hook_url))
}

async fn test(admin: &mut Admin, sent: v1::Delivery, wait: Duration, show: &Show) -> Done {
    let until = Instant::now() + wait;
    let id = sent.delivery_id;
    let mut now = sent;
    let table = matches!(show.output, Output::Table);
    if table && !wait.is_zero() {
        print::line(&format!(
            "Sending a harmless card by {} to {}; press one of its buttons.",
            now.channel, now.to
        ))?;
    }
    while now.answered_by.is_empty()
        && now.state() != v1::DeliveryState::Dead
        && Instant::now() < until
    {
        tokio::time::sleep(LOOK).await;
        let request = v1::ListDeliveriesRequest { delivery_id: id, ..Default::default() };
        let found = admin.list_deliveries(request).await?.into_inner().deliveries;
        now = found
            .into_iter()
            .next()
            .ok_or_else(|| Failure::refused("the test is gone: was the channel removed?"))?;
    }
    if !table {
        print::json(&Listed::from(&now))?;
    }
    match (now.state(), now.answered_by.as_str()) {
        (v1::DeliveryState::Dead, _) => Err(Failure::Refused(format!("the card was not delivered: {}", now.why))),
        (_, "") if wait.is_zero() => Ok(()),
        (_, "") if now.state() == v1::DeliveryState::Due => {
            Err(Failure::Refused(format!("the card is not delivered yet: {}", now.why)))
        }
        (_, "") => Err(Failure::Refused(
            "the card was delivered, and nobody answered it: do the platform's calls reach this cluster?".into(),
        )),
        (_, who) if table => print::line(&format!("It works: answered by {who}.")),
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct Changed<'a> {
    channel: &'a str,
    hook_url: Option<&'a str>,
    /// What waits for a second administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<u64>,
}

#[derive(Serialize)]
struct Shown<'a> {
    channel: &'a str,
    platform: &'a str,
    version: u64,
    settings: BTreeMap<&'a str, &'a str>,
    tenant: &'a str,
    room: &'a str,
    only: &'a [String],
    after_ms: u64,
    fallback: &'a str,
    hook_url: &'a str,
    created_at: Option<String>,
}

fn list(channels: Vec<v1::Channel>, show: &Show) -> Done {
    if let Output::Json = show.output {
        let shown = channels.iter().map(|it| Shown {
            channel: &it.name,
            platform: &it.platform,
            version: it.version,
            settings: it
                .settings
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
            tenant: &it.tenant,
            room: &it.room,
            only: &it.only,
            after_ms: it.after_ms,
            fallback: &it.fallback,
            hook_url: &it.hook_url,
            created_at: print::time(it.created_at.as_ref()),
        });
        return print::json(&shown.collect::<Vec<_>>());
    }
    let row = |it: &v1::Channel| {
        let to = match it.room.as_str() {
            "" => "accounts of those who are asked".to_owned(),
            room if it.only.is_empty() => format!("room {room}"),
            room => format!("room {room}, for {}", it.only.join(", ")),
        };
        let fallback = if it.fallback.is_empty() { "-".into() } else { it.fallback.clone() };
        vec![it.name.clone(), it.platform.clone(), to, fallback, it.hook_url.clone()]
    };
    let rows: Vec<_> = channels.iter().map(row).collect();
    print::table(
        &["CHANNEL", "PLATFORM", "TO", "FALLBACK", "IT CALLS"],
        &rows,
        "There is no channel: people see approvals in the CLI and the page alone.",
    )
}

#[derive(Serialize)]
struct Listed {
    delivery: u64,
    channel: String,
    to: String,
    approval: String,
    kind: String,
    state: &'static str,
    why: String,
    tries: u32,
    messages: u32,
    answered_by: String,
    at: Option<String>,
}

impl From<&v1::Delivery> for Listed {
    fn from(delivery: &v1::Delivery) -> Self {
        Self {
            delivery: delivery.delivery_id,
            channel: delivery.channel.clone(),
            to: delivery.to.clone(),
            approval: delivery.approval_id.clone(),
            kind: delivery.kind.clone(),
            state: state_name(delivery.state()),
            why: delivery.why.clone(),
            tries: delivery.tries,
            messages: delivery.messages,
            answered_by: delivery.answered_by.clone(),
            at: print::time(delivery.at.as_ref()),
        }
    }
}

fn deliveries(all: Vec<v1::Delivery>, show: &Show) -> Done {
    let listed: Vec<_> = all.iter().map(Listed::from).collect();
    if let Output::Json = show.output {
        return print::json(&listed);
    }
    let row = |it: &Listed| {
        let about = if it.approval.is_empty() {
            it.kind.clone()
        } else {
            format!("{} of {}", it.kind, it.approval)
        };
        let at = it.at.clone().unwrap_or_else(|| "-".into());
        vec![it.channel.clone(), it.to.clone(), about, it.state.to_owned(), at, it.why.clone()]
    };
    let rows: Vec<_> = listed.iter().map(row).collect();
    print::table(&["CHANNEL", "TO", "WHAT", "STATE", "AT", "WHY"], &rows, "No card was sent.")
}

fn state_name(state: v1::DeliveryState) -> &'static str {
    match state {
        v1::DeliveryState::Dead => "dead",
        v1::DeliveryState::Due => "due",
        v1::DeliveryState::Sent => "sent",
        v1::DeliveryState::Unspecified => "unknown",
    }
}

impl From<Delivered> for v1::DeliveryState {
    fn from(state: Delivered) -> Self {
        match state {
            Delivered::Dead => Self::Dead,
            Delivered::Due => Self::Due,
            Delivered::Sent => Self::Sent,
        }
    }
}

fn known(name: &str) -> Result<&'static Platform, Failure> {
    countersign_chat::platform(name).ok_or_else(|| {
        let names: Vec<_> = PLATFORMS.iter().map(|platform| platform.name).collect();
        Failure::Usage(format!("there is no platform {name:?}: there are {}", names.join(", ")))
    })
}

fn pairs(given: &[String], option: &str) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Failure::Usage(format!("{option} takes NAME=VALUE, and {text:?} has no ="))
        })?;
        Ok((name.to_owned(), value.to_owned()))
    };
    given.iter().map(pair).collect()
}
