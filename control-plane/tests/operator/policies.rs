//! The policy as operators put it in force: refused, warned about, explained.

use bytes::Bytes;
use countersign_policy::database::Written;
use countersign_proto::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::mutations::{POLICY, fields};
use crate::world::{World, credential};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_does_not_compile_is_refused_with_every_mistake() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let text = "version = 1\n[[rule]]\nname = \"a\"\nhost = \"*\"\nthen = \"perhaps\"\n[[rule]]\nname = \"b\"\nhost = \"x..y\"\nthen = \"allow\"\n";
    let request = v1::SetPolicyRequest {
        text: text.into(),
        file_name: "p.toml".into(),
        ..Default::default()
    };
    let refused = admin.set_policy(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert!(violations.len() >= 2, "{violations:?}");
    assert!(
        violations.iter().all(|v| v.field == "text" && v.description.starts_with("p.toml:")),
        "{violations:?}"
    );
    assert_eq!(admin.get_policy(v1::GetPolicyRequest {}).await.unwrap().into_inner().version, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_warned_about_what_is_probably_not_meant() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let policy = || v1::SetPolicyRequest { text: POLICY.into(), ..Default::default() };
    let warnings = admin.set_policy(policy()).await.unwrap().into_inner().warnings;
    assert!(warnings.iter().any(|w| w.contains("\"platform\"")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("\"example\"")), "{warnings:?}");

    let elsewhere = v1::CreateCredentialRequest {
        host: "elsewhere.example".into(),
        ..credential("example", "0123456789abcdef")
    };
    admin.create_credential(elsewhere).await.unwrap();
    let ann = v1::AddApproverRequest {
        name: "ann".into(),
        groups: vec!["platform".into()],
        ..Default::default()
    };
    admin.add_approver(ann).await.unwrap();
    let warnings = admin.set_policy(policy()).await.unwrap().into_inner().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("elsewhere.example"), "{warnings:?}");
    assert!(warnings[1].contains("one request at a time for both"), "{warnings:?}");

    let surer = POLICY.replacen("then = \"approve\"", "then = \"approve\"\nstrength = \"L3\"", 1);
    assert_ne!(surer, POLICY);
    let surer = v1::SetPolicyRequest { text: surer, ..Default::default() };
    let warnings = admin.set_policy(surer).await.unwrap().into_inner().warnings;
    assert!(warnings.iter().any(|w| w.contains("nobody can answer so surely")), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_with_another_version_than_expected_is_refused() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let policy = |expected_version| v1::SetPolicyRequest {
        text: POLICY.into(),
        expected_version,
        ..Default::default()
    };
    assert_eq!(admin.set_policy(policy(0)).await.unwrap().into_inner().version, 1);
    assert_eq!(admin.set_policy(policy(1)).await.unwrap().into_inner().version, 2);
    assert!(admin.set_policy(policy(1)).await.is_err());
    assert_eq!(admin.get_policy(v1::GetPolicyRequest {}).await.unwrap().into_inner().version, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t3_class_a_leased_credential_is_not_approved_about_unless_the_rule_says_so() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let lease = v1::CreateCredentialRequest {
        class: v1::CredentialClass::Lease.into(),
        ..credential("example", "0123456789abcdef")
    };
    admin.create_credential(lease.clone()).await.unwrap();
    let policy = |text: &str| v1::SetPolicyRequest { text: text.into(), ..Default::default() };
    let refused = admin.set_policy(policy(POLICY)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(
        refused.get_details_precondition_failure().unwrap().violations[0].subject,
        "example"
    );
    let accepted = POLICY.replace("approvers =", "accept_edge_enforced = true\napprovers =");
    admin.set_policy(policy(&accepted)).await.unwrap();

    // And the other way round: the policy first, the credential after it.
    let other = POLICY.replace("\"example\"", "\"later\"");
    admin.set_policy(policy(&other)).await.unwrap();
    let later = v1::CreateCredentialRequest { name: "later".into(), ..lease };
    assert_eq!(admin.create_credential(later).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_has_a_key_is_not_tunnelled_to_whichever_comes_second() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let policy = |host: &str| v1::SetPolicyRequest {
        text: format!(
            "version = 1\n[[rule]]\nname = \"through\"\nhost = \"{host}\"\nthen = \"tunnel\"\n"
        ),
        ..Default::default()
    };
    admin.create_credential(credential("example", "0123456789abcdef")).await.unwrap();
    // Whatever the port, and whatever names it is below.
    for host in ["api.example.com", "api.example.com:8443", "*.example.com"] {
        let refused = admin.set_policy(policy(host)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{host}");
        let violations = refused.get_details_precondition_failure().unwrap().violations;
        assert_eq!(violations[0].r#type, "TUNNEL_NEEDS_NO_KEY");
        assert!(refused.message().contains("\"through\""), "{refused:?}");
    }
    assert_eq!(admin.get_policy(v1::GetPolicyRequest {}).await.unwrap().into_inner().version, 0);
    admin.set_policy(policy("other.example.com")).await.unwrap();
    let other = v1::CreateCredentialRequest {
        name: "other".into(),
        host: "other.example.com:8443".into(),
        ..credential("other", "0123456789abcdef")
    };
    assert_eq!(admin.create_credential(other).await.unwrap_err().code(), Code::FailedPrecondition);
    let answer = admin
        .explain_policy(v1::ExplainPolicyRequest {
            agent: "bot".into(),
            method: "GET".into(),
            url: "https://other.example.com/".into(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((answer.decision.as_str(), answer.rule.as_str()), ("tunnel", "through"));
    assert!(answer.rules[0].why.contains("not looked into"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_of_a_statement_what_it_says_of_a_request() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let rules = "version = 1\n[[rule]]\nname = \"look\"\nprotocol = \"postgres\"\nhost = \"db.example.com\"\n\
                 roles = [\"app\"]\nsql = [\"connect\", \"read\"]\nthen = \"allow\"\n[[rule]]\nname = \"change\"\n\
                 protocol = \"postgres\"\nhost = \"db.example.com\"\nsql = [\"write\", \"schema\"]\nthen = \"approve\"\n";
    admin
        .set_policy(v1::SetPolicyRequest { text: rules.into(), ..Default::default() })
        .await
        .unwrap();
    for (sql, decision, rule) in [
        (None, "allow", "look"),
        (Some("select * from orders"), "allow", "look"),
        (Some("drop table orders"), "approve", "change"),
        (Some("select 'open"), "approve", "change"),
        (Some("do 'x'"), "refuse", ""),
    ] {
        let written = Written::of("postgres://app@db.example.com/shop", sql).unwrap();
        let headers = written.headers.iter().map(|(name, value)| v1::Header {
            name: name.to_string(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        });
        let ask = v1::ExplainPolicyRequest {
            agent: "bot".into(),
            method: written.method.to_string(),
            url: written.url,
            headers: headers.collect(),
            body: written.body.into(),
        };
        let answer = admin.explain_policy(ask).await.unwrap().into_inner();
        assert_eq!((answer.decision.as_str(), answer.rule.as_str()), (decision, rule), "{sql:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_names_the_rule_that_decides() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    let ask = |method: &str, url: &str| v1::ExplainPolicyRequest {
        agent: "bot".into(),
        method: method.into(),
        url: url.into(),
        ..Default::default()
    };
    let before =
        admin.explain_policy(ask("GET", "https://api.example.com/x")).await.unwrap().into_inner();
    assert_eq!((before.decision.as_str(), before.policy_version), ("refuse", 0));
    admin
        .set_policy(v1::SetPolicyRequest { text: POLICY.into(), ..Default::default() })
        .await
        .unwrap();
    for (method, url, decision, rule) in [
        ("GET", "https://api.example.com/x", "allow", "read"),
        ("delete", "https://api.example.com", "approve", "delete"),
        ("POST", "https://api.example.com/x", "refuse", ""),
        ("GET", "https://elsewhere.example/x", "refuse", ""),
    ] {
        let answer = admin.explain_policy(ask(method, url)).await.unwrap().into_inner();
        assert_eq!(
            (answer.decision.as_str(), answer.rule.as_str()),
            (decision, rule),
            "{method} {url}"
        );
    }
    let answer =
        admin.explain_policy(ask("GET", "https://api.example.com/x")).await.unwrap().into_inner();
    assert!(
        answer.rules.iter().any(|r| r.rule == "delete" && r.matched == "no"),
        "{:?}",
        answer.rules
    );
    for url in [
        "",
        "api.example.com",
        "ftp://api.example.com/",
        "https://a@api.example.com/",
        "https://api.example.com/a/../b",
        "https://api.example.com/%2e%2e/",
    ] {
        assert_eq!(
            fields(&admin.explain_policy(ask("GET", url)).await.unwrap_err()),
            ["url"],
            "{url}"
        );
    }
    assert_eq!(
        fields(&admin.explain_policy(ask("G T", "https://api.example.com/")).await.unwrap_err()),
        ["method"]
    );
}
