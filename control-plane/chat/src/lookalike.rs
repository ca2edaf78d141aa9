//! Words that look like other words: letters of two scripts in one word, and words that are drawn like ASCII ones
//! (UTS 39, Unicode Security Mechanisms, sections 4 and 5.1).
//!
//! A host, and whoever a mail goes to, is compared with what people know by sight; there a whole word of another script
//! that looks like an ASCII word is told too. Elsewhere only mixed words are: ordinary words of other scripts happen to
//! look like ASCII ones.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;
use unicode_script::{Script, UnicodeScript as _};
use unicode_security::{MixedScript as _, skeleton};

use crate::visible::{is_hidden, visible};

/// As many words are named of each part.
const NAMED: usize = 3;

/// A part of a request, under the name that people know it by.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// As it is.
    Plain { name: &'a str, text: &'a str },
    /// With `%D1%80` for what it means.
    PercentEncoded { name: &'a str, text: &'a str },
}

/// What a reader is warned of, a sentence each; the words in it are made visible.
pub fn warnings(host: &str, parts: &[Part<'_>]) -> Vec<String> {
    let mut warnings = Vec::new();
    host_warnings(host, &mut warnings);
    for part in parts {
        match part {
            Part::Plain { name, text } => part_warnings(name, text, &mut warnings),
            Part::PercentEncoded { name, text } => {
                let decoded = percent_decode_str(text).decode_utf8_lossy();
                part_warnings(name, &decoded, &mut warnings);
            }
        }
    }
    warnings
}

/// A host whose ASCII form stands for other letters: what they are, and what they look like.
fn host_warnings(host: &str, warnings: &mut Vec<String>) {
    let encoded = |label: &str| label.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("xn--"));
    if !host.split('.').any(encoded) {
        return;
    }
    let (read, valid) = idna::domain_to_unicode(host);
    if valid.is_err() {
        warnings.push(format!("The host {} is not a valid name.", visible(host)));
        return;
    }
    let mut why: Vec<_> = read.split('.').filter_map(deceives).collect();
    why.truncate(NAMED);
    let because = if why.is_empty() { String::new() } else { format!(": {}", why.join("; ")) };
    warnings.push(format!(
        "The host {} stands for {:?}, with letters beyond ASCII{because}.",
        visible(host),
        visible(&read)
    ));
}

fn part_warnings(name: &str, text: &str, warnings: &mut Vec<String>) {
    if text.is_ascii() && !text.bytes().any(|b| b.is_ascii_control() && !b.is_ascii_whitespace()) {
        return;
    }
    let hidden = text.chars().filter(|c| is_hidden(*c) && !c.is_ascii_whitespace()).count();
    if hidden > 0 {
        let them = if hidden == 1 { "a character" } else { "characters" };
        warnings.push(format!(
            "The {name} has {them} that cannot be seen ({hidden}); they are written out as \\u{{…}}."
        ));
    }
    let mut told = BTreeSet::new();
    for token in text.split(|c: char| c.is_whitespace() || "\"'<>(),;".contains(c)) {
        let names_somebody = token.contains('@');
        for word in token.split(|c: char| !c.is_alphanumeric() && !is_hidden(c)) {
            let suspect = if names_somebody { deceives(word) } else { mixes(word) };
            if let Some(why) = suspect
                && told.len() < NAMED
                && told.insert(why.clone())
            {
                warnings.push(format!("In the {name} {why}."));
            }
        }
    }
}

/// Why a word that is compared by sight may be taken for another.
fn deceives(word: &str) -> Option<String> {
    mixes(word).or_else(|| {
        let drawn: String = skeleton(word).collect();
        let alike = !word.is_ascii() && drawn.is_ascii() && drawn != word;
        alike.then(|| {
            format!(
                "{:?} is written in {} and looks like {:?}",
                visible(word),
                scripts(word),
                visible(&drawn)
            )
        })
    })
}

/// Why a word is not of one script.
fn mixes(word: &str) -> Option<String> {
    let mixed = !word.is_ascii() && !word.is_single_script();
    mixed.then(|| format!("{:?} mixes letters of {}", visible(word), scripts(word)))
}

fn scripts(word: &str) -> String {
    let of_letters = word.chars().map(|c| c.script());
    let scripts: BTreeSet<_> = of_letters
        .filter(|script| !matches!(script, Script::Common | Script::Inherited | Script::Unknown))
        .map(|script| script.full_name())
        .collect();
    match scripts.is_empty() {
        true => "no script".into(),
        false => scripts.into_iter().collect::<Vec<_>>().join(" and "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(host: &str, path: &str, query: Option<&str>, body: &str) -> Vec<String> {
        let query = query.map(|text| Part::PercentEncoded { name: "query", text });
        let path = Part::PercentEncoded { name: "path", text: path };
        let body = Part::Plain { name: "body", text: body };
        let parts: Vec<_> = [path].into_iter().chain(query).chain([body]).collect();
        warnings(host, &parts)
    }

    #[test]
    fn a_6_ordinary_requests_in_any_language_warn_of_nothing() {
        let none: Vec<String> = Vec::new();
        assert_eq!(warned("api.example.com", "/v1/a%20b", Some("q=Z%C3%BCrich"), "{}"), none);
        let body = "Привет, а что с о? 東京タワー, こんにちは世界, 한국어 漢字, Ελλάδα, naïve café, עברית, 漢字";
        assert_eq!(warned("api.example.com", "/v1", None, body), none);
        assert_eq!(warned("api.example.com", "/v1", None, "to: Иван@example.com\r\n\tx"), none);
    }

    #[test]
    fn a_6_a_host_in_other_letters_says_which_and_what_it_looks_like() {
        // рaypal.com with a Cyrillic р; аррӏе.com wholly in Cyrillic.
        let mixed = warned("xn--aypal-uye.com", "/", None, "");
        assert_eq!(mixed.len(), 1, "{mixed:?}");
        assert!(mixed[0].contains("mixes letters of Cyrillic and Latin"), "{mixed:?}");
        let whole = warned("xn--80ak6aa92e.com", "/", None, "");
        assert!(whole[0].contains("written in Cyrillic and looks like"), "{whole:?}");
        let honest = warned("xn--zrich-kva.example", "/", None, "");
        assert!(honest[0].contains("stands for \"zürich.example\""), "{honest:?}");
        assert!(!honest[0].contains("looks like"), "{honest:?}");
        assert!(warned("xn--a.example", "/", None, "")[0].contains("not a valid name"));
    }

    #[test]
    fn a_6_a_recipient_that_looks_like_another_is_told() {
        let body = r#"{"to":"billing@раypal.com"}"#;
        let mixed = warned("mail.example", "/send", None, body);
        assert!(mixed[0].starts_with("In the body \"раypal\" mixes"), "{mixed:?}");
        let whole = warned("mail.example", "/send", None, r#"{"to":"оре@example.com"}"#);
        assert!(whole[0].contains("looks like \"ope\""), "{whole:?}");
    }

    #[test]
    fn a_6_what_is_percent_encoded_is_read_and_what_cannot_be_seen_is_told() {
        let path = warned("api.example", "/users/%D1%80aypal", None, "");
        assert!(path[0].starts_with("In the path"), "{path:?}");
        let query = warned("api.example", "/", Some("n=%E2%80%AEcod.exe"), "");
        assert!(
            query[0].contains("The query has a character that cannot be seen (1)"),
            "{query:?}"
        );
        assert!(!query.iter().any(|w| w.contains('\u{202e}')), "{query:?}");
        let tags = warned("api.example", "/", None, "ok\u{e0041}\u{e0042}");
        assert!(tags[0].contains("characters that cannot be seen (2)"), "{tags:?}");
    }

    #[test]
    fn a_6_a_flood_of_such_words_is_told_by_its_first() {
        let body = (0..1000).map(|n| format!("р{n}aypal ")).collect::<String>();
        assert_eq!(warned("api.example", "/", None, &body).len(), NAMED);
    }
}
