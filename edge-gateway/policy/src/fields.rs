//! The keys of one table of a policy file: each is asked for once, and what is wrong with it is said where it stands.

use std::ops::Range;
use std::time::Duration;

use countersign_sql::Effect;
use toml_edit::{Item, TableLike};

use crate::Then;
use crate::channel::{parse_size, size};
use crate::diagnostic::Mistakes;
use crate::rules::{Effects, Methods};

/// The keys of one table: each is asked for once, and what was not asked for is a mistake.
pub(crate) struct Fields<'a, 'm, 't> {
    table: &'a dyn TableLike,
    rule: Option<&'a str>,
    mistakes: &'m mut Mistakes<'t>,
    known: Vec<&'static str>,
    /// Where the table starts.
    pub(crate) at: Option<Range<usize>>,
}

/// Tables, and where each stands.
type Tables<'a> = Vec<(&'a dyn TableLike, Span)>;

/// Where something stands, if that is known.
pub(crate) type Span = Option<Range<usize>>;

impl<'a, 'm, 't> Fields<'a, 'm, 't> {
    pub(crate) fn new(
        table: &'a dyn TableLike,
        rule: Option<&'a str>,
        mistakes: &'m mut Mistakes<'t>,
    ) -> Self {
        Self {
            table,
            rule: rule.filter(|name| !name.is_empty()),
            mistakes,
            known: Vec::new(),
            at: None,
        }
    }

    pub(crate) fn wrong(&mut self, span: Span, message: impl Into<String>) {
        self.mistakes.add(span.or_else(|| self.at.clone()), self.rule, message);
    }

    pub(crate) fn missing(&mut self, key: &str, advice: &str) {
        // A value of the wrong kind has been reported already.
        if !self.table.contains_key(key) {
            self.wrong(None, format!("`{key}` is missing: {advice}"));
        }
    }

    pub(crate) fn item(&mut self, key: &'static str) -> Option<(&'a Item, Span)> {
        self.known.push(key);
        let item = self.table.get(key)?;
        let span = self.table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
        Some((item, span))
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<(String, Span)> {
        let (item, span) = self.item(key)?;
        match item.as_str() {
            Some(text) => Some((text.to_owned(), span)),
            None => {
                self.wrong(span, format!("`{key}` is a text in quotes"));
                None
            }
        }
    }

    pub(crate) fn name(&mut self, key: &'static str) -> Option<String> {
        let (text, span) = self.text(key)?;
        if text.is_empty() || text.trim() != text {
            self.wrong(span, format!("`{key}` is a name, without spaces around it"));
            return None;
        }
        Some(text)
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> bool {
        let Some((item, span)) = self.item(key) else { return false };
        item.as_bool().unwrap_or_else(|| {
            self.wrong(span, format!("`{key}` is true or false"));
            false
        })
    }

    /// One of a few words in quotes.
    pub(crate) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let (text, span) = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let quoted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            let known = match quoted.as_slice() {
                [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
                _ => quoted.concat(),
            };
            self.wrong(span, format!("`{key}` is {known}, not {text:?}"));
        }
        found
    }

    /// A list of names that is not empty.
    pub(crate) fn texts(&mut self, key: &'static str) -> Option<(Vec<String>, Span)> {
        let (item, span) = self.item(key)?;
        let Some(array) = item.as_array() else {
            self.wrong(span, format!("`{key}` is a list: [\"…\"]"));
            return None;
        };
        if array.is_empty() {
            let so = match key {
                "approvers" => "nobody could approve; leave it out to ask everyone who may approve",
                "break_glass" => "nobody could; leave it out if nobody may approve alone",
                "of" => "nobody could approve; write [\"*\"] to ask everyone who may approve",
                "to" => "nobody else would be asked; leave the step out",
                "agents" => "the rule would be about no agent; leave it out for every agent",
                _ => "nothing would match; leave it out for all",
            };
            self.wrong(span, format!("`{key}` is empty: {so}"));
            return None;
        }
        let mut list = Vec::new();
        for value in array {
            match value.as_str() {
                Some(text) if text.is_empty() || text.trim() != text => {
                    self.wrong(
                        value.span(),
                        format!("`{key}` has a name that is empty or has spaces around it"),
                    );
                }
                Some(text) if list.iter().any(|have| have == text) => {
                    self.wrong(value.span(), format!("`{key}` has {text:?} twice"));
                }
                Some(text) => list.push(text.to_owned()),
                None => self.wrong(value.span(), format!("`{key}` is a list of texts in quotes")),
            }
        }
        Some((list, span))
    }

    pub(crate) fn methods(&mut self) -> Option<Methods> {
        let (list, span) = self.texts("methods")?;
        let mut methods = Methods::default();
        for name in list {
            match Methods::one(&name) {
                Some(method) => methods = methods.with(method),
                None => {
                    let known = Methods::KNOWN.join(", ");
                    let upper = name.to_ascii_uppercase();
                    let advice = match Methods::one(&upper) {
                        Some(_) => format!("write {upper:?}"),
                        None if name == "*" => "leave `methods` out for any".to_owned(),
                        None => format!("the methods are {known}"),
                    };
                    self.wrong(
                        span.clone(),
                        format!("`methods` has {name:?}, which is not one: {advice}"),
                    );
                }
            }
        }
        Some(methods)
    }

    /// The effects of `sql`; None for `then` when that is not known.
    pub(crate) fn effects(&mut self, then: Option<Then>) -> Option<Effects> {
        let (list, span) = self.texts("sql")?;
        let mut effects = Effects::default();
        for word in list {
            match Effect::named(&word) {
                Some(Effect::Undecidable) if then.is_some_and(Then::passes) => self.wrong(
                    span.clone(),
                    "`sql` has \"undecidable\", and what is undecidable is never let through unasked",
                ),
                Some(effect) => effects = effects.with(Effects::one(effect)),
                None => {
                    let known: Vec<&str> = Effect::ALL.into_iter().map(Effect::word).collect();
                    let known = known.join(", ");
                    self.wrong(
                        span.clone(),
                        format!("`sql` has {word:?}, which is no effect: the effects are {known}"),
                    );
                }
            }
        }
        Some(effects)
    }

    pub(crate) fn query(&mut self) -> Vec<(String, String)> {
        let Some((item, span)) = self.item("query") else { return Vec::new() };
        let Some(table) = item.as_table_like() else {
            self.wrong(span, "`query` is a table: { name = \"value\" }");
            return Vec::new();
        };
        let mut conditions = Vec::new();
        for (name, value) in table.iter() {
            match value.as_str() {
                Some(text) => conditions.push((name.to_owned(), text.to_owned())),
                None => self.wrong(
                    value.span().or_else(|| span.clone()),
                    format!("`query.{name}` is a text in quotes"),
                ),
            }
        }
        conditions
    }

    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        least: Duration,
        most: Duration,
    ) -> Option<Duration> {
        let (text, span) = self.text(key)?;
        match humantime::parse_duration(&text) {
            Ok(duration) if (least..=most).contains(&duration) => Some(duration),
            Ok(_) => {
                let [least, most] = [least, most].map(humantime::format_duration);
                self.wrong(span, format!("`{key}` is {text:?}: it can be from {least} to {most}"));
                None
            }
            Err(_) => {
                self.wrong(
                    span,
                    format!(
                        "`{key}` is {text:?}, which is not a duration: write \"50s\" or \"15m\""
                    ),
                );
                None
            }
        }
    }

    /// A number of bytes in quotes.
    pub(crate) fn size(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        let (text, span) = self.text(key)?;
        match parse_size(&text) {
            Some(bytes) if (least..=most).contains(&bytes) => Some(bytes),
            Some(_) => {
                let [least, most] = [least, most].map(size);
                self.wrong(span, format!("`{key}` is {text:?}: it can be from {least} to {most}"));
                None
            }
            None => {
                self.wrong(
                    span,
                    format!("`{key}` is {text:?}, which is no size: write \"512KiB\" or \"64MiB\""),
                );
                None
            }
        }
    }

    pub(crate) fn misplaced(&mut self, keys: &[&str], why: &str) {
        for key in keys {
            if let Some(item) = self.table.get(key) {
                let span =
                    self.table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
                self.wrong(span, format!("`{key}` has no place in this rule: {why}"));
            }
        }
    }

    /// Where a key stands; None if it is not there.
    pub(crate) fn span(&self, key: &str) -> Span {
        let item = self.table.get(key)?;
        self.table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span()).or(Some(0..0))
    }

    /// A list of small tables; `form` is how one is written.
    pub(crate) fn list_of_tables(
        &mut self,
        key: &'static str,
        form: &str,
    ) -> Option<(Tables<'a>, Span)> {
        let (item, span) = self.item(key)?;
        let tables: Option<Tables<'a>> = match item {
            Item::ArrayOfTables(tables) => {
                Some(tables.iter().map(|table| (table as &dyn TableLike, table.span())).collect())
            }
            Item::Value(toml_edit::Value::Array(array)) => {
                let table = |value: &'a toml_edit::Value| {
                    Some((value.as_inline_table()? as &dyn TableLike, value.span()))
                };
                array.iter().map(table).collect()
            }
            _ => None,
        };
        if tables.is_none() {
            self.wrong(span.clone(), format!("`{key}` is a list of tables: [{form}]"));
        }
        Some((tables?, span))
    }

    /// The keys of a table inside this one, whose mistakes are this rule's.
    pub(crate) fn inner<'i>(
        &'i mut self,
        table: &'a dyn TableLike,
        at: Span,
    ) -> Fields<'a, 'i, 't> {
        Fields { table, rule: self.rule, mistakes: self.mistakes, known: Vec::new(), at }
    }

    /// The tables of `[[key]]`.
    pub(crate) fn tables(&mut self, key: &'static str) -> Tables<'a> {
        let Some((item, span)) = self.item(key) else { return Vec::new() };
        if let Some(tables) = item.as_array_of_tables() {
            return tables.iter().map(|table| (table as &dyn TableLike, table.span())).collect();
        }
        self.wrong(span, format!("write each {key} as a table: [[{key}]]"));
        Vec::new()
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn refuse_others(&mut self, what: &str) {
        let table = self.table;
        for (key, item) in table.iter() {
            if self.known.contains(&key) {
                continue;
            }
            let near = self.known.iter().map(|known| (distance(key, known), *known)).min();
            let advice = match near {
                _ if key == "hosts" => "write one rule per `host`".to_owned(),
                _ if key == "method" => "did you mean `methods`?".to_owned(),
                Some((0..=2, known)) => format!("did you mean `{known}`?"),
                _ => format!("the keys are {}", self.known.join(", ")),
            };
            let span = table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
            self.wrong(span, format!("{what} has no key `{key}`: {advice}"));
        }
    }
}

/// How many letters to add, drop, replace or swap to get from one word to another.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![vec![0usize; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let same = usize::from(from[i - 1] != to[j - 1]);
                    let best =
                        (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
                    let swapped =
                        i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
                    if swapped { best.min(rows[i - 2][j - 2] + 1) } else { best }
                }
            };
        }
    }
    rows[from.len()][to.len()]
}
