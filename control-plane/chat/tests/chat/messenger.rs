//! Messenger, with Python's hmac as the signer.

use std::time::Duration;

use countersign_chat::{Keys, Words};
use proptest::prelude::*;
use serde_json::Value;

use crate::meta::{Inbox, PERSON, approve, postback, signer};
use crate::support::{HANDLE, HOSTILE, OverHttp, any_card, asking, body, card, key, now};

const INBOX: Inbox =
    Inbox { platform: "messenger", object: "page", account: "page_id", token: "page_access_token" };

fn messenger() -> OverHttp {
    INBOX.open()
}

#[test]
fn c_10_messenger_nine_forgeries() {
    INBOX.refuses_nine_forgeries();
}

#[test]
fn a_challenge_is_answered_for_whoever_has_the_verify_token() {
    INBOX.answers_challenges_with_the_verify_token();
}

#[test]
fn a_tap_says_who_pressed_what_and_is_answered_there() {
    INBOX.hears_who_pressed_what_and_answers_there();
}

#[test]
fn a_postback_without_an_id_is_the_same_event_whenever_it_is_delivered() {
    let mut event = postback(&approve());
    event["postback"].as_object_mut().unwrap().remove("mid");
    let said = |at, event: &Value| {
        INBOX.hook(&signer(at), event).says(&*messenger(), &Keys::default(), now())
    };
    let first = said(now(), &event);
    assert!(!first.event.is_empty());
    assert_eq!(said(now(), &event), first);
    assert_ne!(said(now() - Duration::from_secs(1), &event).event, first.event);
    let deny = key().token("c", PERSON, HANDLE, Words::Deny);
    event["postback"]["payload"] = deny.as_str().into();
    assert_ne!(said(now(), &event).event, first.event);
}

#[test]
fn a_code_is_written_by_people_and_our_own_echoes_are_not_heard() {
    INBOX.hears_codes_of_people_and_not_its_own_echoes();
}

#[test]
fn a_4_hostile_text_is_only_in_plain_text() {
    for card in [card("/x", HOSTILE), card(HOSTILE, HOSTILE)] {
        let call = messenger().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap();
        let mut sent = body(&call);
        for invisible in ['\u{202e}', '\u{200b}', '\u{e0041}'] {
            assert!(!sent.to_string().contains(invisible));
        }
        assert!(!sent.to_string().contains("EAA-canary") && !call.url.contains("canary"));
        assert_eq!(call.url, "http://127.0.0.1:1/v25.0/104728521537301/messages");
        for text in ["/message/text", "/message/attachment/payload/text"] {
            if let Some(text) = sent.pointer_mut(text) {
                *text = "".into();
            }
        }
        assert!(!sent.to_string().contains("/x"), "it is nowhere else");
    }
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_buttons_where_the_rule_wants_it_whole() {
    let mut card = card("/p", &"x".repeat(20_000));
    let sent = |card: &_| body(&messenger().post(PERSON, &asking(card, "c", PERSON), "k").unwrap());
    assert!(sent(&card).to_string().contains(" of 20000 bytes):"));
    assert_eq!(sent(&card)["message"]["attachment"]["payload"]["template_type"], "button");
    card.demands_whole = true;
    assert!(!sent(&card).to_string().contains("payload"), "no button");
    assert!(sent(&card).to_string().contains("countersign approval show"));
    assert!(!sent(&card).to_string().contains("approve "), "and no code");
    // A longer head has quick replies instead, and the code.
    let longer = crate::support::card(&format!("/{}", "p".repeat(400)), "");
    let sent = sent(&longer);
    let code = key().code("c", PERSON, HANDLE).shown();
    assert_eq!(sent["message"]["quick_replies"][0]["payload"], approve().as_str());
    assert!(sent["message"]["text"].as_str().unwrap().contains(&code));
    let longest = crate::support::card(&format!("/{}", "p".repeat(2000)), "");
    assert!(messenger().post(PERSON, &asking(&longest, "c", PERSON), "k").is_err());
}

proptest! {
    #[test]
    fn a_5_messenger_no_message_is_over_the_limits(card in any_card()) {
        if let Ok(call) = messenger().post(PERSON, &asking(&card, "c", PERSON), "k") {
            let message = &body(&call)["message"];
            let length = |text: &Value| text.as_str().map_or(0, |text| text.encode_utf16().count());
            prop_assert!(length(&message["text"]) <= 2000);
            prop_assert!(length(&message["attachment"]["payload"]["text"]) <= 640);
        }
    }
}

#[test]
fn a_8_no_address_keeps_its_scheme() {
    INBOX.shows_no_address_with_its_scheme();
}

#[test]
fn i_13_a_settled_card_has_no_button_and_an_old_one_stays_as_it_is() {
    INBOX.settles_a_card_without_buttons_and_leaves_the_old_one();
}

#[test]
fn an_answer_says_which_message_it_is_now_or_what_to_do() {
    INBOX.says_which_message_it_is_now_or_what_to_do();
}
