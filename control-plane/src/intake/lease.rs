//! Keys on loan, for what the policy allows without asking.

use std::time::Duration;

use bytes::Bytes;
use countersign_gate::lease_context;
use countersign_proto::v1;

use super::release::{Recipient, seal, to_proto};
use super::{Rooms, actor};
use crate::cluster::ProposeError;
use crate::mint::Need;
use crate::sign::leasable;
use crate::state::{Command, Credential, Event, State};

/// A cut-off edge uses a key no longer than this.
const TTL_MS: u64 = 15 * 60 * 1000;

/// How long a lease waits for a token that is not there yet: edges wait for five seconds.
const TOKEN_PATIENCE: Duration = Duration::from_secs(4);

/// Why nothing was lent, in one sentence.
pub(super) struct NotLent {
    pub(super) detail: String,
    /// It may be lent a little later.
    pub(super) for_now: bool,
}

impl From<String> for NotLent {
    fn from(detail: String) -> Self {
        Self { detail, for_now: false }
    }
}

/// Lends a key, or says in one sentence why not.
pub(super) async fn lend(
    rooms: &Rooms,
    recipient: &Recipient,
    asked: &v1::LeaseRequest,
) -> Result<v1::Lease, NotLent> {
    let (_, policy) = rooms.signer.policy_in_force();
    let mut found = rooms.cluster.peek(|state| permitted(state, &policy, asked))?;
    let mut ttl_ms = TTL_MS;
    if let Some(need) = Need::to_lend(&found) {
        let ready = rooms.minter.ready(&need, TOKEN_PATIENCE).await;
        ready.map_err(|why| NotLent { detail: why.to_string(), for_now: true })?;
        found = rooms.cluster.peek(|state| permitted(state, &policy, asked))?;
        let left = found.token_for(None).map_or(0, |token| token.left(rooms.cluster.log_time()));
        // The lease has ended at the edge before the token does, however long both were under way.
        ttl_ms = ttl_ms.min(left - left / 10);
    }
    let edge = &recipient.caller.edge.id;
    let id: [u8; 16] = rand::random();
    let command = Command::Lease {
        id,
        edge: edge.clone(),
        incarnation: recipient.caller.incarnation,
        credential: found.id.clone(),
        version: found.version,
        agent: asked.agent_id.clone(),
        ttl_ms,
    };
    let committed = rooms.cluster.propose(actor(edge), command).await.map_err(|why| match why {
        ProposeError::Refused(refused) => refused.to_string(),
        ProposeError::Unavailable(_) => {
            "the control plane cannot commit a lease now; ask again".to_owned()
        }
    })?;
    let Event::Leased { id, credential: _, version, .. } = &*committed else {
        return Err("no lease was committed; ask again".to_owned().into());
    };
    let sealed = seal(rooms, recipient, &found, None, &lease_context(id, &found.id, *version))
        .map_err(|why| {
            tracing::error!(credential = found.name, %why, "a lent key could not be sealed");
            "the key could not be sealed".to_owned()
        })?;
    Ok(v1::Lease {
        lease_id: Bytes::copy_from_slice(id),
        sealed: Some(to_proto(&found, sealed)),
        ttl_ms,
    })
}

fn permitted(
    state: &State,
    policy: &countersign_policy::Policy,
    asked: &v1::LeaseRequest,
) -> Result<Credential, String> {
    let agent = state.agent(&asked.agent_id).filter(|agent| agent.active);
    let agent = agent.ok_or("the agent is not known, or was revoked")?;
    let credential = state.credential(&asked.credential_id).filter(|credential| credential.active);
    let credential = credential.ok_or("the credential is not known, or was revoked")?;
    let name = &credential.name;
    if !leasable(credential, policy.credential_use(name)) {
        return Err(format!("the key \"{name}\" is not lent: it is released per request"));
    }
    if !policy.lends(&agent.name, name) {
        return Err(format!("no allow rule gives the key \"{name}\" to agent {}", agent.name));
    }
    Ok(credential.clone())
}
