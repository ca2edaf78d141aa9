//! The nodes of the control plane: where they are, what each said last, and which is tried next.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use rand::seq::SliceRandom as _;

use super::Link;

/// What a node said last, as far as what agents are told depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// This edge was evicted.
    Evicted,
    /// Its vault is sealed.
    Sealed,
    /// Nothing: it could not be reached, or the connection broke.
    Silent,
    /// Something else: it has no leader, was rolled back, or is not to be believed.
    Unable,
}

/// Every node that is known, and who is next. Nodes are tried in rounds, each round in an order of its own, so that
/// the edges of a node that died spread over the others.
pub(super) struct Nodes {
    configured: Vec<String>,
    learned: Vec<String>,
    words: HashMap<String, Word>,
    /// What is left of this round.
    queue: VecDeque<String>,
    /// Rounds since a node was attached to.
    rounds: u32,
}

/// The longest pause before the first try after a loss, and between tries of one round.
const SHORT_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A control plane that evicted us is asked less often.
const EVICTED_PAUSE: Duration = Duration::from_secs(5);

impl Nodes {
    /// `configured` are never forgotten.
    pub(super) fn new(configured: Vec<String>) -> Self {
        Self {
            configured,
            learned: Vec::new(),
            words: HashMap::new(),
            queue: VecDeque::new(),
            rounds: 0,
        }
    }

    /// The node to try now, and how often all of them were tried in vain.
    pub(super) fn next(&mut self) -> (String, u32) {
        if self.queue.is_empty() {
            self.begin_round(None);
        }
        (self.queue.pop_front().unwrap_or_default(), self.rounds)
    }

    /// A node answered, and named all of them. It is tried last once it is lost.
    pub(super) fn attached(&mut self, address: &str, learned: Vec<String>) {
        self.words.clear();
        self.rounds = 0;
        self.begin_round(Some(address));
        self.learn(address, learned);
    }

    /// What this node named, in the beginning or since; nothing, if it named none.
    pub(super) fn learn(&mut self, address: &str, learned: Vec<String>) {
        if !learned.is_empty() {
            self.learned = learned;
            self.begin_round(Some(address));
        }
    }

    /// A node was left, or could not be attached to. Answers whether that is what it said before.
    pub(super) fn heard(&mut self, address: &str, word: Word) -> bool {
        let before = self.words.insert(address.to_owned(), word);
        if self.queue.is_empty() {
            self.rounds = self.rounds.saturating_add(1);
        }
        before == Some(word)
    }

    /// What all of them together mean for agents. Sealed only when each was asked, and none that answered said
    /// anything else.
    pub(super) fn link(&self) -> Link {
        let words = || self.known().map(|address| self.words.get(address).copied());
        if words().any(|word| word == Some(Word::Evicted)) {
            return Link::Evicted;
        }
        let sealed = words().any(|word| word == Some(Word::Sealed))
            && words().all(|word| matches!(word, Some(Word::Sealed | Word::Silent)));
        if sealed { Link::Sealed } else { Link::Down }
    }

    /// How long to wait before the next try, with jitter.
    pub(super) fn pause(&self) -> Duration {
        let longest = match self.rounds {
            _ if !self.queue.is_empty() => SHORT_PAUSE,
            _ if self.link() == Link::Evicted => EVICTED_PAUSE,
            rounds => SHORT_PAUSE.saturating_mul(1 << rounds.min(10)).min(LONGEST_PAUSE),
        };
        longest.mul_f64(rand::random_range(0.3..1.0))
    }

    fn known(&self) -> impl Iterator<Item = &String> {
        let more = self.learned.iter().filter(|address| !self.configured.contains(address));
        self.configured.iter().chain(more)
    }

    fn begin_round(&mut self, last: Option<&str>) {
        let mut order: Vec<String> = self.known().cloned().collect();
        order.shuffle(&mut rand::rng());
        order.sort_by_key(|address| Some(address.as_str()) == last);
        self.queue = order.into();
    }
}

/// The host of `host:port`, as certificates name it: without the brackets of an IPv6 address.
pub(super) fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}
