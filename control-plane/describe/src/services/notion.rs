//! Notion.

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::{Risk, Said};
use Risk::{Destructive, Messages, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let gone = ["archived", "in_trash"].map(|field| ask.is(&format!(".{field}"), "true"));
    if ask.method == "PATCH" && gone.contains(&true) {
        return look_up(ask, TRASH);
    }
    look_up(ask, ROWS)
}

const TRASH: &[Row] = &[
    Row(
        "PATCH",
        "/v1/pages/{page}",
        Destructive,
        "Move page {page} to the trash",
        &[("Archived", ".archived"), ("In the trash", ".in_trash"), ("Properties", ".properties")],
    ),
    Row(
        "PATCH",
        "/v1/databases/{database}",
        Destructive,
        "Move database {database} to the trash",
        &[("Archived", ".archived"), ("In the trash", ".in_trash")],
    ),
    Row(
        "PATCH",
        "/v1/data_sources/{source}",
        Destructive,
        "Move data source {source} to the trash",
        &[("Archived", ".archived"), ("In the trash", ".in_trash")],
    ),
    Row(
        "PATCH",
        "/v1/blocks/{block}",
        Destructive,
        "Move block {block} to the trash",
        &[("Archived", ".archived"), ("In the trash", ".in_trash")],
    ),
];

const ROWS: &[Row] = &[
    Row(
        "DELETE",
        "/v1/blocks/{block}",
        Destructive,
        "Move block or page {block} to the trash",
        &[],
    ),
    Row(
        "PATCH",
        "/v1/pages/{page}",
        Write,
        "Change page {page}",
        &[
            ("Properties", ".properties"),
            ("Icon", ".icon"),
            ("Cover", ".cover"),
            ("Locked", ".is_locked"),
        ],
    ),
    Row(
        "PATCH",
        "/v1/databases/{database}",
        Write,
        "Change database {database}",
        &[("Title", ".title"), ("Properties", ".properties")],
    ),
    Row(
        "PATCH",
        "/v1/data_sources/{source}",
        Write,
        "Change the columns of data source {source}",
        &[("Title", ".title"), ("Properties", ".properties")],
    ),
    Row("PATCH", "/v1/blocks/{block}", Write, "Change block {block}", &[]),
    Row(
        "PATCH",
        "/v1/blocks/{block}/children",
        Write,
        "Add to page or block {block}",
        &[("Content", ".children"), ("After", ".after")],
    ),
    Row(
        "POST",
        "/v1/pages",
        Write,
        "Create a page in [page {.parent.page_id}][database {.parent.database_id}][data source {.parent.data_source_id}]",
        &[
            ("In page", ".parent.page_id"),
            ("In database", ".parent.database_id"),
            ("In data source", ".parent.data_source_id"),
            ("Kind of parent", ".parent.type"),
            ("Properties", ".properties"),
            ("Content", ".children"),
        ],
    ),
    Row(
        "POST",
        "/v1/databases",
        Write,
        "Create a database[ in page {.parent.page_id}]",
        &[("In page", ".parent.page_id"), ("Title", ".title"), ("Properties", ".properties")],
    ),
    Row(
        "POST",
        "/v1/comments",
        Messages,
        "Comment[ on page {.parent.page_id}][ in discussion {.discussion_id}]",
        &[
            ("On page", ".parent.page_id"),
            ("In discussion", ".discussion_id"),
            ("Text", ".rich_text"),
        ],
    ),
    Row(
        "POST",
        "/v1/search",
        Read,
        "Search Notion[ for {'.query}]",
        &[("For", ".query"), ("Only", ".filter")],
    ),
    Row(
        "POST",
        "/v1/databases/{database}/query",
        Read,
        "Query database {database}",
        &[("Filter", ".filter"), ("Order", ".sorts")],
    ),
    Row(
        "POST",
        "/v1/data_sources/{source}/query",
        Read,
        "Query data source {source}",
        &[("Filter", ".filter"), ("Order", ".sorts")],
    ),
    Row("GET", "/v1/pages/{page}", Read, "Read page {page}", &[]),
];
