//! Something is wrong at the edge itself, or with what it decides with.

use std::time::Duration;

use crate::agent::request;
use crate::control::Control;
use crate::world::{Setup, World, bearer, no};

mod there_is_no_bundle_at_the_start {
    use super::*;

    async fn refused(prepare: impl FnOnce(&Control), host: &str) {
        let world = Setup::cluster(3, 2).unattached(prepare).await.expect("the edge starts");
        world.control.hello().await;
        for _ in 0..3 {
            let (answer, _) = world.agent.ask_for(&format!("{host}:443")).await;
            assert_eq!(answer.status, 503, "{answer:?}");
        }
        let plain = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n");
        let answer =
            world.agent.to_proxy(&format!("{plain}{}\r\n", world.agent.authorization())).await;
        assert_eq!(no(&answer), (503, "control_plane_unavailable".into()));
        assert!(world.origin.got().is_empty());
    }

    fn missing(control: &Control) {
        control.send_bundles(false);
    }

    /// Signed by nodes of which the trust bundle, which the root key signed, knows but one.
    fn unverifiable(control: &Control) {
        control.prepare_trust(|trust| trust.keys.truncate(1));
    }

    // What kind of request it is cannot be told without a bundle: each is refused at the door.

    #[tokio::test]
    async fn high_risk_is_refused() {
        refused(missing, "api.test").await;
        refused(unverifiable, "api.test").await;
    }

    #[tokio::test]
    async fn low_risk_with_a_lease_is_refused() {
        // There can be no lease: it would be of a process that is gone.
        refused(missing, "git.test").await;
        refused(unverifiable, "git.test").await;
    }

    #[tokio::test]
    async fn low_risk_without_a_lease_is_refused() {
        refused(missing, "query.test").await;
        refused(unverifiable, "query.test").await;
    }

    #[tokio::test]
    async fn what_needs_no_key_is_refused() {
        refused(missing, "open.test").await;
        refused(unverifiable, "open.test").await;
    }
}

mod its_clock_is_wrong {
    use super::*;

    async fn world() -> World {
        let world = World::start().await;
        world.borrow().await;
        world.control.tell_time(world.clock.wall_ms() - 31_000).await;
        assert_eq!(world.control.alarm().await.kind, "clock_off");
        world
    }

    fn clock_off() -> (u16, String) {
        (503, "clock_off".into())
    }

    #[tokio::test]
    async fn high_risk_is_refused_until_it_is_right_again() {
        let world = world().await;
        assert_eq!(no(&world.ask(30).await.expect("no panic")), clock_off());
        assert!(world.control.opened().await.is_none(), "nobody was asked");
        world.control.tell_time(world.clock.wall_ms() + 29_000).await;
        let waiting = world.ask(30);
        let open = world.control.open().await;
        world.control.release(&open).await;
        assert_eq!(waiting.await.expect("no panic").status, 200);
        assert!(world.control.alarmed().await.is_none(), "one alarm");
    }

    #[tokio::test]
    async fn low_risk_with_a_lease_goes_on_until_its_end() {
        let world = world().await;
        world.hands.advance(Duration::from_secs(14 * 60));
        world.control.tell_time(world.clock.wall_ms() + 31_000).await;
        assert_eq!(world.lent().await.status, 200);
        assert!(world.control.lease_asked().await.is_none(), "it is not renewed");
        world.hands.advance(Duration::from_secs(60));
        assert_eq!(no(&world.lent().await), clock_off());
    }

    #[tokio::test]
    async fn low_risk_without_a_lease_is_refused() {
        let world = world().await;
        assert_eq!(no(&world.unlent().await), clock_off());
        assert!(world.control.lease_asked().await.is_none());
    }

    #[tokio::test]
    async fn what_needs_no_key_goes_on() {
        assert_eq!(world().await.keyless().await.status, 200);
    }
}

mod the_policy_cannot_be_applied {
    use super::*;

    /// The newest policy is one that this edge cannot read.
    async fn world() -> World {
        let world = World::start().await;
        world.borrow().await;
        world.control.change(|state| state.policy = "version = 99".into()).await;
        world.until("countersign_edge_bundle_revision", 2.0).await;
        world
    }

    fn denied() -> (u16, String) {
        (403, "policy_denied".into())
    }

    // That a panic while it is applied is a 403 as well, whatever the request, is shown beside the code.

    #[tokio::test]
    async fn high_risk_is_denied() {
        let world = world().await;
        assert_eq!(no(&world.ask(30).await.expect("no panic")), denied());
        assert!(world.control.opened().await.is_none());
    }

    #[tokio::test]
    async fn low_risk_with_a_lease_is_denied() {
        let world = world().await;
        assert_eq!(no(&world.lent().await), denied());
        assert_eq!(world.origin.got().len(), 1, "what was sent before");
    }

    #[tokio::test]
    async fn low_risk_without_a_lease_is_denied() {
        let world = world().await;
        assert_eq!(no(&world.unlent().await), denied());
        assert!(world.control.lease_asked().await.is_none());
    }

    #[tokio::test]
    async fn what_needs_no_key_is_denied() {
        assert_eq!(no(&world().await.keyless().await), denied());
    }

    #[tokio::test]
    async fn a_condition_that_fails_allows_nothing() {
        let world = World::start().await;
        world
            .control
            .change(|state| {
                state.policy = "version = 1\n[[rule]]\nname = \"small\"\nhost = \"open.test\"\n\
                                when = \"body.json.amount < 10\"\nthen = \"allow\"\n"
                    .into();
            })
            .await;
        world.until("countersign_edge_bundle_revision", 2.0).await;
        let json = "Content-Type: application/json\r\n";
        for body in
            ["{\"amount\":\"text\"}", "{\"amount\":[1]}", "{}", "{\"amount\":1,\"amount\":2}"]
        {
            let answer = world.agent.send("open.test", "POST /x", json, body).await;
            assert_eq!(no(&answer), denied(), "{body}");
        }
        let answer = world.agent.send("open.test", "POST /x", json, "{\"amount\":1}").await;
        assert_eq!(answer.status, 200, "it does work");
    }
}

mod an_answer_cannot_be_redacted {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// The connection breaks off before the answer is over, and nothing of it is passed on.
    async fn broken_off(world: &World, host: &str, line: &str, rest: &str) {
        let mut tunnel = world.agent.tunnel(host).await;
        tunnel.write_all(request(host, line, rest, "").as_bytes()).await.expect("written");
        let open = match line.starts_with("DELETE") {
            true => Some(world.control.open().await),
            false => None,
        };
        if let Some(open) = open {
            world.control.release(&open).await;
        }
        let answer = crate::agent::read(&mut tunnel).await;
        let why = answer.expect_err("it breaks off");
        assert!(!why.to_string().contains("deadline"), "it does not just hang: {why}");
        assert_eq!(world.origin.got().len(), 1, "it was sent, once");
    }

    #[tokio::test]
    async fn high_risk_is_broken_off() {
        let world = World::start().await;
        let rest = bearer("api-admin");
        broken_off(&world, "api.test", "DELETE /things/garbled", &rest).await;
        assert_eq!(world.control.receipt().await.status, 200, "it was carried out");
    }

    #[tokio::test]
    async fn low_risk_with_a_lease_is_broken_off() {
        let world = World::start().await;
        world.borrow().await;
        let before = world.origin.got().len();
        let mut tunnel = world.agent.tunnel("api.test").await;
        let get = request("api.test", "GET /things/garbled", &bearer("api"), "");
        tunnel.write_all(get.as_bytes()).await.expect("written");
        crate::agent::read(&mut tunnel).await.expect_err("it breaks off");
        assert_eq!(world.origin.got().len(), before + 1);
    }

    #[tokio::test]
    async fn low_risk_whose_lease_is_new_is_broken_off() {
        let world = World::start().await;
        broken_off(&world, "api.test", "GET /things/garbled", &bearer("api")).await;
    }

    #[tokio::test]
    async fn what_needs_no_key_is_not_looked_into() {
        let world = World::start().await;
        let answer = world.agent.send("open.test", "GET /garbled", "", "").await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")));
    }
}
