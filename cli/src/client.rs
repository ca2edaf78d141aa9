//! The line to the control plane: TLS with the context's authority, a bearer token, and gRPC.

mod nodes;

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use countersign_proto::v1::admin_service_client::AdminServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use self::nodes::Nodes;
use crate::context::Context;
use crate::failure::Failure;

pub(crate) type Admin = AdminServiceClient<InterceptedService<Nodes, Bearer>>;

/// How long one answer may take. Streams have no end of their own.
const PATIENCE: Duration = Duration::from_secs(60);

/// Puts the token on every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Connects with the context's token.
///
/// # Errors
/// `Usage` without a token, `Unreachable` when nobody answers or the wrong one does.
pub(crate) async fn connect(context: &Context) -> Result<Admin, Failure> {
    if context.token.is_none() {
        return Err(Failure::Usage(format!(
            "{} says which control plane, but no token is known for it: set COUNTERSIGN_TOKEN or COUNTERSIGN_TOKEN_FILE",
            context.source
        )));
    }
    connect_with(context, Some(PATIENCE)).await
}

/// As [`connect`], for calls whose answer is a stream that may last for days.
pub(crate) async fn connect_to_watch(context: &Context) -> Result<Admin, Failure> {
    connect_with(context, None).await
}

/// As [`connect`], for what a sealed control plane answers: there a token is of no use.
pub(crate) async fn connect_to_sealed(context: &Context) -> Result<Admin, Failure> {
    connect_with(context, Some(PATIENCE)).await
}

/// As [`connect_to_sealed`], to the first node that answers, and to no other after it: for what one node keeps to itself,
/// such as a cluster that is to begin. The context is of that node.
pub(crate) async fn connect_to_first(context: &Context) -> Result<(Context, Admin), Failure> {
    let mut silent = Vec::new();
    for one in context.each() {
        match connect_with(&one, Some(PATIENCE)).await {
            Ok(admin) => return Ok((one, admin)),
            Err(Failure::Unreachable(why)) => silent.push(why),
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::Unreachable(silent.join("; ")))
}

/// The identity of one mutation: the same one again does nothing twice.
pub(crate) fn request_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// Connects to the first node that answers; the others are called when that one cannot take a call.
async fn connect_with(context: &Context, timeout: Option<Duration>) -> Result<Admin, Failure> {
    let endpoints = context.nodes.iter().map(|addr| endpoint(context, addr, timeout));
    let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_, _>>()?;
    let mut channels: Vec<_> = endpoints.iter().map(Endpoint::connect_lazy).collect();
    let mut silent = Vec::new();
    let mut reached = None;
    for (index, endpoint) in endpoints.iter().enumerate() {
        match endpoint.connect().await {
            Ok(channel) => {
                channels[index] = channel;
                reached = Some(index);
                break;
            }
            Err(error) => silent.push(chain(&error)),
        }
    }
    let reached = reached.ok_or_else(|| unreachable(context, &silent))?;
    let bearer = match context.token.as_deref() {
        None => Bearer(None),
        Some(token) => {
            let value = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
            let mut value = value.map_err(|_| Failure::usage("the token is not a token"))?;
            value.set_sensitive(true);
            Bearer(Some(value))
        }
    };
    Ok(AdminServiceClient::with_interceptor(Nodes::new(channels, reached), bearer)
        .max_decoding_message_size(64 * 1024 * 1024))
}

fn endpoint(context: &Context, addr: &str, timeout: Option<Duration>) -> Result<Endpoint, Failure> {
    let usage = |why: &str| Failure::Usage(format!("{addr} (from {}) {why}", context.source));
    let endpoint =
        Endpoint::from_shared(addr.to_owned()).map_err(|_| usage("is not an address"))?;
    let host = endpoint.uri().host().ok_or_else(|| usage("names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tls = ClientTlsConfig::new()
        .domain_name(host)
        .ca_certificates(authorities(context.ca.as_deref())?);
    let endpoint = endpoint
        .tls_config(tls)
        .map_err(|error| ca_failure(context.ca.as_deref(), &chain(&error)))?;
    let endpoint = endpoint
        .user_agent(concat!("countersign-cli/", env!("CARGO_PKG_VERSION")))
        .map_err(|_| usage("cannot be called"))?
        .connect_timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_while_idle(true);
    Ok(match timeout {
        Some(timeout) => endpoint.timeout(timeout),
        None => endpoint,
    })
}

fn authorities(ca: Option<&Path>) -> Result<Vec<Certificate>, Failure> {
    if let Some(path) = ca {
        let pem = std::fs::read(path).map_err(|error| ca_failure(ca, &error.to_string()))?;
        if !pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
            return Err(ca_failure(Some(path), "it holds no PEM certificate"));
        }
        return Ok(vec![Certificate::from_pem(pem)]);
    }
    let found = rustls_native_certs::load_native_certs();
    Ok(found.certs.iter().map(|der| Certificate::from_pem(pem(der))).collect())
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

fn ca_failure(ca: Option<&Path>, why: &str) -> Failure {
    match ca {
        Some(path) => {
            Failure::Usage(format!("the CA file {} cannot be used: {why}", path.display()))
        }
        None => Failure::Usage(format!(
            "the system's certificates cannot be used ({why}): set COUNTERSIGN_CA"
        )),
    }
}

/// `why` is of each node, in their order.
fn unreachable(context: &Context, why: &[String]) -> Failure {
    let advice = if why.iter().any(|why| why.contains("certificate")) {
        "is that the right address, and COUNTERSIGN_CA its authority?"
    } else {
        "is it running, and is the address right?"
    };
    let each = context.nodes.iter().zip(why);
    let said: Vec<_> =
        each.map(|(addr, why)| format!("{addr} cannot be reached ({why})")).collect();
    Failure::Unreachable(format!("{}: {advice}", said.join("; ")))
}

/// An error with what caused it, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        source = cause.source();
    }
    said
}
