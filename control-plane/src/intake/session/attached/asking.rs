//! Agents that ask after their approvals: answered at once, or when something was decided.
//!
//! Whatever is told here, an edge tells an agent about its own requests, and nothing follows from it: no vote is taken
//! and no request released by asking.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_proto::v1;
use tokio::time::Instant;
use tonic::Status;

use super::{Done, Session};
use crate::intake::asked::{Which, known};
use crate::state::ApprovalId;
use v1::attach_response::Message as Out;

/// Nobody waits longer for one answer.
const LONGEST: Duration = Duration::from_secs(60);
/// So many wait in a session; the next one is told at once how things stand.
const WAITING: usize = 4096;

/// One question, and until when it waits for something to be decided.
pub(super) struct Ask {
    id: u64,
    agent: String,
    which: Which,
    until: Instant,
}

/// Questions that wait, by their approval.
#[derive(Default)]
pub(super) struct Asks {
    waiting: HashMap<ApprovalId, Vec<Ask>>,
    count: usize,
    /// When the first of them has waited long enough, or sooner.
    next: Option<Instant>,
}

impl Asks {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// When to look whether some of them have waited long enough.
    pub(super) fn next(&self) -> Instant {
        self.next.unwrap_or_else(Instant::now)
    }

    fn approvals(&self) -> Vec<ApprovalId> {
        self.waiting.keys().copied().collect()
    }

    fn add(&mut self, approval: ApprovalId, ask: Ask) {
        self.next = Some(self.next.map_or(ask.until, |next| next.min(ask.until)));
        self.waiting.entry(approval).or_default().push(ask);
        self.count += 1;
    }

    /// Takes out those about an approval that fit.
    fn take(&mut self, approval: ApprovalId, fits: impl Fn(&Ask) -> bool) -> Vec<Ask> {
        let Some(asks) = self.waiting.get_mut(&approval) else { return Vec::new() };
        let (taken, left) = std::mem::take(asks).into_iter().partition(fits);
        *asks = left;
        if asks.is_empty() {
            self.waiting.remove(&approval);
        }
        let taken: Vec<Ask> = taken;
        self.count -= taken.len();
        taken
    }
}

impl Session {
    /// Looks up what is committed by now, on whichever node.
    pub(super) fn ask(&mut self, asked: v1::AskApprovals) -> Result<(), Status> {
        let v1::AskApprovals { ask_id, agent_id, approval_id, wait_ms } = asked;
        let which = match approval_id.as_ref() {
            [] => Which::All,
            id => match id.try_into() {
                Ok(id) => Which::One(ApprovalId(id)),
                Err(_) => return self.answer(ask_id, Vec::new()),
            },
        };
        let until = Instant::now() + Duration::from_millis(wait_ms).min(LONGEST);
        let ask = Ask { id: ask_id, agent: agent_id, which, until };
        let rooms = Arc::clone(&self.rooms);
        self.work.spawn(async move {
            let found = rooms.cluster.read(|state| known(state, &ask.agent, ask.which)).await;
            Done::LookedUp(ask, found.ok())
        });
        Ok(())
    }

    pub(super) fn looked_up(
        &mut self,
        ask: Ask,
        found: Option<Vec<v1::AgentApproval>>,
    ) -> Result<(), Status> {
        let Some(found) = found else {
            let unknown =
                v1::ApprovalsAnswer { ask_id: ask.id, approvals: Vec::new(), unavailable: true };
            return self.tell(Out::ApprovalsAnswer(unknown));
        };
        let Which::One(approval) = ask.which else { return self.answer(ask.id, found) };
        let waits =
            found.iter().any(pending) && ask.until > Instant::now() && self.asks.count < WAITING;
        if !waits {
            return self.answer(ask.id, found);
        }
        self.asks.add(approval, ask);
        // What happened since it was looked up was not heard for this question.
        self.look_for_askers(approval)
    }

    /// Something happened to these approvals, or to any.
    pub(super) fn tell_askers(
        &mut self,
        changed: impl IntoIterator<Item = ApprovalId>,
        everything: bool,
    ) -> Result<(), Status> {
        let all = if everything { self.asks.approvals() } else { Vec::new() };
        let mut approvals = changed.into_iter().chain(all);
        approvals.try_for_each(|approval| self.look_for_askers(approval))
    }

    /// Those who have waited long enough are told how things stand.
    pub(super) fn tell_patient_askers(&mut self) -> Result<(), Status> {
        let now = Instant::now();
        for approval in self.asks.approvals() {
            for ask in self.asks.take(approval, |ask| ask.until <= now) {
                self.tell_as_it_stands(&ask)?;
            }
        }
        self.asks.next = self.asks.waiting.values().flatten().map(|ask| ask.until).min();
        Ok(())
    }

    /// Those who waited for this approval, and for whom it is no longer pending, are told.
    fn look_for_askers(&mut self, approval: ApprovalId) -> Result<(), Status> {
        if !self.asks.waiting.contains_key(&approval) {
            return Ok(());
        }
        let cluster = self.rooms.cluster.clone();
        let decided = |ask: &Ask| {
            !cluster.peek(|state| known(state, &ask.agent, ask.which)).iter().any(pending)
        };
        for ask in self.asks.take(approval, decided) {
            self.tell_as_it_stands(&ask)?;
        }
        Ok(())
    }

    fn tell_as_it_stands(&mut self, ask: &Ask) -> Result<(), Status> {
        let found = self.rooms.cluster.peek(|state| known(state, &ask.agent, ask.which));
        self.answer(ask.id, found)
    }

    fn answer(&mut self, ask_id: u64, approvals: Vec<v1::AgentApproval>) -> Result<(), Status> {
        let unavailable = false;
        self.tell(Out::ApprovalsAnswer(v1::ApprovalsAnswer { ask_id, approvals, unavailable }))
    }
}

fn pending(approval: &v1::AgentApproval) -> bool {
    approval.state() == v1::AgentApprovalState::Pending
}
