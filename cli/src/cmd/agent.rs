//! `countersign agent`.

use countersign_proto::v1;
use serde::Serialize;
use zeroize::Zeroizing;

use super::change::waits;
use super::{every_page, part, yes_no};
use crate::args::{Agent, Output, Owner, Show};
use crate::client;
use crate::context::Context;
use crate::failure::Done;
use crate::print;

pub(crate) async fn run(context: &Context, command: Agent) -> Done {
    let mut admin = client::connect(context).await?;
    let request_id = client::request_id();
    match command {
        Agent::Create { name, owner, show } => {
            let request =
                v1::CreateAgentRequest { request_id, name, owner: owner.unwrap_or_default() };
            let made = admin.create_agent(request).await?.into_inner();
            once(context, part(made.agent)?, Zeroizing::new(made.token), &show)
        }
        Agent::List(show) => {
            list(every_page!(admin, list_agents, ListAgentsRequest {}, agents), &show)
        }
        Agent::Rotate(named) => {
            let request = v1::RotateAgentRequest { request_id, name: named.name };
            let made = admin.rotate_agent(request).await?.into_inner();
            once(context, part(made.agent)?, Zeroizing::new(made.token), &named.show)
        }
        Agent::Owner(Owner { name, owner, show }) => {
            let owner = owner.unwrap_or_default();
            let request = v1::SetAgentOwnerRequest { request_id, name, owner };
            let answer = admin.set_agent_owner(request).await?.into_inner();
            let agent = part(answer.agent)?;
            let owner = if agent.owner.is_empty() { "nobody".into() } else { agent.owner.clone() };
            let done = format!("{owner} answers for {}.", agent.name);
            match show.output {
                Output::Json => {
                    let waits = Some(answer.change_id).filter(|id| *id != 0);
                    print::json(&Owned { agent: Listed::from(agent), change: waits })
                }
                Output::Table => print::line(&waits(answer.change_id).unwrap_or(done)),
            }
        }
        Agent::Revoke(named) => {
            let request = v1::RevokeAgentRequest { request_id, name: named.name };
            let agent = part(admin.revoke_agent(request).await?.into_inner().agent)?;
            match named.show.output {
                Output::Json => print::json(&Listed::from(agent)),
                Output::Table => print::line(&format!(
                    "{} is revoked: its token opens nothing any more.",
                    agent.name
                )),
            }
        }
    }
}

#[derive(Serialize)]
struct Once<'a> {
    agent: &'a str,
    token: &'a str,
    proxy: Option<&'a str>,
}

#[derive(Serialize)]
struct Owned {
    #[serde(flatten)]
    agent: Listed,
    /// What waits for a second administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<u64>,
}

#[derive(Serialize)]
struct Listed {
    agent: String,
    id: String,
    owner: Option<String>,
    revoked: bool,
    created_at: Option<String>,
}

impl From<v1::Agent> for Listed {
    fn from(agent: v1::Agent) -> Self {
        Self {
            created_at: print::time(agent.created_at.as_ref()),
            agent: agent.name,
            id: agent.agent_id,
            owner: Some(agent.owner).filter(|owner| !owner.is_empty()),
            revoked: agent.revoked,
        }
    }
}

/// The one time that a token is shown.
fn once(context: &Context, agent: v1::Agent, token: Zeroizing<String>, show: &Show) -> Done {
    let proxy = context.edge.proxy.as_deref().map(|edge| proxy_url(edge, &agent.name, &token));
    if show.output == Output::Json {
        return print::json(&Once {
            agent: &agent.name,
            token: &token,
            proxy: proxy.as_deref().map(String::as_str),
        });
    }
    print::facts(&[
        ("agent", agent.name),
        ("token", token.to_string()),
        (
            "proxy",
            proxy.map_or_else(
                || "not known here: set COUNTERSIGN_EDGE to the edge's http://host:port".into(),
                |url| url.to_string(),
            ),
        ),
    ])?;
    print::line(
        "The token is shown this once. Give the agent its variables with `countersign env`.",
    )
}

/// `http://NAME:TOKEN@HOST:PORT`.
pub(crate) fn proxy_url(edge: &str, agent: &str, token: &str) -> Zeroizing<String> {
    let (scheme, rest) = edge.split_once("://").unwrap_or(("http", edge));
    Zeroizing::new(format!("{scheme}://{agent}:{token}@{}", rest.trim_end_matches('/')))
}

fn list(agents: Vec<v1::Agent>, show: &Show) -> Done {
    if show.output == Output::Json {
        return print::json(&agents.into_iter().map(Listed::from).collect::<Vec<_>>());
    }
    let row = |agent: v1::Agent| {
        let owner = if agent.owner.is_empty() { "-".into() } else { agent.owner };
        vec![
            agent.name,
            owner,
            yes_no(agent.revoked),
            print::time_or_dash(agent.created_at.as_ref()),
        ]
    };
    let rows: Vec<_> = agents.into_iter().map(row).collect();
    print::table(
        &["AGENT", "OWNER", "REVOKED", "CREATED"],
        &rows,
        "There are no agents yet: `countersign agent create NAME`.",
    )
}
