//! People, as gRPC clients of any node: who they are, what they ask, what they were told.

use std::time::{Duration, Instant};

use countersign_proto::v1;
use countersign_proto::v1::admin_service_client::AdminServiceClient;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::history::{Journal, Op, Seen, Told};
use crate::invariants::{Card, Record};

/// For one call; then nobody knows.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody with a token.
#[derive(Clone)]
pub struct Person {
    pub name: String,
    pub token: String,
}

/// One node's API, and who calls it.
#[derive(Clone)]
pub struct Desk {
    pub node: String,
    channel: Channel,
    person: Person,
}

impl Desk {
    /// Connects when it is first used, and again whenever it must.
    pub fn new(node: &str, address: std::net::SocketAddr, ca_pem: &str, person: &Person) -> Self {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca_pem))
            .domain_name("127.0.0.1");
        let channel = Endpoint::from_shared(format!("https://{address}"))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .connect_lazy();
        Self { node: node.to_owned(), channel, person: person.clone() }
    }

    /// The same node for somebody else.
    pub fn as_person(&self, person: &Person) -> Self {
        Self { person: person.clone(), ..self.clone() }
    }

    pub fn client(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(64 * 1024 * 1024)
    }

    /// A call in this person's name.
    pub fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(PATIENCE);
        let bearer: MetadataValue<_> = format!("Bearer {}", self.person.token).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        request
    }

    pub async fn status(&self) -> Result<v1::GetStatusResponse, Status> {
        let asked = self.client().get_status(self.ask(v1::GetStatusRequest {})).await?;
        Ok(asked.into_inner())
    }

    pub async fn cluster(&self) -> Result<v1::GetClusterResponse, Status> {
        let asked = self.client().get_cluster(self.ask(v1::GetClusterRequest {})).await?;
        Ok(asked.into_inner())
    }

    /// Every approval in this state; none named: in any.
    pub async fn approvals(&self, state: v1::ApprovalState) -> Result<Vec<v1::Approval>, Status> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListApprovalsRequest {
                page_size: 200,
                page_token: page_token.clone(),
                state: state.into(),
            };
            let page = self.client().list_approvals(self.ask(request)).await?.into_inner();
            all.extend(page.approvals);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    pub async fn approval(&self, id: &str) -> Result<v1::Approval, Status> {
        let request = v1::GetApprovalRequest { approval_id: id.to_owned() };
        let answer = self.client().get_approval(self.ask(request)).await?.into_inner();
        answer.approval.ok_or_else(|| Status::internal("no approval in the answer"))
    }

    /// One tap. What is told goes into the journal; an error that is no refusal leaves the tap unanswered.
    pub async fn tap(&self, journal: &Journal, approval: &str, approves: bool) -> Option<Told> {
        tap(std::slice::from_ref(self), journal, approval, approves, Duration::ZERO).await
    }

    /// Reads one approval, and writes down what was read.
    pub async fn look(&self, journal: &Journal, approval: &str) -> Option<Seen> {
        let call = journal.invoke(approval, &self.node, Op::Read);
        match self.approval(approval).await {
            Ok(found) => {
                let seen = seen(found.state());
                call.returned(Told::State(seen));
                Some(seen)
            }
            Err(_) => {
                call.lost();
                None
            }
        }
    }

    /// Every audit record.
    pub async fn audit(&self) -> Result<Vec<Record>, Status> {
        let mut request = self.ask(v1::ExportAuditRequest {});
        request.set_timeout(Duration::from_secs(60));
        let mut answers = self.client().export_audit(request).await?.into_inner();
        let mut records = Vec::new();
        while let Some(answer) = answers.message().await? {
            if let Some(v1::export_audit_response::Item::Record(record)) = answer.item {
                records.push(to_record(record));
            }
        }
        Ok(records)
    }
}

/// Taps at one node after the other, as one and the same request, until one of them says what became of it or the time
/// is over: a repeat is harmless, so in the journal it is one call.
pub async fn tap(
    desks: &[Desk],
    journal: &Journal,
    approval: &str,
    approves: bool,
    patience: Duration,
) -> Option<Told> {
    let who = desks[0].person.name.clone();
    let op = if approves { Op::Approve(who) } else { Op::Deny(who) };
    let call = journal.invoke(approval, &desks[0].node, op);
    let request = v1::VoteApprovalRequest {
        request_id: format!("{:032x}", rand::random::<u128>()),
        approval_id: approval.to_owned(),
        decision: if approves { v1::VoteDecision::Approve } else { v1::VoteDecision::Deny }.into(),
        reason: String::new(),
        intent_digest: String::new(),
        break_glass: false,
    };
    let until = Instant::now() + patience;
    for desk in desks.iter().cycle() {
        match desk.client().vote_approval(desk.ask(request.clone())).await {
            Ok(_) => {
                call.returned(Told::Accepted);
                return Some(Told::Accepted);
            }
            Err(status) if status.code() == Code::FailedPrecondition => {
                call.returned(Told::Refused);
                return Some(Told::Refused);
            }
            Err(_) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(_) => break,
        }
    }
    call.lost();
    None
}

/// What a reader takes a state for.
pub fn seen(state: v1::ApprovalState) -> Seen {
    match state {
        v1::ApprovalState::Approved => Seen::Approved,
        v1::ApprovalState::Cancelled | v1::ApprovalState::Revoked => Seen::Cancelled,
        v1::ApprovalState::Denied => Seen::Denied,
        v1::ApprovalState::Expired => Seen::Expired,
        v1::ApprovalState::Completed | v1::ApprovalState::Released | v1::ApprovalState::Unknown => {
            Seen::Released
        }
        v1::ApprovalState::Pending => Seen::Pending,
        v1::ApprovalState::Unspecified => panic!("an approval without a state"),
    }
}

/// An approval as evidence.
pub fn card(approval: &v1::Approval) -> Card {
    let target = match &approval.query {
        None => approval.path.clone(),
        Some(query) => format!("{}?{query}", approval.path),
    };
    Card {
        id: approval.approval_id.clone(),
        state: seen(approval.state()),
        method: approval.method.clone(),
        target,
        body_sha256: approval.body_sha256.clone(),
        intent_digest: approval.intent_digest.clone(),
        expires_at: approval.expires_at.as_ref().map_or(0, milliseconds),
        open_ended: approval.state() == v1::ApprovalState::Released,
    }
}

fn to_record(record: v1::AuditRecord) -> Record {
    Record {
        index: record.index,
        at: record.at.as_ref().map_or(0, milliseconds),
        actor: record.actor,
        action: record.action,
        subject: record.subject,
        details: record.details.into_iter().map(|d| (d.name, d.value)).collect(),
        previous: record.previous_hash,
        hash: record.hash,
    }
}

fn milliseconds(time: &prost_types::Timestamp) -> u64 {
    time.seconds as u64 * 1000 + time.nanos as u64 / 1_000_000
}
