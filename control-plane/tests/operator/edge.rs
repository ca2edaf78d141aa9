//! An edge reduced to its words: it holds requests and says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_control_plane::node::ControlPlane;
use countersign_gate::{
    Circumstances, Class, Destination, Held, Origin, Payload, Request, Scheme, Verdict, classify,
};
use countersign_proto::v1;
use countersign_proto::v1::attach_request::Message as In;
use countersign_proto::v1::attach_response::Message as Out;
use countersign_proto::v1::gateway_service_client::GatewayServiceClient;
use http::{HeaderMap, Method};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Status, Streaming};

use crate::world::{Admin, World, credential};

/// Deletions are asked about.
pub(crate) const POLICY: &str = r#"version = 1
[[rule]]
name = "delete"
host = "api.example.com"
methods = ["DELETE"]
then = "approve"
approvers = ["admin", "ann"]
"#;

/// What an edge keeps of its enrollment.
#[derive(Clone)]
pub(crate) struct Enrolled {
    pub(crate) certificate_pem: String,
    key: Arc<KeyPair>,
    ca_pem: String,
    address: String,
    id: String,
}

/// An attached edge.
pub(crate) struct Edge {
    id: String,
    key_sha256: [u8; 32],
    incarnation: [u8; 16],
    cluster: String,
    agent: String,
    sender: mpsc::Sender<v1::AttachRequest>,
    incoming: Streaming<v1::AttachResponse>,
    sequence: u64,
}

impl Enrolled {
    /// What an enrolment is answered.
    pub(crate) async fn answer(admin: &mut Admin, name: &str) -> v1::EnrollEdgeResponse {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        enroll(admin, name, &key).await
    }

    /// An edge's certificate and its key, PEM.
    pub(crate) async fn with_key(admin: &mut Admin, name: &str) -> (String, String) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        (enroll(admin, name, &key).await.certificate_pem, key.serialize_pem())
    }

    pub(crate) async fn enroll(world: &World, name: &str) -> Self {
        Self::at(&mut world.admin().await, name).await
    }

    pub(crate) async fn at(admin: &mut Admin, name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let enrolled = enroll(admin, name, &key).await;
        Self {
            certificate_pem: enrolled.certificate_pem,
            key: key.into(),
            ca_pem: enrolled.gateway_ca_pem,
            address: enrolled.gateway_address,
            id: enrolled.edge.unwrap().edge_id,
        }
    }

    /// As it comes to this node.
    pub(crate) fn through(&self, node: &ControlPlane) -> Self {
        Self { address: node.gateway_addr().to_string(), ..self.clone() }
    }

    /// With a new certificate.
    pub(crate) async fn renewed(&self) -> Result<Self, Status> {
        let csr_pem =
            CertificateParams::default().serialize_request(&*self.key).unwrap().pem().unwrap();
        let mut gateway = GatewayServiceClient::new(self.channel(true).await.unwrap());
        let renewed =
            gateway.renew_certificate(v1::RenewCertificateRequest { csr_pem }).await?.into_inner();
        Ok(Self { certificate_pem: renewed.certificate_pem, ..self.clone() })
    }

    pub(crate) async fn channel(&self, with_certificate: bool) -> Result<Channel, String> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca_pem));
        if with_certificate {
            tls = tls.identity(Identity::from_pem(&self.certificate_pem, self.key.serialize_pem()));
        }
        let endpoint = Channel::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.map_err(|e| format!("{e:?}"))
    }

    /// Says hello; the answer is its acknowledgement.
    pub(crate) async fn hello(
        &self,
        channel: Channel,
    ) -> Result<(mpsc::Sender<v1::AttachRequest>, Streaming<v1::AttachResponse>, [u8; 16]), Status>
    {
        let (sender, outgoing) = mpsc::channel(16);
        let incarnation: [u8; 16] = rand::random();
        let hello = In::Hello(v1::EdgeHello {
            incarnation: Bytes::copy_from_slice(&incarnation),
            hpke_public_key: Bytes::from_static(&[9; 32]),
            version: "test".into(),
            ..Default::default()
        });
        let first = v1::AttachRequest { sequence: 1, acknowledged: 0, message: Some(hello) };
        sender.send(first).await.unwrap();
        let mut gateway = GatewayServiceClient::new(channel);
        let attached = gateway.attach(ReceiverStream::new(outgoing)).await?;
        Ok((sender, attached.into_inner(), incarnation))
    }

    pub(crate) async fn attach(&self, agent: &str) -> Edge {
        let channel = self.channel(true).await.unwrap();
        let (sender, mut incoming, incarnation) = self.hello(channel).await.unwrap();
        let answer = incoming.message().await.unwrap().unwrap().message;
        let Some(Out::HelloAck(ack)) = answer else { panic!("no HelloAck: {answer:?}") };
        Edge {
            id: self.id.clone(),
            key_sha256: Sha256::digest(self.key.subject_public_key_info()).into(),
            incarnation,
            cluster: ack.cluster_id,
            agent: agent.to_owned(),
            sender,
            incoming,
            sequence: 1,
        }
    }
}

impl Edge {
    /// Holds `DELETE https://api.example.com{path}` and gives its approval's id.
    pub(crate) async fn hold_delete(&mut self, path: &str) -> String {
        let held = self.held(path);
        self.say(In::OpenHead(head_of(&held))).await;
        loop {
            match self.incoming.message().await.unwrap().unwrap().message {
                Some(Out::Opened(opened)) => return hex::encode(opened.approval_id),
                Some(Out::Bundle(_) | Out::Ping(_)) => {}
                other => panic!("not opened: {other:?}"),
            }
        }
    }

    /// What it is told next; none once its session has ended.
    pub(crate) async fn hear(&mut self) -> Option<Out> {
        self.incoming.message().await.ok().flatten()?.message
    }

    /// Asks for a key on loan and gives its version.
    pub(crate) async fn borrow_key(&mut self, credential_id: &str) -> u64 {
        let (credential_id, agent_id) = (credential_id.to_owned(), self.agent.clone());
        self.say(In::LeaseRequest(v1::LeaseRequest { credential_id, agent_id })).await;
        loop {
            match self.incoming.message().await.unwrap().unwrap().message {
                Some(Out::Lease(lease)) => return lease.sealed.unwrap().version,
                Some(Out::Bundle(_) | Out::Ping(_)) => {}
                other => panic!("not lent: {other:?}"),
            }
        }
    }

    fn held(&self, path: &str) -> Held {
        let origin =
            Origin { cluster: self.cluster.clone(), org: "test".into(), agent: self.agent.clone() };
        let destination = Destination::parse(Scheme::Https, "api.example.com", Some(443)).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-note", "<script>alert(1)</script>".parse().unwrap());
        let payload = Payload::Whole(Bytes::new());
        let path = path.to_owned();
        let request = Request::new(
            origin,
            destination,
            Method::DELETE,
            path,
            None,
            headers,
            payload,
            Vec::new(),
        );
        let verdict = Verdict::Approve { rule: "delete".into() };
        let Class::Hold(judged) = classify(request.unwrap(), verdict) else { panic!("not held") };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let circumstances = Circumstances {
            request_id: rand::random(),
            edge: self.id.clone(),
            edge_key: self.key_sha256,
            incarnation: self.incarnation,
            protocol: "h1".into(),
            policy_version: 1,
            started_ms: now.as_millis() as u64,
            hold_ms: 50_000,
            nonce: rand::random(),
        };
        judged.hold(circumstances, 0)
    }

    async fn say(&mut self, message: In) {
        self.sequence += 1;
        let (sequence, message) = (self.sequence, Some(message));
        let request = v1::AttachRequest { sequence, acknowledged: 0, message };
        self.sender.send(request).await.unwrap();
    }
}

fn head_of(held: &Held) -> v1::OpenHead {
    let (request, ticket) = (held.request(), held.ticket());
    let circumstances = &ticket.circumstances;
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| v1::Header {
        name: name.to_string(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    v1::OpenHead {
        request_id: Bytes::copy_from_slice(&circumstances.request_id),
        agent_id: request.origin().agent.clone(),
        scheme: request.destination().scheme().as_str().into(),
        host: request.destination().host().into(),
        port: request.destination().port().into(),
        method: request.method().to_string(),
        path: request.path().to_owned().into(),
        headers: request.headers().iter().map(header).collect(),
        body_sha256: Bytes::copy_from_slice(&Sha256::digest(b"")),
        policy_version: circumstances.policy_version,
        rule: "delete".into(),
        nonce: Bytes::copy_from_slice(&circumstances.nonce),
        hold_started_unix_ms: circumstances.started_ms,
        hold_ms: circumstances.hold_ms,
        client_protocol: circumstances.protocol.clone(),
        intent_digest: Bytes::copy_from_slice(&ticket.intent_digest),
        request_digest: Bytes::copy_from_slice(&ticket.request_digest),
        ..Default::default()
    }
}

async fn enroll(admin: &mut Admin, name: &str, key: &KeyPair) -> v1::EnrollEdgeResponse {
    let csr_pem = CertificateParams::default().serialize_request(key).unwrap().pem().unwrap();
    let request = v1::EnrollEdgeRequest { name: name.into(), csr_pem, ..Default::default() };
    admin.enroll_edge(request).await.unwrap().into_inner()
}

/// Both keys are lent.
const LENT: &str = r#"version = 1
[[rule]]
name = "read"
host = "api.example.com"
methods = ["GET"]
then = "allow"
credential = "example"

[[rule]]
name = "other"
host = "api.example.com"
methods = ["HEAD"]
then = "allow"
credential = "other"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t3_evict_names_every_key_that_the_edge_was_ever_given() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let mut credentials = Vec::new();
    for name in ["example", "other", "never"] {
        let created = admin
            .create_credential(credential(name, "sk_live_0123456789abcdefghijklmnop"))
            .await
            .unwrap();
        credentials.push(created.into_inner().credential.unwrap().credential_id);
    }
    let policy = v1::SetPolicyRequest { text: LENT.into(), ..Default::default() };
    admin.set_policy(policy).await.unwrap();
    let agent = v1::CreateAgentRequest { name: "bot".into(), ..Default::default() };
    let agent = admin.create_agent(agent).await.unwrap().into_inner().agent.unwrap().agent_id;
    let mut edge = Enrolled::enroll(&world, "west").await.attach(&agent).await;
    let mut other = Enrolled::enroll(&world, "east").await.attach(&agent).await;

    assert_eq!(edge.borrow_key(&credentials[0]).await, 1);
    assert_eq!(edge.borrow_key(&credentials[1]).await, 1);
    let rotated = v1::RotateCredentialRequest {
        name: "example".into(),
        value: Bytes::from_static(b"sk_live_zyxwvutsrqponmlkjihgfedcba"),
        ..Default::default()
    };
    admin.rotate_credential(rotated.clone()).await.unwrap();
    assert_eq!(edge.borrow_key(&credentials[0]).await, 2);
    admin.rotate_credential(rotated).await.unwrap();
    assert_eq!(other.borrow_key(&credentials[0]).await, 3);

    let evict = |name: &str| v1::EvictEdgeRequest {
        request_id: name.into(),
        name: name.into(),
        reason: "stolen".into(),
    };
    let answer = admin.evict_edge(evict("west")).await.unwrap().into_inner();
    let mut given: Vec<_> =
        answer.given.iter().map(|it| (it.name.as_str(), it.version, it.must_rotate)).collect();
    given.sort_unstable();
    assert_eq!(given, [("example", 1, false), ("example", 2, false), ("other", 1, true)]);
    assert!(answer.given.iter().all(|it| it.last_given_at.is_some()));
    let again = admin.evict_edge(evict("west")).await.unwrap().into_inner();
    assert_eq!(again.given, answer.given, "asked again");
    let answer = admin.evict_edge(evict("east")).await.unwrap().into_inner();
    assert_eq!(answer.given.len(), 1);
    assert!(answer.given[0].must_rotate && answer.given[0].version == 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_sealed_anew_after_a_rotation_is_lent_as_before() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let created = admin
        .create_credential(credential("example", "sk_live_0123456789abcdefghijklmnop"))
        .await
        .unwrap();
    let id = created.into_inner().credential.unwrap().credential_id;
    admin
        .create_credential(credential("other", "sk_live_zyxwvutsrqponmlkjihgfedcba"))
        .await
        .unwrap();
    let policy = v1::SetPolicyRequest { text: LENT.into(), ..Default::default() };
    admin.set_policy(policy).await.unwrap();
    let agent = v1::CreateAgentRequest { name: "bot".into(), ..Default::default() };
    let agent = admin.create_agent(agent).await.unwrap().into_inner().agent.unwrap().agent_id;
    let mut edge = Enrolled::enroll(&world, "west").await.attach(&agent).await;

    admin.rotate_keyring(v1::RotateKeyringRequest::default()).await.unwrap();
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let status = admin.get_seal_status(v1::GetSealStatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.keyring_term, 2);
        if status.under_older_terms == 0 {
            break;
        }
        assert!(Instant::now() < patience, "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let request = v1::ListAuditRequest { page_size: 1000, ..Default::default() };
    let records = admin.list_audit(request).await.unwrap().into_inner().records;
    assert_eq!(records.iter().filter(|r| r.action == "credential.reseal").count(), 2);
    assert_eq!(edge.borrow_key(&id).await, 1, "the same version of the same key");
}
