//! Statements about the session: transactions, settings, what was prepared, cursors, messages.

use crate::Effect;
use crate::lexis::Kind;
use crate::reader::{Facts, Read, Reader};
use crate::words;

/// Settings that change how long things take, how much is said of them, and how dates look, and nothing else.
const HARMLESS: [&str; 24] = [
    "application_name",
    "bytea_output",
    "client_connection_check_interval",
    "client_min_messages",
    "datestyle",
    "deadlock_timeout",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "enable_seqscan",
    "escape_string_warning",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "lock_timeout",
    "statement_timeout",
    "timezone",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_timeout",
    "work_mem",
];

/// Settings that say how texts are cut into tokens, and in which encoding.
const OF_LEXIS: [&str; 3] = ["backslash_quote", "client_encoding", "standard_conforming_strings"];

const MODES: [&str; 15] = [
    "committed",
    "deferrable",
    "isolation",
    "level",
    "not",
    "only",
    "read",
    "repeatable",
    "serializable",
    "transaction",
    "uncommitted",
    "work",
    "write",
    "and",
    "chain",
];

impl Reader<'_, '_, '_> {
    /// BEGIN, COMMIT, ROLLBACK, SAVEPOINT and their kin.
    pub(crate) fn transaction(&mut self) -> Read<&'static str> {
        let first = self.peek().map(|token| token.text.as_ref()).unwrap_or_default();
        self.skip();
        match first {
            "savepoint" => {
                self.column_name()?;
            }
            "release" => {
                self.takes("savepoint");
                self.column_name()?;
            }
            "commit" | "rollback" if self.takes("prepared") => {
                self.facts.at_least(Effect::Write);
                self.needs_kind(Kind::Text)?;
            }
            "rollback" | "abort" => {
                self.takes_any(&["transaction", "work"]);
                if self.takes("to") {
                    self.takes("savepoint");
                    self.column_name()?;
                } else {
                    self.chain()?;
                }
            }
            "commit" | "end" => {
                self.takes_any(&["transaction", "work"]);
                self.chain()?;
            }
            "start" => {
                self.needs("transaction")?;
                self.modes();
            }
            _ => {
                self.takes_any(&["transaction", "work"]);
                self.modes();
            }
        }
        Ok("transaction")
    }

    fn chain(&mut self) -> Read {
        if self.takes("and") {
            self.takes("no");
            self.needs("chain")?;
        }
        Ok(())
    }

    fn modes(&mut self) {
        while self.takes_any(&MODES) || self.takes_mark(",") {}
    }

    pub(crate) fn set(&mut self) -> Read<&'static str> {
        self.needs("set")?;
        if self.takes_all(&["session", "characteristics", "as", "transaction"])
            || self.takes("transaction")
        {
            if self.takes("snapshot") {
                self.needs_kind(Kind::Text)?;
            }
            self.modes();
            return Ok("set");
        }
        if self.takes("constraints") {
            if !self.takes("all") {
                self.list(|reader| reader.relation_name().map(drop))?;
            }
            return match self.takes_any(&["deferred", "immediate"]) {
                true => Ok("set"),
                false => self.wrong("SET CONSTRAINTS says nothing that is known"),
            };
        }
        // `SET SESSION AUTHORIZATION` is no setting of the name `authorization`.
        if self.takes_all(&["session", "authorization"])
            || self.takes_all(&["local", "session", "authorization"])
        {
            return self.identity();
        }
        self.takes_any(&["local", "session"]);
        if self.takes_all(&["session", "authorization"]) || self.takes("role") {
            return self.identity();
        }
        if self.takes_all(&["time", "zone"]) {
            if self.takes("interval") {
                if self.sees_mark("(") {
                    self.brackets(|reader| reader.needs_kind(Kind::Number).map(drop))?;
                }
                self.needs_kind(Kind::Text)?;
                while self.takes_any(&["hour", "minute", "to"]) {}
                return Ok("set");
            }
            self.setting_value()?;
            return Ok("set");
        }
        if self.takes("names") {
            let utf8 = self.sees_utf8();
            if !utf8 {
                return self.wrong("it changes the encoding that texts come in");
            }
            self.skip();
            return Ok("set");
        }
        if self.takes("schema") {
            self.facts.at_least(Effect::Danger);
            self.needs_kind(Kind::Text)?;
            return Ok("set");
        }
        let name = self.qualified(words::names_columns)?.0.join(".").to_ascii_lowercase();
        if self.takes_all(&["from", "current"]) {
            self.setting(&name)?;
            return Ok("set");
        }
        if !self.takes("to") {
            self.needs_mark("=")?;
        }
        if OF_LEXIS.contains(&name.as_str()) {
            let as_it_is = match name.as_str() {
                "client_encoding" => self.sees_utf8(),
                "standard_conforming_strings" => self.sees_any(&["on", "true"]),
                _ => false,
            };
            if !as_it_is || self.ahead(1).is_some() {
                return self.wrong("it changes how the server cuts texts into tokens");
            }
            self.skip();
            return Ok("set");
        }
        self.setting(&name)?;
        self.list(Self::setting_value)?;
        Ok("set")
    }

    fn identity(&mut self) -> Read<&'static str> {
        self.facts.at_least(Effect::Danger);
        self.takes("to");
        self.takes_mark("=");
        if self.sees_kind(Kind::Text) || self.sees_any(&["default", "none"]) {
            self.skip();
        } else {
            self.column_name()?;
        }
        Ok("set")
    }

    fn sees_utf8(&self) -> bool {
        self.peek().is_some_and(|token| {
            let name = token.text.to_ascii_lowercase();
            matches!(token.kind, Kind::Text | Kind::Word)
                && token.plain
                && ["utf8", "utf-8", "unicode"].contains(&name.as_str())
        })
    }

    fn setting(&mut self, name: &str) -> Read {
        if OF_LEXIS.contains(&name) {
            return self.wrong("it changes how the server cuts texts into tokens");
        }
        if !HARMLESS.contains(&name) {
            self.facts.at_least(Effect::Danger);
        }
        Ok(())
    }

    fn setting_value(&mut self) -> Read {
        let signed = self.takes_mark("-") || self.takes_mark("+");
        let one = self.peek().is_some_and(|token| match token.kind {
            Kind::Number => true,
            Kind::Name | Kind::Text | Kind::Word => !signed,
            _ => false,
        });
        if !one {
            return self.wrong("a setting has a value that is not known");
        }
        self.skip();
        Ok(())
    }

    pub(crate) fn reset(&mut self) -> Read<&'static str> {
        self.needs("reset")?;
        if self.takes("all") || self.takes_all(&["time", "zone"]) {
            return Ok("set");
        }
        if self.takes_all(&["transaction", "isolation", "level"]) {
            return Ok("set");
        }
        if self.takes_all(&["session", "authorization"]) || self.takes("role") {
            self.facts.at_least(Effect::Danger);
            return Ok("set");
        }
        let name = self.qualified(words::names_columns)?.0.join(".").to_ascii_lowercase();
        self.setting(&name)?;
        Ok("set")
    }

    pub(crate) fn show(&mut self) -> Read<&'static str> {
        self.needs("show")?;
        let known = self.takes("all")
            || self.takes_all(&["time", "zone"])
            || self.takes_all(&["transaction", "isolation", "level"])
            || self.takes_all(&["session", "authorization"]);
        if !known {
            self.qualified(words::names_columns)?;
        }
        Ok("show")
    }

    pub(crate) fn discard(&mut self) -> Read<&'static str> {
        self.needs("discard")?;
        match self.takes_any(&["all", "plans", "sequences", "temp", "temporary"]) {
            true => Ok("discard"),
            false => self.wrong("DISCARD names nothing that is known"),
        }
    }

    /// PREPARE counts as what it prepares.
    pub(crate) fn prepare(&mut self) -> Read<&'static str> {
        self.needs("prepare")?;
        if self.takes("transaction") {
            self.facts.at_least(Effect::Write);
            self.needs_kind(Kind::Text)?;
            return Ok("transaction");
        }
        let name = self.column_name()?;
        if self.sees_mark("(") {
            self.brackets(|reader| reader.list(Self::type_name))?;
        }
        self.needs("as")?;
        let inner = self.preparable()?;
        self.facts.inner = Some(inner);
        self.prepared.push((name, self.facts.clone()));
        Ok("prepare")
    }

    /// EXECUTE counts as what was prepared, which has to be in the same text.
    pub(crate) fn execute(&mut self) -> Read<&'static str> {
        self.needs("execute")?;
        let from = self.at;
        let name = self.column_name()?;
        if self.sees_mark("(") {
            self.brackets(Self::values)?;
        }
        let mut named = self.prepared.iter().filter(|(known, _)| *known == name);
        let Some((_, prepared)) = named.next() else {
            self.at = from;
            return self.wrong("it executes what was not prepared in the same text");
        };
        if named.next().is_some() {
            self.at = from;
            return self.wrong("it executes a name that was prepared twice");
        }
        let Facts {
            effect,
            called,
            reads,
            writes,
            functions,
            changes_where,
            query_where,
            inner,
            ..
        } = prepared.clone();
        self.facts.at_least(effect);
        self.facts.called = self.facts.called.max(called);
        self.facts.reads.extend(reads);
        self.facts.writes.extend(writes);
        self.facts.functions.extend(functions);
        self.facts.changes_where.extend(changes_where);
        self.facts.query_where = query_where;
        self.facts.inner = inner;
        Ok("execute")
    }

    pub(crate) fn deallocate(&mut self) -> Read<&'static str> {
        self.needs("deallocate")?;
        self.takes("prepare");
        if !self.takes("all") {
            let name = self.column_name()?;
            self.prepared.retain(|(known, _)| *known != name);
        } else {
            self.prepared.clear();
        }
        Ok("deallocate")
    }

    /// DECLARE counts as its query.
    pub(crate) fn declare(&mut self) -> Read<&'static str> {
        self.needs("declare")?;
        self.column_name()?;
        while self.takes_any(&["asensitive", "binary", "insensitive", "no", "scroll"]) {}
        self.needs("cursor")?;
        if self.takes_any(&["with", "without"]) {
            self.needs("hold")?;
        }
        self.needs("for")?;
        self.facts.inner = Some(self.preparable()?);
        Ok("declare")
    }

    /// FETCH and MOVE.
    pub(crate) fn fetch(&mut self) -> Read<&'static str> {
        self.skip();
        self.facts.at_least(Effect::Read);
        const WAYS: [&str; 9] = [
            "absolute", "all", "backward", "first", "forward", "last", "next", "prior", "relative",
        ];
        while self.takes_any(&WAYS) || self.takes_mark("-") || self.takes_mark("+") {}
        if self.sees_kind(Kind::Number) {
            self.skip();
        }
        self.takes("all");
        if !self.takes_any(&["from", "in"]) && self.peek().is_none() {
            // A cursor that is called as one of the ways.
            self.at -= 1;
        }
        self.column_name()?;
        Ok("fetch")
    }

    pub(crate) fn close(&mut self) -> Read<&'static str> {
        self.needs("close")?;
        if !self.takes("all") {
            self.column_name()?;
        }
        Ok("close")
    }

    /// LISTEN and UNLISTEN.
    pub(crate) fn listen(&mut self) -> Read<&'static str> {
        self.skip();
        self.facts.at_least(Effect::Read);
        if !self.takes_mark("*") {
            self.column_name()?;
        }
        Ok("listen")
    }

    pub(crate) fn notify(&mut self) -> Read<&'static str> {
        self.needs("notify")?;
        self.facts.at_least(Effect::Write);
        self.column_name()?;
        if self.takes_mark(",") {
            self.needs_kind(Kind::Text)?;
        }
        Ok("notify")
    }
}
