//! Bytes that are no messages, or none in their place.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{Client, address, encrypted, query, robots, shake, startup};
use super::database::{message, read};
use super::{Said, connected, world};
use crate::world::World;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const PAIRS: [(&str, &str); 2] = [("user", "robot"), ("database", "app")];

async fn dial(world: &World) -> TcpStream {
    TcpStream::connect(address(world)).await.expect("the edge listens")
}

/// Reads to the end of it, which is near.
async fn rest<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut all = Vec::new();
    let reading = stream.read_to_end(&mut all);
    let _ =
        tokio::time::timeout(std::time::Duration::from_secs(20), reading).await.expect("it ends");
    all
}

#[tokio::test]
async fn nothing_is_said_in_the_clear_but_that_tls_is_wanted() {
    let world = world().await;
    let mut stream = dial(&world).await;
    stream.write_all(&startup(&PAIRS)).await.expect("written");
    let (tag, body) = read(&mut stream).await.expect("an answer");
    let said = Said::of(&body);
    assert_eq!((tag, said.code(), said.field('S')), (b'E', "28000", "FATAL"));
    assert!(rest(&mut stream).await.is_empty());
    // GSSAPI encryption is declined, and TLS is not.
    let mut stream = dial(&world).await;
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 48]).await.expect("written");
    assert_eq!(stream.read_u8().await.expect("an answer"), b'N');
    stream.write_all(&SSL_REQUEST).await.expect("written");
    assert_eq!(stream.read_u8().await.expect("an answer"), b'S');
}

#[tokio::test]
async fn what_comes_in_the_clear_behind_the_request_for_tls_is_never_read_as_if_it_were_encrypted()
{
    let world = world().await;
    let mut stream = dial(&world).await;
    // CVE-2021-23214.
    stream.write_all(&[&SSL_REQUEST[..], &startup(&PAIRS)].concat()).await.expect("written");
    assert_eq!(stream.read_u8().await.expect("an answer"), b'S');
    let answered = rest(&mut stream).await;
    assert!(answered.first().is_none_or(|first| *first == 0x15), "an alert of TLS, or nothing");
    let mut stream = dial(&world).await;
    stream.write_all(&[&SSL_REQUEST[..], &query("select 1")].concat()).await.expect("written");
    assert_eq!(stream.read_u8().await.expect("an answer"), b'S');
    assert!(shake(&world, stream, "localhost").await.is_err(), "and it does not go on");
    assert!(world.database.is_empty());
}

#[tokio::test]
async fn a_server_that_says_more_in_the_clear_than_that_it_speaks_tls_is_not_believed() {
    let world = world().await;
    // CVE-2021-23222.
    let answers = async {
        let mut stream = world.database.bare().await;
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).await.expect("a request for TLS");
        let lies = [b"S".to_vec(), message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
        stream.write_all(&lies).await.expect("written");
        rest(&mut stream).await
    };
    let (client, heard) = tokio::join!(Client::connect(&world, "db"), answers);
    assert_eq!(client.err().expect("refused").code(), "08006");
    assert!(!heard.windows(3).any(|bytes| bytes == b"app"), "and nothing in the clear");
    let declines = async {
        let mut stream = world.database.bare().await;
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).await.expect("a request for TLS");
        stream.write_all(b"N").await.expect("written");
        rest(&mut stream).await
    };
    let (client, heard) = tokio::join!(Client::connect(&world, "db"), declines);
    assert!(client.err().expect("refused").field('D').contains("TLS"));
    assert!(heard.is_empty(), "{heard:?}");
}

#[tokio::test]
async fn statements_before_it_is_known_whose_they_are_end_it() {
    let world = world().await;
    let mut stream = encrypted(&world, "localhost").await;
    stream.write_all(&query("select 1")).await.expect("written");
    assert!(rest(&mut stream).await.is_empty());
    let mut stream = encrypted(&world, "db.edge.test").await;
    stream.write_all(&[startup(&PAIRS), query("select 1")].concat()).await.expect("written");
    assert_eq!(read(&mut stream).await.expect("an answer").0, b'R');
    assert!(rest(&mut stream).await.is_empty(), "a statement is no proof");
    assert!(world.database.is_empty());
}

#[tokio::test]
async fn the_listeners_names_have_certificates_and_its_address_has_one() {
    let world = world().await;
    for name in ["localhost", "127.0.0.1", "db.edge.test"] {
        encrypted(&world, name).await;
    }
    let mut stream = dial(&world).await;
    stream.write_all(&SSL_REQUEST).await.expect("written");
    stream.read_u8().await.expect("an answer");
    assert!(shake(&world, stream, "db.test").await.is_err(), "none of the server's own name");
}

#[tokio::test]
async fn options_and_other_settings_are_not_passed_on() {
    let world = world().await;
    for (name, value) in [
        ("options", "-c session_replication_role=replica"),
        ("replication", "database"),
        ("search_path", "evil"),
        ("client_encoding", "SJIS"),
    ] {
        let pairs = [PAIRS[0], PAIRS[1], (name, value)];
        let no = Client::connect_as(&world, &pairs, &robots("db")).await.err().expect("refused");
        assert_eq!(no.field('S'), "FATAL", "{name}: {no:?}");
    }
    assert!(world.database.is_empty());
}

#[tokio::test]
async fn what_is_no_message_ends_the_connection_and_goes_nowhere() {
    let world = world().await;
    for (bytes, what) in [
        (&b"Q\0\0\0\x03"[..], "a length that is less than its own"),
        (b"Q\xff\xff\xff\xff", "a negative length"),
        (b"Q\x7f\xff\xff\xff", "more than anybody may say"),
        (b"Q\0\0\0\x08a\0b\0", "two texts in a Query"),
        (b"Q\0\0\0\x06\xff\0", "text that is no UTF-8"),
        (b"S\0\0\0\x05x", "a Sync that says something"),
        (b"W\0\0\0\x04", "a kind that only servers have"),
        (b"?\0\0\0\x04", "a kind that nobody has"),
        (b"p\0\0\0\x05\0", "a password that nobody asked for"),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", "a request for TLS within TLS"),
        (b"B\0\0\0\x0a\0\0\0\0\xff\xff", "65535 values that are not there"),
    ] {
        let (mut client, mut line) = connected(&world).await;
        client.say(&[bytes.to_vec()]).await;
        let (tag, body) = client.hear().await;
        let said = Said::of(&body);
        assert_eq!((tag, said.field('S'), said.code()), (b'E', "FATAL", "08P01"), "{what}");
        assert!(client.heard().await.is_none(), "{what}");
        assert_eq!(line.hear().await.0, b'X', "{what}");
    }
}

#[tokio::test]
async fn messages_in_pieces_are_one() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    for byte in query("select 1") {
        client.stream.write_all(&[byte]).await.expect("written");
        client.stream.flush().await.expect("flushed");
    }
    assert_eq!(line.hear().await, (b'Q', b"select 1\0".to_vec()));
    // And so are the server's.
    let row = [
        message(b'T', b"\0\0"),
        message(b'D', &[0; 100_000]),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ];
    for piece in row.concat().chunks(997) {
        line.write(piece).await;
    }
    assert_eq!(client.ready().await.0, "TDCZI");
}
