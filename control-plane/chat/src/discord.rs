//! Discord: cards of components; interactions (buttons and the slash command) over HTTP, signed with Ed25519, or over a
//! connection (the gateway).
//!
//! discord.com/developers/docs: "Receiving and Responding" to interactions, "Interactions Endpoint URL" (security and
//! authorization), Component Reference, Message Resource (create and edit message, nonce), User Resource (create DM),
//! "Rate Limits" (50 requests a second and bot; those of a channel are not published, so one message a second is kept to),
//! "Using Gateway", "Gateway Events", "Opcodes and Status Codes".

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::card::{Excerpt, Notice};
use crate::fence::fenced;
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Said, Setting, TooLarge, Unfit, User, What, segment,
};
use crate::secret::Secret;
use crate::socket::{Address, Begin, Conversation, Step};
use crate::text::Text;
use crate::token::Token;
use crate::typed::Typed;
use crate::verify;

pub(crate) static PLATFORM: Platform = Platform {
    name: "discord",
    title: "Discord",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the API is",
            default: Some("https://discord.com/api/v10"),
            required: false,
        },
        Setting {
            name: "application",
            help: "the application's id, of General Information: interactions of another one are refused",
            default: None,
            required: true,
        },
        Setting {
            name: "public_key",
            help: "64 hexadecimal digits, of General Information: interactions are signed with it; needed unless inbound is gateway",
            default: None,
            required: false,
        },
        Setting {
            name: "inbound",
            help: "webhook: Discord calls a node; gateway: one node connects to Discord, and needs no address of its own",
            default: Some("webhook"),
            required: false,
        },
        Setting {
            name: "gateway_domain",
            help: "where it connects to: what Discord names has to be this host, or below it",
            default: Some("discord.gg"),
            required: false,
        },
    ],
    secrets: &[Setting {
        name: "bot_token",
        help: "of Bot, without the word Bot before it",
        default: None,
        required: true,
    }],
    guide: "Create an application at https://discord.com/developers/applications; copy its application id, its public key and\n\
            the token of its bot.\n\
            Install it with the scopes bot and applications.commands, and the permissions View Channels and Send Messages;\n\
            whoever is to be asked in private has to be in a server with the bot.\n\
            Register the global command with the bot token, POST /applications/<application id>/commands:\n\
            {\"name\": \"countersign\", \"description\": \"Link this account, or answer\", \"options\": [{\"type\": 3, \"name\": \"words\",\n\
            \"description\": \"link CODE, approve CODE or deny CODE because\", \"required\": true}]}\n\
            With inbound=webhook, the Interactions Endpoint URL is: {hook}\n\
            With inbound=gateway, leave that empty: else Discord calls it, and says nothing over the gateway",
    manifest: None,
    open: |configuration| Ok(Box::new(Discord::open(&configuration)?)),
};

#[derive(Clone)]
struct Discord {
    base: String,
    application: String,
    bot_token: Secret,
    /// The token with the scheme that Discord has for bots.
    authorization: Secret,
    inbound: Way,
}

/// How Discord reaches us.
#[derive(Clone)]
enum Way {
    Gateway { domain: String },
    Webhook { public_key: String },
}

/// All text displays of a message hold 4,000 characters together. They are counted in UTF-16 units, of which there are never
/// fewer than characters.
const MESSAGE: usize = 4000;
const BODY_ROOM: usize = 3500;
const BODY_ROWS: usize = 60;
/// Plain content holds 2,000; a fence that is written out is eight characters instead of three.
const WORDS: usize = 700;

/// Discord blocks clients that do not say in this form what they are.
const AGENT: &str =
    concat!("DiscordBot (https://countersign.invalid, ", env!("CARGO_PKG_VERSION"), ")");

const COMPONENTS_V2: u64 = 1 << 15;
const EPHEMERAL: u64 = 1 << 6;
const SUPPRESS_EMBEDS: u64 = 1 << 2;

impl Discord {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        let public_key = configuration.setting("public_key");
        let inbound = match configuration.setting("inbound").as_str() {
            "gateway" => Way::Gateway { domain: configuration.setting("gateway_domain") },
            "webhook" if hex::decode(&public_key).is_ok_and(|key| key.len() == 32) => {
                Way::Webhook { public_key }
            }
            "webhook" => {
                let why =
                    "public_key is not 64 hexadecimal digits: copy it from General Information";
                return Err(Unfit(why.into()));
            }
            other => return Err(Unfit(format!("inbound is webhook or gateway, not {other:?}"))),
        };
        let bot_token = configuration.secret("bot_token")?;
        Ok(Self {
            base: configuration.base("base_url"),
            application: configuration.setting("application"),
            authorization: Secret::new(format!("Bot {}", bot_token.expose())),
            bot_token,
            inbound,
        })
    }

    fn call(&self, method: Method, path: &str, body: &Value) -> Call {
        let auth = Auth::Header(AUTHORIZATION, self.authorization.clone());
        named(Call::json(method, format!("{}/{path}", self.base), body, auth))
    }

    fn interaction(&self, body: &Value) -> Result<Heard, Forged> {
        // One key is one application's; its interactions name it all the same.
        if body["application_id"] != *self.application {
            return Err(Forged::Signature);
        }
        match body["type"].as_u64().ok_or(Forged::Shape)? {
            1 => Ok(Heard::Challenge(Reply::json(&json!({ "type": 1 })))),
            2 => command(body),
            3 => component(body),
            _ => Ok(Heard::Nothing),
        }
    }
}

impl Adapter for Discord {
    fn caps(&self) -> Caps {
        let (wire, evidence) = match self.inbound {
            Way::Gateway { .. } => (Wire::Socket, Evidence::TransportOnly),
            Way::Webhook { .. } => (Wire::Webhook, Evidence::Asymmetric),
        };
        Caps {
            buttons: true,
            edit: true,
            keyed_send: true,
            wire,
            evidence,
            per_second: 50.0,
            per_second_and_place: 1.0,
            burst: 1,
        }
    }

    fn converse(&self, user: &User) -> Option<Call> {
        Some(self.call(POST, "users/@me/channels", &json!({ "recipient_id": user.id })))
    }

    fn conversed(&self, answer: &Answer) -> Result<String, Failure> {
        answer.done()?;
        read(&answer.json()["id"])
    }

    /// Within a few minutes, the same nonce is the same message: it is returned, and no other one is made.
    fn post(&self, place: &str, notice: &Notice<'_>, key: &str) -> Result<Outgoing, TooLarge> {
        let mut body = rendered(notice)?;
        body["nonce"] = nonce(key).into();
        body["enforce_nonce"] = true.into();
        Ok(self.call(POST, &format!("channels/{}/messages", segment(place)), &body).into())
    }

    fn posted(&self, _place: &str, answer: &Answer) -> Result<Message, Failure> {
        answer.done()?;
        let body = answer.json();
        Ok(Message { place: read(&body["channel_id"])?, id: read(&body["id"])? })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        let path =
            format!("channels/{}/messages/{}", segment(&message.place), segment(&message.id));
        Some(rendered(notice).map(|body| self.call(Method::PATCH, &path, &body)))
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        // Unknown channel, unknown message.
        let gone = answer.status == StatusCode::NOT_FOUND
            && [10003, 10008].iter().any(|code| answer.json()["code"] == *code);
        if gone { Ok(()) } else { answer.done() }
    }

    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing {
        let mut body = quiet(words, SUPPRESS_EMBEDS);
        if let Some(message) = under.filter(|message| !message.id.is_empty()) {
            body["message_reference"] =
                json!({ "message_id": message.id, "fail_if_not_exists": false });
        }
        self.call(POST, &format!("channels/{}/messages", segment(place)), &body).into()
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        let Way::Webhook { public_key } = &self.inbound else { return Err(Forged::Shape) };
        if inbound.method != Method::POST {
            return Err(Forged::Shape);
        }
        let at = inbound.header("x-signature-timestamp").ok_or(Forged::Stale)?;
        let signature = inbound.header("x-signature-ed25519").ok_or(Forged::Signature)?;
        verify::ed25519_hex(public_key, &[at.as_bytes(), inbound.body], signature)?;
        verify::fresh(at, now)?;
        self.interaction(&serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)?)
    }

    /// An answer that was taken shows on the card; one that was not is told to whoever gave it, and the card stays.
    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let tap = matches!(said.what, What::Tap(_));
        match outcome {
            Outcome::Taken(_) if tap => (Reply::json(&json!({ "type": 6 })), None),
            Outcome::Refused(words) | Outcome::Taken(words) => (private(words), None),
        }
    }

    fn socket(&self) -> Option<Box<dyn Conversation>> {
        let Way::Gateway { domain } = &self.inbound else { return None };
        Some(Box::new(Gateway::new(self.clone(), domain.clone())))
    }
}

/// The gateway. Interactions come over it to whoever has no endpoint for them, with no intent needed; what is replied to them
/// goes by a call, and the number of the last event with every beat.
struct Gateway {
    discord: Discord,
    domain: String,
    /// What a broken connection can be taken up with; from when it was begun until Discord has answered, it is in `resuming`.
    session: Option<Session>,
    resuming: Option<Session>,
    /// The number of the last event.
    sequence: Option<u64>,
    /// A beat that was not answered yet.
    unanswered: bool,
}

struct Session {
    id: String,
    url: Address,
}

/// Without intents, nothing comes but what concerns the application itself.
const NO_INTENTS: u64 = 0;
/// Longer than any that Discord has said; a shorter one than a second is no interval.
const BEATS: std::ops::RangeInclusive<u64> = 1_000..=600_000;

impl Gateway {
    fn new(discord: Discord, domain: String) -> Self {
        Self { discord, domain, session: None, resuming: None, sequence: None, unanswered: false }
    }

    fn hello(&self, interval: &Value) -> Vec<Step> {
        let Some(interval) = interval.as_u64().filter(|it| BEATS.contains(it)) else {
            return vec![Step::Leave(Ok(()))];
        };
        let token = self.discord.bot_token.expose();
        let greeting = match &self.resuming {
            Some(Session { id, .. }) => json!({
                "op": 6,
                "d": { "token": token, "session_id": id, "seq": self.sequence },
            }),
            None => json!({
                "op": 2,
                "d": {
                    "token": token,
                    "intents": NO_INTENTS,
                    "properties": {
                        "os": std::env::consts::OS, "browser": "countersign", "device": "countersign",
                    },
                },
            }),
        };
        vec![Step::Beat(Duration::from_millis(interval)), frame(&greeting)]
    }

    fn event(&mut self, event: &Value) -> Vec<Step> {
        // Whatever event comes first, the session was taken up.
        self.session = self.session.take().or_else(|| self.resuming.take());
        self.sequence = event["s"].as_u64().or(self.sequence);
        let body = &event["d"];
        match event["t"].as_str().unwrap_or_default() {
            "READY" => {
                let url = body["resume_gateway_url"].as_str().unwrap_or_default();
                // Without one of Discord's own, the next connection starts anew.
                let url = Address::parse(&addressed(url), &self.domain).ok();
                let id = text(&body["session_id"]).ok();
                self.session = id.zip(url).map(|(id, url)| Session { id, url });
                vec![]
            }
            "INTERACTION_CREATE" => {
                let to = answered(body);
                let heard = to.and_then(|to| Ok((self.discord.interaction(body)?, to)));
                match heard {
                    Ok((heard, to)) => vec![Step::Heard { heard: Ok(heard), to }],
                    Err(forged) => {
                        vec![Step::Heard { heard: Err(forged), to: Secret::new(String::new()) }]
                    }
                }
            }
            _ => vec![],
        }
    }

    fn pulse(&self) -> Step {
        frame(&json!({ "op": 1, "d": self.sequence }))
    }

    fn forget(&mut self) {
        (self.session, self.resuming, self.sequence) = (None, None, None);
    }
}

impl Conversation for Gateway {
    fn begin(&mut self) -> Begin {
        self.unanswered = false;
        self.resuming = self.session.take();
        match &self.resuming {
            Some(session) => Begin::At(session.url.clone()),
            None => {
                self.forget();
                let url = format!("{}/gateway/bot", self.discord.base);
                let auth = Auth::Header(AUTHORIZATION, self.discord.authorization.clone());
                Begin::Ask(named(Call::get(url, auth)))
            }
        }
    }

    fn found(&self, answer: &Answer) -> Result<Address, Failure> {
        answer.done()?;
        let body = answer.json();
        let limit = &body["session_start_limit"];
        if limit["remaining"] == 0 {
            // Who starts more of them than that, has its token taken away.
            let after = limit["reset_after"].as_u64().map(Duration::from_millis);
            return Err(Failure::Later {
                after,
                why: "Discord allows no more sessions today".into(),
            });
        }
        Address::parse(&addressed(body["url"].as_str().unwrap_or_default()), &self.domain)
    }

    fn heard(&mut self, text: &str) -> Vec<Step> {
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            return vec![Step::Leave(Ok(()))];
        };
        match event["op"].as_u64() {
            Some(0) => self.event(&event),
            Some(1) => vec![self.pulse()],
            Some(7) => vec![Step::Leave(Ok(()))],
            Some(9) => {
                if event["d"] == true {
                    self.session = self.session.take().or_else(|| self.resuming.take());
                } else {
                    self.forget();
                }
                vec![Step::Leave(Ok(()))]
            }
            Some(10) => self.hello(&event["d"]["heartbeat_interval"]),
            Some(11) => {
                self.unanswered = false;
                vec![]
            }
            _ => vec![],
        }
    }

    fn answer(&self, to: &Secret, reply: &Reply) -> Option<Step> {
        let (id, token) = to.expose().split_once(' ').unwrap_or_default();
        let url = format!("{}/interactions/{id}/{{secret}}/callback", self.discord.base);
        let body = serde_json::from_str(&reply.body).ok()?;
        let auth = Auth::InPath(Secret::new(token.to_owned()));
        Some(Step::Call(named(Call::json(POST, url, &body, auth))))
    }

    /// A connection over which the last beat was not answered is dead, whatever TCP says.
    fn beat(&mut self) -> Step {
        match std::mem::replace(&mut self.unanswered, true) {
            true => Step::Leave(Ok(())),
            false => self.pulse(),
        }
    }

    fn closed(&mut self, code: Option<u16>) -> Result<(), Failure> {
        let why = match code {
            // The sequence is wrong, or the session too old.
            Some(4007 | 4009) => {
                self.forget();
                return Ok(());
            }
            Some(4004) => "the secret bot_token is wrong",
            Some(4010 | 4011) => {
                "Discord wants this bot in shards, which is for bots in thousands of servers"
            }
            Some(4012..=4014) => "Discord does not take how we connect",
            _ => return Ok(()),
        };
        self.forget();
        Err(Failure::Never { why: why.into() })
    }
}

/// What a reply goes back by: the interaction's id and token, as they stand in an address.
fn answered(interaction: &Value) -> Result<Secret, Forged> {
    let (id, token) = (text(&interaction["id"])?, text(&interaction["token"])?);
    // Dots alone would be another path, even encoded.
    if [&id, &token].iter().any(|it| it.bytes().all(|b| b == b'.')) {
        return Err(Forged::Shape);
    }
    Ok(Secret::new(format!("{} {}", segment(&id), segment(&token))))
}

/// An address of the gateway, with the version and the encoding that we speak.
fn addressed(url: &str) -> String {
    format!("{}/?v=10&encoding=json", url.trim_end_matches('/'))
}

fn frame(event: &Value) -> Step {
    Step::Send(Secret::new(event.to_string()))
}

fn named(mut call: Call) -> Call {
    call.headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    call
}

/// A button.
fn component(body: &Value) -> Result<Heard, Forged> {
    let Some(token) = text(&body["data"]["custom_id"]).ok().as_deref().and_then(Token::parse)
    else {
        return Ok(Heard::Nothing);
    };
    let message = Message { place: text(&body["channel_id"])?, id: text(&body["message"]["id"])? };
    said(body, What::Tap(token), message)
}

/// `/countersign link CODE`: one option of text.
fn command(body: &Value) -> Result<Heard, Forged> {
    let message = Message { place: text(&body["channel_id"])?, id: String::new() };
    let options = body["data"]["options"].as_array().map_or(&[][..], Vec::as_slice);
    let typed = match options {
        [only] if only["type"] == 3 => only["value"].as_str().and_then(Typed::find),
        _ => None,
    };
    match typed {
        Some(typed) => said(body, What::Typed(typed), message),
        None => Ok(Heard::Challenge(private(&Text::of(
            "say: link CODE, or approve CODE, or deny CODE because …",
        )))),
    }
}

fn said(body: &Value, what: What, message: Message) -> Result<Heard, Forged> {
    // In a server there is a member, elsewhere a user; an id is one account's all over Discord.
    let users = (&body["member"]["user"], &body["user"]);
    let ((Value::Null, user) | (user, Value::Null)) = users else {
        return Err(Forged::Shape);
    };
    let by = User { tenant: String::new(), id: text(&user["id"])? };
    if user["bot"] == true {
        return Ok(Heard::Nothing);
    }
    let event = text(&body["id"])?;
    Ok(Heard::Said(vec![Said { by, what, message, event, reply_to: String::new() }]))
}

fn rendered(notice: &Notice<'_>) -> Result<Value, TooLarge> {
    notice.card.body.fitted(BODY_ROOM, BODY_ROWS, |excerpt| {
        let text = face(notice, excerpt);
        (text.encode_utf16().count() <= MESSAGE).then(|| message(notice, excerpt, &text))
    })
}

fn message(notice: &Notice<'_>, excerpt: &Excerpt, text: &str) -> Value {
    let mut components = vec![json!({ "type": 10, "content": text })];
    if let Some(answers) = notice.buttons(excerpt.whole) {
        let button = |label: &str, style: u8, token: &Token| json!({ "type": 2, "label": label, "style": style, "custom_id": token.as_str() });
        let buttons = [button("Approve", 3, &answers.approve), button("Deny", 4, &answers.deny)];
        components.push(json!({ "type": 1, "components": buttons }));
    }
    json!({ "components": components, "flags": COMPONENTS_V2, "allowed_mentions": { "parse": [] } })
}

/// A text display, in which Discord reads markup save between fences. Only our own words are outside of them.
fn face(notice: &Notice<'_>, excerpt: &Excerpt) -> String {
    let head = notice.head(excerpt.whole);
    let head = fenced(&head);
    let body = fenced(std::iter::once(&excerpt.label).chain(&excerpt.lines));
    format!("{}\n{head}\n{body}", notice.title())
}

fn quiet(words: &Text, flags: u64) -> Value {
    let content = fenced([&words.within(WORDS)]);
    json!({ "content": content, "flags": flags, "allowed_mentions": { "parse": [], "replied_user": false } })
}

fn private(words: &Text) -> Reply {
    Reply::json(&json!({ "type": 4, "data": quiet(words, EPHEMERAL | SUPPRESS_EMBEDS) }))
}

/// At most 25 characters that stand for a delivery.
fn nonce(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(key)[..18])
}

fn text(value: &Value) -> Result<String, Forged> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or(Forged::Shape)
}

fn read(value: &Value) -> Result<String, Failure> {
    text(value)
        .map_err(|_| Failure::Never { why: "Discord's answer does not name the message".into() })
}
