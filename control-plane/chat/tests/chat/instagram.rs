//! Instagram, with Python's hmac as the signer.

use proptest::prelude::*;

use crate::meta::{Inbox, PERSON, approve};
use crate::support::{HANDLE, HOSTILE, OverHttp, any_card, asking, body, card, key};

const INBOX: Inbox = Inbox {
    platform: "instagram",
    object: "instagram",
    account: "account_id",
    token: "access_token",
};

fn instagram() -> OverHttp {
    INBOX.open()
}

#[test]
fn c_10_instagram_nine_forgeries() {
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
fn a_code_is_written_by_people_and_our_own_echoes_are_not_heard() {
    INBOX.hears_codes_of_people_and_not_its_own_echoes();
}

#[test]
fn a_4_hostile_text_is_only_in_plain_text() {
    let card = card("/x", HOSTILE);
    let call = instagram().post(PERSON, &asking(&card, "c", PERSON), "k").unwrap();
    let mut sent = body(&call);
    for invisible in ['\u{202e}', '\u{200b}', '\u{e0041}'] {
        assert!(!sent.to_string().contains(invisible));
    }
    assert!(!sent.to_string().contains("EAA-canary") && !call.url.contains("canary"));
    assert_eq!(call.url, "http://127.0.0.1:1/v25.0/104728521537301/messages");
    assert!(!sent["message"]["text"].as_str().unwrap().contains(" @"), "no name is a link");
    sent["message"]["text"] = "".into();
    assert!(!sent.to_string().contains("/x"), "it is nowhere else");
}

#[test]
fn a_5_what_does_not_fit_says_so_and_costs_the_buttons_where_the_rule_wants_it_whole() {
    let mut card = card("/p", &"東".repeat(2_000));
    let sent = |card: &_| body(&instagram().post(PERSON, &asking(card, "c", PERSON), "k").unwrap());
    assert!(sent(&card).to_string().contains(" of 6000 bytes):"));
    assert_eq!(sent(&card)["message"]["quick_replies"][0]["payload"], approve().as_str());
    let code = key().code("c", PERSON, HANDLE).shown();
    assert!(sent(&card).to_string().contains(&code));
    card.demands_whole = true;
    assert!(!sent(&card).to_string().contains("payload"), "no button");
    assert!(sent(&card).to_string().contains("countersign approval show"));
    assert!(!sent(&card).to_string().contains(&code), "and no code");
    let longer = crate::support::card(&format!("/{}", "p".repeat(400)), "");
    assert!(instagram().post(PERSON, &asking(&longer, "c", PERSON), "k").is_err());
}

proptest! {
    #[test]
    fn a_5_instagram_no_message_is_over_the_limit(card in any_card()) {
        if let Ok(call) = instagram().post(PERSON, &asking(&card, "c", PERSON), "k") {
            prop_assert!(body(&call)["message"]["text"].as_str().unwrap().len() <= 1000);
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
