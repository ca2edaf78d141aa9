//! Ways to make a statement look like less than it is. None is taken for a query that only reads.

use countersign_sql::{Effect, read};

/// At least this grave, or undecidable.
fn at_least(text: &str, effect: Effect) {
    if let Ok(read) = read(text) {
        assert!(read.effect() >= effect, "{text:?} is only {}", read.effect().word());
    }
}

fn undecidable(text: &str) {
    if let Ok(read) = read(text) {
        panic!("{text:?} is read as {:?}", read.iter().map(|s| s.kind).collect::<Vec<_>>());
    }
}

fn kinds(text: &str) -> Vec<&'static str> {
    read(text).unwrap_or_else(|why| panic!("{text:?}: {why}")).iter().map(|s| s.kind).collect()
}

#[test]
fn behind_a_line_comment() {
    assert_eq!(kinds("select 1 -- ;\n; drop table a"), ["select", "drop"]);
    undecidable("select 1 --;\rdrop table a");
    at_least("select 1; --\rdrop table a", Effect::Schema);
    at_least("select 1 --\n;delete from a", Effect::Write);
}

#[test]
fn behind_a_block_comment() {
    assert_eq!(kinds("select 1 /* */; drop table a -- */"), ["select", "drop"]);
    assert_eq!(kinds("select 1/*;*/;/**/delete/**/from/**/a"), ["select", "delete"]);
}

#[test]
fn behind_a_nested_comment() {
    assert_eq!(kinds("/* /* */ select 1; */ drop table a"), ["drop"]);
    assert_eq!(kinds("select 1 /* /* */ */; drop table a /* /* */ */"), ["select", "drop"]);
    undecidable("select 1 /* /* */; drop table a");
    undecidable("/*/ select 1");
}

#[test]
fn in_a_dollar_quote_and_behind_one() {
    assert_eq!(kinds("select $$; drop table a; $$"), ["select"]);
    assert_eq!(kinds("select $a$ $$ $b$ $a$; drop table a"), ["select", "drop"]);
    assert_eq!(kinds("select $a$ $A$; drop table a; $a$"), ["select"]);
    assert_eq!(kinds("select a$$; drop table a; --$$"), ["select", "drop"]);
    // `a$$` is a name.
    assert_eq!(kinds("select a$$ ; drop table a --$$"), ["select", "drop"]);
    undecidable("select $a$ ; drop table a");
    undecidable("select $1a$ ; drop table a $1a$");
}

#[test]
fn as_a_second_statement() {
    at_least("select 1; drop table a", Effect::Schema);
    at_least("select 1;;;delete from a;;", Effect::Write);
    at_least("begin; select 1; commit; drop table a", Effect::Schema);
    at_least("select ';'; delete from a; select ';'", Effect::Write);
}

#[test]
fn in_a_do_block() {
    at_least("DO $$ BEGIN EXECUTE 'drop table a'; END $$", Effect::Danger);
    at_least("do language plpgsql 'begin drop table a; end'", Effect::Danger);
}

#[test]
fn in_a_function() {
    at_least("select drop_everything()", Effect::Danger);
    at_least("select * from drop_everything()", Effect::Danger);
    at_least("select 1 from a where drop_everything ( )", Effect::Danger);
    at_least("select 1 order by public.drop_everything()", Effect::Danger);
    at_least("select 1 limit drop_everything()", Effect::Danger);
    at_least("values (drop_everything())", Effect::Danger);
    at_least("table a limit (select drop_everything())", Effect::Danger);
    at_least("select x from a group by drop_everything() having other()", Effect::Danger);
    at_least("select count(*) filter (where drop_everything()) from a", Effect::Danger);
    at_least("select sum(1) over (order by drop_everything()) from a", Effect::Danger);
    at_least("select (array[1])[drop_everything()]", Effect::Danger);
    at_least("select case when drop_everything() then 1 end", Effect::Danger);
    at_least("select \"drop_everything\"/**/()", Effect::Danger);
    at_least("select * from a join b on drop_everything()", Effect::Danger);
    at_least("select * from a tablesample system (drop_everything())", Effect::Danger);
    at_least("select 1 fetch first (drop_everything()) rows only", Effect::Danger);
    at_least("select a::numeric(drop_everything())", Effect::Danger);
    at_least("select coalesce(null, drop_everything())", Effect::Danger);
    at_least("select 1 = any (drop_everything())", Effect::Danger);
    at_least("select 1 between 0 and drop_everything()", Effect::Danger);
    at_least("show drop_everything()", Effect::Danger);
}

#[test]
fn in_a_common_table_expression() {
    at_least("with x as (delete from a returning 1) select * from x", Effect::Write);
    at_least("with x as (select 1), y as (insert into a table x) select 1", Effect::Write);
    at_least("select * from (with x as (update a set b = 1 returning 1) table x) q", Effect::Write);
    at_least(
        "with x as (with y as (merge into a using b on true when matched then delete) select 1) select 1",
        Effect::Write,
    );
    at_least(
        "with recursive x as (select 1 union all select drop_everything()) table x",
        Effect::Danger,
    );
}

#[test]
fn as_select_into() {
    at_least("select * into b from a", Effect::Schema);
    at_least("select 1 into unlogged table b", Effect::Schema);
    at_least("with x as (select 1) select * into b from x", Effect::Schema);
    at_least("(select 1 into b)", Effect::Schema);
}

#[test]
fn behind_escapes_of_a_text() {
    assert_eq!(kinds(r"select E'\'; drop table a; --'"), ["select"]);
    assert_eq!(kinds(r"select '\'; drop table a; --'"), ["select", "drop"]);
    assert_eq!(kinds(r"select e'\\'; drop table a; --'"), ["select", "drop"]);
    assert_eq!(kinds("select 'a''; drop table a; --'"), ["select"]);
    assert_eq!(kinds("select 'a'\n'; drop table a; --'"), ["select"]);
    undecidable("select 'a' '; drop table a; --'");
    assert_eq!(
        kinds(
            r"select E'a'
  '\'; drop table a; --'"
        ),
        ["select"]
    );
    undecidable(r"select E'\'");
    undecidable("select 'open; drop table a");
}

#[test]
fn behind_unicode_escapes() {
    assert_eq!(kinds(r"select U&'\'; drop table a; --'"), ["select", "drop"]);
    assert_eq!(kinds("select U&'!0027; drop table a' uescape '!'"), ["select"]);
    assert_eq!(kinds("select u&'x' /* */ UESCAPE '!' || 'y'"), ["select"]);
    undecidable(r#"select U&"\0064rop_everything"()"#);
    undecidable(r#"select * from U&"d!0061ta" uescape '!'"#);
    at_least(r#"select U&"drop_everything"()"#, Effect::Danger);
}

#[test]
fn as_copy() {
    at_least("copy a from program 'rm -rf /'", Effect::Danger);
    at_least("copy a to '/etc/cron.d/x'", Effect::Danger);
    at_least("copy (select drop_everything()) to stdout", Effect::Danger);
    at_least("copy a from stdin where drop_everything()", Effect::Danger);
    at_least("copy (with x as (delete from a returning 1) table x) to stdout", Effect::Write);
    at_least("copy a from stdin", Effect::Write);
}

#[test]
fn as_explain_analyze() {
    at_least("explain analyze delete from a", Effect::Write);
    at_least("explain (analyze) delete from a", Effect::Write);
    at_least("explain (costs off, ANALYSE TRUE) delete from a", Effect::Write);
    at_least("explain (analyze 'false') delete from a", Effect::Write);
    at_least("explain (analyze false, analyze true) delete from a", Effect::Write);
    at_least("explain select drop_everything()", Effect::Danger);
    at_least("explain analyze execute p", Effect::Danger);
}

#[test]
fn between_empty_statements() {
    at_least(";;drop table a;;", Effect::Schema);
    at_least(";", Effect::Session);
}

#[test]
fn behind_a_nul() {
    undecidable("select 1\0; drop table a");
    undecidable("\0");
    undecidable("select '\0'");
}

#[test]
fn behind_white_space_outside_ascii() {
    for space in ["\u{a0}", "\u{2028}", "\u{3000}", "\u{feff}", "\u{85}", "\x0b", "\u{200b}"] {
        undecidable(&format!("select 1{space}; drop table a"));
        undecidable(&format!("{space}select 1"));
        undecidable(&format!("select 1 -- {space}\n{space}from a"));
        assert_eq!(
            kinds(&format!("select '{space}' /* {space} */ as \"{space}x\" -- {space}")),
            ["select"]
        );
    }
    undecidable("select * from gr\u{f6}\u{df}e");
    undecidable("\u{ff33}ELECT 1");
}

#[test]
fn nested_very_deep() {
    undecidable(&format!("select {}1{}", "(".repeat(10_000), ")".repeat(10_000)));
    undecidable(&format!("select {}1{}", "(select ".repeat(1_000), ")".repeat(1_000)));
    undecidable(&format!("select {}1{}", "array[".repeat(1_000), "]".repeat(1_000)));
    undecidable(&format!("select {}", "case when ".repeat(10_000)));
    undecidable(&format!("select {}1{}", "f(".repeat(5_000), ")".repeat(5_000)));
    undecidable(&format!("{}select 1{}", "with a as (".repeat(1_000), ")".repeat(1_000)));
    undecidable(&format!("select 1 from {}a{}", "(".repeat(9_000), ")".repeat(9_000)));
    undecidable(&"explain ".repeat(10_000));
    // What is long without being deep is read.
    assert_eq!(kinds(&format!("select {}1", "not - ".repeat(50_000))), ["select"]);
    assert_eq!(kinds(&format!("select 1{}", " + 1".repeat(100_000))), ["select"]);
    assert_eq!(kinds(&format!("select 1{}", " union select 1".repeat(10_000))), ["select"]);
}

#[test]
fn by_their_number_and_length() {
    undecidable(&"select 1;".repeat(257));
    assert_eq!(kinds(&"select 1;".repeat(256)).len(), 256);
    undecidable(&format!("select 1 --{}", "x".repeat(1024 * 1024)));
    undecidable(&format!("drop table {}", "a".repeat(64)));
}

#[test]
fn as_values_and_table_and_set_operations() {
    at_least("values ((select drop_everything()))", Effect::Danger);
    at_least("table a union table b intersect select drop_everything()", Effect::Danger);
    at_least("(table a) except (select 1 into b)", Effect::Schema);
    at_least("(select 1) union (select 1 from a for update)", Effect::Write);
}

#[test]
fn in_a_query_inside_another() {
    at_least("select (select (select nextval('s')))", Effect::Write);
    at_least(
        "select * from a where exists (select 1 from b where drop_everything())",
        Effect::Danger,
    );
    at_least("select * from (select * from (select drop_everything()) x) y", Effect::Danger);
    at_least("delete from a where b in (select drop_everything())", Effect::Danger);
    at_least("insert into a values ((select drop_everything()))", Effect::Danger);
}

#[test]
fn as_prepare_and_execute() {
    at_least("prepare p as delete from a; execute p", Effect::Write);
    at_least(
        "prepare p as select 1; deallocate p; prepare p as delete from a; execute p",
        Effect::Write,
    );
    undecidable("execute p");
    undecidable("execute p; prepare p as select 1");
    undecidable("prepare p as select 1; prepare p as delete from a; execute p");
    undecidable("prepare p as select 1; deallocate all; execute p");
    undecidable("create table x as execute p");
    at_least("prepare p as select 1; execute p(drop_everything())", Effect::Danger);
}

#[test]
fn in_a_definition() {
    at_least("create table x as select drop_everything()", Effect::Danger);
    at_least("create view v as select 1; select drop_everything()", Effect::Danger);
    at_least("alter table a add column b int default drop_everything()", Effect::Danger);
    at_least("alter table a alter b type int using drop_everything(b)", Effect::Danger);
    at_least("create index on a ((drop_everything(b)))", Effect::Danger);
    at_least(
        "create materialized view m as with x as (select drop_everything()) table x",
        Effect::Danger,
    );
    at_least("create schema s create table t (a int) grant all on t to public", Effect::Danger);
    at_least(
        "create function f() returns int begin atomic select 1; delete from a; end",
        Effect::Danger,
    );
}

#[test]
fn in_operators_that_hide_comments_and_signs() {
    assert_eq!(kinds("select 1 +-- ; \n 2; drop table a"), ["select", "drop"]);
    assert_eq!(kinds("select 1 +/* ; */ 2; drop table a"), ["select", "drop"]);
    assert_eq!(kinds("select a @-- ;\n 1; drop table a"), ["select", "drop"]);
    assert_eq!(kinds("select 2*-1, 3 - -1, 1<-1, 1 @- 1"), ["select"]);
}

#[test]
fn as_what_versions_of_the_server_read_differently() {
    for text in
        ["select 0x1F", "select 1_000", "select 123abc", "select $1a", "select 1e", "select 0b1"]
    {
        undecidable(text);
    }
    undecidable("select json_object('a': 1)");
    undecidable("select * from xmltable('x' passing y columns z int)");
}

#[test]
fn with_words_that_do_not_belong() {
    for text in [
        "select 1 drop table a",
        "select * from a b c",
        "select 1 from",
        "select from where",
        "delete a",
        "update a b c set d = 1",
        "insert a values (1)",
        "select (1",
        "select 1)",
        "select [1]",
        "select f(",
        "selec 1",
        "1",
        "'a'",
        "$1",
        "select from(1)",
        "select select",
        "select a.",
        "with x select 1",
        "set",
        "set x",
        "begin drop table a",
        "commit; ]",
        "explain",
        "copy a",
        "create",
        "create thing x",
        "drop",
        "alter table",
        "lock",
        "fetch",
        "rollback to",
        "prepare p",
        "select into",
        "select 1 for delete",
        "select * from a join b on",
        "select grant(1)",
        "select a from b union",
        "table a b c",
        "values (1) (2)",
        "select all distinct a",
        "show a b",
        "checkpoints",
        "discard everything",
    ] {
        undecidable(text);
    }
}
