//! Properties: nothing panics, and every value of a body is in a fact, or listed, or counted.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::corpus::targets::{mark, unsaid};
use crate::requests::Captured;

/// Calls whose bodies are JSON.
const CALLS: [(&str, &str); 8] = [
    ("PATCH", "https://api.github.com/repos/acme/prod"),
    ("POST", "https://api.notion.com/v1/pages"),
    ("POST", "https://slack.com/api/chat.postMessage"),
    ("POST", "https://www.googleapis.com/calendar/v3/calendars/primary/events"),
    ("PATCH", "https://kubernetes.default.svc/apis/apps/v1/namespaces/a/deployments/b"),
    ("DELETE", "https://api.cloudflare.com/client/v4/zones/z1/dns_records/r1"),
    ("POST", "https://api.github.com/repos/acme/prod/issues"),
    ("PUT", "https://gitlab.com/api/v4/projects/42/merge_requests/1/merge"),
];

/// Names that describers look at, and others.
fn name() -> impl Strategy<Value = String> {
    let known = [
        "archived",
        "attendees",
        "blocks",
        "body",
        "channel",
        "children",
        "containers",
        "email",
        "force",
        "image",
        "metadata",
        "name",
        "page_id",
        "parent",
        "private",
        "properties",
        "spec",
        "summary",
        "template",
        "text",
        "title",
        "visibility",
    ];
    prop_oneof![
        3 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => "[a-z.\\[\\]?@ é]{0,6}",
    ]
}

/// Every leaf of it can be told from every other.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z\"\\\\ ]{0,12}".prop_map(Value::from),
        Just(Value::Null),
        "[a-z]{150,600}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn every_value_of_a_body_is_in_a_fact_or_listed_or_counted(
        mut body in prop::collection::vec((name(), value()), 0..12)
            .prop_map(|members| Value::Object(members.into_iter().collect())),
        call in prop::sample::select(CALLS.to_vec()),
    ) {
        let (mut next, mut leaves) = (0, Vec::new());
        if body.as_object().is_some_and(|members| !members.is_empty()) {
            mark(&mut body, "", &mut next, &mut leaves);
        }
        let kind = [("content-type", "application/json")];
        let request = Captured::new(call.0, call.1, &kind, body.to_string().as_bytes());
        if let Ok(Some(said)) = request.describe() {
            let missing = unsaid(&said, &leaves);
            prop_assert!(missing.len() as u64 <= said.also.more, "{missing:?} of {body} in {said:#?}");
        }
    }

    #[test]
    fn nothing_panics_on_any_bytes(
        body in prop::collection::vec(any::<u8>(), 0..300),
        path in "/[ -~]{0,40}",
        query in prop::option::of("[ -~&=%]{0,30}"),
        kind in prop::sample::select(vec![
            "application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x",
            "application/x-git-receive-pack-request", "message/rfc822", "application/x-amz-json-1.0",
        ]),
        host in prop::sample::select(vec![
            "api.anthropic.com", "api.cloudflare.com", "api.github.com", "api.linear.app", "api.notion.com", "api.openai.com",
            "api.stripe.com", "api.vercel.com", "b.s3.amazonaws.com", "ec2.eu-west-1.amazonaws.com", "git.example.com",
            "gitlab.com", "gmail.googleapis.com", "kubernetes.default.svc", "s3.eu-west-1.amazonaws.com", "slack.com",
            "www.googleapis.com",
        ]),
        method in prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ) {
        let mut request = Captured::new(method, &format!("https://{host}/"), &[("content-type", kind)], &body);
        (request.path, request.query) = (path, query);
        let _ = request.describe();
    }

    #[test]
    fn nothing_panics_on_what_is_almost_a_call(
        body in prop::collection::vec(any::<u8>(), 0..200),
        text in "[\\[\\]{}:,\"a-z0-9=&%.\r\n -]{0,200}",
        call in prop::sample::select(vec![
            ("POST", "https://api.stripe.com/v1/refunds", "application/x-www-form-urlencoded"),
            ("POST", "https://ec2.eu-west-1.amazonaws.com/", "application/x-www-form-urlencoded"),
            ("POST", "https://api.linear.app/graphql", "application/json"),
            ("POST", "https://git.example.com/a.git/git-receive-pack", "application/x-git-receive-pack-request"),
            ("POST", "https://gmail.googleapis.com/upload/gmail/v1/users/me/messages/send", "message/rfc822"),
            ("POST", "https://gmail.googleapis.com/gmail/v1/users/me/messages/send", "application/json"),
            ("POST", "https://mcp.example.com/", "application/json"),
            ("POST", "https://slack.com/api/chat.postMessage", "application/json"),
        ]),
        lines in prop::bool::ANY,
    ) {
        let body = if lines { text.into_bytes() } else { body };
        let _ = Captured::new(call.0, call.1, &[("content-type", call.2)], &body).describe();
    }
}

#[test]
fn a_long_rest_is_counted() {
    let body: Value = (0..100)
        .map(|at| (format!("k{at}"), json!([at, at])))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let kind = [("content-type", "application/json")];
    let url = "https://api.github.com/repos/acme/prod/issues/7/labels";
    let request = Captured::new("POST", url, &kind, body.to_string().as_bytes());
    let said = request.describe().unwrap().unwrap();
    assert_eq!(said.also.listed.len(), 24);
    assert_eq!(said.also.more, (100 - 24) * 2);
    assert!(said.also.line().unwrap().ends_with("152 more values"));
}
