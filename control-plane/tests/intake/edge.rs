//! An edge reduced to its words: it holds requests with the gate, and says and hears proto.

use std::time::Duration;

use bytes::Bytes;
use countersign_gate::{
    Circumstances, Class, Destination, Held, Injection, Key, Now, Origin, Outcome, Payload,
    Request, Scheme, Signed, Slot, Trust, Verdict, classify, seal_context, seal_info, verify,
};
use countersign_proto::v1;
use countersign_proto::v1::attach_request::Message as In;
use countersign_proto::v1::attach_response::Message as Out;
use countersign_proto::v1::gateway_service_client::GatewayServiceClient;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem as _, OpModeR, Serializable as _, single_shot_open};
use http::{HeaderMap, Method};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Status, Streaming};
use zeroize::Zeroizing;

use countersign_control_plane::state::ApprovalId;

use crate::world::{AGENT, CLUSTER, Enrolled, ORG, World};

type Private = <X25519HkdfSha256 as hpke::Kem>::PrivateKey;

/// One process start.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) enrolled: Enrolled,
    pub(crate) incarnation: [u8; 16],
    private: Private,
    public: Vec<u8>,
    /// Term, index, bundle revision and trust epoch: the highest that it has seen.
    pub(crate) seen: (u64, u64, u64, u64),
}

/// Requests of a process, by their ids.
#[derive(Clone, Default)]
pub(crate) struct Remembered {
    pub(crate) held: Vec<Bytes>,
    /// Carried out or refused already.
    pub(crate) settled: Vec<Bytes>,
}

/// One session of it.
pub(crate) struct Session {
    pub(crate) trust: Trust,
    root: [u8; 32],
    pub(crate) gateway_addresses: Vec<String>,
    /// As it was signed.
    pub(crate) envelope: v1::Envelope,
    pub(crate) bundle: v1::EdgeState,
    sender: mpsc::Sender<v1::AttachRequest>,
    incoming: Streaming<v1::AttachResponse>,
    sequence: u64,
    taken_in: u64,
    pub(crate) acknowledged: u64,
}

impl Process {
    pub(crate) fn new(enrolled: Enrolled) -> Self {
        let (private, public) = X25519HkdfSha256::gen_keypair();
        Self {
            enrolled,
            incarnation: rand::random(),
            private,
            public: public.to_bytes().to_vec(),
            seen: (0, 0, 0, 0),
        }
    }

    pub(crate) async fn attach(&self, world: &World) -> Session {
        self.attach_with(world, Vec::new()).await.unwrap()
    }

    /// Attaches with extra request headers.
    pub(crate) async fn attach_with(
        &self,
        world: &World,
        headers: Vec<(&'static str, &str)>,
    ) -> Result<Session, Status> {
        let channel = connect(world, &self.enrolled).await?;
        let root = world.genesis.root_public_key;
        self.attach_over(channel, root, Remembered::default(), headers).await
    }

    /// Attaches with what this process remembers of its former sessions.
    pub(crate) async fn attach_over(
        &self,
        channel: Channel,
        root: [u8; 32],
        remembered: Remembered,
        headers: Vec<(&'static str, &str)>,
    ) -> Result<Session, Status> {
        let mut client = GatewayServiceClient::new(channel);
        let (sender, outgoing) = mpsc::channel(64);
        let hello = v1::EdgeHello {
            incarnation: Bytes::copy_from_slice(&self.incarnation),
            hpke_public_key: self.public.clone().into(),
            version: "test".into(),
            held_request_ids: remembered.held,
            settled_request_ids: remembered.settled,
            fence_term: self.seen.0,
            fence_index: self.seen.1,
            bundle_revision: self.seen.2,
            trust_epoch: self.seen.3,
        };
        let hello =
            v1::AttachRequest { sequence: 1, acknowledged: 0, message: Some(In::Hello(hello)) };
        sender.send(hello).await.unwrap();
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        for (name, value) in headers {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        let mut incoming = client.attach(request).await?.into_inner();
        let Some(Out::HelloAck(ack)) = incoming.message().await?.and_then(|m| m.message) else {
            return Err(Status::internal("no HelloAck"));
        };
        assert_eq!((ack.cluster_id.as_str(), ack.org_id.as_str()), (CLUSTER, ORG));
        assert_eq!(ack.edge_id, self.enrolled.id);
        let signed = signed(&ack.trust_bundle.unwrap());
        let trust = Trust::accept(&signed, &root, None).unwrap();
        let Some(Out::Bundle(bundle)) = incoming.message().await?.and_then(|m| m.message) else {
            return Err(Status::internal("no bundle"));
        };
        let envelope = bundle.envelope.clone().unwrap();
        let bundle = read_bundle(&trust, &bundle);
        let gateway_addresses = ack.gateway_addresses;
        Ok(Session {
            trust,
            root,
            gateway_addresses,
            envelope,
            bundle,
            sender,
            incoming,
            sequence: 1,
            taken_in: 2,
            acknowledged: 0,
        })
    }

    /// Holds a request as judged by a rule, for five minutes.
    pub(crate) fn hold(&self, request: Request, verdict: Verdict, policy_version: u64) -> Held {
        let circumstances = Circumstances {
            request_id: rand::random(),
            edge: self.enrolled.id.clone(),
            edge_key: self.enrolled.key_sha256,
            incarnation: self.incarnation,
            protocol: "h1".into(),
            policy_version,
            started_ms: now_ms(),
            hold_ms: 300_000,
            nonce: rand::random(),
        };
        self.hold_in(request, verdict, circumstances)
    }

    pub(crate) fn hold_in(
        &self,
        request: Request,
        verdict: Verdict,
        circumstances: Circumstances,
    ) -> Held {
        let Class::Hold(judged) = classify(request, verdict) else { panic!("it is not held") };
        judged.hold(circumstances, 0)
    }

    /// Opens what came with a decision, as the gate takes it.
    pub(crate) fn open(
        &self,
        held: &Held,
        decision_id: &[u8; 16],
        sealed: &v1::SealedCredential,
    ) -> Option<Key> {
        let aad = seal_context(
            &held.ticket().request_digest,
            decision_id,
            &sealed.credential_id,
            sealed.version,
        );
        let secret = self.open_with(&aad, sealed)?;
        let sha256 = Sha256::new()
            .chain_update(&sealed.encapsulated_key)
            .chain_update(&sealed.ciphertext)
            .finalize();
        let destination = held.request().destination().clone();
        Some(Key::new(
            sealed.credential_id.clone(),
            sealed.version,
            destination,
            sha256.into(),
            secret,
        ))
    }

    pub(crate) fn open_with(
        &self,
        aad: &[u8],
        sealed: &v1::SealedCredential,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let encapsulated =
            <X25519HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(&sealed.encapsulated_key)
                .ok()?;
        let info = seal_info(CLUSTER, &self.enrolled.id, &self.incarnation);
        single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private,
            &encapsulated,
            &info,
            &sealed.ciphertext,
            aad,
        )
        .ok()
        .map(Zeroizing::new)
    }
}

impl Session {
    pub(crate) async fn say(&mut self, message: In) {
        self.try_to_say(message).await.unwrap();
    }

    /// Fails when the session is over.
    pub(crate) async fn try_to_say(&mut self, message: In) -> Result<(), Status> {
        self.sequence += 1;
        let request = v1::AttachRequest {
            sequence: self.sequence,
            acknowledged: self.taken_in,
            message: Some(message),
        };
        let sent = self.sender.send(request).await;
        sent.map_err(|_| Status::unavailable("the session is over"))
    }

    pub(crate) async fn announce(&mut self, held: &Held) {
        let (head, pieces) = announcement(held);
        self.say(In::OpenHead(head)).await;
        for piece in pieces {
            self.say(In::OpenBody(piece)).await;
        }
    }

    /// The next message that is no ping. Bundles are taken in on the way, and returned too.
    pub(crate) async fn hear(&mut self) -> Result<Out, Status> {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(20), self.incoming.message());
            let response = next.await.expect("nothing was said for too long")?;
            let Some(response) = response else { return Err(Status::ok("the session ended")) };
            self.acknowledged = response.acknowledged;
            self.taken_in = response.sequence;
            match response.message.unwrap() {
                Out::Ping(_) => {}
                Out::TrustBundle(envelope) => {
                    let newer = Trust::accept(&signed(&envelope), &self.root, Some(&self.trust));
                    self.trust = newer.unwrap();
                    return Ok(Out::TrustBundle(envelope));
                }
                Out::Bundle(bundle) => {
                    self.bundle = read_bundle(&self.trust, &bundle);
                    self.envelope = bundle.envelope.clone().unwrap();
                    return Ok(Out::Bundle(bundle));
                }
                other => return Ok(other),
            }
        }
    }

    /// The next message that is about a request.
    pub(crate) async fn answer(&mut self) -> Out {
        loop {
            match self.hear().await.unwrap() {
                Out::Bundle(_) | Out::TrustBundle(_) => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn opened(&mut self) -> Option<ApprovalId> {
        match self.answer().await {
            Out::Opened(opened) => opened.approval_id.as_ref().try_into().ok().map(ApprovalId),
            other => panic!("not opened: {other:?}"),
        }
    }

    pub(crate) async fn settled(&mut self) -> v1::Settled {
        match self.answer().await {
            Out::Settled(settled) => settled,
            other => panic!("not settled: {other:?}"),
        }
    }

    pub(crate) async fn decision(&mut self) -> v1::Decision {
        match self.answer().await {
            Out::Decision(decision) => decision,
            other => panic!("no decision: {other:?}"),
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.bundle.policy_version
    }
}

/// A refund of so much, with the key of "stripe" in its slot.
pub(crate) fn refund(amount: u32) -> Request {
    let body = Bytes::from(format!("{{\"amount\":{amount}}}"));
    request(Method::POST, "api.stripe.com:443", "/v1/refunds", body, Some(stripe_key()))
}

pub(crate) fn balance() -> Request {
    request(Method::GET, "api.stripe.com:443", "/v1/balance", Bytes::new(), Some(stripe_key()))
}

pub(crate) fn stripe_key() -> Injection {
    let slot = Slot::Header {
        name: http::header::AUTHORIZATION,
        before: "Bearer ".into(),
        after: String::new(),
    };
    Injection { credential: "cred-stripe".into(), version: 1, slot }
}

pub(crate) fn request(
    method: Method,
    authority: &str,
    path: &str,
    body: Bytes,
    key: Option<Injection>,
) -> Request {
    let origin = Origin { cluster: CLUSTER.into(), org: ORG.into(), agent: AGENT.into() };
    let destination = Destination::parse(Scheme::Https, authority, None).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("user-agent", "test/1".parse().unwrap());
    headers.append("accept", "text/plain".parse().unwrap());
    headers.append("accept", "application/json".parse().unwrap());
    let payload = Payload::Whole(body);
    Request::new(
        origin,
        destination,
        method,
        path.into(),
        None,
        headers,
        payload,
        key.into_iter().collect(),
    )
    .unwrap()
}

pub(crate) fn approve(rule: &str) -> Verdict {
    Verdict::Approve { rule: rule.into() }
}

pub(crate) fn allow_per_request(rule: &str) -> Verdict {
    Verdict::Allow { rule: rule.into(), per_request: true }
}

/// What an edge sends of a held request; the body in small pieces.
pub(crate) fn announcement(held: &Held) -> (v1::OpenHead, Vec<v1::OpenBody>) {
    let (request, ticket) = (held.request(), held.ticket());
    let circumstances = &ticket.circumstances;
    let Payload::Whole(body) = request.payload().clone() else {
        panic!("only whole bodies are held")
    };
    let request_id = Bytes::copy_from_slice(&circumstances.request_id);
    let injections = request.injections().iter().map(|injection| v1::Injection {
        credential_id: injection.credential.clone(),
        credential_version: injection.version,
        slot: Some(match injection.slot.clone() {
            Slot::Basic { before, after } => {
                v1::injection::Slot::Basic(v1::InjectedBasic { before, after })
            }
            Slot::Header { name, before, after } => {
                v1::injection::Slot::Header(v1::InjectedHeader {
                    name: name.to_string(),
                    before,
                    after,
                })
            }
            Slot::Cookie { at } => v1::injection::Slot::CookieAt(at),
            Slot::Form { at } => v1::injection::Slot::FormAt(at),
            Slot::Json { at } => v1::injection::Slot::JsonAt(at),
            Slot::Path { at } => v1::injection::Slot::PathAt(at),
            Slot::Query { at } => v1::injection::Slot::QueryAt(at),
            Slot::Signed { names, manner } => v1::injection::Slot::Signed(v1::InjectedSigned {
                names: names.iter().map(ToString::to_string).collect(),
                manner,
            }),
        }),
    });
    let headers = request.headers().iter();
    let head = v1::OpenHead {
        request_id: request_id.clone(),
        agent_id: request.origin().agent.clone(),
        scheme: request.destination().scheme().as_str().into(),
        host: request.destination().host().into(),
        port: request.destination().port().into(),
        method: request.method().to_string(),
        path: request.path().to_owned().into(),
        query: request.query().map(|query| query.to_owned().into()),
        headers: headers
            .map(|(name, value)| v1::Header {
                name: name.to_string(),
                value: Bytes::copy_from_slice(value.as_bytes()),
            })
            .collect(),
        body_bytes: body.len() as u64,
        body_sha256: Bytes::copy_from_slice(&Sha256::digest(&body)),
        injections: injections.collect(),
        policy_version: circumstances.policy_version,
        rule: if request.method() == Method::POST { "refunds" } else { "balance" }.into(),
        nonce: Bytes::copy_from_slice(&circumstances.nonce),
        hold_started_unix_ms: circumstances.started_ms,
        hold_ms: circumstances.hold_ms,
        client_protocol: circumstances.protocol.clone(),
        intent_digest: Bytes::copy_from_slice(&ticket.intent_digest),
        request_digest: Bytes::copy_from_slice(&ticket.request_digest),
        traceparent: String::new(),
        allowed: request.method() != Method::POST,
    };
    const PIECE: usize = 5;
    let pieces = (0..body.len()).step_by(PIECE).map(|start| {
        let end = body.len().min(start + PIECE);
        v1::OpenBody {
            request_id: request_id.clone(),
            offset: start as u64,
            data: body.slice(start..end),
            last: end == body.len(),
        }
    });
    (head, pieces.collect())
}

/// What the gate makes of a decision, now.
pub(crate) fn outcome(held: Held, decision: &v1::Decision, trust: &Trust) -> Outcome {
    verify(
        held,
        &signed(decision.envelope.as_ref().unwrap()),
        trust,
        Now { boottime_ms: 1, wall_ms: now_ms() },
    )
}

pub(crate) fn decoded(decision: &v1::Decision) -> countersign_gate::Decision {
    countersign_gate::Decision::decode(&decision.envelope.as_ref().unwrap().payload).unwrap()
}

pub(crate) fn signed(envelope: &v1::Envelope) -> Signed {
    Signed {
        payload_type: envelope.payload_type.clone(),
        payload: envelope.payload.to_vec(),
        signatures: envelope
            .signatures
            .iter()
            .map(|s| s.signature.as_ref().try_into().unwrap())
            .collect(),
    }
}

/// Over TLS with the edge's certificate; the handshake itself may refuse.
pub(crate) async fn connect(world: &World, enrolled: &Enrolled) -> Result<Channel, Status> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&world.genesis.api_ca_pem))
        .identity(Identity::from_pem(&enrolled.certificate_pem, &enrolled.key_pem))
        .domain_name("localhost");
    let endpoint = Channel::from_shared(format!("https://{}", world.address))
        .unwrap()
        .tls_config(tls)
        .unwrap();
    endpoint.connect().await.map_err(|e| Status::unauthenticated(e.to_string()))
}

fn read_bundle(trust: &Trust, bundle: &v1::EdgeBundle) -> v1::EdgeState {
    let signed = signed(bundle.envelope.as_ref().unwrap());
    trust.check(&signed, "application/vnd.countersign.edge-bundle.v1").unwrap();
    v1::EdgeState::decode(signed.payload.as_slice()).unwrap()
}

pub(crate) fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}
