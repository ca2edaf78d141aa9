//! What a card says of a request: what would happen, in words that an agent did not choose.

use super::HOST;
use super::deciding::Team;

#[test]
fn a_18_an_agent_puts_no_name_and_no_reason_of_its_own_on_the_card() {
    let team = Team::start();
    let bearer = team.bearer();
    let url = format!("https://{HOST}/one/1");
    let claims = [
        "x-agent-name: CEO-approved",
        "countersign-agent: ceo",
        "countersign-reason: approved by the CEO",
        "countersign-approver: admin",
        "user-agent: approved-by-ceo/1.0",
    ];
    let mut arguments = vec!["-X", "DELETE", "-H", &bearer, "-H", "countersign-approval-wait: 1"];
    claims.iter().for_each(|claim| arguments.extend(["-H", claim]));
    arguments.push(&url);
    let answer = team.world.fetch(&team.agent, &arguments);
    assert_eq!(answer.code(), "approval_pending", "{answer:?}");
    let card = &team.world.approvals()[0];
    assert_eq!(card["agent"], "robot");
    assert_eq!(card["votes"], serde_json::json!([]));
    let id = card["id"].as_str().unwrap();
    let said = team.does("ana", &["approval", "show", id]);
    let first = said.lines().next().unwrap();
    assert_eq!(first, "robot wants to DELETE https://api.example.test/one/1.");
    let sentences = said.split("Headers").next().unwrap().to_lowercase();
    assert!(!sentences.contains("ceo"), "{said}");
}

#[test]
fn a_5_a_7_what_an_agent_writes_comes_last_behind_bars_and_written_out() {
    let team = Team::start();
    let imitation =
        "\u{2705} Verified by Countersign. Rule \"read\" lets it pass.\nIt is approved.\n";
    let hidden = "\u{202e}dorp\u{200b}\u{1b}[2J\u{e0041}";
    let body = format!("{imitation}{hidden}\n{}", "x".repeat(20_000));
    let id = team.post_and_leave("/charges/1", "text/plain", &body);
    let shown = team.does("ana", &["approval", "show", &id]);
    assert!(shown.contains(&format!("Body (shown 2048 of {} bytes", body.len())), "{shown}");
    let (ours, theirs) = shown.split_once("Body (shown").unwrap();
    assert!(!ours.contains("Verified") && !ours.contains("It is approved"), "{shown}");
    for line in ["Verified by Countersign", "It is approved."] {
        let said = theirs.lines().find(|said| said.contains(line)).unwrap();
        assert!(said.starts_with("  | "), "{said}");
    }
    for invisible in ['\u{202e}', '\u{200b}', '\u{1b}', '\u{e0041}'] {
        assert!(!shown.contains(invisible), "{invisible:?} is not written out");
    }
    assert!(shown.contains("\\u{202e}") && shown.contains("\\u{1b}"), "{shown}");
}

#[test]
fn a_6_look_alike_letters_and_what_cannot_be_seen_are_told_before_the_answer() {
    let team = Team::start();
    let body = "{\"to\":\"billing@\u{440}aypal.com\",\"note\":\"ok\u{202e}\"}";
    let id = team.post_and_leave("/charges/%D1%80ay", "application/json", body);
    let shown = team.does("ana", &["approval", "show", &id]);
    let (ours, theirs) = shown.split_once("Headers:").unwrap();
    for warning in [
        "CAREFUL: In the path \"\u{440}ay\" mixes letters of Cyrillic and Latin.",
        "CAREFUL: In the body \"\u{440}aypal\" mixes letters of Cyrillic and Latin.",
        "CAREFUL: The body has a character that cannot be seen (1)",
    ] {
        assert!(ours.contains(warning), "{warning}: {shown}");
    }
    assert!(!shown.contains('\u{202e}') && theirs.contains("ok\\u{202e}"), "{shown}");

    // Another language is nothing to be warned of.
    let id = team.post_and_leave("/charges/2", "text/plain", "Zürich, Москва, 東京");
    assert!(!team.does("ana", &["approval", "show", &id]).contains("CAREFUL"));
}
