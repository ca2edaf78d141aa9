//! What policies see of JSON-RPC and the Model Context Protocol.

use crate::support::{Ask, ask, captured, said};

fn post(body: &str) -> Ask {
    ask("POST", "https://a.example/mcp").json(body)
}

fn call(tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
    )
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;
const NOTIFIED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":3,"result":{"action":"accept"}}"#;

#[test]
fn b_9_one_call_is_its_tool_and_arguments() {
    let request = post(&call("refund", r#"{"amount":5000,"to":["a","b"]}"#));
    for (when, answer) in [
        ("mcp.method == 'tools/call' && mcp.kind == 'request'", "yes"),
        ("mcp.tool == 'refund'", "yes"),
        ("mcp.tool in ['read_file', 'list']", "no"),
        ("mcp.arguments.amount >= 5000 && mcp.arguments.to.size() == 2", "yes"),
        ("mcp.arguments.amount == '5000'", "unknown"),
        ("has(mcp.arguments.reason)", "no"),
        ("mcp.arguments.reason == 'x'", "unknown"),
        ("mcp.params.name == 'refund'", "yes"),
        ("mcp.calls.size() == 1 && mcp.calls[0].tool == 'refund'", "yes"),
    ] {
        assert_eq!(said(when, &request), answer, "{when}");
    }
    // A call without arguments is one with none.
    let none = r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"now"}}"#;
    assert_eq!(said("mcp.tool == 'now' && !has(mcp.arguments.zone)", &post(none)), "yes");
}

#[test]
fn b_9_what_calls_no_tool_has_none() {
    assert_eq!(said("mcp.method == 'tools/list'", &post(LIST)), "yes");
    assert_eq!(said("mcp.tool == 'refund'", &post(LIST)), "unknown");
    assert_eq!(said("mcp.method == 'tools/call' && mcp.tool == 'refund'", &post(LIST)), "no");
    assert_eq!(said("mcp.kind == 'notification'", &post(NOTIFIED)), "yes");
    assert_eq!(said("mcp.kind == 'response'", &post(ANSWER)), "yes");
    assert_eq!(said("mcp.method == 'tools/list'", &post(ANSWER)), "unknown");
}

#[test]
fn b_9_every_call_of_a_batch_counts() {
    let batch = post(&format!("[{LIST},{NOTIFIED},{}]", call("drop", r#"{"table":"orders"}"#)));
    let reads = "mcp.calls.all(c, c.method in ['tools/list', 'notifications/initialized'] || (c.method == 'tools/call' && c.tool == 'read'))";
    assert_eq!(said(reads, &batch), "no");
    assert_eq!(said("mcp.calls.exists(c, has(c.tool) && c.tool == 'drop')", &batch), "yes");
    assert_eq!(said("mcp.calls.exists(c, c.kind == 'notification')", &batch), "yes");
    let harmless = post(&format!("[{LIST},{}]", call("read", "{}")));
    assert_eq!(said(reads, &harmless), "yes");
    // What is one call's is nobody's in a batch, even of one.
    for body in [format!("[{LIST},{LIST}]"), format!("[{LIST}]")] {
        assert_eq!(said("mcp.method == 'tools/list'", &post(&body)), "unknown", "{body}");
    }
    for body in [
        "[]".to_owned(),
        format!("[{LIST},{{}}]"),
        format!("[{LIST},[{LIST}]]"),
        format!("[{}]", [LIST; 101].join(",")),
    ] {
        assert_eq!(said(reads, &post(&body)), "unknown", "{body}");
    }
}

#[test]
fn b_9_a_message_that_servers_read_differently_is_not_read() {
    let any = "mcp.kind == 'request'";
    assert_eq!(said(any, &post(LIST)), "yes");
    for body in [
        r#"{"jsonrpc":"1.0","id":1,"method":"tools/list"}"#,
        r#"{"id":1,"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"Method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","METHOD":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","PARAMS":{"name":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":" tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{"name":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":"x"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["x"]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","Name":"y"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","Arguments":{}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":[]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x ","arguments":{}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"","arguments":{}}}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
        "",
    ] {
        assert_eq!(said(any, &post(body)), "unknown", "{body}");
    }
    let plain = ask("POST", "https://a.example/mcp").header("content-type", "text/plain");
    assert_eq!(said(any, &plain.bytes(LIST)), "unknown", "B-11");
    assert_eq!(said(any, &ask("GET", "https://a.example/mcp")), "unknown", "the stream of answers");
    // An argument in another case than the one that is asked for.
    let twin = post(&call("refund", r#"{"Amount":1}"#));
    assert_eq!(said("has(mcp.arguments.amount)", &twin), "unknown");
}

#[test]
fn b_9_headers_that_name_a_call_have_to_name_this_one() {
    let request = || post(&call("refund", "{}"));
    let when = "mcp.tool == 'refund'";
    let good = request().header("mcp-method", "tools/call").header("mcp-name", "refund");
    assert_eq!(said(when, &good), "yes");
    assert_eq!(said(when, &request().header("mcp-method", "tools/list")), "unknown");
    assert_eq!(said(when, &request().header("mcp-name", "drop")), "unknown");
    assert_eq!(said(when, &good.header("mcp-name", "drop")), "unknown");
    let batch = post(&format!("[{LIST}]")).header("mcp-method", "tools/list");
    assert_eq!(said("mcp.calls.size() == 1", &batch), "unknown");
}

/// The rule of POLICY.md.
const READS: &str = "mcp.calls.all(c, c.kind == 'notification' || c.method in ['initialize', 'ping', 'tools/list'] || (c.method == 'tools/call' && c.tool in ['search', 'read_user']))";

#[test]
fn b_9_what_the_official_client_sends_is_read() {
    let mut seen = 0;
    for (name, request) in captured("mcp") {
        let (reads, deletes) = match name.as_str() {
            "initialize" | "initialized" | "list" | "read a user" => ("yes", "no"),
            "delete a user" | "a batch" => ("no", "yes"),
            other => panic!("{other} is not known here"),
        };
        assert_eq!(said(READS, &request), reads, "{name}");
        let when = "mcp.calls.exists(c, c.method == 'tools/call' && c.tool == 'delete_user')";
        assert_eq!(said(when, &request), deletes, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 6);
}
