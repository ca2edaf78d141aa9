//! Linear: cards as comments on an issue, by GraphQL; answers are comments with a code.
//!
//! linear.app/developers: "Getting started" (authentication), "Webhooks" (signature, `webhookTimestamp`), "Rate limiting"
//! (2,500 requests an hour and user, for long; errors say RATELIMITED). Linear publishes no size for a comment: ours is
//! GitHub's.
//!
//! The time is read from the signed body; the header Linear-Timestamp that repeats it is not signed, nor is Linear-Delivery:
//! what makes it the same event is the comment.

use std::time::SystemTime;

use http::StatusCode;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use crate::card::Notice;
use crate::comment::{fenced, markdown};
use crate::http::{Answer, Auth, Call, Failure, Inbound, Reply, Wire};
use crate::outgoing::Outgoing;
use crate::platform::{
    Adapter, Caps, Configuration, Evidence, Forged, Heard, Keys, Message, Outcome, POST, Platform,
    Said, Setting, TooLarge, Unfit, User, What,
};
use crate::secret::Secret;
use crate::text::Text;
use crate::typed::Typed;
use crate::verify;

pub(crate) static PLATFORM: Platform = Platform {
    name: "linear",
    title: "Linear",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the API is, without /graphql",
            default: Some("https://api.linear.app"),
            required: false,
        },
        Setting {
            name: "organization",
            help: "the workspace's id: webhooks of another are refused",
            default: None,
            required: true,
        },
        Setting {
            name: "account",
            help: "the id of the user whose token it is: their comments answer nothing",
            default: None,
            required: true,
        },
    ],
    secrets: &[
        Setting {
            name: "token",
            help: "an API key, lin_api_…, or an OAuth access token",
            default: None,
            required: true,
        },
        Setting {
            name: "signing_secret",
            help: "of the webhook, lin_wh_…",
            default: None,
            required: true,
        },
    ],
    guide: "Make a member of its own for the gateway, and an API key of theirs with the permissions read and create comments.\n\
            { viewer { id organization { id } } } at https://api.linear.app/graphql shows the two ids.\n\
            In Settings, API, add a webhook: URL {hook}, data change events: Comments.\n\
            A place is the id of an issue. Everybody who can read it sees the cards there.",
    manifest: None,
    open: |configuration| Ok(Box::new(Linear::open(&configuration)?)),
};

struct Linear {
    base: String,
    organization: String,
    account: String,
    token: Secret,
    signing_secret: Secret,
}

const COMMENT: usize = 65_536;
const BODY_ROOMS: [usize; 4] = [16_000, 4000, 1000, 0];
const BODY_ROWS: usize = 120;

const CREATE: &str = "mutation($input: CommentCreateInput!) { commentCreate(input: $input) { success comment { id } } }";
const UPDATE: &str = "mutation($id: String!, $input: CommentUpdateInput!) { commentUpdate(id: $id, input: $input) { success } }";

impl Linear {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        Ok(Self {
            base: configuration.base("base_url"),
            organization: configuration.setting("organization"),
            account: configuration.setting("account"),
            token: configuration.secret("token")?,
            signing_secret: configuration.secret("signing_secret")?,
        })
    }

    fn call(&self, query: &str, variables: &Value) -> Call {
        let token = self.token.clone();
        // Keys go without the word before them, tokens of OAuth with it.
        let auth = match token.expose().starts_with("lin_api_") {
            true => Auth::Header(AUTHORIZATION, token),
            false => Auth::Bearer(token),
        };
        let body = json!({ "query": query, "variables": variables });
        Call::json(POST, format!("{}/graphql", self.base), &body, auth)
    }

    fn comment(&self, event: &Value) -> Result<Heard, Forged> {
        let (actor, comment) = (&event["actor"], &event["data"]);
        // Integrations and apps act under other types, or without a user.
        let a_person = actor["type"].is_null() || actor["type"] == "user";
        let (true, Some(by)) = (a_person, comment["userId"].as_str()) else {
            return Ok(Heard::Nothing);
        };
        let theirs = actor["id"] == by && comment["botActor"].is_null();
        if !theirs || by.is_empty() || by == self.account {
            return Ok(Heard::Nothing);
        }
        let typed = comment["body"].as_str().and_then(Typed::find);
        // Comments on projects and documents are in no place of ours.
        let (Some(typed), Some(place)) = (typed, comment["issueId"].as_str()) else {
            return Ok(Heard::Nothing);
        };
        let id = comment["id"].as_str().filter(|id| !id.is_empty()).ok_or(Forged::Shape)?;
        Ok(Heard::Said(vec![Said {
            by: User { tenant: self.organization.clone(), id: by.to_owned() },
            what: What::Typed(typed),
            message: Message { place: place.to_owned(), id: id.to_owned() },
            event: format!("comment {id}"),
            reply_to: String::new(),
        }]))
    }
}

impl Adapter for Linear {
    fn caps(&self) -> Caps {
        Caps {
            buttons: false,
            edit: true,
            keyed_send: false,
            wire: Wire::Webhook,
            evidence: Evidence::SharedMac,
            per_second: 2500.0 / 3600.0,
            per_second_and_place: 2500.0 / 3600.0,
            burst: 1,
        }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        let body = markdown(notice, COMMENT, &BODY_ROOMS, BODY_ROWS)?;
        Ok(self.call(CREATE, &json!({ "input": { "issueId": place, "body": body } })).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        let body = accepted(answer)?;
        let id = body["commentCreate"]["comment"]["id"].as_str().ok_or_else(|| Failure::Never {
            why: "Linear's answer does not name the comment".into(),
        })?;
        Ok(Message { place: place.to_owned(), id: id.to_owned() })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        Some(
            markdown(notice, COMMENT, &BODY_ROOMS, BODY_ROWS).map(|body| {
                self.call(UPDATE, &json!({ "id": message.id, "input": { "body": body } }))
            }),
        )
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        let gone = reason(&answer.json()).is_some_and(|(_, why)| why.contains("not found"));
        if gone { Ok(()) } else { accepted(answer).map(drop) }
    }

    fn say(&self, place: &str, under: Option<&Message>, words: &Text) -> Outgoing {
        let mut input = json!({ "issueId": place, "body": fenced([words.as_str()].into_iter()) });
        if let Some(message) = under {
            input["parentId"] = message.id.as_str().into();
        }
        self.call(CREATE, &json!({ "input": input })).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer).map(drop)
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method != POST {
            return Err(Forged::Shape);
        }
        let mac = inbound.header("linear-signature").ok_or(Forged::Signature)?;
        let secret = self.signing_secret.expose().as_bytes();
        verify::hmac_sha256_hex(secret, &[inbound.body], mac)?;
        let event: Value = serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)?;
        let milliseconds = event["webhookTimestamp"].as_u64().ok_or(Forged::Stale)?;
        verify::fresh_at(milliseconds / 1000, now)?;
        if event["organizationId"] != *self.organization {
            return Err(Forged::Signature);
        }
        inbound.header("linear-delivery").ok_or(Forged::Shape)?;
        if event["type"] != "Comment" || event["action"] != "create" {
            return Ok(Heard::Nothing);
        }
        self.comment(&event)
    }

    /// Nothing can be told to one person alone.
    fn reply(&self, _said: &Said, _outcome: &Outcome) -> (Reply, Option<Call>) {
        (Reply::empty(StatusCode::OK), None)
    }
}

/// GraphQL says in the body what was wrong, whatever the status.
fn accepted(answer: &Answer) -> Result<Value, Failure> {
    let body = answer.json();
    let Some((code, why)) = reason(&body) else {
        answer.done()?;
        return Ok(body["data"].clone());
    };
    let why = format!("Linear refused it: {}", Text::of(&why));
    let passing = code == "RATELIMITED" || answer.status.is_server_error();
    match passing || answer.status == StatusCode::TOO_MANY_REQUESTS {
        true => Err(Failure::Later { after: answer.retry_after(), why }),
        false => Err(Failure::Never { why }),
    }
}

/// The code and words of the first error, in small letters where it is words.
fn reason(body: &Value) -> Option<(String, String)> {
    let error = body["errors"].as_array()?.first()?;
    let code = error["extensions"]["code"].as_str().unwrap_or_default().to_owned();
    Some((code, error["message"].as_str().unwrap_or("no reason").to_lowercase()))
}
