//! Slack: Block Kit cards; interactivity, slash commands and events over HTTP, or over a connection (Socket Mode).
//!
//! docs.slack.dev: Block Kit reference, "Verifying requests from Slack", "Handling user interaction", chat.postMessage,
//! chat.update, chat.postEphemeral, conversations.open, "Rate limits" (one message a second and channel), "Using Socket
//! Mode" (envelopes, acknowledgements, disconnects), apps.connections.open.

mod manifest;

use std::time::SystemTime;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::card::Notice;
use crate::http::{Answer, Auth, Call, Failure, Form, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Said, Setting, TooLarge, Unfit, User, What,
};
use crate::secret::Secret;
use crate::socket::{Address, Begin, Conversation, Step};
use crate::text::Text;
use crate::token::Token;
use crate::typed::Typed;
use crate::verify;

pub(crate) static PLATFORM: Platform = Platform {
    name: "slack",
    title: "Slack",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the Web API is",
            default: Some("https://slack.com/api"),
            required: false,
        },
        Setting {
            name: "app",
            help: "the app's id, A…: webhooks of another app are refused",
            default: None,
            required: true,
        },
        Setting {
            name: "inbound",
            help: "webhook: Slack calls a node; socket: one node connects to Slack, and needs no address of its own",
            default: Some("webhook"),
            required: false,
        },
        Setting {
            name: "socket_domain",
            help: "where it connects to: what Slack names has to be this host, or below it",
            default: Some("slack.com"),
            required: false,
        },
    ],
    secrets: &[
        Setting {
            name: "bot_token",
            help: "xoxb-…, of OAuth & Permissions",
            default: None,
            required: true,
        },
        Setting {
            name: "signing_secret",
            help: "of Basic Information; needed unless inbound is socket",
            default: None,
            required: false,
        },
        Setting {
            name: "app_token",
            help: "xapp-…, an app-level token with connections:write, of Basic Information; needed if inbound is socket",
            default: None,
            required: false,
        },
    ],
    guide: "Create an app from a manifest at https://api.slack.com/apps. countersign channel guide slack --manifest prints one\n\
            for inbound=socket; with --hook-url {hook} it is for inbound=webhook.\n\
            Install the app into the workspace, and copy its app id and bot token; with inbound=webhook the signing secret, and\n\
            with inbound=socket an app-level token.\n\
            With inbound=webhook, verify the event request URL in the app's settings once this channel is there.\n\
            Invite the bot to the channel that is a room: /invite @countersign",
    manifest: Some(manifest::manifest),
    open: |configuration| Ok(Box::new(Slack::open(&configuration)?)),
};

#[derive(Clone)]
struct Slack {
    base: String,
    app: String,
    bot_token: Secret,
    inbound: Way,
}

/// How Slack reaches us.
#[derive(Clone)]
enum Way {
    Socket { app_token: Secret, domain: String },
    Webhook { signing_secret: Secret },
}

/// Text objects of a section hold 3,000 characters, its fields 2,000 each, ten of them.
const SECTION: usize = 3000;
const FIELD: usize = 2000;
const FIELDS: usize = 10;
const BODY_ROOM: usize = 2900;
const BODY_ROWS: usize = 40;

impl Slack {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        let inbound = match configuration.setting("inbound").as_str() {
            "socket" => Way::Socket {
                app_token: configuration.secret("app_token")?,
                domain: configuration.setting("socket_domain"),
            },
            "webhook" => Way::Webhook { signing_secret: configuration.secret("signing_secret")? },
            other => return Err(Unfit(format!("inbound is webhook or socket, not {other:?}"))),
        };
        Ok(Self {
            base: configuration.base("base_url"),
            app: configuration.setting("app"),
            bot_token: configuration.secret("bot_token")?,
            inbound,
        })
    }

    fn call(&self, method: &str, body: &Value) -> Call {
        let url = format!("{}/{method}", self.base);
        Call::json(POST, url, body, Auth::Bearer(self.bot_token.clone()))
    }

    /// An interaction: `payload=` and JSON, in a form.
    fn interaction(&self, payload: &Value) -> Result<Heard, Forged> {
        self.demand_app(&payload["api_app_id"])?;
        if payload["type"] != "block_actions" {
            return Ok(Heard::Nothing);
        }
        let by = user(&payload["user"], &payload["team"]["id"])?;
        let place = text(&payload["container"]["channel_id"])?;
        let message =
            Message { place: place.clone(), id: text(&payload["container"]["message_ts"])? };
        let trigger = text(&payload["trigger_id"])?;
        let actions = payload["actions"].as_array().ok_or(Forged::Shape)?;
        let taps = actions.iter().filter_map(|action| {
            let token = Token::parse(action["value"].as_str()?)?;
            let at = action["action_ts"].as_str()?;
            Some(Said {
                reply_to: format!("{place} {}", by.id),
                by: by.clone(),
                what: What::Tap(token),
                message: message.clone(),
                event: format!("{trigger} {at}"),
            })
        });
        Ok(said(taps.collect()))
    }

    /// `/countersign link CODE`.
    fn command(&self, value: &dyn Fn(&str) -> Option<String>) -> Result<Heard, Forged> {
        self.demand_app(&Value::from(value("api_app_id").unwrap_or_default()))?;
        let required = |name: &str| value(name).ok_or(Forged::Shape);
        let (tenant, id) = (required("team_id")?, required("user_id")?);
        let (place, event) = (required("channel_id")?, required("trigger_id")?);
        let Some(typed) = value("text").as_deref().and_then(Typed::find) else {
            return Ok(Heard::Challenge(private(
                "say: link CODE, or approve CODE, or deny CODE because …",
            )));
        };
        Ok(said(vec![Said {
            by: User { tenant, id },
            what: What::Typed(typed),
            message: Message { place, id: String::new() },
            event,
            reply_to: "command".into(),
        }]))
    }

    fn event(&self, body: &Value) -> Result<Heard, Forged> {
        if body["type"] == "url_verification" {
            return Ok(Heard::Challenge(Reply::text(StatusCode::OK, &text(&body["challenge"])?)));
        }
        self.demand_app(&body["api_app_id"])?;
        let event = &body["event"];
        let from_a_person = event["bot_id"].is_null() && event["subtype"].is_null();
        if event["type"] != "message" || !from_a_person {
            return Ok(Heard::Nothing);
        }
        let Some(typed) = event["text"].as_str().and_then(Typed::find) else {
            return Ok(Heard::Nothing);
        };
        let tenant = event["user_team"]
            .as_str()
            .or_else(|| event["team"].as_str())
            .or_else(|| body["team_id"].as_str());
        let by =
            User { tenant: tenant.ok_or(Forged::Shape)?.to_owned(), id: text(&event["user"])? };
        let message = Message { place: text(&event["channel"])?, id: text(&event["ts"])? };
        let reply_to = format!("{} {}", message.place, by.id);
        let event = text(&body["event_id"])?;
        Ok(said(vec![Said { by, what: What::Typed(typed), message, event, reply_to }]))
    }

    /// One signing secret is one app's; an app's webhooks name it all the same.
    fn demand_app(&self, app: &Value) -> Result<(), Forged> {
        if *app == *self.app { Ok(()) } else { Err(Forged::Signature) }
    }
}

impl Adapter for Slack {
    fn caps(&self) -> Caps {
        let (wire, evidence) = match self.inbound {
            Way::Socket { .. } => (Wire::Socket, Evidence::TransportOnly),
            Way::Webhook { .. } => (Wire::Webhook, Evidence::SharedMac),
        };
        Caps {
            buttons: true,
            edit: true,
            keyed_send: false,
            wire,
            evidence,
            per_second: 20.0,
            per_second_and_place: 1.0,
            burst: 1,
        }
    }

    fn converse(&self, user: &User) -> Option<Call> {
        Some(self.call("conversations.open", &json!({ "users": user.id })))
    }

    fn conversed(&self, answer: &Answer) -> Result<String, Failure> {
        let body = accepted(answer)?;
        read(&body["channel"]["id"])
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        let mut body = rendered(notice)?;
        body["channel"] = place.into();
        Ok(self.call("chat.postMessage", &body).into())
    }

    fn posted(&self, _place: &str, answer: &Answer) -> Result<Message, Failure> {
        let body = accepted(answer)?;
        Ok(Message { place: read(&body["channel"])?, id: read(&body["ts"])? })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        Some(rendered(notice).map(|mut body| {
            body["channel"] = message.place.as_str().into();
            body["ts"] = message.id.as_str().into();
            self.call("chat.update", &body)
        }))
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        let gone = ["channel_not_found", "is_archived", "message_not_found"];
        if answer.status.is_success() && gone.iter().any(|code| answer.json()["error"] == **code) {
            return Ok(());
        }
        accepted(answer).map(drop)
    }

    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing {
        let mut body =
            json!({ "channel": place, "text": escaped(words), "blocks": [section(words)] });
        body["unfurl_links"] = false.into();
        body["unfurl_media"] = false.into();
        if let Some(message) = under {
            body["thread_ts"] = message.id.as_str().into();
        }
        self.call("chat.postMessage", &body).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer).map(drop)
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        let Way::Webhook { signing_secret } = &self.inbound else { return Err(Forged::Shape) };
        if inbound.method != Method::POST {
            return Err(Forged::Shape);
        }
        let at = inbound.header("x-slack-request-timestamp").ok_or(Forged::Stale)?;
        let signature = inbound.header("x-slack-signature").ok_or(Forged::Signature)?;
        let mac = signature.strip_prefix("v0=").ok_or(Forged::Signature)?;
        let parts = [b"v0:", at.as_bytes(), b":", inbound.body];
        verify::hmac_sha256_hex(signing_secret.expose().as_bytes(), &parts, mac)?;
        verify::fresh(at, now)?;
        match inbound.header("content-type").and_then(|it| it.split(';').next()).map(str::trim) {
            Some("application/json") => self.event(&parsed(inbound.body)?),
            Some("application/x-www-form-urlencoded") => {
                let form = Form::parse(inbound.body)?;
                match form.value("payload") {
                    Some(payload) => self.interaction(&parsed(payload.as_bytes())?),
                    None => self.command(&|name| form.value(name)),
                }
            }
            _ => Err(Forged::Shape),
        }
    }

    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        if said.reply_to == "command" {
            return (private(outcome.words().as_str()), None);
        }
        let call = said.reply_to.split_once(' ').map(|(place, user)| {
            let body = json!({ "channel": place, "user": user, "text": escaped(outcome.words()) });
            self.call("chat.postEphemeral", &body)
        });
        (Reply::empty(StatusCode::OK), call)
    }

    fn socket(&self) -> Option<Box<dyn Conversation>> {
        let Way::Socket { app_token, domain } = &self.inbound else { return None };
        let (app_token, domain) = (app_token.clone(), domain.clone());
        Some(Box::new(Envelopes { slack: self.clone(), app_token, domain }))
    }
}

/// Socket Mode: what a webhook would hold, in envelopes; each is acknowledged by its id.
struct Envelopes {
    slack: Slack,
    app_token: Secret,
    domain: String,
}

impl Conversation for Envelopes {
    /// An address is good for one connection.
    fn begin(&mut self) -> Begin {
        let url = format!("{}/apps.connections.open", self.slack.base);
        Begin::Ask(Call::json(POST, url, &json!({}), Auth::Bearer(self.app_token.clone())))
    }

    fn found(&self, answer: &Answer) -> Result<Address, Failure> {
        Address::parse(accepted(answer)?["url"].as_str().unwrap_or_default(), &self.domain)
    }

    fn heard(&mut self, frame: &str) -> Vec<Step> {
        // Whoever speaks something else is not Slack.
        let Ok(envelope) = parsed(frame.as_bytes()) else { return vec![Step::Leave(Ok(()))] };
        let payload = &envelope["payload"];
        let heard = match envelope["type"].as_str().unwrap_or_default() {
            "disconnect" => return vec![Step::Leave(disconnected(&envelope["reason"]))],
            "events_api" => self.slack.event(payload),
            "hello" => {
                let app = &envelope["connection_info"]["app_id"];
                let ours = app.is_null() || self.slack.demand_app(app).is_ok();
                let why = || "the secret app_token is of another app than the setting app".into();
                return if ours {
                    vec![]
                } else {
                    vec![Step::Leave(Err(Failure::Never { why: why() }))]
                };
            }
            "interactive" => self.slack.interaction(payload),
            "slash_commands" => {
                self.slack.command(&|name| payload[name].as_str().map(str::to_owned))
            }
            _ => Ok(Heard::Nothing),
        };
        let to = envelope["envelope_id"].as_str().filter(|id| !id.is_empty());
        to.map(|id| Step::Heard { heard, to: Secret::new(id.to_owned()) }).into_iter().collect()
    }

    fn answer(&self, to: &Secret, reply: &Reply) -> Option<Step> {
        let mut acknowledgement = json!({ "envelope_id": to.expose() });
        // Only a slash command's reply holds something, and such an envelope takes it.
        if let Ok(payload) = parsed(reply.body.as_bytes()) {
            acknowledgement["payload"] = payload;
        }
        Some(Step::Send(Secret::new(acknowledgement.to_string())))
    }
}

/// Slack closes connections now and then, and warns a few seconds before; whoever leaves at the warning misses nothing.
fn disconnected(reason: &Value) -> Result<(), Failure> {
    match reason.as_str() {
        Some("link_disabled") => Err(Failure::Never { why: "Socket Mode is switched off".into() }),
        _ => Ok(()),
    }
}

/// Every block is one whose text Slack reads no markup in: plain text, or preformatted text elements.
fn rendered(notice: &Notice<'_>) -> Result<Value, TooLarge> {
    let card = notice.card;
    let excerpt = card.body.excerpt(BODY_ROOM, BODY_ROWS);
    let mut blocks = vec![json!({ "type": "header", "text": plain(notice.title()) })];
    let whole_section = |words: &Text| {
        if words.as_str().chars().count() > SECTION { Err(TooLarge) } else { Ok(section(words)) }
    };
    for words in notice.standing() {
        blocks.push(whole_section(words)?);
    }
    blocks.push(whole_section(&card.sentence)?);
    for warning in &card.warnings {
        blocks.push(whole_section(&Text::of(&format!("CAREFUL: {warning}")))?);
    }
    for facts in card.facts.chunks(FIELDS) {
        let field = |(name, value): &(std::borrow::Cow<'_, str>, Text)| {
            let words = format!("{name}: {value}");
            if words.chars().count() > FIELD { Err(TooLarge) } else { Ok(plain(&words)) }
        };
        let fields = facts.iter().map(field).collect::<Result<Vec<_>, _>>()?;
        blocks.push(json!({ "type": "section", "fields": fields }));
    }
    blocks.push(section(&Text::of(&format!(
        "Fingerprint: {}. Approval {}.",
        card.fingerprint, card.approval
    ))));
    if let Some(words) = notice.elsewhere(excerpt.whole) {
        blocks.push(whole_section(&words)?);
    }
    if let Some(answers) = notice.buttons(excerpt.whole) {
        let button = |id: &str, label: &str, style: &str, token: &Token| json!({ "type": "button", "action_id": id, "text": plain(label), "style": style, "value": token.as_str() });
        blocks.push(json!({
            "type": "actions",
            "elements": [
                button("approve", "Approve", "primary", &answers.approve),
                button("deny", "Deny", "danger", &answers.deny),
            ],
        }));
    }
    blocks.push(section(&excerpt.label));
    if !excerpt.lines.is_empty() {
        let lines: Vec<_> = excerpt.lines.iter().map(Text::as_str).collect();
        blocks.push(json!({
            "type": "rich_text",
            "elements": [{
                "type": "rich_text_preformatted",
                "elements": [{ "type": "text", "text": lines.join("\n") }],
            }],
        }));
    }
    // What a notification shows; here Slack reads its three characters.
    let heading = Text::of(&format!("{}: {}", notice.title(), card.sentence));
    Ok(
        json!({ "text": escaped(&heading), "blocks": blocks, "unfurl_links": false, "unfurl_media": false }),
    )
}

fn section(words: &Text) -> Value {
    json!({ "type": "section", "text": plain(words.as_str()) })
}

fn plain(text: &str) -> Value {
    json!({ "type": "plain_text", "text": text, "emoji": false })
}

/// The three characters that make mentions, links and entities of text.
fn escaped(words: &Text) -> String {
    words.as_str().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn private(words: &str) -> Reply {
    let text = escaped(&Text::of(words));
    Reply::json(&json!({ "response_type": "ephemeral", "text": text }))
}

/// Slack says with 200 what was wrong.
fn accepted(answer: &Answer) -> Result<Value, Failure> {
    answer.done()?;
    let body = answer.json();
    if body["ok"] == true {
        return Ok(body);
    }
    let code = body["error"].as_str().unwrap_or("no reason");
    let why = format!("Slack refused it: {}", Text::of(code));
    let passing =
        ["fatal_error", "internal_error", "ratelimited", "request_timeout", "service_unavailable"];
    match passing.contains(&code) {
        true => Err(Failure::Later { after: answer.retry_after(), why }),
        false => Err(Failure::Never { why }),
    }
}

fn said(said: Vec<Said>) -> Heard {
    if said.is_empty() { Heard::Nothing } else { Heard::Said(said) }
}

/// A guest of another workspace has that one's id: they are somebody else than whoever has the same id here.
fn user(user: &Value, team: &Value) -> Result<User, Forged> {
    let tenant = user["team_id"].as_str().map_or_else(|| text(team), |team| Ok(team.to_owned()))?;
    Ok(User { tenant, id: text(&user["id"])? })
}

fn text(value: &Value) -> Result<String, Forged> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or(Forged::Shape)
}

fn read(value: &Value) -> Result<String, Failure> {
    text(value)
        .map_err(|_| Failure::Never { why: "Slack's answer does not name the message".into() })
}

fn parsed(bytes: &[u8]) -> Result<Value, Forged> {
    serde_json::from_slice(bytes).map_err(|_| Forged::Shape)
}
