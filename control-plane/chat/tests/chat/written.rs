//! Where hostile words are in what is sent.

use serde_json::Value;

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
