//! Google Drive.

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::{Risk, Said};
use Risk::{Destructive, People, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    if ask.method == "PATCH" && ask.is(".trashed", "true") {
        return look_up(ask, TRASH);
    }
    if ask.method == "POST" && ask.is(".type", "anyone") {
        return look_up(ask, PUBLIC);
    }
    look_up(ask, ROWS)
}

const TRASH: &[Row] = &[Row(
    "PATCH",
    "/drive/v3/files/{file}",
    Destructive,
    "Move file {file} to the trash",
    &[("Trashed", ".trashed")],
)];

const PUBLIC: &[Row] = &[Row(
    "POST",
    "/drive/v3/files/{file}/permissions",
    People,
    "Share file {file} with anyone as {.role}",
    SHARE,
)];

const SHARE: &[(&str, &str)] = &[
    ("With", ".emailAddress"),
    ("Domain", ".domain"),
    ("Kind", ".type"),
    ("Role", ".role"),
    ("Can be found by search", ".allowFileDiscovery"),
    ("Until", ".expirationTime"),
    ("Gives ownership away", "?transferOwnership"),
    ("Mail", "?sendNotificationEmail"),
    ("Message", "?emailMessage"),
];

const ROWS: &[Row] = &[
    Row(
        "DELETE",
        "/drive/v3/files/trash",
        Destructive,
        "Empty the trash for good",
        &[("Drive", "?driveId")],
    ),
    Row("DELETE", "/drive/v3/files/{file}", Destructive, "Delete file {file} for good", &[]),
    Row(
        "DELETE",
        "/drive/v3/drives/{drive}",
        Destructive,
        "Delete shared drive {drive}",
        &[("With its items", "?allowItemDeletion")],
    ),
    Row(
        "DELETE",
        "/drive/v3/files/{file}/revisions/{revision}",
        Destructive,
        "Delete revision {revision} of file {file}",
        &[],
    ),
    Row(
        "POST",
        "/drive/v3/files/{file}/permissions",
        People,
        "Share file {file} with [{.emailAddress}][domain {.domain}] as {.role}",
        SHARE,
    ),
    Row(
        "PATCH",
        "/drive/v3/files/{file}/permissions/{permission}",
        People,
        "Change the share {permission} of file {file} to {.role}",
        SHARE,
    ),
    Row(
        "DELETE",
        "/drive/v3/files/{file}/permissions/{permission}",
        People,
        "End the share {permission} of file {file}",
        &[],
    ),
    Row(
        "PATCH",
        "/drive/v3/files/{file}",
        Write,
        "Change file {file}[ to {'.name}]",
        &[
            ("Name", ".name"),
            ("Put into", "?addParents"),
            ("Taken out of", "?removeParents"),
            ("Copies forbidden", ".copyRequiresWriterPermission"),
        ],
    ),
    Row(
        "POST",
        "/drive/v3/files/{file}/copy",
        Write,
        "Copy file {file}[ as {'.name}]",
        &[("Name", ".name"), ("Into", ".parents")],
    ),
    Row(
        "POST",
        "/drive/v3/files",
        Write,
        "Create file [{'.name}]",
        &[("Name", ".name"), ("Into", ".parents"), ("Kind", ".mimeType")],
    ),
    Row("POST", "/upload/drive/v3/files", Write, "Upload a new file", &[("How", "?uploadType")]),
    Row(
        "PATCH",
        "/upload/drive/v3/files/{file}",
        Destructive,
        "Overwrite the content of file {file}",
        &[("How", "?uploadType")],
    ),
    Row("GET", "/drive/v3/files/{file}", Read, "Read file {file}", &[("How", "?alt")]),
    Row("GET", "/drive/v3/files", Read, "List files[ that fit {'?q}]", &[("That fit", "?q")]),
    Row(
        "GET",
        "/drive/v3/files/{file}/export",
        Read,
        "Read file {file} as {?mimeType}",
        &[("As", "?mimeType")],
    ),
];
