//! Log time that jumped: nothing is released until somebody has looked at the clocks.
//!
//! A clock that is fast only makes things expire early. But log time never goes back: what it is once, it stays, and
//! every deadline after is counted from it. So a person says whether it is right.

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::{Actor, Done, Event, Millis, Refused, Role, State};

/// The newest jump that nobody has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockJump {
    /// What log time became with it.
    pub at: Millis,
    /// How much of that no clock since boot accounts for.
    pub by_ms: u64,
}

impl State {
    /// Claims are refused while there is one.
    pub fn clock_jump(&self) -> Option<ClockJump> {
        self.clock_jump
    }

    /// The leader says it, in the entry that it stamps: only it knows how long nothing was asked of it.
    pub(super) fn suspect_clock(&mut self, actor: &Actor, by_ms: u64) -> Result<Done, Refused> {
        if *actor != Actor::System {
            return Err(Refused::Denied(
                "only the control plane says that its clock jumped".into(),
            ));
        }
        let jump = ClockJump { at: self.log_time, by_ms };
        self.clock_jump = Some(jump);
        let entry = Entry::new("clock.jump", "clock").with("by_ms", by_ms);
        Ok(Done::changed(Event::ClockSuspected(jump), entry))
    }

    pub(super) fn confirm_clock(&mut self, actor: &Actor) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let jump = self.clock_jump.take().ok_or_else(|| {
            Refused::Precondition(
                "nothing was confirmed: the cluster's clock has not jumped".into(),
            )
        })?;
        let entry = Entry::new("clock.confirm", "clock").with("by_ms", jump.by_ms);
        Ok(Done::changed(Event::ClockConfirmed, entry))
    }

    pub(super) fn demand_sound_clock(&self) -> Result<(), Refused> {
        match self.clock_jump {
            None => Ok(()),
            Some(jump) => Err(Refused::Precondition(format!(
                "nothing was released: the cluster's clock jumped ahead by {jump}; once the time is right on all \
                 nodes, an administrator confirms it with `countersign cluster confirm-clock`"
            ))),
        }
    }
}

impl std::fmt::Display for ClockJump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let minutes = self.by_ms / 60_000;
        write!(f, "{} h {} min", minutes / 60, minutes % 60)
    }
}
