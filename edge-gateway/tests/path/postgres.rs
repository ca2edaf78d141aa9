//! Postgres through the edge: each statement is a request, and what the server hears is what came of that.

mod bytes;
mod client;
mod database;
mod extended;
mod figures;
mod holding;

use countersign_proto::v1 as pb;

pub(crate) use database::Database;

use crate::control::secret;
use crate::world::{Setup, World};
use client::{Client, Said, query, robots};
use database::{Asks, Line};

const RULES: &str = r#"
[[rule]]
name = "connect"
protocol = "postgres"
host = "db.test"
databases = ["app"]
sql = ["connect"]
then = "allow"
credential = "db"

[[rule]]
name = "connect as admin"
protocol = "postgres"
host = "db.test"
databases = ["app"]
roles = ["admin"]
sql = ["connect"]
then = "allow"
credential = "db-admin"

[[rule]]
name = "read"
protocol = "postgres"
host = "db.test"
sql = ["session", "read"]
then = "allow"

[[rule]]
name = "copy and settings"
protocol = "postgres"
host = "db.test"
when = "sql.statements.all(s, s.kind in ['copy', 'insert'] || 'set_config' in s.functions)"
then = "allow"

[[rule]]
name = "drop"
protocol = "postgres"
host = "db.test"
when = "sql.statements.exists(s, s.kind in ['drop', 'delete'])"
then = "approve"
approvers = ["ops"]
hold = "30s"

[[rule]]
name = "never truncate"
protocol = "postgres"
host = "db.test"
when = "sql.statements.exists(s, s.kind == 'truncate')"
then = "deny"
reason = "tables are never emptied"
"#;

async fn world() -> World {
    Setup { rules: RULES.into(), ..Setup::default() }.start().await
}

/// An agent's connection as the role of "db", and the server's end of it.
async fn connected(world: &World) -> (Client, Line) {
    let (client, line) =
        tokio::join!(Client::connect(world, "db"), world.database.line(secret("db").real));
    (client.expect("it is let in"), line)
}

/// Runs a Query that the server answers with one row.
async fn selects(client: &mut Client, line: &mut Line) {
    client.say(&[query("select 1")]).await;
    assert_eq!(line.hear().await, (b'Q', b"select 1\0".to_vec()));
    line.one_row().await;
    assert_eq!(client.ready().await.0, "TDCZI");
}

/// What is announced as the body of a request.
fn body(open: &crate::control::Open) -> serde_json::Value {
    serde_json::from_slice(&open.body).expect("JSON")
}

#[tokio::test]
async fn the_server_is_told_the_real_password_and_the_agent_never_is() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    let told = |name: &str| {
        let mut pairs = line.startup.iter().filter(|(known, _)| known == name);
        pairs.next().map(|(_, value)| value.as_str())
    };
    assert_eq!(told("user"), Some("app"), "the role");
    assert_eq!(told("database"), Some("app"));
    assert_eq!(told("application_name"), Some("test"));
    assert_eq!(told("client_encoding"), Some("UTF8"));
    assert_eq!(line.startup.len(), 4);
    assert_eq!(line.mechanism, "SCRAM-SHA-256");
    assert!(client.parameters.contains(&"server_version=15.0=".to_owned()));
    assert_ne!(client.cancel, database::CANCEL_KEY, "what it cancels with is ours");
    selects(&mut client, &mut line).await;
    assert!(world.control.opened().await.is_none(), "nobody was asked");
    assert!(world.control.lease_asked().await.is_some(), "the password was lent");
}

#[tokio::test]
async fn the_channel_is_bound_where_the_server_offers_that() {
    let world = world().await;
    let (client, line) = tokio::join!(
        Client::connect(&world, "db"),
        world.database.line_that(Asks::Plus, secret("db").real)
    );
    client.expect("it is let in");
    assert_eq!(line.mechanism, "SCRAM-SHA-256-PLUS");
}

#[tokio::test]
async fn a_password_that_is_not_lent_comes_with_a_decision_for_each_connection() {
    let world = world().await;
    let decides = async {
        let open = world.control.open().await;
        assert_eq!((open.head.method.as_str(), &open.head.path[..]), ("GET", &b"/app"[..]));
        assert_eq!((open.head.scheme.as_str(), open.head.port), ("postgres", 5432));
        assert!(open.head.allowed && open.body.is_empty());
        assert!(world.database.is_empty(), "nothing was dialled before the decision");
        world.control.release(&open).await;
    };
    let (client, (), mut line) = tokio::join!(
        Client::connect(&world, "db-admin"),
        decides,
        world.database.line(secret("db-admin").real)
    );
    let mut client = client.expect("it is let in");
    assert_eq!(line.startup[0], ("user".into(), "admin".into()));
    let receipt = world.control.receipt().await;
    assert_eq!(receipt.outcome(), pb::ExecutionOutcome::Completed);
    selects(&mut client, &mut line).await;
}

#[tokio::test]
async fn whoever_does_not_know_the_password_is_not_let_in_and_not_told_why() {
    let world = world().await;
    let good = robots("db");
    let mut said = Vec::new();
    for (user, password) in [
        ("robot", "wrong"),
        ("robot", secret("db").fake),
        ("robot", secret("db").real),
        ("other", good.as_str()),
        ("nobody", good.as_str()),
        ("robot/db-admin", good.as_str()),
        ("robot/none", good.as_str()),
    ] {
        let pairs = [("user", user), ("database", "app")];
        let no = Client::connect_as(&world, &pairs, password).await.err().expect("not let in");
        assert_eq!(no.code(), "28P01", "{user}: {no:?}");
        said.push(format!("{no:?}"));
    }
    said.dedup();
    assert_eq!(said.len(), 1, "all of them hear the same");
    assert!(world.database.is_empty(), "nothing was dialled");
    let pairs = [("user", "robot/db"), ("database", "app")];
    let (client, _line) = tokio::join!(
        Client::connect_as(&world, &pairs, &good),
        world.database.line(secret("db").real)
    );
    client.expect("it is let in by the credential's name as well");
}

#[tokio::test]
async fn a_database_that_no_rule_names_is_not_connected_to() {
    let world = world().await;
    let pairs = [("user", "robot"), ("database", "payroll")];
    let no = Client::connect_as(&world, &pairs, &robots("db")).await.err().expect("refused");
    assert_eq!((no.code(), no.field('S')), ("42501", "FATAL"), "{no:?}");
    assert!(world.database.is_empty(), "nothing was dialled");
}

#[tokio::test]
async fn a_server_that_asks_for_an_md5_of_the_password_is_not_told_it() {
    let world = world().await;
    let asks = async {
        let mut line = world.database.begun().await;
        line.say(b'R', b"\0\0\0\x05salt").await;
        line.heard().await
    };
    let (client, heard) = tokio::join!(Client::connect(&world, "db"), asks);
    let no = client.err().expect("refused");
    assert_eq!(no.code(), "08006");
    assert!(no.field('D').contains("MD5"), "{no:?}");
    assert_eq!(heard, None, "nothing");
}

#[tokio::test]
async fn what_the_policy_denies_is_refused_with_its_reason_and_the_connection_goes_on() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query("truncate orders")]).await;
    let (tags, no) = client.ready().await;
    let no = no.expect("an error");
    assert_eq!((tags.as_str(), no.code()), ("EZI", "42501"), "{no:?}");
    assert!(no.field('D').contains("tables are never emptied"), "{no:?}");
    client.say(&[query("vacuum")]).await;
    assert_eq!(client.ready().await.1.expect("an error").code(), "42501", "no rule names it");
    selects(&mut client, &mut line).await;
}

#[tokio::test]
async fn p_14_a_fake_key_in_a_statement_goes_no_further_and_is_reported() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    client.say(&[query(&format!("select '{}'", secret("api").fake))]).await;
    assert_eq!(client.ready().await.1.expect("an error").code(), "42501");
    let alarm = world.control.alarm().await;
    assert_eq!(
        (alarm.kind.as_str(), alarm.credential_id.as_str()),
        ("fake_key_misplaced", "id-api")
    );
    selects(&mut client, &mut line).await;
}

#[tokio::test]
async fn n_echo_the_real_password_is_masked_in_what_the_server_says() {
    let world = world().await;
    let (mut client, mut line) = connected(&world).await;
    let real = secret("db").real;
    client.say(&[query("select 1")]).await;
    line.hear().await;
    line.say(b'N', format!("SNOTICE\0Mit was {real}.\0\0").as_bytes()).await;
    line.say(b'E', format!("SERROR\0C28P01\0M{real}\0\0").as_bytes()).await;
    line.say(b'Z', b"I").await;
    let (tag, notice) = client.hear().await;
    let stars = "*".repeat(real.len());
    assert_eq!((tag, Said::of(&notice).field('M')), (b'N', format!("it was {stars}.").as_str()));
    let (_, error) = client.ready().await;
    assert_eq!(error.expect("an error").field('M'), stars);
}

#[tokio::test]
async fn a_connection_ends_when_its_agent_is_revoked_or_its_password_rotated() {
    type Change = fn(&mut pb::EdgeState);
    let changes: [Change; 4] = [
        |state| state.agents.retain(|agent| agent.name != "robot"),
        |state| state.agents[0].token_sha256 = vec![7; 32].into(),
        |state| {
            let db = state.credentials.iter_mut().find(|it| it.name == "db");
            db.expect("it is there").version = 2;
        },
        |state| {
            state.policy_version += 1;
            state.policy = state.policy.replace("databases = [\"app\"]", "databases = [\"x\"]");
        },
    ];
    for change in changes {
        let world = world().await;
        let (mut client, mut line) = connected(&world).await;
        selects(&mut client, &mut line).await;
        world.control.change(change).await;
        let (tag, body) = client.hear().await;
        let said = Said::of(&body);
        assert_eq!((tag, said.field('S'), said.code()), (b'E', "FATAL", "57P01"), "{said:?}");
        assert!(client.heard().await.is_none(), "and it is closed");
        assert_eq!(line.hear().await.0, b'X', "the server as well");
    }
}

#[tokio::test]
async fn an_agents_connections_are_counted_with_all_of_its_others() {
    let limits = countersign_edge_gateway::config::Limits {
        max_connections_per_agent: 1,
        ..countersign_edge_gateway::config::Limits::default()
    };
    let world = Setup { rules: RULES.into(), limits, ..Setup::default() }.start().await;
    let (mut client, mut line) = connected(&world).await;
    let no = Client::connect(&world, "db").await.err().expect("refused");
    assert_eq!(no.code(), "53300", "{no:?}");
    selects(&mut client, &mut line).await;
}
