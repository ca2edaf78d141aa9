//! Queries: where they read from, what they lock, and what WITH puts before them.

use crate::Effect;
use crate::expression::{QUERY, QUERY_GOES_ON};
use crate::lexis::Kind;
use crate::names::Name;
use crate::reader::{Read, Reader};
use crate::words;

const JOINS: [&str; 7] = ["cross", "full", "inner", "join", "left", "natural", "right"];

impl Reader<'_, '_, '_> {
    /// SELECT, VALUES, TABLE, INSERT, UPDATE, DELETE or MERGE, with WITH before it or without. Its verb.
    pub(crate) fn preparable(&mut self) -> Read<&'static str> {
        self.nested(|reader| {
            let visible = reader.queries.len();
            reader.with()?;
            let kind = match reader.peek().map(|token| (token.kind, token.text.as_ref())) {
                Some((Kind::Word, "insert")) => reader.insert().map(|()| "insert"),
                Some((Kind::Word, "update")) => reader.update().map(|()| "update"),
                Some((Kind::Word, "delete")) => reader.delete().map(|()| "delete"),
                Some((Kind::Word, "merge")) => reader.merge().map(|()| "merge"),
                _ => reader.query_behind_with().map(|()| "select"),
            };
            reader.queries.truncate(visible);
            kind
        })
    }

    /// A query, with WITH before it or without.
    pub(crate) fn query(&mut self) -> Read {
        self.nested(|reader| {
            let visible = reader.queries.len();
            reader.with()?;
            let read = reader.query_behind_with();
            reader.queries.truncate(visible);
            read
        })
    }

    fn query_behind_with(&mut self) -> Read {
        self.facts.at_least(Effect::Read);
        self.query_part()?;
        self.query_goes_on()
    }

    /// What is behind the first part: other parts, order, limits and locks.
    pub(crate) fn query_goes_on(&mut self) -> Read {
        while self.takes_any(&["except", "intersect", "union"]) {
            self.takes_any(&["all", "distinct"]);
            self.query_part()?;
        }
        loop {
            if self.takes_all(&["order", "by"]) {
                self.sorting()?;
            } else if self.takes("limit") {
                if !self.takes("all") {
                    self.value()?;
                }
            } else if self.takes("offset") {
                self.value()?;
                self.takes_any(&["row", "rows"]);
            } else if self.takes("fetch") {
                self.fetch_first()?;
            } else if self.takes("for") {
                self.locking()?;
            } else {
                return Ok(());
            }
        }
    }

    fn fetch_first(&mut self) -> Read {
        if !self.takes_any(&["first", "next"]) {
            return self.wrong("FETCH is neither FIRST nor NEXT");
        }
        if !self.sees_any(&["row", "rows"]) {
            self.value()?;
        }
        if !self.takes_any(&["row", "rows"]) {
            return self.wrong("FETCH has no ROWS");
        }
        match self.takes("only") || self.takes_all(&["with", "ties"]) {
            true => Ok(()),
            false => self.wrong("FETCH is neither ONLY nor WITH TIES"),
        }
    }

    fn locking(&mut self) -> Read {
        if self.takes_all(&["read", "only"]) {
            return Ok(());
        }
        let known = self.takes_any(&["share", "update"])
            || self.takes_all(&["key", "share"])
            || self.takes_all(&["no", "key", "update"]);
        if !known {
            return self.wrong("FOR has a lock behind it that is not known");
        }
        self.facts.at_least(Effect::Write);
        if self.takes("of") {
            self.list(|reader| reader.relation_name().map(drop))?;
        }
        if !self.takes("nowait") {
            self.takes_all(&["skip", "locked"]);
        }
        Ok(())
    }

    fn query_part(&mut self) -> Read {
        if self.sees_mark("(") {
            return self.subquery();
        }
        if self.takes("values") {
            return self.list(|reader| reader.brackets(Self::values));
        }
        if self.takes("table") {
            return self.relation();
        }
        self.needs("select")?;
        if self.takes("distinct") {
            if self.takes("on") {
                self.brackets(Self::values)?;
            }
        } else {
            self.takes("all");
        }
        if !self.at_end_of_targets() {
            self.targets()?;
        }
        if self.takes("into") {
            self.into()?;
        }
        if self.takes("from") {
            self.list(Self::from)?;
        }
        let outermost = self.depth == 1;
        if self.takes("where") {
            self.facts.query_where |= outermost;
            self.value()?;
        }
        if self.takes_all(&["group", "by"]) {
            self.takes_any(&["all", "distinct"]);
            self.list(Self::grouping)?;
        }
        if self.takes("having") {
            self.value()?;
        }
        if self.takes("window") {
            self.list(|reader| {
                reader.column_name()?;
                reader.needs("as")?;
                reader.window()
            })?;
        }
        Ok(())
    }

    fn at_end_of_targets(&self) -> bool {
        self.peek().is_none()
            || self.sees_mark(")")
            || self
                .sees_any(&["from", "into", "where", "group", "having", "window", "order", "limit"])
            || self.sees_any(&["offset", "fetch", "for", "union", "intersect", "except"])
    }

    /// `a, b AS c, d e, *`
    pub(crate) fn targets(&mut self) -> Read {
        self.list(|reader| {
            if reader.takes_mark("*") {
                return Ok(());
            }
            reader.value()?;
            if reader.takes("as") {
                reader.label()?;
            } else if reader.sees_name(words::labels_barely) {
                reader.skip();
            }
            Ok(())
        })
    }

    /// SELECT … INTO makes a table.
    fn into(&mut self) -> Read {
        self.takes_any(&["global", "local"]);
        self.takes_any(&["temp", "temporary", "unlogged"]);
        self.takes("table");
        let name = self.relation_name()?;
        self.facts.at_least(Effect::Schema);
        self.facts.writes.insert(name.written());
        Ok(())
    }

    fn grouping(&mut self) -> Read {
        let opens = self.ahead(1).is_some_and(|next| next.is_mark("("));
        if self.takes_all(&["grouping", "sets"]) {
            return self.brackets(|reader| reader.list(Self::grouping));
        }
        if opens && self.takes_any(&["cube", "rollup"]) {
            return self.brackets(Self::values);
        }
        if self.sees_mark("(") && self.ahead(1).is_some_and(|next| next.is_mark(")")) {
            self.at += 2;
            return Ok(());
        }
        self.value()
    }

    /// One item of FROM, with all that is joined to it.
    pub(crate) fn from(&mut self) -> Read {
        self.nested(|reader| {
            reader.source()?;
            reader.joins()
        })
    }

    fn joins(&mut self) -> Read {
        // How many joins still lack their condition.
        let mut open = 0usize;
        loop {
            if self.sees_any(&JOINS) {
                let unconditional = self.sees_any(&["cross", "natural"]);
                while self
                    .takes_any(&["cross", "full", "inner", "left", "natural", "outer", "right"])
                {
                }
                self.needs("join")?;
                self.source()?;
                open += usize::from(!unconditional);
            } else if open > 0 && self.takes("on") {
                open -= 1;
                self.value()?;
            } else if open > 0 && self.takes("using") {
                open -= 1;
                self.columns()?;
                if self.takes("as") {
                    self.column_name()?;
                }
            } else {
                return Ok(());
            }
        }
    }

    /// What stands alone in FROM: a relation, a function, a query, or joined ones in brackets.
    fn source(&mut self) -> Read {
        self.takes("lateral");
        if self.sees_mark("(") {
            self.source_in_brackets()?;
            return self.alias();
        }
        if self.takes_all(&["rows", "from"]) {
            self.brackets(|reader| {
                reader.list(|reader| {
                    reader.function()?;
                    match reader.takes("as") {
                        true => reader.column_definitions(),
                        false => Ok(()),
                    }
                })
            })?;
            self.takes_all(&["with", "ordinality"]);
            return self.alias();
        }
        if self.is_function() {
            self.function()?;
            self.takes_all(&["with", "ordinality"]);
            return self.alias();
        }
        self.relation()?;
        self.alias()?;
        if self.takes("tablesample") {
            let method = self.qualified(words::names_functions)?;
            if !matches!(method.0.as_slice(), [name] if ["bernoulli", "system"].contains(&name.as_str()))
            {
                self.facts.calls(&method);
            }
            self.brackets(Self::values)?;
            if self.takes("repeatable") {
                self.brackets(Self::value)?;
            }
        }
        Ok(())
    }

    /// A query, or joined relations; whether it is a query.
    fn source_in_brackets(&mut self) -> Read<bool> {
        self.brackets(|reader| {
            if reader.sees_any(&QUERY) {
                return reader.query().map(|()| true);
            }
            if reader.sees_mark("(") {
                let query = reader.source_in_brackets()?;
                if query && reader.sees_mark(")") {
                    return Ok(true);
                }
                if query && reader.sees_any(&QUERY_GOES_ON) {
                    return reader.query_goes_on().map(|()| true);
                }
                reader.alias()?;
            } else {
                reader.source()?;
            }
            reader.joins().map(|()| false)
        })
    }

    /// Whether a name with brackets behind it is next.
    fn is_function(&self) -> bool {
        let mut by = 0;
        loop {
            let named = self.ahead(by).is_some_and(|t| matches!(t.kind, Kind::Word | Kind::Name));
            if !named {
                return false;
            }
            match self.ahead(by + 1) {
                Some(next) if next.is_mark("(") => return !self.sees("only"),
                Some(next) if next.is_mark(".") => by += 2,
                _ => return false,
            }
        }
    }

    fn function(&mut self) -> Read {
        let single = self.ahead(1).is_some_and(|next| next.is_mark("("));
        let name = match single {
            true => Name(vec![self.name_if(words::names_functions)?]),
            false => self.relation_name()?,
        };
        self.call(name)
    }

    /// `[AS] name [(columns)]`, and for functions what their columns are.
    fn alias(&mut self) -> Read {
        let marked = self.takes("as");
        if marked && self.sees_mark("(") {
            return self.column_definitions();
        }
        if !self.sees_name(words::names_columns) {
            return if marked { self.wrong("AS names nothing") } else { Ok(()) };
        }
        self.skip();
        if self.sees_mark("(") {
            let defined = self.ahead(2).is_some_and(|t| !t.is_mark(",") && !t.is_mark(")"));
            return if defined { self.column_definitions() } else { self.columns() };
        }
        Ok(())
    }

    /// `(name type COLLATE "C", …)`
    fn column_definitions(&mut self) -> Read {
        self.brackets(|reader| {
            reader.list(|reader| {
                reader.column_name()?;
                reader.type_name()?;
                if reader.takes("collate") {
                    reader.qualified(words::names_columns)?;
                }
                Ok(())
            })
        })
    }

    /// A relation that is read: `[ONLY] name [*]`. A name that WITH gave to a query is none.
    fn relation(&mut self) -> Read {
        let name = self.relation_expression()?;
        if !matches!(name.0.as_slice(), [name] if self.queries.contains(name)) {
            self.facts.reads.insert(name.written());
        }
        Ok(())
    }

    /// `[ONLY] name [*]` or `ONLY (name)`.
    pub(crate) fn relation_expression(&mut self) -> Read<Name> {
        if self.takes("only") && self.sees_mark("(") {
            return self.brackets(Self::relation_name);
        }
        let name = self.relation_name()?;
        self.takes_mark("*");
        Ok(name)
    }

    fn with(&mut self) -> Read {
        if !self.takes("with") {
            return Ok(());
        }
        let recursive = self.takes("recursive");
        self.list(|reader| {
            let name = reader.column_name()?;
            if reader.sees_mark("(") {
                reader.columns()?;
            }
            reader.needs("as")?;
            if !reader.takes("materialized") {
                reader.takes_all(&["not", "materialized"]);
            }
            // Only a recursive query sees itself: in any other its name is a relation's.
            if recursive {
                reader.queries.push(name.clone());
            }
            reader.brackets(|reader| reader.preparable().map(drop))?;
            if !recursive {
                reader.queries.push(name);
            }
            reader.search_and_cycle()
        })
    }

    fn search_and_cycle(&mut self) -> Read {
        if self.takes("search") {
            if !self.takes_any(&["breadth", "depth"]) {
                return self.wrong("SEARCH is neither BREADTH nor DEPTH");
            }
            self.needs("first")?;
            self.needs("by")?;
            self.list(|reader| reader.column_name().map(drop))?;
            self.needs("set")?;
            self.column_name()?;
        }
        if self.takes("cycle") {
            self.list(|reader| reader.column_name().map(drop))?;
            self.needs("set")?;
            self.column_name()?;
            if self.takes("to") {
                self.value()?;
                self.needs("default")?;
                self.value()?;
            }
            self.needs("using")?;
            self.column_name()?;
        }
        Ok(())
    }
}
