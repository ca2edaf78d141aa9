//! All rules of a policy, by the hosts they name, and what they say together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use countersign_gate::Destination;

use crate::channel::{Channel, Tunnel};
use crate::diagnostic::Diagnostic;
use crate::judge::Case;
use crate::parse;
use crate::path::{Marks, Pattern};
use crate::rules::{Methods, Protocol, Rule};
use crate::target::{self, Ambiguous, Clarity};
use crate::truth::Truth;
use crate::{
    Body, Decision, Explained, Explanation, Head, Match, Need, Requirement, Subject, Then, Use,
    Written,
};

/// A compiled policy. Share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    /// Rules for exactly this host.
    exact: HashMap<String, Vec<Entry>>,
    /// Rules for every name below this one.
    below: HashMap<String, Vec<Entry>>,
    uses: BTreeMap<String, Use>,
}

/// What most requests to its host can be told apart from a rule by, without touching the rule.
#[derive(Clone, Copy, Debug)]
struct Entry {
    rule: usize,
    protocol: Protocol,
    port: u16,
    /// None: any method.
    methods: Option<Methods>,
    /// Those of any path when it has none.
    path: Marks,
}

impl Policy {
    /// Compiles a policy file. `file` is the name that diagnostics call it by. `[[test]]` tables are checked and
    /// otherwise ignored.
    ///
    /// # Errors
    /// Every mistake in it, in the order of its lines.
    pub fn compile(text: &str, file: &str) -> Result<Self, Vec<Diagnostic>> {
        parse::parse(text, file).map(|parsed| Self::of(parsed.rules))
    }

    /// The policy that names nothing: everything is refused.
    pub fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn of(rules: Vec<Rule>) -> Self {
        let mut policy = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            let map = if rule.host.below { &mut policy.below } else { &mut policy.exact };
            let path = rule.path.as_ref().map(Pattern::marks).unwrap_or_default();
            let entry = Entry {
                rule: index,
                protocol: rule.protocol,
                port: rule.host.port,
                methods: rule.methods,
                path,
            };
            map.entry(rule.host.name.clone()).or_default().push(entry);
            if let Some(credential) = &rule.credential {
                let using = policy.uses.entry(credential.clone()).or_insert(Use {
                    allow: false,
                    approve: false,
                    accept_edge_enforced: true,
                });
                match rule.then {
                    Then::Allow => using.allow = true,
                    Then::Approve => {
                        using.approve = true;
                        using.accept_edge_enforced &= rule.accept_edge_enforced;
                    }
                    // A key that is observed is handed out one request at a time, whatever its class.
                    Then::Deny | Then::Observe | Then::Tunnel | Then::Unnamed => {}
                }
            }
        }
        for using in policy.uses.values_mut() {
            using.accept_edge_enforced &= using.approve;
        }
        policy.rules = rules;
        policy
    }

    /// What the rules say of a request.
    pub fn decide(&self, subject: &Subject<'_>) -> Decision {
        let case = Case::new(subject);
        let mut verdict = Verdict::default();
        for rule in self.sifted(&case) {
            verdict.add(rule, &case.judge(rule));
        }
        verdict.decision()
    }

    /// What is needed to decide about a request whose body has not been read.
    ///
    /// [`Need::Nothing`] is about the rules only: a key that is handed out one request at a time needs the body
    /// too, and which keys those are is the caller's to know.
    pub fn needs(&self, head: &Head<'_>) -> Need {
        let subject = Subject { head: *head, body: Body::Streamed };
        let case = Case::new(&subject);
        let mut verdict = Verdict::default();
        let mut unread = false;
        for rule in self.sifted(&case) {
            match case.judge(rule) {
                Truth::Undecidable(unknown) if unknown.unread => unread = true,
                truth => verdict.add(rule, &truth),
            }
        }
        match verdict.then {
            Then::Deny => Need::Refuse,
            _ if unread => Need::Body,
            Then::Tunnel | Then::Unnamed => Need::Refuse,
            Then::Approve | Then::Observe => Need::Body,
            Then::Allow if !verdict.observed.is_empty() => Need::Body,
            Then::Allow => {
                let shared = |rule: &&Rule| {
                    let using = rule.credential.as_deref().map(|name| self.credential_use(name));
                    using.is_some_and(|using| using.approve && !using.accept_edge_enforced)
                };
                if verdict.rules.iter().any(shared) { Need::Body } else { Need::Nothing }
            }
        }
    }

    /// Every rule for the request's host, whether it matched, and why; and what they say together.
    pub fn explain(&self, subject: &Subject<'_>) -> Explanation {
        let case = Case::new(subject);
        let mut verdict = Verdict::default();
        let (mut rules, mut missed) = (Vec::new(), Vec::new());
        for rule in self.naming(subject.head.destination) {
            let truth = case.judge(rule);
            verdict.add(rule, &truth);
            let explained = |matched, why| Explained {
                rule: rule.name.clone(),
                line: rule.line,
                then: rule.then,
                matched,
                why,
            };
            match truth {
                Truth::Yes => {
                    let opens = match (rule.then, &rule.channel) {
                        (Then::Tunnel, Some(channel)) => {
                            format!(", and it is not looked into, {channel}")
                        }
                        (_, Some(channel)) => format!(", and it may become a WebSocket, {channel}"),
                        (_, None) => String::new(),
                    };
                    let why = format!("everything it asks for is there{opens}");
                    rules.push(explained(Match::Yes, why))
                }
                Truth::Undecidable(unknown) => {
                    rules.push(explained(Match::Undecidable, unknown.why.into_owned()))
                }
                Truth::No => {
                    let parts = case.parts(rule).into_iter();
                    let part =
                        parts.filter(|(_, truth)| *truth == Truth::No).map(|(part, _)| part).next();
                    let why = format!("its `{}` is about other requests", part.unwrap_or("host"));
                    missed.push(explained(Match::No, why));
                }
            }
        }
        for list in [&mut rules, &mut missed] {
            list.sort_by(|a, b| a.rule.cmp(&b.rule));
        }
        Explanation { decision: verdict.decision(), rules, missed }
    }

    /// How the rules use a credential: whether it may be leased follows from it.
    pub fn credential_use(&self, credential: &str) -> Use {
        self.uses.get(credential).copied().unwrap_or_default()
    }

    /// Whether an allow rule that is about this agent, by its name, gives it the credential.
    pub fn lends(&self, agent: &str, credential: &str) -> bool {
        self.giving(agent, credential).any(|rule| rule.then == Then::Allow)
    }

    /// Whether any rule that is about this agent, by its name, gives it the credential, if only once people were asked.
    pub fn gives(&self, agent: &str, credential: &str) -> bool {
        self.giving(agent, credential).next().is_some()
    }

    fn giving<'a>(&'a self, agent: &str, credential: &str) -> impl Iterator<Item = &'a Rule> {
        let gives = move |rule: &&Rule| rule.credential.as_deref() == Some(credential);
        self.rules.iter().filter(gives).filter(move |rule| rule.is_about(agent))
    }

    /// How this agent, by its name, is tunnelled to this destination. Where any other rule is about the two, it is not.
    pub fn tunnel(&self, agent: &str, destination: &Destination) -> Option<Tunnel> {
        let mut about: Vec<&Rule> =
            self.naming(destination).filter(|rule| rule.is_about(agent)).collect();
        about.sort_by(|a, b| a.name.cmp(&b.name));
        let first = about.first()?;
        let tunnels = about.iter().map(|rule| rule.channel.filter(|_| rule.then == Then::Tunnel));
        let channel = tunnels.reduce(|one, other| Some(one?.or(other?)))??;
        Some(Tunnel { rule: first.name.clone(), channel })
    }

    /// The tunnel rules that are about this host, whatever the port, by their names.
    pub fn tunnels_to(&self, host: &str) -> Vec<&str> {
        let about = self.entries_of(host).map(|entry| &self.rules[entry.rule]);
        about.filter(|rule| rule.then == Then::Tunnel).map(|rule| rule.name.as_str()).collect()
    }

    /// Whether any rule could be about requests to this destination.
    pub fn names_host(&self, destination: &Destination) -> bool {
        self.naming(destination).next().is_some()
    }

    /// As [`target::check`], save that `%2f` is let through to hosts for which a rule accepts it.
    ///
    /// # Errors
    /// [`Ambiguous`] says what can be read in two ways.
    pub fn check_target(
        &self,
        destination: &Destination,
        path: &str,
        query: Option<&str>,
    ) -> Result<(), Ambiguous> {
        match target::judge(path, query) {
            Clarity::EncodedSlash
                if self.naming(destination).any(|rule| rule.allow_encoded_slash) =>
            {
                Ok(())
            }
            _ => target::check(path, query),
        }
    }

    /// The rule of this name.
    pub fn rule(&self, name: &str) -> Option<Written<'_>> {
        let rule = self.rules.iter().find(|rule| rule.name == name)?;
        Some(Written {
            line: rule.line,
            then: rule.then,
            critical: rule.asks.critical,
            query: &rule.query,
            when: rule.when.as_ref().map(crate::when::When::source),
            credential: rule.credential.as_deref(),
        })
    }

    /// Every group or principal that approve rules name, also for later and in an emergency; `*` is whoever may
    /// approve.
    pub fn approvers(&self) -> BTreeSet<String> {
        let asking = self.rules.iter().filter(|rule| rule.then == Then::Approve);
        asking.flat_map(|rule| rule.asks.names().cloned()).collect()
    }

    /// What each approve rule asks of people, in the order of the file.
    pub fn requirements(&self) -> impl Iterator<Item = Requirement> {
        let asking = self.rules.iter().filter(|rule| rule.then == Then::Approve);
        asking.map(|rule| rule.asks.requirement(&rule.name))
    }

    /// Every credential that rules name.
    pub fn credentials(&self) -> BTreeSet<String> {
        self.uses.keys().cloned().collect()
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rules whose host this is, by their number.
    pub(crate) fn numbers(&self, protocol: Protocol, host: &str, port: u16) -> Vec<usize> {
        self.entries(protocol, host, port).map(|entry| entry.rule).collect()
    }

    /// The rules whose host this is.
    fn naming(&self, destination: &Destination) -> impl Iterator<Item = &Rule> {
        self.entries_to(destination).map(|entry| &self.rules[entry.rule])
    }

    /// The rules whose host this is, without most of those that judging would say No to.
    fn sifted(&self, case: &Case<'_>) -> impl Iterator<Item = &Rule> {
        let (methods, path) = (case.certain_methods(), case.marks());
        let may_be = move |entry: &&Entry| {
            let method = match (methods, entry.methods) {
                (Some(methods), Some(wanted)) => wanted.overlaps(methods),
                _ => true,
            };
            method && entry.path.agree(path)
        };
        let entries = self.entries_to(case.head.destination);
        entries.filter(may_be).map(|entry| &self.rules[entry.rule])
    }

    fn entries_to(&self, destination: &Destination) -> impl Iterator<Item = &Entry> {
        let protocol = Protocol::of(destination.scheme());
        self.entries(protocol, destination.host(), destination.port())
    }

    fn entries(&self, protocol: Protocol, host: &str, port: u16) -> impl Iterator<Item = &Entry> {
        let about = self.entries_of(host);
        about.filter(move |entry| entry.port == port && entry.protocol == protocol)
    }

    fn entries_of(&self, host: &str) -> impl Iterator<Item = &Entry> {
        let parents = host.match_indices('.').map(|(dot, _)| &host[dot + 1..]);
        let below = parents.filter_map(|parent| self.below.get(parent));
        self.exact.get(host).into_iter().chain(below).flatten()
    }
}

/// The strictest that matched so far, and every rule that says so.
#[derive(Debug)]
struct Verdict<'a> {
    then: Then,
    rules: Vec<&'a Rule>,
    /// The allow rules that match, whatever decides.
    allowing: Vec<&'a Rule>,
    /// The observe rules that match, or may.
    observed: Vec<&'a Rule>,
    uninspectable: bool,
}

impl Default for Verdict<'_> {
    fn default() -> Self {
        Self {
            then: Then::Unnamed,
            rules: Vec::new(),
            allowing: Vec::new(),
            observed: Vec::new(),
            uninspectable: false,
        }
    }
}

impl<'a> Verdict<'a> {
    fn add(&mut self, rule: &'a Rule, truth: &Truth) {
        let matches = match truth {
            Truth::No => false,
            Truth::Undecidable(_) => {
                self.uninspectable = true;
                !rule.then.passes()
            }
            Truth::Yes => true,
        };
        if rule.then == Then::Observe && *truth != Truth::No {
            self.observed.push(rule);
        }
        if rule.then == Then::Allow && matches {
            self.allowing.push(rule);
        }
        if !matches || strictness(rule.then) < strictness(self.then) {
            return;
        }
        if strictness(rule.then) > strictness(self.then) {
            self.then = rule.then;
            self.rules.clear();
        }
        self.rules.push(rule);
    }

    fn decision(mut self) -> Decision {
        // By name, so that the order of the file never shows.
        self.rules.sort_by(|a, b| a.name.cmp(&b.name));
        let deciding = self.rules.first();
        let mut credential_rules: BTreeMap<String, Vec<String>> = BTreeMap::new();
        // To observe a request never takes its key away.
        let also = if self.then == Then::Observe { self.allowing.as_slice() } else { &[] };
        for rule in self.rules.iter().chain(also) {
            if let Some(credential) = &rule.credential {
                credential_rules.entry(credential.clone()).or_default().push(rule.name.clone());
            }
        }
        for rules in credential_rules.values_mut() {
            rules.sort();
        }
        let mut observed: Vec<String> =
            self.observed.iter().map(|rule| rule.name.clone()).collect();
        observed.sort();
        // What one of them opens is open; an observe rule that decides opens nothing.
        let opens = matches!(self.then, Then::Allow | Then::Tunnel);
        let channels = self.rules.iter().filter(|_| opens).filter_map(|rule| rule.channel);
        let channel = channels.reduce(Channel::or).filter(|_| observed.is_empty());
        let requirement = |rule: &&Rule| rule.asks.requirement(&rule.name);
        let asks = self.then == Then::Approve;
        let shortest = |of: fn(&Rule) -> Duration| {
            self.rules.iter().map(|rule| of(rule)).min().unwrap_or_default()
        };
        Decision {
            then: self.then,
            rule: deciding.map(|rule| rule.name.clone()).unwrap_or_default(),
            credentials: credential_rules.keys().cloned().collect(),
            credential_rules,
            requirements: self.rules.iter().filter(|_| asks).map(requirement).collect(),
            expires: shortest(|rule| rule.asks.expires),
            hold: shortest(|rule| rule.hold),
            unused: shortest(|rule| rule.asks.unused),
            cool_down: self.rules.iter().map(|rule| rule.asks.cool_down).max().unwrap_or_default(),
            remind: self.rules.iter().filter_map(|rule| rule.asks.remind).max(),
            park: asks && self.rules.iter().all(|rule| rule.park),
            channel,
            uninspectable: self.uninspectable,
            reason: deciding.and_then(|rule| rule.reason.clone()),
            observed,
        }
    }
}

pub(crate) fn strictness(then: Then) -> u8 {
    match then {
        Then::Unnamed => 0,
        Then::Tunnel => 1,
        Then::Allow => 2,
        Then::Observe => 3,
        Then::Approve => 4,
        Then::Deny => 5,
    }
}
