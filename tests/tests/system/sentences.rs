//! What an approver reads, for each service that is known: made from the very request that its official SDK sends, which is
//! recorded in the same run. (Kubernetes is spoken by kubectl, in `kubernetes`; pushes by git, in `real_components`.)

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use bytes::Bytes;
use countersign_describe::{Risk, describe};
use countersign_gate::{Destination, Scheme};
use countersign_policy::{Body, Head, Subject};
use countersign_tests::peers::{clients, tools};
use countersign_tests::{Origin, Seen};
use http::Response;
use http_body_util::Full;
use percent_encoding::percent_decode_str;

const MARKER: &str = "marker.example.test";

/// Where the SDKs go by themselves.
const HOSTS: [&str; 20] = [
    MARKER,
    "*.amazonaws.com",
    "*.eu-west-1.amazonaws.com",
    "*.s3.eu-west-1.amazonaws.com",
    "api.anthropic.com",
    "api.cloudflare.com",
    "api.github.com",
    "api.linear.app",
    "api.notion.com",
    "api.openai.com",
    "api.stripe.com",
    "api.vercel.com",
    "calendar.googleapis.com",
    "drive.googleapis.com",
    "gitlab.com",
    "gmail.googleapis.com",
    "iam.amazonaws.com",
    "oauth2.googleapis.com",
    "slack.com",
    "www.googleapis.com",
];

/// Takes whatever comes.
fn recorder() -> Origin {
    Origin::with(&HOSTS, |seen| {
        let body = match seen.host.as_str() {
            "slack.com" => r#"{"ok":true}"#,
            "api.linear.app" => r#"{"data":{}}"#,
            _ => "{}",
        };
        let answer = Response::builder().header("content-type", "application/json");
        answer.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()
    })
}

/// The last request of each call, by the call's name.
fn recorded(origin: &Origin) -> BTreeMap<String, Seen> {
    let (mut made, mut last) = (BTreeMap::new(), None);
    for seen in origin.seen() {
        if seen.host != MARKER {
            last = Some(seen);
            continue;
        }
        let name = percent_decode_str(seen.target.trim_start_matches('/')).decode_utf8().unwrap();
        let sent = last.take().unwrap_or_else(|| panic!("{name} sent nothing"));
        made.insert(name.into_owned(), sent);
    }
    made
}

/// Its risk, what people read, and what is not covered.
fn said(seen: &Seen) -> (Option<Risk>, String, String) {
    let destination = Destination::parse(Scheme::Https, &seen.host, Some(443)).unwrap();
    let (path, query) = match seen.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (seen.target.as_str(), None),
    };
    let head = Head {
        agent: "robot",
        destination: &destination,
        method: &seen.method,
        path,
        query,
        headers: &seen.headers,
    };
    match describe(&Subject { head, body: Body::Whole(&seen.body) }) {
        Ok(Some(it)) => (Some(it.risk), it.sentence, it.also.line().unwrap_or_default()),
        Ok(None) => {
            (None, format!("nothing: {} {}{}", seen.method, seen.host, seen.target), String::new())
        }
        Err(why) => (None, format!("not certain: {}", why.0), String::new()),
    }
}

/// Every call has its row, and every row its call.
#[track_caller]
fn says(made: &BTreeMap<String, Seen>, table: &[(&str, Risk, &str)]) {
    let mut wrong = String::new();
    for (name, seen) in made {
        let (risk, sentence, also) = said(seen);
        let row = table.iter().find(|(wanted, ..)| wanted == name);
        if !row.is_some_and(|(_, wanted, text)| (Some(*wanted), *text) == (risk, &*sentence)) {
            wrong.push_str(&format!(
                "{name}\n  wanted {row:?}\n  got {risk:?} {sentence:?} also {also:?}\n  of {}\n",
                seen.text()
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(made.len(), table.len(), "a row without a call");
}

fn ended(command: &mut Command) {
    let output = command.current_dir(clients()).stdin(Stdio::null()).output();
    let output = output.expect("./tests/run installs what the tests need");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_service_by_its_sdk_for_javascript() {
    let origin = recorder();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, origin.ca_pem()).unwrap();
    let port = origin.address().port().to_string();
    ended(Command::new("node").args(["sdk_calls.mjs", &port]).env("NODE_EXTRA_CA_CERTS", &ca));
    says(&recorded(&origin), &JAVASCRIPT);
}

#[test]
fn every_service_by_its_sdk_for_python() {
    let origin = recorder();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, origin.ca_pem()).unwrap();
    let port = origin.address().port().to_string();
    ended(Command::new(tools().join("python/bin/python")).args(["sdk_calls.py", &port]).arg(&ca));
    says(&recorded(&origin), &PYTHON);
}

const JAVASCRIPT: [(&str, Risk, &str); 54] = [
    ("github: delete a repository", Risk::Destructive, "Delete repository acme/prod"),
    (
        "github: force a branch",
        Risk::Destructive,
        "Overwrite heads/main of acme/prod with aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, even if commits are lost",
    ),
    (
        "github: delete a file",
        Risk::Destructive,
        "Delete file src/main.rs in acme/prod on branch main",
    ),
    ("github: merge", Risk::Write, "Merge pull request #7 of acme/prod by squash"),
    ("github: add a collaborator", Risk::People, "Give mallory access to acme/prod as admin"),
    ("github: run a workflow", Risk::Code, "Run workflow deploy.yml of acme/prod on main"),
    ("github: comment", Risk::Messages, "Comment on #7 of acme/prod: \"Done.\""),
    ("github: read a repository", Risk::Read, "Read repository acme/prod"),
    ("github: mutation", Risk::Destructive, "GitHub: delete a branch or tag"),
    ("github: query", Risk::Read, "Read from GitHub: viewer"),
    ("gitlab: delete a project", Risk::Destructive, "Delete project acme/prod"),
    ("gitlab: make a project public", Risk::People, "Make project 42 public"),
    ("gitlab: unprotect", Risk::People, "Remove the protection of branch main in 42"),
    ("gitlab: add a member", Risk::People, "Give user 7 access to project 42, level 50"),
    ("gitlab: run a pipeline", Risk::Code, "Run a pipeline of 42 on main"),
    ("gitlab: merge", Risk::Write, "Merge merge request !7 of 42"),
    ("gitlab: read a project", Risk::Read, "Read project 42"),
    ("slack: post", Risk::Messages, "Post \"The site is down\" in C0PROD"),
    (
        "slack: post with blocks",
        Risk::Messages,
        "Post a formatted message (whose notification says \"All is well\") in C0PROD",
    ),
    ("slack: delete a message", Risk::Destructive, "Delete message 17.42 in C0PROD"),
    ("slack: archive", Risk::Destructive, "Archive channel C0PROD"),
    ("slack: invite", Risk::People, "Invite \"U1,U2\" into channel C0PROD"),
    ("slack: read a channel", Risk::Read, "Read the messages of C0PROD"),
    (
        "calendar: make an event",
        Risk::Messages,
        "Create the event \"Board meeting\" in calendar primary, with ana@example.com and ben@example.com",
    ),
    ("calendar: delete an event", Risk::Destructive, "Delete event ev1 of calendar primary"),
    (
        "calendar: share",
        Risk::People,
        "Share calendar primary with user eve@elsewhere.example as owner",
    ),
    ("calendar: clear", Risk::Destructive, "Delete all events of calendar primary"),
    ("calendar: read events", Risk::Read, "Read the events of calendar primary"),
    (
        "gmail: send",
        Risk::Messages,
        "Send mail \"Numbers\" to 2 addresses: ana@example.com and eve@elsewhere.example",
    ),
    (
        "gmail: send as an upload",
        Risk::Messages,
        "Send mail \"Numbers\" to 2 addresses: ana@example.com and eve@elsewhere.example",
    ),
    (
        "gmail: draft",
        Risk::Write,
        "Draft mail \"Numbers\" to 2 addresses: ana@example.com and eve@elsewhere.example",
    ),
    ("gmail: delete mails", Risk::Destructive, "Delete mails for good: m1 and m2"),
    ("gmail: forward", Risk::People, "Forward mail by itself to eve@elsewhere.example (on: true)"),
    ("gmail: read a mail", Risk::Read, "Read mail m1"),
    ("drive: delete a file", Risk::Destructive, "Delete file f1 for good"),
    ("drive: share with anyone", Risk::People, "Share file f1 with anyone as reader"),
    ("drive: share", Risk::People, "Share file f1 with eve@elsewhere.example as writer"),
    ("drive: trash", Risk::Destructive, "Move file f1 to the trash"),
    ("drive: empty the trash", Risk::Destructive, "Empty the trash for good"),
    ("drive: upload", Risk::Write, "Upload a new file"),
    ("drive: read a file", Risk::Read, "Read file f1"),
    ("linear: delete an issue", Risk::Destructive, "Linear: delete issue ENG-7"),
    ("linear: make an issue", Risk::Write, "Linear: create an issue"),
    ("linear: comment", Risk::Messages, "Linear: write a comment"),
    ("linear: read issues", Risk::Read, "Read from Linear: issues"),
    ("notion: trash a page", Risk::Destructive, "Move page p1 to the trash"),
    ("notion: make a page", Risk::Write, "Create a page in page p1"),
    ("notion: trash a block", Risk::Destructive, "Move block or page b1 to the trash"),
    ("notion: comment", Risk::Messages, "Comment on page p1"),
    ("notion: read a page", Risk::Read, "Read page p1"),
    (
        "vercel: delete a project",
        Risk::Destructive,
        "Delete project shop and all of its deployments",
    ),
    ("vercel: deploy", Risk::Code, "Deploy shop to production"),
    ("vercel: set a variable", Risk::People, "Set environment variables of project shop: DB"),
    ("vercel: read variables", Risk::Read, "Read environment variables of project shop"),
];

const PYTHON: [(&str, Risk, &str); 36] = [
    (
        "stripe: refund in part",
        Risk::Money,
        "Refund 12000 (of the smallest unit of its currency) of payment pi_3abc",
    ),
    ("stripe: refund in whole", Risk::Money, "Refund all that is left of charge ch_1"),
    ("stripe: pay out", Risk::Money, "Pay out 500 JPY"),
    ("stripe: transfer", Risk::Money, "Transfer 0.99 USD to account acct_7"),
    ("stripe: cancel a subscription", Risk::Money, "Cancel subscription sub_1 now"),
    (
        "stripe: delete a customer",
        Risk::Destructive,
        "Delete customer cus_9, and end their subscriptions",
    ),
    ("stripe: read a customer", Risk::Read, "Read customer cus_9"),
    ("aws: terminate", Risk::Destructive, "Terminate instance i-0abc"),
    (
        "aws: open a port",
        Risk::People,
        "Open security group sg-1 to 0.0.0.0/0, tcp from port 22 to 22",
    ),
    ("aws: read instances", Risk::Read, "Read from EC2: DescribeInstances"),
    ("aws: delete a bucket", Risk::Destructive, "Delete bucket acme-logs"),
    (
        "aws: delete an object",
        Risk::Destructive,
        "Delete object \"2026/a b.gz\" of bucket acme-logs",
    ),
    (
        "aws: publish an object",
        Risk::People,
        "Write object index.html of bucket acme-logs, open to the public",
    ),
    ("aws: read an object", Risk::Read, "Read object index.html of bucket acme-logs"),
    (
        "aws: give a policy",
        Risk::People,
        "Give user bot the policy arn:aws:iam::aws:policy/AdministratorAccess",
    ),
    ("aws: run a function", Risk::Code, "Run function billing"),
    ("aws: delete a function", Risk::Destructive, "Delete function billing"),
    ("aws: delete a table", Risk::Destructive, "Delete table orders"),
    (
        "aws: delete an item",
        Risk::Destructive,
        "Delete an item of table orders: {\"id\": {\"S\": \"42\"}}",
    ),
    ("aws: read an item", Risk::Read, "Read an item of table orders"),
    ("openai: delete a file", Risk::Destructive, "Delete file file-abc"),
    ("openai: upload a file", Risk::Write, "Upload a file"),
    ("openai: invite", Risk::People, "Invite eve@elsewhere.example into the organisation as owner"),
    ("openai: make an admin key", Risk::People, "Make an administrator's API key: \"mine\""),
    (
        "openai: archive a project",
        Risk::Destructive,
        "Archive project proj_1, which cannot be undone",
    ),
    ("openai: read files", Risk::Read, "List files"),
    ("anthropic: delete a file", Risk::Destructive, "Delete file file_011"),
    ("anthropic: upload a file", Risk::Write, "Upload a file"),
    ("anthropic: delete a batch", Risk::Destructive, "Delete batch msgbatch_1"),
    ("anthropic: cancel a batch", Risk::Destructive, "Cancel batch msgbatch_1"),
    ("anthropic: read files", Risk::Read, "List files"),
    ("cloudflare: delete a record", Risk::Destructive, "Delete DNS record r1 of zone z1"),
    (
        "cloudflare: change a record",
        Risk::Destructive,
        "Change DNS record r1 of zone z1 to 192.0.2.66",
    ),
    (
        "cloudflare: add a record",
        Risk::Write,
        "Add DNS record MX acme.example to zone z1: mx.evil.example",
    ),
    ("cloudflare: purge", Risk::Destructive, "Purge the cache of zone z1"),
    ("cloudflare: read records", Risk::Read, "Read the DNS records of zone z1"),
];
