//! Every platform's ears, with whatever comes in: nothing that nobody has signed says anything, and nothing makes them fall.

use countersign_chat::{Adapter, Chance, Heard, Keys, PLATFORMS, Platform, Setting};
use http::Method;
use proptest::prelude::*;

use crate::support::{Webhook, configuration, now};
use crate::tokens::pairs;

/// A channel of the platform, whatever it asks for.
fn any_of(platform: &Platform) -> Box<dyn Adapter> {
    let key_file = serde_json::json!({
        "type": "service_account", "client_email": "bot@p.example", "private_key": pairs()[1].pem, "private_key_id": "k",
    });
    let key_file = key_file.to_string();
    let hexadecimal = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    // What only one of its ways of hearing needs is there too.
    let needed = |it: &&Setting| (it.required && it.default.is_none()) || it.name == "public_key";
    let settings = platform.settings.iter().filter(needed).map(|it| {
        let value = match it.name {
            name if name.ends_with("url") => "http://127.0.0.1:1",
            "public_key" => hexadecimal,
            "user" => "@bot:example",
            "from" => "Countersign <c@example.com>",
            _ => "1234567890",
        };
        (it.name, value)
    });
    let secrets = platform.secrets.iter().map(|it| {
        let value = match it.name {
            "service_account" => key_file.as_str(),
            "secret" => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "answer_secret" => "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "bot_token" => "123456:a-secret-of-thirty-two-characters",
            "private_keys" => PRIVATE_KEYS,
            _ => "a-secret-of-thirty-two-characters",
        };
        (it.name, value)
    });
    let (settings, secrets) = (settings.collect::<Vec<_>>(), secrets.collect::<Vec<_>>());
    let configuration = configuration(platform.name, &settings, &secrets)
        .unwrap_or_else(|unfit| panic!("{}: {unfit}", platform.name));
    (platform.open)(configuration).unwrap_or_else(|unfit| panic!("{}: {unfit}", platform.name))
}

/// Two keys of P-256: any small numbers are.
const PRIVATE_KEYS: &str =
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAg==";

/// Headers that platforms look for, so that more than their absence is met.
const HEADERS: [&str; 20] = [
    "authorization",
    "content-type",
    "linear-delivery",
    "linear-signature",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-github-delivery",
    "x-github-event",
    "x-hub-signature-256",
    "x-notion-signature",
    "x-signature-ed25519",
    "x-signature-timestamp",
    "x-slack-request-timestamp",
    "x-slack-signature",
    "x-spark-signature",
    "x-telegram-bot-api-secret-token",
    "x-twilio-signature",
    "x-twitter-webhooks-signature",
    "x-forwarded-for",
];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,60}",
        Just("1800000000".to_owned()),
        Just("application/json".to_owned()),
        Just("application/x-www-form-urlencoded".to_owned()),
        "(v0=|v1,|sha256=|Bearer |Token )[0-9a-f]{64}",
        "Bearer [A-Za-z0-9_-]{10,40}\\.[A-Za-z0-9_-]{10,40}\\.[A-Za-z0-9_-]{0,40}",
        "[0-9a-f]{64,128}",
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "\\PC{0,200}".prop_map(String::into_bytes),
        "(payload=|Body=|text=)[%a-zA-Z0-9&=+]{0,200}".prop_map(String::into_bytes),
        "\\{(\"[a-z_]{1,12}\":(\"[a-z0-9]{0,8}\"|[0-9]{1,9}|\\{\\}|\\[\\]|null),){0,6}\"type\":[0-9\"]{1,3}\\}"
            .prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn c_hook_nothing_that_nobody_has_signed_says_anything(
        named in prop::collection::vec((prop::sample::select(&HEADERS[..]), value()), 0..6),
        query in prop::option::of("[a-z._]{0,20}=[a-zA-Z0-9%]{0,20}"),
        post: bool,
        body in body(),
    ) {
        for (platform, adapter) in PLATFORMS.iter().zip(opened()) {
            let mut hook = Webhook::post(&[], body.clone());
            if !post {
                hook.method = Method::GET;
            }
            hook.query.clone_from(&query);
            named.iter().for_each(|(name, value)| hook.add(name, value));
            let heard = hook.heard(&**adapter, &Keys::default(), now());
            prop_assert!(!matches!(heard, Ok(Heard::Said(_) | Heard::Named(_))), "{}: {heard:?}", platform.name);
        }
    }

    /// What a platform answers is read as strictly: garbage is no message and no token.
    #[test]
    fn garbage_in_the_place_of_an_answer_is_a_failure_or_a_message_and_never_a_fall(status in 100_u16..600, body in body()) {
        let answer = countersign_chat::Answer {
            status: http::StatusCode::from_u16(status).unwrap(),
            headers: http::HeaderMap::new(),
            body: body.into(),
        };
        for adapter in opened() {
            let _ = adapter.posted("place", &answer);
            let _ = adapter.edited(&answer);
            let _ = adapter.spoke(&answer);
            let _ = adapter.granted(&answer);
            let _ = adapter.conversed(&answer);
            let _ = adapter.polled(&answer);
            let _ = adapter.fetched("named", &answer);
            let known = vec![answer.clone(); 4];
            for so_far in 0..=known.len() {
                let chance = || Chance::new([7; 96]);
                let _ = adapter.acquaint("1", &known[..so_far], &chance(), now());
            }
        }
    }
}

/// A channel of each platform, in their order.
pub(crate) fn opened() -> &'static [Box<dyn Adapter>] {
    static OPENED: std::sync::OnceLock<Vec<Box<dyn Adapter>>> = std::sync::OnceLock::new();
    OPENED.get_or_init(|| PLATFORMS.iter().map(|platform| any_of(platform)).collect())
}
