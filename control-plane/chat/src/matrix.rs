//! Matrix: plain messages of a bot's account, answered by reaction or by a code; heard through /sync.
//!
//! spec.matrix.org, Client-Server API: "Syncing", "Sending events to a room" (transaction ids), "Event replacements",
//! "Reactions", "User and room mentions", room creation; "Size limits" (65,536 bytes an event). How much one account may send
//! is each homeserver's to say: Synapse's configuration manual has 0.2 messages a second (`rc_message`).
//!
//! There are no buttons. A reaction is by whom the homeserver says it is, on the event that it names.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::card::{Excerpt, Notice};
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Polled, Said, Setting, TooLarge, Unfit, User, What, Words, segment,
};
use crate::secret::Secret;
use crate::text::Text;
use crate::typed::Typed;

pub(crate) static PLATFORM: Platform = Platform {
    name: "matrix",
    title: "Matrix",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the homeserver of the bot's account is",
            default: Some("https://matrix-client.matrix.org"),
            required: false,
        },
        Setting {
            name: "user",
            help: "the bot's account, @name:server: what it says itself is nobody's answer",
            default: None,
            required: true,
        },
        Setting {
            name: "per_second",
            help: "messages a second that the homeserver takes from the bot",
            default: Some("0.2"),
            required: false,
        },
    ],
    secrets: &[Setting {
        name: "access_token",
        help: "of the bot's account, from a login of its own",
        default: None,
        required: true,
    }],
    guide: "Register an account for the bot, log it in once (POST /_matrix/client/v3/login) and copy its access token.\n\
            People are asked in rooms that the bot opens for them. To link an account, they write to it in a room that it is in:\n\
            join it to one, or let the homeserver accept its invitations (Synapse: auto_accept_invites).\n\
            Rooms must not be encrypted, for it reads no encrypted messages (Synapse: encryption_enabled_by_default_for_room_type).\n\
            Nothing calls {hook}: one node asks the homeserver.",
    manifest: None,
    open: |configuration| Ok(Box::new(Matrix::open(&configuration)?)),
};

struct Matrix {
    base: String,
    user: String,
    per_second: f64,
    access_token: Secret,
}

/// An event is at most 65,536 bytes with all that servers add. Its last face is in an edit twice: once for those that know
/// no edits.
const CONTENT: usize = 60_000;
const BODY_ROOM: usize = 10_000;
const BODY_ROWS: usize = 100;
const WORDS: usize = 10_000;

/// How long the homeserver may wait for something to be said.
const WAIT: Duration = Duration::from_secs(10);

impl Matrix {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        let user = configuration.setting("user");
        if server_of(&user).is_none() {
            return Err(Unfit(format!("user is @name:server, not {user:?}")));
        }
        let per_second = configuration.setting("per_second").parse().ok();
        let per_second = per_second.filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
        Ok(Self {
            base: configuration.base("base_url"),
            user,
            per_second: per_second
                .ok_or_else(|| Unfit("per_second is a number above nothing".into()))?,
            access_token: configuration.secret("access_token")?,
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}/_matrix/client/v3/{path}", self.base)
    }

    fn auth(&self) -> Auth {
        Auth::Bearer(self.access_token.clone())
    }

    /// The same transaction of the same access token is the same event, and has the same id.
    fn send(&self, room: &str, transaction: &str, content: &Value) -> Call {
        let (room, transaction) = (segment(room), segment(transaction));
        let url = self.url(&format!("rooms/{room}/send/m.room.message/{transaction}"));
        Call::json(Method::PUT, url, content, self.auth())
    }

    fn tell(&self, room: &str, under: &str, words: &Text, once: &[&str]) -> Call {
        let mut content = message("m.notice", &words.within(WORDS).defanged());
        if !under.is_empty() {
            content["m.relates_to"] = json!({ "m.in_reply_to": { "event_id": under } });
        }
        self.send(room, &transaction(once), &content)
    }

    fn said(&self, room: &str, event: &Value) -> Option<Said> {
        let sender = event["sender"].as_str().filter(|sender| *sender != self.user)?;
        let by = User { tenant: server_of(sender)?.to_owned(), id: sender.to_owned() };
        let id = event["event_id"].as_str().filter(|id| !id.is_empty())?;
        let content = &event["content"];
        let (what, on) = match event["type"].as_str()? {
            "m.reaction" => reaction(content)?,
            "m.room.message" => (What::Typed(typed(content)?), id),
            _ => return None,
        };
        Some(Said {
            by,
            what,
            message: Message { place: room.to_owned(), id: on.to_owned() },
            event: id.to_owned(),
            reply_to: String::new(),
        })
    }
}

impl Adapter for Matrix {
    fn caps(&self) -> Caps {
        Caps {
            buttons: false,
            edit: true,
            keyed_send: true,
            wire: Wire::Poll,
            evidence: Evidence::TransportOnly,
            per_second: self.per_second,
            per_second_and_place: self.per_second,
            burst: 1,
        }
    }

    /// A room for two, in which only the bot may change what the room is.
    fn converse(&self, user: &User) -> Option<Call> {
        let room = json!({ "preset": "private_chat", "is_direct": true, "invite": [user.id] });
        Some(Call::json(POST, self.url("createRoom"), &room, self.auth()))
    }

    fn conversed(&self, answer: &Answer) -> Result<String, Failure> {
        read(&accepted(answer)?["room_id"])
    }

    fn post(&self, place: &str, notice: &Notice<'_>, key: &str) -> Result<Outgoing, TooLarge> {
        let face = rendered(notice)?;
        Ok(self.send(place, &transaction(&["post", key]), &message("m.text", &face)).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        Ok(Message { place: place.to_owned(), id: read(&accepted(answer)?["event_id"])? })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        Some(rendered(notice).map(|face| {
            let transaction = transaction(&["edit", &message.id, &face]);
            self.send(&message.place, &transaction, &replacement(&message.id, &face))
        }))
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer).map(drop)
    }

    /// What is said twice about the same thing, in the same words, is said once.
    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing {
        let under = under.map_or("", |message| &message.id);
        self.tell(place, under, words, &["say", place, under, words.as_str()]).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer).map(drop)
    }

    /// Nobody calls us.
    fn hear(
        &self,
        _inbound: &Inbound<'_>,
        _keys: &Keys,
        _now: SystemTime,
    ) -> Result<Heard, Forged> {
        Err(Forged::Shape)
    }

    /// Under what was said, in the room where it was said.
    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let Message { place, id } = &said.message;
        let call = self.tell(place, id, outcome.words(), &["reply", place, &said.event]);
        (Reply::empty(StatusCode::OK), Some(call))
    }

    /// From nowhere, it is from now on: what was said long ago is no answer. Of more than a hundred messages in one room
    /// between two polls, only the last hundred are heard.
    fn poll(&self, since: Option<&str>) -> Option<Call> {
        let since = since.filter(|since| !since.is_empty());
        let nothing = json!({ "types": [] });
        let heard = since.map_or(&[][..], |_| &["m.reaction", "m.room.message"][..]);
        let filter = json!({
            "account_data": nothing,
            "presence": nothing,
            "room": {
                "account_data": nothing,
                "ephemeral": nothing,
                "state": nothing,
                "timeline": {
                    "types": heard,
                    "not_senders": [self.user],
                    "limit": 100,
                },
            },
        });
        let filter = segment(&filter.to_string());
        let since = since.map_or_else(String::new, |since| format!("&since={}", segment(since)));
        let query = format!("sync?timeout={}&filter={filter}{since}", WAIT.as_millis());
        Some(Call::get(self.url(&query), self.auth()))
    }

    fn polled(&self, answer: &Answer) -> Result<Polled, Failure> {
        let body = accepted(answer)?;
        let since = read(&body["next_batch"])?;
        let rooms = body["rooms"]["join"].as_object();
        let said = rooms.into_iter().flatten().flat_map(|(room, joined)| {
            let events = joined["timeline"]["events"].as_array();
            events.into_iter().flatten().filter_map(|event| self.said(room, event))
        });
        Ok(Polled { said: said.collect(), since })
    }
}

/// All of it is plain: without a formatted body, a client reads no markup. It makes links of addresses, so they have no scheme.
fn rendered(notice: &Notice<'_>) -> Result<String, TooLarge> {
    notice.card.body.fitted(BODY_ROOM, BODY_ROWS, |excerpt| {
        let face = face(notice, excerpt);
        (replacement("", &face).to_string().len() <= CONTENT).then_some(face)
    })
}

fn face(notice: &Notice<'_>, excerpt: &Excerpt) -> String {
    let mut lines = vec![Text::of(notice.title())];
    lines.extend(notice.head(excerpt.whole));
    if let Some(answers) = notice.buttons(excerpt.whole) {
        let code = answers.code.shown();
        // A reaction says nothing of what was shown, so a rule that wants all of it seen wants the code.
        let how = match notice.card.demands_whole {
            true => "Write",
            false => "React with ✅ to approve or with ❌ to deny, or write",
        };
        lines.push(Text::of(&format!("{how}: approve {code}, or: deny {code} because …")));
    }
    lines.push(excerpt.label.clone());
    lines.extend(excerpt.lines.iter().cloned());
    let lines: Vec<_> = lines.iter().map(|line| line.defanged()).collect();
    lines.join("\n")
}

/// Mentions are of nobody: with that said, no client or server looks for names in the body.
fn message(kind: &str, body: &str) -> Value {
    json!({ "msgtype": kind, "body": body, "m.mentions": {} })
}

fn replacement(id: &str, face: &str) -> Value {
    let mut content = message("m.text", &format!("* {face}"));
    content["m.new_content"] = message("m.text", face);
    content["m.relates_to"] = json!({ "rel_type": "m.replace", "event_id": id });
    content
}

fn reaction(content: &Value) -> Option<(What, &str)> {
    let relation = &content["m.relates_to"];
    let word = match relation["key"].as_str()?.trim_end_matches('\u{fe0f}') {
        "✅" => Words::Approve,
        "❌" => Words::Deny,
        _ => return None,
    };
    let on = relation["event_id"].as_str().filter(|_| relation["rel_type"] == "m.annotation")?;
    Some((What::Reaction(word), on))
}

/// What people write anew. An edit says nothing, and notices are of bots.
fn typed(content: &Value) -> Option<Typed> {
    let anew = content["msgtype"] == "m.text" && content["m.relates_to"]["rel_type"] != "m.replace";
    content["body"].as_str().filter(|_| anew).and_then(Typed::find)
}

/// The homeserver of `@name:server`.
fn server_of(user: &str) -> Option<&str> {
    let (name, server) = user.strip_prefix('@')?.split_once(':')?;
    (!name.is_empty() && !server.is_empty()).then_some(server)
}

/// The same on every node, for the same thing said.
fn transaction(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    URL_SAFE_NO_PAD.encode(digest.finalize())
}

fn accepted(answer: &Answer) -> Result<Value, Failure> {
    let body = answer.json();
    let code = Text::of(body["errcode"].as_str().unwrap_or("no reason"));
    answer.done().map_err(|failure| match failure {
        Failure::Later { after, why } => {
            let later = body["retry_after_ms"].as_u64().map(Duration::from_millis);
            Failure::Later { after: after.or(later), why: format!("{why}: {code}") }
        }
        Failure::Never { why } => Failure::Never { why: format!("{why}: {code}") },
    })?;
    Ok(body)
}

fn read(value: &Value) -> Result<String, Failure> {
    let text = value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    text.ok_or_else(|| Failure::Never { why: "the homeserver's answer names nothing".into() })
}
