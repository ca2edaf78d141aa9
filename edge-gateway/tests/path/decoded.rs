//! Rules over what was decoded, as the edge decides by them: calls of tools, and pushes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::control::secret;
use crate::world::{Setup, World, no};

const RULES: &str = r#"
[[rule]]
name = "dangerous tools"
host = "open.test"
methods = ["POST"]
path = "/mcp"
when = "mcp.calls.exists(c, c.method == 'tools/call' && c.tool != 'read')"
then = "approve"
hold = "30s"

[[rule]]
name = "branches of people"
host = "git.test"
methods = ["POST"]
path = "/acme/prod.git/git-receive-pack"
when = "!git.refs.all(r, r.kind != 'delete' && r.ref.startsWith('refs/heads/agent/'))"
then = "deny"
"#;

const JSON: &str =
    "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n";

async fn world() -> World {
    Setup { rules: RULES.into(), ..Setup::default() }.start().await
}

fn call(tool: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#
    )
}

#[tokio::test]
async fn b_9_a_tool_passes_and_a_batch_with_another_one_waits_for_people() {
    let world = world().await;
    let answer = world.agent.send("open.test", "POST /mcp", JSON, &call("read")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(world.control.opened().await.is_none());

    let batch = format!("[{},{}]", call("read"), call("drop"));
    let (agent, body) = (world.agent.clone(), batch.clone());
    let waiting =
        tokio::spawn(async move { agent.send("open.test", "POST /mcp", JSON, &body).await });
    let open = world.control.open().await;
    assert_eq!(open.body, batch.as_bytes());
    assert_eq!(world.origin.got().len(), 1, "nothing of it has left");
    world.control.release(&open).await;
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(world.origin.got()[1].body, batch);
}

#[tokio::test]
async fn b_14_a_push_to_another_branch_is_refused_whatever_else_is_in_it() {
    const ZERO: &str = "0000000000000000000000000000000000000000";
    const ONE: &str = "78a52b4b724b056d0164d678a5d27f667060fa71";
    let world = world().await;
    let kind = "Content-Type: application/x-git-receive-pack-request\r\n";
    let login = STANDARD.encode(format!("x:{}", secret("git").fake));
    let login = format!("Authorization: Basic {login}\r\n");
    let rest = format!("{login}{kind}");
    let push = |refs: &[&str]| {
        let mut body = String::new();
        for (at, name) in refs.iter().enumerate() {
            let can = if at == 0 { "\0 report-status" } else { "" };
            let line = format!("{ZERO} {ONE} {name}{can}");
            body += &format!("{:04x}{line}", line.len() + 4);
        }
        format!("{body}0000PACK")
    };
    let line = "POST /acme/prod.git/git-receive-pack";
    for refs in [&["refs/heads/main"][..], &["refs/heads/agent/fix", "refs/heads/main"]] {
        let answer = world.agent.send("git.test", line, &rest, &push(refs)).await;
        assert_eq!(no(&answer), (403, "policy_denied".into()), "{refs:?}");
    }
    let agents = push(&["refs/heads/agent/fix"]);
    let untyped = world.agent.send("git.test", line, &login, &agents).await;
    assert_eq!(
        no(&untyped),
        (403, "policy_denied".into()),
        "what is not certain is not let through"
    );
    assert!(world.origin.got().is_empty());
    let answer = world.agent.send("git.test", line, &rest, &agents).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(world.origin.got().len(), 1);
}
