//! Statements that carry data or other statements: COPY, EXPLAIN, LOCK, TRUNCATE, and those that run code.

use crate::Effect;
use crate::Object;
use crate::expression::QUERY;
use crate::lexis::Kind;
use crate::reader::{Read, Reader};

impl Reader<'_, '_, '_> {
    /// What a statement begins with says what it is.
    pub(crate) fn statement(&mut self) -> Read<&'static str> {
        let first = self.peek().filter(|token| token.kind == Kind::Word);
        match first.map(|token| token.text.as_ref()) {
            Some(
                "abort" | "begin" | "commit" | "end" | "release" | "rollback" | "savepoint"
                | "start",
            ) => self.transaction(),
            Some("alter") => self.alter(),
            Some("analyse" | "analyze") => self.maintain("analyze"),
            Some("call") => self.call_procedure(),
            Some("checkpoint") => self.whatever("checkpoint", Effect::Schema),
            Some("close") => self.close(),
            Some("cluster") => self.maintain("cluster"),
            Some("comment") => self.comment(),
            Some("copy") => self.copy(),
            Some("create") => self.create(),
            Some("deallocate") => self.deallocate(),
            Some("declare") => self.declare(),
            Some("discard") => self.discard(),
            Some("do") => self.whatever("do", Effect::Danger),
            Some("drop") => self.drop(),
            Some("execute") => self.execute(),
            Some("explain") => self.explain(),
            Some("fetch" | "move") => self.fetch(),
            Some("grant") => self.whatever("grant", Effect::Danger),
            Some("import") => self.whatever("import", Effect::Danger),
            Some("listen" | "unlisten") => self.listen(),
            Some("load") => self.whatever("load", Effect::Danger),
            Some("lock") => self.lock(),
            Some("notify") => self.notify(),
            Some("prepare") => self.prepare(),
            Some("reassign") => self.whatever("reassign", Effect::Danger),
            Some("refresh") => self.refresh(),
            Some("reindex") => self.maintain("reindex"),
            Some("reset") => self.reset(),
            Some("revoke") => self.whatever("revoke", Effect::Danger),
            Some("security") => self.whatever("security", Effect::Danger),
            Some("set") => self.set(),
            Some("show") => self.show(),
            Some("truncate") => self.truncate(),
            Some("vacuum") => self.maintain("vacuum"),
            Some(
                "delete" | "insert" | "merge" | "select" | "table" | "update" | "values" | "with",
            ) => self.preparable(),
            None if self.sees_mark("(") => self.preparable(),
            _ => self.wrong("it begins with something that begins no statement that is known"),
        }
    }

    /// All that is left, whatever it says: the effect covers it.
    pub(crate) fn rest(&mut self) {
        self.at = self.tokens.len();
    }

    fn whatever(&mut self, kind: &'static str, effect: Effect) -> Read<&'static str> {
        self.facts.at_least(effect);
        self.rest();
        Ok(kind)
    }

    fn call_procedure(&mut self) -> Read<&'static str> {
        self.needs("call")?;
        self.facts.at_least(Effect::Danger);
        let name = self.relation_name()?;
        self.call(name)?;
        Ok("call")
    }

    /// EXPLAIN ANALYZE counts as what it runs. EXPLAIN alone plans, for which the server may call functions: so it counts as
    /// reading, and as what it explains where that calls what is not known.
    fn explain(&mut self) -> Read<&'static str> {
        self.needs("explain")?;
        let mut runs = false;
        let query = self.ahead(1).is_some_and(|token| {
            token.is_mark("(") || QUERY.iter().any(|word| token.is_word(word))
        });
        if self.sees_mark("(") && !query {
            runs = self.brackets(|reader| {
                let mut runs = false;
                reader.list(|reader| {
                    let analyze = reader.takes_any(&["analyse", "analyze"]);
                    if !analyze {
                        reader.label()?;
                    }
                    let off = reader.sees_any(&["false", "off"])
                        || reader.peek().is_some_and(|token| token.text == "0");
                    if !reader.sees_mark(",") && !reader.sees_mark(")") {
                        reader.setting_word()?;
                    }
                    runs |= analyze && !off;
                    Ok(())
                })?;
                Ok(runs)
            })?;
        } else {
            runs |= self.takes_any(&["analyse", "analyze"]);
            self.takes("verbose");
        }
        let kind = if self.sees("execute") {
            self.execute()?
        } else if self.sees("declare") {
            self.declare()?
        } else if self.sees("create") {
            self.create()?
        } else if self.sees("refresh") {
            self.refresh()?
        } else {
            self.preparable()?
        };
        if !runs {
            let known = self.facts.called < Effect::Danger;
            self.facts.effect = if known { Effect::Read } else { Effect::Danger };
            let writes = std::mem::take(&mut self.facts.writes);
            self.facts.reads.extend(writes);
            self.facts.changes_where.clear();
        }
        self.facts.inner = Some(kind);
        Ok("explain")
    }

    fn setting_word(&mut self) -> Read {
        match self.peek() {
            Some(token)
                if matches!(token.kind, Kind::Word | Kind::Number | Kind::Text | Kind::Name) =>
            {
                self.skip();
                Ok(())
            }
            _ => self.wrong("an option has a value that is not known"),
        }
    }

    /// COPY reads to the client, writes from it, and is dangerous with a file or a program of the server.
    fn copy(&mut self) -> Read<&'static str> {
        self.needs("copy")?;
        let from;
        if self.sees_mark("(") {
            let inner = self.brackets(Self::preparable)?;
            self.facts.inner = Some(inner);
            self.needs("to")?;
            from = false;
        } else {
            self.takes("binary");
            let name = self.relation_name()?.written();
            if self.sees_mark("(") {
                self.columns()?;
            }
            from = self.takes("from");
            if from {
                self.facts.at_least(Effect::Write);
                self.facts.writes.insert(name);
            } else {
                self.needs("to")?;
                self.facts.at_least(Effect::Read);
                self.facts.reads.insert(name);
            }
        }
        if self.takes("program") {
            self.facts.at_least(Effect::Danger);
            self.needs_kind(Kind::Text)?;
        } else if self.sees_kind(Kind::Text) {
            self.facts.at_least(Effect::Danger);
            self.skip();
        } else if !self.takes_any(&["stdin", "stdout"]) {
            return self.wrong("COPY names neither its client nor a file");
        }
        // Options: words, texts and signs. None of them calls anything; a condition can.
        while let Some(token) = self.peek() {
            if token.is_word("where") {
                if !from {
                    return self.wrong("COPY TO has a condition");
                }
                self.skip();
                return self.value().map(|()| "copy");
            }
            let option = matches!(token.kind, Kind::Word | Kind::Text | Kind::Name | Kind::Number)
                || token.is_mark("(")
                || token.is_mark(")")
                || token.is_mark(",")
                || token.is_mark("*");
            if !option {
                return self.wrong("COPY has an option that is not known");
            }
            self.skip();
        }
        Ok("copy")
    }

    fn relations(&mut self) -> Read<Vec<String>> {
        let mut names = Vec::new();
        self.list(|reader| {
            names.push(reader.relation_expression()?.written());
            Ok(())
        })?;
        Ok(names)
    }

    fn lock(&mut self) -> Read<&'static str> {
        self.needs("lock")?;
        self.takes("table");
        self.facts.at_least(Effect::Write);
        let names = self.relations()?;
        self.facts.writes.extend(names);
        if self.takes("in") {
            while self.takes_any(&["access", "exclusive", "row", "share", "update"]) {}
            self.needs("mode")?;
        }
        self.takes("nowait");
        Ok("lock")
    }

    fn truncate(&mut self) -> Read<&'static str> {
        self.needs("truncate")?;
        self.takes("table");
        self.facts.at_least(Effect::Schema);
        let names = self.relations()?;
        self.facts.object = Some(Object { sort: "table", names: names.clone() });
        self.facts.writes.extend(names);
        if self.takes_any(&["continue", "restart"]) {
            self.needs("identity")?;
        }
        self.takes_any(&["cascade", "restrict"]);
        Ok("truncate")
    }

    fn refresh(&mut self) -> Read<&'static str> {
        self.needs("refresh")?;
        self.needs("materialized")?;
        self.needs("view")?;
        self.takes("concurrently");
        self.facts.at_least(Effect::Schema);
        let name = self.relation_name()?.written();
        self.facts.object = Some(Object { sort: "materialized view", names: vec![name.clone()] });
        self.facts.writes.insert(name);
        if self.takes("with") {
            self.takes("no");
            self.needs("data")?;
        }
        Ok("refresh")
    }

    /// VACUUM, ANALYZE, REINDEX and CLUSTER: what they name is a relation, or all there are.
    fn maintain(&mut self, kind: &'static str) -> Read<&'static str> {
        self.skip();
        self.facts.at_least(Effect::Schema);
        if self.sees_mark("(") {
            self.brackets(|reader| {
                while reader.peek().is_some() && !reader.sees_mark(")") {
                    if reader.sees_mark("(") {
                        return reader.wrong("an option has a value that is not known");
                    }
                    reader.skip();
                }
                Ok(())
            })?;
        }
        while self.takes_any(&["analyse", "analyze", "freeze", "full", "verbose"]) {}
        if kind == "reindex" {
            let relation = self.takes_any(&["index", "table"]);
            let whole = !relation && self.takes_any(&["database", "schema", "system"]);
            if !relation && !whole {
                return self.wrong("REINDEX names nothing that is known");
            }
            self.takes("concurrently");
            if whole {
                if self.peek().is_some() {
                    self.column_name()?;
                }
                return Ok(kind);
            }
        }
        if self.peek().is_none() {
            return Ok(kind);
        }
        self.list(|reader| {
            let name = reader.relation_expression()?.written();
            reader.facts.writes.insert(name);
            match reader.sees_mark("(") {
                true => reader.columns(),
                false => Ok(()),
            }
        })?;
        // `CLUSTER table USING index`, and as it was written once: `CLUSTER index ON table`.
        if kind == "cluster" && self.takes("using") {
            self.column_name()?;
        } else if kind == "cluster" && self.takes("on") {
            let name = self.relation_name()?.written();
            self.facts.writes.insert(name);
        }
        Ok(kind)
    }
}
