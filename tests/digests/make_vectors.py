#!/usr/bin/env python3
"""The gate's digests and encodings a second time, from their description alone, in Python's standard library.

    make_vectors.py            writes vectors.json beside this file
    make_vectors.py --check    fails if vectors.json is not what would be written

edge-gateway/gate/tests/vectors.rs compares the gate with the file. Where a vector names a `changed` field, it
differs from the vector `base` in that field only.
"""

import copy
import hashlib
import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).parent
VOLATILE = {
    "accept-encoding", "amz-sdk-invocation-id", "amz-sdk-request", "baggage", "connection", "content-length", "date",
    "grpc-timeout", "postgres-estimated-rows", "traceparent", "tracestate", "user-agent", "x-request-id",
    "x-stainless-read-timeout", "x-stainless-retry-count", "x-stainless-timeout", "x-stripe-client-telemetry",
    "x-stripe-client-user-agent",
}


# CE1: "CSCE1\0" | u16 struct | u16 version | (u16 tag | u32 length | value)*, big-endian.


def ce1(structure, fields):
    out = b"CSCE1\x00" + struct.pack(">HH", structure, 1)
    for tag, value in sorted(fields.items()):
        if value is None:
            continue
        if isinstance(value, str):
            value = value.encode()
        out += struct.pack(">HI", tag, len(value)) + value
    return out


def u16(n):
    return struct.pack(">H", n)


def u32(n):
    return struct.pack(">I", n)


def u64(n):
    return struct.pack(">Q", n)


def listed(items):
    return u32(len(items)) + b"".join(u32(len(item)) + item for item in items)


def digest(name, data):
    return hashlib.sha256(b"countersign/v1/" + name.encode() + b"\x00" + data).digest()


# Requests.


def header_list(headers, keep):
    lines, seen = [], {}
    for name, value in headers:
        ordinal = seen.get(name, 0)
        seen[name] = ordinal + 1
        if keep(name):
            lines.append(name.encode() + b"\x00" + u16(ordinal) + value.encode("latin-1"))
    return listed(sorted(lines))


def injection(i):
    slot = i["slot"]
    fields = {1: i["credential"], 2: u64(i["version"]), 3: slot["kind"]}
    if slot["kind"] == "header":
        fields[4] = slot["name"]
    if slot["kind"] in ("basic", "header"):
        fields[5], fields[6] = slot["before"], slot["after"]
    if slot["kind"] in ("cookie", "form", "json", "path", "query"):
        fields[7] = u32(slot["at"])
    if slot["kind"] == "signed":
        fields[8], fields[9] = listed([name.encode() for name in slot["names"]]), slot["manner"]
    return ce1(2, fields)


def intent_digest(r, rule):
    body = bytes.fromhex(r["body"])
    return digest("intent", ce1(1, {
        1: r["cluster"],
        2: r["org"],
        3: r["agent"],
        4: r["scheme"],
        5: r["host"],
        6: u16(r["port"]),
        7: r["method"],
        8: r["path"],
        9: r["query"],
        10: header_list(r["headers"], lambda name: name not in VOLATILE),
        11: u64(len(body)),
        12: hashlib.sha256(body).digest(),
        13: listed([injection(i) for i in r["injections"]]),
        14: rule,
    }))


def request_digest(r, c, rule):
    return digest("request", ce1(3, {
        1: intent_digest(r, rule),
        2: bytes.fromhex(c["request_id"]),
        3: c["edge"],
        4: bytes.fromhex(c["edge_key"]),
        5: bytes.fromhex(c["incarnation"]),
        6: hashlib.sha256(header_list(r["headers"], lambda name: True)).digest(),
        7: c["protocol"],
        8: u64(c["policy_version"]),
        9: u64(c["started_ms"]),
        10: u64(c["hold_ms"]),
        11: bytes.fromhex(c["nonce"]),
    }))


BASE = {
    "request": {
        "cluster": "prod.example", "org": "default", "agent": "agent-7f3a", "scheme": "https", "host": "api.example.com",
        "port": 443, "method": "POST", "path": "/v1/charges", "query": "expand=customer",
        "headers": [
            ["accept", "application/json"], ["content-type", "application/json"], ["x-tag", "one"], ["x-tag", "two"],
            ["user-agent", "client/1.0"],
        ],
        "body": b'{"amount":100}'.hex(),
        "injections": [{
            "credential": "stripe", "version": 3,
            "slot": {"kind": "header", "name": "authorization", "before": "Bearer ", "after": ""},
        }],
    },
    "circumstances": {
        "request_id": "00112233445566778899aabbccddeeff", "edge": "edge-1", "edge_key": "aa" * 32,
        "incarnation": "0f" * 16, "protocol": "h1", "policy_version": 7, "started_ms": 1790000000000,
        "hold_ms": 50000, "nonce": "5a" * 32,
    },
    "rule": "charges need a person",
}

HEADER = {"kind": "header", "name": "authorization", "before": "Bearer ", "after": ""}


# A statement: its words are the body, the database the path, and the key was spent when the connection was opened.
STATEMENT = {
    "scheme": "postgres", "host": "db.example.com", "port": 5432, "path": "/app", "query": None, "injections": [],
    "headers": [["content-type", "application/json"], ["postgres-role", "app_rw"]],
    "body": b'{"protocol":"simple","statement":"DROP TABLE orders","transaction":"idle"}'.hex(),
}

SIGNED = {"kind": "signed", "names": ["authorization", "x-amz-date"], "manner": "aws-sigv4 eu/s3 host;x-amz-date"}


def with_slot(slot, **request):
    return {"injections": [{"credential": "stripe", "version": 3, "slot": slot}], **request}


# (name, what changes of the request, whether the intent changes with it)
REQUEST_CHANGES = [
    ("cluster", {"cluster": "prod.example.org"}, True),
    ("org", {"org": "other"}, True),
    ("agent", {"agent": "agent-7f3b"}, True),
    ("scheme", {"scheme": "http", "injections": []}, True),
    ("scheme-postgres", {"scheme": "postgres"}, True),
    ("statement", STATEMENT, True),
    ("statement-of-another-role", {**STATEMENT, "headers": [STATEMENT["headers"][0], ["postgres-role", "app"]]}, True),
    ("no-injection", {"injections": []}, True),
    ("host", {"host": "api.example.org"}, True),
    ("host-address", {"host": "2001:db8::1"}, True),
    ("port", {"port": 8443}, True),
    ("method", {"method": "PUT"}, True),
    ("path", {"path": "/v1/charges/"}, True),
    ("path-case", {"path": "/v1/Charges"}, True),
    ("path-escape", {"path": "/v1/%63harges"}, True),
    ("query", {"query": "expand=customer&"}, True),
    ("query-empty", {"query": ""}, True),
    ("query-absent", {"query": None}, True),
    ("query-into-path", {"query": None, "path": "/v1/charges/expand=customer"}, True),
    ("header-value", {"headers": [["accept", "*/*"]] + BASE["request"]["headers"][1:]}, True),
    ("header-added", {"headers": BASE["request"]["headers"] + [["x-more", ""]]}, True),
    ("header-removed", {"headers": BASE["request"]["headers"][1:]}, True),
    ("header-repeated-order", {"headers": [
        ["accept", "application/json"], ["content-type", "application/json"], ["x-tag", "two"], ["x-tag", "one"],
        ["user-agent", "client/1.0"]]}, True),
    ("header-joined", {"headers": [
        ["accept", "application/json"], ["content-type", "application/json"], ["x-tag", "one, two"],
        ["user-agent", "client/1.0"]]}, True),
    ("header-not-utf8", {"headers": BASE["request"]["headers"] + [["x-name", "caf\xe9"]]}, True),
    ("header-volatile", {"headers": BASE["request"]["headers"][:-1] + [["user-agent", "client/1.1"]]}, False),
    ("header-volatile-added", {"headers": BASE["request"]["headers"] + [["x-request-id", "1"]]}, False),
    ("header-volatile-rows", {"headers": BASE["request"]["headers"] + [["postgres-estimated-rows", "12"]]}, False),
    ("body", {"body": b'{"amount":1000}'.hex()}, True),
    ("body-same-length", {"body": b'{"amount":900}'.hex()}, True),
    ("body-empty", {"body": ""}, True),
    ("body-binary", {"body": bytes(range(256)).hex()}, True),
    ("body-4-kib", {"body": (b"countersign-" * 342)[:4096].hex()}, True),
    ("credential", {"injections": [{"credential": "stripe2", "version": 3, "slot": HEADER}]}, True),
    ("credential-version", {"injections": [{"credential": "stripe", "version": 4, "slot": HEADER}]}, True),
    ("slot-name", with_slot({**HEADER, "name": "x-api-key"}), True),
    ("slot-before", with_slot({**HEADER, "before": "bearer "}), True),
    ("slot-after", with_slot({**HEADER, "after": " "}), True),
    ("slot-before-to-after", with_slot({**HEADER, "before": "", "after": "Bearer "}), True),
    ("slot-basic", with_slot({"kind": "basic", "before": "user:", "after": ""}), True),
    ("slot-basic-after", with_slot({"kind": "basic", "before": "", "after": ":"}), True),
    ("slot-path", with_slot({"kind": "path", "at": 4}, path="/bot{key}/send"), True),
    ("slot-path-second", with_slot({"kind": "path", "at": 9}, path="/a{key}/b{key}"), True),
    ("slot-query", with_slot({"kind": "query", "at": 4}, query="key={key}&b=1"), True),
    ("slot-cookie", with_slot({"kind": "cookie", "at": 9}, headers=[["cookie", "a=1; sid={key}; b=2"]]), True),
    ("slot-form", with_slot({"kind": "form", "at": 4}, body=b"key={key}&b={key}".hex()), True),
    ("slot-form-second", with_slot({"kind": "form", "at": 12}, body=b"key={key}&b={key}".hex()), True),
    ("slot-json", with_slot({"kind": "json", "at": 8}, body=b'{"key":"{key}","b":"{key}"}'.hex()), True),
    ("slot-signed", with_slot(SIGNED), True),
    ("slot-signed-names", with_slot({**SIGNED, "names": ["authorization"]}), True),
    ("slot-signed-order", with_slot({**SIGNED, "names": ["x-amz-date", "authorization"]}), True),
    ("slot-signed-manner", with_slot({**SIGNED, "manner": "aws-sigv4 us/s3 host;x-amz-date"}), True),
    ("slot-json-second", with_slot({"kind": "json", "at": 20}, body=b'{"key":"{key}","b":"{key}"}'.hex()), True),
]

CIRCUMSTANCE_CHANGES = [
    ("request_id", "00112233445566778899aabbccddeefe"), ("edge", "edge-2"), ("edge_key", "ab" * 32),
    ("incarnation", "f0" * 16), ("protocol", "h2"), ("policy_version", 8), ("started_ms", 1790000000001),
    ("hold_ms", 50001), ("nonce", "5b" * 32),
]


def request_vectors():
    def finished(name, changed, intent_changes, vector):
        r, c, rule = vector["request"], vector["circumstances"], vector["rule"]
        return {
            "name": name, "changed": changed, "intent_changes": intent_changes, **vector,
            "intent_digest": intent_digest(r, rule).hex(), "request_digest": request_digest(r, c, rule).hex(),
        }

    yield finished("base", None, False, BASE)
    for name, change, intent_changes in REQUEST_CHANGES:
        vector = copy.deepcopy(BASE)
        vector["request"].update(change)
        yield finished(f"request-{name}", sorted(change), intent_changes, vector)
    for name, value in CIRCUMSTANCE_CHANGES:
        vector = copy.deepcopy(BASE)
        vector["circumstances"][name] = value
        yield finished(f"circumstance-{name}", [name], False, vector)
    vector = copy.deepcopy(BASE)
    vector["rule"] = "charges need two persons"
    yield finished("rule", ["rule"], True, vector)
    # Headers of different names have no order; and a longer list crosses the one-byte lengths.
    vector = copy.deepcopy(BASE)
    vector["request"]["headers"] = list(reversed(vector["request"]["headers"][:2])) + vector["request"]["headers"][2:]
    same = finished("header-order-of-names", [], False, vector)
    assert same["request_digest"] == finished("", [], False, BASE)["request_digest"]
    yield same


# Decisions and trust bundles.

WORDS = {"cancel": 0, "deny": 1, "expire": 2, "release": 3}
STATES = {"active": 0, "next": 1, "retired": 2, "revoked": 3}


def decision(d):
    approvers = [ce1(5, {1: a["principal"], 2: a["channel"], 3: u64(a["at_ms"])}) for a in d["approvers"]]
    sealed = [
        ce1(6, {1: s["credential"], 2: u64(s["version"]), 3: bytes.fromhex(s["sha256"])}) for s in d["sealed"]
    ]
    return ce1(4, {
        1: d["cluster"],
        2: bytes.fromhex(d["decision_id"]),
        3: bytes([WORDS[d["word"]]]),
        4: None if d["approval_id"] is None else bytes.fromhex(d["approval_id"]),
        5: bytes.fromhex(d["request_id"]),
        6: bytes.fromhex(d["request_digest"]),
        7: bytes.fromhex(d["intent_digest"]),
        8: d["edge"],
        9: bytes.fromhex(d["incarnation"]),
        10: u64(d["term"]),
        11: u64(d["index"]),
        12: u64(d["policy_version"]),
        13: listed(approvers),
        14: u64(d["not_before_ms"]),
        15: u64(d["expires_ms"]),
        16: listed(sealed),
        17: u64(d["epoch"]),
    })


DECISION = {
    "cluster": "prod.example", "decision_id": "01" * 16, "word": "release", "approval_id": "02" * 16,
    "request_id": "03" * 16, "request_digest": "04" * 32, "intent_digest": "05" * 32, "edge": "edge-1",
    "incarnation": "06" * 16, "term": 2, "index": 1041, "policy_version": 7,
    "approvers": [{"principal": "ana", "channel": "slack", "at_ms": 1790000001000}],
    "not_before_ms": 1790000001000, "expires_ms": 1790000301000,
    "sealed": [{"credential": "stripe", "version": 3, "sha256": "07" * 32}], "epoch": 1,
}

DECISION_CHANGES = [
    ("cluster", ""), ("decision_id", "11" * 16), ("word", "cancel"), ("word", "deny"), ("word", "expire"),
    ("approval_id", None), ("approval_id", "12" * 16), ("request_id", "13" * 16), ("request_digest", "14" * 32),
    ("intent_digest", "15" * 32), ("edge", "edge-\u00fc"), ("incarnation", "16" * 16), ("term", 3), ("index", 2**64 - 1),
    ("policy_version", 0), ("approvers", []),
    ("approvers", DECISION["approvers"] + [{"principal": "bob", "channel": "dashboard", "at_ms": 1790000002000}]),
    ("not_before_ms", 0), ("expires_ms", 1790000301001), ("sealed", []),
    ("sealed", [{"credential": "stripe", "version": 4, "sha256": "07" * 32}]), ("epoch", 2),
]


def decision_vectors():
    for name, changed, value in [("base", None, None)] + [(f, f, v) for f, v in DECISION_CHANGES]:
        d = copy.deepcopy(DECISION)
        if changed:
            d[changed] = value
        yield {"name": name, "decision": d, "encoded": decision(d).hex()}


def malformed():
    """Near misses of the one encoding: each is refused, or two encodings would mean one decision."""
    good = decision(DECISION)
    head, rest = good[:10], good[10:]
    first = struct.pack(">HI", 1, 12) + b"prod.example"
    yield "empty", b""
    yield "magic only", b"CSCE1\x00"
    yield "no fields", head
    yield "other magic", b"CSCE2\x00" + good[6:]
    yield "other structure", b"CSCE1\x00" + u16(3) + good[8:]
    yield "other version", b"CSCE1\x00" + u16(4) + u16(2) + rest
    yield "a byte after the end", good + b"\x00"
    yield "an unknown field after the end", good + struct.pack(">HI", 18, 0)
    yield "a field twice", head + first + rest
    yield "tag 0 first", head + struct.pack(">HI", 0, 0) + rest
    yield "fields out of order", head + rest[len(first):] + first
    yield "without its first field", head + rest[len(first):]
    yield "without its last field", good[:-14]
    yield "a length beyond the end", good[:-12] + u32(9) + good[-8:]
    yield "a number of seven bytes", good[:-12] + u32(7) + good[-7:]
    yield "text that is not UTF-8", head + struct.pack(">HI", 1, 12) + b"prod.exampl\xff" + rest[len(first):]
    yield "an unknown word", good.replace(struct.pack(">HI", 3, 1) + b"\x03", struct.pack(">HI", 3, 1) + b"\x04")
    yield "an approval id of 15 bytes", good.replace(
        struct.pack(">HI", 4, 16) + b"\x02" * 16, struct.pack(">HI", 4, 15) + b"\x02" * 15)
    approver = listed([ce1(5, {1: "ana", 2: "slack", 3: u64(1790000001000)})])
    assert approver in good
    longer = u32(2) + approver[4:]
    yield "a list that says it is longer", good.replace(approver, longer)
    yield "a list with more than it says", good.replace(
        struct.pack(">HI", 13, len(approver)) + approver,
        struct.pack(">HI", 13, 2 * len(approver) - 4) + approver + approver[4:])


def trust_vectors():
    def encoded(t):
        keys = [ce1(11, {1: u64(k["node"]), 2: bytes.fromhex(k["public"]), 3: bytes([STATES[k["state"]]])})
                for k in t["keys"]]
        return ce1(10, {1: t["cluster"], 2: u64(t["epoch"]), 3: u64(t["threshold"]), 4: listed(keys)})

    keys = [{"node": n, "public": f"{n:02x}" * 32, "state": state} for n, state in enumerate(STATES, 1)]
    for name, trust in [
        ("one key", {"cluster": "prod.example", "epoch": 1, "threshold": 1, "keys": keys[:1]}),
        ("no key", {"cluster": "prod.example", "epoch": 1, "threshold": 1, "keys": []}),
        ("every state", {"cluster": "prod.example", "epoch": 2**40, "threshold": 3, "keys": keys}),
    ]:
        yield {"name": name, "trust": trust, "encoded": encoded(trust).hex()}


def contexts():
    incarnation, request, decided, lease = b"\x06" * 16, b"\x04" * 32, b"\x01" * 16, b"\x09" * 16
    return {
        "seal_info": ce1(7, {1: "prod.example", 2: "edge-1", 3: incarnation}).hex(),
        "seal_context": ce1(8, {1: request, 2: decided, 3: "stripe", 4: u64(3)}).hex(),
        "lease_context": ce1(9, {1: lease, 2: "stripe", 3: u64(3)}).hex(),
    }


def envelopes():
    """DSSE's pre-authentication encoding: what is really signed."""
    for kind, payload in [
        ("application/vnd.countersign.release-decision.v1", decision(DECISION)),
        ("application/vnd.countersign.trust-bundle.v1", b""),
        ("", b"x"),
        ("text/caf\u00e9", b"\x00\xff 12 "),
    ]:
        type_bytes = kind.encode()
        signed = b"DSSEv1 %d %s %d %s" % (len(type_bytes), type_bytes, len(payload), payload)
        yield {"payload_type": kind, "payload": payload.hex(), "signed": signed.hex()}


def main():
    vectors = {
        "requests": list(request_vectors()),
        "decisions": list(decision_vectors()),
        "malformed": [{"name": name, "bytes": data.hex()} for name, data in malformed()],
        "trust": list(trust_vectors()),
        "contexts": contexts(),
        "envelopes": list(envelopes()),
    }
    text = json.dumps(vectors, indent=1, ensure_ascii=True) + "\n"
    path = HERE / "vectors.json"
    if sys.argv[1:] == ["--check"]:
        if path.read_text() != text:
            sys.exit(f"{path.name} is not what this script writes: run it without --check")
    else:
        path.write_text(text)
    total = sum(len(part) for part in vectors.values())
    print(f"{total} vectors")


if __name__ == "__main__":
    main()
