//! The tools: what they are called, what they take, and what a model reads of them.

use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{CallToolResult, ContentBlock, ErrorData, JsonObject, Tool, ToolAnnotations};
use serde_json::{Value, json};

use crate::gateway::{Gateway, LONGEST_WAIT, No, Seen};

/// All of them, and each only looks.
pub(super) fn all() -> Vec<Tool> {
    let id = json!({
        "type": "string",
        "pattern": "^[0-9a-f]{32}$",
        "description": "The approval's id: countersign-approval-id, or approval_id in the body, of the 503 answer"
    });
    let seconds = json!({
        "type": "integer", "minimum": 0, "maximum": LONGEST_WAIT.as_secs(), "default": LONGEST_WAIT.as_secs(),
        "description": "How long to wait at most"
    });
    vec![
        tool(
            "list_held_requests",
            "List this agent's own requests that are held for a person's approval, and those that were decided within \
             the last hour.",
            json!({}),
            &[],
        ),
        tool(
            "explain_held_request",
            "Say why one of this agent's requests is held, by which rule, how it stands, and what to do next.",
            json!({ "approval_id": id }),
            &["approval_id"],
        ),
        tool(
            "wait_for_approval",
            "Wait until a person has decided about a held request, for at most 50 seconds. While it is still pending, \
             call it again: approvals take minutes to hours. It decides nothing.",
            json!({ "approval_id": id, "seconds": seconds }),
            &["approval_id"],
        ),
        tool(
            "get_parked_result",
            "Fetch the upstream's answer to a request that the gateway had parked and carried out after its approval. \
             It is there for an hour.",
            json!({ "approval_id": id }),
            &["approval_id"],
        ),
    ]
}

fn tool(name: &'static str, description: &'static str, takes: Value, required: &[&str]) -> Tool {
    let mut schema = JsonObject::new();
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), takes);
    schema.insert("required".into(), required.into());
    schema.insert("additionalProperties".into(), false.into());
    let looks = ToolAnnotations::new().read_only(true).open_world(false);
    Tool::new(name, description, Arc::new(schema)).with_annotations(looks)
}

/// What a tool answers. What goes wrong in it is an answer too, for the model to act on.
///
/// # Errors
/// There is no tool of that name.
pub(super) async fn call(
    gateway: &Gateway,
    name: &str,
    arguments: &JsonObject,
) -> Result<CallToolResult, ErrorData> {
    let done = match name {
        "list_held_requests" => list(gateway).await,
        "explain_held_request" => explain(gateway, arguments).await,
        "wait_for_approval" => wait(gateway, arguments).await,
        "get_parked_result" => result(gateway, arguments).await,
        _ => {
            let why =
                format!("there is no tool {name} here; list the tools to see those that there are");
            return Err(ErrorData::invalid_params(why, None));
        }
    };
    Ok(done.unwrap_or_else(|wrong| CallToolResult::error(vec![ContentBlock::text(wrong)])))
}

/// A sentence that says what was not done, why, and what to do next.
type Wrong = String;

async fn list(gateway: &Gateway) -> Result<CallToolResult, Wrong> {
    let seen = gateway.list().await.map_err(said)?;
    let held: Vec<&Value> = seen.iter().map(Seen::json).collect();
    let waiting = seen.iter().filter(|seen| seen.is_pending()).count();
    let text = match seen.len() {
        0 => "No request of this agent is held, and none was decided within the last hour."
            .to_owned(),
        all => format!("{waiting} of these {all} requests still wait for a person."),
    };
    let sentences: Vec<String> = seen.iter().map(Seen::sentence).collect();
    let text = [vec![text], sentences].concat().join("\n");
    Ok(told(text, json!({ "held_requests": held })))
}

async fn explain(gateway: &Gateway, arguments: &JsonObject) -> Result<CallToolResult, Wrong> {
    let seen = gateway.one(id(arguments)?, Duration::ZERO).await.map_err(said)?;
    let reason = match seen.text("reason") {
        "" => String::new(),
        reason => format!(" Reason: {reason}."),
    };
    let text = format!("{}{reason} {}", seen.text("why"), seen.sentence());
    Ok(told(text, seen.json().clone()))
}

async fn wait(gateway: &Gateway, arguments: &JsonObject) -> Result<CallToolResult, Wrong> {
    let id = id(arguments)?;
    let seconds = match arguments.get("seconds") {
        None => LONGEST_WAIT.as_secs(),
        Some(seconds) => seconds.as_u64().ok_or(
            "Nothing was waited for: seconds is a whole number from 0 to 50. Call the tool again with one.",
        )?,
    };
    let seen = gateway.one(id, Duration::from_secs(seconds)).await.map_err(said)?;
    let again = match seen.is_pending() {
        true => "Still pending: nobody has decided yet. Call wait_for_approval again. ",
        false => "",
    };
    Ok(told(format!("{again}{}", seen.sentence()), seen.json().clone()))
}

async fn result(gateway: &Gateway, arguments: &JsonObject) -> Result<CallToolResult, Wrong> {
    let result = gateway.result(id(arguments)?).await.map_err(said)?;
    let status = &result["response"]["status"];
    let text = format!(
        "It was carried out once, and the upstream answered with status {status}:\n{result:#}"
    );
    Ok(told(text, result))
}

fn id(arguments: &JsonObject) -> Result<&str, Wrong> {
    arguments.get("approval_id").and_then(Value::as_str).ok_or_else(|| {
        "Nothing was looked up: approval_id is missing. It is in the 503 answer of the held request, and \
         list_held_requests lists it."
            .to_owned()
    })
}

fn said(no: No) -> Wrong {
    match no {
        No::Later { code, detail, .. } | No::Refused { code, detail } => {
            format!("{detail} ({code})")
        }
        No::Unreachable(why) => format!(
            "Nothing was looked up: {why} Held requests stay held meanwhile. Try again in a while; if it stays so, ask \
             an operator."
        ),
    }
}

/// For the model, and for whatever reads it as data.
fn told(text: String, data: Value) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(data);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tool_decides_and_each_says_that_it_only_looks() {
        let tools = all();
        let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
        assert_eq!(
            names,
            [
                "list_held_requests",
                "explain_held_request",
                "wait_for_approval",
                "get_parked_result"
            ]
        );
        for tool in tools {
            let looks = tool.annotations.as_ref().and_then(|it| it.read_only_hint);
            assert_eq!(looks, Some(true), "{}", tool.name);
            let takes = tool.input_schema["properties"].as_object().unwrap();
            assert!(takes.keys().all(|key| ["approval_id", "seconds"].contains(&key.as_str())));
        }
    }
}
