//! Keys that sign: the edge gets the signature of the one request that was approved, and never the key.

use bytes::Bytes;
use countersign_control_plane::state::{ApprovalState, ReleaseClass, VoteWord};
use countersign_gate::{
    Destination, Held, Injection, Origin, Outcome, Payload, Request, Scheme, Slot, seal_context,
};
use countersign_proto::v1;
use countersign_proto::v1::SettledReason as Reason;
use countersign_proto::v1::attach_request::Message as In;
use http::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};

use crate::edge::{Process, Session, approve, decoded, outcome};
use crate::world::{AGENT, CLUSTER, ORG, World};

const ACCESS_KEY: &str = "AKIAREALREALREALREAL";
const SECRET: &str = "canaryOfTheSecretAccessKey/0123456789+ab";
const TOKEN: &str = "token-of-the-session+/=";

const POLICY: &str = r#"version = 1
[[rule]]
name = "refunds"
host = "aws.example"
methods = ["POST"]
then = "approve"
credential = "aws"
[[rule]]
name = "balance"
host = "aws.example"
methods = ["GET"]
then = "allow"
credential = "aws"
"#;

async fn world() -> (World, Process, Session) {
    let world = World::new().await;
    let value = format!("{ACCESS_KEY}:{SECRET}:{TOKEN}");
    world.add_credential_of("aws", ("aws-sigv4", ""), ReleaseClass::Auto, value.as_bytes()).await;
    world.set_policy(POLICY).await;
    let process = Process::new(world.enroll("one").await);
    let session = process.attach(&world).await;
    (world, process, session)
}

fn signed(manner: &str) -> Slot {
    let names = ["authorization", "x-amz-date", "x-amz-security-token"];
    let names = names.map(|name| name.parse().unwrap()).to_vec();
    Slot::Signed { names, manner: manner.into() }
}

const MANNER: &str = "aws-sigv4 eu-central-1/dynamodb content-type;host;x-amz-date;x-amz-target";

fn request(method: Method, body: &[u8], slot: Slot, more: &[(&str, &str)]) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/x-amz-json-1.0".parse().unwrap());
    headers.insert("x-amz-target", "DynamoDB_20120810.DeleteItem".parse().unwrap());
    for (name, value) in more {
        headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    Request::new(
        Origin { cluster: CLUSTER.into(), org: ORG.into(), agent: AGENT.into() },
        Destination::parse(Scheme::Https, "aws.example:443", None).unwrap(),
        method,
        "/".into(),
        Some("a=b".into()),
        headers,
        Payload::Whole(Bytes::copy_from_slice(body)),
        vec![Injection { credential: "cred-aws".into(), version: 1, slot }],
    )
    .unwrap()
}

/// What the edge can read of what it was sent.
fn opened(process: &Process, held: &Held, decision: &v1::Decision) -> String {
    let sealed = &decision.sealed_credentials[0];
    let aad = seal_context(
        &held.ticket().request_digest,
        &decoded(decision).decision_id,
        &sealed.credential_id,
        sealed.version,
    );
    String::from_utf8(process.open_with(&aad, sealed).unwrap().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_class_the_edge_gets_the_signature_of_what_was_approved_and_no_key() {
    let (world, process, mut session) = world().await;
    let mut received = prost::Message::encode_to_vec(&session.bundle);
    let body = br#"{"TableName":"t"}"#;
    let held = process.hold(
        request(Method::POST, body, signed(MANNER), &[]),
        approve("refunds"),
        session.version(),
    );
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    let shown = world.approval(approval).shown;
    let says = |(name, value): &(String, String)| {
        name == "authorization" && value.contains("eu-central-1/dynamodb")
    };
    assert!(shown.headers.iter().any(says), "people see what it is signed for: {shown:?}");
    world.vote(approval, VoteWord::Approve).await;
    let decision = session.decision().await;
    received.extend(prost::Message::encode_to_vec(&decision));

    let lines = opened(&process, &held, &decision);
    received.extend(lines.as_bytes());
    for canary in [SECRET, &SECRET[..20], &hex::encode(SECRET)] {
        let found = received.windows(canary.len()).any(|window| window == canary.as_bytes());
        assert!(!found, "the secret key is not in anything that the edge was sent: {lines}");
    }
    let lines: Vec<(&str, &str)> =
        lines.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["authorization", "x-amz-date", "x-amz-security-token"]);
    let (authorization, date) = (lines[0].1, lines[1].1);
    let day = &date[..8];
    assert!(
        authorization.starts_with(&format!(
            "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{day}/eu-central-1/dynamodb/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, Signature="
        )),
        "{authorization}"
    );
    // What AWS would compute of the request that arrives, step by step.
    let canonical = format!(
        "POST\n/\na=b\ncontent-type:application/x-amz-json-1.0\nhost:aws.example\nx-amz-date:{date}\n\
         x-amz-security-token:{TOKEN}\nx-amz-target:DynamoDB_20120810.DeleteItem\n\n\
         content-type;host;x-amz-date;x-amz-security-token;x-amz-target\n{}",
        hex::encode(Sha256::digest(body))
    );
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{date}\n{day}/eu-central-1/dynamodb/aws4_request\n{}",
        hex::encode(Sha256::digest(canonical))
    );
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in [day, "eu-central-1", "dynamodb", "aws4_request", &to_sign] {
        key = hmac(&key, part.as_bytes());
    }
    assert_eq!(authorization.rsplit_once("Signature=").unwrap().1, hex::encode(key));

    let key = process
        .open(&held, &decoded(&decision).decision_id, &decision.sealed_credentials[0])
        .unwrap();
    let Outcome::Release(released) = outcome(held, &decision, &session.trust) else {
        panic!("not released")
    };
    let sent = released.with_keys(vec![key]).unwrap().into_parts();
    assert_eq!(sent.headers["authorization"], authorization);
    assert_eq!(sent.headers["x-amz-security-token"], TOKEN);
}

/// RFC 2104 with SHA-256, for a second opinion.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_class_a_key_that_signs_is_lent_to_nobody_whatever_class_and_policy_say() {
    let (world, process, mut session) = world().await;
    let value = format!("{ACCESS_KEY}:{SECRET}");
    world.add_credential_of("lent", ("aws-sigv4", ""), ReleaseClass::Lease, value.as_bytes()).await;
    let rule = "[[rule]]\nname = \"lent\"\nhost = \"lent.example\"\nthen = \"allow\"\ncredential = \"lent\"\n";
    world.set_policy(&format!("{POLICY}{rule}")).await;
    while session.bundle.credentials.iter().all(|c| c.name != "lent") || session.version() < 3 {
        session.hear().await.unwrap();
    }
    let credentials = session.bundle.credentials.clone().into_iter();
    let signing = credentials.filter(|credential| ["aws", "lent"].contains(&&*credential.name));
    for credential in signing {
        assert!(!credential.leasable, "{}", credential.name);
        let lease = v1::LeaseRequest {
            credential_id: credential.credential_id.clone(),
            agent_id: AGENT.into(),
        };
        session.say(In::LeaseRequest(lease)).await;
        match session.answer().await {
            v1::attach_response::Message::LeaseRefused(refused) => {
                assert!(refused.detail.contains("not lent"), "{}", refused.detail);
            }
            other => panic!("{other:?}"),
        }
    }
    // What the rules allow outright takes a decision, and asks nobody.
    let verdict = countersign_gate::Verdict::Allow { rule: "balance".into(), per_request: true };
    let held =
        process.hold(request(Method::GET, b"", signed(MANNER), &[]), verdict, session.version());
    session.announce(&held).await;
    assert_eq!(session.opened().await, None);
    let decision = session.decision().await;
    assert!(opened(&process, &held, &decision).starts_with("authorization: AWS4-HMAC-SHA256 "));
    assert_eq!(world.approvals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_does_not_fit_its_request_is_not_opened_and_nothing_is_signed() {
    let (world, process, mut session) = world().await;
    let manner = |headers: &str| signed(&format!("aws-sigv4 eu-central-1/dynamodb {headers}"));
    let other_names = Slot::Signed {
        names: vec!["authorization".parse().unwrap(), "x-other".parse().unwrap()],
        manner: MANNER.into(),
    };
    let elsewhere = Slot::Header {
        name: "authorization".parse().unwrap(),
        before: String::new(),
        after: String::new(),
    };
    let digest = hex::encode(Sha256::digest(b"another body"));
    let lies: [(Slot, &[(&str, &str)]); 8] = [
        (manner("host;x-amz-date"), &[]),
        (manner("host;x-amz-target"), &[]),
        (manner("x-amz-date;x-amz-target"), &[]),
        (manner("host;x-absent;x-amz-date;x-amz-target"), &[]),
        (other_names, &[]),
        (elsewhere, &[]),
        (
            manner("host;x-amz-content-sha256;x-amz-date;x-amz-target"),
            &[("x-amz-content-sha256", &digest)],
        ),
        (
            manner("host;x-amz-content-sha256;x-amz-date;x-amz-target"),
            &[("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")],
        ),
    ];
    for (number, (slot, headers)) in lies.into_iter().enumerate() {
        let lied = request(Method::POST, b"{}", slot, headers);
        session.announce(&process.hold(lied, approve("refunds"), session.version())).await;
        assert_eq!(session.settled().await.reason(), Reason::Invalid, "{number}");
    }
    assert_eq!((world.approvals(), world.recorded("request.claim")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_comes_after_the_claim_signs_anew_for_the_same_request() {
    let (world, process, mut session) = world().await;
    let held = process.hold(
        request(Method::POST, b"{}", signed(MANNER), &[]),
        approve("refunds"),
        session.version(),
    );
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Approve).await;
    let first = session.decision().await;
    drop(session);
    let mut session = process.attach(&world).await;
    session.announce(&held).await;
    assert_eq!(session.opened().await, Some(approval));
    let second = session.decision().await;
    assert_eq!(decoded(&first).decision_id, decoded(&second).decision_id);
    assert!(opened(&process, &held, &second).starts_with("authorization: AWS4-HMAC-SHA256 "));
    assert!(matches!(outcome(held, &second, &session.trust), Outcome::Release(_)));
    assert_eq!(world.recorded("request.claim"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_sign_releases_nothing_and_the_edge_is_told() {
    let world = World::new().await;
    world
        .add_credential_of("aws", ("aws-sigv4", ""), ReleaseClass::Auto, b"not an access key")
        .await;
    world.set_policy(POLICY).await;
    let process = Process::new(world.enroll("one").await);
    let mut session = process.attach(&world).await;
    let held = process.hold(
        request(Method::POST, b"{}", signed(MANNER), &[]),
        approve("refunds"),
        session.version(),
    );
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Approve).await;
    assert_eq!(session.settled().await.reason(), Reason::Unavailable);
    world.until(approval, ApprovalState::Completed).await;
}

const HMAC: &str =
    "sha512 hex t={timestamp},v1={signature} | {timestamp}.{target}.{header:x-amz-target}.{body}";

#[tokio::test(flavor = "multi_thread")]
async fn t3_class_a_shared_secret_signs_what_was_approved_and_stays() {
    let world = World::new().await;
    world
        .add_credential_of(
            "aws",
            ("hmac:x-signature", HMAC),
            ReleaseClass::Lease,
            SECRET.as_bytes(),
        )
        .await;
    world.set_policy(POLICY).await;
    let process = Process::new(world.enroll("one").await);
    let mut session = process.attach(&world).await;
    let credential = session.bundle.credentials.iter().find(|c| c.name == "aws").unwrap();
    assert!(!credential.leasable);
    let slot = |names: &[&str], manner: String| Slot::Signed {
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
        manner,
    };
    let body = br#"{"amount":5}"#;
    for lie in [
        slot(&["x-signature"], format!("hmac {}", HMAC.replace("{body}", ""))),
        slot(&["x-signature", "x-other"], format!("hmac {HMAC}")),
        slot(&["x-other"], format!("hmac {HMAC}")),
        slot(&["x-signature"], MANNER.into()),
    ] {
        let lied = request(Method::POST, body, lie, &[]);
        session.announce(&process.hold(lied, approve("refunds"), session.version())).await;
        assert_eq!(session.settled().await.reason(), Reason::Invalid);
    }
    let plan = slot(&["x-signature"], format!("hmac {HMAC}"));
    let held =
        process.hold(request(Method::POST, body, plan, &[]), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.vote(approval, VoteWord::Approve).await;
    let decision = session.decision().await;
    let line = opened(&process, &held, &decision);
    assert!(!line.contains(SECRET));
    let (time, made) = line.strip_prefix("x-signature: t=").unwrap().split_once(",v1=").unwrap();
    let signed = format!("{time}./?a=b.DynamoDB_20120810.DeleteItem.{{\"amount\":5}}");
    assert_eq!(made, hex::encode(hmac_sha512(SECRET.as_bytes(), signed.as_bytes())));
}

fn hmac_sha512(key: &[u8], text: &[u8]) -> Vec<u8> {
    use sha2::Sha512;
    let mut block = [0; 128];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha512::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(text).finalize();
    Sha512::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().to_vec()
}
