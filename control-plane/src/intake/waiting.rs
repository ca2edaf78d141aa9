//! What one session has waiting: each request once, by the approval that it waits for, and with what it takes to sign it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::request_signature::Unsigned;
use crate::state::ApprovalId;

pub(super) type RequestId = [u8; 16];

/// Small: bodies and heads are not kept once the approval is open, but for what a signature is made of.
#[derive(Default)]
pub(super) struct Waiting {
    requests: HashMap<RequestId, Option<ApprovalId>>,
    by_approval: HashMap<ApprovalId, Vec<RequestId>>,
    unsigned: HashMap<RequestId, Arc<Unsigned>>,
    unsigned_bytes: usize,
}

/// As much as one session keeps of requests that are to be signed.
const MOST_UNSIGNED_BYTES: usize = 64 * 1024 * 1024;

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn contains(&self, request_id: &RequestId) -> bool {
        self.requests.contains_key(request_id)
    }

    /// `None`: the policy allows it, and it waits for its key alone.
    pub(super) fn insert(&mut self, request_id: RequestId, approval: Option<ApprovalId>) {
        self.remove(&request_id);
        self.requests.insert(request_id, approval);
        if let Some(approval) = approval {
            self.by_approval.entry(approval).or_default().push(request_id);
        }
    }

    /// Keeps what a waiting request's signature is made of. False: there is no room for it now.
    pub(super) fn keep(&mut self, request_id: RequestId, unsigned: Arc<Unsigned>) -> bool {
        self.let_go_of(&request_id);
        if self.unsigned_bytes + unsigned.size() > MOST_UNSIGNED_BYTES {
            return false;
        }
        self.unsigned_bytes += unsigned.size();
        self.unsigned.insert(request_id, unsigned);
        true
    }

    fn let_go_of(&mut self, request_id: &RequestId) {
        if let Some(unsigned) = self.unsigned.remove(request_id) {
            self.unsigned_bytes -= unsigned.size();
        }
    }

    pub(super) fn unsigned(&self, request_id: &RequestId) -> Option<Arc<Unsigned>> {
        self.unsigned.get(request_id).cloned()
    }

    /// The approval that it waited for, if it waited.
    pub(super) fn remove(&mut self, request_id: &RequestId) -> Option<Option<ApprovalId>> {
        self.let_go_of(request_id);
        let approval = self.requests.remove(request_id)?;
        if let Some(id) = approval
            && let Some(others) = self.by_approval.get_mut(&id)
        {
            others.retain(|other| other != request_id);
            if others.is_empty() {
                self.by_approval.remove(&id);
            }
        }
        Some(approval)
    }

    /// Takes out whatever waits for an approval.
    pub(super) fn remove_all(&mut self, approval: ApprovalId) -> Vec<RequestId> {
        let all = self.by_approval.remove(&approval).unwrap_or_default();
        for request_id in &all {
            self.let_go_of(request_id);
            self.requests.remove(request_id);
        }
        all
    }

    /// In the order in which they came.
    pub(super) fn of(&self, approval: ApprovalId) -> &[RequestId] {
        self.by_approval.get(&approval).map_or(&[], Vec::as_slice)
    }

    pub(super) fn approvals(&self) -> Vec<ApprovalId> {
        self.by_approval.keys().copied().collect()
    }

    pub(super) fn requests(&self) -> impl Iterator<Item = (&RequestId, Option<ApprovalId>)> {
        self.requests.iter().map(|(request_id, approval)| (request_id, *approval))
    }
}
