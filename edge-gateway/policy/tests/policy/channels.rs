//! What is more than one request: WebSockets that rules let requests become, and tunnels.

use std::time::Duration;

use countersign_gate::{Destination, Scheme};
use countersign_policy::analysis::{Kind, Was, compare, warnings};
use countersign_policy::fixtures::run_fixtures;
use countersign_policy::{Channel, Match, Need, Policy, Then};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::properties::{compile, request, rule};
use crate::support::{ask, mistakes, policy};

const MIB: u64 = 1024 * 1024;

const RULES: &str = r#"
[[rule]]
name = "listen"
host = "a.example"
methods = ["GET"]
path = "/socket"
then = "allow"
credential = "key"
upgrade = "websocket"
max_bytes = "2MiB"
max_time = "5m"

[[rule]]
name = "listen for longer"
agents = ["patient"]
host = "a.example"
path = "/socket"
then = "allow"
upgrade = "websocket"

[[rule]]
name = "read"
host = "a.example"
then = "allow"
credential = "key"

[[rule]]
name = "watch"
host = "a.example"
path = "/socket"
query = { watched = "1" }
then = "observe"

[[rule]]
name = "ask"
host = "a.example"
path = "/socket"
query = { asked = "1" }
then = "approve"

[[rule]]
name = "mail"
agents = ["mailer"]
host = "mail.example:465"
then = "tunnel"
max_bytes = "1MiB"
"#;

fn to(authority: &str) -> Destination {
    Destination::parse(Scheme::Https, authority, Some(443)).expect("a destination")
}

#[test]
fn a_request_may_become_a_websocket_where_a_rule_that_decides_says_so() {
    let rules = policy(RULES);
    let of = |url: &str, agent: &str| ask("GET", url).agent(agent).decide(&rules).channel;
    let small = Channel { max_bytes: 2 * MIB, max_time: Duration::from_secs(300) };
    assert_eq!(of("https://a.example/socket", "bot"), Some(small));
    assert_eq!(of("https://a.example/other", "bot"), None, "no rule says so");
    assert_eq!(of("https://a.example/Socket", "bot"), None, "only perhaps the rule's");
    let large = Channel { max_bytes: 64 * MIB, max_time: Duration::from_secs(3600) };
    assert_eq!(of("https://a.example/socket", "patient"), Some(large), "the largest bounds");
}

#[test]
fn u_1_what_is_recorded_or_asked_about_never_becomes_more_than_one_request() {
    let rules = policy(RULES);
    for (query, then) in [("watched=1", Then::Observe), ("asked=1", Then::Approve)] {
        let decision = ask("GET", &format!("https://a.example/socket?{query}")).decide(&rules);
        assert_eq!((decision.then, decision.channel), (then, None));
    }
    // It is not certain whether it must be recorded, so it is, and stays one request.
    let doubtful = ask("GET", "https://a.example/socket?watched=1&watched=2").decide(&rules);
    assert_eq!((doubtful.then, doubtful.channel), (Then::Allow, None));
    assert_eq!(doubtful.observed, ["watch"]);
}

#[test]
fn u_1_only_an_allow_rule_may_say_upgrade() {
    for then in ["approve", "observe", "deny", "tunnel"] {
        let text = format!(
            "[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"{then}\"\nupgrade = \"websocket\"\n"
        );
        let found = mistakes(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("`upgrade` has no place in this rule"), "{found:?}");
    }
}

#[test]
fn bounds_are_sizes_and_times_within_what_there_is_and_nowhere_else() {
    let rule = |keys: &str| {
        format!("[[rule]]\nname = \"r\"\nhost = \"a.example\"\nthen = \"allow\"\n{keys}\n")
    };
    let opens = "upgrade = \"websocket\"\n";
    for (keys, wanted) in [
        (format!("{opens}max_bytes = \"65GiB\""), "from 1KiB to 64GiB"),
        (format!("{opens}max_bytes = \"12B\""), "from 1KiB to 64GiB"),
        (format!("{opens}max_bytes = \"64 MB\""), "which is no size"),
        (format!("{opens}max_bytes = 1024"), "a text in quotes"),
        (format!("{opens}max_time = \"25h\""), "from 1s to 1day"),
        ("upgrade = \"h2c\"".to_owned(), "`upgrade` is \"websocket\", not \"h2c\""),
        ("max_time = \"1h\"".to_owned(), "`max_time` has no place in this rule"),
        (format!("{opens}methods = [\"POST\"]"), "a WebSocket begins with a GET"),
    ] {
        let found = mistakes(&rule(&keys));
        assert_eq!(found.len(), 1, "{keys}: {found:?}");
        assert!(found[0].contains(wanted), "{keys}: {found:?}");
    }
}

#[test]
fn an_agent_is_tunnelled_to_a_host_that_only_tunnel_rules_are_about() {
    let rules = policy(RULES);
    let tunnel = rules.tunnel("mailer", &to("mail.example:465")).expect("a tunnel");
    assert_eq!((tunnel.rule.as_str(), tunnel.channel.max_bytes), ("mail", MIB));
    assert_eq!(tunnel.channel.max_time, Duration::from_secs(3600));
    assert_eq!(rules.tunnel("bot", &to("mail.example:465")), None, "another agent");
    assert_eq!(rules.tunnel("mailer", &to("mail.example")), None, "another port");
    assert_eq!(rules.tunnel("mailer", &to("a.example")), None, "another host");
    assert_eq!(rules.tunnels_to("mail.example"), ["mail"], "whatever the port");
    assert!(rules.tunnels_to("a.example").is_empty());
}

#[test]
fn a_tunnel_is_explained_and_never_judged_by_a_body() {
    let rules = policy(RULES);
    let request = ask("GET", "https://mail.example:465/").agent("mailer");
    assert_eq!(request.needs(&rules), Need::Refuse, "no request is let through as a request");
    let explained = rules.explain(&request.subject());
    assert_eq!((explained.decision.then, explained.decision.rule.as_str()), (Then::Tunnel, "mail"));
    assert_eq!(explained.rules[0].matched, Match::Yes);
    assert!(explained.rules[0].why.contains("not looked into, up to 1MiB and 1h"), "{explained:?}");
}

#[test]
fn nothing_else_may_be_about_what_is_tunnelled() {
    let tunnel =
        "[[rule]]\nname = \"t\"\nagents = [\"a\"]\nhost = \"x.b.example\"\nthen = \"tunnel\"\n";
    let beside = |host: &str, agents: &str, then: &str| {
        format!(
            "[[rule]]\nname = \"other\"\nhost = \"{host}\"\nthen = \"{then}\"\n{agents}\n{tunnel}"
        )
    };
    for (host, agents, then) in [
        ("x.b.example", "", "deny"),
        ("x.b.example", "agents = [\"b\", \"a\"]", "allow"),
        ("*.b.example", "", "approve"),
        ("*.example", "", "observe"),
    ] {
        let found = mistakes(&beside(host, agents, then));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("rule \"t\"") && found[0].contains("rule \"other\" (line 2)"),
            "{found:?}"
        );
    }
    for (host, agents) in [
        ("x.b.example", "agents = [\"b\"]"),
        ("x.b.example:8443", ""),
        ("*.x.b.example", ""),
        ("b.example", ""),
        ("*.ab.example", ""),
    ] {
        let rules = policy(&beside(host, agents, "deny"));
        assert!(rules.tunnel("a", &to("x.b.example")).is_some(), "{host}");
    }
    let below = "[[rule]]\nname = \"t\"\nhost = \"*.b.example\"\nthen = \"tunnel\"\n\
                 [[rule]]\nname = \"d\"\nhost = \"*.x.b.example\"\nthen = \"deny\"\n";
    assert_eq!(mistakes(below).len(), 1);
}

#[test]
fn a_tunnel_rule_says_nothing_of_requests_and_asks_nobody() {
    for key in [
        "methods = [\"GET\"]",
        "path = \"/x\"",
        "query = { a = \"1\" }",
        "when = \"body.size > 1\"",
        "credential = \"key\"",
        "approvers = [\"a\"]",
        "hold = \"5s\"",
        "park = true",
    ] {
        let text =
            format!("[[rule]]\nname = \"t\"\nhost = \"a.example\"\nthen = \"tunnel\"\n{key}\n");
        let found = mistakes(&text);
        assert_eq!(found.len(), 1, "{key}: {found:?}");
        assert!(found[0].contains("has no place in this rule: it tunnels"), "{key}: {found:?}");
    }
}

#[test]
fn a_fixture_expects_a_tunnel() {
    let text = format!(
        "version = 1\n{RULES}\n[[test]]\nagent = \"mailer\"\nurl = \"https://mail.example:465/\"\nexpect = \"tunnel\"\n\
         [[test]]\nagent = \"bot\"\nurl = \"https://mail.example:465/\"\nexpect = \"tunnel\"\n"
    );
    let report = run_fixtures(&text, "policy.toml").expect("it compiles");
    assert_eq!(report.outcomes[0].failure, None);
    let failure = report.outcomes[1].failure.as_deref().expect("it is refused");
    assert!(
        failure.contains("expected tunnel") && failure.contains("no rule names it"),
        "{failure}"
    );
}

fn one(keys: &str) -> Policy {
    policy(&format!("[[rule]]\nname = \"r\"\nhost = \"a.example\"\n{keys}\n"))
}

#[test]
fn more_than_one_request_is_a_widening_and_so_is_more_of_it() {
    let plain = one("then = \"allow\"");
    let socket = |keys: &str| one(&format!("then = \"allow\"\nupgrade = \"websocket\"\n{keys}"));
    let opened = |old: &Policy, new: &Policy| {
        let comparison = compare(old, new);
        let kinds: Vec<Kind> = comparison.widenings.iter().map(|widening| widening.kind).collect();
        (kinds, comparison)
    };
    let (kinds, comparison) = opened(&plain, &socket(""));
    assert_eq!(kinds, [Kind::Channel]);
    let said = comparison.widenings[0].to_string();
    assert!(said.contains("it may become a WebSocket, up to 64MiB and 1h"), "{said}");
    assert_eq!(opened(&socket("max_bytes = \"1MiB\""), &socket("")).0, [Kind::Channel]);
    assert_eq!(opened(&socket("max_time = \"1m\""), &socket("")).0, [Kind::Channel]);
    assert!(!compare(&socket(""), &socket("max_bytes = \"1MiB\"\nmax_time = \"1m\"")).widens());
    assert!(!compare(&socket(""), &plain).widens());

    let (kinds, comparison) = opened(&plain, &one("then = \"tunnel\""));
    assert_eq!(kinds, [Kind::Channel]);
    assert!(comparison.widenings[0].to_string().contains("not looked into"));
    let (kinds, comparison) = opened(&one("then = \"deny\""), &one("then = \"tunnel\""));
    assert_eq!(kinds, [Kind::Passes]);
    assert!(matches!(&comparison.widenings[0].was, Was::Decided(rule) if rule.then == Then::Deny));
    assert!(!compare(&one("then = \"tunnel\""), &plain).widens(), "looked into again");
}

#[test]
fn what_was_recorded_and_is_so_no_more_may_become_a_websocket_again() {
    let listens = "[[rule]]\nname = \"listen\"\nhost = \"a.example\"\nthen = \"allow\"\nupgrade = \"websocket\"\n";
    let watches =
        "[[rule]]\nname = \"watch\"\nhost = \"a.example\"\npath = \"/x\"\nthen = \"observe\"\n";
    let comparison = compare(&policy(&format!("{listens}{watches}")), &policy(listens));
    let [widening] = comparison.widenings.as_slice() else { panic!("{comparison:?}") };
    assert_eq!(widening.kind, Kind::Channel);
    assert!(matches!(&widening.was, Was::Decided(rule) if rule.rule == "watch"), "{widening:?}");
}

#[test]
fn a_websocket_whose_key_is_handed_out_one_by_one_is_warned_of() {
    let rules = policy(
        "[[rule]]\nname = \"listen\"\nhost = \"a.example\"\npath = \"/s\"\nthen = \"allow\"\ncredential = \"k\"\n\
         upgrade = \"websocket\"\n[[rule]]\nname = \"ask\"\nhost = \"a.example\"\npath = \"/x\"\nthen = \"approve\"\n\
         credential = \"k\"\n",
    );
    let said: Vec<String> = warnings(&rules).iter().map(ToString::to_string).collect();
    assert!(
        said.iter().any(|w| w.contains("\"listen\"") && w.contains("never opens a WebSocket")),
        "{said:?}"
    );
}

/// An allow rule that may say `upgrade`; others as they are.
fn opening() -> impl Strategy<Value = String> {
    let bounds =
        vec!["", "max_bytes = \"1MiB\"\n", "max_time = \"1m\"\n", "max_bytes = \"1GiB\"\n"];
    (rule(), option::of(select(bounds))).prop_map(|(rule, opens)| match opens {
        Some(bounds) if rule.contains("then = \"allow\"") && !rule.contains("POST\"]") => {
            format!("{rule}upgrade = \"websocket\"\n{bounds}")
        }
        _ => rule,
    })
}

fn numbered(rules: Vec<String>) -> Vec<(usize, String)> {
    rules.into_iter().enumerate().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_may_become_more_than_before_is_reported(
        old in vec(opening(), 0..5).prop_map(numbered), new in vec(opening(), 1..5).prop_map(numbered),
        kept in vec(any::<bool>(), 5), requests in vec(request(), 12),
    ) {
        // Some rules of the old policy stay.
        let mut new = new;
        new.extend(old.iter().filter(|(at, _)| kept[*at]).map(|(at, rule)| (at + 100, rule.clone())));
        let (old, new) = (compile(&old), compile(&new));
        let comparison = compare(&old, &new);
        for request in &requests {
            let clear = [&old, &new].iter().all(|policy| {
                policy.check_target(&request.destination, &request.path, request.query.as_deref()).is_ok()
            });
            let (was, is) = (request.decide(&old), request.decide(&new));
            let more = match (was.channel, is.channel) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(was), Some(is)) => is.max_bytes > was.max_bytes || is.max_time > was.max_time,
            };
            if clear && more && was.then.passes() {
                let reported = comparison.widenings.iter().any(|widening| widening.kind == Kind::Channel);
                prop_assert!(reported, "{request:?} {was:?} {is:?}\n{comparison:#?}");
            }
        }
        prop_assert!(!compare(&new, &new).widens());
    }
}
