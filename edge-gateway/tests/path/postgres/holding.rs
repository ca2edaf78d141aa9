//! Statements that people are asked about.

use std::time::Duration;

use countersign_proto::v1 as pb;

use super::client::{Client, Said, address, query};
use super::database::{CANCEL_KEY, message};
use super::{body, connected, selects, world};
use crate::control::Open;
use crate::world::World;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const APPROVAL: [u8; 16] = [0xab; 16];
const NAMED: &str = "abababababababababababababababab";

/// Says that people are asked, and gives what the client is told of that.
async fn asked(world: &World, client: &mut Client) -> (Open, Said) {
    let open = world.control.open().await;
    world.control.opened_as(&open, &APPROVAL).await;
    let (tag, notice) = client.hear().await;
    assert_eq!(tag, b'N', "a notice");
    (open, Said::of(&notice))
}

#[tokio::test]
async fn a_statement_waits_for_people_and_is_sent_once_when_they_release_it() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    let (open, notice) = asked(&world, &mut client).await;
    assert!(notice.field('D').contains(NAMED), "{notice:?}");
    assert_eq!((open.head.method.as_str(), open.head.rule.as_str()), ("POST", "drop"));
    assert_eq!(
        (open.head.scheme.as_str(), open.head.client_protocol.as_str()),
        ("postgres", "postgres")
    );
    let role = open.head.headers.iter().find(|header| header.name == "postgres-role");
    assert_eq!(role.expect("the role").value, "app");
    assert!(open.head.injections.is_empty(), "it carries no key");
    let asked = body(&open);
    assert_eq!(asked["protocol"], "simple");
    assert_eq!(asked["statement"], "drop table orders");
    assert_eq!(asked["transaction"], "idle");
    world.control.release(&open).await;
    assert_eq!(line.hear().await, (b'Q', b"drop table orders\0".to_vec()));
    line.done("DROP TABLE").await;
    assert_eq!(client.ready().await.0, "CZI");
    let receipt = world.control.receipt().await;
    assert_eq!((receipt.outcome(), receipt.status), (pb::ExecutionOutcome::Completed, 200));
    assert_eq!(receipt.request_body_bytes as usize, open.body.len());
    // It was released once: the same again is asked about again.
    client.say(&[query("drop table orders")]).await;
    let (again, _) = self::asked(&world, &mut client).await;
    assert_eq!(again.head.intent_digest, open.head.intent_digest, "the same intent");
}

#[tokio::test]
async fn what_people_deny_is_never_sent() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    let (open, _) = asked(&world, &mut client).await;
    world.control.settle(&open, pb::SettledReason::Denied, "not on a Friday").await;
    let (tags, no) = client.ready().await;
    let no = no.expect("an error");
    assert_eq!((tags.as_str(), no.code()), ("EZI", "42501"));
    assert!(no.field('D').contains("not on a Friday"), "{no:?}");
    assert!(no.field('H').contains(NAMED) || no.field('H').contains("0101"), "{no:?}");
    selects(&mut client, &mut line).await;
}

#[tokio::test]
async fn what_a_released_statement_fails_with_is_said_and_reported() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    let (open, _) = asked(&world, &mut client).await;
    world.control.release(&open).await;
    line.hear().await;
    line.say(b'E', b"SERROR\0C42P01\0Mno such table\0\0").await;
    line.say(b'Z', b"I").await;
    assert_eq!(client.ready().await.1.expect("an error").code(), "42P01");
    let receipt = world.control.receipt().await;
    assert_eq!((receipt.outcome(), receipt.status), (pb::ExecutionOutcome::Completed, 400));
}

#[tokio::test]
async fn a_hold_that_runs_out_leaves_the_transaction_open_and_says_how_to_go_on() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("begin")]).await;
    line.hear().await;
    line.say(b'C', b"BEGIN\0").await;
    line.say(b'Z', b"T").await;
    assert_eq!(client.ready().await.0, "CZT");
    client.say(&[query("drop table orders")]).await;
    let (open, notice) = asked(&world, &mut client).await;
    assert!(notice.field('D').contains("transaction stays open"), "{notice:?}");
    assert_eq!(body(&open)["transaction"], "open");
    world.hands.advance(Duration::from_secs(31));
    let (tags, no) = client.ready().await;
    let no = no.expect("an error");
    assert_eq!((tags.as_str(), no.code()), ("EZT", "57014"), "still in its transaction");
    assert!(no.field('H').contains(NAMED) && no.field('H').contains("identical"), "{no:?}");
    // The identical statement is the same intent.
    client.say(&[query("drop table orders")]).await;
    let (again, _) = asked(&world, &mut client).await;
    assert_eq!(again.head.intent_digest, open.head.intent_digest);
    world.control.release(&again).await;
    assert_eq!(line.hear().await.0, b'Q', "and it is sent, once");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_question_back() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    let (open, _) = asked(&world, &mut client).await;
    drop(client);
    let cancelled = world.control.cancelled().await;
    assert_eq!(cancelled.request_id, open.head.request_id);
    assert_eq!(line.hear().await.0, b'X', "goodbye, and no statement");
}

/// A request to cancel, as clients send it: on a connection of its own, in the clear.
async fn cancel(world: &World, key: &[u8]) {
    let mut stream = TcpStream::connect(address(world)).await.expect("the edge listens");
    let request = [&[0, 0, 0, 16, 4, 210, 22, 46], key].concat();
    stream.write_all(&request).await.expect("written");
    assert_eq!(stream.read(&mut [0; 1]).await.expect("closed"), 0, "there is no answer");
}

#[tokio::test]
async fn cancelling_what_is_held_takes_the_question_back_and_nothing_is_sent() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    let (open, _) = asked(&world, &mut client).await;
    // With another's key nothing happens.
    cancel(&world, &CANCEL_KEY).await;
    cancel(&world, &client.cancel).await;
    let (tags, no) = client.ready().await;
    assert_eq!((tags.as_str(), no.expect("an error").code()), ("EZI", "57014"));
    assert_eq!(world.control.cancelled().await.request_id, open.head.request_id);
    selects(&mut client, &mut line).await;
    assert!(world.database.is_empty(), "the server was not asked");
}

#[tokio::test]
async fn cancelling_what_runs_asks_the_server_over_tls_with_its_own_key() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("select 2")]).await;
    line.hear().await;
    let ((), said) = tokio::join!(cancel(&world, &client.cancel), world.database.cancelled());
    assert_eq!(said, [&[4, 210, 22, 46][..], &CANCEL_KEY].concat());
    line.say(b'E', b"SERROR\0C57014\0Mcanceled\0\0").await;
    line.say(b'Z', b"I").await;
    assert_eq!(client.ready().await.1.expect("an error").code(), "57014");
}

#[tokio::test]
async fn what_people_released_is_heard_to_its_end_when_the_agent_has_left() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    let (open, _) = asked(&world, &mut client).await;
    world.control.release(&open).await;
    assert_eq!(line.hear().await.0, b'Q');
    drop(client);
    line.done("DROP TABLE").await;
    let receipt = world.control.receipt().await;
    assert_eq!((receipt.outcome(), receipt.status), (pb::ExecutionOutcome::Completed, 200));
}

#[tokio::test]
async fn a_server_that_breaks_off_leaves_the_outcome_unknown() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    let (open, _) = asked(&world, &mut client).await;
    world.control.release(&open).await;
    line.hear().await;
    drop(line);
    let (tag, body) = client.hear().await;
    assert_eq!((tag, Said::of(&body).code()), (b'E', "08006"));
    let receipt = world.control.receipt().await;
    assert_eq!(receipt.outcome(), pb::ExecutionOutcome::Unknown);
}

#[tokio::test]
async fn a_policy_that_changes_judges_what_is_held_again() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    let (open, _) = asked(&world, &mut client).await;
    world
        .control
        .change(|state| {
            state.policy_version += 1;
            let changed = state.policy.replace("['drop', 'delete']", "['delete']");
            state.policy = changed.replace("['copy',", "['drop', 'copy',");
        })
        .await;
    world.control.reopen(&open).await;
    assert_eq!(line.hear().await, (b'Q', b"drop table orders\0".to_vec()), "it is allowed now");
    line.done("DROP TABLE").await;
    assert_eq!(client.ready().await.0, "CZI");
}

#[tokio::test]
async fn a_function_call_by_number_is_refused() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[message(b'F', b"\0\0\0\x01\0\0\0\0\0\0")]).await;
    let (tags, no) = client.ready().await;
    assert_eq!((tags.as_str(), no.expect("an error").code()), ("EZI", "0A000"));
    selects(&mut client, &mut line).await;
}
