//! Every way to say no: what happened inside to a gRPC status with `google.rpc` details. The only table of codes.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::cluster::{ProposeError, Unavailable};
use crate::state::Refused;

const DOMAIN: &str = "countersign";

/// A status whose `ErrorInfo` names the reason for programs.
pub(crate) fn because(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, with_reason(reason))
}

/// What a field should have been.
pub(super) fn field(field: &str, description: impl Into<String>) -> Status {
    fields(vec![(field.to_owned(), description.into())])
}

/// All that is wrong with a request, at once.
pub(super) fn fields(violations: Vec<(String, String)>) -> Status {
    let message = violations
        .iter()
        .map(|(field, what)| format!("{field}: {what}"))
        .collect::<Vec<_>>()
        .join("; ");
    let mut details = with_reason("INVALID_REQUEST");
    details.set_bad_request(
        violations
            .into_iter()
            .map(|(field, what)| FieldViolation::new(field, what))
            .collect::<Vec<_>>(),
    );
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// Something must be done first. `subject` is what it is about.
pub(super) fn precondition(reason: &str, subject: &str, message: impl Into<String>) -> Status {
    let message = message.into();
    let mut details = with_reason(reason);
    details.add_precondition_failure_violation(reason, subject, message.clone());
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

pub(super) fn not_found(message: impl Into<String>) -> Status {
    because(Code::NotFound, "NOT_FOUND", message)
}

/// The node is sealed: nothing can be read, so nobody can be told more.
pub(crate) fn sealed() -> Status {
    because(
        Code::Unavailable,
        "SEALED",
        "sealed: nothing was done; unseal the control plane (`countersign seal unseal`) and try again",
    )
}

/// The node is unsealed and has not caught up with its cluster yet.
pub(super) fn not_settled() -> Status {
    because(
        Code::Unavailable,
        "NO_LEADER",
        "nothing was done: this node has not heard from its cluster since it was unsealed; see that most of its nodes are unsealed and reach each other (`countersign cluster status`), and try again",
    )
}

/// What went wrong inside goes to the log; the caller learns that it did.
pub(super) fn internal(error: &dyn std::fmt::Display) -> Status {
    tracing::error!(%error, "an admin call failed");
    because(
        Code::Internal,
        "INTERNAL",
        "something failed inside the control plane: its log says what; nothing is known to have changed",
    )
}

/// Somebody tries too often.
pub(super) fn too_many(what: &str, wait: Duration) -> Status {
    let mut details = with_reason("TOO_MANY_TRIES");
    details.set_retry_info(Some(wait));
    let seconds = wait.as_secs() + 1;
    let message = format!("{what}: there were too many tries; try again in {seconds} s");
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

pub(crate) fn unavailable(error: &Unavailable) -> Status {
    because(
        Code::Unavailable,
        "NO_LEADER",
        format!("nothing was read: {error}; try again in a moment"),
    )
}

pub(super) fn not_proposed(error: ProposeError) -> Status {
    match error {
        ProposeError::Refused(refused) => by_state(&refused),
        ProposeError::Unavailable(why) => because(
            Code::Unavailable,
            "OUTCOME_UNKNOWN",
            format!(
                "it is not known whether this was done ({why}): ask again with the same request_id"
            ),
        ),
    }
}

fn by_state(refused: &Refused) -> Status {
    let message = refused.to_string();
    match refused {
        Refused::AlreadyExists(_) => because(Code::AlreadyExists, "ALREADY_EXISTS", message),
        Refused::AlreadyUsed => precondition("ALREADY_USED", "approval", message),
        Refused::Denied(_) => because(Code::PermissionDenied, "DENIED", message),
        Refused::Exhausted(_) => because(Code::ResourceExhausted, "EXHAUSTED", message),
        Refused::Expired(_) => precondition("EXPIRED", "approval", message),
        Refused::Invalid(_) => because(Code::InvalidArgument, "INVALID_REQUEST", message),
        Refused::NotFound(_) => not_found(message),
        Refused::PolicyChanged => because(Code::Aborted, "POLICY_CHANGED", message),
        Refused::Precondition(_) => precondition("PRECONDITION", "state", message),
    }
}

fn with_reason(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}
