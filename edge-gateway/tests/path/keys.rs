//! Fake keys become real ones in their own place, and nowhere else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncWriteExt as _;

use crate::agent::{read, send};
use crate::control::secret;
use crate::world::World;

fn bearer(name: &str) -> String {
    format!("Authorization: Bearer {}\r\n", secret(name).fake)
}

#[tokio::test]
async fn a_leased_key_is_put_in_and_never_comes_back() {
    let world = World::start().await;
    let rest = format!("{}X-Other: 1\r\nAccept-Encoding: gzip, br\r\n", bearer("api"));
    let answer = world.agent.send("api.test", "GET /things/1?a=b", &rest, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let got = &world.origin.got()[0];
    assert_eq!(got.headers["authorization"], format!("Bearer {}", secret("api").real));
    assert_eq!(got.headers["accept-encoding"], "identity");
    assert_eq!(got.target, "/things/1?a=b");
    assert!(!answer.body.contains(secret("api").real), "the echo is redacted: {}", answer.body);
    assert!(!format!("{got:?}").contains(secret("api").fake));
}

#[tokio::test]
async fn one_lease_serves_many_requests() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("api.test").await;
    for _ in 0..5 {
        assert_eq!(
            send(&mut tunnel, "api.test", "GET /things/1", &bearer("api"), "").await.status,
            200
        );
    }
    assert!(world.control.lease_asked().await.is_some());
    assert!(world.control.lease_asked().await.is_none(), "asked once");
    assert_eq!(world.origin.got().len(), 5);
}

#[tokio::test]
async fn a_lease_that_is_refused_is_403() {
    let world = World::start().await;
    world.control.grant_leases(false);
    let answer = world.agent.send("api.test", "GET /things/1", &bearer("api"), "").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "credential_refused"));
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn a_key_per_request_comes_with_a_decision_and_asks_nobody() {
    let world = World::start().await;
    let answer = world.agent.send("single.test", "POST /x", &bearer("single"), "payload").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let open = world.control.open().await;
    assert!(open.head.allowed);
    assert_eq!(open.body, b"payload");
    let got = &world.origin.got()[0];
    assert_eq!(got.headers["authorization"], format!("Bearer {}", secret("single").real));
    assert_eq!(got.body, "payload");
    assert_eq!(world.control.receipt().await.status, 200);
}

#[tokio::test]
async fn a_key_in_a_password_asks_for_it_as_git_expects() {
    let world = World::start().await;
    let missing = world.agent.send("git.test", "GET /repo/info/refs", "", "").await;
    assert_eq!(
        (missing.status, missing.header("www-authenticate")),
        (401, Some("Basic realm=\"countersign\""))
    );
    for pair in [format!("me:{}", secret("git").fake), format!("{}:x", secret("git").fake)] {
        let rest = format!("Authorization: Basic {}\r\n", STANDARD.encode(&pair));
        assert_eq!(
            world.agent.send("git.test", "GET /repo/info/refs", &rest, "").await.status,
            200
        );
        let got = world.origin.got().pop().expect("it arrived");
        let real = pair.replace(secret("git").fake, secret("git").real);
        assert_eq!(got.headers["authorization"], format!("Basic {}", STANDARD.encode(real)));
    }
}

#[tokio::test]
async fn keys_in_queries_and_paths_are_swapped_in_place() {
    let world = World::start().await;
    let target = format!("GET /search?q=1&key={}&z=2", secret("query").fake);
    assert_eq!(world.agent.send("query.test", &target, "", "").await.status, 200);
    assert_eq!(world.origin.got()[0].target, "/search?q=1&key=qk_REAL%2B%2F0123456789&z=2");
    let target = format!("GET /bot{}/getMe", secret("bot").fake);
    assert_eq!(world.agent.send("bot.test", &target, "", "").await.status, 200);
    assert_eq!(world.origin.got()[1].target, format!("/bot{}/getMe", secret("bot").real));
}

#[tokio::test]
async fn a_2_fifty_duplicates_of_the_slots_header_leave_as_one() {
    let world = World::start().await;
    let mut rest = String::new();
    for n in 0..50 {
        rest.push_str(&format!("Authorization: Bearer own-key-{n}\r\n"));
    }
    rest.push_str(&bearer("api"));
    assert_eq!(world.agent.send("api.test", "GET /things/1", &rest, "").await.status, 200);
    let got = &world.origin.got()[0];
    let sent: Vec<_> = got.headers.get_all("authorization").iter().collect();
    assert_eq!(sent, [&format!("Bearer {}", secret("api").real)]);
}

#[tokio::test]
async fn p_14_a_fake_key_anywhere_else_is_refused_and_reported() {
    let world = World::start().await;
    let fake = secret("api").fake;
    let encoded = STANDARD.encode(format!("x{fake}y"));
    let percent: String = fake.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let own = bearer("api");
    let other_key = bearer("api");
    for (host, line, rest, body) in [
        ("api.test", "GET /things/1".to_owned(), format!("{own}X-Copy: {fake}\r\n"), String::new()),
        ("api.test", "GET /things/1".into(), format!("{own}Cookie: a={fake}\r\n"), String::new()),
        ("api.test", "GET /things/1".into(), format!("{own}X-{fake}: 1\r\n"), String::new()),
        (
            "open.test",
            "GET /".into(),
            format!("{}: 1\r\n", fake.to_ascii_uppercase()),
            String::new(),
        ),
        ("api.test", format!("GET /things/{fake}"), own.clone(), String::new()),
        ("api.test", format!("GET /things/1?copy={fake}"), own.clone(), String::new()),
        ("api.test", format!("GET /things/1?copy={percent}"), own.clone(), String::new()),
        (
            "api.test",
            "POST /refunds".into(),
            bearer("api-admin"),
            format!("{{\"note\":\"{fake}\"}}"),
        ),
        ("api.test", "POST /refunds".into(), bearer("api-admin"), format!("note={encoded}")),
        ("api.test", "POST /refunds".into(), bearer("api-admin"), format!("note={percent}")),
        ("open.test", "GET /".into(), other_key, String::new()),
        ("open.test", "POST /".into(), String::new(), format!("streamed {fake} streamed")),
        (
            "api.test",
            "GET /things/1".into(),
            format!("Authorization: Basic {encoded}\r\n"),
            String::new(),
        ),
    ] {
        let answer = world.agent.send(host, &line, &rest, &body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "fake_key_misplaced"),
            "{line} {rest} {body}"
        );
        let alarm = world.control.alarm().await;
        assert_eq!(
            (alarm.kind.as_str(), alarm.agent_id.as_str()),
            ("fake_key_misplaced", "agent-1")
        );
        assert!(!format!("{alarm:?}").contains(fake), "the alarm does not repeat it");
    }
    assert!(world.control.opened().await.is_none(), "nothing was opened for approval");
    assert!(world.origin.got().iter().all(|got| !format!("{got:?}").contains(fake)));
}

#[tokio::test]
async fn a_rule_that_wants_a_key_is_not_served_without_it() {
    let world = World::start().await;
    let missing = world.agent.send("api.test", "GET /things/1", "", "").await;
    assert_eq!((missing.status, missing.code().as_str()), (401, "fake_key_missing"));
    let another = world.agent.send("api.test", "DELETE /things/1", &bearer("api"), "").await;
    assert_eq!((another.status, another.code().as_str()), (401, "fake_key_missing"));
    assert!(another.body.contains("api-admin"), "it says which: {}", another.body);
    let own =
        world.agent.send("api.test", "GET /things/1", "Authorization: Bearer my-own\r\n", "").await;
    assert_eq!(own.status, 401, "a key of the agent's own does not count");
    assert!(world.control.alarmed().await.is_none());
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn b_7_a_client_that_waits_for_100_gets_it_from_the_edge() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("single.test").await;
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: single.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n{}\r\n",
        bearer("single")
    );
    tunnel.write_all(head.as_bytes()).await.expect("written");
    assert_eq!(read(&mut tunnel).await.expect("an answer").status, 100);
    tunnel.write_all(b"hello").await.expect("written");
    assert_eq!(read(&mut tunnel).await.expect("an answer").status, 200);
    let got = &world.origin.got()[0];
    assert!(!got.headers.contains_key("expect"));
    assert_eq!(got.body, "hello");
}

#[tokio::test]
async fn b_6_chunks_are_framed_anew_and_trailers_dropped() {
    let world = World::start().await;
    let body = "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nAuthorization: Bearer smuggled\r\n\r\n";
    let answer = world
        .agent
        .send(
            "single.test",
            "POST /x",
            &format!("{}Transfer-Encoding: chunked\r\n", bearer("single")),
            body,
        )
        .await;
    assert_eq!(answer.status, 200);
    let got = &world.origin.got()[0];
    assert_eq!(got.body, "abcde");
    assert_eq!(got.headers.get_all("authorization").iter().count(), 1);
    let answer =
        world.agent.send("open.test", "POST /x", "Transfer-Encoding: chunked\r\n", body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.origin.got()[1].body, "abcde");
    assert!(!world.origin.got()[1].headers.contains_key("authorization"));
}

#[tokio::test]
async fn many_first_requests_ask_for_one_lease() {
    let world = World::start().await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let agent = world.agent.clone();
        all.spawn(async move { agent.send("api.test", "GET /things/1", &bearer("api"), "").await });
    }
    while let Some(answer) = all.join_next().await {
        assert_eq!(answer.expect("no panic").status, 200);
    }
    assert!(world.control.lease_asked().await.is_some());
    assert!(world.control.lease_asked().await.is_none(), "asked once");
}

#[tokio::test]
async fn a_lease_ends_with_its_time_when_nobody_renews_it() {
    let world = World::start().await;
    world.control.lend_for(1_500);
    assert_eq!(world.agent.send("api.test", "GET /things/1", &bearer("api"), "").await.status, 200);
    world.control.hang_up(Some(tonic::Status::unavailable("no leader")));
    let began = std::time::Instant::now();
    let answer = loop {
        let answer = world.agent.send("api.test", "GET /things/1", &bearer("api"), "").await;
        if answer.status != 200 {
            break answer;
        }
        assert!(began.elapsed().as_secs() < 10, "the lease ends");
    };
    assert_eq!((answer.status, answer.code().as_str()), (503, "control_plane_unavailable"));
}

#[tokio::test]
async fn a_lease_is_renewed_before_it_ends() {
    let world = World::start().await;
    world.control.lend_for(3_000);
    let began = std::time::Instant::now();
    while began.elapsed().as_millis() < 3_500 {
        let answer = world.agent.send("api.test", "GET /things/1", &bearer("api"), "").await;
        assert_eq!(answer.status, 200);
    }
    assert!(world.control.lease_asked().await.is_some());
    assert!(world.control.lease_asked().await.is_some(), "asked again");
}

#[tokio::test]
async fn a_rotated_key_is_not_used_any_longer() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("api.test").await;
    assert_eq!(
        send(&mut tunnel, "api.test", "GET /things/1", &bearer("api"), "").await.status,
        200
    );
    assert!(world.control.lease_asked().await.is_some());
    let rotated = "tk_fake_api_new_0123456789";
    world
        .control
        .change(|state| {
            state.credentials[0].version = 2;
            state.credentials[0].fake_keys.push(rotated.into());
        })
        .await;
    let rest = format!("Authorization: Bearer {rotated}\r\n");
    let mut status = 0;
    while status != 200 {
        status = send(&mut tunnel, "api.test", "GET /things/1", &rest, "").await.status;
    }
    assert!(world.control.lease_asked().await.is_some(), "a lease of the new version");
    let answer = send(&mut tunnel, "api.test", "GET /things/1", &bearer("api"), "").await;
    assert_eq!(answer.status, 200, "the former fake key still counts");
}

#[tokio::test]
async fn what_nobody_inspects_streams_however_large_it_is() {
    let limits =
        countersign_edge_gateway::config::Limits { max_held_body: 1_000, ..Default::default() };
    let world = World::with(limits).await;
    let body = "z".repeat(300_000);
    let answer = world.agent.send("open.test", "POST /x", "", &body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.origin.got()[0].body.len(), 300_000);
    assert!(world.control.opened().await.is_none());
}
