//! Whatever comes: no panic, no harmless answer to what is not read whole.

use countersign_sql::{Effect, read};
use proptest::prelude::*;

/// Pieces that texts are made of, dangerous ones among them.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "select",
        "from",
        "where",
        "(",
        ")",
        ",",
        ";",
        "a",
        "\"B\"",
        "1",
        "'x'",
        "$$y$$",
        "*",
        "+",
        "delete",
        "insert into",
        "update",
        "set",
        "=",
        "values",
        "with",
        "as",
        "union",
        "drop table",
        "f(",
        "lower(",
        "--\n",
        "/*",
        "*/",
        "'",
        "$",
        "E'\\",
        "into",
        "for update",
        "copy",
        "explain",
        "analyze",
        "begin",
        "case",
        "when",
        "end",
        "[",
        "]",
        "::",
        ".",
        "in",
        "not",
        "between",
        "and",
        "over",
        "limit",
        "order by",
        "join",
        "on",
        "create",
        "view",
        "table",
        "\u{a0}",
        "\0",
        "null",
        "interval",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_makes_it_panic(pieces in prop::collection::vec(piece(), 0..40), glue in prop::sample::select(vec!["", " ", "\n"])) {
        let _ = read(&pieces.join(glue));
    }

    #[test]
    fn nothing_at_all_makes_it_panic(text in "\\PC{0,60}") {
        let _ = read(&text);
    }

    /// A second statement is never lost, whatever stands before it.
    #[test]
    fn what_follows_a_statement_is_seen(pieces in prop::collection::vec(piece(), 0..12)) {
        let before = pieces.join(" ");
        if let (Ok(one), Ok(two)) = (read(&before), read(&format!("{before}\n; drop table z"))) {
            prop_assert_eq!(two.iter().len(), one.iter().len() + 1);
            prop_assert!(two.effect() >= Effect::Schema);
        }
    }

    /// Comments and white space between tokens change nothing.
    #[test]
    fn comments_change_nothing(pieces in prop::collection::vec(prop::sample::select(vec!["select", "a", ",", "1", "from", "b", "where", "c", "=", "d", "(", ")", "and", "lower", "delete", ";"]), 0..14)) {
        let plain = read(&pieces.join(" "));
        let commented = read(&pieces.join(" /* ; delete */ --x\n "));
        match (plain, commented) {
            (Ok(plain), Ok(commented)) => prop_assert_eq!(
                plain.iter().map(|s| (s.kind, s.effect, s.tables().join(","))).collect::<Vec<_>>(),
                commented.iter().map(|s| (s.kind, s.effect, s.tables().join(","))).collect::<Vec<_>>()
            ),
            (plain, commented) => prop_assert_eq!(plain.is_ok(), commented.is_ok()),
        }
    }
}

/// A thread of an edge has 2 MiB; this is half of one.
#[test]
fn the_deepest_that_is_read_needs_little_stack() {
    let deep = |open: &str, inner: &str, close: &str, times| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    let texts: Vec<String> = (0..=64)
        .flat_map(|times| {
            [
                format!("select {}", deep("(", "1", ")", times)),
                format!("select {}", deep("(select ", "1", ")", times)),
                format!("select {}", deep("f(", "1", ")", times)),
                format!("select {}", deep("case when a then ", "1", " end", times)),
                format!("select * from {}", deep("(select * from ", "a", ") b", times)),
                format!("select * from {}", deep("(", "a", " cross join b)", times)),
                deep("with a as (", "select 1", ") select 1", times),
                format!("select {}", deep("array[", "1", "]", times)),
            ]
        })
        .collect();
    let thread = std::thread::Builder::new().stack_size(1024 * 1024);
    let read_all = thread.spawn(move || texts.iter().filter(|text| read(text).is_ok()).count());
    assert!(read_all.unwrap().join().unwrap() > 100);
}

/// Time grows with the text: a mebibyte of the worst kinds is read in a moment.
#[test]
fn long_texts_take_no_longer_than_they_are() {
    let most = countersign_sql::MOST_TEXT - 20;
    for pattern in [
        "(", "$a", "/*", "'x'\n", "a.", "f(", "((select", "1,", "+-", "-+ ", "@+-", "$a$ $b",
        "U&'x' ", "case ", "\"a\"", "--\n", "a$",
    ] {
        let text = format!("select {}", pattern.repeat(most / pattern.len()));
        let began = std::time::Instant::now();
        let _ = read(&text);
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{pattern}");
    }
}
