//! What is wrong with a policy file is said at once, each with file, line and rule.

use countersign_policy::Policy;

use crate::support::mistakes;

#[test]
fn every_mistake_is_reported_at_once_in_the_order_of_its_lines() {
    let found = mistakes(
        r#"
colour = "red"

[[rule]]
name = "one"
hots = "a.example"
then = "allow"

[[rule]]
name = "one"
host = "https://a.example/"
methods = ["get", "FROB"]
path = "repos"
quorum = 0
approvers = []
expires = "soon"
hold = "10m"
when = "amount >"

[[rule]]
host = "b.example"
"#,
    );
    let expected = [
        "policy.toml:3: a policy file has no key `colour`: the keys are version, rule, test, descriptor",
        "policy.toml:5: rule \"one\": `host` is missing: write one host (a rule per host), exact or \"*.example.com\"",
        "policy.toml:7: rule \"one\": a rule has no key `hots`: did you mean `host`?",
        "policy.toml:10: rule \"one\": `then` is missing: write \"allow\", \"observe\", \"approve\", \"deny\" or \"tunnel\"",
        "policy.toml:11: rule \"one\": another rule has this name (line 5)",
        "policy.toml:12: rule \"one\": `host` \"https://a.example/\" is not one: it is a host and perhaps a port, without https:// and without a path",
        "policy.toml:13: rule \"one\": `methods` has \"get\", which is not one: write \"GET\"",
        "policy.toml:13: rule \"one\": `methods` has \"FROB\", which is not one: the methods are DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
        "policy.toml:14: rule \"one\": `path` \"repos\": a path starts with /",
        "policy.toml:15: rule \"one\": `quorum` is 0: it would be approved by nobody; write `then = \"allow\"` if so",
        "policy.toml:16: rule \"one\": `approvers` is empty: nobody could approve; leave it out to ask everyone who may approve",
        "policy.toml:17: rule \"one\": `expires` is \"soon\", which is not a duration: write \"50s\" or \"15m\"",
        "policy.toml:18: rule \"one\": `hold` is \"10m\": it can be from 1s to 4m 40s",
    ];
    for line in expected {
        assert!(
            found.iter().any(|mistake| mistake == line),
            "missing: {line}\nfound:\n{}",
            found.join("\n")
        );
    }
    assert!(
        found.iter().any(|m| m.starts_with("policy.toml:19: rule \"one\": `when`: ")),
        "{found:?}"
    );
    assert!(found.iter().any(|m| m.starts_with("policy.toml:21: `name` is missing")), "{found:?}");
    let lines: Vec<usize> =
        found.iter().map(|m| m.split(':').nth(1).unwrap().parse().unwrap()).collect();
    assert!(lines.is_sorted(), "{lines:?}");
}

#[track_caller]
pub(crate) fn wrong(keys: &str, says: &str) {
    let then = if keys.contains("then =") { "" } else { "then = \"approve\"\n" };
    let host = if keys.contains("host =") { "" } else { "host = \"a.example\"\n" };
    let found = mistakes(&format!("[[rule]]\nname = \"r\"\n{host}{then}{keys}\n"));
    assert!(
        found.len() == 1 && found[0].contains("rule \"r\": ") && found[0].contains(says),
        "{keys}: {found:?}"
    );
}

#[test]
fn each_key_says_what_it_takes() {
    wrong(
        "then = \"block\"",
        "`then` is \"allow\", \"observe\", \"approve\", \"deny\" or \"tunnel\", not \"block\"",
    );
    wrong("host = \"*\"", "stands for whole labels");
    wrong("host = \"a.*.example\"", "stands for whole labels");
    wrong("host = \"*.1.2.3.4\"", "is not one");
    wrong("host = \"127.1\"", "some resolvers take for an address");
    wrong("host = \"b\u{fc}cher.example\"", "xn--");
    wrong("host = \"a.example:0443\"", "port");
    wrong("host = [\"a.example\"]", "`host` is a text in quotes");
    wrong("hosts = [\"a.example\"]", "write one rule per `host`");
    wrong("method = [\"GET\"]", "did you mean `methods`?");
    wrong("methods = []", "`methods` is empty");
    wrong("methods = [\"*\"]", "leave `methods` out");
    wrong("methods = \"GET\"", "`methods` is a list");
    wrong("agents = []", "`agents` is empty");
    wrong("agents = [\"a\", \"a\"]", "twice");
    wrong("approvers = [\" \"]", "spaces around it");
    wrong("path = \"/a/{rest...}/b\"", "comes last");
    wrong("path = \"/a/{x}/{x}\"", "is there twice");
    wrong("path = \"/a/{}\"", "is not a variable");
    wrong("path = \"/a/{x}.json\"", "only partly one");
    wrong("path = \"/a/*\"", "{name...} for the rest");
    wrong("path = \"/a/../b\"", "dot segment");
    wrong("path = \"/a//b\"", "//");
    wrong("path = \"/a?b=c\"", "# or ?");
    wrong("path = \"/a%2fb\"", "allow_encoded_slash");
    wrong("path = \"/a%zz\"", "hexadecimal");
    wrong("query = \"a=b\"", "`query` is a table");
    wrong("query = { a = 1 }", "`query.a` is a text");
    wrong("quorum = 101", "1 to 100");
    wrong("quorum = \"2\"", "number of people");
    wrong("hold = \"281s\"", "from 1s to 4m 40s");
    wrong("hold = \"0s\"", "from 1s");
    wrong("expires = 15", "`expires` is a text");
    wrong("expires = \"8d\"", "from 1s to 7days");
    wrong("accept_edge_enforced = \"yes\"", "true or false");
    wrong("credential = \"\"", "`credential` is a name");
    wrong(
        "then = \"allow\"\napprovers = [\"a\"]",
        "`approvers` has no place in this rule: it allows",
    );
    wrong("then = \"allow\"\nquorum = 2", "`quorum` has no place");
    wrong("then = \"allow\"\npark = true", "`park` has no place in this rule: it allows");
    wrong("then = \"deny\"\npark = true", "`park` has no place in this rule: it denies");
    wrong("park = \"yes\"", "`park` is true or false");
    wrong(
        "then = \"deny\"\ncredential = \"k\"",
        "`credential` has no place in this rule: it denies",
    );
    wrong("aprovers = [\"a\"]", "did you mean `approvers`?");
    wrong("qourum = 2", "did you mean `quorum`?");
}

#[test]
fn the_version_is_one() {
    let compile =
        |text: &str| Policy::compile(text, "p.toml").map(|_| ()).map_err(|e| e[0].to_string());
    assert_eq!(compile("version = 1"), Ok(()));
    assert_eq!(compile("").unwrap_err(), "p.toml:1: `version = 1` is missing");
    assert_eq!(
        compile("version = 2").unwrap_err(),
        "p.toml:1: the only version there is is `version = 1`"
    );
    assert!(compile("version = 1\nrule = 1").unwrap_err().contains("[[rule]]"));
    assert!(
        compile("version = 1\n[[rule]\n").unwrap_err().starts_with("p.toml:2: this is not TOML: ")
    );
    assert!(
        compile("version = 1\nversion = 1")
            .unwrap_err()
            .starts_with("p.toml:2: this is not TOML: ")
    );
}

#[test]
fn nested_toml_is_refused_not_crashed_on() {
    let text = format!("version = 1\nx = {}", "[".repeat(100_000));
    assert!(Policy::compile(&text, "p.toml").is_err());
}

#[test]
fn names_of_what_is_decoded_are_checked() {
    for (when, says) in [
        ("mcp.tol == 'x'", "there is no mcp.tol: there is mcp.arguments, mcp.calls"),
        ("git == 1", "`git` alone is nothing: write git.atomic"),
        ("has(mcp.tool)", "has(mcp.tool) cannot be asked"),
        (
            "git.refs.all(r, r.knd == 'x')",
            "there is no `knd` in a record of forced, kind, new, old, ref",
        ),
        ("git.refs[0].reference == 'x'", "there is no `reference`"),
        (
            "graphql.operations.exists(o, o.fields.exists(f, f.name == 'x'))",
            "there is no `name` in a text",
        ),
        ("git.refs.exists(r, r.ref == 5)", "it compares a text with a number"),
        ("mcp.tool == true", "it compares a text with true or false"),
        ("git.refs > 3", "it compares a list with a number"),
        ("git.atomic == 1", "it compares true or false with a number"),
        (
            "body.multipart.files.all(f, f.bytes < 3)",
            "there is no `bytes` in a record of field, name, size, type",
        ),
        ("body.multipart.field.a == 'x'", "there is no `field` in a record of fields, files"),
        ("body.mail.sender == 'x'", "there is no `sender`"),
        ("body.json.all(mcp, mcp == 1)", "`mcp` is taken"),
        (
            "body.xml == 'x'",
            "there is body.form, body.graphql, body.json, body.mail, body.multipart",
        ),
        ("grpc.message.x == 1", "grpc.message needs a [[descriptor]]"),
    ] {
        wrong(&format!("when = \"{when}\""), says);
    }
    for fine in [
        "mcp.arguments.anything.at.all > 3 && mcp.calls.size() < 5",
        "git.refs.filter(r, r.kind == 'update').size() == 0",
        "body.multipart.fields.amount > 5 && body.multipart.files[0].size + 1 < 10",
    ] {
        let rule = format!(
            "[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"approve\"\nwhen = \"{fine}\""
        );
        crate::support::policy(&rule);
    }
}
