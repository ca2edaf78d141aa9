//! The only door to the platforms: their own addresses, no redirects, bounded time and size.

mod mail;

pub(crate) use mail::Unhanded;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use countersign_chat::{Address, Answer, Auth, Call, Failure, Mail, Relay, Secret};
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderName};
use reqwest::redirect;
use rustls::RootCertStore;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::either::Either;
use zeroize::Zeroizing;

/// A call that takes longer has failed. Polls wait on the other side for most of it.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL_PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// A message that comes over a connection; what people say is far smaller.
const FRAME_BYTES: usize = 1024 * 1024;
/// What a call comes to that never got there.
pub(super) const UNREACHED: &str = "the platform cannot be reached";

#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    tls: TlsConnector,
}

/// Open to a platform, until one of both leaves.
pub(crate) type Connection = WebSocketStream<Either<TlsStream<TcpStream>, TcpStream>>;

impl Client {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(tls.clone()));
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(3))
            .user_agent("countersign")
            .build()?;
        Ok(Self { http, tls: connector })
    }

    /// Sends a call to one of `bases` and nowhere else. `granted` is the access token, for calls that want one.
    pub(crate) async fn send(
        &self,
        call: Call,
        bases: &[String],
        granted: Option<&Secret>,
        is_poll: bool,
    ) -> Result<Answer, Failure> {
        let within = |base: &String| {
            call.url
                .strip_prefix(base.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        };
        if !bases.iter().any(within) {
            return Err(Failure::Never {
                why: "the call is to none of the channel's addresses".into(),
            });
        }
        let call = call.signed(SystemTime::now())?;
        let mut headers = call.headers;
        let mut url = Zeroizing::new(call.url);
        let bearer = |secret: &Secret| header(&format!("Bearer {}", secret.expose()));
        match &call.auth {
            Auth::Basic(name, secret) => {
                let pair = Zeroizing::new(format!("{name}:{}", secret.expose()));
                let encoded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
                headers.insert(AUTHORIZATION, header(&format!("Basic {}", *encoded))?);
            }
            Auth::Bearer(secret) => drop(headers.insert(AUTHORIZATION, bearer(secret)?)),
            Auth::Granted => {
                let none =
                    || Failure::Later { after: None, why: "there is no access token".into() };
                headers.insert(AUTHORIZATION, bearer(granted.ok_or_else(none)?)?);
            }
            Auth::Header(name, secret) => {
                headers.insert(HeaderName::clone(name), header(secret.expose())?);
            }
            Auth::Sealed { .. } => {
                return Err(Failure::Never { why: "nothing was sent: it is not sealed".into() });
            }
            Auth::InPath(secret) => url = Zeroizing::new(url.replace("{secret}", secret.expose())),
            // It was signed above.
            Auth::None | Auth::Signed { .. } => {}
        }
        let patience = if is_poll { POLL_PATIENCE } else { PATIENCE };
        let request = self.http.request(call.method, url.as_str()).headers(headers).body(call.body);
        let response = request.timeout(patience).send().await.map_err(|error| unreached(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read(response).await?;
        Ok(Answer { status, headers, body })
    }

    /// Hands a mail to a channel's own server.
    pub(crate) async fn mail(&self, mail: &Mail, relay: &Relay) -> Result<(), Unhanded> {
        let letter = mail.written(SystemTime::now());
        let letter = letter.map_err(|failure| Unhanded { failure, in_doubt: false })?;
        mail::hand(&self.tls, relay, &letter).await
    }

    /// Opens a connection to an address, which is known to be one of the platform's.
    pub(crate) async fn dial(&self, address: &Address) -> Result<Connection, Failure> {
        let later = |why: &str| Failure::Later { after: None, why: why.into() };
        let unreached = || later(UNREACHED);
        let dial = async {
            let tcp = TcpStream::connect((address.host(), address.port()));
            let tcp = tcp.await.map_err(|_| unreached())?;
            let stream = if address.tls() {
                let name = ServerName::try_from(address.host().to_owned());
                let name = name.map_err(|_| unreached())?;
                let tls = self.tls.connect(name, tcp).await.map_err(|_| unreached())?;
                Either::Left(tls)
            } else {
                Either::Right(tcp)
            };
            let refused = || later("the platform does not take the connection");
            let request = address.expose().into_client_request().map_err(|_| refused())?;
            let bounds = WebSocketConfig::default()
                .max_message_size(Some(FRAME_BYTES))
                .max_frame_size(Some(FRAME_BYTES));
            // The address may hold a ticket: an error of the library is told without it.
            let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(bounds));
            opened.await.map(|(connection, _)| connection).map_err(|_| refused())
        };
        timeout(PATIENCE, dial)
            .await
            .unwrap_or_else(|_| Err(later("the platform did not answer in time")))
    }
}

async fn read(mut response: reqwest::Response) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreached(&error))? {
        if body.len() + chunk.len() > ANSWER_BYTES {
            return Err(Failure::Never {
                why: "the platform's answer is larger than 8 MiB".into(),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn header(value: &str) -> Result<HeaderValue, Failure> {
    let mut header = HeaderValue::from_str(value).map_err(|_| Failure::Never {
        why: "a secret of the channel has characters that no header can carry".into(),
    })?;
    header.set_sensitive(true);
    Ok(header)
}

/// The address may hold a secret: an error of the library is told without it.
fn unreached(error: &reqwest::Error) -> Failure {
    let why = if error.is_timeout() {
        "the platform did not answer in time"
    } else if error.is_connect() {
        UNREACHED
    } else {
        "the connection to the platform broke"
    };
    Failure::Later { after: None, why: why.into() }
}
