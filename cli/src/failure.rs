//! Every way a command can end other than well: one sentence on stderr, and an exit code.

use std::error::Error as _;
use std::fmt::{self, Display};
use std::process::ExitCode;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::print;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read our output has left: nothing is wrong, and nobody listens.
    Left,
    /// Refused or failed: exit 1.
    Refused(String),
    /// The control plane cannot be reached: exit 3.
    Unreachable(String),
    /// Asked in a way that means nothing: exit 2.
    Usage(String),
}

pub(crate) type Done = Result<(), Failure>;

impl Failure {
    pub(crate) fn refused(why: impl Display) -> Self {
        Self::Refused(why.to_string())
    }

    pub(crate) fn usage(why: impl Display) -> Self {
        Self::Usage(why.to_string())
    }

    /// Says it on stderr and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (code, why) = match self {
            Self::Left => return ExitCode::SUCCESS,
            Self::Refused(why) => (1, why),
            Self::Usage(why) => (2, why),
            Self::Unreachable(why) => (3, why),
        };
        for line in why.lines() {
            eprintln!("countersign: {}", print::visible(line));
        }
        ExitCode::from(code)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("whoever read this has left"),
            Self::Refused(why) | Self::Unreachable(why) | Self::Usage(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Failure {}

/// A failure of this machine's own making: files, sockets, what `dev` runs.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        error.downcast().unwrap_or_else(|error| Self::Refused(format!("{error:#}")))
    }
}

/// What the control plane answered, as a sentence that says what to do.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let said = status.message();
        match status.code() {
            Code::DeadlineExceeded => {
                Self::Unreachable("the control plane did not answer in time; try again, and see `countersign status`".into())
            }
            Code::InvalidArgument => Self::Refused(violations(&status)),
            Code::Unauthenticated => Self::Refused(format!(
                "the control plane does not know this token ({said}); set COUNTERSIGN_TOKEN or run `countersign login`"
            )),
            Code::Unavailable if said.starts_with("sealed") => {
                Self::Refused(format!("the control plane is {said}"))
            }
            Code::Unimplemented => {
                Self::Refused("the control plane does not know this command: is it older than this `countersign`?".into())
            }
            Code::Unavailable | Code::Cancelled => Self::Unreachable(format!("the control plane went away: {said}")),
            Code::Unknown if status.source().is_some() => {
                Self::Unreachable(format!("the control plane went away: {said}"))
            }
            _ if said.is_empty() => Self::Refused(format!("the control plane refused: {}", status.code())),
            _ => Self::Refused(said.to_owned()),
        }
    }
}

/// Each violated field on a line of its own, if they are named; else the message. What is wrong with a policy says where.
fn violations(status: &Status) -> String {
    let bad = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    if bad.is_empty() {
        return status.message().to_owned();
    }
    let line = |violation: tonic_types::FieldViolation| match violation.field.as_str() {
        "" | "policy" | "text" => violation.description,
        field => format!("{field}: {}", violation.description),
    };
    bad.into_iter().map(line).collect::<Vec<_>>().join("\n")
}
