//! What people and their tools cannot do is the control plane's to judge; here is what the edge makes of it.

use countersign_proto::v1 as pb;

use crate::world::{World, no};

mod the_external_audit_is_down {
    use super::*;

    // Nothing is claimed then where an external audit is required: no decision comes.

    #[tokio::test]
    async fn high_risk_is_told_to_keep_waiting() {
        let world = World::start().await;
        let waiting = world.ask(1);
        let open = world.control.open().await;
        world.control.opened_as(&open, &[1; 16]).await;
        let answer = waiting.await.expect("no panic");
        assert_eq!(no(&answer), (503, "approval_pending".into()));
        assert!(world.origin.got().is_empty());
    }

    #[tokio::test]
    async fn low_risk_with_a_lease_notices_nothing() {
        let world = World::start().await;
        world.borrow().await;
        let waiting = world.ask(30);
        world.control.open().await;
        assert_eq!(world.lent().await.status, 200);
        assert!(!waiting.is_finished());
    }

    #[tokio::test]
    async fn low_risk_without_a_lease_notices_nothing() {
        let world = World::start().await;
        let waiting = world.ask(30);
        world.control.open().await;
        assert_eq!(world.unlent().await.status, 200);
        assert!(!waiting.is_finished());
    }
}

mod the_chat_platform_is_down {
    use super::*;

    #[tokio::test]
    async fn high_risk_keeps_its_clock_and_is_released_when_somebody_answers_elsewhere() {
        let world = World::start().await;
        let waiting = world.ask(30);
        let open = world.control.open().await;
        world.control.opened_as(&open, &[1; 16]).await;
        assert_eq!(world.keyless().await.status, 200);
        assert!(!waiting.is_finished());
        world.control.release(&open).await;
        assert_eq!(waiting.await.expect("no panic").status, 200);
    }
}

mod nobody_is_left_who_could_approve {
    use super::*;

    #[tokio::test]
    async fn high_risk_is_denied_at_once_with_the_reason() {
        let world = World::start().await;
        let waiting = world.ask(30);
        let open = world.control.open().await;
        let why = "nobody is left who may approve this";
        world.control.settle(&open, pb::SettledReason::Denied, why).await;
        let answer = waiting.await.expect("no panic");
        assert_eq!(no(&answer), (403, "approval_denied".into()));
        assert!(answer.body.contains(why), "{}", answer.body);
        assert!(world.origin.got().is_empty());
    }
}
