//! What one session has waiting: each request once, and by the approval that it waits for.

use std::collections::HashMap;

use crate::state::ApprovalId;

pub(super) type RequestId = [u8; 16];

/// Small: bodies and heads are not kept once the approval is open.
#[derive(Default)]
pub(super) struct Waiting {
    requests: HashMap<RequestId, Option<ApprovalId>>,
    by_approval: HashMap<ApprovalId, Vec<RequestId>>,
}

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

    /// The approval that it waited for, if it waited.
    pub(super) fn remove(&mut self, request_id: &RequestId) -> Option<Option<ApprovalId>> {
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
