//! What a body says, or that it cannot be said.

use std::io::Write;

use countersign_policy::Then;
use countersign_policy::body::{Kind, View, view};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::support::{Ask, ask, hex, policy};

/// `{"a":1}` as Node's zlib writes it.
const BROTLI: &str = "0b03807b2261223a317d03";
/// 64 MiB of spaces.
const BROTLI_BOMB: &str = "cfffff7f002440e2b14072effff9ffff0f8004401c1680eefd3fffffff01900088c302d0bdffcfffff7f001200715800baf7ff";
/// The same for a window of 2^30 bytes, which is none of RFC 7932.
const BROTLI_LARGE: &str = "111e0c00027b2261223a317d03";
/// As the reference implementation writes it: with a checksum, and without.
const ZSTANDARD: [&str; 2] =
    ["28b52ffd04583900007b2261223a317d488bfc32", "28b52ffd00583900007b2261223a317d"];
/// The same for a window of 128 MiB.
const ZSTANDARD_WIDE: &str = "28b52ffd04883900007b2261223a317d488bfc32";

/// Whether the body can be read as JSON by a rule: an allow rule that is true of every JSON body matches.
fn readable(request: &Ask) -> bool {
    let rules = policy(
        "[[rule]]\nname = \"r\"\nhost = \"a.example\"\nwhen = \"body.json == body.json\"\nthen = \"allow\"",
    );
    request.then(&rules) == Then::Allow
}

fn post() -> Ask {
    ask("POST", "https://a.example/")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

fn encoded(coding: &str, body: Vec<u8>) -> Ask {
    post().header("content-type", "application/json").header("content-encoding", coding).bytes(body)
}

#[test]
fn b_4_encodings_are_taken_off_within_limits() {
    let json = br#"{"a":1}"#;
    assert!(readable(&encoded("identity", json.to_vec())));
    assert!(readable(&encoded("gzip", gzip(json))));
    assert!(readable(&encoded("X-GZIP", gzip(json))));
    assert!(readable(&encoded("deflate", deflate(json))));
    assert!(readable(&encoded("gzip, deflate", deflate(&gzip(json)))));
    assert!(readable(&encoded("gzip, gzip, gzip", gzip(&gzip(&gzip(json))))));
    assert!(readable(&encoded("br", hex(BROTLI))));
    assert!(readable(&encoded("br, gzip", gzip(&hex(BROTLI)))));
    for frame in ZSTANDARD {
        assert!(readable(&encoded("zstd", hex(frame))), "{frame}");
    }
    let mut wrong_sum = hex(ZSTANDARD[0]);
    wrong_sum.pop();
    wrong_sum.push(0x33);
    // One raw block in a frame that says how long it is.
    let raw = |size: u8, body: &[u8]| {
        let block = 1 | body.len() << 3;
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x20, size, block as u8, 0, 0];
        [&header[..], body].concat()
    };
    assert!(readable(&encoded("zstd", raw(7, json))));
    for (coding, body, why) in [
        ("gzip, gzip, gzip, gzip", gzip(&gzip(&gzip(&gzip(json)))), "four layers"),
        ("compress", json.to_vec(), "not known"),
        ("br", json.to_vec(), "a wrong label"),
        ("zstd", json.to_vec(), "a wrong label"),
        ("br", hex(ZSTANDARD[0]), "a wrong label"),
        ("br", hex(BROTLI)[..8].to_vec(), "cut off"),
        ("br", [hex(BROTLI), vec![0]].concat(), "bytes after the end"),
        ("br", hex(BROTLI_LARGE), "a window that is not RFC 7932's"),
        ("zstd", hex(ZSTANDARD[0])[..18].to_vec(), "cut off in its checksum"),
        ("zstd", hex(ZSTANDARD[1])[..12].to_vec(), "cut off"),
        ("zstd", wrong_sum, "a checksum of something else"),
        ("zstd", raw(9, json), "another size than it says"),
        ("zstd", [hex(ZSTANDARD[0]), hex(ZSTANDARD[0])].concat(), "a second frame"),
        ("zstd", hex(&format!("502a4d1801000000ff{}", ZSTANDARD[0])), "a frame to be skipped"),
        ("zstd", hex(ZSTANDARD_WIDE), "a window above 8 MiB"),
        ("gzip", json.to_vec(), "a wrong label"),
        ("gzip", deflate(json), "a wrong label"),
        ("deflate, gzip", deflate(&gzip(json)), "the wrong order"),
        ("gzip", gzip(json)[..10].to_vec(), "cut off"),
        ("gzip", [gzip(json), gzip(json)].concat(), "a second member"),
        ("gzip", [gzip(json), vec![0]].concat(), "bytes after the end"),
        ("", gzip(json), "no label"),
    ] {
        assert!(!readable(&encoded(coding, body)), "{why}");
    }
    assert!(
        !readable(&encoded("gzip", gzip(json)).header("content-encoding", "br")),
        "a second header"
    );
}

#[test]
fn b_5_bombs_are_not_opened() {
    let zeros = vec![b' '; 64 * 1024 * 1024];
    let bomb = gzip(&zeros);
    assert!(bomb.len() < 100_000);
    let started = std::time::Instant::now();
    assert!(!readable(&encoded("gzip", bomb.clone())));
    assert!(!readable(&encoded("gzip, gzip", gzip(&bomb))));
    // 64 MiB of spaces as Node's zlib writes them in 51 bytes.
    let brotli = hex(BROTLI_BOMB);
    assert!(brotli.len() < 100 && !readable(&encoded("br", brotli.clone())));
    assert!(!readable(&encoded("br, gzip", gzip(&brotli))));
    // 1000 blocks, each of which is one byte 128 KiB long.
    let block = [2 | (128_u32 * 1024) << 3; 1000].map(|it| [&it.to_le_bytes()[..3], b" "].concat());
    let zstandard = [hex("28b52ffd0050"), block.concat()].concat();
    assert!(!readable(&encoded("zstd", zstandard)));
    assert!(started.elapsed().as_secs() < 5);
    assert!(!readable(&post().json(&" ".repeat(9 * 1024 * 1024))));
}

#[test]
fn b_8_json_that_readers_read_differently_is_not_read() {
    for json in [
        "{}",
        "[]",
        "null",
        " 1 ",
        "-0",
        "1.5e3",
        "1e-7",
        r#""\ud83d\ude00""#,
        r#"{"a":{"b":[1,2,{"c":null}]}}"#,
        "18446744073709551615",
        "\"\u{7f}\u{e9}\"",
    ] {
        assert!(readable(&post().json(json)), "{json}");
    }
    for json in [
        r#"{"amount":1,"amount":1000000}"#,
        r#"{"a":{"b":1,"\u0062":2}}"#,
        r#"{"amount":1,"Amount":1000000}"#,
        "{\"s\":1,\"\u{17f}\":2}",
        "{\"k\":1,\"\u{212a}\":2}",
        "\u{feff}{}",
        "{}x",
        "{} {}",
        "// no\n{}",
        "{/**/}",
        "{'a':1}",
        "{a:1}",
        "[1,]",
        "{\"a\":1,}",
        "[,1]",
        "NaN",
        "Infinity",
        "-",
        "+1",
        "01",
        "-01",
        "1.",
        ".5",
        "1e",
        "0x10",
        "1e400",
        "-1e400",
        "18446744073709551616",
        "-9223372036854775809",
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800\u0041""#,
        r#""\x""#,
        "\"\t\"",
        "\"a",
        "nul",
        "True",
        "",
    ] {
        assert!(!readable(&post().json(json)), "{json}");
    }
    assert!(!readable(&post().json(&format!("{}{}", "[".repeat(100), "]".repeat(100)))));
    assert!(!readable(&post().json(&"[".repeat(1_000_000))));
    assert!(!readable(
        &post().header("content-type", "application/json").bytes(b"\"\xff\"".to_vec())
    ));
    assert!(
        !readable(
            &post().header("content-type", "application/json").bytes(b"\"\xc0\xaf\"".to_vec())
        ),
        "overlong"
    );
}

#[test]
fn b_11_and_b_12_the_content_type_has_to_match() {
    let with = |kind: &str| post().header("content-type", kind).bytes("{}");
    for kind in [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/vnd.api+json",
        "application/json;charset=\"utf-8\"",
    ] {
        assert!(readable(&with(kind)), "{kind}");
    }
    for kind in [
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json; charset =utf-7",
        "application/json, text/plain",
        "",
    ] {
        assert!(!readable(&with(kind)), "{kind}");
    }
    assert!(!readable(&post().bytes("{}")), "none");
    assert!(!readable(&with("application/json").header("content-type", "application/json")), "two");
    let form = policy(
        "[[rule]]\nname = \"r\"\nhost = \"a.example\"\nwhen = \"body.form == body.form\"\nthen = \"allow\"",
    );
    assert_eq!(post().form("a=1&b=2").then(&form), Then::Allow);
    assert_eq!(post().form(r#"{"a":1}"#).then(&form), Then::Unnamed);
    assert_eq!(post().form("a=\u{e9}").then(&form), Then::Unnamed);
    assert_eq!(post().json("a=1").then(&form), Then::Unnamed);
}

#[test]
fn b_13_what_is_hidden_from_a_reader_is_not_hidden_from_a_rule() {
    use crate::support::said;
    let far = format!("{}DROP TABLE users", "\n".repeat(100_000));
    let text = post().header("content-type", "text/plain").bytes(far.clone());
    assert_eq!(said("body.text.contains('DROP TABLE')", &text), "yes");
    let json = post().json(&serde_json::json!({ "note": far, "token_note": "rm -rf" }).to_string());
    assert_eq!(said("body.json.note.contains('DROP TABLE')", &json), "yes");
    assert_eq!(said("body.json.token_note == 'rm -rf'", &json), "yes");
    // A name or a value with a character of no width in it is another one, and a tool so named is none.
    let hidden = post().json("{\"amount\":1,\"am\u{200b}ount\":2,\"to\":\"a\u{202e}b\"}");
    assert_eq!(said("body.json.amount == 1 && body.json.to != 'ab'", &hidden), "yes");
    let call = |tool: &str| {
        let params = serde_json::json!({ "name": tool });
        let call = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        post().json(&call.to_string())
    };
    assert_eq!(said("mcp.tool == 'read'", &call("read")), "yes");
    for tool in ["re\u{200b}ad", "\u{202e}daer", "read\u{1b}[2K", "r\u{435}ad"] {
        assert_eq!(said("mcp.tool == 'read'", &call(tool)), "unknown", "{tool:?}");
    }
}

#[test]
fn views_say_what_is_shown_and_whether_it_is_all() {
    let show = |request: &Ask| view(&request.headers, request.body.as_deref().unwrap());
    let text = |text: &str, complete, kind| View { text: Some(text.to_owned()), complete, kind };
    assert_eq!(show(&post()), text("", true, Kind::Empty));
    assert_eq!(show(&post().json(r#"{"a":1}"#)), text(r#"{"a":1}"#, true, Kind::Json));
    assert_eq!(show(&encoded("gzip", gzip(br#"{"a":1}"#))), text(r#"{"a":1}"#, true, Kind::Json));
    assert_eq!(show(&post().json(r#"{"a":1,"a":2}"#)), text(r#"{"a":1,"a":2}"#, false, Kind::Json));
    assert_eq!(show(&post().form("a=1&b=2")), text("a=1&b=2", true, Kind::Form));
    assert_eq!(show(&post().form("a=1&a=2")), text("a=1&a=2", false, Kind::Form));
    assert_eq!(
        show(&post().header("content-type", "text/plain").bytes("hi")),
        text("hi", true, Kind::Text)
    );
    assert_eq!(show(&post().bytes("hi")), text("hi", false, Kind::Text));
    let nested = "items[0][price]=a&items[1][price]=b&metadata[x]=1&metadata[y]=2&name=c";
    assert_eq!(show(&post().form(nested)), text(nested, true, Kind::Form));
    for doubtful in [
        "a=1&a[]=2",
        "a=1&A=2",
        "a_b=1&a.b=2",
        "a=1&a[x][y]=2",
        "a=1;b=2",
        "a=%ff",
        "%ff=a",
        "%00=a",
    ] {
        assert_eq!(show(&post().form(doubtful)), text(doubtful, false, Kind::Form));
    }
    let started = std::time::Instant::now();
    let many: Vec<String> = (0..100_000).map(|n| format!("A.b[{n}]={n}")).collect();
    assert!(!show(&post().form(&many.join("&"))).complete);
    assert!(show(&post().form(&many[..1000].join("&"))).complete);
    assert!(started.elapsed().as_secs() < 2);
    let binary = View { text: None, complete: false, kind: Kind::Binary };
    assert_eq!(show(&post().bytes(vec![0xff, 0xfe])), binary);
    assert_eq!(show(&encoded("br", vec![1])), binary);
}
