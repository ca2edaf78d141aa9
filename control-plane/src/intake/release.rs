//! Claim, seal, sign: the only way in which a key leaves for a held request.

use std::time::Duration;

use countersign_gate::{SealedRef, seal_context, seal_info};
use countersign_proto::v1;

use super::announced::Caller;
use super::waiting::RequestId;
use super::{Rooms, actor};
use crate::cluster::{Committed, ProposeError};
use crate::mint::{Need, NotMinted};
use crate::request_signature::{NoSigningKey, Unsigned};
use crate::sign::{NoDecision, Place, SignError};
use crate::state::{
    Claim, Command, Credential, Event, HeldRequest, Refused, ReportedOutcome, State,
};
use crate::vault::{SealedToEdge, seal_to_edge};

/// How long a release waits for a token that is not there yet.
const TOKEN_PATIENCE: Duration = Duration::from_secs(10);

/// To which process keys are sealed.
#[derive(Clone)]
pub(super) struct Recipient {
    pub(super) caller: Caller,
    pub(super) hpke_public_key: bytes::Bytes,
}

/// What became of one request that was to be released.
pub(super) enum Releasing {
    /// Committed, sealed, and signed under the trust bundle of this epoch.
    Released { decision: Box<v1::Decision>, epoch: u64, claimed: Box<Committed<Event>> },
    /// It is to be judged again: by a newer policy, or with a newer key.
    Reopen,
    /// Not now: the state says what it is.
    Refused(Refused),
    /// It was claimed, and then could not be sealed: nothing was sent, nothing ever will be.
    Failed,
    /// It was claimed, and too few nodes signed yet: it is released again in a moment.
    Unsigned(Box<Committed<Event>>),
    /// Nothing is released while the cluster's clock is not to be believed: it waits.
    Suspended,
    /// Whether it was claimed is not known: asking again tells.
    Unknown,
    /// Its key would be a token, and none could be had: nothing was claimed.
    Unminted(NotMinted),
}

/// Claims a request, and makes the decision that the committed claim is. Claiming again what was claimed gives the same
/// decision again, sealed anew.
pub(super) async fn release(
    rooms: &Rooms,
    recipient: &Recipient,
    request_id: RequestId,
    unsigned: Option<&Unsigned>,
) -> Releasing {
    let held = rooms.cluster.peek(|state| {
        let held = state.held(&request_id)?;
        let suspended = held.claim.is_none() && state.clock_jump().is_some();
        Some((held.policy_version, stale(state, held), suspended))
    });
    match held {
        None => Releasing::Refused(Refused::NotFound("the request is not held any more".into())),
        Some((_, true, _)) => Releasing::Reopen,
        Some((_, _, true)) => Releasing::Suspended,
        Some((policy_version, false, false)) => {
            if let Err(why) = tokens_ready(rooms, &request_id).await {
                return Releasing::Unminted(why);
            }
            let command =
                Command::Claim { request_id, decision_id: rand::random(), policy_version };
            match rooms.cluster.propose(actor(&recipient.caller.edge.id), command).await {
                Ok(claimed) => decide(rooms, recipient, claimed, unsigned).await,
                Err(ProposeError::Refused(Refused::PolicyChanged)) => Releasing::Reopen,
                // Possibly in the very entry that the claim was in.
                Err(ProposeError::Refused(_))
                    if rooms.cluster.peek(|state| state.clock_jump().is_some()) =>
                {
                    Releasing::Suspended
                }
                Err(ProposeError::Refused(refused)) => Releasing::Refused(refused),
                Err(ProposeError::Unavailable(why)) => {
                    tracing::warn!(
                        request = hex::encode(request_id),
                        why,
                        "whether a request was claimed is not known"
                    );
                    Releasing::Unknown
                }
            }
        }
    }
}

/// Has the tokens minted that it would be released with. Before the claim: a claim that nothing can be sent with would
/// use the approval up.
async fn tokens_ready(rooms: &Rooms, request_id: &RequestId) -> Result<(), NotMinted> {
    let needs: Vec<Need> = rooms.cluster.peek(|state| {
        let held = state.held(request_id).into_iter();
        let keys = held.flat_map(|held| &held.credentials);
        let keys = keys.filter_map(|(id, _)| state.credential(id));
        keys.filter_map(|credential| Need::to_release(credential, request_id)).collect()
    });
    for need in &needs {
        rooms.minter.ready(need, TOKEN_PATIENCE).await?;
    }
    Ok(())
}

/// Whether a key of the plan was rotated since.
fn stale(state: &State, held: &HeldRequest) -> bool {
    held.claim.is_none()
        && held.credentials.iter().any(|(id, version)| {
            state.credential(id).is_some_and(|c| c.active && c.version != *version)
        })
}

/// Seals and has signed what was claimed: the first time, or again.
pub(super) async fn decide(
    rooms: &Rooms,
    recipient: &Recipient,
    claimed: Committed<Event>,
    unsigned: Option<&Unsigned>,
) -> Releasing {
    let Event::Claimed { request_id, claim, .. } = &*claimed else { return Releasing::Unknown };
    let request = hex::encode(request_id);
    let why = match sealed_and_signed(rooms, recipient, &claimed, claim, unsigned).await {
        Ok((epoch, decision)) => {
            let (decision, claimed) = (Box::new(decision), Box::new(claimed));
            return Releasing::Released { decision, epoch, claimed };
        }
        Err(why) => why,
    };
    match why {
        SignError::Quorum { .. } | SignError::Unavailable => {
            tracing::warn!(request, %why, "a claimed request was not signed yet");
            Releasing::Unsigned(Box::new(claimed))
        }
        SignError::NoDecision(why)
            if !matches!(why, NoDecision::Mismatch | NoDecision::OtherKeys) =>
        {
            tracing::warn!(request, %why, "a claimed request was not released");
            Releasing::Refused(Refused::Expired(format!("nothing was released: {why}")))
        }
        why => {
            tracing::error!(request, %why, "a claimed request could not be released");
            let report = Command::Report {
                request_id: *request_id,
                outcome: ReportedOutcome::NotSent,
                status: 0,
            };
            if let Err(why) = rooms.cluster.propose(actor(&recipient.caller.edge.id), report).await
            {
                tracing::error!(request, %why, "and that was perhaps not reported");
            }
            Releasing::Failed
        }
    }
}

async fn sealed_and_signed(
    rooms: &Rooms,
    recipient: &Recipient,
    claimed: &Committed<Event>,
    claim: &Claim,
    unsigned: Option<&Unsigned>,
) -> Result<(u64, v1::Decision), SignError> {
    let found = rooms.cluster.peek(|state| {
        let held = state.held(&claim.request_id)?;
        let credential = |(id, _): &(String, u64)| state.credential(id).cloned();
        let credentials: Option<Vec<Credential>> =
            held.credentials.iter().map(credential).collect();
        Some((held.clone(), credentials?))
    });
    let (held, credentials) = found.ok_or(NoDecision::NotClaimed)?;
    // Of the very request that was claimed: it may have been announced anew since, under another policy.
    let unsigned = unsigned.filter(|unsigned| *unsigned.request_digest() == held.request_digest);
    let (mut sealed_refs, mut sealed_credentials) = (Vec::new(), Vec::new());
    for credential in &credentials {
        let Credential { id, version, .. } = credential;
        let context = seal_context(&held.request_digest, &claim.decision_id, id, *version);
        let sealed = seal(rooms, recipient, credential, Some((&held, unsigned)), &context)?;
        sealed_refs.push(SealedRef {
            credential: id.clone(),
            version: *version,
            sha256: sealed.sha256(),
        });
        sealed_credentials.push(to_proto(credential, sealed));
    }
    let (epoch, envelope) = rooms.signer.decision(claimed, sealed_refs).await?;
    let request_id = bytes::Bytes::copy_from_slice(&claim.request_id);
    Ok((epoch, v1::Decision { request_id, envelope: Some(envelope), sealed_credentials }))
}

/// Opens a credential's key under its own record, or the token that is handed out in its place, and seals it to the
/// process that it goes to, in one breath. Of a key that signs, what is sealed is the signature of this request, made now.
/// `release`: the request that it is released for, and its bytes if they are here; none if the key is lent.
pub(super) fn seal(
    rooms: &Rooms,
    recipient: &Recipient,
    credential: &Credential,
    release: Option<(&HeldRequest, Option<&Unsigned>)>,
    context: &[u8],
) -> Result<SealedToEdge, SignError> {
    let Caller { cluster, edge, incarnation, .. } = &recipient.caller;
    let place = Place::of(credential)
        .ok_or(SignError::UnsignedRequest("the slot of its key is not known here"))?;
    let mut given = rooms.minter.key(cluster, credential, release.map(|(held, _)| held))?;
    if place.signs() {
        let unsigned = release
            .and_then(|(_, unsigned)| unsigned)
            .ok_or(SignError::UnsignedRequest("it is not here, or not as it was claimed"))?;
        given = unsigned.sign(&given, rooms.cluster.log_time()).map_err(|NoSigningKey| {
            SignError::UnsignedRequest("its key does not sign: rotate the credential")
        })?;
    }
    let info = seal_info(cluster, &edge.id, incarnation);
    Ok(seal_to_edge(&recipient.hpke_public_key, &info, context, &given)?)
}

pub(super) fn to_proto(credential: &Credential, sealed: SealedToEdge) -> v1::SealedCredential {
    v1::SealedCredential {
        credential_id: credential.id.clone(),
        version: credential.version,
        encapsulated_key: sealed.encapsulated_key.into(),
        ciphertext: sealed.ciphertext.into(),
    }
}
