//! What policies see of gRPC, by descriptors. Messages are written by another encoder than the one that reads them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_policy::{Policy, descriptor};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, Value};
use protox::file::{File, FileResolver};

use crate::support::{Ask, ask, mistakes, said_with};

const PROTO: &str = include_str!("billing.proto");

struct Memory;

impl FileResolver for Memory {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        File::from_source(name, PROTO)
    }
}

fn set() -> Vec<u8> {
    let mut compiler = protox::Compiler::with_file_resolver(Memory);
    compiler.include_imports(true).open_file("billing.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

fn tables() -> String {
    format!("[[descriptor]]\nname = \"billing\"\nset = \"{}\"\n", STANDARD.encode(set()))
}

fn message(fields: &[(&str, Value)]) -> Vec<u8> {
    let pool = DescriptorPool::decode(set().as_slice()).unwrap();
    let refund = pool.get_message_by_name("acme.billing.v1.Refund").unwrap();
    let mut message = DynamicMessage::new(refund);
    for (name, value) in fields {
        message.set_field_by_name(name, value.clone());
    }
    message.encode_to_vec()
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn call(method: &str, message: &[u8]) -> Ask {
    ask("POST", &format!("https://a.example/acme.billing.v1.Refunds/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .bytes(framed(0, message))
}

fn said(when: &str, request: &Ask) -> &'static str {
    said_with(&tables(), when, request)
}

const ANY: &str = "grpc.message == grpc.message";

#[test]
fn b_15_a_message_is_its_fields_by_name() {
    let text = |text: &str| Value::String(text.to_owned());
    let request = call(
        "Create",
        &message(&[
            ("charge", text("ch_1")),
            ("amount", Value::I64(5000)),
            ("reason", Value::EnumNumber(1)),
            ("parts", Value::List(vec![Value::I32(-3), Value::I32(300)])),
            ("labels", Value::Map([(MapKey::String("env".into()), text("prod"))].into())),
            ("proof", Value::Bytes(b"\x00\xff".to_vec().into())),
            ("bank", text("DE00")),
            ("rate", Value::F64(1.5)),
            ("large", Value::U64(u64::MAX)),
        ]),
    );
    for (when, answer) in [
        ("grpc.message.charge == 'ch_1' && grpc.message.amount >= 5000", "yes"),
        ("grpc.message.amount < 5000", "no"),
        ("grpc.message.reason == 'FRAUD'", "yes"),
        ("grpc.message.parts == [-3, 300]", "yes"),
        ("grpc.message.labels.env == 'prod'", "yes"),
        ("has(grpc.message.labels.other)", "no"),
        ("grpc.message.proof == 'AP8='", "yes"),
        ("grpc.message.bank == 'DE00' && !has(grpc.message.card)", "yes"),
        ("grpc.message.rate == 1.5 && grpc.message.large > 5", "yes"),
        ("has(grpc.message.final)", "no"),
        ("grpc.message.final", "unknown"),
        ("has(grpc.message.to)", "no"),
    ] {
        assert_eq!(said(when, &request), answer, "{when}");
    }
    // Without presence, what is not there is the default.
    let empty = call("Create", b"");
    let defaults = "grpc.message.charge == '' && grpc.message.amount == 0 && grpc.message.reason == 'UNSPECIFIED' && grpc.message.parts.size() == 0";
    assert_eq!(said(defaults, &empty), "yes");
    assert_eq!(said(ANY, &call("Watch", b"")), "yes", "a stream of answers is one request");
}

#[test]
fn b_15_nested_messages_and_maps_of_them_are_read() {
    // to { mail: "a", parent { mail: "b" } }, parties { 7: { mail: "c" } }
    let bytes = b"\x3a\x08\x0a\x01a\x12\x03\x0a\x01b\x6a\x07\x08\x07\x12\x03\x0a\x01c";
    let request = call("Create", bytes);
    assert_eq!(said("grpc.message.to.parent.mail == 'b'", &request), "yes");
    assert_eq!(said("grpc.message.parties['7'].mail == 'c'", &request), "yes");
    assert_eq!(said("has(grpc.message.to.parent.parent)", &request), "no");
    let mut deep = Vec::new();
    for _ in 0..100 {
        let length = deep.len();
        deep = [&[0x12, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8][..], &deep].concat();
        if length < 0x80 {
            deep.splice(1..3, [length as u8]);
        }
    }
    let length = deep.len();
    let deep = [&[0x3a, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8][..], &deep].concat();
    assert_eq!(said(ANY, &call("Create", &deep)), "unknown", "more than 64 deep");
}

#[test]
fn b_15_a_message_that_readers_read_differently_is_not_read() {
    assert_eq!(said(ANY, &call("Create", b"\x10\x01")), "yes");
    for (bytes, why) in [
        (&b"\x10\x01\x10\x02"[..], "a field twice: the last one wins, for some"),
        (b"\x3a\x00\x3a\x00", "a message twice: some merge"),
        (b"\x4a\x01a\x52\x01b", "two of a oneof"),
        (b"\xa2\x06\x01a", "a field that is not known"),
        (b"\x12\x01a", "another wire type"),
        (b"\x13\x14", "a group"),
        (b"\x10\x81\x00", "a longer varint than there has to be"),
        (b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "more than 64 bits"),
        (b"\x10", "cut off"),
        (b"\x0a\x05a", "cut off"),
        (b"\x0a\x01\xff", "text that is not UTF-8"),
        (b"\x18\x02", "a flag that is 2"),
        (b"\x20\x07", "a number that names nothing"),
        (b"\x59\x00\x00\x00\x00\x00\x00\xf8\x7f", "NaN"),
        (b"\x32\x05\x0a\x01a\x12\x00\x32\x05\x0a\x01a\x12\x00", "a key twice"),
        (b"\x00\x01", "field number 0"),
    ] {
        assert_eq!(said(ANY, &call("Create", bytes)), "unknown", "{why}");
    }
    // Packed and not packed are one list.
    let parts = call("Create", b"\x2a\x02\x02\x04\x28\x06");
    assert_eq!(said("grpc.message.parts == [1, 2, 3]", &parts), "yes");
}

#[test]
fn b_15_a_request_is_one_frame() {
    let plain = call("Create", b"\x10\x01");
    assert_eq!(said("grpc.message.amount == 1", &plain), "yes");
    let with = |body: Vec<u8>| call("Create", b"").bytes(body);
    for (body, why) in [
        (Vec::new(), "nothing"),
        (vec![0, 0, 0, 0], "half a frame"),
        (framed(0, b"\x10\x01")[..6].to_vec(), "cut off"),
        ([framed(0, b"\x10\x01"), framed(0, b"\x10\x02")].concat(), "two messages"),
        ([framed(0, b"\x10\x01"), vec![0]].concat(), "bytes after it"),
        (framed(1, b"\x10\x01"), "compressed, and nothing says how"),
        (framed(2, b"\x10\x01"), "another flag"),
    ] {
        assert_eq!(said(ANY, &with(body)), "unknown", "{why}");
    }
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let compressed = || with(framed(1, &gzip(b"\x10\x01")));
    assert_eq!(
        said("grpc.message.amount == 1", &compressed().header("grpc-encoding", "gzip")),
        "yes"
    );
    assert_eq!(said(ANY, &compressed().header("grpc-encoding", "identity")), "unknown");
    assert_eq!(said(ANY, &compressed().header("grpc-encoding", "snappy")), "unknown");
    let bomb = with(framed(1, &gzip(&vec![0; 64 * 1024 * 1024])));
    assert_eq!(said(ANY, &bomb.header("grpc-encoding", "gzip")), "unknown", "B-5");
    let kinds = [
        "application/grpc+json",
        "application/grpc-web",
        "application/json",
        "application/grpc; x=y",
    ];
    for kind in kinds {
        let other = ask("POST", "https://a.example/acme.billing.v1.Refunds/Create")
            .header("content-type", kind)
            .bytes(framed(0, b"\x10\x01"));
        assert_eq!(said(ANY, &other), "unknown", "{kind}");
    }
    let twice = call("Create", b"").header("content-type", "application/grpc");
    assert_eq!(said(ANY, &twice), "unknown");
    for method in ["Import", "create", "Delete", "Create/", "Create?x=1"] {
        assert_eq!(said(ANY, &call(method, b"")), "unknown", "{method}");
    }
}

#[test]
fn conditions_on_messages_are_checked_against_the_descriptor() {
    let rule = |path: &str, when: &str| {
        format!(
            "[[rule]]\nname = \"r\"\nhost = \"a.example\"\npath = \"{path}\"\nwhen = \"{when}\"\nthen = \"approve\"\n"
        )
    };
    let path = "/acme.billing.v1.Refunds/Create";
    let found =
        |path: &str, when: &str| mistakes(&format!("{}{}", tables(), rule(path, when))).join("\n");
    assert!(
        Policy::compile(
            &format!("version = 1\n{}{}", tables(), rule(path, "grpc.message.amount > 1")),
            "p"
        )
        .is_ok()
    );
    assert!(
        found(path, "grpc.message.amout > 1")
            .contains("there is no `amout` in acme.billing.v1.Refund")
    );
    assert!(
        found("/acme.billing.v1.Refunds/Delete", "grpc.message.x == 1").contains("has a method")
    );
    assert!(found("/acme.billing.v1.Refunds/Import", "grpc.message.x == 1").contains("a stream"));
    assert!(
        mistakes(&rule(path, "grpc.message.amount > 1"))
            .join("\n")
            .contains("needs a [[descriptor]]")
    );
    for (table, says) in [
        ("name = \"x\"\nset = \"%\"", "not base64"),
        ("name = \"x\"\nset = \"AAAA\"", "FileDescriptorSet"),
        ("name = \"x\"\nset = \"\"", "no service"),
        ("name = \"x\"\nfile = \"x.binpb\"", "countersign policy"),
        ("name = \"x\"", "`set` is missing"),
        ("set = \"\"", "`name` is missing"),
    ] {
        let found = mistakes(&format!("[[descriptor]]\n{table}\n")).join("\n");
        assert!(found.contains(says), "{table}: {found}");
    }
    let twice = mistakes(&format!("{}{}", tables(), tables().replace("\"billing\"", "\"other\"")))
        .join("\n");
    assert!(twice.contains("has the service acme.billing.v1.Refunds as well"), "{twice}");
}

#[test]
fn files_of_descriptors_are_put_where_their_names_stand() {
    let text = "version = 1\n# billing\n[[descriptor]]\nname = \"billing\"\nfile = \"b.binpb\" # ours\n[[descriptor]]\nfile = 'c'\nname = \"c\"\n";
    let load = |name: &str| match name {
        "b.binpb" => Ok(vec![1, 2, 3]),
        "c" => Ok(vec![4]),
        other => Err(format!("no {other}")),
    };
    assert_eq!(
        descriptor::inline(text, load).unwrap(),
        "version = 1\n# billing\n[[descriptor]]\nname = \"billing\"\nset = \"AQID\" # ours\n[[descriptor]]\nset = \"BA==\"\nname = \"c\"\n"
    );
    let missing = text.replace("b.binpb", "d");
    assert!(descriptor::inline(&missing, load).unwrap_err().contains("d cannot be read: no d"));
    assert_eq!(descriptor::inline("no [ TOML", load).unwrap(), "no [ TOML");
    let large = |_: &str| Ok::<_, String>(vec![0; 600 * 1024]);
    assert!(descriptor::inline(text, large).unwrap_err().contains("512 KiB"));
}

#[test]
fn what_is_fuzzed_has_the_same_descriptor() {
    let fuzzed = include_bytes!("../../../../tests/fuzzing/src/billing.binpb");
    let set = set();
    assert!(set == fuzzed, "put this there, decoded: {}", STANDARD.encode(&set));
}
