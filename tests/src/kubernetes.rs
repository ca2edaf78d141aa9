//! An API server of Kubernetes, as small as kubectl lets it be: discovery, one pod, one deployment and its scale, and the
//! connections that `exec`, `attach` and `port-forward` ask for. It answers as the reference of the API says; a real one takes
//! a container runtime behind it to do as much.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::origin::{self, Seen};

pub const HOST: &str = "kubernetes.default.svc";

const COMMAND: &str = "v5.channel.k8s.io";
const PORT: &str = "SPDY/3.1+portforward.k8s.io";

pub struct ApiServer {
    address: SocketAddr,
    ca_pem: String,
    cluster: Arc<Mutex<Cluster>>,
    _runtime: tokio::runtime::Runtime,
}

/// What there is, and what was asked of it.
struct Cluster {
    key: String,
    pods: Vec<String>,
    replicas: u64,
    image: String,
    seen: Vec<Seen>,
    /// What came through the connections that were opened, with the channel of each message in front.
    heard: Vec<Vec<u8>>,
}

/// An answer, or what the connection becomes.
enum Outcome {
    Answer(u16, Value),
    /// Of this sub-protocol.
    Socket(&'static str),
}

impl ApiServer {
    /// Knows whoever brings `key` as a bearer token, and nobody else.
    pub fn start(key: &str) -> Self {
        let (ca_pem, config) = origin::tls(&[HOST]);
        let cluster = Arc::new(Mutex::new(Cluster {
            key: key.to_owned(),
            pods: vec!["web-1".into(), "web-2".into()],
            replicas: 3,
            image: "web:1".into(),
            seen: Vec::new(),
            heard: Vec::new(),
        }));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&cluster)));
        Self { address, ca_pem, cluster, _runtime: runtime }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.cluster.lock().unwrap().seen.clone()
    }

    pub fn pods(&self) -> Vec<String> {
        self.cluster.lock().unwrap().pods.clone()
    }

    pub fn replicas(&self) -> u64 {
        self.cluster.lock().unwrap().replicas
    }

    pub fn image(&self) -> String {
        self.cluster.lock().unwrap().image.clone()
    }

    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.cluster.lock().unwrap().heard.clone()
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, cluster: Arc<Mutex<Cluster>>) {
    for connection in 0.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (tls, cluster) = (tls.clone(), Arc::clone(&cluster));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request| {
                serve(request, Arc::clone(&cluster), connection)
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn serve(
    mut request: Request<Incoming>,
    cluster: Arc<Mutex<Cluster>>,
    connection: usize,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let host = head.uri.authority().map(ToString::to_string);
    let host = host.or_else(|| Some(head.headers.get("host")?.to_str().ok()?.to_owned()));
    let seen = Seen {
        method: head.method,
        host: host.unwrap_or_default(),
        target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        version: head.version,
        headers: head.headers,
        body,
        connection,
        arrived: Instant::now(),
    };
    let outcome = {
        let mut cluster = cluster.lock().unwrap();
        cluster.seen.push(seen.clone());
        cluster.answer(&seen)
    };
    Ok(match outcome {
        Outcome::Answer(status, value) => Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Full::new(value.to_string().into()))
            .unwrap(),
        Outcome::Socket(protocol) => {
            let key = seen.headers["sec-websocket-key"].as_bytes();
            let answer = Response::builder()
                .status(101)
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-accept", derive_accept_key(key))
                .header("sec-websocket-protocol", protocol);
            tokio::spawn(async move {
                let Ok(upgraded) = upgrade.await else { return };
                let stream = TokioIo::new(upgraded);
                let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
                talk(socket, protocol == COMMAND, &cluster).await;
            });
            answer.body(Full::default()).unwrap()
        }
    })
}

/// A command says something on channel 1, and ends on channel 3; a port says nothing by itself.
async fn talk<S>(mut socket: WebSocketStream<S>, command: bool, cluster: &Mutex<Cluster>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let key = cluster.lock().unwrap().key.clone();
    let output = [&[1][..], format!("my token is {key}\n").as_bytes()].concat();
    let end = json!({ "metadata": {}, "status": "Success" }).to_string();
    if command {
        // A client that is gone already hears nothing.
        let _ = socket.send(Message::Binary(output.into())).await;
        let _ = socket.send(Message::Binary([&[3][..], end.as_bytes()].concat().into())).await;
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = socket.send(Message::Close(Some(normal))).await;
    }
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            cluster.lock().unwrap().heard.push(bytes.to_vec());
        }
    }
}

impl Cluster {
    fn answer(&mut self, seen: &Seen) -> Outcome {
        let unknown = || no(404, "NotFound", "the server could not find the requested resource");
        self.known(seen).unwrap_or_else(unknown)
    }

    fn known(&mut self, seen: &Seen) -> Option<Outcome> {
        if seen.credential() != Some(&format!("Bearer {}", self.key)) {
            return Some(no(401, "Unauthorized", "Unauthorized"));
        }
        let path = seen.target.split('?').next().unwrap_or_default();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let ok = |value: Value| Some(Outcome::Answer(200, value));
        match (&seen.method, segments.as_slice()) {
            (&Method::GET, ["version"]) => {
                ok(json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.0" }))
            }
            (&Method::GET, ["api"]) => ok(json!({ "kind": "APIVersions", "versions": ["v1"] })),
            (&Method::GET, ["apis"]) => ok(groups()),
            (&Method::GET, ["api", "v1"]) => ok(kinds("v1", &[("pods", "Pod")])),
            (&Method::GET, ["apis", "apps", "v1"]) => {
                ok(kinds("apps/v1", &[("deployments", "Deployment")]))
            }
            (&Method::GET, ["api", "v1", "namespaces", namespace, "pods"]) => ok(json!({
                "kind": "PodList",
                "apiVersion": "v1",
                "metadata": { "resourceVersion": "7" },
                "items": self.pods.iter().map(|name| pod(namespace, name)).collect::<Vec<_>>(),
            })),
            (method, ["api", "v1", "namespaces", namespace, "pods", name, rest @ ..]) => {
                let at = self.pods.iter().position(|pod| pod == name)?;
                match (method, rest) {
                    (&Method::GET, []) => ok(pod(namespace, name)),
                    (&Method::DELETE, []) => {
                        self.pods.remove(at);
                        ok(pod(namespace, name))
                    }
                    (_, ["exec" | "attach" | "portforward"]) => Some(connection(seen)),
                    _ => None,
                }
            }
            (&Method::GET, ["apis", "apps", "v1", "namespaces", _, "deployments", "web"]) => {
                ok(self.deployment())
            }
            (&Method::PATCH, ["apis", "apps", "v1", "namespaces", _, "deployments", "web"]) => {
                let image = body.pointer("/spec/template/spec/containers/0/image");
                self.image = image.and_then(Value::as_str).unwrap_or(&self.image).to_owned();
                self.scaled(&body);
                ok(self.deployment())
            }
            (method, ["apis", "apps", "v1", "namespaces", _, "deployments", "web", "scale"]) => {
                if matches!(*method, Method::PATCH | Method::PUT) {
                    self.scaled(&body);
                }
                ok(json!({
                    "kind": "Scale",
                    "apiVersion": "autoscaling/v1",
                    "metadata": { "name": "web", "namespace": "prod", "resourceVersion": "7" },
                    "spec": { "replicas": self.replicas },
                    "status": { "replicas": self.replicas },
                }))
            }
            _ => None,
        }
    }

    fn scaled(&mut self, body: &Value) {
        self.replicas = body["spec"]["replicas"].as_u64().unwrap_or(self.replicas);
    }

    fn deployment(&self) -> Value {
        json!({
            "kind": "Deployment",
            "apiVersion": "apps/v1",
            "metadata": { "name": "web", "namespace": "prod", "resourceVersion": "7", "generation": 1 },
            "spec": {
                "replicas": self.replicas,
                "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" } },
                    "spec": { "containers": [{ "name": "web", "image": self.image }] },
                },
            },
            "status": { "replicas": self.replicas },
        })
    }
}

/// A handshake of the protocol that a path has is answered; anything else is told what a real one is told.
fn connection(seen: &Seen) -> Outcome {
    let text = |name: &str| seen.headers.get(name).and_then(|value| value.to_str().ok());
    let asked = text("sec-websocket-protocol").unwrap_or_default();
    let protocol =
        [COMMAND, PORT].into_iter().find(|it| asked.split(',').any(|one| one.trim() == *it));
    match protocol.filter(|_| text("sec-websocket-key").is_some() && text("upgrade").is_some()) {
        Some(protocol) => Outcome::Socket(protocol),
        None => no(400, "BadRequest", "Upgrade request required"),
    }
}

fn no(status: u16, reason: &str, message: &str) -> Outcome {
    let value = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": status,
    });
    Outcome::Answer(status, value)
}

fn groups() -> Value {
    let version = json!({ "groupVersion": "apps/v1", "version": "v1" });
    json!({
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{ "name": "apps", "versions": [version], "preferredVersion": version }],
    })
}

fn kinds(group: &str, each: &[(&str, &str)]) -> Value {
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let mut resources: Vec<Value> = Vec::new();
    for (name, kind) in each {
        let singular = kind.to_lowercase();
        resources.push(json!({
            "name": name, "singularName": singular, "namespaced": true, "kind": kind, "verbs": verbs,
        }));
    }
    if group == "apps/v1" {
        resources.push(json!({
            "name": "deployments/scale", "singularName": "", "namespaced": true, "kind": "Scale",
            "group": "autoscaling", "version": "v1", "verbs": ["get", "patch", "update"],
        }));
    }
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources,
    })
}

fn pod(namespace: &str, name: &str) -> Value {
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": { "name": name, "namespace": namespace, "resourceVersion": "7" },
        "spec": { "containers": [{ "name": "web", "image": "web:1", "stdin": true }] },
        "status": { "phase": "Running" },
    })
}
