//! C-NO-REVEAL: no method, asked by anyone in any way, gives a stored value away.

use bytes::Bytes;
use countersign_proto::v1;
use futures::StreamExt as _;
use prost::Message as _;

use crate::access::{call_with, methods_of};
use crate::start::get;
use crate::world::{World, credential};

/// With the canary's every spelling that an answer could carry it in.
struct Canary(Vec<Vec<u8>>);

impl Canary {
    fn of(value: &str) -> Self {
        use base64::Engine as _;
        use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};

        let mut spellings = vec![
            value.as_bytes().to_vec(),
            hex::encode(value).into_bytes(),
            hex::encode_upper(value).into_bytes(),
        ];
        for offset in 0..3 {
            let padded = [vec![0; offset], value.as_bytes().to_vec()].concat();
            for text in
                [BASE64_STANDARD_NO_PAD.encode(&padded), BASE64_URL_SAFE_NO_PAD.encode(&padded)]
            {
                // Without the digits that depend on what stands around it.
                spellings.push(text.as_bytes()[2..text.len() - 2].to_vec());
            }
        }
        spellings.push(value.bytes().map(|b| format!("%{b:02X}")).collect::<String>().into_bytes());
        spellings.push(value.bytes().rev().collect());
        Self(spellings)
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|spelling| bytes.windows(spelling.len()).any(|window| window == spelling))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_no_reveal_no_answer_of_any_method_to_any_role_holds_a_stored_value() {
    const FIRST: &str = "ghp_CANARY1a2b3c4d5e6f7g8h9i0jKLMNOPQRST";
    const SECOND: &str = "ghp_CANARY9z8y7x6w5v4u3t2s1r0qABCDEFGHIJ";
    let canaries = [Canary::of(FIRST), Canary::of(SECOND)];
    let world = World::start().await;
    let mut admin = world.admin().await;
    let mut answers: Vec<(String, Vec<u8>)> = Vec::new();
    let created = admin.create_credential(credential("example", FIRST)).await.unwrap().into_inner();
    answers.push(("CreateCredential".into(), created.encode_to_vec()));
    let rotate = v1::RotateCredentialRequest {
        name: "example".into(),
        value: Bytes::from_static(SECOND.as_bytes()),
        ..Default::default()
    };
    let rotated = admin.rotate_credential(rotate).await.unwrap().into_inner();
    answers.push(("RotateCredential".into(), rotated.encode_to_vec()));
    admin
        .create_agent(v1::CreateAgentRequest { name: "bot".into(), ..Default::default() })
        .await
        .unwrap();

    let channel = v1::SetChannelRequest {
        name: "chat".into(),
        platform: "slack".into(),
        settings: [("app".to_owned(), "A1".to_owned())].into(),
        secrets: [("bot_token", FIRST), ("signing_secret", SECOND)]
            .map(|(name, value)| (name.to_owned(), Bytes::from_static(value.as_bytes())))
            .into(),
        ..Default::default()
    };
    let set = admin.set_channel(channel.clone()).await.unwrap().into_inner();
    answers.push(("SetChannel".into(), set.encode_to_vec()));

    // Refusals that carry the value in must not carry it out.
    let unknown = v1::SetChannelRequest { platform: "smoke".into(), ..channel };
    let refused = admin.set_channel(unknown).await.unwrap_err();
    answers.push(("a refusal".into(), [refused.message().as_bytes(), refused.details()].concat()));
    let again =
        v1::CreateCredentialRequest { host: "no host".into(), ..credential("example", FIRST) };
    let refused = admin.create_credential(again).await.unwrap_err();
    answers.push(("a refusal".into(), [refused.message().as_bytes(), refused.details()].concat()));
    let taken = admin.create_credential(credential("example", SECOND)).await.unwrap_err();
    answers.push(("a refusal".into(), [taken.message().as_bytes(), taken.details()].concat()));

    let mut tokens = vec![String::new(), world.admin_token()];
    for role in [v1::Role::Approver, v1::Role::Auditor] {
        tokens.push(world.principal(&format!("p{}", role as i32), &[role]).await);
    }
    let channel = world.channel().await;
    for method in methods_of("AdminService") {
        if matches!(method.as_str(), "Seal" | "RevokeCredential") {
            continue;
        }
        for token in &tokens {
            for message in messages() {
                let path = format!("/countersign.v1.AdminService/{method}");
                let answer = match call_with(channel.clone(), &path, token, message).await {
                    Ok(bytes) => bytes.to_vec(),
                    Err(status) => [status.message().as_bytes(), status.details()].concat(),
                };
                answers.push((method.clone(), answer));
            }
        }
    }
    let mut export = admin.export_audit(v1::ExportAuditRequest {}).await.unwrap().into_inner();
    while let Some(record) = export.next().await {
        answers.push(("ExportAudit".into(), record.unwrap().encode_to_vec()));
    }
    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        answers.push((path.into(), get(&world, path).await.into_bytes()));
    }
    assert!(answers.len() > 300, "{}", answers.len());
    for (from, answer) in &answers {
        assert!(
            canaries.iter().all(|canary| !canary.is_in(answer)),
            "{from} gives a stored value away"
        );
    }

    // S-DISK-GREP, while it runs: neither do its files.
    let mut files = 0;
    let mut folders = vec![world.data_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                files += 1;
                assert!(canaries.iter().all(|canary| !canary.is_in(&bytes)), "{}", path.display());
            }
        }
    }
    assert!(files > 3);
}

/// Messages that mean something to many methods: their first fields are mostly a request id, a name and a text.
fn messages() -> Vec<Bytes> {
    let text = |field: u8, text: &str| {
        let mut bytes = vec![field << 3 | 2, text.len() as u8];
        bytes.extend(text.as_bytes());
        bytes
    };
    vec![
        Bytes::new(),
        text(1, "example").into(),
        [text(1, ""), text(2, "example")].concat().into(),
        [text(1, "bot"), text(2, "GET"), text(3, "https://api.example.com/")].concat().into(),
        Bytes::from_static(&[0xff, 0xff, 0xff]),
    ]
}
