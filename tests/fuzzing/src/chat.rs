//! What comes in from each chat platform, and what is made of an agent's words on the way there.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_chat::{
    Adapter, Address, Answer, Answers, Body, Card, Configuration, Face, Handle, Heard, Inbound,
    Keys, Message, Notice, Outgoing, PLATFORMS, Platform, Secret, TapKey, Text, Token, Typed,
    Words, verify, visible,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use sha1::Sha1;
use sha2::Sha256;

/// A name, and what is done with the bytes.
type Target = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: &[Target] = &[
    ("chat_answers", chat_answers),
    ("chat_cards", chat_cards),
    ("chat_webhooks", chat_webhooks),
    ("chat_words", chat_words),
];

const SECRET: &str = "a-secret-of-thirty-two-characters";
/// A secret of Standard Webhooks; its bytes are [`STANDARD_KEY`].
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STANDARD_KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOW: u64 = 1_800_000_000;
const URL: &str = "https://hooks.example/hooks/c";
/// Google's adapter wants a key that it can sign with: one that is made here and used for nothing.
static SERVICE_KEY: LazyLock<String> = LazyLock::new(|| {
    let made =
        std::process::Command::new("openssl").args(["genpkey", "-algorithm", "RSA"]).output();
    String::from_utf8(made.expect("openssl").stdout).expect("PEM")
});

/// A channel of every platform.
static ADAPTERS: LazyLock<Vec<(&'static Platform, Box<dyn Adapter>)>> =
    LazyLock::new(|| PLATFORMS.iter().map(|platform| (*platform, open(platform))).collect());

fn open(platform: &'static Platform) -> Box<dyn Adapter> {
    let key_file = serde_json::json!({
        "type": "service_account", "client_email": "bot@p.example", "private_key": SERVICE_KEY.as_str(), "private_key_id": "k",
    })
    .to_string();
    let needed = platform
        .settings
        .iter()
        .filter(|it| (it.required && it.default.is_none()) || it.name == "public_key");
    let settings: BTreeMap<String, String> = needed
        .map(|it| {
            let value = match it.name {
                name if name.ends_with("url") => "http://127.0.0.1:1",
                "public_key" => "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "user" => "@bot:example",
                "from" => "Countersign <c@example.com>",
                _ => "1234567890",
            };
            (it.name.to_owned(), value.to_owned())
        })
        .collect();
    let secrets: BTreeMap<String, Secret> = platform
        .secrets
        .iter()
        .map(|it| {
            let value = match it.name {
                "service_account" => key_file.clone(),
                "secret" => "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".into(),
                "answer_secret" => STANDARD_SECRET.into(),
                "bot_token" => format!("123456:{SECRET}"),
                // Two keys of P-256: any small numbers are.
                "private_keys" => "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAg==".into(),
                _ => SECRET.into(),
            };
            (it.name.to_owned(), Secret::new(value))
        })
        .collect();
    let configuration = Configuration::of(platform, settings, secrets);
    let configuration = configuration.unwrap_or_else(|unfit| panic!("{}: {unfit}", platform.name));
    (platform.open)(configuration).unwrap_or_else(|unfit| panic!("{}: {unfit}", platform.name))
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// Which platform the first byte says, and the rest.
fn chosen(data: &[u8]) -> Option<(&'static Platform, &'static dyn Adapter, &[u8])> {
    let (which, rest) = data.split_first()?;
    let (platform, adapter) = &ADAPTERS[usize::from(*which) % ADAPTERS.len()];
    Some((platform, &**adapter, rest))
}

/// The body with every header that proves it, made with the channel's secret: what is read after the proof is met too. And
/// without any of these, it says nothing.
fn chat_webhooks(data: &[u8]) {
    let Some((platform, adapter, body)) = chosen(data) else { return };
    let hear = |headers: &HeaderMap, method: &Method, query: Option<&str>, body: &[u8]| {
        let inbound = Inbound { method, public_url: URL, query, headers, body };
        adapter.hear(&inbound, &Keys::default(), now())
    };
    for content_type in ["application/json", "application/x-www-form-urlencoded"] {
        let mut headers = proven(body);
        headers.insert("content-type", HeaderValue::from_static(content_type));
        if let Ok(Heard::Said(said)) = hear(&headers, &Method::POST, None, body) {
            for said in said {
                assert!(!said.event.is_empty(), "{}: an event has an id", platform.name);
                let outcome = countersign_chat::Outcome::Refused(Text::of("no"));
                let _ = adapter.reply(&said, &outcome);
            }
        }
    }
    let query = std::str::from_utf8(body).ok();
    let _ = hear(&HeaderMap::new(), &Method::GET, query, &[]);
    let unproven = hear(&HeaderMap::new(), &Method::POST, query, body);
    assert!(
        !matches!(unproven, Ok(Heard::Said(_) | Heard::Named(_))),
        "{}: nobody has signed it: {unproven:?}",
        platform.name
    );
}

fn proven(body: &[u8]) -> HeaderMap {
    let sha256 = |parts: &[&[u8]]| verify::made_hmac_sha256_hex(SECRET.as_bytes(), parts);
    let at = NOW.to_string();
    let sha1 = |parts: &[&[u8]]| {
        let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).expect("any length");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().to_vec()
    };
    let standard = {
        let key = STANDARD.decode(STANDARD_KEY).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
        mac.update(format!("event-1.{at}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    let whole = sha256(&[body]);
    // Twilio signs its URL, then names and values in their order.
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = body
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let decode = |text: &[u8]| {
                let spaced: Vec<u8> =
                    text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
                percent_encoding::percent_decode(&spaced).collect::<Vec<u8>>()
            };
            (decode(&pair[..at]), decode(pair.get(at + 1..).unwrap_or_default()))
        })
        .collect();
    pairs.sort();
    let form: Vec<u8> =
        pairs.into_iter().flat_map(|(name, value)| [name, value].concat()).collect();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("authorization", format!("Bearer {SECRET}")),
        ("linear-delivery", "event-1".into()),
        ("linear-signature", whole.clone()),
        ("webhook-id", "event-1".into()),
        ("webhook-signature", standard),
        ("webhook-timestamp", at.clone()),
        ("x-github-delivery", "event-1".into()),
        ("x-github-event", "issue_comment".into()),
        ("x-hub-signature-256", format!("sha256={whole}")),
        ("x-notion-signature", format!("sha256={whole}")),
        ("x-slack-request-timestamp", at.clone()),
        ("x-slack-signature", format!("v0={}", sha256(&[b"v0:", at.as_bytes(), b":", body]))),
        ("x-spark-signature", hex::encode(sha1(&[body]))),
        ("x-telegram-bot-api-secret-token", SECRET.into()),
        ("x-twilio-signature", STANDARD.encode(sha1(&[URL.as_bytes(), &form]))),
    ] {
        headers
            .insert(HeaderName::from_static(name), HeaderValue::from_str(&value).expect("a value"));
    }
    headers
}

/// What a platform answers is a message or a failure, whatever it is.
fn chat_answers(data: &[u8]) {
    let Some((_, adapter, rest)) = chosen(data) else { return };
    let Some((status, body)) = rest.split_first() else { return };
    let status = [200, 201, 204, 400, 404, 409, 429, 500][usize::from(*status) % 8];
    let answer = Answer {
        status: StatusCode::from_u16(status).expect("a status"),
        headers: HeaderMap::new(),
        body: body.to_vec().into(),
    };
    let _ = adapter.posted("place", &answer);
    let _ = adapter.edited(&answer);
    let _ = adapter.spoke(&answer);
    let _ = adapter.granted(&answer);
    let _ = adapter.conversed(&answer);
    let _ = adapter.polled(&answer);
    let _ = adapter.fetched("named", &answer);
    let _ = Keys::parse(&answer);
}

/// Nothing that cannot be seen leaves, no secret does, and what is cut is said to be.
fn chat_cards(data: &[u8]) {
    let Some((platform, adapter, rest)) = chosen(data) else { return };
    if contains(rest, SECRET) {
        return; // the fuzzer has guessed it, and says it itself
    }
    let text = String::from_utf8_lossy(rest);
    let (path, body) = text.split_once('\n').unwrap_or((&text, ""));
    let card = Card {
        approval: "00112233445566778899aabbccddeeff".into(),
        sentence: Text::of(&format!("robot (of ana) wants to DELETE api.example.com{path}")),
        facts: vec![
            ("method".into(), Text::of("DELETE")),
            ("path".into(), Text::of(path)),
            ("rule".into(), Text::of(path)),
        ],
        warnings: countersign_chat::warnings(path, &[]).iter().map(|it| Text::of(it)).collect(),
        fingerprint: "absorb fatigue ladder orbit".into(),
        body: Body { text: Some(body.into()), total: body.len() as u64, uninspectable: false },
        demands_whole: body.len() % 2 == 0,
        answered_elsewhere: false,
    };
    let key = TapKey::new([9; 32]);
    let handle = Handle([5; 16]);
    let answers = Answers {
        approve: key.token("c", "place", handle, Words::Approve),
        deny: key.token("c", "place", handle, Words::Deny),
        code: key.code("c", "place", handle),
        elsewhere: Text::of("countersign approval show 00112233445566778899aabbccddeeff"),
    };
    let message = Message { place: "1234567890".into(), id: "1".into() };
    let asking =
        Notice { card: &card, face: Face::Asking { standing: vec![] }, answers: Some(answers) };
    let settled =
        Notice { card: &card, face: Face::Settled { words: vec![Text::of(path)] }, answers: None };
    for notice in [&asking, &settled] {
        let posted = adapter.post("1234567890", notice, "key").ok();
        let edited = adapter.edit(&message, notice).and_then(Result::ok).map(Outgoing::from);
        for outgoing in posted.into_iter().chain(edited) {
            keeps_the_secret(platform, &outgoing);
            hides_nothing(&outgoing);
        }
    }
    keeps_the_secret(platform, &adapter.say("1234567890", Some(&message), &Text::of(path)));
}

fn keeps_the_secret(platform: &Platform, outgoing: &Outgoing) {
    let said = match outgoing {
        Outgoing::Call(call) => [&call.body, call.url.as_bytes()].concat(),
        Outgoing::Mail(mail) => format!("{mail:?}").into_bytes(),
    };
    assert!(!contains(&said, SECRET), "{}", platform.name);
}

fn hides_nothing(outgoing: &Outgoing) {
    match outgoing {
        Outgoing::Call(call) => {
            if let Ok(sent) = serde_json::from_slice(&call.body) {
                nothing_hidden(&sent);
            }
        }
        Outgoing::Mail(mail) => {
            assert!(!mail.subject.contains('\n'), "one line: {:?}", mail.subject);
            for text in [&mail.subject, &mail.text, &mail.html] {
                nothing_hidden(&text.as_str().into());
            }
        }
    }
}

fn contains(text: &[u8], pattern: &str) -> bool {
    text.windows(pattern.len()).any(|window| window == pattern.as_bytes())
}

fn nothing_hidden(sent: &serde_json::Value) {
    use serde_json::Value;
    match sent {
        Value::Array(array) => array.iter().for_each(nothing_hidden),
        Value::Object(object) => object.values().for_each(nothing_hidden),
        Value::String(text) => {
            assert!(text.chars().all(|c| c == '\n' || !visible::is_hidden(c)), "{text:?}");
        }
        _ => {}
    }
}

/// Words, codes, tokens and addresses: what is read is what was written, or nothing.
fn chat_words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Typed::find(&text);
    if let Some(token) = Token::parse(&text) {
        assert_eq!(token.as_str(), text);
        assert!(TapKey::new([9; 32]).open("c", "place", &token).is_none(), "nobody made it");
    }
    if let Ok(address) = Address::parse(&text, "example.com") {
        let host = address.host();
        let within = host == "example.com" || host.ends_with(".example.com");
        assert!(within, "{host}");
    }
    let visible = Text::of(&text);
    assert!(!visible.as_str().chars().any(visible::is_hidden));
    assert_eq!(Text::of(visible.as_str()), visible, "made visible once is enough");
    assert!(visible.within(80).as_str().len() <= 80);
}
