//! Google Chat: cards by the Chat API; interaction events of an HTTP app.
//!
//! developers.google.com/workspace/chat: "Verify requests from Google Chat", "Receive and respond to user interactions",
//! "Format messages" (cards read a few HTML tags), "Cards v2", spaces.messages.create (`requestId`) and .patch,
//! spaces.findDirectMessage, "Usage limits" (one write a second and space, 3,000 a minute and project; 32,000 bytes a
//! message); RFC 7523 for the app's own token.
//!
//! The token that comes with an event says that Chat sends it, to this address or this project. It does not cover the body.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
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
    name: "gchat",
    title: "Google Chat",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the Chat API is",
            default: Some("https://chat.googleapis.com"),
            required: false,
        },
        Setting {
            name: "token_url",
            help: "where the app gets its access token",
            default: Some("https://oauth2.googleapis.com/token"),
            required: false,
        },
        Setting {
            name: "project",
            help: "the project's number, if the app's authentication audience is that and not the address",
            default: None,
            required: false,
        },
        Setting {
            name: "keys_url",
            help: "where the keys are that Chat signs with, if not where Google has them",
            default: None,
            required: false,
        },
    ],
    secrets: &[Setting {
        name: "service_account",
        help: "the JSON key of the app's service account",
        default: None,
        required: true,
    }],
    guide: "In a Google Cloud project, enable the Google Chat API, and make a service account with a JSON key.\n\
            Configure the Chat app, not as a Workspace add-on: interactive features on, for direct messages and spaces,\n\
            connection HTTP endpoint URL {hook}\n\
            Authentication audience: HTTP endpoint URL (or the project number, which is then the setting project).\n\
            Whoever is to get cards adds the app once, or the domain's administrator installs it for all.",
    manifest: None,
    open: |configuration| Ok(Box::new(GoogleChat::open(&configuration)?)),
};

struct GoogleChat {
    base: String,
    token_url: String,
    keys: String,
    project: Option<String>,
    email: String,
    key_id: String,
    key: EncodingKey,
}

/// Who Chat is, in both shapes of its tokens.
const CHAT: &str = "chat@system.gserviceaccount.com";
const GOOGLE: [&str; 2] = ["accounts.google.com", "https://accounts.google.com"];
/// What the names of people begin with.
const USERS: &str = "users/";
const GOOGLE_KEYS: &str = "https://www.googleapis.com/oauth2/v3/certs";
const CHAT_KEYS: &str =
    "https://www.googleapis.com/service_accounts/v1/jwk/chat@system.gserviceaccount.com";
/// A message as it is sent, in bytes.
const MESSAGE: usize = 32_000;
/// What is tried for the body, one after another: a character may take six bytes to send.
const BODY_ROOMS: [usize; 5] = [8000, 4000, 1500, 500, 0];
const BODY_ROWS: usize = 60;
/// As long as the exchange for an access token may take.
const ASSERTION: Duration = Duration::from_secs(300);

/// A key file of a service account. The addresses in it are not called.
#[derive(Deserialize)]
struct Account {
    client_email: String,
    private_key: String,
    private_key_id: String,
}

/// An ID token of Google's: anybody may have one made out for our address, so it counts only who it was made for.
#[derive(Clone, Deserialize)]
struct Identity {
    email: String,
    email_verified: bool,
}

impl GoogleChat {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        let unfit =
            || Unfit("the secret service_account is no JSON key of a service account".into());
        let account = configuration.secret("service_account")?;
        let account: Account = serde_json::from_str(account.expose()).map_err(|_| unfit())?;
        let key = EncodingKey::from_rsa_pem(account.private_key.as_bytes()).map_err(|_| unfit())?;
        let project = configuration.optional("project");
        let usual = if project.is_some() { CHAT_KEYS } else { GOOGLE_KEYS };
        Ok(Self {
            base: configuration.base("base_url"),
            token_url: configuration.setting("token_url"),
            keys: configuration.optional("keys_url").unwrap_or_else(|| usual.to_owned()),
            project,
            email: account.client_email,
            key_id: account.private_key_id,
            key,
        })
    }

    /// Says to Google, for five minutes, that we are the service account.
    fn assertion(&self, now: SystemTime) -> Option<String> {
        let from = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let claims = json!({
            "iss": self.email,
            "scope": "https://www.googleapis.com/auth/chat.bot",
            "aud": self.token_url,
            "iat": from,
            "exp": from + ASSERTION.as_secs(),
        });
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, &claims, &self.key).ok()
    }

    /// `spaces/A` or `spaces/A/messages/B`, each id a segment of its own.
    fn address(&self, name: &str) -> String {
        let path: Vec<_> = name.split('/').map(segment).collect();
        format!("{}/v1/{}", self.base, path.join("/"))
    }

    /// Whether Chat has sent it, to us: to this address, or to this project.
    fn demand_chat(
        &self,
        inbound: &Inbound<'_>,
        keys: &Keys,
        now: SystemTime,
    ) -> Result<(), Forged> {
        let token = inbound.header("authorization").and_then(|it| it.strip_prefix("Bearer "));
        let token = token.ok_or(Forged::Signature)?;
        if let Some(project) = &self.project {
            return verify::jwt::<Value>(token, keys, &[CHAT], project, now).map(drop);
        }
        let from: Identity = verify::jwt(token, keys, &GOOGLE, inbound.public_url, now)?;
        if from.email == CHAT && from.email_verified { Ok(()) } else { Err(Forged::Signature) }
    }
}

impl Adapter for GoogleChat {
    fn caps(&self) -> Caps {
        Caps {
            buttons: true,
            edit: true,
            keyed_send: true,
            wire: Wire::Webhook,
            evidence: Evidence::Asymmetric,
            per_second: 50.0,
            per_second_and_place: 1.0,
            burst: 1,
        }
    }

    fn grant(&self, now: SystemTime) -> Option<Call> {
        let assertion = self.assertion(now)?;
        let kind = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        let pairs = [("grant_type", kind), ("assertion", assertion.as_str())];
        Some(Call::form(self.token_url.clone(), &pairs, Auth::None))
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

    /// The one that there is since the person, or an administrator, has added the app.
    fn converse(&self, user: &User) -> Option<Call> {
        let name = segment(&format!("{USERS}{}", user.id));
        let url = format!("{}/v1/spaces:findDirectMessage?name={name}", self.base);
        Some(Call::get(url, Auth::Granted))
    }

    fn conversed(&self, answer: &Answer) -> Result<String, Failure> {
        answer.done()?;
        read(&answer.json()["name"])
    }

    fn post(&self, place: &str, notice: &Notice<'_>, key: &str) -> Result<Outgoing, TooLarge> {
        let url = format!("{}/messages?requestId={}", self.address(place), segment(key));
        Ok(Call::json(POST, url, &rendered(notice)?, Auth::Granted).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        answer.done()?;
        Ok(Message { place: place.to_owned(), id: read(&answer.json()["name"])? })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        let url = format!("{}?updateMask=cardsV2", self.address(&message.id));
        Some(rendered(notice).map(|body| Call::json(Method::PATCH, url, &body, Auth::Granted)))
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        if answer.status == StatusCode::NOT_FOUND { Ok(()) } else { answer.done() }
    }

    fn say(&self, place: &str, _under: Option<&Message>, words: &Text) -> Outgoing {
        let body = message(&json!({ "sections": [{ "widgets": [paragraph(words)] }] }));
        Call::json(POST, format!("{}/messages", self.address(place)), &body, Auth::Granted).into()
    }

    fn hear(&self, inbound: &Inbound<'_>, keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method != POST {
            return Err(Forged::Shape);
        }
        self.demand_chat(inbound, keys, now)?;
        let event: Value = serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)?;
        let what = match event["type"].as_str() {
            Some("CARD_CLICKED") => tap(&event),
            Some("MESSAGE") => {
                let written = &event["message"];
                let text = written["argumentText"].as_str().or_else(|| written["text"].as_str());
                text.and_then(Typed::find).map(What::Typed)
            }
            Some(_) => None,
            None => return Err(Forged::Shape),
        };
        let user = &event["user"];
        let Some(what) = what.filter(|_| user["type"] == "HUMAN") else {
            return Ok(Heard::Nothing);
        };
        let tenant = user["domainId"].as_str().unwrap_or_default().to_owned();
        let user = named(&user["name"], USERS)?;
        // What follows is the account's id, which has no slash.
        let by = User { tenant, id: user[USERS.len()..].to_owned() };
        let message = Message {
            place: named(&event["space"]["name"], "spaces/")?,
            id: named(&event["message"]["name"], "spaces/")?,
        };
        if event["eventTime"].is_null() {
            return Err(Forged::Shape);
        }
        let alone =
            event["space"]["type"] == "DM" || event["space"]["spaceType"] == "DIRECT_MESSAGE";
        Ok(Heard::Said(vec![Said {
            event: format!("{} {} {}", event["eventTime"], message.id, by.id),
            reply_to: if alone { String::new() } else { user },
            by,
            what,
            message,
        }]))
    }

    /// In front of others, as a message that only they see.
    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let widgets = [paragraph(outcome.words())];
        let mut body = message(&json!({ "sections": [{ "widgets": widgets }] }));
        if matches!(said.what, What::Tap(_)) {
            body["actionResponse"] = json!({ "type": "NEW_MESSAGE" });
        }
        if !said.reply_to.is_empty() {
            body["privateMessageViewer"] = json!({ "name": said.reply_to });
        }
        (Reply::json(&body), None)
    }
}

/// With as much of the body as there is room for beside the head.
fn rendered(notice: &Notice<'_>) -> Result<Value, TooLarge> {
    let fits = |room| Some(with_body(notice, room)).filter(|it| it.to_string().len() <= MESSAGE);
    BODY_ROOMS.into_iter().find_map(fits).ok_or(TooLarge)
}

fn with_body(notice: &Notice<'_>, room: usize) -> Value {
    let card = notice.card;
    let excerpt = card.body.excerpt(room, BODY_ROWS);
    let mut head: Vec<_> = notice.standing().iter().map(paragraph).collect();
    head.push(paragraph(&card.sentence));
    let careful = |warning: &Text| paragraph(&Text::of(&format!("CAREFUL: {warning}")));
    head.extend(card.warnings.iter().map(careful));
    head.extend(card.facts.iter().map(|(name, value)| {
        json!({ "decoratedText": { "topLabel": name, "text": escaped(value), "wrapText": true } })
    }));
    head.push(paragraph(&Text::of(&format!(
        "Fingerprint: {}. Approval {}.",
        card.fingerprint, card.approval
    ))));
    head.extend(notice.elsewhere(excerpt.whole).iter().map(paragraph));
    if let Some(answers) = notice.buttons(excerpt.whole) {
        let buttons =
            [button("approve", "Approve", &answers.approve), button("deny", "Deny", &answers.deny)];
        head.push(json!({ "buttonList": { "buttons": buttons } }));
    }
    let mut body = vec![paragraph(&excerpt.label)];
    if !excerpt.lines.is_empty() {
        let lines: Vec<_> = excerpt.lines.iter().map(escaped).collect();
        body.push(json!({ "textParagraph": { "text": lines.join("<br>") } }));
    }
    let header = json!({ "title": notice.title() });
    message(&json!({ "header": header, "sections": [{ "widgets": head }, { "widgets": body }] }))
}

/// Words are in cards only: the text of a message would have mentions and links of them.
fn message(card: &Value) -> Value {
    json!({ "cardsV2": [{ "cardId": "countersign", "card": card }] })
}

fn paragraph(words: &Text) -> Value {
    json!({ "textParagraph": { "text": escaped(words) } })
}

/// The three characters that make tags and entities.
fn escaped(words: &Text) -> String {
    words.as_str().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn button(function: &str, text: &str, token: &Token) -> Value {
    let parameters = json!([{ "key": "token", "value": token.as_str() }]);
    let action = json!({ "function": function, "parameters": parameters });
    json!({ "text": text, "onClick": { "action": action } })
}

fn tap(event: &Value) -> Option<What> {
    let listed = event["action"]["parameters"].as_array().into_iter().flatten();
    let token = listed.filter(|it| it["key"] == "token").find_map(|it| it["value"].as_str());
    let token = token.or_else(|| event["common"]["parameters"]["token"].as_str());
    Token::parse(token?).map(What::Tap)
}

fn named(name: &Value, kind: &str) -> Result<String, Forged> {
    name.as_str()
        .filter(|name| name.len() > kind.len() && name.starts_with(kind))
        .map(str::to_owned)
        .ok_or(Forged::Shape)
}

fn read(value: &Value) -> Result<String, Failure> {
    let why = || "Google Chat's answer lacks what was asked for".into();
    value.as_str().map(str::to_owned).ok_or_else(|| Failure::Never { why: why() })
}
