//! A real PostgreSQL behind a real edge, and clients that others wrote, unmodified: only their URL is the edge's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Deref;
use std::process::{Child, Command, Output, Stdio};

use countersign_tests::database::{EdgeBefore, HOST, PASSWORD, Postgres, ROLE};
use countersign_tests::eventually;
use countersign_tests::invariants::holds;
use countersign_tests::peers::{clients, tools};
use serde_json::{Value, json};

const POLICY: &str = r#"
version = 1

[[rule]]
name = "connect"
protocol = "postgres"
host = "db.example.test"
databases = ["shop"]
sql = ["connect"]
then = "allow"
credential = "shop-db"

[[rule]]
name = "work"
protocol = "postgres"
host = "db.example.test"
sql = ["session", "read", "write"]
when = "sql.statements.all(s, s.effect != 'write' || s.kind in ['copy', 'insert', 'update'])"
then = "allow"

[[rule]]
name = "delete rows"
protocol = "postgres"
host = "db.example.test"
sql = ["write"]
when = "!sql.statements.all(s, s.effect != 'write' || s.kind in ['copy', 'insert', 'update'])"
then = "approve"
hold = "60s"

[[rule]]
name = "change the schema"
protocol = "postgres"
host = "db.example.test"
sql = ["schema"]
then = "approve"
hold = "60s"

[[rule]]
name = "reach beyond the data"
protocol = "postgres"
host = "db.example.test"
sql = ["danger", "undecidable"]
then = "deny"
reason = "roles, code, files and programs are for people"
"#;

struct Setting(EdgeBefore);

impl Deref for Setting {
    type Target = EdgeBefore;

    fn deref(&self) -> &EdgeBefore {
        &self.0
    }
}

/// A database with orders in it, and an agent's URL for it.
fn setting() -> Setting {
    setting_with(POLICY)
}

fn setting_with(policy: &str) -> Setting {
    let server = Postgres::start();
    server.says(
        "create table orders (id int primary key, name text); insert into orders values (1, 'one'), (2, 'two');
         create table old_orders (id int);
         create function wipe() returns int language sql as 'delete from orders returning 1'",
    );
    Setting(EdgeBefore::start(server, policy, "robot", &[]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Setting {
    fn python(&self, script: &str, deeds: &[&str]) -> Command {
        let mut command = Command::new(tools().join("python/bin/python"));
        command
            .arg(clients().join(script))
            .arg(&self.url)
            .args(deeds)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The one approval that waits, while this client does.
    fn pending(&self, client: &mut Child) -> String {
        eventually("an approval that is pending", || {
            if client.try_wait().unwrap().is_some() {
                let said = client.stdout.take().map(|out| std::io::read_to_string(out).unwrap());
                panic!("the client ended before it waited: {said:?}");
            }
            let list = self.world.json(&["approval", "list", "--state", "pending"]);
            let waiting = list.as_array().unwrap();
            assert!(waiting.len() <= 1, "{list}");
            Some(waiting.first()?["id"].as_str()?.to_owned())
        })
    }

    fn approve(&self, client: &mut Child) -> String {
        let id = self.pending(client);
        self.world.ok(&["approval", "approve", &id]);
        id
    }

    fn deny(&self, client: &mut Child) -> String {
        let id = self.pending(client);
        self.world.ok(&["approval", "deny", &id]);
        id
    }

    /// The real password is nowhere where an agent or an operator would see it.
    fn keeps_its_secret(&self, said: &Output) {
        for bytes in [&said.stdout, &said.stderr] {
            assert!(!holds(bytes, PASSWORD), "{}", text(bytes));
        }
        let log = self.log();
        assert!(!log.is_empty() && !holds(log.as_bytes(), PASSWORD));
        assert!(!holds(self.world.log().as_bytes(), PASSWORD));
        assert!(!self.url.contains(PASSWORD));
    }
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let all = text(&output.stdout);
    let last = all.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|why| panic!("{why}: {all}"))
}

#[test]
fn psql_reads_and_its_drop_waits_shows_itself_and_happens_only_when_it_is_approved() {
    let setting = setting();
    let read = setting.psql(&["-c", "select name from orders order by id"]).output().unwrap();
    assert_eq!(text(&read.stdout), "one\ntwo\n", "{}", text(&read.stderr));
    assert!(setting.world.approvals().is_empty(), "nobody was asked");

    let mut client = setting.psql(&["-c", "DROP TABLE old_orders"]).spawn().unwrap();
    let id = setting.pending(&mut client);
    let card = setting.world.ok(&["approval", "show", &id]);
    assert!(card.contains("Drop table old_orders"), "{card}");
    assert!(card.contains(HOST) && card.contains(ROLE), "{card}");
    assert!(setting.server.has("old_orders"), "nothing has happened yet");
    setting.world.ok(&["approval", "approve", &id]);
    let done = client.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains(&id), "it was told under which approval it waits");
    assert!(!setting.server.has("old_orders"), "and now it has");
    let told = eventually("it is completed", || {
        let told = setting.world.json(&["approval", "show", &id]);
        (told["state"] == "completed").then_some(told)
    });
    assert_eq!(told["rule"], "change the schema", "{told}");

    let mut client = setting.psql(&["-c", "DROP TABLE orders"]).spawn().unwrap();
    let id = setting.deny(&mut client);
    let refused = client.wait_with_output().unwrap();
    assert!(!refused.status.success());
    let said = text(&refused.stderr);
    assert!(said.contains("A person said no") && said.contains(&id), "{said}");
    assert!(setting.server.has("orders"), "never after a denial");
    setting.keeps_its_secret(&refused);
}

#[test]
fn what_is_smuggled_does_not_happen() {
    let setting = setting();
    // What is asked about, and denied.
    for smuggled in [
        "/* select */ DROP TABLE orders",
        "-- select 1\nDROP TABLE orders",
        "select 1; drop table orders",
        "select $$;$$; drop table orders; select $a$$a$",
        "select 'it''s'; drop table orders --'",
        "with gone as (delete from orders returning *) select * from gone",
        "explain analyze delete from orders",
        "prepare p as delete from orders",
    ] {
        let mut client = setting.psql(&["-c", smuggled]).spawn().unwrap();
        setting.deny(&mut client);
        assert!(!client.wait_with_output().unwrap().status.success(), "{smuggled}");
    }
    // What is not even asked about.
    for smuggled in [
        "do $$ begin delete from orders; end $$",
        "select wipe()",
        "copy orders to program 'cat > /tmp/orders'",
        "select set_config('search_path', 'evil', false)",
        "set role postgres",
        "select E'\\'; drop table orders --'; drop table orders; select '",
    ] {
        let refused = setting.psql(&["-c", smuggled]).output().unwrap();
        assert!(!refused.status.success(), "{smuggled}");
        let said = text(&refused.stderr);
        assert!(said.contains("policy does not allow it"), "{smuggled}: {said}");
    }
    // Other values are another request: the approval of one is none of the other.
    let mut client = setting.python("postgres_psycopg.py", &["rebind"]).spawn().unwrap();
    let first = setting.approve(&mut client);
    eventually("the first is over", || {
        (setting.world.json(&["approval", "show", &first])["state"] == "completed").then_some(())
    });
    let second = setting.deny(&mut client);
    assert_ne!(first, second);
    let done = json_of(&client.wait_with_output().unwrap());
    assert_eq!(done[0][0], "DELETE 1");
    assert_eq!(done[0][1]["sqlstate"], "42501", "{done}");
    assert_eq!(setting.server.says("select id from orders order by id"), ["2"]);
}

#[test]
fn psycopg_does_all_that_it_does_without_the_edge() {
    let setting = setting();
    let deeds = ["read", "pipeline", "prepared", "copy", "error"];
    let done = setting.python("postgres_psycopg.py", &deeds).output().unwrap();
    let said = json_of(&done);
    assert_eq!(said[0], json!([["two"]]));
    assert_eq!(said[1], json!((0..50).collect::<Vec<_>>()));
    assert_eq!(said[2], 3 * 2 * (0..30).sum::<i32>());
    assert_eq!(said[3], json!(["1", "2", "10", "11"]));
    assert_eq!(said[4], json!(["42703", [[1]]]));
    assert!(setting.world.approvals().is_empty(), "nobody was asked");
    setting.keeps_its_secret(&done);
}

#[test]
fn pgbench_runs_in_every_protocol_that_it_knows() {
    let setting = setting();
    setting.server.says(
        "create table pgbench_accounts (aid int primary key, bid int, abalance int, filler char(84));
         create table pgbench_branches (bid int primary key, bbalance int, filler char(88));
         create table pgbench_tellers (tid int primary key, bid int, tbalance int, filler char(84));
         create table pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
         insert into pgbench_branches values (1, 0, '');
         insert into pgbench_tellers select n, 1, 0, '' from generate_series(1, 10) n;
         insert into pgbench_accounts select n, 1, 0, '' from generate_series(1, 100000) n",
    );
    for protocol in ["simple", "extended", "prepared"] {
        let done = Command::new("pgbench")
            .args(["-n", "-c", "2", "-t", "20", "-M", protocol, &setting.url])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(done.status.success(), "{protocol}: {}", text(&done.stderr));
        assert!(text(&done.stdout).contains("actually processed: 40/40"), "{}", text(&done.stdout));
    }
    assert_eq!(setting.server.says("select count(*) from pgbench_history"), ["120"]);
    assert!(setting.world.approvals().is_empty(), "nobody was asked");
}

#[test]
fn an_orm_works_as_it_is() {
    let setting = setting();
    setting.server.says(
        "create table customers (id serial primary key, name text not null);
         create table invoices (id serial primary key, total int not null, customer_id int not null references customers)",
    );
    let done = setting.python("postgres_orm.py", &[]).output().unwrap();
    let said = json_of(&done);
    assert_eq!(said[0], json!([30, 120]));
    assert_eq!(said[1], json!(["Ada L."]));
    assert!(said[2].as_array().unwrap().contains(&json!("invoices")), "{said}");
    assert!(setting.world.approvals().is_empty(), "nobody was asked");
}

#[test]
fn node_postgres_reads_and_its_delete_waits() {
    let setting = setting();
    let node = |text: &str, value: &str| {
        let mut command = Command::new("node");
        command
            .arg(clients().join("postgres_node.mjs"))
            .args([&setting.url, text, value])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let done = node("select name from orders where id = $1", "2").output().unwrap();
    assert_eq!(
        json_of(&done),
        json!({"rows": [{"name": "two"}], "again": [{"name": "two"}], "command": "SELECT"})
    );
    let mut client = node("delete from orders where id = $1", "2").spawn().unwrap();
    setting.approve(&mut client);
    // The same once more is asked about once more.
    let done = {
        eventually("the row is gone", || {
            (setting.server.says("select count(*) from orders") == ["1"]).then_some(())
        });
        setting.deny(&mut client);
        client.wait_with_output().unwrap()
    };
    assert_eq!(json_of(&done)["code"], "42501");
}

#[test]
fn a_held_statement_holds_its_transaction_and_an_identical_one_attaches_to_its_approval() {
    let setting = setting_with(&POLICY.replace("hold = \"60s\"", "hold = \"2s\""));
    let mut client = setting.python("postgres_psycopg.py", &["transaction"]).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let before: Value = serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"));
    assert_eq!(before[0], "INSERT 0 1");
    assert_eq!(before[1]["sqlstate"], "57014", "{before}");
    assert!(before[1]["hint"].as_str().unwrap().contains("identical"), "{before}");
    assert_eq!(before[2], "INTRANS", "the transaction is as the server has it");
    let id = setting.pending(&mut client);
    let card = setting.world.ok(&["approval", "show", &id]);
    assert!(card.contains("open"), "the transaction is: {card}");
    assert_eq!(setting.server.says("select count(*) from orders"), ["2"], "nothing is committed");
    setting.world.ok(&["approval", "approve", &id]);
    client.stdin.take().unwrap().write_all(b"\n").unwrap();
    line.clear();
    lines.read_line(&mut line).unwrap();
    let after: Value = serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"));
    assert_eq!(after[0][3], "DROP TABLE", "{after}");
    assert!(client.wait().unwrap().success());
    assert_eq!(setting.server.says("select count(*) from orders"), ["3"]);
    assert!(!setting.server.has("old_orders"));
    assert_eq!(setting.world.approvals().len(), 1, "one question, once");
}

#[test]
fn cancelling_psql_takes_the_question_back() {
    let setting = setting();
    let mut client = setting.psql(&["-c", "DROP TABLE orders"]).spawn().unwrap();
    let id = setting.pending(&mut client);
    let pid = rustix::process::Pid::from_raw(client.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let done = client.wait_with_output().unwrap();
    assert!(
        text(&done.stderr).contains("canceling statement due to user request"),
        "{}",
        text(&done.stderr)
    );
    assert!(setting.server.has("orders"));
    // Nobody waits for it any more: that it is approved later makes nothing happen.
    setting.world.ok(&["approval", "approve", &id]);
    assert_eq!(setting.world.json(&["approval", "show", &id])["state"], "approved");
    assert!(setting.server.has("orders"));
}

impl Setting {
    /// What an approval that waits says of the tables, and a no to it: the client's own words about that.
    fn figure(&self, mut client: Child) -> (Option<String>, String) {
        let id = self.pending(&mut client);
        let card = self.world.ok(&["approval", "show", &id]);
        self.world.ok(&["approval", "deny", &id]);
        let said = client.wait_with_output().unwrap();
        let line = card
            .lines()
            .map(str::trim)
            .find(|line| line.contains("rders") && line.contains(" hold"));
        (line.map(str::to_owned), text(&said.stderr) + &text(&said.stdout))
    }

    fn figure_of(&self, statement: &str) -> Option<String> {
        self.figure(self.psql(&["-c", statement]).spawn().unwrap()).0
    }
}

#[test]
fn a_card_says_how_many_rows_the_tables_hold_and_the_server_is_asked_without_a_trace() {
    let setting = setting();
    let unknown = "how many rows old_orders holds is not known";
    let said = setting.figure_of("drop table old_orders").unwrap();
    assert!(said.contains(unknown), "{said}");
    setting.server.says(
        "insert into orders select n, 'more' from generate_series(3, 1500) n; analyze orders;
         create table \"Old orders\" (id int, at int) partition by range (at);
         create table part_1 partition of \"Old orders\" for values from (0) to (100);
         create table part_2 partition of \"Old orders\" for values from (100) to (200);
         insert into \"Old orders\" select n, n from generate_series(0, 119) n;
         analyze \"Old orders\"",
    );
    let about = "orders holds about 1,500 rows (the server's own estimate)";
    for (statement, all) in [
        ("delete from orders where id = 1", false),
        ("delete from public.orders where id = 1", false),
        ("drop table orders", true),
        ("truncate orders", true),
        ("delete from orders", true),
        ("begin; delete from orders; commit", true),
    ] {
        let said = setting.figure_of(statement).unwrap_or_else(|| panic!("{statement}"));
        assert!(said.contains(about), "{statement}: {said}");
        assert_eq!(said.contains("this is about all of them"), all, "{statement}: {said}");
    }
    let said = setting.figure_of("truncate \"Old orders\"").unwrap();
    assert!(said.contains("120 rows"), "the partitions hold them: {said}");
    // In the extended protocol: one that is prepared in its own row, and one that was before.
    let mut node = Command::new("node");
    node.arg(clients().join("postgres_node.mjs"))
        .args([&setting.url, "delete from orders where id = $1", "7"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (said, told) = setting.figure(node.spawn().unwrap());
    assert!(said.unwrap().contains(about) && told.contains("42501"), "{told}");
    let mut client = setting.python("postgres_psycopg.py", &["rebind"]).spawn().unwrap();
    let first = setting.pending(&mut client);
    assert!(setting.world.ok(&["approval", "show", &first]).contains(about));
    setting.world.ok(&["approval", "approve", &first]);
    let (second, told) = {
        eventually("the first is over", || {
            let state = setting.world.json(&["approval", "show", &first]);
            (state["state"] == "completed").then_some(())
        });
        setting.figure(client)
    };
    assert!(second.unwrap().contains(about) && told.contains("DELETE 1"), "{told}");
    // Nothing is left of what was asked.
    let client = setting
        .psql(&["-c", "delete from orders where id = 3"])
        .args(["-c", "select 'left: ' || count(*) from pg_prepared_statements"])
        .spawn()
        .unwrap();
    let (said, told) = setting.figure(client);
    assert!(said.unwrap().contains(about) && told.contains("left: 0"), "{told}");
}

#[test]
fn functions_and_operators_of_the_agents_own_have_no_say_in_the_estimate() {
    let setting = setting();
    let mut evil =
        "insert into orders select n, 'more' from generate_series(3, 700) n; analyze orders;
         create schema evil; create sequence evil.touched;"
            .to_owned();
    for (name, arguments, returns) in [
        ("to_regclass", "text", "regclass"),
        ("pg_table_is_visible", "oid", "bool"),
        ("current_setting", "text", "text"),
        ("eq", "name, name", "bool"),
        ("eq", "oid, oid", "bool"),
        ("eq", "\"char\", \"char\"", "bool"),
        ("eq", "int4, int4", "bool"),
        ("eq", "real, float8", "bool"),
        ("less", "real, float8", "bool"),
        ("less", "real, int4", "bool"),
        ("more", "bigint, int4", "bool"),
    ] {
        evil += &format!(
            "create function evil.{name}({arguments}) returns {returns} language plpgsql as
             $$begin perform nextval('evil.touched'); return null; end$$;"
        );
        let sign = match name {
            "eq" => "=",
            "less" => "<",
            "more" => ">",
            _ => continue,
        };
        let (left, right) = arguments.split_once(", ").unwrap();
        evil += &format!(
            "create operator evil.{sign} (function = evil.{name}, leftarg = {left}, rightarg = {right});"
        );
    }
    evil += "create aggregate evil.sum(float8) (sfunc = float8pl, stype = float8, initcond = '7');
        create table evil.pg_class (oid oid, relname name);";
    setting.server.says(&evil);
    setting.server.says(&format!("alter role {ROLE} set search_path = evil, public, pg_catalog"));
    let said = setting.figure_of("delete from orders where id = 1").unwrap();
    assert!(said.contains("orders holds about 700 rows"), "{said}");
    assert_eq!(setting.server.says("select is_called from evil.touched"), ["f"]);
    // An unqualified name is what it would be for the statement.
    setting.server.says("create table evil.orders (id int); insert into evil.orders values (1); analyze evil.orders");
    let said = setting.figure_of("delete from orders where true").unwrap();
    assert!(said.contains("orders holds about 1 row "), "{said}");
    assert_eq!(setting.server.says("select is_called from evil.touched"), ["f"]);
}

#[test]
fn a_transaction_in_which_a_statement_was_refused_is_as_it_was() {
    let setting = setting();
    setting.server.says("analyze orders");
    let client = setting
        .psql(&["-c", "begin", "-c", "delete from orders"])
        .args(["-c", "set transaction isolation level serializable"])
        .args([
            "-c",
            "show transaction_isolation",
            "-c",
            "select count(*) from orders",
            "-c",
            "commit",
        ])
        .spawn()
        .unwrap();
    let (figure, said) = setting.figure(client);
    assert_eq!(figure, None, "within a transaction the server is not asked");
    assert!(said.contains("serializable\n2\nCOMMIT"), "{said}");
}

#[test]
fn what_a_deferred_constraint_takes_back_is_reported_as_failed() {
    let setting = setting();
    setting.server.says(
        "create table lines (order_id int references orders deferrable initially deferred);
         insert into lines values (1)",
    );
    let mut node = Command::new("node");
    node.arg(clients().join("postgres_node.mjs"))
        .args([&setting.url, "delete from orders where id = $1", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut client = node.spawn().unwrap();
    let id = setting.approve(&mut client);
    let said = json_of(&client.wait_with_output().unwrap());
    assert_eq!(said["code"], "23503", "{said}");
    assert_eq!(setting.server.says("select count(*) from orders"), ["2"], "nothing is gone");
    let told = eventually("the outcome", || {
        let told = setting.world.json(&["approval", "show", &id]);
        (told["state"] == "completed").then_some(told)
    });
    assert_eq!(told["outcome"]["status"], 400, "{told}");
}
