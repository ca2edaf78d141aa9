//! How many rows the tables hold that a text writes, by the server's own estimate: what people are told of a statement that
//! they are asked about. It is a question about the catalogue, in text of our own. Nothing of the agent's statement is
//! planned or looked up for it: the names in it are values.
//!
//! Whatever the agent made in the database has no say in it: functions, operators, tables and types are those of
//! `pg_catalog` by name, wherever `search_path` leads. That is asked only to find out which table an unqualified name
//! stands for, as it would be for the statement.

use bytes::BytesMut;
use http::header::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::oneshot;

use super::message::{
    Bind, Fields, Malformed, Of, Parse, Value, put_bare, put_bind, put_execute, put_named,
    put_parse,
};
use super::statement::Aftermath;

/// The header that says it. Whoever sends a request over HTTP is not heard with it.
pub(crate) const ROWS: &str = "postgres-estimated-rows";

/// More tables of one text are not asked about.
const MOST_TABLES: usize = 8;
/// Longer names are cut by servers (NAMEDATALEN), so that they are not what they seem.
const LONGEST_NAME: usize = 63;
/// The object id of the type `name`.
const NAME: u32 = 19;
/// From here on, `reltuples` and `name = name` are what is counted on.
const OLDEST_SERVER: u32 = 12;
/// RFC 3986 §2.3: what needs no escape.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `$1` is a schema, or NULL where the name in `$2` has none. One row for a table (or materialised view, or foreign table),
/// with all that inherits from it or is a partition of it: NULL where one of these was never analysed. Before version 14,
/// that was written as 0 rows in 0 pages.
const QUESTION: &str = "\
WITH RECURSIVE tree(id) AS ( \
     SELECT c.oid FROM pg_catalog.pg_class AS c \
     JOIN pg_catalog.pg_namespace AS n ON (n.oid OPERATOR(pg_catalog.=) c.relnamespace) \
     WHERE (c.relname OPERATOR(pg_catalog.=) $2) \
     AND ((c.relkind OPERATOR(pg_catalog.=) 'r') OR (c.relkind OPERATOR(pg_catalog.=) 'p') \
     OR (c.relkind OPERATOR(pg_catalog.=) 'm') OR (c.relkind OPERATOR(pg_catalog.=) 'f')) \
     AND CASE WHEN ($1 IS NULL) THEN pg_catalog.pg_table_is_visible(c.oid) \
     ELSE (n.nspname OPERATOR(pg_catalog.=) $1) END \
     UNION \
     SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits AS i \
     ON (i.inhparent OPERATOR(pg_catalog.=) tree.id) \
     ), part(amount, unknown) AS ( \
     SELECT CAST(c.reltuples AS pg_catalog.float8), \
     (c.reltuples OPERATOR(pg_catalog.<) 0) OR ((c.reltuples OPERATOR(pg_catalog.=) 0) \
     AND (c.relpages OPERATOR(pg_catalog.=) 0) \
     AND (CAST(pg_catalog.current_setting('server_version_num') AS pg_catalog.int4) \
     OPERATOR(pg_catalog.<) 140000)) \
     FROM tree JOIN pg_catalog.pg_class AS c ON (c.oid OPERATOR(pg_catalog.=) tree.id) \
     WHERE (c.relkind OPERATOR(pg_catalog.<>) 'p') \
     ) SELECT CASE WHEN pg_catalog.bool_or(part.unknown) THEN NULL \
     ELSE CAST(pg_catalog.sum(part.amount) AS pg_catalog.int8) END \
     FROM part HAVING (pg_catalog.count(*) OPERATOR(pg_catalog.>) 0)";

/// Whether a server that reports this version is asked.
pub(super) fn understood_by(server_version: &str) -> bool {
    let digits = server_version.bytes().take_while(u8::is_ascii_digit).count();
    server_version[..digits].parse().is_ok_and(|major: u32| major >= OLDEST_SERVER)
}

/// The tables that are asked about.
pub(super) struct Question(Vec<Table>);

struct Table {
    /// As the reader of statements has it.
    written: String,
    schema: Option<String>,
    name: String,
}

/// What the server says of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    NeverAnalysed,
    NoTable,
    Rows(u64),
}

impl Question {
    /// About what this text writes. None: there is nothing to be asked, or what its names stand for may be another thing by
    /// the time it comes to them.
    pub(super) fn about(text: &str) -> Option<Self> {
        let statements = countersign_sql::read(text).ok()?;
        if statements.iter().len() > 1 && Aftermath::of(text).unsettles {
            return None;
        }
        let mut tables: Vec<Table> = Vec::new();
        for written in statements.iter().flat_map(|statement| &statement.writes) {
            if tables.len() < MOST_TABLES && tables.iter().all(|table| table.written != *written) {
                tables.extend(Table::of(written));
            }
        }
        (!tables.is_empty()).then_some(Self(tables))
    }

    /// Writes it: a row of messages of its own, up to a Sync. The statement has a name that nobody can guess, and is closed
    /// again; the portal has none, as the agent can have none where this is asked.
    pub(super) fn put(&self, out: &mut BytesMut) {
        let name = format!("countersign {}", hex::encode(rand::random::<[u8; 16]>()));
        let parse =
            Parse { name: name.clone(), text: QUESTION.to_owned(), types: vec![NAME, NAME] };
        put_parse(out, &parse);
        for table in &self.0 {
            let schema = table.schema.clone().map_or(Value::Null, Value::Text);
            let bind = Bind {
                portal: String::new(),
                statement: name.clone(),
                parameters: vec![schema, Value::Text(table.name.clone())],
                results: Vec::new(),
            };
            put_bind(out, &bind);
            put_execute(out, "", 0);
        }
        put_named(out, b'C', Of::Statement, &name);
        put_bare(out, b'S');
    }

    /// The header: `orders=1204000, public.items=unknown`, names percent-encoded. None: there is no such table.
    pub(super) fn said(&self, figures: &[Figure]) -> Option<HeaderValue> {
        if figures.len() != self.0.len() {
            return None;
        }
        let said = self.0.iter().zip(figures).filter_map(|(table, figure)| {
            let name = utf8_percent_encode(&table.written, PLAIN);
            match figure {
                Figure::NoTable => None,
                Figure::NeverAnalysed => Some(format!("{name}=unknown")),
                Figure::Rows(rows) => Some(format!("{name}={rows}")),
            }
        });
        let said = said.collect::<Vec<_>>().join(", ");
        HeaderValue::try_from(said).ok().filter(|said| !said.is_empty())
    }
}

impl Table {
    /// From `orders`, `public.orders` or `"Order"`. None for longer names, and for what servers would cut.
    fn of(written: &str) -> Option<Self> {
        let mut parts = vec![String::new()];
        let (mut signs, mut quoted) = (written.chars().peekable(), false);
        while let Some(sign) = signs.next() {
            match sign {
                '"' if quoted && signs.next_if_eq(&'"').is_some() => parts.last_mut()?.push('"'),
                '"' => quoted = !quoted,
                '.' if !quoted => parts.push(String::new()),
                sign => parts.last_mut()?.push(sign),
            }
        }
        let fits = |part: &String| (1..=LONGEST_NAME).contains(&part.len());
        if quoted || !parts.iter().all(fits) {
            return None;
        }
        let (name, schema) = (parts.pop()?, parts.pop());
        parts.is_empty().then(|| Self { written: written.to_owned(), schema, name })
    }
}

/// A question that was sent, and what of its answer has come.
pub(super) struct Asking {
    figures: Vec<Figure>,
    /// Of the table whose turn it is.
    figure: Figure,
    failed: bool,
    tell: oneshot::Sender<Vec<Figure>>,
}

/// What an answer to it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is over; whether the server gave an answer.
    Answered(bool),
    /// The last that the server says on this connection.
    Fatal,
    More,
}

impl Asking {
    /// `tell` hears the figures, one for each table, once they are all here; it is dropped where there are none.
    pub(super) fn new(tell: oneshot::Sender<Vec<Figure>>) -> Self {
        Self { figures: Vec::new(), figure: Figure::NoTable, failed: false, tell }
    }

    /// # Errors
    /// What is no answer to it.
    pub(super) fn hears(&mut self, tag: u8, body: &[u8]) -> Result<Heard, Malformed> {
        match tag {
            b'1' | b'2' | b'3' => {}
            b'C' => {
                self.figures.push(self.figure);
                self.figure = Figure::NoTable;
            }
            b'D' => self.figure = figure(body)?,
            b'E' => match severity(body) {
                b"FATAL" | b"PANIC" => return Ok(Heard::Fatal),
                _ => self.failed = true,
            },
            b'Z' if body == b"I" => return Ok(Heard::Answered(!self.failed)),
            b'Z' => return Err(Malformed("a transaction that nobody began")),
            _ => return Err(Malformed("an answer to something that was not asked")),
        }
        Ok(Heard::More)
    }

    pub(super) fn end(self) {
        if !self.failed {
            // Whoever asked may not wait any more.
            let _ = self.tell.send(self.figures);
        }
    }
}

/// Of a row of one column.
fn figure(row: &[u8]) -> Result<Figure, Malformed> {
    const OTHER: Malformed = Malformed("a row of another form than was asked for");
    let mut fields = Fields(row);
    if fields.u16()? != 1 {
        return Err(OTHER);
    }
    let Ok(length) = usize::try_from(fields.i32()?) else {
        return fields.end().map(|()| Figure::NeverAnalysed);
    };
    let digits = std::str::from_utf8(fields.bytes(length)?).map_err(|_| OTHER)?;
    fields.end()?;
    digits.parse().map(Figure::Rows).map_err(|_| OTHER)
}

/// Of an error or a notice, as programs read it.
fn severity(body: &[u8]) -> &[u8] {
    let field = |wanted: u8| {
        let mut fields = body.split(|byte| *byte == 0).filter_map(<[u8]>::split_first);
        fields.find(|(kind, _)| **kind == wanted).map(|(_, text)| text)
    };
    field(b'V').or_else(|| field(b'S')).unwrap_or_default()
}

/// Whether a notice that comes while a question is answered is about that alone: what servers say to whoever wants to know
/// what they do with each message. A warning is for the agent.
pub(super) fn is_aside(notice: &[u8]) -> bool {
    matches!(severity(notice), b"DEBUG" | b"LOG")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(text: &str) -> Vec<(Option<String>, String)> {
        let Question(tables) = Question::about(text).expect("a question");
        tables.into_iter().map(|table| (table.schema, table.name)).collect()
    }

    #[test]
    fn what_a_text_writes_is_asked_about_by_name_and_nothing_else_is() {
        for (text, schema, name) in [
            ("delete from orders", None, "orders"),
            ("update public.Orders set a = 1 where b", Some("public"), "orders"),
            ("truncate \"a.\"\"b\".\"C\"", Some("a.\"b"), "C"),
            ("drop table if exists \"ö\"", None, "ö"),
            ("alter table t add column c int", None, "t"),
            ("delete from t where f(id)", None, "t"),
        ] {
            assert_eq!(tables(text), [(schema.map(str::to_owned), name.to_owned())], "{text}");
        }
        assert_eq!(tables("begin; delete from a; delete from b; delete from a; commit").len(), 2);
        assert_eq!(tables(&format!("truncate {}", ["a1", "a2", "a3"].join(", "))).len(), 3);
        let many: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
        assert_eq!(tables(&format!("truncate {}", many.join(", "))).len(), MOST_TABLES);
        let long = format!("drop table {}", "x".repeat(64));
        for none in [
            "select * from orders",
            "drop table a.b.c",
            "set search_path = other; delete from orders",
            "select set_config('search_path', 'other', false); delete from orders",
            "delete from '",
            &long,
            "do 'x'",
        ] {
            assert!(Question::about(none).is_none(), "{none}");
        }
    }

    #[test]
    fn the_question_names_everything_by_its_schema() {
        let words: Vec<&str> = QUESTION.split_ascii_whitespace().collect();
        assert!(!words.contains(&"IN") && !words.contains(&"USING") && !words.contains(&"LIKE"));
        // An operator stands inside OPERATOR(pg_catalog.…), a star in count(*), and nowhere else.
        let bare = QUESTION.replace("count(*)", "count()");
        for part in bare.split("OPERATOR(pg_catalog.").flat_map(|part| part.split_once(')')) {
            assert!(!part.1.contains(['=', '<', '>', '+', '*', '|']), "{}", part.1);
        }
        // Whatever is called, read or cast to is pg_catalog's, or its own.
        for called in ["bool_or", "count", "current_setting", "pg_table_is_visible", "sum"] {
            let all = QUESTION.matches(&format!("{called}(")).count();
            assert_eq!(all, QUESTION.matches(&format!("pg_catalog.{called}(")).count(), "{called}");
        }
        for pair in words.windows(2).filter(|pair| ["FROM", "JOIN"].contains(&pair[0])) {
            let known = pair[1].starts_with("pg_catalog.") || ["tree", "part"].contains(&pair[1]);
            assert!(known, "{pair:?}");
        }
    }

    #[test]
    fn figures_are_written_with_their_names_and_left_away_where_there_is_no_table() {
        let question = Question::about("truncate orders, \"Ö=,\", gone").expect("a question");
        let name = |written: &str| question.0.iter().position(|it| it.written == written);
        let mut figures = [Figure::NoTable; 3];
        figures[name("orders").expect("it is asked about")] = Figure::Rows(1_204_000);
        figures[name("\"Ö=,\"").expect("it is asked about")] = Figure::NeverAnalysed;
        let said = question.said(&figures).expect("a header");
        let said = said.to_str().expect("ASCII");
        let mut parts: Vec<&str> = said.split(", ").collect();
        parts.sort_unstable();
        assert_eq!(parts, ["%22%C3%96%3D%2C%22=unknown", "orders=1204000"]);
        assert_eq!(question.said(&[Figure::NoTable; 3]), None);
        assert_eq!(question.said(&figures[..2]), None, "not all of it has come");
    }

    #[test]
    fn rows_and_severities_are_read_strictly() {
        assert_eq!(figure(b"\0\x01\0\0\0\x0212"), Ok(Figure::Rows(12)));
        assert_eq!(figure(b"\0\x01\xff\xff\xff\xff"), Ok(Figure::NeverAnalysed));
        for other in [
            &b""[..],
            b"\0\x02\0\0\0\x0112\0\0\0\x011",
            b"\0\x01\0\0\0\x02-1",
            b"\0\x01\0\0\0\x03x",
            b"\0\x01\0\0\0\x0112",
        ] {
            assert!(figure(other).is_err(), "{}", other.escape_ascii());
        }
        assert_eq!(severity(b"SFEHLER\0VERROR\0C42501\0\0"), b"ERROR");
        assert_eq!(severity(b"SFATAL\0C57P01\0\0"), b"FATAL");
        assert!(is_aside(b"SDEBUG\0VDEBUG\0\0") && !is_aside(b"SWARNING\0VWARNING\0\0"));
        assert!(understood_by("15.0 (Debian 15.0-1)") && understood_by("17beta1"));
        assert!(!understood_by("9.6.24") && !understood_by("") && !understood_by("x15"));
    }
}
