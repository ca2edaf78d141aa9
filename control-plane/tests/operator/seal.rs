//! Sealed, unsealed, and sealed again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_control_plane::node::SealConfig;
use countersign_proto::v1;
use tonic::Code;

use crate::access::{call, methods_of};
use crate::world::{Admin, World};

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

/// Waits until the audit log has these actions about the seal, in this order.
async fn on_record(admin: &mut Admin, wanted: &[&str]) -> Vec<v1::AuditRecord> {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let request = v1::ListAuditRequest { page_size: 1000, ..Default::default() };
        let mut records = admin.list_audit(request).await.unwrap().into_inner().records;
        records.retain(|r| r.action.starts_with("seal.") || r.action.starts_with("cluster.init"));
        let actions: Vec<_> = records.iter().map(|r| r.action.as_str()).collect();
        if actions == wanted {
            return records;
        }
        assert!(Instant::now() < patience, "{actions:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seal_audit_what_nobody_known_asks_of_an_open_node_is_on_record() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let mut nobody = world.client("").await;
    let mut stranger = world.client("cs_adm_made-up").await;
    let refused = "seal.refused";

    let sealed = nobody.seal(v1::SealRequest {}).await.unwrap_err();
    assert_eq!(sealed.code(), Code::Unauthenticated);
    on_record(&mut admin, &["seal.unseal", refused]).await;
    let rekeyed = stranger.start_rekey(v1::StartRekeyRequest::default()).await.unwrap_err();
    assert_eq!(rekeyed.code(), Code::Unauthenticated);
    on_record(&mut admin, &["seal.unseal", refused, refused]).await;
    nobody.unseal(passphrase("battery staple")).await.unwrap();
    on_record(&mut admin, &["seal.unseal", refused, refused, "seal.unseal_idle"]).await;
    let begun = nobody.init_cluster(v1::InitClusterRequest::default()).await.unwrap_err();
    assert_eq!(begun.code(), Code::FailedPrecondition);
    let all = ["seal.unseal", refused, refused, "seal.unseal_idle", "cluster.init_refused"];
    let records = on_record(&mut admin, &all).await;

    let why = |record: &v1::AuditRecord| {
        record.details.iter().find(|it| it.name == "why").unwrap().value.clone()
    };
    assert!(why(&records[1]).starts_with("Seal: "), "{}", why(&records[1]));
    assert!(why(&records[2]).starts_with("StartRekey: "), "{}", why(&records[2]));
    assert!(why(&records[4]).contains("has a vault already"), "{}", why(&records[4]));
    assert!(records.iter().all(|record| record.actor == "system"));
    assert!(!format!("{records:?}").contains("battery"));
    assert!(!world.data_dir().join("seal-attempts.json").exists(), "none is left to record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seal_audit_what_is_asked_of_a_sealed_node_is_on_record_once_it_is_open() {
    let world = World::start_sealed().await;
    let mut nobody = world.client("").await;
    nobody.seal(v1::SealRequest {}).await.unwrap_err();
    nobody.rotate_keyring(v1::RotateKeyringRequest::default()).await.unwrap_err();
    let garbled = Bytes::from_static(&[0xff, 0xfe]);
    nobody
        .unseal(v1::UnsealRequest { passphrase: garbled, ..Default::default() })
        .await
        .unwrap_err();
    let world = world.restart(|_| SealConfig::Passphrase).await;
    world.client("").await.unseal(passphrase("correct horse")).await.unwrap();
    let refused = "seal.refused";
    let all = [refused, refused, "seal.unseal_refused", "seal.unseal"];
    on_record(&mut world.admin().await, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seal_audit_those_who_were_turned_away_unheard_are_counted() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    admin.seal(v1::SealRequest {}).await.unwrap();
    let mut nobody = world.client("").await;
    let mut turned_away = 0;
    for _ in 0..40 {
        let refused = nobody.unseal(passphrase("")).await.unwrap_err();
        turned_away += u64::from(refused.code() == Code::ResourceExhausted);
    }
    for _ in 0..2 {
        let refused = nobody.init_cluster(v1::InitClusterRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
    }
    assert!(turned_away > 10, "{turned_away}");

    // A start opens it: the key file is there.
    let token = world.admin_token();
    let world = world.restart(|folder| SealConfig::KeyFile(folder.join("key"))).await;
    let request = v1::ListAuditRequest { page_size: 1000, ..Default::default() };
    let records = world.client(&token).await.list_audit(request).await.unwrap();
    let records = records.into_inner().records;
    let times = |action: &str| {
        let counted: Vec<_> = records.iter().filter(|r| r.action == action).collect();
        assert_eq!(counted.len(), 1, "one record for all of them: {action}");
        counted[0]
            .details
            .iter()
            .find(|it| it.name == "times")
            .unwrap()
            .value
            .parse::<u64>()
            .unwrap()
    };
    // A crash costs half of the count; a shutdown does not.
    assert_eq!(times("seal.unseal_throttled"), turned_away);
    assert_eq!(times("cluster.init_throttled"), 2);
    let refused = records.iter().filter(|r| r.action == "seal.unseal_refused").count() as u64;
    assert_eq!(refused, 40 - turned_away);
}
