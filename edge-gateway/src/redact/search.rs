//! All spellings of all keys, looked for at once.
//!
//! An automaton takes a byte at a time, and knows at each how much of a spelling has come. Where nothing of one has,
//! the next place at which one may begin is found many bytes at a time: of most answers the automaton sees the last
//! few bytes and nothing else.

use std::collections::HashMap;

use aho_corasick::automaton::{Automaton as _, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::packed::Searcher;
use aho_corasick::{Anchored, Span};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::spell;

pub(super) struct Spellings {
    automaton: NFA,
    pub(super) start: StateID,
    /// Of every state but the start: how many of the last bytes may be the beginning of a spelling.
    depths: HashMap<StateID, usize>,
    /// None: any byte may be one.
    beginnings: Option<Beginnings>,
    shortest: usize,
}

impl Spellings {
    pub(super) fn of(secrets: &[&[u8]]) -> Option<Self> {
        let patterns = spell::spellings(secrets);
        let shortest = patterns.iter().map(|pattern| pattern.len()).min()?;
        // A prefilter of the automaton's own would keep the spellings in one piece.
        let automaton = NFA::builder().prefilter(false).build(&patterns).ok()?;
        let start = automaton.start_state(Anchored::No).ok()?;
        let mut depths = HashMap::new();
        for pattern in &patterns {
            let mut state = start;
            for (index, byte) in pattern.iter().enumerate() {
                state = automaton.next_state(Anchored::No, state, *byte);
                depths.insert(state, index + 1);
            }
        }
        let beginnings = Beginnings::of(&patterns);
        Some(Self { automaton, start, depths, beginnings, shortest })
    }

    /// Goes on from a state through a text. `ends` is told where a spelling ends in it and how long it is: of those that
    /// end at one place, the longest.
    pub(super) fn go_on(
        &self,
        mut state: StateID,
        text: &[u8],
        mut ends: impl FnMut(usize, usize),
    ) -> StateID {
        let mut at = 0;
        loop {
            if state == self.start
                && let Some(beginnings) = &self.beginnings
            {
                at = beginnings.next(text, at);
            }
            let Some(byte) = text.get(at) else { return state };
            state = self.automaton.next_state(Anchored::No, state, *byte);
            at += 1;
            let length = self.matched(state);
            if length > 0 {
                ends(at, length);
            }
        }
    }

    /// How many of the last bytes may be the beginning of a spelling.
    pub(super) fn depth(&self, state: StateID) -> usize {
        self.depths.get(&state).copied().unwrap_or(0)
    }

    /// Masks keys in values, and drops what has one in its name.
    pub(super) fn clean(&self, headers: &mut HeaderMap) {
        let named: Vec<HeaderName> =
            headers.keys().filter(|name| self.occurs(name.as_str().as_bytes())).cloned().collect();
        for name in named {
            headers.remove(name);
        }
        for value in headers.values_mut() {
            if self.occurs(value.as_bytes()) {
                let mut bytes = value.as_bytes().to_vec();
                self.mask_all(&mut bytes);
                *value = HeaderValue::from_bytes(&bytes)
                    .unwrap_or_else(|_| HeaderValue::from_static("*"));
            }
        }
    }

    fn occurs(&self, text: &[u8]) -> bool {
        let mut occurs = false;
        if text.len() >= self.shortest {
            self.go_on(self.start, text, |_, _| occurs = true);
        }
        occurs
    }

    fn mask_all(&self, text: &mut [u8]) {
        let mut masks = Vec::new();
        self.go_on(self.start, text, |end, length| masks.push(end - length..end));
        for mask in masks {
            text[mask].fill(b'*');
        }
    }

    /// The length of the longest spelling that ends here; 0 if none does.
    fn matched(&self, state: StateID) -> usize {
        if !self.automaton.is_match(state) {
            return 0;
        }
        let automaton = &self.automaton;
        (0..automaton.match_len(state))
            .map(|index| automaton.pattern_len(automaton.match_pattern(state, index)))
            .max()
            .unwrap_or(0)
    }
}

/// The first bytes of every spelling, in a searcher that uses the processor's wide registers.
struct Beginnings {
    searcher: Searcher,
    /// Of the longest of them.
    longest: usize,
}

impl Beginnings {
    /// How much of each is looked for: the more the rarer it is elsewhere, the less the more spellings have it in common.
    /// The searcher takes few.
    const LENGTHS: [usize; 2] = [8, 4];

    /// None where there are too many of them, or the processor has no such registers.
    fn of(spellings: &[Zeroizing<Vec<u8>>]) -> Option<Self> {
        Self::LENGTHS.into_iter().find_map(|length| {
            let mut beginnings: Vec<&[u8]> =
                spellings.iter().map(|spelling| &spelling[..spelling.len().min(length)]).collect();
            beginnings.sort_unstable();
            beginnings.dedup();
            let longest = beginnings.iter().map(|beginning| beginning.len()).max()?;
            Some(Self { searcher: Searcher::new(&beginnings)?, longest })
        })
    }

    /// The first place, from `from` on, at which a spelling may begin. At any of the last places one may, as far as can be
    /// seen: what follows is not here.
    fn next(&self, text: &[u8], from: usize) -> usize {
        let unseen = (text.len() + 1).saturating_sub(self.longest);
        if from >= unseen {
            return from;
        }
        let found = self.searcher.find_in(text, Span::from(from..text.len()));
        found.map_or(unseen, |found| found.start().min(unseen))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    /// Every byte that is part of a spelling, looked for in the plainest way there is.
    fn naive(secrets: &[&[u8]], text: &[u8]) -> Vec<bool> {
        let mut masked = vec![false; text.len()];
        for spelling in spell::spellings(secrets) {
            for from in 0..text.len() {
                if text[from..].starts_with(&spelling) {
                    masked[from..from + spelling.len()].fill(true);
                }
            }
        }
        masked
    }

    /// The longest end of a text that is the beginning of a spelling, or all of one.
    fn naive_depth(secrets: &[&[u8]], text: &[u8]) -> usize {
        let spellings = spell::spellings(secrets);
        let begins = |length: &usize| {
            let end = &text[text.len() - length..];
            spellings.iter().any(|spelling| spelling.starts_with(end))
        };
        (0..=text.len()).rev().find(begins).unwrap_or(0)
    }

    fn searched(spellings: &Spellings, chunks: &[&[u8]]) -> (Vec<bool>, usize) {
        let (mut state, mut before) = (spellings.start, 0);
        let mut masked = vec![false; chunks.iter().map(|chunk| chunk.len()).sum()];
        for chunk in chunks {
            state = spellings.go_on(state, chunk, |end, length| {
                masked[before + end - length..before + end].fill(true);
            });
            before += chunk.len();
        }
        (masked, spellings.depth(state))
    }

    /// Secrets of few letters, so that their spellings overlap, begin alike and begin within each other.
    fn secret() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(select(&b"ab/&"[..]), 1..14),
            vec(select(&b"ab"[..]), 4..30),
            "sk_live_[a-zA-Z0-9/+\"&%]{1,24}".prop_map(String::into_bytes),
        ]
    }

    /// A text of whole spellings, of pieces of them, and of what is none.
    fn texts() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>, Vec<Index>)> {
        let pieces = vec((any::<Index>(), any::<Index>(), any::<Index>(), 0..4u8), 0..12);
        (vec(secret(), 1..4), pieces, vec(any::<Index>(), 0..8)).prop_map(
            |(secrets, pieces, cuts)| {
                let known: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
                let spellings = spell::spellings(&known);
                let mut text = Vec::new();
                for (which, from, to, kind) in pieces {
                    let spelling = which.get(&spellings).as_slice();
                    match kind {
                        0 => text.extend(std::iter::repeat_n(b'x', from.index(70))),
                        1 => text.extend_from_slice(spelling),
                        _ => {
                            let (from, to) =
                                (from.index(spelling.len()), to.index(spelling.len() + 1));
                            text.extend_from_slice(&spelling[from.min(to)..from.max(to)]);
                        }
                    }
                }
                (secrets, text, cuts)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_found_is_all_that_is_there_however_the_text_is_cut((secrets, text, cuts) in texts()) {
            let secrets: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
            let spellings = Spellings::of(&secrets).expect("spellings");
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            let (masked, depth) = searched(&spellings, &chunks);
            prop_assert_eq!(masked, naive(&secrets, &text));
            prop_assert_eq!(depth, naive_depth(&secrets, &text));
        }
    }

    #[test]
    fn one_key_has_few_enough_beginnings_to_be_looked_for_many_bytes_at_a_time() {
        let wide = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
        for secret in
            [&b"sk_live_51H8x/aB+c=d\"Q&z'~%9"[..], b"ghp_0123456789abcdefABCDEF0123456789abcd"]
        {
            let spellings = Spellings::of(&[secret]).expect("spellings");
            assert_eq!(spellings.beginnings.is_some(), wide);
        }
    }

    #[test]
    fn too_many_keys_for_that_are_found_all_the_same() {
        let secrets: Vec<String> = (0..200).map(|n| format!("{n:03}-secret-of-many")).collect();
        let secrets: Vec<&[u8]> = secrets.iter().map(String::as_bytes).collect();
        let spellings = Spellings::of(&secrets).expect("spellings");
        assert!(spellings.beginnings.is_none());
        let text = b"one 000-secret-of-many and 199-secret-of-many two";
        assert_eq!(searched(&spellings, &[&text[..]]).0, naive(&secrets, text));
    }
}
