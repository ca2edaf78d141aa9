//! Queries and forms as lists of names and values, and what is not certain about each name.

use std::collections::HashMap;

use crate::decode;

/// `name=value` pairs, decoded; what cannot be read in exactly one way is remembered as such.
#[derive(Debug, Default)]
pub struct Pairs {
    /// None: a value that is not percent-encoded UTF-8.
    pairs: Vec<(String, Option<String>)>,
    /// Names of which some reader sees another number of values, or other ones.
    doubtful: Vec<String>,
    /// Not even the names can be read.
    unreadable: bool,
}

/// What is known about one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    Absent,
    /// There more than once, or not readable in one way.
    Doubtful,
    /// The name and its value.
    One((&'a str, &'a str)),
}

/// More pairs than this are not looked at; some servers have such a limit and drop the others.
const MOST_PAIRS: usize = 1000;

/// Whether some reader takes one name for another: in another case, `name[]` and `name[x]` where arrays are known,
/// and PHP's `.name`, ` name` and `na.me` for what has an underscore there.
fn taken_for(given: &str, name: &str) -> bool {
    let name = decode::fold(name);
    readings(given).iter().any(|read| {
        read.strip_prefix(&*name).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
    })
}

/// What a name is to loose readers, each folded.
fn readings(given: &str) -> [String; 3] {
    let plain = given.trim_start();
    let php = plain.replace(['.', ' '], "_");
    let unclosed = php.replace('[', "_");
    [
        decode::fold(plain).into_owned(),
        decode::fold(&php).into_owned(),
        decode::fold(&unclosed).into_owned(),
    ]
}

impl Pairs {
    /// Reads `a=1&b=2`. `;` separates pairs for some readers and not for others, so what it touches is doubtful.
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for piece in text.split('&').filter(|piece| !piece.is_empty()) {
            if read.pairs.len() == MOST_PAIRS {
                read.unreadable = true;
                break;
            }
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let readable = |name: &String| !name.contains(char::is_control);
            let Some(name) = decode::form(name).filter(readable) else {
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

    /// What is decoded already.
    pub(crate) fn of(pairs: Vec<(String, String)>) -> Self {
        let unreadable = pairs.iter().any(|(name, _)| name.contains(char::is_control));
        let pairs = pairs.into_iter().map(|(name, value)| (name, Some(value))).collect();
        Self { pairs, doubtful: Vec::new(), unreadable }
    }

    /// What is known about this name.
    pub fn find(&self, name: &str) -> Found<'_> {
        if self.unreadable
            || self.doubtful.iter().any(|doubtful| doubtful == name || taken_for(doubtful, name))
        {
            return Found::Doubtful;
        }
        let mut found = Found::Absent;
        for (given, value) in &self.pairs {
            match value {
                _ if given != name && taken_for(given, name) => return Found::Doubtful,
                _ if given != name => {}
                Some(value) if found == Found::Absent => found = Found::One((given, value)),
                _ => return Found::Doubtful,
            }
        }
        found
    }

    /// Every name and its value, in their order, if all of it can be read in one way.
    pub fn clear(&self) -> Option<Vec<(&str, &str)>> {
        let listed = self.listed()?;
        (listed.len() == self.pairs.len()).then_some(())?;
        listed.into_iter().map(|(name, values)| Some((name, *values.first()?))).collect()
    }

    /// Every name once, with all of its values, in their order, if all of it can be read in one way but for names that are
    /// there more than once.
    pub fn listed(&self) -> Option<Vec<(&str, Vec<&str>)>> {
        if self.unreadable || !self.doubtful.is_empty() {
            return None;
        }
        let mut folded = HashMap::with_capacity(self.pairs.len());
        let mut listed: Vec<(&str, Vec<&str>)> = Vec::with_capacity(self.pairs.len());
        let mut places = HashMap::with_capacity(self.pairs.len());
        for (name, value) in &self.pairs {
            if folded.insert(decode::fold(name), name).is_some_and(|other| other != name) {
                return None;
            }
            let value = value.as_deref()?;
            let place = *places.entry(name).or_insert(listed.len());
            match listed.get_mut(place) {
                Some((_, values)) => values.push(value),
                None => listed.push((name, vec![value])),
            }
        }
        let apart = |name: &String| {
            readings(name).iter().all(|read| {
                // As far as anyone nests names; a deeper one is compared up to there.
                let inner = read.match_indices('[').take(MOST_NESTED).map(|(at, _)| &read[..at]);
                inner
                    .chain([read.as_str()])
                    .all(|part| folded.get(part).is_none_or(|other| *other == name))
            })
        };
        self.pairs.iter().all(|(name, _)| apart(name)).then_some(listed)
    }
}

const MOST_NESTED: usize = 8;
