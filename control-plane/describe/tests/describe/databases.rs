//! What approvers read of statements for a PostgreSQL.

use countersign_describe::{Description, Risk, Undecidable, describe};
use countersign_gate::{Destination, Scheme};
use countersign_policy::{Body, Head, Subject};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};

fn described(
    method: &Method,
    headers: &[(&'static str, &str)],
    body: &[u8],
) -> Result<Option<Description>, Undecidable> {
    let destination = Destination::parse(Scheme::Postgres, "db.example", Some(5432)).unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let head = Head {
        agent: "bot",
        destination: &destination,
        method,
        path: "/shop",
        query: None,
        headers: &map,
    };
    describe(&Subject { head, body: Body::Whole(body) })
}

const HEADERS: [(&str, &str); 2] =
    [("postgres-role", "app_rw"), ("content-type", "application/json")];

fn asked(body: &Value) -> Result<Option<Description>, Undecidable> {
    described(&Method::POST, &HEADERS, body.to_string().as_bytes())
}

fn said(statement: &str) -> Description {
    asked(&json!({"protocol": "simple", "statement": statement, "transaction": "idle"}))
        .unwrap()
        .unwrap()
}

fn fact<'d>(said: &'d Description, name: &str) -> Option<&'d str> {
    said.facts.iter().find(|fact| fact.name == name).map(|fact| fact.value.as_str())
}

#[test]
fn one_sentence_says_what_a_text_does_and_where() {
    for (statement, sentence, risk) in [
        ("drop table orders", "Drop table orders", Risk::Destructive),
        ("select * from orders o join items using (id)", "Read items and orders", Risk::Read),
        ("select now()", "Compute a value", Risk::Read),
        ("select * from orders for update", "Read and lock orders", Risk::Write),
        ("select drop_everything()", "Compute a value, calling drop_everything", Risk::Code),
        ("delete from orders", "Delete all rows of orders", Risk::Destructive),
        ("delete from orders where id = 1", "Delete rows of orders", Risk::Destructive),
        ("update app.orders set a = 1", "Update all rows of app.orders", Risk::Destructive),
        ("update orders set a = 1 where b", "Update rows of orders", Risk::Write),
        ("insert into orders values (1)", "Insert into orders", Risk::Write),
        ("with x as (delete from a returning 1) table x", "Query, and change a", Risk::Write),
        ("truncate orders, items", "Delete all rows of items and orders", Risk::Destructive),
        ("create role bob superuser", "Create role bob", Risk::People),
        ("alter table orders add column a int", "Alter table orders", Risk::Write),
        ("create function f() returns int language sql as '1'", "Create function f", Risk::Code),
        ("grant all on orders to bob", "Grant privileges or a role", Risk::People),
        ("set role bob", "Change a setting that is not known to be harmless", Risk::People),
        (
            "copy orders from program 'curl'",
            "Copy with a file or a program of the server",
            Risk::Code,
        ),
        ("copy orders to stdout", "Copy out orders", Risk::Read),
        ("copy orders from stdin", "Copy into orders", Risk::Write),
        ("do 'x'", "Run a block of code", Risk::Code),
        ("call tidy(1)", "Call procedure tidy", Risk::Code),
        ("explain analyze delete from a", "Explain a delete that runs for it", Risk::Write),
        ("explain delete from a", "Explain a delete", Risk::Read),
        ("begin", "Begin, end or mark a transaction", Risk::Read),
        ("vacuum", "Vacuum all tables", Risk::Write),
        ("drop table \"Evil; name\"", "Drop table \"\\\"Evil; name\\\"\"", Risk::Destructive),
    ] {
        let said = said(statement);
        assert_eq!(
            said.sentence,
            format!("{sentence} in shop at db.example as app_rw"),
            "{statement}"
        );
        assert_eq!(said.risk, risk, "{statement}");
        assert_eq!(fact(&said, "Statement"), Some(statement));
        assert_eq!(said.also.line(), None, "{statement}");
    }
    let several = said("begin; update orders set a = 1; drop table items; commit");
    assert_eq!(
        several.sentence,
        "Run 4 statements in shop at db.example as app_rw: begin, end or mark a transaction, update all rows of orders, \
         drop table items and 1 more"
    );
    assert_eq!(several.risk, Risk::Destructive);
    assert_eq!(fact(&several, "Changes"), Some("items, orders"));
    assert_eq!(
        said(" -- nothing").sentence,
        "Send a text without a statement to shop at db.example as app_rw"
    );
}

#[test]
fn a_connection_is_said_as_one() {
    let said = described(&Method::GET, &HEADERS[..1], b"").unwrap().unwrap();
    assert_eq!(said.sentence, "Connect to database shop at db.example as app_rw");
    assert_eq!((fact(&said, "Database"), fact(&said, "Role")), (Some("shop"), Some("app_rw")));
}

#[test]
fn values_settings_and_estimates_are_facts() {
    let body = json!({
        "protocol": "extended",
        "statement": "update orders set state = $1 where id = $2",
        "parameters": [{"type": 25, "format": "text", "value": "paid"}, {"type": 23, "null": true}],
        "transaction": "open",
        "settings": {"search_path": "shop, public"},
    });
    let headers = [HEADERS[0], HEADERS[1], ("postgres-estimated-rows", "orders=12")];
    let said = described(&Method::POST, &headers, body.to_string().as_bytes()).unwrap().unwrap();
    assert_eq!(fact(&said, "Rows"), Some("orders holds about 12 rows (the server's own estimate)"));
    assert!(fact(&said, "Parameters").unwrap().contains("\"value\": \"paid\""));
    assert_eq!(fact(&said, "Settings"), Some("{\"search_path\": \"shop, public\"}"));
    assert_eq!(fact(&said, "Transaction"), Some("open"));
    assert_eq!(fact(&said, "Effect"), Some("write"));
    assert_eq!(said.also.line(), None);
}

#[test]
fn what_tables_hold_is_said_as_that_and_never_as_what_would_be_changed() {
    let rows = |statement: &str, said: &str| {
        let body = json!({"protocol": "simple", "statement": statement, "transaction": "idle"});
        let headers = [HEADERS[0], HEADERS[1], ("postgres-estimated-rows", said)];
        let said = described(&Method::POST, &headers, body.to_string().as_bytes()).unwrap();
        let said = said.unwrap();
        assert_eq!(said.also.line(), None, "{statement}");
        fact(&said, "Rows").map(str::to_owned)
    };
    let about = "holds about 1,204,000 rows (the server's own estimate)";
    let all = format!("orders {about}, and this is about all of them");
    for (statement, expected) in [
        ("delete from orders where id = 1", format!("orders {about}")),
        ("insert into orders values (1)", format!("orders {about}")),
        ("alter table orders drop column name", format!("orders {about}")),
        ("delete from orders", all.clone()),
        ("update orders set a = 1", all.clone()),
        ("truncate orders", all.clone()),
        ("drop table orders", all.clone()),
        ("begin; delete from orders; commit", all),
    ] {
        assert_eq!(rows(statement, "orders=1204000"), Some(expected), "{statement}");
    }
    for (figure, words) in
        [("0", "0 rows"), ("1", "1 row"), ("999", "999 rows"), ("1000", "1,000 rows")]
    {
        let said = rows("delete from orders where a", &format!("orders={figure}"));
        let expected = format!("orders holds about {words} (the server's own estimate)");
        assert_eq!(said, Some(expected));
    }
    let unknown = "how many rows orders holds is not known: the server has not analysed all of it";
    assert_eq!(rows("delete from orders", "orders=unknown"), Some(unknown.to_owned()));
    assert_eq!(
        rows("truncate \"Ö\", orders", "%22%C3%96%22=2, orders=unknown"),
        Some(format!(
            "\"\\\"Ö\\\"\" holds about 2 rows (the server's own estimate), and this is about all of them; {unknown}"
        ))
    );
    // What the statement does not write is not spoken of, and what is no figure is none.
    assert_eq!(rows("delete from orders", "items=1204000"), None);
    assert_eq!(rows("select * from orders", "orders=1204000"), None);
    assert_eq!(rows("delete from orders", "12"), None);
    assert_eq!(rows("delete from orders", "orders=-12"), Some(unknown.to_owned()));
}

#[test]
fn what_cannot_be_judged_has_no_sentence() {
    for body in [
        json!({"protocol": "simple", "statement": "select 'open", "transaction": "idle"}),
        json!({"protocol": "simple", "statement": "execute p", "transaction": "idle"}),
        json!({"protocol": "simple", "statement": "select 1", "transaction": "idle", "x": 1}),
        json!({"statement": "select 1"}),
        json!(1),
    ] {
        assert!(asked(&body).is_err(), "{body}");
    }
    let good = json!({"protocol": "simple", "statement": "select 1", "transaction": "idle"});
    let twice = [HEADERS[0], HEADERS[1], ("postgres-role", "postgres")];
    assert!(described(&Method::POST, &twice, good.to_string().as_bytes()).is_err());
    assert!(described(&Method::POST, &HEADERS[1..], good.to_string().as_bytes()).is_err());
    assert!(described(&Method::PUT, &HEADERS, good.to_string().as_bytes()).is_err());
}
