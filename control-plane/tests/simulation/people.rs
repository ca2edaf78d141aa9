//! People: they hear of an approval, take their time, and vote at any node; sometimes they look at it afterwards.

use std::sync::Arc;
use std::time::Duration;

use countersign_control_plane::cluster::ProposeError;
use countersign_control_plane::state::{
    Actor, ApprovalId, ApprovalState, Command, CommandId, Proof, Refused, State, Strength,
    VoteWord, Voter,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::history::{Op, Seen, Told};
use crate::ledger::{Ledger, Vote};
use crate::node::{Ask, House};

const PEOPLE: [&str; 2] = ["alice", "bob"];
/// For one answer of a node; then the same is asked of another.
const PATIENCE: Duration = Duration::from_secs(12);
const TRIES: usize = 3;

#[derive(Clone, Copy)]
enum Act {
    Cancel,
    Vote(VoteWord),
}

pub(crate) struct People {
    pub(crate) houses: Vec<Arc<House>>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) seed: u64,
}

impl People {
    pub(crate) async fn live(self: Arc<Self>) -> turmoil::Result {
        let mut heard_of = 0;
        let mut dice = StdRng::seed_from_u64(self.seed);
        loop {
            sleep(Duration::from_millis(20)).await;
            let new = self.ledger.inner().approvals[heard_of..].to_vec();
            heard_of += new.len();
            for approval in new {
                let agree = self.ledger.inner().everyone_agrees;
                let both = dice.random_bool(0.4);
                let first = dice.random_range(0..2);
                for number in 0..=usize::from(both && !agree) {
                    let word = if agree || dice.random_bool(0.75) {
                        VoteWord::Approve
                    } else {
                        VoteWord::Deny
                    };
                    let after = dice.random_range(0..if agree { 100 } else { 2500 });
                    let person = Arc::clone(&self);
                    let principal = PEOPLE[(first + number) % 2];
                    let seed = dice.random();
                    let act = if !agree && dice.random_bool(0.08) {
                        Act::Cancel
                    } else {
                        Act::Vote(word)
                    };
                    tokio::spawn(async move {
                        sleep(Duration::from_millis(after)).await;
                        person.act(approval, principal, act, seed).await;
                    });
                }
            }
        }
    }

    async fn act(&self, id: ApprovalId, principal: &'static str, act: Act, seed: u64) {
        let mut dice = StdRng::seed_from_u64(seed);
        let command = match act {
            Act::Cancel => Command::Cancel { approval: id, reason: String::new() },
            Act::Vote(word) => Command::Vote {
                approval: id,
                by: Voter::Principal(principal.into()),
                word,
                channel: "simulation".into(),
                reason: String::new(),
                intent_digest: None,
                strength: Strength::L2,
                proof: Proof::None,
                breaks_glass: false,
            },
        };
        let command_id = CommandId { client: dice.random(), serial: 1 };
        let op = match act {
            Act::Cancel => Op::Cancel,
            Act::Vote(VoteWord::Approve) => Op::Approve(principal.into()),
            Act::Vote(VoteWord::Deny) => Op::Deny(principal.into()),
        };
        let call = self.ledger.journal.invoke(&id.to_string(), principal, op);
        for _ in 0..TRIES {
            let (answer, answered) = oneshot::channel();
            let actor = Actor::Principal(principal.into());
            let ask = Ask::Propose(command_id, actor, Box::new(command.clone()), answer);
            if !self.ask_anyone(&mut dice, ask) {
                sleep(Duration::from_millis(500)).await;
                continue;
            }
            match timeout(PATIENCE, answered).await {
                Ok(Ok(Ok(_))) => {
                    call.returned(Told::Accepted);
                    if let Act::Vote(word) = act {
                        self.ledger.inner().votes.push(Vote { approval: id, principal, word });
                    }
                    return self.look(id, &mut dice).await;
                }
                // The time was over, and that is all that this says: until the next tick, the approval looks as it did.
                Ok(Ok(Err(ProposeError::Refused(Refused::Expired(_))))) => break,
                Ok(Ok(Err(ProposeError::Refused(_)))) => {
                    call.returned(Told::Refused);
                    return self.look(id, &mut dice).await;
                }
                // Unknown: said again under the same identity.
                Ok(Ok(Err(ProposeError::Unavailable(_))) | Err(_)) | Err(_) => {}
            }
        }
        call.lost();
    }

    async fn look(&self, id: ApprovalId, dice: &mut StdRng) {
        if dice.random_bool(0.5) {
            sleep(Duration::from_millis(dice.random_range(0..500))).await;
        }
        let call = self.ledger.journal.invoke(&id.to_string(), "anyone", Op::Read);
        let (answer, answered) = oneshot::channel();
        let look = move |state: &State| {
            // Whoever asked may have gone.
            let _ = answer.send(state.approval(id).map(|approval| approval.state));
        };
        if !self.ask_anyone(dice, Ask::Read(Box::new(look))) {
            return call.lost();
        }
        match timeout(PATIENCE, answered).await {
            Ok(Ok(Some(state))) => call.returned(Told::State(seen(state))),
            Ok(Ok(None)) => self.ledger.violated(format!("I6: approval {id} was read as unknown")),
            _ => call.lost(),
        }
    }

    fn ask_anyone(&self, dice: &mut StdRng, ask: Ask) -> bool {
        let up: Vec<_> = self.houses.iter().filter(|house| house.up().is_some()).collect();
        up.choose(dice).is_some_and(|house| house.ask(ask))
    }
}

pub(crate) fn seen(state: ApprovalState) -> Seen {
    match state {
        ApprovalState::Approved => Seen::Approved,
        ApprovalState::Cancelled | ApprovalState::Revoked => Seen::Cancelled,
        ApprovalState::Denied => Seen::Denied,
        ApprovalState::Expired => Seen::Expired,
        ApprovalState::Pending => Seen::Pending,
        ApprovalState::Released | ApprovalState::Completed | ApprovalState::Unknown => {
            Seen::Released
        }
    }
}
