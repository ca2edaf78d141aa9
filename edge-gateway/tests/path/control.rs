//! A control plane in memory: it signs, seals and remembers, and decides nothing by itself. Its nodes share all of that.

mod digests;
mod face;
mod nodes;
mod secrets;
mod signing;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use countersign_edge_gateway::clock::Clock;
use countersign_gate as gate;
use countersign_proto::v1 as pb;
use countersign_proto::v1::attach_response::Message as Say;
use ed25519_dalek::SigningKey;
use prost::Message as _;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tonic::Status;

use crate::world::Authority;
pub(crate) use secrets::{HOOK, SECRETS, secret};

pub(crate) const TOKEN: &str = "agent-token-0123456789";
/// Of the second agent, "other".
pub(crate) const OTHER_TOKEN: &str = "other-token-9876543210";
pub(crate) const CLUSTER: &str = "cluster-1";

/// A request that the edge holds.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) head: pb::OpenHead,
    pub(crate) body: Vec<u8>,
}

/// What was said, by kind.
struct Ears<T> {
    sender: mpsc::Sender<T>,
    receiver: AsyncMutex<mpsc::Receiver<T>>,
}

impl<T> Ears<T> {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel(4096);
        Self { sender, receiver: AsyncMutex::new(receiver) }
    }

    async fn next(&self, what: &str) -> T {
        let mut receiver = self.receiver.lock().await;
        tokio::time::timeout(Duration::from_secs(20), receiver.recv())
            .await
            .unwrap_or_else(|_| panic!("no {what}"))
            .expect(what)
    }

    /// What has been said already, if anything.
    async fn heard(&self) -> Option<T> {
        self.receiver.lock().await.try_recv().ok()
    }
}

/// Answers a renewal.
type Renewal = Box<dyn FnOnce(&Authority, &str) -> String + Send>;

struct Inner {
    signers: Vec<SigningKey>,
    root: SigningKey,
    clock: Clock,
    authority: Authority,
    trust: Mutex<gate::Trust>,
    state: Mutex<pb::EdgeState>,
    edge_key: Mutex<[u8; 32]>,
    edge_certificate: Mutex<Vec<u8>>,
    session: Mutex<Option<Session>>,
    /// By node: what it answers instead of a session.
    refusals: Mutex<Vec<Option<Status>>>,
    evicts: Mutex<bool>,
    sends_bundles: Mutex<bool>,
    /// What HelloAck says of the nodes' addresses.
    named: Mutex<Vec<String>>,
    renewal: Mutex<Option<Renewal>>,
    grant_leases: Mutex<bool>,
    ignore_leases: Mutex<bool>,
    lease_ttl_ms: Mutex<u64>,
    opens: Ears<Open>,
    receipts: Ears<pb::ExecutionReceipt>,
    alarms: Ears<pb::Alarm>,
    cancelled: Ears<pb::HeldCancelled>,
    hellos: Ears<pb::EdgeHello>,
    leases: Ears<pb::LeaseRequest>,
    asks: Ears<pb::AskApprovals>,
    pongs: Ears<pb::Pong>,
    renewals: Ears<String>,
}

#[derive(Clone)]
struct Session {
    say: mpsc::Sender<Result<pb::AttachResponse, Status>>,
    node: usize,
    hello: pb::EdgeHello,
    sequence: Arc<Mutex<u64>>,
    heard: Arc<Mutex<u64>>,
}

#[derive(Clone)]
pub(crate) struct Control {
    inner: Arc<Inner>,
    nodes: Arc<Vec<nodes::Node>>,
}

impl Control {
    /// One node.
    pub(crate) async fn start(authority: &Authority) -> Self {
        Self::cluster(authority, authority, 1, 1, Clock::system()).await
    }

    pub(crate) fn root_key(&self) -> [u8; 32] {
        self.inner.root.verifying_key().to_bytes()
    }

    pub(crate) async fn open(&self) -> Open {
        self.inner.opens.next("request held").await
    }

    /// Whether anything was announced that nobody has looked at.
    pub(crate) async fn opened(&self) -> Option<Open> {
        self.inner.opens.heard().await
    }

    pub(crate) async fn receipt(&self) -> pb::ExecutionReceipt {
        self.inner.receipts.next("receipt").await
    }

    pub(crate) async fn received(&self) -> Option<pb::ExecutionReceipt> {
        self.inner.receipts.heard().await
    }

    pub(crate) async fn alarm(&self) -> pb::Alarm {
        self.inner.alarms.next("alarm").await
    }

    pub(crate) async fn alarmed(&self) -> Option<pb::Alarm> {
        self.inner.alarms.heard().await
    }

    pub(crate) async fn cancelled(&self) -> pb::HeldCancelled {
        self.inner.cancelled.next("cancellation").await
    }

    pub(crate) async fn hello(&self) -> pb::EdgeHello {
        self.inner.hellos.next("hello").await
    }

    pub(crate) async fn lease_asked(&self) -> Option<pb::LeaseRequest> {
        self.inner.leases.heard().await
    }

    pub(crate) fn grant_leases(&self, grant: bool) {
        *self.inner.grant_leases.lock().expect("no panic") = grant;
    }

    pub(crate) fn ignore_leases(&self, ignore: bool) {
        *self.inner.ignore_leases.lock().expect("no panic") = ignore;
    }

    pub(crate) fn lend_for(&self, ttl_ms: u64) {
        *self.inner.lease_ttl_ms.lock().expect("no panic") = ttl_ms;
    }

    pub(crate) async fn hang_up_after_evicting(&self) {
        self.refuse(Some(Status::permission_denied("this edge was evicted")));
        self.inner.say(Say::Evicted(pb::Evicted { reason: "by the test".into() })).await;
    }

    /// Ends the session; with a status, refuses the next ones.
    pub(crate) fn hang_up(&self, refuse: Option<Status>) {
        self.refuse(refuse);
        self.inner.session.lock().expect("no panic").take();
    }

    pub(crate) fn answer_again(&self) {
        self.refuse(None);
    }

    /// Changes what edges decide with, and says so.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut pb::EdgeState)) {
        let state = {
            let mut state = self.inner.state.lock().expect("no panic");
            state.revision += 1;
            change(&mut state);
            state.clone()
        };
        self.inner.say(Say::Bundle(self.inner.bundle(&state))).await;
    }

    /// Sends a bundle as it is, signed by these.
    pub(crate) async fn bundle_by(&self, signers: &[&SigningKey], state: &pb::EdgeState) {
        let envelope = signing::envelope_by(signers, signing::BUNDLE_TYPE, state.encode_to_vec());
        self.inner.say(Say::Bundle(pb::EdgeBundle { envelope: Some(envelope) })).await;
    }

    pub(crate) fn state(&self) -> pb::EdgeState {
        self.inner.state.lock().expect("no panic").clone()
    }

    pub(crate) async fn opened_as(&self, open: &Open, approval_id: &[u8; 16]) {
        self.inner
            .say(Say::Opened(pb::Opened {
                request_id: open.head.request_id.clone(),
                approval_id: Bytes::copy_from_slice(approval_id),
                expires_at_unix_ms: 0,
            }))
            .await;
    }

    pub(crate) async fn settle(&self, open: &Open, reason: pb::SettledReason, detail: &str) {
        self.inner
            .say(Say::Settled(pb::Settled {
                request_id: open.head.request_id.clone(),
                approval_id: Bytes::copy_from_slice(&[1; 16]),
                reason: reason.into(),
                detail: detail.into(),
            }))
            .await;
    }

    pub(crate) async fn reopen(&self, open: &Open) {
        self.inner.say(Say::Reopen(pb::Reopen { request_id: open.head.request_id.clone() })).await;
    }

    /// A release as it should be.
    pub(crate) async fn release(&self, open: &Open) {
        self.say_decision(self.decision(open, |_| {})).await;
    }

    /// A signed decision about `open`, after `change` has been at it.
    pub(crate) fn decision(
        &self,
        open: &Open,
        change: impl FnOnce(&mut gate::Decision),
    ) -> pb::Decision {
        self.inner.decision(open, change)
    }

    pub(crate) async fn say_decision(&self, decision: pb::Decision) {
        self.inner.say(Say::Decision(decision)).await;
    }

    /// The same decision with the signatures of these keys alone.
    pub(crate) fn decision_by(&self, open: &Open, signers: &[&SigningKey]) -> pb::Decision {
        let mut decision = self.decision(open, |_| {});
        let payload = decision.envelope.take().expect("an envelope").payload.to_vec();
        decision.envelope = Some(signing::envelope_by(signers, gate::DECISION_TYPE, payload));
        decision
    }

    /// The signing key of a node, as the trust bundle lists it.
    pub(crate) fn signer(&self, node: usize) -> &SigningKey {
        &self.inner.signers[node]
    }

    pub(crate) fn trust(&self) -> gate::Trust {
        self.inner.trust.lock().expect("no panic").clone()
    }

    /// Whom edges trust from now on: they are told at once, and whoever attaches is.
    pub(crate) async fn set_trust(&self, change: impl FnOnce(&mut gate::Trust)) {
        self.prepare_trust(|trust| {
            trust.epoch += 1;
            change(trust);
        });
        self.say_trust(&self.trust()).await;
    }

    /// The same without telling those that are attached.
    pub(crate) fn prepare_trust(&self, change: impl FnOnce(&mut gate::Trust)) {
        change(&mut self.inner.trust.lock().expect("no panic"));
    }

    /// Sends a trust bundle as it is, signed by the root key.
    pub(crate) async fn say_trust(&self, trust: &gate::Trust) {
        self.inner.say(Say::TrustBundle(self.inner.trust_bundle(trust))).await;
    }

    /// Tells the edge the time; it has heard it when this returns.
    pub(crate) async fn tell_time(&self, log_time_ms: u64) {
        while self.inner.pongs.heard().await.is_some() {}
        self.inner.say(Say::Ping(pb::Ping { log_time_unix_ms: log_time_ms })).await;
        self.inner.pongs.next("pong").await;
    }

    /// What an agent asks about its approvals.
    pub(crate) async fn asked(&self) -> pb::AskApprovals {
        self.inner.asks.next("question about approvals").await
    }

    /// One that was asked already, if any.
    pub(crate) async fn was_asked(&self) -> Option<pb::AskApprovals> {
        self.inner.asks.heard().await
    }

    /// Answers it.
    pub(crate) async fn tell(&self, asked: &pb::AskApprovals, approvals: Vec<pb::AgentApproval>) {
        let ask_id = asked.ask_id;
        let answer = pb::ApprovalsAnswer { ask_id, approvals, unavailable: false };
        self.inner.say(Say::ApprovalsAnswer(answer)).await;
    }

    /// Answers it as a node that cannot read the newest state.
    pub(crate) async fn cannot_tell(&self, asked: &pb::AskApprovals) {
        let (ask_id, approvals) = (asked.ask_id, Vec::new());
        let answer = pb::ApprovalsAnswer { ask_id, approvals, unavailable: true };
        self.inner.say(Say::ApprovalsAnswer(answer)).await;
    }

    /// The certificate request of a renewal.
    pub(crate) async fn renewal(&self) -> String {
        self.inner.renewals.next("renewal").await
    }

    /// One that was asked for already, if any.
    pub(crate) async fn renewal_asked(&self) -> Option<String> {
        self.inner.renewals.heard().await
    }

    /// The next lease that is asked for.
    pub(crate) async fn lease_wanted(&self) -> pb::LeaseRequest {
        self.inner.leases.next("request for a lease").await
    }

    /// Another CA signs certificates: the edge is to renew its own.
    pub(crate) async fn renew_now(&self) {
        self.inner.say(Say::RenewNow(pb::RenewNow {})).await;
    }

    /// Nodes came or went.
    pub(crate) async fn nodes_are(&self, addresses: Vec<String>) {
        self.inner.say(Say::Nodes(pb::GatewayNodes { addresses })).await;
    }

    /// How the next renewal is answered.
    pub(crate) fn renew_by(
        &self,
        answer: impl FnOnce(&Authority, &str) -> String + Send + 'static,
    ) {
        *self.inner.renewal.lock().expect("no panic") = Some(Box::new(answer));
    }

    /// The certificate that the edge showed last.
    pub(crate) fn edge_certificate(&self) -> Vec<u8> {
        self.inner.edge_certificate.lock().expect("no panic").clone()
    }

    /// Evicts whoever attaches, by the message; and this session.
    pub(crate) async fn evict(&self) {
        *self.inner.evicts.lock().expect("no panic") = true;
        self.inner.say(Say::Evicted(pb::Evicted { reason: "by the test".into() })).await;
    }

    /// Whether sessions begin with the bundle, as they should.
    pub(crate) fn send_bundles(&self, send: bool) {
        *self.inner.sends_bundles.lock().expect("no panic") = send;
    }

    /// What every node answers whoever attaches, if not what it should.
    pub(crate) fn refuse(&self, status: Option<Status>) {
        self.inner.refusals.lock().expect("no panic").fill(status);
    }
}

impl Inner {
    async fn say(&self, message: Say) {
        let session = self.session.lock().expect("no panic").clone();
        let Some(session) = session else { return };
        let sequence = {
            let mut sequence = session.sequence.lock().expect("no panic");
            *sequence += 1;
            *sequence
        };
        let acknowledged = *session.heard.lock().expect("no panic");
        let _ = session
            .say
            .send(Ok(pb::AttachResponse { sequence, acknowledged, message: Some(message) }))
            .await;
    }

    fn hello(&self) -> pb::EdgeHello {
        self.session.lock().expect("no panic").as_ref().expect("a session").hello.clone()
    }
}
