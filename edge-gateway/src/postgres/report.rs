//! What an agent's client is told: errors and notices (PostgreSQL's manual, "Error and Notice Message Fields"), with an
//! SQLSTATE for programs, and for people and language models what was not done, why, and what to do next.

use std::borrow::Cow;

use bytes::{BufMut as _, BytesMut};

use super::message::{put_text, write};
use crate::refuse::Refusal;

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The statement was not carried out.
    Error,
    /// The connection ends.
    Fatal,
    Notice,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) severity: Severity,
    /// SQLSTATE.
    pub(crate) code: &'static str,
    pub(crate) message: Cow<'static, str>,
    pub(crate) detail: String,
    pub(crate) hint: String,
}

/// insufficient_privilege
pub(crate) const REFUSED: &str = "42501";
/// query_canceled
pub(crate) const CANCELED: &str = "57014";
/// admin_shutdown
pub(crate) const GOING_DOWN: &str = "57P01";
/// protocol_violation
pub(crate) const PROTOCOL: &str = "08P01";
/// feature_not_supported
pub(crate) const UNSUPPORTED: &str = "0A000";
/// program_limit_exceeded
pub(crate) const TOO_LARGE: &str = "54000";

impl Report {
    pub(crate) fn error(code: &'static str, message: &'static str, detail: String) -> Self {
        let hint = String::new();
        Self { severity: Severity::Error, code, message: message.into(), detail, hint }
    }

    pub(crate) fn fatal(code: &'static str, message: &'static str, detail: String) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(code, message, detail) }
    }

    /// Tells the client that a statement waits for people, and under which approval.
    pub(crate) fn waits(approval_id: &str, transaction: bool) -> Self {
        let held = if transaction {
            " Its transaction stays open meanwhile, and keeps its locks."
        } else {
            ""
        };
        Self {
            severity: Severity::Notice,
            code: "00000",
            message: "this statement waits for a person's approval".into(),
            detail: format!("Approval {approval_id}. Nothing of it was sent.{held}"),
            hint: "Cancelling it takes the question back.".into(),
        }
    }

    /// What a client does to a statement that is held: nothing of it was sent.
    pub(crate) fn cancelled() -> Self {
        Self::error(
            CANCELED,
            "canceling statement due to user request",
            "It waited for a person's approval, which is no longer asked for. Nothing of it was sent.".into(),
        )
    }

    /// A statement that is not carried out, or a connection that is not opened.
    pub(crate) fn refused(refusal: &Refusal, severity: Severity) -> Self {
        let hint = match (refusal, refusal.approval_id()) {
            (Refusal::ApprovalPending { .. }, Some(id)) => {
                format!(
                    "Approval {id} stays open: run the identical statement again, and it goes on waiting for that one."
                )
            }
            (_, Some(id)) => format!("This was approval {id}."),
            (Refusal::PolicyDenied { .. }, None) => {
                "Whoever administers the policy sees why with: countersign policy explain".into()
            }
            _ => String::new(),
        };
        let message = refusal.title().into();
        Self { severity, code: sqlstate(refusal), message, detail: refusal.detail(), hint }
    }

    /// Writes it as a message.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        let (tag, word) = match self.severity {
            Severity::Error => (b'E', "ERROR"),
            Severity::Fatal => (b'E', "FATAL"),
            Severity::Notice => (b'N', "NOTICE"),
        };
        let fields = [
            (b'S', word),
            (b'V', word),
            (b'C', self.code),
            (b'M', &self.message),
            (b'D', &self.detail),
            (b'H', &self.hint),
        ];
        write(out, tag, |out| {
            for (kind, text) in fields.iter().filter(|(_, text)| !text.is_empty()) {
                out.put_u8(*kind);
                put_text(out, &text.replace('\0', " "));
            }
            out.put_u8(0);
        });
    }
}

/// The SQLSTATE of a refusal (PostgreSQL's manual, appendix A).
fn sqlstate(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::AlreadyExecuted { .. } => "55000",
        Refusal::ApprovalExpired { .. } | Refusal::ApprovalPending { .. } => CANCELED,
        Refusal::BadRequest { .. } => PROTOCOL,
        Refusal::BodyTooLarge { .. } | Refusal::HeadTooLarge { .. } => TOO_LARGE,
        Refusal::ClockOff
        | Refusal::ControlPlaneUnavailable
        | Refusal::Evicted
        | Refusal::NoToken { .. }
        | Refusal::Sealed => "58000",
        Refusal::Draining { .. } => GOING_DOWN,
        Refusal::OutcomeUnknown { .. } => "08007",
        Refusal::Overloaded { .. } | Refusal::TooManyPending { .. } => "53300",
        Refusal::ProxyCredential => "28000",
        Refusal::UpstreamFailed { .. } => "08006",
        _ => REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of a message that was written.
    fn fields(report: &Report) -> Vec<(char, String)> {
        let mut out = BytesMut::new();
        report.put(&mut out);
        assert_eq!(out[1..5], u32::try_from(out.len() - 1).unwrap().to_be_bytes());
        assert_eq!(out.last(), Some(&0));
        let body = &out[5..out.len() - 2];
        let field =
            |field: &[u8]| (char::from(field[0]), String::from_utf8(field[1..].to_vec()).unwrap());
        body.split(|byte| *byte == 0).map(field).collect()
    }

    #[test]
    fn a_refusal_says_its_sqlstate_what_was_not_done_and_what_to_do_next() {
        let pending = Refusal::ApprovalPending {
            approval_id: "ab12".into(),
            request: "POST db.test/app".into(),
            parked: false,
        };
        let said = fields(&Report::refused(&pending, Severity::Error));
        assert_eq!(said[0], ('S', "ERROR".into()));
        assert_eq!(said[2], ('C', "57014".into()));
        assert!(said[4].1.starts_with("Not sent yet"), "{said:?}");
        assert!(said[5].1.contains("ab12") && said[5].1.contains("identical"), "{said:?}");
        let denied = Refusal::PolicyDenied { rule: Some("no drops".into()), detail: None };
        let said = fields(&Report::refused(&denied, Severity::Fatal));
        assert_eq!((said[1].1.as_str(), said[2].1.as_str()), ("FATAL", "42501"));
        assert!(said.iter().any(|(_, text)| text.contains("no drops")), "{said:?}");
    }

    #[test]
    fn a_nul_never_ends_a_field_early() {
        let report = Report::error(REFUSED, "m", "before\0after".into());
        assert_eq!(fields(&report)[4], ('D', "before after".into()));
    }
}
