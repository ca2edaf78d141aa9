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
