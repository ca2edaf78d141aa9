//! Where the messages of a gRPC body end: each is one byte of flags, four of length, and so many more
//! (grpc/doc/PROTOCOL-HTTP2.md).

use http::header::{CONTENT_TYPE, HeaderMap};

use super::decode::Unreadable;

/// The lowest bit: the message is compressed. gRPC-Web has the highest for trailers.
const COMPRESSED: u8 = 1;
const PREFIX: usize = 5;

/// Reads along.
pub(super) struct Messages {
    /// What has come of the prefix.
    prefix: Vec<u8>,
    /// What is to come of the message.
    left: usize,
}

impl Messages {
    /// Of a body whose head says that it is gRPC.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
        let after = kind.strip_prefix("application/grpc")?;
        // gRPC-Web's other form is all base64, without an end that could be seen.
        let framed = !after.starts_with("-web-text");
        framed.then(|| Self { prefix: Vec::with_capacity(PREFIX), left: 0 })
    }

    /// How much of the chunk belongs together, and whether a message ends there. The chunk is not empty.
    ///
    /// # Errors
    /// For a compressed message: nobody asked for one, and it may hide a key.
    pub(super) fn next(&mut self, chunk: &[u8]) -> Result<(usize, bool), Unreadable> {
        if self.left == 0 {
            let taken = chunk.len().min(PREFIX - self.prefix.len());
            self.prefix.extend_from_slice(&chunk[..taken]);
            if self.prefix.first().is_some_and(|flags| flags & COMPRESSED != 0) {
                return Err(Unreadable);
            }
            let [_, length @ ..] = self.prefix.as_slice() else { return Ok((taken, false)) };
            let Ok(length) = <[u8; 4]>::try_from(length) else { return Ok((taken, false)) };
            self.prefix.clear();
            self.left = u32::from_be_bytes(length) as usize;
            return Ok((taken, self.left == 0));
        }
        let taken = chunk.len().min(self.left);
        self.left -= taken;
        Ok((taken, self.left == 0))
    }
}
