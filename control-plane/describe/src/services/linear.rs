//! Linear: one path, mutations by name.

use super::graphql;
use crate::ask::Ask;
use crate::{Risk, Said};
use Risk::{Destructive, Messages, People, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    if ask.method == "POST" && ask.segments == ["graphql"] {
        return graphql::describe(ask, "Linear", MUTATIONS);
    }
    Ok(None)
}

const MUTATIONS: graphql::Known = &[
    ("apiKeyCreate", People, "create an API key"),
    ("attachmentDelete", Destructive, "delete attachment"),
    ("commentCreate", Messages, "write a comment"),
    ("commentDelete", Destructive, "delete comment"),
    ("cycleArchive", Destructive, "archive cycle"),
    ("documentDelete", Destructive, "delete document"),
    ("initiativeDelete", Destructive, "delete initiative"),
    ("issueArchive", Destructive, "archive issue"),
    ("issueBatchUpdate", Write, "change several issues"),
    ("issueCreate", Write, "create an issue"),
    ("issueDelete", Destructive, "delete issue"),
    ("issueUpdate", Write, "change issue"),
    ("organizationDelete", Destructive, "delete the whole workspace"),
    ("organizationInviteCreate", People, "invite somebody into the workspace"),
    ("projectCreate", Write, "create a project"),
    ("projectDelete", Destructive, "delete project"),
    ("projectUpdateCreate", Messages, "write a project update"),
    ("teamDelete", Destructive, "delete team"),
    ("teamMembershipCreate", People, "put somebody into a team"),
    ("userPromoteAdmin", People, "make an administrator of user"),
    ("userSuspend", People, "suspend user"),
    ("webhookCreate", People, "send events to an address"),
];
