//! HTTP/2 written frame by frame (RFC 9113 §4.1): what no client library would write.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use crate::agent::{Agent, Tunnel};

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const CONTINUATION: u8 = 0x9;

/// For SETTINGS; for DATA and HEADERS; for HEADERS.
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

/// One connection through a tunnel, after the preface.
pub(crate) struct Wire {
    tunnel: Tunnel,
}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The next one; none when the connection is over.
    pub(crate) async fn next(from: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let reading = async {
            let mut header = [0; 9];
            from.read_exact(&mut header).await.ok()?;
            let [high, middle, low, kind, flags, stream @ ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
            from.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
            Some(Self { kind, flags, stream, payload })
        };
        tokio::time::timeout(Duration::from_secs(30), reading).await.expect("it is not silent")
    }
}

/// What came of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Answer {
        ok: bool,
        body: String,
    },
    /// The whole connection ended; the code of GOAWAY, if there was one.
    Gone(Option<u32>),
    Reset(u32),
}

impl Heard {
    /// The problem's code; empty for anything else.
    pub(crate) fn code(&self) -> String {
        let Self::Answer { body, .. } = self else { return String::new() };
        let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn is_ok(&self) -> bool {
        matches!(self, Self::Answer { ok: true, .. })
    }

    /// Refused by HTTP/2 itself: the stream or the connection was ended.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Reset(_))
    }
}

impl Wire {
    /// A connection on which the client has said what it has to say first.
    pub(crate) async fn open(agent: &Agent, host: &str) -> Self {
        let tunnel = Self::silent(agent, host).await;
        let mut wire = Self { tunnel };
        wire.send(&preface()).await;
        wire
    }

    /// The tunnel of one, before the preface.
    pub(crate) async fn silent(agent: &Agent, host: &str) -> Tunnel {
        let tunnel = agent.tunnel_with(host, host, &[b"h2"]).await.expect("a tunnel");
        assert_eq!(tunnel.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        tunnel
    }

    /// Whether it could be written.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.tunnel.write_all(bytes).await.is_ok() && self.tunnel.flush().await.is_ok()
    }

    /// The next frame; none when the connection is over.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        Frame::next(&mut self.tunnel).await
    }

    /// What comes of this stream.
    pub(crate) async fn hear(&mut self, stream: u32) -> Heard {
        let mut ok = false;
        let mut body = Vec::new();
        let mut goodbye = None;
        while let Some(frame) = self.next().await {
            match frame.kind {
                GOAWAY => goodbye = code(&frame.payload[4..]),
                RST_STREAM if frame.stream == stream => {
                    return Heard::Reset(code(&frame.payload).unwrap_or_default());
                }
                // In the static table, 8 is `:status: 200`.
                HEADERS if frame.stream == stream => ok = frame.payload.first() == Some(&0x88),
                DATA if frame.stream == stream => body.extend(&frame.payload),
                _ => {}
            }
            let whole = matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0;
            if whole && frame.stream == stream {
                let body = String::from_utf8_lossy(&body).into_owned();
                return Heard::Answer { ok, body };
            }
        }
        Heard::Gone(goodbye)
    }

    /// Until the connection is over; the last code of GOAWAY.
    pub(crate) async fn end(&mut self) -> Option<u32> {
        let mut goodbye = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                goodbye = code(&frame.payload[4..]);
            }
        }
        goodbye
    }

    /// A request without a body on this stream, and what comes of it.
    pub(crate) async fn ask(&mut self, stream: u32, fields: &[(&str, &str)]) -> Heard {
        self.send(&request(stream, fields)).await;
        self.hear(stream).await
    }
}

fn code(payload: &[u8]) -> Option<u32> {
    payload.first_chunk::<4>().map(|code| u32::from_be_bytes(*code))
}

/// What a client says first, with empty settings.
pub(crate) fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("24 bits").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as they are: literal, without a table, without Huffman's code (RFC 7541 §6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.bytes());
        }
    }
    block
}

/// With a prefix of seven bits (RFC 7541 §5.1).
fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        block.push(value as u8);
        return;
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// The head of a request without a body.
pub(crate) fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))
}

/// The pseudo-headers of a GET.
pub(crate) fn get<'a>(host: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path)]
}
