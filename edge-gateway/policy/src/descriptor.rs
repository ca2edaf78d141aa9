//! `[[descriptor]]`: what a policy knows of services that speak gRPC.
//!
//! ```toml
//! [[descriptor]]
//! name = "billing"
//! file = "billing.binpb"          # beside the policy; the CLI puts it in as `set`, in base64
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use toml_edit::{Document, Item, TableLike};

use crate::decode::grpc::Descriptors;
use crate::diagnostic::Mistakes;
use crate::fields::{Fields, Span};

/// All sets of a policy together, bytes: its text is 1 MiB at most.
const MOST: usize = 512 * 1024;

/// Reads every `[[descriptor]]`.
pub(crate) fn read(tables: &[(&dyn TableLike, Span)], mistakes: &mut Mistakes<'_>) -> Descriptors {
    let mut descriptors = Descriptors::default();
    let mut names: Vec<String> = Vec::new();
    let mut size = 0;
    for (table, span) in tables {
        let mut fields = Fields::new(*table, None, mistakes);
        fields.at = span.clone();
        match fields.name("name") {
            None => fields.missing("name", "mistakes in it are told by it"),
            Some(name) if names.contains(&name) => {
                fields.wrong(None, format!("another descriptor is called {name:?}"));
            }
            Some(name) => names.push(name),
        }
        if let Some((_, span)) = fields.item("file") {
            fields.wrong(
                span,
                "`file` is put in as `set` by `countersign policy`, which reads it beside the policy",
            );
        } else {
            fields
                .missing("set", "write `file = \"…\"` and let `countersign policy set` put it in");
        }
        if let Some((text, span)) = fields.text("set") {
            let added = match STANDARD.decode(&text) {
                Err(_) => Err("it is not base64".to_owned()),
                Ok(set) if size + set.len() > MOST => Err(TOO_LARGE.to_owned()),
                Ok(set) => {
                    size += set.len();
                    descriptors.add(&set)
                }
            };
            if let Err(why) = added {
                fields.wrong(span, format!("`set`: {why}"));
            }
        }
        fields.refuse_others("a descriptor");
    }
    descriptors
}

const TOO_LARGE: &str = "with the others it is more than 512 KiB: leave out what no rule needs, and build it without \
                         --include_source_info";

/// The text of a policy with the files of its descriptors put in. `load` reads one by the name that the policy gives.
///
/// # Errors
/// What cannot be read. What else is wrong with the policy is for the compiler to say.
pub fn inline<E: std::fmt::Display>(
    text: &str,
    load: impl Fn(&str) -> Result<Vec<u8>, E>,
) -> Result<String, String> {
    let Ok(document) = Document::parse(text) else { return Ok(text.to_owned()) };
    let tables = document.get("descriptor").and_then(Item::as_array_of_tables);
    let mut whole = text.to_owned();
    let mut places = Vec::new();
    for table in tables.into_iter().flatten() {
        let key = table.key("file").and_then(toml_edit::Key::span);
        let (Some(key), Some(item)) = (key, table.get("file")) else { continue };
        let (Some(value), Some(file)) = (item.span(), item.as_str()) else { continue };
        let set =
            load(file).map_err(|why| format!("the descriptor {file} cannot be read: {why}"))?;
        if set.len() > MOST {
            return Err(format!("the descriptor {file} is too large: {TOO_LARGE}"));
        }
        places.push((key, value, STANDARD.encode(set)));
    }
    // From the end on, so that what is before stays where it is.
    places.sort_by_key(|(key, ..)| std::cmp::Reverse(key.start));
    for (key, value, set) in places {
        whole.replace_range(value, &format!("\"{set}\""));
        whole.replace_range(key, "set");
    }
    Ok(whole)
}
