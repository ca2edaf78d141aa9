//! The agent's side of TLS: a leaf certificate for the name that was asked for, signed by this edge's own authority.
//! It knows nothing of policies: whoever calls it has decided that the name may be served.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use countersign_gate::Destination;
use moka::future::Cache;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls;

/// A client that has not finished its handshake by then is not served.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Who steals the authority's key has it for no longer than this.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600 - 2 * 3600);
/// Clocks of agents run behind.
const BACKDATED: Duration = Duration::from_secs(3600);
/// A leaf is served for half its life at most.
const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const LEAF_SERVED: Duration = Duration::from_secs(12 * 3600);
const LEAVES: u64 = 1024;

/// This edge's certificate authority. Its key is made here, stays in memory, and goes when the process goes.
pub struct Authority {
    minter: Arc<Minter>,
    pem: String,
    leaves: Cache<String, Arc<ServerConfig>>,
}

impl Authority {
    /// A fresh authority, named after the edge.
    ///
    /// # Errors
    /// When the machine has no randomness to make a key from.
    pub fn generate(edge: &str) -> anyhow::Result<Self> {
        let now = SystemTime::now();
        let not_after = now + AUTHORITY_LIFETIME;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .context("making the edge authority's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // Two starts of one edge are two authorities: with the same name, clients would try the wrong key.
        let start = hex::encode(rand::random::<[u8; 4]>());
        params.distinguished_name.push(DnType::OrganizationName, "Countersign");
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Countersign edge {edge} {start}"));
        params.not_before = (now - BACKDATED).into();
        params.not_after = not_after.into();
        params.serial_number = Some(random_serial());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate =
            params.self_signed(&key).context("signing the edge authority's certificate")?;
        let pem = certificate.pem();

        let leaf_key =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making the leaf key")?;
        let signing =
            aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into()))
                .context("loading the leaf key")?;
        let minter = Minter {
            issuer: Issuer::new(params, key),
            not_after,
            leaf_key,
            signing,
            base: base_config()?,
            minted: AtomicU64::new(0),
        };
        let leaves = Cache::builder().max_capacity(LEAVES).time_to_live(LEAF_SERVED).build();
        Ok(Self { minter: Arc::new(minter), pem, leaves })
    }

    /// The certificate that agents are to trust.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// How many leaves were signed since the start.
    pub fn minted(&self) -> u64 {
        self.minter.minted.load(Ordering::Relaxed)
    }

    /// Whether a leaf for this host is at hand, so that none has to be signed.
    pub(crate) fn has(&self, host: &str) -> bool {
        self.leaves.contains_key(host)
    }

    /// How many leaves are at hand. An exact figure, for which pending evictions are carried out first.
    pub async fn cached(&self) -> u64 {
        self.leaves.run_pending_tasks().await;
        self.leaves.entry_count()
    }

    /// TLS with an agent that asked for a tunnel to `destination`. Nothing is signed before the client has said
    /// which name it wants, and only for the name that the tunnel was asked for.
    ///
    /// # Errors
    /// The connection is then of no more use and is closed by dropping it.
    pub async fn accept<S>(
        &self,
        stream: S,
        destination: &Destination,
    ) -> Result<TlsStream<S>, NotIntercepted>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tokio::time::timeout(HANDSHAKE_LIMIT, self.handshake(stream, destination))
            .await
            .unwrap_or(Err(NotIntercepted::Timeout))
    }

    async fn handshake<S>(
        &self,
        stream: S,
        destination: &Destination,
    ) -> Result<TlsStream<S>, NotIntercepted>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let hello =
            LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(read_failure)?;
        // Clients that dial an address send no name; an address written as a name counts as none.
        if let Some(asked) = hello.client_hello().server_name()
            && !asked.eq_ignore_ascii_case(destination.host())
        {
            return Err(NotIntercepted::ServerName {
                asked: asked.into(),
                tunnel: destination.host().into(),
            });
        }
        let config = self.leaf(destination.host()).await?;
        hello.into_stream(config).await.map_err(|e| NotIntercepted::Handshake(e.to_string()))
    }

    /// TLS with an agent that came to a listener of its own for one protocol, named `alpn`: with the leaf of the name that
    /// it asks for, if that is one of `names` or `localhost`, and else with that of `address`.
    ///
    /// # Errors
    /// As [`Authority::accept`].
    pub(crate) async fn accept_named<S>(
        &self,
        stream: S,
        names: &[String],
        address: &str,
        alpn: &[u8],
    ) -> Result<TlsStream<S>, NotIntercepted>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shaken = async {
            let hello =
                LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(read_failure)?;
            let asked = hello.client_hello().server_name().map(str::to_ascii_lowercase);
            let known = |asked: &String| asked == "localhost" || names.contains(asked);
            let name = asked.filter(known).unwrap_or_else(|| address.to_owned());
            let mut config = ServerConfig::clone(&*self.leaf(&name).await?);
            config.alpn_protocols = vec![alpn.to_vec()];
            // Nothing is resumed: what a ticket of another protocol would be good for is not asked.
            config.send_tls13_tickets = 0;
            hello
                .into_stream(Arc::new(config))
                .await
                .map_err(|e| NotIntercepted::Handshake(e.to_string()))
        };
        tokio::time::timeout(HANDSHAKE_LIMIT, shaken).await.unwrap_or(Err(NotIntercepted::Timeout))
    }

    async fn leaf(&self, host: &str) -> Result<Arc<ServerConfig>, NotIntercepted> {
        if let Some(config) = self.leaves.get(host).await {
            return Ok(config);
        }
        let minter = self.minter.clone();
        let name = host.to_owned();
        let mint = async move {
            tokio::task::spawn_blocking(move || minter.mint(&name))
                .await
                .map_err(anyhow::Error::from)?
        };
        self.leaves
            .try_get_with_by_ref(host, mint)
            .await
            .map_err(|e| NotIntercepted::Handshake(format!("no certificate could be made: {e:#}")))
    }
}

/// Why an agent's connection was not taken over. Display says it as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotIntercepted {
    Handshake(String),
    NotTls,
    ServerName { asked: String, tunnel: String },
    Timeout,
}

impl fmt::Display for NotIntercepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake(why) => write!(f, "the TLS handshake with the agent failed: {why}"),
            Self::NotTls => f.write_str(
                "what came through the tunnel is not TLS, and nothing else is let through",
            ),
            Self::ServerName { asked, tunnel } => {
                write!(f, "the tunnel is to {tunnel}, but TLS in it asked for {asked}")
            }
            Self::Timeout => {
                write!(
                    f,
                    "the TLS handshake was not complete after {} s",
                    HANDSHAKE_LIMIT.as_secs()
                )
            }
        }
    }
}

impl std::error::Error for NotIntercepted {}

fn read_failure(error: io::Error) -> NotIntercepted {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => NotIntercepted::NotTls,
        _ => NotIntercepted::Handshake(error.to_string()),
    }
}

/// What signs leaves. Every leaf has the same key, which is not the authority's.
struct Minter {
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
    leaf_key: KeyPair,
    signing: Arc<dyn rustls::sign::SigningKey>,
    base: ServerConfig,
    minted: AtomicU64,
}

impl Minter {
    fn mint(&self, host: &str) -> anyhow::Result<Arc<ServerConfig>> {
        let now = SystemTime::now();
        anyhow::ensure!(
            now < self.not_after,
            "this edge's authority has expired: restart the edge for a new one"
        );
        let mut params = CertificateParams::new([host.to_owned()]).context("naming the leaf")?;
        params.distinguished_name = DistinguishedName::new();
        if host.len() <= 64 {
            params.distinguished_name.push(DnType::CommonName, host); // X.520's bound; the SAN is what counts
        }
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + LEAF_LIFETIME).min(self.not_after).into();
        params.serial_number = Some(random_serial());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&self.leaf_key, &self.issuer).context("signing the leaf")?;
        self.minted.fetch_add(1, Ordering::Relaxed);

        let mut config = self.base.clone();
        config.cert_resolver = Arc::new(Only(Arc::new(CertifiedKey::new(
            vec![leaf.der().clone()],
            self.signing.clone(),
        ))));
        Ok(Arc::new(config))
    }
}

/// What all leaves share, session tickets included: a client resumes within its own server name only.
fn base_config() -> anyhow::Result<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .context("setting up TLS for agents")?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Nothing));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Clients put what is strongest first, whatever it costs us.
    config.ignore_client_order = true;
    config.ticketer = aws_lc_rs::Ticketer::new().context("making the session ticket key")?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// Distinct for every certificate: clients refuse two of one issuer with one number.
fn random_serial() -> SerialNumber {
    let mut serial = rand::random::<[u8; 16]>();
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and of full length
    SerialNumber::from_slice(&serial)
}

#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[derive(Debug)]
struct Nothing;

impl ResolvesServerCert for Nothing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}
