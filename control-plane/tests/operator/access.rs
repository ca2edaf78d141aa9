//! Who may call what, cell by cell.

use std::collections::BTreeSet;

use bytes::Bytes;
use countersign_control_plane::access::{Who, who_may};
use countersign_control_plane::state::Role;
use countersign_proto::v1;
use futures::StreamExt as _;
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::world::{Bearer, World};

const ADMIN: &[Role] = &[Role::Admin];
const ALL: &[Role] = &[Role::Admin, Role::Approver, Role::Auditor];
const DECIDERS: &[Role] = &[Role::Admin, Role::Approver];
const APPROVER: &[Role] = &[Role::Approver];
const READERS: &[Role] = &[Role::Admin, Role::Auditor];

/// Written down a second time, on purpose: a method that is not here, or whose line differs, fails the test.
const EXPECTED: [(&str, Option<&[Role]>); 68] = [
    ("AddApprover", Some(ADMIN)),
    ("AddNode", Some(ADMIN)),
    ("AuthorizeRekey", Some(ADMIN)),
    ("BackupCluster", Some(ADMIN)),
    ("CancelApproval", Some(ADMIN)),
    ("CancelRekey", Some(ADMIN)),
    ("ConfirmChange", Some(ADMIN)),
    ("ConfirmClock", Some(ADMIN)),
    ("CreateAgent", Some(ADMIN)),
    ("CreateCredential", Some(ADMIN)),
    ("CreateGrant", Some(APPROVER)),
    ("EnrollEdge", Some(ADMIN)),
    ("EvictEdge", Some(ADMIN)),
    ("ExplainPolicy", Some(ALL)),
    ("ExportAudit", Some(READERS)),
    ("FinishCaRotation", Some(ADMIN)),
    ("FinishEdgeCaRotation", Some(ADMIN)),
    ("GetApproval", Some(ALL)),
    ("GetCluster", Some(READERS)),
    ("GetPolicy", Some(ALL)),
    ("GetSealStatus", None),
    ("GetStatus", Some(ALL)),
    ("GetTrust", Some(READERS)),
    ("InitCluster", None),
    ("JoinCluster", None),
    ("ListAgents", Some(READERS)),
    ("ListApprovals", Some(ALL)),
    ("ListApprovers", Some(READERS)),
    ("ListAudit", Some(READERS)),
    ("ListChanges", Some(READERS)),
    ("ListChannels", Some(READERS)),
    ("ListCredentials", Some(READERS)),
    ("ListDeliveries", Some(READERS)),
    ("ListEdges", Some(READERS)),
    ("ListGrants", Some(ALL)),
    ("RejectChange", Some(ADMIN)),
    ("RemoveApprover", Some(ADMIN)),
    ("RemoveChannel", Some(ADMIN)),
    ("RemoveNode", Some(ADMIN)),
    ("RevokeAgent", Some(ADMIN)),
    ("RevokeCredential", Some(ADMIN)),
    ("RevokeGrant", Some(DECIDERS)),
    ("RotateAgent", Some(ADMIN)),
    ("RotateApproverToken", Some(ADMIN)),
    ("RotateCa", Some(ADMIN)),
    ("RotateCredential", Some(ADMIN)),
    ("RotateEdgeCa", Some(ADMIN)),
    ("RotateKeyring", Some(ADMIN)),
    ("RotateSigningKey", Some(ADMIN)),
    ("Seal", Some(ADMIN)),
    ("SetAgentOwner", Some(ADMIN)),
    ("SetApproverAway", Some(ALL)),
    ("SetApproverGroups", Some(ADMIN)),
    ("SetChannel", Some(ADMIN)),
    ("SetPolicy", Some(ADMIN)),
    ("SetTrust", Some(ADMIN)),
    ("StartAccountLink", Some(ALL)),
    ("StartRekey", Some(ADMIN)),
    ("TestChannel", Some(ADMIN)),
    ("SupportGrant", Some(APPROVER)),
    ("TransferLeadership", Some(ADMIN)),
    ("UnlinkAccount", Some(ALL)),
    ("Unseal", None),
    ("VerifyAudit", Some(READERS)),
    ("VerifyRekey", Some(ADMIN)),
    ("VoteApproval", Some(APPROVER)),
    ("WatchApprovals", Some(ALL)),
    ("WhoAmI", Some(ALL)),
];

pub(crate) fn methods_of(service: &str) -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(countersign_proto::DESCRIPTORS).unwrap();
    let services =
        files.file.iter().filter(|f| f.package() == "countersign.v1").flat_map(|f| &f.service);
    let methods = services.filter(|s| s.name() == service).flat_map(|s| &s.method);
    methods.map(|m| m.name().to_owned()).collect()
}

#[test]
fn c_1_every_method_has_its_line_and_no_line_is_for_nothing() {
    let methods = methods_of("AdminService");
    assert_eq!(methods, EXPECTED.iter().map(|(name, _)| (*name).to_owned()).collect());
    for (name, roles) in EXPECTED {
        let who = who_may(&format!("/countersign.v1.AdminService/{name}"));
        assert_eq!(who, Some(roles.map_or(Who::Anyone, Who::Roles)), "{name}");
    }
}

#[test]
fn c_1_nobody_may_call_what_has_no_line() {
    for method in methods_of("GatewayService") {
        assert_eq!(who_may(&format!("/countersign.v1.GatewayService/{method}")), None);
    }
    for path in [
        "",
        "/",
        "countersign.v1.AdminService/ListAgents",
        "//countersign.v1.AdminService/ListAgents",
        "/countersign.v1.AdminService/ListAgents/",
        "/countersign.v1.AdminService/listagents",
        "/countersign.v1.AdminService/",
        "/countersign.v1.AdminService/Reveal",
        "/x/ListAgents",
    ] {
        assert_eq!(who_may(path), None, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_1_each_role_may_call_what_its_line_says_and_nothing_else() {
    let world = World::start().await;
    let channel = world.channel().await;
    let mut callers =
        vec![("nobody", None, String::new()), ("a stranger", None, "cs_apr_made-up".to_owned())];
    // The administrator last: then it takes two to add anyone.
    for role in ALL.iter().rev() {
        let token = world.principal(&format!("one-{role}"), &[proto(*role)]).await;
        callers.push(("a principal", Some(*role), token));
    }
    let agent = v1::CreateAgentRequest { name: "bot".into(), ..Default::default() };
    let agent = world.admin().await.create_agent(agent).await.unwrap().into_inner().token;
    callers.push(("an agent", None, agent));

    for (method, roles) in EXPECTED {
        // Sealing would be the end of it, and who may is seen without it.
        if method == "Seal" {
            continue;
        }
        let path = format!("/countersign.v1.AdminService/{method}");
        for (who, role, token) in &callers {
            let code = call(channel.clone(), &path, token)
                .await
                .err()
                .map_or(Code::Ok, |status| status.code());
            let refused = matches!(code, Code::Unauthenticated | Code::PermissionDenied);
            let expected = match (roles, role) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(roles), Some(role)) => !roles.contains(role),
            };
            assert_eq!(refused, expected, "{who} {role:?} calls {method}: {code:?}");
            if expected {
                let wanted =
                    if role.is_some() { Code::PermissionDenied } else { Code::Unauthenticated };
                assert_eq!(code, wanted, "{who} {role:?} calls {method}");
            }
        }
    }
    for (who, role, token) in &callers {
        let status =
            call(channel.clone(), "/countersign.v1.AdminService/Reveal", token).await.unwrap_err();
        let wanted = if role.is_some() { Code::PermissionDenied } else { Code::Unauthenticated };
        assert_eq!(status.code(), wanted, "{who} calls a method that is not there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_1_seal_takes_an_admin() {
    let world = World::start().await;
    for role in [v1::Role::Approver, v1::Role::Auditor] {
        let token = world.principal(&format!("p{}", role as i32), &[role]).await;
        let status = world.client(&token).await.seal(v1::SealRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    assert!(
        !world
            .admin()
            .await
            .get_seal_status(v1::GetSealStatusRequest {})
            .await
            .unwrap()
            .into_inner()
            .sealed
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_2_metadata_makes_nobody_of_anyone() {
    let world = World::start().await;
    let admin = world.admin_token();
    let auditor = world.principal("reader", &[v1::Role::Auditor]).await;
    let mut client = v1::admin_service_client::AdminServiceClient::new(world.channel().await);
    let spoofs: [&[(&'static str, String)]; 8] = [
        &[
            ("x-edge-id", "edge".into()),
            ("x-principal", "admin".into()),
            ("x-countersign-role", "admin".into()),
        ],
        &[("grpc-metadata-authorization", format!("Bearer {admin}"))],
        &[("proxy-authorization", format!("Bearer {admin}"))],
        &[("x-forwarded-user", "admin".into()), ("x-forwarded-client-cert", "By=admin".into())],
        &[("authorization", format!("Basic {admin}"))],
        &[("authorization", admin.clone())],
        &[("authorization", format!("Bearer {admin} "))],
        &[("authorization", "Bearer ".into())],
    ];
    for spoof in spoofs {
        let mut request = Request::new(v1::WhoAmIRequest {});
        for (name, value) in spoof {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        assert_eq!(
            client.who_am_i(request).await.unwrap_err().code(),
            Code::Unauthenticated,
            "{spoof:?}"
        );
    }
    // Two tokens are none, whichever comes first.
    for pair in [[&admin, &auditor], [&auditor, &admin]] {
        let mut request = Request::new(v1::WhoAmIRequest {});
        for token in pair {
            request
                .metadata_mut()
                .append("authorization", format!("Bearer {token}").parse().unwrap());
        }
        assert_eq!(client.who_am_i(request).await.unwrap_err().code(), Code::Unauthenticated);
    }
    // An auditor that says to be more is an auditor.
    let mut request = Request::new(v1::ListAuditRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {auditor}").parse().unwrap());
    request.metadata_mut().insert("x-principal", "admin".parse().unwrap());
    client.list_audit(request).await.unwrap();
    let mut request = Request::new(v1::WhoAmIRequest {});
    request.metadata_mut().insert("authorization", format!("Bearer {auditor}").parse().unwrap());
    request
        .metadata_mut()
        .insert_bin("principal-bin", tonic::metadata::MetadataValue::from_bytes(&[0, 255, 10]));
    assert_eq!(client.who_am_i(request).await.unwrap().into_inner().principal, "reader");
    // A megabyte of metadata is not taken in.
    let mut request = Request::new(v1::WhoAmIRequest {});
    request.metadata_mut().insert("authorization", format!("Bearer {admin}").parse().unwrap());
    request.metadata_mut().insert("x-much", "m".repeat(1 << 20).parse().unwrap());
    assert!(client.who_am_i(request).await.is_err());
    world.admin().await.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_13_reflection_needs_a_token() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

    async fn ask(world: &World, token: &str) -> Result<ServerReflectionResponse, Status> {
        let mut client =
            ServerReflectionClient::with_interceptor(world.channel().await, Bearer::of(token));
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers =
            client.server_reflection_info(futures::stream::iter([request])).await?.into_inner();
        answers.next().await.unwrap()
    }

    let world = World::start().await;
    assert_eq!(ask(&world, "").await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(ask(&world, "cs_adm_wrong").await.unwrap_err().code(), Code::Unauthenticated);
    let answer = ask(&world, &world.admin_token()).await.unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list")
    };
    assert!(list.service.iter().any(|s| s.name == "countersign.v1.AdminService"));
    // Edges have a listener of their own.
    assert!(list.service.iter().all(|s| s.name != "countersign.v1.GatewayService"), "{list:?}");
    // Older clients ask in the older way.
    let path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
    assert_eq!(
        call(world.channel().await, path, "").await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let code = call(world.channel().await, path, &world.admin_token())
        .await
        .err()
        .map_or(Code::Ok, |s| s.code());
    assert!(
        !matches!(code, Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated),
        "{code:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_answers_without_a_token() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let world = World::start().await;
    for service in ["", "countersign.v1.AdminService"] {
        let mut client = HealthClient::new(world.channel().await);
        let answer = client
            .check(HealthCheckRequest { service: service.into() })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_rotated_or_whose_principal_was_removed_is_refused() {
    let world = World::start().await;
    let old = world.principal("ann", &[v1::Role::Approver]).await;
    world.client(&old).await.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let rotate = v1::RotateApproverTokenRequest { name: "ann".into(), ..Default::default() };
    let new = world.admin().await.rotate_approver_token(rotate).await.unwrap().into_inner().token;
    let refused = world.client(&old).await.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(!refused.message().contains(&old));
    world.client(&new).await.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let remove = v1::RemoveApproverRequest { name: "ann".into(), ..Default::default() };
    world.admin().await.remove_approver(remove).await.unwrap();
    assert_eq!(
        world.client(&new).await.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err().code(),
        Code::Unauthenticated
    );
}

/// Calls any method with an empty message and gives its answer (of a stream: the first, if one comes soon).
pub(crate) async fn call(channel: Channel, path: &str, token: &str) -> Result<Bytes, Status> {
    call_with(channel, path, token, Bytes::new()).await
}

pub(crate) async fn call_with(
    channel: Channel,
    path: &str,
    token: &str,
    message: Bytes,
) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let path: PathAndQuery = path.parse().unwrap();
    let mut answers = grpc.server_streaming(request, path, Verbatim).await?.into_inner();
    // What streams has been let in when its headers are here; its messages come when something happens.
    match tokio::time::timeout(std::time::Duration::from_millis(200), answers.message()).await {
        Ok(answer) => answer.map(Option::unwrap_or_default),
        Err(_) => Ok(Bytes::new()),
    }
}

fn proto(role: Role) -> v1::Role {
    match role {
        Role::Admin => v1::Role::Admin,
        Role::Approver => v1::Role::Approver,
        Role::Auditor => v1::Role::Auditor,
    }
}

/// Messages as the bytes that they are.
#[derive(Default)]
struct Verbatim;

impl tonic::codec::Codec for Verbatim {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Verbatim {
    type Item = Bytes;
    type Error = Status;

    fn encode(
        &mut self,
        item: Bytes,
        buffer: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), Status> {
        bytes::BufMut::put(buffer, item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Verbatim {
    type Item = Bytes;
    type Error = Status;

    fn decode(
        &mut self,
        buffer: &mut tonic::codec::DecodeBuf<'_>,
    ) -> Result<Option<Bytes>, Status> {
        use bytes::Buf as _;
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
