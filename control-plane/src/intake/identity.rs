//! Who attaches: what the peer's certificate says, and what the state says of it. No header is ever read for this.

use sha2::{Digest as _, Sha256};
use tonic::Status;
use tonic::transport::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{Rooms, actor};
use crate::cluster::ProposeError;
use crate::sign;
use crate::state::{Command, State};

/// An edge as its certificate names it.
#[derive(Clone, Debug)]
pub(super) struct PeerEdge {
    pub(super) id: String,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub(super) key_sha256: [u8; 32],
}

/// Reads the certificate that the TLS handshake verified.
pub(super) fn of_peer(
    certificates: Option<&Vec<CertificateDer<'static>>>,
    cluster_id: &str,
) -> Result<PeerEdge, Status> {
    let certificate = certificates.and_then(|chain| chain.first()).ok_or_else(|| {
        Status::unauthenticated("attach with the certificate that the edge was enrolled with")
    })?;
    let unreadable =
        || Status::unauthenticated("the edge's certificate cannot be read; enroll the edge again");
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| unreadable())?;
    let names = certificate.subject_alternative_name().map_err(|_| unreadable())?;
    let names = names.map_or(&[][..], |extension| extension.value.general_names.as_slice());
    let [GeneralName::URI(uri)] = names else {
        return Err(Status::unauthenticated(
            "the certificate is not an edge's: it must have one name, a URI",
        ));
    };
    let id = uri
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.strip_prefix(cluster_id))
        .and_then(|rest| rest.strip_prefix("/edge/"))
        .filter(|id| !id.is_empty() && !id.contains('/'))
        .ok_or_else(|| {
            Status::permission_denied("the certificate is of another cluster, or not an edge's")
        })?;
    let key_sha256 = Sha256::digest(certificate.public_key().raw).into();
    Ok(PeerEdge { id: id.to_owned(), key_sha256 })
}

/// Refuses whom the state does not know as an enrolled edge with this very key.
pub(super) async fn admit(rooms: &Rooms, peer: &PeerEdge) -> Result<(), Status> {
    let refusal = rooms.cluster.read(|state| refusal(state, peer)).await;
    match refusal {
        Ok(None) => Ok(()),
        Ok(Some(why)) => {
            tracing::warn!(edge = peer.id, why, "an edge was turned away");
            Err(Status::permission_denied(why))
        }
        Err(_) => Err(Status::unavailable("the state cannot be read now; attach again")),
    }
}

/// Why this peer may not be attached, if so.
pub(super) fn refusal(state: &State, peer: &PeerEdge) -> Option<&'static str> {
    match state.edge(&peer.id) {
        None => Some("this edge is not enrolled"),
        Some(edge) if edge.evicted => Some("this edge was evicted; enroll it under another name"),
        Some(edge) if edge.key_sha256 != peer.key_sha256 => {
            Some("this edge was enrolled with another key; use the newest certificate")
        }
        Some(_) => None,
    }
}

/// A new certificate for the edge's own key, and no other: held requests are bound to it, and whoever copied a
/// certificate with its key gets no second key out of it. A new key takes a new enrolment.
pub(super) async fn renew(rooms: &Rooms, peer: &PeerEdge, csr_pem: &str) -> Result<String, Status> {
    let key_sha256 = sign::requested_key_sha256(csr_pem);
    let key_sha256 = key_sha256.map_err(|why| Status::invalid_argument(why.to_string()))?;
    if key_sha256 != peer.key_sha256 {
        return Err(Status::failed_precondition(
            "the certificate was not renewed: the request is for another key; enroll the edge again to give it one",
        ));
    }
    let first_of_its_ca =
        rooms.cluster.peek(|state| state.edges_to_renew().any(|edge| edge.id == peer.id));
    if first_of_its_ca {
        go_over(rooms, peer).await?;
    }
    // As new as what was just committed, or newer.
    let ca = rooms.cluster.peek(|state| state.edge_ca().cloned());
    let ca = ca.ok_or_else(|| Status::unavailable("the cluster has not begun"))?;
    let cluster_id = rooms.signer.cluster_id();
    let renewed = sign::issue_edge_certificate(cluster_id, &ca, &rooms.vault, csr_pem, &peer.id);
    let renewed = renewed.map_err(|why| {
        tracing::error!(edge = peer.id, %why, "an edge's certificate was not renewed");
        Status::internal("the certificate was not renewed; the node's log says why")
    })?;
    tracing::info!(edge = peer.id, ca = ca.number, "an edge's certificate was renewed");
    Ok(renewed.pem)
}

/// Commits that the edge is given a certificate of the newest CA.
async fn go_over(rooms: &Rooms, peer: &PeerEdge) -> Result<(), Status> {
    let renewing = Command::RenewEdge { id: peer.id.clone() };
    match rooms.cluster.propose(actor(&peer.id), renewing).await {
        Ok(_) => Ok(()),
        Err(ProposeError::Refused(refused)) => Err(Status::permission_denied(refused.to_string())),
        Err(ProposeError::Unavailable(_)) => {
            Err(Status::unavailable("nothing can be committed now; ask again"))
        }
    }
}
