//! The only door to the platforms: their own addresses, no redirects, bounded time and size.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use countersign_chat::{Answer, Auth, Call, Failure, Secret};
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderName};
use reqwest::redirect;
use rustls::RootCertStore;
use zeroize::Zeroizing;

/// A call that takes longer has failed. Polls wait on the other side for most of it.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL_PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_BYTES: usize = 8 * 1024 * 1024;

#[derive(Clone)]
pub(crate) struct Client(reqwest::Client);

impl Client {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(3))
            .user_agent("countersign")
            .build()?;
        Ok(Self(client))
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
            Auth::InPath(secret) => url = Zeroizing::new(url.replace("{secret}", secret.expose())),
            // It was signed above.
            Auth::None | Auth::Signed { .. } => {}
        }
        let patience = if is_poll { POLL_PATIENCE } else { PATIENCE };
        let request = self.0.request(call.method, url.as_str()).headers(headers).body(call.body);
        let response = request.timeout(patience).send().await.map_err(|error| unreached(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read(response).await?;
        Ok(Answer { status, headers, body })
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
        "the platform cannot be reached"
    } else {
        "the connection to the platform broke"
    };
    Failure::Later { after: None, why: why.into() }
}
