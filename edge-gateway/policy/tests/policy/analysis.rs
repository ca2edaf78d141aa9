//! What a change of policy opens, and what is probably not meant.

use countersign_policy::analysis::{
    Comparison, Holds, Kind, Was, Widening, Witness, compare, warnings,
};
use countersign_policy::{Explained, Match, Policy, Then};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::properties::{compile, request, rule};
use crate::support::{Ask, ask, policy};

/// The change between rules, each written as `name: keys`.
fn change(old: &str, new: &str) -> Comparison {
    compare(&rules(old), &rules(new))
}

/// One rule a line: `name then path more keys`.
fn rules(lines: &str) -> Policy {
    let rule = |line: &str| {
        let mut words = line.trim().splitn(4, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (name, then, path, more) = (word(), word(), word(), word());
        let more = more.replace("; ", "\n");
        format!(
            "[[rule]]\nname = \"{name}\"\nhost = \"a.example\"\nthen = \"{then}\"\npath = \"{path}\"\n{more}\n"
        )
    };
    policy(&lines.lines().filter(|line| !line.trim().is_empty()).map(rule).collect::<String>())
}

#[track_caller]
fn only(comparison: &Comparison) -> &Widening {
    assert!(comparison.widens());
    let [one] = comparison.widenings.as_slice() else { panic!("{comparison:#?}") };
    one
}

fn decided(widening: &Widening) -> Option<&str> {
    match &widening.was {
        Was::Decided(rule) => Some(&rule.rule),
        Was::Unnamed | Was::Unclear => None,
    }
}

#[test]
fn what_passes_newly_is_said_with_the_rules_and_a_request() {
    let comparison = change(
        "read allow /x methods = [\"GET\"]",
        "read allow /x methods = [\"GET\", \"DELETE\"]",
    );
    let found = only(&comparison);
    assert_eq!(
        (found.kind, &found.was, found.now.rule.as_str()),
        (Kind::Passes, &Was::Unnamed, "read")
    );
    assert_eq!((found.witness.method.as_str(), found.witness.path.as_str()), ("DELETE", "/x"));
    assert_eq!(
        found.to_string(),
        "rule \"read\" (line 2, allow) lets through what no rule let through before; for example DELETE \
         https://a.example/x by any agent"
    );
}

#[test]
fn a_rule_that_goes_opens_what_it_shut_and_nothing_else() {
    let comparison = change(
        "all allow /{r...}\nno-admin deny /admin/{r...}\nask approve /pay/{id}",
        "all allow /{r...}\nask approve /pay/{id}",
    );
    let found = only(&comparison);
    assert_eq!((found.kind, decided(found)), (Kind::Passes, Some("no-admin")));
    assert!(found.witness.path.starts_with("/admin/"), "{found:?}");
}

#[test]
fn what_is_narrower_or_moved_or_renamed_opens_nothing() {
    let old = "a allow /x/{y}\nb approve /x/send quorum = 2\nc deny /admin/{r...}";
    for new in [
        old,
        "c2 deny /admin/{rest...}\nb approve /x/send quorum = 2\na allow /x/{id}",
        "a allow /x/{y} methods = [\"GET\"]\nb approve /x/send quorum = 2\nc deny /admin/{r...}",
        "a allow /x/{y}\nb approve /x/send quorum = 3\nc deny /admin/{r...}",
        "a allow /x/y\nb approve /x/send quorum = 2",
        "a observe /x/{y}\nb approve /x/send quorum = 2\nc deny /admin/{r...}",
        "b deny /x/send",
        "",
    ] {
        let comparison = change(old, new);
        assert!(!comparison.widens(), "{new}: {comparison:#?}");
    }
}

#[test]
fn several_rules_together_may_shut_what_one_of_them_did() {
    let old = "all allow /{r...}\ndel deny /x methods = [\"DELETE\"]; agents = [\"bot\"]";
    let new = "all allow /{r...}\none deny /{y} agents = [\"bot\"]\n";
    assert!(!change(old, new).widens());
    let half = "all allow /{r...}\none deny /{y} agents = [\"other\"]\n";
    assert_eq!(only(&change(old, half)).witness.agent.as_deref(), Some("bot"));
}

#[test]
fn what_can_be_approved_newly_is_apart_from_what_passes() {
    let comparison = change("no deny /x", "yes approve /x");
    assert_eq!(
        (only(&comparison).kind, decided(only(&comparison))),
        (Kind::Approvable, Some("no"))
    );
    assert_eq!(only(&change("", "yes approve /x")).kind, Kind::Approvable);
    // What an allow rule kept out for its spelling, an approve rule asks about.
    let asked = change("a allow /x", "a approve /x");
    assert_eq!((only(&asked).kind, only(&asked).was.clone()), (Kind::Approvable, Was::Unnamed));
    assert_ne!(only(&asked).witness.path, "/x", "that passed before");
}

#[test]
fn each_way_to_ask_less_is_said() {
    let base = "panels = [{ of = [\"sec\"], quorum = 2 }, { of = [\"fin\"] }]; strength = \"L2\"; proof = \"shared\"";
    let unlike = |new: &str| {
        let comparison = change(&format!("r approve /x {base}"), &format!("r approve /x {new}"));
        comparison.widenings.iter().flat_map(|w| w.how.clone()).collect::<Vec<_>>()
    };
    assert!(unlike(base).is_empty());
    let strict = "panels = [{ of = [\"sec\"], quorum = 2 }, { of = [\"fin\"], quorum = 2 }, { of = [\"law\"] }]; strength = \"L3\"; \
                  proof = \"transferable\"; critical = true; unused = \"1m\"; cool_down = \"1h\"";
    assert!(unlike(strict).is_empty(), "{:?}", unlike(strict));
    for (keys, says) in [
        (
            "panels = [{ of = [\"sec\"], quorum = 2 }]; strength = \"L2\"; proof = \"shared\"",
            "2 of sec approve it, not 2 of sec and 1 of fin",
        ),
        (
            "panels = [{ of = [\"sec\"], quorum = 1 }, { of = [\"fin\"] }]; strength = \"L2\"; proof = \"shared\"",
            "1 of sec and 1 of fin",
        ),
        (
            "panels = [{ of = [\"sec\", \"ops\"], quorum = 2 }, { of = [\"fin\"] }]; strength = \"L2\"; proof = \"shared\"",
            "2 of sec, ops",
        ),
        (
            "panels = [{ of = [\"sec\"], quorum = 2 }, { of = [\"fin\"] }]; strength = \"L1\"; proof = \"shared\"",
            "strength L1",
        ),
        (
            "panels = [{ of = [\"sec\"], quorum = 2 }, { of = [\"fin\"] }]; strength = \"L2\"",
            "proof \"none\"",
        ),
    ] {
        let ways = unlike(keys);
        assert!(ways.len() == 1 && ways[0].contains(says), "{keys}: {ways:?}");
    }
    for (key, says) in [
        ("owner_may_approve = true", "owner may approve"),
        ("escalate = [{ after = \"1m\", to = [\"oncall\"] }]", "oncall may approve after 1m"),
        ("break_glass = [\"boss\"]", "boss may approve alone"),
        ("unused = \"1h\"", "stays usable for 1h, not 15m"),
        ("cool_down = \"0s\"", "a denial counts for 0s, not 10m"),
        ("accept_edge_enforced = true; credential = \"k\"", "may be leased"),
    ] {
        let ways = unlike(&format!("{base}; {key}"));
        assert!(ways.iter().any(|way| way.contains(says)), "{key}: {ways:?}");
    }
    let whole = change("r approve /x card = \"whole\"", "r approve /x quorum = 1");
    assert!(only(&whole).how[0].contains("chats that cannot show all of it"));
    assert!(!change("r approve /x quorum = 1", "r approve /x card = \"whole\"").widens());
    let dropped = change("r approve /x critical = true", "r approve /x strength = \"L2\"");
    assert!(only(&dropped).how[0].contains("no longer critical"));
}

#[test]
fn more_people_of_smaller_groups_are_not_fewer() {
    assert!(
        !change(
            "r approve /x quorum = 2",
            "r approve /x panels = [{ of = [\"a\"] }, { of = [\"b\"] }]"
        )
        .widens()
    );
    assert!(
        change(
            "r approve /x panels = [{ of = [\"a\"] }, { of = [\"b\"] }]",
            "r approve /x quorum = 2"
        )
        .widens()
    );
}

#[test]
fn another_rule_that_asks_as_much_makes_up_for_one_that_asks_less() {
    let old = "r approve /x/{id} quorum = 2\nall approve /{r...}";
    assert!(!change(old, "r approve /x/{id}\nall approve /{r...} quorum = 2").widens());
    let some = change(old, "r approve /x/{id}\nall approve /{r...}\none approve /x/1 quorum = 2");
    assert!(some.widenings.iter().all(|w| w.kind == Kind::Weaker && w.witness.path != "/x/1"));
    assert!(some.widens());
}

#[test]
fn a_key_that_is_given_newly_is_said() {
    let comparison = change("r allow /x", "r allow /x credential = \"k\"");
    assert_eq!(only(&comparison).kind, Kind::Key);
    assert!(only(&comparison).to_string().contains("it takes the key \"k\""));
    assert!(!change("r allow /x credential = \"k\"", "r allow /x").widens());
    assert_eq!(only(&change("r approve /x", "r approve /x credential = \"k\"")).kind, Kind::Key);
}

#[test]
fn conditions_are_the_same_when_they_are_written_alike() {
    let old = "r allow /x when = \"body.json.n < 5\"";
    assert!(!change(old, "r allow /x when = \"body.json.n < 5\"; methods = [\"POST\"]").widens());
    let other = change(old, "r allow /x when = \"body.json.n < 4\"");
    let conditions = &only(&other).witness.conditions;
    let of = |when: &str| conditions.iter().find(|c| c.when == when).map(|c| c.holds);
    assert_eq!(of("body.json.n < 4"), Some(Holds::Yes));
    assert_eq!(of("body.json.n < 5"), Some(Holds::No), "it is not looked into");
    let guarded = "all allow /x\nno deny /x when = \"body.json.n > 5\"";
    assert!(change(guarded, "all allow /x").widens());
}

#[test]
fn encoded_slashes_that_are_let_in_newly_are_said() {
    let old = "r allow /x/{y}";
    let comparison = change(old, "r allow /x/{y} allow_encoded_slash = true");
    assert_eq!(only(&comparison).was, Was::Unclear);
    assert!(only(&comparison).witness.path.contains("%2F"));
}

#[test]
fn wildcards_and_ports_are_hosts_of_their_own() {
    let rule = |host: &str, then: &str| {
        format!("[[rule]]\nname = \"{host} {then}\"\nhost = \"{host}\"\nthen = \"{then}\"\n")
    };
    let old = policy(&rule("a.b.example", "allow"));
    let comparison = compare(&old, &policy(&rule("*.b.example", "allow")));
    assert!(only(&comparison).witness.host.ends_with(".b.example"));
    assert_ne!(only(&comparison).witness.host, "a.b.example");
    let ports = compare(
        &old,
        &policy(&(rule("a.b.example", "allow") + &rule("a.b.example:8443", "allow"))),
    );
    assert_eq!(only(&ports).witness.port, 8443);
    let shut = rule("*.b.example", "allow") + &rule("*.b.example", "deny");
    assert!(!compare(&old, &policy(&shut)).widens());
}

#[test]
fn what_is_too_entangled_counts_as_wider() {
    // Any of these may match beside any other: there are too many kinds of paths to look at each.
    let entangled = |then: &str| {
        let path = |literal: usize| {
            (0..16)
                .map(|at| if at == literal { "/x".to_owned() } else { format!("/{{v{at}}}") })
                .collect::<String>()
        };
        rules(
            &(0..16)
                .map(|number| format!("r{number} {then} {}\n", path(number)))
                .collect::<String>(),
        )
    };
    let comparison = compare(&entangled("deny"), &entangled("approve"));
    assert!(comparison.widens());
    assert_eq!(comparison.gave_up, ["a.example:443"]);
    let warned = warnings(&entangled("deny"));
    assert!(warned.iter().any(|w| w.to_string().starts_with("not every rule was looked at")));
    assert!(!compare(&entangled("deny"), &entangled("deny")).widens(), "nothing changed");
}

#[test]
fn warnings_name_rules_that_do_nothing() {
    let said =
        |lines: &str| warnings(&rules(lines)).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(said("a allow /x\nb approve /y\nc deny /z").is_empty());
    let shadowed = said("a allow /x/y\nno deny /x/{r...}");
    assert_eq!(
        shadowed,
        ["rule \"a\" (line 2) never decides: \"no\" (line 8) is about all of its requests"]
    );
    let together = said(
        "a allow /x methods = [\"GET\", \"POST\"]\ng deny /x methods = [\"GET\"]\np approve /x methods = [\"POST\"]",
    );
    assert_eq!(together.len(), 1);
    assert!(
        together[0].contains("\"a\"") && together[0].contains("never decides: stricter rules"),
        "{together:?}"
    );
    let twice = said("a allow /x/{y}\nb allow /x/z");
    assert_eq!(twice, ["rule \"b\" (line 8) says nothing that \"a\" (line 2) does not say"]);
    assert!(said("a allow /x/{y}\nb allow /x/z credential = \"k\"").is_empty());
    let alike = said("a deny /x\nb deny /x");
    assert!(alike.len() == 1 && alike[0].contains("\"b\""), "{alike:?}");
    assert!(said("a approve /x\nb approve /x quorum = 2")[0].contains("\"a\""));
    assert!(said("a approve /x strength = \"L3\"\nb approve /x quorum = 2").is_empty());
}

#[test]
fn warnings_name_keys_that_are_allowed_and_asked_about() {
    let mixed = "a allow /x credential = \"k\"\nb approve /y credential = \"k\"";
    let found = warnings(&rules(mixed));
    assert!(
        found.len() == 1 && found[0].message.contains("one request at a time for both"),
        "{found:?}"
    );
    assert!(warnings(&rules(&format!("{mixed}; accept_edge_enforced = true"))).is_empty());
}

/// A rule with more of the keys that a comparison looks at.
fn more() -> impl Strategy<Value = String> {
    let agents = option::of(select(vec![
        "agents = [\"bot\"]\n",
        "agents = [\"eve\", \"bot\"]\n",
        "agents = [\"eve\"]\n",
    ]));
    let slash = select(vec!["", "", "", "allow_encoded_slash = true\n"]);
    let key = option::of(select(vec!["credential = \"k\"\n", "credential = \"l\"\n"]));
    let asks = option::of(select(vec![
        "quorum = 2\n",
        "strength = \"L3\"\n",
        "unused = \"1h\"\n",
        "approvers = [\"a\"]\n",
    ]));
    (rule(), agents, slash, key, asks).prop_map(|(rule, agents, slash, key, asks)| {
        let mut text = rule + agents.unwrap_or_default() + slash;
        if !text.contains("then = \"deny\"") {
            text.push_str(key.unwrap_or_default());
        }
        if text.contains("then = \"approve\"") {
            text.push_str(asks.unwrap_or_default());
        }
        text
    })
}

/// Two policies that share most of their rules.
fn pair() -> impl Strategy<Value = (Policy, Policy)> {
    vec((more(), 0..4u8), 1..7).prop_map(|rules| {
        let rules: Vec<(usize, String, u8)> =
            rules.into_iter().enumerate().map(|(n, (r, w))| (n, r, w)).collect();
        let those = |not: u8| {
            let kept = rules.iter().filter(|(.., which)| *which != not);
            compile(&kept.map(|(number, rule, _)| (*number, rule.clone())).collect::<Vec<_>>())
        };
        (those(0), those(1))
    })
}

fn then(policy: &Policy, request: &Ask) -> Then {
    match policy.check_target(&request.destination, &request.path, request.query.as_deref()) {
        Ok(()) => request.then(policy),
        Err(_) => Then::Unnamed,
    }
}

fn matching(policy: &Policy, request: &Ask, which: impl Fn(&Explained) -> bool) -> Vec<String> {
    let rules = policy.explain(&request.subject()).rules;
    rules.into_iter().filter(|rule| which(rule)).map(|rule| rule.rule).collect()
}

/// Every pair of rules, or none, that a request that is opened has to be reported for.
fn expected(old: &Policy, new: &Policy, request: &Ask) -> Vec<(Kind, String, Option<String>)> {
    let (was, is) = (then(old, request), then(new, request));
    let (kind, opens): (_, fn(&Explained) -> bool) = match (was, is) {
        (Then::Allow | Then::Observe, _) => return Vec::new(),
        (_, Then::Allow | Then::Observe) => {
            (Kind::Passes, |r| r.then.passes() && r.matched == Match::Yes)
        }
        (Then::Deny | Then::Unnamed, Then::Approve) => {
            (Kind::Approvable, |r| r.then == Then::Approve)
        }
        _ => return Vec::new(),
    };
    let clear =
        old.check_target(&request.destination, &request.path, request.query.as_deref()).is_ok();
    let shut = matching(old, request, |rule| match kind {
        _ if !clear => false,
        Kind::Passes => matches!(rule.then, Then::Approve | Then::Deny),
        _ => rule.then == Then::Deny,
    });
    let shut: Vec<Option<String>> =
        if shut.is_empty() { vec![None] } else { shut.into_iter().map(Some).collect() };
    let opening = matching(new, request, opens);
    opening.iter().flat_map(|now| shut.iter().map(|was| (kind, now.clone(), was.clone()))).collect()
}

/// The request that a witness describes, if it can be written down.
fn written(witness: &Witness) -> Option<Ask> {
    if !witness.conditions.is_empty() {
        return None;
    }
    let agent = witness.agent.as_deref().unwrap_or("nobody in particular");
    let request = ask(&witness.method, &witness.url()).agent(agent);
    let header = |request: Ask, value: &String| request.header("x-http-method-override", value);
    Some(witness.overrides.iter().fold(request, header))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_opened_is_reported((old, new) in pair(), requests in vec(request(), 12)) {
        let comparison = compare(&old, &new);
        prop_assert!(comparison.gave_up.is_empty());
        for request in &requests {
            for (kind, now, was) in expected(&old, &new, request) {
                let reported = comparison.widenings.iter().any(|widening| {
                    widening.kind == kind && widening.now.rule == now && decided(widening) == was.as_deref()
                });
                prop_assert!(reported, "{kind:?} {now} {was:?} {request:?}\n{comparison:#?}");
            }
            let (was, is) = (request.decide(&old), request.decide(&new));
            let of = |kind: Kind| comparison.widenings.iter().any(|widening| widening.kind == kind);
            let both_clear = [&old, &new].iter().all(|policy| {
                policy.check_target(&request.destination, &request.path, request.query.as_deref()).is_ok()
            });
            if !both_clear {
                continue;
            }
            let more_keys = is.credentials.iter().any(|key| !was.credentials.contains(key));
            if was.then.passes() && is.then.passes() {
                prop_assert!(!more_keys || of(Kind::Key), "{request:?}");
            }
            if was.then == Then::Approve && is.then == Then::Approve {
                prop_assert!(!more_keys || of(Kind::Key), "{request:?}");
                let strength = |d: &countersign_policy::Decision| d.requirements.iter().map(|r| r.strength).max();
                let quorum = |d: &countersign_policy::Decision| {
                    d.requirements.iter().map(|r| r.panels[0].quorum).max()
                };
                let named = |d: &countersign_policy::Decision| {
                    d.requirements.iter().any(|r| r.panels[0].of == ["a"])
                };
                let less = strength(&is) < strength(&was) || quorum(&is) < quorum(&was)
                    || is.unused > was.unused || (named(&was) && !named(&is));
                prop_assert!(!less || of(Kind::Weaker), "{request:?} {was:?} {is:?}");
            }
        }
    }

    #[test]
    fn what_is_reported_is_opened((old, new) in pair()) {
        for widening in compare(&old, &new).widenings {
            let Some(request) = written(&widening.witness) else { continue };
            if widening.witness.path.contains("%2F") {
                continue;
            }
            let (was, is) = (then(&old, &request), then(&new, &request));
            let opened = match widening.kind {
                Kind::Passes => is.passes() && !was.passes(),
                Kind::Approvable => is == Then::Approve && matches!(was, Then::Deny | Then::Unnamed),
                Kind::Channel => is.passes() && was.passes(),
                Kind::Key => is == was || is.passes() && was.passes(),
                Kind::Weaker => is == Then::Approve && was == Then::Approve,
            };
            prop_assert!(opened, "{widening:#?} {was:?} {is:?}");
        }
    }

    #[test]
    fn a_policy_is_no_wider_than_itself((old, _) in pair()) {
        prop_assert!(!compare(&old, &old).widens());
    }

    #[test]
    fn a_rule_that_never_decides_never_does((policy, _) in pair(), requests in vec(request(), 12)) {
        let idle: Vec<String> = warnings(&policy)
            .into_iter().filter(|w| w.message.contains("never decides")).map(|w| w.rule).collect();
        for request in &requests {
            if then(&policy, request) != Then::Unnamed {
                prop_assert!(!idle.contains(&request.decide(&policy).rule), "{idle:?} {request:?}");
            }
        }
    }
}
