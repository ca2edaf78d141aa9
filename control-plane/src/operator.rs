//! The face for the CLI and grpcurl: every method reads its request, proposes or reads, and answers.
//!
//! A file per noun. [`refuse`] is the only table of codes; [`once`] makes every mutation harmless to repeat. No
//! answer and no error holds a stored value: there is no field for one, and nothing here opens a payload.

mod accounts;
mod agents;
mod approvals;
mod approvers;
mod audit;
mod backup;
mod changes;
mod channels;
mod cluster;
mod credentials;
mod edges;
mod fake;
mod grants;
mod mint;
mod once;
mod page;
mod policy;
pub(crate) mod refuse;
mod rekey;
mod seal;
mod status;
mod trust;

use std::sync::Arc;

use countersign_proto::v1::admin_service_server::AdminService;
use countersign_proto::v1::*;
use tonic::{Request, Response, Status};

pub(crate) use rekey::Rekeying;
pub(crate) use seal::rotation;

pub(crate) use approvals::{approval, changed_by, pending, state_to_proto, vote_in};

use crate::access::Admitted;
use crate::node::Node;

/// `AdminService`, behind `access`.
pub(crate) struct Operator {
    node: Arc<Node>,
}

impl Operator {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

/// What access made of the call, and the message itself.
fn admitted<T>(request: Request<T>) -> Result<(Admitted, T), Status> {
    let admitted = request.extensions().get::<Admitted>().cloned();
    admitted.map(|admitted| (admitted, request.into_inner())).ok_or_else(refuse::sealed)
}

/// A call about the seal: it goes on although its caller goes away, and leaves a record even when it is refused.
async fn sealing<T, A, F>(
    node: &Arc<Node>,
    request: Request<T>,
    action: &'static str,
    answer: impl FnOnce(Admitted, T) -> F,
) -> Result<Response<A>, Status>
where
    A: Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let (asked, message) = admitted(request)?;
    let (node, answer) = (node.clone(), answer(asked.clone(), message));
    let going_on =
        tokio::spawn(async move { seal::recorded(&node, &asked, action, answer.await).await });
    going_on.await.map_err(|e| refuse::internal(&e))?.map(Response::new)
}

macro_rules! admitted_to {
    ($request:ident, $answer:path) => {{
        let (asked, message) = admitted($request)?;
        $answer(&asked, message).await.map(Response::new)
    }};
}

#[tonic::async_trait]
impl AdminService for Operator {
    async fn start_rekey(
        &self,
        request: Request<StartRekeyRequest>,
    ) -> Result<Response<StartRekeyResponse>, Status> {
        let node = self.node.clone();
        sealing(&self.node, request, "seal.rekey_start", |asked, message| async move {
            rekey::start(&node, &asked, message).await
        })
        .await
    }

    async fn authorize_rekey(
        &self,
        request: Request<AuthorizeRekeyRequest>,
    ) -> Result<Response<AuthorizeRekeyResponse>, Status> {
        let node = self.node.clone();
        sealing(&self.node, request, "seal.rekey_authorize", |asked, message| async move {
            rekey::authorize(&node, &asked, message).await
        })
        .await
    }

    async fn verify_rekey(
        &self,
        request: Request<VerifyRekeyRequest>,
    ) -> Result<Response<VerifyRekeyResponse>, Status> {
        let node = self.node.clone();
        sealing(&self.node, request, "seal.rekey_verify", |asked, message| async move {
            rekey::verify(&node, &asked, message).await
        })
        .await
    }

    async fn cancel_rekey(
        &self,
        request: Request<CancelRekeyRequest>,
    ) -> Result<Response<CancelRekeyResponse>, Status> {
        sealing(&self.node, request, "seal.rekey_cancel", |asked, message| async move {
            rekey::cancel(&asked, message).await
        })
        .await
    }

    async fn rotate_keyring(
        &self,
        request: Request<RotateKeyringRequest>,
    ) -> Result<Response<RotateKeyringResponse>, Status> {
        sealing(&self.node, request, "seal.rotate", |asked, message| async move {
            seal::rotate_keyring(&asked, message).await
        })
        .await
    }

    async fn init_cluster(
        &self,
        request: Request<InitClusterRequest>,
    ) -> Result<Response<InitClusterResponse>, Status> {
        cluster::init(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn get_cluster(
        &self,
        request: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        admitted_to!(request, cluster::get)
    }

    async fn add_node(
        &self,
        request: Request<AddNodeRequest>,
    ) -> Result<Response<AddNodeResponse>, Status> {
        let (asked, message) = admitted(request)?;
        cluster::add(&self.node, &asked, message).await.map(Response::new)
    }

    async fn join_cluster(
        &self,
        request: Request<JoinClusterRequest>,
    ) -> Result<Response<JoinClusterResponse>, Status> {
        cluster::join(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        admitted_to!(request, cluster::remove)
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipResponse>, Status> {
        admitted_to!(request, cluster::transfer)
    }

    async fn confirm_clock(
        &self,
        request: Request<ConfirmClockRequest>,
    ) -> Result<Response<ConfirmClockResponse>, Status> {
        admitted_to!(request, cluster::confirm_clock)
    }

    async fn rotate_signing_key(
        &self,
        request: Request<RotateSigningKeyRequest>,
    ) -> Result<Response<RotateSigningKeyResponse>, Status> {
        admitted_to!(request, cluster::rotate_signing_key)
    }

    async fn get_trust(
        &self,
        request: Request<GetTrustRequest>,
    ) -> Result<Response<GetTrustResponse>, Status> {
        admitted_to!(request, trust::get)
    }

    async fn set_trust(
        &self,
        request: Request<SetTrustRequest>,
    ) -> Result<Response<SetTrustResponse>, Status> {
        admitted_to!(request, trust::set)
    }

    type BackupClusterStream = backup::Backup;

    async fn backup_cluster(
        &self,
        request: Request<BackupClusterRequest>,
    ) -> Result<Response<Self::BackupClusterStream>, Status> {
        admitted_to!(request, backup::backup)
    }

    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        admitted_to!(request, status::get)
    }

    async fn who_am_i(
        &self,
        request: Request<WhoAmIRequest>,
    ) -> Result<Response<WhoAmIResponse>, Status> {
        admitted_to!(request, status::who_am_i)
    }

    async fn create_agent(
        &self,
        request: Request<CreateAgentRequest>,
    ) -> Result<Response<CreateAgentResponse>, Status> {
        admitted_to!(request, agents::create)
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        admitted_to!(request, agents::list)
    }

    async fn rotate_agent(
        &self,
        request: Request<RotateAgentRequest>,
    ) -> Result<Response<RotateAgentResponse>, Status> {
        admitted_to!(request, agents::rotate)
    }

    async fn revoke_agent(
        &self,
        request: Request<RevokeAgentRequest>,
    ) -> Result<Response<RevokeAgentResponse>, Status> {
        admitted_to!(request, agents::revoke)
    }

    async fn set_agent_owner(
        &self,
        request: Request<SetAgentOwnerRequest>,
    ) -> Result<Response<SetAgentOwnerResponse>, Status> {
        admitted_to!(request, agents::set_owner)
    }

    async fn set_channel(
        &self,
        request: Request<SetChannelRequest>,
    ) -> Result<Response<SetChannelResponse>, Status> {
        admitted_to!(request, channels::set)
    }

    async fn list_channels(
        &self,
        request: Request<ListChannelsRequest>,
    ) -> Result<Response<ListChannelsResponse>, Status> {
        admitted_to!(request, channels::list)
    }

    async fn remove_channel(
        &self,
        request: Request<RemoveChannelRequest>,
    ) -> Result<Response<RemoveChannelResponse>, Status> {
        admitted_to!(request, channels::remove)
    }

    async fn test_channel(
        &self,
        request: Request<TestChannelRequest>,
    ) -> Result<Response<TestChannelResponse>, Status> {
        admitted_to!(request, channels::test)
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        admitted_to!(request, channels::deliveries)
    }

    async fn create_credential(
        &self,
        request: Request<CreateCredentialRequest>,
    ) -> Result<Response<CreateCredentialResponse>, Status> {
        admitted_to!(request, credentials::create)
    }

    async fn list_credentials(
        &self,
        request: Request<ListCredentialsRequest>,
    ) -> Result<Response<ListCredentialsResponse>, Status> {
        admitted_to!(request, credentials::list)
    }

    async fn rotate_credential(
        &self,
        request: Request<RotateCredentialRequest>,
    ) -> Result<Response<RotateCredentialResponse>, Status> {
        admitted_to!(request, credentials::rotate)
    }

    async fn revoke_credential(
        &self,
        request: Request<RevokeCredentialRequest>,
    ) -> Result<Response<RevokeCredentialResponse>, Status> {
        admitted_to!(request, credentials::revoke)
    }

    async fn set_policy(
        &self,
        request: Request<SetPolicyRequest>,
    ) -> Result<Response<SetPolicyResponse>, Status> {
        admitted_to!(request, policy::set)
    }

    async fn get_policy(
        &self,
        request: Request<GetPolicyRequest>,
    ) -> Result<Response<GetPolicyResponse>, Status> {
        admitted_to!(request, policy::get)
    }

    async fn explain_policy(
        &self,
        request: Request<ExplainPolicyRequest>,
    ) -> Result<Response<ExplainPolicyResponse>, Status> {
        admitted_to!(request, policy::explain)
    }

    async fn list_approvals(
        &self,
        request: Request<ListApprovalsRequest>,
    ) -> Result<Response<ListApprovalsResponse>, Status> {
        admitted_to!(request, approvals::list)
    }

    async fn get_approval(
        &self,
        request: Request<GetApprovalRequest>,
    ) -> Result<Response<GetApprovalResponse>, Status> {
        admitted_to!(request, approvals::get)
    }

    async fn vote_approval(
        &self,
        request: Request<VoteApprovalRequest>,
    ) -> Result<Response<VoteApprovalResponse>, Status> {
        let channel = approvals::channel_of(request.metadata());
        let (asked, message) = admitted(request)?;
        vote_in(&asked, channel, message).await.map(Response::new)
    }

    async fn cancel_approval(
        &self,
        request: Request<CancelApprovalRequest>,
    ) -> Result<Response<CancelApprovalResponse>, Status> {
        admitted_to!(request, approvals::cancel)
    }

    type WatchApprovalsStream = approvals::Changes;

    async fn watch_approvals(
        &self,
        request: Request<WatchApprovalsRequest>,
    ) -> Result<Response<Self::WatchApprovalsStream>, Status> {
        admitted_to!(request, approvals::watch)
    }

    async fn add_approver(
        &self,
        request: Request<AddApproverRequest>,
    ) -> Result<Response<AddApproverResponse>, Status> {
        admitted_to!(request, approvers::add)
    }

    async fn list_approvers(
        &self,
        request: Request<ListApproversRequest>,
    ) -> Result<Response<ListApproversResponse>, Status> {
        admitted_to!(request, approvers::list)
    }

    async fn rotate_approver_token(
        &self,
        request: Request<RotateApproverTokenRequest>,
    ) -> Result<Response<RotateApproverTokenResponse>, Status> {
        admitted_to!(request, approvers::rotate)
    }

    async fn remove_approver(
        &self,
        request: Request<RemoveApproverRequest>,
    ) -> Result<Response<RemoveApproverResponse>, Status> {
        admitted_to!(request, approvers::remove)
    }

    async fn set_approver_groups(
        &self,
        request: Request<SetApproverGroupsRequest>,
    ) -> Result<Response<SetApproverGroupsResponse>, Status> {
        admitted_to!(request, approvers::set_groups)
    }

    async fn set_approver_away(
        &self,
        request: Request<SetApproverAwayRequest>,
    ) -> Result<Response<SetApproverAwayResponse>, Status> {
        admitted_to!(request, approvers::set_away)
    }

    async fn start_account_link(
        &self,
        request: Request<StartAccountLinkRequest>,
    ) -> Result<Response<StartAccountLinkResponse>, Status> {
        admitted_to!(request, accounts::start_link)
    }

    async fn unlink_account(
        &self,
        request: Request<UnlinkAccountRequest>,
    ) -> Result<Response<UnlinkAccountResponse>, Status> {
        admitted_to!(request, accounts::unlink)
    }

    async fn list_changes(
        &self,
        request: Request<ListChangesRequest>,
    ) -> Result<Response<ListChangesResponse>, Status> {
        admitted_to!(request, changes::list)
    }

    async fn confirm_change(
        &self,
        request: Request<ConfirmChangeRequest>,
    ) -> Result<Response<ConfirmChangeResponse>, Status> {
        admitted_to!(request, changes::confirm)
    }

    async fn reject_change(
        &self,
        request: Request<RejectChangeRequest>,
    ) -> Result<Response<RejectChangeResponse>, Status> {
        admitted_to!(request, changes::reject)
    }

    async fn create_grant(
        &self,
        request: Request<CreateGrantRequest>,
    ) -> Result<Response<CreateGrantResponse>, Status> {
        let channel = approvals::channel_of(request.metadata());
        let (asked, message) = admitted(request)?;
        grants::create(&asked, channel, message).await.map(Response::new)
    }

    async fn support_grant(
        &self,
        request: Request<SupportGrantRequest>,
    ) -> Result<Response<SupportGrantResponse>, Status> {
        let channel = approvals::channel_of(request.metadata());
        let (asked, message) = admitted(request)?;
        grants::support(&asked, channel, message).await.map(Response::new)
    }

    async fn revoke_grant(
        &self,
        request: Request<RevokeGrantRequest>,
    ) -> Result<Response<RevokeGrantResponse>, Status> {
        admitted_to!(request, grants::revoke)
    }

    async fn list_grants(
        &self,
        request: Request<ListGrantsRequest>,
    ) -> Result<Response<ListGrantsResponse>, Status> {
        admitted_to!(request, grants::list)
    }

    async fn list_audit(
        &self,
        request: Request<ListAuditRequest>,
    ) -> Result<Response<ListAuditResponse>, Status> {
        admitted_to!(request, audit::list)
    }

    async fn verify_audit(
        &self,
        request: Request<VerifyAuditRequest>,
    ) -> Result<Response<VerifyAuditResponse>, Status> {
        admitted_to!(request, audit::verify)
    }

    type ExportAuditStream = audit::Export;

    async fn export_audit(
        &self,
        request: Request<ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        admitted_to!(request, audit::export)
    }

    async fn get_seal_status(
        &self,
        _: Request<GetSealStatusRequest>,
    ) -> Result<Response<GetSealStatusResponse>, Status> {
        seal::status(&self.node).map(Response::new)
    }

    async fn unseal(
        &self,
        request: Request<UnsealRequest>,
    ) -> Result<Response<UnsealResponse>, Status> {
        let token = crate::access::bearer(request.metadata().as_ref()).ok();
        seal::unseal(&self.node, token, request.into_inner()).await.map(Response::new)
    }

    async fn seal(&self, request: Request<SealRequest>) -> Result<Response<SealResponse>, Status> {
        let (asked, _) = admitted(request)?;
        seal::seal(&self.node, asked).await.map(Response::new)
    }

    async fn enroll_edge(
        &self,
        request: Request<EnrollEdgeRequest>,
    ) -> Result<Response<EnrollEdgeResponse>, Status> {
        let (asked, message) = admitted(request)?;
        edges::enroll(&self.node, &asked, message).await.map(Response::new)
    }

    async fn list_edges(
        &self,
        request: Request<ListEdgesRequest>,
    ) -> Result<Response<ListEdgesResponse>, Status> {
        admitted_to!(request, edges::list)
    }

    async fn evict_edge(
        &self,
        request: Request<EvictEdgeRequest>,
    ) -> Result<Response<EvictEdgeResponse>, Status> {
        admitted_to!(request, edges::evict)
    }

    async fn rotate_edge_ca(
        &self,
        request: Request<RotateEdgeCaRequest>,
    ) -> Result<Response<RotateEdgeCaResponse>, Status> {
        admitted_to!(request, edges::rotate_ca)
    }

    async fn rotate_ca(
        &self,
        request: Request<RotateCaRequest>,
    ) -> Result<Response<RotateCaResponse>, Status> {
        admitted_to!(request, cluster::rotate_ca)
    }

    async fn finish_ca_rotation(
        &self,
        request: Request<FinishCaRotationRequest>,
    ) -> Result<Response<FinishCaRotationResponse>, Status> {
        admitted_to!(request, cluster::finish_ca)
    }

    async fn finish_edge_ca_rotation(
        &self,
        request: Request<FinishEdgeCaRotationRequest>,
    ) -> Result<Response<FinishEdgeCaRotationResponse>, Status> {
        admitted_to!(request, edges::finish_ca)
    }
}
