//! Policy: what may leave, what people are asked about, and what is refused.
//!
//! ```text
//! text ─ parse ─▶ rules ─▶ Policy ─┬─ needs(head) ──▶ Need        before the body is read
//!                                  ├─ decide(subject) ─▶ Decision  on the bytes that will leave
//!                                  └─ explain(subject) ─▶ Explanation
//! ```
//!
//! Every rule that matches counts, and the strictest wins: deny, then approve, then observe, then allow. What no rule
//! names is [`Then::Unnamed`], which is a no. So order never matters, and adding a deny rule can never open anything.
//!
//! Conditions have three values. What cannot be determined (a body that does not decode, a name that is there
//! twice, a path that loose servers take for another) never makes an allow or an observe rule let anything through,
//! and always makes an approve or a deny rule match.
//!
//! # The file
//!
//! ```toml
//! version = 1
//!
//! [[rule]]
//! name = "large refunds"              # how approvals, refusals and the audit trail call it; once in a file
//! agents = ["billing-bot"]            # names; absent or with "*": every agent
//! host = "api.stripe.com"             # exact, or "*.example.com" (whole labels, at any depth); :port if not 443
//! methods = ["POST"]                  # absent: any
//! path = "/v1/refunds"                # {name} is one segment, {name...} at the end the rest; absent: any
//! query = { expand = "charge" }       # each name once, with this value
//! when = "body.form.amount >= 10000"  # CEL, see below
//! then = "approve"                    # allow, observe, approve, deny, tunnel
//! credential = "stripe"               # whose key is put in; not in a deny rule
//! hold = "50s"                        # how long the connection is kept open, up to 280s
//! accept_edge_enforced = false        # an approve rule that accepts that its credential may be leased elsewhere
//! allow_encoded_slash = false         # this rule understands %2F inside a segment
//! reason = "refunds are final"        # told to whoever is refused
//! protocol = "postgres"               # about a database, see below; absent: "http"
//! upgrade = "websocket"               # only in an allow rule: the request may become a WebSocket
//! max_bytes = "64MiB"                 # through that, or through a tunnel: both ways together, 1KiB to 64GiB
//! max_time = "1h"                     # and for so long, 1s to 24h
//!
//! # Only in an approve rule, and in an observe rule for what it would be as one. Who is asked:
//! approvers = ["finance"]             # groups or principals; absent: whoever may approve
//! quorum = 2                          # how many people, 1 if absent
//! panels = [                          # instead of these two: several groups, all have to agree, nobody counts twice
//!     { of = ["security"], quorum = 1 },
//!     { of = ["finance"] },
//! ]
//! owner_may_approve = false           # whether the agent's owner counts as others do
//! escalate = [{ after = "10m", to = ["oncall"] }]   # who may answer as well from then on, for every panel
//! break_glass = ["security-leads"]    # one of these may approve alone, with a reason
//! # What their votes have to be:
//! strength = "L1"                     # L0 text or reaction, L1 button of a linked account, L2 session, L3 passkey
//! proof = "none"                      # what a vote carries to check it by: none, shared, transferable
//! card = "whole"                      # no answers from a chat that cannot show all of the request; absent: it says how much
//! critical = false                    # no grants, no break_glass, strength at least (and if absent) L2
//! # For how long:
//! expires = "15m"                     # it can be answered, up to 7d
//! remind = "5m"                       # before that, they are reminded; absent: they are not
//! unused = "15m"                      # it can be used once it is approved, up to 24h
//! cool_down = "10m"                   # a denial answers the same request again, 0s to 24h
//! ```
//!
//! Several approve rules may match: each one's panels have to be met, the shortest `expires`, `hold` and `unused` count,
//! and the longest `cool_down` and `remind`. Fixtures stand in the same file, see [`fixtures`].
//!
//! An observe rule lets through what an allow rule in its place would, one request at a time, so that each leaves a record
//! with the rule's name. What could be its request leaves one as well, by whatever rule it passes. So a rule that will ask
//! people is tried out first. Where nothing can be recorded, what is observed does not pass.
//!
//! # What is more than one request
//!
//! With `upgrade = "websocket"` an allow rule lets a request become a WebSocket, whose messages are not judged one by one.
//! What must be recorded, or asked about, or denied by any rule never becomes one. Of several allow rules that say so the
//! largest bounds count. A rule with `then = "tunnel"` lets its agents through to its host without looking into anything,
//! so it has no other conditions, and no other rule may be about the same host and agent, and no key be for that host.
//!
//! # Databases
//!
//! A rule with `protocol = "postgres"` is about connections to a PostgreSQL and the texts of statements on them (see
//! [`database`]), and about nothing else. In place of `methods`, `path` and `query` it has
//!
//! ```toml
//! databases = ["shop"]                # absent: any
//! roles = ["shop_app"]                # absent: any
//! sql = ["session", "read"]           # connect, session, read, write, schema, danger, undecidable; absent: any
//! ```
//!
//! A rule that lets through has to name the effect of every statement in a text; any other one is about a text if it names
//! the effect of one of them. What `countersign_sql` cannot read for certain, or what settings of the session could make
//! mean something else, is let through by no rule, and matches every approve and deny rule.
//!
//! # Conditions
//!
//! `when` sees `agent` (its name), `request.method`, `.host`, `.port`, `.path` (as written; if decoding it changes the
//! answer, that is undecidable), `.query` and `.headers` (one value a name, in lower case for headers), and of the body
//! `body.json`, `body.form`, `body.graphql` (`.operation`, `.name`, `.fields`), `body.text` and `body.size` (bytes, as
//! sent). Of a database it sees `agent`, `request.host`, `request.port`, `sql.database`, `sql.role`, `sql.effect` and
//! `sql.statements` (`.kind`, `.effect`, `.tables`, `.reads`, `.writes`, `.functions`, `.has_where`). Standard CEL functions and macros, `lowerAscii`, `upperAscii`, `charAt`, `indexOf`, and `number`.
//!
//! * Values of forms, queries and headers are text. Beside a number they are read as plain decimals; what is not one
//!   (`1e4`, `007`, ` 5`) is undecidable. Beside text they stay text: `body.form.amount == "100"`.
//! * Comparing values of different kinds (`"100" == 100` in JSON) is undecidable, not false; so is what is not there,
//!   unless asked for with `has(…)` or `in`. Comparing with a written `null` is always possible.
//! * A name is undecidable when it is there twice, also as `name[]` or in another case; a JSON body when it is not
//!   strict RFC 8259 in UTF-8, with every name once, numbers that fit 64 bits, and the Content-Type that says so.
//! * gzip and deflate are taken off (three layers, 100 times, 8 MiB at most); other encodings are undecidable.
//!
//! # Methods and paths
//!
//! An override (`X-HTTP-Method-Override` and its kin, `_method` in a query or a posted form) counts as a method too: an
//! allow rule has to name both, and any other rule matches by either. A path has to be written as the rule writes it to
//! be allowed; to be asked about or denied it is enough that loose servers take it for the rule's: in another case, with
//! needless escapes, a trailing slash, `;parameters`. Targets that can be read in two ways are refused before any rule
//! ([`Policy::check_target`]); asked all the same, every approve and deny rule with a path matches them.
//!
//! # Reading it
//!
//! No I/O, no clock, no randomness; compiling happens on a thread with a large stack. Read: `policy`, `judge`, `rules`, `parse`; then what a rule
//! looks at: `target`, `path`, `query`, `body`, `json`, `graphql`, `database`, `when`, `expression`.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_gate::Destination;
use http::{HeaderMap, Method};

mod judge;
mod policy;
mod requirement;
mod truth;

mod asking;
mod channel;
mod diagnostic;
mod fields;
mod parse;
mod rules;

pub mod body;
pub mod database;
pub mod decode;
mod expression;
pub mod graphql;
pub mod json;
mod path;
pub mod query;
pub mod target;
mod when;

pub mod addresses;
pub mod analysis;
pub mod fixtures;
pub mod replay;

pub use channel::{Channel, Tunnel};
pub use diagnostic::Diagnostic;
pub use policy::Policy;
pub use requirement::{Escalation, Panel, Proof, Requirement, Strength};

/// A request before its body. `path` and `query` are as they would leave, with the hole where a key goes.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The agent's name.
    pub agent: &'a str,
    pub destination: &'a Destination,
    pub method: &'a Method,
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

/// A request to decide about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub head: Head<'a>,
    pub body: Body<'a>,
}

impl Subject<'_> {
    /// Whether the method on the wire is the only one that any framework takes this request's for: neither a header nor a
    /// field overrides it.
    pub fn method_is_certain(&self) -> bool {
        judge::Case::new(self).method_is_certain() == truth::Truth::Yes
    }
}

/// What is known of a body.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// Not read: undecidable for every rule that looks at it.
    Streamed,
    /// All of it, as it would leave.
    Whole(&'a [u8]),
}

/// What becomes of a request, or what a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    Allow,
    /// People decide.
    Approve,
    Deny,
    /// It passes, and leaves a record.
    Observe,
    /// Whatever goes to the host passes, and is not looked into.
    Tunnel,
    /// No rule names it: refused. Never what a rule asks for.
    Unnamed,
}

impl Then {
    /// As policies write it; `refuse` for what no rule names.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::Observe => "observe",
            Self::Tunnel => "tunnel",
            Self::Unnamed => "refuse",
        }
    }

    /// Whether a request leaves without anybody being asked.
    pub fn passes(self) -> bool {
        matches!(self, Self::Allow | Self::Observe | Self::Tunnel)
    }
}

/// What the rules say of a request: what those of the strictest kind that matched say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub then: Then,
    /// The first by name of the rules that decided; empty when [`Then::Unnamed`].
    pub rule: String,
    /// The credentials that the deciding rules name, each once, by name; beside an observe rule that decides, those of
    /// the allow rules that match as well.
    pub credentials: Vec<String>,
    /// Which of these rules name each credential.
    pub credential_rules: BTreeMap<String, Vec<String>>,
    /// One for each approve rule that decided, by the rule's name. All must be met. None from observe rules.
    pub requirements: Vec<Requirement>,
    /// How long an approval waits: the shortest of the deciding rules.
    pub expires: Duration,
    /// How long the edge holds the connection: the shortest of the deciding rules.
    pub hold: Duration,
    /// How long an approved request that nobody used stays usable: the shortest of the deciding rules.
    pub unused: Duration,
    /// How long a denial answers the same intent again: the longest of the deciding rules.
    pub cool_down: Duration,
    /// Approvers are reminded when this much of `expires` is left: the longest of the deciding rules. May be as long
    /// as `expires`, where that is another rule's.
    pub remind: Option<Duration>,
    /// Whether the edge keeps the request when its client is gone, and sends it once it is approved: all of the deciding
    /// rules say so, and they ask people.
    pub park: bool,
    /// What the request may become, where an allow rule says so and nothing has to leave a record: a WebSocket; of what is
    /// tunnelled, the tunnel.
    pub channel: Option<Channel>,
    /// Whether something that a rule asked about could not be determined. Cards say so.
    pub uninspectable: bool,
    /// What the deciding rule gives as its reason.
    pub reason: Option<String>,
    /// Every observe rule that matched or was undecidable, by name, whatever decided.
    pub observed: Vec<String>,
}

impl Decision {
    /// Whether a request that passes has to leave a record: it is opened one at a time, with its key or without one.
    pub fn recorded(&self) -> bool {
        !self.observed.is_empty()
    }
}

/// One rule as it is written, for tools that write others beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written<'a> {
    /// Where it is in its file, from 1.
    pub line: usize,
    pub then: Then,
    /// Whether it is asked about every time.
    pub critical: bool,
    /// What its query has to be: names and values.
    pub query: &'a [(String, String)],
    pub when: Option<&'a str>,
    pub credential: Option<&'a str>,
}

/// What it takes to decide, once the head is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The whole body: a rule looks at it, or the request may be held.
    Body,
    /// No body changes it: it may be streamed.
    Nothing,
    /// No body would let it through.
    Refuse,
}

/// How the rules use a credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// An allow rule names it.
    pub allow: bool,
    /// An approve rule names it.
    pub approve: bool,
    /// Every approve rule that names it accepts that only the edge enforces it (a lease is outside approval).
    pub accept_edge_enforced: bool,
}

/// Why a decision is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub decision: Decision,
    /// Every rule that matched or was undecidable, by name.
    pub rules: Vec<Explained>,
    /// Every other rule for the same host, by name, and what kept it from matching.
    pub missed: Vec<Explained>,
}

/// One rule and a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    pub rule: String,
    /// Where it is in its file, from 1.
    pub line: usize,
    pub then: Then,
    pub matched: Match,
    pub why: String,
}

/// Whether a rule matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    No,
    /// Counts for approve and deny rules, and never lets anything through; observe rules record it.
    Undecidable,
    Yes,
}
