//! What an edge says of a request is computed again; what does not hold together goes nowhere.

use bytes::Bytes;
use countersign_control_plane::intake::IntakeSettings;
use countersign_control_plane::state::{ApprovalState, ReleaseClass, VoteWord};
use countersign_gate::{Injection, Slot};
use countersign_proto::v1;
use countersign_proto::v1::SettledReason as Reason;
use countersign_proto::v1::attach_request::Message as In;
use countersign_proto::v1::attach_response::Message as Out;
use http::Method;

use crate::edge::{
    Process, Session, allow_per_request, announcement, approve, refund, request, stripe_key,
};
use crate::world::{AGENT, POLICY, World};

async fn attached(world: &World) -> (Process, Session) {
    let process = Process::new(world.enroll("one").await);
    let session = process.attach(world).await;
    (process, session)
}

async fn say(session: &mut Session, head: v1::OpenHead, pieces: Vec<v1::OpenBody>) {
    session.say(In::OpenHead(head)).await;
    for piece in pieces {
        session.say(In::OpenBody(piece)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_any_field_is_invalid_and_recorded() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    type Lie = (&'static str, fn(&mut v1::OpenHead));
    let lies: [Lie; 14] = [
        ("intent digest", |head| head.intent_digest = Bytes::from_static(&[0; 32])),
        ("request digest", |head| head.request_digest = Bytes::from_static(&[0; 32])),
        ("host", |head| head.host = "API.stripe.com".into()),
        ("header", |head| head.headers[0].value = "text/plain".into()),
        ("one header fewer", |head| drop(head.headers.pop())),
        ("nonce", |head| head.nonce = Bytes::from_static(&[0; 32])),
        ("start of the hold", |head| head.hold_started_unix_ms += 1),
        ("length of the hold", |head| head.hold_ms += 1),
        ("an endless hold", |head| head.hold_ms = u64::MAX),
        ("protocol", |head| head.client_protocol = "h2".into()),
        ("query", |head| head.query = Some(Bytes::new())),
        ("body digest", |head| head.body_sha256 = Bytes::from_static(&[0; 32])),
        ("rule", |head| head.rule = "balance".into()),
        ("allowed", |head| head.allowed = true),
    ];
    for (number, (what, lie)) in lies.into_iter().enumerate() {
        let held = process.hold(refund(5), approve("refunds"), session.version());
        let (mut head, pieces) = announcement(&held);
        lie(&mut head);
        say(&mut session, head, pieces).await;
        assert_eq!(session.settled().await.reason(), Reason::Invalid, "{what}");
        assert_eq!(world.recorded("request.invalid"), number + 1, "{what}");
    }
    assert_eq!(world.approvals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn b_1_a_body_other_than_the_one_that_was_hashed_is_invalid() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    let (head, mut pieces) = announcement(&held);
    let last = pieces.last_mut().unwrap();
    last.data = Bytes::from(last.data.iter().map(|byte| byte ^ 1).collect::<Vec<_>>());
    say(&mut session, head, pieces).await;
    assert_eq!(session.settled().await.reason(), Reason::Invalid);
    assert_eq!(world.approvals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_that_do_not_follow_each_other_are_invalid() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    type Wrong = fn(&mut Vec<v1::OpenBody>);
    let wrong: [Wrong; 3] = [
        |pieces| drop(pieces.remove(0)),
        |pieces| pieces.last_mut().unwrap().last = false,
        |pieces| pieces[0].last = true,
    ];
    for change in wrong {
        let held = process.hold(refund(5), approve("refunds"), session.version());
        let (head, mut pieces) = announcement(&held);
        change(&mut pieces);
        say(&mut session, head, pieces).await;
        assert_eq!(session.settled().await.reason(), Reason::Invalid);
    }
    assert_eq!(world.approvals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_may_come_interleaved() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held: Vec<_> = [1, 2]
        .map(|amount| process.hold(refund(amount), approve("refunds"), session.version()))
        .into();
    let announced: Vec<_> = held.iter().map(announcement).collect();
    for (head, _) in &announced {
        session.say(In::OpenHead(head.clone())).await;
    }
    for turn in 0..announced[0].1.len() {
        for (_, pieces) in &announced {
            session.say(In::OpenBody(pieces[turn].clone())).await;
        }
    }
    let (one, two) = (session.opened().await.unwrap(), session.opened().await.unwrap());
    assert_ne!(one, two);
    assert_eq!(world.approvals(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_waiting_requests_are_bounded() {
    let settings = IntakeSettings { max_body_bytes: 16, max_waiting: 1, ..Default::default() };
    let world = World::with(settings).await;
    let (process, mut session) = attached(&world).await;
    let large = process.hold(refund(1_000_000_000), approve("refunds"), session.version());
    session.say(In::OpenHead(announcement(&large).0)).await;
    assert_eq!(session.settled().await.reason(), Reason::Invalid);
    let first = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&first).await;
    session.opened().await.unwrap();
    let second = process.hold(refund(6), approve("refunds"), session.version());
    session.say(In::OpenHead(announcement(&second).0)).await;
    assert_eq!(session.settled().await.reason(), Reason::Overloaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_outside_its_record_is_refused() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let elsewhere = Slot::Header {
        name: "x-key".parse().unwrap(),
        before: String::new(),
        after: String::new(),
    };
    let bare = Slot::Header {
        name: "authorization".parse().unwrap(),
        before: String::new(),
        after: String::new(),
    };
    let plans = [
        ("another slot", Injection { slot: elsewhere, ..stripe_key() }, Reason::Invalid),
        ("another template", Injection { slot: bare, ..stripe_key() }, Reason::Invalid),
        (
            "a credential of another rule",
            Injection { credential: "cred-prices".into(), ..stripe_key() },
            Reason::PolicyDenied,
        ),
        (
            "no credential",
            Injection { credential: "cred-none".into(), ..stripe_key() },
            Reason::PolicyDenied,
        ),
    ];
    for (what, plan, reason) in plans {
        let body = Bytes::from_static(b"{}");
        let planned = request(Method::POST, "api.stripe.com:443", "/v1/refunds", body, Some(plan));
        session.announce(&process.hold(planned, approve("refunds"), session.version())).await;
        assert_eq!(session.settled().await.reason(), reason, "{what}");
    }
    assert_eq!(world.approvals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_denies_or_does_not_name_is_never_opened() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let requests = [
        request(
            Method::DELETE,
            "api.stripe.com:443",
            "/v1/customers/1",
            Bytes::new(),
            Some(stripe_key()),
        ),
        request(
            Method::POST,
            "api.stripe.com:443",
            "/v1/payouts",
            Bytes::new(),
            Some(stripe_key()),
        ),
    ];
    for denied in requests {
        // An edge that lies about what the rules say.
        session.announce(&process.hold(denied, approve("refunds"), session.version())).await;
        assert_eq!(session.settled().await.reason(), Reason::PolicyDenied);
    }
    assert_eq!(world.approvals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_key_is_leased_is_not_held() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let slot = Slot::Header {
        name: "x-api-key".parse().unwrap(),
        before: String::new(),
        after: String::new(),
    };
    let plan = Injection { credential: "cred-prices".into(), version: 1, slot };
    let prices = request(Method::GET, "api.prices.example:443", "/v1", Bytes::new(), Some(plan));
    session.announce(&process.hold(prices, allow_per_request("prices"), session.version())).await;
    assert_eq!(session.settled().await.reason(), Reason::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_observed_is_opened_though_its_key_is_leased_and_nobody_is_asked() {
    let world = World::new().await;
    let watch = "[[rule]]\nname = \"watch\"\nhost = \"api.prices.example\"\npath = \"/v1\"\nthen = \"observe\"\n\
                 approvers = [\"finance\"]\n";
    world.set_policy(&format!("{POLICY}{watch}")).await;
    let (process, mut session) = attached(&world).await;
    let slot = Slot::Header {
        name: "x-api-key".parse().unwrap(),
        before: String::new(),
        after: String::new(),
    };
    let plan = Injection { credential: "cred-prices".into(), version: 1, slot };
    let prices = request(Method::GET, "api.prices.example:443", "/v1", Bytes::new(), Some(plan));
    let held = process.hold(prices, allow_per_request("watch"), session.version());
    let (mut head, pieces) = announcement(&held);
    head.rule = "watch".into();
    say(&mut session, head, pieces).await;
    assert_eq!(session.opened().await, None);
    session.decision().await;
    assert_eq!((world.approvals(), world.recorded("request.open")), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_judged_by_an_older_policy_is_asked_for_again_after_the_new_bundle() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let older = session.version();
    world.set_policy(&format!("{POLICY}\n# again")).await;
    let held = process.hold(refund(5), approve("refunds"), older);
    session.announce(&held).await;
    assert!(matches!(session.hear().await.unwrap(), Out::Bundle(_)));
    assert_eq!(session.version(), older + 1);
    assert!(matches!(session.answer().await, Out::Reopen(_)));
    assert_eq!(world.approvals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_14_a_policy_that_denies_meanwhile_takes_the_approval_back() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world
        .set_policy(&POLICY.replace(
            "then = \"approve\"\ncredential = \"stripe\"\napprovers = [\"finance\"]",
            "then = \"deny\"",
        ))
        .await;
    world.vote(approval, VoteWord::Approve).await;
    let Out::Reopen(reopen) = session.answer().await else { panic!("not asked for again") };
    assert_eq!(reopen.request_id, held.ticket().circumstances.request_id.to_vec());

    let mut circumstances = held.ticket().circumstances.clone();
    circumstances.policy_version = session.version();
    session.announce(&process.hold_in(refund(5), approve("refunds"), circumstances)).await;
    assert_eq!(session.settled().await.reason(), Reason::PolicyDenied);
    assert_eq!(world.approval(approval).state, ApprovalState::Revoked);
    assert_eq!(world.recorded("request.claim"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_14_a_policy_that_still_asks_releases_after_it_was_judged_again() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world.set_policy(&format!("{POLICY}\n# the same")).await;
    world.vote(approval, VoteWord::Approve).await;
    assert!(matches!(session.answer().await, Out::Reopen(_)));
    let mut circumstances = held.ticket().circumstances.clone();
    circumstances.policy_version = session.version();
    let held = process.hold_in(refund(5), approve("refunds"), circumstances);
    session.announce(&held).await;
    assert_eq!(session.opened().await, Some(approval));
    let decision = session.decision().await;
    let outcome = crate::edge::outcome(held, &decision, &session.trust);
    assert!(matches!(outcome, countersign_gate::Outcome::Release(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agents_requests_end_at_once() {
    let world = World::new().await;
    let (process, mut session) = attached(&world).await;
    let held = process.hold(refund(5), approve("refunds"), session.version());
    session.announce(&held).await;
    let approval = session.opened().await.unwrap();
    world
        .propose(countersign_control_plane::state::Command::RevokeAgent { name: "deploy".into() })
        .await;
    let (mut settled, mut told) = (false, false);
    while !(settled && told) {
        match session.hear().await.unwrap() {
            Out::Settled(no) => settled = no.reason() == Reason::PolicyDenied,
            Out::Bundle(_) => {
                told = session.bundle.agents.iter().all(|agent| agent.agent_id != AGENT);
            }
            other => panic!("{other:?}"),
        }
    }
    world.vote(approval, VoteWord::Approve).await;
    session.announce(&process.hold(refund(5), approve("refunds"), session.version())).await;
    assert_eq!(session.settled().await.reason(), Reason::PolicyDenied);
    assert_eq!(world.recorded("request.claim"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_bodies_and_cookies_go_where_their_records_say_and_people_see_a_hole() {
    let world = World::new().await;
    let slots = [("form", "form:secret"), ("json", "json:/auth/secret"), ("sid", "cookie:sid")];
    let mut policy = "version = 1\n".to_owned();
    for (name, slot) in slots {
        let host = format!("{name}.example");
        world.add_credential(name, &host, slot, ReleaseClass::PerRequest).await;
        policy += &format!(
            "[[rule]]\nname = \"{name}\"\nhost = \"{host}\"\nthen = \"approve\"\ncredential = \"{name}\"\n"
        );
    }
    world.set_policy(&policy).await;
    let (process, mut session) = attached(&world).await;
    let form = "application/x-www-form-urlencoded";
    let json = "application/json";
    let cases: [(&str, &str, &str, Slot, bool); 15] = [
        ("form", form, "a=1&secret={key}", Slot::Form { at: 11 }, true),
        ("form", form, "other={key}", Slot::Form { at: 6 }, false),
        ("form", form, "secret={key}&secret=x", Slot::Form { at: 7 }, false),
        ("form", form, "secret={key}&copy={key}", Slot::Form { at: 18 }, false),
        ("form", form, "secret=x{key}", Slot::Form { at: 8 }, false),
        ("form", json, "secret={key}", Slot::Form { at: 7 }, false),
        ("form", json, r#"{"secret":"{key}"}"#, Slot::Json { at: 11 }, false),
        ("json", json, r#"{"auth":{"secret":"{key}"}}"#, Slot::Json { at: 19 }, true),
        ("json", json, r#"{"secret":"{key}"}"#, Slot::Json { at: 11 }, false),
        ("json", json, r#"{"auth":{"secret":"{key}","secret":1}}"#, Slot::Json { at: 19 }, false),
        ("json", form, r#"{"auth":{"secret":"{key}"}}"#, Slot::Json { at: 19 }, false),
        ("sid", "a=1; sid={key}", "", Slot::Cookie { at: 9 }, true),
        ("sid", "a=1; sid={key}; sid=x", "", Slot::Cookie { at: 9 }, false),
        ("sid", "sid=1; a={key}", "", Slot::Cookie { at: 9 }, false),
        ("sid", "sid=x{key}", "", Slot::Cookie { at: 5 }, false),
    ];
    for (name, header, body, slot, right) in cases {
        let mut headers = http::HeaderMap::new();
        let field = if name == "sid" { "cookie" } else { "content-type" };
        headers.insert(field, header.parse().unwrap());
        let destination = format!("{name}.example:443");
        let request = countersign_gate::Request::new(
            countersign_gate::Origin {
                cluster: "test-cluster".into(),
                org: "test-org".into(),
                agent: AGENT.into(),
            },
            countersign_gate::Destination::parse(
                countersign_gate::Scheme::Https,
                &destination,
                None,
            )
            .unwrap(),
            Method::POST,
            "/v1".into(),
            None,
            headers,
            countersign_gate::Payload::Whole(Bytes::copy_from_slice(body.as_bytes())),
            vec![Injection { credential: format!("cred-{name}"), version: 1, slot }],
        );
        let held = process.hold(request.unwrap(), approve(name), session.version());
        let (mut head, pieces) = announcement(&held);
        (head.rule, head.allowed) = (name.into(), false);
        say(&mut session, head, pieces).await;
        match session.answer().await {
            Out::Opened(opened) => {
                assert!(right, "{header} {body}");
                let id = countersign_control_plane::state::ApprovalId(
                    opened.approval_id.as_ref().try_into().unwrap(),
                );
                assert_eq!(world.approval(id).shown.body_preview, body.as_bytes());
            }
            Out::Settled(settled) => {
                assert!(!right, "{header} {body}: {}", settled.detail);
                assert_eq!(settled.reason(), Reason::Invalid);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_query_path_and_basic_go_where_their_records_say() {
    let world = World::new().await;
    for (name, slot) in [("query", "query:api_key"), ("path", "path"), ("basic", "basic")] {
        world
            .add_credential(name, &format!("{name}.example"), slot, ReleaseClass::PerRequest)
            .await;
    }
    let authorization = "header:authorization";
    world
        .add_credential_with(
            "scheme",
            "scheme.example",
            authorization,
            "",
            ReleaseClass::PerRequest,
        )
        .await;
    let rule = |name: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nhost = \"{name}.example\"\nthen = \"approve\"\ncredential = \"{name}\"\n"
        )
    };
    world
        .set_policy(&format!(
            "version = 1\n{}",
            ["query", "path", "basic", "scheme"].map(rule).concat()
        ))
        .await;
    let (process, mut session) = attached(&world).await;
    let key =
        |name: &str, slot| vec![Injection { credential: format!("cred-{name}"), version: 1, slot }];
    let basic =
        |before: &str, after: &str| Slot::Basic { before: before.into(), after: after.into() };
    let header = |before: &str, after: &str| Slot::Header {
        name: http::header::AUTHORIZATION,
        before: before.into(),
        after: after.into(),
    };
    let cases: [(&str, &str, Option<&str>, Slot, bool); 13] = [
        ("query", "/v1", Some("a=1&api_key={key}&b=2"), Slot::Query { at: 12 }, true),
        ("query", "/v1", Some("api_key={key}"), Slot::Query { at: 8 }, true),
        ("query", "/v1", Some("other={key}"), Slot::Query { at: 6 }, false),
        ("path", "/v1/{key}/send", None, Slot::Path { at: 4 }, true),
        ("path", "/v1/bot{key}/send", None, Slot::Path { at: 7 }, false),
        ("basic", "/v1", None, basic("", "{key}"), false),
        ("basic", "/v1", None, basic("", ":"), false),
        ("scheme", "/v1", None, header("token ", ""), true),
        ("scheme", "/v1", None, header("", ""), true),
        ("scheme", "/v1", None, header("two words ", ""), false),
        ("scheme", "/v1", None, header("token=", ""), false),
        ("scheme", "/v1", None, header("token ", ", x"), false),
        ("basic", "/v1", None, basic("user:", ""), false),
    ];
    for (name, path, query, slot, right) in cases {
        let request = countersign_gate::Request::new(
            countersign_gate::Origin {
                cluster: "test-cluster".into(),
                org: "test-org".into(),
                agent: AGENT.into(),
            },
            countersign_gate::Destination::parse(
                countersign_gate::Scheme::Https,
                &format!("{name}.example:443"),
                None,
            )
            .unwrap(),
            Method::GET,
            path.into(),
            query.map(str::to_owned),
            http::HeaderMap::new(),
            countersign_gate::Payload::Whole(Bytes::new()),
            key(name, slot),
        );
        let held = process.hold(request.unwrap(), approve(name), session.version());
        let (mut head, pieces) = announcement(&held);
        (head.rule, head.allowed) = (name.into(), false);
        say(&mut session, head, pieces).await;
        match session.answer().await {
            Out::Opened(_) => assert!(right, "{path} {query:?}"),
            Out::Settled(settled) => assert!(!right, "{path} {query:?}: {}", settled.detail),
            other => panic!("{other:?}"),
        }
    }
}
