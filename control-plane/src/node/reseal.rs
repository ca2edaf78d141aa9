//! After a rotation of the keyring: what was stored under an older term is sealed again under the one in force.
//!
//! The leader does it, one credential and channel after the other, by commands that are bound to the very payload that each
//! replaces: a key that somebody rotates meanwhile is never overwritten.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Unsealed;
use crate::cluster::ProposeError;
use crate::state::{Actor, Channel, Command, Credential, Refused};
use crate::vault::{Binding, SealError};

/// How often the leader looks for what is under an older term.
const LOOK: Duration = Duration::from_secs(1);

impl Unsealed {
    /// Credentials, and channels' secrets, that are sealed under an older term than the one in force, as far as this node knows.
    pub(crate) fn under_older_terms(&self) -> usize {
        let term = self.vault.keyring_term().term;
        self.cluster.peek(|state| {
            let channels = state.channels_under_older_terms(term).count();
            state.credentials_under_older_terms(term).count() + channels
        })
    }

    /// Until the node is sealed.
    pub(super) async fn reseal_always(&self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Those that do not open: said once, and left to whoever reads that.
        let mut given_up = BTreeSet::new();
        loop {
            looks.tick().await;
            if self.cluster.is_leader() {
                self.reseal(&mut given_up).await;
            }
        }
    }

    async fn reseal(&self, given_up: &mut BTreeSet<[u8; 32]>) {
        let term = self.vault.keyring_term().term;
        let (cluster, older, channels) = self.cluster.peek(|state| {
            let cluster = state.genesis().map(|genesis| genesis.cluster_id.clone());
            let older = state.credentials_under_older_terms(term);
            let older = older.filter(|it| !given_up.contains(&it.payload.sha256()));
            let channels = state.channels_under_older_terms(term);
            let channels = channels.filter(|it| !given_up.contains(&it.secrets.sha256()));
            (cluster, older.cloned().collect::<Vec<_>>(), channels.cloned().collect::<Vec<_>>())
        });
        let Some(cluster) = cluster else { return };
        let credentials =
            older.iter().map(|it| (&it.name, &it.payload, self.resealed(&cluster, it)));
        let channels =
            channels.iter().map(|it| (&it.name, &it.secrets, self.resealed_channel(&cluster, it)));
        for (name, former, resealed) in credentials.chain(channels) {
            let resealed = match resealed {
                Ok(resealed) => resealed,
                Err(error) => {
                    tracing::error!(%error, name, "a credential or channel stays under an older key: it does not open");
                    given_up.insert(former.sha256());
                    continue;
                }
            };
            match self.cluster.propose(Actor::System, resealed).await {
                Ok(_) => {}
                // Somebody rotated or revoked it meanwhile.
                Err(ProposeError::Refused(Refused::Precondition(_) | Refused::NotFound(_))) => {}
                Err(error) => {
                    tracing::warn!(%error, "credentials stay under an older key for now");
                    return;
                }
            }
        }
        if !older.is_empty() {
            tracing::info!(credentials = older.len(), term, "credentials were sealed again");
        }
    }

    fn resealed_channel(&self, cluster: &str, channel: &Channel) -> Result<Command, SealError> {
        let binding = Binding::of_channel(cluster, channel);
        let secrets = self.vault.open_payload(&binding, &channel.secrets)?;
        Ok(Command::ResealChannel {
            name: channel.name.clone(),
            former_sha256: channel.secrets.sha256(),
            secrets: self.vault.seal_payload(&binding, &secrets),
        })
    }

    fn resealed(&self, cluster: &str, credential: &Credential) -> Result<Command, SealError> {
        let binding = Binding::of_credential(cluster, credential);
        let secret = self.vault.open_payload(&binding, &credential.payload)?;
        Ok(Command::ResealCredential {
            id: credential.id.clone(),
            version: credential.version,
            former_sha256: credential.payload.sha256(),
            payload: self.vault.seal_payload(&binding, &secret),
        })
    }
}
