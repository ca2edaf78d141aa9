//! Each kind of statement: its effect, what it reads, writes and calls.

use countersign_sql::{Effect, KINDS, Statement, read};

fn one(text: &str) -> Statement {
    let read = read(text).unwrap_or_else(|why| panic!("{text}: {why}"));
    let mut all = read.iter().cloned();
    let (Some(statement), None) = (all.next(), all.next()) else { panic!("{text}: not one") };
    assert!(KINDS.contains(&statement.kind), "{} is no kind", statement.kind);
    statement
}

/// `kind effect r:read,read w:written f:called`, what is empty left out.
fn short(text: &str) -> String {
    let statement = one(text);
    let mut short = format!("{} {}", statement.kind, statement.effect.word());
    for (mark, names) in
        [("r", &statement.reads), ("w", &statement.writes), ("f", &statement.functions)]
    {
        if !names.is_empty() {
            short.push_str(&format!(" {mark}:{}", names.join(",")));
        }
    }
    short
}

fn check(table: &[(&str, &str)]) {
    for (text, expected) in table {
        assert_eq!(short(text), *expected, "{text}");
    }
}

#[test]
fn queries_read_what_they_name() {
    check(&[
        ("select", "select read"),
        ("SELECT 1", "select read"),
        ("select * from Orders o where id = $1", "select read r:orders"),
        (
            "select o.* , x as y from public.orders as o (a, b), app.\"Order\" b",
            "select read r:app.\"Order\",public.orders",
        ),
        ("TABLE orders", "select read r:orders"),
        ("TABLE ONLY orders", "select read r:orders"),
        ("VALUES (1, 'a'), (2, 'b') ORDER BY 1 LIMIT 1", "select read"),
        (
            "(select a from b) union all (table c) order by 1 offset 2 rows fetch first 3 rows only",
            "select read r:b,c",
        ),
        (
            "select a from t join u using (id) left join v on v.id = u.id cross join w natural join x",
            "select read r:t,u,v,w,x",
        ),
        ("select 1 from a join b join c on true on true", "select read r:a,b,c"),
        ("select * from ((a join b on true) as j cross join (select 1) k)", "select read r:a,b"),
        ("select * from ((select 1) union (select 2 from z)) q", "select read r:z"),
        (
            "select * from lateral (select * from a) x, lateral unnest(x.y) with ordinality as u(v, n)",
            "select read r:a f:unnest",
        ),
        (
            "select * from rows from (generate_series(1,2), unnest(array[1,2])) as r(a,b)",
            "select read f:generate_series,unnest",
        ),
        (
            "select * from json_to_recordset('[]') as x(a int, b text collate \"C\")",
            "select read f:json_to_recordset",
        ),
        ("select * from only (orders)", "select read r:orders"),
        ("select * from orders tablesample system (10) repeatable (1)", "select read r:orders"),
        ("select distinct on (a, b) a from t", "select read r:t"),
        (
            "select a, count(*) from t group by rollup (a), cube (b, c), grouping sets ((), (a)) having count(*) > 1",
            "select read r:t f:count",
        ),
        (
            "select sum(x) over (partition by a order by b desc nulls last rows between unbounded preceding and 1 following exclude ties) from t",
            "select read r:t f:sum",
        ),
        ("select rank() over w from t window w as (order by a)", "select read r:t f:rank"),
        (
            "select percentile_cont(0.5) within group (order by x) filter (where x > 0) from t",
            "select read r:t f:percentile_cont",
        ),
        ("select string_agg(distinct a, ',' order by a) from t", "select read r:t f:string_agg"),
        (
            "with a as (select * from b), c as materialized (select * from a) select * from a, c, d",
            "select read r:b,d",
        ),
        (
            "with recursive t(n) as (values (1) union all select n + 1 from t where n < 9) search depth first by n set o select * from t",
            "select read",
        ),
        ("with t as (select * from t) select * from t", "select read r:t"),
        ("with t as (select 1) select * from public.t, \"t\"", "select read r:public.t"),
        ("(with t as (select 1) select * from t) union select * from t", "select read r:t"),
        (
            "select exists (select 1 from a), (select b from c), array(select d from e), x in (select f from g), y = any (select h from i)",
            "select read r:a,c,e,g,i",
        ),
        ("select 1 as \"select\", 2 delete_me", "select read"),
        ("select for_share, \"update\" from t for read only", "select read r:t"),
    ]);
}

#[test]
fn values_are_read_in_all_their_forms() {
    for value in [
        "1 + 2 * -3 ^ 4 % 5",
        "a AND NOT b OR c IS NOT NULL AND d IS DISTINCT FROM e",
        "a::int::numeric(10, 2)::text[]::varchar(3)[]",
        "cast(a as timestamp with time zone) at time zone 'UTC'",
        "timestamp '2020-01-01' + interval '1' day - interval(3) '1 second' + time with time zone '1:00'",
        "date '2020-01-01' - int '1' + double precision '1.5' + numeric(3) '1' + bit varying(3) '1'",
        "a between symmetric 1 and 2 and b not between 3 and 4",
        "a not in (1, 2, 3) or b in ((1), (2))",
        "a like 'x%' escape '!' or b not ilike all (array['a']) or c similar to 'd'",
        "case when a then 1 when b then 2 else 3 end",
        "case a when 1 then 'x' end || 'y'",
        "coalesce(a, nullif(b, c), greatest(1, 2), least(3, 4))",
        "extract(epoch from a) + extract('year' from b)",
        "overlay('a' placing 'b' from 1 for 2) || substring(a from 2 for 3) || substring(a, 2) || trim(both 'x' from y) || trim(z)",
        "position('a' in 'b') + normalize('a', nfc)::int",
        "substring(a similar 'x' escape '#')",
        "row(1, 2) = (3, 4) and row() is null",
        "array[[1, 2], [3, 4]][1][1:2] || array[]::int[]",
        "a.b.c[1].d + ($1).x + $2[3] + (t).*",
        "a @> b and a <-> b < 1 and ~ c and !! d and a ?| b",
        "a operator(pg_catalog.+) b and operator(-) c",
        "x collate \"C\" < y collate pg_catalog.\"default\"",
        "current_date + current_time(3) + localtimestamp || current_user || session_user || current_schema",
        "a is true and b is not unknown and c is document and d is nfc normalized and e is json object with unique keys",
        "(a, b) overlaps (c, d) or a isnull or b notnull",
        "make_interval(days => 3, hours := 2)",
        "concat(variadic array['a', 'b'])",
        "E'a\\'b' || U&'d\\0061t' || U&'x!0061' uescape '!' || $$it's$$ || $q$a$$b$q$ || b'01' || x'1F' || N'n'",
        "'a' 'b'".split_once(' ').map(|_| "'a'\n  -- on\n 'b'").unwrap(),
        "1.5e10 + .5 + 1. + 1e-3",
        "collation for (a)",
        "((select 1) union (select 2))",
        "((select 1) + 2, 3)",
        "grouping(a, b)",
        "values.a + \"values\".b",
        "treat(a as int)",
        "interval + date",
    ] {
        let statement = one(&format!("select {value} from t"));
        assert_eq!(statement.effect, Effect::Read, "{value}: {:?}", statement.functions);
        assert_eq!(statement.reads, ["t"], "{value}");
    }
}

#[test]
fn changes_write_what_they_name_and_read_the_rest() {
    check(&[
        (
            "insert into orders (id, a.b, c[1]) values (1, default, 2) returning id as x, *",
            "insert write w:orders",
        ),
        ("insert into orders default values", "insert write w:orders"),
        (
            "insert into orders as o select * from staging on conflict (id) where a do update set n = excluded.n where o.n < 3",
            "insert write r:staging w:orders",
        ),
        ("insert into orders (select * from a)", "insert write r:a w:orders"),
        (
            "insert into orders overriding system value table a on conflict on constraint k do nothing",
            "insert write r:a w:orders",
        ),
        (
            "insert into t values (1) on conflict (lower(a) collate \"C\" text_ops) do nothing",
            "insert write w:t f:lower",
        ),
        (
            "update only public.orders * as o set a = 1, (b, c) = (select x, y from z), d[1] = default from f where o.id = f.id",
            "update write r:f,z w:public.orders",
        ),
        ("update orders set a = nextval('s')", "update write w:orders f:nextval"),
        (
            "delete from orders o using items i where o.id = i.id returning *",
            "delete write r:items w:orders",
        ),
        ("delete from orders where current of c", "delete write w:orders"),
        (
            "merge into t using s on t.id = s.id when matched and s.x then update set a = 1 when not matched by target then insert (a) values (2) when not matched by source then delete when matched then do nothing returning t.*",
            "merge write r:s w:t",
        ),
        ("with gone as (delete from a returning *) select * from gone", "select write w:a"),
        (
            "with x as (insert into log values (1)), y as (update z set a = 1) table b",
            "select write r:b w:log,z",
        ),
        ("with x as (select 1) insert into t select * from x", "insert write w:t"),
        ("with o as (select 1) update o set a = 1", "update write w:o"),
        ("select * from orders for update of orders skip locked", "select write r:orders"),
        ("select * from orders for no key update", "select write r:orders"),
        ("select (select 1 from a for share)", "select write r:a"),
        ("select * into temp table copy from orders", "select schema r:orders w:copy"),
    ]);
    assert!(one("delete from a where b").has_where && !one("delete from a").has_where);
    assert!(!one("with x as (update a set b = 1) delete from c where d").has_where);
    assert!(one("select 1 from a where b").has_where);
    assert!(!one("select (select 1 from a where b)").has_where);
}

#[test]
fn functions_count_as_what_is_known_of_them() {
    check(&[
        (
            "select lower(a), pg_catalog.upper(b), \"length\"(c)",
            "select read f:length,lower,pg_catalog.upper",
        ),
        (
            "select gen_random_uuid(), random(), clock_timestamp()",
            "select read f:clock_timestamp,gen_random_uuid,random",
        ),
        (
            "select substring(a, 1), substring(b from 1), overlay(c placing d from 1)",
            "select read f:substring",
        ),
        ("select nextval('s'), setval('s', 1)", "select write f:nextval,setval"),
        ("select pg_advisory_lock(1)", "select write f:pg_advisory_lock"),
        (
            "select left('a', 1), right('b', 1), replace('c', 'd', 'e')",
            "select read f:\"left\",\"right\",replace",
        ),
        ("select app.lower(a)", "select danger f:app.lower"),
        ("select \"Lower\"(a)", "select danger f:\"Lower\""),
        ("select pg_terminate_backend(1)", "select danger f:pg_terminate_backend"),
        ("select set_config('role', 'postgres', false)", "select danger f:set_config"),
        ("select pg_read_file('/etc/passwd')", "select danger f:pg_read_file"),
        ("select lo_import('/etc/passwd')", "select danger f:lo_import"),
        (
            "select query_to_xml('delete from a returning 1', true, true, '')",
            "select danger f:query_to_xml",
        ),
        ("select * from dblink('a', 'b') as t(c int)", "select danger f:dblink"),
        ("select pg_sleep(3600)", "select danger f:pg_sleep"),
        ("select table_to_xml('secrets', true, true, '')", "select danger f:table_to_xml"),
        (
            "select mine(a) over (), count(*) filter (where his(b))",
            "select danger f:count,his,mine",
        ),
        ("select a operator(app.+) b", "select danger f:app.\"+\""),
        ("select * from t tablesample app.mine(1)", "select danger r:t f:app.mine"),
        ("select * from t order by f(a) using <", "select danger r:t f:f"),
    ]);
}

#[test]
fn statements_that_carry_others_count_as_them() {
    check(&[
        ("explain select * from a", "explain read r:a"),
        ("explain (costs off, format json) delete from a", "explain read r:a"),
        ("explain delete from a where f(b)", "explain danger r:a f:f"),
        ("explain analyze delete from a", "explain write w:a"),
        ("explain (analyze, buffers) delete from a", "explain write w:a"),
        ("explain (verbose, analyze on) insert into a values (1)", "explain write w:a"),
        ("explain (analyze false) delete from a", "explain read r:a"),
        ("explain analyze verbose create table x as select * from a", "explain schema r:a w:x"),
        ("explain (select 1)", "explain read"),
        ("prepare p (int, text) as delete from a where b = $1", "prepare write w:a"),
        ("prepare transaction 'x'", "transaction write"),
        ("declare c no scroll cursor with hold for select * from a", "declare read r:a"),
        ("fetch forward 5 from c", "fetch read"),
        ("fetch c", "fetch read"),
        ("fetch all in c", "fetch read"),
        ("move backward all from c", "fetch read"),
        ("close all", "close session"),
        ("copy orders to stdout", "copy read r:orders"),
        (
            "copy orders (a, b) from stdin with (format csv, header true, null '', force_quote (a)) where a > 1",
            "copy write w:orders",
        ),
        ("copy binary orders from stdin with delimiter ','", "copy write w:orders"),
        ("copy (select * from a) to stdout csv header", "copy read r:a"),
        ("copy (delete from a returning *) to stdout", "copy write w:a"),
        ("copy orders to '/tmp/x'", "copy danger r:orders"),
        ("copy orders from program 'curl evil'", "copy danger w:orders"),
        ("copy (select 1) to program 'sh'", "copy danger"),
        ("lock table only a, b in access exclusive mode nowait", "lock write w:a,b"),
    ]);
    let both = read("prepare p as delete from a; execute p; deallocate p").unwrap();
    let effects: Vec<_> = both.iter().map(|s| (s.kind, s.effect, s.inner)).collect();
    assert_eq!(
        effects,
        [
            ("prepare", Effect::Write, Some("delete")),
            ("execute", Effect::Write, Some("delete")),
            ("deallocate", Effect::Session, None)
        ]
    );
}

#[test]
fn what_only_tunes_the_session_is_harmless_and_what_changes_its_meaning_is_not() {
    for text in [
        "begin",
        "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, NOT DEFERRABLE",
        "start transaction read write",
        "commit and no chain",
        "end",
        "rollback work",
        "rollback to savepoint a",
        "abort",
        "savepoint a",
        "release a",
        "set statement_timeout = 5000",
        "set local timezone to 'Europe/Berlin'",
        "set time zone local",
        "set time zone interval '+01:00' hour to minute",
        "set session application_name = app",
        "set datestyle = iso, mdy",
        "set client_encoding to 'UTF8'",
        "set names 'utf8'",
        "set standard_conforming_strings = on",
        "set transaction isolation level repeatable read",
        "set session characteristics as transaction read only",
        "set constraints all deferred",
        "set extra_float_digits = -3",
        "reset all",
        "reset statement_timeout",
        "show all",
        "show server_version",
        "show transaction isolation level",
        "discard all",
        "deallocate all",
        "close c",
    ] {
        assert_eq!(one(text).effect, Effect::Session, "{text}");
    }
    for text in [
        "set role admin",
        "set local role none",
        "set session authorization 'x'",
        "set session authorization default",
        "reset role",
        "reset session authorization",
        "set search_path = app, public",
        "set schema 'app'",
        "set row_security = off",
        "set session_replication_role = replica",
        "set \"Role\" = admin",
        "set log_statement to none",
        "set app.user_id = '1'",
        "reset search_path",
    ] {
        assert_eq!(one(text).effect, Effect::Danger, "{text}");
    }
    for text in [
        "set standard_conforming_strings = off",
        "set client_encoding = 'SJIS'",
        "set names 'gbk'",
        "set \"Client_Encoding\" to big5",
        "set backslash_quote = on",
        "reset standard_conforming_strings",
        "set client_encoding from current",
        "set standard_conforming_strings to default",
        "set client_encoding = utf8, gbk",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn definitions_are_the_schemas_or_reach_further() {
    check(&[
        (
            "create table if not exists app.orders (id bigint generated always as identity primary key, a varchar(10) not null default 'x' check (length(a) > 1), b int references items (id) on delete cascade, unique (a, b), exclude using gist (c with &&)) partition by range (id)",
            "create schema r:items w:app.orders f:length",
        ),
        ("create temp table x (like y including all)", "create schema r:y w:x"),
        ("create table x as select * from a with no data", "create schema r:a w:x"),
        ("create table x (a, b) as (select pg_sleep(1))", "create danger w:x f:pg_sleep"),
        ("create table p partition of q for values from (1) to (2)", "create schema r:q w:p"),
        (
            "create table x (id uuid default gen_random_uuid(), n int default nextval('s'))",
            "create schema w:x f:gen_random_uuid,nextval",
        ),
        ("create table x (id uuid default app.mine())", "create danger w:x f:app.mine"),
        (
            "create unique index concurrently if not exists i on only orders using btree (lower(a) text_pattern_ops desc, b) include (c) with (fillfactor = 70) where d is null",
            "create schema w:orders f:lower",
        ),
        ("create index on orders (mine(a))", "create danger w:orders f:mine"),
        (
            "create or replace view v (a) with (security_barrier) as select a from t with local check option",
            "create schema r:t w:v",
        ),
        ("create materialized view m as table t with data", "create schema r:t w:m"),
        ("create sequence s as bigint start 1 owned by t.c", "create schema w:s"),
        (
            "create table x (a int, like y, like app.z including all) inherits (p, q)",
            "create schema r:app.z,p,q,y w:x",
        ),
        ("alter table x no inherit p", "alter schema r:p w:x"),
        ("create statistics s (mcv) on a, b from t", "create schema r:t"),
        ("cluster i on a", "cluster schema w:a,i"),
        ("create schema app", "create schema"),
        ("create schema app authorization bob", "create danger"),
        ("create type mood as enum ('a', 'b')", "create schema"),
        ("create type c as (a int, b numeric(3, 1))", "create schema"),
        ("create type b (input = f, output = g)", "create danger"),
        ("create domain d as text check (value ~ 'x')", "create schema"),
        (
            "alter table orders add column x int default 3, alter y type text using y::text, drop z cascade",
            "alter schema w:orders",
        ),
        (
            "alter table orders add constraint k foreign key (a) references items (b) on update cascade",
            "alter schema r:items w:orders",
        ),
        ("alter table orders alter a type int using mine(a)", "alter danger w:orders f:mine"),
        ("alter table orders owner to bob", "alter danger w:orders"),
        ("alter table orders disable trigger all", "alter danger w:orders"),
        ("alter table orders enable row level security", "alter danger w:orders"),
        ("alter table q attach partition p for values in (1)", "alter schema r:p w:q"),
        ("alter system set x = 1", "alter danger"),
        ("alter role bob superuser", "alter danger"),
        ("alter default privileges grant all on tables to bob", "alter danger"),
        ("alter database d set search_path = evil", "alter danger"),
        ("drop table if exists a, app.b cascade", "drop schema w:a,app.b"),
        ("drop index concurrently i", "drop schema w:i"),
        ("drop schema app cascade", "drop schema"),
        ("drop function f(int)", "drop danger"),
        ("drop trigger t on orders", "drop danger"),
        ("drop owned by bob", "drop danger"),
        ("drop database d", "drop danger"),
        ("create function f() returns void language sql as $$ delete from a $$", "create danger"),
        ("create or replace procedure p() language plpgsql as 'begin end'", "create danger"),
        ("create trigger t after insert on a for each row execute function f()", "create danger"),
        ("create rule r as on select to a do instead delete from b", "create danger"),
        ("create extension dblink", "create danger"),
        ("create role bob login password 'x'", "create danger"),
        ("create policy p on a using (true)", "create danger"),
        ("create server s foreign data wrapper w", "create danger"),
        ("create foreign table f (a int) server s", "create danger w:f"),
        ("create publication p for all tables", "create danger"),
        ("create event trigger e on ddl_command_end execute function f()", "create danger"),
        ("truncate table only a, b restart identity cascade", "truncate schema w:a,b"),
        ("refresh materialized view concurrently m with data", "refresh schema w:m"),
        ("comment on table a is 'x'", "comment schema w:a"),
        ("comment on column app.a.b is null", "comment schema w:app.a"),
        ("vacuum (full, analyze) a (b), c", "vacuum schema w:a,c"),
        ("vacuum full verbose a", "vacuum schema w:a"),
        ("analyze", "analyze schema"),
        ("reindex (verbose) table concurrently a", "reindex schema w:a"),
        ("cluster a using i", "cluster schema w:a"),
        ("checkpoint", "checkpoint schema"),
        ("do $$ begin delete from a; end $$", "do danger"),
        ("call app.refresh(1, 'x')", "call danger f:app.refresh"),
        ("grant select on a to bob", "grant danger"),
        ("revoke all on a from bob", "revoke danger"),
        ("security label on table a is 'x'", "security danger"),
        ("reassign owned by a to b", "reassign danger"),
        ("import foreign schema x from server y into z", "import danger"),
        ("load 'x'", "load danger"),
        ("listen c", "listen read"),
        ("unlisten *", "listen read"),
        ("notify c, 'x'", "notify write"),
    ]);
}

#[test]
fn a_text_is_as_grave_as_its_worst_statement() {
    let read = read(" ; select 1; ; -- then\n drop table a /* ; */ ; insert into b values (';') ;")
        .unwrap();
    let kinds: Vec<_> = read.iter().map(|statement| statement.kind).collect();
    assert_eq!(kinds, ["select", "drop", "insert"]);
    assert_eq!(read.effect(), Effect::Schema);
    for nothing in ["", " ", ";;", "-- nothing", "/* nothing /* at */ all */", "\n\t\r\x0c"] {
        let read = countersign_sql::read(nothing).unwrap();
        assert_eq!((read.iter().len(), read.effect()), (0, Effect::Session), "{nothing:?}");
    }
}

#[test]
fn a_statement_knows_where_it_stands_and_what_it_is_about() {
    let text = "select 1 ;  drop table \"A\", b ;";
    let read = read(text).unwrap();
    let at: Vec<_> = read.iter().map(|s| &text[s.text.clone()]).collect();
    assert_eq!(at, ["select 1", "drop table \"A\", b"]);
    let object = read.iter().last().and_then(|s| s.object.clone()).unwrap();
    assert_eq!(
        (object.sort, object.names.as_slice()),
        ("table", ["\"A\"".to_owned(), "b".into()].as_slice())
    );
    let object = one("create role bob login").object.unwrap();
    assert_eq!((object.sort, object.names.as_slice()), ("role", ["bob".to_owned()].as_slice()));
}
