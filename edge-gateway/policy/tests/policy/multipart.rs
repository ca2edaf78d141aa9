//! What policies see of forms in parts.

use crate::support::{Ask, ask, said};

fn post(kind: &str, body: &str) -> Ask {
    ask("POST", "https://a.example/upload").header("content-type", kind).bytes(body)
}

/// Parts between the boundary `b`, each with its Content-Disposition's parameters, further headers, and content.
fn form(parts: &[(&str, &str, &str)]) -> Ask {
    let part = |(names, headers, content): &(&str, &str, &str)| {
        format!("--b\r\nContent-Disposition: form-data; {names}\r\n{headers}\r\n{content}\r\n")
    };
    let body: String = parts.iter().map(part).collect();
    post("multipart/form-data; boundary=b", &format!("{body}--b--\r\n"))
}

const ANY: &str = "body.multipart == body.multipart";

#[test]
fn b_10_a_form_in_parts_is_its_fields_and_files() {
    let request = form(&[
        ("name=\"amount\"", "", "5000"),
        ("name=\"note\"", "Content-Type: text/plain; charset=utf-8\r\n", "zwölf\r\nzwei"),
        (
            "name=\"doc\"; filename=\"a.pdf\"",
            "Content-Type: application/pdf\r\n",
            "%PDF\0\r\n\r\n--x",
        ),
    ]);
    for (when, answer) in [
        ("body.multipart.fields.amount >= 5000", "yes"),
        ("body.multipart.fields.amount == '5000'", "yes"),
        ("body.multipart.fields['amount'] < 5000", "no"),
        ("body.multipart.fields.note.startsWith('zw')", "yes"),
        ("has(body.multipart.fields.reason)", "no"),
        ("body.multipart.fields.reason == 'x'", "unknown"),
        ("'doc' in body.multipart.fields", "no"),
        ("body.multipart.files.size() == 1", "yes"),
        ("body.multipart.files.all(f, f.field == 'doc' && f.name == 'a.pdf')", "yes"),
        (
            "body.multipart.files[0].type == 'application/pdf' && body.multipart.files[0].size == 12",
            "yes",
        ),
    ] {
        assert_eq!(said(when, &request), answer, "{when}");
    }
    let empty = form(&[("name=\"a\"", "", "")]);
    assert_eq!(said("body.multipart.fields.a == ''", &empty), "yes");
}

#[test]
fn b_10_as_clients_write_it() {
    // curl, Chromium and undici, python-requests, .NET.
    for (kind, boundary, disposition) in [
        (
            "multipart/form-data; boundary=------------------------d74496d66958873e",
            "------------------------d74496d66958873e",
            "name=\"a\"",
        ),
        (
            "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            "----WebKitFormBoundary7MA4YWxkTrZu0gW",
            "name=\"a\"",
        ),
        (
            "multipart/form-data; boundary=0aafe1a2fcd4e9b3dbf3a7d9ef1ee9a6",
            "0aafe1a2fcd4e9b3dbf3a7d9ef1ee9a6",
            "name=\"a\"",
        ),
        (
            "multipart/form-data; boundary=\"5c9c0a2e-3f0e-4bd5-9e34-1d4c0f3a8b1e\"",
            "5c9c0a2e-3f0e-4bd5-9e34-1d4c0f3a8b1e",
            "name=a",
        ),
    ] {
        let body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n1\r\n--{boundary}--\r\n"
        );
        assert_eq!(said("body.multipart.fields.a == 1", &post(kind, &body)), "yes", "{kind}");
    }
}

#[test]
fn b_10_a_boundary_that_readers_take_for_another_is_none() {
    let one = "Content-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n";
    let body = format!("--b\r\n{one}--b--\r\n");
    assert_eq!(said(ANY, &post("multipart/form-data; boundary=b", &body)), "yes");
    for kind in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=b; boundary=c",
        "multipart/form-data; boundary=\"b\"; boundary=c",
        "multipart/form-data; boundary=b; charset=utf-16",
        "multipart/form-data; boundary=\"b",
        "multipart/form-data; boundary=\"b\\\"\"",
        "multipart/form-data; boundary=b c",
        "multipart/form-data; boundary=b, multipart/form-data; boundary=b",
        "multipart/form-data; boundary*=utf-8''b",
        "multipart/mixed; boundary=b",
        "multipart/related; boundary=b",
        "application/x-www-form-urlencoded; boundary=b",
    ] {
        assert_eq!(said(ANY, &post(kind, &body)), "unknown", "{kind}");
    }
    let twice = post("multipart/form-data; boundary=b", &body)
        .header("content-type", "multipart/form-data; boundary=b");
    assert_eq!(said(ANY, &twice), "unknown");
    for (body, why) in [
        (String::new(), "nothing"),
        ("--b--\r\n".to_owned(), "no part"),
        (format!("preamble\r\n--b\r\n{one}--b--\r\n"), "a preamble"),
        (format!("\r\n--b\r\n{one}--b--\r\n"), "an empty line before"),
        (format!("--b\r\n{one}--b--\r\nepilogue"), "an epilogue"),
        (format!("--b\r\n{one}--b--\r\n--b\r\n{one}--b--\r\n"), "parts after the end"),
        (format!("--b\r\n{one}"), "no end"),
        (format!("--b\r\n{one}--b"), "half an end"),
        (format!("--b \r\n{one}--b--\r\n"), "a space after the boundary"),
        (format!("--b\n{one}--b--\r\n"), "a bare line feed"),
        (format!("--b\r\n{}--b--\r\n", one.replace("1\r\n", "1\n")), "a bare line feed before it"),
        (
            format!("--b\r\n{}--b--\r\n", one.replace('1', "x\n--b\nContent-Disposition")),
            "the boundary inside",
        ),
        (format!("--b\r\n{}--b--\r\n", one.replace('1', "x--b")), "the boundary in a line"),
        (format!("--bc\r\n{one}--bc--\r\n"), "a longer boundary"),
    ] {
        assert_eq!(said(ANY, &post("multipart/form-data; boundary=b", &body)), "unknown", "{why}");
    }
}

#[test]
fn b_10_a_part_that_readers_name_differently_is_not_read() {
    for (names, headers, why) in [
        ("filename=\"x\"", "", "no name"),
        ("name=\"\"", "", "an empty name"),
        ("name=\"a\"; name=\"b\"", "", "two names"),
        ("name=\"a\"; filename=\"x\"; filename=\"y\"", "", "two names of files"),
        ("name=\"a\"; filename*=utf-8''y", "", "RFC 5987"),
        ("name=\"a\"; filename=\"x\"; filename*=utf-8''y", "", "RFC 5987 beside the other"),
        ("name*=utf-8''a", "", "RFC 5987"),
        ("name=\"a\\\"b\"", "", "an escape"),
        ("name=\"a%22b\"", "", "a browser's escape"),
        ("name=\"a%0d%0ab\"", "", "a browser's escape"),
        ("name=\"=?utf-8?q?a?=\"", "", "an encoded word"),
        ("name=\"a\"; filename=\"C:\\x\"", "", "a backslash"),
        ("name=\"a\"; size=1", "", "another parameter"),
        ("name=a b", "", "no token"),
        ("name=\"a\" x", "", "something after the quotes"),
        ("name=\"a\"", "Content-Disposition: form-data; name=\"b\"\r\n", "two dispositions"),
        ("name=\"a\"", "Content-Type: text/plain\r\nContent-Type: text/html\r\n", "two types"),
        ("name=\"a\"", "Content-Type: multipart/mixed; boundary=c\r\n", "nested parts"),
        ("name=\"a\"", "Content-Type: message/rfc822\r\n", "a message"),
        ("name=\"a\"", "Content-Type: application/octet-stream\r\n", "a file without a name"),
        (
            "name=\"a\"",
            "Content-Type: text/plain; charset=utf-16\r\n",
            "B-12: another character set",
        ),
        ("name=\"a\"", "Content-Transfer-Encoding: base64\r\n", "an encoding"),
        ("name=\"a\"", "Content-Length: 7\r\n", "another length"),
        ("name=\"a\"", "X-Whatever: 1\r\n", "a header that is not known"),
        ("name=\"a\"", " folded: 1\r\n", "a folded line"),
        ("name=\"a\"", "Content-Type : text/plain\r\n", "a space before the colon"),
        ("name=\"a\"", "Content-Type: text/plain\nname: b\r\n", "a bare line feed"),
        ("name=\"_charset_\"", "", "a field that changes all others"),
    ] {
        assert_eq!(said(ANY, &form(&[(names, headers, "1")])), "unknown", "{why}");
    }
    let plain =
        form(&[("name=\"a\"", "Content-Transfer-Encoding: 8bit\r\nContent-Length: 1\r\n", "1")]);
    assert_eq!(said(ANY, &plain), "yes");
    let other = post(
        "multipart/form-data; boundary=b",
        "--b\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\n1\r\n--b--",
    );
    assert_eq!(said(ANY, &other), "unknown");
}

#[test]
fn b_10_two_parts_that_are_one_to_some_readers_are_not_read() {
    for (one, other) in
        [("a", "a"), ("a", "A"), ("a", "a[]"), ("a[0]", "a"), ("a_b", "a.b"), ("k", "\u{212a}")]
    {
        let form =
            form(&[(&format!("name=\"{one}\""), "", "1"), (&format!("name=\"{other}\""), "", "2")]);
        assert_eq!(said(ANY, &form), "unknown", "{one} {other}");
    }
    // A name that some readers take for the one that is asked for.
    let alone = form(&[("name=\"Amount\"", "", "1")]);
    assert_eq!(said("has(body.multipart.fields.amount)", &alone), "unknown");
    assert_eq!(said("has(body.multipart.fields.reason)", &alone), "no");
    let many: Vec<_> = (0..201).map(|n| format!("name=\"f{n}\"")).collect();
    let parts: Vec<_> = many.iter().map(|name| (name.as_str(), "", "")).collect();
    assert_eq!(said(ANY, &form(&parts)), "unknown");
    assert_eq!(said(ANY, &form(&parts[..200])), "yes");
    let binary = ask("POST", "https://a.example/upload")
        .header("content-type", "multipart/form-data; boundary=b")
        .bytes(b"--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\xff\r\n--b--".to_vec());
    assert_eq!(said(ANY, &binary), "unknown", "B-12: a field that is not UTF-8");
}
