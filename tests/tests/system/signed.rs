//! Requests that the control plane signs: boto3 with a fake access key, and an AWS that checks every signature.

use std::process::{Child, Command, Stdio};

use countersign_tests::aws::{ACCESS_KEY_ID, Aws, HOSTS, SECRET_ACCESS_KEY};
use countersign_tests::invariants::holds;
use countersign_tests::peers::{clients, tools};
use countersign_tests::{Agent, Origin, World, eventually};
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};

const POLICY: &str = r#"
version = 1

[[rule]]
name = "use S3"
host = "s3.eu-central-1.amazonaws.com"
methods = ["GET", "HEAD", "PUT"]
then = "allow"
credential = "s3"

[[rule]]
name = "delete from S3"
host = "s3.eu-central-1.amazonaws.com"
methods = ["DELETE", "POST"]
then = "approve"
credential = "s3"

[[rule]]
name = "look at and start instances"
host = "ec2.eu-central-1.amazonaws.com"
methods = ["POST"]
when = "body.form.Action in ['DescribeInstances', 'RunInstances']"
then = "allow"
credential = "ec2"

[[rule]]
name = "end instances"
host = "ec2.eu-central-1.amazonaws.com"
methods = ["POST"]
when = "body.form.Action == 'TerminateInstances'"
then = "approve"
credential = "ec2"

[[rule]]
name = "use tables"
host = "dynamodb.eu-central-1.amazonaws.com"
methods = ["POST"]
when = "!request.headers['x-amz-target'].endsWith('.DeleteTable')"
then = "allow"
credential = "dynamodb"

[[rule]]
name = "delete tables"
host = "dynamodb.eu-central-1.amazonaws.com"
methods = ["POST"]
when = "request.headers['x-amz-target'].endsWith('.DeleteTable')"
then = "approve"
credential = "dynamodb"
"#;

struct Setting {
    aws: Aws,
    world: World,
    agent: Agent,
    /// What the agent has, by service.
    fake_keys: [String; 3],
}

fn setting() -> Setting {
    let aws = Aws::start();
    let world = World::with(aws.setup(POLICY));
    let agent = world.agent("robot");
    let value = format!("{ACCESS_KEY_ID}\n{SECRET_ACCESS_KEY}\n");
    let fake_keys = HOSTS.map(|host| {
        let name = host.split('.').next().unwrap();
        world.credential(name, &value, &["--host", host, "--slot", "aws-sigv4"]).fake_key
    });
    Setting { aws, world, agent, fake_keys }
}

impl Setting {
    fn boto3(&self, service: usize, deeds: &[&str]) -> Child {
        let (id, secret) = self.fake_keys[service].split_once(':').expect("two parts");
        Command::new(tools().join("python/bin/python"))
            .arg(clients().join("boto3_client.py"))
            .args([id, secret])
            .args(deeds)
            .env("HTTPS_PROXY", &self.agent.proxy)
            .env("AWS_CA_BUNDLE", self.world.edge_ca())
            .env("SSL_CERT_FILE", self.world.edge_ca())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python runs")
    }

    fn pending(&self, client: &mut Child) -> Value {
        eventually("an approval that is pending", || {
            assert!(client.try_wait().unwrap().is_none(), "the client ended before it waited");
            let list = self.world.json(&["approval", "list", "--state", "pending"]);
            list.as_array().unwrap().first().cloned()
        })
    }

    /// All that arrived was signed by the real key, a moment before, and carries nothing of the fake one.
    fn check(&self) -> Vec<Value> {
        let seen = self.aws.seen();
        for request in &seen {
            assert_eq!(request["valid"], true, "{request}");
            let text = request.to_string();
            for fake in self.fake_keys.iter().flat_map(|fake| fake.split(':')) {
                assert!(!text.contains(fake), "{text}");
            }
            assert!(!holds(text.as_bytes(), SECRET_ACCESS_KEY), "{text}");
        }
        assert!(!holds(self.world.log().as_bytes(), SECRET_ACCESS_KEY));
        seen
    }
}

fn said(client: Child) -> Value {
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!holds(&output.stdout, SECRET_ACCESS_KEY));
    assert!(!String::from_utf8_lossy(&output.stdout).contains(ACCESS_KEY_ID));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn boto3_reads_and_writes_s3_and_its_delete_waits_and_is_signed_when_it_leaves() {
    let setting = setting();
    let done = said(setting.boto3(0, &["bucket", "put", "stream", "get", "list"]));
    assert_eq!(done[3], "hello", "{done}");
    assert_eq!(done[4], json!(["a b/café+(1).txt"]), "{done}");
    assert!(setting.world.approvals().is_empty(), "nobody was asked");
    let before = setting.check();
    assert!(before.len() >= 5);

    let mut client = setting.boto3(0, &["delete", "list"]);
    let approval = setting.pending(&mut client);
    assert_eq!(approval["method"], "DELETE");
    assert_eq!(approval["rule"], "delete from S3");
    let id = approval["id"].as_str().unwrap();
    let card = setting.world.ok(&["approval", "show", id]);
    assert!(card.contains("aws-sigv4 eu-central-1/s3"), "{card}");
    assert_eq!(setting.aws.seen().len(), before.len(), "nothing has left");
    setting.world.ok(&["approval", "approve", id]);
    let done = said(client);
    assert_eq!(done, json!([204, []]), "{done}");
    let deletes: Vec<Value> =
        setting.check().into_iter().filter(|request| request["method"] == "DELETE").collect();
    assert_eq!(deletes.len(), 1, "{deletes:?}");
    // The client had signed it twenty minutes before.
    assert!(deletes[0]["age"].as_f64().unwrap() <= 60.0, "{deletes:?}");
}

#[test]
fn ending_an_instance_waits_and_starting_one_does_not() {
    let setting = setting();
    let done = said(setting.boto3(1, &["run", "describe"]));
    assert_eq!(done[0], 1, "{done}");
    let mut client = setting.boto3(1, &["terminate"]);
    let approval = setting.pending(&mut client);
    assert_eq!(approval["rule"], "end instances");
    let arrived = |action: &str| {
        let action = format!("Action={action}");
        let seen = setting.check();
        seen.iter().filter(|r| r["body"].as_str().unwrap().contains(&action)).count()
    };
    assert_eq!(arrived("TerminateInstances"), 0);
    setting.world.ok(&["approval", "approve", approval["id"].as_str().unwrap()]);
    let done = said(client);
    assert!(["shutting-down", "terminated"].contains(&done[0].as_str().unwrap()), "{done}");
    assert_eq!(arrived("TerminateInstances"), 1);
}

#[test]
fn a_denied_table_stays_and_what_is_not_signable_is_told_why() {
    let setting = setting();
    let done = said(setting.boto3(2, &["table", "item"]));
    assert_eq!(done, json!(["t", {"id": {"S": "1"}}]), "{done}");
    let mut client = setting.boto3(2, &["remove", "item"]);
    let approval = setting.pending(&mut client);
    setting.world.ok(&["approval", "deny", approval["id"].as_str().unwrap()]);
    let done = said(client);
    assert_eq!(done[0]["status"], 403, "{done}");
    assert_eq!(done[1], json!({"id": {"S": "1"}}), "{done}");
    let refused = said(setting.boto3(0, &["presigned"]));
    assert_eq!(refused[0]["code"], "bad_request", "{refused}");
    assert!(refused[0]["detail"].as_str().unwrap().contains("presigned URL"), "{refused}");
    let deleted = setting.check().iter().any(|r| r.to_string().contains("DeleteTable"));
    assert!(!deleted, "nothing of it arrived");
}

/// Asks a receiver of the kind, who knows the secret, whether this request is signed.
fn verified(kind: &str, secret: &str, headers: &http::HeaderMap, body: &[u8]) -> bool {
    let headers: serde_json::Map<String, Value> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
        .collect();
    let arrived = json!({ "headers": headers, "body": String::from_utf8_lossy(body) });
    let mut child = Command::new(tools().join("python/bin/python"))
        .arg(clients().join("verify_signature.py"))
        .args([kind, secret])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python runs");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), arrived.to_string().as_bytes())
        .unwrap();
    child.wait_with_output().unwrap().stdout == b"valid\n"
}

#[test]
fn requests_signed_with_a_shared_secret_are_what_their_receivers_verify() {
    const HOOK: &str = "hooks.example.test";
    const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const PLAIN: &str = "the operators' shared secret, 0123456789";
    let standard =
        "sha256 base64 key=base64 v1,{signature} | {header:webhook-id}.{timestamp}.{body}";
    let policy = format!(
        "version = 1\n[[rule]]\nname = \"hooks\"\nhost = \"{HOOK}\"\npath = \"/standard\"\nthen = \"approve\"\n\
         credential = \"standard\"\n[[rule]]\nname = \"github\"\nhost = \"{HOOK}\"\npath = \"/github\"\n\
         then = \"allow\"\ncredential = \"github\"\n"
    );
    let origin = Origin::with(&[HOOK], |seen| Response::new(Full::new(seen.text().into())));
    let world = World::start(&origin, &[HOOK], &policy);
    let agent = world.agent("robot");
    let to = ["--host", HOOK];
    let [standard, github] = [
        (
            "standard",
            WHSEC,
            ["--slot", "hmac:webhook-signature,webhook-timestamp", "--template", standard],
        ),
        (
            "github",
            PLAIN,
            [
                "--slot",
                "hmac:x-hub-signature-256",
                "--template",
                "sha256 hex sha256={signature} | {body}",
            ],
        ),
    ]
    .map(|(name, value, slot)| world.credential(name, value, &[&to[..], &slot[..]].concat()));

    let body = r#"{"type":"user.deleted","data":{"id":"caf\u00e9"}}"#;
    let signature = format!("x-hub-signature-256: sha256={}", github.fake_key);
    let url = format!("https://{HOOK}/github");
    let answer = world.fetch(&agent, &["-H", &signature, "-d", body, &url]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(world.approvals().is_empty(), "nobody was asked");

    let signature = format!("webhook-signature: v1,{}", standard.fake_key);
    let url = format!("https://{HOOK}/standard");
    let header = ["-H", "webhook-id: msg_1", "-H", "webhook-timestamp: 1"];
    let arguments = [&header[..], &["-H", &signature, "-d", body, &url]].concat();
    let waiting = world.fetch_later(&agent, &arguments);
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    world.ok(&["approval", "approve", &id]);
    let answer = waiting.answer();
    assert_eq!(answer.status, 200, "{answer:?}");

    let seen = origin.seen();
    assert_eq!(seen.len(), 2);
    for (request, kind, secret) in
        [(&seen[0], "github", PLAIN), (&seen[1], "standard-webhooks", WHSEC)]
    {
        assert!(verified(kind, secret, &request.headers, &request.body), "{}", request.text());
        assert!(!verified(kind, secret, &request.headers, b"{}"), "the verifier does verify");
        for fake in [&standard.fake_key, &github.fake_key] {
            assert!(!request.text().contains(fake), "{}", request.text());
        }
        let made = request.headers.iter().find(|(name, _)| name.as_str().contains("signature"));
        let made = made.unwrap().1.to_str().unwrap();
        assert!(!answer.body.contains(made), "what the upstream says back is redacted");
    }
    for secret in [WHSEC, PLAIN] {
        assert!(!holds(world.log().as_bytes(), secret));
    }
}
