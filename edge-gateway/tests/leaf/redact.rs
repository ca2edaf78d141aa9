//! N-ECHO: an upstream that gives the key back, in every way that is recognised, and what is not.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use countersign_edge_gateway::redact::Redactor;
use countersign_edge_gateway::upstream::{BodyError, BoxBody};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use proptest::prelude::*;

use crate::support::full;

const KEY: &str = "sk_live_51H8x/aB+c=d\"Q&z'~%9";

fn redactor() -> Redactor {
    Redactor::new(&[KEY.as_bytes()])
}

async fn collected(body: BoxBody) -> Result<Vec<u8>, BodyError> {
    Ok(body.collect().await?.to_bytes().to_vec())
}

/// The text with the key's spelling in the middle, redacted.
async fn through(spelling: &str) -> String {
    let text = format!("{{\"echo\": \"before {spelling} after\"}}");
    let body = redactor().body(full(text.clone()));
    let size = body.size_hint().exact();
    let out = String::from_utf8(collected(body).await.unwrap()).unwrap();
    assert_eq!((size, out.len()), (Some(text.len() as u64), text.len()), "the length is kept");
    assert!(out.starts_with("{\"echo\": \"before ") && out.ends_with(" after\"}"), "{out}");
    out
}

async fn assert_masked(spelling: &str) {
    let out = through(spelling).await;
    assert!(!out.contains(spelling), "{out}");
    assert!(out.contains(&"*".repeat(spelling.len())), "{spelling} left {out}");
}

#[tokio::test]
async fn n_echo_1_as_it_is() {
    assert_masked(KEY).await;
}

#[tokio::test]
async fn n_echo_2_in_a_header() {
    let mut headers = HeaderMap::new();
    headers.insert("x-you-sent", HeaderValue::from_str(&format!("Bearer {KEY}, thanks")).unwrap());
    headers.append("x-you-sent", HeaderValue::from_static("nothing"));
    headers.insert(
        "x-encoded",
        HeaderValue::from_str(&STANDARD.encode(format!("user:{KEY}"))).unwrap(),
    );
    redactor().headers(&mut headers);
    let values: Vec<_> =
        headers.get_all("x-you-sent").iter().map(|v| v.to_str().unwrap().to_owned()).collect();
    assert_eq!(values, [format!("Bearer {}, thanks", "*".repeat(KEY.len())), "nothing".into()]);
    assert!(headers["x-encoded"].to_str().unwrap().contains("*********"));
}

#[tokio::test]
async fn n_echo_2_in_a_headers_name() {
    let redactor = Redactor::new(&[b"sk_live_ABCDEF"]);
    let mut headers = HeaderMap::new();
    headers.insert(
        HeaderName::from_bytes(b"x-sk_live_abcdef").unwrap(),
        HeaderValue::from_static("1"),
    );
    redactor.headers(&mut headers);
    assert!(headers.is_empty());
}

#[tokio::test]
async fn n_echo_3_in_a_location() {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::LOCATION,
        HeaderValue::from_static(
            "https://evil.tld/?k=sk_live_51H8x%2FaB%2Bc%3Dd%22Q%26z%27~%259&x=1",
        ),
    );
    redactor().headers(&mut headers);
    let location = headers[header::LOCATION].to_str().unwrap();
    assert!(
        location.starts_with("https://evil.tld/?k=****") && location.ends_with("***&x=1"),
        "{location}"
    );
}

#[tokio::test]
async fn n_echo_4_cookies_do_not_reach_the_agent() {
    let mut headers = HeaderMap::new();
    headers.append(header::SET_COOKIE, HeaderValue::from_static("session=1"));
    headers.append(header::SET_COOKIE, HeaderValue::from_static("other=2"));
    let mut untouched = headers.clone();
    redactor().headers(&mut headers);
    assert!(headers.is_empty());
    Redactor::none().headers(&mut untouched);
    assert_eq!(untouched.len(), 2, "without a key, cookies are the agent's business");
}

#[tokio::test]
async fn n_echo_5_in_base64_wherever_it_begins() {
    for before in ["", "a", "ab", "abc", "user:", "key="] {
        for after in ["", "\n", "tail"] {
            for text in [
                STANDARD.encode(format!("{before}{KEY}{after}")),
                URL_SAFE_NO_PAD.encode(format!("{before}{KEY}{after}")),
            ] {
                let out = through(&text).await;
                let masked = out.matches('*').count();
                assert!(masked >= KEY.len() * 4 / 3 - 2, "{text} left {out}");
            }
        }
    }
}

#[tokio::test]
async fn n_echo_6_in_hexadecimal() {
    assert_masked(&hex::encode(KEY)).await;
    assert_masked(&hex::encode_upper(KEY)).await;
}

#[tokio::test]
async fn n_echo_7_percent_encoded() {
    for spelling in [
        "sk_live_51H8x%2FaB%2Bc%3Dd%22Q%26z%27~%259",
        "sk_live_51H8x%2faB%2bc%3dd%22Q%26z%27~%259",
        "sk_live_51H8x%2FaB+c=d%22Q&z'~%259",
        "sk_live_51H8x%2FaB%2Bc%3Dd%22Q%26z%27%7E%259",
    ] {
        assert_masked(spelling).await;
    }
    assert_masked(&KEY.bytes().map(|b| format!("%{b:02X}")).collect::<String>()).await;
    assert_masked(&KEY.bytes().map(|b| format!("%{b:02x}")).collect::<String>()).await;
}

#[tokio::test]
async fn n_echo_8_in_json_escapes() {
    for spelling in [
        "sk_live_51H8x/aB+c=d\\\"Q&z'~%9",
        "sk_live_51H8x\\/aB+c=d\\\"Q&z'~%9",
        "sk_live_51H8x/aB+c=d\\\"Q\\u0026z\\u0027~%9",
        "sk_live_51H8x/aB\\u002Bc=d\\\"Q\\u0026z\\u0027~%9",
    ] {
        assert_masked(spelling).await;
    }
    assert_masked(&KEY.bytes().map(|b| format!("\\u{b:04x}")).collect::<String>()).await;
    assert_masked(&KEY.bytes().map(|b| format!("\\u{b:04X}")).collect::<String>()).await;
    let text = serde_json::json!({ "error": { "message": format!("bad key: {KEY}"), "n": 1 } })
        .to_string();
    let out = collected(redactor().body(full(text))).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).expect("masked JSON stays JSON");
    assert!(json["error"]["message"].as_str().unwrap().starts_with("bad key: ****"));
}

#[tokio::test]
async fn n_echo_9_in_html_entities() {
    for spelling in [
        "sk_live_51H8x/aB+c=d&quot;Q&amp;z&#39;~%9",
        "sk_live_51H8x/aB+c=d&#34;Q&amp;z&#39;~%9",
        "sk_live_51H8x/aB+c=d&quot;Q&amp;z&#x27;~%9",
        "sk_live_51H8x&#x2F;aB+c&#x3D;d&quot;Q&amp;z&#39;~%9",
    ] {
        assert_masked(spelling).await;
    }
    assert_masked(&KEY.bytes().map(|b| format!("&#{b};")).collect::<String>()).await;
    assert_masked(&KEY.bytes().map(|b| format!("&#x{b:x};")).collect::<String>()).await;
}

#[tokio::test]
async fn n_echo_10_split_at_every_place() {
    let text = format!("<{KEY}{KEY}>");
    for split in 0..=text.len() {
        let (one, two) = text.as_bytes().split_at(split);
        let out = collected(redactor().body(chunks([one, two]))).await.unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("<{}>", "*".repeat(2 * KEY.len())),
            "{split}"
        );
    }
    let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    assert!(
        !String::from_utf8(collected(redactor().body(chunks(bytes))).await.unwrap())
            .unwrap()
            .contains("sk_")
    );
}

fn chunks<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> BoxBody {
    let frames: Vec<Result<_, BodyError>> =
        parts.into_iter().map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
    StreamBody::new(futures::stream::iter(frames)).boxed()
}

fn encoded(coding: &str, text: &str) -> Vec<u8> {
    let level = Compression::default();
    match coding {
        "gzip" | "x-gzip" | "GZIP" => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        }
        _ => {
            let mut encoder = DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// [`long`] as the reference implementations of Brotli and Zstandard write it, the latter in several blocks with a checksum.
const BROTLI: &str = "5b9d1a86dffa7897f939811b27ba6e971ef3bc5ce221e575490ed99c1ad3ab9ab07e895af39320315f6db2822324454e7a5294c72e4c0010a0aa7c8201710f1a6e3ec1c02a5c47361a";
const ZSTANDARD: &str = "28b52ffda49e1a06005400001078780100fbff39c0020200087864010004027820736b5f6c6976655f35314838782f61422b633d642251267a277e2539207902007bca83dc79ea832bf3d4087993d3621a";
/// Two events, flushed one by one.
const BROTLI_EVENTS: [&str; 2] = ["0b0480646174613a20310a0a", "8100805f4a41a608d1241830"];
/// 64 MiB of spaces.
const BROTLI_BOMB: &str = "cfffff7f002440e2b14072effff9ffff0f8004401c1680eefd3fffffff01900088c302d0bdffcfffff7f001200715800baf7ff";

/// The key, far from both ends.
fn long() -> String {
    format!("{} {KEY} {}", "x".repeat(200_000), "y".repeat(200_000))
}

/// 1,000 blocks, each of them one byte 128 KiB long.
fn zstandard_bomb() -> Vec<u8> {
    let block = [&(2 | (128_u32 * 1024) << 3).to_le_bytes()[..3], b" "].concat();
    [hex::decode("28b52ffd0050").unwrap(), block.repeat(1000)].concat()
}

fn answer(coding: &str, body: BoxBody, length: usize) -> Response<BoxBody> {
    Response::builder()
        .header(header::CONTENT_ENCODING, coding)
        .header(header::CONTENT_LENGTH, length)
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn n_echo_11_inside_a_content_coding() {
    let [brotli, zstandard] = [BROTLI, ZSTANDARD].map(|bytes| hex::decode(bytes).unwrap());
    let text = long();
    let all = ["gzip", "x-gzip", "GZIP", "deflate", "bare"]
        .map(|coding| (if coding == "bare" { "deflate" } else { coding }, encoded(coding, &text)));
    for (coding, bytes) in all.into_iter().chain([("br", brotli), ("zstd", zstandard)]) {
        for size in [1, 7, bytes.len()] {
            let out = redactor().response(answer(coding, chunks(bytes.chunks(size)), bytes.len()));
            assert!(out.headers().is_empty(), "neither coding nor length is that of what goes on");
            let out = String::from_utf8(collected(out.into_body()).await.unwrap()).unwrap();
            assert!(
                out == text.replace(KEY, &"*".repeat(KEY.len())),
                "{coding} in pieces of {size}"
            );
        }
    }
}

#[tokio::test]
async fn n_echo_11_an_event_in_brotli_does_not_wait_for_the_next_one() {
    let (more, come) = futures::channel::mpsc::unbounded();
    let stream = StreamBody::new(come).boxed();
    let mut body = redactor().response(answer("br", stream, 0)).into_body();
    for (event, text) in BROTLI_EVENTS.iter().zip(["data: 1\n\n", "data: 2\n\n"]) {
        let event = Frame::data(Bytes::from(hex::decode(event).unwrap()));
        more.unbounded_send(Ok::<_, BodyError>(event)).unwrap();
        let mut came = Vec::new();
        while came.len() < text.len() {
            came.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(came, text.as_bytes());
    }
    drop(more);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn n_echo_11_a_coding_that_cannot_be_looked_into_fails_the_body() {
    for coding in ["compress", "gzip, gzip", "gzip, br", "br, identity, zstd", "\u{ff}"] {
        let out = redactor().response(answer(coding, full("sealed"), 6));
        assert!(collected(out.into_body()).await.is_err(), "{coding}");
    }
    let out = redactor().response(answer("identity", full("open"), 4));
    assert_eq!(collected(out.into_body()).await.unwrap(), b"open");
    let out = Redactor::none().response(answer("br", full("sealed"), 6));
    assert_eq!(out.headers()[header::CONTENT_ENCODING], "br");
    assert_eq!(
        collected(out.into_body()).await.unwrap(),
        b"sealed",
        "without a key nothing is looked into"
    );
}

#[tokio::test]
async fn n_echo_11_a_cut_or_wrong_coding_fails_the_body() {
    let whole = encoded("gzip", &"text ".repeat(1_000));
    for bytes in [&whole[..whole.len() - 4], &whole[..20], b"not gzip at all"] {
        let out = redactor().response(answer("gzip", full(bytes.to_vec()), bytes.len()));
        assert!(collected(out.into_body()).await.is_err());
    }
    for (coding, whole) in [("br", BROTLI), ("zstd", ZSTANDARD)] {
        let whole = hex::decode(whole).unwrap();
        let more = [whole.clone(), b"more".to_vec()].concat();
        for bytes in [&whole[..whole.len() - 1], &whole[..20], &whole[..3], b"neither", &more] {
            let out = redactor().response(answer(coding, full(bytes.to_vec()), bytes.len()));
            assert!(collected(out.into_body()).await.is_err(), "{coding}: {bytes:x?}");
        }
    }
    let head = redactor().response(answer("gzip", full(""), 0));
    assert_eq!(collected(head.into_body()).await.unwrap(), b"", "the answer to HEAD has no body");
    let head = redactor().response(answer("br", full(""), 77));
    assert_eq!(head.headers()[header::CONTENT_LENGTH], "77");
    assert_eq!(collected(head.into_body()).await.unwrap(), b"");
}

#[tokio::test]
async fn d_resp_1_a_coding_that_is_a_bomb_is_broken_off() {
    let gzip = encoded("gzip", &" ".repeat(64 * 1024 * 1024));
    let brotli = hex::decode(BROTLI_BOMB).unwrap();
    for (coding, bomb) in [("gzip", gzip), ("br", brotli), ("zstd", zstandard_bomb())] {
        assert!(bomb.len() < 100_000);
        let length = bomb.len();
        let mut body = redactor().response(answer(coding, full(bomb), length)).into_body();
        let mut came = 0;
        let broken = loop {
            match body.frame().await.expect("it does not end well") {
                Ok(frame) => came += frame.into_data().unwrap().len(),
                Err(why) => break why,
            }
        };
        assert!((7 << 20..9 << 20).contains(&came), "{coding}: {came}");
        assert!(broken.to_string().contains("larger than it came"), "{coding}: {broken}");
        assert!(body.frame().await.is_none(), "{coding}: and nothing more of it");
    }
    // What is large without being a bomb comes whole.
    let text: String =
        (0..1_000_000).map(|n: u32| format!("{:08x}\n", n.wrapping_mul(2_654_435_761))).collect();
    let honest = encoded("gzip", &text);
    let body = redactor().response(answer("gzip", chunks(honest.chunks(64 * 1024)), honest.len()));
    assert!(collected(body.into_body()).await.unwrap() == text.as_bytes());
}

#[tokio::test]
async fn n_echo_12_in_a_trailer() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-key", HeaderValue::from_str(KEY).unwrap());
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(Bytes::from("tail sk_live_"))), Ok(Frame::trailers(trailers))];
    let out = redactor()
        .body(StreamBody::new(futures::stream::iter(frames)).boxed())
        .collect()
        .await
        .unwrap();
    let left = out.trailers().unwrap();
    assert!(left.len() == 2 && left["grpc-status"] == "0");
    assert_eq!(left["x-key"], "*".repeat(KEY.len()));
    assert_eq!(out.to_bytes(), "tail sk_live_", "what was held back comes before the trailers");
}

/// The documented limit: this is what the binding of a key to one host is for.
#[tokio::test]
async fn n_echo_13_what_an_upstream_transforms_is_not_recognised() {
    let reversed: String = KEY.chars().rev().collect();
    assert!(through(&reversed.replace('"', "q")).await.contains("_evil_ks"));
}

#[tokio::test]
async fn an_event_goes_on_before_the_next_one_comes() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut body = redactor().body(StreamBody::new(stream).boxed());
    for event in ["data: one\n\n", "data: sk_live\n\n"] {
        sender.send(Ok(Frame::data(event.into()))).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    sender.send(Ok(Frame::data("data: sk_live_5".into()))).await.unwrap();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "data: ",
        "only what may be a key waits"
    );
    sender.send(Ok(Frame::data("\n\n".into()))).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "sk_live_5\n\n");
    drop(sender);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn an_event_in_gzip_goes_on_before_the_next_one_comes() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let response = Response::builder()
        .header(header::CONTENT_ENCODING, "gzip")
        .body(StreamBody::new(stream).boxed())
        .unwrap();
    let mut body = redactor().response(response).into_body();
    for event in ["data: one\n\n", "data: two\n\n"] {
        encoder.write_all(event.as_bytes()).unwrap();
        encoder.flush().unwrap();
        let flushed = std::mem::take(encoder.get_mut());
        sender.send(Ok(Frame::data(flushed.into()))).await.unwrap();
        let mut came = Vec::new();
        while came.len() < event.len() {
            came.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(came, event.as_bytes());
    }
}

#[tokio::test]
async fn several_keys_and_keys_within_keys_are_masked() {
    let redactor = Redactor::new(&[b"abcdef", b"cdefgh", b"cde", b""]);
    let out = collected(redactor.body(chunks([&b"x abcde"[..], b"fgh y cde z"]))).await.unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "x ******** y *** z");
}

#[tokio::test]
async fn an_error_of_the_body_is_passed_on() {
    let frames = [Ok(Frame::data(Bytes::from("one"))), Err(BodyError::from("cut"))];
    let body = redactor().body(StreamBody::new(futures::stream::iter(frames)).boxed());
    assert_eq!(body.collect().await.unwrap_err().to_string(), "cut");
}

#[tokio::test]
async fn the_status_stays() {
    let response = Response::builder().status(StatusCode::IM_A_TEAPOT).body(full("x")).unwrap();
    assert_eq!(redactor().response(response).status(), StatusCode::IM_A_TEAPOT);
}

proptest! {
    #[test]
    fn n_echo_8_masked_json_is_json_of_the_same_shape(
        before in "[a-z \"\\\\/\u{e9}]{0,20}",
        after in "[a-z \"\\\\/]{0,20}",
        size in 1usize..40,
    ) {
        let value = serde_json::json!({ "a": [before, { "key": KEY, (KEY): format!("{before}{KEY}{after}") }], "b": 1 });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap(), value.to_string().replace('/', "\\/")] {
            let body = redactor().body(chunks(text.as_bytes().chunks(size)));
            let out = futures::executor::block_on(collected(body)).unwrap();
            prop_assert_eq!(out.len(), text.len());
            let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert!(!read.to_string().contains(&serde_json::to_string(KEY).unwrap()[1..KEY.len()]));
            prop_assert_eq!(&read["b"], 1);
            prop_assert!(read["a"][1]["key"].as_str().unwrap().bytes().all(|byte| byte == b'*'));
        }
    }
}

/// What masking means: every place of every key, found by brute force.
fn expected(text: &[u8], keys: &[Vec<u8>]) -> Vec<u8> {
    let mut out = text.to_vec();
    for key in keys {
        for at in 0..text.len().saturating_sub(key.len() - 1) {
            if text[at..].starts_with(key) {
                out[at..at + key.len()].fill(b'*');
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn however_it_is_cut_the_same_comes_out(
        text in prop::collection::vec(prop::sample::select(b"abz".to_vec()), 0..200),
        keys in prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab".to_vec()), 1..6), 1..4),
        cuts in prop::collection::vec(0usize..200, 0..20),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        let secrets: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let body = Redactor::new(&secrets).body(chunks(parts));
        let out = futures::executor::block_on(collected(body)).unwrap();
        prop_assert_eq!(out, expected(&text, &keys));
    }
}
