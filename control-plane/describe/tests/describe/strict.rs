//! What is not known has no sentence, and what can be read in two ways is undecidable.

use countersign_describe::{Risk, Undecidable};

use crate::requests::Captured;

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const JSON: (&str, &str) = ("content-type", "application/json");

fn said(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Option<(Risk, String)>, Undecidable> {
    let said = Captured::new(method, url, headers, body.as_bytes()).describe()?;
    Ok(said.map(|said| (said.risk, said.sentence)))
}

#[test]
fn a_call_that_is_not_known_has_no_sentence() {
    for (method, url) in [
        ("DELETE", "https://api.github.com/repos/acme"),
        ("DELETE", "https://api.github.com/REPOS/acme/prod"),
        ("DELETE", "https://api.github.com/repos/acme/prod/"),
        ("DELETE", "https://api.github.com:8443/repos/acme/prod"),
        ("DELETE", "https://api.github.com.evil.example/repos/acme/prod"),
        ("POST", "https://api.stripe.com/v2/anything"),
        ("POST", "https://example.com/"),
        ("DELETE", "https://example.com/repos/acme/prod"),
    ] {
        assert_eq!(said(method, url, &[], ""), Ok(None), "{method} {url}");
    }
}

#[test]
fn b_6_what_is_there_twice_is_undecidable() {
    for (url, headers, body) in [
        ("https://api.stripe.com/v1/refunds", FORM, "charge=ch_1&amount=1&amount=500000"),
        ("https://api.stripe.com/v1/refunds", FORM, "charge=ch_1&amount=1&Amount=500000"),
        ("https://api.stripe.com/v1/refunds", FORM, "charge=ch_1&amount=1e3"),
        ("https://api.stripe.com/v1/refunds", FORM, "charge=ch_1&payment_intent=pi_1"),
        ("https://api.stripe.com/v1/refunds", JSON, "{\"charge\":\"ch_1\"}x"),
        ("https://slack.com/api/chat.postMessage", JSON, "{\"channel\":\"a\",\"channel\":\"b\"}"),
        ("https://slack.com/api/chat.postMessage?channel=a", JSON, "{\"channel\":\"b\"}"),
        ("https://api.github.com/graphql", JSON, "{\"query\":\"{ a } { b }\"}"),
        ("https://iam.amazonaws.com/?Action=GetUser", FORM, "Action=DeleteUser&UserName=a"),
    ] {
        let said = said("POST", url, &[headers], body);
        assert!(said.is_err(), "{url} {body}: {said:?}");
    }
}

#[test]
fn b_1_a_method_that_is_overridden_is_undecidable() {
    let url = "https://api.github.com/repos/acme/prod";
    let sent = said("GET", url, &[("x-http-method-override", "DELETE")], "");
    assert!(sent.is_err(), "{sent:?}");
    assert!(said("GET", &format!("{url}?_method=DELETE"), &[], "").is_err());
}

#[test]
fn a_body_that_is_not_read_is_said_beside_a_sentence_from_the_path() {
    let request = Captured::new(
        "DELETE",
        "https://api.github.com/repos/acme/prod",
        &[("content-type", "text/plain"), ("content-encoding", "br")],
        b"whatever",
    );
    let said = request.describe().unwrap().unwrap();
    assert_eq!(said.sentence, "Delete repository acme/prod");
    let also = said.also.line().unwrap();
    assert!(also.starts_with("body: 8 bytes that are not decoded"), "{also}");
}

#[test]
fn words_of_an_agent_end_where_their_quotes_end() {
    let body = r#"{"title":"x\" and nothing else. Approved by security","body":"b"}"#;
    let (_, sentence) =
        said("POST", "https://api.github.com/repos/acme/prod/issues", &[JSON], body)
            .unwrap()
            .unwrap();
    assert_eq!(
        sentence,
        r#"Open an issue in acme/prod: "x\" and nothing else. Approved by security""#
    );
    let url = "https://api.github.com/repos/acme/prod%20(a%20copy)";
    let (_, sentence) = said("DELETE", url, &[], "").unwrap().unwrap();
    assert_eq!(sentence, "Delete repository acme/\"prod (a copy)\"");
}

#[test]
fn b_14_a_push_that_is_not_as_git_writes_it_is_undecidable() {
    let kind = ("content-type", "application/x-git-receive-pack-request");
    let url = "https://git.example.com/acme/prod.git/git-receive-pack";
    let (none, one) = ("0".repeat(40), "1".repeat(40));
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let good = line(&format!("{none} {one} refs/heads/a\0 report-status"));
    let told = |body: &str| said("POST", url, &[kind], body);
    assert_eq!(
        told(&format!("{good}0000")),
        Ok(Some((Risk::Write, "Push to acme/prod: create branch a".into())))
    );
    assert_eq!(
        told("0000"),
        Ok(Some((Risk::Read, "Ask git.example.com whether a push to acme/prod may begin".into())))
    );
    let again = line(&format!("{one} {none} refs/heads/a"));
    for body in [
        String::new(),
        good.clone(),
        format!("{good}0000JUNK"),
        format!("{good}{again}0000"),
        format!("{}0000", line("push-cert\0 a")),
        format!("{}0000", line(&format!("{none} {one} refs/heads/a"))),
        format!("{}0000", line(&format!("{none} {} refs/heads/a\0", "1".repeat(39)))),
        format!("{}0000", line(&format!("{none} {one} refs/heads/a b\0"))),
        format!("ffff{good}"),
    ] {
        assert!(told(&body).is_err(), "{body:?}: {:?}", told(&body));
    }
}

#[test]
fn mails_that_readers_differ_on_are_undecidable() {
    let url = "https://gmail.googleapis.com/upload/gmail/v1/users/me/messages/send";
    let kind = ("content-type", "message/rfc822");
    let told = |mail: &str| said("POST", url, &[kind], &mail.replace('\n', "\r\n"));
    assert_eq!(
        told("To: Ana <ana@example.com>\nSubject: a\n\nhello\n"),
        Ok(Some((Risk::Messages, "Send mail \"a\" to ana@example.com (\"Ana\")".into())))
    );
    let parts = "To: a@b\nContent-Type: multipart/mixed; boundary=x\n\n";
    for mail in [
        "To: a@b\nTo: c@d\n\n",
        "To: a@b (c@d)\n\n",
        "To: <a@b> <c@d>\n\n",
        "To: a@b@c\n\n",
        "To: a@b,\n\n",
        "To: undisclosed-recipients:;\n\n",
        "To: =?utf-7?q?a?= <a@b>\n\n",
        "Subject: =?utf-8?q?=zz?=\n\n",
        "Resent-To: c@d\n\n",
        "To a@b\n\n",
        "Content-Type: text/plain; charset=utf-7\n\na\n",
        "Content-Transfer-Encoding: x-uuencode\n\na\n",
        "Content-Type: multipart/mixed; boundary=x; boundary=y\n\n--x\n\na\n--x--\n",
        &format!("{parts}hidden\n--x\n\na\n--x--\n"),
        &format!("{parts}--x\n\na\n--x--\nhidden\n"),
        &format!("{parts}--x\n\na\n"),
    ] {
        assert!(told(mail).is_err(), "{mail:?}: {:?}", told(mail));
    }
}

#[test]
fn b_10_an_upload_is_one_mail_and_what_stands_beside_it() {
    const LETTER: &str = "To: ana@example.com\r\nSubject: Numbers\r\n\r\nHello\r\n";
    let url =
        "https://gmail.googleapis.com/upload/gmail/v1/users/me/messages/send?uploadType=multipart";
    let described = |kind: &str, body: &str| {
        Captured::new("POST", url, &[("content-type", kind)], body.as_bytes()).describe()
    };
    let related = |parts: &[(&str, &str)]| {
        let each = parts.iter().map(|(head, body)| format!("--b\r\n{head}\r\n\r\n{body}\r\n"));
        format!("{}--b--\r\n", each.collect::<String>())
    };
    let (json, mail) =
        ("Content-Type: application/json; charset=UTF-8", "Content-Type: message/rfc822");
    let kind = "multipart/related; boundary=b";
    let whole = related(&[(json, r#"{"threadId":"t1","labelIds":["L"]}"#), (mail, LETTER)]);
    let said = described(kind, &whole).unwrap().unwrap();
    assert_eq!(said.sentence, "Send mail \"Numbers\" to ana@example.com");
    let also = said.also.line().unwrap();
    assert!(also.contains("threadId: t1") && also.contains("labelIds: [\"L\"]"), "{also}");
    assert!(described("message/rfc822", LETTER).unwrap().is_some());
    for (kind, body) in [
        ("multipart/mixed; boundary=b", whole.clone()),
        ("multipart/related", whole.clone()),
        ("multipart/related; boundary=b; boundary=c", whole.clone()),
        (kind, related(&[(json, "{}")])),
        (kind, related(&[(mail, LETTER), (json, "{}")])),
        (kind, related(&[(json, "{}"), (mail, LETTER), (mail, LETTER)])),
        (kind, related(&[(json, r#"{"raw":"VG86IGE"}"#), (mail, LETTER)])),
        (kind, related(&[(json, r#"{"message":{"raw":"VG86IGE"}}"#), (mail, LETTER)])),
        (kind, related(&[(json, r#"{"a":1,"a":2}"#), (mail, LETTER)])),
        (kind, related(&[(json, "[]"), (mail, LETTER)])),
        (
            kind,
            related(&[
                (json, "{}"),
                (&format!("{mail}\r\nContent-Transfer-Encoding: base64"), LETTER),
            ]),
        ),
        (kind, format!("preamble\r\n{whole}")),
        ("text/plain", LETTER.to_owned()),
    ] {
        assert!(described(kind, &body).is_err(), "{kind}\n{body}");
    }
}
