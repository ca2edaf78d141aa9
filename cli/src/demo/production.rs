//! The API that the story is about: it has one key, keeps projects, and remembers every byte that it was sent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// A running API.
pub(super) struct Production {
    address: SocketAddr,
    authority: CertificateDer<'static>,
    ledger: Arc<Ledger>,
}

/// A request as it arrived.
#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) path: String,
    pub(super) body: Bytes,
    method: Method,
    authorization: Option<String>,
}

struct Ledger {
    key: Zeroizing<String>,
    deliveries: Mutex<Vec<Delivery>>,
    projects: Mutex<BTreeMap<u32, &'static str>>,
}

impl Production {
    /// Serves HTTPS on loopback as `host`, with an authority of its own.
    pub(super) async fn start(host: &str) -> anyhow::Result<Self> {
        let (authority, tls) = certificate(host)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("the production API cannot listen")?;
        let address = listener.local_addr()?;
        let ledger = Arc::new(Ledger {
            key: new_key(),
            deliveries: Mutex::default(),
            projects: Mutex::new([(41, "website"), (42, "old prototype"), (43, "billing")].into()),
        });
        tokio::spawn(serve(listener, tls, Arc::clone(&ledger)));
        Ok(Self { address, authority, ledger })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What signs its certificate.
    pub(super) fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The real key.
    pub(super) fn key(&self) -> &Zeroizing<String> {
        &self.ledger.key
    }

    /// What arrived with this method.
    pub(super) fn deliveries(&self, method: &str) -> Vec<Delivery> {
        self.ledger.all().into_iter().filter(|delivery| delivery.method == method).collect()
    }

    pub(super) fn all_had_the_real_key(&self) -> anyhow::Result<()> {
        let right = format!("Bearer {}", self.key().as_str());
        for delivery in self.ledger.all() {
            let Delivery { method, path, authorization, .. } = delivery;
            ensure!(
                authorization.as_deref() == Some(&right),
                "{method} {path} arrived without the real key"
            );
        }
        Ok(())
    }

    /// Whether this text arrived, in a key or in a body.
    pub(super) fn saw(&self, text: &str) -> bool {
        let within = |delivery: &Delivery| {
            let key = delivery.authorization.as_deref().unwrap_or_default().contains(text);
            key || delivery.path.contains(text)
                || String::from_utf8_lossy(&delivery.body).contains(text)
        };
        self.ledger.all().iter().any(within)
    }
}

impl Ledger {
    fn all(&self) -> Vec<Delivery> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return answer(StatusCode::BAD_REQUEST, "the body broke off");
        };
        let authorization =
            head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let delivery = Delivery {
            path: head.uri.path().to_owned(),
            body: body.to_bytes(),
            method: head.method.clone(),
            authorization: authorization.map(str::to_owned),
        };
        let known = delivery.authorization.as_deref()
            == Some(format!("Bearer {}", self.key.as_str()).as_str());
        let id = delivery.path.strip_prefix("/v1/projects/").and_then(|id| id.parse::<u32>().ok());
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
        if !known {
            return answer(StatusCode::UNAUTHORIZED, r#"{"error":"unknown key"}"#);
        }
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        let named = id.and_then(|id| Some((id, *projects.get(&id)?)));
        match (&head.method, named) {
            (&Method::GET, Some((id, name))) => {
                answer(StatusCode::OK, &format!(r#"{{"id":{id},"name":"{name}"}}"#))
            }
            (&Method::DELETE, Some((id, name))) => {
                projects.remove(&id);
                answer(StatusCode::OK, &format!(r#"{{"deleted":{id},"name":"{name}"}}"#))
            }
            _ => answer(StatusCode::NOT_FOUND, r#"{"error":"no such project"}"#),
        }
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, ledger: Arc<Ledger>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, ledger) = (tls.clone(), Arc::clone(&ledger));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(socket).await else { return };
            let service = service_fn(move |request| {
                let ledger = Arc::clone(&ledger);
                async move { Ok::<_, Infallible>(ledger.answer(request).await) }
            });
            // A connection that ends badly shows on the other side.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// Of the usual shape: a prefix, then letters and digits.
fn new_key() -> Zeroizing<String> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let dice = Zeroizing::new(rand::random::<[u8; 32]>());
    let letters = dice.iter().map(|die| char::from(ALPHABET[usize::from(*die) % ALPHABET.len()]));
    Zeroizing::new("sk_live_".chars().chain(letters).collect())
}

fn certificate(host: &str) -> anyhow::Result<(CertificateDer<'static>, TlsAcceptor)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate()?;
    let authority = params.self_signed(&authority_key)?.der().clone();
    let issuer = Issuer::new(params, authority_key);

    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &issuer)?;
    let private =
        PrivateKeyDer::try_from(key.serialize_der()).map_err(|why| anyhow::anyhow!(why))?;
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone(), authority.clone()], private)?;
    Ok((authority, TlsAcceptor::from(Arc::new(config))))
}
