//! N-16: one address that serves two names. Through the tunnel to the one nothing reaches the other.

use tokio::io::AsyncWriteExt as _;

use crate::agent::{read, request, send};
use crate::stage::say;
use crate::world::{World, bearer, no};

#[tokio::test]
async fn n_16_host_names_the_other_one_within_the_tunnel() {
    let world = World::start().await;
    let mut tunnel = world.agent.tunnel("free.test").await;
    for host in ["hidden.test", "stage.test", "free.test:8443"] {
        let answer =
            send(&mut tunnel, "free.test", "GET /", &format!("Host: {host}\r\n"), "").await;
        assert_eq!(no(&answer), (421, "destination_mismatch".to_owned()), "{host}");
    }
    assert!(world.stage.is_empty(), "nothing was dialled");
    say(&mut tunnel, request("free.test", "GET /", "", "")).await;
    let call = world.stage.call().await;
    assert_eq!(call.request.uri().host(), Some("free.test"));
}

#[tokio::test]
async fn n_16_the_server_name_is_the_other_one() {
    let world = World::start().await;
    assert!(world.agent.tunnel_with("free.test", "hidden.test", &[]).await.is_err());
    assert!(world.agent.tunnel_with("hidden.test", "free.test", &[]).await.is_err());
    assert!(world.stage.is_empty());
}

#[tokio::test]
async fn n_16_a_certificate_that_does_not_cover_the_host_gets_no_request() {
    let world = World::start().await;
    // The address answers for free.test and for stage.test, and its certificate is good for both.
    let mut tunnel = world.agent.tunnel("hidden.test").await;
    tunnel.write_all(request("hidden.test", "GET /", "", "").as_bytes()).await.expect("written");
    let shaken = world.stage.next().await;
    let answer = read(&mut tunnel).await.expect("an answer");
    assert_eq!(no(&answer), (502, "upstream_failed".to_owned()), "{answer:?}");
    let nothing = match shaken {
        Err(_) => true,
        // TLS 1.3's server is done before the client has looked at its certificate.
        Ok(mut line) => crate::messages::next(&mut line).await.is_none(),
    };
    assert!(nothing, "no byte of a request came");
}

#[tokio::test]
async fn n_16_a_connection_to_the_one_is_not_used_for_the_other() {
    let world = World::start().await;
    let mut free = world.agent.tunnel("free.test").await;
    say(&mut free, request("free.test", "GET /", "", "")).await;
    let first = world.stage.call().await;
    // It is open, speaks HTTP/2, and its certificate is good for this name too.
    let mut stage = world.agent.tunnel("stage.test").await;
    say(&mut stage, request("stage.test", "GET /play/x", &bearer("stage"), "")).await;
    let second = world.stage.call().await;
    assert_eq!(second.request.uri().host(), Some("stage.test"));
    drop((first, second));
}
