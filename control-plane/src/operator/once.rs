//! A mutation that is asked for twice is done once, and answered the same both times.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tonic::Status;
use zeroize::Zeroizing;

use super::refuse;
use crate::access::Admitted;
use crate::cluster::Committed;
use crate::state::{Actor, Command, CommandId, Event};
use crate::vault::Vault;

/// One request of one principal: everything that it makes up is drawn from this, so that a repeat makes up the same.
pub(super) struct Once {
    client: [u8; 16],
    /// Principal, method, and the request id (or, without one, something that no other request has).
    parts: [String; 3],
}

impl Once {
    /// # Errors
    /// A request id that is not visible ASCII of at most 128 characters.
    pub(super) fn of(
        asked: &Admitted,
        method: &'static str,
        request_id: &str,
    ) -> Result<Self, Status> {
        if request_id.len() > 128 || !request_id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(refuse::field(
                "request_id",
                "use at most 128 visible ASCII characters, such as a UUID",
            ));
        }
        let request_id = match request_id {
            // A space: no request id that is given has one.
            "" => format!("once {}", hex::encode(rand::random::<[u8; 16]>())),
            given => given.to_owned(),
        };
        let parts = [asked.caller.name.clone(), method.to_owned(), request_id];
        let mut hash = Sha256::new();
        for part in &parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut client = [0; 16];
        client.copy_from_slice(&hash.finalize()[..16]);
        Ok(Self { client, parts })
    }

    /// Proposes, in the caller's name, under this request's identity.
    pub(super) async fn propose(
        &self,
        asked: &Admitted,
        command: Command,
    ) -> Result<Committed<Event>, Status> {
        let id = CommandId { client: self.client, serial: 1 };
        let actor = Actor::Principal(asked.caller.name.clone());
        let proposed = asked.house.cluster.propose_as(id, actor, command).await;
        let committed = proposed.map_err(refuse::not_proposed)?;
        // Whoever is answered goes on to use it at an edge.
        asked.house.told(&committed).await;
        Ok(committed)
    }

    /// An id for what this request makes.
    pub(super) fn id(&self, prefix: &str) -> String {
        format!("{prefix}{}", hex::encode(self.client))
    }

    /// A bearer token of this kind ("agt", "apr" …) and its SHA-256.
    pub(super) fn token(&self, vault: &Vault, kind: &str) -> (Zeroizing<String>, [u8; 32]) {
        let bytes =
            vault.derive(&format!("token/{kind}"), &self.parts.each_ref().map(String::as_str));
        let token = Zeroizing::new(format!(
            "cs_{kind}_{}",
            BASE64_URL_SAFE_NO_PAD.encode(bytes.as_slice())
        ));
        let hash = Sha256::digest(token.as_bytes()).into();
        (token, hash)
    }

    /// As much randomness as is asked for.
    pub(super) fn bytes(&self, vault: &Vault, purpose: &str) -> impl FnMut() -> u8 {
        let (mut block, mut at, mut blocks) = (Zeroizing::new([0; 32]), 32, 0_u64);
        move || {
            if at == block.len() {
                let number = blocks.to_string();
                let [principal, method, request_id] = self.parts.each_ref().map(String::as_str);
                block = vault.derive(purpose, &[principal, method, request_id, &number]);
                (at, blocks) = (0, blocks + 1);
            }
            at += 1;
            block[at - 1]
        }
    }
}

/// The request id was used for something else before: the answer would be about that.
pub(super) fn reused(name: &str) -> Status {
    refuse::field(
        "request_id",
        format!("was used for another request, about {name:?}: use a new one"),
    )
}
