//! The extended protocol: what is prepared, bound and carried out, in one row or many.

use countersign_proto::v1 as pb;

use super::client::{Client, bind, execute, parse, query, sync};
use super::database::{Line, message};
use super::{body, connected, selects, world};

fn describe(of: &str) -> Vec<u8> {
    message(b'D', format!("{of}\0").as_bytes())
}

fn close(of: &str) -> Vec<u8> {
    message(b'C', format!("{of}\0").as_bytes())
}

/// All that a client says to run a statement with one value.
fn runs(text: &str, value: &str) -> Vec<Vec<u8>> {
    vec![parse("", text), bind("", "", value), describe("P"), execute(""), sync()]
}

/// The server answers what [`runs`] said with one row.
async fn answers(line: &Line) {
    line.say(b'1', b"").await;
    line.say(b'2', b"").await;
    line.say(b'T', b"\0\x01n\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0").await;
    line.say(b'D', b"\0\x01\0\0\0\x011").await;
    line.say(b'C', b"SELECT 1\0").await;
    line.say(b'Z', b"I").await;
}

async fn hears_sync(line: &mut Line) -> String {
    line.tags_to(b'S').await
}

#[tokio::test]
async fn what_the_policy_allows_goes_on_as_it_was_bound() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&runs("select $1", "é")).await;
    assert_eq!(line.hear().await, (b'P', b"\0select $1\0\0\0".to_vec()));
    let (tag, bound) = line.hear().await;
    assert_eq!(tag, b'B');
    assert_eq!(bound, "\0\0\0\x01\0\0\0\x01\0\0\0\x02é\0\0".as_bytes());
    assert_eq!(hears_sync(&mut line).await, "DES");
    answers(&line).await;
    assert_eq!(client.ready().await.0, "12TDCZI");
    assert!(world.control.opened().await.is_none(), "nobody was asked");
}

#[tokio::test]
async fn nothing_of_a_held_statement_is_bound_before_its_approval_nor_is_what_follows() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    let mut all =
        vec![parse("", "delete from orders where id = $1"), bind("", "", "7"), execute("")];
    all.extend([parse("s2", "select 2"), bind("", "s2", "x"), execute(""), sync()]);
    client.say(&all).await;
    assert_eq!(line.hear().await.0, b'P', "names are looked up");
    // It is asked what it made of that, so that nobody is asked about what it would discard.
    assert_eq!(line.hear().await.0, b'H');
    line.say(b'1', b"").await;
    let open = world.control.open().await;
    let asked = body(&open);
    assert_eq!(asked["protocol"], "extended");
    assert_eq!(asked["statement"], "delete from orders where id = $1");
    assert_eq!(
        asked["parameters"],
        serde_json::json!([{"type": 0, "format": "text", "value": "7"}])
    );
    assert_eq!(client.hear().await.0, b'1');
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(200), line.heard());
    assert!(nothing.await.is_err(), "neither it nor what comes behind it has left");
    world.control.release(&open).await;
    assert_eq!(line.hear().await.0, b'B');
    assert_eq!(line.hear().await.0, b'E');
    assert_eq!(hears_sync(&mut line).await, "PBES", "and then what follows");
    for (tag, said) in [(b'2', &b""[..]), (b'C', b"DELETE 1\0")] {
        line.say(tag, said).await;
    }
    for (tag, said) in [(b'1', &b""[..]), (b'2', b""), (b'C', b"SELECT 0\0"), (b'Z', b"I")] {
        line.say(tag, said).await;
    }
    assert_eq!(client.ready().await.0, "2C12CZI");
    let receipt = world.control.receipt().await;
    assert_eq!(receipt.outcome(), pb::ExecutionOutcome::Completed);
}

#[tokio::test]
async fn other_values_are_another_request() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[parse("s", "delete from orders where id = $1"), sync()]).await;
    assert_eq!(hears_sync(&mut line).await, "PS");
    line.say(b'1', b"").await;
    line.say(b'Z', b"I").await;
    assert_eq!(client.ready().await.0, "1ZI");
    let mut intents = Vec::new();
    for value in ["1", "1 or true"] {
        client.say(&[bind("", "s", value), execute(""), sync()]).await;
        let open = world.control.open().await;
        assert_eq!(body(&open)["parameters"][0]["value"], value);
        intents.push(open.head.intent_digest.clone());
        world.control.settle(&open, pb::SettledReason::Denied, "no").await;
        assert_eq!(hears_sync(&mut line).await, "S", "the end of the row, and no Bind");
        line.say(b'Z', b"I").await;
        let (tags, no) = client.ready().await;
        assert_eq!(tags, "EZI");
        assert_eq!(no.expect("an error").code(), "42501");
    }
    assert_ne!(intents[0], intents[1]);
}

#[tokio::test]
async fn what_is_refused_takes_back_what_its_row_did_outside_of_a_transaction() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    let mut all = vec![parse("", "select 1"), bind("", "", "x"), execute("")];
    all.extend([parse("", "truncate orders"), bind("", "", "x"), execute(""), sync()]);
    client.say(&all).await;
    assert_eq!(line.tags_to(b'E').await, "PBE");
    assert_eq!(line.hear().await.0, b'H', "what came of that?");
    for (tag, said) in [(b'1', &b""[..]), (b'2', b""), (b'C', b"SELECT 1\0")] {
        line.say(tag, said).await;
    }
    let (tag, undo) = line.hear().await;
    assert_eq!(tag, b'E');
    assert!(undo.starts_with(b"countersign: refused"), "a portal that there is not");
    assert_eq!(line.hear().await.0, b'S');
    line.say(b'E', b"SERROR\0C34000\0Mno such portal\0\0").await;
    line.say(b'Z', b"I").await;
    let (tags, no) = client.ready().await;
    assert_eq!(tags, "12CEZI");
    assert_eq!(no.expect("an error").code(), "42501", "ours, and not the server's");
}

#[tokio::test]
async fn within_a_transaction_a_refusal_leaves_it_as_it_is() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("begin")]).await;
    line.hear().await;
    line.say(b'C', b"BEGIN\0").await;
    line.say(b'Z', b"T").await;
    client.ready().await;
    client.say(&[parse("", "truncate orders"), bind("", "", "x"), execute(""), sync()]).await;
    assert_eq!(line.hear().await.0, b'S', "nothing but the end of the row");
    line.say(b'Z', b"T").await;
    let (tags, no) = client.ready().await;
    assert_eq!((tags.as_str(), no.expect("an error").code()), ("EZT", "42501"));
}

#[tokio::test]
async fn a_name_stands_for_what_the_server_took_it_for_and_not_for_what_it_discarded() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    // The server knows "s" as something that people are asked about.
    client.say(&[parse("s", "delete from orders"), sync()]).await;
    assert_eq!(hears_sync(&mut line).await, "PS");
    line.say(b'1', b"").await;
    line.say(b'Z', b"I").await;
    client.ready().await;
    // It is to be taken for something harmless, in a row that the server discards, and then bound.
    let mut all =
        vec![parse("x", "select 1 from missing"), close("Ss"), parse("s", "select 1"), sync()];
    all.extend([bind("", "s", "x"), execute(""), sync()]);
    client.say(&all).await;
    assert_eq!(hears_sync(&mut line).await, "PCPS");
    line.say(b'E', b"SERROR\0C42601\0Msyntax\0\0").await;
    line.say(b'Z', b"I").await;
    assert_eq!(client.ready().await.0, "EZI");
    let open = world.control.open().await;
    assert_eq!(body(&open)["statement"], "delete from orders", "what the server would carry out");
    world.control.settle(&open, pb::SettledReason::Denied, "no").await;
    assert_eq!(line.hear().await.0, b'S', "and no Bind");
    line.say(b'Z', b"I").await;
    assert_eq!(client.ready().await.0, "EZI");
}

#[tokio::test]
async fn what_nobody_prepared_or_bound_is_carried_out_by_nobody() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    for (asked, code) in [
        (vec![bind("", "nothing", "x"), execute(""), sync()], "26000"),
        (vec![execute("nothing"), sync()], "34000"),
    ] {
        client.say(&asked).await;
        assert_eq!(line.hear().await.0, b'S', "nothing but the end of the row");
        line.say(b'Z', b"I").await;
        let (tags, no) = client.ready().await;
        assert_eq!((tags.as_str(), no.expect("an error").code()), ("EZI", code));
    }
}

#[tokio::test]
async fn a_portal_goes_on_where_it_stopped_with_the_approval_that_it_had() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("begin")]).await;
    line.hear().await;
    line.say(b'C', b"BEGIN\0").await;
    line.say(b'Z', b"T").await;
    client.ready().await;
    let some = message(b'E', b"c\0\0\0\0\x01");
    client
        .say(&[
            parse("", "delete from orders returning *"),
            bind("c", "", "x"),
            some.clone(),
            sync(),
        ])
        .await;
    assert_eq!(line.tags_to(b'H').await, "PH");
    line.say(b'1', b"").await;
    world.control.release(&world.control.open().await).await;
    assert_eq!(hears_sync(&mut line).await, "BES");
    for (tag, said) in [(b'2', &b""[..]), (b'D', b"\0\0"), (b's', b""), (b'Z', b"T")] {
        line.say(tag, said).await;
    }
    assert_eq!(client.ready().await.0, "12DsZT");
    client.say(&[some, sync()]).await;
    assert_eq!(hears_sync(&mut line).await, "ES", "nobody is asked a second time");
    assert!(world.control.received().await.is_none(), "it is not over");
    line.say(b'C', b"DELETE 1\0").await;
    line.say(b'Z', b"T").await;
    assert_eq!(client.ready().await.0, "CZT");
    let receipt = world.control.receipt().await;
    assert_eq!(receipt.outcome(), pb::ExecutionOutcome::Completed);
}

#[tokio::test]
async fn data_to_be_copied_goes_on_when_the_server_waits_for_it_and_is_dropped_otherwise() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    let data = message(b'd', b"1\tone\n");
    client.say(&[data.clone(), message(b'c', b"")]).await;
    selects(&mut client, &mut line).await;
    client.say(&[query("copy orders from stdin")]).await;
    assert_eq!(line.hear().await.0, b'Q');
    line.say(b'G', b"\0\0\0").await;
    assert_eq!(client.hear().await.0, b'G');
    client.say(&[data, message(b'c', b"")]).await;
    assert_eq!(line.hear().await, (b'd', b"1\tone\n".to_vec()));
    assert_eq!(line.hear().await.0, b'c');
    line.done("COPY 1").await;
    assert_eq!(client.ready().await.0, "CZI");
}

#[tokio::test]
async fn a_statement_where_data_was_waited_for_ends_the_connection() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("copy orders from stdin")]).await;
    line.hear().await;
    line.say(b'G', b"\0\0\0").await;
    assert_eq!(client.hear().await.0, b'G');
    client.say(&[query("select 1")]).await;
    assert_eq!(client.hear().await.0, b'E');
    assert!(client.heard().await.is_none());
    assert_eq!(line.hear().await.0, b'X', "and the statement was not sent");
}

#[tokio::test]
async fn the_encoding_stays_utf_8_or_the_connection_ends() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("select set_config('client_encoding', 'SJIS', false)")]).await;
    line.hear().await;
    line.say(b'S', b"client_encoding\0SJIS\0").await;
    let ended = async {
        while let Some((tag, _)) = client.heard().await {
            if tag == b'E' {
                return true;
            }
        }
        false
    };
    assert!(ended.await, "it says why");
    assert_eq!(line.hear().await.0, b'X');
}

#[tokio::test]
async fn an_answer_to_nothing_that_was_asked_ends_the_connection() {
    let world = world().await;
    for stray in [&b"1"[..], b"D\0\0", b"Z", b"K", b"R"] {
        let (mut client, line): (Client, Line) = connected(&world).await;
        line.say(stray[0], &stray[1..]).await;
        let (tag, _) = client.hear().await;
        assert_eq!(tag, b'E', "{}", stray.escape_ascii());
        assert!(client.heard().await.is_none());
    }
}
