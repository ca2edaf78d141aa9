//! Slack's Web API: one path a method; arguments stand in a form, in JSON or in the query.

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::words::{quoted, word};
use crate::{Risk, Said};
use Risk::{Code, Destructive, Messages, People, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let [api, method] = ask.segments.as_slice() else { return Ok(None) };
    if api != "api" || !matches!(ask.method, "GET" | "POST") {
        return Ok(None);
    }
    let method = method.clone();
    if ask.method == "POST" {
        ask.legible()?;
    }
    ask.merge_query()?;
    match method.as_str() {
        "chat.postMessage" => message(ask, "Post", ""),
        "chat.postEphemeral" => message(ask, "Post", ", for {.user} alone"),
        "chat.scheduleMessage" => message(ask, "Schedule", ", at {.post_at}"),
        "chat.update" => message(ask, "Rewrite message {.ts} as", ""),
        _ => {
            // Methods take GET and POST alike.
            let written = std::mem::replace(&mut ask.method, "POST");
            let said = look_up(ask, ROWS);
            ask.method = written;
            said
        }
    }
}

/// Where there are blocks or attachments, they are what people see, and `text` is what notifications say.
fn message(ask: &mut Ask<'_>, verb: &str, rest: &str) -> Said {
    let rich: Vec<_> = [".blocks", ".attachments"].into_iter().filter(|it| ask.has(it)).collect();
    let text = ask.text(".text");
    let channel = word(&ask.need(".channel")?);
    let what = match (rich.is_empty(), text) {
        (true, Some(text)) => quoted(&text),
        (true, None) => "a message without a text".to_owned(),
        (false, Some(text)) => {
            format!("a formatted message (whose notification says {})", quoted(&text))
        }
        (false, None) => "a formatted message".to_owned(),
    };
    let verb = crate::table::fill(ask, verb, &[])?;
    let rest = crate::table::fill(ask, rest, &[])?;
    let thread = ask.has(".thread_ts");
    for (name, field) in [
        ("Channel", ".channel"),
        ("Text", ".text"),
        ("Blocks", ".blocks"),
        ("Attachments", ".attachments"),
        ("In thread", ".thread_ts"),
        ("Shown in the channel too", ".reply_broadcast"),
        ("Only for", ".user"),
        ("At, Unix time", ".post_at"),
        ("Message", ".ts"),
        ("Under the name", ".username"),
    ] {
        ask.fact(name, field);
    }
    let thread = if thread { ", in a thread" } else { "" };
    Ok(Some((Messages, format!("{verb} {what} in {channel}{thread}{rest}"))))
}

const ROWS: &[Row] = &[
    Row(
        "POST",
        "/api/chat.delete",
        Destructive,
        "Delete message {.ts} in {.channel}",
        &[("Channel", ".channel"), ("Message", ".ts")],
    ),
    Row(
        "POST",
        "/api/conversations.archive",
        Destructive,
        "Archive channel {.channel}",
        &[("Channel", ".channel")],
    ),
    Row(
        "POST",
        "/api/admin.conversations.delete",
        Destructive,
        "Delete channel {.channel_id}",
        &[("Channel", ".channel_id")],
    ),
    Row("POST", "/api/files.delete", Destructive, "Delete file {.file}", &[("File", ".file")]),
    Row(
        "POST",
        "/api/usergroups.disable",
        People,
        "Disable user group {.usergroup}",
        &[("Group", ".usergroup")],
    ),
    Row(
        "POST",
        "/api/conversations.kick",
        People,
        "Remove {.user} from channel {.channel}",
        &[("Channel", ".channel"), ("User", ".user")],
    ),
    Row(
        "POST",
        "/api/conversations.invite",
        People,
        "Invite {.users} into channel {.channel}",
        &[("Channel", ".channel"), ("Users", ".users")],
    ),
    Row(
        "POST",
        "/api/conversations.inviteShared",
        People,
        "Invite [{.emails}][{.user_ids}] of another organisation into channel {.channel}",
        &[("Channel", ".channel"), ("Addresses", ".emails"), ("Users", ".user_ids")],
    ),
    Row(
        "POST",
        "/api/conversations.setConvertToPublic",
        People,
        "Make channel {.channel} public",
        &[("Channel", ".channel")],
    ),
    Row(
        "POST",
        "/api/admin.conversations.convertToPublic",
        People,
        "Make channel {.channel_id} public",
        &[("Channel", ".channel_id")],
    ),
    Row(
        "POST",
        "/api/admin.users.setAdmin",
        People,
        "Make {.user_id} an administrator",
        &[("User", ".user_id"), ("Workspace", ".team_id")],
    ),
    Row(
        "POST",
        "/api/admin.users.remove",
        People,
        "Remove {.user_id} from workspace {.team_id}",
        &[("User", ".user_id"), ("Workspace", ".team_id")],
    ),
    Row(
        "POST",
        "/api/admin.users.invite",
        People,
        "Invite {.email} into workspace {.team_id}",
        &[("Address", ".email"), ("Workspace", ".team_id"), ("Channels", ".channel_ids")],
    ),
    Row(
        "POST",
        "/api/usergroups.users.update",
        People,
        "Make {.users} the members of user group {.usergroup}",
        &[("Group", ".usergroup"), ("Users", ".users")],
    ),
    Row(
        "POST",
        "/api/files.sharedPublicURL",
        People,
        "Make file {.file} public",
        &[("File", ".file")],
    ),
    Row(
        "POST",
        "/api/files.completeUploadExternal",
        Messages,
        "Share uploaded files[ in {.channel_id}]",
        &[
            ("Files", ".files"),
            ("Channel", ".channel_id"),
            ("Comment", ".initial_comment"),
            ("In thread", ".thread_ts"),
        ],
    ),
    Row(
        "POST",
        "/api/conversations.create",
        Write,
        "Create channel {.name}",
        &[("Name", ".name"), ("Private", ".is_private")],
    ),
    Row(
        "POST",
        "/api/conversations.rename",
        Write,
        "Rename channel {.channel} to {.name}",
        &[("Channel", ".channel"), ("Name", ".name")],
    ),
    Row(
        "POST",
        "/api/conversations.setTopic",
        Write,
        "Set the topic of {.channel} to {'.topic}",
        &[("Channel", ".channel"), ("Topic", ".topic")],
    ),
    Row(
        "POST",
        "/api/reactions.add",
        Messages,
        "React with {.name} to message {.timestamp} in {.channel}",
        &[("Channel", ".channel"), ("Message", ".timestamp"), ("Reaction", ".name")],
    ),
    Row(
        "POST",
        "/api/reminders.add",
        Messages,
        "Remind [{.user} ]of {'.text} at {.time}",
        &[("Text", ".text"), ("At", ".time"), ("User", ".user")],
    ),
    Row(
        "POST",
        "/api/users.profile.set",
        Write,
        "Change [the profile of {.user}][the profile: {.profile}]",
        &[("Profile", ".profile"), ("User", ".user")],
    ),
    Row(
        "POST",
        "/api/workflows.triggers.create",
        Code,
        "Create a trigger that runs a workflow",
        &[],
    ),
    Row(
        "POST",
        "/api/conversations.history",
        Read,
        "Read the messages of {.channel}",
        &[("Channel", ".channel")],
    ),
    Row(
        "POST",
        "/api/search.messages",
        Read,
        "Search messages for {'.query}",
        &[("For", ".query")],
    ),
    Row("POST", "/api/users.list", Read, "List the users", &[]),
];
