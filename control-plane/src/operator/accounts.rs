//! Chat accounts: a code for the one that is to speak for the caller, and the way back.

use countersign_proto::v1;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::approvers::{changed, or_caller};
use super::once::{Once, reused};
use super::page::timestamp;
use super::refuse;
use crate::access::Admitted;
use crate::state::{Account, Command, Event};

/// Crockford's Base32: no letter that is taken for another. Forty bits, ten minutes, five tries.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LETTERS: usize = 8;

pub(super) async fn start_link(
    asked: &Admitted,
    request: v1::StartAccountLinkRequest,
) -> Result<v1::StartAccountLinkResponse, Status> {
    let once = Once::of(asked, "StartAccountLink", &request.request_id)?;
    let mut byte = once.bytes(&asked.house.vault, "account-code");
    let letters = (0..LETTERS).map(|_| char::from(ALPHABET[usize::from(byte() % 32)]));
    let code: String = letters.collect();
    let code_sha256 = Sha256::digest(&code).into();
    let command = Command::OfferLink { platform: request.platform, code_sha256 };
    match &*once.propose(asked, command).await? {
        Event::LinkOffered { expires_at, .. } => {
            Ok(v1::StartAccountLinkResponse { code, expires_at: timestamp(*expires_at) })
        }
        _ => Err(reused("a link")),
    }
}

pub(super) async fn unlink(
    asked: &Admitted,
    request: v1::UnlinkAccountRequest,
) -> Result<v1::UnlinkAccountResponse, Status> {
    let once = Once::of(asked, "UnlinkAccount", &request.request_id)?;
    let name = or_caller(asked, request.name);
    let account = request.account.ok_or_else(|| refuse::field("account", "is missing"))?;
    let command =
        Command::UnlinkAccount { principal: name.clone(), account: account_from_proto(account) };
    let (approver, _) = changed(asked, &once, command, &name).await?;
    Ok(v1::UnlinkAccountResponse { approver })
}

pub(super) fn account_from_proto(account: v1::Account) -> Account {
    let v1::Account { platform, tenant, user } = account;
    Account { platform, tenant, user }
}

pub(super) fn account_to_proto(account: &Account) -> v1::Account {
    let Account { platform, tenant, user } = account.clone();
    v1::Account { platform, tenant, user }
}
