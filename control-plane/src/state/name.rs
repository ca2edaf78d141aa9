//! What names, ids and free text may look like in the state.

use super::Refused;

pub(super) const CHANNEL_BYTES: usize = 64;
pub(super) const REASON_BYTES: usize = 1_000;
const ID_BYTES: usize = 128;
const NAME_BYTES: usize = 64;

/// Names are typed into policies and commands: 1 to 64 lowercase letters, digits, `-`, `_`, `.`.
pub(super) fn check_name(kind: &str, name: &str) -> Result<(), Refused> {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if (1..=NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Refused::Invalid(format!(
        "{:?} is no name for {kind}: use 1 to {NAME_BYTES} lowercase letters, digits, '-', '_' and '.'",
        clipped(name, NAME_BYTES)
    )))
}

/// Ids are made by the control plane: 1 to 128 visible ASCII characters.
pub(super) fn check_id(kind: &str, id: &str) -> Result<(), Refused> {
    if (1..=ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Refused::Invalid(format!(
        "{:?} is no id for {kind}: use 1 to {ID_BYTES} visible ASCII characters",
        clipped(id, ID_BYTES)
    )))
}

/// Free text by people and platforms: a denial is not refused for being wordy.
pub(super) fn clipped(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

/// Several things in one audit detail: none of them holds a comma.
pub(super) fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}
