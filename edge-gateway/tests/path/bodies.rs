//! Keys that go into a body or a cookie: found in the one field that is theirs, shown as a hole, written as the body is.

use countersign_edge_gateway::config::Limits;
use countersign_proto::v1 as pb;

use crate::agent::Answer;
use crate::control::secret;
use crate::world::{World, no};

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
const JSON: &str = "Content-Type: application/json; charset=utf-8\r\n";

async fn post(world: &World, host: &str, path: &str, rest: &str, body: &str) -> Answer {
    world.agent.send(host, &format!("POST {path}"), rest, body).await
}

#[tokio::test]
async fn a_key_in_a_cookie_is_swapped_and_the_other_cookies_stay() {
    let world = World::start().await;
    let rest = format!("Cookie: theme=dark; sid={}; lang=de\r\n", secret("session").fake);
    let answer = world.agent.send("cookie.test", "GET /", &rest, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let got = &world.origin.got()[0];
    let real = secret("session").real;
    assert_eq!(got.headers["cookie"], format!("theme=dark; sid={real}; lang=de"));
    assert!(!answer.body.contains(real), "the echo is redacted: {}", answer.body);

    for misplaced in [
        format!("Cookie: theme={}\r\n", secret("session").fake),
        format!("Cookie: sid={0}; sid={0}\r\n", secret("session").fake),
        format!("Cookie: sid=other; sid={}\r\n", secret("session").fake),
        format!("Cookie: sid=x{}\r\n", secret("session").fake),
        format!("X-Sid: {}\r\n", secret("session").fake),
    ] {
        let answer = world.agent.send("cookie.test", "GET /", &misplaced, "").await;
        assert_eq!(no(&answer), (403, "fake_key_misplaced".into()), "{misplaced}");
        assert!(!format!("{:?}", world.control.alarm().await).contains(secret("session").fake));
    }
    assert_eq!(world.origin.got().len(), 1);
}

#[tokio::test]
async fn a_key_in_a_form_is_swapped_in_place_and_the_length_follows() {
    let world = World::start().await;
    let fake = secret("form").fake;
    let body = format!("grant_type=client_credentials&client_secret={fake}&scope=a+b%26c");
    let answer = post(&world, "form.test", "/token", FORM, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let got = &world.origin.got()[0];
    let sent = "grant_type=client_credentials&client_secret=cs_REAL%2B%2F%26%3D%250123456789&scope=a+b%26c";
    assert_eq!(got.body, sent);
    assert_eq!(got.headers["content-length"], sent.len().to_string());
    assert_eq!(got.headers["accept-encoding"], "identity");
    for spelling in [secret("form").real, "cs_REAL%2B%2F%26%3D%250123456789"] {
        assert!(!answer.body.contains(spelling), "{}", answer.body);
    }
    let percent: String = fake.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let answer =
        post(&world, "form.test", "/token", FORM, &format!("client%5Fsecret={percent}")).await;
    assert_eq!(answer.status, 200, "however the field is written: {answer:?}");
    assert_eq!(world.origin.got()[1].body, "client%5Fsecret=cs_REAL%2B%2F%26%3D%250123456789");
    assert!(world.control.opened().await.is_none(), "its key is leased");
}

#[tokio::test]
async fn people_are_shown_a_hole_where_the_key_of_a_form_goes() {
    let world = World::start().await;
    let (agent, fake) = (world.agent.clone(), secret("form").fake);
    let body = format!("token=abc&client_secret={fake}");
    let waiting =
        tokio::spawn(async move { agent.send("form.test", "POST /revoke", FORM, &body).await });
    let open = world.control.open().await;
    assert_eq!(open.body, b"token=abc&client_secret={key}");
    let plan = &open.head.injections[0];
    assert_eq!(plan.slot, Some(pb::injection::Slot::FormAt(24)));
    assert!(!format!("{open:?}").contains(fake));
    assert!(world.origin.got().is_empty());
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    let got = &world.origin.got()[0];
    assert_eq!(got.body, "token=abc&client_secret=cs_REAL%2B%2F%26%3D%250123456789");
}

#[tokio::test]
async fn a_key_in_json_is_swapped_in_place_and_escaped() {
    let world = World::start().await;
    let fake = secret("json").fake;
    let body = format!(r#"{{ "auth": {{"id": 7, "secret": "{fake}"}}, "note": "é" }}"#);
    let answer = post(&world, "json.test", "/login", JSON, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let got = &world.origin.got()[0];
    assert_eq!(
        got.body,
        r#"{ "auth": {"id": 7, "secret": "js_REAL\"\\/<0123456789"}, "note": "é" }"#
    );
    let read: serde_json::Value = serde_json::from_slice(&got.body).expect("JSON");
    assert_eq!(read["auth"]["secret"], secret("json").real);
    for spelling in [secret("json").real, r#"js_REAL\"\\/<0123456789"#, r"js_REAL\u0022"] {
        assert!(!answer.body.contains(spelling), "{}", answer.body);
    }
    let open = world.control.open().await;
    assert!(open.head.allowed, "its key comes with a decision");
    assert_eq!(open.body, body.replace(fake, "{key}").as_bytes());
    let escaped: String = fake.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    let answer = post(
        &world,
        "json.test",
        "/login",
        JSON,
        &format!(r#"{{"auth":{{"secret":"{escaped}"}}}}"#),
    )
    .await;
    assert_eq!(answer.status, 200, "however it is escaped: {answer:?}");
    assert_eq!(world.origin.got()[1].body, r#"{"auth":{"secret":"js_REAL\"\\/<0123456789"}}"#);
}

#[tokio::test]
async fn p_14_b_8_b_11_a_key_in_a_body_that_reads_in_two_ways_is_refused_with_the_reason() {
    let world = World::start().await;
    let (form, json) = (secret("form").fake, secret("json").fake);
    for (host, rest, body, reason) in [
        ("form.test", FORM, format!("client_secret={form}&client_secret=x"), "twice"),
        ("form.test", FORM, format!("client_secret={form}&CLIENT_SECRET=x"), "twice"),
        ("form.test", FORM, format!("client_secret={form}&client_secret[]=x"), "twice"),
        ("form.test", FORM, format!("client_secret={form};a=b"), "twice"),
        ("form.test", FORM, format!("{{}}&client_secret={form}"), "JSON"),
        ("form.test", FORM, format!("other={form}"), "in the body"),
        ("form.test", FORM, format!("client_secret={form}&copy={form}"), "in the body"),
        ("form.test", FORM, format!("client_secret=x{form}"), "in the body"),
        ("form.test", JSON, format!("client_secret={form}"), "in the body"),
        ("json.test", JSON, format!(r#"{{"auth":{{"secret":"{json}","secret":"x"}}}}"#), "twice"),
        ("json.test", JSON, format!(r#"{{"auth":{{"secret":"{json}"}},"AUTH":1}}"#), "twice"),
        ("json.test", JSON, format!(r#"{{"auth":{{"secret":"{json}"}}}} x"#), "after the end"),
        ("json.test", JSON, format!(r#"{{"auth":{{"secret":["{json}"]}}}}"#), "in the body"),
        ("json.test", JSON, format!(r#"{{"secret":"{json}"}}"#), "in the body"),
        (
            "json.test",
            JSON,
            format!(r#"{{"auth":{{"secret":"{json}"}},"b":"{json}"}}"#),
            "in the body",
        ),
        (
            "form.test",
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Encoding: identity\r\n",
            format!("client_secret={form}"),
            "Content-Encoding",
        ),
    ] {
        let answer = post(&world, host, "/token", rest, &body).await;
        assert_eq!(no(&answer), (403, "fake_key_misplaced".into()), "{body}");
        assert!(answer.body.contains(reason), "{body}: {}", answer.body);
        let alarm = world.control.alarm().await;
        assert!(!format!("{alarm:?}{answer:?}").contains("fake_0123"), "it is not repeated");
    }
    let body = format!(r#"{{"auth":{{"secret":"{json}"}}}}"#);
    let answer = post(&world, "json.test", "/token", FORM, &body).await;
    assert_eq!(no(&answer), (401, "fake_key_missing".into()));
    assert!(answer.body.contains("Content-Type"), "{}", answer.body);
    assert!(world.control.opened().await.is_none());
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn b_4_a_compressed_body_whose_key_cannot_be_found_is_refused_and_says_what_to_do() {
    let world = World::start().await;
    let rest = format!("{FORM}Content-Encoding: gzip\r\n");
    let answer = post(&world, "form.test", "/token", &rest, "\u{1f}not looked into").await;
    assert_eq!(no(&answer), (401, "fake_key_missing".into()));
    assert!(answer.body.contains("Content-Encoding"), "{}", answer.body);
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn b_3_a_body_that_may_hold_a_key_is_taken_in_whole_within_the_limit_and_others_stream() {
    let world = World::with(Limits { max_held_body: 1_000, ..Limits::default() }).await;
    let fake = secret("form").fake;
    let large = format!("client_secret={fake}&a={}", "x".repeat(1_000));
    let answer = post(&world, "form.test", "/token", FORM, &large).await;
    assert_eq!(no(&answer), (413, "body_too_large".into()));
    assert!(world.origin.got().is_empty());
    let rest = "Content-Type: application/octet-stream\r\n";
    let answer = post(&world, "form.test", "/upload", rest, &"z".repeat(100_000)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(world.origin.got()[0].body.len(), 100_000);
    let answer = post(&world, "form.test", "/upload", rest, &format!("streamed {fake}")).await;
    assert_eq!(no(&answer), (403, "fake_key_misplaced".into()), "P-14 in what streams");
}
