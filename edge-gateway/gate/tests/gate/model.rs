//! A model of the gate, and random sequences of what may happen to held requests. What the model knows is which
//! bytes really were signed, about which ticket, and what time it is; after each step the gate must agree.

use std::collections::BTreeMap;

use countersign_gate::{Decision, Held, Now, Outcome, Signed, Ticket, Word, verify};
use proptest::prelude::*;

use crate::support::{EDGE, WALL, decision, held, signed, trust};

const PLACES: usize = 3;

/// What happens next. `place` is one of the places that a request may be held in.
#[derive(Clone, Debug)]
enum Step {
    Decide {
        place: usize,
        how: How,
    },
    Hold {
        place: usize,
        body: u8,
        hold_ms: u64,
    },
    /// An envelope that was made before, for whichever request, comes once more.
    Replay {
        place: usize,
        which: prop::sample::Index,
    },
    Wait {
        ms: u64,
    },
    WallJumps {
        ms: i64,
    },
}

/// What kind of decision arrives.
#[derive(Clone, Copy, Debug)]
enum How {
    CutPayload,
    DuplicateSignature,
    FlippedByte,
    ForgedKey,
    NextKey,
    No(Word),
    OtherCluster,
    OtherEdge,
    OtherIncarnation,
    OtherIntent,
    OtherKeys,
    OtherRequest,
    OtherRequestId,
    RevokedKey,
    SingleSignature,
    Unsigned,
    Valid,
    WrongType,
}

fn any_step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        4 => Just(How::Valid),
        1 => prop::sample::select(vec![How::No(Word::Cancel), How::No(Word::Deny), How::No(Word::Expire)]),
        8 => prop::sample::select(vec![
            How::CutPayload, How::DuplicateSignature, How::FlippedByte, How::ForgedKey, How::NextKey, How::OtherCluster,
            How::OtherEdge, How::OtherIncarnation, How::OtherIntent, How::OtherKeys, How::OtherRequest,
            How::OtherRequestId, How::RevokedKey, How::SingleSignature, How::Unsigned, How::WrongType,
        ]),
    ];
    prop_oneof![
        6 => (0..PLACES, how).prop_map(|(place, how)| Step::Decide { place, how }),
        3 => (0..PLACES, 0u8..3, 1u64..60_000).prop_map(|(place, body, hold_ms)| Step::Hold { place, body, hold_ms }),
        3 => (0..PLACES, any::<prop::sample::Index>()).prop_map(|(place, which)| Step::Replay { place, which }),
        2 => (0u64..40_000).prop_map(|ms| Step::Wait { ms }),
        1 => (-400_000i64..400_000).prop_map(|ms| Step::WallJumps { ms }),
    ]
}

fn envelope(ticket: &Ticket, how: How) -> Signed {
    let good = decision(ticket);
    let change = |change: fn(&mut Decision)| {
        let mut changed = good.clone();
        change(&mut changed);
        signed(&changed, &[1, 2])
    };
    match how {
        How::CutPayload => {
            let mut cut = signed(&good, &[1, 2]);
            cut.payload.pop();
            cut
        }
        How::DuplicateSignature => signed(&good, &[1, 1]),
        How::FlippedByte => {
            let mut flipped = signed(&good, &[1, 2]);
            let at = flipped.payload.len() / 2;
            flipped.payload[at] ^= 1;
            flipped
        }
        How::ForgedKey => signed(&good, &[1, 99]),
        How::NextKey => signed(&good, &[1, 4]),
        How::No(word) => {
            let mut no = good;
            no.word = word;
            signed(&no, &[2, 3])
        }
        How::OtherCluster => change(|d| d.cluster.push('x')),
        How::OtherEdge => change(|d| d.edge = format!("{EDGE}0")),
        How::OtherIncarnation => change(|d| d.incarnation[0] ^= 1),
        How::OtherIntent => change(|d| d.intent_digest[31] ^= 1),
        How::OtherKeys => change(|d| d.sealed.clear()),
        How::OtherRequest => change(|d| d.request_digest[0] ^= 1),
        How::OtherRequestId => change(|d| d.request_id[0] ^= 0x80),
        How::RevokedKey => signed(&good, &[1, 5]),
        How::SingleSignature => signed(&good, &[3]),
        How::Unsigned => signed(&good, &[]),
        How::Valid => signed(&good, &[1, 3]),
        How::WrongType => {
            let mut wrong = signed(&good, &[1, 2]);
            wrong.payload_type = countersign_gate::TRUST_TYPE.into();
            wrong
        }
    }
}

/// What the model says of an envelope and a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Deny,
    Ignore,
    Release,
}

#[derive(Default)]
struct World {
    places: [Option<Held>; PLACES],
    /// Every envelope ever made: how, and about which ticket.
    envelopes: Vec<(Signed, How, Ticket)>,
    releases: BTreeMap<[u8; 16], u32>,
    next: u8,
    boottime_ms: u64,
    wall_offset: i64,
}

impl World {
    fn now(&self) -> Now {
        let wall = WALL + self.boottime_ms;
        Now { boottime_ms: self.boottime_ms, wall_ms: wall.saturating_add_signed(self.wall_offset) }
    }

    fn expected(&self, held: &Held, how: How, about: &Ticket) -> Expected {
        let now = self.now();
        let in_time = now.boottime_ms < held.deadline()
            && now.wall_ms <= WALL + 300_000 + 60_000
            && now.wall_ms + 60_000 >= WALL;
        match how {
            How::Valid if about == held.ticket() && in_time => Expected::Release,
            How::No(_) if about == held.ticket() => Expected::Deny,
            _ => Expected::Ignore,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Hold { place, body, hold_ms }
                if self.places[*place].is_none() && self.next < 200 =>
            {
                self.next += 1;
                self.places[*place] = Some(held(self.next, &[*body], self.boottime_ms, *hold_ms));
            }
            Step::Hold { .. } => {}
            Step::Decide { place, how } => {
                let Some(held) = &self.places[*place] else { return };
                let ticket = held.ticket().clone();
                self.envelopes.push((envelope(&ticket, *how), *how, ticket));
                self.arrive(*place, self.envelopes.len() - 1);
            }
            Step::Replay { place, which } if !self.envelopes.is_empty() => {
                self.arrive(*place, which.index(self.envelopes.len()));
            }
            Step::Replay { .. } => {}
            Step::Wait { ms } => self.boottime_ms += ms,
            Step::WallJumps { ms } => self.wall_offset = *ms,
        }
    }

    fn arrive(&mut self, place: usize, which: usize) {
        let Some(held) = self.places[place].take() else { return };
        let (signed, how, about) = &self.envelopes[which];
        let expected = self.expected(&held, *how, about);
        let (ticket, deadline) = (held.ticket().clone(), held.deadline());
        match verify(held, signed, &trust(), self.now()) {
            Outcome::Release(released) => {
                assert_eq!(expected, Expected::Release, "{how:?}");
                assert!(self.boottime_ms < deadline, "released after its deadline");
                let (digest, _) = released.sealing().unwrap();
                assert_eq!(*digest, ticket.request_digest, "another request was released");
                *self.releases.entry(ticket.circumstances.request_id).or_default() += 1;
            }
            Outcome::Deny(word) => {
                assert_eq!(expected, Expected::Deny, "{how:?}");
                assert!(matches!(how, How::No(said) if *said == word));
            }
            Outcome::Ignore(still, why) => {
                assert_eq!(expected, Expected::Ignore, "{how:?} was ignored: {why:?}");
                assert_eq!(still.ticket(), &ticket, "what was ignored changed the request");
                assert_eq!(still.deadline(), deadline);
                self.places[place] = Some(still);
            }
        }
    }

    fn check(&self) {
        for (id, count) in &self.releases {
            assert!(*count <= 1, "request {} was released {count} times", id[0]);
        }
        for held in self.places.iter().flatten() {
            let id = held.ticket().circumstances.request_id;
            assert!(
                !self.releases.contains_key(&id),
                "request {} was released and is still held",
                id[0]
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_request_leaves_once_and_only_by_a_decision_about_it(
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let mut world = World::default();
        for step in &steps {
            world.step(step);
            world.check();
        }
    }
}

/// The model would be worth nothing if nothing were ever released in it.
#[test]
fn a_valid_decision_releases_in_the_model() {
    let mut world = World::default();
    world.step(&Step::Hold { place: 0, body: 1, hold_ms: 1_000 });
    for how in [How::ForgedKey, How::OtherRequest, How::Valid, How::Valid] {
        world.step(&Step::Decide { place: 0, how });
        world.check();
    }
    assert_eq!(world.releases.values().sum::<u32>(), 1);
    assert!(world.places[0].is_none());
}
