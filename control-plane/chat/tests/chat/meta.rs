//! What Meta's platforms have in common, with Python's hmac as the signer; and what its two inboxes, Messenger and Instagram,
//! have to do alike.

use std::time::SystemTime;

use countersign_chat::{
    Failure, Forged, Heard, Keys, Message, Outcome, Text, Token, Typed, What, Words,
};
use http::Method;
use serde_json::{Value, json};

use crate::support::{
    Forgeries, HANDLE, OverHttp, Signer, Webhook, answer, asking, body, card, demands_secret,
    judge, key, now, open, seconds, settled,
};

/// Signed by Python.
pub(crate) fn signed(signer: &Signer<'_>, body: &str) -> Webhook {
    let mac = judge("hmac_sign.py", &json!({ "secret": signer.secret, "text": body }));
    let signature = format!("sha256={}", mac["hex"].as_str().unwrap());
    let headers =
        [("content-type", "application/json"), ("x-hub-signature-256", signature.as_str())];
    Webhook::post(&headers, body)
}

pub(crate) fn challenge(query: &str) -> Webhook {
    let mut hook = Webhook::post(&[], "");
    hook.method = Method::GET;
    hook.query = Some(query.to_owned());
    hook
}

pub(crate) const PERSON: &str = "6254273171337";
/// The page, or the professional account.
pub(crate) const ACCOUNT: &str = "104728521537301";
const APP_SECRET: &str = "5eb63bbbe01eeed093cb22bb8f5acdc3";

/// A place where people write to a page or an account.
pub(crate) struct Inbox {
    pub(crate) platform: &'static str,
    /// As its webhooks call it.
    pub(crate) object: &'static str,
    /// The names of the setting that says whose it is, and of the secret that calls are made with.
    pub(crate) account: &'static str,
    pub(crate) token: &'static str,
}

pub(crate) fn approve() -> Token {
    key().token("c", PERSON, HANDLE, Words::Approve)
}

pub(crate) fn signer(at: SystemTime) -> Signer<'static> {
    Signer { secret: APP_SECRET, app: ACCOUNT, at }
}

pub(crate) fn postback(token: &Token) -> Value {
    json!({ "sender": { "id": PERSON }, "postback": { "mid": "m_1", "title": "Approve", "payload": token.as_str() } })
}

fn written(words: &str) -> Value {
    json!({ "sender": { "id": PERSON }, "message": { "mid": "m_2", "text": words } })
}

impl Inbox {
    fn settings(&self) -> [(&'static str, &'static str); 2] {
        [("base_url", "http://127.0.0.1:1/v25.0"), (self.account, ACCOUNT)]
    }

    fn secrets(&self) -> [(&'static str, &'static str); 3] {
        [(self.token, "EAA-canary"), ("app_secret", APP_SECRET), ("verify_token", "made-up-by-us")]
    }

    pub(crate) fn open(&self) -> OverHttp {
        open(self.platform, &self.settings(), &self.secrets())
    }

    /// As the reference shows what an event of a conversation is.
    pub(crate) fn hook(&self, signer: &Signer<'_>, event: &Value) -> Webhook {
        let milliseconds = seconds(signer.at) * 1000;
        let mut event = event.clone();
        event["recipient"] = json!({ "id": signer.app });
        event["timestamp"] = milliseconds.into();
        let payload = json!({
            "object": self.object,
            "entry": [{ "id": signer.app, "time": milliseconds, "messaging": [event] }],
        });
        signed(signer, &payload.to_string())
    }

    fn heard(&self, event: &Value) -> Result<Heard, Forged> {
        self.hook(&signer(now()), event).heard(&*self.open(), &Keys::default(), now())
    }

    pub(crate) fn refuses_nine_forgeries(&self) {
        Forgeries {
            adapter: &*self.open(),
            keys: Keys::default(),
            secret: APP_SECRET,
            app: ACCOUNT,
            signature: "x-hub-signature-256",
            timed: true,
            covers_body: true,
            make: &|signer| self.hook(signer, &postback(&approve())),
            reserialised: &|body| {
                String::from_utf8(body.to_vec()).unwrap().replace(':', ": ").into()
            },
        }
        .are_refused();
        for (secret, _) in self.secrets() {
            demands_secret(self.platform, &self.settings(), &self.secrets(), secret);
        }
    }

    pub(crate) fn answers_challenges_with_the_verify_token(&self) {
        let ask = |query: &str| challenge(query).heard(&*self.open(), &Keys::default(), now());
        let genuine = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=made-up-by-us";
        assert!(matches!(ask(genuine), Ok(Heard::Challenge(reply)) if reply.body == "1158201444"));
        assert_eq!(ask(&genuine.replace("made", "guessed")), Err(Forged::Signature));
        assert_eq!(ask(&format!("{genuine}&hub.verify_token=guessed")), Err(Forged::Shape));
        assert_eq!(ask("hub.mode=subscribe&hub.challenge=1"), Err(Forged::Signature));
    }

    pub(crate) fn hears_who_pressed_what_and_answers_there(&self) {
        let quick = json!({ "sender": { "id": PERSON }, "message": { "mid": "m_1", "text": "Approve",
            "quick_reply": { "payload": approve().as_str() } } });
        for event in [postback(&approve()), quick] {
            let Ok(Heard::Said(said)) = self.heard(&event) else { panic!("nothing was said") };
            assert_eq!((said[0].by.tenant.as_str(), said[0].by.id.as_str()), (ACCOUNT, PERSON));
            assert_eq!((said[0].message.place.as_str(), said[0].event.as_str()), (PERSON, "m_1"));
            let What::Tap(token) = &said[0].what else { panic!("{said:?}") };
            assert_eq!(key().open("c", PERSON, token), Some((HANDLE, Words::Approve)));
            let refused = Outcome::Refused(Text::of("you may not"));
            let (reply, call) = self.open().reply(&said[0], &refused);
            assert_eq!((reply.status.as_u16(), reply.body.as_str()), (200, ""));
            let sent = body(&call.unwrap());
            assert_eq!(
                (&sent["recipient"]["id"], &sent["message"]["text"]),
                (&json!(PERSON), &json!("you may not"))
            );
        }
    }

    pub(crate) fn hears_codes_of_people_and_not_its_own_echoes(&self) {
        let linked = self.heard(&written("link abc-def"));
        let Ok(Heard::Said(said)) = linked else { panic!("nothing was said") };
        assert_eq!(said[0].what, What::Typed(Typed::Link("abc-def".into())));
        assert_eq!(said[0].message.id, "m_2");
        let mut echo = written("link abc-def");
        echo["message"]["is_echo"] = true.into();
        assert_eq!(self.heard(&echo), Ok(Heard::Nothing));
        let mut own = written("link abc-def");
        own["sender"]["id"] = ACCOUNT.into();
        assert_eq!(self.heard(&own), Ok(Heard::Nothing));
        assert_eq!(self.heard(&written("hello")), Ok(Heard::Nothing));
        let another = signed(&signer(now()), "{\"object\":\"user\",\"entry\":[]}");
        assert_eq!(another.heard(&*self.open(), &Keys::default(), now()), Err(Forged::Shape));
    }

    pub(crate) fn shows_no_address_with_its_scheme(&self) {
        let card = card("/p", "https://evil.example");
        for notice in [asking(&card, "c", PERSON), settled(&card, "see https://evil.example")] {
            let sent = body(&self.open().post(PERSON, &notice, "k").unwrap()).to_string();
            assert!(!sent.contains("://") && sent.contains("https[:]//evil.example"));
        }
    }

    pub(crate) fn settles_a_card_without_buttons_and_leaves_the_old_one(&self) {
        let card = card("/p", "{}");
        let message = Message { place: PERSON.into(), id: "m_ours".into() };
        let settled = settled(&card, "Denied by bo: no");
        assert!(self.open().edit(&message, &settled).is_none() && !self.open().caps().edit);
        let sent = body(&self.open().post(PERSON, &settled, "k").unwrap()).to_string();
        assert!(sent.contains("Denied by bo: no") && !sent.contains("payload"));
    }

    pub(crate) fn says_which_message_it_is_now_or_what_to_do(&self) {
        let posted = |status, body: Value| self.open().posted(PERSON, &answer(status, &body));
        let sent = posted(200, json!({ "recipient_id": PERSON, "message_id": "m_ours" })).unwrap();
        assert_eq!((sent.place.as_str(), sent.id.as_str()), (PERSON, "m_ours"));
        let error = |code: i64| json!({ "error": { "message": "(#1) no", "code": code } });
        let Err(Failure::Never { why }) = posted(400, error(10)) else { panic!("not refused") };
        assert!(why.contains("24 hours"), "{why}");
        assert!(matches!(posted(400, error(613)), Err(Failure::Later { .. })));
        assert!(matches!(posted(400, error(190)), Err(Failure::Never { .. })));
        assert!(matches!(posted(200, json!({})), Err(Failure::Never { .. })));
    }
}
