//! Conditions in CEL.

use countersign_policy::{Need, Policy, Then};

use crate::support::{Ask, ask, mistakes, policy};

/// An allow and an approve rule with the same condition: (Allow, _) is true, (_, Approve) is not false.
fn conditions(when: &str) -> (Policy, Policy) {
    let rule = |then: &str| {
        policy(&format!(
            "[[rule]]\nname = \"r\"\nhost = \"api.example.com\"\nwhen = '''{when}'''\nthen = \"{then}\"\n"
        ))
    };
    (rule("allow"), rule("approve"))
}

#[derive(Debug, PartialEq, Eq)]
enum Says {
    No,
    Undecidable,
    Yes,
}

fn says(when: &str, request: &Ask) -> Says {
    let (allow, approve) = conditions(when);
    match (request.then(&allow), request.then(&approve)) {
        (Then::Allow, Then::Approve) => Says::Yes,
        (Then::Unnamed, Then::Approve) => Says::Undecidable,
        (Then::Unnamed, Then::Unnamed) => Says::No,
        other => panic!("{when}: {other:?}"),
    }
}

fn refund(body: &str) -> Ask {
    ask("POST", "https://api.example.com/v1/refunds").form(body)
}

fn json(body: &str) -> Ask {
    ask("POST", "https://api.example.com/v1/refunds").json(body)
}

#[test]
fn form_values_are_read_as_plain_decimals_beside_numbers() {
    for (body, expected) in [
        ("amount=10000", Says::Yes),
        ("amount=9999", Says::No),
        ("amount=10000.01", Says::Yes),
        ("amount=9999.99", Says::No),
        ("amount=-1", Says::No),
        ("amount=1e9", Says::Undecidable),
        ("amount=+5", Says::Undecidable),
        ("amount=%205", Says::Undecidable),
        ("amount=0x1", Says::Undecidable),
        ("amount=007", Says::Undecidable),
        ("amount=1%2C000", Says::Undecidable),
        ("amount=", Says::Undecidable),
        ("amount=99999999999999999999", Says::Undecidable),
        ("other=1", Says::Undecidable),
        ("amount=1&amount=10000", Says::Undecidable),
        ("amount[]=1", Says::Undecidable),
        ("amount=1&Amount=10000", Says::Undecidable),
        ("amount=1;amount=10000", Says::Undecidable),
        ("a=%zz&amount=1", Says::No),
        ("%zz=1&amount=1", Says::Undecidable),
    ] {
        assert_eq!(says("body.form.amount >= 10000", &refund(body)), expected, "{body}");
    }
}

#[test]
fn text_stays_text_beside_text() {
    assert_eq!(says("body.form.amount == '100'", &refund("amount=100")), Says::Yes);
    assert_eq!(says("body.form.amount == 100", &refund("amount=100")), Says::Yes);
    assert_eq!(says("body.form.amount in [1, 100]", &refund("amount=100")), Says::Yes);
    assert_eq!(says("body.form.amount in ['1', '2']", &refund("amount=100")), Says::No);
    assert_eq!(says("body.form['amount'] * 2 == 200", &refund("amount=100")), Says::Yes);
    assert_eq!(says("body.form.a + body.form.b == 'xy'", &refund("a=x&b=y")), Says::Yes);
    assert_eq!(says("body.form.amount.startsWith('1')", &refund("amount=100")), Says::Yes);
    assert_eq!(
        says("request.query.n < 5", &ask("GET", "https://api.example.com/x?n=4")),
        Says::Yes
    );
    let header = ask("GET", "https://api.example.com/x").header("x-n", "4");
    assert_eq!(says("request.headers['x-n'] > 5", &header), Says::No);
}

#[test]
fn values_of_different_kinds_are_never_just_unequal() {
    assert_eq!(says("body.json.amount == 100", &json(r#"{"amount":100}"#)), Says::Yes);
    assert_eq!(says("body.json.amount == 100", &json(r#"{"amount":100.0}"#)), Says::Yes);
    assert_eq!(says("body.json.amount == 100", &json(r#"{"amount":"100"}"#)), Says::Undecidable);
    assert_eq!(says("body.json.amount != 100", &json(r#"{"amount":"100"}"#)), Says::Undecidable);
    assert_eq!(says("body.json.amount >= 100", &json(r#"{"amount":"100"}"#)), Says::Undecidable);
    assert_eq!(says("body.json.kind in ['a', 'b']", &json(r#"{"kind":1}"#)), Says::Undecidable);
    assert_eq!(says("5 in body.json.ids", &json(r#"{"ids":["5"]}"#)), Says::Undecidable);
    assert_eq!(says("5 in body.json.ids", &json(r#"{"ids":[4,5]}"#)), Says::Yes);
    assert_eq!(says("body.json.draft == true", &json(r#"{"draft":null}"#)), Says::Undecidable);
    assert_eq!(says("body.json.draft == null", &json(r#"{"draft":1}"#)), Says::No);
}

#[test]
fn whole_numbers_and_fractions_compare() {
    assert_eq!(says("body.json.amount >= 100", &json(r#"{"amount":100.5}"#)), Says::Yes);
    assert_eq!(says("body.json.amount > 100.5", &json(r#"{"amount":101}"#)), Says::Yes);
    assert_eq!(
        says("body.json.amount > 1", &json(r#"{"amount":18446744073709551615}"#)),
        Says::Yes
    );
}

#[test]
fn what_is_not_there_is_undecidable_unless_asked_for_with_has() {
    let empty = json("{}");
    assert_eq!(says("body.json.amount > 1", &empty), Says::Undecidable);
    assert_eq!(says("has(body.json.amount) && body.json.amount > 1", &empty), Says::No);
    assert_eq!(says("!has(body.json.amount)", &empty), Says::Yes);
    // Another case of the name is the name to some readers.
    assert_eq!(says("has(body.json.amount)", &json(r#"{"Amount":1}"#)), Says::Undecidable);
    assert_eq!(says("'amount' in body.json", &json(r#"{"AMOUNT":1}"#)), Says::Undecidable);
    assert_eq!(
        says("has(request.query.a)", &ask("GET", "https://api.example.com/?a=1&a=2")),
        Says::Undecidable
    );
    assert_eq!(
        says("has(request.query.b)", &ask("GET", "https://api.example.com/?a=1&a=2")),
        Says::No
    );
    assert_eq!(
        says("'b' in request.query", &ask("GET", "https://api.example.com/?b=1")),
        Says::Yes
    );
    assert_eq!(
        says("size(request.query) == 0", &ask("GET", "https://api.example.com/?a=1&a=2")),
        Says::Undecidable
    );
}

#[test]
fn what_is_not_read_is_undecidable_only_if_it_matters() {
    let streamed = json("").streamed();
    assert_eq!(says("body.json.amount > 1", &streamed), Says::Undecidable);
    assert_eq!(says("request.port == 1 && body.json.amount > 1", &streamed), Says::No);
    assert_eq!(says("agent == 'bot' || body.json.amount > 1", &streamed), Says::Yes);
    let (allow, _) = conditions("body.json.amount > 1");
    assert_eq!(streamed.needs(&allow), Need::Body);
    let (allow, _) = conditions("agent == 'other' && body.json.amount > 1");
    assert_eq!(streamed.needs(&allow), Need::Refuse);
    let (allow, _) = conditions("agent == 'bot'");
    assert_eq!(streamed.needs(&allow), Need::Nothing);
}

#[test]
fn every_variable_is_what_it_says() {
    let request = ask("POST", "https://api.example.com:8443/a/b?q=1")
        .json(r#"{"a":[1,2]}"#)
        .header("x-y", "z");
    let rule = |when: &str| {
        let text = format!(
            "[[rule]]\nname = \"r\"\nhost = \"api.example.com:8443\"\nwhen = '''{when}'''\nthen = \"allow\""
        );
        request.then(&policy(&text))
    };
    for when in [
        "agent == 'bot'",
        "request.method == 'POST'",
        "request.host == 'api.example.com'",
        "request.port == 8443",
        "request.path == '/a/b'",
        "request.query.q == '1'",
        "request.headers['x-y'] == 'z'",
        "body.json.a[1] == 2",
        "body.json.a.exists(x, x > 1)",
        "body.json.a.all(x, x < 3)",
        "size(body.json.a) == 2",
        "body.size == 11",
        "body.text.contains('[1,2]')",
        "request.path.matches('^/a/[a-z]$')",
        "type(body.json.a) == list",
    ] {
        assert_eq!(rule(when), Then::Allow, "{when}");
    }
}

#[test]
fn p_3_an_escaped_path_is_undecidable_if_decoding_changes_the_answer() {
    let request = |path: &str| ask("GET", &format!("https://api.example.com{path}"));
    assert_eq!(says("request.path.endsWith('/send')", &request("/x/send")), Says::Yes);
    assert_eq!(says("request.path.endsWith('/send')", &request("/x/%73end")), Says::Undecidable);
    assert_eq!(says("!request.path.endsWith('/send')", &request("/x/%73end")), Says::Undecidable);
    assert_eq!(
        says("request.path.endsWith('/send')", &request("/x/%2e%2e/send")),
        Says::Undecidable
    );
}

#[test]
fn graphql_operations_are_named_by_their_fields_not_by_aliases() {
    let ask =
        |query: &str| json(&format!("{{\"query\":{}}}", serde_json::to_string(query).unwrap()));
    let delete = "body.graphql.operation == 'mutation' && 'deleteRepo' in body.graphql.fields";
    assert_eq!(
        says(
            delete,
            &ask("mutation M($i: I = {a: 1}) @x(y: {z: 1}) { a: deleteRepo(id: \"}\") { ok } }")
        ),
        Says::Yes
    );
    assert_eq!(says(delete, &ask("{ viewer { login deleteRepo } }")), Says::No);
    assert_eq!(says(delete, &ask("mutation { addStar }")), Says::No);
    for unclear in [
        "mutation { ...F } fragment F on Mutation { deleteRepo }",
        "query A { a } mutation B { deleteRepo }",
        "mutation { deleteRepo",
        "mutation { \u{feff}deleteRepo }",
        "",
    ] {
        assert_eq!(says(delete, &ask(unclear)), Says::Undecidable, "{unclear}");
    }
    assert_eq!(says(delete, &json(r#"[{"query":"mutation { deleteRepo }"}]"#)), Says::Undecidable);
    assert_eq!(
        says(delete, &json(r#"{"extensions":{"persistedQuery":{"sha256Hash":"x"}}}"#)),
        Says::Undecidable
    );
    assert_eq!(
        says(delete, &json(r#"{"query":"query A { a }","operationName":"B"}"#)),
        Says::Undecidable
    );
}

#[test]
fn conditions_that_cannot_work_do_not_compile() {
    for (when, says) in [
        ("body.json.amount >", "column"),
        ("amount > 1", "there is no `amount`"),
        ("request.pth == 'x'", "there is no request.pth"),
        ("body.xml.a == 'x'", "there is no body.xml"),
        ("request == body", "`request` alone is nothing"),
        ("launch(1)", "there is no function `launch`"),
        ("request.path.frob()", "there is no function `frob`"),
        ("request.headers['X-Foo'] == 'a'", "write \"x-foo\""),
        ("request.headers['Authorization'] == 'a'", "no part of what is judged"),
        ("size(request.headers) > 1", "one by one"),
        ("body.form.capture == true", "values of forms, queries and headers are text"),
        ("request.path.matches('(')", "not a regular expression"),
        ("request.path.matches(body.json.p)", "a text in quotes"),
        ("has(body.json)", "has(body.json) cannot be asked"),
        ("[1].all(request, request > 0)", "`request` is taken"),
        ("[1].all(a, [1].all(b, [1].all(c, a == b && b == c)))", "more than two comprehensions"),
        ("100", "not a question"),
        ("agent.name == 'x'", "has no fields"),
    ] {
        let text = format!(
            "[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"allow\"\nwhen = '''{when}'''\n"
        );
        let found = mistakes(&text);
        assert!(
            found
                .iter()
                .any(|m| m.starts_with("policy.toml:6: rule \"r\": `when`: ") && m.contains(says)),
            "{when}: {found:?}"
        );
    }
}

#[test]
fn deep_and_long_conditions_are_refused_not_crashed_on() {
    for when in [
        "(".repeat(2000),
        "[".repeat(4000),
        "{".repeat(4000),
        "!".repeat(4000),
        "-".repeat(4000),
        format!("{}true{}", "(".repeat(1900), ")".repeat(1900)),
        format!("{}1", "1+".repeat(2000)),
        format!("agent{}", ".a".repeat(1500)),
        format!("{}true", "true?true:".repeat(400)),
        format!("true{}", "&&true".repeat(600)),
        "a".repeat(5000),
    ] {
        let text = format!(
            "[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"allow\"\nwhen = '''{when}'''\n"
        );
        let started = std::time::Instant::now();
        let result = Policy::compile(&format!("version = 1\n{text}"), "policy.toml");
        assert!(started.elapsed().as_secs() < 20, "{}", &when[..20]);
        if let Ok(policy) = result {
            ask("GET", "https://a.example/").then(&policy);
        }
    }
}

#[test]
fn the_deepest_condition_that_compiles_can_be_evaluated() {
    // On a thread with the stack of a runtime's worker, which is what tests have too.
    let mut deepest = 0;
    for depth in 1..60 {
        let sum = format!("{}body.size{} >= 0", "(1 + ".repeat(depth), ")".repeat(depth));
        let when = format!("[1].all(a, [2].all(b, a < b && {sum}))");
        let text = format!(
            "version = 1\n[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"allow\"\nwhen = '{when}'\n"
        );
        if let Ok(policy) = Policy::compile(&text, "policy.toml") {
            assert_eq!(ask("GET", "https://a.example/").then(&policy), Then::Allow, "{depth}");
            deepest = depth;
        }
    }
    assert!((10..40).contains(&deepest), "{deepest}");
}
