//! What operators change, and what they are told when it cannot be.

use bytes::Bytes;
use countersign_proto::v1;
use countersign_proto::v1::export_audit_response::Item;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::world::{World, credential};

pub(crate) const POLICY: &str = r#"
version = 1

[[rule]]
name = "read"
host = "api.example.com"
methods = ["GET"]
then = "allow"
credential = "example"

[[rule]]
name = "delete"
host = "api.example.com"
methods = ["DELETE"]
then = "approve"
credential = "example"
approvers = ["platform"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_id_again_gives_the_same_answer_and_does_nothing_twice() {
    let world = World::start().await;
    let mut admin = world.admin().await;

    let agent = v1::CreateAgentRequest {
        request_id: "r1".into(),
        name: "bot".into(),
        ..Default::default()
    };
    let first = admin.create_agent(agent.clone()).await.unwrap().into_inner();
    assert_eq!(admin.create_agent(agent.clone()).await.unwrap().into_inner(), first);
    assert!(first.token.starts_with("cs_agt_"));
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
    // Another id is another request, and the name is taken.
    let again = v1::CreateAgentRequest { request_id: "r2".into(), ..agent.clone() };
    assert_eq!(admin.create_agent(again).await.unwrap_err().code(), Code::AlreadyExists);
    // The same id for something else is a mistake, not an answer.
    let other = v1::CreateAgentRequest { name: "other".into(), ..agent };
    let refused = admin.create_agent(other).await.unwrap_err();
    assert_eq!(fields(&refused), ["request_id"]);

    let created = v1::CreateCredentialRequest {
        request_id: "r3".into(),
        ..credential("example", "ghp_0123456789abcdefghijklmnopqrstuvwxyz")
    };
    let first = admin.create_credential(created.clone()).await.unwrap().into_inner();
    assert_eq!(admin.create_credential(created).await.unwrap().into_inner(), first);
    assert!(first.fake_key.starts_with("ghp_") && first.fake_key.len() == 40, "{}", first.fake_key);

    let rotated = v1::RotateCredentialRequest {
        request_id: "r4".into(),
        name: "example".into(),
        value: Bytes::from_static(b"ghp_zyxwvutsrqponmlkjihgfedcba9876543210"),
    };
    let first_rotation = admin.rotate_credential(rotated.clone()).await.unwrap().into_inner();
    assert_eq!(admin.rotate_credential(rotated).await.unwrap().into_inner(), first_rotation);
    assert_eq!(first_rotation.credential.unwrap().version, 2);
    assert_eq!(
        first_rotation.fake_key, first.fake_key,
        "agents go on with the fake key that they hold"
    );

    let policy =
        v1::SetPolicyRequest { request_id: "r5".into(), text: POLICY.into(), ..Default::default() };
    assert_eq!(admin.set_policy(policy.clone()).await.unwrap().into_inner().version, 1);
    assert_eq!(admin.set_policy(policy).await.unwrap().into_inner().version, 1);

    let approver = v1::AddApproverRequest {
        request_id: "r6".into(),
        name: "ann".into(),
        ..Default::default()
    };
    let first = admin.add_approver(approver.clone()).await.unwrap().into_inner();
    assert_eq!(admin.add_approver(approver).await.unwrap().into_inner(), first);

    let audit = admin.verify_audit(v1::VerifyAuditRequest {}).await.unwrap().into_inner();
    assert!(audit.ok);
    let records =
        admin.list_audit(v1::ListAuditRequest::default()).await.unwrap().into_inner().records;
    assert_eq!(records.iter().filter(|r| r.action == "agent.create").count(), 1);
    assert_eq!(records.last().unwrap().hash, audit.head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_principals_with_the_same_request_id_are_two_requests() {
    let world = World::start().await;
    let other = world.principal("other", &[v1::Role::Admin]).await;
    let agent = |name: &str| v1::CreateAgentRequest {
        request_id: "1".into(),
        name: name.into(),
        ..Default::default()
    };
    let first = world.admin().await.create_agent(agent("a")).await.unwrap().into_inner();
    let second = world.client(&other).await.create_agent(agent("b")).await.unwrap().into_inner();
    assert_ne!(first.token, second.token);
    assert_ne!(first.agent.unwrap().agent_id, second.agent.unwrap().agent_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_request_id_each_call_is_its_own() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let rotate = |name: &str| v1::RotateAgentRequest { name: name.into(), ..Default::default() };
    let agent = v1::CreateAgentRequest { name: "bot".into(), ..Default::default() };
    let token = admin.create_agent(agent).await.unwrap().into_inner().token;
    let second = admin.rotate_agent(rotate("bot")).await.unwrap().into_inner().token;
    let third = admin.rotate_agent(rotate("bot")).await.unwrap().into_inner().token;
    assert!(token != second && second != third && token != third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_credential_is_refused_with_the_field_and_without_the_value() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    const VALUE: &str = "canary0123456789canary";
    let good = credential("c", VALUE);
    let with = |change: fn(&mut v1::CreateCredentialRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let table: Vec<(&str, v1::CreateCredentialRequest)> = vec![
        ("host", with(|r| r.host = String::new())),
        ("host", with(|r| r.host = "https://api.example.com".into())),
        ("host", with(|r| r.host = "api.example.com:0443".into())),
        ("host", with(|r| r.host = "user@api.example.com".into())),
        ("host", with(|r| r.host = "2130706433".into())),
        ("host", with(|r| r.host = "api..example.com".into())),
        ("slot", with(|r| r.slot = String::new())),
        ("slot", with(|r| r.slot = "cookie".into())),
        ("slot", with(|r| r.slot = "header:".into())),
        ("slot", with(|r| r.slot = "header:host".into())),
        ("slot", with(|r| r.slot = "header:transfer-encoding".into())),
        ("slot", with(|r| r.slot = "header:a b".into())),
        ("slot", with(|r| r.slot = "query".into())),
        ("slot", with(|r| r.slot = "query:".into())),
        ("slot", with(|r| r.slot = "query:a&b".into())),
        ("slot", with(|r| r.slot = "path:x".into())),
        ("slot", with(|r| r.slot = "cookie:".into())),
        ("slot", with(|r| r.slot = "cookie:a;b".into())),
        ("slot", with(|r| r.slot = "form".into())),
        ("slot", with(|r| r.slot = "form:a=b".into())),
        ("slot", with(|r| r.slot = "json".into())),
        ("slot", with(|r| r.slot = "json:secret".into())),
        ("slot", with(|r| r.slot = "json:/a~2b".into())),
        ("slot", with(|r| r.slot = "hmac".into())),
        ("slot", with(|r| r.slot = "hmac:".into())),
        ("slot", with(|r| r.slot = "hmac:host".into())),
        ("slot", with(|r| r.slot = "hmac:x-s,x-s".into())),
        ("slot", with(|r| r.slot = "hmac:x-s,x-t,x-u".into())),
        ("template", with(|r| r.slot = "hmac:x-s".into())),
        (
            "template",
            with(|r| {
                (r.slot, r.template) =
                    ("hmac:x-s".into(), "sha256 hex {signature} | {timestamp}".into());
            }),
        ),
        (
            "value",
            with(|r| {
                (r.slot, r.template) =
                    ("hmac:x-s".into(), "sha256 hex key=base64 {signature} | {body}".into());
                r.value = Bytes::from_static(b"canary0-0123456789");
            }),
        ),
        ("template", with(|r| r.template = "Bearer".into())),
        ("template", with(|r| r.template = "{key}{key}".into())),
        ("template", with(|r| r.template = "Bearer {key}\r\nx: y".into())),
        ("template", with(|r| (r.slot, r.template) = ("path".into(), "a/{key}".into()))),
        ("template", with(|r| (r.slot, r.template) = ("query:k".into(), "x{key}".into()))),
        ("template", with(|r| (r.slot, r.template) = ("basic".into(), "a:b:{key}".into()))),
        ("template", with(|r| (r.slot, r.template) = ("cookie:sid".into(), "{key}".into()))),
        ("template", with(|r| (r.slot, r.template) = ("form:secret".into(), "x{key}".into()))),
        ("template", with(|r| (r.slot, r.template) = ("json:/a".into(), "x{key}".into()))),
        ("class", with(|r| r.class = 99)),
        ("value", with(|r| r.value = Bytes::new())),
        ("value", with(|r| r.value = Bytes::from_static(b"short"))),
        ("value", with(|r| r.value = Bytes::from_static(b"canary0123456789\ncanary"))),
        ("value", with(|r| r.value = Bytes::from_static(b"canary0123456789\0canary"))),
        ("value", with(|r| r.value = Bytes::from_static(b"canary0123456789\xff"))),
        ("value", with(|r| r.value = vec![b'x'; 16 * 1024 + 1].into())),
        (
            "value",
            with(|r| {
                (r.slot, r.value) = ("cookie:sid".into(), Bytes::from_static(b"canary0123;456789"));
            }),
        ),
    ];
    for (field, request) in table {
        let what = format!("{field}: {:?} {:?} {:?}", request.host, request.slot, request.template);
        let refused = admin.create_credential(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}");
        assert_eq!(fields(&refused), [field], "{what}");
        assert_eq!(refused.get_details_error_info().unwrap().domain, "countersign");
        assert!(!refused.message().contains("canary0"), "{refused:?}");
    }
    // Every mistake at once.
    let all = v1::CreateCredentialRequest { name: "c".into(), ..Default::default() };
    assert_eq!(fields(&admin.create_credential(all).await.unwrap_err()), ["host", "slot", "value"]);
    let bad_name = v1::CreateCredentialRequest { name: "No Name".into(), ..good.clone() };
    assert_eq!(admin.create_credential(bad_name).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(
        admin
            .list_credentials(v1::ListCredentialsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .credentials
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_without_a_template_takes_its_own() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    for (n, (slot, stored, template)) in [
        ("header", "header:authorization", ""),
        ("header:Authorization", "header:authorization", ""),
        ("header:X-Api-Key", "header:x-api-key", "{key}"),
        ("basic", "basic", ""),
        ("query:api_key", "query:api_key", ""),
        ("path", "path", "{key}"),
        ("cookie:SID", "cookie:SID", ""),
        ("form:client_secret", "form:client_secret", ""),
        ("json:/auth/a~1b", "json:/auth/a~1b", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let request = v1::CreateCredentialRequest {
            slot: slot.into(),
            ..credential(&format!("c{n}"), "0123456789abcdef")
        };
        let created =
            admin.create_credential(request).await.unwrap().into_inner().credential.unwrap();
        assert_eq!(
            (created.slot.as_str(), created.template.as_str(), created.port),
            (stored, template, 443)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roles_password_is_for_one_database_server_and_names_its_role() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let with = |slot: &str| v1::CreateCredentialRequest {
        slot: slot.into(),
        host: "db.example.com".into(),
        ..credential("db", "canary0-0123456789abcdef")
    };
    for (field, request) in [
        ("slot", with("postgres")),
        ("slot", with("postgres:")),
        ("slot", with("postgres:two words")),
        ("slot", with(&format!("postgres:{}", "r".repeat(64)))),
        (
            "template",
            v1::CreateCredentialRequest { template: "{key}".into(), ..with("postgres:shop_app") },
        ),
    ] {
        let refused = admin.create_credential(request).await.unwrap_err();
        assert_eq!(fields(&refused), [field]);
    }
    let made = admin.create_credential(with("postgres:shop_app")).await.unwrap().into_inner();
    let kept = made.credential.unwrap();
    assert_eq!((kept.slot.as_str(), kept.port), ("postgres:shop_app", 5432));
    assert_eq!(kept.template, "");
    assert!(!made.fake_key.contains("0123456789abcdef") && made.fake_key.len() == 24);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_key_is_given_in_two_parts_and_agents_get_two_fake_ones() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let (id, secret) = ("AKIAREALREALREALREAL", "canary0TheSecretAccessKey/0123456789+abcd");
    let with = |value: String| v1::CreateCredentialRequest {
        slot: "aws-sigv4".into(),
        ..credential("aws", &value)
    };
    for (field, request) in [
        ("value", with(id.into())),
        ("value", with(format!("{secret}:{id}"))),
        ("value", with(format!("{id}:short"))),
        (
            "template",
            v1::CreateCredentialRequest {
                template: "{key}".into(),
                ..with(format!("{id}:{secret}"))
            },
        ),
        (
            "slot",
            v1::CreateCredentialRequest {
                slot: "aws-sigv4:s3".into(),
                ..with(format!("{id}:{secret}"))
            },
        ),
        // T3-CLASS: a key that signs is lent to nobody.
        (
            "class",
            v1::CreateCredentialRequest {
                class: v1::CredentialClass::Lease.into(),
                ..with(format!("{id}:{secret}"))
            },
        ),
    ] {
        let refused = admin.create_credential(request).await.unwrap_err();
        assert_eq!(fields(&refused), [field]);
        assert!(!refused.message().contains("canary0"), "{refused:?}");
    }
    let made = admin.create_credential(with(format!("{id}\n{secret}\n"))).await.unwrap();
    let made = made.into_inner();
    let (fake_id, fake_secret) = made.fake_key.split_once(':').unwrap();
    assert!(fake_id.starts_with("AKIA") && fake_id.len() == 20 && fake_id != id, "{fake_id}");
    assert!(fake_id.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b)));
    assert!(fake_secret.len() == 40 && fake_secret.bytes().all(|b| b.is_ascii_alphanumeric()));
    let rotate = |value: &str| v1::RotateCredentialRequest {
        name: "aws".into(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    };
    assert_eq!(fields(&admin.rotate_credential(rotate(secret)).await.unwrap_err()), ["value"]);
    let rotated = admin
        .rotate_credential(rotate(&format!("ASIAREALREALREALREAL:{secret}:token")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(rotated.fake_key, made.fake_key, "agents go on with what they have");
    assert_eq!(rotated.credential.unwrap().version, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_that_fit_together() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    for n in 0..5 {
        let request = v1::CreateAgentRequest { name: format!("bot-{n}"), ..Default::default() };
        admin.create_agent(request).await.unwrap();
    }
    let (mut names, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = v1::ListAgentsRequest { page_size: 2, page_token };
        let page = admin.list_agents(request).await.unwrap().into_inner();
        names.extend(page.agents.into_iter().map(|a| a.name));
        (page_token, pages) = (page.next_page_token, pages + 1);
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["bot-0", "bot-1", "bot-2", "bot-3", "bot-4"]);
    assert_eq!(pages, 3);
    let token = admin
        .list_agents(v1::ListAgentsRequest { page_size: 1, ..Default::default() })
        .await
        .unwrap()
        .into_inner()
        .next_page_token;
    for (page_size, page_token) in [(-1, String::new()), (0, "nonsense".into()), (0, "%%%".into())]
    {
        let request = v1::ListAgentsRequest { page_size, page_token };
        assert_eq!(admin.list_agents(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    // A token of one list is none of another.
    let elsewhere = v1::ListAuditRequest { page_size: 1, page_token: token };
    assert_eq!(fields(&admin.list_audit(elsewhere).await.unwrap_err()), ["page_token"]);
    let mut all = v1::ListAuditRequest { page_size: 2, ..Default::default() };
    let mut indexes = Vec::new();
    loop {
        let page = admin.list_audit(all.clone()).await.unwrap().into_inner();
        indexes.extend(page.records.iter().map(|r| r.index));
        all.page_token = page.next_page_token;
        if all.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(indexes, (1..=indexes.len() as u64).collect::<Vec<_>>());
    let mut exported = admin.export_audit(v1::ExportAuditRequest {}).await.unwrap().into_inner();
    let mut items = Vec::new();
    while let Some(answer) = exported.message().await.unwrap() {
        items.push(answer.item.unwrap());
    }
    let Some(Item::Preamble(preamble)) = items.first() else { panic!("{:?}", items.first()) };
    assert_eq!((preamble.root_public_key.len(), preamble.trust_bundles.len()), (32, 1));
    let records = items.iter().filter(|item| matches!(item, Item::Record(_)));
    assert_eq!(records.count(), indexes.len());
    // All that was recorded when it was asked for is signed.
    let Some(Item::Checkpoint(checkpoint)) = items.last() else { panic!("{:?}", items.last()) };
    assert_eq!((checkpoint.index, checkpoint.epoch), (indexes.len() as u64, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_a_sentence() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let long = "x".repeat(129);
    let statuses = [
        (
            Code::InvalidArgument,
            admin
                .create_agent(v1::CreateAgentRequest { name: String::new(), ..Default::default() })
                .await
                .unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            admin
                .create_agent(v1::CreateAgentRequest { name: "A\nB".into(), ..Default::default() })
                .await
                .unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            admin
                .create_agent(v1::CreateAgentRequest {
                    request_id: long,
                    name: "a".into(),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::NotFound,
            admin
                .create_agent(v1::CreateAgentRequest {
                    name: "a".into(),
                    owner: "nobody".into(),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::NotFound,
            admin
                .rotate_agent(v1::RotateAgentRequest { name: "a".into(), ..Default::default() })
                .await
                .unwrap_err(),
        ),
        (
            Code::NotFound,
            admin
                .revoke_agent(v1::RevokeAgentRequest { name: "a".into(), ..Default::default() })
                .await
                .unwrap_err(),
        ),
        (
            Code::NotFound,
            admin
                .revoke_credential(v1::RevokeCredentialRequest {
                    name: "a".into(),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::NotFound,
            admin
                .rotate_credential(v1::RotateCredentialRequest {
                    name: "a".into(),
                    value: Bytes::from_static(b"0123456789"),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::NotFound,
            admin
                .remove_approver(v1::RemoveApproverRequest {
                    name: "a".into(),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            admin
                .add_approver(v1::AddApproverRequest {
                    name: "a".into(),
                    roles: vec![0],
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            admin
                .add_approver(v1::AddApproverRequest {
                    name: "a".into(),
                    roles: vec![77],
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            admin
                .get_approval(v1::GetApprovalRequest { approval_id: "x".into() })
                .await
                .unwrap_err(),
        ),
        (
            Code::NotFound,
            admin
                .get_approval(v1::GetApprovalRequest { approval_id: "0".repeat(32) })
                .await
                .unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            admin
                .vote_approval(v1::VoteApprovalRequest {
                    approval_id: "0".repeat(32),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::NotFound,
            admin
                .vote_approval(v1::VoteApprovalRequest {
                    approval_id: "0".repeat(32),
                    decision: 1,
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            admin
                .vote_approval(v1::VoteApprovalRequest {
                    approval_id: "0".repeat(32),
                    decision: 1,
                    intent_digest: "abc".into(),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::NotFound,
            admin
                .watch_approvals(v1::WatchApprovalsRequest { approval_id: "0".repeat(32) })
                .await
                .unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            admin
                .list_approvals(v1::ListApprovalsRequest { state: 99, ..Default::default() })
                .await
                .unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            admin
                .enroll_edge(v1::EnrollEdgeRequest {
                    name: "e".into(),
                    csr_pem: "no".into(),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
        (
            Code::FailedPrecondition,
            admin.confirm_clock(v1::ConfirmClockRequest::default()).await.unwrap_err(),
        ),
        (
            Code::NotFound,
            admin
                .evict_edge(v1::EvictEdgeRequest { name: "e".into(), ..Default::default() })
                .await
                .unwrap_err(),
        ),
        (
            Code::FailedPrecondition,
            admin
                .remove_approver(v1::RemoveApproverRequest {
                    name: "admin".into(),
                    ..Default::default()
                })
                .await
                .unwrap_err(),
        ),
    ];
    for (n, (code, status)) in statuses.into_iter().enumerate() {
        assert_eq!(status.code(), code, "{n}: {status:?}");
        assert!(status.message().len() > 10 && !status.message().contains('\n'), "{n}: {status:?}");
        assert!(status.get_details_error_info().is_some(), "{n}: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_is_enrolled_for_its_key_and_evicted() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let request =
        v1::EnrollEdgeRequest { request_id: "e".into(), name: "edge-1".into(), csr_pem: csr };
    let enrolled = admin.enroll_edge(request.clone()).await.unwrap().into_inner();
    assert_eq!(enrolled.root_public_key.len(), 32);
    assert_eq!(enrolled.gateway_address, world.node.gateway_addr().to_string());
    assert_eq!(enrolled.gateway_ca_pem, std::fs::read_to_string(world.node.api_ca_path()).unwrap());
    assert!(enrolled.certificate_pem.contains("BEGIN CERTIFICATE"));
    let again = admin.enroll_edge(request.clone()).await.unwrap().into_inner();
    assert_eq!(again.edge, enrolled.edge);
    // The same request with another key would give that key the edge's name.
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let csr_pem =
        rcgen::CertificateParams::default().serialize_request(&other).unwrap().pem().unwrap();
    let stolen = v1::EnrollEdgeRequest { csr_pem, ..request };
    assert_eq!(fields(&admin.enroll_edge(stolen).await.unwrap_err()), ["request_id"]);

    let evict =
        v1::EvictEdgeRequest { name: "edge-1".into(), reason: "lost".into(), ..Default::default() };
    assert!(admin.evict_edge(evict).await.unwrap().into_inner().edge.unwrap().evicted);
    let edges = admin.list_edges(v1::ListEdgesRequest::default()).await.unwrap().into_inner().edges;
    assert_eq!(edges.len(), 1);
    assert!(edges[0].evicted && !edges[0].connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_is_there_after_a_restart() {
    let world = World::start().await;
    let token = world.admin_token();
    let ca = std::fs::read(world.node.api_ca_path()).unwrap();
    let agent = v1::CreateAgentRequest {
        request_id: "r1".into(),
        name: "bot".into(),
        ..Default::default()
    };
    let first = world.admin().await.create_agent(agent.clone()).await.unwrap().into_inner();
    let before =
        world.admin().await.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let world = world
        .restart(|folder| countersign_control_plane::node::SealConfig::KeyFile(folder.join("key")))
        .await;
    assert_eq!(world.admin_token(), token);
    assert_eq!(std::fs::read(world.node.api_ca_path()).unwrap(), ca);
    let after = world.admin().await.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(after.cluster_id, before.cluster_id);
    assert!(after.leader && after.applied_index > before.applied_index);
    assert_eq!(world.admin().await.create_agent(agent).await.unwrap().into_inner(), first);
    assert!(
        world.admin().await.verify_audit(v1::VerifyAuditRequest {}).await.unwrap().into_inner().ok
    );
}

pub(crate) fn fields(status: &Status) -> Vec<String> {
    let violations =
        status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}
