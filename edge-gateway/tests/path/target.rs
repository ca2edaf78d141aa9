//! Paths, methods and headers that are read in two ways.

use crate::control::secret;
use crate::world::{Setup, World};

#[tokio::test]
async fn p_1_p_2_p_4_p_5_ambiguous_paths_are_400() {
    let world = World::start().await;
    for path in [
        "/things/x/%2e%2e/1",
        "/things/../1",
        "/things/./1",
        "/things\\1",
        "//things/1",
        "/things//1",
        "/things/%252e",
        "/things/a%2fb",
        "/things/a%5cb",
        "/things/%00",
        "/things/%zz",
        "/things/..;x=1/2",
    ] {
        let answer = world.agent.send("open.test", &format!("GET {path}"), "", "").await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn p_3_an_encoded_letter_is_judged_decoded_and_sent_as_it_was() {
    let world = World::start().await;
    let key = format!("Authorization: Bearer {}\r\n", secret("api").fake);
    let denied = world.agent.send("api.test", "GET /%6eever/1", &key, "").await;
    assert_eq!((denied.status, denied.code().as_str()), (403, "policy_denied"));
    let answer = world.agent.send("open.test", "GET /%74hings", "", "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.origin.got()[0].target, "/%74hings");
}

#[tokio::test]
async fn p_8_p_9_methods_in_disguise_are_refused() {
    let world = World::start().await;
    let answer =
        world.agent.send("open.test", "POST /x", "X-HTTP-Method-Override: DELETE\r\n", "").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "ambiguous_target"));
    for name in ["X-HTTP-Method", "X-Method-Override", "x-http-method-override"] {
        let rest = format!("{name}: GET\r\n");
        let answer = world.agent.send("open.test", "POST /x", &rest, "").await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "ambiguous_target"), "{name}");
    }
    let answer = world.agent.send("open.test", "POST /x?a=1&%5fmethod=DELETE", "", "").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "ambiguous_target"));
    let answer = world.agent.send("open.test", "GET /x", "", "a body").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"));
    for method in ["post", "TRACE", "PROPFIND", "Get"] {
        let answer = world.agent.send("open.test", &format!("{method} /x"), "", "").await;
        assert_eq!(answer.status, 405, "{method}");
    }
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn p_11_p_13_u_2_what_belongs_to_connections_and_proxies_stays_here() {
    let world = World::start().await;
    let rest = "Connection: X-Named, Upgrade, HTTP2-Settings\r\nX-Named: 1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\
                X-Forwarded-For: 10.0.0.1\r\nForwarded: for=x\r\nVia: 1.1 x\r\nX-Real-IP: 10.0.0.1\r\nKeep-Alive: 5\r\n\
                TE: trailers\r\nProxy-Authorization: Basic x\r\nCountersign-Anything: 1\r\nX-Kept: yes\r\n";
    assert_eq!(world.agent.send("open.test", "GET /", rest, "").await.status, 200);
    let got = &world.origin.got()[0];
    let names: Vec<&str> = got.headers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["x-kept", "host"], "nothing else is there");
}

#[tokio::test]
async fn p_11_connection_cannot_name_the_key_away() {
    let world = World::start().await;
    let rest =
        format!("Connection: Authorization\r\nAuthorization: Bearer {}\r\n", secret("api").fake);
    let answer = world.agent.send("api.test", "GET /things/1", &rest, "").await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "fake_key_missing"));
    assert!(world.origin.got().is_empty());
}

#[tokio::test]
async fn p_4_p_6_p_7_another_spelling_meets_the_rule_that_is_stricter() {
    let rules = r#"
[[rule]]
name = "fetch"
host = "open.test"
path = "/info/refs"
query = { service = "git-receive-pack" }
then = "deny"
"#;
    let world = Setup { rules: rules.into(), ..Setup::default() }.start().await;
    let key = format!("Authorization: Bearer {}\r\n", secret("api").fake);
    for target in [
        "/NEVER/1",
        "/Never/1",
        "/never/1/",
        "/never/1;x=1",
        "/never;x/1",
        "/%6eEver/1",
        "/never./1",
        // Nor does one that is nearly the path of a rule get what that rule allows.
        "/Things/1",
        "/things;x/1",
        "/%74hings/1",
    ] {
        let answer = world.agent.send("api.test", &format!("GET {target}"), &key, "").await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "policy_denied"), "{target}");
    }
    for query in [
        "service=git-receive-pack",
        "service=git-upload-pack&service=git-receive-pack",
        "service=git-receive-pack&service=git-upload-pack",
        "%73ervice=git%2Dreceive-pack",
        "a=b;service=git-receive-pack",
        "Service=git-receive-pack",
        "service[]=git-receive-pack",
    ] {
        let answer =
            world.agent.send("open.test", &format!("GET /info/refs?{query}"), "", "").await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "policy_denied"), "{query}");
    }
    assert!(world.origin.got().is_empty());
    let fetched =
        world.agent.send("open.test", "GET /info/refs?service=git-upload-pack", "", "").await;
    assert_eq!(fetched.status, 200);
}

#[tokio::test]
async fn p_15_an_alias_that_no_rule_names_is_refused() {
    let world = World::start().await;
    for (host, line) in [
        ("uploads.api.test", "POST /things/1"),
        ("www.api.test", "POST /batch/things"),
        ("api.test", "POST /graphql"),
        ("api.test", "POST /$batch"),
        ("api.test", "POST /v2/things/1"),
        ("things.api.test", "DELETE /1"),
    ] {
        let answer = world.agent.send(host, line, "", "").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "policy_denied"),
            "{host} {line}"
        );
    }
    assert!(world.origin.got().is_empty());
}
