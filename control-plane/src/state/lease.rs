//! Leases: a key on loan to one edge process, for what the policy allows without asking.

use super::audit::Entry;
use super::{Actor, Done, Event, Millis, Refused, ReleaseClass, State};

/// A revoked key stays usable at a cut-off edge no longer than this.
const LONGEST_MS: Millis = 15 * 60 * 1000;

/// What is asked for.
pub(super) struct Loan<'a> {
    pub(super) id: &'a [u8; 16],
    pub(super) edge: &'a str,
    pub(super) incarnation: &'a [u8; 16],
    pub(super) credential: &'a str,
    pub(super) version: u64,
    pub(super) agent: &'a str,
    pub(super) ttl_ms: Millis,
}

impl State {
    pub(super) fn lease(&self, actor: &Actor, loan: &Loan<'_>) -> Result<Done, Refused> {
        self.demand_edge(actor, loan.edge)?;
        self.demand_current_edge(loan.edge, loan.incarnation)?;
        let agent = self.demand_active_agent(loan.agent)?;
        let credential = self.demand_credential(loan.credential, loan.version)?;
        if credential.class == ReleaseClass::PerRequest {
            return Err(Refused::Denied(format!(
                "credential {} was not lent: it is released per request only",
                credential.name
            )));
        }
        if loan.ttl_ms == 0 || loan.ttl_ms > LONGEST_MS {
            return Err(Refused::Invalid(format!(
                "credential {} was not lent: ask for 1 to {LONGEST_MS} milliseconds",
                credential.name
            )));
        }
        if credential.mint.is_some() {
            let left = credential.token_for(None).map_or(0, |token| token.left(self.log_time));
            if left < loan.ttl_ms {
                return Err(Refused::Invalid(format!(
                    "credential {} was not lent: its token ends before the lease would",
                    credential.name
                )));
            }
        }
        let entry = Entry::new("credential.lease", &credential.name)
            .with("lease", hex::encode(loan.id))
            .with("id", loan.credential)
            .with("version", loan.version)
            .with("agent", &agent.id)
            .with("edge", loan.edge)
            .with("incarnation", hex::encode(loan.incarnation))
            .with("ttl_ms", loan.ttl_ms);
        let event = Event::Leased {
            id: *loan.id,
            edge: loan.edge.to_owned(),
            credential: loan.credential.to_owned(),
            version: loan.version,
        };
        Ok(Done::changed(event, entry))
    }
}
