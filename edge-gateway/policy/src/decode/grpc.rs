//! gRPC: the one message of a request, by the descriptors that a policy has.
//!
//! Protocol Buffers are read here and not by a library that keeps what it does not know and lets the last of several values
//! win: a field that no descriptor names, one that is there twice, two of a `oneof`, a number that does not fit, a group, and a
//! varint that is longer than it has to be are undecidable. The descriptors are linked by `prost-reflect`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};
use sha2::{Digest as _, Sha256};

use crate::Head;
use crate::body::{Undecodable, most_decoded};
use crate::decode::coding::Coding;
use crate::json::Json;

/// The descriptor sets of a policy.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    pools: Vec<DescriptorPool>,
    digest: Sha256,
}

impl Descriptors {
    /// Adds a serialized `google.protobuf.FileDescriptorSet`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn add(&mut self, set: &[u8]) -> Result<(), String> {
        let pool = DescriptorPool::decode(set)
            .map_err(|why| format!("it is no FileDescriptorSet with all that it imports: {why}"))?;
        if pool.services().len() == 0 {
            return Err("it has no service".to_owned());
        }
        for service in pool.services() {
            if self
                .pools
                .iter()
                .any(|other| other.get_service_by_name(service.full_name()).is_some())
            {
                let name = service.full_name();
                return Err(format!("another descriptor has the service {name} as well"));
            }
        }
        self.digest.update((set.len() as u64).to_be_bytes());
        self.digest.update(set);
        self.pools.push(pool);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// Other sets have another one.
    pub(crate) fn digest(&self) -> String {
        self.digest.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The method of `/package.Service/Method`.
    pub(crate) fn method(&self, path: &str) -> Option<MethodDescriptor> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let service = self.pools.iter().find_map(|pool| pool.get_service_by_name(service))?;
        service.methods().find(|it| it.name() == method)
    }
}

/// A message as fields by their names in the `.proto` file. Fields without presence that are not there have their default, bytes
/// are base64, and enumerations their names.
pub(crate) type Message = Json<'static>;

const FRAME: Undecodable = Undecodable("a body that is not one message of gRPC");
const BROKEN: Undecodable = Undecodable("a message that is not as its descriptor has it");
const DOUBTFUL: Undecodable = Undecodable("a message with a field that readers do not agree on");
const DEEPEST: usize = 64;
const MOST_VALUES: usize = 100_000;

/// Reads a request. `body` is as it would leave.
///
/// # Errors
/// A method that no descriptor has or that takes many messages, and a message that is not as its descriptor has it.
pub(crate) fn read(
    descriptors: &Descriptors,
    head: &Head<'_>,
    body: &[u8],
) -> Result<Message, Undecodable> {
    let one = |name| {
        let mut values = head.headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).map(|value| value.as_bytes())
    };
    let is_grpc =
        matches!(one(CONTENT_TYPE), Some(b"application/grpc" | b"application/grpc+proto"));
    if head.method != http::Method::POST || !is_grpc {
        return Err(Undecodable("a request that is not gRPC with Protocol Buffers"));
    }
    if head.headers.contains_key(CONTENT_ENCODING) || head.query.is_some() {
        return Err(Undecodable("a call of gRPC with a Content-Encoding or a query"));
    }
    let method = descriptors
        .method(head.path)
        .ok_or(Undecodable("a call of gRPC that no descriptor of the policy has"))?;
    if method.is_client_streaming() {
        return Err(Undecodable("a call of gRPC that takes a stream of messages"));
    }
    let (frame, message) = body.split_at_checked(5).ok_or(FRAME)?;
    let [flag, length @ ..] = frame else { return Err(FRAME) };
    let length = length.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    if length != message.len() as u64 {
        return Err(FRAME);
    }
    let said = head.headers.contains_key("grpc-encoding");
    let message = match (flag, one(http::HeaderName::from_static("grpc-encoding"))) {
        (0, _) => Cow::Borrowed(message),
        (1, Some(name)) if said => {
            let name = std::str::from_utf8(name).map_err(|_| FRAME)?;
            let coding = Coding::named(name);
            let coding = coding.ok_or(Undecodable("a message in a coding that is not known"))?;
            Cow::Owned(coding.take_off(message, most_decoded(message.len()))?)
        }
        _ => return Err(FRAME),
    };
    let mut values = 0;
    read_message(&method.input(), &message, 0, &mut values)
}

/// One value as it is on the wire.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64(u64),
    Varint(u64),
}

fn read_message(
    descriptor: &MessageDescriptor,
    bytes: &[u8],
    depth: usize,
    values: &mut usize,
) -> Result<Message, Undecodable> {
    if depth > DEEPEST {
        return Err(Undecodable("a message that is nested too deeply"));
    }
    let mut found: BTreeMap<u32, Vec<Raw<'_>>> = BTreeMap::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, raw) = field(&mut rest)?;
        count(values)?;
        found.entry(number).or_default().push(raw);
    }
    if found.keys().any(|number| descriptor.get_field(*number).is_none()) {
        return Err(Undecodable("a message with a field that its descriptor does not have"));
    }
    for oneof in descriptor.oneofs() {
        let there = oneof.fields().filter(|field| found.contains_key(&field.number()));
        if there.count() > 1 {
            return Err(DOUBTFUL);
        }
    }
    let mut members = Vec::new();
    for field in descriptor.fields() {
        let raws = found.get(&field.number()).map_or(&[][..], Vec::as_slice);
        if let Some(value) = value_of(&field, raws, depth, values)? {
            members.push((Cow::Owned(field.name().to_owned()), value));
        }
    }
    Ok(Json::Object(members))
}

/// What a field holds; None where it is not there and would have said so.
fn value_of(
    field: &FieldDescriptor,
    raws: &[Raw<'_>],
    depth: usize,
    values: &mut usize,
) -> Result<Option<Message>, Undecodable> {
    let kind = field.kind();
    if field.is_group() {
        return if raws.is_empty() { Ok(None) } else { Err(DOUBTFUL) };
    }
    if field.is_map() {
        return entries(&kind, raws, depth, values).map(Some);
    }
    if field.is_list() {
        let mut items = Vec::new();
        for raw in raws {
            match raw {
                Raw::Bytes(packed) if wire(&kind) != Wire::Bytes => {
                    let mut rest = *packed;
                    while !rest.is_empty() {
                        count(values)?;
                        let raw = match wire(&kind) {
                            Wire::Fixed32 => Raw::Fixed32(fixed32(&mut rest)?),
                            Wire::Fixed64 => Raw::Fixed64(fixed64(&mut rest)?),
                            Wire::Bytes | Wire::Varint => Raw::Varint(varint(&mut rest)?),
                        };
                        items.push(scalar(&kind, raw, depth, values)?);
                    }
                }
                raw => items.push(scalar(&kind, *raw, depth, values)?),
            }
        }
        return Ok(Some(Json::List(items)));
    }
    match raws {
        [] if field.is_required() => Err(BROKEN),
        [] if field.supports_presence() => Ok(None),
        [] => default(&kind).map(Some),
        [raw] => scalar(&kind, *raw, depth, values).map(Some),
        _ => Err(DOUBTFUL),
    }
}

/// A map, whose keys are written as text.
fn entries(
    kind: &Kind,
    raws: &[Raw<'_>],
    depth: usize,
    values: &mut usize,
) -> Result<Message, Undecodable> {
    let entry = kind.as_message().ok_or(BROKEN)?;
    let mut members: BTreeMap<String, Message> = BTreeMap::new();
    for raw in raws {
        let Raw::Bytes(bytes) = raw else { return Err(BROKEN) };
        let read = read_message(entry, bytes, depth + 1, values)?;
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let part = |field: &FieldDescriptor| match read.member(field.name()) {
            Some(there) => Ok(there.clone()),
            None => default(&field.kind()),
        };
        let key = match part(&key)? {
            Json::Text(text) => text.into_owned(),
            Json::Whole(number) => number.to_string(),
            Json::Large(number) => number.to_string(),
            Json::Flag(flag) => flag.to_string(),
            Json::Fraction(_) | Json::List(_) | Json::Null | Json::Object(_) => return Err(BROKEN),
        };
        if members.insert(key, part(&value)?).is_some() {
            return Err(DOUBTFUL);
        }
    }
    Ok(Json::Object(members.into_iter().map(|(key, value)| (Cow::Owned(key), value)).collect()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Bytes,
    Fixed32,
    Fixed64,
    Varint,
}

fn wire(kind: &Kind) -> Wire {
    match kind {
        Kind::Bytes | Kind::Message(_) | Kind::String => Wire::Bytes,
        Kind::Fixed32 | Kind::Float | Kind::Sfixed32 => Wire::Fixed32,
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => Wire::Fixed64,
        _ => Wire::Varint,
    }
}

fn scalar(
    kind: &Kind,
    raw: Raw<'_>,
    depth: usize,
    values: &mut usize,
) -> Result<Message, Undecodable> {
    let whole = |number: i64| Ok(Json::Whole(number));
    let large = |number: u64| Ok(i64::try_from(number).map_or(Json::Large(number), Json::Whole));
    let fraction = |number: f64| match number.is_finite() {
        true => Ok(Json::Fraction(number)),
        false => Err(DOUBTFUL),
    };
    match (kind, raw) {
        (Kind::Bool, Raw::Varint(number @ 0..=1)) => Ok(Json::Flag(number == 1)),
        (Kind::Bytes, Raw::Bytes(bytes)) => Ok(Json::Text(STANDARD.encode(bytes).into())),
        (Kind::Double, Raw::Fixed64(bits)) => fraction(f64::from_bits(bits)),
        (Kind::Enum(named), Raw::Varint(number)) => {
            let number = i32::try_from(number.cast_signed()).map_err(|_| DOUBTFUL)?;
            let mut values = named.values().filter(|value| value.number() == number);
            match (values.next(), values.next()) {
                (Some(value), None) => Ok(Json::Text(value.name().to_owned().into())),
                _ => Err(Undecodable("a message with a number that has no name, or several")),
            }
        }
        (Kind::Fixed32, Raw::Fixed32(number)) => whole(number.into()),
        (Kind::Fixed64, Raw::Fixed64(number)) => large(number),
        (Kind::Float, Raw::Fixed32(bits)) => fraction(f32::from_bits(bits).into()),
        (Kind::Int32, Raw::Varint(number)) => {
            whole(i32::try_from(number.cast_signed()).map_err(|_| DOUBTFUL)?.into())
        }
        (Kind::Int64, Raw::Varint(number)) => whole(number.cast_signed()),
        (Kind::Message(inner), Raw::Bytes(bytes)) => read_message(inner, bytes, depth + 1, values),
        (Kind::Sfixed32, Raw::Fixed32(number)) => whole(number.cast_signed().into()),
        (Kind::Sfixed64, Raw::Fixed64(number)) => whole(number.cast_signed()),
        (Kind::Sint32, Raw::Varint(number)) => {
            whole(zigzag(u32::try_from(number).map_err(|_| DOUBTFUL)?.into()))
        }
        (Kind::Sint64, Raw::Varint(number)) => whole(zigzag(number)),
        (Kind::String, Raw::Bytes(bytes)) => {
            let text = std::str::from_utf8(bytes).map_err(|_| BROKEN)?;
            Ok(Json::Text(text.to_owned().into()))
        }
        (Kind::Uint32, Raw::Varint(number)) => {
            large(u32::try_from(number).map_err(|_| DOUBTFUL)?.into())
        }
        (Kind::Uint64, Raw::Varint(number)) => large(number),
        _ => Err(BROKEN),
    }
}

/// What a field without presence holds when it is not there.
fn default(kind: &Kind) -> Result<Message, Undecodable> {
    match kind {
        Kind::Message(inner) => read_message(inner, &[], 0, &mut 0),
        Kind::Enum(named) => Ok(Json::Text(named.default_value().name().to_owned().into())),
        Kind::Bytes | Kind::String => Ok(Json::Text(Cow::Borrowed(""))),
        Kind::Bool => Ok(Json::Flag(false)),
        Kind::Double | Kind::Float => Ok(Json::Fraction(0.0)),
        _ => Ok(Json::Whole(0)),
    }
}

fn zigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn count(values: &mut usize) -> Result<(), Undecodable> {
    *values += 1;
    match *values > MOST_VALUES {
        true => Err(Undecodable("a message with too many values")),
        false => Ok(()),
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Raw<'a>), Undecodable> {
    let tag = u32::try_from(varint(rest)?).map_err(|_| BROKEN)?;
    let raw = match tag & 7 {
        0 => Raw::Varint(varint(rest)?),
        1 => Raw::Fixed64(fixed64(rest)?),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| BROKEN)?;
            let (bytes, after) = rest.split_at_checked(length).ok_or(BROKEN)?;
            *rest = after;
            Raw::Bytes(bytes)
        }
        5 => Raw::Fixed32(fixed32(rest)?),
        _ => return Err(DOUBTFUL),
    };
    if tag >> 3 == 0 { Err(BROKEN) } else { Ok((tag >> 3, raw)) }
}

/// Of ten bytes at most, and no longer than it has to be.
fn varint(rest: &mut &[u8]) -> Result<u64, Undecodable> {
    let mut number = 0_u64;
    for at in 0..10_u32 {
        let (byte, after) = rest.split_first().ok_or(BROKEN)?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            return Err(BROKEN);
        }
        number |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return if *byte == 0 && at > 0 { Err(DOUBTFUL) } else { Ok(number) };
        }
    }
    Err(BROKEN)
}

fn fixed32(rest: &mut &[u8]) -> Result<u32, Undecodable> {
    let (bytes, after) = rest.split_first_chunk::<4>().ok_or(BROKEN)?;
    *rest = after;
    Ok(u32::from_le_bytes(*bytes))
}

fn fixed64(rest: &mut &[u8]) -> Result<u64, Undecodable> {
    let (bytes, after) = rest.split_first_chunk::<8>().ok_or(BROKEN)?;
    *rest = after;
    Ok(u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_reflect::{DynamicMessage, ReflectMessage as _};

    use super::*;

    fn refund() -> MessageDescriptor {
        let set = include_bytes!("../../../../tests/fuzzing/src/billing.binpb");
        let pool = DescriptorPool::decode(&set[..]).unwrap();
        pool.get_message_by_name("acme.billing.v1.Refund").unwrap()
    }

    /// One field, of any wire type, whose number is likely to be known.
    fn written() -> impl Strategy<Value = Vec<u8>> {
        let bytes = prop::collection::vec(any::<u8>(), 0..6);
        (1_u8..15, 0_u8..6, any::<u64>(), bytes).prop_map(|(number, wire, value, bytes)| {
            let mut out = vec![number << 3 | wire];
            match wire {
                0 => prost_reflect::prost::encoding::encode_varint(value >> (value % 64), &mut out),
                1 => out.extend(value.to_le_bytes()),
                5 => out.extend(value.to_le_bytes().into_iter().take(4)),
                _ => {
                    out.push(bytes.len() as u8);
                    out.extend(bytes);
                }
            }
            out
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_read_another_reader_reads_alike(fields in prop::collection::vec(written(), 0..5)) {
            let bytes = fields.concat();
            let Ok(Json::Object(members)) = read_message(&refund(), &bytes, 0, &mut 0) else { return Ok(()) };
            let other = DynamicMessage::decode(refund(), bytes.as_slice()).unwrap();
            prop_assert_eq!(other.unknown_fields().count(), 0);
            for field in other.descriptor().fields() {
                let ours = members.iter().find(|(name, _)| name == field.name()).map(|(_, value)| value);
                let theirs = other.get_field(&field);
                prop_assert!(ours.is_some() || !other.has_field(&field), "{field:?}");
                match (ours, &*theirs) {
                    (Some(Json::Text(ours)), prost_reflect::Value::String(theirs)) => prop_assert_eq!(ours, theirs),
                    (Some(Json::Flag(ours)), prost_reflect::Value::Bool(theirs)) => prop_assert_eq!(ours, theirs),
                    (Some(Json::Whole(ours)), prost_reflect::Value::I64(theirs)) => prop_assert_eq!(ours, theirs),
                    (Some(Json::Whole(ours)), prost_reflect::Value::U64(theirs)) => prop_assert_eq!(*ours as u64, *theirs),
                    (Some(Json::Large(ours)), prost_reflect::Value::U64(theirs)) => prop_assert_eq!(ours, theirs),
                    (Some(Json::Fraction(ours)), prost_reflect::Value::F64(theirs)) => prop_assert_eq!(ours, theirs),
                    (Some(Json::List(ours)), prost_reflect::Value::List(theirs)) => prop_assert_eq!(ours.len(), theirs.len()),
                    (Some(Json::Object(ours)), prost_reflect::Value::Map(theirs)) => prop_assert_eq!(ours.len(), theirs.len()),
                    (Some(Json::Object(_)), prost_reflect::Value::Message(_)) => {}
                    (Some(Json::Text(_)), prost_reflect::Value::Bytes(_) | prost_reflect::Value::EnumNumber(_)) => {}
                    (None, _) => {}
                    (ours, theirs) => prop_assert!(false, "{ours:?} {theirs:?}"),
                }
            }
        }
    }
}
