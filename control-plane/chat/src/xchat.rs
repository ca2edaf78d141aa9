//! XChat: X's direct messages that are encrypted from end to end, answered with a typed code.
//!
//! docs.x.com: "Chat API" (introduction, getting started, real-time events) and its OpenAPI: `GET /2/users/{id}/public_keys`,
//! `GET …/chat/conversations/{id}/events`, `POST …/keys`, `POST …/messages`, and `chat.received` of the X Activity API. What
//! is inside of these is the Chat XDK's, in `keys`, `event` and `thrift`. Its crate is on no registry, so it judges the
//! tests and is not linked.
//!
//! The account's private keys are exported from that SDK, once. Kept with a passcode (Juicebox), they open for nothing but
//! an SDK of X's, so that way is not taken. Public keys are whose X says they are: it could put others in their place, and
//! answers are signed by their holder all the same.
//!
//! A conversation's key is the newest one that either side has signed; where there is none, one is thrown, wrapped for both
//! and announced. Messages can be edited, and stay as they were sent: an edit that overtakes its message hides that for
//! good, as the Chat SDK's adapter found out.

mod event;
mod keys;
mod thrift;

use std::time::{SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use self::event::{Detail, Draft, Event, Hand};
use self::keys::{ConversationKey, Identity};
use crate::card::Notice;
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::plain::Plain;
use crate::platform::{
    Acquaintance, Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome,
    POST, Platform, Said, Setting, TooLarge, Unfit, User, What, segment,
};
use crate::secret::{Chance, Secret};
use crate::text::Text;
use crate::typed::Typed;
use crate::{verify, x};

pub(crate) static PLATFORM: Platform = Platform {
    name: "xchat",
    title: "X, encrypted (XChat)",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the API is, with its version",
            default: Some("https://api.x.com/2"),
            required: false,
        },
        Setting {
            name: "account_id",
            help: "the numeric id of the account that sends: what is written to another is not heard",
            default: None,
            required: true,
        },
        Setting {
            name: "public_key_version",
            help: "of that account's registered keys, as POST /2/users/{id}/public_keys answered",
            default: None,
            required: true,
        },
    ],
    secrets: &[
        Setting {
            name: "access_token",
            help: "of that account, as a user: OAuth 2.0 with dm.write, dm.read, tweet.read and users.read",
            default: None,
            required: true,
        },
        Setting {
            name: "consumer_secret",
            help: "the app's API secret key: webhooks are signed with it",
            default: None,
            required: true,
        },
        Setting {
            name: "private_keys",
            help: "both private keys of that account as chat-xdk's export_keys gives them, in base64",
            default: None,
            required: true,
        },
    ],
    guide: "Create an app at https://console.x.com that may read, write and send direct messages.\n\
            Let the account authorise it with dm.write, dm.read, tweet.read and users.read. X's user tokens are good for two\n\
            hours: whatever renews this one has to set the secret anew.\n\
            Make the account's keys with X's own SDK (pip install chatxdk), on a machine that you trust:\n\
            chat = chat_xdk.Chat(); made = chat.generate_keypairs(); keys = base64.b64encode(chat.export_keys())\n\
            POST what it made to /2/users/{id}/public_keys; the version in the answer is public_key_version, and keys are\n\
            private_keys. Registering others ends every conversation that this account has: do it once, for one account\n\
            that nobody else uses. Keys under a passcode (Juicebox) are no use here: export them.\n\
            Register {hook} with POST /2/webhooks, and subscribe it to chat.received of the account.\n\
            Each person sets up encrypted chat in their X app, and accepts the conversation. Only conversations of two are\n\
            heard.",
    manifest: None,
    open: |configuration| Ok(Box::new(XChat::open(&configuration)?)),
};

struct XChat {
    base: String,
    account: String,
    version: String,
    access_token: Secret,
    consumer_secret: Secret,
    keys: Identity,
}

/// X publishes no length for encrypted messages: they are kept to that of the others.
const MESSAGE: Plain = x::MESSAGE;
/// Nor a rate for them.
const PER_SECOND: f64 = x::PER_SECOND;
const BURST: u32 = x::BURST;
/// The newest keys of a conversation come with whichever of its events are asked for.
const EVENTS: u32 = 20;

impl XChat {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        let number = |name: &str| {
            let value = configuration.setting(name);
            if is_number(&value) {
                Ok(value)
            } else {
                Err(Unfit(format!("{name} is no number of X's: {value:?}")))
            }
        };
        Ok(Self {
            base: configuration.base("base_url"),
            account: number("account_id")?,
            version: number("public_key_version")?,
            access_token: configuration.secret("access_token")?,
            consumer_secret: configuration.secret("consumer_secret")?,
            keys: Identity::parse(&configuration.secret("private_keys")?)?,
        })
    }

    fn auth(&self) -> Auth {
        Auth::Bearer(self.access_token.clone())
    }

    fn url(&self, place: &str, of: &str) -> String {
        format!("{}/chat/conversations/{}/{of}", self.base, segment(place))
    }

    /// In the clear as yet.
    fn call(&self, place: &str, text: &str, message: Option<String>) -> Call {
        let body = json!({ "text": text, "message_id": message });
        let auth = Auth::Sealed { place: place.to_owned(), token: self.access_token.clone() };
        Call::json(POST, self.url(place, "messages"), &body, auth)
    }

    fn events(&self, place: &str) -> Call {
        let query = format!("events?max_results={EVENTS}&chat_message_event.fields=encoded_event");
        Call::get(self.url(place, &query), self.auth())
    }

    fn public_keys(&self, user: &str) -> Call {
        let fields =
            "identity_public_key_signature,public_key,public_key_version,signing_public_key";
        let user = segment(user);
        let url = format!("{}/users/{user}/public_keys?public_key.fields={fields}", self.base);
        Call::get(url, self.auth())
    }

    /// Whoever answers with this account.
    fn hand(&self) -> Hand<'_> {
        Hand { account: &self.account, version: &self.version, keys: &self.keys }
    }

    /// A conversation's key of this version, or the newest: one that the person or this account has signed for it.
    fn key(
        &self,
        person: &Person<'_>,
        changes: &[Event],
        version: Option<&str>,
    ) -> Option<(String, ConversationKey)> {
        let conversation = conversation(&self.account, person.id);
        let ours = [self.keys.public(&self.version)];
        let genuine = changes.iter().filter_map(|event| {
            let Detail::KeyChange(change) = &event.detail else { return None };
            let key = change.key(&self.account, &self.version, &self.keys)?;
            let theirs = if event.sender == self.account { &ours[..] } else { &person.keys[..] };
            let known = [self.account.as_str(), person.id].contains(&event.sender.as_str());
            let signed = theirs.iter().any(|keys| event.is_signed_by(keys, Some(&key)));
            let fits = event.conversation == conversation
                && version.is_none_or(|version| version == change.key_version);
            let at = change.key_version.parse::<u64>().ok()?;
            (known && signed && fits).then(|| (at, change.key_version.clone(), key))
        });
        let newest = genuine.max_by_key(|(at, ..)| *at)?;
        Some((newest.1, newest.2))
    }

    /// A key of our own for a conversation that has none.
    fn announce(
        &self,
        person: &Person<'_>,
        changes: &[Event],
        chance: &Chance,
        now: SystemTime,
    ) -> Result<Call, Failure> {
        let their_keys = person.newest().ok_or_else(|| Failure::Never {
            why: "nothing was sent: this person has not set up encrypted chat on X".into(),
        })?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let there = changes.iter().filter_map(|event| match &event.detail {
            Detail::KeyChange(change) => change.key_version.parse::<u64>().ok(),
            _ => None,
        });
        let after = there.max().map_or(0, |newest| newest.saturating_add(1));
        let version = u64::try_from(since).unwrap_or(u64::MAX).max(after).to_string();
        let [key, first, second] = chance.parts();
        let draft = Draft {
            message: &uuid(&version, person.id),
            conversation: &conversation(&self.account, person.id),
            key: &Zeroizing::new(*key),
            key_version: &version,
        };
        let ours = self.keys.public(&self.version);
        let people = [(self.account.as_str(), &ours, first), (person.id, their_keys, second)];
        let body = draft.announced(&people, &self.hand()).ok_or_else(unable)?;
        Ok(Call::json(POST, self.url(person.id, "keys"), &body, self.auth()))
    }

    /// What was asked about a conversation so far.
    fn met<'a>(
        &self,
        place: &'a str,
        known: &[Answer],
    ) -> Result<(Person<'a>, Vec<Event>), Failure> {
        let [events, public_keys, ..] = known else { return Err(unable()) };
        let person = Person::read(place, public_keys)?;
        let newest = if let [_, _, _, events] = known { events } else { events };
        Ok((person, key_changes(newest)?))
    }
}

impl Adapter for XChat {
    fn caps(&self) -> Caps {
        Caps {
            buttons: false,
            edit: false,
            keyed_send: false,
            wire: Wire::Webhook,
            evidence: Evidence::Asymmetric,
            per_second: PER_SECOND,
            per_second_and_place: 1.0,
            burst: BURST,
        }
    }

    fn acquaint(
        &self,
        place: &str,
        known: &[Answer],
        chance: &Chance,
        now: SystemTime,
    ) -> Result<Acquaintance, Failure> {
        let asked = match known {
            [] => self.events(place),
            [_] => self.public_keys(place),
            [_, _] | [_, _, _, _] => {
                let (person, changes) = self.met(place, known)?;
                match (self.key(&person, &changes, None), known.len()) {
                    (Some(_), _) => return Ok(Acquaintance::Made),
                    (None, 2) => self.announce(&person, &changes, chance, now)?,
                    _ => {
                        return Err(Failure::Later {
                            after: None,
                            why: "X does not give back the key that was announced to it".into(),
                        });
                    }
                }
            }
            [_, _, announced] => {
                x::accepted(announced)?;
                self.events(place)
            }
            _ => return Err(unable()),
        };
        Ok(Acquaintance::Ask(Box::new(asked)))
    }

    fn seal(&self, call: Call, known: &[Answer], chance: &Chance) -> Result<Call, Failure> {
        let Auth::Sealed { place, token } = call.auth else { return Err(unable()) };
        let (person, changes) = self.met(&place, known)?;
        let (version, key) = self.key(&person, &changes, None).ok_or_else(unable)?;
        let said: Value = serde_json::from_slice(&call.body).map_err(|_| unable())?;
        let [nonce, id, _] = chance.parts();
        let thrown = uuid_of(&id[..16]);
        let draft = Draft {
            message: said["message_id"].as_str().unwrap_or(&thrown),
            conversation: &conversation(&self.account, &place),
            key: &key,
            key_version: &version,
        };
        let nonce = nonce.first_chunk().ok_or_else(unable)?;
        let words = said["text"].as_str().ok_or_else(unable)?;
        let body = draft.written(words, &self.hand(), nonce).ok_or_else(unable)?;
        Ok(Call { body: body.to_string().into(), auth: Auth::Bearer(token), ..call })
    }

    fn post(&self, place: &str, notice: &Notice<'_>, key: &str) -> Result<Outgoing, TooLarge> {
        let message = uuid(key, place);
        Ok(self.call(place, &MESSAGE.lines(notice)?.text, Some(message)).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        x::accepted(answer)?;
        let answer = answer.json();
        let sent = answer["data"]["encoded_message_event"].as_str().and_then(Event::parse);
        let sent = sent
            .ok_or_else(|| Failure::Never { why: "X's answer does not name the message".into() })?;
        Ok(Message { place: place.to_owned(), id: sent.message })
    }

    fn say(&self, place: &str, _under: Option<&Message>, words: &Text) -> Outgoing {
        self.call(place, &(MESSAGE.written)(words), None).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        x::accepted(answer)
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method == Method::GET {
            return x::challenge(&self.consumer_secret, inbound).map(Heard::Challenge);
        }
        let body = x::verified(&self.consumer_secret, inbound)?;
        let data = &body["data"];
        let of_another = data["filter"]["user_id"].as_str().is_some_and(|it| it != self.account);
        if data["event_type"] != "chat.received" || of_another {
            return Ok(Heard::Nothing);
        }
        let encoded = data["payload"]["encoded_event"].as_str().ok_or(Forged::Shape)?;
        let event = Event::parse(encoded).ok_or(Forged::Shape)?;
        let Detail::Message(message) = &event.detail else { return Ok(Heard::Nothing) };
        // A group has an id of its own; and an app can have other accounts beside this one.
        if !is_number(&event.sender)
            || event.sender == self.account
            || event.conversation != conversation(&self.account, &event.sender)
        {
            return Ok(Heard::Nothing);
        }
        verify::fresh_at(event.at.ok_or(Forged::Stale)? / 1000, now)?;
        let brought = data["payload"]["conversation_key_change_event"].as_str();
        let changes = brought.filter(|change| {
            Event::parse(change).is_some_and(|event| match &event.detail {
                Detail::KeyChange(change) => change.key_version == message.key_version,
                _ => false,
            })
        });
        let named = json!({ "event": encoded, "changes": changes.map(|change| [change]) });
        Ok(Heard::Named(named.to_string()))
    }

    /// The keys of the conversation, unless they came along; and those of whoever has written.
    fn fetch(&self, named: &str) -> Option<Call> {
        let named: Value = serde_json::from_str(named).ok()?;
        let sender = Event::parse(named["event"].as_str()?)?.sender;
        Some(match named["changes"].is_null() {
            true => self.events(&sender),
            false => self.public_keys(&sender),
        })
    }

    fn fetched(&self, named: &str, answer: &Answer) -> Result<Heard, Failure> {
        let named: Value = serde_json::from_str(named).map_err(|_| unable())?;
        let encoded = named["event"].as_str().ok_or_else(unable)?;
        let event = Event::parse(encoded).ok_or_else(unable)?;
        let Some(changes) = named["changes"].as_array() else {
            let changes = encoded_changes(answer)?;
            return Ok(Heard::Named(json!({ "event": encoded, "changes": changes }).to_string()));
        };
        let person = Person::read(&event.sender, answer)?;
        let Detail::Message(message) = &event.detail else { return Err(unable()) };
        if !person.keys.iter().any(|keys| event.is_signed_by(keys, None)) {
            return Err(Failure::Never {
                why: "a message is not signed with the keys that X has of its sender".into(),
            });
        }
        let changes: Vec<_> = changes.iter().filter_map(|it| Event::parse(it.as_str()?)).collect();
        let key = self.key(&person, &changes, Some(&message.key_version));
        let (_, key) = key.ok_or_else(|| Failure::Never {
            why: "a message is sealed with a key that nobody has signed for its conversation"
                .into(),
        })?;
        let Some(typed) = message.words(&key).as_deref().and_then(Typed::find) else {
            return Ok(Heard::Nothing);
        };
        let by = User { tenant: String::new(), id: event.sender.clone() };
        let on = Message { place: event.sender.clone(), id: event.message.clone() };
        Ok(Heard::Said(vec![Said {
            by,
            what: What::Typed(typed),
            message: on,
            event: event.message,
            reply_to: event.sender,
        }]))
    }

    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let words = (MESSAGE.written)(outcome.words());
        (Reply::empty(StatusCode::OK), Some(self.call(&said.reply_to, &words, None)))
    }
}

/// Somebody, with the keys that X has of them.
struct Person<'a> {
    id: &'a str,
    keys: Vec<keys::Keys>,
}

impl<'a> Person<'a> {
    fn read(id: &'a str, answer: &Answer) -> Result<Self, Failure> {
        x::accepted(answer)?;
        let answer = answer.json();
        let entries = match &answer["data"] {
            Value::Array(entries) => entries.as_slice(),
            one @ Value::Object(_) => std::slice::from_ref(one),
            _ => &[],
        };
        Ok(Self { id, keys: entries.iter().filter_map(keys::Keys::parse).collect() })
    }

    fn newest(&self) -> Option<&keys::Keys> {
        self.keys.iter().max_by_key(|keys| keys.version.parse::<u64>().ok())
    }
}

/// A conversation of two is called by both, the smaller number first.
fn conversation(one: &str, other: &str) -> String {
    let (first, second) =
        if (one.len(), one) <= (other.len(), other) { (one, other) } else { (other, one) };
    format!("{first}:{second}")
}

/// An id of X's: digits without a zero in front.
fn is_number(id: &str) -> bool {
    (1..=20).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_digit()) && !id.starts_with('0')
}

fn key_changes(answer: &Answer) -> Result<Vec<Event>, Failure> {
    Ok(encoded_changes(answer)?.iter().filter_map(|it| Event::parse(it)).collect())
}

/// Those that a page of events comes with, and those among them. Where there is no conversation yet, there are none.
fn encoded_changes(answer: &Answer) -> Result<Vec<String>, Failure> {
    if answer.status != StatusCode::NOT_FOUND {
        x::accepted(answer)?;
    }
    let body = answer.json();
    let listed = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let beside = listed(&body["meta"]["conversation_key_events"]);
    let among = listed(&body["data"]).into_iter().map(|mut event| event["encoded_event"].take());
    let encoded = beside.into_iter().chain(among).filter_map(|event| match event {
        Value::String(encoded) => Some(encoded),
        _ => None,
    });
    let is_change = |encoded: &String| {
        Event::parse(encoded).is_some_and(|event| matches!(event.detail, Detail::KeyChange(_)))
    };
    Ok(encoded.filter(is_change).collect())
}

/// The same for the same two, and nobody else's.
fn uuid(key: &str, place: &str) -> String {
    let digest = Sha256::new().chain_update(key).chain_update([0]).chain_update(place).finalize();
    uuid_of(&digest[..16])
}

/// RFC 9562, version 8 (its bits are our own).
fn uuid_of(bytes: &[u8]) -> String {
    let mut digits = hex::encode(bytes);
    digits.replace_range(12..13, "8");
    digits.replace_range(16..17, "8");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// Nothing of it was sent: something is not what it was a moment ago, or the throw of the dice was of no use.
fn unable() -> Failure {
    Failure::Later { after: None, why: "nothing was sent: the message could not be sealed".into() }
}
