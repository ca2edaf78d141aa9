//! One request taken apart, and the account of what of it has been said.

use std::borrow::Cow;

use countersign_policy::body::{self, Declared, Undecodable};
use countersign_policy::json::{self, Json};
use countersign_policy::query::Pairs;
use countersign_policy::{Head, decode};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::words::{cut, leaves, within};
use crate::{Also, Description, Fact, Risk, Undecidable};

/// A fact's value, bytes.
const IN_FACT: usize = 400;
/// A value that nothing is said about, and its name, bytes.
const IN_ALSO: usize = 160;
const NAME: usize = 80;
const SENTENCE: usize = 600;
const MOST_FACTS: usize = 40;
const MOST_ALSO: usize = 24;

/// A request, read once. Fields are named `.a.b` in the body, `?a` in the query, `@a` among the headers; the names of a form
/// may have dots, so `.a.b` is one name there.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    /// Of the path, each decoded after it was split.
    pub(crate) segments: Vec<String>,
    headers: &'a HeaderMap,
    /// Without its Content-Encoding; nothing where that cannot be taken off.
    pub(crate) bytes: &'a [u8],
    /// Of the body as it would leave, bytes.
    size: usize,
    query: Json<'a>,
    document: Document<'a>,
    /// Arguments may stand in the query as well as in the body.
    merged: bool,
    facts: Vec<Fact>,
    covered: Vec<Place>,
    also: Vec<(String, String)>,
}

/// What the body is.
enum Document<'a> {
    Empty,
    Form(Json<'a>),
    Json(Json<'a>),
    /// Not what it was declared to be, or nothing that is read here.
    Opaque(Undecodable),
}

/// Where something stands.
struct Place {
    side: Side,
    path: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Body,
    Query,
}

impl<'a> Ask<'a> {
    /// # Errors
    /// A query of which readers see different things.
    pub(crate) fn read(
        head: &Head<'a>,
        size: usize,
        decoded: Result<&'a [u8], Undecodable>,
    ) -> Result<Self, Undecidable> {
        let unclear = Undecidable("a path that is not percent-encoded UTF-8");
        let path = head.path.strip_prefix('/').ok_or(unclear)?;
        let segment = |text: &str| String::from_utf8(decode::percent(text)?.into_owned()).ok();
        let segments = path.split('/').map(|text| segment(text).ok_or(unclear));
        Ok(Self {
            method: head.method.as_str(),
            host: head.destination.host(),
            segments: segments.collect::<Result<_, _>>()?,
            headers: head.headers,
            bytes: decoded.unwrap_or_default(),
            size,
            query: query(head.query.unwrap_or_default())?,
            document: document(head.headers, decoded),
            merged: false,
            facts: Vec::new(),
            covered: Vec::new(),
            also: Vec::new(),
        })
    }

    /// From now on, arguments of the query are fields of the body as well.
    ///
    /// # Errors
    /// One that is in both.
    pub(crate) fn merge_query(&mut self) -> Result<(), Undecidable> {
        let named = |value: &Json<'_>| match value {
            Json::Object(members) => members.iter().map(|(name, _)| name.to_string()).collect(),
            _ => Vec::new(),
        };
        let body: Vec<String> = self.body().map(named).unwrap_or_default();
        if named(&self.query).iter().any(|name| body.contains(name)) {
            return Err(Undecidable("an argument that is in the query and in the body"));
        }
        self.merged = true;
        Ok(())
    }

    /// The path's segments, to be matched.
    pub(crate) fn path(&self) -> Vec<String> {
        self.segments.clone()
    }

    pub(crate) fn body(&self) -> Option<&Json<'a>> {
        match &self.document {
            Document::Form(value) | Document::Json(value) => Some(value),
            Document::Empty | Document::Opaque(_) => None,
        }
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn json(&self) -> Result<&Json<'a>, Undecidable> {
        match &self.document {
            Document::Json(value) => Ok(value),
            Document::Opaque(why) => Err((*why).into()),
            Document::Empty | Document::Form(_) => Err(Undecidable("a body that is not JSON")),
        }
    }

    /// Why the body cannot be read, if it cannot.
    pub(crate) fn legible(&self) -> Result<(), Undecidable> {
        match &self.document {
            Document::Opaque(why) => Err((*why).into()),
            _ => Ok(()),
        }
    }

    /// What a field holds.
    pub(crate) fn find(&self, field: &str) -> Option<Cow<'_, Json<'a>>> {
        if let Some(name) = field.strip_prefix('@') {
            let values = self.headers.get_all(name).iter();
            let text =
                |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let values: Vec<_> = values.map(text).collect();
            return (!values.is_empty()).then(|| Cow::Owned(Json::Text(values.join(", ").into())));
        }
        let place = self.place(field)?;
        let root = match place.side {
            Side::Query => &self.query,
            Side::Body => self.body()?,
        };
        place.path.iter().try_fold(root, |value, step| member(value, step)).map(Cow::Borrowed)
    }

    fn place(&self, field: &str) -> Option<Place> {
        if let Some(name) = field.strip_prefix('?') {
            return Some(Place { side: Side::Query, path: vec![name.to_owned()] });
        }
        let path = field.strip_prefix('.')?;
        let steps = |path: &str| path.split('.').map(str::to_owned).collect();
        let here = match &self.document {
            Document::Form(_) => Place { side: Side::Body, path: vec![path.to_owned()] },
            _ => Place { side: Side::Body, path: steps(path) },
        };
        let first = here.path.first().map_or("", String::as_str);
        let in_body = self.body().is_some_and(|body| member(body, first).is_some());
        if self.merged && !in_body && member(&self.query, path).is_some() {
            return Some(Place { side: Side::Query, path: vec![path.to_owned()] });
        }
        Some(here)
    }

    /// Whether a list there means that a name is there more than once: forms and queries have no other lists.
    pub(crate) fn says_once(&self, field: &str) -> bool {
        let side = self.place(field).map(|place| place.side);
        side == Some(Side::Query) || matches!(self.document, Document::Form(_))
    }

    pub(crate) fn has(&self, field: &str) -> bool {
        self.find(field).is_some()
    }

    /// A field that is a text; a number or a flag as it would be written.
    pub(crate) fn text(&self, field: &str) -> Option<String> {
        match self.find(field)?.as_ref() {
            Json::Text(text) => Some(text.to_string()),
            Json::Null | Json::List(_) | Json::Object(_) => None,
            other => Some(within(other, IN_FACT)),
        }
    }

    pub(crate) fn is(&self, field: &str, wanted: &str) -> bool {
        self.text(field).is_some_and(|text| text == wanted)
    }

    /// A field that is a list of texts; empty if it is none.
    pub(crate) fn texts(&self, field: &str) -> Vec<String> {
        match self.find(field).as_deref() {
            Some(Json::List(items)) => items
                .iter()
                .filter_map(|item| match item {
                    Json::Text(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// What a field that has to be there says.
    ///
    /// # Errors
    /// It is not there, or not a text, or the body cannot be read.
    pub(crate) fn need(&self, field: &str) -> Result<String, Undecidable> {
        match self.text(field) {
            Some(text) => Ok(text),
            None => {
                self.legible()?;
                Err(Undecidable("a call without what it is about"))
            }
        }
    }

    /// Says what a field holds, whole. Nothing where it is not there.
    pub(crate) fn fact(&mut self, name: &str, field: &str) {
        if let Some(value) = self.find(field).map(|value| within(&value, IN_FACT)) {
            self.say(name, value, &[field]);
        }
    }

    /// Says something that covers these fields.
    pub(crate) fn say(&mut self, name: &str, value: String, fields: &[&str]) {
        self.facts.push(Fact { name: name.to_owned(), value: cut(&value, IN_FACT) });
        let places: Vec<_> = fields.iter().filter_map(|field| self.place(field)).collect();
        self.covered.extend(places);
    }

    /// Says that a decoder has accounted for all of the body.
    pub(crate) fn cover_body(&mut self) {
        self.covered.push(Place { side: Side::Body, path: Vec::new() });
    }

    /// Says that a decoder has accounted for one field.
    pub(crate) fn cover(&mut self, field: &str) {
        let place = self.place(field);
        self.covered.extend(place);
    }

    /// Lists what a decoder found and does not cover.
    pub(crate) fn also(&mut self, name: &str, value: &str) {
        self.also.push((cut(name, NAME), cut(value, IN_ALSO)));
    }

    pub(crate) fn finish(self, risk: Risk, sentence: &str) -> Description {
        let mut also = Also { listed: Vec::new(), more: 0 };
        let mut list = |name: String, value: String, leaves: usize| {
            if also.listed.len() < MOST_ALSO {
                also.listed.push((name, value));
            } else {
                also.more = also.more.saturating_add(leaves as u64);
            }
        };
        let mut facts = self.facts;
        for fact in facts.split_off(facts.len().min(MOST_FACTS)) {
            list(fact.name, cut(&fact.value, IN_ALSO), 1);
        }
        for (name, value) in self.also {
            list(name, value, 1);
        }
        let covered = |side: Side| {
            let here = self.covered.iter().filter(move |place| place.side == side);
            here.map(|place| place.path.as_slice()).collect::<Vec<_>>()
        };
        let mut rest = |side: Side, prefix: &str, value: &Json<'_>| {
            uncovered(value, prefix, &covered(side), &mut list);
        };
        match &self.document {
            Document::Form(value) | Document::Json(value) => rest(Side::Body, "", value),
            Document::Empty => {}
            Document::Opaque(Undecodable(why)) => {
                if !self.covered.iter().any(|it| it.side == Side::Body && it.path.is_empty()) {
                    let size = self.size;
                    list("body".into(), format!("{size} bytes that are not decoded: {why}"), 1);
                }
            }
        }
        if !matches!(&self.query, Json::Object(members) if members.is_empty()) {
            uncovered(&self.query, "query: ", &covered(Side::Query), &mut list);
        }
        Description { sentence: cut(sentence, SENTENCE), risk, facts, also }
    }
}

/// Lists what of `value` is in none of the covered places, as large pieces as can be.
fn uncovered(
    value: &Json<'_>,
    name: &str,
    covered: &[&[String]],
    list: &mut impl FnMut(String, String, usize),
) {
    if covered.iter().any(|path| path.is_empty()) {
        return;
    }
    let own = |name: &str| {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() { "body".to_owned() } else { cut(name, NAME) }
    };
    let mut inside = |step: &str, value: &Json<'_>| {
        let below: Vec<&[String]> = covered
            .iter()
            .filter_map(|path| path.split_first().filter(|(first, _)| *first == step))
            .map(|(_, rest)| rest)
            .collect();
        uncovered(value, &format!("{name}{step}."), &below, list);
    };
    match value {
        // The members of the whole are named each.
        Json::Object(members)
            if !members.is_empty()
                && (!covered.is_empty() || name.is_empty() || name == "query: ") =>
        {
            members.iter().for_each(|(step, value)| inside(step, value));
        }
        Json::List(items) if !items.is_empty() && !covered.is_empty() => {
            items.iter().enumerate().for_each(|(at, value)| inside(&at.to_string(), value));
        }
        _ => list(own(name), within(value, IN_ALSO), leaves(value)),
    }
}

/// A member of an object, or an item of a list.
fn member<'j, 'a>(value: &'j Json<'a>, step: &str) -> Option<&'j Json<'a>> {
    match value {
        Json::Object(members) => {
            members.iter().find(|(name, _)| name == step).map(|(_, value)| value)
        }
        Json::List(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    }
}

fn document<'a>(headers: &HeaderMap, decoded: Result<&'a [u8], Undecodable>) -> Document<'a> {
    let bytes = match decoded {
        Ok([]) => return Document::Empty,
        Ok(bytes) => bytes,
        Err(why) => return Document::Opaque(why),
    };
    match body::declared(headers) {
        Declared::Form => match body::form(headers, bytes) {
            Ok(pairs) => match pairs.listed() {
                Some(listed) => Document::Form(object(listed)),
                None => Document::Opaque(Undecodable("a form that readers do not agree on")),
            },
            Err(why) => Document::Opaque(why),
        },
        Declared::Json => parsed(bytes),
        Declared::Other if is_aws_json(headers) => parsed(bytes),
        Declared::Multipart => Document::Opaque(Undecodable("a body in several parts")),
        Declared::Other | Declared::Text => {
            Document::Opaque(Undecodable("a body that is declared to be neither JSON nor a form"))
        }
    }
}

fn parsed(bytes: &[u8]) -> Document<'_> {
    match json::parse(bytes) {
        Ok(value) => Document::Json(value),
        Err(why) => Document::Opaque(why),
    }
}

/// AWS's JSON protocols have types of their own.
fn is_aws_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let one = values.next().filter(|_| values.next().is_none());
    one.is_some_and(|value| {
        matches!(value.as_bytes(), b"application/x-amz-json-1.0" | b"application/x-amz-json-1.1")
    })
}

fn query(text: &str) -> Result<Json<'static>, Undecidable> {
    let pairs = Pairs::parse(text);
    let listed = pairs.listed().ok_or(Undecidable("a query that readers do not agree on"))?;
    Ok(object(listed))
}

/// A name that is there more than once holds a list.
fn object(listed: Vec<(&str, Vec<&str>)>) -> Json<'static> {
    let text = |text: &str| Json::Text(text.to_owned().into());
    let value = |values: Vec<&str>| match values.as_slice() {
        [one] => text(one),
        several => Json::List(several.iter().map(|one| text(one)).collect()),
    };
    let members = listed.into_iter().map(|(name, values)| (name.to_owned().into(), value(values)));
    Json::Object(members.collect())
}
