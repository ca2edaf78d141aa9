//! Queries and forms as lists of names and values, and what is not certain about each name.

use crate::decode;

/// `name=value` pairs, decoded; what cannot be read in exactly one way is remembered as such.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    /// None: a value that is not percent-encoded UTF-8.
    pairs: Vec<(String, Option<String>)>,
    /// Names of which some reader sees another number of values, or other ones.
    doubtful: Vec<String>,
    /// Not even the names can be read.
    unreadable: bool,
}

/// What is known about one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Absent,
    /// There more than once, or not readable in one way.
    Doubtful,
    One(&'a str),
}

/// More pairs than this are not looked at; some servers have such a limit and drop the others.
const MOST_PAIRS: usize = 1000;

impl Pairs {
    /// Reads `a=1&b=2`. `;` separates pairs for some readers and not for others, so what it touches is doubtful.
    pub(crate) fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for piece in text.split('&').filter(|piece| !piece.is_empty()) {
            if read.pairs.len() == MOST_PAIRS {
                read.unreadable = true;
                break;
            }
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let Some(name) = decode::form(name) else {
                read.unreadable = true;
                continue;
            };
            read.pairs.push((name, decode::form(value)));
            if piece.contains(';') {
                let inner = piece
                    .split(';')
                    .map(|part| part.split_once('=').map_or(part, |(name, _)| name));
                read.doubtful.extend(inner.filter_map(decode::form));
            }
        }
        read
    }

    pub(crate) fn find(&self, name: &str) -> Found<'_> {
        if self.unreadable || self.doubtful.iter().any(|doubtful| doubtful == name) {
            return Found::Doubtful;
        }
        let mut found = Found::Absent;
        for (given, value) in &self.pairs {
            // `name[]=` and `name[x]=` are `name` to readers that know arrays; another case to some readers.
            let array = given.strip_prefix(name).is_some_and(|rest| rest.starts_with('['));
            let cased = given != name && decode::fold(given) == decode::fold(name);
            match value {
                _ if array || cased => return Found::Doubtful,
                _ if given != name => {}
                Some(value) if found == Found::Absent => found = Found::One(value),
                _ => return Found::Doubtful,
            }
        }
        found
    }

    /// Every name, once.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> = self.pairs.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }

    /// Whether all of it can be read in one way.
    pub(crate) fn clear(&self) -> bool {
        !self.unreadable
            && self.doubtful.is_empty()
            && self.names().all(|name| self.find(name) != Found::Doubtful)
    }
}
