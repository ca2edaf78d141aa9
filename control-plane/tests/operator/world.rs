//! A node in a folder of its own, and clients with tokens.

use std::path::{Path, PathBuf};

use countersign_control_plane::node::{Config, ControlPlane, SealConfig};
use countersign_proto::v1;
use countersign_proto::v1::admin_service_client::AdminServiceClient;
use tempfile::TempDir;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

pub(crate) struct World {
    pub(crate) node: ControlPlane,
    pub(crate) folder: TempDir,
}

pub(crate) type Admin = AdminServiceClient<InterceptedService<Channel, Bearer>>;

/// Puts one token on every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<AsciiMetadataValue>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Bearer {
    pub(crate) fn of(token: &str) -> Self {
        Self((!token.is_empty()).then(|| format!("Bearer {token}").parse().unwrap()))
    }
}

pub(crate) fn config(data_dir: &Path, seal: SealConfig) -> Config {
    let any = "127.0.0.1:0".parse().unwrap();
    Config {
        data_dir: data_dir.to_owned(),
        api_listen: any,
        gateway_listen: any,
        web_listen: Some(any),
        seal,
        org_id: "test".into(),
        ..Config::default()
    }
}

impl World {
    /// A node that a key file opens.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let seal = SealConfig::KeyFile(folder.path().join("key"));
        Self {
            node: ControlPlane::start(config(&folder.path().join("data"), seal)).await.unwrap(),
            folder,
        }
    }

    /// A node that waits for a passphrase.
    pub(crate) async fn start_sealed() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder.path().join("data"), SealConfig::Passphrase);
        Self { node: ControlPlane::start(config).await.unwrap(), folder }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Stops it and starts it again from what is on disk.
    pub(crate) async fn restart(self, seal: impl FnOnce(&Path) -> SealConfig) -> Self {
        self.node.shutdown().await;
        let config = config(&self.folder.path().join("data"), seal(self.folder.path()));
        Self { node: ControlPlane::start(config).await.unwrap(), folder: self.folder }
    }

    pub(crate) fn admin_token(&self) -> String {
        self.node.admin_token().unwrap().to_string()
    }

    pub(crate) async fn channel(&self) -> Channel {
        channel_to(&self.node).await
    }

    pub(crate) async fn client(&self, token: &str) -> Admin {
        AdminServiceClient::with_interceptor(self.channel().await, Bearer::of(token))
    }

    pub(crate) async fn admin(&self) -> Admin {
        self.client(&self.admin_token()).await
    }

    /// Adds a principal and gives its token.
    pub(crate) async fn principal(&self, name: &str, roles: &[v1::Role]) -> String {
        let request = v1::AddApproverRequest {
            name: name.into(),
            roles: roles.iter().map(|role| (*role).into()).collect(),
            ..Default::default()
        };
        self.admin().await.add_approver(request).await.unwrap().into_inner().token
    }
}

/// A credential for api.example.com whose value is `value`.
pub(crate) fn credential(name: &str, value: &str) -> v1::CreateCredentialRequest {
    v1::CreateCredentialRequest {
        name: name.into(),
        host: "api.example.com".into(),
        slot: "header".into(),
        value: value.as_bytes().to_vec().into(),
        ..Default::default()
    }
}

pub(crate) async fn channel_to(node: &ControlPlane) -> Channel {
    let ca = std::fs::read_to_string(node.api_ca_path()).unwrap();
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", node.api_addr())).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}

pub(crate) async fn client_of(node: &ControlPlane, token: &str) -> Admin {
    AdminServiceClient::with_interceptor(channel_to(node).await, Bearer::of(token))
}
