//! What people are shown, before a platform has its way with it.

use std::borrow::Cow;

use crate::platform::TooLarge;
use crate::text::Text;
use crate::token::{Code, Token};

/// What would happen, composed once by the control plane from the captured bytes.
#[derive(Clone, Debug)]
pub struct Card {
    /// The approval's id, as people say it to the CLI.
    pub approval: String,
    /// Who wants what of whom, in one plain sentence.
    pub sentence: Text,
    /// What has to be seen whole, most important first: what it would do, method, host, port, path, query, credentials, rule,
    /// expiry. Their names are words of ours.
    pub facts: Vec<(Cow<'static, str>, Text)>,
    /// What a reader could take for something else.
    pub warnings: Vec<Text>,
    /// Four words that stand for the intent's digest: the same on every face that shows the same bytes.
    pub fingerprint: String,
    /// What the agent wrote. It comes last, labelled.
    pub body: Body,
    /// A rule wants the request to be seen whole: a card that shows less has no buttons.
    pub demands_whole: bool,
    /// What is said on this channel is worth less than the rule asks for: it is answered elsewhere, and has no buttons here.
    pub answered_elsewhere: bool,
}

/// The content chosen by the agent.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// As text, as far as it is kept; none when it is not text or cannot be decoded.
    pub text: Option<String>,
    /// Bytes of the whole.
    pub total: u64,
    /// There is something that cannot be decoded or shown.
    pub uninspectable: bool,
}

/// As much of a body as a platform has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// "Content chosen by the agent (shown 500 of 14233 bytes):"
    pub label: Text,
    pub lines: Vec<Text>,
    pub whole: bool,
}

/// Where an approval stands, as far as a card says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Face {
    /// People may answer: who has said what so far, how many similar ones wait.
    Asking { standing: Vec<Text> },
    /// It has an end: "Approved by ana.", "Denied by bo: not today.", "Carried out once; answered 204."
    Settled { words: Vec<Text> },
}

/// A card with the face that it has to show now.
#[derive(Clone, Debug)]
pub struct Notice<'a> {
    pub card: &'a Card,
    pub face: Face,
    /// What answers carry, while there is something to answer.
    pub answers: Option<Answers>,
}

/// How one delivery of a card is answered.
#[derive(Clone, Debug)]
pub struct Answers {
    pub approve: Token,
    pub deny: Token,
    pub code: Code,
    /// Where else: "countersign approval show ID", or the page for answers.
    pub elsewhere: Text,
}

impl Notice<'_> {
    /// The title of what can be answered.
    pub(crate) const ASKING: &'static str = "An agent asks for your consent";

    /// The buttons, if this much of the request is enough for the rule.
    pub fn buttons(&self, whole: bool) -> Option<&Answers> {
        let enough = (whole || !self.card.demands_whole) && !self.card.answered_elsewhere;
        self.answers.as_ref().filter(|_| enough && matches!(self.face, Face::Asking { .. }))
    }

    /// What stands in the buttons' place where the rule wants more than is shown.
    pub fn elsewhere(&self, whole: bool) -> Option<Text> {
        let asked = matches!(self.face, Face::Asking { .. }) && self.buttons(whole).is_none();
        let answers = self.answers.as_ref().filter(|_| asked)?;
        let why = match self.card.answered_elsewhere {
            true => "The rule asks for a stronger proof of who answers than there is here",
            false => "Not all of it is shown here, and the rule wants it seen whole",
        };
        Some(Text::of(&format!("{why}. Answer it elsewhere: {}", answers.elsewhere)))
    }

    /// "Approved by ana.", or who has said what so far.
    pub fn standing(&self) -> &[Text] {
        match &self.face {
            Face::Asking { standing } => standing,
            Face::Settled { words } => words,
        }
    }

    /// What has to be seen of a card, line by line, most important first: all but the title and the body. For platforms where
    /// a message is lines.
    pub(crate) fn head(&self, whole: bool) -> Vec<Text> {
        let card = self.card;
        let mut lines = self.standing().to_vec();
        lines.push(card.sentence.clone());
        lines.extend(card.warnings.iter().map(|it| Text::of(&format!("CAREFUL: {it}"))));
        lines.extend(card.facts.iter().map(|(name, it)| Text::of(&format!("{name}: {it}"))));
        let identity = format!("Fingerprint: {}. Approval {}.", card.fingerprint, card.approval);
        lines.push(Text::of(&identity));
        lines.extend(self.elsewhere(whole));
        lines
    }

    /// How a card is headed: with what the control plane says, never with what an agent does.
    pub fn title(&self) -> &'static str {
        match self.face {
            Face::Asking { .. } => Self::ASKING,
            Face::Settled { .. } => "Settled: nothing is left to answer",
        }
    }
}

impl Body {
    /// The face with as much of the body as there is room for; none where there is none even without the body. What a
    /// platform escapes takes more room than the excerpt knows of, so less and less of it is tried.
    pub(crate) fn fitted<Face>(
        &self,
        room: usize,
        rows: usize,
        face: impl Fn(&Excerpt) -> Option<Face>,
    ) -> Result<Face, TooLarge> {
        let smaller = |room: &usize| (*room > 0).then(|| room / 2);
        let mut rooms = std::iter::successors(Some(room), smaller);
        rooms.find_map(|room| face(&self.excerpt(room, rows))).ok_or(TooLarge)
    }

    /// The beginning, in at most `room` bytes of visible text and at most `rows` lines; what it takes to write a character
    /// out counts too.
    pub fn excerpt(&self, room: usize, rows: usize) -> Excerpt {
        if self.total == 0 {
            return Excerpt {
                label: Text::of("It has no body."),
                lines: Vec::new(),
                whole: !self.uninspectable,
            };
        }
        let Some(text) = &self.text else {
            let label = format!(
                "It has a body of {} bytes that is not text; none of it is shown.",
                self.total
            );
            return Excerpt { label: Text::of(&label), lines: Vec::new(), whole: false };
        };
        let (mut shown, mut used, mut lines) = (0, 0, Vec::new());
        let mut rest = text.as_str();
        while !rest.is_empty() && lines.len() < rows && used < room {
            let (line, next) =
                rest.split_once('\n').map_or((rest, ""), |(line, next)| (line, next));
            let mut fits = line.len();
            let mut seen = Text::of(line);
            if used + seen.as_str().len() + 1 > room {
                fits = fitting(line, room.saturating_sub(used + 1));
                seen = Text::of(&line[..fits]);
            }
            used += seen.as_str().len() + 1;
            shown += fits;
            let cut = fits < line.len();
            if fits > 0 || !cut {
                lines.push(seen);
            }
            if cut {
                break;
            }
            shown += usize::from(rest.len() > line.len());
            rest = next;
        }
        let all = shown as u64 == self.total && shown == text.len();
        let unread = if self.uninspectable { "; part of it cannot be decoded" } else { "" };
        let label =
            format!("Content chosen by the agent (shown {shown} of {} bytes{unread}):", self.total);
        Excerpt { label: Text::of(&label), lines, whole: all && !self.uninspectable }
    }
}

/// How many bytes of a line fit into so much room once they are made visible.
fn fitting(line: &str, room: usize) -> usize {
    let mut used = 0;
    for (at, character) in line.char_indices() {
        let mut buffer = [0; 4];
        used += Text::of(character.encode_utf8(&mut buffer)).as_str().len();
        if used > room {
            return at;
        }
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(text: &str) -> Body {
        Body { text: Some(text.to_owned()), total: text.len() as u64, uninspectable: false }
    }

    #[test]
    fn a_5_a_cut_body_says_how_much_of_it_is_shown_and_is_not_whole() {
        let shown = body("first\nsecond\nthird").excerpt(13, 10);
        assert_eq!(shown.label.as_str(), "Content chosen by the agent (shown 13 of 18 bytes):");
        assert_eq!(shown.lines, [Text::of("first"), Text::of("second")]);
        assert!(!shown.whole);
        assert!(body("first\nsecond\nthird").excerpt(1000, 10).whole);
        assert!(!body(&"\n".repeat(100)).excerpt(10_000, 10).whole);
        let unread = Body { uninspectable: true, ..body("a") };
        assert!(!unread.excerpt(1000, 10).whole);
        assert!(!Body { text: None, total: 9, uninspectable: false }.excerpt(1000, 10).whole);
    }

    proptest! {
        #[test]
        fn an_excerpt_is_never_larger_than_its_room_and_whole_only_if_it_is(
            text in "(\\PC|\n|\u{202e}|\u{0}){0,200}", room in 0_usize..300, rows in 1_usize..20
        ) {
            let shown = body(&text).excerpt(room, rows);
            let used: usize = shown.lines.iter().map(|line| line.as_str().len() + 1).sum();
            prop_assert!(used <= room, "{used} of {room}");
            prop_assert!(shown.lines.len() <= rows);
            if shown.whole {
                let joined: Vec<_> = shown.lines.iter().map(Text::as_str).collect();
                let expected: Vec<_> = Text::lines(text.strip_suffix('\n').unwrap_or(&text)).iter().map(|t| t.to_string()).collect();
                if !text.is_empty() { prop_assert_eq!(joined.join("\n"), expected.join("\n")); }
            }
        }
    }
}
