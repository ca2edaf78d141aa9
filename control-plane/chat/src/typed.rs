//! What people write to the bot where they cannot press a button, or to say whose account it is.

use crate::platform::Words;
use crate::token::Code;

/// A line that means something; everything else that is written to the bot means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// `link CODE`: the code of a session, that says whose account this is. Not a [`Code`]: it is the session's.
    Link(String),
    /// `approve CODE`, or `deny CODE because …`.
    Answer { word: Words, code: Code, reason: String },
}

/// A reason beyond this is cut where it is recorded anyway.
const LINE_BYTES: usize = 4096;

impl Typed {
    /// The first line that is one; a mention of the bot, a slash, or the bot's own name may stand before the word.
    pub fn find(text: &str) -> Option<Self> {
        text.lines().filter(|line| line.len() <= LINE_BYTES).find_map(Self::line)
    }

    fn line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut verb = words.next()?;
        while verb.starts_with(['@', '<'])
            || verb.trim_start_matches('/').eq_ignore_ascii_case("countersign")
        {
            verb = words.next()?;
        }
        let verb = verb.trim_start_matches('/').to_ascii_lowercase();
        if verb == "link" {
            let code = words.next()?;
            return words.next().is_none().then(|| Self::Link(code.to_owned()));
        }
        let word = match verb.as_str() {
            "approve" => Words::Approve,
            "deny" => Words::Deny,
            _ => return None,
        };
        let code = Code::parse(words.next()?)?;
        let reason = words.collect::<Vec<_>>().join(" ");
        Some(Self::Answer { word, code, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_and_a_code_are_an_answer_and_nothing_else_is() {
        let code = || Code::parse("ABCD-1234").unwrap();
        let answer =
            |word, reason: &str| Some(Typed::Answer { word, code: code(), reason: reason.into() });
        assert_eq!(Typed::find("approve abcd1234"), answer(Words::Approve, ""));
        assert_eq!(Typed::find("/deny ABCD-1234 because  no"), answer(Words::Deny, "because no"));
        assert_eq!(
            Typed::find("hello\n@countersign approve abcd-i234"),
            answer(Words::Approve, "")
        );
        assert_eq!(Typed::find("/countersign link x-y"), Some(Typed::Link("x-y".into())));
        for nothing in [
            "",
            "approve",
            "approve me please",
            "I approve ABCD-1234",
            "link a b",
            "approve ABCD-123U",
            "> approve",
        ] {
            assert_eq!(Typed::find(nothing), None, "{nothing}");
        }
    }
}
