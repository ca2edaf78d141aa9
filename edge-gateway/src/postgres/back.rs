//! The way back: what the server says, in its order and as it is, with our own words between it where they belong. The
//! real password is masked in whatever is said about a statement; rows are not looked through for it, because a server that
//! was convinced by SCRAM has never been told it.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::figures::is_aside;
use super::ledger::{Ledger, Passed};
use super::message::{Fields, HEADER, Malformed, body_length, write};
use super::session::{End, Out, Session};
use crate::redact::Masker;

/// Of messages other than rows and what is copied, which pass in pieces.
const MOST_OF_A_MESSAGE: usize = 16 * 1024 * 1024;
const READ: usize = 32 * 1024;
/// So much is written at a time.
const WRITTEN: usize = 64 * 1024;

pub(super) struct Back<'a, R> {
    session: &'a Session,
    from: R,
    read: BytesMut,
    masker: Option<Masker>,
    /// Bytes of a row, or of what is copied, that still have to pass.
    passing: usize,
    out: BytesMut,
}

impl<'a, R: AsyncRead + Unpin> Back<'a, R> {
    pub(super) fn new(session: &'a Session, from: R, read: BytesMut) -> Self {
        let masker = session.redactor.masker();
        Self { session, from, read, masker, passing: 0, out: BytesMut::new() }
    }

    /// Passes on what comes, until something ends that.
    pub(super) async fn run<W: AsyncWrite + Unpin>(&mut self, to: &mut Out<W>) -> End {
        loop {
            let more = match self.take() {
                Ok(more) => more,
                Err(Malformed(what)) => return End::ServerMalformed(what),
            };
            self.session.moved.notify_one();
            if self.session.ledger().misread {
                return End::Malformed(
                    "a client_encoding other than UTF8, in which nothing can be read",
                );
            }
            let written = to.write(&self.out, self.passing == 0).await;
            self.out.clear();
            if written.is_err() {
                return End::Gone;
            }
            if more {
                continue;
            }
            self.read.reserve(READ);
            tokio::select! {
                read = self.from.read_buf(&mut self.read) => match read {
                    Ok(0) | Err(_) => return End::ServerGone,
                    Ok(_) => {}
                },
                () = self.session.words.notified() => {}
            }
        }
    }

    /// Takes what is here into `out`; true when there is more than fits into it at a time.
    fn take(&mut self) -> Result<bool, Malformed> {
        let Self { session, read, masker, passing, out, .. } = self;
        let mut ledger = session.ledger();
        loop {
            if *passing > 0 {
                let now = (*passing).min(read.len());
                out.extend_from_slice(&read.split_to(now));
                *passing -= now;
                if *passing > 0 {
                    return Ok(false);
                }
            }
            while let Some(words) = ledger.ours() {
                out.extend_from_slice(&words);
            }
            if out.len() >= WRITTEN {
                return Ok(true);
            }
            let Some(length) = body_length(read)? else { return Ok(false) };
            let tag = read[0];
            if matches!(tag, b'D' | b'd') && !ledger.hears_figures() {
                ledger.answered(tag, &[])?;
                *passing = HEADER + length;
                continue;
            }
            if length > MOST_OF_A_MESSAGE {
                return Err(Malformed("a message that is longer than such messages may be"));
            }
            if read.len() < HEADER + length {
                return Ok(false);
            }
            let message = read.split_to(HEADER + length).freeze();
            pass(&mut ledger, masker.as_mut(), tag, message, out)?;
        }
    }
}

fn pass(
    ledger: &mut Ledger,
    masker: Option<&mut Masker>,
    tag: u8,
    message: Bytes,
    out: &mut BytesMut,
) -> Result<(), Malformed> {
    let body = message.slice(HEADER..);
    let words = match tag {
        b'N' if ledger.hears_figures() && is_aside(&body) => Passed::Nothing,
        b'A' | b'N' => Passed::AsItIs,
        b'S' => {
            let mut fields = Fields(&body);
            let (name, value) = (fields.text()?, fields.text()?);
            fields.end()?;
            ledger.reported(&name, &value);
            Passed::AsItIs
        }
        _ => ledger.answered(tag, &body)?,
    };
    match words {
        Passed::Instead(words) => out.extend_from_slice(&words),
        Passed::Nothing => {}
        Passed::AsItIs if matches!(tag, b'A' | b'E' | b'N' | b'S') => {
            write(out, tag, |out| masked(masker, body, out));
        }
        Passed::AsItIs => out.extend_from_slice(&message),
    }
    Ok(())
}

/// As it is, with a `*` for each byte of a key.
pub(super) fn masked(masker: Option<&mut Masker>, body: Bytes, out: &mut BytesMut) {
    match masker {
        None => out.extend_from_slice(&body),
        Some(masker) => {
            out.extend_from_slice(&masker.pass(body));
            out.extend_from_slice(&masker.flush());
        }
    }
}
