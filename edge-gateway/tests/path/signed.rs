//! Requests that the control plane signs: the agent's own signature is thrown away, and what leaves carries the one that
//! came with the decision.

use countersign_proto::v1 as pb;

use crate::control::{HOOK, secret};
use crate::world::{World, no};

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// As botocore signs, with the fake key; `scope` and what X-Amz-Content-Sha256 says are the test's.
fn signed_with(scope: &str, payload: &str, date: &str) -> String {
    format!(
        "Authorization: AWS4-HMAC-SHA256 Credential={}/20261126/{scope}/aws4_request, \
         SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={}\r\n\
         X-Amz-Date: {date}\r\nX-Amz-Content-Sha256: {payload}\r\n",
        secret("aws").fake,
        "ab".repeat(32),
    )
}

fn signed(payload: &str) -> String {
    signed_with("eu-central-1/s3", payload, "20261126T080000Z")
}

#[tokio::test]
async fn t3_class_a_request_leaves_with_the_signature_of_the_control_plane_and_not_the_agents() {
    let world = World::start().await;
    let rest = format!(
        "{}X-Amz-Security-Token: mine\r\nX-Amz-Meta-A: b\r\nContent-Type: text/plain\r\n",
        signed("UNSIGNED-PAYLOAD")
    );
    let answer = world.agent.send("aws.test", "PUT /bucket/key?x=1", &rest, "hello").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let open = world.control.open().await;
    assert!(open.head.allowed, "nobody is asked, and yet it takes a decision");
    assert_eq!(open.body, b"hello");
    let named = |name: &str| open.head.headers.iter().any(|header| header.name == name);
    for taken in ["authorization", "x-amz-date", "x-amz-security-token"] {
        assert!(!named(taken), "{taken} is not frozen");
    }
    assert_eq!(
        open.head.injections[0].slot,
        Some(pb::injection::Slot::Signed(pb::InjectedSigned {
            names: ["authorization", "x-amz-date", "x-amz-security-token"]
                .map(str::to_owned)
                .to_vec(),
            manner: "aws-sigv4 eu-central-1/s3 host;x-amz-content-sha256;x-amz-date;x-amz-meta-a"
                .into(),
        }))
    );
    let got = &world.origin.got()[0];
    for line in secret("aws").real.lines() {
        let (name, value) = line.split_once(": ").expect("a header");
        let sent: Vec<_> = got.headers.get_all(name).iter().collect();
        assert_eq!(sent, [value], "{name}");
    }
    assert_eq!((got.target.as_str(), &got.body[..]), ("/bucket/key?x=1", &b"hello"[..]));
    assert_eq!(got.headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
    assert!(!format!("{got:?}").contains(secret("aws").fake));
    for real in [
        "AKIAREALREALREALREAL",
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        "REALsessiontoken",
    ] {
        assert!(!answer.body.contains(real), "the echo is redacted: {}", answer.body);
    }
    assert!(answer.body.contains("x-amz-meta-a"), "and the rest is not: {}", answer.body);
    assert!(world.control.lease_asked().await.is_none());
}

#[tokio::test]
async fn a_retry_that_is_signed_anew_is_the_same_intent() {
    let world = World::start().await;
    let mut digests = Vec::new();
    for date in ["20261126T080000Z", "20261126T080500Z"] {
        let rest = format!(
            "{}Amz-Sdk-Invocation-Id: {date}\r\n",
            signed_with("eu-central-1/s3", EMPTY, date)
        );
        let answer = world.agent.send("aws.test", "DELETE /bucket/key", &rest, "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        digests.push(world.control.open().await.head.intent_digest);
    }
    assert_eq!(digests[0], digests[1]);
    let rest = signed_with("eu-west-1/s3", EMPTY, "20261126T080500Z");
    world.agent.send("aws.test", "DELETE /bucket/key", &rest, "").await;
    assert_ne!(digests[0], world.control.open().await.head.intent_digest, "another region");
}

#[tokio::test]
async fn what_cannot_be_signed_anew_is_refused_and_says_what_to_do() {
    let world = World::start().await;
    let fake = secret("aws").fake;
    let with = |change: fn(&str) -> String| change(&signed(EMPTY));
    for (line, rest, body, words) in [
        (
            format!(
                "GET /b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={fake}%2F20261126%2Feu%2Fs3%2Faws4_request&X-Amz-Signature=00"
            ),
            String::new(),
            "",
            "presigned URL",
        ),
        (
            "PUT /b/k".into(),
            signed("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            "x",
            "chunkedEncodingEnabled(false)",
        ),
        ("PUT /b/k".into(), signed("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"), "x", "chunked"),
        ("PUT /b/k".into(), signed(EMPTY), "x", "not the SHA-256 of the body"),
        ("PUT /b/k".into(), signed("nonsense"), "x", "neither"),
        (
            "GET /b/k".into(),
            format!("{}X-Amz-Content-Sha256: {EMPTY}\r\n", signed(EMPTY)),
            "",
            "twice",
        ),
        (
            "GET /b/k".into(),
            with(|s| s.replace("AWS4-HMAC-SHA256 ", "AWS4-ECDSA-P256-SHA256 ")),
            "",
            "AWS4-ECDSA-P256-SHA256",
        ),
        ("GET /b/k".into(), with(|s| s.replace("/aws4_request", "")), "", "credential scope"),
        (
            "GET /b/k".into(),
            with(|s| s.replace("eu-central-1/s3", "EU/s3")),
            "",
            "credential scope",
        ),
        (
            "GET /b/k".into(),
            with(|s| s.replace("eu-central-1/s3", "a/b/c")),
            "",
            "credential scope",
        ),
    ] {
        let answer = world.agent.send("aws.test", &line, &rest, body).await;
        assert_eq!(no(&answer), (400, "bad_request".into()), "{line} {rest}");
        assert!(answer.body.contains(words), "{words}: {}", answer.body);
    }
    assert!(world.control.opened().await.is_none());
    assert!(world.control.alarmed().await.is_none(), "the agent did nothing wrong");
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn p_14_a_fake_access_key_elsewhere_is_refused_and_reported() {
    let world = World::start().await;
    let fake = secret("aws").fake;
    for (rest, body) in [
        (format!("{}X-Copy: {fake}\r\n", signed("UNSIGNED-PAYLOAD")), String::new()),
        (signed("UNSIGNED-PAYLOAD"), format!("mine is {fake}")),
        (format!("Authorization: Bearer {fake}\r\n"), String::new()),
        (
            format!(
                "Authorization: AWS4-HMAC-SHA256 Credential=x{fake}/20261126/eu/s3/aws4_request\r\n"
            ),
            String::new(),
        ),
    ] {
        let answer = world.agent.send("aws.test", "PUT /b/k", &rest, &body).await;
        assert_eq!(no(&answer), (403, "fake_key_misplaced".into()), "{rest}");
        world.control.alarm().await;
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn t3_class_a_fake_key_where_a_signature_goes_becomes_the_signature_that_came() {
    let world = World::start().await;
    let (agent, fake) = (world.agent.clone(), secret("hook").fake);
    let rest = format!(
        "Webhook-Id: msg_1\r\nWebhook-Timestamp: 1\r\nWebhook-Signature: v1,{fake}\r\n\
         Content-Type: application/json\r\n"
    );
    let waiting =
        tokio::spawn(async move { agent.send("hook.test", "POST /x", &rest, "{}").await });
    let open = world.control.open().await;
    assert_eq!(
        open.head.injections[0].slot,
        Some(pb::injection::Slot::Signed(pb::InjectedSigned {
            names: vec!["webhook-signature".into(), "webhook-timestamp".into()],
            manner: format!("hmac {HOOK}"),
        }))
    );
    let named = |name: &str| open.head.headers.iter().any(|header| header.name == name);
    assert!(named("webhook-id") && !named("webhook-signature") && !named("webhook-timestamp"));
    world.control.release(&open).await;
    let answer = waiting.await.expect("no panic");
    assert_eq!(answer.status, 200, "{answer:?}");
    let got = &world.origin.got()[0];
    assert_eq!(got.headers["webhook-signature"], "v1,REALsignature0123456789/+abcdefghij=");
    assert_eq!(got.headers["webhook-timestamp"], "1790000000");
    assert_eq!(got.headers.get_all("webhook-timestamp").iter().count(), 1);
    assert!(!answer.body.contains("REALsignature"), "the echo is redacted: {}", answer.body);

    let rest = format!("Webhook-Id: {fake}\r\nWebhook-Signature: v1,{fake}\r\n");
    let answer = world.agent.send("hook.test", "POST /x", &rest, "{}").await;
    assert_eq!(no(&answer), (403, "fake_key_misplaced".into()), "P-14");
}
