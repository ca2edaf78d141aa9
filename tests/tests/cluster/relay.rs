//! A node that lies: it shows an edge a true node's certificate, passes everything on to another node in the edge's
//! name, and changes decisions on their way back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use countersign_proto::v1;
use countersign_tests::cluster_world::ClusterWorld;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use v1::gateway_service_client::GatewayServiceClient;
use v1::gateway_service_server::{GatewayService, GatewayServiceServer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    None,
    OneSignature,
    OneTwice,
    OtherBytes,
}

/// Request id, payload, and payload type of a decision.
type Decided = (Vec<u8>, Vec<u8>, String);

struct Shared {
    lie: Mutex<Lie>,
    lies: AtomicUsize,
    last: Mutex<Option<Decided>>,
    onward: Endpoint,
}

pub(super) struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Relay {
    /// Shows what node `as_node` shows, and passes on to node `to_node`.
    pub(super) fn start(world: &ClusterWorld, as_node: usize, to_node: usize) -> Self {
        let tls = world.nodes[as_node].data_dir().join("tls");
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
        let shown = Identity::from_pem(read(tls.join("server.pem")), read(tls.join("server.key")));
        let edge = world.root().join("e1");
        let mine =
            Identity::from_pem(read(edge.join("edge-cert.pem")), read(edge.join("edge-key.pem")));
        let ca = Certificate::from_pem(read(edge.join("gateway-ca.pem")));
        let onward =
            Endpoint::from_shared(format!("https://{}", world.nodes[to_node].gateway_itself()))
                .unwrap()
                .tls_config(
                    ClientTlsConfig::new()
                        .ca_certificate(ca)
                        .identity(mine)
                        .domain_name("127.0.0.1"),
                )
                .unwrap();
        let shared = Arc::new(Shared {
            lie: Mutex::new(Lie::None),
            lies: AtomicUsize::new(0),
            last: Mutex::new(None),
            onward,
        });
        let listener = world.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let service = GatewayServiceServer::new(Face(Arc::clone(&shared)));
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(shown))
            .unwrap()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        world.runtime.spawn(server);
        Self { shared, address }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn honest(&self) {
        self.tell(Lie::None);
    }

    /// Decisions lose all signatures but one.
    pub(super) fn one_signature(&self) {
        self.tell(Lie::OneSignature);
    }

    /// Decisions have one signature twice, under two names.
    pub(super) fn one_twice(&self) {
        self.tell(Lie::OneTwice);
    }

    /// Decisions keep their signatures and say something else.
    pub(super) fn other_bytes(&self) {
        self.tell(Lie::OtherBytes);
    }

    /// Lies that went to the edge since it was last told how to lie.
    pub(super) fn lies(&self) -> usize {
        self.shared.lies.load(Ordering::Relaxed)
    }

    /// The decision that passed last, as it was before it was changed.
    pub(super) fn last_decision(&self) -> Decided {
        self.shared.last.lock().unwrap().clone().expect("a decision passed")
    }

    fn tell(&self, lie: Lie) {
        self.shared.lies.store(0, Ordering::Relaxed);
        *self.shared.lie.lock().unwrap() = lie;
    }
}

impl Shared {
    fn pass(&self, mut response: v1::AttachResponse) -> v1::AttachResponse {
        use v1::attach_response::Message;
        match &mut response.message {
            // The edge is to know no other way.
            Some(Message::HelloAck(ack)) => ack.gateway_addresses.clear(),
            Some(Message::Decision(decision)) => {
                let envelope = decision.envelope.as_mut().expect("a signed decision");
                *self.last.lock().unwrap() = Some((
                    decision.request_id.to_vec(),
                    envelope.payload.to_vec(),
                    envelope.payload_type.clone(),
                ));
                match *self.lie.lock().unwrap() {
                    Lie::None => return response,
                    Lie::OneSignature => envelope.signatures.truncate(1),
                    Lie::OneTwice => {
                        envelope.signatures.truncate(1);
                        let mut again = envelope.signatures[0].clone();
                        again.key_id = b"another".to_vec().into();
                        envelope.signatures.push(again);
                    }
                    Lie::OtherBytes => {
                        let mut payload = envelope.payload.to_vec();
                        let last = payload.len() - 1;
                        payload[last] ^= 1;
                        envelope.payload = payload.into();
                    }
                }
                self.lies.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        response
    }
}

struct Face(Arc<Shared>);

#[tonic::async_trait]
impl GatewayService for Face {
    type AttachStream = ReceiverStream<Result<v1::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let shared = Arc::clone(&self.0);
        let channel =
            shared.onward.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let said = request.into_inner().filter_map(Result::ok);
        let mut answers = GatewayServiceClient::new(channel).attach(said).await?.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Some(answer) = answers.next().await {
                let answer = answer.map(|answer| shared.pass(answer));
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn renew_certificate(
        &self,
        _: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        Err(Status::unavailable("not by a liar"))
    }
}
