//! Names as they are written, and what is known of the functions that have them.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::Effect;
use crate::words;

/// Parts of a name, each as the server takes it: `public.orders`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) Vec<String>);

impl Name {
    /// With quotes where they are needed, and nowhere else.
    pub(crate) fn written(&self) -> String {
        let parts = self.0.iter().map(|part| match words::is_plain(part) {
            true => part.clone(),
            false => format!("\"{}\"", part.replace('"', "\"\"")),
        });
        parts.collect::<Vec<_>>().join(".")
    }

    /// What comes of calling a function of this name.
    pub(crate) fn called(&self) -> Effect {
        let name = match self.0.as_slice() {
            [name] => name.as_str(),
            [schema, name] if schema == "pg_catalog" => name.as_str(),
            _ => return Effect::Danger,
        };
        if harmless(name) {
            Effect::Read
        } else if WRITING.contains(&name) {
            Effect::Write
        } else {
            Effect::Danger
        }
    }
}

/// Whether the server's own functions of this name only work something out, or look something up in its catalogues.
pub fn harmless(name: &str) -> bool {
    STABLE.contains(name) || HARMLESS_IN_SPITE_OF_VOLATILITY.contains(&name)
}

/// Made from `pg_proc` of PostgreSQL 15: names in `pg_catalog` of which every function that SQL can call is immutable or
/// stable, less those that only implement an operator, a type or an index, less what reads relations or files by name
/// (`table_to_xml`, `pg_relation_filepath`), takes a transaction's number (`txid_current`), or belongs to statistics and
/// event triggers, which have views. A test asks a server whether it is still so.
static STABLE: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| include_str!("harmless.txt").split_ascii_whitespace().collect());

/// Volatile, because their answer changes, and without an effect.
pub const HARMLESS_IN_SPITE_OF_VOLATILITY: [&str; 16] = [
    "clock_timestamp",
    "currval",
    "gen_random_uuid",
    "lastval",
    "pg_blocking_pids",
    "pg_database_size",
    "pg_indexes_size",
    "pg_is_in_recovery",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_sequence_last_value",
    "pg_table_size",
    "pg_total_relation_size",
    "random",
    "timeofday",
];

/// They count a sequence on, take a lock, or tell others.
pub const WRITING: [&str; 15] = [
    "nextval",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_notify",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "setval",
    "txid_current",
];
