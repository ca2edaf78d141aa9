//! One announced request: checked, judged by the policy in force, and opened.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_gate::{Class, Held, Request, Verdict, classify};
use countersign_policy::{self as policy, Body, Decision, Head, Policy, Subject, Then};
use countersign_proto::v1;

use super::announced::{Announced, Caller, Invalid, Said, request_id};
use super::waiting::RequestId;
use super::{Rooms, actor, shown};
use crate::cluster::ProposeError;
use crate::request_signature::Unsigned;
use crate::sign::{Place, leasable};
use crate::state::{
    Actor, ApprovalId, Command, Credential, Escalation, Event, Millis, Open, Panel, Proof, Refused,
    Requirement, Strength,
};
use v1::SettledReason as Reason;

/// What became of an announcement.
pub(super) enum Opening {
    /// Committed. `approval` is None for a request that the policy allows.
    Opened {
        approval: Option<ApprovalId>,
        expires_at: Millis,
        /// For a request that is signed here.
        unsigned: Option<Arc<Unsigned>>,
    },
    /// Judged by another version of the policy, or with a key that was rotated meanwhile.
    Reopen,
    Settled {
        approval: Option<ApprovalId>,
        reason: Reason,
        detail: String,
    },
    /// Whether it was committed is not known. The edge announces it again in its next session.
    Unknown,
}

/// An answer that is not an approval.
enum No {
    /// The edge's findings are not what its own bytes say: somebody should look.
    Mismatch(String),
    Policy(String),
    Reopen,
    Unavailable(&'static str),
}

/// Opens a request. Every check that a later step relies on is made again where the command is applied.
pub(super) async fn open(
    rooms: &Rooms,
    caller: &Caller,
    head: v1::OpenHead,
    body: Bytes,
) -> Opening {
    let Ok(id) = request_id(&head.request_id) else {
        return settled(Reason::Invalid, "request_id must be 16 bytes");
    };
    let judged = match Announced::read(head, body, caller) {
        Ok(announced) => judge(rooms, announced),
        Err(Invalid(what)) => Err(No::Mismatch(what)),
    };
    match judged {
        Ok((command, unsigned)) => propose(rooms, caller, command, unsigned).await,
        Err(No::Mismatch(what)) => {
            note(rooms, caller, id, &what).await;
            settled(Reason::Invalid, what)
        }
        Err(No::Policy(why)) => {
            revoke(rooms, id, &why).await;
            settled(Reason::PolicyDenied, why)
        }
        Err(No::Reopen) => Opening::Reopen,
        Err(No::Unavailable(why)) => settled(Reason::Unavailable, why),
    }
}

/// Announcement and policy to the command that opens it, and to what its signature will be made of, if it needs one.
fn judge(rooms: &Rooms, announced: Announced) -> Result<(Box<Open>, Option<Arc<Unsigned>>), No> {
    let Announced { request, circumstances, body_sha256, traceparent, said } = announced;
    let (version, policy) = rooms.signer.policy_in_force();
    if circumstances.policy_version < version {
        return Err(No::Reopen);
    }
    if circumstances.policy_version > version {
        return Err(No::Unavailable("this node does not know that policy version yet"));
    }
    let (agent, credential) = rooms.cluster.peek(|state| {
        let agent = state.agent(&request.origin().agent).filter(|agent| agent.active);
        let planned = request.injections().first();
        let credential =
            planned.and_then(|planned| state.credential(&planned.credential)).map(without_payload);
        (agent.map(|agent| agent.name.clone()), credential)
    });
    let agent = agent.ok_or_else(|| No::Policy("the agent is not known, or was revoked".into()))?;
    let decision = decide(&policy, &agent, &request);
    agrees_with_plan(&request, credential.as_ref(), &decision)?;
    let verdict = verdict(&decision, credential.as_ref(), &policy, &said)?;

    let requirements = match verdict {
        Verdict::Approve { .. } => decision.requirements.into_iter().map(requirement).collect(),
        _ => Vec::new(),
    };
    let credentials =
        request.injections().iter().map(|i| (i.credential.clone(), i.version)).collect();
    let held = match classify(request, verdict) {
        Class::Hold(judged) => judged.hold(circumstances, 0),
        Class::Pass(_) | Class::Refuse(_) => {
            return Err(No::Mismatch("a request that is not held was announced".into()));
        }
    };
    same_digests(&held, &said)?;
    let ticket = held.ticket();
    let circumstances = &ticket.circumstances;
    let open = Box::new(Open {
        approval: ApprovalId(rand::random()),
        request_id: circumstances.request_id,
        edge: circumstances.edge.clone(),
        incarnation: circumstances.incarnation,
        agent: held.request().origin().agent.clone(),
        request_digest: ticket.request_digest,
        policy_version: version,
        rule: decision.rule,
        requirements,
        credentials,
        shown: shown::of(held.request(), ticket.intent_digest, body_sha256, decision.uninspectable),
        expires_ms: millis(decision.expires),
        unused_ms: millis(decision.unused),
        cool_down_ms: millis(decision.cool_down),
        remind_ms: decision.remind.map(millis),
        most_pending: rooms.settings.max_pending_per_agent,
        observed: decision.observed,
        hold_ms: circumstances.hold_ms,
        traceparent,
    });
    Ok((open, Unsigned::of(&held).map(Arc::new)))
}

fn decide(policy: &Policy, agent: &str, request: &Request) -> Decision {
    let body = match request.payload() {
        countersign_gate::Payload::Streamed => Body::Streamed,
        countersign_gate::Payload::Whole(body) => Body::Whole(body),
    };
    let head = Head {
        agent,
        destination: request.destination(),
        method: request.method(),
        path: crate::planted::path(request.path()),
        query: request.query(),
        headers: request.headers(),
    };
    policy.decide(&Subject { head, body })
}

/// The one key of the plan must be of a credential that the deciding rules name, go where its record says, and be of
/// its current version.
fn agrees_with_plan(
    request: &Request,
    credential: Option<&Credential>,
    decision: &Decision,
) -> Result<(), No> {
    let Some(planned) = request.injections().first() else { return Ok(()) };
    let Some(credential) = credential.filter(|credential| credential.active) else {
        return Err(No::Policy("the credential is not known, or was revoked".into()));
    };
    if matches!(decision.then, Then::Allow | Then::Approve | Then::Observe)
        && !decision.credentials.contains(&credential.name)
    {
        return Err(No::Policy(format!(
            "rule \"{}\" does not give the key \"{}\"",
            decision.rule, credential.name
        )));
    }
    let (destination, place) = (request.destination(), Place::of(credential));
    let same_scheme = place.as_ref().is_some_and(|it| it.scheme() == destination.scheme());
    if destination.host() != credential.host
        || destination.port() != credential.port
        || !same_scheme
    {
        return Err(No::Mismatch(format!(
            "the key \"{}\" is for another destination",
            credential.name
        )));
    }
    if !place.is_some_and(|place| place.agrees(&planned.slot, request)) {
        return Err(No::Mismatch(format!(
            "the key \"{}\" goes into another slot",
            credential.name
        )));
    }
    if planned.version != credential.version {
        return Err(No::Reopen);
    }
    Ok(())
}

/// What the policy says, as long as it is something that is held.
fn verdict(
    decision: &Decision,
    credential: Option<&Credential>,
    policy: &Policy,
    said: &Said,
) -> Result<Verdict, No> {
    let rule = decision.rule.clone();
    let refused = |verb: &str| match &decision.reason {
        Some(reason) => No::Policy(format!("rule \"{rule}\" {verb} it: {reason}")),
        None => No::Policy(format!("rule \"{rule}\" {verb} it")),
    };
    let verdict = match decision.then {
        Then::Allow | Then::Observe => {
            let leased = |c: &Credential| leasable(c, policy.credential_use(&c.name));
            let per_request =
                decision.recorded() || credential.is_some_and(|credential| !leased(credential));
            if !per_request {
                return Err(No::Mismatch(
                    "the policy allows it and its key is leased: nothing is held for it".into(),
                ));
            }
            Verdict::Allow { rule, per_request }
        }
        Then::Approve => Verdict::Approve { rule },
        Then::Deny => return Err(refused("denies")),
        Then::Tunnel => {
            return Err(No::Mismatch("its host is tunnelled to: nothing is held for it".into()));
        }
        Then::Unnamed => return Err(No::Policy("no rule names it".into())),
    };
    if said.rule != decision.rule || said.allowed != decision.then.passes() {
        return Err(No::Mismatch(
            "the edge and the control plane judge it by different rules".into(),
        ));
    }
    Ok(verdict)
}

fn same_digests(held: &Held, said: &Said) -> Result<(), No> {
    let ticket = held.ticket();
    if crate::planted::planted(3) {
        return Ok(());
    }
    if said.intent_digest != ticket.intent_digest[..] {
        return Err(No::Mismatch("the intent digest is not that of the request".into()));
    }
    if said.request_digest != ticket.request_digest[..] {
        return Err(No::Mismatch("the request digest is not that of the request".into()));
    }
    Ok(())
}

async fn propose(
    rooms: &Rooms,
    caller: &Caller,
    open: Box<Open>,
    unsigned: Option<Arc<Unsigned>>,
) -> Opening {
    let proposed = rooms.cluster.propose(actor(&caller.edge.id), Command::Open(open)).await;
    let refused = match proposed {
        Ok(committed) => {
            let Event::Opened { approval, .. } = *committed else { return Opening::Unknown };
            let due =
                |id| rooms.cluster.peek(|state| state.approval(id).map(|approval| approval.due));
            return Opening::Opened {
                approval,
                expires_at: approval.and_then(due).unwrap_or_default(),
                unsigned,
            };
        }
        Err(ProposeError::Unavailable(why)) => {
            tracing::warn!(why, "whether a request was opened is not known");
            return Opening::Unknown;
        }
        Err(ProposeError::Refused(refused)) => refused,
    };
    match refused {
        Refused::PolicyChanged => Opening::Reopen,
        Refused::AlreadyUsed => settled(Reason::AlreadyExecuted, refused.to_string()),
        Refused::Denied(why) => settled(Reason::PolicyDenied, why),
        Refused::Exhausted(why) => settled(Reason::Overloaded, why),
        Refused::Expired(why) => settled(Reason::Expired, why),
        // A key that was rotated between the check and the commit; or a newer process of the edge, whose session
        // ends this one.
        Refused::Precondition(_) => Opening::Reopen,
        Refused::AlreadyExists(why) | Refused::Invalid(why) | Refused::NotFound(why) => {
            settled(Reason::Invalid, why)
        }
    }
}

async fn note(rooms: &Rooms, caller: &Caller, id: RequestId, what: &str) {
    let edge = &caller.edge.id;
    tracing::warn!(
        edge,
        request = hex::encode(id),
        what,
        "an edge announced a request that does not hold together"
    );
    let note = Command::Note {
        action: "request.invalid".into(),
        subject: hex::encode(id),
        details: vec![("edge".into(), edge.clone()), ("why".into(), what.to_owned())],
    };
    if let Err(why) = rooms.cluster.propose(actor(edge), note).await {
        tracing::warn!(%why, "an audit note was perhaps not taken");
    }
}

/// The policy in force does not permit a request that was opened under an earlier one: its approval, if people can
/// still answer it, is taken back.
async fn revoke(rooms: &Rooms, id: RequestId, why: &str) {
    let live = rooms.cluster.peek(|state| {
        let approval = state.held(&id).and_then(|held| held.approval)?;
        state
            .approval(approval)
            .filter(|approval| !approval.state.is_terminal())
            .map(|approval| approval.id)
    });
    let Some(approval) = live else { return };
    let reason = format!("the policy changed: {why}");
    if let Err(why) =
        rooms.cluster.propose(Actor::System, Command::Revoke { approval, reason }).await
    {
        tracing::warn!(%approval, %why, "an approval was perhaps not taken back");
    }
}

fn settled(reason: Reason, detail: impl Into<String>) -> Opening {
    Opening::Settled { approval: None, reason, detail: detail.into() }
}

fn requirement(requirement: policy::Requirement) -> Requirement {
    let panel = |panel: policy::Panel| Panel { of: panel.of, quorum: panel.quorum };
    let step = |step: policy::Escalation| Escalation { after_ms: millis(step.after), to: step.to };
    Requirement {
        rule: requirement.rule,
        panels: requirement.panels.into_iter().map(panel).collect(),
        strength: match requirement.strength {
            policy::Strength::L0 => Strength::L0,
            policy::Strength::L1 => Strength::L1,
            policy::Strength::L2 => Strength::L2,
            policy::Strength::L3 => Strength::L3,
        },
        proof: match requirement.proof {
            policy::Proof::None => Proof::None,
            policy::Proof::Shared => Proof::Shared,
            policy::Proof::Transferable => Proof::Transferable,
        },
        owner_may_approve: requirement.owner_may_approve,
        escalations: requirement.escalations.into_iter().map(step).collect(),
        break_glass: requirement.break_glass,
        critical: requirement.critical,
        whole_card: requirement.whole_card,
    }
}

fn millis(duration: Duration) -> Millis {
    duration.as_millis().try_into().unwrap_or(Millis::MAX)
}

/// What judging needs of a record: its ciphertext stays where it is.
fn without_payload(credential: &Credential) -> Credential {
    let payload = crate::state::Payload::Sealed {
        keyring_term: 0,
        wrapped_key: Vec::new(),
        ciphertext: Vec::new(),
    };
    Credential { payload, fakes: Vec::new(), name: credential.name.clone(), ..credential.clone() }
}
