//! Keys on loan.

use countersign_gate::{lease_context, seal_context};
use countersign_proto::v1;
use countersign_proto::v1::attach_request::Message as In;
use countersign_proto::v1::attach_response::Message as Out;

use crate::edge::{Process, Session};
use crate::world::{AGENT, STRIPE_KEY, World};

async fn ask(session: &mut Session, credential: &str, agent: &str) -> Out {
    session
        .say(In::LeaseRequest(v1::LeaseRequest {
            credential_id: credential.into(),
            agent_id: agent.into(),
        }))
        .await;
    session.answer().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_only_allowed_is_lent_and_opens_as_a_lease_alone() {
    let world = World::new().await;
    let process = Process::new(world.enroll("one").await);
    let mut session = process.attach(&world).await;
    let Out::Lease(lease) = ask(&mut session, "cred-prices", AGENT).await else {
        panic!("no lease")
    };
    assert_eq!(lease.ttl_ms, 15 * 60 * 1000);
    let id: [u8; 16] = lease.lease_id.as_ref().try_into().unwrap();
    let sealed = lease.sealed.unwrap();
    let secret = process.open_with(&lease_context(&id, "cred-prices", 1), &sealed).unwrap();
    assert_eq!(secret.as_slice(), STRIPE_KEY);
    assert!(process.open_with(&seal_context(&[0; 32], &id, "cred-prices", 1), &sealed).is_none());
    let restarted = Process::new(process.enrolled.clone());
    assert!(restarted.open_with(&lease_context(&id, "cred-prices", 1), &sealed).is_none());
    assert_eq!(world.recorded("credential.lease"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c_3_what_may_not_be_lent_is_not() {
    let world = World::new().await;
    world.add_agent("agent-2", "nightly").await;
    let mut session = Process::new(world.enroll("one").await).attach(&world).await;
    let cases = [
        ("a key that people are asked about", "cred-stripe", AGENT),
        ("a key that no rule gives this agent", "cred-prices", "agent-2"),
        ("a key that is not there", "cred-none", AGENT),
        ("an agent that is not there", "cred-prices", "agent-3"),
    ];
    for (what, credential, agent) in cases {
        match ask(&mut session, credential, agent).await {
            Out::LeaseRefused(refused) => assert_eq!(refused.credential_id, credential, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(world.recorded("credential.lease"), 0);
}
