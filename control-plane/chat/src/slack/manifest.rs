//! The app's manifest: what Slack makes the app from (docs.slack.dev, "App manifest reference").

use serde_json::{Value, json};

/// As little as the adapter needs: cards into conversations that the bot is in or opens, private words, presses, the slash
/// command, and what people write to the bot directly. It reads no channel.
///
/// `hook`: Slack calls this address; none: Socket Mode.
pub(super) fn manifest(hook: Option<&str>) -> Value {
    let called = |mut settings: Value, name: &str| {
        if let Some(hook) = hook {
            settings[name] = hook.into();
        }
        settings
    };
    let command = json!({
        "command": "/countersign",
        "description": "Link this account, or answer a card by its code",
        "usage_hint": "link CODE | approve CODE | deny CODE because …",
        "should_escape": false,
    });
    json!({
        "_metadata": { "major_version": 1, "minor_version": 1 },
        "display_information": {
            "name": "Countersign",
            "description": "Asks people for their consent to what AI agents are about to do",
        },
        "features": {
            "app_home": {
                "home_tab_enabled": false,
                "messages_tab_enabled": true,
                "messages_tab_read_only_enabled": false,
            },
            "bot_user": { "display_name": "countersign", "always_online": true },
            "slash_commands": [called(command, "url")],
        },
        "oauth_config": { "scopes": { "bot": ["chat:write", "commands", "im:history", "im:write"] } },
        "settings": {
            "event_subscriptions": called(json!({ "bot_events": ["message.im"] }), "request_url"),
            "interactivity": called(json!({ "is_enabled": true }), "request_url"),
            "org_deploy_enabled": false,
            "socket_mode_enabled": hook.is_none(),
            "token_rotation_enabled": false,
        },
    })
}
