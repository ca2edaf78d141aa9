//! What is read of a socket before it is asked for. Our TLS library asks for 4 KiB at a time, and gives a record at a
//! time: alone, five calls of the kernel for each, and for each a turn of every task on its way. So a socket is read in
//! large pieces, and as many records are taken together as are here.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Four records of TLS, each with what it adds to its 16 KiB (RFC 8446 §5.2), and the beginning of a fifth.
const PIECE: usize = 68 * 1024;
/// What is given on at a time.
const TOGETHER: usize = 64 * 1024;
/// As many are kept by each thread. A connection has one only as long as there is something in it.
const SPARE: usize = 4;

thread_local! {
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A socket, and what was read of it ahead. Of TLS: what is encrypted.
pub(crate) struct Ahead<S> {
    stream: S,
    piece: Option<Piece>,
}

/// Bytes that are still to be given on; never empty.
struct Piece {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
}

impl<S> Ahead<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, piece: None }
    }

    /// One of which these bytes were read already.
    pub(crate) fn after(stream: S, bytes: &[u8]) -> Self {
        let piece = Piece { bytes: Box::from(bytes), from: 0, to: bytes.len() };
        Self { stream, piece: Some(piece).filter(|piece| piece.to > 0) }
    }

    /// Whether there is something that needs no waiting.
    pub(crate) fn has_more(&self) -> bool {
        self.piece.is_some()
    }
}

impl<S: AsyncRead + Unpin> Ahead<S> {
    /// The byte that comes next, which stays to be read; none at the end.
    pub(crate) async fn first(&mut self) -> io::Result<Option<u8>> {
        poll_fn(|context| self.poll_piece(context)).await?;
        Ok(self.piece.as_ref().map(|piece| piece.bytes[piece.from]))
    }

    /// Ready when there is a piece, or the end.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.piece.is_some() {
            return Poll::Ready(Ok(()));
        }
        let spare = SPARES.with_borrow_mut(Vec::pop);
        let mut bytes = spare.unwrap_or_else(|| vec![0; PIECE].into_boxed_slice());
        let mut into = ReadBuf::new(&mut bytes);
        let came = Pin::new(&mut self.stream).poll_read(context, &mut into);
        match into.filled().len() {
            0 => give_back(bytes),
            to => self.piece = Some(Piece { bytes, from: 0, to }),
        }
        came
    }
}

fn give_back(bytes: Box<[u8]>) {
    SPARES.with_borrow_mut(|spares| {
        if bytes.len() == PIECE && spares.len() < SPARE {
            spares.push(bytes);
        }
    });
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_piece(context))?;
        let Some(piece) = &mut this.piece else { return Poll::Ready(Ok(())) };
        let length = (piece.to - piece.from).min(into.remaining());
        into.put_slice(&piece.bytes[piece.from..piece.from + length]);
        piece.from += length;
        if piece.from == piece.to
            && let Some(piece) = this.piece.take()
        {
            give_back(piece.bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// TLS over [`Ahead`], of either side.
pub(crate) trait OverAhead {
    /// Whether there is something that needs no waiting.
    fn has_more(&self) -> bool;
}

impl<S> OverAhead for tokio_rustls::client::TlsStream<Ahead<S>> {
    fn has_more(&self) -> bool {
        self.get_ref().0.has_more()
    }
}

impl<S> OverAhead for tokio_rustls::server::TlsStream<Ahead<S>> {
    fn has_more(&self) -> bool {
        self.get_ref().0.has_more()
    }
}

/// A stream that is read as many records at a time as are here.
pub(crate) struct Together<S> {
    stream: S,
    /// It came behind what was given on.
    failure: Option<io::Error>,
}

impl<S> Together<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, failure: None }
    }
}

impl<S: AsyncRead + OverAhead + Unpin> AsyncRead for Together<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(failure) = this.failure.take() {
            return Poll::Ready(Err(failure));
        }
        let begun = into.filled().len();
        loop {
            let before = into.filled().len();
            let came = Pin::new(&mut this.stream).poll_read(context, into);
            match came {
                Poll::Pending if before == begun => return Poll::Pending,
                Poll::Ready(Err(why)) if before == begun => return Poll::Ready(Err(why)),
                Poll::Ready(Err(why)) => {
                    this.failure = Some(why);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {}
            }
            let now = into.filled().len();
            let enough = now == before || now - begun >= TOGETHER || into.remaining() == 0;
            if enough || !this.stream.has_more() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Together<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Gives what it was told to give, one after the other: bytes, nothing for now (when there are none), or a failure.
    struct Script(VecDeque<io::Result<Vec<u8>>>);

    impl Script {
        fn of(given: impl IntoIterator<Item = io::Result<Vec<u8>>>) -> Self {
            Self(given.into_iter().collect())
        }
    }

    impl AsyncRead for Script {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Some(given) = self.0.pop_front() else { return Poll::Ready(Ok(())) };
            let mut bytes = given?;
            if bytes.is_empty() {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let rest = bytes.split_off(bytes.len().min(into.remaining()));
            into.put_slice(&bytes);
            if !rest.is_empty() {
                self.0.push_front(Ok(rest));
            }
            Poll::Ready(Ok(()))
        }
    }

    impl OverAhead for Script {
        fn has_more(&self) -> bool {
            !self.0.is_empty()
        }
    }

    fn broken() -> io::Error {
        io::ErrorKind::ConnectionReset.into()
    }

    proptest! {
        #[test]
        fn what_was_read_ahead_comes_as_it_was_sent(
            sizes in prop::collection::vec(prop_oneof![0..2_usize, 1..5_000_usize, 60_000..200_000_usize], 0..6),
            before in 0..100_usize,
            step in prop_oneof![1..10_usize, 1_000..5_000_usize, 60_000..100_000_usize],
        ) {
            let mut next = 0_u8;
            let mut piece = |size: usize| -> Vec<u8> {
                (0..size).map(|_| { next = next.wrapping_mul(31).wrapping_add(7); next }).collect()
            };
            let before = piece(before);
            let sent: Vec<Vec<u8>> = sizes.into_iter().map(&mut piece).collect();
            let whole: Vec<u8> = before.iter().copied().chain(sent.iter().flatten().copied()).collect();
            let script = Script::of(sent.into_iter().map(Ok));
            let mut ahead = Ahead::after(script, &before);
            let read = futures::executor::block_on(async {
                let (mut read, mut buffer) = (Vec::new(), vec![0; step]);
                loop {
                    match ahead.read(&mut buffer).await.expect("it does not fail") {
                        0 => return read,
                        count => read.extend_from_slice(&buffer[..count]),
                    }
                }
            });
            prop_assert!(read == whole);
            prop_assert!(!ahead.has_more(), "and nothing is kept for a connection that is idle");
        }
    }

    #[tokio::test]
    async fn the_first_byte_is_looked_at_and_stays() {
        let mut ahead = Ahead::new(Script::of([Ok(Vec::new()), Ok(b"\x16hello".to_vec())]));
        assert_eq!(ahead.first().await.unwrap(), Some(0x16));
        assert_eq!(ahead.first().await.unwrap(), Some(0x16));
        let mut read = Vec::new();
        ahead.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"\x16hello");
        assert_eq!(ahead.first().await.unwrap(), None, "the end");
        let mut failing = Ahead::new(Script::of([Err(broken())]));
        assert_eq!(failing.first().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn records_that_are_here_come_together_and_a_failure_behind_them() {
        let (one, two, three) = (vec![1; 16_384], vec![2; 16_384], vec![3; 100]);
        let given = [Ok(one), Ok(two), Ok(Vec::new()), Ok(three), Err(broken())];
        let mut together = Together::new(Script::of(given));
        let mut buffer = vec![0; TOGETHER];
        assert_eq!(
            together.read(&mut buffer).await.unwrap(),
            32_768,
            "what came until nothing did"
        );
        assert_eq!((buffer[0], buffer[16_383], buffer[16_384]), (1, 1, 2));
        assert_eq!(together.read(&mut buffer).await.unwrap(), 100, "and what came before it broke");
        let failure = together.read(&mut buffer).await.unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::ConnectionReset);
        let mut small = Together::new(Script::of([Ok(vec![7; 10]), Ok(vec![8; 10])]));
        let mut few = [0; 4];
        assert_eq!(small.read(&mut few).await.unwrap(), 4, "no more than there is room for");
    }
}
