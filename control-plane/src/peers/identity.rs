//! Which node calls: what the certificate of its connection says. No header and no field is read for this.

use tonic::transport::CertificateDer;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Request, Status};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// A node that something other than TLS has proven to be at the other end. Nothing that arrives from outside can put
/// it into a request.
#[derive(Clone, Copy, Debug)]
pub struct PeerId(pub u64);

/// The node's name in its certificate: for servers and clients to be told from other nodes by.
pub(super) fn dns_name(node: u64) -> String {
    format!("{node:016x}.node.countersign")
}

/// The node at the other end of the connection that the request came by.
pub(super) fn of_peer<T>(request: &Request<T>, cluster_id: &str) -> Result<u64, Status> {
    if let Some(PeerId(node)) = request.extensions().get() {
        return Ok(*node);
    }
    let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let chain = connection.and_then(TlsConnectInfo::peer_certs);
    let certificate = chain.as_ref().and_then(|chain| chain.first()).ok_or_else(|| {
        Status::unauthenticated(
            "only nodes of this cluster are answered here: show a node's certificate",
        )
    })?;
    of_certificate(certificate, cluster_id)
}

/// An empty `cluster_id` stands for any: the CA alone says then that it is this cluster's.
fn of_certificate(certificate: &CertificateDer<'_>, cluster_id: &str) -> Result<u64, Status> {
    let unreadable = || Status::unauthenticated("the node's certificate cannot be read");
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| unreadable())?;
    let names = certificate.subject_alternative_name().map_err(|_| unreadable())?;
    let names = names.map_or(&[][..], |extension| extension.value.general_names.as_slice());
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(Status::unauthenticated(
            "the certificate is not a node's: it must have one URI",
        ));
    };
    named(uri, cluster_id).ok_or_else(|| {
        Status::permission_denied("the certificate is of another cluster, or not a node's")
    })
}

/// `spiffe://CLUSTER/node/ID`, the id in exactly 16 lower-case hexadecimal digits.
fn named(uri: &str, cluster_id: &str) -> Option<u64> {
    let (cluster, id) = uri.strip_prefix("spiffe://")?.split_once("/node/")?;
    if cluster.is_empty() || !(cluster_id.is_empty() || cluster == cluster_id) {
        return None;
    }
    let node = u64::from_str_radix(id, 16).ok()?;
    (id == format!("{node:016x}")).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn only_the_one_spelling_of_a_name_is_a_node() {
        assert_eq!(named("spiffe://acme/node/00000000000000ff", "acme"), Some(255));
        assert_eq!(named("spiffe://acme/node/00000000000000ff", ""), Some(255));
        for other in [
            "spiffe://acme/edge/00000000000000ff",
            "spiffe://other/node/00000000000000ff",
            "spiffe://acme/node/ff",
            "spiffe://acme/node/00000000000000FF",
            "spiffe://acme/node/+0000000000000ff",
            "spiffe://acme/node/00000000000000ff/",
            "spiffe:///node/00000000000000ff",
            "https://acme/node/00000000000000ff",
        ] {
            assert_eq!(named(other, "acme"), None, "{other}");
        }
    }
}
