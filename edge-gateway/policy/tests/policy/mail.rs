//! What policies see of mail: whom it goes to above all.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use crate::support::{Ask, ask, said};

const MAIL: &str = "From: Bot <bot@example.com>\r\nTo: Ana <ana@example.com>, ben@example.com\r\n\
                    Bcc: eve@evil.example\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\
                    Content-Type: text/plain; charset=utf-8\r\n\r\nHello\r\n";

fn gmail(mail: &str) -> Ask {
    let raw = URL_SAFE.encode(mail);
    ask("POST", "https://a.example/gmail/v1/users/me/messages/send")
        .json(&serde_json::json!({ "raw": raw }).to_string())
}

#[test]
fn b_13_a_mail_inside_json_is_read_like_one_that_stands_there() {
    let draft = serde_json::json!({ "message": { "raw": URL_SAFE.encode(MAIL), "threadId": "1" } });
    let upload = ask("POST", "https://a.example/upload/gmail/v1/users/me/messages/send")
        .header("content-type", "message/rfc822");
    for request in [
        gmail(MAIL),
        ask("POST", "https://a.example/drafts").json(&draft.to_string()),
        upload.bytes(MAIL),
    ] {
        for (when, answer) in [
            ("body.mail.recipients.all(a, a.endsWith('@example.com'))", "no"),
            ("body.mail.to == ['ana@example.com', 'ben@example.com']", "yes"),
            ("body.mail.bcc.size() > 0", "yes"),
            ("body.mail.from == ['bot@example.com']", "yes"),
            ("body.mail.subject == 'Grüße' && body.mail.text.contains('Hello')", "yes"),
            ("body.mail.parts.size() == 0", "yes"),
        ] {
            assert_eq!(said(when, &request), answer, "{when}");
        }
    }
    let inside = gmail(&MAIL.replace("Bcc: eve@evil.example\r\n", ""));
    assert_eq!(said("body.mail.recipients.all(a, a.endsWith('@example.com'))", &inside), "yes");
}

#[test]
fn b_13_a_mail_that_readers_read_differently_is_not_read() {
    let any = "body.mail == body.mail";
    for (from, to) in [
        ("Bcc:", "To:"),
        ("ana@example.com", "ana@example.com@evil.example"),
        ("To: Ana", "To: \"eve@evil.example\" Ana"),
        ("utf-8\r\n", "utf-16\r\n"),
        ("Subject:", "Resent-To: eve@evil.example\r\nSubject:"),
        ("text/plain;", "multipart/mixed; boundary=x;"),
    ] {
        assert_ne!(MAIL.replace(from, to), MAIL);
        assert_eq!(said(any, &gmail(&MAIL.replace(from, to))), "unknown", "{from} {to}");
    }
    let raw = URL_SAFE.encode(MAIL);
    for body in [
        serde_json::json!({ "raw": raw, "message": { "raw": raw } }),
        serde_json::json!({ "Raw": raw }),
        serde_json::json!({ "raw": "%%%" }),
        serde_json::json!({ "raw": 1 }),
        serde_json::json!({}),
    ] {
        let request = ask("POST", "https://a.example/send").json(&body.to_string());
        assert_eq!(said(any, &request), "unknown", "{body}");
    }
}
