//! E-mail through an SMTP server; Python's library reads what is handed to it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_chat::{
    Adapter, Failure, Mail, Message, Outgoing, Security, Text, Unfit, platform,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    HOSTILE, any_card, asking, card, configuration, judge, no_hidden_character, now, settled,
};
use crate::written::is_hostile;

const SETTINGS: &[(&str, &str)] = &[
    ("from", "Countersign <countersign@example.com>"),
    ("page_url", "https://countersign.example/answer/"),
    ("host", "mx.example.com"),
    ("user", "bot"),
];
const SECRETS: &[(&str, &str)] = &[("password", "canary")];
const PERSON: &str = "ana@example.com";
const PAGE: &str = "https://countersign.example/answer/00112233445566778899aabbccddeeff";

fn opened(more: &[(&str, &str)]) -> Result<Box<dyn Adapter>, Unfit> {
    let settings = [SETTINGS, more].concat();
    (platform("email").unwrap().open)(configuration("email", &settings, SECRETS).unwrap())
}

fn smtp() -> Box<dyn Adapter> {
    opened(&[]).unwrap()
}

fn mail(outgoing: Outgoing) -> Mail {
    let Outgoing::Mail(mail) = outgoing else { panic!("{outgoing:?}") };
    mail
}

/// A mail as a program of somebody else's reads it, and to whom it goes.
fn read(mail: &Mail) -> Value {
    let letter = mail.written(now()).unwrap();
    let to: Vec<_> = letter.envelope.to().iter().map(ToString::to_string).collect();
    assert_eq!(to, [mail.to.as_str()], "one address, and no other");
    let from = letter.envelope.from().unwrap().to_string();
    assert_eq!(from, "countersign@example.com");
    let read =
        judge("mail_read.py", &json!({ "message": BASE64_STANDARD.encode(&letter.message) }));
    assert_eq!(read["defects"], json!([]), "{read}");
    assert_eq!((&read["bare_line_breaks"], &read["ascii"]), (&json!(0), &json!(true)));
    assert!(read["longest_line"].as_u64().unwrap() <= 998, "RFC 5322, section 2.1.1");
    read
}

fn header(read: &Value, name: &str) -> Vec<String> {
    let headers = read["headers"].as_array().unwrap().iter();
    let named = headers.filter(|header| header[0].as_str().unwrap().eq_ignore_ascii_case(name));
    named.map(|header| header[1].as_str().unwrap().to_owned()).collect()
}

fn part(read: &Value, kind: &str) -> String {
    let parts = read["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2);
    let part = parts.iter().find(|part| part["type"] == kind).unwrap();
    part["text"].as_str().unwrap().replace("\r\n", "\n")
}

#[test]
fn a_card_is_one_mail_with_text_and_html_that_say_the_same() {
    let card = card("/p", "{\"a\": 1}\nsecond line\n");
    let sent = mail(smtp().post(PERSON, &asking(&card, "c", PERSON), "delivery-1").unwrap());
    let read = read(&sent);
    assert_eq!(read["type"], "multipart/alternative");
    let text = part(&read, "text/plain");
    assert!(text.starts_with(&format!("To answer, log in at {PAGE}\n\n")), "{text}");
    for line in ["robot (of ana) wants to DELETE api.example.com/p", "{\"a\": 1}", "second line"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let html = part(&read, "text/html");
    let shown = html.split_once("anywhere\">\n").unwrap().1.split_once("</pre>").unwrap().0;
    let unescaped = shown.replace("&quot;", "\"").replace("&#39;", "'").replace("&lt;", "<");
    let unescaped = unescaped.replace("&gt;", ">").replace("&amp;", "&");
    assert_eq!(unescaped.trim_end(), text.split_once("\n\n").unwrap().1.trim_end());
    assert_eq!(
        header(&read, "subject"),
        ["An agent asks for your consent (absorb fatigue ladder orbit)"]
    );
    assert_eq!(header(&read, "to"), [PERSON]);
    assert_eq!(header(&read, "from"), ["Countersign <countersign@example.com>"]);
    assert_eq!(header(&read, "auto-submitted"), ["auto-generated"]);
    assert_eq!(header(&read, "date").len(), 1);
    assert_eq!(header(&read, "mime-version"), ["1.0"]);
}

#[test]
fn r_22_a_repeat_has_the_id_of_the_first_and_another_delivery_has_its_own() {
    let card = card("/p", "{}");
    let id = |key: &str, place: &str| {
        let sent = mail(smtp().post(place, &asking(&card, "c", place), key).unwrap());
        let ids = header(&read(&sent), "message-id");
        assert_eq!((ids.len(), &ids[0]), (1, sent.id.as_ref().unwrap()));
        ids[0].clone()
    };
    assert_eq!(id("delivery-1", PERSON), id("delivery-1", PERSON));
    assert_ne!(id("delivery-1", PERSON), id("delivery-2", PERSON));
    assert!(id("delivery-1", PERSON).ends_with("@example.com>"));
    assert!(smtp().caps().keyed_send);
    // Words that follow nothing are said anew each time, and are no repeat.
    let words = mail(smtp().say(PERSON, None, &Text::of("An approval waits.")));
    let at = |seconds| {
        let letter = words.written(now() + std::time::Duration::from_secs(seconds)).unwrap();
        letter.message
    };
    assert_eq!(at(0), at(0));
    assert_ne!(at(0), at(1));
}

#[test]
fn i_13_what_became_of_it_is_a_reply_in_the_thread_of_the_card() {
    let card = card("/p", "{}");
    let asked = mail(smtp().post(PERSON, &asking(&card, "c", PERSON), "delivery-1").unwrap());
    let id = asked.id.clone().unwrap();
    let message = Message { place: PERSON.into(), id: id.clone() };
    assert!(smtp().edit(&message, &settled(&card, "Denied by bo: no")).is_none());
    let words = Text::of("Denied by bo: no. See https://evil.example");
    let follows = mail(smtp().say(PERSON, Some(&message), &words));
    let seen = read(&follows);
    assert_eq!(header(&seen, "in-reply-to"), [id.as_str()]);
    assert_eq!(header(&seen, "references"), [id.as_str()]);
    assert_eq!(header(&seen, "subject"), [format!("Re: {}", asked.subject)]);
    assert_ne!(follows.id, Some(id));
    assert_eq!(follows.id, mail(smtp().say(PERSON, Some(&message), &words)).id, "tried again");
    assert!(part(&seen, "text/plain").starts_with("Denied by bo: no. See https[:]//evil.example"));
    assert!(part(&seen, "text/html").contains("https[:]//evil.example"));
    assert!(!part(&seen, "text/html").contains("href"));
    // One whose id is not known is followed without a thread.
    let lost = Message { place: PERSON.into(), id: String::new() };
    let alone = read(&mail(smtp().say(PERSON, Some(&lost), &words)));
    assert_eq!(header(&alone, "in-reply-to"), Vec::<String>::new());
    assert_eq!(header(&alone, "subject"), ["What became of a request"]);
}

#[test]
fn a_4_hostile_text_is_in_the_parts_alone_and_is_no_markup_there() {
    let hostile = format!("{HOSTILE}\n<script>alert(1)</script>\n--boundary--\n.\nQUIT");
    let card = card(HOSTILE, &hostile);
    let sent = mail(smtp().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap());
    let read = read(&sent);
    for header in read["headers"].as_array().unwrap() {
        assert!(!is_hostile(header[1].as_str().unwrap()), "{header}");
    }
    no_hidden_character(&json!([part(&read, "text/plain"), part(&read, "text/html")]));
    let html = part(&read, "text/html");
    assert!(!html.contains("<script") && !html.contains("<b>") && !html.contains("<https"));
    assert_eq!(html.matches("<a ").count(), 1, "our own link");
    assert_eq!(html.matches("://").count(), 2, "its address, and the same in words: {html}");
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    let text = part(&read, "text/plain");
    assert_eq!(text.matches("://").count(), 1, "{text}");
    assert!(text.contains("\n.\nQUIT"), "a line that ends mails is one of this mail");
    let notice = asking(&card, "c", PERSON);
    let answers = notice.answers.as_ref().unwrap();
    let message = String::from_utf8(sent.written(now()).unwrap().message).unwrap();
    for proof in [answers.approve.as_str(), answers.deny.as_str(), &answers.code.shown()] {
        let whole = format!("{message}{text}{html}");
        assert!(!whole.contains(proof), "a scanner reads it");
    }
    assert!(!message.contains("canary") && !format!("{sent:?}").contains("canary"));
}

#[test]
fn no_header_comes_from_an_address_a_key_or_a_subject() {
    let card = card("/p", "{}");
    for place in [
        "ana@example.com\r\nBcc: eve@example.com",
        "ana@example.com, eve@example.com",
        "Ana <ana@example.com>",
        "ana@example.com>\r\nRCPT TO:<eve@example.com",
        "\u{e4}na@example.com",
        "ana",
        "",
    ] {
        let sent = mail(smtp().post(place, &asking(&card, "c", place), "k").unwrap());
        let refused = sent.written(now()).unwrap_err();
        assert!(
            matches!(&refused, Failure::Never { why } if why.contains("no mail address")),
            "{refused:?}"
        );
    }
    let key = "k\r\nBcc: eve@example.com";
    let sent = mail(smtp().post(PERSON, &asking(&card, "c", PERSON), key).unwrap());
    assert_eq!(header(&read(&sent), "bcc"), Vec::<String>::new());
    let spoiled = Mail { subject: "s\r\nBcc: eve@example.com".into(), ..sent.clone() };
    assert!(matches!(spoiled.written(now()), Err(Failure::Never { .. })));
    let spoiled = Mail { under: Some("<a@b>\r\nBcc: eve@example.com".into()), ..sent };
    assert!(matches!(spoiled.written(now()), Err(Failure::Never { .. })));
    for from in ["a@b.example\r\nBcc: eve@example.com", "nobody", "\u{e4}@example.com"] {
        // A sender is read up to its end, and what is behind it is never written.
        match opened(&[("from", from)]) {
            Err(unfit) => assert!(unfit.0.contains("from is no mail address"), "{unfit}"),
            Ok(adapter) => {
                let sent = adapter.post(PERSON, &asking(&card, "c", PERSON), "k").unwrap();
                let letter = mail(sent).written(now()).unwrap();
                assert!(!String::from_utf8(letter.message).unwrap().contains("Bcc"));
            }
        }
    }
}

#[test]
fn c_10_a_server_is_spoken_to_over_tls_and_with_a_password_or_not_at_all() {
    let relay = |more: &[(&str, &str)]| opened(more).unwrap().relay().cloned().unwrap();
    let plain = relay(&[]);
    assert_eq!((plain.port, plain.security), (587, Security::StartTls));
    assert_eq!(plain.login.as_ref().map(|(user, _)| user.as_str()), Some("bot"));
    let implicit = relay(&[("tls", "implicit")]);
    assert_eq!((implicit.port, implicit.security), (465, Security::Implicit));
    assert_eq!(relay(&[("port", "2525")]).port, 2525);
    let why = |more: &[(&str, &str)]| opened(more).err().unwrap().0;
    assert!(why(&[("tls", "none")]).contains("not this very machine"));
    assert!(why(&[("tls", "opportunistic")]).contains("starttls, implicit or none"));
    for host in ["127.0.0.1.example.com", "localhost.example.com", "10.0.0.1"] {
        assert!(
            why(&[("tls", "none"), ("host", host)]).contains("not this very machine"),
            "{host}"
        );
    }
    for own in ["127.0.0.1", "::1", "localhost"] {
        assert_eq!(relay(&[("tls", "none"), ("host", own)]).security, Security::None);
    }
    assert!(why(&[("host", "mx.example.com/x")]).contains("the name or the address"));
    assert!(why(&[("port", "70000")]).contains("1 to 65535"));
    let without = configuration("email", SETTINGS, &[]).unwrap();
    let refused = (platform("email").unwrap().open)(without).err().unwrap();
    assert!(refused.0.contains("the secret password is missing"), "{refused}");
    assert!(!format!("{plain:?}").contains("canary"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_4_no_card_brings_a_header_or_ends_its_part(card in any_card()) {
        if let Ok(sent) = smtp().post(PERSON, &asking(&card, "c", PERSON), "k") {
            let sent = mail(sent);
            let letter = sent.written(now()).unwrap();
            let message = String::from_utf8(letter.message).unwrap();
            let (head, body) = message.split_once("\r\n\r\n").unwrap();
            let names: Vec<_> = head
                .split("\r\n")
                .filter(|line| !line.starts_with([' ', '\t']))
                .map(|line| line.split(':').next().unwrap().to_ascii_lowercase())
                .collect();
            prop_assert_eq!(names.len(), 8, "{}", head);
            let boundary = head.split("boundary=\"").nth(1).unwrap().split('"').next().unwrap();
            prop_assert_eq!(body.matches(boundary).count(), 3);
            prop_assert!(message.is_ascii());
            prop_assert!(message.split("\r\n").all(|line| line.len() <= 998));
        }
    }
}
