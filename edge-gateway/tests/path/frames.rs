//! Frames as bytes: those of WebSockets (RFC 6455 §5.2) and those of HTTP/2 (RFC 9113 §4.1), good ones and bad ones.

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::stage::in_time;

pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// As a server sends it.
pub(crate) fn plain(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(length as u8),
        length @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

/// As a client sends it.
pub(crate) fn masked(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = plain(first, payload);
    let begin = bytes.len() - payload.len();
    bytes[1] |= 0x80;
    bytes.splice(begin..begin, MASK);
    for (index, byte) in bytes[begin + 4..].iter_mut().enumerate() {
        *byte ^= MASK[index % 4];
    }
    bytes
}

/// The first byte of the next frame, and its payload without its mask; none when the connection is over.
pub(crate) async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let reading = async {
        let first = stream.read_u8().await.ok()?;
        let second = stream.read_u8().await.ok()?;
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await.ok()?),
            127 => stream.read_u64().await.ok()?,
            short => u64::from(short),
        };
        let mut mask = [0; 4];
        if second & 0x80 != 0 {
            stream.read_exact(&mut mask).await.ok()?;
        }
        let mut payload = vec![0; usize::try_from(length).ok()?];
        stream.read_exact(&mut payload).await.ok()?;
        payload.iter_mut().enumerate().for_each(|(index, byte)| *byte ^= mask[index % 4]);
        Some((first, payload))
    };
    in_time("a frame", reading).await
}

/// A whole message, from however many frames.
pub(crate) async fn message(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let (first, mut payload) = next(stream).await?;
    let mut last = first & 0x80 != 0;
    while !last {
        let (more, rest) = next(stream).await?;
        assert_eq!(more & 0x0f, 0, "a continuation");
        payload.extend(rest);
        last = more & 0x80 != 0;
    }
    Some((first & 0x0f, payload))
}

/// The code of a close frame.
pub(crate) fn code(frame: Option<(u8, Vec<u8>)>) -> Option<u16> {
    let (first, payload) = frame?;
    assert_eq!(first, CLOSE, "a close frame, not {payload:?}");
    payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]))
}

/// A frame of HTTP/2.
#[derive(Debug)]
pub(crate) struct Two {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
/// For SETTINGS, DATA and HEADERS.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

impl Two {
    pub(crate) fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// The next one; none when the connection is over.
    pub(crate) async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let reading = async {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.ok()?;
            let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Some(Self { kind: head[3], flags: head[4], stream: number, payload })
        };
        in_time("a frame", reading).await
    }
}

/// What a client says first, with empty settings.
pub(crate) fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(Two::bytes(SETTINGS, 0, 0, &[]));
    bytes
}

/// A header block: every field a literal that is never indexed (RFC 7541 §6.2.3), so that anything can be written.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0x10);
        for text in [name, value] {
            assert!(text.len() < 127, "one byte of length");
            bytes.push(text.len() as u8);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}
