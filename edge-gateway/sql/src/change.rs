//! INSERT, UPDATE, DELETE and MERGE. WITH has been read.

use crate::Effect;
use crate::expression::QUERY;
use crate::names::Name;
use crate::reader::{Read, Reader};
use crate::words;

impl Reader<'_, '_, '_> {
    fn changes(&mut self, name: &Name) {
        self.facts.at_least(Effect::Write);
        self.facts.writes.insert(name.written());
    }

    pub(crate) fn insert(&mut self) -> Read {
        self.needs("insert")?;
        self.needs("into")?;
        let name = self.relation_name()?;
        self.changes(&name);
        if self.takes("as") {
            self.column_name()?;
        }
        let query = self
            .ahead(1)
            .is_some_and(|t| t.is_mark("(") || QUERY.iter().any(|word| t.is_word(word)));
        if self.sees_mark("(") && !query {
            self.targets_of_change()?;
        }
        if self.takes("overriding") {
            if !self.takes_any(&["system", "user"]) {
                return self.wrong("OVERRIDING is neither SYSTEM nor USER");
            }
            self.needs("value")?;
        }
        if !self.takes_all(&["default", "values"]) {
            self.query()?;
        }
        if self.takes_all(&["on", "conflict"]) {
            self.conflict()?;
        }
        self.returning()
    }

    fn conflict(&mut self) -> Read {
        if self.takes_all(&["on", "constraint"]) {
            self.column_name()?;
        } else if self.sees_mark("(") {
            self.brackets(|reader| {
                reader.list(|reader| {
                    reader.value()?;
                    if reader.sees_name(words::names_columns) {
                        reader.qualified(words::names_columns)?;
                    }
                    Ok(())
                })
            })?;
            if self.takes("where") {
                self.value()?;
            }
        }
        self.needs("do")?;
        if self.takes("nothing") {
            return Ok(());
        }
        if self.takes("select") {
            // PostgreSQL 19: DO SELECT [FOR UPDATE].
            return self.wrong("ON CONFLICT DO SELECT is not known");
        }
        self.needs("update")?;
        self.needs("set")?;
        self.assignments()?;
        if self.takes("where") {
            self.value()?;
        }
        Ok(())
    }

    pub(crate) fn update(&mut self) -> Read {
        self.needs("update")?;
        let name = self.relation_expression()?;
        self.changes(&name);
        self.alias_of_changed()?;
        self.needs("set")?;
        self.assignments()?;
        if self.takes("from") {
            self.list(Self::from)?;
        }
        self.which()?;
        self.returning()
    }

    pub(crate) fn delete(&mut self) -> Read {
        self.needs("delete")?;
        self.needs("from")?;
        let name = self.relation_expression()?;
        self.changes(&name);
        self.alias_of_changed()?;
        if self.takes("using") {
            self.list(Self::from)?;
        }
        self.which()?;
        self.returning()
    }

    pub(crate) fn merge(&mut self) -> Read {
        self.needs("merge")?;
        self.needs("into")?;
        let name = self.relation_expression()?;
        self.changes(&name);
        self.alias_of_changed()?;
        self.needs("using")?;
        self.from()?;
        self.needs("on")?;
        self.value()?;
        if !self.sees("when") {
            return self.wrong("MERGE has no WHEN");
        }
        while self.takes("when") {
            let not = self.takes("not");
            self.needs("matched")?;
            if not && self.takes("by") && !self.takes_any(&["source", "target"]) {
                return self.wrong("MERGE matches by something that is not known");
            }
            if self.takes("and") {
                self.value()?;
            }
            self.needs("then")?;
            self.merge_action()?;
        }
        self.returning()
    }

    fn merge_action(&mut self) -> Read {
        if self.takes_all(&["do", "nothing"]) || self.takes("delete") {
            return Ok(());
        }
        if self.takes_all(&["update", "set"]) {
            return self.assignments();
        }
        self.needs("insert")?;
        if self.sees_mark("(") {
            self.targets_of_change()?;
        }
        if self.takes("overriding") {
            if !self.takes_any(&["system", "user"]) {
                return self.wrong("OVERRIDING is neither SYSTEM nor USER");
            }
            self.needs("value")?;
        }
        if self.takes_all(&["default", "values"]) {
            return Ok(());
        }
        self.needs("values")?;
        self.brackets(Self::values)
    }

    fn alias_of_changed(&mut self) -> Read {
        if self.takes("as") {
            return self.column_name().map(drop);
        }
        if self.sees_name(words::names_columns) && !self.sees("set") {
            self.skip();
        }
        Ok(())
    }

    /// `(a, b.c, d[1])`
    fn targets_of_change(&mut self) -> Read {
        self.brackets(|reader| reader.list(Self::target_of_change))
    }

    fn target_of_change(&mut self) -> Read {
        self.column_name()?;
        self.indirection()
    }

    /// `a = 1, (b, c) = (SELECT …)`
    fn assignments(&mut self) -> Read {
        self.list(|reader| {
            if reader.sees_mark("(") {
                reader.targets_of_change()?;
            } else {
                reader.target_of_change()?;
            }
            reader.needs_mark("=")?;
            reader.value()
        })
    }

    /// WHERE of an UPDATE or a DELETE.
    fn which(&mut self) -> Read {
        let there = self.takes("where");
        self.facts.changes_where.push(there);
        if there && self.takes_all(&["current", "of"]) {
            self.column_name()?;
            return Ok(());
        }
        if there { self.value() } else { Ok(()) }
    }

    fn returning(&mut self) -> Read {
        if !self.takes("returning") {
            return Ok(());
        }
        if self.sees("with") {
            self.skip();
            self.brackets(|reader| {
                reader.list(|reader| {
                    if !reader.takes_any(&["new", "old"]) {
                        return reader.wrong("RETURNING WITH has something that is not known");
                    }
                    reader.needs("as")?;
                    reader.column_name().map(drop)
                })
            })?;
        }
        self.targets()
    }
}
