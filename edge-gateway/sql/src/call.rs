//! Calls of functions, and names that are columns if nothing is called: with what stands in a call's brackets and behind them.

use crate::lexis::Kind;
use crate::names::Name;
use crate::reader::{Read, Reader};
use crate::words;

impl Reader<'_, '_, '_> {
    /// A column, a call, or a constant of a type that the grammar does not know.
    pub(crate) fn named(&mut self) -> Read {
        let from = self.at;
        let mut parts = vec![self.label()?];
        let called = |reader: &Self| {
            let first = reader.tokens.get(from);
            first.is_some_and(|t| t.kind == Kind::Name || words::names_functions(&t.text))
        };
        let mut dotted = false;
        loop {
            if self.sees_mark("(") {
                // A call's first part may be no column's name, and the other way round.
                let fits = match dotted {
                    true => self.names_column(from),
                    false => called(self),
                };
                if !fits {
                    return self.wrong("a reserved word is called");
                }
                return self.call(Name(parts));
            }
            if self.sees_kind(Kind::Text) {
                if !dotted && !called(self) {
                    return self.wrong("a reserved word stands before a text");
                }
                self.skip();
                return Ok(());
            }
            if !self.names_column(from) {
                return self.wrong("a reserved word stands where a value should");
            }
            if self.sees_mark(".")
                && self.ahead(1).is_some_and(|next| matches!(next.kind, Kind::Word | Kind::Name))
            {
                self.skip();
                parts.push(self.label()?);
                dotted = true;
                continue;
            }
            return self.indirection();
        }
    }

    fn names_column(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|t| t.kind == Kind::Name || words::names_columns(&t.text))
    }

    /// From the opening bracket on.
    pub(crate) fn call(&mut self, name: Name) -> Read {
        if name.0.len() > 3 {
            return self.wrong("a name has more than three parts");
        }
        self.facts.calls(&name);
        self.brackets(|reader| {
            if reader.sees_mark(")") || reader.takes_mark("*") {
                return Ok(());
            }
            reader.takes_any(&["all", "distinct"]);
            reader.list(Self::argument)?;
            if reader.takes_all(&["order", "by"]) {
                reader.sorting()?;
            }
            Ok(())
        })?;
        if self.takes_all(&["within", "group"]) {
            self.brackets(|reader| {
                reader.needs("order")?;
                reader.needs("by")?;
                reader.sorting()
            })?;
        }
        if self.sees("filter") && self.ahead(1).is_some_and(|next| next.is_mark("(")) {
            self.skip();
            self.brackets(|reader| {
                reader.needs("where")?;
                reader.value()
            })?;
        }
        if self.sees("over") {
            self.skip();
            if self.sees_mark("(") {
                self.window()?;
            } else {
                self.column_name()?;
            }
        }
        // `numeric(3) '1'` is a constant.
        if self.sees_kind(Kind::Text) {
            self.skip();
        }
        self.indirection()
    }

    pub(crate) fn argument(&mut self) -> Read {
        self.takes("variadic");
        let named =
            self.ahead(1).is_some_and(|token| token.is_operator(":=") || token.is_operator("=>"));
        if named && self.sees_name(words::names_functions) {
            self.at += 2;
        }
        self.value()
    }

    /// `a DESC NULLS LAST, b USING <`
    pub(crate) fn sorting(&mut self) -> Read {
        self.list(|reader| {
            reader.value()?;
            if reader.takes("using") {
                if reader.takes("operator") {
                    reader.operator()?;
                } else if reader.sees_kind(Kind::Operator) || reader.sees_kind(Kind::Mark) {
                    reader.skip();
                } else {
                    return reader.wrong("USING names no operator");
                }
            } else {
                reader.takes_any(&["asc", "desc"]);
            }
            if reader.takes("nulls") && !reader.takes_any(&["first", "last"]) {
                return reader.wrong("NULLS is neither FIRST nor LAST");
            }
            Ok(())
        })
    }

    /// `(PARTITION BY … ORDER BY … ROWS …)`
    pub(crate) fn window(&mut self) -> Read {
        self.brackets(|reader| {
            if reader.sees_name(words::names_columns)
                && !reader.sees_any(&["partition", "range", "rows", "groups"])
            {
                reader.skip();
            }
            if reader.takes_all(&["partition", "by"]) {
                reader.values()?;
            }
            if reader.takes_all(&["order", "by"]) {
                reader.sorting()?;
            }
            if reader.takes_any(&["range", "rows", "groups"]) {
                if reader.takes("between") {
                    reader.bound()?;
                    reader.needs("and")?;
                }
                reader.bound()?;
                if reader.takes("exclude")
                    && !reader.takes_all(&["current", "row"])
                    && !reader.takes_all(&["no", "others"])
                    && !reader.takes_any(&["group", "ties"])
                {
                    return reader.wrong("EXCLUDE names nothing that is known");
                }
            }
            Ok(())
        })
    }

    fn bound(&mut self) -> Read {
        if self.takes_all(&["current", "row"]) {
            return Ok(());
        }
        if !self.takes("unbounded") {
            self.value()?;
        }
        match self.takes_any(&["preceding", "following"]) {
            true => Ok(()),
            false => self.wrong("a window's bound is not known"),
        }
    }
}
