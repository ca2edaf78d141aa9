//! What the reader of statements says, against a PostgreSQL server that carries them out. The server is the oracle: what is
//! taken for a query must change nothing there, every relation that the server plans to read must have been named, and the
//! functions that are taken for harmless must be what the server's catalogue says. Its parser alone judges texts that do not run.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use countersign_sql::{
    Effect, HARMLESS_IN_SPITE_OF_VOLATILITY, Statements, WRITING, harmless, read,
};
use countersign_tests::database::{as_its_user, give_to_its_user, program};
use countersign_tests::peers::clients;
use serde_json::json;
use tempfile::TempDir;

/// A server of its own, over a socket in its own directory.
struct Server {
    child: Child,
    dir: TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        give_to_its_user(dir.path());
        let data = dir.path().join("data");
        let made = as_its_user(program("initdb"))
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--no-instructions"])
            .args(["--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .current_dir("/")
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let child = as_its_user(program("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(dir.path())
            .args(["-h", "", "-F", "-c", "statement_timeout=5s", "-c", "shared_buffers=16MB"])
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    /// As the superuser, with nothing between the texts and the server.
    fn connect(&self) -> Session {
        let socket = self.dir.path().join(".s.PGSQL.5432");
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                let mut session = Session { stream };
                if session.begin() {
                    return session;
                }
            }
            assert!(Instant::now() < until, "the server did not start");
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT: at once, with its processes.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.child.wait();
    }
}

/// The simple protocol, and no more of it than this takes.
struct Session {
    stream: UnixStream,
}

/// What the server answered to one text.
#[derive(Default, Debug)]
struct Answer {
    /// SQLSTATE, if it failed.
    failed: Option<String>,
    message: String,
    /// How many statements were completed.
    completed: usize,
    /// The first column of each row.
    rows: Vec<String>,
}

impl Session {
    fn begin(&mut self) -> bool {
        let mut startup = 196_608_i32.to_be_bytes().to_vec();
        startup.extend(b"user\0postgres\0database\0postgres\0client_encoding\0UTF8\0\0");
        let mut message = (startup.len() as i32 + 4).to_be_bytes().to_vec();
        message.extend(startup);
        self.stream.write_all(&message).is_ok()
            && self.answer().is_ok_and(|answer| answer.failed.is_none())
    }

    fn message(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    fn send(&mut self, kind: u8, body: &[u8]) {
        let mut message = vec![kind];
        message.extend((body.len() as u32 + 4).to_be_bytes());
        message.extend(body);
        self.stream.write_all(&message).unwrap();
    }

    fn answer(&mut self) -> std::io::Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'C' => answer.completed += 1,
                b'E' if answer.failed.is_none() => {
                    for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
                        let value = String::from_utf8_lossy(&field[1..]).into_owned();
                        match field[0] {
                            b'C' => answer.failed = Some(value),
                            b'M' => answer.message = value,
                            _ => {}
                        }
                    }
                }
                b'G' => self.send(b'f', b"nothing\0"),
                // A row may have no columns at all.
                b'D' if body.len() >= 6 => {
                    let length = i32::from_be_bytes(body[2..6].try_into().unwrap());
                    let end = 6 + usize::try_from(length).unwrap_or(0);
                    answer.rows.push(String::from_utf8_lossy(&body[6..end]).into_owned());
                }
                b'Z' => return Ok(answer),
                _ => {}
            }
        }
    }

    fn ask(&mut self, text: &str) -> Answer {
        let mut body = text.as_bytes().to_vec();
        body.push(0);
        self.send(b'Q', &body);
        self.answer().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    /// What must succeed.
    fn run(&mut self, text: &str) -> Answer {
        let answer = self.ask(text);
        assert_eq!(answer.failed, None, "{text}: {}", answer.message);
        answer
    }
}

const SCHEMA: &str = "
    create table orders (id int primary key, total numeric, note text, at timestamptz default now(), tags text[], doc jsonb);
    create table items (id int primary key, order_id int references orders, price numeric(10, 2), span int4range);
    create schema app;
    create table app.\"Log\" (id serial primary key, \"Line\" text);
    create view recent as select * from orders where id > 2;
    create function drop_everything() returns int language sql as 'delete from items returning 1';
    insert into orders select n, n * 10, 'note ' || n, now(), array['a', 'b'], '{\"k\": [1, 2]}' from generate_series(1, 5) n;
    insert into items select n, n, n, int4range(n, n + 3) from generate_series(1, 5) n;
    insert into app.\"Log\" (\"Line\") values ('x');
    create sequence s; select nextval('s');
    analyze;
";

/// Everything that a statement could have changed.
const STATE: &str = "
    select md5(string_agg(line, ';')) from (
        select o::text as line from orders o union all select i::text from items i union all select l::text from app.\"Log\" l
        union all select last_value::text from s union all select last_value::text from app.\"Log_id_seq\"
        union all select relname || relkind::text || coalesce(relacl::text, '') from pg_class where relnamespace not in (select oid from pg_namespace where nspname like 'pg_t%')
        union all select proname from pg_proc union all select rolname from pg_roles order by 1) all_of_it
";

/// Numbers from a seed: the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }

    /// A value, of whatever type suits the server.
    fn value(&mut self, depth: usize) -> String {
        let leaf = depth == 0 || self.roll(3) == 0;
        if leaf {
            return self
                .pick(&[
                    "o.id",
                    "id",
                    "total",
                    "'x'",
                    "1",
                    "null",
                    "tags",
                    "doc",
                    "now()",
                    "note",
                    "1.5",
                    "$$y$$",
                    "E'\\n'",
                    "true",
                    "current_date",
                    "o.*",
                    "interval '1 day'",
                    "date '2020-01-01'",
                    "array[1, 2]",
                    "'{}'::jsonb",
                    "U&'\\0061'",
                ])
                .to_owned();
        }
        let [a, b, c] = [0; 3].map(|_| self.value(depth - 1));
        match self.roll(24) {
            0 => format!("{a} + {b}"),
            1 => format!("({a} || {b})"),
            2 => format!("coalesce({a}, {b})"),
            3 => format!("case when {a} is null then {b} else {c} end"),
            4 => format!(
                "{}({a})",
                self.pick(&[
                    "lower",
                    "length",
                    "abs",
                    "to_jsonb",
                    "pg_typeof",
                    "jsonb_typeof",
                    "array_length",
                    "pg_catalog.upper",
                    "md5",
                    "count",
                    "max",
                    "array_agg",
                    "row_to_json"
                ])
            ),
            5 => format!(
                "{a}::{}",
                self.pick(&[
                    "text",
                    "int",
                    "numeric(10, 2)",
                    "varchar(3)[]",
                    "timestamp with time zone",
                    "jsonb"
                ])
            ),
            6 => format!("cast({a} as text)"),
            7 => format!(
                "{a} {} {b}",
                self.pick(&[
                    "=",
                    "<>",
                    "<",
                    ">=",
                    "like",
                    "not ilike",
                    "is distinct from",
                    "->>",
                    "@>",
                    "&&",
                    "~",
                    "and",
                    "or"
                ])
            ),
            8 => format!("{a} between {b} and {c}"),
            9 => format!("{a} in ({b}, {c})"),
            10 => format!("exists ({})", self.query(depth - 1)),
            11 => format!("({})", self.query(depth - 1)),
            12 => format!("{a} = any ({b})"),
            13 => format!("row({a}, {b}) is not null"),
            14 => format!("not {a}"),
            15 => format!("extract(epoch from {a})"),
            16 => format!("substring({a} from 1 for 2)"),
            17 => format!("trim(both 'x' from {a})"),
            18 => format!("count(*) filter (where {a}) over (partition by {b} order by {c})"),
            19 => format!("string_agg({a}::text, ',' order by {b})"),
            20 => format!("{a} at time zone 'UTC'"),
            21 => format!("{a} collate \"C\""),
            22 => format!("array({})", self.query(depth - 1)),
            // What is no query.
            _ => self
                .pick(&[
                    "nextval('s')",
                    "drop_everything()",
                    "setval('s', 9)",
                    "lo_create(0)",
                    "pg_notify('a', 'b')",
                    "set_config('a.b', 'c', false)",
                ])
                .to_owned(),
        }
    }

    fn source(&mut self, depth: usize) -> String {
        match self.roll(if depth == 0 { 4 } else { 9 }) {
            0..=1 => format!("orders {}", self.pick(&["o", "as o", "o(id, total)"])),
            2 => "app.\"Log\" o".to_owned(),
            3 => "only public.items as o".to_owned(),
            4 => format!("({}) o", self.query(depth - 1)),
            5 => format!(
                "orders o {} join items i on {}",
                self.pick(&["", "left", "full outer", "inner"]),
                self.value(depth - 1)
            ),
            6 => "orders o cross join lateral unnest(o.tags) with ordinality as u(v, n)".to_owned(),
            7 => "generate_series(1, 3) as o(id)".to_owned(),
            _ => "(orders o join items i using (id)) natural join app.\"Log\"".to_owned(),
        }
    }

    fn query(&mut self, depth: usize) -> String {
        let mut text = match self.roll(10) {
            0 => return format!("values ({}), ({})", self.value(depth.min(1)), self.value(0)),
            1 => return format!("table {}", self.pick(&["orders", "items", "only app.\"Log\""])),
            2 if depth > 0 => {
                let name = self.pick(&["o", "orders", "w"]);
                let kind = self.pick(&["", "materialized ", "not materialized "]);
                let inner = match self.roll(6) {
                    0 => "delete from items where false returning id".to_owned(),
                    1 => "insert into app.\"Log\" default values returning id".to_owned(),
                    _ => self.query(depth - 1),
                };
                return format!("with {name} as {kind}({inner}) select * from {name}");
            }
            _ => format!("select {}", self.pick(&["", "distinct ", "all "])),
        };
        text += &self.value(depth);
        text += self.pick(&["", " as a", " a", ", 1 b"]);
        if self.roll(12) == 0 {
            text += " into made";
        }
        if self.roll(6) > 0 {
            text += &format!(" from {}", self.source(depth));
        }
        if self.roll(2) == 0 {
            text += &format!(" where {}", self.value(depth.min(2)));
        }
        if self.roll(6) == 0 {
            text += self.pick(&[
                " group by 1",
                " group by rollup (id)",
                " group by grouping sets ((), (id)) having true",
            ]);
        }
        if self.roll(5) == 0 && depth > 0 {
            let other = self.query(depth - 1);
            text += &format!(
                " {} {other}",
                self.pick(&["union", "union all", "except", "intersect all"])
            );
        }
        text += self.pick(&[
            "",
            "",
            " order by 1 desc nulls last",
            " limit 2 offset 1",
            " fetch first 2 rows only",
            " for update",
            " for share of o nowait",
        ]);
        text
    }

    fn statement(&mut self) -> String {
        let query = |dice: &mut Self| {
            let depth = dice.roll(4);
            dice.query(depth)
        };
        match self.roll(14) {
            0 => format!("explain (costs off) {}", query(self)),
            1 => format!("explain analyze {}", query(self)),
            2 => format!("copy ({}) to stdout", query(self)),
            3 => format!("{}; {}", query(self), query(self)),
            4 => format!("{} /* ; delete from items */ -- '", query(self)),
            5 => format!("declare c cursor for {}; fetch 1 from c", query(self)),
            6 => format!("prepare p as {}; execute p; deallocate p", query(self)),
            _ => query(self),
        }
    }

    /// A text with some of its words changed: most are no statement any more.
    fn mutated(&mut self) -> String {
        let text = self.statement();
        let mut words: Vec<&str> = text.split(' ').collect();
        for _ in 0..=self.roll(2) {
            let at = self.roll(words.len());
            match self.roll(4) {
                0 => {
                    words.remove(at);
                }
                1 => words.insert(
                    at,
                    self.pick(&[
                        "delete", "from", "(", ")", ";", "'", "--\n", "/*", "*/", "into", "as",
                        ",", "update", "for", "select", "$$", "union", "table", "over", "only",
                        "lateral",
                    ]),
                ),
                2 => {
                    let other = self.roll(words.len());
                    words.swap(at, other);
                }
                _ => {
                    words[at] = self.pick(&[
                        "orders",
                        "drop_everything()",
                        "1",
                        "select",
                        "with",
                        "is",
                        "not",
                        "operator",
                        "s",
                        "\"o\"",
                        ".",
                    ])
                }
            }
            if words.is_empty() {
                break;
            }
        }
        words.join(" ")
    }
}

#[test]
fn what_is_taken_for_a_query_changes_nothing_at_a_real_server() {
    let server = Server::start();
    let mut session = server.connect();
    session.run(SCHEMA);
    let before = session.run(STATE).rows;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let texts: Vec<String> = (0..4_000)
        .map(|number| if number % 3 == 0 { dice.mutated() } else { dice.statement() })
        .collect();
    let (mut queries, mut carried_out, mut wrong) = (0, 0, Vec::new());
    for text in &texts {
        let Ok(statements) = read(text) else { continue };
        if statements.effect() > Effect::Read {
            continue;
        }
        queries += 1;
        session.run("begin read only");
        let answer = session.ask(text);
        session.ask("rollback");
        session.ask("deallocate all");
        match answer.failed.as_deref() {
            // read_only_sql_transaction, and what locks and writes fail with on the way there
            Some("25006") => wrong.push(format!("it writes: {text}")),
            // What the grammar does not have is taken for less than nothing, and must be rare among what is not mutated.
            Some(_) => {}
            None => {
                carried_out += 1;
                if answer.completed != statements.iter().len() {
                    wrong.push(format!(
                        "{} statements, not {}: {text}",
                        answer.completed,
                        statements.iter().len()
                    ));
                }
            }
        }
        // And as it would be sent: nothing keeps it from writing but itself.
        session.ask(text);
        session.ask("rollback");
        session.ask("deallocate all");
    }
    assert_eq!(session.run(STATE).rows, before, "a query has changed something");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!(
        "{} texts, {queries} taken for queries, {carried_out} of them carried out",
        texts.len()
    );
    assert!(queries >= 1_000 && carried_out >= 400, "{queries} queries, {carried_out} carried out");
}

#[test]
fn what_writes_at_a_real_server_is_never_taken_for_a_query() {
    let server = Server::start();
    let mut session = server.connect();
    session.run(SCHEMA);
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut writes = 0;
    for number in 0..4_000 {
        let text = if number % 2 == 0 { dice.mutated() } else { dice.statement() };
        session.run("begin read only");
        let answer = session.ask(&text);
        session.ask("rollback");
        session.ask("deallocate all");
        if answer.failed.as_deref() == Some("25006") {
            writes += 1;
            if let Ok(statements) = read(&text) {
                assert!(statements.effect() > Effect::Read, "{text}: {}", answer.message);
            }
        }
    }
    println!("{writes} of the texts would have written");
    assert!(writes >= 80, "{writes} of the texts would have written");
}

/// Every `Relation Name` of a plan.
fn planned(plan: &serde_json::Value, found: &mut BTreeSet<String>) {
    match plan {
        serde_json::Value::Array(all) => all.iter().for_each(|one| planned(one, found)),
        serde_json::Value::Object(members) => {
            if let (Some(name), Some(schema)) =
                (members.get("Relation Name"), members.get("Schema"))
            {
                found.insert(format!("{}.{}", schema.as_str().unwrap(), name.as_str().unwrap()));
            }
            members.values().for_each(|one| planned(one, found));
        }
        _ => {}
    }
}

#[test]
fn every_relation_that_a_real_server_plans_to_read_is_named() {
    let server = Server::start();
    let mut session = server.connect();
    session.run(SCHEMA);
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let mut compared = 0;
    for _ in 0..4_000 {
        let depth = dice.roll(4);
        let text = dice.query(depth);
        let Ok(statements) = read(&text) else { continue };
        let [statement] = statements.iter().collect::<Vec<_>>()[..] else { continue };
        session.run("begin");
        let answer = session.ask(&format!("explain (verbose, format json) {text}"));
        session.ask("rollback");
        if answer.failed.is_some() || answer.rows.is_empty() {
            continue;
        }
        let mut found = BTreeSet::new();
        planned(&serde_json::from_str(&answer.rows.join("\n")).unwrap(), &mut found);
        let named: Vec<String> = statement
            .tables()
            .into_iter()
            .map(|name| name.replace('"', ""))
            .map(|name| if name.contains('.') { name } else { format!("public.{name}") })
            .collect();
        for relation in &found {
            assert!(named.contains(relation), "{text}: {relation} is not among {named:?}");
        }
        compared += usize::from(!found.is_empty());
    }
    println!("{compared} plans compared");
    assert!(compared >= 500, "{compared} plans compared");
}

#[test]
fn the_servers_own_parser_finds_nothing_that_was_not_named() {
    let mut dice = Dice(0x0f1e_2d3c_4b5a_6978);
    let lines = (0..6_000).map(|number| {
        let text = if number % 2 == 0 { dice.mutated() } else { dice.statement() };
        let told = |statements: &Statements| {
            let each = statements.iter().map(|statement| {
                json!({"kind": statement.kind, "effect": statement.effect.word(), "tables": statement.tables(),
                    "functions": statement.functions})
            });
            each.collect::<Vec<_>>()
        };
        let line = match read(&text) {
            Ok(statements) => json!({"text": text, "statements": told(&statements)}),
            Err(_) => json!({"text": text}),
        };
        format!("{line}\n")
    });
    let input: String = lines.collect();
    let mut child = Command::new("node")
        .arg("statements.mjs")
        .current_dir(clients())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to_it = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || to_it.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let differences = result["differences"].as_array().unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
    let [agreed, undecided] = ["agreed", "undecided"].map(|name| result[name].as_u64().unwrap());
    println!("{result}");
    assert!(agreed >= 2_000 && undecided * 50 < agreed, "{agreed} agreed, {undecided} undecided");
}

#[test]
fn the_functions_that_are_taken_for_harmless_are_so_in_the_catalogue() {
    let server = Server::start();
    let mut session = server.connect();
    // Of every name: whether SQL can call it, and whether each one that it can is immutable or stable.
    let catalogue = session.run(
        "select proname || ' ' || bool_and(provolatile <> 'v') from pg_proc
         where pronamespace = 'pg_catalog'::regnamespace and not proargtypes::oid[] && array['internal', 'cstring']::regtype[]::oid[]
         group by proname",
    );
    let mut stable = 0;
    for row in &catalogue.rows {
        let (name, calm) = row.split_once(' ').unwrap();
        if harmless(name) {
            let known = HARMLESS_IN_SPITE_OF_VOLATILITY.contains(&name);
            assert!(calm == "true" || known, "{name} is volatile");
            stable += 1;
        }
    }
    assert!(stable > 500, "{stable} harmless functions are there");
    let there =
        |name: &&str| catalogue.rows.iter().any(|row| row.split_once(' ').unwrap().0 == *name);
    for name in HARMLESS_IN_SPITE_OF_VOLATILITY.iter().chain(&WRITING) {
        assert!(there(name), "{name} is not there");
    }
    for grave in [
        "lo_import",
        "pg_read_file",
        "pg_terminate_backend",
        "query_to_xml",
        "set_config",
        "ts_stat",
    ] {
        assert!(there(&grave) && !harmless(grave) && !WRITING.contains(&grave), "{grave}");
    }
}
