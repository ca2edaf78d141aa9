//! PostgreSQL: what the statements of one request do, by the reader that the policy decides with.

use countersign_policy::database::{Access, Asks, Text};
use countersign_policy::{Body, Subject, decode};
use countersign_sql::{Effect, Statement};

use crate::ask::Ask;
use crate::words::{count, cut, row, word};
use crate::{Description, Risk, Undecidable};

/// The header with the number of rows that the server believes the tables to hold: `orders=1204000, %22Odd%22=unknown`,
/// names percent-encoded. It is the gateway's alone.
const ROWS: &str = "@postgres-estimated-rows";
/// A list of names in a fact, bytes.
const IN_FACT: usize = 400;

/// Describes a request whose destination is a database.
///
/// # Errors
/// What keeps it from being certain what the statements do.
pub(crate) fn describe(
    subject: &Subject<'_>,
    body: &[u8],
) -> Result<Option<Description>, Undecidable> {
    let head = &subject.head;
    let access = Access::of(head, &Body::Whole(body));
    let mut ask = Ask::read(head, body.len(), Ok(body))?;
    let (Some(database), Some(role)) = (&access.database, &access.role) else {
        return Err(Undecidable("a request that does not name its database and its role clearly"));
    };
    let place = format!("{} at {} as {}", word(database), word(ask.host), word(role));
    match &access.asks {
        Asks::Connection => {
            let sentence = format!("Connect to database {place}");
            ask.say("Database", database.clone(), &[]);
            ask.say("Role", role.clone(), &[]);
            Ok(Some(ask.finish(Risk::Read, &sentence)))
        }
        Asks::Text(Text { read: Ok(statements), .. }) => {
            let all: Vec<&Statement> = statements.iter().collect();
            let words = all.iter().map(|statement| does(statement)).collect::<Vec<_>>();
            let sentence = match words.as_slice() {
                [] => format!("Send a text without a statement to {place}"),
                [one] => format!("{} in {place}", capitalised(one)),
                several => {
                    format!(
                        "Run {} in {place}: {}",
                        count(several.len(), "statement"),
                        row(several)
                    )
                }
            };
            tell(&mut ask, &all, statements.effect());
            ask.say("Database", database.clone(), &[]);
            ask.say("Role", role.clone(), &[]);
            let risk = all.iter().map(|statement| risk(statement)).max().unwrap_or(Risk::Read);
            Ok(Some(ask.finish(risk, &sentence)))
        }
        Asks::Text(Text { read: Err(why), .. }) | Asks::Unreadable(why) => Err(Undecidable(why)),
        Asks::Unread => Ok(None),
    }
}

/// What the statements are and touch, and the text itself.
fn tell(ask: &mut Ask<'_>, statements: &[&Statement], effect: Effect) {
    ask.fact("Statement", ".statement");
    ask.fact("Parameters", ".parameters");
    ask.say("Effect", effect.word().to_owned(), &[]);
    let mut named = |name: &str, of: fn(&Statement) -> &Vec<String>| {
        let mut names: Vec<&str> =
            statements.iter().flat_map(|statement| of(statement)).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            ask.say(name, cut(&names.join(", "), IN_FACT), &[]);
        }
    };
    named("Changes", |statement| &statement.writes);
    named("Reads", |statement| &statement.reads);
    named("Calls", |statement| &statement.functions);
    if let Some(rows) = ask.text(ROWS).and_then(|said| held(statements, &said)) {
        ask.say("Rows", rows, &[]);
    }
    ask.fact("Transaction", ".transaction");
    ask.fact("Settings", ".settings");
    ask.fact("Protocol", ".protocol");
}

/// How many rows the tables hold that are written, as far as the header says it: not how many of them would be changed.
fn held(statements: &[&Statement], said: &str) -> Option<String> {
    let figures: Vec<(String, &str)> = said
        .split(", ")
        .filter_map(|part| {
            let (name, figure) = part.split_once('=')?;
            Some((String::from_utf8(decode::percent(name)?.into_owned()).ok()?, figure))
        })
        .collect();
    let mut names: Vec<&str> =
        statements.iter().flat_map(|statement| &statement.writes).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let told = names.into_iter().filter_map(|name| {
        let (_, figure) = figures.iter().find(|(known, _)| known == name)?;
        let Ok(rows) = figure.parse::<u64>() else {
            return Some(format!(
                "how many rows {} holds is not known: the server has not analysed all of it",
                word(name)
            ));
        };
        let all = if statements.iter().any(|it| takes_all(it, name)) {
            ", and this is about all of them"
        } else {
            ""
        };
        let rows = if rows == 1 { "1 row".to_owned() } else { format!("{} rows", grouped(rows)) };
        Some(format!("{} holds about {rows} (the server's own estimate){all}", word(name)))
    });
    let told = told.collect::<Vec<_>>().join("; ");
    (!told.is_empty()).then_some(told)
}

/// Whether a statement is about every row of this table, whatever it does to them.
fn takes_all(statement: &Statement, name: &str) -> bool {
    let whole = match statement.kind {
        "delete" | "update" => !statement.has_where && statement.writes.len() == 1,
        "drop" | "truncate" => true,
        _ => false,
    };
    whole && statement.writes.iter().any(|written| written == name)
}

/// "1,204,000"
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let comma = |at: usize| at > 0 && (digits.len() - at).is_multiple_of(3);
    let signs = digits.char_indices();
    signs.flat_map(|(at, digit)| comma(at).then_some(',').into_iter().chain([digit])).collect()
}

/// "delete all rows of orders"
fn does(statement: &Statement) -> String {
    let names = |names: &[String]| row(&names.iter().map(|name| word(name)).collect::<Vec<_>>());
    let (reads, writes) = (names(&statement.reads), names(&statement.writes));
    let object = statement.object.as_ref().map(|object| match object.names.is_empty() {
        true => object.sort.to_owned(),
        false => format!("{} {}", object.sort, names(&object.names)),
    });
    let object = object.unwrap_or_else(|| writes.clone());
    let what = match (statement.kind, statement.inner) {
        ("select", _) if !statement.writes.is_empty() => format!("query, and change {writes}"),
        ("select", _) if statement.reads.is_empty() => "compute a value".to_owned(),
        ("select", _) if statement.effect == Effect::Write => format!("read and lock {reads}"),
        ("select", _) => format!("read {reads}"),
        ("insert", _) => format!("insert into {writes}"),
        ("update", _) if !statement.has_where => format!("update all rows of {writes}"),
        ("update", _) => format!("update rows of {writes}"),
        ("delete", _) if !statement.has_where => format!("delete all rows of {writes}"),
        ("delete", _) => format!("delete rows of {writes}"),
        ("merge", _) => format!("merge into {writes}"),
        ("truncate", _) => format!("delete all rows of {writes}"),
        ("alter" | "create" | "drop", _) => format!("{} {object}", statement.kind),
        ("comment", _) => format!(
            "comment on {}",
            if statement.writes.is_empty() { "something" } else { &writes }
        ),
        ("refresh" | "cluster" | "vacuum" | "analyze" | "reindex", _) => {
            let all = statement.writes.is_empty();
            format!("{} {}", statement.kind, if all { "all tables" } else { &writes })
        }
        ("copy", _) if statement.effect == Effect::Danger => {
            "copy with a file or a program of the server".to_owned()
        }
        ("copy", Some(inner)) => format!("copy out what a {inner} returns"),
        ("copy", None) if statement.writes.is_empty() => format!("copy out {reads}"),
        ("copy", None) => format!("copy into {writes}"),
        ("lock", _) => format!("lock {writes}"),
        ("do", _) => "run a block of code".to_owned(),
        ("call", _) => format!("call procedure {}", names(&statement.functions)),
        ("grant", _) => "grant privileges or a role".to_owned(),
        ("revoke", _) => "revoke privileges or a role".to_owned(),
        ("explain", Some(inner)) if statement.effect > Effect::Read => {
            format!("explain a {inner} that runs for it")
        }
        ("explain", Some(inner)) => format!("explain a {inner}"),
        ("prepare", Some(inner)) => format!("prepare a {inner} for later"),
        ("execute", Some(inner)) => format!("run a {inner} that was prepared"),
        ("declare", _) => format!("open a cursor over {reads}"),
        ("set", _) if statement.effect == Effect::Danger => {
            "change a setting that is not known to be harmless".to_owned()
        }
        ("set", _) => "change a setting of the session".to_owned(),
        ("transaction", _) => "begin, end or mark a transaction".to_owned(),
        (kind, _) => format!("run {}", kind.to_uppercase()),
    };
    let unknown = statement.kind != "call" && statement.effect == Effect::Danger;
    match unknown && !statement.functions.is_empty() {
        true => format!("{what}, calling {}", names(&statement.functions)),
        false => what,
    }
}

fn risk(statement: &Statement) -> Risk {
    let everything = ["update", "delete"].contains(&statement.kind) && !statement.has_where;
    match (statement.effect, statement.kind) {
        (Effect::Connect | Effect::Session | Effect::Read, _) => Risk::Read,
        (_, "delete" | "drop" | "truncate") => Risk::Destructive,
        _ if everything => Risk::Destructive,
        (Effect::Write, _) => Risk::Write,
        (Effect::Schema, _) => Risk::Write,
        (Effect::Danger, "grant" | "revoke" | "set" | "reassign" | "security") => Risk::People,
        (Effect::Danger, "alter" | "create") => match &statement.object {
            Some(object)
                if ["role", "policy", "default privileges", "user mapping"]
                    .contains(&object.sort) =>
            {
                Risk::People
            }
            _ => Risk::Code,
        },
        (Effect::Danger | Effect::Undecidable, _) => Risk::Code,
    }
}

fn capitalised(text: &str) -> String {
    let mut signs = text.chars();
    signs.next().map_or_else(String::new, |first| first.to_uppercase().chain(signs).collect())
}
