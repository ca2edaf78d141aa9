//! GitHub: cards as comments on an issue or a pull request; answers are comments with a code.
//!
//! docs.github.com: "Validating webhook deliveries", "Webhook events and payloads" (issue_comment, ping), "REST API endpoints
//! for issue comments", "… for reactions", "Rate limits for the REST API" (80 requests a minute that make content). A
//! comment has at most 65,536 characters.
//!
//! A webhook does not say when it was sent, and its delivery's id is not signed: what makes it the same event is the comment,
//! and what makes it one of now is when that was written.

use std::time::SystemTime;

use http::header::{ACCEPT, HeaderName, USER_AGENT};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::card::Notice;
use crate::comment::{fenced, markdown};
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
    name: "github",
    title: "GitHub",
    settings: &[
        Setting {
            name: "base_url",
            help: "where the REST API is",
            default: Some("https://api.github.com"),
            required: false,
        },
        Setting {
            name: "account",
            help: "the numeric id of the account whose token it is: its own comments answer nothing",
            default: None,
            required: true,
        },
    ],
    secrets: &[
        Setting {
            name: "token",
            help: "a fine-grained personal access token of an account of its own",
            default: None,
            required: true,
        },
        Setting {
            name: "webhook_secret",
            help: "as it is entered with the webhook",
            default: None,
            required: true,
        },
    ],
    guide: "Make an account of its own for the gateway, and give it a fine-grained token for the repository with\n\
            Issues: read and write, and Pull requests: read and write. GET https://api.github.com/user shows its numeric id.\n\
            In the repository's settings, add a webhook: payload URL {hook}, content type application/json,\n\
            a secret, and of the individual events only: Issue comments.\n\
            A place is written owner/repository#number. Everybody who can read it sees the cards there.",
    manifest: None,
    open: |configuration| Ok(Box::new(GitHub::open(&configuration)?)),
};

struct GitHub {
    base: String,
    account: u64,
    token: Secret,
    webhook_secret: Secret,
}

const COMMENT: usize = 65_536;
const BODY_ROOMS: [usize; 4] = [16_000, 4000, 1000, 0];
const BODY_ROWS: usize = 120;

impl GitHub {
    fn open(configuration: &Configuration) -> Result<Self, Unfit> {
        let account = configuration.setting("account").parse();
        Ok(Self {
            base: configuration.base("base_url"),
            account: account.map_err(|_| Unfit("account is no numeric id of GitHub's".into()))?,
            token: configuration.secret("token")?,
            webhook_secret: configuration.secret("webhook_secret")?,
        })
    }

    fn call(&self, method: Method, path: &str, body: &Value) -> Call {
        let url = format!("{}/{path}", self.base);
        let mut call = Call::json(method, url, body, Auth::Bearer(self.token.clone()));
        let headers = [
            (ACCEPT, "application/vnd.github+json"),
            (USER_AGENT, "countersign"),
            (HeaderName::from_static("x-github-api-version"), "2022-11-28"),
        ];
        for (name, value) in headers {
            call.headers.insert(name, HeaderValue::from_static(value));
        }
        call
    }

    fn comment(&self, event: &Value, now: SystemTime) -> Result<Heard, Forged> {
        let comment = &event["comment"];
        let id = |user: &Value| user["id"].as_u64().ok_or(Forged::Shape);
        let by = id(&comment["user"])?;
        // What an app writes in somebody's name is not said by them; nor is it what somebody else sends off.
        let a_person = comment["user"]["type"] == "User"
            && comment["performed_via_github_app"].is_null()
            && id(&event["sender"])? == by;
        if event["action"] != "created" || !a_person || by == self.account {
            return Ok(Heard::Nothing);
        }
        let Some(typed) = comment["body"].as_str().and_then(Typed::find) else {
            return Ok(Heard::Nothing);
        };
        verify::fresh_rfc3339(comment["created_at"].as_str().ok_or(Forged::Stale)?, now)?;
        let repository = event["repository"]["full_name"].as_str().ok_or(Forged::Shape)?;
        let number = event["issue"]["number"].as_u64().ok_or(Forged::Shape)?;
        let id = comment["id"].as_u64().ok_or(Forged::Shape)?.to_string();
        Ok(Heard::Said(vec![Said {
            by: User { tenant: String::new(), id: by.to_string() },
            what: What::Typed(typed),
            event: format!("comment {id}"),
            message: Message { place: format!("{repository}#{number}"), id },
            reply_to: String::new(),
        }]))
    }
}

impl Adapter for GitHub {
    fn caps(&self) -> Caps {
        Caps {
            buttons: false,
            edit: true,
            keyed_send: false,
            wire: Wire::Webhook,
            evidence: Evidence::SharedMac,
            per_second: 80.0 / 60.0,
            per_second_and_place: 80.0 / 60.0,
            burst: 1,
        }
    }

    fn post(&self, place: &str, notice: &Notice<'_>, _key: &str) -> Result<Outgoing, TooLarge> {
        let body = json!({ "body": markdown(notice, COMMENT, &BODY_ROOMS, BODY_ROWS)? });
        Ok(self.call(POST, &comments(place), &body).into())
    }

    fn posted(&self, place: &str, answer: &Answer) -> Result<Message, Failure> {
        accepted(answer)?;
        let id = answer.json()["id"].as_u64().ok_or_else(|| Failure::Never {
            why: "GitHub's answer does not name the comment".into(),
        })?;
        Ok(Message { place: place.to_owned(), id: id.to_string() })
    }

    fn edit(&self, message: &Message, notice: &Notice<'_>) -> Option<Result<Call, TooLarge>> {
        let body = markdown(notice, COMMENT, &BODY_ROOMS, BODY_ROWS);
        Some(body.map(|body| self.call(Method::PATCH, &comment(message), &json!({ "body": body }))))
    }

    fn edited(&self, answer: &Answer) -> Result<(), Failure> {
        let gone = [StatusCode::NOT_FOUND, StatusCode::GONE].contains(&answer.status);
        if gone { Ok(()) } else { accepted(answer) }
    }

    fn say(&self, place: &str, _under: Option<&Message>, words: &Text) -> Outgoing {
        let body = json!({ "body": fenced([words.as_str()].into_iter()) });
        self.call(POST, &comments(place), &body).into()
    }

    fn spoke(&self, answer: &Answer) -> Result<(), Failure> {
        accepted(answer)
    }

    fn hear(&self, inbound: &Inbound<'_>, _keys: &Keys, now: SystemTime) -> Result<Heard, Forged> {
        if inbound.method != POST {
            return Err(Forged::Shape);
        }
        let signature = inbound.header("x-hub-signature-256").ok_or(Forged::Signature)?;
        let mac = signature.strip_prefix("sha256=").ok_or(Forged::Signature)?;
        let secret = self.webhook_secret.expose().as_bytes();
        verify::hmac_sha256_hex(secret, &[inbound.body], mac)?;
        inbound.header("x-github-delivery").ok_or(Forged::Shape)?;
        match inbound.header("x-github-event").ok_or(Forged::Shape)? {
            "issue_comment" => {
                let event = serde_json::from_slice(inbound.body).map_err(|_| Forged::Shape)?;
                self.comment(&event, now)
            }
            _ => Ok(Heard::Nothing),
        }
    }

    /// Nothing can be told to one person alone: their comment gets a thumb up, or a puzzled face.
    fn reply(&self, said: &Said, outcome: &Outcome) -> (Reply, Option<Call>) {
        let face = match outcome {
            Outcome::Refused(_) => "confused",
            Outcome::Taken(_) => "+1",
        };
        let path = format!("{}/reactions", comment(&said.message));
        let call = self.call(POST, &path, &json!({ "content": face }));
        (Reply::empty(StatusCode::OK), Some(call))
    }
}

/// Of `owner/repository#number`.
fn comments(place: &str) -> String {
    let (repository, number) = place.rsplit_once('#').unwrap_or((place, ""));
    format!("{}/issues/{}/comments", repository_path(repository), segment(number))
}

fn comment(message: &Message) -> String {
    let (repository, _) = message.place.rsplit_once('#').unwrap_or((&message.place, ""));
    format!("{}/issues/comments/{}", repository_path(repository), segment(&message.id))
}

fn repository_path(repository: &str) -> String {
    let (owner, name) = repository.split_once('/').unwrap_or((repository, ""));
    format!("repos/{}/{}", segment(owner), segment(name))
}

/// GitHub says with 403 too that there were too many requests.
fn accepted(answer: &Answer) -> Result<(), Failure> {
    let spent = answer.headers.get("x-ratelimit-remaining").is_some_and(|left| left == "0");
    if answer.status == StatusCode::FORBIDDEN && (spent || answer.retry_after().is_some()) {
        let why = "GitHub wants fewer requests".into();
        return Err(Failure::Later { after: answer.retry_after(), why });
    }
    answer.done()
}
