//! What edges decide with: signed, newest, and pushed when it changes.

use std::time::Duration;

use countersign_control_plane::state::{Actor, Command, ReleaseClass};
use countersign_proto::v1;
use countersign_proto::v1::attach_request::Message as In;
use countersign_proto::v1::attach_response::Message as Out;

use crate::edge::{Process, Session};
use crate::world::{AGENT, POLICY, STRIPE_KEY, World};

async fn attached(world: &World) -> Session {
    Process::new(world.enroll("one").await).attach(world).await
}

fn credential<'a>(session: &'a Session, name: &str) -> &'a v1::EdgeCredential {
    session.bundle.credentials.iter().find(|credential| credential.name == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_has_what_an_edge_needs_and_no_key() {
    let world = World::new().await;
    let session = attached(&world).await;
    assert_eq!(session.bundle.policy, POLICY);
    assert_eq!(session.bundle.agents[0].agent_id, AGENT);
    assert_eq!(session.bundle.agents[0].token_sha256.len(), 32);
    let stripe = credential(&session, "stripe");
    assert_eq!((stripe.host.as_str(), stripe.port, stripe.version), ("api.stripe.com", 443, 1));
    assert_eq!(stripe.fake_keys, ["fake-stripe"]);
    let slot = v1::credential_slot::Slot::Header(v1::HeaderSlot {
        name: "authorization".into(),
        template: "Bearer {key}".into(),
    });
    assert_eq!(stripe.slot.clone().unwrap().slot.unwrap(), slot);
    let bytes = prost::Message::encode_to_vec(&session.bundle);
    assert!(!bytes.windows(STRIPE_KEY.len()).any(|window| window == STRIPE_KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_class_a_key_that_people_are_asked_about_is_not_leasable() {
    let world = World::new().await;
    world.add_credential("shared", "shared.example", "header:x-key", ReleaseClass::Lease).await;
    world
        .add_credential("single", "single.example", "header:x-key", ReleaseClass::PerRequest)
        .await;
    let rule = |name: &str, credential: &str, rest: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nhost = \"{credential}.example\"\ncredential = \"{credential}\"\n{rest}\n"
        )
    };
    let allow = rule("read", "shared", "methods = [\"GET\"]\nthen = \"allow\"");
    let single = rule("single", "single", "then = \"allow\"");
    let asked = rule("write", "shared", "methods = [\"POST\"]\nthen = \"approve\"");
    let accepted = rule(
        "write",
        "shared",
        "methods = [\"POST\"]\nthen = \"approve\"\naccept_edge_enforced = true",
    );

    world.set_policy(&format!("version = 1\n{allow}{single}{asked}")).await;
    let mut session = attached(&world).await;
    assert!(!credential(&session, "shared").leasable);
    assert!(!credential(&session, "single").leasable, "per request is per request");
    world.set_policy(&format!("version = 1\n{allow}{single}{accepted}")).await;
    assert!(matches!(session.hear().await.unwrap(), Out::Bundle(_)));
    assert!(credential(&session, "shared").leasable);
    assert!(!credential(&session, "single").leasable);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_what_edges_decide_with_is_pushed() {
    let world = World::new().await;
    let mut session = attached(&world).await;
    let mut revision = session.bundle.revision;

    world.add_agent("agent-2", "nightly").await;
    session.hear().await.unwrap();
    assert!(session.bundle.agents.iter().any(|agent| agent.name == "nightly"));
    assert!(session.bundle.revision > revision);
    revision = session.bundle.revision;

    world
        .add_credential("github", "api.github.com", "header:authorization", ReleaseClass::Auto)
        .await;
    session.hear().await.unwrap();
    credential(&session, "github");
    assert!(session.bundle.revision > revision);
    revision = session.bundle.revision;

    world.set_policy("version = 1").await;
    session.hear().await.unwrap();
    assert_eq!((session.bundle.policy.as_str(), session.bundle.policy_version), ("version = 1", 2));
    assert!(session.bundle.revision > revision);
    revision = session.bundle.revision;

    world.propose(Command::RevokeCredential { name: "github".into() }).await;
    session.hear().await.unwrap();
    assert!(session.bundle.credentials.iter().all(|credential| credential.name != "github"));
    assert!(session.bundle.revision > revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changes_something_is_answered_once_attached_edges_have_it() {
    let world = World::new().await;
    let mut session = attached(&world).await;
    let token_sha256 = [1; 32];
    let command = Command::CreateAgent {
        id: "agent-2".into(),
        name: "nightly".into(),
        owner: None,
        token_sha256,
    };
    let committed = world.cluster.propose(Actor::System, command).await.unwrap();
    let intake = world.intake.clone();
    let telling = tokio::spawn(async move { intake.told(&committed).await });
    session.hear().await.unwrap();
    assert!(session.bundle.agents.iter().any(|agent| agent.name == "nightly"));
    assert!(!telling.is_finished(), "the edge has not said yet that it has it");
    session.say(In::Pong(v1::Pong { edge_unix_ms: 0 })).await;
    let told = tokio::time::timeout(Duration::from_secs(1), telling);
    told.await.expect("the acknowledgement was not heard").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_says_nothing_does_not_keep_others_waiting_for_ever() {
    let world = World::new().await;
    let session = attached(&world).await;
    let command = Command::RevokeAgent { name: "deploy".into() };
    let committed = world.cluster.propose(Actor::System, command).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), world.intake.told(&committed)).await.unwrap();
    // Nor does one that is gone keep anybody waiting at all.
    drop(session);
    let command = Command::RevokeCredential { name: "prices".into() };
    let committed = world.cluster.propose(Actor::System, command).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), world.intake.told(&committed)).await.unwrap();
}
