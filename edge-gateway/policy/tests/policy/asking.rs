//! Whom an approve rule asks, how, and for how long the answer counts.

use std::time::Duration;

use countersign_policy::{Decision, Escalation, Panel, Proof, Strength, Then};

use crate::mistakes::wrong;
use crate::support::{ask, mistakes, policy};

const MINUTE: u64 = 60;

/// What a policy of approve rules with these keys says of a request.
fn decided(rules: &[&str]) -> Decision {
    let rule = |(number, keys): (usize, &&str)| {
        format!("[[rule]]\nname = \"{number}\"\nhost = \"a.example\"\nthen = \"approve\"\n{keys}\n")
    };
    let rules = policy(&rules.iter().enumerate().map(rule).collect::<String>());
    let decision = ask("GET", "https://a.example/").decide(&rules);
    assert_eq!(decision.then, Then::Approve);
    decision
}

fn panel(of: &[&str], quorum: u32) -> Panel {
    Panel { of: of.iter().map(|&name| name.to_owned()).collect(), quorum }
}

#[test]
fn every_key_of_an_approve_rule_reaches_the_decision() {
    let decision = decided(&[r#"
panels = [{ of = ["security"], quorum = 2 }, { of = ["finance", "alice"] }]
strength = "L3"
proof = "transferable"
owner_may_approve = true
escalate = [{ after = "10m", to = ["oncall"] }, { after = "20m", to = ["heads"] }]
break_glass = ["security-leads"]
expires = "30m"
remind = "5m"
unused = "1h"
cool_down = "0s"
card = "whole"
"#]);
    let asked = &decision.requirements[0];
    assert_eq!(asked.panels, [panel(&["security"], 2), panel(&["finance", "alice"], 1)]);
    assert_eq!((asked.strength, asked.proof), (Strength::L3, Proof::Transferable));
    assert!(asked.owner_may_approve && asked.whole_card && !asked.critical);
    let minutes = |minutes: u64| Duration::from_secs(minutes * MINUTE);
    assert_eq!(
        asked.escalations,
        [
            Escalation { after: minutes(10), to: vec!["oncall".to_owned()] },
            Escalation { after: minutes(20), to: vec!["heads".to_owned()] },
        ]
    );
    assert_eq!(asked.break_glass, ["security-leads"]);
    assert_eq!((decision.expires, decision.remind), (minutes(30), Some(minutes(5))));
    assert_eq!((decision.unused, decision.cool_down), (minutes(60), Duration::ZERO));
}

#[test]
fn panels_may_be_written_as_tables_of_their_own() {
    let rules = "[[rule.panels]]\nof = [\"a\"]\n[[rule.panels]]\nof = [\"b\"]\nquorum = 2";
    assert_eq!(decided(&[rules]).requirements[0].panels, [panel(&["a"], 1), panel(&["b"], 2)]);
}

#[test]
fn what_is_left_out_asks_for_little_and_opens_nothing_more() {
    let decision = decided(&[""]);
    let asked = &decision.requirements[0];
    assert_eq!((asked.strength, asked.proof), (Strength::L1, Proof::None));
    assert!(!asked.owner_may_approve && asked.escalations.is_empty());
    assert!(asked.break_glass.is_empty() && !asked.critical && !asked.whole_card);
    assert_eq!(decision.unused, Duration::from_secs(15 * MINUTE));
    assert_eq!(decision.cool_down, Duration::from_secs(10 * MINUTE));
    assert_eq!(decision.remind, None);
}

#[test]
fn a_critical_rule_wants_a_session_at_least() {
    let critical =
        |keys: &str| decided(&[&format!("critical = true\n{keys}")]).requirements[0].clone();
    assert!(critical("").critical);
    assert_eq!(critical("").strength, Strength::L2);
    assert_eq!(critical("strength = \"L3\"").strength, Strength::L3);
    wrong("critical = true\nstrength = \"L1\"", "`strength` is L1 beside `critical`");
    wrong("critical = true\nbreak_glass = [\"a\"]", "nobody passes a critical rule alone");
}

#[test]
fn a_card_is_demanded_whole_in_that_one_word() {
    assert!(decided(&["card = \"whole\""]).requirements[0].whole_card);
    wrong("card = \"short\"", "`card` is \"whole\", not \"short\"");
    wrong("card = true", "`card`");
}

#[test]
fn of_several_rules_the_times_that_are_on_the_safe_side_count() {
    let decision = decided(&[
        "unused = \"1m\"\ncool_down = \"1h\"\nremind = \"1m\"",
        "unused = \"1h\"\ncool_down = \"1m\"\nremind = \"2m\"",
        "",
    ]);
    assert_eq!(decision.unused, Duration::from_secs(MINUTE), "the shortest");
    assert_eq!(decision.cool_down, Duration::from_secs(60 * MINUTE), "the longest");
    assert_eq!(decision.remind, Some(Duration::from_secs(2 * MINUTE)), "the longest");
    assert_eq!(decision.requirements.len(), 3);
}

#[test]
fn whoever_may_ever_approve_is_among_the_approvers() {
    let rules = policy(
        "[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"approve\"\npanels = [{ of = [\"a\"] }, { of = [\"b\"] }]\n\
         escalate = [{ after = \"1m\", to = [\"c\"] }]\nbreak_glass = [\"d\"]\n",
    );
    assert_eq!(rules.approvers().into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}

#[test]
fn each_key_that_makes_no_sense_is_said() {
    wrong("panels = [{ of = [\"a\"] }]\nquorum = 2", "`quorum` is the short form of one panel");
    wrong("panels = [{ of = [\"a\"] }]\napprovers = [\"b\"]", "write it or `panels`, not both");
    wrong("panels = []", "`panels` is empty");
    wrong("panels = [\"a\"]", "`panels` is a list of tables: [{ of = ");
    wrong("panels = [{ quorum = 1 }]", "`of` is missing");
    wrong("panels = [{ of = [] }]", "`of` is empty: nobody could approve");
    wrong("panels = [{ of = [\"a\"], quorum = 0 }]", "`quorum` is 0");
    wrong("panels = [{ of = [\"a\"], qorum = 1 }]", "a panel has no key `qorum`: did you mean");
    wrong(
        "panels = [{ of = [\"a\"], quorum = 60 }, { of = [\"b\"], quorum = 60 }]",
        "ask for 120 people",
    );
    wrong("strength = \"L4\"", "`strength` is \"L0\", \"L1\", \"L2\" or \"L3\", not \"L4\"");
    wrong("proof = \"some\"", "`proof` is \"none\", \"shared\" or \"transferable\"");
    wrong("owner_may_approve = \"yes\"", "true or false");
    wrong("escalate = []", "`escalate` is empty");
    wrong("escalate = [{ to = [\"a\"] }]", "`after` is missing");
    wrong("escalate = [{ after = \"1m\" }]", "`to` is missing");
    wrong("escalate = [{ after = \"1m\", to = [] }]", "`to` is empty");
    wrong("escalate = [{ after = \"15m\", to = [\"a\"] }]", "not shorter than `expires` (15m)");
    wrong(
        "escalate = [{ after = \"2m\", to = [\"a\"] }, { after = \"2m\", to = [\"b\"] }]",
        "each `after` is longer",
    );
    wrong("break_glass = []", "`break_glass` is empty");
    wrong("unused = \"25h\"", "`unused` is \"25h\": it can be from 1s to 1day");
    wrong("unused = \"0s\"", "`unused` is \"0s\"");
    wrong("cool_down = \"25h\"", "it can be from 0s to 1day");
    wrong("expires = \"5m\"\nremind = \"5m\"", "so shorter than 5m");
}

#[test]
fn a_rule_that_asks_nobody_says_nothing_of_people() {
    for key in [
        "panels = [{ of = [\"a\"] }]",
        "strength = \"L2\"",
        "proof = \"shared\"",
        "owner_may_approve = false",
        "escalate = [{ after = \"1m\", to = [\"a\"] }]",
        "break_glass = [\"a\"]",
        "critical = true",
        "card = \"whole\"",
        "unused = \"1m\"",
        "cool_down = \"1m\"",
        "remind = \"1m\"",
    ] {
        wrong(&format!("then = \"allow\"\n{key}"), "has no place in this rule: it allows");
        wrong(&format!("then = \"deny\"\n{key}"), "has no place in this rule: it denies");
    }
}

#[test]
fn all_of_it_is_said_at_once() {
    let found = mistakes(
        "[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"approve\"\nstrength = \"L9\"\nproof = \"x\"\n\
         panels = [{ of = [], quorum = 0 }]\nescalate = [{ after = \"1h\" }]\nremind = \"1h\"\n",
    );
    assert_eq!(found.len(), 7, "{found:#?}");
}
