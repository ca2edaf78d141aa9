//! What became of cards: a thousand at the pace of two platforms, and the list of them, page by page.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse as _;
use axum::response::Response;
use countersign_proto::v1;
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Code;

use crate::world::{Admin, World};

/// A platform that takes what it is sent, writes down when, and has had enough at times.
#[derive(Clone, Default)]
struct Platform(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    /// Calls, in the order of their arrival: when, where to, what a button of the card carries, and whether it was taken.
    calls: Vec<Call>,
    /// Which of them are refused with "too many", by their number.
    enough_at: BTreeSet<usize>,
}

#[derive(Clone)]
struct Call {
    at: Instant,
    place: String,
    token: String,
    taken: bool,
}

/// For so long nothing more is taken, as the platform says when it has had enough.
const ENOUGH: Duration = Duration::from_secs(3);

impl Platform {
    async fn start(&self, answer: fn(&Value, usize) -> Value, enough: fn() -> Response) -> u16 {
        let platform = self.clone();
        let take = move |uri: Uri, body: Bytes| async move {
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert!(
                ["chat.postMessage", "sendMessage"].iter().any(|call| uri.path().ends_with(call)),
                "{uri}"
            );
            match platform.take(&body) {
                Some(number) => answer(&body, number).to_string().into_response(),
                None => enough(),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = axum::serve(listener, Router::new().fallback(take));
        tokio::spawn(async move { server.await.unwrap() });
        port
    }

    fn take(&self, body: &Value) -> Option<usize> {
        let mut inside = self.0.lock().unwrap();
        let number = inside.calls.len();
        let taken = !inside.enough_at.contains(&number);
        let place = ["channel", "chat_id"].iter().find_map(|name| body[name].as_str()).unwrap();
        let token = strings(body).into_iter().find(|text| is_approval(text)).unwrap();
        let (at, place) = (Instant::now(), place.to_owned());
        inside.calls.push(Call { at, place, token, taken });
        taken.then_some(number)
    }

    fn has_enough_at(&self, numbers: &[usize]) {
        self.0.lock().unwrap().enough_at.extend(numbers);
    }

    fn calls(&self) -> Vec<Call> {
        self.0.lock().unwrap().calls.clone()
    }
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::Array(array) => array.iter().flat_map(strings).collect(),
        Value::Object(object) => object.values().flat_map(strings).collect(),
        Value::String(text) => vec![text.clone()],
        _ => Vec::new(),
    }
}

/// 38 characters, of which one says which word it is for.
fn is_approval(text: &str) -> bool {
    text.len() == 38 && text.starts_with('1') && text.as_bytes()[23] == b'a'
}

async fn slack(platform: &Platform, admin: &mut Admin) {
    let answer = |body: &Value, n: usize| json!({ "ok": true, "channel": body["channel"], "ts": format!("1.{n}") });
    // Slack says in a header when to go on.
    let enough = || {
        let said = json!({ "ok": false, "error": "ratelimited" }).to_string();
        (StatusCode::TOO_MANY_REQUESTS, [("retry-after", ENOUGH.as_secs().to_string())], said)
            .into_response()
    };
    let port = platform.start(answer, enough).await;
    let base = format!("http://127.0.0.1:{port}/api");
    let settings = [("base_url", base.as_str()), ("app", "A1")];
    set(admin, "slack", &settings, &[("bot_token", "xoxb-canary"), ("signing_secret", "canary")])
        .await;
}

async fn telegram(platform: &Platform, admin: &mut Admin) {
    let answer = |body: &Value, n: usize| {
        let chat: i64 = body["chat_id"].as_str().unwrap().parse().unwrap();
        json!({ "ok": true, "result": { "message_id": n + 1, "date": 1, "chat": { "id": chat } } })
    };
    // Telegram says it in the body, and nowhere else.
    let enough = || {
        let parameters = json!({ "retry_after": ENOUGH.as_secs() });
        let said = json!({
            "ok": false, "error_code": 429, "description": "Too Many Requests", "parameters": parameters,
        });
        (StatusCode::TOO_MANY_REQUESTS, said.to_string()).into_response()
    };
    let port = platform.start(answer, enough).await;
    let base = format!("http://127.0.0.1:{port}");
    let secrets = [("bot_token", "7001:canary"), ("webhook_secret", "canary")];
    set(admin, "telegram", &[("base_url", &base)], &secrets).await;
}

async fn set(admin: &mut Admin, name: &str, settings: &[(&str, &str)], secrets: &[(&str, &str)]) {
    let secret = |(name, it): &(&str, &str)| ((*name).to_owned(), it.as_bytes().to_vec().into());
    let setting = |(name, it): &(&str, &str)| ((*name).to_owned(), (*it).to_owned());
    let request = v1::SetChannelRequest {
        name: name.into(),
        platform: name.into(),
        settings: settings.iter().map(setting).collect(),
        secrets: secrets.iter().map(secret).collect(),
        ..Default::default()
    };
    admin.set_channel(request).await.unwrap();
}

/// Sends a harmless card, and gives its delivery.
async fn card(admin: &Admin, channel: &str, room: &str) -> u64 {
    let request =
        v1::TestChannelRequest { name: channel.into(), room: room.into(), ..Default::default() };
    let sent = admin.clone().test_channel(request).await.unwrap().into_inner();
    sent.delivery.unwrap().delivery_id
}

async fn in_state(admin: &mut Admin, state: v1::DeliveryState) -> Vec<v1::Delivery> {
    let request =
        v1::ListDeliveriesRequest { state: state.into(), page_size: 1000, ..Default::default() };
    admin.list_deliveries(request).await.unwrap().into_inner().deliveries
}

/// No `most + 1` of them in `within`; two arrivals may be as much nearer to each other as a busy machine brings them.
fn demand_rate(what: &str, arrivals: &[Instant], most: usize, within: Duration) {
    for window in arrivals.windows(most + 1) {
        let took = window[most] - window[0];
        assert!(took + Duration::from_millis(500) >= within, "{what}: {} in {took:?}", most + 1);
    }
}

fn by_place(calls: &[Call]) -> BTreeMap<&str, Vec<Instant>> {
    let mut places: BTreeMap<&str, Vec<Instant>> = BTreeMap::new();
    calls.iter().for_each(|call| places.entry(&call.place).or_default().push(call.at));
    places
}

/// Where the platform said that it had enough, it was left alone for so long, save for what was on its way.
fn demand_patience(what: &str, calls: &[Call]) {
    for enough in calls.iter().filter(|call| !call.taken) {
        let quiet =
            enough.at + Duration::from_millis(700)..enough.at + ENOUGH - Duration::from_millis(100);
        let meanwhile = calls.iter().filter(|call| quiet.contains(&call.at)).count();
        assert_eq!(meanwhile, 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_a_thousand_cards_go_out_at_the_platforms_pace_and_none_is_lost_or_comes_twice() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let (at_slack, at_telegram) = (Platform::default(), Platform::default());
    slack(&at_slack, &mut admin).await;
    telegram(&at_telegram, &mut admin).await;
    at_slack.has_enough_at(&[7, 120, 121, 400]);
    at_telegram.has_enough_at(&[30, 200]);

    // Rooms of Slack; of Telegram people, and groups, which take twenty a minute.
    let rooms = (0..500).map(|n| ("slack", format!("C{}", n % 40)));
    let people = (0..470).map(|n| ("telegram", format!("{}", 1000 + n % 40)));
    let groups = (0..30).map(|n| ("telegram", format!("-100{}", n % 5)));
    let asked: Vec<_> = rooms.chain(people).chain(groups).collect();
    let ids: Vec<u64> = stream::iter(asked)
        .map(|(channel, room)| {
            let admin = admin.clone();
            async move { card(&admin, channel, &room).await }
        })
        .buffer_unordered(16)
        .collect()
        .await;
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 1000);

    let begun = Instant::now();
    while !in_state(&mut admin, v1::DeliveryState::Due).await.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(240), "they never went out");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let sent = in_state(&mut admin, v1::DeliveryState::Sent).await;
    let known: BTreeSet<_> = sent.iter().map(|delivery| delivery.delivery_id).collect();
    assert_eq!(known, ids.into_iter().collect(), "all of them arrived, and it is on record");

    for (what, platform, refused) in [("Slack", &at_slack, 4), ("Telegram", &at_telegram, 2)] {
        let calls = platform.calls();
        let taken: Vec<_> = calls.iter().filter(|call| call.taken).cloned().collect();
        assert_eq!((taken.len(), calls.len()), (500, 500 + refused), "{what}");
        let tokens: BTreeSet<_> = taken.iter().map(|call| &call.token).collect();
        assert_eq!(tokens.len(), 500, "{what}: each card is another one");
        demand_patience(what, &calls);
    }
    let calls = at_slack.calls();
    for (room, arrivals) in by_place(&calls) {
        demand_rate(&format!("Slack {room}"), &arrivals, 5, Duration::from_secs(5));
    }
    let (calls, second) = (at_telegram.calls(), Duration::from_secs(1));
    let all: Vec<_> = calls.iter().map(|call| call.at).collect();
    demand_rate("Telegram", &all, 90, 3 * second);
    for (chat, arrivals) in by_place(&calls) {
        let within = if chat.starts_with('-') { 15 * second } else { 5 * second };
        demand_rate(&format!("Telegram {chat}"), &arrivals, 5, within);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_are_listed_page_by_page_newest_first_each_once() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let platform = Platform::default();
    slack(&platform, &mut admin).await;
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(card(&admin, "slack", &format!("C{n}")).await);
    }
    let mut listed = Vec::new();
    let mut page_token = String::new();
    for (page, size) in [3, 3, 1].into_iter().enumerate() {
        let request = v1::ListDeliveriesRequest { page_size: 3, page_token, ..Default::default() };
        let answer = admin.list_deliveries(request).await.unwrap().into_inner();
        assert_eq!(answer.deliveries.len(), size);
        listed.extend(answer.deliveries.iter().map(|delivery| delivery.delivery_id));
        page_token = answer.next_page_token;
        if page == 0 {
            // What comes meanwhile is newer than where the next page begins.
            card(&admin, "slack", "C9").await;
        }
    }
    assert_eq!(page_token, "", "there is no page after the last");
    ids.reverse();
    assert_eq!(listed, ids);

    let one = v1::ListDeliveriesRequest { delivery_id: ids[2], ..Default::default() };
    let found = admin.list_deliveries(one).await.unwrap().into_inner();
    assert_eq!((found.deliveries.len(), found.deliveries[0].delivery_id), (1, ids[2]));
    assert_eq!((found.deliveries[0].to.as_str(), found.next_page_token.as_str()), ("room C4", ""));
    for (page_size, page_token) in [(-1, String::new()), (3, "bm9uZQ".into())] {
        let request = v1::ListDeliveriesRequest { page_size, page_token, ..Default::default() };
        let refused = admin.list_deliveries(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    // The token of another list is none of this one.
    let channels = v1::ListChannelsRequest { page_size: 1, ..Default::default() };
    slack_again(&mut admin).await;
    let other = admin.list_channels(channels).await.unwrap().into_inner().next_page_token;
    assert!(!other.is_empty());
    let request = v1::ListDeliveriesRequest { page_token: other, ..Default::default() };
    assert_eq!(admin.list_deliveries(request).await.unwrap_err().code(), Code::InvalidArgument);
}

/// A second channel.
async fn slack_again(admin: &mut Admin) {
    let secrets = [("bot_token", b"xoxb".to_vec()), ("signing_secret", b"s".to_vec())];
    let request = v1::SetChannelRequest {
        name: "other".into(),
        platform: "slack".into(),
        settings: [("app".to_owned(), "A1".to_owned())].into(),
        secrets: secrets.map(|(name, it)| (name.to_owned(), it.into())).into(),
        ..Default::default()
    };
    admin.set_channel(request).await.unwrap();
}
