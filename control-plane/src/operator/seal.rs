//! Sealed and unsealed: the only methods that answer while nothing can be read; and the keyring's next term.

use std::str::FromStr as _;
use std::sync::Arc;

use bytes::Bytes;
use countersign_proto::v1;
use countersign_proto::v1::seal_parameters::Provider;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};
use zeroize::{Zeroize as _, Zeroizing};

use super::once::Once;
use super::page::timestamp;
use super::refuse;
use crate::access::Admitted;
use crate::cluster::{Clock as _, SystemClock};
use crate::node::{Node, Presented, Tried, UnsealError};
use crate::state::{Actor, Command};
use crate::vault::{
    EncryptedShare, NewSeal, Progress, Recipient, SealError, Share, ShareError, Vault,
};

pub(super) fn status(node: &Node) -> Result<v1::GetSealStatusResponse, Status> {
    let house = node.unsealed();
    let term = house.as_ref().map(|house| house.vault.keyring_term());
    let there = node.seal_parameters().ok();
    let set = there.as_ref().and_then(|there| there.shares.as_ref());
    let given = node.shares_given().map_err(refused)?;
    Ok(v1::GetSealStatusResponse {
        sealed: house.is_none(),
        provider: node.provider_name().into(),
        shares: set.map_or(0, |set| set.shares().into()),
        threshold: set.map_or(0, |set| set.threshold().into()),
        given: numbers(&given),
        initialized: there.is_some(),
        keyring_term: term.as_ref().map_or(0, |term| term.term),
        keyring_created_at: term.and_then(|term| timestamp(term.created_at)),
        under_older_terms: house.as_ref().map_or(0, |house| house.under_older_terms() as u32),
    })
}

/// Opens the vault and starts the cluster. The passphrase or the shares are what authenticates: where neither is
/// needed (a key file, a token) it takes the token of somebody who was an administrator when the node was sealed.
pub(super) async fn unseal(
    node: &Arc<Node>,
    token_sha256: Option<[u8; 32]>,
    request: v1::UnsealRequest,
) -> Result<v1::UnsealResponse, Status> {
    node.unsealing.take().map_err(|wait| {
        node.attempts.count("seal.unseal_throttled");
        refuse::too_many("nothing was unsealed", wait)
    })?;
    let unread = |status: &Status| node.attempts.note("seal.unseal_refused", status.message());
    let passphrase = text_of("passphrase", request.passphrase).inspect_err(unread)?;
    let share = share_of(request.share).inspect_err(unread)?;
    let presented = Presented { passphrase, share, reset: request.reset, token_sha256 };
    // A task of its own: a caller that goes away leaves nothing half open.
    let opening = node.clone();
    let tried = tokio::spawn(async move { opening.unseal(presented).await });
    let progress = match tried.await.map_err(|e| refuse::internal(&e))?.map_err(not_unsealed)? {
        Tried::Unsealed => Progress { threshold: 0, have: 0, ids: Vec::new() },
        Tried::Waiting(progress) => progress,
    };
    Ok(v1::UnsealResponse {
        sealed: node.unsealed().is_none(),
        threshold: progress.threshold.into(),
        given: numbers(&progress),
    })
}

/// Records who sealed it, then stops the cluster and forgets every key.
pub(super) async fn seal(node: &Arc<Node>, asked: Admitted) -> Result<v1::SealResponse, Status> {
    let noted = note(&asked, "seal.seal", node.name(), Vec::new()).await;
    noted.inspect_err(|status| node.attempts.note("seal.seal_refused", status.message()))?;
    drop(asked);
    let sealing = node.clone();
    tokio::spawn(async move { sealing.seal().await }).await.map_err(|e| refuse::internal(&e))?;
    tracing::info!("the node was sealed");
    Ok(v1::SealResponse { sealed: true })
}

/// What is stored from now on is sealed under a new key; credentials that are there follow, one after the other.
pub(super) async fn rotate_keyring(
    asked: &Admitted,
    request: v1::RotateKeyringRequest,
) -> Result<v1::RotateKeyringResponse, Status> {
    let once = Once::of(asked, "RotateKeyring", &request.request_id)?;
    once.propose(asked, rotation(&asked.house.vault)).await?;
    Ok(v1::RotateKeyringResponse { keyring_term: asked.house.vault.keyring_term().term })
}

/// The command that puts the next term of the keyring in force.
pub(crate) fn rotation(vault: &Vault) -> Command {
    let former_sha256 = Sha256::digest(vault.seal_file()).into();
    let seal_file = vault.rotate(SystemClock.wall());
    Command::SetSeal { seal_file, former_sha256, what: "rotate".into() }
}

/// Has the audit log say it, in the caller's name.
pub(super) async fn note(
    asked: &Admitted,
    action: &str,
    subject: &str,
    details: Vec<(String, String)>,
) -> Result<(), Status> {
    let actor = Actor::Principal(asked.caller.name.clone());
    let note = Command::Note { action: action.into(), subject: subject.into(), details };
    asked.house.cluster.propose(actor, note).await.map_err(refuse::not_proposed)?;
    Ok(())
}

/// Has the audit log say that something was tried and refused, later if it cannot now; gives what became of it.
pub(super) async fn recorded<T>(
    node: &Node,
    asked: &Admitted,
    action: &str,
    done: Result<T, Status>,
) -> Result<T, Status> {
    if let Err(status) = &done {
        let why: String = status.message().chars().take(500).collect();
        let (action, details) =
            (format!("{action}_refused"), vec![("why".to_owned(), why.clone())]);
        if let Err(unrecorded) = note(asked, &action, "seal", details).await {
            tracing::warn!(action, %unrecorded, "a refusal is recorded later");
            node.attempts.note(&action, format!("{}: {why}", asked.caller.name));
        }
    }
    done
}

/// How a vault is to be sealed. Which file and which token this node uses, its configuration says and nobody else.
pub(super) fn new_seal(
    node: &Node,
    asked_for: Option<v1::SealParameters>,
) -> Result<NewSeal, Status> {
    let wrong = |what: &str| refuse::field("seal", what);
    match asked_for.and_then(|seal| seal.provider) {
        Some(Provider::Shamir(shamir)) => {
            let threshold = u8::try_from(shamir.threshold).unwrap_or(u8::MAX);
            let recipients = shamir.recipients.iter().map(|text| Recipient::from_str(text));
            let recipients = recipients.collect::<Result<_, _>>();
            let recipients = recipients.map_err(|e: ShareError| wrong(&e.to_string()))?;
            Ok(NewSeal::Shares { threshold, recipients })
        }
        Some(Provider::Passphrase(given)) => {
            let text = text_of("seal.passphrase", given.passphrase)?;
            if text.is_empty() {
                return Err(wrong(&SealError::EmptyPassphrase.to_string()));
            }
            Ok(NewSeal::Passphrase(text))
        }
        Some(Provider::KeyFile(_) | Provider::Pkcs11(_)) | None => {
            let configured = node.configured_seal().map_err(refused)?;
            configured.ok_or_else(|| {
                wrong("say how the vault is to be sealed (shamir, passphrase); a key file and a token are taken from [seal] of this node's configuration, and it names neither")
            })
        }
    }
}

pub(super) fn shares_to_proto(shares: &[EncryptedShare]) -> Vec<v1::EncryptedShare> {
    let to_proto = |share: &EncryptedShare| v1::EncryptedShare {
        id: share.id.into(),
        recipient: share.recipient.clone(),
        encrypted: share.encrypted.clone(),
    };
    shares.iter().map(to_proto).collect()
}

pub(super) fn numbers(progress: &Progress) -> Vec<u32> {
    progress.ids.iter().copied().map(u32::from).collect()
}

/// The text in a message, whose own bytes are overwritten.
pub(super) fn text_of(field: &str, given: Bytes) -> Result<Zeroizing<String>, Status> {
    let text = std::str::from_utf8(&given).map(|text| Zeroizing::new(text.to_owned()));
    if let Ok(mut carrier) = given.try_into_mut() {
        carrier.as_mut().zeroize();
    }
    text.map_err(|_| refuse::field(field, "is not UTF-8 text"))
}

/// The share in a message, if there is one; one that cannot be read counts as an attempt.
pub(super) fn share_of(given: Bytes) -> Result<Option<Result<Share, ShareError>>, Status> {
    let text = text_of("share", given)?;
    Ok((!text.trim().is_empty()).then(|| Share::from_str(&text)))
}

/// What the vault said no to.
pub(super) fn refused(error: impl Into<SealError>) -> Status {
    let error = error.into();
    let message = error.to_string();
    match error {
        SealError::EmptyPassphrase | SealError::WrongPassphrase => refuse::because(
            Code::PermissionDenied,
            "WRONG_PASSPHRASE",
            "wrong passphrase: nothing was unsealed; try again",
        ),
        SealError::Share(ShareError::Forged(_) | ShareError::DoNotFit(_)) => {
            refuse::because(Code::PermissionDenied, "WRONG_SHARE", message)
        }
        SealError::Share(ShareError::TooFew { .. }) => {
            refuse::precondition("MORE_SHARES", "vault", message)
        }
        SealError::Share(_) => refuse::field("share", message),
        _ => refuse::precondition("NOT_OPENED", "vault", message),
    }
}

pub(super) fn not_unsealed(error: UnsealError) -> Status {
    match error {
        UnsealError::AdminNeeded => refuse::because(
            Code::Unauthenticated,
            "TOKEN_NEEDED",
            "nothing was unsealed: this node opens itself, so it takes the token of an administrator; send it, or restart the node",
        ),
        UnsealError::NotBegun => refuse::precondition(
            "NOT_BEGUN",
            "vault",
            "nothing was unsealed: there is no vault yet; `countersign cluster init` makes one",
        ),
        UnsealError::Seal(error) => refused(error),
        UnsealError::Start(error) => {
            let message = format!("{error:#}");
            tracing::error!(error = %message, "the node was not unsealed");
            refuse::precondition("NOT_STARTED", "node", message)
        }
    }
}
