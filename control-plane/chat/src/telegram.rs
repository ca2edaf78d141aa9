//! Telegram: messages of a bot with an inline keyboard; updates by webhook, or asked for.
//!
//! core.telegram.org/bots/api: "Getting updates" (setWebhook, secret_token, getUpdates), sendMessage, editMessageText,
//! MessageEntity, InlineKeyboardButton, answerCallbackQuery; core.telegram.org/bots/faq: 30 messages a second and bot, one a
//! second and chat.

use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::card::{Excerpt, Notice};
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Polled, Said, Setting, TooLarge, Unfit, User, What,
};
use crate::secret::Secret;
use crate::text::Text;
use crate::token::Token;
use crate::typed::Typed;
use crate::verify;

pub(crate) static PLATFORM: Platform = Platform {
    name: "telegram",
    title: "Telegram",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the Bot API is",
            default: Some("https://api.telegram.org"),
            required: false,
        },
        Setting {
            name: "inbound",
            help: "webhook: Telegram calls a node; poll: one node asks Telegram, and needs no address of its own",
            default: Some("webhook"),
            required: false,
        },
    ],
    secrets: &[
        Setting {
            name: "bot_token",
            help: "123456:ABC…, of @BotFather",
            default: None,
            required: true,
        },
        Setting {
            name: "webhook_secret",
            help: "secret_token of setWebhook: A-Z, a-z, 0-9, _ and -, at most 256 of them; needed unless inbound is poll",
            default: None,
            required: false,
        },
    ],
    guide: "Let @BotFather make a bot (/newbot) and copy its token. Everybody who is to be asked writes /start to it once.\n\
            With inbound=webhook, make up a long secret and tell Telegram of it: POST /bot<token>/setWebhook with\n\
            {\"url\": \"{hook}\", \"secret_token\": \"…\", \"allowed_updates\": [\"message\", \"callback_query\"]}\n\
            With inbound=poll, see that no webhook is set: POST /bot<token>/deleteWebhook",
    manifest: None,
    open: |configuration| Ok(Box::new(Telegram::open(&configuration)?)),
};

struct Telegram {
    base: String,
    bot_token: Secret,
    /// The bot's own account: what stands before the colon of its token.
    bot: u64,
    /// None where we ask for updates.
    webhook_secret: Option<Secret>,
}

/// A message holds 4,096 characters, counted as its entities are: in UTF-16 units.
const MESSAGE: usize = 4096;
const BODY_ROOM: usize = 3600;
const BODY_ROWS: usize = 60;
/// What answers a tap holds 200 characters.
const NOTE: usize = 200;

impl Telegram {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        let webhook_secret = match configuration.setting("inbound").as_str() {
            "poll" => None,
            "webhook" => Some(configuration.secret("webhook_secret")?),
            other => return Err(Unfit(format!("inbound is webhook or poll, not {other:?}"))),
        };
        let telegrams = |secret: &str| {
            secret.len() <= 256
                && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        if webhook_secret.as_ref().is_some_and(|secret| !telegrams(secret.expose())) {
            return Err(Unfit(
                "webhook_secret is of A-Z, a-z, 0-9, _ and -, at most 256 of them".into(),
            ));
        }
        let bot_token = configuration.secret("bot_token")?;
        let bot = bot_token.expose().split_once(':').and_then(|(bot, _)| bot.parse().ok());
        let bot = bot.ok_or_else(|| Unfit("bot_token is a number, a colon and more".into()))?;
        Ok(Self { base: configuration.base("base_url"), bot_token, bot, webhook_secret })
    }

    fn call(&self, method: &str, body: &Value) -> Call {
        let url = format!("{}/bot{{secret}}/{method}", self.base);
        Call::json(POST, url, body, Auth::InPath(self.bot_token.clone()))
    }

    /// A message, or a tap on one of ours.
    fn update(&self, update: &Value) -> Result<Option<Said>, Forged> {
        let id = number(&update["update_id"])?;
        let (message, tap) = (&update["message"], &update["callback_query"]);
        if tap.is_object() {
            return self.tap(tap);
        }
        // What is forwarded, or chosen from another bot, somebody else has written.
        let own = ["forward_origin", "via_bot"].iter().all(|of| message[*of].is_null());
        let typed = message["text"].as_str().filter(|_| own).and_then(command);
        let Some(typed) = typed else { return Ok(None) };
        let Some(by) = person(&message["from"])? else { return Ok(None) };
        Ok(Some(Said {
            reply_to: format!("user {}", by.id),
            by,
            what: What::Typed(typed),
            message: place(message)?,
            event: format!("update {id}"),
        }))
    }

    fn tap(&self, tap: &Value) -> Result<Option<Said>, Forged> {
        let token = tap["data"].as_str().and_then(Token::parse);
        let (Some(token), Some(by)) = (token, person(&tap["from"])?) else { return Ok(None) };
        // Telegram says no more of a message that is old, than which one it is: its date is 0.
        let message = &tap["message"];
        if message["date"] != 0 && message["from"]["id"] != self.bot {
            return Err(Forged::Signature);
        }
        let id = tap["id"].as_str().filter(|id| !id.is_empty()).ok_or(Forged::Shape)?;
        Ok(Some(Said {
            by,
            what: What::Tap(token),
            message: place(message)?,
            event: format!("tap {id}"),
            reply_to: format!("tap {id}"),
        }))
    }
}

impl Adapter for Telegram {
    fn caps(&self) -> Caps {
        let (wire, evidence) = match self.webhook_secret {
            Some(_) => (Wire::Webhook, Evidence::StaticSecret),
            None => (Wire::Poll, Evidence::TransportOnly),
        };
        Caps {
            buttons: true,
            edit: true,
            keyed_send: false,
            wire,
            evidence,
            per_second: 30.0,
            per_second_and_place: 1.0,
            burst: 1,
        }
    }

    /// Twenty messages a minute into a group; the ids of groups and channels are negative.
    fn per_second_in(&self, place: &str) -> f64 {
        if place.starts_with(['-', '@']) { 20.0 / 60.0 } else { 1.0 }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        let mut body = rendered(notice)?;
        body["chat_id"] = place.into();
        Ok(self.call("sendMessage", &body).into())
    }

    fn posted(&self, _place: &str, answer: &Answer) -> Result<Message, Failure> {
        let body = accepted(answer)?;
        place(&body["result"]).map_err(|_| Failure::Never {
            why: "Telegram's answer does not name the message".into(),
        })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        // Ours are numbers: another id is of no message there.
        let id = message.id.parse::<u64>().unwrap_or_default();
        Some(rendered(notice).map(|mut body| {
            body["chat_id"] = message.place.as_str().into();
            body["message_id"] = id.into();
            self.call("editMessageText", &body)
        }))
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        let body = answer.json();
        let why = body["description"].as_str().unwrap_or_default();
        let as_it_is =
            ["message is not modified", "message to edit not found", "MESSAGE_ID_INVALID"];
        if as_it_is.iter().any(|it| why.contains(it)) {
            return Ok(());
        }
        accepted(answer).map(drop)
    }

    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing {
        let mut body = addressed(place, words);
        if let Some(id) = under.and_then(|message| message.id.parse::<u64>().ok()) {
            body["reply_parameters"] =
                json!({ "message_id": id, "allow_sending_without_reply": true });
        }
        self.call("sendMessage", &body).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer).map(drop)
    }

    /// There is no signature and no time: a secret that Telegram repeats is all that tells it from others.
    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, _now: SystemTime) -> Result<Heard, Forged> {
        let secret = self.webhook_secret.as_ref().ok_or(Forged::Shape)?;
        if inbound.method != Method::POST {
            return Err(Forged::Shape);
        }
        let header = inbound.header("x-telegram-bot-api-secret-token");
        verify::static_secret(secret, header.ok_or(Forged::Signature)?)?;
        let update = serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)?;
        Ok(self.update(&update)?.map_or(Heard::Nothing, |said| Heard::Said(vec![said])))
    }

    /// A tap is answered on the button itself; words by the bot in private.
    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let words = outcome.words();
        let call = match said.reply_to.split_once(' ') {
            Some(("tap", id)) => {
                let refused = matches!(outcome, Outcome::Refused(_));
                let note = words.within(NOTE);
                let body = json!({ "callback_query_id": id, "text": note.as_str(), "show_alert": refused });
                Some(self.call("answerCallbackQuery", &body))
            }
            Some(("user", id)) => Some(self.call("sendMessage", &addressed(id, words))),
            _ => None,
        };
        (Reply::empty(StatusCode::OK), call)
    }

    /// Asking from an update on confirms those before it. From nowhere, it is from the first that was not confirmed.
    fn poll(&self, since: Option<&str>) -> Option<Call> {
        if self.webhook_secret.is_some() {
            return None;
        }
        let mut body = json!({ "timeout": 10, "allowed_updates": ["message", "callback_query"] });
        if let Some(offset) = since.and_then(|since| since.parse::<u64>().ok()) {
            body["offset"] = offset.into();
        }
        Some(self.call("getUpdates", &body))
    }

    fn polled(&self, answer: &Answer) -> Result<Polled, Failure> {
        let body = accepted(answer)?;
        let updates = body["result"].as_array().map_or(&[][..], Vec::as_slice);
        // What is no update of ours is passed over: else it would be asked for for ever.
        let said = updates.iter().filter_map(|update| self.update(update).ok().flatten()).collect();
        let last = updates.iter().filter_map(|update| update["update_id"].as_u64()).max();
        Ok(Polled { said, since: last.map_or_else(String::new, |last| (last + 1).to_string()) })
    }
}

fn rendered(notice: &Notice<'_>) -> Result<Value, TooLarge> {
    notice.card.body.fitted(BODY_ROOM, BODY_ROWS, |excerpt| message(notice, excerpt))
}

/// Only our own title is outside of preformatted text, in which Telegram looks for no mentions, links or commands.
fn message(notice: &Notice<'_>, excerpt: &Excerpt) -> Option<Value> {
    let joined = |lines: &[Text]| lines.iter().map(Text::as_str).collect::<Vec<_>>().join("\n");
    let title = notice.title();
    let head = joined(&notice.head(excerpt.whole));
    let mut body = vec![excerpt.label.clone()];
    body.extend(excerpt.lines.iter().cloned());
    let body = joined(&body);
    let (first, second) = (units(title) + 1, units(title) + 1 + units(&head) + 1);
    let entities = json!([
        { "type": "bold", "offset": 0, "length": units(title) },
        { "type": "pre", "offset": first, "length": units(&head) },
        { "type": "pre", "offset": second, "length": units(&body) },
    ]);
    let answers = notice.buttons(excerpt.whole);
    let keyboard: Vec<_> = answers.into_iter().map(|answers| {
        let button = |label: &str, token: &Token| json!({ "text": label, "callback_data": token.as_str() });
        [button("Approve", &answers.approve), button("Deny", &answers.deny)]
    }).collect();
    (second + units(&body) <= MESSAGE).then(|| {
        json!({
            "text": format!("{title}\n{head}\n{body}"),
            "entities": entities,
            "link_preview_options": { "is_disabled": true },
            "reply_markup": { "inline_keyboard": keyboard },
        })
    })
}

fn addressed(place: &str, words: &Text) -> Value {
    let words = words.within(MESSAGE);
    json!({
        "chat_id": place,
        "text": words.as_str(),
        "entities": [{ "type": "pre", "offset": 0, "length": units(words.as_str()) }],
        "link_preview_options": { "is_disabled": true },
    })
}

/// How Telegram counts characters.
fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// In a group, a command is for the bot whose name stands behind it: `/link@the_bot CODE`.
fn command(text: &str) -> Option<Typed> {
    let (verb, rest) = text.split_once(' ')?;
    let bare = verb.split_once('@').filter(|(bare, _)| bare.starts_with('/'));
    Typed::find(&format!("{} {rest}", bare.map_or(verb, |(bare, _)| bare)))
}

/// An account's id is the same everywhere on Telegram; other bots are nobody.
fn person(from: &Value) -> Result<Option<User>, Forged> {
    let id = number(&from["id"])?;
    Ok((from["is_bot"] != true).then_some(User { tenant: String::new(), id }))
}

fn place(message: &Value) -> Result<Message, Forged> {
    Ok(Message { place: number(&message["chat"]["id"])?, id: number(&message["message_id"])? })
}

fn number(value: &Value) -> Result<String, Forged> {
    value.as_i64().map(|number| number.to_string()).ok_or(Forged::Shape)
}

/// What was wrong, and when to try again, stands in the body.
fn accepted(answer: &Answer) -> Result<Value, Failure> {
    let body = answer.json();
    let said = Text::of(body["description"].as_str().unwrap_or("no reason"));
    match answer.done() {
        Ok(()) if body["ok"] == true => Ok(body),
        // Another node has asked for updates just now, or a webhook is set.
        Err(_) if answer.status == StatusCode::CONFLICT => {
            Err(Failure::Later { after: None, why: format!("Telegram refused it: {said}") })
        }
        Err(Failure::Later { after, why }) => {
            let seconds = body["parameters"]["retry_after"].as_u64().map(Duration::from_secs);
            Err(Failure::Later { after: seconds.or(after), why: format!("{why}: {said}") })
        }
        _ => Err(Failure::Never { why: format!("Telegram refused it: {said}") }),
    }
}
