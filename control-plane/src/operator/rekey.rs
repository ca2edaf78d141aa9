//! Another seal for the vault, in three steps: the old one is presented, the new one is made, the new one is presented
//! back. Until then nothing has changed. The steps are taken on one node; whoever seals that one cancels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_proto::v1;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tonic::Status;
use zeroize::Zeroizing;

use super::once::Once;
use super::refuse;
use super::seal::{new_seal, note, numbers, refused, share_of, shares_to_proto, text_of};
use crate::access::Admitted;
use crate::cluster::{Clock as _, SystemClock};
use crate::node::Node;
use crate::state::{Actor, Command, Millis};
use crate::vault::{NewSeal, Progress, Rekey, Share, ShareError, UnsealProgress, Unsealing};

/// A change of the seal that is under way. It has no `Debug`.
pub(crate) struct Rekeying {
    id: String,
    since: Instant,
    stage: Stage,
}

enum Stage {
    /// Whoever keeps the seal in force has to open it.
    Authorizing { to: NewSeal, needed: u32, progress: Option<UnsealProgress> },
    /// Whoever keeps the new one has to open that.
    Verifying { rekey: Arc<Rekey>, progress: Option<UnsealProgress> },
}

/// What somebody presents. It has no `Debug`.
struct Presented {
    passphrase: Zeroizing<String>,
    share: Option<Result<Share, ShareError>>,
}

/// What became of it.
enum Gathered {
    Enough(Unsealing, Progress),
    More(Progress),
}

/// Then another one may take its place.
const LONGEST: Duration = Duration::from_secs(60 * 60);

pub(super) async fn start(
    node: &Node,
    asked: &Admitted,
    request: v1::StartRekeyRequest,
) -> Result<v1::StartRekeyResponse, Status> {
    let id = Once::of(asked, "StartRekey", &request.request_id)?.id("rky_");
    if request.to.is_none() {
        return Err(refuse::field("to", "say how the vault is to be sealed from then on"));
    }
    let to = new_seal(node, request.to)?;
    let mut rekeying = asked.house.rekeying.lock().await;
    if let Some(there) = rekeying.as_ref().filter(|there| there.since.elapsed() < LONGEST) {
        return match &there.stage {
            Stage::Authorizing { needed, .. } if there.id == id => {
                Ok(v1::StartRekeyResponse { rekey_id: id, needed: *needed })
            }
            _ => Err(refuse::precondition(
                "REKEY_UNDER_WAY",
                "seal",
                format!(
                    "no rekey was begun: {} is under way on this node; go on with it, or cancel it",
                    there.id
                ),
            )),
        };
    }
    let set = node.seal_parameters().map_err(refused)?.shares;
    let needed = set.as_ref().map_or(1, |set| set.threshold().into());
    let progress = set.map(UnsealProgress::new).transpose().map_err(refused)?;
    note(asked, "seal.rekey_start", &id, Vec::new()).await?;
    let stage = Stage::Authorizing { to, needed, progress };
    *rekeying = Some(Rekeying { id: id.clone(), since: Instant::now(), stage });
    Ok(v1::StartRekeyResponse { rekey_id: id, needed })
}

pub(super) async fn authorize(
    node: &Node,
    asked: &Admitted,
    request: v1::AuthorizeRekeyRequest,
) -> Result<v1::AuthorizeRekeyResponse, Status> {
    let presented = Presented::read(node, request.passphrase, request.share)?;
    let mut rekeying = asked.house.rekeying.lock().await;
    let there = found(&mut rekeying, &request.rekey_id)?;
    let (needed, progress) = match &mut there.stage {
        // Whoever missed the answer gets it again: the shares are encrypted to their keepers.
        Stage::Verifying { rekey, .. } => return Ok(authorized(rekey, Vec::new())),
        Stage::Authorizing { needed, progress, .. } => (*needed, progress),
    };
    let provider = node.seal_parameters().map_err(refused)?.provider;
    let (unsealing, given) = match gather(node, provider, progress.as_mut(), presented)? {
        Gathered::Enough(unsealing, given) => (unsealing, given),
        Gathered::More(given) => {
            let given = numbers(&given);
            note(asked, "seal.rekey_share", &request.rekey_id, shares_given(&given)).await?;
            let shares = Vec::new();
            return Ok(v1::AuthorizeRekeyResponse { needed, given, shares, authorized: false });
        }
    };
    let vault = asked.house.vault.clone();
    let authority = spawn_blocking(move || vault.authority(&unsealing)).await;
    let authority = authority.map_err(|e| refuse::internal(&e))?.map_err(refused)?;
    note(asked, "seal.rekey_authorize", &request.rekey_id, shares_given(&numbers(&given))).await?;
    // From here on it goes on or is over: the new seal is made once.
    let Some(Rekeying { id, since, stage: Stage::Authorizing { to, .. } }) = rekeying.take() else {
        return Err(refuse::internal(&"a rekey that changed while it was held"));
    };
    let vault = asked.house.vault.clone();
    let rekey = spawn_blocking(move || Rekey::start(&vault, authority, to)).await;
    let rekey = Arc::new(rekey.map_err(|e| refuse::internal(&e))?.map_err(refused)?);
    let set = rekey.share_set().cloned();
    let progress = set.map(UnsealProgress::new).transpose().map_err(refused)?;
    let answer = authorized(&rekey, numbers(&given));
    *rekeying = Some(Rekeying { id, since, stage: Stage::Verifying { rekey, progress } });
    Ok(answer)
}

pub(super) async fn verify(
    node: &Node,
    asked: &Admitted,
    request: v1::VerifyRekeyRequest,
) -> Result<v1::VerifyRekeyResponse, Status> {
    let presented = Presented::read(node, request.passphrase, request.share)?;
    let mut rekeying = asked.house.rekeying.lock().await;
    let there = found(&mut rekeying, &request.rekey_id)?;
    let Stage::Verifying { rekey, progress } = &mut there.stage else {
        return Err(refuse::precondition(
            "NOT_AUTHORIZED",
            "seal",
            "nothing was verified: the seal in force was not opened yet; authorize the rekey first",
        ));
    };
    let needed = rekey.share_set().map_or(1, |set| set.threshold().into());
    let (back, given) = match gather(node, rekey.provider(), progress.as_mut(), presented)? {
        Gathered::Enough(back, given) => (back, numbers(&given)),
        Gathered::More(given) => {
            let given = numbers(&given);
            note(asked, "seal.rekey_share_back", &request.rekey_id, shares_given(&given)).await?;
            return Ok(v1::VerifyRekeyResponse { needed, given, complete: false });
        }
    };
    let (rekey, vault) = (rekey.clone(), asked.house.vault.clone());
    let made = spawn_blocking(move || {
        let former: [u8; 32] = Sha256::digest(vault.seal_file()).into();
        rekey.verify(&vault, &back)?.finish(&vault).map(|file| (file, former))
    });
    let (seal_file, former_sha256) =
        made.await.map_err(|e| refuse::internal(&e))?.map_err(refused)?;
    let command = Command::SetSeal { seal_file, former_sha256, what: "rekey".into() };
    let actor = Actor::Principal(asked.caller.name.clone());
    asked.house.cluster.propose(actor, command).await.map_err(refuse::not_proposed)?;
    *rekeying = None;
    Ok(v1::VerifyRekeyResponse { needed, given, complete: true })
}

pub(super) async fn cancel(
    asked: &Admitted,
    request: v1::CancelRekeyRequest,
) -> Result<v1::CancelRekeyResponse, Status> {
    let mut rekeying = asked.house.rekeying.lock().await;
    found(&mut rekeying, &request.rekey_id)?;
    note(asked, "seal.rekey_cancel", &request.rekey_id, Vec::new()).await?;
    *rekeying = None;
    Ok(v1::CancelRekeyResponse {})
}

fn found<'a>(rekeying: &'a mut Option<Rekeying>, id: &str) -> Result<&'a mut Rekeying, Status> {
    rekeying.as_mut().filter(|there| there.id == id).ok_or_else(|| {
        refuse::not_found(
            "there is no such rekey on this node: it is over, was cancelled, or was begun on another node; begin again",
        )
    })
}

fn authorized(rekey: &Rekey, given: Vec<u32>) -> v1::AuthorizeRekeyResponse {
    let shares = shares_to_proto(rekey.shares());
    v1::AuthorizeRekeyResponse { needed: 0, given, shares, authorized: true }
}

fn gather(
    node: &Node,
    provider: &str,
    progress: Option<&mut UnsealProgress>,
    presented: Presented,
) -> Result<Gathered, Status> {
    let alone = || Progress { threshold: 0, have: 0, ids: Vec::new() };
    if let Some(unsealing) = node.unattended(provider).map_err(refused)? {
        return Ok(Gathered::Enough(unsealing, alone()));
    }
    let Some(progress) = progress else {
        return Ok(Gathered::Enough(Unsealing::Passphrase(presented.passphrase), alone()));
    };
    let now = since_boot();
    let given = match presented.share {
        Some(share) => progress.submit(share.map_err(refused)?, now).map_err(refused)?,
        None => progress.standing(now),
    };
    Ok(match progress.take(now) {
        Some(unsealing) => Gathered::Enough(unsealing, given),
        None => Gathered::More(given),
    })
}

impl Presented {
    fn read(node: &Node, passphrase: bytes::Bytes, share: bytes::Bytes) -> Result<Self, Status> {
        let passphrase = text_of("passphrase", passphrase)?;
        let share = share_of(share)?;
        node.unsealing.take().map_err(|wait| refuse::too_many("nothing was opened", wait))?;
        Ok(Self { passphrase, share })
    }
}

fn shares_given(ids: &[u32]) -> Vec<(String, String)> {
    let ids = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    vec![("shares".to_owned(), ids)]
}

fn since_boot() -> Millis {
    u64::try_from(SystemClock.since_boot().as_millis()).unwrap_or(u64::MAX)
}
