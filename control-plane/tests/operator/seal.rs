//! Sealed, unsealed, and sealed again.

use bytes::Bytes;
use countersign_control_plane::node::SealConfig;
use countersign_proto::v1;
use tonic::Code;

use crate::access::{call, methods_of};
use crate::world::World;

fn passphrase(text: &'static str) -> v1::UnsealRequest {
    v1::UnsealRequest { passphrase: Bytes::from_static(text.as_bytes()), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_sealed_nothing_answers_but_the_seal_itself() {
    let world = World::start_sealed().await;
    let channel = world.channel().await;
    for method in methods_of("AdminService") {
        let path = format!("/countersign.v1.AdminService/{method}");
        if matches!(method.as_str(), "GetSealStatus" | "InitCluster" | "Unseal") {
            continue;
        }
        let refused = call(channel.clone(), &path, "cs_adm_whatever").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{method}");
        assert!(refused.message().starts_with("sealed"), "{method}: {}", refused.message());
    }
    let status = world
        .client("")
        .await
        .get_seal_status(v1::GetSealStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(status.sealed);
    assert_eq!(status.provider, "passphrase");

    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let answer =
        health.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passphrase_makes_the_vault_once_and_only_it_opens_it_again() {
    let world = World::start_sealed().await;
    let mut nobody = world.client("").await;
    assert_eq!(nobody.unseal(passphrase("")).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(!nobody.unseal(passphrase("correct horse")).await.unwrap().into_inner().sealed);
    let token = world.admin_token();
    let agent = v1::CreateAgentRequest { name: "bot".into(), ..Default::default() };
    world.client(&token).await.create_agent(agent).await.unwrap();

    let world = world.restart(|_| SealConfig::Passphrase).await;
    let mut admin = world.client(&token).await;
    assert_eq!(
        admin.list_agents(v1::ListAgentsRequest::default()).await.unwrap_err().code(),
        Code::Unavailable
    );
    let refused = admin.unseal(passphrase("battery staple")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(!refused.message().contains("battery"));
    assert!(admin.get_seal_status(v1::GetSealStatusRequest {}).await.unwrap().into_inner().sealed);
    admin.unseal(passphrase("correct horse")).await.unwrap();
    assert_eq!(
        admin
            .list_agents(v1::ListAgentsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .agents
            .len(),
        1
    );
    let records =
        admin.list_audit(v1::ListAuditRequest::default()).await.unwrap().into_inner().records;
    let unsealed = records.iter().rfind(|r| r.action == "seal.unseal").unwrap();
    assert_eq!(unsealed.details[0].value, "1", "the attempt that failed is on record");
    // Once more does nothing.
    admin.unseal(passphrase("whatever")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seal_ends_watchers_and_an_unsealed_node_goes_on_where_it_was() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let agent = v1::CreateAgentRequest { name: "bot".into(), ..Default::default() };
    admin.create_agent(agent).await.unwrap();
    let mut watching =
        admin.watch_approvals(v1::WatchApprovalsRequest::default()).await.unwrap().into_inner();
    assert!(admin.seal(v1::SealRequest {}).await.unwrap().into_inner().sealed);
    let ended = watching.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(admin.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err().code(), Code::Unavailable);

    // A key file is no secret that a caller knows: it takes somebody who was an administrator.
    let nobody = world.client("").await.unseal(passphrase("")).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let stranger = world.client("cs_adm_made-up").await.unseal(passphrase("")).await.unwrap_err();
    assert_eq!(stranger.code(), Code::Unauthenticated);
    assert!(
        world
            .client("")
            .await
            .get_seal_status(v1::GetSealStatusRequest {})
            .await
            .unwrap()
            .into_inner()
            .sealed
    );

    admin.unseal(passphrase("")).await.unwrap();
    assert_eq!(
        admin
            .list_agents(v1::ListAgentsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .agents
            .len(),
        1
    );
    let records =
        admin.list_audit(v1::ListAuditRequest::default()).await.unwrap().into_inner().records;
    let actions: Vec<_> =
        records.iter().map(|r| r.action.as_str()).filter(|a| a.starts_with("seal.")).collect();
    let refused = "seal.unseal_refused";
    assert_eq!(actions, ["seal.unseal", "seal.seal", refused, refused, "seal.unseal"]);
    assert!(records.iter().any(|r| r.action == "seal.seal" && r.actor == "principal:admin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_passphrase_can_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passphrase");
    std::fs::write(&file, "correct horse\n").unwrap();
    let config =
        crate::world::config(&folder.path().join("data"), SealConfig::PassphraseFile(file.clone()));
    let node = countersign_control_plane::node::ControlPlane::start(config).await.unwrap();
    let world = World { node, folder };
    world.admin().await.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let token = world.admin_token();
    std::fs::remove_file(&file).unwrap();
    let world = world.restart(|_| SealConfig::PassphraseFile(file)).await;
    let mut admin = world.client(&token).await;
    assert_eq!(admin.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err().code(), Code::Unavailable);
    admin.unseal(passphrase("correct horse")).await.unwrap();
    admin.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}
