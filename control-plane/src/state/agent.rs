//! An agent: what holds fake keys.

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::name::{REASON_BYTES, check_id, check_name, clipped};
use super::{Actor, Done, Event, Millis, Refused, Role, State};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Agent {
    /// Stable: the name's token may change, this does not.
    pub id: String,
    pub name: String,
    pub owner: Option<String>,
    /// SHA-256 of its proxy token.
    pub token_sha256: [u8; 32],
    pub active: bool,
    pub created_at: Millis,
}

impl State {
    pub(super) fn create_agent(
        &mut self,
        actor: &Actor,
        id: &str,
        name: &str,
        owner: Option<&str>,
        token_sha256: &[u8; 32],
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        check_id("an agent", id)?;
        check_name("an agent", name)?;
        if self.agents.contains_key(id) || self.active_agent_named(name).is_ok() {
            return Err(Refused::AlreadyExists(format!(
                "agent {name} was not created: there is one of that name or id; choose another name, or rotate its token"
            )));
        }
        // An owner that is nobody would let the agent's true owner vote on its requests.
        if let Some(owner) = owner
            && !self.principals.get(owner).is_some_and(|p| p.active)
        {
            return Err(Refused::NotFound(format!(
                "agent {name} was not created: its owner {:?} is no active principal; add the principal first",
                clipped(owner, REASON_BYTES)
            )));
        }
        let agent = Agent {
            id: id.to_owned(),
            name: name.to_owned(),
            owner: owner.map(str::to_owned),
            token_sha256: *token_sha256,
            active: true,
            created_at: self.log_time,
        };
        let entry = agent.entry("agent.create").with("owner", owner.unwrap_or_default());
        self.agents.insert(id.to_owned(), agent);
        Ok(Done::changed(agent_changed(id), entry))
    }

    pub(super) fn rotate_agent(
        &mut self,
        actor: &Actor,
        name: &str,
        token_sha256: &[u8; 32],
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let agent = self.active_agent_named(name)?;
        agent.token_sha256 = *token_sha256;
        Ok(Done::changed(agent_changed(&agent.id), agent.entry("agent.rotate")))
    }

    pub(super) fn revoke_agent(&mut self, actor: &Actor, name: &str) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        let agent = self.active_agent_named(name)?;
        agent.active = false;
        Ok(Done::changed(agent_changed(&agent.id), agent.entry("agent.revoke")))
    }

    /// Who answers for an agent, and does not approve its requests; None for nobody.
    pub(super) fn set_owner(
        &mut self,
        actor: &Actor,
        name: &str,
        owner: Option<&str>,
    ) -> Result<Done, Refused> {
        self.demand_role(actor, &[Role::Admin])?;
        if let Some(owner) = owner
            && !self.principals.get(owner).is_some_and(|p| p.active)
        {
            return Err(Refused::NotFound(format!(
                "agent {name} has its owner still: {:?} is no active principal",
                clipped(owner, REASON_BYTES)
            )));
        }
        let agent = self.active_agent_named(name)?;
        let id = agent.id.clone();
        if agent.owner.as_deref() == owner {
            return Ok(Done::unchanged(agent_changed(&id)));
        }
        agent.owner = owner.map(str::to_owned);
        let mut records = vec![agent.entry("agent.owner").with("owner", owner.unwrap_or_default())];
        let mut approvals = self.reconsider();
        for (id, entry) in self.deny_impossible() {
            approvals.push(id);
            records.push(entry);
        }
        approvals.sort_unstable();
        approvals.dedup();
        Ok(Done { event: Event::AgentChanged { id, approvals }, records })
    }

    pub(super) fn demand_active_agent(&self, id: &str) -> Result<&Agent, Refused> {
        match self.agents.get(id) {
            Some(agent) if agent.active => Ok(agent),
            Some(agent) => Err(Refused::Denied(format!("agent {} was revoked", agent.name))),
            None => Err(Refused::NotFound(format!(
                "there is no agent with the id {:?}",
                clipped(id, REASON_BYTES)
            ))),
        }
    }

    fn active_agent_named(&mut self, name: &str) -> Result<&mut Agent, Refused> {
        self.agents.values_mut().find(|a| a.active && a.name == name).ok_or_else(|| {
            Refused::NotFound(format!(
                "there is no active agent {:?}: list the agents to see their names",
                clipped(name, REASON_BYTES)
            ))
        })
    }
}

fn agent_changed(id: &str) -> Event {
    Event::AgentChanged { id: id.to_owned(), approvals: Vec::new() }
}

impl Agent {
    fn entry(&self, action: &str) -> Entry {
        Entry::new(action, &self.name).with("id", &self.id)
    }
}
