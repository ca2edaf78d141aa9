//! Google Calendar.

use countersign_policy::json::Json;

use crate::ask::Ask;
use crate::table::{Row, fill, look_up, matched};
use crate::words::{row, word};
use crate::{Risk, Said};
use Risk::{Destructive, Messages, People, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    const EVENTS: &str = "/calendar/v3/calendars/{calendar}/events";
    const EVENT: &str = "/calendar/v3/calendars/{calendar}/events/{event}";
    let said = match ask.method {
        "POST" if matched(EVENTS, &ask.segments).is_some() => {
            event(ask, "Create the event[ {'.summary}] in calendar {calendar}", EVENTS)
        }
        "PATCH" if matched(EVENT, &ask.segments).is_some() => {
            event(ask, "Change event {event} of calendar {calendar}[ to {'.summary}]", EVENT)
        }
        "PUT" if matched(EVENT, &ask.segments).is_some() => {
            event(ask, "Overwrite event {event} of calendar {calendar}[ with {'.summary}]", EVENT)
        }
        _ => look_up(ask, ROWS),
    }?;
    if said.is_some() {
        for field in ["?sendUpdates", "?sendNotifications"] {
            ask.fact("Who is told", field);
        }
    }
    Ok(said)
}

/// An event with people invites them: they hear of it if `sendUpdates` says so, and it is in their calendars in any case.
fn event(ask: &mut Ask<'_>, sentence: &str, pattern: &str) -> Said {
    ask.json()?;
    let pattern = pattern.to_owned();
    let segments = ask.path();
    let names = matched(&pattern, &segments).unwrap_or_default();
    let mut sentence = fill(ask, sentence, &names)?;
    let guests: Vec<String> = match ask.find(".attendees").as_deref() {
        Some(Json::List(items)) => items.iter().filter_map(address).collect(),
        _ => Vec::new(),
    };
    if !guests.is_empty() {
        let names: Vec<_> = guests.iter().map(|guest| word(guest)).collect();
        sentence.push_str(&format!(", with {}", row(&names)));
        ask.say("People", guests.join(", "), &[]);
    }
    for (name, field) in [
        ("Title", ".summary"),
        ("From", ".start.dateTime"),
        ("From", ".start.date"),
        ("To", ".end.dateTime"),
        ("To", ".end.date"),
        ("Where", ".location"),
        ("Text", ".description"),
        ("Repeats", ".recurrence"),
        ("Status", ".status"),
        ("Guests, as given", ".attendees"),
    ] {
        ask.fact(name, field);
    }
    let told = ["?sendUpdates", "?sendNotifications"].into_iter().any(|it| ask.has(it));
    let risk = if guests.is_empty() && !told { Write } else { Messages };
    Ok(Some((risk, sentence)))
}

fn address(guest: &Json<'_>) -> Option<String> {
    let Json::Object(members) = guest else { return None };
    members.iter().find_map(|(name, value)| match value {
        Json::Text(text) if name == "email" => Some(text.to_string()),
        _ => None,
    })
}

const ROWS: &[Row] = &[
    Row(
        "DELETE",
        "/calendar/v3/calendars/{calendar}",
        Destructive,
        "Delete calendar {calendar} with all of its events",
        &[],
    ),
    Row(
        "POST",
        "/calendar/v3/calendars/{calendar}/clear",
        Destructive,
        "Delete all events of calendar {calendar}",
        &[],
    ),
    Row(
        "DELETE",
        "/calendar/v3/calendars/{calendar}/events/{event}",
        Destructive,
        "Delete event {event} of calendar {calendar}",
        &[],
    ),
    Row(
        "POST",
        "/calendar/v3/calendars/{calendar}/acl",
        People,
        "Share calendar {calendar} with {.scope.type}[ {.scope.value}] as {.role}",
        &[("With", ".scope.value"), ("Kind", ".scope.type"), ("Role", ".role")],
    ),
    Row(
        "PATCH",
        "/calendar/v3/calendars/{calendar}/acl/{rule}",
        People,
        "Change the share {rule} of calendar {calendar}[ to {.role}]",
        &[("Role", ".role")],
    ),
    Row(
        "PUT",
        "/calendar/v3/calendars/{calendar}/acl/{rule}",
        People,
        "Change the share {rule} of calendar {calendar}[ to {.role}]",
        &[("Role", ".role"), ("Kind", ".scope.type"), ("With", ".scope.value")],
    ),
    Row(
        "DELETE",
        "/calendar/v3/calendars/{calendar}/acl/{rule}",
        People,
        "End the share {rule} of calendar {calendar}",
        &[],
    ),
    Row(
        "POST",
        "/calendar/v3/calendars/{calendar}/events/{event}/move",
        Write,
        "Move event {event} of calendar {calendar} to calendar {?destination}",
        &[("To", "?destination")],
    ),
    Row(
        "POST",
        "/calendar/v3/calendars/{calendar}/events/quickAdd",
        Write,
        "Create an event in calendar {calendar} from {'?text}",
        &[("Text", "?text")],
    ),
    Row(
        "POST",
        "/calendar/v3/calendars",
        Write,
        "Create calendar {'.summary}",
        &[("Name", ".summary")],
    ),
    Row(
        "GET",
        "/calendar/v3/calendars/{calendar}/events",
        Read,
        "Read the events of calendar {calendar}",
        &[("From", "?timeMin"), ("To", "?timeMax"), ("That fit", "?q")],
    ),
    Row(
        "POST",
        "/calendar/v3/freeBusy",
        Read,
        "Ask when calendars are free",
        &[("From", ".timeMin"), ("To", ".timeMax"), ("Calendars", ".items")],
    ),
];
