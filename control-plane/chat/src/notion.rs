//! Notion: cards as comments on a page; answers are comments with a code.
//!
//! developers.notion.com: "Webhooks" (X-Notion-Signature), "Event types & delivery", "Create comment", "Update comment",
//! "Retrieve comment", "Comment object", "Rich text", "Request limits" (three requests a second; 2,000 characters a text,
//! 100 texts).
//!
//! A webhook says only that there is a comment: its words are fetched, by our own token. Who wrote it is in both.

use std::time::SystemTime;

use http::header::HeaderName;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::card::Notice;
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Said, Setting, TooLarge, Unfit, User, What, segment,
};
use crate::secret::Secret;
use crate::text::Text;
use crate::typed::Typed;
use crate::verify;

pub(crate) static PLATFORM: Platform = Platform {
    name: "notion",
    title: "Notion",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the API is",
            default: Some("https://api.notion.com"),
            required: false,
        },
        Setting {
            name: "workspace",
            help: "the workspace's id: webhooks of another are refused",
            default: None,
            required: true,
        },
        Setting {
            name: "integration",
            help: "the integration's id: webhooks for another are refused",
            default: None,
            required: true,
        },
        Setting {
            name: "bot",
            help: "the id of the integration's own user: its comments answer nothing",
            default: None,
            required: true,
        },
    ],
    secrets: &[
        Setting {
            name: "token",
            help: "the integration's secret, ntn_…",
            default: None,
            required: true,
        },
        Setting {
            name: "verification_token",
            help: "secret_…, as Notion has sent it to the webhook's address",
            default: None,
            required: true,
        },
    ],
    guide: "Create an internal integration with the capabilities read comments and insert comments, and connect it to the pages.\n\
            GET https://api.notion.com/v1/users/me shows its bot's id.\n\
            Add a webhook subscription for comment.created. Notion sends its verification token once, unsigned: take it at an\n\
            address of your own, then set the address to {hook} and verify it with that token.\n\
            A place is the id of a page. Everybody who can read it sees the cards there.",
    manifest: None,
    open: |configuration| Ok(Box::new(Notion::open(&configuration)?)),
};

struct Notion {
    base: String,
    workspace: String,
    integration: String,
    bot: String,
    token: Secret,
    verification_token: Secret,
}

/// As JavaScript counts a string: in UTF-16.
const TEXT: usize = 2000;
const TEXTS: usize = 100;
const BODY_ROOMS: [usize; 4] = [16_000, 4000, 1000, 0];
const BODY_ROWS: usize = 120;

impl Notion {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            base: configuration.base("base_url"),
            workspace: configuration.setting("workspace"),
            integration: configuration.setting("integration"),
            bot: configuration.setting("bot"),
            token: configuration.secret("token")?,
            verification_token: configuration.secret("verification_token")?,
        })
    }

    fn call(&self, method: Method, path: &str, body: &Value) -> Call {
        let url = format!("{}/v1/{path}", self.base);
        self.versioned(Call::json(method, url, body, Auth::Bearer(self.token.clone())))
    }

    fn versioned(&self, mut call: Call) -> Call {
        let version = HeaderValue::from_static("2025-09-03");
        call.headers.insert(HeaderName::from_static("notion-version"), version);
        call
    }

    /// What a comment says, if it says something.
    fn comment(&self, comment: &Value) -> Option<Said> {
        let by = comment["created_by"]["id"].as_str().filter(|by| *by != self.bot)?;
        let texts = comment["rich_text"].as_array()?;
        let words: String = texts.iter().filter_map(|it| it["plain_text"].as_str()).collect();
        let parent = &comment["parent"];
        let place = parent["page_id"].as_str().or_else(|| parent["block_id"].as_str())?;
        let id = comment["id"].as_str()?;
        Some(Said {
            by: User { tenant: self.workspace.clone(), id: by.to_owned() },
            what: What::Typed(Typed::find(&words)?),
            message: Message { place: place.to_owned(), id: id.to_owned() },
            event: format!("comment {id}"),
            reply_to: String::new(),
        })
    }
}

impl Adapter for Notion {
    fn caps(&self) -> Caps {
        Caps {
            buttons: false,
            edit: true,
            keyed_send: false,
            wire: Wire::Webhook,
            // That there is a comment is signed; what it says is not.
            evidence: Evidence::TransportOnly,
            per_second: 3.0,
            per_second_and_place: 3.0,
            burst: 1,
        }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        let body = json!({ "parent": { "page_id": place }, "rich_text": rendered(notice)? });
        Ok(self.call(POST, "comments", &body).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        answer.done()?;
        let id = answer.json()["id"].as_str().map(str::to_owned).ok_or_else(|| Failure::Never {
            why: "Notion's answer does not name the comment".into(),
        })?;
        Ok(Message { place: place.to_owned(), id })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        let path = format!("comments/{}", segment(&message.id));
        Some(
            rendered(notice)
                .map(|texts| self.call(Method::PATCH, &path, &json!({ "rich_text": texts }))),
        )
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        if answer.status == StatusCode::NOT_FOUND { Ok(()) } else { answer.done() }
    }

    fn say(&self, place: &str, _under: Option<&Message>, words: &Text) -> Outgoing {
        let texts: Vec<_> = pieces(words.as_str()).map(|piece| text(piece, false)).collect();
        let body = json!({ "parent": { "page_id": place }, "rich_text": texts });
        self.call(POST, "comments", &body).into()
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method != POST {
            return Err(Forged::Shape);
        }
        let signature = inbound.header("x-notion-signature").ok_or(Forged::Signature)?;
        let mac = signature.strip_prefix("sha256=").ok_or(Forged::Signature)?;
        let secret = self.verification_token.expose().as_bytes();
        verify::hmac_sha256_hex(secret, &[inbound.body], mac)?;
        let event: Value = serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)?;
        verify::fresh_rfc3339(event["timestamp"].as_str().ok_or(Forged::Stale)?, now)?;
        let ours = event["workspace_id"] == *self.workspace
            && event["integration_id"] == *self.integration;
        if !ours {
            return Err(Forged::Signature);
        }
        let authors = event["authors"].as_array().ok_or(Forged::Shape)?;
        let a_person = authors.len() == 1 && authors[0]["type"] == "person";
        if event["type"] != "comment.created" || !a_person {
            return Ok(Heard::Nothing);
        }
        let id = event["entity"]["id"].as_str().ok_or(Forged::Shape)?;
        Ok(Heard::Named(id.to_owned()))
    }

    fn fetch(&self, named: &str) -> Option<Call> {
        let url = format!("{}/v1/comments/{}", self.base, segment(named));
        Some(self.versioned(Call::get(url, Auth::Bearer(self.token.clone()))))
    }

    fn fetched(&self, named: &str, answer: &Answer) -> Result<Heard, Failure> {
        answer.done()?;
        let comment = answer.json();
        if comment["id"] != *named {
            return Err(Failure::Never { why: "Notion answered with another comment".into() });
        }
        let said = self.comment(&comment);
        Ok(said.map_or(Heard::Nothing, |said| Heard::Said(vec![said])))
    }

    /// Nothing can be told to one person alone.
    fn reply(&self, _said: &Said, _outcome: &Outcome) -> (Reply, Option<Call>) {
        (Reply::empty(StatusCode::OK), None)
    }
}

/// With as much of the body as there is room for beside the head.
fn rendered(notice: &Notice<'_>) -> Result<Vec<Value>, TooLarge> {
    let fits = |room| Some(with_body(notice, room)).filter(|texts| texts.len() <= TEXTS);
    BODY_ROOMS.into_iter().find_map(fits).ok_or(TooLarge)
}

/// A text is read as it is: what would be bold, a link or a mention is said beside it.
fn with_body(notice: &Notice<'_>, room: usize) -> Vec<Value> {
    let card = notice.card;
    let excerpt = card.body.excerpt(room, BODY_ROWS);
    let mut head: Vec<_> = notice.standing().iter().map(Text::to_string).collect();
    head.push(card.sentence.to_string());
    head.extend(card.warnings.iter().map(|warning| format!("CAREFUL: {warning}")));
    head.extend(card.facts.iter().map(|(name, value)| format!("{name}: {value}")));
    head.push(format!("Fingerprint: {}. Approval {}.", card.fingerprint, card.approval));
    head.extend(notice.elsewhere(excerpt.whole).iter().map(Text::to_string));
    if let Some(answers) = notice.buttons(excerpt.whole) {
        let code = answers.code.shown();
        head.push(format!("Answer with a comment here: approve {code}, or deny {code} because …"));
    }
    head.push(excerpt.label.to_string());
    let lines: Vec<_> = excerpt.lines.iter().map(Text::as_str).collect();
    let mut title = text(notice.title(), false);
    title["annotations"]["bold"] = true.into();
    let head = format!("\n{}\n", head.join("\n"));
    let body = lines.join("\n");
    let head = pieces(&head).map(|piece| text(piece, false));
    let body = pieces(&body).map(|piece| text(piece, true));
    std::iter::once(title).chain(head).chain(body).collect()
}

fn text(content: &str, code: bool) -> Value {
    json!({ "type": "text", "text": { "content": content, "link": null }, "annotations": { "code": code } })
}

/// All of it, in texts that are not too long.
fn pieces(words: &str) -> impl Iterator<Item = &str> {
    let mut rest = words;
    std::iter::from_fn(move || {
        let mut units = 0;
        let end = rest.char_indices().find_map(|(at, character)| {
            units += character.len_utf16();
            (units > TEXT).then_some(at)
        });
        let (piece, next) = rest.split_at(end.unwrap_or(rest.len()));
        rest = next;
        (!piece.is_empty()).then_some(piece)
    })
}
