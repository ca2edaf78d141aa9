//! Frames of WebSockets as bytes (RFC 6455 §5.2), good ones and bad ones.

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
