//! Fixtures in the policy file.

use countersign_policy::{Policy, Then, fixtures::run_fixtures};

const FILE: &str = r#"
version = 1

[[rule]]
name = "small refunds"
host = "api.stripe.com"
methods = ["POST"]
when = "body.form.amount < 100"
then = "allow"

[[test]]
name = "small"
method = "POST"
url = "https://api.stripe.com/v1/refunds?x=1"
headers = { content-type = "application/x-www-form-urlencoded" }
body = "amount=1"
expect = "allow"
rule = "small refunds"

[[test]]
name = "large"
method = "POST"
url = "https://api.stripe.com/v1/refunds"
headers = { content-type = ["application/x-www-form-urlencoded"] }
body = "amount=1000"
expect = "approve"

[[test]]
name = "ambiguous"
url = "https://api.stripe.com/a/../b"
expect = "refuse"
"#;

#[test]
fn fixtures_say_what_differs() {
    let report = run_fixtures(FILE, "policy.toml").unwrap();
    assert!(!report.passed());
    let [small, large, ambiguous] = report.outcomes.as_slice() else { panic!("{report:?}") };
    assert_eq!(
        (small.then, small.rule.as_str(), &small.failure),
        (Then::Allow, "small refunds", &None)
    );
    assert_eq!(
        large.failure.as_deref(),
        Some("expected approve; it is refuse, because no rule names it")
    );
    assert_eq!((large.name.as_str(), large.line), ("large", 20));
    assert_eq!(ambiguous.failure, None);
}

#[test]
fn compile_takes_fixtures_and_says_what_is_wrong_with_them() {
    assert!(Policy::compile(FILE, "policy.toml").is_ok());
    let broken = "version = 1\n[[test]]\nname = \"x\"\nurl = \"api.example.com\"\nmethod = \"get\"\nexpct = \"allow\"\nheaders = { \"a b\" = \"c\" }\n";
    let found: Vec<String> =
        Policy::compile(broken, "p").unwrap_err().iter().map(ToString::to_string).collect();
    for says in [
        "p:4: `url`",
        "p:5: `method` is one of",
        "p:6: a test has no key `expct`: did you mean `expect`?",
        "p:2: `expect` is missing",
        "`headers.a b`",
    ] {
        assert!(found.iter().any(|mistake| mistake.contains(says)), "{says}: {found:?}");
    }
    assert_eq!(run_fixtures(broken, "p").unwrap_err().len(), found.len());
}

#[test]
fn a_fixture_may_have_a_body_that_is_no_text() {
    let with = |body: &str| {
        format!(
            "version = 1\n[[rule]]\nname = \"push\"\nhost = \"a.example\"\nthen = \"allow\"\n\
             when = \"git.refs.size() == 0\"\n[[test]]\nmethod = \"POST\"\n\
             url = \"https://a.example/x/git-receive-pack\"\nexpect = \"allow\"\n\
             headers = {{ content-type = \"application/x-git-receive-pack-request\" }}\n{body}\n"
        )
    };
    // "0000"
    assert!(run_fixtures(&with("body_base64 = \"MDAwMA==\""), "p").unwrap().passed());
    assert!(run_fixtures(&with("body = \"0000\""), "p").unwrap().passed());
    assert!(!run_fixtures(&with("body_base64 = \"/w==\""), "p").unwrap().passed());
    for (body, says) in [
        ("body_base64 = \"%\"", "`body_base64` is not base64"),
        ("body = \"\"\nbody_base64 = \"\"", "not both"),
    ] {
        let found = run_fixtures(&with(body), "p").unwrap_err();
        assert!(found.iter().any(|mistake| mistake.to_string().contains(says)), "{found:?}");
    }
}
