//! Values: what they call and which queries stand in them. How tightly operators bind makes no difference to that, so a
//! value is read as operands with operators before, between and behind them.

use crate::Effect;
use crate::lexis::Kind;
use crate::names::Name;
use crate::reader::{Read, Reader};
use crate::words;

/// What was in a pair of brackets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brackets {
    Query,
    Values,
}

/// What begins a query.
pub(crate) const QUERY: [&str; 4] = ["select", "table", "values", "with"];
/// What goes on with a query behind one that is in brackets.
pub(crate) const QUERY_GOES_ON: [&str; 8] =
    ["except", "fetch", "for", "intersect", "limit", "offset", "order", "union"];

impl Reader<'_, '_, '_> {
    pub(crate) fn values(&mut self) -> Read {
        self.list(Self::value)
    }

    pub(crate) fn value(&mut self) -> Read {
        self.nested(|reader| {
            reader.operand()?;
            reader.behind(true)
        })
    }

    /// A value in which `IN` is not an operator (`b_expr` of POSITION).
    pub(crate) fn value_before_in(&mut self) -> Read {
        self.nested(|reader| {
            reader.operand()?;
            reader.behind(false)
        })
    }

    /// What is behind an operand, to the end of the value.
    fn behind(&mut self, in_is_operator: bool) -> Read {
        let mut matched = false;
        loop {
            let Some(token) = self.peek() else { return Ok(()) };
            match token.kind {
                Kind::Operator if token.text == "::" => {
                    self.skip();
                    self.type_name()?;
                }
                Kind::Operator if !matches!(token.text.as_ref(), ":=" | "=>" | "..") => {
                    self.skip();
                    self.other_side()?;
                }
                Kind::Mark
                    if matches!(
                        token.text.as_ref(),
                        "+" | "-" | "*" | "/" | "%" | "^" | "<" | ">" | "="
                    ) =>
                {
                    self.skip();
                    self.other_side()?;
                }
                Kind::Word => {
                    if self.takes_any(&["and", "or", "overlaps"]) {
                        self.operand()?;
                    } else if self.takes("operator") {
                        self.operator()?;
                        self.other_side()?;
                    } else if self.takes("collate") {
                        self.qualified(words::names_columns)?;
                    } else if self.takes_all(&["at", "time", "zone"]) {
                        self.operand()?;
                    } else if self.takes_all(&["at", "local"])
                        || self.takes_any(&["isnull", "notnull"])
                    {
                    } else if self.takes("is") {
                        self.is()?;
                    } else if matched && self.takes("escape") {
                        self.operand()?;
                    } else {
                        let not = self.sees("not");
                        let word = self.ahead(usize::from(not));
                        let word = word.filter(|token| token.kind == Kind::Word);
                        match word.map(|token| token.text.as_ref()) {
                            Some("between") => {
                                self.at += 1 + usize::from(not);
                                self.takes_any(&["asymmetric", "symmetric"]);
                                self.operand()?;
                            }
                            Some("in") if in_is_operator => {
                                self.at += 1 + usize::from(not);
                                self.in_brackets()?;
                            }
                            Some("like" | "ilike") => {
                                self.at += 1 + usize::from(not);
                                matched = true;
                                self.other_side()?;
                            }
                            // Without TO it is SUBSTRING's.
                            Some("similar")
                                if self
                                    .ahead(1 + usize::from(not))
                                    .is_some_and(|t| t.is_word("to")) =>
                            {
                                self.at += 2 + usize::from(not);
                                matched = true;
                                self.operand()?;
                            }
                            _ => return Ok(()),
                        }
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// What an operator has on its right: an operand, or `ANY (…)` and its kin.
    fn other_side(&mut self) -> Read {
        if self.sees_any(&["all", "any", "some"]) {
            self.skip();
            return self.in_brackets();
        }
        self.operand()
    }

    /// `(query)` or `(value, value)`.
    fn in_brackets(&mut self) -> Read {
        if !self.sees_mark("(") {
            return self.wrong("brackets are missing that the grammar has there");
        }
        self.bracketed().map(drop)
    }

    fn is(&mut self) -> Read {
        self.takes("not");
        if self.takes_all(&["distinct", "from"]) {
            return self.operand();
        }
        if self.takes("json") {
            self.takes_any(&["array", "object", "scalar", "value"]);
            if self.takes_any(&["with", "without"]) {
                self.needs("unique")?;
                self.takes("keys");
            }
            return Ok(());
        }
        if self.takes_any(&["document", "false", "normalized", "null", "true", "unknown"]) {
            return Ok(());
        }
        if self.takes_any(&["nfc", "nfd", "nfkc", "nfkd"]) {
            return self.needs("normalized");
        }
        self.wrong("IS has something behind it that is not known")
    }

    /// `OPERATOR(schema.sign)`, behind its first word: one of another schema is somebody's function.
    pub(crate) fn operator(&mut self) -> Read {
        self.brackets(|reader| {
            let mut parts = Vec::new();
            while reader.sees_name(words::names_columns) {
                parts.push(reader.column_name()?);
                reader.needs_mark(".")?;
            }
            let sign = match reader.peek() {
                Some(token) if matches!(token.kind, Kind::Operator | Kind::Mark) => {
                    reader.skip();
                    token.text.clone().into_owned()
                }
                _ => return reader.wrong("OPERATOR names none"),
            };
            if matches!(
                sign.as_str(),
                "(" | ")" | "[" | "]" | "," | ";" | ":" | "." | "::" | ":=" | ".."
            ) {
                return reader.wrong("OPERATOR names none");
            }
            if !parts.is_empty() && parts != ["pg_catalog"] {
                parts.push(sign);
                reader.facts.calls_as(&Name(parts), Effect::Danger);
            }
            Ok(())
        })
    }

    /// Prefix operators, and what they stand before.
    fn operand(&mut self) -> Read {
        loop {
            let Some(token) = self.peek() else {
                return self.wrong("a value is missing");
            };
            let prefix = match token.kind {
                Kind::Operator => !matches!(token.text.as_ref(), "::" | ":=" | "=>" | ".."),
                Kind::Mark => matches!(token.text.as_ref(), "+" | "-"),
                Kind::Word
                    if token.text == "operator"
                        && self.ahead(1).is_some_and(|t| t.is_mark("(")) =>
                {
                    self.skip();
                    self.operator()?;
                    continue;
                }
                Kind::Word => token.text == "not",
                _ => false,
            };
            if !prefix {
                return self.primary();
            }
            self.skip();
        }
    }

    fn primary(&mut self) -> Read {
        let Some(token) = self.peek() else { return self.wrong("a value is missing") };
        match token.kind {
            Kind::Bits | Kind::Number | Kind::Text => {
                self.skip();
                Ok(())
            }
            Kind::Parameter => {
                self.skip();
                self.indirection()
            }
            Kind::Mark if token.text == "(" => {
                self.bracketed()?;
                self.indirection()
            }
            Kind::Name => self.named(),
            Kind::Word => self.word(),
            Kind::Mark | Kind::Operator => self.wrong("a sign stands where a value should"),
        }
    }

    /// `( … )` with a query or values in it; a query in brackets may be the first part of a larger one.
    fn bracketed(&mut self) -> Read<Brackets> {
        self.needs_mark("(")?;
        let found = self.nested(|reader| {
            if reader.sees_any(&QUERY) && !reader.is_called() {
                reader.query()?;
                return Ok(Brackets::Query);
            }
            if reader.sees_mark("(") {
                let inner = reader.bracketed()?;
                if inner == Brackets::Query {
                    if reader.sees_mark(")") {
                        return Ok(Brackets::Query);
                    }
                    if reader.sees_any(&QUERY_GOES_ON) {
                        reader.query_goes_on()?;
                        return Ok(Brackets::Query);
                    }
                }
                reader.indirection()?;
                reader.behind(true)?;
                if reader.takes_mark(",") {
                    reader.values()?;
                }
                return Ok(Brackets::Values);
            }
            reader.values()?;
            Ok(Brackets::Values)
        })?;
        self.needs_mark(")")?;
        Ok(found)
    }

    /// Whether the next word is a column's name in spite of what else it could be: `values.a`, not `VALUES (1)`.
    fn is_called(&self) -> bool {
        self.sees("values") && !self.ahead(1).is_some_and(|token| token.is_mark("("))
    }

    /// `.field`, `.*`, `[1]`, `[1:2]`, as often as they come.
    pub(crate) fn indirection(&mut self) -> Read {
        loop {
            if self.takes_mark(".") {
                if !self.takes_mark("*") {
                    self.label()?;
                }
            } else if self.sees_mark("[") {
                self.subscript()?;
            } else {
                return Ok(());
            }
        }
    }

    fn subscript(&mut self) -> Read {
        self.needs_mark("[")?;
        self.nested(|reader| {
            if !reader.sees_mark(":") && !reader.sees_mark("]") {
                reader.value()?;
            }
            if reader.takes_mark(":") && !reader.sees_mark("]") {
                reader.value()?;
            }
            Ok(())
        })?;
        self.needs_mark("]")
    }

    /// What begins with a word: a construct of the grammar, a constant of a type, a call, or a column.
    fn word(&mut self) -> Read {
        let Some(token) = self.peek() else { return self.wrong("a value is missing") };
        let opens = self.ahead(1).is_some_and(|next| next.is_mark("("));
        let text = self.ahead(1).is_some_and(|next| next.kind == Kind::Text);
        match token.text.as_ref() {
            "true" | "false" | "null" | "current_date" | "current_role" | "current_user"
            | "session_user" | "system_user" | "user" | "current_catalog" | "default" => {
                self.skip();
                Ok(())
            }
            "current_schema" if !opens => {
                self.skip();
                Ok(())
            }
            "current_time" | "current_timestamp" | "localtime" | "localtimestamp" => {
                self.skip();
                if opens {
                    self.brackets(|reader| reader.needs_kind(Kind::Number).map(drop))?;
                }
                Ok(())
            }
            "case" => self.case(),
            "cast" | "treat" if opens => {
                self.skip();
                self.brackets(|reader| {
                    reader.value()?;
                    reader.needs("as")?;
                    reader.type_name()
                })
            }
            "exists" if opens => {
                self.skip();
                self.subquery()
            }
            "array" => {
                self.skip();
                if opens {
                    self.subquery()?
                } else {
                    self.array()?
                }
                self.indirection()
            }
            "row" if opens => {
                self.skip();
                self.brackets(|reader| match reader.sees_mark(")") {
                    true => Ok(()),
                    false => reader.values(),
                })?;
                self.indirection()
            }
            "coalesce" | "greatest" | "grouping" | "least" | "nullif" | "xmlconcat" if opens => {
                self.skip();
                self.brackets(Self::values)
            }
            "extract" if opens => {
                self.skip();
                self.brackets(|reader| {
                    if !reader.sees_kind(Kind::Text) && !reader.sees_kind(Kind::Word) {
                        return reader.wrong("EXTRACT names no field");
                    }
                    reader.skip();
                    reader.needs("from")?;
                    reader.value()
                })
            }
            "normalize" if opens => {
                self.skip();
                self.brackets(|reader| {
                    reader.value()?;
                    if reader.takes_mark(",") && !reader.takes_any(&["nfc", "nfd", "nfkc", "nfkd"])
                    {
                        return reader.wrong("NORMALIZE names no form");
                    }
                    Ok(())
                })
            }
            "position" if opens => {
                self.skip();
                self.brackets(|reader| {
                    reader.value_before_in()?;
                    reader.needs("in")?;
                    reader.value()
                })
            }
            word @ ("overlay" | "substring") if opens => {
                self.skip();
                self.brackets(|reader| {
                    reader.argument()?;
                    // With commas it is a call like any other.
                    if reader.sees_mark(")") || reader.takes_mark(",") {
                        reader.facts.calls(&Name(vec![word.to_owned()]));
                        return match reader.sees_mark(")") {
                            true => Ok(()),
                            false => reader.list(Self::argument),
                        };
                    }
                    while reader.takes_any(&["placing", "from", "for", "similar", "escape"]) {
                        reader.value()?;
                    }
                    Ok(())
                })
            }
            "trim" if opens => {
                self.skip();
                self.brackets(|reader| {
                    reader.takes_any(&["both", "leading", "trailing"]);
                    if !reader.sees("from") {
                        reader.values()?;
                    }
                    match reader.takes("from") {
                        true => reader.values(),
                        false => Ok(()),
                    }
                })
            }
            "collation" if self.sees_all(&["collation", "for"]) => {
                self.at += 2;
                self.brackets(Self::value)
            }
            "interval" if opens || text => {
                self.type_name()?;
                self.needs_kind(Kind::Text)?;
                self.interval_fields()
            }
            "time" | "timestamp" | "bit" | "char" | "character" | "varchar" | "nchar"
            | "national" | "dec" | "decimal" | "numeric" | "float"
                if opens
                    || text
                    || self.ahead(1).is_some_and(|t| {
                        t.is_word("with")
                            || t.is_word("without")
                            || t.is_word("varying")
                            || t.is_word("char")
                            || t.is_word("character")
                    }) =>
            {
                self.type_name()?;
                self.needs_kind(Kind::Text).map(drop)
            }
            "int" | "integer" | "smallint" | "bigint" | "real" | "boolean" | "json" if text => {
                self.type_name()?;
                self.needs_kind(Kind::Text).map(drop)
            }
            "double" if self.sees_all(&["double", "precision"]) => {
                self.type_name()?;
                self.needs_kind(Kind::Text).map(drop)
            }
            _ => self.named(),
        }
    }

    fn case(&mut self) -> Read {
        self.needs("case")?;
        if !self.sees("when") {
            self.value()?;
        }
        while self.takes("when") {
            self.value()?;
            self.needs("then")?;
            self.value()?;
        }
        if self.takes("else") {
            self.value()?;
        }
        self.needs("end")
    }

    fn array(&mut self) -> Read {
        self.needs_mark("[")?;
        self.nested(|reader| {
            if reader.sees_mark("]") {
                return Ok(());
            }
            reader.list(|reader| match reader.sees_mark("[") {
                true => reader.array(),
                false => reader.value(),
            })
        })?;
        self.needs_mark("]")
    }

    /// `(query)`
    pub(crate) fn subquery(&mut self) -> Read {
        match self.bracketed()? {
            Brackets::Query => Ok(()),
            Brackets::Values => self.wrong("brackets have no query in them where one should be"),
        }
    }
}
