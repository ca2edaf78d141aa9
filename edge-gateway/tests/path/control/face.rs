//! What a node hears and answers at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use countersign_gate as gate;
use countersign_proto::v1 as pb;
use countersign_proto::v1::attach_request::Message as Said;
use countersign_proto::v1::attach_response::Message as Say;
use countersign_proto::v1::gateway_service_server::GatewayService;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::digests::check_digests;
use super::{Inner, Open, Session};

/// One node, as edges see it.
pub(super) struct Face {
    pub(super) inner: Arc<Inner>,
    pub(super) node: usize,
}

#[tonic::async_trait]
impl GatewayService for Face {
    type AttachStream = ReceiverStream<Result<pb::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let certificates = request.peer_certs().expect("mTLS");
        let (_, certificate) = X509Certificate::from_der(&certificates[0]).expect("a certificate");
        *self.inner.edge_key.lock().expect("no panic") =
            Sha256::digest(certificate.public_key().raw).into();
        *self.inner.edge_certificate.lock().expect("no panic") = certificates[0].to_vec();
        let refusal = self.inner.refusals.lock().expect("no panic")[self.node].clone();
        if let Some(status) = refusal {
            return Err(status);
        }
        let mut incoming = request.into_inner();
        let (say, outgoing) = mpsc::channel(1024);
        let (inner, node) = (Arc::clone(&self.inner), self.node);
        tokio::spawn(async move {
            let Ok(Some(pb::AttachRequest { sequence, message: Some(Said::Hello(hello)), .. })) =
                incoming.message().await
            else {
                return;
            };
            let heard = Arc::new(Mutex::new(sequence));
            let session = Session {
                say,
                node,
                hello: hello.clone(),
                sequence: Arc::default(),
                heard: Arc::clone(&heard),
            };
            *inner.session.lock().expect("no panic") = Some(session.clone());
            if *inner.evicts.lock().expect("no panic") {
                inner.say(Say::Evicted(pb::Evicted { reason: "by the test".into() })).await;
                inner.session.lock().expect("no panic").take();
                inner.hellos.sender.send(hello).await.expect("heard");
                return;
            }
            inner.say(Say::HelloAck(inner.hello_ack())).await;
            let state = inner.state.lock().expect("no panic").clone();
            if *inner.sends_bundles.lock().expect("no panic") {
                inner.say(Say::Bundle(inner.bundle(&state))).await;
            }
            inner.hellos.sender.send(hello).await.expect("heard");
            // The session in `inner` is what keeps the stream open: whoever takes it out hangs up.
            let Session { say, .. } = session;
            let gone = say.downgrade();
            drop(say);
            let mut parts = HashMap::new();
            while let Ok(Some(request)) = incoming.message().await {
                if gone.upgrade().is_none() {
                    break;
                }
                *heard.lock().expect("no panic") = request.sequence;
                if let Some(said) = request.message {
                    inner.hear(said, &mut parts).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        let csr_pem = request.into_inner().csr_pem;
        let renewal = self.inner.renewal.lock().expect("no panic").take();
        let certificate_pem = match renewal {
            Some(answer) => answer(&self.inner.authority, &csr_pem),
            None => self.inner.authority.sign(&csr_pem),
        };
        self.inner.renewals.sender.send(csr_pem).await.expect("heard");
        Ok(Response::new(pb::RenewCertificateResponse { certificate_pem }))
    }
}

impl Inner {
    fn version(&self, credential_id: &str) -> u64 {
        let state = self.state.lock().expect("no panic");
        let credential = state.credentials.iter().find(|c| c.credential_id == credential_id);
        credential.expect("a credential of the test").version
    }

    async fn hear(&self, said: Said, parts: &mut HashMap<Bytes, Open>) {
        match said {
            Said::Hello(_) => {}
            Said::Pong(pong) => self.pongs.sender.send(pong).await.expect("heard"),
            Said::OpenHead(head) => {
                let open = Open { head, body: Vec::new() };
                match open.head.body_bytes {
                    0 => self.whole(open).await,
                    _ => drop(parts.insert(open.head.request_id.clone(), open)),
                }
            }
            Said::OpenBody(piece) => {
                let open = parts.get_mut(&piece.request_id).expect("a head first");
                assert_eq!(piece.offset as usize, open.body.len());
                open.body.extend_from_slice(&piece.data);
                if piece.last {
                    let open = parts.remove(&piece.request_id).expect("it was there");
                    self.whole(open).await;
                }
            }
            Said::HeldCancelled(cancelled) => {
                self.cancelled.sender.send(cancelled).await.expect("heard")
            }
            Said::ExecutionReceipt(receipt) => {
                self.receipts.sender.send(receipt).await.expect("heard")
            }
            Said::AskApprovals(asked) => self.asks.sender.send(asked).await.expect("heard"),
            Said::Alarm(alarm) => self.alarms.sender.send(alarm).await.expect("heard"),
            Said::LeaseRequest(request) => {
                let id = request.credential_id.clone();
                self.leases.sender.send(request).await.expect("heard");
                if *self.ignore_leases.lock().expect("no panic") {
                    return;
                }
                if *self.grant_leases.lock().expect("no panic") {
                    let version = self.version(&id);
                    let ttl_ms = *self.lease_ttl_ms.lock().expect("no panic");
                    let lease_id = [5; 16];
                    let sealed =
                        self.seal(&id, version, &gate::lease_context(&lease_id, &id, version));
                    let lease_id = Bytes::copy_from_slice(&lease_id);
                    self.say(Say::Lease(pb::Lease { lease_id, sealed: Some(sealed), ttl_ms }))
                        .await;
                } else {
                    let detail = "not for you".into();
                    self.say(Say::LeaseRefused(pb::LeaseRefused {
                        credential_id: id,
                        detail,
                        for_now: false,
                    }))
                    .await;
                }
            }
        }
    }

    /// A request is all there: the edge must have said the truth about it.
    async fn whole(&self, open: Open) {
        let incarnation = self.hello().incarnation.as_ref().try_into().expect("16 bytes");
        check_digests(&open, *self.edge_key.lock().expect("no panic"), incarnation);
        if open.head.allowed {
            self.say(Say::Decision(self.decision(&open, |_| {}))).await;
        }
        self.opens.sender.send(open).await.expect("heard");
    }
}
