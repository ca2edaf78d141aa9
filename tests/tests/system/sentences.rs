//! What an approver reads, for each service that is known, and what its ready-made policy says: of the very request that its
//! official SDK sends, which is recorded in the same run. (Kubernetes is spoken by kubectl, in `kubernetes`; pushes by git, in `real_components`.)

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use bytes::Bytes;
use countersign_describe::{Risk, describe};
use countersign_gate::{Destination, Scheme};
use countersign_policy::{Body, Head, Policy, Subject, Then};
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

/// What the ready-made policy of its service does with it, its risk, and what people read.
fn said(name: &str, seen: &Seen) -> (Then, Option<Risk>, String) {
    let destination = Destination::parse(Scheme::Https, &seen.host, Some(443)).unwrap();
    let (path, query) = match seen.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (seen.target.as_str(), None),
    };
    let (policy, agent) = policy(name.split(':').next().unwrap());
    let head = Head {
        agent: &agent,
        destination: &destination,
        method: &seen.method,
        path,
        query,
        headers: &seen.headers,
    };
    let subject = Subject { head, body: Body::Whole(&seen.body) };
    // The edge asks this first.
    let then = match policy.check_target(&destination, path, query) {
        Ok(()) => policy.decide(&subject).then,
        Err(_) => Then::Unnamed,
    };
    match describe(&subject) {
        Ok(Some(it)) => (then, Some(it.risk), it.sentence),
        Ok(None) => (then, None, format!("nothing is known of {} {}", seen.method, seen.target)),
        Err(why) => (then, None, format!("it is not certain: {}", why.0)),
    }
}

/// The ready-made policy of a service, and an agent that it is for.
fn policy(service: &str) -> (Policy, String) {
    let file = match service {
        "calendar" | "drive" => format!("google-{service}"),
        other => other.to_owned(),
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/policies/services");
    let text = std::fs::read_to_string(format!("{folder}/{file}.toml")).unwrap();
    let agents = text.lines().find_map(|line| line.strip_prefix("agents = [\"")).unwrap();
    let agent = agents.split('"').next().unwrap().to_owned();
    (Policy::compile(&text, &file).unwrap(), agent)
}

/// Its name, what the policy says, and what people read. A GraphQL call at GitHub may be anything, and variables are secrets: these
/// the policies leave unnamed.
type Row = (&'static str, Then, Risk, &'static str);

/// Every call has its row, and every row its call.
#[track_caller]
fn says(made: &BTreeMap<String, Seen>, table: &[Row]) {
    let mut wrong = String::new();
    for (name, seen) in made {
        let (then, risk, sentence) = said(name, seen);
        let row = table.iter().find(|(wanted, ..)| wanted == name);
        let right = |(_, wants, wanted, text): &Row| {
            (*wants, Some(*wanted), *text) == (then, risk, &*sentence)
        };
        if !row.is_some_and(right) {
            wrong.push_str(&format!(
                "{name}\n  wanted {row:?}\n  got {then:?}, {risk:?} {sentence:?}\n  of {}\n",
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

const JAVASCRIPT: [Row; 54] = [
    (
        "github: delete a repository",
        Then::Approve,
        Risk::Destructive,
        "Delete repository acme/prod",
    ),
    (
        "github: force a branch",
        Then::Approve,
        Risk::Destructive,
        "Overwrite heads/main of acme/prod with aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, even if commits are lost",
    ),
    (
        "github: delete a file",
        Then::Approve,
        Risk::Destructive,
        "Delete file src/main.rs in acme/prod on branch main",
    ),
    ("github: merge", Then::Approve, Risk::Write, "Merge pull request #7 of acme/prod by squash"),
    (
        "github: add a collaborator",
        Then::Approve,
        Risk::People,
        "Give mallory access to acme/prod as admin",
    ),
    (
        "github: run a workflow",
        Then::Approve,
        Risk::Code,
        "Run workflow deploy.yml of acme/prod on main",
    ),
    ("github: comment", Then::Approve, Risk::Messages, "Comment on #7 of acme/prod: \"Done.\""),
    ("github: read a repository", Then::Allow, Risk::Read, "Read repository acme/prod"),
    ("github: mutation", Then::Unnamed, Risk::Destructive, "GitHub: delete a branch or tag"),
    ("github: query", Then::Unnamed, Risk::Read, "Read from GitHub: viewer"),
    ("gitlab: delete a project", Then::Approve, Risk::Destructive, "Delete project acme/prod"),
    ("gitlab: make a project public", Then::Approve, Risk::People, "Make project 42 public"),
    (
        "gitlab: unprotect",
        Then::Approve,
        Risk::People,
        "Remove the protection of branch main in 42",
    ),
    (
        "gitlab: add a member",
        Then::Approve,
        Risk::People,
        "Give user 7 access to project 42, level 50",
    ),
    ("gitlab: run a pipeline", Then::Approve, Risk::Code, "Run a pipeline of 42 on main"),
    ("gitlab: merge", Then::Approve, Risk::Write, "Merge merge request !7 of 42"),
    ("gitlab: read a project", Then::Allow, Risk::Read, "Read project 42"),
    ("slack: post", Then::Approve, Risk::Messages, "Post \"The site is down\" in C0PROD"),
    (
        "slack: post with blocks",
        Then::Approve,
        Risk::Messages,
        "Post a formatted message (whose notification says \"All is well\") in C0PROD",
    ),
    ("slack: delete a message", Then::Approve, Risk::Destructive, "Delete message 17.42 in C0PROD"),
    ("slack: archive", Then::Approve, Risk::Destructive, "Archive channel C0PROD"),
    ("slack: invite", Then::Approve, Risk::People, "Invite \"U1,U2\" into channel C0PROD"),
    ("slack: read a channel", Then::Allow, Risk::Read, "Read the messages of C0PROD"),
    (
        "calendar: make an event",
        Then::Approve,
        Risk::Messages,
        "Create the event \"Board meeting\" in calendar primary, with ana@example.com and ben@example.com",
    ),
    (
        "calendar: delete an event",
        Then::Approve,
        Risk::Destructive,
        "Delete event ev1 of calendar primary",
    ),
    (
        "calendar: share",
        Then::Approve,
        Risk::People,
        "Share calendar primary with user eve@elsewhere.example as owner",
    ),
    ("calendar: clear", Then::Approve, Risk::Destructive, "Delete all events of calendar primary"),
    ("calendar: read events", Then::Allow, Risk::Read, "Read the events of calendar primary"),
    (
        "gmail: send",
        Then::Approve,
        Risk::Messages,
        "Send mail \"Numbers\" to 2 addresses: ana@example.com and eve@elsewhere.example",
    ),
    (
        "gmail: send as an upload",
        Then::Approve,
        Risk::Messages,
        "Send mail \"Numbers\" to 2 addresses: ana@example.com and eve@elsewhere.example",
    ),
    (
        "gmail: draft",
        Then::Approve,
        Risk::Write,
        "Draft mail \"Numbers\" to 2 addresses: ana@example.com and eve@elsewhere.example",
    ),
    ("gmail: delete mails", Then::Approve, Risk::Destructive, "Delete mails for good: m1 and m2"),
    (
        "gmail: forward",
        Then::Approve,
        Risk::People,
        "Forward mail by itself to eve@elsewhere.example (on: true)",
    ),
    ("gmail: read a mail", Then::Allow, Risk::Read, "Read mail m1"),
    ("drive: delete a file", Then::Approve, Risk::Destructive, "Delete file f1 for good"),
    (
        "drive: share with anyone",
        Then::Approve,
        Risk::People,
        "Share file f1 with anyone as reader",
    ),
    (
        "drive: share",
        Then::Approve,
        Risk::People,
        "Share file f1 with eve@elsewhere.example as writer",
    ),
    ("drive: trash", Then::Approve, Risk::Destructive, "Move file f1 to the trash"),
    ("drive: empty the trash", Then::Approve, Risk::Destructive, "Empty the trash for good"),
    ("drive: upload", Then::Approve, Risk::Write, "Upload a new file"),
    ("drive: read a file", Then::Allow, Risk::Read, "Read file f1"),
    ("linear: delete an issue", Then::Approve, Risk::Destructive, "Linear: delete issue ENG-7"),
    ("linear: make an issue", Then::Approve, Risk::Write, "Linear: create an issue"),
    ("linear: comment", Then::Approve, Risk::Messages, "Linear: write a comment"),
    ("linear: read issues", Then::Allow, Risk::Read, "Read from Linear: issues"),
    ("notion: trash a page", Then::Approve, Risk::Destructive, "Move page p1 to the trash"),
    ("notion: make a page", Then::Approve, Risk::Write, "Create a page in page p1"),
    (
        "notion: trash a block",
        Then::Approve,
        Risk::Destructive,
        "Move block or page b1 to the trash",
    ),
    ("notion: comment", Then::Approve, Risk::Messages, "Comment on page p1"),
    ("notion: read a page", Then::Allow, Risk::Read, "Read page p1"),
    (
        "vercel: delete a project",
        Then::Approve,
        Risk::Destructive,
        "Delete project shop and all of its deployments",
    ),
    ("vercel: deploy", Then::Approve, Risk::Code, "Deploy shop to production"),
    (
        "vercel: set a variable",
        Then::Approve,
        Risk::People,
        "Set environment variables of project shop: DB",
    ),
    (
        "vercel: read variables",
        Then::Unnamed,
        Risk::Read,
        "Read environment variables of project shop",
    ),
];

const PYTHON: [Row; 36] = [
    (
        "stripe: refund in part",
        Then::Approve,
        Risk::Money,
        "Refund 12000 (of the smallest unit of its currency) of payment pi_3abc",
    ),
    (
        "stripe: refund in whole",
        Then::Approve,
        Risk::Money,
        "Refund all that is left of charge ch_1",
    ),
    ("stripe: pay out", Then::Approve, Risk::Money, "Pay out 500 JPY"),
    ("stripe: transfer", Then::Approve, Risk::Money, "Transfer 0.99 USD to account acct_7"),
    ("stripe: cancel a subscription", Then::Approve, Risk::Money, "Cancel subscription sub_1 now"),
    (
        "stripe: delete a customer",
        Then::Approve,
        Risk::Destructive,
        "Delete customer cus_9, and end their subscriptions",
    ),
    ("stripe: read a customer", Then::Allow, Risk::Read, "Read customer cus_9"),
    ("aws: terminate", Then::Approve, Risk::Destructive, "Terminate instance i-0abc"),
    (
        "aws: open a port",
        Then::Approve,
        Risk::People,
        "Open security group sg-1 to 0.0.0.0/0, tcp from port 22 to 22",
    ),
    ("aws: read instances", Then::Allow, Risk::Read, "Read from EC2: DescribeInstances"),
    ("aws: delete a bucket", Then::Approve, Risk::Destructive, "Delete bucket acme-logs"),
    (
        "aws: delete an object",
        Then::Approve,
        Risk::Destructive,
        "Delete object \"2026/a b.gz\" of bucket acme-logs",
    ),
    (
        "aws: publish an object",
        Then::Approve,
        Risk::People,
        "Write object index.html of bucket acme-logs, open to the public",
    ),
    ("aws: read an object", Then::Allow, Risk::Read, "Read object index.html of bucket acme-logs"),
    (
        "aws: give a policy",
        Then::Approve,
        Risk::People,
        "Give user bot the policy arn:aws:iam::aws:policy/AdministratorAccess",
    ),
    ("aws: run a function", Then::Approve, Risk::Code, "Run function billing"),
    ("aws: delete a function", Then::Approve, Risk::Destructive, "Delete function billing"),
    ("aws: delete a table", Then::Approve, Risk::Destructive, "Delete table orders"),
    (
        "aws: delete an item",
        Then::Approve,
        Risk::Destructive,
        "Delete an item of table orders: {\"id\": {\"S\": \"42\"}}",
    ),
    ("aws: read an item", Then::Allow, Risk::Read, "Read an item of table orders"),
    ("openai: delete a file", Then::Approve, Risk::Destructive, "Delete file file-abc"),
    ("openai: upload a file", Then::Approve, Risk::Write, "Upload a file"),
    (
        "openai: invite",
        Then::Approve,
        Risk::People,
        "Invite eve@elsewhere.example into the organisation as owner",
    ),
    (
        "openai: make an admin key",
        Then::Approve,
        Risk::People,
        "Make an administrator's API key: \"mine\"",
    ),
    (
        "openai: archive a project",
        Then::Approve,
        Risk::Destructive,
        "Archive project proj_1, which cannot be undone",
    ),
    ("openai: read files", Then::Allow, Risk::Read, "List files"),
    ("anthropic: delete a file", Then::Approve, Risk::Destructive, "Delete file file_011"),
    ("anthropic: upload a file", Then::Approve, Risk::Write, "Upload a file"),
    ("anthropic: delete a batch", Then::Approve, Risk::Destructive, "Delete batch msgbatch_1"),
    ("anthropic: cancel a batch", Then::Approve, Risk::Destructive, "Cancel batch msgbatch_1"),
    ("anthropic: read files", Then::Allow, Risk::Read, "List files"),
    (
        "cloudflare: delete a record",
        Then::Approve,
        Risk::Destructive,
        "Delete DNS record r1 of zone z1",
    ),
    (
        "cloudflare: change a record",
        Then::Approve,
        Risk::Destructive,
        "Change DNS record r1 of zone z1 to 192.0.2.66",
    ),
    (
        "cloudflare: add a record",
        Then::Approve,
        Risk::Write,
        "Add DNS record MX acme.example to zone z1: mx.evil.example",
    ),
    ("cloudflare: purge", Then::Approve, Risk::Destructive, "Purge the cache of zone z1"),
    ("cloudflare: read records", Then::Allow, Risk::Read, "Read the DNS records of zone z1"),
];
