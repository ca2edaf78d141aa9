//! A table of requests to sentences, service by service. How each request was captured, its file in `tests/requests` says.

use std::collections::BTreeMap;

use countersign_describe::{Description, Risk, Undecidable, describe};
use countersign_gate::{Destination, Scheme};
use countersign_policy::{Body, Head, Subject};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

/// One captured request.
pub(crate) struct Captured {
    pub(crate) method: Method,
    pub(crate) destination: Destination,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Captured {
    pub(crate) fn new(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap();
        assert_eq!(scheme, "https", "{url}");
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let headers = headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        Self {
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            destination: Destination::parse(Scheme::Https, authority, Some(443)).unwrap(),
            path: path.to_owned(),
            query,
            headers: headers.collect(),
            body: body.to_vec(),
        }
    }

    pub(crate) fn describe(&self) -> Result<Option<Description>, Undecidable> {
        let head = Head {
            agent: "bot",
            destination: &self.destination,
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        };
        describe(&Subject { head, body: Body::Whole(&self.body) })
    }
}

/// Every request of a file, by name.
pub(crate) fn captured(file: &str) -> BTreeMap<String, Captured> {
    let path = format!("{}/tests/requests/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let all: Value = serde_json::from_str(&text).unwrap();
    assert!(all["captured_by"].as_str().is_some_and(|by| !by.is_empty()), "{file} says how");
    let each = all["requests"].as_array().unwrap().iter().map(|one| {
        let text = |name: &str| one[name].as_str().map(str::to_owned);
        let headers = one["headers"].as_object().unwrap().iter();
        let headers: Vec<_> =
            headers.map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        let body = match text("body_base64") {
            Some(encoded) => base64(&encoded),
            None => text("body").unwrap().into_bytes(),
        };
        let (method, url) = (text("method").unwrap(), text("url").unwrap());
        (text("name").unwrap(), Captured::new(&method, &url, &headers, &body))
    });
    each.collect()
}

fn base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let value = LETTERS.iter().position(|letter| *letter == byte).unwrap();
        bits = bits << 6 | u32::try_from(value).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    out
}

/// Every request of the file has its row, and every row its request.
#[track_caller]
fn says(file: &str, table: &[(&str, Risk, &str)]) {
    let requests = captured(file);
    let mut wrong = String::new();
    for (name, request) in &requests {
        let Some((_, risk, sentence)) = table.iter().find(|(wanted, ..)| wanted == name) else {
            wrong.push_str(&format!("{file}: {name} has no row: {:?}\n", request.describe()));
            continue;
        };
        match request.describe() {
            Ok(Some(said)) if (said.risk, said.sentence.as_str()) == (*risk, *sentence) => {}
            other => wrong.push_str(&format!(
                "{file}: {name}\n  wanted {risk:?} {sentence}\n  got {other:#?}\n"
            )),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(requests.len(), table.len(), "a row without a request");
}

#[test]
fn github_from_pygithub_and_octokit() {
    use Risk::{Code, Destructive, Messages, People, Read, Write};
    says(
        "PyGithub",
        &[
            ("delete a repository", Destructive, "Delete repository acme/prod"),
            ("make a repository public", People, "Make repository acme/prod public"),
            ("add a collaborator", People, "Give mallory access to acme/prod as admin"),
            ("delete a file", Destructive, "Delete file src/main.rs in acme/prod on branch main"),
            ("hook", People, "Send events of acme/prod to https://evil.example/"),
            ("open an issue", Messages, "Open an issue in acme/prod: \"It is broken\""),
        ],
    );
    says(
        "octokit",
        &[
            ("delete a repository", Destructive, "Delete repository acme/prod"),
            (
                "force a branch",
                Destructive,
                "Overwrite heads/main of acme/prod with aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, even if commits are lost",
            ),
            ("delete a branch", Destructive, "Delete heads/feature/x of acme/prod"),
            ("merge", Write, "Merge pull request #7 of acme/prod by squash"),
            ("run a workflow", Code, "Run workflow deploy.yml of acme/prod on main"),
            ("transfer", Destructive, "Give repository acme/prod away to mallory"),
            ("set a secret", People, "Set the secret TOKEN of acme/prod"),
            ("remove protection", People, "Remove the protection of branch main in acme/prod"),
            ("comment", Messages, "Comment on #7 of acme/prod: \"Done.\nMerged.\""),
            ("read a repository", Read, "Read repository acme/prod"),
            ("mutation", Destructive, "GitHub: delete a branch or tag"),
            ("query", Read, "Read from GitHub: viewer"),
        ],
    );
}

#[test]
fn b_14_pushes_from_git() {
    use Risk::{Destructive, Write};
    says(
        "git",
        &[
            (
                "create and update",
                Write,
                "Push to acme/prod: 2 refs: update branch main and create branch feature (may rewrite its history)",
            ),
            ("delete a branch", Destructive, "Push to acme/prod: delete branch old"),
            (
                "force a branch",
                Write,
                "Push to acme/prod: update branch main (may rewrite its history)",
            ),
            (
                "delete and force with an option",
                Destructive,
                "Push to acme/prod: 2 refs: update branch old and delete tag v1 (may rewrite its history)",
            ),
        ],
    );
    let push = captured("git")["delete and force with an option"].describe().unwrap().unwrap();
    let fact = |name: &str| push.facts.iter().find(|fact| fact.name == name).map(|it| &*it.value);
    assert_eq!(fact("Push option"), Some("ci.skip"));
    assert_eq!(fact("Delete tag"), Some("v1, now 78a52b4b724b"));
    assert!(fact("Commits and files").is_some_and(|it| it.ends_with("bytes, not looked into")));
}

#[test]
fn b_9_tools_from_the_mcp_sdk() {
    use Risk::{Code, Read};
    says(
        "mcp",
        &[
            ("initialize", Read, "Call method initialize of mcp.example.com"),
            ("initialized", Read, "Call method notifications/initialized of mcp.example.com"),
            ("list", Read, "Call method tools/list of mcp.example.com"),
            ("read a user", Code, "Call tool read_user of mcp.example.com"),
            ("delete a user", Code, "Call tool delete_user of mcp.example.com"),
            (
                "a batch",
                Code,
                "Make 2 calls at mcp.example.com: method tools/list and tool delete_user",
            ),
        ],
    );
    let answer =
        br#"{"jsonrpc":"2.0","id":3,"result":{"action":"accept","content":{"sure":true}}}"#;
    let json = [("content-type", "application/json")];
    let answer = Captured::new("POST", "https://mcp.example.com/mcp", &json, answer);
    let described = answer.describe().unwrap().unwrap();
    assert_eq!(described.sentence, "Give mcp.example.com an answer to what it asked");
    assert!(described.also.line().unwrap().contains("accept"), "{described:?}");
}

#[test]
fn stripe_from_its_sdk() {
    use Risk::{Destructive, Money, People, Read};
    says(
        "stripe",
        &[
            (
                "refund in part",
                Money,
                "Refund 12000 (of the smallest unit of its currency) of payment pi_3abc",
            ),
            ("refund in whole", Money, "Refund all that is left of charge ch_1"),
            ("refund of a customer's balance", Money, "Refund 120.00 EUR to customer cus_9"),
            ("payout in yen", Money, "Pay out 500 JPY"),
            ("transfer", Money, "Transfer 0.99 USD to account acct_7"),
            ("cancel a subscription", Money, "Cancel subscription sub_1 now"),
            (
                "delete a customer",
                Destructive,
                "Delete customer cus_9, and end their subscriptions",
            ),
            ("subscribe", Money, "Subscribe customer cus_9 to price_1"),
            ("webhook", People, "Send events of this account to https://evil.example/hook"),
            ("read a customer", Read, "Read customer cus_9"),
        ],
    );
    let said = captured("stripe")["subscribe"].describe().unwrap().unwrap();
    assert_eq!(
        said.also.line().as_deref(),
        Some("metadata[order]: 7; expand[0]: latest_invoice; expand[1]: customer")
    );
    let payout = captured("stripe")["payout in yen"].describe().unwrap().unwrap();
    assert!(payout.facts.iter().any(|fact| fact.value == "acct_7"), "{payout:?}");
}

#[test]
fn slack_from_its_sdk() {
    use Risk::{Destructive, Messages, People};
    says(
        "slack_sdk",
        &[
            ("post", Messages, "Post \"The site is down\" in C0PROD"),
            (
                "post with blocks",
                Messages,
                "Post a formatted message (whose notification says \"All is well\") in C0PROD",
            ),
            ("delete a message", Destructive, "Delete message 17.42 in C0PROD"),
            ("archive", Destructive, "Archive channel C0PROD"),
            ("remove somebody", People, "Remove U1 from channel C0PROD"),
            ("invite", People, "Invite \"U1,U2\" into channel C0PROD"),
        ],
    );
    let said = captured("slack_sdk")["post with blocks"].describe().unwrap().unwrap();
    assert!(
        said.facts.iter().any(|it| it.name == "Blocks" && it.value.contains("<!channel> leave")),
        "{said:?}"
    );
}

#[test]
fn aws_from_boto3() {
    use Risk::{Code, Destructive, People};
    says(
        "boto3",
        &[
            ("terminate one", Destructive, "Terminate instance i-0abc"),
            ("terminate several", Destructive, "Terminate 4 instances: i-1, i-2, i-3 and 1 more"),
            (
                "open a port",
                People,
                "Open security group sg-1 to 0.0.0.0/0, tcp from port 22 to 22",
            ),
            (
                "give a policy",
                People,
                "Give user bot the policy arn:aws:iam::aws:policy/AdministratorAccess",
            ),
            ("delete a bucket", Destructive, "Delete bucket acme-logs"),
            ("delete an object", Destructive, "Delete object \"2026/a b.gz\" of bucket acme-logs"),
            (
                "delete objects",
                Destructive,
                "Delete objects of bucket acme-logs that its body lists, which is not decoded",
            ),
            (
                "write an object for everybody",
                People,
                "Write object index.html of bucket acme-logs, open to the public",
            ),
            ("set a bucket's policy", People, "Set who may use bucket acme-logs (policy)"),
            ("delete a function", Destructive, "Delete function billing"),
            ("run a function", Code, "Run function billing"),
            (
                "let everybody run a function",
                People,
                "Let * use function billing: lambda:InvokeFunction",
            ),
            ("delete a table", Destructive, "Delete table orders"),
            (
                "delete an item",
                Destructive,
                "Delete an item of table orders: {\"id\": {\"S\": \"42\"}}",
            ),
        ],
    );
    let opened = captured("boto3")["open a port"].describe().unwrap().unwrap();
    let also = opened.also.line().unwrap_or_default();
    assert!(also.contains("10.0.0.0/8"), "the second range is not hidden: {also}");
}

#[test]
fn kubernetes_from_kubectl() {
    use Risk::{Code, Destructive, People};
    says(
        "kubectl",
        &[
            ("delete a pod", Destructive, "Delete pod web-1 in namespace prod"),
            ("delete a namespace", Destructive, "Delete namespace prod and everything in it"),
            ("run a command", Code, "Run \"rm -rf /data\" in pod web-1 in namespace prod"),
            ("forward a port", Code, "Open a port of pod web-1 in namespace prod"),
            ("set an image", Code, "Change deployment web in namespace prod"),
            ("make somebody an administrator", People, "Create clusterrolebinding"),
            ("run as somebody else", Code, "Create pod job in namespace prod"),
        ],
    );
    let all = captured("kubectl");
    let fact = |name: &str, wanted: &str| {
        let said = all[name].describe().unwrap().unwrap();
        said.facts.iter().find(|fact| fact.name == wanted).map(|fact| fact.value.clone())
    };
    assert_eq!(fact("set an image", "Images").as_deref(), Some("evil:1"));
    assert_eq!(fact("run as somebody else", "As user").as_deref(), Some("root"));
    let binding = all["make somebody an administrator"].describe().unwrap().unwrap();
    let also = binding.also.line().unwrap_or_default();
    assert!(also.contains("bytes that are not decoded"), "protobuf is not read: {also}");
}

#[test]
fn linear_from_its_sdk() {
    use Risk::{Destructive, Messages, Read, Write};
    says(
        "linear",
        &[
            ("delete an issue", Destructive, "Linear: delete issue ENG-7"),
            ("create an issue", Write, "Linear: create an issue"),
            ("comment", Messages, "Linear: write a comment"),
            ("read issues", Read, "Read from Linear: issues"),
        ],
    );
}

#[test]
fn openai_and_anthropic_from_their_sdks() {
    use Risk::{Destructive, People, Write};
    says(
        "openai",
        &[
            ("delete a file", Destructive, "Delete file file-abc"),
            ("upload a file", Write, "Upload a file"),
            ("invite", People, "Invite eve@elsewhere.example into the organisation as owner"),
            ("make an admin key", People, "Make an administrator's API key: \"mine\""),
            ("archive a project", Destructive, "Archive project proj_1, which cannot be undone"),
            ("delete a vector store", Destructive, "Delete vector store vs_1"),
        ],
    );
    says(
        "anthropic",
        &[
            ("delete a file", Destructive, "Delete file file_011"),
            ("upload a file", Write, "Upload a file"),
            ("delete a batch", Destructive, "Delete batch msgbatch_1"),
            ("cancel a batch", Destructive, "Cancel batch msgbatch_1"),
            ("invite", People, "Invite eve@elsewhere.example into the organisation as admin"),
        ],
    );
}

#[test]
fn mails_from_pythons_library() {
    let all = captured("gmail");
    let said = |name: &str| all[name].describe();
    let plain = said("send plainly").unwrap().unwrap();
    assert_eq!(
        (plain.risk, &*plain.sentence),
        (Risk::Messages, "Send mail \"Numbers\" to ana@example.com")
    );
    assert!(plain.facts.iter().any(|it| it.value == "They are as we thought.\n"), "{plain:?}");
    let three = said("send to three with an attachment").unwrap().unwrap();
    assert!(
        three
            .sentence
            .starts_with("Send mail \"Überraschung für alle, und zwar eine lange, die über")
            && three.sentence.ends_with(
                "to 3 addresses: ana@example.com (\"Ana, of sales\"), ben@example.com and \
                 eve@elsewhere.example, with 2 more parts"
            ),
        "{}",
        three.sentence
    );
    for (name, value) in [
        ("Bcc (hidden from the others)", "eve@elsewhere.example"),
        ("Text", "Grüße\n"),
        ("Part", "\"salaries.png\" (image/png), 4 bytes"),
    ] {
        assert!(
            three.facts.iter().any(|fact| fact.name == name && fact.value == value),
            "{name}: {three:#?}"
        );
    }
    let also = three.also.line().unwrap();
    assert!(also.contains("in-reply-to") && also.contains("threadId: t1"), "{also}");
    let draft = said("draft").unwrap().unwrap();
    assert_eq!(
        (draft.risk, &*draft.sentence),
        (Risk::Write, "Draft mail \"Numbers\" to ana@example.com")
    );
    assert_eq!(said("two headers To"), Err(Undecidable("a mail with a header twice")));
}

#[test]
fn the_others_as_their_references_have_them() {
    use Risk::{Code, Destructive, Messages, Money, People, Write};
    says(
        "documented",
        &[
            ("gitlab: delete a project", Destructive, "Delete project acme/prod"),
            ("gitlab: unprotect", People, "Remove the protection of branch main in 42"),
            ("gitlab: member", People, "Give user 7 access to project 42, level 50"),
            ("gitlab: pipeline", Code, "Run a pipeline of 42 on main"),
            ("gitlab: public", People, "Make project 42 public"),
            (
                "calendar: event",
                Messages,
                "Create the event \"Board meeting\" in calendar primary, with ana@example.com and ben@example.com",
            ),
            ("calendar: delete", Destructive, "Delete event ev1 of calendar primary"),
            (
                "calendar: share",
                People,
                "Share calendar primary with user eve@elsewhere.example as owner",
            ),
            ("calendar: clear", Destructive, "Delete all events of calendar primary"),
            ("drive: delete", Destructive, "Delete file f1 for good"),
            ("drive: share with anyone", People, "Share file f1 with anyone as reader"),
            ("drive: share", People, "Share file f1 with eve@elsewhere.example as writer"),
            ("drive: trash", Destructive, "Move file f1 to the trash"),
            ("drive: empty", Destructive, "Empty the trash for good"),
            (
                "gmail: forward",
                People,
                "Forward mail by itself to eve@elsewhere.example (on: true)",
            ),
            ("gmail: delete", Destructive, "Delete mails for good: m1, m2, m3 and 2 more"),
            ("notion: trash", Destructive, "Move page p1 to the trash"),
            ("notion: create", Write, "Create a page in page p1"),
            ("notion: block", Destructive, "Move block or page b1 to the trash"),
            ("vercel: delete", Destructive, "Delete project shop and all of its deployments"),
            ("vercel: deploy", Code, "Deploy shop to production"),
            ("vercel: variable", People, "Set environment variables of project shop: DB"),
            ("vercel: buy", Money, "Buy domain acme.example"),
            ("cloudflare: delete a record", Destructive, "Delete DNS record r1 of zone z1"),
            (
                "cloudflare: change a record",
                Destructive,
                "Change DNS record r1 of zone z1 to 192.0.2.66",
            ),
            (
                "cloudflare: add a record",
                Write,
                "Add DNS record MX acme.example to zone z1: mx.evil.example",
            ),
            ("cloudflare: purge", Destructive, "Purge the cache of zone z1"),
            ("mcp: tool", Code, "Call tool delete_user of mcp.example.com"),
            (
                "mcp: batch",
                Code,
                "Make 2 calls at mcp.example.com: method tools/list and tool drop",
            ),
            ("slack: form", Messages, "Post \"hi there\" in C0PROD"),
            ("slack: in the query", Messages, "Post \"hi\" in C0PROD"),
            (
                "kubernetes elsewhere",
                Destructive,
                "If this is a Kubernetes API: Delete deployment web in namespace prod",
            ),
        ],
    );
}
