//! Messages of the protocol, version 3 (PostgreSQL's manual, "Message Formats"): read strictly, in bounds, and written.
//! Pure: whoever calls it has the bytes. What has two readings, or none, ends the connection that it came on.

use std::fmt;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// What is not a message as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is {}", self.0)
    }
}

/// Of messages that hold names alone.
const SMALL: usize = 8 * 1024;
/// Tag and length.
pub(crate) const HEADER: usize = 5;

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frontend {
    Bind(Bind),
    /// Of a prepared statement or of a portal, as the whole message is.
    Close {
        of: Of,
        name: String,
    },
    CopyData(Bytes),
    CopyDone,
    CopyFail(String),
    Describe {
        of: Of,
        name: String,
    },
    Execute {
        portal: String,
        /// 0: all of them.
        rows: i32,
    },
    Flush,
    FunctionCall,
    Parse(Parse),
    Query(String),
    Sync,
    Terminate,
}

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Portal,
    Statement,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parse {
    pub(crate) name: String,
    pub(crate) text: String,
    /// Object ids of the parameters' types: 0, or none, where the server is to find out.
    pub(crate) types: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) portal: String,
    pub(crate) statement: String,
    pub(crate) parameters: Vec<Value>,
    /// Of the columns that come back: none, one for all, or one for each.
    pub(crate) results: Vec<Format>,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Binary,
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Binary(Bytes),
    Null,
    Text(String),
}

/// Takes the next message out of what an agent has sent, once it is whole; `most` is how long a statement, its values, or
/// a piece of what is copied may be.
///
/// # Errors
/// [`Malformed`], as early as it can be told.
pub(crate) fn next(read: &mut BytesMut, most: usize) -> Result<Option<Frontend>, Malformed> {
    let Some(&tag) = read.first() else { return Ok(None) };
    let limit = match tag {
        b'B' | b'P' | b'Q' | b'd' => most,
        b'C' | b'D' | b'E' | b'F' | b'f' => SMALL,
        b'H' | b'S' | b'X' | b'c' => 0,
        b'p' => return Err(Malformed("a password where none was asked for")),
        _ => return Err(Malformed("a message of a kind that is not known")),
    };
    let Some(length) = body_length(read)? else { return Ok(None) };
    // A call of a function is refused whatever it says, and read to its end.
    if length > limit && tag != b'F' || length > most {
        return Err(Malformed("a message that is longer than such messages may be"));
    }
    if read.len() < HEADER + length {
        return Ok(None);
    }
    read.advance(HEADER);
    let body = read.split_to(length).freeze();
    let mut fields = Fields(&body);
    let message = match tag {
        b'B' => Frontend::Bind(bind(&mut fields)?),
        b'C' => Frontend::Close { of: of(&mut fields)?, name: fields.text()? },
        b'D' => Frontend::Describe { of: of(&mut fields)?, name: fields.text()? },
        b'E' => Frontend::Execute { portal: fields.text()?, rows: fields.i32()? },
        b'F' => return Ok(Some(Frontend::FunctionCall)),
        b'H' => Frontend::Flush,
        b'P' => Frontend::Parse(parse(&mut fields)?),
        b'Q' => Frontend::Query(fields.text()?),
        b'S' => Frontend::Sync,
        b'X' => Frontend::Terminate,
        b'c' => Frontend::CopyDone,
        b'd' => return Ok(Some(Frontend::CopyData(body))),
        _ => Frontend::CopyFail(fields.text()?),
    };
    fields.end()?;
    Ok(Some(message))
}

/// The length of the body of a message that begins here, once that is known.
///
/// # Errors
/// A length that does not count itself.
pub(crate) fn body_length(read: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(length) = read.get(1..HEADER).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()) else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(length);
    let body = length.checked_sub(4).and_then(|body| usize::try_from(body).ok());
    body.map(Some).ok_or(Malformed("a message whose length is less than its own"))
}

/// Takes the next message out of what a server has sent: its kind, and its body of at most `most` bytes.
///
/// # Errors
/// [`Malformed`].
pub(crate) fn from_server(
    read: &mut BytesMut,
    most: usize,
) -> Result<Option<(u8, Bytes)>, Malformed> {
    let Some(length) = body_length(read)? else { return Ok(None) };
    if length > most {
        return Err(Malformed("a message that is longer than such messages may be"));
    }
    if read.len() < HEADER + length {
        return Ok(None);
    }
    let tag = read[0];
    read.advance(HEADER);
    Ok(Some((tag, read.split_to(length).freeze())))
}

fn parse(fields: &mut Fields<'_>) -> Result<Parse, Malformed> {
    let (name, text) = (fields.text()?, fields.text()?);
    let count = fields.count()?;
    let types = (0..count).map(|_| fields.u32()).collect::<Result<_, _>>()?;
    Ok(Parse { name, text, types })
}

fn bind(fields: &mut Fields<'_>) -> Result<Bind, Malformed> {
    let (portal, statement) = (fields.text()?, fields.text()?);
    let formats = formats(fields)?;
    let count = fields.count()?;
    let format = |index: usize| match formats.as_slice() {
        [] => Ok(Format::Text),
        [one] => Ok(*one),
        each if each.len() == count => Ok(each[index]),
        _ => Err(Malformed("a Bind with another number of formats than of values")),
    };
    let mut parameters = Vec::new();
    for index in 0..count {
        let format = format(index)?;
        let length = fields.i32()?;
        parameters.push(match (usize::try_from(length), format) {
            (Err(_), _) if length == -1 => Value::Null,
            (Err(_), _) => return Err(Malformed("a value of negative length")),
            (Ok(length), Format::Binary) => {
                Value::Binary(Bytes::copy_from_slice(fields.bytes(length)?))
            }
            (Ok(length), Format::Text) => Value::Text(utf8(fields.bytes(length)?)?),
        });
    }
    let results = self::formats(fields)?;
    Ok(Bind { portal, statement, parameters, results })
}

fn formats(fields: &mut Fields<'_>) -> Result<Vec<Format>, Malformed> {
    let count = fields.count()?;
    let format = |_| match fields.u16()? {
        0 => Ok(Format::Text),
        1 => Ok(Format::Binary),
        _ => Err(Malformed("a format that is neither text nor binary")),
    };
    (0..count).map(format).collect()
}

fn of(fields: &mut Fields<'_>) -> Result<Of, Malformed> {
    match fields.bytes(1)? {
        b"P" => Ok(Of::Portal),
        b"S" => Ok(Of::Statement),
        _ => Err(Malformed("something other than a statement or a portal")),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        Ok(_) => Err(Malformed("a NUL inside text")),
        Err(_) => Err(Malformed("text that is not UTF-8")),
    }
}

/// The fields of a message's body, in their order.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(Malformed("a message that ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| Malformed("a message that ends too early"))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    /// How many there are of what follows: servers take it for a number without a sign.
    fn count(&mut self) -> Result<usize, Malformed> {
        self.u16().map(usize::from)
    }

    /// Text that a NUL ends.
    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        let end = memchr(self.0).ok_or(Malformed("text without its end"))?;
        let text = utf8(&self.0[..end])?;
        self.0 = &self.0[end + 1..];
        Ok(text)
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed("a message that goes on after its end"))
        }
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == 0)
}

/// Writes a message: its kind, its length, and what `body` writes.
pub(crate) fn write(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    framed(out, body);
}

/// Writes what a connection begins with, which has no kind.
pub(crate) fn framed(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_i32(0);
    body(out);
    // What is longer than a message can be was refused where it came in.
    let length = i32::try_from(out.len() - at).unwrap_or(i32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Writes text and the NUL that ends it. Text with a NUL in it is never made here.
pub(crate) fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

pub(crate) fn put_query(out: &mut BytesMut, text: &str) {
    write(out, b'Q', |out| put_text(out, text));
}

pub(crate) fn put_parse(out: &mut BytesMut, parse: &Parse) {
    write(out, b'P', |out| {
        put_text(out, &parse.name);
        put_text(out, &parse.text);
        put_count(out, parse.types.len());
        parse.types.iter().for_each(|oid| out.put_u32(*oid));
    });
}

pub(crate) fn put_bind(out: &mut BytesMut, bind: &Bind) {
    write(out, b'B', |out| {
        put_text(out, &bind.portal);
        put_text(out, &bind.statement);
        put_count(out, bind.parameters.len());
        for value in &bind.parameters {
            out.put_u16(u16::from(matches!(value, Value::Binary(_))));
        }
        put_count(out, bind.parameters.len());
        for value in &bind.parameters {
            let bytes = match value {
                Value::Binary(bytes) => bytes,
                Value::Text(text) => text.as_bytes(),
                Value::Null => {
                    out.put_i32(-1);
                    continue;
                }
            };
            // Shorter than the message, whose length was an i32.
            out.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
            out.put_slice(bytes);
        }
        put_count(out, bind.results.len());
        bind.results.iter().for_each(|format| out.put_u16(u16::from(*format == Format::Binary)));
    });
}

/// What was counted in 16 bits where it came in.
fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
}

pub(crate) fn put_named(out: &mut BytesMut, tag: u8, of: Of, name: &str) {
    write(out, tag, |out| {
        out.put_u8(if of == Of::Portal { b'P' } else { b'S' });
        put_text(out, name);
    });
}

pub(crate) fn put_execute(out: &mut BytesMut, portal: &str, rows: i32) {
    write(out, b'E', |out| {
        put_text(out, portal);
        out.put_i32(rows);
    });
}

/// A message without a body.
pub(crate) fn put_bare(out: &mut BytesMut, tag: u8) {
    write(out, tag, |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1024 * 1024;

    fn all(bytes: &[u8]) -> Result<Vec<Frontend>, Malformed> {
        let mut read = BytesMut::from(bytes);
        let mut messages = Vec::new();
        while let Some(message) = next(&mut read, MOST)? {
            messages.push(message);
        }
        assert!(read.is_empty(), "nothing is left over");
        Ok(messages)
    }

    fn written(messages: &[Frontend]) -> BytesMut {
        let mut out = BytesMut::new();
        for message in messages {
            match message {
                Frontend::Bind(bind) => put_bind(&mut out, bind),
                Frontend::Close { of, name } => put_named(&mut out, b'C', *of, name),
                Frontend::CopyData(data) => write(&mut out, b'd', |out| out.put_slice(data)),
                Frontend::CopyDone => put_bare(&mut out, b'c'),
                Frontend::CopyFail(why) => write(&mut out, b'f', |out| put_text(out, why)),
                Frontend::Describe { of, name } => put_named(&mut out, b'D', *of, name),
                Frontend::Execute { portal, rows } => put_execute(&mut out, portal, *rows),
                Frontend::Flush => put_bare(&mut out, b'H'),
                Frontend::FunctionCall => write(&mut out, b'F', |out| out.put_u32(1)),
                Frontend::Parse(parse) => put_parse(&mut out, parse),
                Frontend::Query(text) => put_query(&mut out, text),
                Frontend::Sync => put_bare(&mut out, b'S'),
                Frontend::Terminate => put_bare(&mut out, b'X'),
            }
        }
        out
    }

    fn every_kind() -> Vec<Frontend> {
        vec![
            Frontend::Parse(Parse {
                name: "s".into(),
                text: "select $1, 'é'".into(),
                types: vec![23, 0],
            }),
            Frontend::Bind(Bind {
                portal: String::new(),
                statement: "s".into(),
                parameters: vec![
                    Value::Text("1".into()),
                    Value::Binary(Bytes::from_static(b"\0\xff")),
                    Value::Null,
                ],
                results: vec![Format::Binary],
            }),
            Frontend::Describe { of: Of::Portal, name: String::new() },
            Frontend::Execute { portal: String::new(), rows: 7 },
            Frontend::Close { of: Of::Statement, name: "s".into() },
            Frontend::Flush,
            Frontend::Sync,
            Frontend::Query("select 1; select 2".into()),
            Frontend::CopyData(Bytes::from_static(b"a\tb\n")),
            Frontend::CopyDone,
            Frontend::CopyFail("no".into()),
            Frontend::FunctionCall,
            Frontend::Terminate,
        ]
    }

    #[test]
    fn every_message_is_read_as_it_was_written_whatever_pieces_it_comes_in() {
        let bytes = written(&every_kind());
        assert_eq!(all(&bytes), Ok(every_kind()));
        for size in [1, 2, 3, 7, 64] {
            let (mut read, mut messages) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(size) {
                read.extend_from_slice(piece);
                while let Some(message) = next(&mut read, MOST).expect("messages") {
                    messages.push(message);
                }
            }
            assert_eq!(messages, every_kind(), "in pieces of {size}");
        }
    }

    #[test]
    fn lengths_that_lie_end_it() {
        let query = |length: i32, text: &[u8]| [b"Q", &length.to_be_bytes()[..], text].concat();
        for (bytes, why) in [
            (query(3, b""), "less than its own"),
            (query(-1, b""), "less than its own"),
            (query(i32::MIN, b""), "less than its own"),
            (query(i32::MAX, b""), "longer than"),
            (query(4, b""), "without its end"),
            (query(7, b"abc"), "without its end"),
            (query(8, b"a\0b\0"), "after its end"),
            (query(6, b"\xff\0"), "not UTF-8"),
        ] {
            let refused = all(&bytes).expect_err("it is refused").to_string();
            assert!(refused.contains(why), "{refused}");
        }
        // It is not waited for what would be refused.
        assert!(next(&mut BytesMut::from(&b"E\0\x10\0\0"[..]), MOST).is_err());
        assert_eq!(next(&mut BytesMut::from(&b"Q\0\0"[..]), MOST), Ok(None));
        assert_eq!(next(&mut BytesMut::from(&b"Q\0\0\0\x09sel"[..]), MOST), Ok(None));
    }

    #[test]
    fn kinds_that_are_not_known_end_it_at_their_first_byte() {
        for tag in 0..=u8::MAX {
            let known = b"BCDEFHPQSXcdf".contains(&tag);
            let begun = next(&mut BytesMut::from(&[tag][..]), MOST);
            assert_eq!(begun.is_ok(), known, "{tag}");
        }
    }

    #[test]
    fn values_and_their_formats_have_to_agree() {
        let bind = |body: &[u8]| {
            let mut out = BytesMut::new();
            write(&mut out, b'B', |out| out.put_slice(body));
            all(&out)
        };
        // Portal, statement, formats, values, results.
        assert!(bind(b"\0\0\0\0\0\x01\0\0\0\x01x\0\0").is_ok());
        for (body, what) in [
            (&b"\0\0\0\x02\0\0\0\0\0\x01\0\0\0\x01x\0\0"[..], "two formats for one value"),
            (b"\0\0\0\x01\0\x02\0\x01\0\0\0\x01x\0\0", "a format of 2"),
            (b"\0\0\0\0\0\x01\xff\xff\xff\xfex\0\0", "a length of -2"),
            (b"\0\0\0\0\0\x01\0\0\0\x09x\0\0", "a length beyond the end"),
            (b"\0\0\0\0\xff\xff\0\0\0\x01x\0\0", "65535 values, and one of them there"),
            (b"\0\0\0\0\0\x01\0\0\0\x01\0\0\0", "a NUL in text"),
            (b"\0\0\0\0\0\x01\0\0\0\x01x\0\0x", "more after the end"),
        ] {
            assert!(bind(body).is_err(), "{what}");
        }
    }
}
