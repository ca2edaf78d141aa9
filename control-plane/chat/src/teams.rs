//! Microsoft Teams: Adaptive Cards by the Bot Framework's connector; its activities over HTTP.
//!
//! learn.microsoft.com: "Authentication with the Bot Connector API", "Bot Connector API reference", "Universal Actions for
//! Adaptive Cards", "Text features" (no Markdown in a RichTextBlock), "Send proactive messages", "Optimize your bot with
//! rate limiting in Teams" (50 a second and tenant; 1,800 an hour and conversation), "Format your bot messages" (100 KB of
//! UTF-16 a message; 40 until 2025, which is what we keep to).
//!
//! The token that comes with an activity says who sends it, to which bot and from which service. It does not cover the body:
//! what is in there is as true as the connection it came over.

use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use serde::Deserialize;
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
use crate::token::Token;
use crate::typed::Typed;
use crate::verify;

pub(crate) static PLATFORM: Platform = Platform {
    name: "teams",
    title: "Microsoft Teams",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the connector is, as activities name it in serviceUrl",
            default: Some("https://smba.trafficmanager.net/teams"),
            required: false,
        },
        Setting {
            name: "service_urls",
            help: "what a serviceUrl may begin with, separated by spaces; activities of other services are refused",
            default: Some("https://smba.trafficmanager.net/"),
            required: false,
        },
        Setting {
            name: "login_url",
            help: "where Microsoft Entra ID is",
            default: Some("https://login.microsoftonline.com"),
            required: false,
        },
        Setting {
            name: "keys_url",
            help: "where the keys are that the Bot Framework signs with",
            default: Some("https://login.botframework.com/v1/.well-known/keys"),
            required: false,
        },
        Setting {
            name: "app",
            help: "the bot's Microsoft App ID: what is sent to another is refused",
            default: None,
            required: true,
        },
        Setting {
            name: "tenant",
            help: "the directory (tenant) ID of the app",
            default: None,
            required: true,
        },
    ],
    secrets: &[Setting {
        name: "client_secret",
        help: "of the app registration, Certificates & secrets",
        default: None,
        required: true,
    }],
    guide: "Create an Azure Bot (single tenant), and a client secret for its app registration.\n\
            Messaging endpoint: {hook}\n\
            Add the channel Microsoft Teams, and install an app with this bot in the scopes personal and team;\n\
            whoever is to get cards needs it installed in the personal scope.",
    manifest: None,
    open: |configuration| Ok(Box::new(Teams::open(&configuration)?)),
};

struct Teams {
    base: String,
    services: Vec<String>,
    login: String,
    keys: String,
    app: String,
    tenant: String,
    client_secret: Secret,
}

const ISSUER: &str = "https://api.botframework.com";
const CHANNEL: &str = "msteams";
/// A message as it is sent, in bytes, once it is UTF-16.
const MESSAGE: usize = 40_000;
/// What is tried for the body, one after another: a brace may take seventy bytes to send.
const BODY_ROOMS: [usize; 5] = [8000, 4000, 1500, 500, 0];
const BODY_ROWS: usize = 40;

/// What of a token is looked at beyond what every token has.
#[derive(Clone, Deserialize)]
struct Claims {
    #[serde(alias = "serviceUrl")]
    serviceurl: String,
}

impl Teams {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        let services: Vec<_> =
            configuration.setting("service_urls").split_whitespace().map(str::to_owned).collect();
        // Without the slash, example.net would begin example.net.evil.example.
        if services.is_empty() || services.iter().any(|service| !service.ends_with('/')) {
            return Err(Unfit("service_urls is empty, or one of them does not end with /".into()));
        }
        Ok(Self {
            base: configuration.base("base_url"),
            services,
            login: configuration.base("login_url"),
            keys: configuration.setting("keys_url"),
            app: configuration.setting("app"),
            tenant: configuration.setting("tenant"),
            client_secret: configuration.secret("client_secret")?,
        })
    }

    fn activities(&self, place: &str) -> String {
        format!("{}/v3/conversations/{}/activities", self.base, segment(place))
    }

    fn activity(&self, activity: &Value) -> Result<Heard, Forged> {
        let (what, private) = match activity["type"].as_str() {
            Some("invoke") if activity["name"] == "adaptiveCard/action" => {
                (tap(&activity["value"]["action"]["data"]), "invoke".to_owned())
            }
            Some("message") => {
                let typed = || activity["text"].as_str().and_then(typed).map(What::Typed);
                // In front of others, nothing is told to one alone.
                let alone = activity["conversation"]["conversationType"] == "personal";
                let place = activity["conversation"]["id"].as_str().filter(|_| alone);
                (tap(&activity["value"]).or_else(typed), place.unwrap_or_default().to_owned())
            }
            _ => return Ok(Heard::Nothing),
        };
        // Bots and people without an account in a directory have no such id.
        let (Some(what), Some(user)) = (what, activity["from"]["aadObjectId"].as_str()) else {
            return Ok(Heard::Nothing);
        };
        if activity["from"]["role"] == "bot" || user.is_empty() {
            return Ok(Heard::Nothing);
        }
        let tenant = text(&activity["channelData"]["tenant"]["id"])?;
        let elsewhere = activity["conversation"]["tenantId"].as_str();
        if elsewhere.is_some_and(|elsewhere| elsewhere != tenant) {
            return Err(Forged::Shape);
        }
        // In a channel, the thread follows the conversation's id.
        let place = text(&activity["conversation"]["id"])?;
        let place = place.split(";messageid=").next().unwrap_or_default().to_owned();
        let id = match what {
            What::Tap(_) => text(&activity["replyToId"])?,
            _ => text(&activity["id"])?,
        };
        Ok(Heard::Said(vec![Said {
            by: User { tenant, id: user.to_owned() },
            what,
            message: Message { place, id },
            event: text(&activity["id"])?,
            reply_to: private,
        }]))
    }

    fn words(&self, place: &str, words: &Text) -> Call {
        let body = message("Countersign", &[paragraph(words.as_str(), "Default")]);
        Call::json(POST, self.activities(place), &body, Auth::Granted)
    }
}

impl Adapter for Teams {
    fn caps(&self) -> Caps {
        Caps {
            buttons: true,
            edit: true,
            keyed_send: false,
            wire: Wire::Webhook,
            evidence: Evidence::Asymmetric,
            per_second: 50.0,
            per_second_and_place: 0.5,
            burst: 1,
        }
    }

    fn grant(&self, _now: SystemTime) -> Option<Call> {
        let url = format!("{}/{}/oauth2/v2.0/token", self.login, segment(&self.tenant));
        let pairs = [
            ("grant_type", "client_credentials"),
            ("scope", "https://api.botframework.com/.default"),
        ];
        Some(Call::form(url, &pairs, Auth::Basic(self.app.clone(), self.client_secret.clone())))
    }

    fn granted(&self, answer: &Answer) -> Result<(Secret, Duration), Failure> {
        answer.done()?;
        let body = answer.json();
        let (token, seconds) = (read(&body["access_token"])?, body["expires_in"].as_u64());
        Ok((Secret::new(token), Duration::from_secs(seconds.unwrap_or(300))))
    }

    fn key_set(&self) -> Option<Call> {
        Some(Call::get(self.keys.clone(), Auth::None))
    }

    fn converse(&self, user: &User) -> Option<Call> {
        let body = json!({
            "bot": { "id": format!("28:{}", self.app) },
            "members": [{ "id": user.id }],
            "channelData": { "tenant": { "id": user.tenant } },
            "tenantId": user.tenant,
            "isGroup": false,
        });
        Some(Call::json(POST, format!("{}/v3/conversations", self.base), &body, Auth::Granted))
    }

    fn conversed(&self, answer: &Answer) -> Result<String, Failure> {
        accepted(answer)?;
        read(&answer.json()["id"])
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        Ok(Call::json(POST, self.activities(place), &rendered(notice)?, Auth::Granted).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        accepted(answer)?;
        Ok(Message { place: place.to_owned(), id: read(&answer.json()["id"])? })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        let url = format!("{}/{}", self.activities(&message.place), segment(&message.id));
        Some(rendered(notice).map(|body| Call::json(Method::PUT, url, &body, Auth::Granted)))
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        if answer.status == StatusCode::NOT_FOUND { Ok(()) } else { accepted(answer) }
    }

    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing {
        // Only channels have threads.
        let thread = under.filter(|_| place.contains("@thread.tacv2"));
        let place =
            thread.map_or_else(|| place.to_owned(), |it| format!("{place};messageid={}", it.id));
        self.words(&place, words).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer)
    }

    fn hear(&self, inbound: &Inbound<'_>, keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method != POST {
            return Err(Forged::Shape);
        }
        let token = inbound.header("authorization").and_then(|it| it.strip_prefix("Bearer "));
        let token = token.ok_or(Forged::Signature)?;
        let claims: Claims = verify::jwt(token, keys, &[ISSUER], &self.app, now)?;
        let activity: Value = serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)?;
        let known = self.services.iter().any(|service| claims.serviceurl.starts_with(service));
        if !known || activity["serviceUrl"] != *claims.serviceurl {
            return Err(Forged::Signature);
        }
        // Each key says which channels it vouches for.
        if activity["channelId"] != CHANNEL || !verify::endorsed(token, keys, CHANNEL) {
            return Err(Forged::Signature);
        }
        self.activity(&activity)
    }

    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        match said.reply_to.as_str() {
            "invoke" => {
                let kind = "application/vnd.microsoft.activity.message";
                let body =
                    json!({ "statusCode": 200, "type": kind, "value": outcome.words().as_str() });
                (Reply::json(&body), None)
            }
            "" => (Reply::empty(StatusCode::OK), None),
            place => (Reply::empty(StatusCode::OK), Some(self.words(place, outcome.words()))),
        }
    }
}

/// With as much of the body as there is room for beside the head.
fn rendered(notice: &Notice<'_>) -> Result<Value, TooLarge> {
    let size = |message: &Value| 2 * message.to_string().encode_utf16().count();
    let fits = |room| Some(with_body(notice, room)).filter(|message| size(message) <= MESSAGE);
    BODY_ROOMS.into_iter().find_map(fits).ok_or(TooLarge)
}

/// Every word is in a run of text, where Adaptive Cards read no Markdown.
fn with_body(notice: &Notice<'_>, room: usize) -> Value {
    let card = notice.card;
    let excerpt = card.body.excerpt(room, BODY_ROWS);
    let plain = |words: &str| paragraph(words, "Default");
    let mut blocks = vec![plain(notice.title())];
    blocks[0]["inlines"][0]["weight"] = "Bolder".into();
    blocks.extend(notice.standing().iter().map(|words| plain(words.as_str())));
    blocks.push(plain(card.sentence.as_str()));
    blocks.extend(card.warnings.iter().map(|warning| plain(&format!("CAREFUL: {warning}"))));
    blocks.extend(card.facts.iter().map(|(name, value)| plain(&format!("{name}: {value}"))));
    blocks.push(plain(&format!("Fingerprint: {}. Approval {}.", card.fingerprint, card.approval)));
    blocks.extend(notice.elsewhere(excerpt.whole).iter().map(|words| plain(words.as_str())));
    if let Some(answers) = notice.buttons(excerpt.whole) {
        blocks.push(json!({
            "type": "ActionSet",
            "actions": [
                button("approve", "Approve", "positive", &answers.approve),
                button("deny", "Deny", "destructive", &answers.deny),
            ],
        }));
    }
    blocks.push(plain(excerpt.label.as_str()));
    blocks.extend(excerpt.lines.iter().map(|line| paragraph(line.as_str(), "Monospace")));
    message(notice.title(), &blocks)
}

/// `summary` is what a notification shows: nothing that an agent wrote.
fn message(summary: &str, blocks: &[Value]) -> Value {
    let card = json!({ "type": "AdaptiveCard", "version": "1.4", "msteams": { "width": "Full" }, "body": blocks });
    let kind = "application/vnd.microsoft.card.adaptive";
    json!({
        "type": "message",
        "summary": summary,
        "attachments": [{ "contentType": kind, "content": card }],
    })
}

/// Clients write out `{{DATE(…)}}` in a run of text too: so no run has two braces beside one another.
fn paragraph(words: &str, font: &str) -> Value {
    let mut runs = Vec::new();
    let mut rest = words;
    while let Some(at) = rest.find("{{") {
        let (run, next) = rest.split_at(at + 1);
        runs.push(run);
        rest = next;
    }
    runs.push(if words.is_empty() { " " } else { rest });
    let run = |run: &&str| json!({ "type": "TextRun", "text": run, "fontType": font });
    json!({ "type": "RichTextBlock", "inlines": runs.iter().map(run).collect::<Vec<_>>() })
}

/// Clients that know no Action.Execute send its fallback, as a message.
fn button(verb: &str, title: &str, style: &str, token: &Token) -> Value {
    let data = json!({ "token": token.as_str() });
    json!({
        "type": "Action.Execute", "verb": verb, "title": title, "style": style, "data": data,
        "fallback": { "type": "Action.Submit", "title": title, "style": style, "data": data },
    })
}

/// 412 is to be tried again too: somebody else has changed the conversation at the same moment.
fn accepted(answer: &Answer) -> Result<(), Failure> {
    if answer.status == StatusCode::PRECONDITION_FAILED {
        let why = "Teams was changing the conversation".into();
        return Err(Failure::Later { after: answer.retry_after(), why });
    }
    answer.done()
}

fn tap(data: &Value) -> Option<What> {
    data["token"].as_str().and_then(Token::parse).map(What::Tap)
}

/// In a channel, the bot is mentioned first, by a name that may have spaces.
fn typed(text: &str) -> Option<Typed> {
    let text = text.trim_start();
    let after = text.strip_prefix("<at>").and_then(|it| it.split_once("</at>"));
    Typed::find(after.map_or(text, |(_, after)| after))
}

fn text(value: &Value) -> Result<String, Forged> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or(Forged::Shape)
}

fn read(value: &Value) -> Result<String, Failure> {
    text(value).map_err(|_| Failure::Never { why: "Teams' answer lacks what was asked for".into() })
}
