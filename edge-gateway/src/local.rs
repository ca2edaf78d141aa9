//! `https://countersign.local`: what an agent may know of its own approvals. The gateway answers it by itself, dials
//! nothing for it, and decides nothing here: whatever is sent, no vote comes of it.
//!
//! ```text
//! GET /approvals                  those that wait, and those of the last hour
//! GET /approvals/{id}[?wait=N]    one of them; with N, once it is no longer pending, or after N seconds
//! GET /approvals/{id}/result      what came of it, where it was parked here
//! ```

mod view;

use std::time::Duration;

use countersign_gate::{Destination, Scheme};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::agent::Badge;
use crate::bundle::Agent;
use crate::control::{Approval, Standing};
use crate::freeze::Draft;
use crate::park::What;
use crate::refuse::{self, Refusal};
use crate::rooms::Rooms;
use crate::serve::Entrance;
use crate::upstream::BoxBody;
use crate::wait;

/// The reserved host.
pub(crate) const HOST: &str = "countersign.local";
/// Clients, and what stands between them and us, give up at 60 seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(50);

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Question {
    List,
    One { id: [u8; 16], wait: Duration },
    Result { id: [u8; 16] },
}

/// Where an approval is found.
pub(crate) fn approval_at(approval_id: &str) -> String {
    format!("https://{HOST}/approvals/{approval_id}")
}

/// Where the result of a parked request is found.
pub(crate) fn result_of(approval_id: &str) -> String {
    format!("{}/result", approval_at(approval_id))
}

/// Whether this destination is the gateway itself.
pub(crate) fn is(destination: &Destination) -> bool {
    destination.host() == HOST
}

/// Whether this request is for the gateway itself.
pub(crate) fn asks(entrance: &Entrance, request: &Request<Incoming>) -> bool {
    match entrance {
        Entrance::Tunnel(destination) => is(destination),
        Entrance::Proxy => request
            .uri()
            .authority()
            .and_then(|named| Destination::parse(Scheme::Http, named.as_str(), Some(80)).ok())
            .is_some_and(|destination| is(&destination)),
    }
}

/// Answers such a request, about the asking agent's approvals and no others.
///
/// # Errors
/// As anywhere, and 404 for whatever is not this agent's.
pub(crate) async fn answer(
    rooms: &Rooms,
    badge: &Badge,
    entrance: &Entrance,
    request: Request<Incoming>,
) -> Result<Response<BoxBody>, Refusal> {
    let force = rooms.control.in_force().ok_or_else(|| wait::nothing_in_force(&rooms.control))?;
    let agent = force.bundle.agent(badge).ok_or(Refusal::ProxyCredential)?;
    let (parts, _unread) = request.into_parts();
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(Refusal::LookOnly);
    }
    // As strictly as any request is read: one that can be taken for another's is none.
    let draft = match entrance {
        Entrance::Proxy => Draft::proxied(parts, &force.bundle.policy)?,
        Entrance::Tunnel(destination) => {
            Draft::tunnelled(parts, destination, &force.bundle.policy)?
        }
    };
    let question = question(&draft.path, draft.query.as_deref())?;
    let _seat = rooms.hall.seats(&agent.id).asking(rooms.control.clock().boottime_ms()).await?;
    match question {
        Question::List => {
            let approvals = ask(rooms, agent, None, Duration::ZERO).await?;
            let seen =
                approvals.iter().map(|approval| view::of(approval, here(rooms, agent, approval)));
            Ok(json(&serde_json::json!({ "approvals": seen.collect::<Vec<_>>() })))
        }
        Question::One { id, wait } => {
            let approval = one(rooms, agent, id, wait).await?;
            Ok(json(&view::of(&approval, here(rooms, agent, &approval))))
        }
        Question::Result { id } => result(rooms, agent, id).await,
    }
}

fn question(path: &str, query: Option<&str>) -> Result<Question, Refusal> {
    let mut segments = path.split('/').skip(1);
    let (Some("approvals"), id, last, None) =
        (segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Err(Refusal::NothingHere);
    };
    let wait = waits(query)?;
    // Whatever is no id is nobody's approval.
    let read = |id: &str| {
        let lower = !id.bytes().any(|byte| byte.is_ascii_uppercase());
        hex::decode(id)
            .ok()
            .filter(|_| lower)
            .and_then(|id| id.try_into().ok())
            .ok_or(Refusal::NoSuchApproval)
    };
    match (id, last) {
        (None, None) => Ok(Question::List),
        (Some(id), None) => Ok(Question::One { id: read(id)?, wait }),
        (Some(id), Some("result")) => Ok(Question::Result { id: read(id)? }),
        _ => Err(Refusal::NothingHere),
    }
}

/// `wait=SECONDS`, which is all that there is to say.
fn waits(query: Option<&str>) -> Result<Duration, Refusal> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(Duration::ZERO) };
    let seconds = query.strip_prefix("wait=").and_then(|text| text.parse().ok());
    let seconds = seconds.ok_or_else(|| {
        let why =
            "the only thing that can be said after ? is wait=SECONDS, with a whole number".into();
        Refusal::BadRequest { why }
    })?;
    Ok(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

async fn ask(
    rooms: &Rooms,
    agent: &Agent,
    id: Option<[u8; 16]>,
    wait: Duration,
) -> Result<Vec<Approval>, Refusal> {
    tokio::select! {
        told = rooms.control.approvals(&agent.id, id, wait) => told.map_err(wait::unreachable),
        () = rooms.drain.cancelled() => Err(Refusal::Draining { approval_id: id.map(hex::encode) }),
    }
}

async fn one(
    rooms: &Rooms,
    agent: &Agent,
    id: [u8; 16],
    wait: Duration,
) -> Result<Approval, Refusal> {
    let told = ask(rooms, agent, Some(id), wait).await?;
    let name = hex::encode(id);
    told.into_iter().find(|approval| approval.id == name).ok_or(Refusal::NoSuchApproval)
}

/// What is on the shelf, or why nothing is.
async fn result(rooms: &Rooms, agent: &Agent, id: [u8; 16]) -> Result<Response<BoxBody>, Refusal> {
    let name = hex::encode(id);
    // First, and without the control plane: what is here is here.
    match rooms.shelf.look(&agent.id, &name) {
        Some(What::Answered(kept, at_ms)) => return Ok(json(&view::result(&name, &kept, at_ms))),
        Some(What::Failed(refusal)) => {
            return Err(Refusal::NoResult {
                approval_id: name,
                code: refusal.code(),
                why: refusal.detail(),
            });
        }
        Some(What::Carrying | What::Parked) | None => {}
    }
    let approval = one(rooms, agent, id, Duration::ZERO).await?;
    let (code, why) = view::no_result(&approval, here(rooms, agent, &approval));
    Err(Refusal::NoResult { approval_id: name, code, why })
}

fn here(rooms: &Rooms, agent: &Agent, approval: &Approval) -> Option<What> {
    rooms.shelf.look(&agent.id, &approval.id)
}

fn json(value: &serde_json::Value) -> Response<BoxBody> {
    refuse::answer(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

impl Standing {
    /// As operators see it.
    fn word(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Cancelled => "cancelled",
            Self::Completed => "completed",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Pending => "pending",
            Self::Released => "released",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_wait_is_capped_and_anything_else_after_the_question_mark_is_refused() {
        let path = format!("/approvals/{ID}");
        let id = hex::decode(ID).unwrap().try_into().unwrap();
        let wait = |query| question(&path, query);
        assert_eq!(wait(None), Ok(Question::One { id, wait: Duration::ZERO }));
        assert_eq!(wait(Some("wait=7")), Ok(Question::One { id, wait: Duration::from_secs(7) }));
        assert_eq!(wait(Some("wait=86400")), Ok(Question::One { id, wait: LONGEST_WAIT }));
        for other in ["wait=", "wait=-1", "wait=1&wait=2", "decision=approve", "wait=1.5"] {
            assert!(matches!(wait(Some(other)), Err(Refusal::BadRequest { .. })), "{other}");
        }
    }

    #[test]
    fn what_is_no_id_is_nobodys_approval_and_other_paths_are_nothing() {
        for id in ["1", "0123456789ABCDEF0123456789ABCDEF", "", &format!("{ID}00")] {
            let asked = question(&format!("/approvals/{id}"), None);
            assert_eq!(asked, Err(Refusal::NoSuchApproval), "{id}");
        }
        for path in [
            "/",
            "/healthz",
            &format!("/approvals/{ID}/vote"),
            &format!("/approvals/{ID}/result/x"),
        ] {
            assert_eq!(question(path, None), Err(Refusal::NothingHere), "{path}");
        }
    }
}
