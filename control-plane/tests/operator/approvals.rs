//! Approvals as operators see them, from the edge's word to the vote.

use countersign_proto::v1;
use countersign_proto::v1::admin_service_client::AdminServiceClient;
use tonic::{Code, Request};

use crate::edge::{Edge, Enrolled, POLICY};
use crate::world::{Bearer, World};

/// A node with a policy, an agent, and an edge that is attached; it holds nothing yet.
pub(crate) async fn with_edge() -> (World, Edge) {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let policy = v1::SetPolicyRequest { text: POLICY.into(), ..Default::default() };
    admin.set_policy(policy).await.unwrap();
    let agent = v1::CreateAgentRequest { name: "bot".into(), ..Default::default() };
    let agent = admin.create_agent(agent).await.unwrap().into_inner().agent.unwrap();
    let edge = Enrolled::enroll(&world, "edge-1").await.attach(&agent.agent_id).await;
    (world, edge)
}

fn vote(id: &str, decision: v1::VoteDecision) -> v1::VoteApprovalRequest {
    v1::VoteApprovalRequest {
        approval_id: id.into(),
        decision: decision.into(),
        reason: "because".into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_is_shown_as_it_was_frozen_and_takes_one_vote() {
    let (world, mut edge) = with_edge().await;
    let id = edge.hold_delete("/repos/a/b").await;
    let mut admin = world.admin().await;

    let listed = admin.list_approvals(v1::ListApprovalsRequest::default()).await.unwrap();
    let approval = listed.into_inner().approvals.remove(0);
    assert_eq!(approval.approval_id, id);
    assert_eq!(approval.state(), v1::ApprovalState::Pending);
    assert_eq!((approval.agent.as_str(), approval.method.as_str()), ("bot", "DELETE"));
    assert_eq!((approval.host.as_str(), approval.port), ("api.example.com", 443));
    assert_eq!((approval.path.as_str(), approval.query.as_deref()), ("/repos/a/b", None));
    assert_eq!((approval.rule.as_str(), approval.waiting), ("delete", 1));
    assert_eq!(approval.intent_digest.len(), 64);
    assert_eq!(approval.requirements[0].panels[0].of, ["admin", "ann"]);

    // What was seen was something else: nothing happens.
    let other = v1::VoteApprovalRequest {
        intent_digest: "0".repeat(64),
        ..vote(&id, v1::VoteDecision::Approve)
    };
    assert!(admin.vote_approval(other).await.is_err());
    let get = v1::GetApprovalRequest { approval_id: id.clone() };
    let unchanged = admin.get_approval(get).await.unwrap().into_inner().approval.unwrap();
    assert_eq!(unchanged.state(), v1::ApprovalState::Pending);

    let seen = v1::VoteApprovalRequest {
        request_id: "v1".into(),
        intent_digest: approval.intent_digest.clone(),
        ..vote(&id, v1::VoteDecision::Approve)
    };
    let voted = admin.vote_approval(seen.clone()).await.unwrap().into_inner().approval.unwrap();
    assert_eq!(voted.votes.len(), 1);
    assert_eq!(
        (voted.votes[0].approver.as_str(), voted.votes[0].channel.as_str()),
        ("admin", "api")
    );
    assert_eq!(voted.votes[0].reason, "because");
    assert_ne!(voted.state(), v1::ApprovalState::Pending);
    let again = admin.vote_approval(seen).await.unwrap().into_inner().approval.unwrap();
    assert_eq!(again.votes.len(), 1);

    let records = admin.list_audit(v1::ListAuditRequest::default()).await.unwrap().into_inner();
    assert!(
        records.records.iter().any(|r| r.actor == "principal:admin" && r.action.contains("vote"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_votes_under_its_own_channel() {
    let (world, mut edge) = with_edge().await;
    let id = edge.hold_delete("/x").await;
    let ca = std::fs::read_to_string(world.node.api_ca_path()).unwrap();
    let tls = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(ca))
        .domain_name("localhost");
    let endpoint =
        tonic::transport::Channel::from_shared(format!("https://{}", world.node.api_addr()));
    let endpoint =
        endpoint.unwrap().user_agent("countersign-cli/1").unwrap().tls_config(tls).unwrap();
    let bearer = Bearer::of(&world.admin_token());
    let mut cli = AdminServiceClient::with_interceptor(endpoint.connect().await.unwrap(), bearer);
    let voted = cli.vote_approval(vote(&id, v1::VoteDecision::Deny)).await.unwrap().into_inner();
    let voted = voted.approval.unwrap();
    assert_eq!(voted.votes[0].channel, "cli");
    assert_eq!(voted.state(), v1::ApprovalState::Denied);
    // Denied is denied.
    assert!(cli.vote_approval(vote(&id, v1::VoteDecision::Approve)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_asked_cannot_vote() {
    let (world, mut edge) = with_edge().await;
    let id = edge.hold_delete("/x").await;
    // Not among those whom the rule names; an administrator without the role; an auditor.
    let tokens = [
        world.principal("bob", &[v1::Role::Approver]).await,
        world.principal("carl", &[v1::Role::Admin]).await,
        world.principal("dora", &[v1::Role::Auditor]).await,
    ];
    for token in tokens {
        let mut client = world.client(&token).await;
        let approve = vote(&id, v1::VoteDecision::Approve);
        let refused = client.vote_approval(approve).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    }
    let get = v1::GetApprovalRequest { approval_id: id };
    let approval =
        world.admin().await.get_approval(get).await.unwrap().into_inner().approval.unwrap();
    assert_eq!(approval.state(), v1::ApprovalState::Pending);
    assert!(approval.votes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_what_is_there_and_then_every_change() {
    let (world, mut edge) = with_edge().await;
    let first = edge.hold_delete("/first").await;
    let mut admin = world.admin().await;
    let mut all =
        admin.watch_approvals(v1::WatchApprovalsRequest::default()).await.unwrap().into_inner();
    let one = v1::WatchApprovalsRequest { approval_id: first.clone() };
    let mut one = admin.watch_approvals(one).await.unwrap().into_inner();
    for stream in [&mut all, &mut one] {
        let seen = stream.message().await.unwrap().unwrap().approval.unwrap();
        assert_eq!(
            (seen.approval_id.as_str(), seen.state()),
            (first.as_str(), v1::ApprovalState::Pending)
        );
    }
    let second = edge.hold_delete("/second").await;
    let seen = all.message().await.unwrap().unwrap().approval.unwrap();
    assert_eq!((seen.approval_id.as_str(), seen.path.as_str()), (second.as_str(), "/second"));

    let cancel = v1::CancelApprovalRequest {
        approval_id: first.clone(),
        reason: "not now".into(),
        ..Default::default()
    };
    admin.cancel_approval(cancel).await.unwrap();
    for stream in [&mut all, &mut one] {
        let seen = stream.message().await.unwrap().unwrap().approval.unwrap();
        assert_eq!(
            (seen.approval_id.as_str(), seen.state()),
            (first.as_str(), v1::ApprovalState::Cancelled)
        );
        assert_eq!(seen.reason, "not now");
    }
    // Newest first, and by state.
    let by_state = |state: v1::ApprovalState| v1::ListApprovalsRequest {
        state: state.into(),
        ..Default::default()
    };
    let ids = |answer: v1::ListApprovalsResponse| {
        answer.approvals.into_iter().map(|a| a.approval_id).collect::<Vec<_>>()
    };
    let listed =
        admin.list_approvals(by_state(v1::ApprovalState::Unspecified)).await.unwrap().into_inner();
    assert_eq!(ids(listed).len(), 2);
    let pending =
        admin.list_approvals(by_state(v1::ApprovalState::Pending)).await.unwrap().into_inner();
    assert_eq!(ids(pending), [second]);
    let cancelled =
        admin.list_approvals(by_state(v1::ApprovalState::Cancelled)).await.unwrap().into_inner();
    assert_eq!(ids(cancelled), [first]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_1_the_edges_listener_is_for_edges_alone() {
    let world = World::start().await;
    let enrolled = Enrolled::enroll(&world, "edge-1").await;
    // Without a certificate, with a token instead: the handshake or the first call ends it.
    if let Ok(channel) = enrolled.channel(false).await {
        let mut request = Request::new(futures::stream::empty());
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {}", world.admin_token()).parse().unwrap());
        let mut gateway = v1::gateway_service_client::GatewayServiceClient::new(channel);
        assert!(gateway.attach(request).await.is_err());
    }
    // The admin's methods are not here, whoever asks.
    let channel = enrolled.channel(true).await.unwrap();
    let mut admin = AdminServiceClient::with_interceptor(channel, Bearer::of(&world.admin_token()));
    assert_eq!(admin.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err().code(), Code::Unimplemented);
    // Nor are the edges' on the admin's.
    let path = "/countersign.v1.GatewayService/Attach";
    let status =
        crate::access::call(world.channel().await, path, &world.admin_token()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edges_are_cut_off_by_sealing_and_told_so() {
    let world = World::start().await;
    let enrolled = Enrolled::enroll(&world, "edge-1").await;
    let _edge = enrolled.attach("agent").await;
    let mut admin = world.admin().await;
    let edges = admin.list_edges(v1::ListEdgesRequest::default()).await.unwrap().into_inner().edges;
    assert!(edges[0].connected);
    let status = admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.connected_edges, 1);
    admin.seal(v1::SealRequest {}).await.unwrap();
    let channel = enrolled.channel(true).await.unwrap();
    let refused = enrolled.hello(channel).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().starts_with("sealed"), "{refused:?}");
    admin.unseal(v1::UnsealRequest::default()).await.unwrap();
    drop(enrolled.attach("agent").await);
}
