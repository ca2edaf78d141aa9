//! What leaves for a platform.

use sha2::{Digest as _, Sha256};

use crate::http::Call;
use crate::mail::Mail;

/// Something for the caller to send, to the channel's own addresses and nowhere else.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// Over HTTP: what came of it, the answer says.
    Call(Call),
    /// Over SMTP, to [`crate::Adapter::relay`].
    Mail(Mail),
}

impl Outgoing {
    /// Of what people are shown by it.
    pub fn sha256(&self) -> [u8; 32] {
        match self {
            Self::Call(call) => Sha256::digest(&call.body).into(),
            Self::Mail(mail) => mail.sha256(),
        }
    }
}

impl From<Call> for Outgoing {
    fn from(call: Call) -> Self {
        Self::Call(call)
    }
}

impl From<Mail> for Outgoing {
    fn from(mail: Mail) -> Self {
        Self::Mail(mail)
    }
}
