//! Sealed and unsealed: the only methods that answer while nothing can be read.

use std::sync::Arc;

use bytes::Bytes;
use countersign_proto::v1;
use tonic::{Code, Status};
use zeroize::{Zeroize as _, Zeroizing};

use super::refuse;
use crate::access::Admitted;
use crate::node::{Node, UnsealError};
use crate::state::{Actor, Command};
use crate::vault::SealError;

pub(super) fn status(node: &Node) -> Result<v1::GetSealStatusResponse, Status> {
    Ok(v1::GetSealStatusResponse {
        sealed: node.unsealed().is_none(),
        provider: node.provider_name().into(),
        ..Default::default()
    })
}

/// Opens the vault and starts the cluster. The passphrase is what authenticates: without one (a key file) it takes
/// the token of somebody who was an administrator when the node was sealed.
pub(super) async fn unseal(
    node: &Arc<Node>,
    token_sha256: Option<[u8; 32]>,
    request: v1::UnsealRequest,
) -> Result<v1::UnsealResponse, Status> {
    let passphrase = text_of(request.passphrase)?;
    node.unsealing.take().map_err(|wait| refuse::too_many("nothing was unsealed", wait))?;
    // A task of its own: a caller that goes away leaves nothing half open.
    let opening = node.clone();
    let opened = tokio::spawn(async move { opening.unseal(passphrase, token_sha256).await });
    opened.await.map_err(|e| refuse::internal(&e))?.map_err(not_unsealed)?;
    Ok(v1::UnsealResponse { sealed: node.unsealed().is_none(), ..Default::default() })
}

/// Records who sealed it, then stops the cluster and forgets every key.
pub(super) async fn seal(node: &Arc<Node>, asked: Admitted) -> Result<v1::SealResponse, Status> {
    let actor = Actor::Principal(asked.caller.name.clone());
    let note =
        Command::Note { action: "seal.seal".into(), subject: "node".into(), details: Vec::new() };
    asked.house.cluster.propose(actor, note).await.map_err(refuse::not_proposed)?;
    drop(asked);
    let sealing = node.clone();
    tokio::spawn(async move { sealing.seal().await }).await.map_err(|e| refuse::internal(&e))?;
    tracing::info!("the node was sealed");
    Ok(v1::SealResponse { sealed: true })
}

fn text_of(given: Bytes) -> Result<Zeroizing<String>, Status> {
    let text = std::str::from_utf8(&given).map(|text| Zeroizing::new(text.to_owned()));
    if let Ok(mut carrier) = given.try_into_mut() {
        carrier.as_mut().zeroize();
    }
    text.map_err(|_| refuse::field("passphrase", "is not UTF-8 text"))
}

fn not_unsealed(error: UnsealError) -> Status {
    match error {
        UnsealError::AdminNeeded => refuse::because(
            Code::Unauthenticated,
            "TOKEN_NEEDED",
            "nothing was unsealed: a key file opens this node, so it takes the token of an administrator; send it, or restart the node",
        ),
        UnsealError::Seal(SealError::EmptyPassphrase | SealError::WrongPassphrase) => {
            refuse::because(
                Code::PermissionDenied,
                "WRONG_PASSPHRASE",
                "wrong passphrase: nothing was unsealed; try again",
            )
        }
        UnsealError::Seal(error) => {
            refuse::precondition("NOT_UNSEALED", "vault", error.to_string())
        }
        UnsealError::Start(error) => {
            let message = format!("{error:#}");
            tracing::error!(error = %message, "the node was not unsealed");
            refuse::precondition("NOT_STARTED", "node", message)
        }
    }
}
