//! The credentials of the tests, and where each one's key goes.

use countersign_proto::v1 as pb;

/// A credential of the test: fake and real.
pub(crate) struct Secret {
    pub(crate) name: &'static str,
    pub(crate) fake: &'static str,
    pub(crate) real: &'static str,
    pub(super) host: &'static str,
    pub(super) leasable: bool,
}

pub(crate) const SECRETS: [Secret; 17] = [
    Secret {
        name: "api",
        fake: "tk_fake_api_0123456789",
        real: "tk_REAL_api_abcdefghij",
        host: "api.test",
        leasable: true,
    },
    Secret {
        name: "api-admin",
        fake: "tk_fake_admin_9876543210",
        real: "tk_REAL_admin_klmnopqrst",
        host: "api.test",
        leasable: false,
    },
    Secret {
        name: "single",
        fake: "tk_fake_single_55555555",
        real: "tk_REAL_single_zzzzzzzz",
        host: "single.test",
        leasable: false,
    },
    Secret {
        name: "git",
        fake: "ghp_fake0123456789abcd",
        real: "ghp_REAL0123456789wxyz",
        host: "git.test",
        leasable: true,
    },
    Secret {
        name: "query",
        fake: "qk_fake_0123456789",
        real: "qk_REAL+/0123456789",
        host: "query.test",
        leasable: true,
    },
    Secret {
        name: "bot",
        fake: "123456:FAKEabcdefgh",
        real: "987654:REALzyxwvuts",
        host: "bot.test",
        leasable: true,
    },
    Secret {
        name: "session",
        fake: "sess_fake_0123456789",
        real: "sess_REAL/+=abcdefghij",
        host: "cookie.test",
        leasable: true,
    },
    Secret {
        name: "form",
        fake: "cs_fake_0123456789",
        real: "cs_REAL+/&=%0123456789",
        host: "form.test",
        leasable: true,
    },
    Secret {
        name: "json",
        fake: "js_fake_0123456789",
        real: "js_REAL\"\\/<0123456789",
        host: "json.test",
        leasable: false,
    },
    Secret {
        name: "aws",
        fake: "AKIAFAKEFAKEFAKEFAKE",
        // What the control plane signed: not a key.
        real: concat!(
            "authorization: AWS4-HMAC-SHA256 Credential=AKIAREALREALREALREAL/20261126/eu-central-1/s3/aws4_request, ",
            "SignedHeaders=host;x-amz-content-sha256;x-amz-date, ",
            "Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31\n",
            "x-amz-date: 20261126T092209Z\n",
            "x-amz-security-token: REALsessiontoken0123456789+/=",
        ),
        host: "aws.test",
        leasable: false,
    },
    Secret {
        name: "hook",
        fake: "whsec_fake0123456789abcd",
        real: "webhook-signature: v1,REALsignature0123456789/+abcdefghij=\nwebhook-timestamp: 1790000000",
        host: "hook.test",
        leasable: false,
    },
    Secret {
        name: "stage",
        fake: "tk_fake_stage_0123456789",
        real: "tk_REAL_stage_abcdefghij",
        host: "stage.test",
        leasable: true,
    },
    Secret {
        name: "stage-admin",
        fake: "tk_fake_stagehand_987654",
        real: "tk_REAL_stagehand_zyxwvu",
        host: "stage.test",
        leasable: false,
    },
    Secret {
        name: "one-by-one",
        fake: "tk_fake_turns_0123456789",
        real: "tk_REAL_turns_abcdefghij",
        host: "turns.test",
        leasable: false,
    },
    Secret {
        name: "db",
        fake: "dbFAKE-0123456789-abcdef",
        real: "dbREAL-9876543210-zyxwvu",
        host: "db.test",
        leasable: true,
    },
    Secret {
        name: "db-admin",
        fake: "adFAKE-0123456789-abcdef",
        real: "adREAL-9876543210-zyxwvu",
        host: "db.test",
        leasable: false,
    },
    Secret {
        name: "sealed",
        fake: "tk_fake_sealed_012345678",
        real: "tk_REAL_sealed_abcdefghi",
        host: "sealed.test",
        leasable: true,
    },
];

/// How requests with the key of "hook" are signed.
pub(crate) const HOOK: &str =
    "sha256 base64 key=base64 v1,{signature} | {header:webhook-id}.{timestamp}.{body}";

pub(crate) fn secret(name: &str) -> &'static Secret {
    SECRETS.iter().find(|secret| secret.name == name).expect("a credential of the test")
}

pub(super) fn slot(name: &str) -> pb::CredentialSlot {
    use pb::credential_slot::Slot;
    let slot = match name {
        "git" => Slot::Basic(pb::BasicSlot { template: String::new() }),
        "query" => Slot::Query(pb::QuerySlot { name: "key".into() }),
        "hook" => Slot::Hmac(pb::HmacSlot {
            headers: vec!["webhook-signature".into(), "webhook-timestamp".into()],
            template: HOOK.into(),
        }),
        "db" => Slot::Postgres(pb::PostgresSlot { role: "app".into() }),
        "db-admin" => Slot::Postgres(pb::PostgresSlot { role: "admin".into() }),
        "aws" => Slot::AwsSigv4(pb::AwsSigv4Slot {}),
        "session" => Slot::Cookie(pb::CookieSlot { name: "sid".into() }),
        "form" => Slot::Form(pb::FormSlot { name: "client_secret".into() }),
        "json" => Slot::Json(pb::JsonSlot { pointer: "/auth/secret".into() }),
        "bot" => Slot::Path(pb::PathSlot { template: "bot{key}".into() }),
        _ => Slot::Header(pb::HeaderSlot {
            name: "authorization".into(),
            template: "Bearer {key}".into(),
        }),
    };
    pb::CredentialSlot { slot: Some(slot) }
}
