//! `countersign policy review`: which rules people always approved.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use countersign_policy::{Policy, Then};
use countersign_proto::v1;
use serde::Serialize;
use v1::ApprovalState as State;

use super::patch::{self, Narrower};
use super::replay::asked_since;
use super::{compiled_in_force, in_force};
use crate::args::{Output, Show};
use crate::context::Context;
use crate::failure::Done;
use crate::print;

pub(super) async fn run(context: &Context, since: Duration, least: usize, show: &Show) -> Done {
    let set = in_force(context).await?;
    let policy = compiled_in_force(&set)?;
    let approvals = asked_since(context, since).await?;
    let always = always_approved(&approvals, least);
    let reviewed: Vec<Reviewed> = always.iter().map(|of| Reviewed::of(of, &policy, &set)).collect();
    if show.output == Output::Json {
        return print::json(&reviewed);
    }
    if reviewed.is_empty() {
        return print::line(
            "No rule was approved so often and never denied: nothing to make narrower.",
        );
    }
    for rule in &reviewed {
        let Reviewed { rule, approved, by, median_seconds, .. } = rule;
        let median = humantime::format_duration(Duration::from_secs(*median_seconds));
        print::line(&format!(
            "Rule {rule:?} asked {approved} times and was never denied, by {}; half of the answers came within {median}.",
            print::words(by)
        ))?;
    }
    for Reviewed { rule, suggestion, why_not, .. } in &reviewed {
        print::line("")?;
        match (suggestion, why_not) {
            (Some(diff), _) => print::lines(diff)?,
            (None, why) => {
                let why = why.as_deref().unwrap_or("it asks about too many kinds of requests");
                print::line(&format!("No narrower rule is suggested for {rule:?}: {why}."))?;
            }
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Reviewed {
    rule: String,
    approved: usize,
    by: Vec<String>,
    median_seconds: u64,
    /// A unified diff against the policy in force.
    suggestion: Option<String>,
    why_not: Option<String>,
}

/// The approvals of one rule, all of them approved.
struct Always<'a> {
    rule: &'a str,
    approvals: Vec<&'a v1::Approval>,
}

/// Rules of which at least so many requests were approved and none was denied; often approved ones first.
fn always_approved(approvals: &[v1::Approval], least: usize) -> Vec<Always<'_>> {
    let mut rules: BTreeMap<&str, (Vec<&v1::Approval>, bool)> = BTreeMap::new();
    for approval in approvals {
        let (approved, denied) = rules.entry(&approval.rule).or_default();
        let deny = i32::from(v1::VoteDecision::Deny);
        *denied |= approval.state() == State::Denied
            || approval.votes.iter().any(|vote| vote.decision == deny);
        if matches!(
            approval.state(),
            State::Approved | State::Completed | State::Released | State::Unknown
        ) {
            approved.push(approval);
        }
    }
    let mut always: Vec<Always<'_>> = rules
        .into_iter()
        .filter(|(_, (approved, denied))| !denied && approved.len() >= least.max(1))
        .map(|(rule, (approvals, _))| Always { rule, approvals })
        .collect();
    always.sort_by_key(|of| std::cmp::Reverse(of.approvals.len()));
    always
}

impl Reviewed {
    fn of(always: &Always<'_>, policy: &Policy, set: &v1::GetPolicyResponse) -> Self {
        let votes = always.approvals.iter().flat_map(|approval| &approval.votes);
        let by: BTreeSet<String> = votes.map(|vote| vote.approver.clone()).collect();
        let mut waited: Vec<u64> =
            always.approvals.iter().filter_map(|approval| answered_after(approval)).collect();
        waited.sort_unstable();
        let (suggestion, why_not) = match suggestion(always, policy, set) {
            Ok(diff) => (Some(diff), None),
            Err(why) => (None, Some(why.to_owned())),
        };
        Self {
            rule: always.rule.to_owned(),
            approved: always.approvals.len(),
            by: by.into_iter().collect(),
            median_seconds: waited.get(waited.len() / 2).copied().unwrap_or_default(),
            suggestion,
            why_not,
        }
    }
}

/// Seconds from the question to the last vote.
fn answered_after(approval: &v1::Approval) -> Option<u64> {
    let time = |at: &prost_types::Timestamp| SystemTime::try_from(*at).ok();
    let created = time(approval.created_at.as_ref()?)?;
    let answered = approval.votes.iter().filter_map(|vote| time(vote.at.as_ref()?)).max()?;
    answered.duration_since(created).ok().map(|waited| waited.as_secs())
}

/// Requests that one allow rule could be about.
type Kind<'a> = (&'a str, &'a str, u32, &'a str, usize);

/// The kind that was approved most often, as an allow rule of its own.
fn suggestion(
    always: &Always<'_>,
    policy: &Policy,
    set: &v1::GetPolicyResponse,
) -> Result<String, &'static str> {
    let asking = policy.rule(always.rule).filter(|rule| rule.then == Then::Approve);
    let asking = asking.ok_or("it asks no more, or is gone")?;
    if asking.critical {
        return Err("it is critical, and is asked about every time");
    }
    let mut kinds: BTreeMap<Kind<'_>, Vec<&str>> = BTreeMap::new();
    for approval in &always.approvals {
        if approval.requirements.iter().any(|other| other.rule != always.rule) {
            return Err("other rules ask about its requests as well");
        }
        let v1::Approval { agent, host, port, method, path, .. } = approval;
        let segments = path.matches('/').count();
        kinds.entry((agent, host, *port, method, segments)).or_default().push(path);
    }
    let most = kinds.iter().max_by_key(|(_, paths)| paths.len());
    let ((agent, host, port, method, _), paths) = most.ok_or("nobody was asked")?;
    let segments = patch::seen(paths).ok_or("its paths have nothing in common")?;
    let narrower = Narrower { agent, host, port: *port, method, segments };
    patch::diff(set, always.rule, &asking, &narrower)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(rule: &str, state: State, path: &str, waited: i64) -> v1::Approval {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let approve = v1::VoteDecision::Approve.into();
        v1::Approval {
            rule: rule.into(),
            state: state.into(),
            agent: "bot".into(),
            host: "a.example".into(),
            port: 443,
            method: "POST".into(),
            path: path.into(),
            created_at: at(1000),
            votes: vec![v1::Vote {
                approver: "ana".into(),
                decision: approve,
                at: at(1000 + waited),
                ..v1::Vote::default()
            }],
            requirements: vec![v1::Requirement { rule: rule.into(), ..v1::Requirement::default() }],
            ..v1::Approval::default()
        }
    }

    const TEXT: &str = "version = 1\n\n[[rule]]\nname = \"r\"\nhost = \"a.example\"\nwhen = 'body.size < 9'\nthen = \"approve\"\n\
                        credential = \"k\"\n\n# the other one\n[[rule]]\nname = \"c\"\nhost = \"c.example\"\nthen = \"approve\"\n\
                        critical = true\n";

    fn review(approvals: &[v1::Approval], least: usize) -> Vec<Reviewed> {
        let policy = Policy::compile(TEXT, "p").unwrap();
        let set = v1::GetPolicyResponse { version: 3, text: TEXT.into(), ..Default::default() };
        let always = always_approved(approvals, least);
        always.iter().map(|of| Reviewed::of(of, &policy, &set)).collect()
    }

    #[test]
    fn a_rule_that_was_always_approved_comes_with_a_narrower_one() {
        let approvals = [
            approval("r", State::Completed, "/x/1/y", 10),
            approval("r", State::Completed, "/x/2/y", 30),
            approval("r", State::Released, "/x/2/y", 20),
            approval("r", State::Expired, "/z", 0),
        ];
        let [one] = &review(&approvals, 3)[..] else { panic!("one rule") };
        assert_eq!(
            (one.approved, one.by.as_slice(), one.median_seconds),
            (3, &["ana".to_owned()][..], 20)
        );
        let diff = one.suggestion.as_deref().unwrap();
        let expected = r#"--- version 3
+++ version 3, and "r" asks less often
@@ -3,9 +3,19 @@
 [[rule]]
 name = "r"
 host = "a.example"
-when = 'body.size < 9'
+when = '(body.size < 9) && !(agent == "bot" && request.method == "POST" && request.path.matches("^/x/[^/]+/y$"))'
 then = "approve"
 credential = "k"
+
+[[rule]]
+name = "r, as always approved"
+agents = ["bot"]
+host = "a.example"
+methods = ["POST"]
+path = "/x/{v2}/y"
+when = 'body.size < 9'
+then = "allow"
+credential = "k"
 
 # the other one
 [[rule]]
"#;
        assert_eq!(diff, expected, "{diff}");
        assert!(review(&approvals, 4).is_empty());
    }

    #[test]
    fn one_denial_is_enough_to_go_on_asking() {
        let mut approvals = vec![approval("r", State::Completed, "/x", 1); 5];
        approvals.push(approval("r", State::Denied, "/x", 1));
        assert!(review(&approvals, 1).is_empty());
        let mut doubted = vec![approval("r", State::Completed, "/x", 1); 5];
        doubted[0].votes[0].decision = v1::VoteDecision::Deny.into();
        assert!(review(&doubted, 1).is_empty());
    }

    #[test]
    fn nothing_is_suggested_for_what_is_critical_or_asked_by_others_too() {
        let critical = vec![approval("c", State::Completed, "/x", 1); 5];
        let reviewed = review(&critical, 5);
        assert_eq!(reviewed[0].suggestion, None);
        assert!(reviewed[0].why_not.as_deref().unwrap().contains("critical"));
        let mut both = vec![approval("r", State::Completed, "/x", 1); 5];
        both[0].requirements.push(v1::Requirement { rule: "c".into(), ..Default::default() });
        assert!(review(&both, 5)[0].why_not.as_deref().unwrap().contains("other rules"));
        let gone = vec![approval("gone", State::Completed, "/x", 1); 5];
        assert!(review(&gone, 5)[0].why_not.as_deref().unwrap().contains("gone"));
        let unlike: Vec<_> =
            (0..5).map(|n| approval("r", State::Completed, &format!("/{n}"), 1)).collect();
        assert!(review(&unlike, 5)[0].why_not.as_deref().unwrap().contains("in common"));
    }
}
