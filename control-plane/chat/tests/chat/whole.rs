//! Which cards show all of a request, on every platform.

use countersign_chat::{Body, PLATFORMS};
use proptest::prelude::*;

use crate::strangers::opened;
use crate::support::{any_card, asking, body, card, open, settled};

const SECRETS: &[(&str, &str)] = &[
    ("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ("answer_secret", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
];

#[test]
fn a_5_a_card_is_whole_where_all_of_it_has_room_and_can_be_answered_and_nowhere_else() {
    for (platform, adapter) in PLATFORMS.iter().zip(opened()) {
        let whole = |card: &_| adapter.shows_whole("place", &asking(card, "c", "place"));
        let small = card("/p", "all of it");
        // Nothing is answered by mail.
        assert_eq!(whole(&small), platform.name != "email", "{}", platform.name);
        let mut stronger = small.clone();
        stronger.answered_elsewhere = true;
        assert_eq!(whole(&stronger), whole(&small), "{}: what is shown is the same", platform.name);
        assert!(!adapter.shows_whole("place", &settled(&small, "Denied")), "{}", platform.name);

        let mut binary = small.clone();
        binary.body = Body { text: None, total: 9, uninspectable: false };
        let mut unread = small.clone();
        unread.body.uninspectable = true;
        let long = card("/p", &"x\n".repeat(100_000));
        let head = card(&format!("/{}", "p".repeat(200_000)), "");
        for (what, less) in
            [("binary", binary), ("undecodable", unread), ("cut", long), ("no card at all", head)]
        {
            assert!(!whole(&less), "{}: {what}", platform.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A program is told in so many words.
    #[test]
    fn a_5_a_card_is_whole_exactly_where_it_says_that_it_is(card in any_card()) {
        let webhook = open("webhook", &[("base_url", "http://127.0.0.1:1")], SECRETS);
        let notice = asking(&card, "c", "place");
        if let Ok(call) = webhook.post("place", &notice, "k") {
            let said = body(&call).to_string().contains("\"whole\":true");
            prop_assert_eq!(webhook.shows_whole("place", &notice), said);
        }
    }
}
