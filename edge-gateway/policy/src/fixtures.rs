//! Fixtures.
use std::ops::Range;

use toml_edit::TableLike;

use crate::diagnostic::Mistakes;

/// One `[[test]]`.
#[derive(Debug)]
pub(crate) struct Fixture;

pub(crate) fn read(
    _table: &dyn TableLike,
    _span: Option<Range<usize>>,
    _mistakes: &mut Mistakes<'_>,
) -> Option<Fixture> {
    None
}
