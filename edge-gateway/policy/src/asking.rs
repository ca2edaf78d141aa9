//! The keys of a rule that say whom it asks, how, and for how long the answer counts.

use std::time::Duration;

use crate::Then;
use crate::fields::{Fields, Span};
use crate::requirement::{Escalation, Panel, Proof, Requirement, Strength};

/// What a rule asks of people, once it is known to be well-formed. Rules that ask nobody have what an approve rule
/// has that says nothing of it.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) panels: Vec<Panel>,
    pub(crate) strength: Strength,
    pub(crate) proof: Proof,
    pub(crate) owner_may_approve: bool,
    pub(crate) escalations: Vec<Escalation>,
    pub(crate) break_glass: Vec<String>,
    pub(crate) critical: bool,
    pub(crate) whole_card: bool,
    pub(crate) expires: Duration,
    pub(crate) unused: Duration,
    pub(crate) cool_down: Duration,
    pub(crate) remind: Option<Duration>,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const EXPIRES: Duration = MINUTE.saturating_mul(15);
const LONGEST_EXPIRES: Duration = DAY.saturating_mul(7);
const UNUSED: Duration = MINUTE.saturating_mul(15);
const COOL_DOWN: Duration = MINUTE.saturating_mul(10);
const LARGEST_QUORUM: i64 = 100;

/// Every key that only a rule that asks may have, or one that is tried out before it does.
const KEYS: [&str; 15] = [
    "approvers",
    "quorum",
    "panels",
    "strength",
    "proof",
    "owner_may_approve",
    "escalate",
    "break_glass",
    "critical",
    "card",
    "expires",
    "unused",
    "cool_down",
    "remind",
    "park",
];

impl Asking {
    /// What the rule asks of people.
    pub(crate) fn requirement(&self, rule: &str) -> Requirement {
        Requirement {
            rule: rule.to_owned(),
            panels: self.panels.clone(),
            strength: self.strength,
            proof: self.proof,
            owner_may_approve: self.owner_may_approve,
            escalations: self.escalations.clone(),
            break_glass: self.break_glass.clone(),
            critical: self.critical,
            whole_card: self.whole_card,
        }
    }

    /// Every group or principal that may answer, at some time.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        let panels = self.panels.iter().flat_map(|panel| &panel.of);
        let later = self.escalations.iter().flat_map(|escalation| &escalation.to);
        panels.chain(later).chain(&self.break_glass)
    }

    /// Reads the keys of a rule; None for `then` when that is not known.
    pub(crate) fn read(fields: &mut Fields<'_, '_, '_>, then: Option<Then>) -> Self {
        let panels = panels(fields);
        let critical = fields.flag("critical");
        let strength = strength(fields, critical);
        let proof = fields.word("proof", &Proof::ALL.map(|proof| (proof.word(), proof)));
        let owner_may_approve = fields.flag("owner_may_approve");
        let expires = fields.duration("expires", SECOND, LONGEST_EXPIRES).unwrap_or(EXPIRES);
        let escalations = escalations(fields, expires);
        let break_glass = fields.texts("break_glass");
        if let (true, Some((_, span))) = (critical, &break_glass) {
            fields.wrong(
                span.clone(),
                "`break_glass` has no place beside `critical`: nobody passes a critical rule alone",
            );
        }
        let whole_card = fields.word("card", &[("whole", true)]).unwrap_or(false);
        let unused = fields.duration("unused", SECOND, DAY).unwrap_or(UNUSED);
        let cool_down = fields.duration("cool_down", Duration::ZERO, DAY).unwrap_or(COOL_DOWN);
        let remind = fields.duration("remind", SECOND, LONGEST_EXPIRES);
        if remind.is_some_and(|remind| remind >= expires) {
            let expires = humantime::format_duration(expires);
            let span = fields.span("remind");
            fields.wrong(
                span,
                format!("`remind` is when so much is left of `expires`, so shorter than {expires}"),
            );
        }
        match then {
            Some(Then::Allow) => fields.misplaced(&KEYS, "it allows: nobody is asked"),
            Some(Then::Deny) => fields.misplaced(&KEYS, "it denies: nobody is asked"),
            Some(Then::Tunnel) => fields.misplaced(&KEYS, "it tunnels: nobody is asked"),
            Some(Then::Approve | Then::Observe | Then::Unnamed) | None => {}
        }
        Self {
            panels,
            strength,
            proof: proof.unwrap_or_default(),
            owner_may_approve,
            escalations,
            break_glass: break_glass.map(|(list, _)| list).unwrap_or_default(),
            critical,
            whole_card,
            expires,
            unused,
            cool_down,
            remind,
        }
    }
}

/// `panels`, or the short form of a single one.
fn panels(fields: &mut Fields<'_, '_, '_>) -> Vec<Panel> {
    let approvers = fields.texts("approvers");
    let number = quorum(fields);
    let short = Panel {
        of: approvers.map_or_else(|| vec!["*".to_owned()], |(list, _)| list),
        quorum: number.unwrap_or(1),
    };
    let Some((tables, span)) =
        fields.list_of_tables("panels", "{ of = [\"finance\"], quorum = 1 }")
    else {
        return vec![short];
    };
    for key in ["approvers", "quorum"] {
        if let Some(span) = fields.span(key) {
            fields.wrong(
                Some(span),
                format!("`{key}` is the short form of one panel: write it or `panels`, not both"),
            );
        }
    }
    if tables.is_empty() {
        fields.wrong(span.clone(), "`panels` is empty: it would be approved by nobody");
    }
    let mut panels = Vec::new();
    for (table, at) in tables {
        let mut panel = fields.inner(table, at);
        let of = panel.texts("of");
        panel.missing("of", "say who: of = [\"finance\"]");
        let quorum = quorum(&mut panel);
        panel.refuse_others("a panel");
        panels.extend(of.map(|(of, _)| Panel { of, quorum: quorum.unwrap_or(1) }));
    }
    let people: u32 = panels.iter().map(|panel| panel.quorum).sum();
    if i64::from(people) > LARGEST_QUORUM {
        fields.wrong(
            span,
            format!("`panels` ask for {people} people, nobody twice: at most {LARGEST_QUORUM}"),
        );
    }
    panels
}

fn quorum(fields: &mut Fields<'_, '_, '_>) -> Option<u32> {
    let (item, span) = fields.item("quorum")?;
    match item.as_integer() {
        Some(number @ 1..=LARGEST_QUORUM) => u32::try_from(number).ok(),
        Some(0) => {
            fields.wrong(
                span,
                "`quorum` is 0: it would be approved by nobody; write `then = \"allow\"` if so",
            );
            None
        }
        _ => {
            fields.wrong(span, format!("`quorum` is a number of people, 1 to {LARGEST_QUORUM}"));
            None
        }
    }
}

fn strength(fields: &mut Fields<'_, '_, '_>, critical: bool) -> Strength {
    let words = Strength::ALL.map(|strength| (strength.word(), strength));
    match fields.word("strength", &words) {
        None if critical => Strength::L2,
        None => Strength::default(),
        Some(strength) => {
            if critical && strength < Strength::L2 {
                let span = fields.span("strength");
                fields.wrong(
                    span,
                    format!(
                        "`strength` is {strength} beside `critical`: votes on it have at least L2"
                    ),
                );
            }
            strength
        }
    }
}

fn escalations(fields: &mut Fields<'_, '_, '_>, expires: Duration) -> Vec<Escalation> {
    let form = "{ after = \"10m\", to = [\"oncall\"] }";
    let Some((tables, span)) = fields.list_of_tables("escalate", form) else { return Vec::new() };
    if tables.is_empty() {
        fields.wrong(span, "`escalate` is empty: leave it out if nobody else is asked later");
    }
    let mut escalations: Vec<Escalation> = Vec::new();
    for (table, at) in tables {
        let mut one = fields.inner(table, at);
        let after = one.duration("after", SECOND, LONGEST_EXPIRES);
        one.missing("after", "say when: after = \"10m\"");
        let to = one.texts("to");
        one.missing("to", "say who may answer then: to = [\"oncall\"]");
        let span: Span = one.span("after");
        if after.is_some_and(|after| after >= expires) {
            let expires = humantime::format_duration(expires);
            one.wrong(
                span,
                format!(
                    "`after` is not shorter than `expires` ({expires}): nobody would be left to ask"
                ),
            );
        } else if let (Some(after), Some(last)) = (after, escalations.last())
            && after <= last.after
        {
            one.wrong(span, "each `after` is longer than the one before it");
        }
        one.refuse_others("a step of `escalate`");
        if let (Some(after), Some((to, _))) = (after, to) {
            escalations.push(Escalation { after, to });
        }
    }
    escalations
}
