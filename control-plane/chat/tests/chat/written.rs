//! Where hostile words are in what is sent.

use std::time::SystemTime;

use serde_json::Value;

use crate::support::seconds;

/// As platforms write the time, on the day when all of this happens.
pub(crate) fn utc(at: SystemTime) -> String {
    let of_the_day = seconds(at) % 86_400;
    let (hours, minutes, rest) = (of_the_day / 3600, of_the_day / 60 % 60, of_the_day % 60);
    format!("2027-01-15T{hours:02}:{minutes:02}:{rest:02}.000Z")
}

/// Every string in it, with the names that lead there; numbers of arrays are left out.
pub(crate) fn strings(value: &Value) -> Vec<(String, String)> {
    fn walk(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(object) => object.iter().for_each(|(name, value)| {
                walk(value, &format!("{path}/{name}"), found);
            }),
            Value::Array(array) => array.iter().for_each(|value| walk(value, path, found)),
            Value::String(text) => found.push((path.to_owned(), text.clone())),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}

/// Parts of [`crate::support::HOSTILE`] that no escaping takes apart.
pub(crate) fn is_hostile(text: &str) -> bool {
    ["everyone", "evil", "fence", "spoiler", "dorp"].iter().any(|part| text.contains(part))
}

/// Nothing that a reader would not see, save the line breaks that we make.
pub(crate) fn demand_visible(text: &str) {
    let hidden = text.chars().find(|c| *c != '\n' && countersign_chat::visible::is_hidden(*c));
    assert_eq!(hidden, None, "{text:?}");
}
