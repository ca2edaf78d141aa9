//! From a committed claim and the state to the decision that it is. Every node derives the same bytes.

use countersign_gate::{Approver, Decision, SealedRef, Word};

use crate::state::{ApprovalState, Claim, HeldRequest, Millis, State, VoteWord};

/// Why a claim is no decision here and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDecision {
    #[error("the cluster has not begun")]
    NotBegun,
    #[error("nothing was released to that request")]
    NotClaimed,
    #[error("the sealed keys are not those of the request's plan")]
    OtherKeys,
    #[error(
        "the request and the approval that it is said to be released by do not belong together"
    )]
    Mismatch,
    #[error("the time to act on the claim is over")]
    Expired,
    #[error("what became of the claim was reported already")]
    Reported,
    #[error("the edge was evicted, or another process of it attached since")]
    OtherProcess,
}

/// The decision that the claim of this held request is at log time `now`, under the trust bundle of `epoch`. Of it,
/// the digests of the sealed keys alone are not in the state: whoever sealed them says what they are.
pub(super) fn of_claim(
    state: &State,
    request_id: &[u8; 16],
    sealed: Vec<SealedRef>,
    epoch: u64,
    now: Millis,
) -> Result<Decision, NoDecision> {
    let cluster = &state.genesis().ok_or(NoDecision::NotBegun)?.cluster_id;
    let held = state.held(request_id).ok_or(NoDecision::NotClaimed)?;
    let claim = held.claim.as_ref().ok_or(NoDecision::NotClaimed)?;
    if held.outcome.is_some() {
        return Err(NoDecision::Reported);
    }
    if now >= claim.expires_at {
        return Err(NoDecision::Expired);
    }
    let current = state
        .edge(&claim.edge)
        .is_some_and(|edge| !edge.evicted && edge.incarnation == Some(claim.incarnation));
    if !current {
        return Err(NoDecision::OtherProcess);
    }
    let planned = held.credentials.iter().map(|(id, version)| (id, *version));
    if !planned.eq(sealed.iter().map(|key| (&key.credential, key.version))) {
        return Err(NoDecision::OtherKeys);
    }
    Ok(Decision {
        cluster: cluster.clone(),
        decision_id: claim.decision_id,
        word: Word::Release,
        approval_id: held.approval.map(|id| id.0),
        request_id: *request_id,
        request_digest: held.request_digest,
        intent_digest: held.intent_digest,
        edge: claim.edge.clone(),
        incarnation: claim.incarnation,
        term: claim.position.term,
        index: claim.position.index,
        policy_version: claim.policy_version,
        approvers: approvers(state, held, claim)?,
        not_before_ms: claim.at,
        expires_ms: claim.expires_at,
        sealed,
        epoch,
    })
}

/// Who approved it; nobody, when the policy allowed it.
fn approvers(
    state: &State,
    held: &HeldRequest,
    claim: &Claim,
) -> Result<Vec<Approver>, NoDecision> {
    let Some(id) = held.approval else { return Ok(Vec::new()) };
    let approval = state.approval(id).filter(|approval| {
        approval.state == ApprovalState::Released
            && approval.claim.as_ref() == Some(claim)
            && approval.shown.intent_digest == held.intent_digest
    });
    let votes = &approval.ok_or(NoDecision::Mismatch)?.votes;
    let counted = votes.iter().filter(|vote| vote.word == VoteWord::Approve && !vote.withdrawn);
    let approver = counted.map(|vote| Approver {
        principal: vote.principal.clone(),
        channel: vote.channel.clone(),
        at_ms: vote.at,
    });
    Ok(approver.collect())
}
