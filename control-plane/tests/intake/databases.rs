//! Over what an edge says that a request is sent: a key is for the scheme of its record, and for no other.

use bytes::Bytes;
use countersign_control_plane::state::{ApprovalId, ReleaseClass};
use countersign_gate::{Destination, Injection, Origin, Payload, Request, Scheme, Slot};
use countersign_proto::v1;
use countersign_proto::v1::SettledReason as Reason;
use countersign_proto::v1::attach_request::Message as In;
use countersign_proto::v1::attach_response::Message as Out;
use http::{HeaderMap, Method};

use crate::edge::{Process, Session, announcement, approve};
use crate::quorum::attached;
use crate::world::{AGENT, CLUSTER, ORG, World};

const POLICY: &str = r#"version = 1
[[rule]]
name = "connect"
protocol = "postgres"
host = "shop-db.example:443"
sql = ["connect"]
then = "approve"
credential = "shop-db"

[[rule]]
name = "write"
protocol = "postgres"
host = "shop-db.example:443"
sql = ["write"]
then = "approve"

[[rule]]
name = "web of the database"
host = "shop-db.example"
then = "approve"
credential = "shop-db"

[[rule]]
name = "web"
host = "web.example"
then = "approve"
credential = "web"

[[rule]]
name = "database of the web"
protocol = "postgres"
host = "web.example:443"
then = "approve"
credential = "web"
"#;

async fn world() -> World {
    let world = World::new().await;
    let class = ReleaseClass::PerRequest;
    let role = "postgres:app";
    world.add_credential_with("shop-db", "shop-db.example", role, "", class).await;
    world.add_credential("web", "web.example", "header:authorization", class).await;
    world.set_policy(POLICY).await;
    world
}

/// A request for this name, with what a connection as this role has.
fn request(
    scheme: Scheme,
    name: &str,
    (method, path, query): (Method, &str, Option<&str>),
    role: &str,
    body: &'static str,
    key: Option<Injection>,
) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("postgres-role", role.parse().unwrap());
    if !body.is_empty() {
        headers.insert("content-type", "application/json".parse().unwrap());
    }
    let origin = Origin { cluster: CLUSTER.into(), org: ORG.into(), agent: AGENT.into() };
    let destination = Destination::parse(scheme, &format!("{name}.example:443"), None).unwrap();
    let payload = Payload::Whole(Bytes::from_static(body.as_bytes()));
    let query = query.map(str::to_owned);
    let keys = key.into_iter().collect();
    Request::new(origin, destination, method, path.into(), query, headers, payload, keys).unwrap()
}

fn connection(scheme: Scheme, name: &str, role: &str, key: Injection) -> Request {
    request(scheme, name, (Method::GET, "/shop", None), role, "", Some(key))
}

fn key(credential: &str, header: &'static str, before: &str) -> Injection {
    let slot =
        Slot::Header { name: header.parse().unwrap(), before: before.into(), after: String::new() };
    Injection { credential: format!("cred-{credential}"), version: 1, slot }
}

fn password() -> Injection {
    key("shop-db", "postgres-password", "")
}

/// Announces it as judged by this rule, and otherwise as `change` has it.
async fn announced(
    process: &Process,
    session: &mut Session,
    rule: &str,
    request: Request,
    change: impl Fn(&mut v1::OpenHead),
) -> Result<ApprovalId, v1::Settled> {
    let held = process.hold(request, approve(rule), session.version());
    let (mut head, pieces) = announcement(&held);
    (head.rule, head.allowed) = (rule.into(), false);
    change(&mut head);
    session.say(In::OpenHead(head)).await;
    for piece in pieces {
        session.say(In::OpenBody(piece)).await;
    }
    match session.answer().await {
        Out::Opened(opened) => Ok(ApprovalId(opened.approval_id.as_ref().try_into().unwrap())),
        Out::Settled(settled) => Err(settled),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_its_password_and_a_statement_without_one_are_asked_about() {
    let world = world().await;
    let (process, mut session) = attached(&world, "one").await;
    let connects = connection(Scheme::Postgres, "shop-db", "app", password());
    let id = announced(&process, &mut session, "connect", connects, |_| ()).await.unwrap();
    let shown = world.approval(id).shown;
    assert_eq!((shown.scheme.as_str(), shown.method.as_str()), ("postgres", "GET"));
    assert_eq!((shown.host.as_str(), shown.path.as_str()), ("shop-db.example", "/shop"));

    let text = r#"{"protocol":"simple","statement":"delete from orders","transaction":"idle"}"#;
    let posts = (Method::POST, "/shop", None);
    let deletes = request(Scheme::Postgres, "shop-db", posts, "app", text, None);
    let id = announced(&process, &mut session, "write", deletes, |_| ()).await.unwrap();
    let shown = world.approval(id).shown;
    assert_eq!((shown.scheme.as_str(), shown.method.as_str()), ("postgres", "POST"));
    assert_eq!(shown.body_preview, text.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_one_scheme_is_for_no_request_of_another() {
    let world = world().await;
    let (process, mut session) = attached(&world, "one").await;
    let web = || key("web", "authorization", "Bearer ");
    let connects = || connection(Scheme::Postgres, "shop-db", "app", password());
    let as_it_is: fn(&mut v1::OpenHead) = |_| ();
    type Change = fn(&mut v1::OpenHead);
    let cases: [(&str, &str, Request, Change, &str); 6] = [
        (
            "a database's password over https",
            "web of the database",
            connection(Scheme::Https, "shop-db", "app", password()),
            as_it_is,
            "another destination",
        ),
        (
            "a site's key to a database",
            "database of the web",
            connection(Scheme::Postgres, "web", "app", web()),
            as_it_is,
            "another destination",
        ),
        ("said to be https", "connect", connects(), |head| head.scheme = "https".into(), ""),
        ("said to be http", "connect", connects(), |head| head.scheme = "http".into(), ""),
        (
            "another word for it",
            "connect",
            connects(),
            |h| h.scheme = "postgresql".into(),
            "scheme",
        ),
        ("no scheme", "connect", connects(), |head| head.scheme.clear(), "scheme"),
    ];
    for (number, (what, rule, request, change, says)) in cases.into_iter().enumerate() {
        let settled = announced(&process, &mut session, rule, request, change).await;
        let settled = settled.expect_err(what);
        assert_eq!(settled.reason(), Reason::Invalid, "{what}: {}", settled.detail);
        assert!(settled.detail.contains(says), "{what}: {}", settled.detail);
        assert_eq!(world.recorded("request.invalid"), number + 1, "{what}: somebody should look");
    }
    assert_eq!(world.approvals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_a_connection_as_its_role_and_goes_nowhere_else() {
    let world = world().await;
    let (process, mut session) = attached(&world, "one").await;
    let connects = |role, key| connection(Scheme::Postgres, "shop-db", role, key);
    let asked =
        |target, body| request(Scheme::Postgres, "shop-db", target, "app", body, Some(password()));
    let text = r#"{"protocol":"simple","statement":"delete from orders","transaction":"idle"}"#;
    let get = || Method::GET;
    let cases = [
        ("another role", "connect", connects("admin", password())),
        ("another header", "connect", connects("app", key("shop-db", "postgres-secret", ""))),
        ("text before it", "connect", connects("app", key("shop-db", "postgres-password", "x"))),
        ("a query", "connect", asked((get(), "/shop", Some("a=1")), "")),
        ("a statement", "write", asked((Method::POST, "/shop", None), text)),
    ];
    for (what, rule, request) in cases {
        let settled = announced(&process, &mut session, rule, request, |_| ()).await;
        let settled = settled.expect_err(what);
        let (reason, says) = match what {
            "a statement" => (Reason::PolicyDenied, "does not give the key"),
            _ => (Reason::Invalid, "goes into another slot"),
        };
        assert_eq!(settled.reason(), reason, "{what}: {}", settled.detail);
        assert!(settled.detail.contains(says), "{what}: {}", settled.detail);
    }
    assert_eq!(world.approvals(), 0);
}
