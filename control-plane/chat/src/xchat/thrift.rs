//! Thrift's binary protocol, as far as X writes its encrypted chat in it; read strictly and within bounds.
//!
//! thrift.apache.org: "Thrift Binary protocol encoding". A struct is its fields, each a type, an id and a value, and a zero;
//! numbers are big-endian, and strings and lists say their length in four bytes.

use std::collections::BTreeMap;

/// A message has four structs in one another, and a reply that quotes another's message some more.
const DEEPEST: usize = 24;
/// Of values in all: a message has some thirty, a change of keys three for each person.
const MOST: usize = 4096;

const BOOL: u8 = 2;
const STRING: u8 = 11;
const STRUCT: u8 = 12;
const LIST: u8 = 15;

/// A struct by the ids of its fields.
#[derive(Debug)]
pub(super) struct Fields<'a>(BTreeMap<i16, Value<'a>>);

#[derive(Debug)]
enum Value<'a> {
    Bytes(&'a [u8]),
    List(Vec<Self>),
    /// Of a type that nothing here asks for.
    Other,
    Struct(Fields<'a>),
}

impl<'a> Fields<'a> {
    /// All of the bytes are one struct, and no field of it is there twice; nothing else is read.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader { rest: bytes, values: 0 };
        let fields = reader.fields(0)?;
        reader.rest.is_empty().then_some(fields)
    }

    pub(super) fn bytes(&self, id: i16) -> Option<&'a [u8]> {
        match self.0.get(&id)? {
            Value::Bytes(bytes) => Some(*bytes),
            _ => None,
        }
    }

    pub(super) fn text(&self, id: i16) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(id)?).ok()
    }

    pub(super) fn fields(&self, id: i16) -> Option<&Self> {
        match self.0.get(&id)? {
            Value::Struct(fields) => Some(fields),
            _ => None,
        }
    }

    /// A list of structs.
    pub(super) fn each(&self, id: i16) -> Option<impl Iterator<Item = &Self>> {
        let Value::List(values) = self.0.get(&id)? else { return None };
        Some(values.iter().filter_map(|value| match value {
            Value::Struct(fields) => Some(fields),
            _ => None,
        }))
    }

    /// A union is a struct with one field.
    pub(super) fn only(&self) -> Option<(i16, &Self)> {
        let mut all = self.0.iter();
        match (all.next()?, all.next()) {
            ((id, Value::Struct(fields)), None) => Some((*id, fields)),
            _ => None,
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    values: usize,
}

impl<'a> Reader<'a> {
    fn fields(&mut self, depth: usize) -> Option<Fields<'a>> {
        let mut fields = BTreeMap::new();
        loop {
            let [kind] = self.array()?;
            if kind == 0 {
                return Some(Fields(fields));
            }
            let id = i16::from_be_bytes(self.array()?);
            let value = self.value(kind, depth)?;
            if fields.insert(id, value).is_some() {
                return None;
            }
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Option<Value<'a>> {
        self.values += 1;
        if depth >= DEEPEST || self.values > MOST {
            return None;
        }
        let mut skip = |length| self.take(length).map(|_| Value::Other);
        match kind {
            BOOL | 3 => skip(1),
            6 => skip(2),
            8 => skip(4),
            4 | 10 => skip(8),
            STRING => {
                let length = self.length()?;
                self.take(length).map(Value::Bytes)
            }
            STRUCT => self.fields(depth + 1).map(Value::Struct),
            // A map's keys and values follow one another.
            13 => {
                let [key, value] = self.array()?;
                for _ in 0..self.length()? {
                    self.value(key, depth + 1)?;
                    self.value(value, depth + 1)?;
                }
                Some(Value::Other)
            }
            14 | LIST => {
                let [kind] = self.array()?;
                let length = self.length()?;
                let values = (0..length).map(|_| self.value(kind, depth + 1));
                values.collect::<Option<_>>().map(Value::List)
            }
            _ => None,
        }
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(i32::from_be_bytes(self.array()?)).ok()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

/// A struct as it is written, field by field.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn boolean(self, id: i16, value: bool) -> Self {
        self.field(BOOL, id, &[u8::from(value)])
    }

    /// Text, or bytes.
    pub(super) fn string(self, id: i16, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.field(STRING, id, &length(value.len())).then(value)
    }

    pub(super) fn structure(self, id: i16, value: Self) -> Self {
        self.field(STRUCT, id, &value.finished())
    }

    pub(super) fn list(self, id: i16, values: Vec<Self>) -> Self {
        let list = self.field(LIST, id, &[STRUCT]).then(&length(values.len()));
        values.into_iter().fold(list, |list, value| list.then(&value.finished()))
    }

    pub(super) fn finished(self) -> Vec<u8> {
        self.then(&[0]).0
    }

    fn field(self, kind: u8, id: i16, value: &[u8]) -> Self {
        self.then(&[kind]).then(&id.to_be_bytes()).then(value)
    }

    fn then(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Nothing that is written here comes near two gigabytes.
fn length(of: usize) -> [u8; 4] {
    i32::try_from(of).unwrap_or(i32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written() -> Vec<u8> {
        let person = |name: &str| Writer::default().string(1, name).string(3, "7");
        Writer::default()
            .string(1, "one")
            .boolean(102, true)
            .structure(7, Writer::default().structure(3, person("inner")))
            .list(9, vec![person("first"), person("second")])
            .finished()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = written();
        let fields = Fields::parse(&bytes).unwrap();
        assert_eq!(fields.text(1), Some("one"));
        let (id, inner) = fields.fields(7).unwrap().only().unwrap();
        assert_eq!((id, inner.text(1)), (3, Some("inner")));
        let names: Vec<_> = fields.each(9).unwrap().filter_map(|it| it.text(1)).collect();
        assert_eq!(names, ["first", "second"]);
        assert!(
            fields.text(102).is_none() && fields.fields(1).is_none() && fields.only().is_none()
        );
    }

    #[test]
    fn every_type_is_passed_over_that_nothing_asks_for() {
        let mut bytes = vec![3, 0, 1, 9];
        bytes.extend([6, 0, 2, 0, 1]);
        bytes.extend([8, 0, 3, 0, 0, 0, 1]);
        bytes.extend([10, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend([4, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([13, 0, 6, 11, 8, 0, 0, 0, 1, 0, 0, 0, 1, b'k', 0, 0, 0, 5]);
        bytes.extend([14, 0, 7, 11, 0, 0, 0, 1, 0, 0, 0, 1, b'v']);
        bytes.extend([11, 0, 8, 0, 0, 0, 2, b'i', b't', 0]);
        assert_eq!(Fields::parse(&bytes).unwrap().text(8), Some("it"));
    }

    #[test]
    fn what_is_cut_or_goes_on_or_says_a_thing_twice_or_lies_about_its_size_is_not_read() {
        let bytes = written();
        for end in 0..bytes.len() {
            assert!(Fields::parse(&bytes[..end]).is_none(), "{end}");
        }
        assert!(Fields::parse(&[&bytes[..], &[0]].concat()).is_none(), "it goes on");
        let twice = Writer::default().string(1, "a").string(1, "b").finished();
        assert!(Fields::parse(&twice).is_none(), "a field twice");
        for liar in [
            vec![11, 0, 1, 0x7f, 0xff, 0xff, 0xff, 0],
            vec![11, 0, 1, 0xff, 0xff, 0xff, 0xff, 0],
            vec![15, 0, 1, 2, 0x7f, 0xff, 0xff, 0xff, 0],
            vec![15, 0, 1, 0, 0, 0, 0, 1, 0],
            vec![16, 0, 1, 0, 0],
        ] {
            assert!(Fields::parse(&liar).is_none(), "{liar:?}");
        }
    }

    #[test]
    fn neither_depth_nor_number_is_without_bounds() {
        let nested = |depth: usize| {
            let mut bytes = [STRUCT, 0, 1].repeat(depth);
            bytes.extend(vec![0; depth + 1]);
            bytes
        };
        assert!(Fields::parse(&nested(DEEPEST)).is_some());
        assert!(Fields::parse(&nested(DEEPEST + 1)).is_none());
        assert!(Fields::parse(&nested(1_000_000)).is_none());
        let many = |count: usize| {
            let mut bytes = vec![LIST, 0, 1, BOOL];
            bytes.extend(length(count));
            bytes.extend(vec![1; count]);
            bytes.push(0);
            bytes
        };
        assert!(Fields::parse(&many(MOST - 1)).is_some());
        assert!(Fields::parse(&many(MOST)).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fall(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Fields::parse(&bytes);
        }
    }
}
