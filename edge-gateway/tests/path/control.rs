//! A control plane in memory: it signs, seals and remembers, and decides nothing by itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use countersign_gate as gate;
use countersign_proto::v1 as pb;
use countersign_proto::v1::attach_request::Message as Said;
use countersign_proto::v1::attach_response::Message as Say;
use countersign_proto::v1::gateway_service_server::{GatewayService, GatewayServiceServer};
use ed25519_dalek::SigningKey;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeS, Serializable as _};
use prost::Message as _;
use rcgen::ExtendedKeyUsagePurpose;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::world::{Authority, POLICY};

pub(crate) const TOKEN: &str = "agent-token-0123456789";
pub(crate) const CLUSTER: &str = "cluster-1";
const BUNDLE_TYPE: &str = "application/vnd.countersign.edge-bundle.v1";

/// A credential of the test: fake and real.
pub(crate) struct Secret {
    pub(crate) name: &'static str,
    pub(crate) fake: &'static str,
    pub(crate) real: &'static str,
    host: &'static str,
    leasable: bool,
}

pub(crate) const SECRETS: [Secret; 6] = [
    Secret {
        name: "api",
        fake: "tk_fake_api_0123456789",
        real: "tk_REAL_api_abcdefghij",
        host: "api.test",
        leasable: true,
    },
    Secret {
        name: "api-admin",
        fake: "tk_fake_admin_9876543210",
        real: "tk_REAL_admin_klmnopqrst",
        host: "api.test",
        leasable: false,
    },
    Secret {
        name: "single",
        fake: "tk_fake_single_55555555",
        real: "tk_REAL_single_zzzzzzzz",
        host: "single.test",
        leasable: false,
    },
    Secret {
        name: "git",
        fake: "ghp_fake0123456789abcd",
        real: "ghp_REAL0123456789wxyz",
        host: "git.test",
        leasable: true,
    },
    Secret {
        name: "query",
        fake: "qk_fake_0123456789",
        real: "qk_REAL+/0123456789",
        host: "query.test",
        leasable: true,
    },
    Secret {
        name: "bot",
        fake: "123456:FAKEabcdefgh",
        real: "987654:REALzyxwvuts",
        host: "bot.test",
        leasable: true,
    },
];

pub(crate) fn secret(name: &str) -> &'static Secret {
    SECRETS.iter().find(|secret| secret.name == name).expect("a credential of the test")
}

fn slot(name: &str) -> pb::CredentialSlot {
    use pb::credential_slot::Slot;
    let slot = match name {
        "git" => Slot::Basic(pb::BasicSlot { template: String::new() }),
        "query" => Slot::Query(pb::QuerySlot { name: "key".into() }),
        "bot" => Slot::Path(pb::PathSlot { template: "bot{key}".into() }),
        _ => Slot::Header(pb::HeaderSlot {
            name: "authorization".into(),
            template: "Bearer {key}".into(),
        }),
    };
    pb::CredentialSlot { slot: Some(slot) }
}

/// A request that the edge holds.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) head: pb::OpenHead,
    pub(crate) body: Vec<u8>,
}

/// What was said, by kind.
struct Ears<T> {
    sender: mpsc::Sender<T>,
    receiver: AsyncMutex<mpsc::Receiver<T>>,
}

impl<T> Ears<T> {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel(4096);
        Self { sender, receiver: AsyncMutex::new(receiver) }
    }

    async fn next(&self, what: &str) -> T {
        let mut receiver = self.receiver.lock().await;
        tokio::time::timeout(Duration::from_secs(20), receiver.recv())
            .await
            .unwrap_or_else(|_| panic!("no {what}"))
            .expect(what)
    }

    /// What has been said already, if anything.
    async fn heard(&self) -> Option<T> {
        self.receiver.lock().await.try_recv().ok()
    }
}

struct Inner {
    signer: SigningKey,
    root: SigningKey,
    state: Mutex<pb::EdgeState>,
    edge_key: Mutex<[u8; 32]>,
    authority: Authority,
    session: Mutex<Option<Session>>,
    refuse_sessions: Mutex<Option<Status>>,
    grant_leases: Mutex<bool>,
    lease_ttl_ms: Mutex<u64>,
    opens: Ears<Open>,
    receipts: Ears<pb::ExecutionReceipt>,
    alarms: Ears<pb::Alarm>,
    cancelled: Ears<pb::HeldCancelled>,
    hellos: Ears<pb::EdgeHello>,
    leases: Ears<pb::LeaseRequest>,
}

#[derive(Clone)]
struct Session {
    say: mpsc::Sender<Result<pb::AttachResponse, Status>>,
    hello: pb::EdgeHello,
    sequence: Arc<Mutex<u64>>,
    heard: Arc<Mutex<u64>>,
}

#[derive(Clone)]
pub(crate) struct Control {
    inner: Arc<Inner>,
    addr: SocketAddr,
}

impl Control {
    pub(crate) async fn start(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let credential = |secret: &Secret| pb::EdgeCredential {
            credential_id: format!("id-{}", secret.name),
            name: secret.name.into(),
            version: 1,
            host: secret.host.into(),
            port: 443,
            slot: Some(slot(secret.name)),
            fake_keys: vec![secret.fake.into()],
            leasable: secret.leasable,
        };
        let state = pb::EdgeState {
            revision: 1,
            policy_version: 1,
            policy: POLICY.into(),
            agents: vec![pb::EdgeAgent {
                agent_id: "agent-1".into(),
                name: "robot".into(),
                token_sha256: Bytes::copy_from_slice(&Sha256::digest(TOKEN)),
            }],
            credentials: SECRETS.iter().map(credential).collect(),
            forbidden_destinations: vec!["control.test".into()],
        };
        let inner = Arc::new(Inner {
            signer: SigningKey::from_bytes(&[7; 32]),
            root: SigningKey::from_bytes(&[9; 32]),
            state: Mutex::new(state),
            edge_key: Mutex::default(),
            authority: authority.clone(),
            session: Mutex::default(),
            refuse_sessions: Mutex::default(),
            grant_leases: Mutex::new(true),
            lease_ttl_ms: Mutex::new(900_000),
            opens: Ears::new(),
            receipts: Ears::new(),
            alarms: Ears::new(),
            cancelled: Ears::new(),
            hellos: Ears::new(),
            leases: Ears::new(),
        });
        let (certificate, key) =
            authority.leaf("control.test", ExtendedKeyUsagePurpose::ServerAuth);
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(authority.pem()));
        let service = GatewayServiceServer::new(Face(Arc::clone(&inner)))
            .max_decoding_message_size(8 * 1024 * 1024);
        let server = Server::builder().tls_config(tls).expect("TLS").add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { inner, addr }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn root_key(&self) -> [u8; 32] {
        self.inner.root.verifying_key().to_bytes()
    }

    pub(crate) async fn open(&self) -> Open {
        self.inner.opens.next("request held").await
    }

    /// Whether anything was announced that nobody has looked at.
    pub(crate) async fn opened(&self) -> Option<Open> {
        self.inner.opens.heard().await
    }

    pub(crate) async fn receipt(&self) -> pb::ExecutionReceipt {
        self.inner.receipts.next("receipt").await
    }

    pub(crate) async fn received(&self) -> Option<pb::ExecutionReceipt> {
        self.inner.receipts.heard().await
    }

    pub(crate) async fn alarm(&self) -> pb::Alarm {
        self.inner.alarms.next("alarm").await
    }

    pub(crate) async fn alarmed(&self) -> Option<pb::Alarm> {
        self.inner.alarms.heard().await
    }

    pub(crate) async fn cancelled(&self) -> pb::HeldCancelled {
        self.inner.cancelled.next("cancellation").await
    }

    pub(crate) async fn hello(&self) -> pb::EdgeHello {
        self.inner.hellos.next("hello").await
    }

    pub(crate) async fn lease_asked(&self) -> Option<pb::LeaseRequest> {
        self.inner.leases.heard().await
    }

    pub(crate) fn grant_leases(&self, grant: bool) {
        *self.inner.grant_leases.lock().expect("no panic") = grant;
    }

    pub(crate) fn lend_for(&self, ttl_ms: u64) {
        *self.inner.lease_ttl_ms.lock().expect("no panic") = ttl_ms;
    }

    pub(crate) async fn hang_up_after_evicting(&self) {
        let refusal = Status::permission_denied("this edge was evicted");
        *self.inner.refuse_sessions.lock().expect("no panic") = Some(refusal);
        self.inner.say(Say::Evicted(pb::Evicted { reason: "by the test".into() })).await;
    }

    /// Ends the session; with a status, refuses the next ones.
    pub(crate) fn hang_up(&self, refuse: Option<Status>) {
        *self.inner.refuse_sessions.lock().expect("no panic") = refuse;
        self.inner.session.lock().expect("no panic").take();
    }

    pub(crate) fn answer_again(&self) {
        *self.inner.refuse_sessions.lock().expect("no panic") = None;
    }

    /// Changes what edges decide with, and says so.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut pb::EdgeState)) {
        let state = {
            let mut state = self.inner.state.lock().expect("no panic");
            state.revision += 1;
            change(&mut state);
            state.clone()
        };
        self.inner.say(Say::Bundle(self.inner.bundle(&state))).await;
    }

    /// Sends a bundle as it is, signed by `signer`.
    pub(crate) async fn bundle_by(&self, signer: &SigningKey, state: &pb::EdgeState) {
        let payload = state.encode_to_vec();
        let signature = gate::sign(signer, BUNDLE_TYPE, &payload);
        let envelope = envelope(BUNDLE_TYPE, payload, &[signature]);
        self.inner.say(Say::Bundle(pb::EdgeBundle { envelope: Some(envelope) })).await;
    }

    pub(crate) fn state(&self) -> pb::EdgeState {
        self.inner.state.lock().expect("no panic").clone()
    }

    pub(crate) async fn opened_as(&self, open: &Open, approval_id: &[u8; 16]) {
        self.inner
            .say(Say::Opened(pb::Opened {
                request_id: open.head.request_id.clone(),
                approval_id: Bytes::copy_from_slice(approval_id),
                expires_at_unix_ms: 0,
            }))
            .await;
    }

    pub(crate) async fn settle(&self, open: &Open, reason: pb::SettledReason, detail: &str) {
        self.inner
            .say(Say::Settled(pb::Settled {
                request_id: open.head.request_id.clone(),
                approval_id: Bytes::copy_from_slice(&[1; 16]),
                reason: reason.into(),
                detail: detail.into(),
            }))
            .await;
    }

    pub(crate) async fn reopen(&self, open: &Open) {
        self.inner.say(Say::Reopen(pb::Reopen { request_id: open.head.request_id.clone() })).await;
    }

    /// A release as it should be.
    pub(crate) async fn release(&self, open: &Open) {
        self.say_decision(self.decision(open, |_| {})).await;
    }

    /// A signed decision about `open`, after `change` has been at it.
    pub(crate) fn decision(
        &self,
        open: &Open,
        change: impl FnOnce(&mut gate::Decision),
    ) -> pb::Decision {
        self.inner.decision(open, change)
    }

    pub(crate) async fn say_decision(&self, decision: pb::Decision) {
        self.inner.say(Say::Decision(decision)).await;
    }
}

impl Inner {
    async fn say(&self, message: Say) {
        let session = self.session.lock().expect("no panic").clone();
        let Some(session) = session else { return };
        let sequence = {
            let mut sequence = session.sequence.lock().expect("no panic");
            *sequence += 1;
            *sequence
        };
        let acknowledged = *session.heard.lock().expect("no panic");
        let _ = session
            .say
            .send(Ok(pb::AttachResponse { sequence, acknowledged, message: Some(message) }))
            .await;
    }

    fn bundle(&self, state: &pb::EdgeState) -> pb::EdgeBundle {
        let payload = state.encode_to_vec();
        let signature = gate::sign(&self.signer, BUNDLE_TYPE, &payload);
        pb::EdgeBundle { envelope: Some(envelope(BUNDLE_TYPE, payload, &[signature])) }
    }

    fn hello_ack(&self) -> pb::HelloAck {
        let public = self.signer.verifying_key().to_bytes();
        let key = gate::NodeKey { node: 1, public, state: gate::KeyState::Active };
        let trust =
            gate::Trust { cluster: CLUSTER.into(), epoch: 1, threshold: 1, keys: vec![key] }
                .encode();
        let signature = gate::sign(&self.root, gate::TRUST_TYPE, &trust);
        pb::HelloAck {
            cluster_id: CLUSTER.into(),
            org_id: "org-1".into(),
            edge_id: "edge-1".into(),
            trust_bundle: Some(envelope(gate::TRUST_TYPE, trust, &[signature])),
            gateway_addresses: Vec::new(),
        }
    }

    fn decision(&self, open: &Open, change: impl FnOnce(&mut gate::Decision)) -> pb::Decision {
        let head = &open.head;
        let request_digest: gate::Digest =
            head.request_digest.as_ref().try_into().expect("32 bytes");
        let decision_id = [3; 16];
        let mut sealed = Vec::new();
        for injection in &head.injections {
            let context = gate::seal_context(
                &request_digest,
                &decision_id,
                &injection.credential_id,
                injection.credential_version,
            );
            sealed.push(self.seal(
                &injection.credential_id,
                injection.credential_version,
                &context,
            ));
        }
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("now")
            .as_millis() as u64;
        let mut decision = gate::Decision {
            cluster: CLUSTER.into(),
            decision_id,
            word: gate::Word::Release,
            approval_id: (!head.allowed).then_some([1; 16]),
            request_id: head.request_id.as_ref().try_into().expect("16 bytes"),
            request_digest,
            intent_digest: head.intent_digest.as_ref().try_into().expect("32 bytes"),
            edge: "edge-1".into(),
            incarnation: self.hello().incarnation.as_ref().try_into().expect("16 bytes"),
            term: 1,
            index: 1,
            policy_version: head.policy_version,
            approvers: Vec::new(),
            not_before_ms: wall - 1_000,
            expires_ms: wall + 60_000,
            sealed: sealed
                .iter()
                .map(|s| gate::SealedRef {
                    credential: s.credential_id.clone(),
                    version: s.version,
                    sha256: Sha256::new()
                        .chain_update(&s.encapsulated_key)
                        .chain_update(&s.ciphertext)
                        .finalize()
                        .into(),
                })
                .collect(),
            epoch: 1,
        };
        change(&mut decision);
        let payload = decision.encode();
        let signature = gate::sign(&self.signer, gate::DECISION_TYPE, &payload);
        pb::Decision {
            request_id: head.request_id.clone(),
            envelope: Some(envelope(gate::DECISION_TYPE, payload, &[signature])),
            sealed_credentials: sealed,
        }
    }

    fn hello(&self) -> pb::EdgeHello {
        self.session.lock().expect("no panic").as_ref().expect("a session").hello.clone()
    }

    fn seal(&self, credential_id: &str, version: u64, context: &[u8]) -> pb::SealedCredential {
        let hello = self.hello();
        let incarnation: [u8; 16] = hello.incarnation.as_ref().try_into().expect("16 bytes");
        let info = gate::seal_info(CLUSTER, "edge-1", &incarnation);
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&hello.hpke_public_key)
            .expect("a key");
        let real = secret(credential_id.strip_prefix("id-").expect("an id of the test")).real;
        let (encapsulated, ciphertext) = hpke::single_shot_seal::<
            ChaCha20Poly1305,
            HkdfSha256,
            X25519HkdfSha256,
        >(
            &OpModeS::Base, &public, &info, real.as_bytes(), context
        )
        .expect("sealed");
        pb::SealedCredential {
            credential_id: credential_id.into(),
            version,
            encapsulated_key: Bytes::copy_from_slice(&encapsulated.to_bytes()),
            ciphertext: ciphertext.into(),
        }
    }

    fn version(&self, credential_id: &str) -> u64 {
        let state = self.state.lock().expect("no panic");
        let credential = state.credentials.iter().find(|c| c.credential_id == credential_id);
        credential.expect("a credential of the test").version
    }

    async fn hear(&self, said: Said, parts: &mut HashMap<Bytes, Open>) {
        match said {
            Said::Hello(_) | Said::Pong(_) => {}
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
            Said::Alarm(alarm) => self.alarms.sender.send(alarm).await.expect("heard"),
            Said::LeaseRequest(request) => {
                let id = request.credential_id.clone();
                self.leases.sender.send(request).await.expect("heard");
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
                    self.say(Say::LeaseRefused(pb::LeaseRefused { credential_id: id, detail }))
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

/// Freezes what was announced once more, and compares both digests.
fn check_digests(open: &Open, edge_key: [u8; 32], incarnation: [u8; 16]) {
    let head = &open.head;
    let mut headers = http::HeaderMap::new();
    for header in &head.headers {
        headers.append(
            header.name.parse::<http::HeaderName>().expect("a name"),
            http::HeaderValue::from_bytes(&header.value).expect("a value"),
        );
    }
    let injection = |injection: &pb::Injection| gate::Injection {
        credential: injection.credential_id.clone(),
        version: injection.credential_version,
        slot: match injection.slot.clone().expect("a slot") {
            pb::injection::Slot::Header(slot) => gate::Slot::Header {
                name: slot.name.parse().expect("a name"),
                before: slot.before,
                after: slot.after,
            },
            pb::injection::Slot::Basic(slot) => {
                gate::Slot::Basic { before: slot.before, after: slot.after }
            }
            pb::injection::Slot::QueryAt(at) => gate::Slot::Query { at },
            pb::injection::Slot::PathAt(at) => gate::Slot::Path { at },
        },
    };
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("ASCII");
    let request = gate::Request::new(
        gate::Origin { cluster: CLUSTER.into(), org: "org-1".into(), agent: head.agent_id.clone() },
        gate::Destination::parse(gate::Scheme::Https, &head.host, Some(head.port as u16))
            .expect("a destination"),
        head.method.parse().expect("a method"),
        text(&head.path),
        head.query.as_ref().map(text),
        headers,
        gate::Payload::Whole(open.body.clone().into()),
        head.injections.iter().map(injection).collect(),
    )
    .expect("a request that can be frozen");
    let verdict = gate::Verdict::Approve { rule: head.rule.clone() };
    let gate::Class::Hold(judged) = gate::classify(request, verdict) else { panic!("held") };
    let circumstances = gate::Circumstances {
        request_id: head.request_id.as_ref().try_into().expect("16 bytes"),
        edge: "edge-1".into(),
        edge_key,
        incarnation,
        protocol: head.client_protocol.clone(),
        policy_version: head.policy_version,
        started_ms: head.hold_started_unix_ms,
        hold_ms: head.hold_ms,
        nonce: head.nonce.as_ref().try_into().expect("32 bytes"),
    };
    let held = judged.hold(circumstances, 0);
    assert_eq!(
        held.ticket().intent_digest.as_slice(),
        head.intent_digest.as_ref(),
        "the intent digest"
    );
    assert_eq!(
        held.ticket().request_digest.as_slice(),
        head.request_digest.as_ref(),
        "the request digest"
    );
    assert_eq!(Sha256::digest(&open.body).as_slice(), head.body_sha256.as_ref(), "the body digest");
}

fn envelope(payload_type: &str, payload: Vec<u8>, signatures: &[[u8; 64]]) -> pb::Envelope {
    let signature =
        |s: &[u8; 64]| pb::Signature { key_id: Bytes::new(), signature: Bytes::copy_from_slice(s) };
    pb::Envelope {
        payload_type: payload_type.into(),
        payload: payload.into(),
        signatures: signatures.iter().map(signature).collect(),
    }
}

struct Face(Arc<Inner>);

#[tonic::async_trait]
impl GatewayService for Face {
    type AttachStream = ReceiverStream<Result<pb::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let certificates = request.peer_certs().expect("mTLS");
        let (_, certificate) = X509Certificate::from_der(&certificates[0]).expect("a certificate");
        *self.0.edge_key.lock().expect("no panic") =
            Sha256::digest(certificate.public_key().raw).into();
        if let Some(status) = self.0.refuse_sessions.lock().expect("no panic").clone() {
            return Err(status);
        }
        let mut incoming = request.into_inner();
        let (say, outgoing) = mpsc::channel(1024);
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let Ok(Some(pb::AttachRequest { sequence, message: Some(Said::Hello(hello)), .. })) =
                incoming.message().await
            else {
                return;
            };
            let heard = Arc::new(Mutex::new(sequence));
            let session = Session {
                say,
                hello: hello.clone(),
                sequence: Arc::default(),
                heard: Arc::clone(&heard),
            };
            *inner.session.lock().expect("no panic") = Some(session.clone());
            inner.say(Say::HelloAck(inner.hello_ack())).await;
            let state = inner.state.lock().expect("no panic").clone();
            inner.say(Say::Bundle(inner.bundle(&state))).await;
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
        let certificate_pem = self.0.authority.sign(&request.into_inner().csr_pem);
        Ok(Response::new(pb::RenewCertificateResponse { certificate_pem }))
    }
}
