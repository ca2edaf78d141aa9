//! Requests to a PostgreSQL, as the gateway writes them: which database, as which role, and what their statements do.
//!
//! Opening a connection is `GET /{database}` without a body; a statement is `POST /{database}` with this one:
//!
//! ```json
//! {"protocol":"extended","statement":"…","parameters":[…],"transaction":"idle","settings":{…}}
//! ```
//!
//! `protocol` is `simple` or `extended`, `parameters` are there in the latter only, `transaction` is `idle`, `open` or
//! `failed`, and `settings` are those that the server reported and that are not its default. What has another shape is
//! undecidable, and so is every statement under settings that let the server read it differently.

use countersign_sql::{Effect, Statements};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};

use crate::json::{self, Json};
use crate::{Body, Head, body, decode};

/// The header that has the role, percent-encoded.
pub const ROLE: &str = "postgres-role";

/// A request to a database.
#[derive(Clone, Debug)]
pub struct Access {
    /// None: the path names none.
    pub database: Option<String>,
    /// None: no header names one, or more than one does.
    pub role: Option<String>,
    pub asks: Asks,
}

/// What is asked of a database.
#[derive(Clone, Debug)]
pub enum Asks {
    /// To connect.
    Connection,
    /// To do what a text says.
    Text(Text),
    /// Something that the gateway does not write: why.
    Unreadable(&'static str),
    /// Its body has not been read.
    Unread,
}

/// A text of statements, and what goes with it.
#[derive(Clone, Debug)]
pub struct Text {
    pub statement: String,
    /// Each as text where it is one; None for NULL. Binary values stay in base64.
    pub parameters: Vec<Option<String>>,
    /// `idle`, `open` or `failed`.
    pub transaction: String,
    /// Settings that are not the server's default.
    pub settings: Vec<(String, String)>,
    /// What the statements do, or why that cannot be said: a clause, as in "it has a NUL".
    pub read: Result<Statements, &'static str>,
}

impl Access {
    /// Reads a request whose destination is a database.
    pub fn of(head: &Head<'_>, body: &Body<'_>) -> Self {
        let database = head
            .path
            .strip_prefix('/')
            .filter(|name| !name.is_empty() && !name.contains('/') && head.query.is_none())
            .and_then(percent);
        let mut roles = head.headers.get_all(ROLE).iter();
        let role = match (roles.next(), roles.next()) {
            (Some(role), None) => role.to_str().ok().and_then(percent),
            _ => None,
        };
        Self { database, role: role.filter(|role| !role.is_empty()), asks: asks(head, body) }
    }

    /// What it does at most; None as long as its body is not here.
    pub fn effect(&self) -> Option<Effect> {
        match &self.asks {
            Asks::Connection => Some(Effect::Connect),
            Asks::Text(Text { read: Ok(statements), .. }) => Some(statements.effect()),
            Asks::Text(_) | Asks::Unreadable(_) => Some(Effect::Undecidable),
            Asks::Unread => None,
        }
    }
}

fn percent(text: &str) -> Option<String> {
    String::from_utf8(decode::percent(text)?.into_owned()).ok()
}

fn asks(head: &Head<'_>, body: &Body<'_>) -> Asks {
    match (head.method, body) {
        (&Method::GET, Body::Streamed | Body::Whole([])) => Asks::Connection,
        (&Method::POST, Body::Streamed) => Asks::Unread,
        (&Method::POST, Body::Whole(bytes)) => {
            let read = body::decode(head.headers, bytes)
                .and_then(|bytes| body::json(head.headers, &bytes))
                .map_err(|why| why.0);
            match read.and_then(|json| text(&json)) {
                Ok(text) => Asks::Text(text),
                Err(why) => Asks::Unreadable(why),
            }
        }
        _ => Asks::Unreadable("a method that asks nothing of a database"),
    }
}

fn text(json: &Json) -> Result<Text, &'static str> {
    let Json::Object(members) = json else { return Err("a body that is no object") };
    let mut protocol = None;
    let mut statement = None;
    let mut transaction = None;
    let mut parameters = None;
    let mut settings = Vec::new();
    for (name, value) in members {
        match (name.as_str(), value) {
            ("protocol", Json::Text(text)) => protocol = Some(text.as_str()),
            ("statement", Json::Text(text)) => statement = Some(text.clone()),
            ("transaction", Json::Text(text)) => transaction = Some(text.clone()),
            ("parameters", Json::List(list)) => {
                let read: Option<Vec<_>> = list.iter().map(parameter).collect();
                parameters = Some(read.ok_or("a parameter that is none")?);
            }
            ("settings", Json::Object(set)) => {
                for (name, value) in set {
                    let Json::Text(value) = value else { return Err("a setting that is no text") };
                    settings.push((name.clone(), value.clone()));
                }
            }
            _ => return Err("a body with a member that statements do not have"),
        }
    }
    let fits = match protocol {
        Some("simple") => parameters.is_none(),
        Some("extended") => parameters.is_some(),
        _ => false,
    };
    let known = ["failed", "idle", "open"];
    let (Some(statement), Some(transaction), true) =
        (statement, transaction.filter(|state| known.contains(&state.as_str())), fits)
    else {
        return Err("a body that lacks what statements have");
    };
    let read = match unsettled(&settings, &statement) {
        Some(why) => Err(why),
        None => countersign_sql::read(&statement).map_err(|undecidable| undecidable.why),
    };
    Ok(Text { statement, parameters: parameters.unwrap_or_default(), transaction, settings, read })
}

fn parameter(json: &Json) -> Option<Option<String>> {
    let Json::Object(members) = json else { return None };
    let member = |wanted: &str| members.iter().find(|(name, _)| name == wanted).map(|(_, v)| v);
    matches!(member("type")?, Json::Whole(_)).then_some(())?;
    match (member("null"), member("format"), member("value"), member("base64"), members.len()) {
        (Some(Json::Flag(true)), None, None, None, 2) => Some(None),
        (None, Some(Json::Text(format)), Some(Json::Text(value)), None, 3) if format == "text" => {
            Some(Some(value.clone()))
        }
        (None, Some(Json::Text(format)), None, Some(Json::Text(value)), 3)
            if format == "binary" =>
        {
            Some(Some(value.clone()))
        }
        _ => None,
    }
}

/// Why settings keep the statement from being judged.
fn unsettled(settings: &[(String, String)], statement: &str) -> Option<&'static str> {
    settings.iter().find_map(|(name, value)| match name.as_str() {
        "client_encoding" if value.eq_ignore_ascii_case("utf8") => None,
        "search_path" => shadows(value).then_some(
            "search_path puts other schemas before pg_catalog, so that known functions may be other ones",
        ),
        "standard_conforming_strings" if value == "on" => None,
        "standard_conforming_strings" if value == "off" => statement.contains('\\').then_some(
            "standard_conforming_strings is off and the statement has a backslash, which may be read in two ways",
        ),
        _ => Some("a setting may change how the server reads the statement"),
    })
}

/// Whether `pg_catalog`, which is searched first unless it is named, is named later.
fn shadows(search_path: &str) -> bool {
    let mut schemas = search_path.split(',').map(|schema| schema.trim().trim_matches('"').trim());
    schemas.next();
    schemas.any(|schema| schema.eq_ignore_ascii_case("pg_catalog"))
}

/// What URLs of databases begin with.
pub(crate) const SCHEME: &str = "postgres://";

/// A request as the gateway would write it: to connect, or for a statement of the simple protocol outside a transaction.
#[derive(Clone, Debug)]
pub struct Written {
    pub method: Method,
    /// `postgres://host/database`.
    pub url: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Written {
    /// Reads `postgres://role@host/database`, of which the role and the database are percent-encoded where they need it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(url: &str, statement: Option<&str>) -> Result<Self, String> {
        let form = "write postgres://role@host/database";
        let rest =
            url.strip_prefix(SCHEME).ok_or_else(|| format!("it is no database's: {form}"))?;
        let (role, rest) = rest
            .split_once('@')
            .ok_or_else(|| format!("a database is asked as some role: {form}"))?;
        let visible = |byte: u8| byte.is_ascii_graphic() && byte != b':';
        let named = Some(role).filter(|role| !role.is_empty() && role.bytes().all(visible));
        let named = named.and_then(|role| HeaderValue::from_str(role).ok());
        let role =
            named.ok_or("the role is a name in visible ASCII, percent-encoded where it is not")?;
        let mut headers = HeaderMap::new();
        headers.insert(ROLE, role);
        let mut written = Self {
            method: Method::GET,
            url: format!("{SCHEME}{rest}"),
            headers,
            body: String::new(),
        };
        if let Some(statement) = statement {
            let json = HeaderValue::from_static("application/json");
            written.method = Method::POST;
            written.headers.insert(CONTENT_TYPE, json);
            let quoted = json::quoted(statement);
            written.body = format!(
                "{{\"protocol\":\"simple\",\"statement\":{quoted},\"transaction\":\"idle\"}}"
            );
        }
        Ok(written)
    }
}
