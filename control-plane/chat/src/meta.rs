//! What Meta's platforms have in common: how webhooks are signed and set up, and how errors are told.
//!
//! developers.facebook.com: Graph API, "Webhooks: Getting Started" (verification requests, X-Hub-Signature-256) and "Handle
//! Errors".

use std::time::SystemTime;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::http::{Answer, Failure, Form, Inbound, Reply};
use crate::plain::Lines;
use crate::platform::{Configuration, Forged, Heard, Message, Said, Setting, Unfit, User, What};
use crate::secret::Secret;
use crate::text::Text;
use crate::token::Token;
use crate::typed::Typed;
use crate::verify;

/// What a webhook of an app is checked by.
pub(crate) struct Hooks {
    app_secret: Secret,
    verify_token: Secret,
}

pub(crate) enum Verified {
    Challenge(Reply),
    Body(Value),
}

pub(crate) const APP_SECRET: Setting = Setting {
    name: "app_secret",
    help: "of the app's Settings, Basic: webhooks are signed with it",
    default: None,
    required: true,
};

pub(crate) const VERIFY_TOKEN: Setting = Setting {
    name: "verify_token",
    help: "made up by you, and repeated where the webhook is configured",
    default: None,
    required: true,
};

impl Hooks {
    pub(crate) fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            app_secret: configuration.secret(APP_SECRET.name)?,
            verify_token: configuration.secret(VERIFY_TOKEN.name)?,
        })
    }

    /// The signature has no time in it: what a webhook holds says when it was.
    pub(crate) fn verify(&self, inbound: &Inbound<'_>) -> Result<Verified, Forged> {
        if inbound.method == Method::GET {
            return self.challenge(inbound).map(Verified::Challenge);
        }
        if inbound.method != Method::POST {
            return Err(Forged::Shape);
        }
        let signature = inbound.header("x-hub-signature-256").ok_or(Forged::Signature)?;
        let mac = signature.strip_prefix("sha256=").ok_or(Forged::Signature)?;
        verify::hmac_sha256_hex(self.app_secret.expose().as_bytes(), &[inbound.body], mac)?;
        serde_json::from_slice(inbound.body).map(Verified::Body).map_err(|_| Forged::Shape)
    }

    fn challenge(&self, inbound: &Inbound<'_>) -> Result<Reply, Forged> {
        let query = Form::parse(inbound.query.ok_or(Forged::Shape)?.as_bytes())?;
        let token = query.value("hub.verify_token").ok_or(Forged::Signature)?;
        verify::static_secret(&self.verify_token, &token)?;
        if query.value("hub.mode").as_deref() != Some("subscribe") {
            return Err(Forged::Shape);
        }
        Ok(Reply::text(StatusCode::OK, &query.value("hub.challenge").ok_or(Forged::Shape)?))
    }
}

/// What is written to one page or professional account, whose webhooks Messenger and Instagram make alike.
pub(crate) struct Inbox<'a> {
    /// "page" or "instagram".
    pub(crate) object: &'a str,
    pub(crate) account: &'a str,
}

impl Inbox<'_> {
    pub(crate) fn heard(&self, body: &Value, now: SystemTime) -> Result<Heard, Forged> {
        if body["object"] != *self.object {
            return Err(Forged::Shape);
        }
        let mut read = Vec::new();
        for entry in list(&body["entry"])? {
            let events = list(&entry["messaging"])?;
            read.extend(events.iter().map(|event| self.said(event, now)));
        }
        fresh(read)
    }

    fn said(&self, event: &Value, now: SystemTime) -> Result<Option<Said>, Forged> {
        // An app can have other accounts beside this one, and our own messages are echoed.
        let ours = event["recipient"]["id"] == *self.account;
        if !ours || event["sender"]["id"] == *self.account || event["message"]["is_echo"] == true {
            return Ok(None);
        }
        let (postback, message) = (&event["postback"], &event["message"]);
        let payload =
            postback["payload"].as_str().or_else(|| message["quick_reply"]["payload"].as_str());
        let tapped = payload.and_then(Token::parse).map(What::Tap);
        let typed = || message["text"].as_str().and_then(Typed::find).map(What::Typed);
        let Some(what) = tapped.or_else(typed) else { return Ok(None) };
        let milliseconds = event["timestamp"].as_u64().ok_or(Forged::Shape)?;
        verify::fresh_at(milliseconds / 1000, now)?;
        let id = text(&event["sender"]["id"])?;
        let named = text(&postback["mid"]).or_else(|_| text(&message["mid"]));
        let event = match &what {
            // Not every postback has an id; who pressed what and when is the same whenever it is delivered.
            What::Tap(token) => {
                named.unwrap_or_else(|_| format!("{id} {milliseconds} {}", token.as_str()))
            }
            _ => named?,
        };
        // Which message a button was on is not said: its token knows.
        let on = if matches!(what, What::Tap(_)) { String::new() } else { event.clone() };
        let message = Message { place: id.clone(), id: on };
        // Ids of people are an account's own.
        let by = User { tenant: self.account.to_owned(), id: id.clone() };
        Ok(Some(Said { by, what, message, event, reply_to: id }))
    }
}

/// Text, with replies over the keyboard that go when one is tapped.
pub(crate) fn quick_replies(lines: &Lines<'_>) -> Value {
    let mut message = json!({ "text": lines.text });
    if let Some(answers) = lines.buttons {
        let reply = |title: &str, token: &Token| json!({ "content_type": "text", "title": title, "payload": token.as_str() });
        message["quick_replies"] =
            json!([reply("Approve", &answers.approve), reply("Deny", &answers.deny)]);
    }
    message
}

/// What both refuse with when somebody has not written for a day.
pub(crate) const WINDOW: (i64, &str) = (
    10,
    "Meta takes no message to somebody who has not written for 24 hours, or the app lacks a permission: they have to write \
     again, or be asked on another channel",
);

/// What of a webhook is from now. Meta delivers together what it could not deliver before: the old of it is left out, and
/// where there is nothing else, all of it is stale.
pub(crate) fn fresh(read: Vec<Result<Option<Said>, Forged>>) -> Result<Heard, Forged> {
    let (mut said, mut stale) = (Vec::new(), false);
    for one in read {
        match one {
            Ok(one) => said.extend(one),
            Err(Forged::Stale) => stale = true,
            Err(forged) => return Err(forged),
        }
    }
    match (said.is_empty(), stale) {
        (true, true) => Err(Forged::Stale),
        (true, false) => Ok(Heard::Nothing),
        (false, _) => Ok(Heard::Said(said)),
    }
}

/// Meta says in the body what was wrong: `later` are the codes of limits that pass by themselves, and `instead` says what to
/// do where a code has one thing that helps.
pub(crate) fn accepted(
    answer: &Answer,
    later: &[i64],
    instead: &[(i64, &str)],
) -> Result<Value, Failure> {
    let body = answer.json();
    let error = &body["error"];
    let Some(code) = error["code"].as_i64() else {
        return answer.done().map(|()| body);
    };
    if let Some((_, why)) = instead.iter().find(|(known, _)| *known == code) {
        return Err(Failure::Never { why: (*why).to_owned() });
    }
    let message = Text::of(error["message"].as_str().unwrap_or("no reason"));
    let why = format!("Meta refused it with code {code}: {message}");
    // 1, 2: it is down; 4, 17, 32, 613: too many calls.
    let passing = [1, 2, 4, 17, 32, 613].contains(&code) || later.contains(&code);
    let failing = answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS;
    if passing || failing || error["is_transient"] == true {
        return Err(Failure::Later { after: answer.retry_after(), why });
    }
    Err(Failure::Never { why })
}

/// Lists that may be left out.
pub(crate) fn list(value: &Value) -> Result<&[Value], Forged> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(list) => Ok(list),
        _ => Err(Forged::Shape),
    }
}

pub(crate) fn text(value: &Value) -> Result<String, Forged> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or(Forged::Shape)
}

pub(crate) fn named(value: &Value) -> Result<String, Failure> {
    text(value)
        .map_err(|_| Failure::Never { why: "Meta's answer does not name the message".into() })
}
