//! Cloudflare: DNS, zones and what guards them.

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::{Risk, Said};
use Risk::{Code, Destructive, People, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    look_up(ask, ROWS)
}

const RECORD: &[(&str, &str)] = &[
    ("Kind", ".type"),
    ("Name", ".name"),
    ("Content", ".content"),
    ("TTL, s", ".ttl"),
    ("Proxied", ".proxied"),
    ("Priority", ".priority"),
];

const ROWS: &[Row] = &[
    Row(
        "DELETE",
        "/client/v4/zones/{zone}/dns_records/{record}",
        Destructive,
        "Delete DNS record {record} of zone {zone}",
        &[],
    ),
    Row(
        "DELETE",
        "/client/v4/zones/{zone}",
        Destructive,
        "Delete zone {zone} and all of its records",
        &[],
    ),
    Row(
        "PUT",
        "/client/v4/zones/{zone}/dns_records/{record}",
        Destructive,
        "Overwrite DNS record {record} of zone {zone}: {.type} {.name} is {.content}",
        RECORD,
    ),
    Row(
        "PATCH",
        "/client/v4/zones/{zone}/dns_records/{record}",
        Destructive,
        "Change DNS record {record} of zone {zone}[ to {.content}]",
        RECORD,
    ),
    Row(
        "POST",
        "/client/v4/zones/{zone}/dns_records/batch",
        Destructive,
        "Change several DNS records of zone {zone}[: delete {.deletes}][: write {.posts}]",
        &[
            ("Deletes", ".deletes"),
            ("Changes", ".patches"),
            ("Overwrites", ".puts"),
            ("Adds", ".posts"),
        ],
    ),
    Row(
        "POST",
        "/client/v4/zones/{zone}/dns_records/import",
        Destructive,
        "Import a file of DNS records into zone {zone}",
        &[],
    ),
    Row(
        "POST",
        "/client/v4/zones/{zone}/dns_records",
        Write,
        "Add DNS record {.type} {.name} to zone {zone}: {.content}",
        RECORD,
    ),
    Row(
        "POST",
        "/client/v4/zones/{zone}/purge_cache",
        Destructive,
        "Purge the cache of zone {zone}",
        &[
            ("Everything", ".purge_everything"),
            ("Files", ".files"),
            ("Tags", ".tags"),
            ("Hosts", ".hosts"),
            ("Prefixes", ".prefixes"),
        ],
    ),
    Row(
        "PATCH",
        "/client/v4/zones/{zone}/settings/{setting}",
        People,
        "Set {setting} of zone {zone} to {.value}",
        &[("Value", ".value")],
    ),
    Row(
        "PATCH",
        "/client/v4/zones/{zone}/dnssec",
        People,
        "Set DNSSEC of zone {zone} to {.status}",
        &[("Status", ".status")],
    ),
    Row(
        "POST",
        "/client/v4/user/tokens",
        People,
        "Make an API token: {'.name}",
        &[
            ("Name", ".name"),
            ("Policies", ".policies"),
            ("Until", ".expires_on"),
            ("Condition", ".condition"),
        ],
    ),
    Row(
        "POST",
        "/client/v4/accounts/{account}/members",
        People,
        "Invite {.email} into account {account}",
        &[("Address", ".email"), ("Roles", ".roles"), ("Policies", ".policies")],
    ),
    Row(
        "DELETE",
        "/client/v4/accounts/{account}/members/{member}",
        People,
        "Remove member {member} from account {account}",
        &[],
    ),
    Row(
        "PUT",
        "/client/v4/accounts/{account}/workers/scripts/{script}",
        Code,
        "Replace the Worker {script}",
        &[],
    ),
    Row(
        "DELETE",
        "/client/v4/accounts/{account}/workers/scripts/{script}",
        Destructive,
        "Delete the Worker {script}",
        &[],
    ),
    Row(
        "POST",
        "/client/v4/zones/{zone}/workers/routes",
        Code,
        "Run the Worker [{.script} ]for {.pattern}",
        &[("Pattern", ".pattern"), ("Worker", ".script")],
    ),
    Row(
        "POST",
        "/client/v4/zones",
        Write,
        "Add zone {.name}",
        &[("Name", ".name"), ("Account", ".account.id"), ("Kind", ".type")],
    ),
    Row(
        "GET",
        "/client/v4/zones/{zone}/dns_records",
        Read,
        "Read the DNS records of zone {zone}",
        &[("Kind", "?type"), ("Name", "?name")],
    ),
];
