//! A card as lines of text, for platforms whose messages are nothing but that.

use crate::card::{Answers, Excerpt, Notice};
use crate::platform::TooLarge;
use crate::text::Text;

/// How much text a platform takes, and how an agent's words are written there.
pub(crate) struct Plain {
    /// The longest message, in the unit that `size` counts.
    pub(crate) limit: usize,
    pub(crate) size: fn(&str) -> usize,
    pub(crate) rows: usize,
    pub(crate) written: fn(&Text) -> String,
    /// Buttons are none, or do not stay: the code is shown.
    pub(crate) typed: bool,
}

/// A message within the limit, and the buttons that may stand under it.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    pub(crate) text: String,
    pub(crate) buttons: Option<&'a Answers>,
}

impl Plain {
    /// The head whole, and as much of the body as there is room for.
    pub(crate) fn lines<'a>(&self, notice: &'a Notice<'_>) -> Result<Lines<'a>, TooLarge> {
        let mut room = self.limit;
        loop {
            let excerpt = notice.card.body.excerpt(room, self.rows);
            let text = self.composed(notice, &excerpt);
            let over = (self.size)(&text).saturating_sub(self.limit);
            if over == 0 {
                return Ok(Lines { text, buttons: notice.buttons(excerpt.whole) });
            }
            if room == 0 {
                return Err(TooLarge);
            }
            // An excerpt does not know what a character becomes here, so this may take some rounds.
            room = room.saturating_sub(over).max(room / 2);
        }
    }

    fn composed(&self, notice: &Notice<'_>, excerpt: &Excerpt) -> String {
        let card = notice.card;
        let mut lines = vec![notice.title().to_owned()];
        lines.extend(notice.standing().iter().map(self.written));
        lines.push((self.written)(&card.sentence));
        lines.extend(card.warnings.iter().map(|it| format!("CAREFUL: {}", (self.written)(it))));
        let fact = |(name, value): &(std::borrow::Cow<'_, str>, Text)| {
            format!("{name}: {}", (self.written)(value))
        };
        lines.extend(card.facts.iter().map(fact));
        lines.push(format!("Fingerprint: {}. Approval {}.", card.fingerprint, card.approval));
        lines.extend(notice.elsewhere(excerpt.whole).iter().map(self.written));
        if let Some(answers) = notice.buttons(excerpt.whole).filter(|_| self.typed) {
            let code = answers.code.shown();
            lines.push(format!("To answer, write: approve {code}, or: deny {code} (and why)"));
        }
        lines.push((self.written)(&excerpt.label));
        lines.extend(excerpt.lines.iter().map(self.written));
        lines.join("\n")
    }
}

pub(crate) fn bytes(text: &str) -> usize {
    text.len()
}

pub(crate) fn utf16(text: &str) -> usize {
    text.encode_utf16().count()
}
