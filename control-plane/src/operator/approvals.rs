//! Approvals: listed, shown, voted on, watched.

use std::collections::BTreeSet;
use std::pin::Pin;

use countersign_proto::v1;
use futures::{Stream, StreamExt as _};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::Instrument as _;

use super::once::{Once, reused};
use super::page::{Page, timestamp};
use super::refuse;
use crate::access::Admitted;
use crate::card;
use crate::state::{
    Announced, Approval, ApprovalId, ApprovalState, Command, Effect, Escalation, Event, Panel,
    Proof, ReportedOutcome, State, Strength, Vote, VoteWord, Voter,
};
use crate::telemetry;

pub(super) async fn list(
    asked: &Admitted,
    request: v1::ListApprovalsRequest,
) -> Result<v1::ListApprovalsResponse, Status> {
    let page = Page::of("approvals", request.page_size, &request.page_token)?;
    let wanted = match v1::ApprovalState::try_from(request.state) {
        Ok(v1::ApprovalState::Unspecified) => None,
        Ok(state) => Some(state),
        Err(_) => return Err(refuse::field("state", "is not one of ApprovalState")),
    };
    let read = asked.house.cluster.read(|state| {
        let fitting = state
            .approvals()
            .filter(|a| wanted.is_none_or(|wanted| state_to_proto(a.state) == wanted));
        let newest_first =
            fitting.map(|a| (format!("{:020} {}", u64::MAX - a.created_at, a.id), a));
        page.cut(newest_first.collect(), |a| to_proto(state, a))
    });
    let (approvals, next_page_token) = read.await.map_err(|e| refuse::unavailable(&e))?;
    Ok(v1::ListApprovalsResponse { approvals, next_page_token })
}

pub(super) async fn get(
    asked: &Admitted,
    request: v1::GetApprovalRequest,
) -> Result<v1::GetApprovalResponse, Status> {
    let id = id_of(&request.approval_id)?;
    let read = asked.house.cluster.read(|state| state.approval(id).map(|a| to_proto(state, a)));
    let approval = read.await.map_err(|e| refuse::unavailable(&e))?.ok_or_else(|| unknown(id))?;
    Ok(v1::GetApprovalResponse { approval: Some(approval) })
}

/// What waits for an answer, newest first.
pub(crate) async fn pending(asked: &Admitted) -> Result<Vec<v1::Approval>, Status> {
    let state = v1::ApprovalState::Pending.into();
    let newest = v1::ListApprovalsRequest { state, page_size: 200, ..Default::default() };
    list(asked, newest).await.map(|listed| listed.approvals)
}

/// One approval, by its id as people write it.
pub(crate) async fn approval(asked: &Admitted, id: &str) -> Result<v1::Approval, Status> {
    let found = get(asked, v1::GetApprovalRequest { approval_id: id.to_owned() }).await?;
    found.approval.ok_or_else(|| refuse::not_found("there is no such approval"))
}

/// The channel that a vote over gRPC is recorded under: what the client calls itself decides nothing but this word.
pub(super) fn channel_of(metadata: &MetadataMap) -> &'static str {
    let agent =
        metadata.get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if agent.starts_with("countersign") { "cli" } else { "api" }
}

/// Votes in the caller's name. That the caller may, and that this is about what they saw, is checked where it is applied.
pub(crate) async fn vote_in(
    asked: &Admitted,
    channel: &str,
    request: v1::VoteApprovalRequest,
) -> Result<v1::VoteApprovalResponse, Status> {
    let once = Once::of(asked, "VoteApproval", &request.request_id)?;
    let approval = id_of(&request.approval_id)?;
    let word = match v1::VoteDecision::try_from(request.decision) {
        Ok(v1::VoteDecision::Approve) => VoteWord::Approve,
        Ok(v1::VoteDecision::Deny) => VoteWord::Deny,
        _ => {
            return Err(refuse::field(
                "decision",
                "must be VOTE_DECISION_APPROVE or VOTE_DECISION_DENY",
            ));
        }
    };
    let intent_digest = match request.intent_digest.as_str() {
        "" => None,
        text => {
            let mut digest = [0; 32];
            hex::decode_to_slice(text, &mut digest).map_err(|_| {
                refuse::field(
                    "intent_digest",
                    "must be 64 hexadecimal digits, as the approval shows them",
                )
            })?;
            Some(digest)
        }
    };
    let traceparent =
        asked.house.cluster.peek(|state| state.approval(approval).map(|a| a.traceparent.clone()));
    let span = tracing::info_span!("vote", approval = %approval, channel);
    let span = telemetry::in_trace(span, &traceparent.unwrap_or_default());
    let command = Command::Vote {
        approval,
        by: Voter::Principal(asked.caller.name.clone()),
        word,
        channel: channel.into(),
        reason: request.reason,
        intent_digest,
        // The caller has shown a token of their own.
        strength: Strength::L2,
        proof: Proof::None,
        breaks_glass: request.break_glass,
    };
    #[cfg(feature = "planted-bugs")]
    if crate::planted::planted(5) {
        return acknowledged_early(asked, once, command, approval, word);
    }
    let approval = changed(asked, &once, command, approval).instrument(span).await?;
    Ok(v1::VoteApprovalResponse { approval: Some(approval) })
}

/// The fifth planted fault.
#[cfg(feature = "planted-bugs")]
fn acknowledged_early(
    asked: &Admitted,
    once: Once,
    command: Command,
    id: ApprovalId,
    word: VoteWord,
) -> Result<v1::VoteApprovalResponse, Status> {
    let current = asked.house.cluster.peek(|state| state.approval(id).map(|a| to_proto(state, a)));
    let mut approval = current.ok_or_else(|| unknown(id))?;
    approval.state = match word {
        VoteWord::Approve => v1::ApprovalState::Approved.into(),
        VoteWord::Deny => v1::ApprovalState::Denied.into(),
    };
    let asked = asked.clone();
    tokio::spawn(async move { once.propose(&asked, command).await.map(drop) });
    Ok(v1::VoteApprovalResponse { approval: Some(approval) })
}

pub(super) async fn cancel(
    asked: &Admitted,
    request: v1::CancelApprovalRequest,
) -> Result<v1::CancelApprovalResponse, Status> {
    let once = Once::of(asked, "CancelApproval", &request.request_id)?;
    let approval = id_of(&request.approval_id)?;
    let approval =
        changed(asked, &once, Command::Cancel { approval, reason: request.reason }, approval)
            .await?;
    Ok(v1::CancelApprovalResponse { approval: Some(approval) })
}

async fn changed(
    asked: &Admitted,
    once: &Once,
    command: Command,
    id: ApprovalId,
) -> Result<v1::Approval, Status> {
    let event = once.propose(asked, command).await?;
    match &*event {
        Event::Voted { approval, .. } | Event::Settled { approval, .. } if *approval == id => asked
            .house
            .cluster
            .peek(|state| state.approval(id).map(|a| to_proto(state, a)))
            .ok_or_else(|| unknown(id)),
        _ => Err(reused(&id.to_string())),
    }
}

/// What is there first, then every change.
pub(super) type Changes =
    Pin<Box<dyn Stream<Item = Result<v1::WatchApprovalsResponse, Status>> + Send>>;

pub(super) async fn watch(
    asked: &Admitted,
    request: v1::WatchApprovalsRequest,
) -> Result<Changes, Status> {
    let only = match request.approval_id.as_str() {
        "" => None,
        text => Some(id_of(text)?),
    };
    let house = asked.house.clone();
    // Before what is there is read: what changes in between comes twice rather than never.
    let mut events = house.cluster.subscribe();
    let current = house
        .cluster
        .read(|state| shown(state, only))
        .await
        .map_err(|e| refuse::unavailable(&e))?;
    if let (Some(id), true) = (only, current.is_empty()) {
        return Err(unknown(id));
    }
    // A watcher that does not read holds up itself alone; one that falls too far behind is told what is there anew.
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut news = current;
        loop {
            for approval in news.drain(..) {
                let answer = v1::WatchApprovalsResponse { approval: Some(approval) };
                if sender.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
            let event = tokio::select! {
                () = sender.closed() => return,
                () = house.closing.cancelled() => return drop(sender.send(Err(refuse::sealed())).await),
                event = events.recv() => event,
            };
            news = match event {
                Ok(event) => {
                    let about: BTreeSet<_> = changed_by(&event)
                        .into_iter()
                        .filter(|id| only.is_none_or(|only| only == *id))
                        .collect();
                    house.cluster.peek(|state| {
                        about
                            .iter()
                            .filter_map(|id| state.approval(*id))
                            .map(|a| to_proto(state, a))
                            .collect()
                    })
                }
                Err(RecvError::Lagged(_)) => house.cluster.peek(|state| shown(state, only)),
                Err(RecvError::Closed) => return,
            };
        }
    });
    Ok(ReceiverStream::new(receiver).boxed())
}

/// The one that was asked for, or every one that is not settled yet, oldest first.
fn shown(state: &State, only: Option<ApprovalId>) -> Vec<v1::Approval> {
    let mut approvals: Vec<_> = match only {
        Some(id) => state.approval(id).into_iter().collect(),
        None => state.approvals().filter(|a| !a.state.is_terminal()).collect(),
    };
    approvals.sort_by_key(|a| (a.created_at, a.id));
    approvals.into_iter().map(|a| to_proto(state, a)).collect()
}

/// The approvals that an event is about.
pub(crate) fn changed_by(event: &Event) -> Vec<ApprovalId> {
    match event {
        Event::Claimed { approval, reopened, .. } => {
            approval.iter().chain(reopened).copied().collect()
        }
        Event::AgentChanged { approvals, .. } | Event::GrantChanged { approvals, .. } => {
            approvals.clone()
        }
        Event::Opened { approval, .. } | Event::Reported { approval, .. } => {
            approval.iter().copied().collect()
        }
        Event::PrincipalChanged { approvals, .. } => approvals.clone(),
        Event::Settled { approval, .. } | Event::Voted { approval, .. } => vec![*approval],
        Event::Ticked { settled, nudged } => {
            settled.iter().map(|(id, _)| *id).chain(nudged.iter().map(|(id, _)| *id)).collect()
        }
        _ => Vec::new(),
    }
}

pub(super) fn id_of(text: &str) -> Result<ApprovalId, Status> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id).map_err(|_| {
        refuse::field("approval_id", "must be 32 hexadecimal digits, as the list shows them")
    })?;
    Ok(ApprovalId(id))
}

fn unknown(id: ApprovalId) -> Status {
    refuse::not_found(format!("there is no approval {id}: list the approvals to see what is there"))
}

pub(crate) fn state_to_proto(state: ApprovalState) -> v1::ApprovalState {
    match state {
        ApprovalState::Pending => v1::ApprovalState::Pending,
        ApprovalState::Approved => v1::ApprovalState::Approved,
        ApprovalState::Denied => v1::ApprovalState::Denied,
        ApprovalState::Expired => v1::ApprovalState::Expired,
        ApprovalState::Cancelled => v1::ApprovalState::Cancelled,
        ApprovalState::Revoked => v1::ApprovalState::Revoked,
        ApprovalState::Released => v1::ApprovalState::Released,
        ApprovalState::Completed => v1::ApprovalState::Completed,
        ApprovalState::Unknown => v1::ApprovalState::Unknown,
    }
}

pub(crate) fn to_proto(state: &State, approval: &Approval) -> v1::Approval {
    let shown = &approval.shown;
    let agent = state
        .agent(&approval.agent)
        .map_or_else(|| approval.agent.clone(), |agent| agent.name.clone());
    let credential = |(id, _): &(String, u64)| {
        state.credential(id).map_or_else(|| id.clone(), |c| c.name.clone())
    };
    let headers = shown.headers.iter();
    let votes = approval.votes.iter().filter(|vote| !vote.withdrawn).map(vote_to_proto);
    let requirements = approval.requirements.iter().map(|r| v1::Requirement {
        rule: r.rule.clone(),
        panels: r.panels.iter().map(panel_to_proto).collect(),
        strength: r.strength.to_string(),
        proof: r.proof.to_string(),
        owner_may_approve: r.owner_may_approve,
        escalations: r.escalations.iter().map(|step| escalation_to_proto(step, approval)).collect(),
        break_glass: r.break_glass.clone(),
        critical: r.critical,
        whole_card: r.whole_card,
    });
    let outcome = approval.outcome.as_ref().map(|(outcome, status, at)| v1::ExecutionRecord {
        outcome: match outcome {
            ReportedOutcome::Completed => v1::ExecutionOutcome::Completed.into(),
            ReportedOutcome::NotSent => v1::ExecutionOutcome::NotSent.into(),
            ReportedOutcome::Unknown => v1::ExecutionOutcome::Unknown.into(),
        },
        status: (*status).into(),
        at: timestamp(*at),
    });
    let (described, undecidable) = match &shown.effect {
        Effect::Unknown => (None, String::new()),
        Effect::Undecidable(why) => (None, why.clone()),
        Effect::Described(described) => (Some(described), String::new()),
    };
    let fact = |fact: &countersign_describe::Fact| v1::Fact {
        name: fact.name.clone(),
        value: fact.value.clone(),
    };
    let waiting = state.held_for(approval.id).filter(|held| held.claim.is_none()).count();
    v1::Approval {
        approval_id: approval.id.to_string(),
        state: state_to_proto(approval.state).into(),
        agent,
        method: shown.method.clone(),
        scheme: shown.scheme.clone(),
        host: shown.host.clone(),
        port: shown.port.into(),
        path: shown.path.clone(),
        query: shown.query.clone(),
        headers: headers
            .map(|(name, value)| v1::Header { name: name.clone(), value: value.clone().into() })
            .collect(),
        body_bytes: shown.body_bytes,
        body_sha256: hex::encode(shown.body_sha256),
        body_preview: shown.body_preview.clone().into(),
        intent_digest: hex::encode(shown.intent_digest),
        rule: approval.rule.clone(),
        credentials: approval.credentials.iter().map(credential).collect(),
        created_at: timestamp(approval.created_at),
        expires_at: timestamp(approval.due),
        votes: votes.collect(),
        requirements: requirements.collect(),
        outcome,
        waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
        uninspectable: shown.uninspectable,
        reason: approval.reason.clone(),
        similar: u32::try_from(state.counted_with(approval.id)).unwrap_or(u32::MAX),
        announced_with: match &approval.announced {
            Announced::With(first) => first.to_string(),
            Announced::Card { .. } | Announced::Together => String::new(),
        },
        asked: match &approval.announced {
            Announced::Card { to } => to.iter().cloned().collect(),
            Announced::With(_) | Announced::Together => Vec::new(),
        },
        grant_id: approval.grant.map(|id| id.to_string()).unwrap_or_default(),
        asked_again: approval.asked_again,
        warnings: card::careful(shown),
        fingerprint: countersign_chat::fingerprint(&shown.intent_digest),
        summary: described.map(|it| it.sentence.clone()).unwrap_or_default(),
        facts: described.map(|it| it.facts.iter().map(fact).collect()).unwrap_or_default(),
        risk: described.map(|it| it.risk.word().to_owned()).unwrap_or_default(),
        also_contains: described.and_then(|it| it.also.line()).unwrap_or_default(),
        undecidable,
    }
}

pub(super) fn vote_to_proto(vote: &Vote) -> v1::Vote {
    v1::Vote {
        approver: vote.principal.clone(),
        decision: match vote.word {
            VoteWord::Approve => v1::VoteDecision::Approve.into(),
            VoteWord::Deny => v1::VoteDecision::Deny.into(),
        },
        channel: vote.channel.clone(),
        at: timestamp(vote.at),
        reason: vote.reason.clone(),
        strength: vote.strength.to_string(),
        proof: vote.proof.to_string(),
        breaks_glass: vote.breaks_glass,
    }
}

fn panel_to_proto(panel: &Panel) -> v1::Panel {
    v1::Panel { of: panel.of.clone(), quorum: panel.quorum }
}

fn escalation_to_proto(step: &Escalation, approval: &Approval) -> v1::Escalation {
    v1::Escalation {
        at: timestamp(approval.created_at.saturating_add(step.after_ms)),
        to: step.to.clone(),
    }
}
