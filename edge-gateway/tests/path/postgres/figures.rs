//! What people are told of the tables that a held statement writes: asked of the server where it makes no difference to the
//! agent, which hears nothing of it.

use std::time::Duration;

use countersign_proto::v1 as pb;

use super::client::{Client, Said, bind, execute, parse, query, sync};
use super::database::{Line, OURS, message};
use super::{selects, world};
use crate::control::{Open, secret};
use crate::world::{World, bearer};

/// What a server says of a table.
enum Table<'a> {
    Fails(&'a str),
    Missing,
    Rows(&'a str),
    Unanalysed,
}

/// A connection on which the test answers what the edge asks.
async fn connected(world: &World) -> (Client, Line) {
    let (client, line) =
        tokio::join!(Client::connect(world, "db"), world.database.played_line(secret("db").real));
    (client.expect("it is let in"), line)
}

/// Hears a question of the edge's: the schemas and names in it.
async fn hears_question(line: &mut Line) -> Vec<(Option<String>, String)> {
    let (tag, asked) = line.hear().await;
    assert_eq!(tag, b'P');
    assert!(asked.starts_with(OURS), "a name of its own: {}", asked.escape_ascii());
    let name = asked.split(|byte| *byte == 0).next().expect("a name").to_vec();
    let mut tables = Vec::new();
    loop {
        let (tag, body) = line.hear().await;
        match tag {
            b'B' => {
                let start = [&b"\0"[..], &name, b"\0\0\x02\0\0\0\0\0\x02"].concat();
                let mut rest = body.strip_prefix(&start[..]).expect("two values in text");
                let mut value = || {
                    let (length, after) = rest.split_at(4);
                    let length = i32::from_be_bytes(length.try_into().expect("four"));
                    let length = usize::try_from(length).ok();
                    let (text, after) = after.split_at(length.unwrap_or(0));
                    rest = after;
                    length.map(|_| String::from_utf8(text.to_vec()).expect("UTF-8"))
                };
                tables.push((value(), value().expect("a name")));
            }
            b'E' => assert_eq!(body, b"\0\0\0\0\0", "all of it"),
            b'C' => assert_eq!(body, [b"S", &name[..], b"\0"].concat(), "it is closed again"),
            b'S' => return tables,
            other => panic!("{} in a question", char::from(other)),
        }
    }
}

async fn answers(line: &Line, tables: &[Table<'_>]) {
    line.say(b'1', b"").await;
    for table in tables {
        let row = match table {
            Table::Fails(code) => {
                line.say(b'E', format!("SERROR\0VERROR\0C{code}\0Mno\0\0").as_bytes()).await;
                line.say(b'Z', b"I").await;
                return;
            }
            Table::Missing => None,
            Table::Rows(rows) => {
                let length = u32::try_from(rows.len()).expect("short").to_be_bytes();
                Some([b"\0\x01", &length[..], rows.as_bytes()].concat())
            }
            Table::Unanalysed => Some(b"\0\x01\xff\xff\xff\xff".to_vec()),
        };
        line.say(b'2', b"").await;
        if let Some(row) = row {
            line.say(b'D', &row).await;
        }
        line.say(b'C', b"SELECT 1\0").await;
    }
    line.say(b'3', b"").await;
    line.say(b'Z', b"I").await;
}

fn rows(open: &Open) -> Option<&str> {
    let named = |header: &&pb::Header| header.name == "postgres-estimated-rows";
    let header = open.head.headers.iter().find(named)?;
    Some(std::str::from_utf8(&header.value).expect("text"))
}

/// Has people say no, which the client hears.
async fn denied(world: &World, client: &mut Client, open: &Open, tags: &str) {
    world.control.settle(open, pb::SettledReason::Denied, "no").await;
    let (heard, no) = client.ready().await;
    assert_eq!((heard.as_str(), no.expect("an error").code()), (tags, "42501"));
}

#[tokio::test]
async fn what_the_tables_hold_that_are_written_goes_along_with_the_question() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("delete from orders where id = 1")]).await;
    assert_eq!(hears_question(&mut line).await, [(None, "orders".to_owned())]);
    answers(&line, &[Table::Rows("1204000")]).await;
    let open = world.control.open().await;
    assert_eq!(rows(&open), Some("orders=1204000"));
    let intent = open.head.intent_digest.clone();
    denied(&world, &mut client, &open, "EZI").await;

    client.say(&[query("delete from orders where id = 1")]).await;
    hears_question(&mut line).await;
    answers(&line, &[Table::Unanalysed]).await;
    let open = world.control.open().await;
    assert_eq!(rows(&open), Some("orders=unknown"));
    assert_eq!(open.head.intent_digest, intent, "it is the same request");
    denied(&world, &mut client, &open, "EZI").await;

    client.say(&[query("drop table gone, public.\"Or.ders\"")]).await;
    let mut asked = hears_question(&mut line).await;
    asked.sort();
    let expected = [(None, "gone".to_owned()), (Some("public".to_owned()), "Or.ders".to_owned())];
    assert_eq!(asked, expected);
    answers(&line, &[Table::Missing, Table::Missing]).await;
    let open = world.control.open().await;
    assert_eq!(rows(&open), None, "of what is not there, nothing is said");
    world.control.release(&open).await;
    assert_eq!(line.hear().await.0, b'Q', "and then it is sent");
    line.done("DROP TABLE").await;
    assert_eq!(client.ready().await.0, "CZI");
    // What passes, and what is refused, waits for nothing.
    selects(&mut client, &mut line).await;
    client.say(&[query("truncate orders")]).await;
    assert_eq!(client.ready().await.0, "EZI");
    selects(&mut client, &mut line).await;
}

#[tokio::test]
async fn a_statement_that_is_prepared_in_its_own_row_is_asked_about_before_that() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    let text = "delete from orders where id = $1";
    client.say(&[parse("", text), bind("", "", "7"), execute(""), sync()]).await;
    hears_question(&mut line).await;
    answers(&line, &[Table::Rows("3")]).await;
    assert_eq!(line.tags_to(b'H').await, "PH", "and it is not asked about again");
    line.say(b'1', b"").await;
    let open = world.control.open().await;
    assert_eq!(rows(&open), Some("orders=3"));
    world.control.release(&open).await;
    assert_eq!(line.tags_to(b'S').await, "BES");
    for (tag, said) in [(b'2', &b""[..]), (b'C', b"DELETE 1\0"), (b'Z', b"I")] {
        line.say(tag, said).await;
    }
    assert_eq!(client.ready().await.0, "12CZI", "nothing of the question");
}

#[tokio::test]
async fn a_statement_that_was_prepared_before_is_asked_about_as_it_is_bound() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[parse("s", "delete from orders where id = $1"), sync()]).await;
    hears_question(&mut line).await;
    answers(&line, &[Table::Rows("3")]).await;
    assert_eq!(line.tags_to(b'S').await, "PS");
    line.say(b'1', b"").await;
    line.say(b'Z', b"I").await;
    assert_eq!(client.ready().await.0, "1ZI");
    client.say(&[bind("", "s", "7"), execute(""), sync()]).await;
    hears_question(&mut line).await;
    answers(&line, &[Table::Rows("4")]).await;
    let open = world.control.open().await;
    assert_eq!(rows(&open), Some("orders=4"), "as it is now");
    world.control.settle(&open, pb::SettledReason::Denied, "no").await;
    assert_eq!(line.hear().await.0, b'S', "nothing but the end of the row");
    line.say(b'Z', b"I").await;
    assert_eq!(client.ready().await.0, "EZI");
}

#[tokio::test]
async fn nothing_is_asked_where_the_question_would_be_part_of_what_the_agent_does() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    // Behind something of the same row.
    let mut all = vec![parse("", "select 1"), bind("", "", "x"), execute("")];
    all.extend([parse("", "delete from orders"), bind("", "", "x"), execute(""), sync()]);
    client.say(&all).await;
    assert_eq!(line.tags_to(b'H').await, "PBEPH");
    for (tag, said) in [(b'1', &b""[..]), (b'2', b""), (b'C', b"SELECT 1\0"), (b'1', b"")] {
        line.say(tag, said).await;
    }
    let open = world.control.open().await;
    assert_eq!(rows(&open), None);
    world.control.release(&open).await;
    assert_eq!(line.tags_to(b'S').await, "BES");
    for (tag, said) in [(b'2', &b""[..]), (b'C', b"DELETE 1\0"), (b'Z', b"I")] {
        line.say(tag, said).await;
    }
    assert_eq!(client.ready().await.0, "12C12CZI");
    // Within a transaction, which has to be as it was when people have said no.
    client.say(&[query("begin")]).await;
    assert_eq!(line.hear().await.0, b'Q');
    line.say(b'C', b"BEGIN\0").await;
    line.say(b'Z', b"T").await;
    client.ready().await;
    client.say(&[query("drop table orders")]).await;
    let open = world.control.open().await;
    assert_eq!(rows(&open), None);
    denied(&world, &mut client, &open, "EZT").await;
    client.say(&[parse("", "drop table orders"), bind("", "", "x"), execute(""), sync()]).await;
    assert_eq!(line.tags_to(b'H').await, "PH");
    line.say(b'1', b"").await;
    let open = world.control.open().await;
    assert_eq!(rows(&open), None);
    world.control.settle(&open, pb::SettledReason::Denied, "no").await;
    assert_eq!(line.hear().await.0, b'S');
    line.say(b'Z', b"T").await;
    assert_eq!(client.ready().await.0, "1EZT");
    // And in one that failed.
    client.say(&[query("select nothing")]).await;
    assert_eq!(line.hear().await.0, b'Q');
    line.say(b'E', b"SERROR\0C42703\0Mno\0\0").await;
    line.say(b'Z', b"E").await;
    client.ready().await;
    client.say(&[query("drop table orders")]).await;
    let open = world.control.open().await;
    assert_eq!(rows(&open), None);
    denied(&world, &mut client, &open, "EZE").await;
}

#[tokio::test]
async fn what_the_server_says_unasked_meanwhile_reaches_the_agent() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    hears_question(&mut line).await;
    line.say(b'S', b"application_name\0other\0").await;
    line.say(b'N', b"SLOG\0VLOG\0C00000\0Mduration: 1 ms  countersign\0\0").await;
    line.say(b'N', b"SWARNING\0VWARNING\0C01000\0Mthe disk is full\0\0").await;
    line.say(b'A', b"\0\0\0\x01channel\0\0").await;
    answers(&line, &[Table::Rows("5")]).await;
    let open = world.control.open().await;
    assert_eq!(rows(&open), Some("orders=5"));
    assert_eq!(client.hear().await, (b'S', b"application_name\0other\0".to_vec()));
    let (tag, warning) = client.hear().await;
    assert_eq!((tag, Said::of(&warning).field('M')), (b'N', "the disk is full"));
    assert_eq!(client.hear().await.0, b'A');
    denied(&world, &mut client, &open, "EZI").await;
}

#[tokio::test]
async fn a_server_that_gives_no_answer_stops_nothing_and_is_not_asked_again() {
    for code in ["42501", "57014"] {
        let world = world().await;
        let (mut client, mut line) = connected(&world).await;
        client.say(&[query("drop table orders")]).await;
        hears_question(&mut line).await;
        answers(&line, &[Table::Fails(code)]).await;
        let open = world.control.open().await;
        assert_eq!(rows(&open), None);
        denied(&world, &mut client, &open, "EZI").await;
        client.say(&[query("drop table orders")]).await;
        let open = world.control.open().await;
        assert_eq!(rows(&open), None);
        world.control.release(&open).await;
        assert_eq!(line.hear().await.0, b'Q', "the statement, and no question before it");
    }
}

#[tokio::test]
async fn a_question_that_hangs_delays_nothing_but_what_the_server_does_next() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    hears_question(&mut line).await;
    assert!(world.control.opened().await.is_none(), "it waits for the figure");
    world.hands.advance(Duration::from_secs(2));
    let open = world.control.open().await;
    assert_eq!(rows(&open), None);
    world.control.opened_as(&open, &[0xab; 16]).await;
    assert_eq!(client.hear().await.0, b'N', "it is told that it waits");
    denied(&world, &mut client, &open, "EZI").await;
    client.say(&[query("drop table orders")]).await;
    let open = world.control.open().await;
    world.control.release(&open).await;
    assert_eq!(line.hear().await.0, b'Q', "it is sent");
    answers(&line, &[Table::Rows("5")]).await;
    line.done("DROP TABLE").await;
    assert_eq!(client.ready().await.0, "CZI", "and hears its own answer");
    let receipt = world.control.receipt().await;
    assert_eq!((receipt.outcome(), receipt.status), (pb::ExecutionOutcome::Completed, 200));
}

#[tokio::test]
async fn a_server_that_goes_down_meanwhile_says_so() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("drop table orders")]).await;
    hears_question(&mut line).await;
    line.say(b'E', b"SFATAL\0VFATAL\0C57P01\0Mshutting down\0\0").await;
    drop(line);
    let (tag, said) = client.hear().await;
    assert_eq!((tag, Said::of(&said).code()), (b'E', "57P01"));
    assert!(world.control.opened().await.is_none(), "nobody was asked");
}

#[tokio::test]
async fn what_answers_no_question_ends_the_connection() {
    for (tag, body) in [(b'Z', &b"T"[..]), (b'D', b"\0\x02"), (b'T', b"\0\0"), (b's', b"")] {
        let world = world().await;
        let (mut client, mut line) = connected(&world).await;
        client.say(&[query("drop table orders")]).await;
        hears_question(&mut line).await;
        line.say(tag, body).await;
        let (tag, said) = client.hear().await;
        assert_eq!((tag, Said::of(&said).code()), (b'E', "08P01"));
        assert!(client.heard().await.is_none());
    }
}

#[tokio::test]
async fn the_figure_is_the_edges_alone() {
    let world = World::start().await;
    let more = format!("postgres-estimated-rows: 1\r\n{}", bearer("api"));
    let answer = world.agent.send("api.test", "GET /things/1", &more, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!world.origin.got()[0].headers.contains_key("postgres-estimated-rows"));
}

/// A row that runs a DELETE which people release, up to where the server has carried it out.
async fn carried_out(world: &World, client: &mut Client, line: &mut Line) {
    let text = "delete from orders where id = $1";
    client.say(&[parse("", text), bind("", "", "7"), execute(""), sync()]).await;
    hears_question(line).await;
    answers(line, &[Table::Missing]).await;
    assert_eq!(line.tags_to(b'H').await, "PH");
    line.say(b'1', b"").await;
    world.control.release(&world.control.open().await).await;
    assert_eq!(line.tags_to(b'S').await, "BES");
    line.say(b'2', b"").await;
    line.say(b'C', b"DELETE 1\0").await;
    for tag in *b"12C" {
        assert_eq!(client.hear().await.0, tag);
    }
    assert!(world.control.received().await.is_none(), "it is not committed yet");
}

#[tokio::test]
async fn what_cannot_be_committed_is_reported_as_failed() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    carried_out(&world, &mut client, &mut line).await;
    line.say(b'E', b"SERROR\0C23503\0Ma deferred constraint\0\0").await;
    line.say(b'Z', b"I").await;
    assert_eq!(client.ready().await.1.expect("an error").code(), "23503");
    let receipt = world.control.receipt().await;
    assert_eq!((receipt.outcome(), receipt.status), (pb::ExecutionOutcome::Completed, 400));
    // And of what is, that it was.
    carried_out(&world, &mut client, &mut line).await;
    line.say(b'Z', b"I").await;
    assert_eq!(client.ready().await.0, "ZI");
    let receipt = world.control.receipt().await;
    assert_eq!((receipt.outcome(), receipt.status), (pb::ExecutionOutcome::Completed, 200));
}

#[tokio::test]
async fn an_error_later_in_its_row_takes_back_what_was_carried_out_and_a_commit_before_it_does_not()
{
    for (commits, status) in [(false, 400), (true, 200)] {
        let world = world().await;
        let (mut client, mut line) = connected(&world).await;
        let text = "delete from orders where id = $1";
        let mut all = vec![parse("", text), bind("", "", "7"), execute("")];
        if commits {
            all.extend([parse("", "commit"), message(b'B', b"\0\0\0\0\0\0\0\0"), execute("")]);
        }
        all.extend([parse("", "select 1/0"), message(b'B', b"\0\0\0\0\0\0\0\0"), execute("")]);
        all.push(sync());
        client.say(&all).await;
        hears_question(&mut line).await;
        answers(&line, &[Table::Missing]).await;
        assert_eq!(line.tags_to(b'H').await, "PH");
        line.say(b'1', b"").await;
        world.control.release(&world.control.open().await).await;
        let sent = line.tags_to(b'S').await;
        assert_eq!(sent.matches('E').count(), if commits { 3 } else { 2 }, "{sent}");
        line.say(b'2', b"").await;
        line.say(b'C', b"DELETE 1\0").await;
        if commits {
            for (tag, said) in [(b'1', &b""[..]), (b'2', b""), (b'C', b"COMMIT\0")] {
                line.say(tag, said).await;
            }
        }
        line.say(b'1', b"").await;
        line.say(b'E', b"SERROR\0C22012\0Mdivision by zero\0\0").await;
        line.say(b'Z', b"I").await;
        assert_eq!(client.ready().await.1.expect("an error").code(), "22012");
        let receipt = world.control.receipt().await;
        assert_eq!((receipt.outcome(), receipt.status), (pb::ExecutionOutcome::Completed, status));
    }
}

#[tokio::test]
async fn of_what_an_agent_leaves_without_committing_nobody_says_that_it_was_done() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    let text = "delete from orders where id = $1";
    client.say(&[parse("", text), bind("", "", "7"), execute(""), message(b'H', b"")]).await;
    hears_question(&mut line).await;
    answers(&line, &[Table::Missing]).await;
    assert_eq!(line.tags_to(b'H').await, "PH");
    line.say(b'1', b"").await;
    world.control.release(&world.control.open().await).await;
    assert_eq!(line.tags_to(b'H').await, "BEH");
    line.say(b'2', b"").await;
    line.say(b'C', b"DELETE 1\0").await;
    for tag in *b"12C" {
        assert_eq!(client.hear().await.0, tag);
    }
    drop(client);
    assert_eq!(line.hear().await.0, b'X', "it is not waited for what will not come");
    let receipt = world.control.receipt().await;
    assert_eq!(receipt.outcome(), pb::ExecutionOutcome::Unknown);
}
