//! Ways around a rule, by their ids in the catalogue of attacks: each is refused, asked about, or the rule's.

use countersign_gate::{Destination, Scheme};
use countersign_policy::target;
use countersign_policy::{Need, Policy, Then};

use crate::support::{Ask, ask, policy};

/// Everything at the host is allowed, and sending is approved.
fn mail() -> Policy {
    policy(
        r#"
[[rule]]
name = "read mail"
host = "gmail.googleapis.com"
then = "allow"
credential = "gmail"

[[rule]]
name = "send mail"
host = "gmail.googleapis.com"
methods = ["POST"]
path = "/gmail/v1/users/me/messages/send"
then = "approve"
credential = "gmail"
"#,
    )
}

fn send(path: &str) -> Ask {
    ask("POST", &format!("https://gmail.googleapis.com{path}"))
}

/// Refused as a target, and approved by whoever asks the policy all the same.
#[track_caller]
fn refused(path: &str) {
    assert!(target::check(path, None).is_err(), "{path} is a clear target");
    assert_eq!(send(path).then(&mail()), Then::Approve, "{path}");
}

#[test]
fn p_1_dot_segments_plain_or_encoded_are_no_clear_target() {
    for path in [
        "/gmail/v1/users/me/x/%2e%2e/messages/send",
        "/gmail/v1/users/me/x/../messages/send",
        "/gmail/v1/users/me/./messages/send",
        "/gmail/v1/users/me/.%2e/messages/send",
        "/gmail/v1/users/me/%2E/messages/send",
        "/gmail/v1/users/me/x/..",
        "/..",
    ] {
        refused(path);
    }
    for path in ["/a/...", "/a/..b", "/a/b..", "/.well-known/x", "/a/%2egit"] {
        assert_eq!(target::check(path, None), Ok(()), "{path}");
    }
}

#[test]
fn p_2_backslashes_are_no_clear_target() {
    refused("/gmail/v1/users/me\\messages\\send");
    refused("/gmail/v1/users/me%5cmessages%5Csend");
}

#[test]
fn p_3_needless_escapes_match_decoded_and_never_allow() {
    let path = "/gmail/v1/users/me/messages/%73end";
    assert_eq!(target::check(path, None), Ok(()));
    let decision = send(path).decide(&mail());
    assert_eq!((decision.then, decision.rule.as_str()), (Then::Approve, "send mail"));
    assert!(decision.uninspectable);

    let allow = policy(
        "[[rule]]\nname = \"r\"\nhost = \"gmail.googleapis.com\"\npath = \"/a/send\"\nthen = \"allow\"",
    );
    assert_eq!(send("/a/send").then(&allow), Then::Allow);
    assert_eq!(send("/a/%73end").then(&allow), Then::Unnamed);
    let escaped = policy(
        "[[rule]]\nname = \"r\"\nhost = \"gmail.googleapis.com\"\npath = \"/a%3Ab\"\nthen = \"allow\"",
    );
    assert_eq!(send("/a%3ab").then(&escaped), Then::Allow, "the digits of an escape have no case");
    assert_eq!(send("/a:b").then(&escaped), Then::Unnamed);
}

#[test]
fn p_4_slashes_spaces_and_parameters_do_not_get_around_a_rule() {
    for path in [
        "//gmail/v1/users/me/messages/send",
        "/gmail//v1/users/me/messages/send",
        "/gmail/v1/users/me/messages/send%20",
    ] {
        refused(path);
    }
    for path in [
        "/..;foo=bar/gmail/v1/users/me/messages/send",
        "/gmail/v1/.;/users/me/messages/send",
        "/a/%2e%2e%3bx/b",
    ] {
        refused(path);
    }
    for path in [
        "/gmail/v1/users/me/messages/send/",
        "/gmail/v1/users/me/messages/send;jsessionid=1",
        "/gmail/v1/users/me/messages/send%3bx",
        "/gmail/v1;x/users/me/messages/send",
        "/gmail/v1/users/me/messages/send.",
    ] {
        assert_eq!(send(path).then(&mail()), Then::Approve, "{path}");
    }
}

#[test]
fn p_5_encoded_slashes_and_double_encoding_are_no_clear_target() {
    for path in [
        "/gmail/v1/users/me/%252e%252e/messages/send",
        "/gmail%2fv1/users/me/messages/send",
        "/gmail/v1/users/me/messages%2Fsend",
        "/a%00b",
        "/a%0d%0ab",
        "/a%7f",
        "/a%zz",
        "/%c0%ae%c0%ae/b",
        "/caf%e9",
        "/a%2",
        "/a%",
        "/caf\u{e9}",
        "/a b",
        "/a#b",
        "a",
        "",
        "*",
    ] {
        assert!(target::check(path, None).is_err(), "{path:?}");
    }
    assert_eq!(send("/gmail/v1/users/me/messages%2Fsend").then(&mail()), Then::Approve);
}

#[test]
fn p_5_a_host_may_accept_encoded_slashes() {
    let rules = policy(
        r#"
[[rule]]
name = "read a file"
host = "gitlab.com"
path = "/api/v4/projects/{project}/files/{file}"
allow_encoded_slash = true
then = "allow"

[[rule]]
name = "no secrets"
host = "gitlab.com"
path = "/api/v4/projects/{owner}/{project}/files/secret"
allow_encoded_slash = true
then = "deny"
"#,
    );
    let get = |path: &str| ask("GET", &format!("https://gitlab.com{path}"));
    assert_eq!(get("/api/v4/projects/a%2Fb/files/x").then(&rules), Then::Allow);
    assert_eq!(
        get("/api/v4/projects/a%2Fb/files/secret").then(&rules),
        Then::Deny,
        "also as a server that opens it"
    );
    assert_eq!(
        get("/api/v4/projects/a%2F%2e%2e/files/x").then(&rules),
        Then::Deny,
        "dot segments behind it are not"
    );

    let gitlab = Destination::parse(Scheme::Https, "gitlab.com", Some(443)).unwrap();
    let other = Destination::parse(Scheme::Https, "gmail.googleapis.com", Some(443)).unwrap();
    assert!(rules.check_target(&gitlab, "/a%2Fb", None).is_ok());
    assert!(rules.check_target(&other, "/a%2Fb", None).is_err());
    assert!(rules.check_target(&gitlab, "/a%2F..", None).is_err());
    assert!(rules.check_target(&gitlab, "/a%2F%2Fb", None).is_err());
    assert!(rules.check_target(&gitlab, "/a%5Cb", None).is_err());
}

#[test]
fn p_6_case_does_not_get_around_a_rule_and_never_allows() {
    assert_eq!(send("/Gmail/V1/Users/Me/Messages/SEND").then(&mail()), Then::Approve);
    let allow = policy(
        "[[rule]]\nname = \"r\"\nhost = \"gmail.googleapis.com\"\npath = \"/a/send\"\nthen = \"allow\"",
    );
    assert_eq!(send("/a/Send").then(&allow), Then::Unnamed);
}

#[test]
fn p_7_query_conditions_see_every_occurrence() {
    let rules = policy(
        r#"
[[rule]]
name = "fetch"
host = "github.com"
path = "/{owner}/{repo}/info/refs"
query = { service = "git-upload-pack" }
then = "allow"

[[rule]]
name = "push"
host = "github.com"
path = "/{owner}/{repo}/info/refs"
query = { service = "git-receive-pack" }
then = "approve"
"#,
    );
    let refs =
        |query: &str| ask("GET", &format!("https://github.com/o/r/info/refs?{query}")).then(&rules);
    assert_eq!(refs("service=git-upload-pack"), Then::Allow);
    assert_eq!(refs("a=b&service=git-upload-pack&c"), Then::Allow);
    assert_eq!(refs("service=git-receive-pack"), Then::Approve);
    assert_eq!(refs("%73ervice=git-receive%2Dpack"), Then::Approve);
    assert_eq!(refs("service=git-upload-pack&service=git-receive-pack"), Then::Approve);
    assert_eq!(refs("service=git-upload-pack&service=git-upload-pack"), Then::Approve);
    assert_eq!(refs("service=git-upload-pack;service=git-receive-pack"), Then::Approve);
    assert_eq!(refs("x=1;service=git-receive-pack&service=git-upload-pack"), Then::Approve);
    assert_eq!(refs("service=git-upload-pack&Service=git-receive-pack"), Then::Approve);
    assert_eq!(refs("service=git-upload-pack&service[]=git-receive-pack"), Then::Approve);
    assert_eq!(refs("service=%ff"), Then::Approve);
    assert_eq!(refs("service=other"), Then::Unnamed);
    assert_eq!(refs(""), Then::Unnamed);
    assert_eq!(refs("service=git-upload-pack&x=%00"), Then::Unnamed, "not a clear target");
}

/// Posting is allowed, deleting is asked about.
fn items() -> Policy {
    policy(
        r#"
[[rule]]
name = "change"
host = "api.example.com"
methods = ["POST"]
then = "allow"

[[rule]]
name = "delete"
host = "api.example.com"
methods = ["DELETE"]
then = "approve"
"#,
    )
}

#[test]
fn p_8_method_overrides_are_the_method_too() {
    let post = |query: &str| ask("POST", &format!("https://api.example.com/items/1{query}"));
    assert_eq!(post("").then(&items()), Then::Allow);
    for header in ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"] {
        assert_eq!(post("").header(header, "DELETE").then(&items()), Then::Approve, "{header}");
        assert_eq!(post("").header(header, " delete ").then(&items()), Then::Approve, "{header}");
        assert_eq!(post("").header(header, "POST").then(&items()), Then::Allow, "{header}");
        assert_eq!(
            post("").header(header, "FROB").then(&items()),
            Then::Approve,
            "{header}: not known"
        );
        assert_eq!(
            post("").header(header, "POST").header(header, "DELETE").then(&items()),
            Then::Approve,
            "{header}"
        );
        assert_eq!(
            post("").header(header, "PUT").then(&items()),
            Then::Unnamed,
            "{header}: no rule for it"
        );
    }
    assert_eq!(post("?_method=DELETE").then(&items()), Then::Approve);
    assert_eq!(post("?%5Fmethod=DELETE").then(&items()), Then::Approve);
    assert_eq!(post("?_METHOD=DELETE").then(&items()), Then::Approve);
    for php in [
        "?.method=DELETE",
        "?+_method=DELETE",
        "?_method[=DELETE",
        "?[method=DELETE",
        "?.Method[]=DELETE",
        "?a=1;.method=DELETE",
    ] {
        assert_eq!(post(php).then(&items()), Then::Approve, "{php}");
    }
    assert_eq!(post("?_method=POST&_method=DELETE").then(&items()), Then::Approve);
    assert_eq!(post("").form("_method=delete&x=1").then(&items()), Then::Approve);
    assert_eq!(post("").form("%5fmethod=delete").then(&items()), Then::Approve);
    assert_eq!(post("").form("x=1").then(&items()), Then::Allow);
    let multipart = |name: &str| {
        let part = format!("--x\r\ncontent-disposition: form-data; {name}\r\n\r\nDELETE\r\n--x--");
        post("").header("content-type", "multipart/form-data; boundary=x").bytes(part)
    };
    for name in [
        "name=\"_method\"",
        "NAME=_Method",
        "name = '_method'",
        "name*=utf-8''%5fmethod",
        "name=\"_m\\ethod\"",
        "name=\".method\"",
        "name==?utf-8?q?=5Fmethod?=",
    ] {
        assert_eq!(multipart(name).then(&items()), Then::Approve, "{name}");
    }
    for name in [
        "name=\"a\"",
        "name=\"file\"; filename=\"run_method.py\"",
        "name=a\r\n\r\ndef run_method(self):",
    ] {
        assert_eq!(multipart(name).then(&items()), Then::Allow, "{name}");
    }
}

#[test]
fn p_8_a_form_that_may_override_is_read_first() {
    let post = ask("POST", "https://api.example.com/items/1");
    assert_eq!(post.needs(&items()), Need::Nothing);
    assert_eq!(post.clone().json("{}").needs(&items()), Need::Nothing);
    assert_eq!(post.clone().form("").needs(&items()), Need::Body);
    assert_eq!(post.form("").streamed().then(&items()), Then::Approve, "nothing of it was read");
}

#[test]
fn p_9_methods_that_are_not_known_match_no_allow_rule() {
    for method in ["post", "TRACE", "CONNECT", "FROB"] {
        assert_ne!(
            ask(method, "https://api.example.com/items/1").then(&items()),
            Then::Allow,
            "{method}"
        );
    }
}

/// What a policy has to name: every host and path by which its provider does the same thing. POLICY.md lists them.
#[test]
fn p_15_one_action_meets_its_rule_by_every_name_of_its_provider() {
    let rules = policy(
        r#"
[[rule]]
name = "read GitHub"
host = "api.github.com"
methods = ["GET"]
then = "allow"

[[rule]]
name = "delete an asset"
host = "api.github.com"
methods = ["DELETE"]
path = "/repos/{owner}/{repo}/releases/assets/{asset}"
then = "approve"

[[rule]]
name = "upload an asset"
host = "uploads.github.com"
then = "approve"

[[rule]]
name = "anything by GraphQL"
host = "api.github.com"
path = "/graphql"
when = "body.graphql.operation != 'query'"
then = "approve"

[[rule]]
name = "ask by GraphQL"
host = "api.github.com"
path = "/graphql"
when = "body.graphql.operation == 'query'"
then = "allow"

[[rule]]
name = "send mail"
host = "gmail.googleapis.com"
methods = ["POST"]
path = "/gmail/v1/users/{user}/messages/send"
then = "approve"

[[rule]]
name = "send mail, uploading"
host = "gmail.googleapis.com"
path = "/upload/gmail/v1/users/{user}/messages/send"
then = "approve"

[[rule]]
name = "send mail by the old host"
host = "www.googleapis.com"
path = "/gmail/v1/users/{user}/messages/send"
then = "approve"

[[rule]]
name = "batches of anything"
host = "gmail.googleapis.com"
path = "/batch/{rest...}"
then = "deny"

[[rule]]
name = "batches of anything by the old host"
host = "www.googleapis.com"
path = "/batch/{rest...}"
then = "deny"

[[rule]]
name = "batches as OData has them"
host = "graph.microsoft.com"
path = "/v1.0/$batch"
then = "deny"

[[rule]]
name = "delete an invoice, path style"
host = "s3.amazonaws.com"
methods = ["DELETE"]
path = "/invoices/{rest...}"
then = "approve"

[[rule]]
name = "delete an invoice, virtual host"
host = "invoices.s3.amazonaws.com"
methods = ["DELETE"]
then = "approve"

[[rule]]
name = "delete an invoice, regional"
host = "invoices.s3.eu-central-1.amazonaws.com"
methods = ["DELETE"]
then = "approve"
"#,
    );
    let then = |method: &str, url: &str| ask(method, url).then(&rules);
    let asked = [
        ("DELETE", "https://api.github.com/repos/o/r/releases/assets/1"),
        ("POST", "https://uploads.github.com/repos/o/r/releases/1/assets?name=x"),
        ("POST", "https://gmail.googleapis.com/gmail/v1/users/me/messages/send"),
        (
            "POST",
            "https://gmail.googleapis.com/upload/gmail/v1/users/me/messages/send?uploadType=media",
        ),
        ("PUT", "https://gmail.googleapis.com/upload/gmail/v1/users/me/messages/send?upload_id=x"),
        ("POST", "https://www.googleapis.com/gmail/v1/users/me/messages/send"),
        ("DELETE", "https://s3.amazonaws.com/invoices/2026/1.pdf"),
        ("DELETE", "https://invoices.s3.amazonaws.com/2026/1.pdf"),
        ("DELETE", "https://INVOICES.s3.eu-central-1.amazonaws.com./2026/1.pdf"),
    ];
    for (method, url) in asked {
        assert_eq!(then(method, url), Then::Approve, "{method} {url}");
    }
    for url in [
        "https://gmail.googleapis.com/batch/gmail/v1",
        "https://www.googleapis.com/batch/gmail/v1",
        "https://graph.microsoft.com/v1.0/$batch",
        "https://graph.microsoft.com/v1.0/%24batch",
        "https://graph.microsoft.com/v1.0/$BATCH",
    ] {
        assert_eq!(then("POST", url), Then::Deny, "{url}");
    }
    let graphql = |text: &str| {
        ask("POST", "https://api.github.com/graphql")
            .json(&format!("{{\"query\":{text:?}}}"))
            .then(&rules)
    };
    assert_eq!(graphql("mutation { deleteRef(input: {}) { x } }"), Then::Approve);
    assert_eq!(graphql("query { a } mutation { b }"), Then::Approve, "whichever is meant");
    assert_eq!(graphql("{ viewer { login } }"), Then::Allow);
    // What is not named is refused, so an alias that was forgotten opens nothing.
    for (method, url) in [
        ("POST", "https://content.googleapis.com/gmail/v1/users/me/messages/send"),
        ("DELETE", "https://s3.dualstack.eu-central-1.amazonaws.com/invoices/1"),
        ("DELETE", "https://s3.amazonaws.com/other/1"),
        ("POST", "https://gmail.googleapis.com/gmail/v1/users/me/drafts/send"),
    ] {
        assert_eq!(then(method, url), Then::Unnamed, "{method} {url}");
    }
}

#[test]
fn n_6_a_rule_is_about_one_port() {
    let rules = policy(
        "[[rule]]\nname = \"a\"\nhost = \"api.example.com\"\nthen = \"allow\"\n[[rule]]\nname = \"b\"\nhost = \"api.example.com:8443\"\nthen = \"deny\"",
    );
    assert_eq!(ask("GET", "https://api.example.com/").then(&rules), Then::Allow);
    assert_eq!(ask("GET", "https://api.example.com:8443/").then(&rules), Then::Deny);
    for port in ["22", "80", "4430"] {
        assert_eq!(
            ask("GET", &format!("https://api.example.com:{port}/")).then(&rules),
            Then::Unnamed,
            "{port}"
        );
    }
}

#[test]
fn n_7_case_and_a_trailing_dot_of_the_host_change_nothing() {
    for host in ["gmail.googleapis.com", "GMAIL.GoogleApis.com", "gmail.googleapis.com."] {
        let request = ask("POST", &format!("https://{host}/gmail/v1/users/me/messages/send"));
        assert_eq!(request.then(&mail()), Then::Approve, "{host}");
    }
}

#[test]
fn n_9_an_address_is_named_only_when_it_is_written() {
    let rules = policy(
        "[[rule]]\nname = \"a\"\nhost = \"192.0.2.7:8080\"\nthen = \"allow\"\n[[rule]]\nname = \"b\"\nhost = \"[2001:DB8::1]\"\nthen = \"allow\"",
    );
    assert_eq!(ask("GET", "https://192.0.2.7:8080/").then(&rules), Then::Allow);
    assert_eq!(ask("GET", "https://192.0.2.8:8080/").then(&rules), Then::Unnamed);
    assert_eq!(ask("GET", "https://[2001:db8:0::1]/").then(&rules), Then::Allow);
    let wild = policy("[[rule]]\nname = \"a\"\nhost = \"*.example.com\"\nthen = \"allow\"");
    assert_eq!(ask("GET", "https://192.0.2.7/").then(&wild), Then::Unnamed);
}

#[test]
fn n_15_hosts_match_by_whole_labels() {
    let rules = policy("[[rule]]\nname = \"a\"\nhost = \"*.openai.com\"\nthen = \"allow\"");
    for (host, then) in [
        ("api.openai.com", Then::Allow),
        ("a.b.openai.com", Then::Allow),
        ("openai.com", Then::Unnamed),
        ("evilopenai.com", Then::Unnamed),
        ("openai.com.evil.tld", Then::Unnamed),
        ("api.openai.com.evil.tld", Then::Unnamed),
        ("com", Then::Unnamed),
    ] {
        let request = ask("GET", &format!("https://{host}/"));
        assert_eq!(request.then(&rules), then, "{host}");
        assert_eq!(rules.names_host(&request.destination), then == Then::Allow, "{host}");
    }
}
