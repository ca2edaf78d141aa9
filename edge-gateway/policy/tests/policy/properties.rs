//! What holds of every policy and every request.

use countersign_policy::{Body, Need, Policy, Subject, Then};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::support::{Ask, ask};

/// A rule, its name aside.
pub(crate) fn rule() -> impl Strategy<Value = String> {
    let host =
        select(vec!["a.example", "*.example", "b.a.example", "*.a.example", "a.example:8443"]);
    let methods = option::of(select(vec!["[\"GET\"]", "[\"POST\"]", "[\"GET\", \"DELETE\"]"]));
    let path = option::of(select(vec!["/", "/x", "/x/{y}", "/x/{y...}", "/{y}/z", "/x/send"]));
    let query = option::of(select(vec!["{ q = \"1\" }", "{ q = \"2\" }"]));
    let when = option::of(select(vec![
        "body.form.n >= 10",
        "body.json.n == 1",
        "has(body.json.n)",
        "request.query.q == '1'",
        "request.path.endsWith('send') || body.size > 3",
        "agent == 'bot' && request.method != 'POST'",
    ]));
    let then = select(vec!["allow", "observe", "approve", "deny"]);
    (host, methods, path, query, when, then).prop_map(|(host, methods, path, query, when, then)| {
        let mut text = format!("host = \"{host}\"\nthen = \"{then}\"\n");
        for (key, value) in [("methods", methods), ("query", query)] {
            text.extend(value.map(|value| format!("{key} = {value}\n")));
        }
        for (key, value) in [("path", path), ("when", when)] {
            text.extend(value.map(|value| format!("{key} = \"{value}\"\n")));
        }
        text
    })
}

pub(crate) fn request() -> impl Strategy<Value = Ask> {
    let host = select(vec!["a.example", "b.a.example", "c.example", "a.example:8443", "example"]);
    let target = select(vec![
        "/",
        "/x",
        "/x/",
        "/x/send",
        "/x/%73end",
        "/X/send",
        "/x/z",
        "/x//z",
        "/x/a%2fb",
        "/x/../z",
    ]);
    let query = select(vec!["", "?q=1", "?q=1&q=2", "?q=2;q=1", "?_method=DELETE", "?%71=1"]);
    let method = select(vec!["GET", "POST", "DELETE"]);
    let kind = select(vec![
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ]);
    let body = select(vec![
        "",
        "n=10",
        "n=1&n=10",
        "n=abc",
        "_method=DELETE",
        "{\"n\":1}",
        "{\"n\":1,\"n\":2}",
        "{}",
    ]);
    let header = option::of(select(vec!["DELETE", "GET", "?"]));
    (host, target, query, method, kind, body, header).prop_map(
        |(host, target, query, method, kind, body, header)| {
            let mut request = ask(method, &format!("https://{host}{target}{query}")).bytes(body);
            if !kind.is_empty() {
                request = request.header("content-type", kind);
            }
            match header {
                Some(value) => request.header("x-http-method-override", value),
                None => request,
            }
        },
    )
}

/// Compiles rules, each named by its number.
pub(crate) fn compile(rules: &[(usize, String)]) -> Policy {
    let rules = rules.iter().map(|(number, rule)| format!("[[rule]]\nname = \"{number}\"\n{rule}"));
    let text = format!("version = 1\n{}", rules.collect::<String>());
    Policy::compile(&text, "policy.toml").expect("generated rules are well-formed")
}

fn numbered(rules: Vec<String>) -> Vec<(usize, String)> {
    rules.into_iter().enumerate().collect()
}

/// How much a decision lets through.
fn openness(then: Then) -> u8 {
    match then {
        Then::Deny | Then::Unnamed => 0,
        Then::Approve => 1,
        Then::Allow | Then::Observe | Then::Tunnel => 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn order_never_matters(rules in vec(rule(), 0..6).prop_map(numbered), seed in any::<u64>(), request in request()) {
        let mut shuffled = rules.clone();
        shuffled.sort_by_key(|(number, _)| (seed ^ (*number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(17));
        prop_assert_eq!(request.decide(&compile(&rules)), request.decide(&compile(&shuffled)));
    }

    #[test]
    fn adding_a_deny_or_approve_rule_never_opens_anything(
        rules in vec(rule(), 0..5).prop_map(numbered), added in rule(), request in request(),
    ) {
        let before = request.decide(&compile(&rules));
        for then in ["deny", "approve"] {
            let strict: String = added.lines().filter(|line| !line.starts_with("then")).map(|line| format!("{line}\n")).collect();
            let mut more = rules.clone();
            more.push((99, format!("{strict}then = \"{then}\"\n")));
            let after = request.decide(&compile(&more));
            if then == "deny" {
                prop_assert!(openness(after.then) <= openness(before.then), "{before:?} {after:?}");
                prop_assert!(before.then != Then::Deny || after.then == Then::Deny);
            } else {
                prop_assert!(before.then.passes() || !after.then.passes());
                prop_assert!(before.requirements.iter().all(|r| after.then == Then::Deny || after.requirements.contains(r)));
            }
        }
    }

    #[test]
    fn adding_an_observe_rule_stops_nothing_and_opens_what_an_allow_rule_would(
        rules in vec(rule(), 0..5).prop_map(numbered), added in rule(), request in request(),
    ) {
        let with = |then: &str| {
            let rest = added.lines().filter(|line| !line.starts_with("then"));
            let rest: String = rest.map(|line| format!("{line}\n")).collect();
            let mut more = rules.clone();
            more.push((99, format!("{rest}then = \"{then}\"\n")));
            request.decide(&compile(&more))
        };
        let (before, after) = (request.decide(&compile(&rules)), with("observe"));
        prop_assert_eq!(with("allow").then.passes(), after.then.passes());
        prop_assert!(openness(after.then) >= openness(before.then));
        prop_assert!(before.credentials.iter().all(|name| after.credentials.contains(name)));
        prop_assert!(before.observed.iter().all(|name| after.observed.contains(name)));
        prop_assert!(after.then != Then::Observe || after.recorded());
    }

    #[test]
    fn what_is_not_read_never_opens_anything(
        rules in vec(rule(), 1..6).prop_map(numbered), request in request(), bodies in vec(prop_oneof![
            select(vec!["n=10", "n=1", "_method=DELETE", "{\"n\":1}", "{\"n\":2}", "{}", ""]).prop_map(|b| b.as_bytes().to_vec()),
            vec(any::<u8>(), 0..40),
        ], 1..6),
    ) {
        let policy = compile(&rules);
        let need = request.needs(&policy);
        let streamed = policy.decide(&Subject { head: request.head(), body: Body::Streamed }).then;
        for body in &bodies {
            let whole = policy.decide(&Subject { head: request.head(), body: Body::Whole(body) }).then;
            prop_assert!(!streamed.passes() || whole.passes());
            match need {
                Need::Nothing => prop_assert_eq!(whole, Then::Allow),
                Need::Refuse => prop_assert!(matches!(whole, Then::Deny | Then::Unnamed)),
                Need::Body => {}
            }
        }
    }

    #[test]
    fn a_decision_is_explained_by_the_rules_that_matched(rules in vec(rule(), 0..6).prop_map(numbered), request in request()) {
        let policy = compile(&rules);
        let explanation = policy.explain(&request.subject());
        prop_assert_eq!(&explanation.decision, &request.decide(&policy));
        let decided = explanation.rules.iter().any(|rule| rule.rule == explanation.decision.rule);
        prop_assert_eq!(decided, explanation.decision.then != Then::Unnamed);
        if explanation.decision.then != Then::Unnamed {
            prop_assert!(policy.names_host(&request.destination));
        }
    }

    #[test]
    fn n_15_a_host_matches_itself_or_by_whole_labels(
        labels in vec("[a-c]{1,2}", 1..4), pattern in vec("[a-c]{1,2}", 1..3), below in any::<bool>(),
    ) {
        let (host, name) = (labels.join("."), pattern.join("."));
        let written = if below { format!("*.{name}") } else { name.clone() };
        let policy = compile(&[(0, format!("host = \"{written}\"\nthen = \"allow\"\n"))]);
        let expected = if below { host.ends_with(&format!(".{name}")) } else { host == name };
        prop_assert_eq!(ask("GET", &format!("https://{host}/")).then(&policy) == Then::Allow, expected);
    }

    #[test]
    fn compiling_never_panics(text in "(version = 1\n)?(\\[\\[rule\\]\\]\n)?[ -~\n]{0,200}") {
        let _ = Policy::compile(&text, "policy.toml");
    }

    #[test]
    fn conditions_never_panic(when in "[a-z.()\\[\\]{}<>=!&|?:+*/%\"', 0-9-]{0,60}", request in request()) {
        let text = format!("version = 1\n[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"allow\"\nwhen = '''{when}'''\n");
        if let Ok(policy) = Policy::compile(&text, "policy.toml") {
            request.then(&policy);
        }
    }
}

/// Content types and conditions of everything that is decoded further.
fn decoded() -> impl Strategy<Value = (&'static str, &'static str, &'static str)> {
    select(vec![
        ("application/json", "/", "mcp.calls.all(c, c.method == 'tools/list')"),
        ("application/json", "/", "mcp.tool == 'x' && mcp.arguments.n == 1"),
        ("application/json", "/", "graphql.operations.all(o, o.type == 'query')"),
        ("application/json", "/", "body.mail.recipients.size() == 0"),
        ("message/rfc822", "/", "body.mail.to.all(a, a.endsWith('@a.example'))"),
        ("multipart/form-data; boundary=b", "/", "body.multipart.fields.n < 5"),
        (
            "application/x-git-receive-pack-request",
            "/r/git-receive-pack",
            "git.refs.all(r, r.kind == 'create')",
        ),
        (
            "application/x-git-upload-pack-request",
            "/r/git-upload-pack",
            "git.service == 'git-upload-pack'",
        ),
    ])
}

/// Bytes that are nearly what a decoder reads.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let whole = select(vec![
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"n":1}}}]"#,
        r#"{"query":"query A { ...F a: b(x: \"{\") @skip(if: true) } fragment F on Q { c }"}"#,
        r#"{"raw":"VG86IGFAYS5leGFtcGxlDQoNCmhp"}"#,
        "To: Ana <a@a.example>\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhi\r\n--x--\r\n",
        "--b\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n1\r\n--b--\r\n",
        "007b0000000000000000000000000000000000000000 78a52b4b724b056d0164d678a5d27f667060fa71 refs/heads/a\0 report-status\n0000PACK",
    ]);
    let change = (any::<prop::sample::Index>(), 0_usize..4, vec(any::<u8>(), 0..4));
    (whole, vec(change, 0..3)).prop_map(|(whole, changes)| {
        let mut bytes = whole.as_bytes().to_vec();
        for (at, taken, put) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + taken).min(bytes.len());
            bytes.splice(at..end, put);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_is_decoded_is_one_of_three_and_never_opens_what_it_is_not_sure_of(
        (kind, path, when) in decoded(), body in nearly(),
    ) {
        let request = ask("POST", &format!("https://a.example{path}")).header("content-type", kind).bytes(body);
        let answer = crate::support::said(when, &request);
        let negated = crate::support::said(&format!("!({when})"), &request);
        let opposite = match answer { "yes" => "no", "no" => "yes", unknown => unknown };
        prop_assert_eq!(negated, opposite, "{}", when);
        // The same bytes under another type are nothing.
        let other = ask("POST", &format!("https://a.example{path}")).header("content-type", "text/plain");
        let other = other.bytes(request.body.unwrap_or_default());
        prop_assert_eq!(crate::support::said(when, &other), "unknown", "{}", when);
    }

    #[test]
    fn a_form_in_parts_says_what_its_author_wrote(
        fields in prop::collection::btree_map("[a-z]{1,8}", "[ -~]{0,20}", 1..5),
        file in option::of(("[a-z]{1,5}\\.txt", vec(any::<u8>(), 0..40))),
    ) {
        let mut body = Vec::new();
        for (name, value) in &fields {
            body.extend(format!("--boundary42\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
        }
        if let Some((name, content)) = &file {
            body.extend(format!("--boundary42\r\nContent-Disposition: form-data; name=\"_file\"; filename=\"{name}\"\r\n\r\n").bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--boundary42--\r\n");
        let headers = [(http::header::CONTENT_TYPE, http::HeaderValue::from_static("multipart/form-data; boundary=boundary42"))];
        let read = countersign_policy::decode::multipart::read(&http::HeaderMap::from_iter(headers), &body).unwrap();
        let mut expected: Vec<(&str, Option<&str>, &[u8])> =
            fields.iter().map(|(name, value)| (name.as_str(), None, value.as_bytes())).collect();
        expected.extend(file.iter().map(|(name, content)| ("_file", Some(name.as_str()), content.as_slice())));
        let found: Vec<_> = read.parts.iter().map(|part| (part.name, part.file, part.content)).collect();
        prop_assert_eq!(found, expected);
    }
}
