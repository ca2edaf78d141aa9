//! Requests as values: what the caller is to send, and what came back or in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::platform::Forged;
use crate::secret::Secret;

/// A request that the caller sends, to the channel's own base address and nowhere else, following no redirect.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    /// Where the platform wants its token in the address, `{secret}` stands for it.
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub auth: Auth,
}

/// What the caller puts in as the call leaves: it is in no URL, header or body before.
#[derive(Clone, Debug)]
pub enum Auth {
    /// `Authorization: Basic`, with this name.
    Basic(String, Secret),
    Bearer(Secret),
    /// The access token that [`crate::Adapter::grant`] leads to, as a bearer.
    Granted,
    Header(HeaderName, Secret),
    /// In the place of `{secret}` in the address.
    InPath(Secret),
    None,
    /// A bearer; and the body is for the people of the conversation in this place alone: [`crate::Adapter::seal`] seals it as
    /// the call leaves, and unsealed it leaves for nowhere.
    Sealed {
        place: String,
        token: Secret,
    },
    /// The headers of Standard Webhooks, which have the time in them: [`Call::signed`] makes them as the call leaves. The same
    /// `id` is the same event, sent again; without one, every sending is an event of its own.
    Signed {
        id: Option<String>,
        secret: Secret,
    },
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why a card is not there; nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Again later, and not before this is over.
    Later { after: Option<Duration>, why: String },
    /// Not until somebody has changed something.
    Never { why: String },
}

/// A webhook as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    pub method: &'a Method,
    /// The address that the platform was given, as the channel's settings have it: never what a Host header says.
    pub public_url: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// What a webhook is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: String,
}

/// How what people say reaches this channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The platform calls any of the nodes.
    Webhook,
    /// One node asks again and again.
    Poll,
    /// One node connects, and listens.
    Socket,
}

impl Call {
    pub fn json(method: Method, url: String, body: &serde_json::Value, auth: Auth) -> Self {
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json; charset=utf-8");
        headers.insert(http::header::CONTENT_TYPE, json);
        Self { method, url, headers, body: body.to_string().into(), auth }
    }

    pub fn get(url: String, auth: Auth) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), auth }
    }

    /// `application/x-www-form-urlencoded`.
    pub fn form(url: String, pairs: &[(&str, &str)], auth: Auth) -> Self {
        let encoded = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        let body: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
            .collect();
        let mut headers = HeaderMap::new();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(http::header::CONTENT_TYPE, form);
        Self { method: Method::POST, url, headers, body: body.join("&").into(), auth }
    }
}

impl Call {
    /// What leaves now, where a call is signed by us (Standard Webhooks, "Signature scheme"); any other is what it was.
    pub fn signed(mut self, now: SystemTime) -> Result<Self, Failure> {
        let Auth::Signed { id, secret } = self.auth else { return Ok(self) };
        self.auth = Auth::None;
        let unable = || Failure::Never { why: "this call cannot be signed".into() };
        let at = now.duration_since(UNIX_EPOCH).map_err(|_| unable())?.as_secs().to_string();
        let id = id.unwrap_or_else(|| {
            hex::encode(Sha256::new().chain_update(&at).chain_update(&self.body).finalize())
        });
        let key = secret.key().ok_or_else(unable)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|_| unable())?;
        mac.update(format!("{id}.{at}.").as_bytes());
        mac.update(&self.body);
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        for (name, value) in
            [("webhook-id", id), ("webhook-timestamp", at), ("webhook-signature", signature)]
        {
            let value = HeaderValue::from_str(&value).map_err(|_| unable())?;
            self.headers.insert(HeaderName::from_static(name), value);
        }
        Ok(self)
    }
}

impl Answer {
    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What the status alone says: too many requests and errors of a server are for later, other refusals for people.
    pub fn done(&self) -> Result<(), Failure> {
        let why = format!("the platform answered {}", self.status.as_u16());
        match self.status.as_u16() {
            200..=299 => Ok(()),
            408 | 425 | 429 | 500..=599 => Err(Failure::Later { after: self.retry_after(), why }),
            _ => Err(Failure::Never { why }),
        }
    }

    /// `Retry-After` in seconds (RFC 9110, section 10.2.3); its other form, a date, is no platform's.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<f64>().ok()?;
        Duration::try_from_secs_f64(seconds.clamp(0.0, 3600.0)).ok()
    }
}

impl Reply {
    pub fn empty(status: StatusCode) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: String::new() }
    }

    pub fn text(status: StatusCode, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.to_owned() }
    }

    pub fn json(body: &serde_json::Value) -> Self {
        Self { status: StatusCode::OK, content_type: "application/json", body: body.to_string() }
    }
}

impl<'a> Inbound<'a> {
    /// A header that is there once; twice is as good as never, for two readers could take one each.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        if values.next().is_some() { None } else { value.to_str().ok() }
    }
}

/// `application/x-www-form-urlencoded`, where no name is there twice.
#[derive(Debug)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Forged> {
        let decoded = |text: &[u8]| {
            let spaced: Vec<u8> = text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
            String::from_utf8(percent_encoding::percent_decode(&spaced).collect())
                .map_err(|_| Forged::Shape)
        };
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in body.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            let (name, value) =
                (decoded(&pair[..at])?, decoded(pair.get(at + 1..).unwrap_or_default())?);
            if pairs.iter().any(|(there, _)| *there == name) {
                return Err(Forged::Shape);
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    pub(crate) fn value(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(there, _)| there == name).map(|(_, value)| value.clone())
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}
