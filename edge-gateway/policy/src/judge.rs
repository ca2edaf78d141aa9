//! One rule against one request.

use std::borrow::Cow;
use std::cell::OnceCell;

use countersign_sql::Effect;

use crate::body::{self, Declared, Undecodable};
use crate::database::{Access, Asks, Text};
use crate::decode::grpc::{self, Descriptors, Message};
use crate::decode::mail::{self, Mail};
use crate::decode::{git, multipart};
use crate::graphql::{self, Operation};
use crate::json::Json;
use crate::path::{Marks, Segments};
use crate::query::{Found, Pairs};
use crate::rules::{Effects, Methods, Protocol, Rule};
use crate::target::{self, Clarity};
use crate::truth::Truth;
use crate::{Body, Head, Subject};

/// A request, and what has been worked out about it so far: nothing is computed that no rule asks for.
pub(crate) struct Case<'a> {
    pub(crate) head: &'a Head<'a>,
    pub(crate) body: &'a Body<'a>,
    method: Option<Methods>,
    clarity: OnceCell<Clarity>,
    written: OnceCell<Segments<'a>>,
    opened: OnceCell<Segments<'a>>,
    query: OnceCell<Pairs>,
    overrides: OnceCell<Overrides>,
    room: &'a Room,
    decoded: OnceCell<Result<&'a [u8], Undecodable>>,
    form: OnceCell<Result<Pairs, Undecodable>>,
    json: OnceCell<Result<Json<'a>, Undecodable>>,
    graphql: OnceCell<Result<Operation, Undecodable>>,
    operations: OnceCell<Result<Vec<Operation>, Undecodable>>,
    multipart: OnceCell<Result<multipart::Form<'a>, Undecodable>>,
    mail: OnceCell<Result<Mail, Undecodable>>,
    git: OnceCell<Result<git::Request<'a>, Undecodable>>,
    grpc: OnceCell<Result<Message, Undecodable>>,
    access: OnceCell<Access>,
}

/// Where a body is once its encoding is taken off: what is read of it borrows from here.
pub(crate) type Room = OnceCell<Vec<u8>>;

/// What a framework may take the method for, other than what is on the wire.
#[derive(Debug, Default)]
struct Overrides {
    known: Methods,
    /// There is one, and it is not a method that is known, or not certain.
    unknown: bool,
    /// There may be one in the body, which is not here.
    unread: bool,
}

const OVERRIDE_HEADERS: [&str; 3] =
    ["x-http-method", "x-http-method-override", "x-method-override"];
const OVERRIDE_FIELD: &str = "_method";

impl<'a> Case<'a> {
    pub(crate) fn new(subject: &'a Subject<'a>, room: &'a Room) -> Self {
        Self {
            head: &subject.head,
            body: &subject.body,
            method: Methods::of(subject.head.method),
            clarity: OnceCell::new(),
            written: OnceCell::new(),
            opened: OnceCell::new(),
            query: OnceCell::new(),
            overrides: OnceCell::new(),
            room,
            decoded: OnceCell::new(),
            form: OnceCell::new(),
            json: OnceCell::new(),
            graphql: OnceCell::new(),
            operations: OnceCell::new(),
            multipart: OnceCell::new(),
            mail: OnceCell::new(),
            git: OnceCell::new(),
            grpc: OnceCell::new(),
            access: OnceCell::new(),
        }
    }

    /// Whether the rule is about this request; its host is known to match.
    pub(crate) fn judge(&self, rule: &Rule) -> Truth {
        match rule.protocol {
            Protocol::Http => self
                .agent(rule)
                .and(|| self.methods(rule))
                .and(|| self.path(rule))
                .and(|| self.conditions(rule))
                .and(|| self.when(rule)),
            Protocol::Postgres => self
                .agent(rule)
                .and(|| self.databases(rule))
                .and(|| self.roles(rule))
                .and(|| self.effects(rule))
                .and(|| self.when(rule)),
        }
    }

    /// The parts of `judge`, each with its name, for explanations.
    pub(crate) fn parts(&self, rule: &Rule) -> [(&'static str, Truth); 5] {
        match rule.protocol {
            Protocol::Http => [
                ("agents", self.agent(rule)),
                ("methods", self.methods(rule)),
                ("path", self.path(rule)),
                ("query", self.conditions(rule)),
                ("when", self.when(rule)),
            ],
            Protocol::Postgres => [
                ("agents", self.agent(rule)),
                ("databases", self.databases(rule)),
                ("roles", self.roles(rule)),
                ("sql", self.effects(rule)),
                ("when", self.when(rule)),
            ],
        }
    }

    fn agent(&self, rule: &Rule) -> Truth {
        Truth::of(
            rule.agents
                .as_ref()
                .is_none_or(|agents| agents.iter().any(|agent| agent == self.head.agent)),
        )
    }

    fn methods(&self, rule: &Rule) -> Truth {
        let Some(wanted) = rule.methods else { return Truth::Yes };
        let Some(method) = self.method else {
            return Truth::undecidable("the method is not one that is known");
        };
        let overrides = self.overrides();
        if overrides.unknown {
            return Truth::undecidable(
                "the request overrides its method in a way that is not certain",
            );
        }
        let all = method.with(overrides.known);
        if wanted.contains(all) && !overrides.unread {
            Truth::Yes
        } else if wanted.overlaps(all) && !overrides.unread {
            Truth::undecidable("the request overrides its method")
        } else if overrides.unread {
            Truth::unread("the body, which may override the method, is not here")
        } else {
            Truth::No
        }
    }

    /// Every method that the request may have; None when that is not certain.
    pub(crate) fn certain_methods(&self) -> Option<Methods> {
        let overrides = self.overrides();
        let certain = !overrides.unknown && !overrides.unread;
        self.method.filter(|_| certain).map(|method| method.with(overrides.known))
    }

    /// The marks of the path; those of any when it is not certain where segments end.
    pub(crate) fn marks(&self) -> Marks {
        if self.path_is_clear() { self.written().marks() } else { Marks::default() }
    }

    /// Yes when the method on the wire is the only one that anyone takes it for.
    pub(crate) fn method_is_certain(&self) -> Truth {
        let overrides = self.overrides();
        match self.method {
            _ if overrides.unread => {
                Truth::unread("the body, which may override the method, is not here")
            }
            Some(method) if !overrides.unknown && method.contains(overrides.known) => Truth::Yes,
            _ => Truth::No,
        }
    }

    fn overrides(&self) -> &Overrides {
        self.overrides.get_or_init(|| {
            let mut found = Overrides::default();
            let mut named = |text: Option<&str>| match text
                .and_then(|text| Methods::one(&text.trim().to_ascii_uppercase()))
            {
                Some(method) => found.known = found.known.with(method),
                None => found.unknown = true,
            };
            for header in OVERRIDE_HEADERS {
                for value in self.head.headers.get_all(header) {
                    named(value.to_str().ok());
                }
            }
            let mut field = |pairs: &Pairs| match pairs.find(OVERRIDE_FIELD) {
                Found::Absent => {}
                Found::Doubtful => named(None),
                Found::One((_, value)) => named(Some(value)),
            };
            if self.head.query.is_some_and(|query| !query.is_empty()) {
                field(self.query());
            }
            // Frameworks look for it in forms that are posted, and in those only.
            let declared = match self.head.method.as_str() {
                "POST" => body::declared(self.head.headers),
                _ => Declared::Other,
            };
            match (declared, self.body) {
                (Declared::Form | Declared::Multipart, Body::Streamed) => found.unread = true,
                (Declared::Form, Body::Whole(_)) => match self.form() {
                    Some(Ok(pairs)) => field(pairs),
                    Some(Err(_)) | None => found.unknown = true,
                },
                (Declared::Multipart, Body::Whole(_)) => match self.decoded() {
                    Some(Ok(bytes)) => found.unknown |= body::multipart_may_name_method(bytes),
                    Some(Err(_)) | None => found.unknown = true,
                },
                _ => {}
            }
            found
        })
    }

    fn path(&self, rule: &Rule) -> Truth {
        let Some(pattern) = &rule.path else { return Truth::Yes };
        match self.clarity() {
            Clarity::Clear => pattern.matches(self.written()),
            Clarity::Ambiguous(_) => {
                Truth::undecidable("the request target can be read in two ways")
            }
            Clarity::EncodedSlash if !rule.allow_encoded_slash => Truth::undecidable(
                "the path has an encoded slash and the rule has no `allow_encoded_slash`",
            ),
            Clarity::EncodedSlash if rule.then.passes() => pattern.matches(self.written()),
            Clarity::EncodedSlash => pattern.matches(self.written()).or(|| {
                pattern.matches(self.opened.get_or_init(|| Segments::opened(self.head.path)))
            }),
        }
    }

    /// Whether the path and the query can be read in one way only.
    pub(crate) fn path_is_clear(&self) -> bool {
        self.clarity() == Clarity::Clear
    }

    fn clarity(&self) -> Clarity {
        *self.clarity.get_or_init(|| target::judge(self.head.path, self.head.query))
    }

    fn written(&self) -> &Segments<'a> {
        self.written.get_or_init(|| Segments::written(self.head.path))
    }

    fn conditions(&self, rule: &Rule) -> Truth {
        let mut truth = Truth::Yes;
        for (name, value) in &rule.query {
            truth = truth.and(|| match self.query().find(name) {
                Found::Absent => Truth::No,
                Found::Doubtful => Truth::undecidable(format!(
                    "the query's {name:?} can be read in more than one way"
                )),
                Found::One((_, found)) => Truth::of(found == value),
            });
        }
        truth
    }

    /// What is asked of a database; only of a request whose destination is one.
    pub(crate) fn access(&self) -> &Access {
        self.access.get_or_init(|| Access::of(self.head, self.body))
    }

    fn databases(&self, rule: &Rule) -> Truth {
        let Some(wanted) = &rule.databases else { return Truth::Yes };
        match &self.access().database {
            Some(database) => Truth::of(wanted.contains(database)),
            None => Truth::undecidable("the request does not name its database clearly"),
        }
    }

    fn roles(&self, rule: &Rule) -> Truth {
        let Some(wanted) = &rule.roles else { return Truth::Yes };
        match &self.access().role {
            Some(role) => Truth::of(wanted.contains(role)),
            None => Truth::undecidable("the request does not name its role clearly"),
        }
    }

    /// What lets through has to name every effect of a text, and anything else only one of them. What is undecidable is
    /// let through by nothing.
    fn effects(&self, rule: &Rule) -> Truth {
        let passes = rule.then.passes();
        let undecidable = |why: String| match rule.effects {
            None if !passes => Truth::Yes,
            Some(wanted) if wanted.has(Effect::Undecidable) && !passes => Truth::Yes,
            _ => Truth::undecidable(why),
        };
        let found = match &self.access().asks {
            Asks::Connection => Effects::one(Effect::Connect),
            Asks::Text(Text { read: Ok(statements), .. }) => {
                let each = statements.iter().map(|statement| Effects::one(statement.effect));
                each.reduce(Effects::with).unwrap_or_else(|| Effects::one(Effect::Session))
            }
            Asks::Text(Text { read: Err(why), .. }) => {
                return undecidable(format!("the statement cannot be judged: {why}"));
            }
            Asks::Unreadable(why) => return undecidable(format!("the request has {why}")),
            Asks::Unread if rule.effects.is_none() && !passes => return Truth::Yes,
            Asks::Unread => return Truth::unread("the statement is not here"),
        };
        Truth::of(match rule.effects {
            None => true,
            Some(wanted) if passes => wanted.contains(found),
            Some(wanted) => wanted.overlaps(found),
        })
    }

    fn when(&self, rule: &Rule) -> Truth {
        rule.when.as_ref().map_or(Truth::Yes, |when| when.judge(self))
    }

    pub(crate) fn query(&self) -> &Pairs {
        self.query.get_or_init(|| Pairs::parse(self.head.query.unwrap_or_default()))
    }

    /// The body without its Content-Encoding; None when it is not here.
    pub(crate) fn decoded(&self) -> Option<Result<&'a [u8], Undecodable>> {
        let Body::Whole(bytes) = self.body else { return None };
        Some(*self.decoded.get_or_init(|| match body::decode(self.head.headers, bytes)? {
            Cow::Borrowed(bytes) => Ok(bytes),
            Cow::Owned(bytes) => Ok(self.room.get_or_init(|| bytes).as_slice()),
        }))
    }

    /// None when the body is not here.
    pub(crate) fn form(&self) -> Option<&Result<Pairs, Undecodable>> {
        let decoded = self.decoded()?;
        Some(self.form.get_or_init(|| body::form(self.head.headers, decoded?)))
    }

    /// None when the body is not here.
    pub(crate) fn json(&self) -> Option<&Result<Json<'a>, Undecodable>> {
        let decoded = self.decoded()?;
        Some(self.json.get_or_init(|| body::json(self.head.headers, decoded?)))
    }

    /// None when the body is not here.
    pub(crate) fn graphql(&self) -> Option<&Result<Operation, Undecodable>> {
        let json = self.json()?.as_ref();
        Some(self.graphql.get_or_init(|| {
            self.no_graphql_in_query()?;
            graphql::operation(json.map_err(|why| *why)?)
        }))
    }

    /// None when the body is not here.
    pub(crate) fn operations(&self) -> Option<&Result<Vec<Operation>, Undecodable>> {
        let (decoded, json) = (self.decoded()?, self.json()?.as_ref());
        Some(self.operations.get_or_init(|| match self.head.method.as_str() {
            "GET" if !self.path_is_clear() => Err(UNCLEAR),
            "GET" if decoded?.is_empty() => graphql::operations_of_query(self.query()),
            "POST" => {
                self.no_graphql_in_query()?;
                graphql::operations(json.map_err(|why| *why)?)
            }
            _ => Err(Undecodable("a request for GraphQL that is neither a GET nor a POST")),
        }))
    }

    fn no_graphql_in_query(&self) -> Result<(), Undecodable> {
        let query = self.head.query.is_some_and(|query| !query.is_empty());
        if query && graphql::is_in_query(self.query()) {
            return Err(Undecodable("a request for GraphQL in the query as well as in the body"));
        }
        Ok(())
    }

    /// None when the body is not here.
    pub(crate) fn multipart(&self) -> Option<&Result<multipart::Form<'a>, Undecodable>> {
        let decoded = self.decoded()?;
        Some(self.multipart.get_or_init(|| multipart::read(self.head.headers, decoded?)))
    }

    /// The mail that a body is, or has as its `raw`. None when the body is not here.
    pub(crate) fn mail(&self) -> Option<&Result<Mail, Undecodable>> {
        let (decoded, json) = (self.decoded()?, self.json()?.as_ref());
        Some(self.mail.get_or_init(|| match body::is_mail(self.head.headers) {
            true => mail::read(decoded?),
            false => mail::inside(json.map_err(|why| *why)?),
        }))
    }

    /// None when the body is not here.
    pub(crate) fn git(&self) -> Option<&Result<git::Request<'a>, Undecodable>> {
        let decoded = self.decoded()?;
        Some(self.git.get_or_init(|| match self.path_is_clear() {
            true => git::read(self.head, decoded?),
            false => Err(UNCLEAR),
        }))
    }

    /// By the descriptors of the policy, which are the same for all of its rules. None when the body is not here.
    pub(crate) fn grpc(&self, descriptors: &Descriptors) -> Option<&Result<Message, Undecodable>> {
        let Body::Whole(bytes) = self.body else { return None };
        Some(self.grpc.get_or_init(|| match self.path_is_clear() {
            true => grpc::read(descriptors, self.head, bytes),
            false => Err(UNCLEAR),
        }))
    }
}

const UNCLEAR: Undecodable = Undecodable("a request target that can be read in two ways");
