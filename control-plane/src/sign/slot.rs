//! Where a credential's key goes: as its record says, as proto says, and whether a plan agrees.

use countersign_gate::{HOLE, Payload, Request, Scheme, Slot};
use countersign_policy::body::{self, Located};
use countersign_proto::v1;
use countersign_proto::v1::credential_slot;
use http::Method;
use http::header::{AUTHORIZATION, COOKIE, HeaderName};
use percent_encoding::percent_decode_str;

use crate::request_signature::{Manner, Recipe};
use crate::state::Credential;

/// A record's slot and template, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    AwsSigv4,
    /// Without a template, either half of the pair.
    Basic {
        template: String,
    },
    Cookie {
        name: String,
    },
    Form {
        name: String,
    },
    /// Without a template, behind whatever scheme the client writes.
    Header {
        name: HeaderName,
        template: String,
    },
    Hmac {
        names: Vec<HeaderName>,
        template: String,
    },
    Json {
        pointer: String,
    },
    Path {
        template: String,
    },
    /// The password of this role, which opens a connection to a Postgres server.
    Postgres {
        role: String,
    },
    Query {
        name: String,
    },
}

/// Where the plan of a connection to a Postgres server has its key, and where it says whose that is.
const POSTGRES_PASSWORD: &str = "postgres-password";
const POSTGRES_ROLE: &str = "postgres-role";

impl Place {
    /// `None` for a record that no edge could follow.
    pub(crate) fn of(credential: &Credential) -> Option<Self> {
        let (kind, name) = credential.slot.split_once(':').unwrap_or((&credential.slot, ""));
        let template = credential.template.as_str();
        let one_hole = |template: &str| template.matches(HOLE).count() == 1;
        let or = |default: &str| {
            if template.is_empty() { default.to_owned() } else { template.to_owned() }
        };
        let place = match kind {
            "aws-sigv4" => Self::AwsSigv4,
            "basic" => Self::Basic { template: template.to_owned() },
            "cookie" if !name.is_empty() => Self::Cookie { name: name.to_owned() },
            "form" if !name.is_empty() => Self::Form { name: name.to_owned() },
            "hmac" => {
                let names: Result<Vec<HeaderName>, _> = name.split(',').map(str::parse).collect();
                let names = names.ok()?;
                Recipe::parse(names.clone(), template).ok()?;
                Self::Hmac { names, template: template.to_owned() }
            }
            "json" if body::is_json_pointer(name) => Self::Json { pointer: name.to_owned() },
            "header" => {
                let name: HeaderName = name.parse().ok()?;
                let template = or(if name == AUTHORIZATION { "" } else { HOLE });
                Self::Header { name, template }
            }
            "path" => Self::Path { template: or(HOLE) },
            "postgres" if !name.is_empty() => Self::Postgres { role: name.to_owned() },
            "query" if !name.is_empty() => Self::Query { name: name.to_owned() },
            _ => return None,
        };
        let whole = match &place {
            Self::Basic { template } | Self::Header { template, .. } => {
                template.is_empty() || one_hole(template)
            }
            Self::Path { template } => one_hole(template),
            Self::AwsSigv4
            | Self::Cookie { .. }
            | Self::Form { .. }
            | Self::Hmac { .. }
            | Self::Json { .. }
            | Self::Postgres { .. }
            | Self::Query { .. } => true,
        };
        whole.then_some(place)
    }

    pub(super) fn to_proto(&self) -> v1::CredentialSlot {
        let slot = match self {
            Self::AwsSigv4 => credential_slot::Slot::AwsSigv4(v1::AwsSigv4Slot {}),
            Self::Basic { template } => {
                credential_slot::Slot::Basic(v1::BasicSlot { template: template.clone() })
            }
            Self::Cookie { name } => {
                credential_slot::Slot::Cookie(v1::CookieSlot { name: name.clone() })
            }
            Self::Form { name } => credential_slot::Slot::Form(v1::FormSlot { name: name.clone() }),
            Self::Hmac { names, template } => credential_slot::Slot::Hmac(v1::HmacSlot {
                headers: names.iter().map(ToString::to_string).collect(),
                template: template.clone(),
            }),
            Self::Json { pointer } => {
                credential_slot::Slot::Json(v1::JsonSlot { pointer: pointer.clone() })
            }
            Self::Header { name, template } => credential_slot::Slot::Header(v1::HeaderSlot {
                name: name.to_string(),
                template: template.clone(),
            }),
            Self::Path { template } => {
                credential_slot::Slot::Path(v1::PathSlot { template: template.clone() })
            }
            Self::Postgres { role } => {
                credential_slot::Slot::Postgres(v1::PostgresSlot { role: role.clone() })
            }
            Self::Query { name } => {
                credential_slot::Slot::Query(v1::QuerySlot { name: name.clone() })
            }
        };
        v1::CredentialSlot { slot: Some(slot) }
    }

    /// Whether the control plane signs with the key, which then goes nowhere.
    pub(crate) fn signs(&self) -> bool {
        matches!(self, Self::AwsSigv4 | Self::Hmac { .. })
    }

    /// What a request with such a key is sent over.
    pub(crate) fn scheme(&self) -> Scheme {
        match self {
            Self::Postgres { .. } => Scheme::Postgres,
            _ => Scheme::Https,
        }
    }

    /// Whether the plan puts the key exactly here, in this request.
    pub(crate) fn agrees(&self, slot: &Slot, request: &Request) -> bool {
        if request.destination().scheme() != self.scheme() {
            return false;
        }
        match (self, slot) {
            (Self::AwsSigv4, Slot::Signed { names, manner }) => {
                Manner::aws(names, manner, request).is_some()
            }
            (Self::Basic { template }, Slot::Basic { before, after }) if template.is_empty() => {
                let user = before.is_empty() && after.starts_with(':');
                let password = after.is_empty() && before.find(':') == before.len().checked_sub(1);
                user || password
            }
            (Self::Basic { template }, Slot::Basic { before, after }) => {
                filled(before, after) == *template
            }
            (Self::Cookie { name }, Slot::Cookie { at }) => {
                let cookies = request.headers().get(COOKIE).and_then(|line| line.to_str().ok());
                let named = |cookie: &str| {
                    cookie.split_once('=').is_some_and(|(named, _)| named.trim() == name)
                };
                cookies.is_some_and(|cookies| {
                    cookies.split(';').filter(|cookie| named(cookie)).count() == 1
                        && piece(cookies, ';', *at).filter(|cookie| named(cookie)).is_some_and(
                            |cookie| cookie.split_once('=').is_some_and(|c| c.1 == HOLE),
                        )
                })
            }
            (Self::Form { name }, Slot::Form { at }) => {
                let located = body::form_field(request.headers(), whole(request), name);
                is_hole(located, *at)
            }
            (Self::Hmac { names, template }, Slot::Signed { names: planned, manner }) => {
                names == planned
                    && manner.strip_prefix("hmac ") == Some(template)
                    && Manner::hmac(names, manner, request).is_some()
            }
            (Self::Json { pointer }, Slot::Json { at }) => {
                let located = body::json_text(request.headers(), whole(request), pointer);
                is_hole(located, *at)
            }
            (Self::Header { name, template }, Slot::Header { name: planned, before, after }) => {
                let around = match template.as_str() {
                    "" => after.is_empty() && is_scheme(before),
                    template => filled(before, after) == template,
                };
                name == planned && around
            }
            (Self::Path { template }, Slot::Path { at }) => {
                piece(request.path(), '/', *at).is_some_and(|segment| segment == template)
            }
            (Self::Postgres { role }, Slot::Header { name, before, after }) => {
                let named = request.headers().get(POSTGRES_ROLE);
                let opens = request.method() == Method::GET && request.query().is_none();
                opens
                    && name.as_str() == POSTGRES_PASSWORD
                    && before.is_empty()
                    && after.is_empty()
                    && named.is_some_and(|named| named.as_bytes() == role.as_bytes())
            }
            (Self::Query { name }, Slot::Query { at }) => request
                .query()
                .and_then(|query| piece(query, '&', *at))
                .and_then(|pair| pair.strip_suffix(HOLE)?.strip_suffix('='))
                .is_some_and(|key| percent_decode_str(key).eq(name.bytes())),
            _ => false,
        }
    }
}

fn whole(request: &Request) -> &[u8] {
    match request.payload() {
        Payload::Whole(body) => body,
        Payload::Streamed => &[],
    }
}

/// Whether the hole is the whole of what was found, and is where it is said to be.
fn is_hole(located: Result<Option<Located>, &'static str>, at: u32) -> bool {
    let there = |located: &Located| located.text == HOLE && located.at.start == at as usize;
    located.is_ok_and(|located| located.as_ref().is_some_and(there))
}

/// A scheme word and its space (RFC 9110 §11.4), or nothing.
fn is_scheme(before: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    before.is_empty()
        || before
            .strip_suffix(' ')
            .is_some_and(|scheme| (1..=32).contains(&scheme.len()) && scheme.bytes().all(word))
}

fn filled(before: &str, after: &str) -> String {
    format!("{before}{HOLE}{after}")
}

/// What lies between two separators around `at`.
fn piece(text: &str, separator: char, at: u32) -> Option<&str> {
    let (left, right) = text.split_at_checked(at as usize)?;
    let begin = left.rfind(separator).map_or(0, |position| position + 1);
    let end = right.find(separator).map_or(text.len(), |position| left.len() + position);
    text.get(begin..end)
}
