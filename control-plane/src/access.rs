//! Who may call what: the first thing that every call on the admin listener meets.
//!
//! A call is authenticated (`authorization: Bearer TOKEN`, by a linearizable read), then authorised by the method's
//! line in [`who_may`], then handed on with an `Admitted` in its extensions: the proof that handlers ask for.
//! What has no line is refused. The path that is looked up is the very one that the router compares, whole, so
//! there is no second spelling of a method that reaches it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;
use tracing::Instrument as _;

use crate::cluster::Cluster;
use crate::node::{Node, Unsealed};
use crate::operator::refuse;
use crate::state::{Actor, Command, Role, State};
use crate::telemetry;

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever reaches the listener, sealed or not.
    Anyone,
    /// Every active principal with at least one of these roles.
    Roles(&'static [Role]),
}

const ADMIN: Who = Who::Roles(&[Role::Admin]);
const ALL: Who = Who::Roles(&[Role::Admin, Role::Approver, Role::Auditor]);
const READERS: Who = Who::Roles(&[Role::Admin, Role::Auditor]);

/// Who may call the method with this full path; None is nobody.
pub fn who_may(path: &str) -> Option<Who> {
    Some(match path.strip_prefix("/countersign.v1.AdminService/") {
        Some(method) => match method {
            "GetSealStatus" | "InitCluster" | "JoinCluster" | "Unseal" => Who::Anyone,

            "ExplainPolicy" | "GetApproval" | "GetPolicy" | "GetStatus" | "ListApprovals"
            | "ListGrants" | "WatchApprovals" | "WhoAmI" => ALL,

            // Of oneself; what is an administrator's beside is checked where it is applied.
            "SetApproverAway" | "StartAccountLink" | "UnlinkAccount" => ALL,

            "CreateGrant" | "SupportGrant" | "VoteApproval" => Who::Roles(&[Role::Approver]),
            "RevokeGrant" => Who::Roles(&[Role::Admin, Role::Approver]),

            "ExportAudit" | "GetCluster" | "GetTrust" | "ListAgents" | "ListApprovers"
            | "ListAudit" | "ListChanges" | "ListChannels" | "ListCredentials"
            | "ListDeliveries" | "ListEdges" | "VerifyAudit" => READERS,

            "AddApprover"
            | "AddNode"
            | "AuthorizeRekey"
            | "BackupCluster"
            | "CancelApproval"
            | "CancelRekey"
            | "ConfirmChange"
            | "ConfirmClock"
            | "CreateAgent"
            | "CreateCredential"
            | "EnrollEdge"
            | "EvictEdge"
            | "FinishCaRotation"
            | "FinishEdgeCaRotation"
            | "RejectChange"
            | "RemoveApprover"
            | "RemoveChannel"
            | "RemoveNode"
            | "RevokeAgent"
            | "RevokeCredential"
            | "RotateAgent"
            | "RotateApproverToken"
            | "RotateCa"
            | "RotateCredential"
            | "RotateEdgeCa"
            | "RotateKeyring"
            | "RotateSigningKey"
            | "Seal"
            | "SetAgentOwner"
            | "SetApproverGroups"
            | "SetChannel"
            | "SetPolicy"
            | "SetTrust"
            | "StartRekey"
            | "TestChannel"
            | "TransferLeadership"
            | "VerifyRekey" => ADMIN,

            _ => return None,
        },
        None => match path {
            "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch" => Who::Anyone,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => ALL,
            _ => return None,
        },
    })
}

/// Who calls: a principal that was active when the call came in.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) groups: BTreeSet<String>,
}

/// A call that was authenticated and authorised. Made here alone.
#[derive(Clone)]
pub(crate) struct Admitted {
    pub(crate) caller: Caller,
    /// The node's rooms, which are there only while it is unsealed.
    pub(crate) house: Arc<Unsealed>,
    /// Nobody could say whether the caller is one still: what is answered is what this node has.
    pub(crate) stale: bool,
    _made_here: (),
}

/// The layer around every service of the admin listener.
#[derive(Clone)]
pub(crate) struct Access<S> {
    node: Arc<Node>,
    inner: S,
}

impl<S> Access<S> {
    pub(crate) fn around(inner: S, node: Arc<Node>) -> Self {
        Self { node, inner }
    }
}

/// No call that answers once takes longer; the ones that stream have begun to answer by then.
const PATIENCE: Duration = Duration::from_secs(30);

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let node = self.node.clone();
        // The one that was polled ready is the one to call.
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let who = who_may(request.uri().path());
        let method =
            if who.is_some() { request.uri().path()[1..].to_owned() } else { "unknown".to_owned() };
        let span = tracing::info_span!("admin call", otel.name = %method, otel.kind = "server", rpc.system = "grpc", principal = tracing::field::Empty);
        telemetry::continue_trace(&span, request.headers());
        let answer = async move {
            let answered = tokio::time::timeout(PATIENCE, async {
                match admit(&node, who, &mut request).await {
                    Ok(()) => inner.call(request).await,
                    Err(status) => Ok(status.into_http()),
                }
            });
            let Ok(response) = answered.await.unwrap_or_else(|_| Ok(too_slow().into_http()));
            let code = response
                .headers()
                .get("grpc-status")
                .and_then(|code| code.to_str().ok())
                .unwrap_or("0");
            node.metrics.calls.with_label_values(&[method.as_str(), code]).inc();
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

/// Finds out who calls and whether they may, and says so in the request's extensions.
async fn admit(node: &Node, who: Option<Who>, request: &mut Request<Body>) -> Result<(), Status> {
    // Whatever a client says of itself comes as metadata; extensions are ours.
    request.extensions_mut().remove::<Admitted>();
    if who == Some(Who::Anyone) {
        return Ok(());
    }
    let though_stale = is_about_the_cluster(request);
    let found = find_out(node, request.headers(), though_stale).await;
    let (house, caller, stale) = found.inspect_err(|status| {
        if let Some(method) = about_the_seal(request) {
            node.attempts.note("seal.refused", format!("{method}: {}", status.message()));
        }
    })?;
    tracing::Span::current().record("principal", &caller.name);
    match who {
        Some(Who::Roles(roles)) if roles.iter().any(|role| caller.roles.contains(role)) => {}
        Some(Who::Roles(roles)) => {
            let needed = roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            let message = format!("{} may not do this: it takes the role {needed}", caller.name);
            if let Some(method) = about_the_seal(request) {
                record(node, &house.cluster, &caller, method, &message).await;
            }
            return Err(refuse::because(Code::PermissionDenied, "ROLE_NEEDED", message));
        }
        _ => {
            return Err(refuse::because(
                Code::PermissionDenied,
                "UNKNOWN_METHOD",
                "there is no such method, or nobody may call it",
            ));
        }
    }
    request.extensions_mut().insert(Admitted { caller, house, stale, _made_here: () });
    Ok(())
}

/// Who calls; and whether that is only as far as this node knows.
async fn find_out(
    node: &Node,
    headers: &HeaderMap,
    though_stale: bool,
) -> Result<(Arc<Unsealed>, Caller, bool), Status> {
    // While sealed nobody can be told from anybody.
    let house = node.unsealed().ok_or_else(refuse::sealed)?;
    let token = bearer(headers)?;
    match authenticate(&house.cluster, &token).await {
        Ok(caller) => Ok((house, caller, false)),
        Err(status) if status.code() == Code::Unavailable && though_stale => {
            let caller = house.cluster.peek(|state| known(state, &token)).ok_or(status)?;
            Ok((house, caller, true))
        }
        Err(status) => Err(status),
    }
}

/// Lets in whoever holds a browser's session, by the token that it was begun with.
pub(crate) async fn admit_session(
    house: Arc<Unsealed>,
    token_sha256: &[u8; 32],
) -> Result<Admitted, Status> {
    let caller = authenticate(&house.cluster, token_sha256).await?;
    Ok(Admitted { caller, house, stale: false, _made_here: () })
}

/// The SHA-256 of the one bearer token in the headers.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<[u8; 32], Status> {
    let mut given = headers.get_all(http::header::AUTHORIZATION).iter();
    let token = match (given.next(), given.next()) {
        (Some(value), None) => value.as_bytes().split_at_checked("Bearer ".len()),
        _ => None,
    };
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty() => {
            Ok(Sha256::digest(token).into())
        }
        _ => Err(unauthenticated(
            "nobody was authenticated: send one header `authorization: Bearer TOKEN` (COUNTERSIGN_TOKEN for the CLI)",
        )),
    }
}

/// The active principal whose token has this SHA-256.
pub(crate) async fn authenticate(
    cluster: &Cluster,
    token_sha256: &[u8; 32],
) -> Result<Caller, Status> {
    let found = cluster.read(|state| known(state, token_sha256)).await;
    let found = found.map_err(|e| refuse::unavailable(&e))?;
    found.ok_or_else(|| {
        unauthenticated("the token is not in force: it is mistyped, was rotated or its principal was removed; ask an administrator for a new one")
    })
}

/// The active principal with this token, as far as this node knows.
fn known(state: &State, token_sha256: &[u8; 32]) -> Option<Caller> {
    let mut found = None;
    // All of them, so that the time it takes says nothing of which one it was.
    for principal in state.principals() {
        let fits: bool = principal.token_sha256.ct_eq(token_sha256).into();
        if fits && principal.active {
            let (name, roles, groups) =
                (principal.name.clone(), principal.roles.clone(), principal.groups.clone());
            found = Some(Caller { name, roles, groups });
        }
    }
    found
}

/// What is asked when a node has lost the others, and must be answered just then: it shows addresses and progress to
/// whoever was allowed to see them when the node last heard of it.
fn is_about_the_cluster(request: &Request<Body>) -> bool {
    matches!(
        request.uri().path(),
        "/countersign.v1.AdminService/GetCluster" | "/countersign.v1.AdminService/GetStatus"
    )
}

/// Whoever tries these is on record, even whom they are refused to.
fn about_the_seal(request: &Request<Body>) -> Option<&str> {
    let method = request.uri().path().strip_prefix("/countersign.v1.AdminService/")?;
    matches!(
        method,
        "AuthorizeRekey" | "CancelRekey" | "RotateKeyring" | "Seal" | "StartRekey" | "VerifyRekey"
    )
    .then_some(method)
}

async fn record(node: &Node, cluster: &Cluster, caller: &Caller, method: &str, why: &str) {
    let details = vec![("method".into(), method.into()), ("why".into(), why.into())];
    let note = Command::Note { action: "seal.refused".into(), subject: "seal".into(), details };
    if let Err(error) = cluster.propose(Actor::Principal(caller.name.clone()), note).await {
        tracing::warn!(%error, method, "a refusal is recorded later");
        node.attempts.note("seal.refused", format!("{method}: {why}"));
    }
}

fn unauthenticated(message: &str) -> Status {
    refuse::because(Code::Unauthenticated, "TOKEN_NEEDED", message)
}

fn too_slow() -> Status {
    let message = format!(
        "it took longer than {} s: whether it was done is not known; ask again with the same request_id",
        PATIENCE.as_secs()
    );
    refuse::because(Code::DeadlineExceeded, "TOO_SLOW", message)
}
