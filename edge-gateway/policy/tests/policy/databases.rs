//! Rules about databases: what opens, what asks, and that what cannot be judged opens nothing.

use countersign_gate::{Destination, Scheme};
use countersign_policy::analysis::{Kind, compare, warnings};
use countersign_policy::fixtures::run_fixtures;
use countersign_policy::replay::Recorded;
use countersign_policy::{Need, Then};
use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;
use serde_json::json;

use crate::support::{Ask, ask, mistakes, policy};

/// A request to the database `app` as the role `app_rw`.
fn to_database(method: Method, body: Option<Vec<u8>>) -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert("postgres-role", HeaderValue::from_static("app_rw"));
    if method == Method::POST {
        headers.insert("content-type", HeaderValue::from_static("application/json"));
    }
    Ask {
        agent: "bot".into(),
        destination: Destination::parse(Scheme::Postgres, "db.example", Some(5432))
            .expect("a destination"),
        method,
        path: "/app".into(),
        query: None,
        headers,
        body,
    }
}

fn connect() -> Ask {
    to_database(Method::GET, Some(Vec::new()))
}

fn simple(statement: &str) -> Ask {
    let body = json!({"protocol": "simple", "statement": statement, "transaction": "idle"});
    to_database(Method::POST, Some(body.to_string().into_bytes()))
}

fn with_body(body: &serde_json::Value) -> Ask {
    to_database(Method::POST, Some(body.to_string().into_bytes()))
}

/// Rules for the database, each `then keys`.
fn rules(lines: &[&str]) -> countersign_policy::Policy {
    let rule = |(number, line): (usize, &&str)| {
        let (then, more) = line.split_once(' ').unwrap_or((line, ""));
        let more = more.replace("; ", "\n");
        format!(
            "[[rule]]\nname = \"{number} {then}\"\nprotocol = \"postgres\"\nhost = \"db.example\"\nthen = \"{then}\"\n{more}\n"
        )
    };
    policy(&lines.iter().enumerate().map(rule).collect::<String>())
}

#[test]
fn every_statement_has_to_be_let_through_and_one_is_enough_to_ask() {
    let policy = rules(&[
        "allow sql = [\"connect\", \"session\", \"read\"]",
        "approve sql = [\"write\"]",
        "deny sql = [\"schema\", \"danger\"]",
    ]);
    assert_eq!(connect().then(&policy), Then::Allow);
    for (text, then) in [
        ("begin", Then::Allow),
        ("select 1", Then::Allow),
        ("begin; select * from a; commit", Then::Allow),
        ("", Then::Allow),
        ("insert into a values (1)", Then::Approve),
        ("select 1; delete from a; select 2", Then::Approve),
        ("select 1; drop table a", Then::Deny),
        ("insert into a values (1); truncate b", Then::Deny),
        ("do 'x'", Then::Deny),
        ("select nothing_known()", Then::Deny),
        ("gibberish", Then::Deny),
    ] {
        assert_eq!(simple(text).then(&policy), then, "{text}");
    }
}

#[test]
fn what_cannot_be_judged_opens_nothing_whatever_a_rule_says() {
    let policy = rules(&["allow", "allow when = \"agent == 'bot'\"", "observe"]);
    assert_eq!(simple("select 1").then(&policy), Then::Observe);
    for bad in [
        simple("select 'open"),
        simple("select 1\0"),
        with_body(&json!({"protocol": "simple", "statement": "select 1"})),
        with_body(&json!({"protocol": "simple", "statement": "select 1", "transaction": "idle", "more": 1})),
        with_body(&json!({"protocol": "simple", "statement": "select 1", "transaction": "broken"})),
        with_body(&json!({"protocol": "simple", "statement": "select 1", "transaction": "idle", "parameters": []})),
        with_body(&json!({"protocol": "extended", "statement": "select 1", "transaction": "idle"})),
        with_body(&json!({"protocol": "extended", "statement": "select 1", "transaction": "idle", "parameters": [1]})),
        with_body(&json!(["select 1"])),
        to_database(Method::POST, Some(b"{\"protocol\":\"simple\",\"statement\":\"select 1\",\"statement\":\"drop table a\",\"transaction\":\"idle\"}".to_vec())),
        to_database(Method::POST, Some(Vec::new())),
        to_database(Method::PUT, Some(Vec::new())),
        to_database(Method::GET, Some(b"x".to_vec())),
        simple("select 1").header("content-encoding", "br"),
    ] {
        let decision = bad.decide(&policy);
        assert_eq!(decision.then, Then::Unnamed, "{bad:?}");
        assert!(decision.uninspectable, "{bad:?}");
        assert_eq!(bad.then(&rules(&["allow", "approve sql = [\"write\"]"])), Then::Approve);
        assert_eq!(bad.then(&rules(&["allow", "approve", "deny sql = [\"danger\"]"])), Then::Deny);
        assert_eq!(bad.then(&rules(&["allow", "deny sql = [\"undecidable\"]"])), Then::Deny);
    }
}

#[test]
fn settings_that_change_what_a_text_means_make_it_undecidable() {
    let policy = rules(&["allow"]);
    let set = |statement: &str, settings: serde_json::Value| {
        with_body(&json!({
            "protocol": "extended", "statement": statement, "transaction": "open", "settings": settings,
            "parameters": [{"type": 25, "format": "text", "value": "x"}, {"type": 17, "format": "binary", "base64": "AAE="},
                {"type": 23, "null": true}],
        }))
        .then(&policy)
    };
    for (statement, settings, then) in [
        ("select lower('x')", json!({}), Then::Allow),
        ("select lower('x')", json!({"search_path": "app, public"}), Then::Allow),
        ("select lower('x')", json!({"search_path": "pg_catalog, app"}), Then::Allow),
        ("select lower('x')", json!({"search_path": "app, pg_catalog"}), Then::Unnamed),
        ("select lower('x')", json!({"search_path": "app, \"pg_catalog\""}), Then::Unnamed),
        ("select 'a'", json!({"standard_conforming_strings": "off"}), Then::Allow),
        ("select 'a\\'", json!({"standard_conforming_strings": "on"}), Then::Allow),
        ("select 'a\\'", json!({"standard_conforming_strings": "off"}), Then::Unnamed),
        ("select 'a'", json!({"client_encoding": "UTF8"}), Then::Allow),
        ("select 'a'", json!({"client_encoding": "SJIS"}), Then::Unnamed),
        ("select 'a'", json!({"anything": "else"}), Then::Unnamed),
    ] {
        assert_eq!(set(statement, settings.clone()), then, "{statement} {settings}");
    }
}

#[test]
fn rules_about_http_and_about_databases_never_meet() {
    let both = policy(
        "[[rule]]\nname = \"web\"\nhost = \"db.example:5432\"\nthen = \"allow\"\n\
         [[rule]]\nname = \"data\"\nprotocol = \"postgres\"\nhost = \"db.example:443\"\nthen = \"allow\"\n",
    );
    assert_eq!(connect().then(&both), Then::Unnamed);
    assert_eq!(ask("GET", "https://db.example/app").then(&both), Then::Unnamed);
    assert_eq!(ask("GET", "https://db.example:5432/app").then(&both), Then::Allow);
    assert!(!both.names_host(&connect().destination));
    let named = rules(&["allow"]);
    assert!(named.names_host(&connect().destination));
    assert!(!named.names_host(&ask("GET", "https://db.example:5432/").destination));
}

#[test]
fn databases_and_roles_are_told_apart() {
    let policy = rules(&["allow databases = [\"app\", \"über\"]; roles = [\"app_rw\"]"]);
    assert_eq!(connect().then(&policy), Then::Allow);
    let at = |path: &str| Ask { path: path.into(), ..connect() }.then(&policy);
    assert_eq!(at("/%C3%BCber"), Then::Allow);
    for path in ["/postgres", "/APP", "/app/x", "/", "/app%2f"] {
        assert_eq!(at(path), Then::Unnamed, "{path}");
    }
    let twice = connect().header("postgres-role", "postgres");
    assert_eq!(twice.then(&policy), Then::Unnamed);
    let mut other = connect();
    other.headers.insert("postgres-role", HeaderValue::from_static("postgres"));
    assert_eq!(other.then(&policy), Then::Unnamed);
    assert_eq!(twice.then(&rules(&["allow", "deny roles = [\"postgres\"]"])), Then::Deny);
}

#[test]
fn conditions_look_at_each_statement() {
    let holds = |when: &str, text: &str| {
        simple(text).then(&rules(&[&format!("allow when = \"{when}\"")])) == Then::Allow
    };
    for (when, text, expected) in [
        (
            "sql.statements.all(s, s.tables.all(t, t in ['orders', 'public.orders']))",
            "select * from Orders",
            true,
        ),
        (
            "sql.statements.all(s, s.tables.all(t, t in ['orders']))",
            "select * from orders, secrets",
            false,
        ),
        ("sql.statements.all(s, s.kind == 'select')", "select 1; delete from a", false),
        (
            "sql.statements.exists(s, s.kind in ['update', 'delete'] && !s.has_where)",
            "delete from a",
            true,
        ),
        (
            "sql.statements.exists(s, s.kind in ['update', 'delete'] && !s.has_where)",
            "delete from a where b",
            false,
        ),
        (
            "sql.statements[0].writes == ['a'] && sql.statements[0].reads == ['b']",
            "insert into a table b",
            true,
        ),
        ("'lower' in sql.statements[0].functions", "select lower('a')", true),
        (
            "sql.effect == 'write' && sql.database == 'app' && sql.role == 'app_rw'",
            "delete from a",
            true,
        ),
        ("size(sql.statements) == 2", "select 1; select 2", true),
        ("sql.effect != 'danger'", "nonsense", false),
        ("sql.effect != 'read' || true", "nonsense", false),
        (
            "request.host == 'db.example' && request.port == 5432 && agent == 'bot'",
            "select 1",
            true,
        ),
    ] {
        assert_eq!(holds(when, text), expected, "{when}: {text}");
    }
    let connects =
        rules(&["allow when = \"sql.effect == 'connect' && size(sql.statements) == 0\""]);
    assert_eq!(connect().then(&connects), Then::Allow);
    let needs_body = to_database(Method::POST, None);
    assert_eq!(needs_body.needs(&connects), Need::Body);
    assert_eq!(to_database(Method::GET, None).needs(&connects), Need::Nothing);
}

#[test]
fn mistakes_in_rules_about_databases_are_told() {
    let of = |more: &str| {
        mistakes(&format!(
            "[[rule]]\nname = \"r\"\nprotocol = \"postgres\"\nhost = \"db.example\"\n{more}\n"
        ))
        .join("\n")
    };
    for (more, told) in [
        ("then = \"allow\"\nmethods = [\"GET\"]", "`methods` has no place in this rule"),
        ("then = \"allow\"\npath = \"/x\"", "`path` has no place in this rule"),
        ("then = \"approve\"\npark = true", "`park` has no place in this rule"),
        ("then = \"tunnel\"", "a database is not tunnelled"),
        ("then = \"allow\"\nsql = [\"reads\"]", "which is no effect"),
        ("then = \"allow\"\nsql = [\"undecidable\"]", "never let through unasked"),
        ("then = \"allow\"\nsql = [\"read\"]\ncredential = \"c\"", "the key opens the connection"),
        (
            "then = \"allow\"\nwhen = \"body.json.a == 1\"",
            "a statement is looked at as sql.statements",
        ),
        ("then = \"allow\"\nwhen = \"request.path == '/'\"", "request.host and request.port alone"),
        ("then = \"allow\"\nwhen = \"sql.tables == []\"", "there is no sql.tables"),
        (
            "then = \"allow\"\nwhen = \"sql.statements.all(s, s.table == 'a')\"",
            "there is no `table` in a record of effect",
        ),
        ("then = \"allow\"\nwhen = \"sql.statements.all(s, s.kind == 'selekt')\"", "is not a kind"),
        (
            "then = \"allow\"\nwhen = \"sql.statements.all(s, s.effect in ['read', 'reads'])\"",
            "is not an effect",
        ),
        ("then = \"deny\"\nwhen = \"sql.effect == 'undecidable'\"", "undecidable equals nothing"),
        ("then = \"allow\"\nwhen = \"sql\"", "`sql` alone is nothing"),
    ] {
        assert!(of(more).contains(told), "{more}: {}", of(more));
    }
    let http = |more: &str| {
        mistakes(&format!(
            "[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"allow\"\n{more}\n"
        ))
    };
    assert!(http("sql = [\"read\"]")[0].contains("`sql` has no place in this rule"));
    assert!(http("databases = [\"a\"]")[0].contains("`databases` has no place in this rule"));
    assert!(http("when = \"sql.effect == 'read'\"")[0].contains("protocol = \"postgres\""));
}

#[test]
fn fixtures_ask_databases_as_well() {
    let text = |test: &str| {
        format!(
            "version = 1\n[[rule]]\nname = \"r\"\nprotocol = \"postgres\"\nhost = \"db.example\"\nroles = [\"app\"]\n\
             sql = [\"connect\", \"read\"]\nthen = \"allow\"\n[[test]]\n{test}\nexpect = \"allow\"\n"
        )
    };
    for test in [
        "url = \"postgres://app@db.example/x\"",
        "url = \"postgres://app@db.example:5432/x\"\nsql = \"select '\\\"\\\\\\n'\"",
    ] {
        assert!(run_fixtures(&text(test), "p").unwrap().passed(), "{test}");
    }
    let wrong =
        run_fixtures(&text("url = \"postgres://app@db.example/x\"\nsql = \"drop table a\""), "p")
            .unwrap();
    assert!(!wrong.passed());
    for (test, told) in [
        ("url = \"postgres://db.example/x\"", "write postgres://role@host/database"),
        (
            "url = \"postgres://app@db.example/x\"\nmethod = \"GET\"",
            "it asks something of a database",
        ),
        ("url = \"https://db.example/x\"\nsql = \"select 1\"", "its `url` is no database's"),
    ] {
        let errors = run_fixtures(&text(test), "p").unwrap_err();
        assert!(errors.iter().any(|e| e.to_string().contains(told)), "{test}: {errors:?}");
    }
}

#[test]
fn what_a_change_opens_is_told_of_databases_too() {
    let old = rules(&["allow sql = [\"read\"]", "approve sql = [\"write\"]"]);
    let new = rules(&["allow sql = [\"read\", \"write\"]", "approve sql = [\"schema\"]"]);
    let opened = compare(&old, &new);
    let kinds: Vec<_> = opened.widenings.iter().map(|w| w.kind).collect();
    assert!(kinds.contains(&Kind::Passes) && kinds.contains(&Kind::Approvable), "{opened:#?}");
    let passes = opened.widenings.iter().find(|w| w.kind == Kind::Passes).unwrap();
    let asked = passes.witness.asked.as_ref().unwrap();
    assert!(asked.effects.contains(&"write".to_owned()), "{asked:?}");
    assert!(passes.to_string().contains("postgres://any@db.example/any"), "{passes}");
    assert!(!compare(&new, &new).widens());
    let fewer =
        rules(&["allow sql = [\"read\"]; databases = [\"app\"]", "approve sql = [\"write\"]"]);
    assert!(!compare(&old, &fewer).widens());
    assert!(compare(&fewer, &old).widens());
    let idle = warnings(&rules(&["allow sql = [\"write\"]", "deny sql = [\"write\", \"danger\"]"]));
    assert!(idle.iter().any(|warning| warning.message.contains("never decides")), "{idle:?}");
}

#[test]
fn what_was_asked_of_a_database_is_replayed() {
    let recorded = Recorded::new(
        "bot",
        "POST",
        "postgres://db.example/app",
        simple("delete from a").headers,
        simple("delete from a").body,
    )
    .unwrap();
    assert_eq!(recorded.decide(&rules(&["approve sql = [\"write\"]"])).then, Then::Approve);
    assert_eq!(recorded.decide(&rules(&["allow sql = [\"read\"]"])).then, Then::Unnamed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever the rules: what passes was read whole, and each of its effects is named by a rule that lets it pass.
    #[test]
    fn a_rule_never_opens_what_is_undecidable(
        thens in prop::collection::vec((prop::sample::select(vec!["allow", "observe"]), prop::sample::subsequence(vec!["connect", "session", "read", "write", "schema", "danger"], 0..6), any::<bool>()), 1..4),
        pieces in prop::collection::vec(prop::sample::select(vec!["select 1", "delete from a", ";", "'", "(", "drop table a", "f()", "\u{a0}", "begin", "--", "$$", "/*"]), 0..6),
        raw in any::<bool>(),
    ) {
        let lines: Vec<String> = thens
            .iter()
            .map(|(then, effects, all)| match *all || effects.is_empty() {
                true => (*then).to_string(),
                false => format!("{then} sql = {effects:?}"),
            })
            .collect();
        let policy = rules(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let text = pieces.join(" ");
        let request = match raw {
            true => to_database(Method::POST, Some(text.clone().into_bytes())),
            false => simple(&text),
        };
        let passes = request.then(&policy).passes();
        match countersign_sql::read(&text) {
            Ok(read) if !raw => {
                let mut words: Vec<&str> = read.iter().map(|s| s.effect.word()).collect();
                if words.is_empty() {
                    words.push("session");
                }
                let named = thens.iter().any(|(_, effects, all)| {
                    *all || effects.is_empty() || words.iter().all(|word| effects.contains(word))
                });
                prop_assert_eq!(passes, named, "{}", text);
            }
            _ => prop_assert!(!passes, "{}", text),
        }
    }
}
