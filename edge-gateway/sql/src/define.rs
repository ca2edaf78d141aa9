//! CREATE, ALTER, DROP and COMMENT. What they begin with says how grave they are; of the rest it is looked what is named
//! and what is called, and no query stands in it unread.

use crate::expression::QUERY;
use crate::lexis::Kind;
use crate::names::Name;
use crate::reader::{Read, Reader};
use crate::{Effect, Object, words};

/// What of a database's definition is its own, by the words that name it: the gravest that making, altering or dropping
/// it is. The rest reaches further: to roles, code that others run, files, other servers.
const SORTS: [(&[&str], &str, Effect); 43] = [
    (&["access", "method"], "access method", Effect::Danger),
    (&["aggregate"], "aggregate", Effect::Danger),
    (&["cast"], "cast", Effect::Danger),
    (&["collation"], "collation", Effect::Schema),
    (&["conversion"], "conversion", Effect::Danger),
    (&["database"], "database", Effect::Danger),
    (&["default", "privileges"], "default privileges", Effect::Danger),
    (&["domain"], "domain", Effect::Schema),
    (&["event", "trigger"], "event trigger", Effect::Danger),
    (&["extension"], "extension", Effect::Danger),
    (&["foreign", "data", "wrapper"], "foreign data wrapper", Effect::Danger),
    (&["foreign", "table"], "foreign table", Effect::Danger),
    (&["function"], "function", Effect::Danger),
    (&["group"], "role", Effect::Danger),
    (&["index"], "index", Effect::Schema),
    (&["language"], "language", Effect::Danger),
    (&["large", "object"], "large object", Effect::Danger),
    (&["materialized", "view"], "materialized view", Effect::Schema),
    (&["operator", "class"], "operator class", Effect::Danger),
    (&["operator", "family"], "operator family", Effect::Danger),
    (&["operator"], "operator", Effect::Danger),
    (&["owned"], "all that a role owns", Effect::Danger),
    (&["policy"], "policy", Effect::Danger),
    (&["procedure"], "procedure", Effect::Danger),
    (&["publication"], "publication", Effect::Danger),
    (&["role"], "role", Effect::Danger),
    (&["routine"], "routine", Effect::Danger),
    (&["rule"], "rule", Effect::Danger),
    (&["schema"], "schema", Effect::Schema),
    (&["sequence"], "sequence", Effect::Schema),
    (&["server"], "server", Effect::Danger),
    (&["statistics"], "statistics", Effect::Schema),
    (&["subscription"], "subscription", Effect::Danger),
    (&["system"], "system", Effect::Danger),
    (&["table"], "table", Effect::Schema),
    (&["tablespace"], "tablespace", Effect::Danger),
    (&["text", "search"], "text search", Effect::Danger),
    (&["transform"], "transform", Effect::Danger),
    (&["trigger"], "trigger", Effect::Danger),
    (&["type"], "type", Effect::Schema),
    (&["user", "mapping"], "user mapping", Effect::Danger),
    (&["user"], "role", Effect::Danger),
    (&["view"], "view", Effect::Schema),
];

/// Sorts that are relations, so that their names are tables' to whoever asks.
const RELATIONS: [&str; 6] =
    ["foreign table", "index", "materialized view", "sequence", "table", "view"];

/// What between CREATE and the sort says how it is made.
const HOW: [&str; 12] = [
    "constraint",
    "global",
    "local",
    "or",
    "procedural",
    "recursive",
    "replace",
    "temp",
    "temporary",
    "trusted",
    "unique",
    "unlogged",
];

/// Words in an ALTER that make more of it than the schema's, and what they stand before: whose it is, whom it obeys, what
/// runs by itself.
const GRAVE: [(&str, &[&str]); 7] = [
    ("owner", &["to"]),
    ("level", &["security"]),
    ("depends", &["on"]),
    ("enable", &["always", "replica", "rule", "trigger"]),
    ("disable", &["rule", "trigger"]),
    ("always", &["rule", "trigger"]),
    ("replica", &["rule", "trigger"]),
];

/// Sorts whose name does not stand behind them.
const NAMELESS: [&str; 8] = [
    "all that a role owns",
    "cast",
    "default privileges",
    "operator",
    "system",
    "text search",
    "transform",
    "user mapping",
];

/// Words that brackets stand behind in a definition without anything being called.
const BEFORE_BRACKETS: [&str; 36] = [
    "add", "and", "any", "as", "by", "check", "column", "columns", "default", "enum", "exclude",
    "exists", "for", "from", "hash", "identity", "in", "include", "inherits", "key", "like",
    "list", "not", "nothing", "on", "only", "or", "range", "reset", "set", "some", "to", "unique",
    "using", "values", "with",
];

/// Types and methods of indexes that brackets may stand behind.
const TAKES_BRACKETS: [&str; 24] = [
    "bit",
    "bpchar",
    "brin",
    "btree",
    "char",
    "character",
    "dec",
    "decimal",
    "float",
    "gin",
    "gist",
    "hash",
    "interval",
    "nchar",
    "numeric",
    "second",
    "spgist",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "varbit",
    "varchar",
    "varying",
];

impl Reader<'_, '_, '_> {
    pub(crate) fn create(&mut self) -> Read<&'static str> {
        self.needs("create")?;
        while self.takes_any(&HOW) {}
        let sort = self.sort()?;
        if sort == "schema" {
            // Its elements would be statements of their own.
            self.not_there();
            let name = if self.sees("authorization") { None } else { Some(self.column_name()?) };
            if self.takes("authorization") {
                self.facts.at_least(Effect::Danger);
                self.label()?;
            }
            let names = name.map(|name| Name(vec![name]).written()).into_iter().collect();
            self.facts.object = Some(Object { sort, names });
            return Ok("create");
        }
        if sort == "index" {
            self.takes("concurrently");
            self.not_there();
            let name = match self.sees("on") {
                true => None,
                false => Some(self.relation_name()?.written()),
            };
            self.facts.object = Some(Object { sort, names: name.into_iter().collect() });
            self.needs("on")?;
            let table = self.relation_expression()?.written();
            self.facts.writes.insert(table);
        } else if self.is_own() {
            self.not_there();
            let name = self.relation_name()?.written();
            self.names(sort, vec![name]);
            // A type of its own functions, or a range that may have some.
            if sort == "type" && (!self.sees("as") || self.sees_all(&["as", "range"])) {
                self.facts.at_least(Effect::Danger);
            }
        } else {
            return self.reaching(sort, "create");
        }
        self.definition(["materialized view", "table", "view"].contains(&sort), false)?;
        Ok("create")
    }

    pub(crate) fn alter(&mut self) -> Read<&'static str> {
        self.needs("alter")?;
        let sort = self.sort()?;
        if self.is_own() {
            self.takes_all(&["if", "exists"]);
            if !self.takes("all") {
                let name = self.relation_expression()?.written();
                self.names(sort, vec![name]);
            }
        } else {
            return self.reaching(sort, "alter");
        }
        self.definition(false, true)?;
        Ok("alter")
    }

    pub(crate) fn drop(&mut self) -> Read<&'static str> {
        self.needs("drop")?;
        let sort = self.sort()?;
        if self.is_own() {
            self.takes("concurrently");
            self.takes_all(&["if", "exists"]);
            let mut names = Vec::new();
            self.list(|reader| {
                names.push(reader.relation_name()?.written());
                Ok(())
            })?;
            self.names(sort, names);
            self.takes_any(&["cascade", "restrict"]);
            return Ok("drop");
        }
        self.reaching(sort, "drop")
    }

    /// What reaches beyond the schema, with its name if that is easily told.
    fn reaching(&mut self, sort: &'static str, kind: &'static str) -> Read<&'static str> {
        if !self.takes_all(&["if", "not", "exists"]) {
            self.takes_all(&["if", "exists"]);
        }
        if !NAMELESS.contains(&sort) && self.sees_name(words::names_columns) {
            let name = self.relation_name()?.written();
            self.names(sort, vec![name]);
        }
        self.rest();
        Ok(kind)
    }

    pub(crate) fn comment(&mut self) -> Read<&'static str> {
        self.needs("comment")?;
        self.needs("on")?;
        self.facts.at_least(Effect::Schema);
        self.takes_any(&["constraint", "procedural"]);
        if self.sees("table") || self.sees("view") || self.sees("column") {
            let column = self.sees("column");
            self.skip();
            let mut name = self.qualified(words::names_columns)?;
            if column {
                name.0.pop();
            }
            if !name.0.is_empty() {
                let name = name.written();
                self.facts.writes.insert(name);
            }
        }
        self.rest();
        Ok("comment")
    }

    /// What it is about, and that it is at least as grave as that.
    fn sort(&mut self) -> Read<&'static str> {
        let known = SORTS.iter().find(|(words, ..)| self.sees_all(words));
        let Some((words, sort, effect)) = known else {
            return self.wrong("it is about something that is not known");
        };
        self.at += words.len();
        self.facts.at_least(*effect);
        self.facts.object = Some(Object { sort, names: Vec::new() });
        Ok(sort)
    }

    /// Whether what it is about is the schema's own.
    fn is_own(&self) -> bool {
        self.facts.effect == Effect::Schema
    }

    fn names(&mut self, sort: &'static str, names: Vec<String>) {
        if RELATIONS.contains(&sort) {
            self.facts.writes.extend(names.iter().cloned());
        }
        self.facts.object = Some(Object { sort, names });
    }

    fn not_there(&mut self) {
        self.takes_all(&["if", "not", "exists"]);
    }

    /// The rest of a definition: a query behind AS is read, where there can be one; of everything else, what is called and
    /// what is referred to.
    fn definition(&mut self, of_query: bool, alters: bool) -> Read {
        let mut depth = 0usize;
        while let Some(token) = self.peek() {
            let next = self.ahead(1);
            let opens = next.is_some_and(|next| next.is_mark("("));
            match token.kind {
                Kind::Mark if token.text == "(" => depth += 1,
                Kind::Mark if token.text == ")" => depth = depth.saturating_sub(1),
                Kind::Word
                    if token.text == "as" && depth == 0 && of_query && self.query_follows() =>
                {
                    self.skip();
                    self.query()?;
                    return self.behind_query();
                }
                Kind::Word if token.text == "execute" => {
                    return self.wrong("it executes what was prepared");
                }
                // A query that is not behind AS.
                Kind::Word
                    if ["select", "insert", "update", "delete", "merge"]
                        .contains(&token.text.as_ref())
                        && !self.is_action() =>
                {
                    self.facts.at_least(Effect::Danger);
                }
                Kind::Word if alters && depth == 0 && self.is_grave() => {
                    self.facts.at_least(Effect::Danger);
                }
                Kind::Word if token.text == "operator" && opens => {
                    self.facts.at_least(Effect::Danger)
                }
                Kind::Word if self.refers(depth)? => continue,
                Kind::Word | Kind::Name if opens => {
                    let known = token.kind == Kind::Word
                        && (BEFORE_BRACKETS.contains(&token.text.as_ref())
                            || TAKES_BRACKETS.contains(&token.text.as_ref())
                            || !words::names_functions(&token.text));
                    let dotted = self.behind_dot();
                    if !known || dotted.is_some() {
                        let mut parts: Vec<String> = dotted.into_iter().collect();
                        parts.push(token.text.clone().into_owned());
                        self.facts.calls(&Name(parts));
                    }
                }
                _ => {}
            }
            self.skip();
        }
        Ok(())
    }

    fn is_grave(&self) -> bool {
        let found = GRAVE.iter().find(|(word, _)| self.sees(word));
        found.is_some_and(|(_, behind)| {
            self.ahead(1).is_some_and(|next| behind.iter().any(|word| next.is_word(word)))
        })
    }

    fn query_follows(&self) -> bool {
        self.ahead(1).is_some_and(|token| {
            QUERY.iter().any(|word| token.is_word(word))
                || token.is_mark("(")
                    && self.ahead(2).is_some_and(|inner| {
                        inner.is_mark("(") || QUERY.iter().any(|word| inner.is_word(word))
                    })
        })
    }

    /// `ON DELETE CASCADE`, `FOR SELECT`: words of an event, not of a statement.
    fn is_action(&self) -> bool {
        self.at > 0 && self.tokens.get(self.at - 1).is_some_and(|before| before.is_word("on"))
    }

    /// The name before the dot that this one is behind.
    fn behind_dot(&self) -> Option<String> {
        let dot = self.at.checked_sub(1).and_then(|at| self.tokens.get(at))?;
        let before = self.at.checked_sub(2).and_then(|at| self.tokens.get(at))?;
        let named = matches!(before.kind, Kind::Name | Kind::Word);
        (dot.is_mark(".") && named).then(|| before.text.clone().into_owned())
    }

    /// Takes a relation that the definition refers to: `REFERENCES name (…)`, `PARTITION OF name`, `ATTACH PARTITION name`,
    /// `INHERITS (name, name)`, `INHERIT name`, `(LIKE name`, and `FROM name` of statistics.
    fn refers(&mut self, depth: usize) -> Read<bool> {
        let sort = self.facts.object.as_ref().map_or("", |object| object.sort);
        let first = self.at.checked_sub(1).and_then(|at| self.tokens.get(at));
        let element = depth == 1 && first.is_some_and(|t| t.is_mark("(") || t.is_mark(","));
        let opens = self.ahead(1).is_some_and(|next| next.is_mark("("));
        if self.sees("inherits") && depth == 0 && opens {
            self.skip();
            if self.ahead(1).is_some_and(|next| next.is_mark(")")) {
                return Ok(true);
            }
            let mut names = Vec::new();
            self.brackets(|reader| {
                reader.list(|reader| {
                    names.push(reader.relation_name()?.written());
                    Ok(())
                })
            })?;
            self.facts.reads.extend(names);
            return Ok(true);
        }
        let refers = self.sees_any(&["partition", "references"])
            || depth == 0 && self.sees("inherit")
            || element && self.sees("like")
            || depth == 0 && sort == "statistics" && self.sees("from");
        if !refers {
            return Ok(false);
        }
        self.skip();
        self.takes("of");
        if self.sees_name(words::names_columns) && !self.sees("by") {
            let name = self.relation_expression()?.written();
            self.facts.reads.insert(name);
        }
        Ok(true)
    }

    fn behind_query(&mut self) -> Read {
        if self.takes("with") {
            let known = self.takes("data")
                || self.takes_all(&["no", "data"])
                || self.takes_all(&["check", "option"])
                || self.takes_all(&["cascaded", "check", "option"])
                || self.takes_all(&["local", "check", "option"]);
            if !known {
                return self.wrong("a definition ends with something that is not known");
            }
        }
        Ok(())
    }
}
