//! `countersign change`: what waits for a second administrator.

use countersign_proto::v1;
use serde::Serialize;

use super::every_page;
use crate::args::{Change, Output, Show};
use crate::client;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::print;

pub(crate) async fn run(context: &Context, command: Change) -> Done {
    let mut admin = client::connect(context).await?;
    let request_id = client::request_id();
    match command {
        Change::List(show) => {
            list(every_page!(admin, list_changes, ListChangesRequest {}, changes), &show)
        }
        Change::Policy { id } => {
            let changes = every_page!(admin, list_changes, ListChangesRequest {}, changes);
            let found = changes.into_iter().find(|change| change.change_id == id);
            match found.map(|change| change.policy_text) {
                Some(text) if !text.is_empty() => print::lines(&text.replace('\t', "    ")),
                Some(_) => Err(Failure::Refused(format!("change {id} is not about the policy"))),
                None => Err(Failure::Refused(format!("there is no change {id} that waits"))),
            }
        }
        Change::Confirm { id, show } => {
            let request = v1::ConfirmChangeRequest { request_id, change_id: id };
            let done = admin.confirm_change(request).await?.into_inner().change;
            settled(done, id, "confirmed", &show)
        }
        Change::Reject { id, reason, show } => {
            let request = v1::RejectChangeRequest { request_id, change_id: id, reason };
            let done = admin.reject_change(request).await?.into_inner().change;
            settled(done, id, "rejected", &show)
        }
    }
}

/// What a command says that is not done yet; None when it is.
pub(crate) fn waits(change_id: u64) -> Option<String> {
    (change_id != 0).then(|| {
        format!(
            "Nothing changed yet: it waits for another administrator, `countersign change confirm {change_id}`."
        )
    })
}

#[derive(Serialize)]
struct Listed {
    change: u64,
    summary: String,
    proposed_by: String,
    proposed_at: Option<String>,
    expires_at: Option<String>,
}

impl From<v1::Change> for Listed {
    fn from(change: v1::Change) -> Self {
        Self {
            change: change.change_id,
            summary: change.summary,
            proposed_by: change.proposed_by,
            proposed_at: print::time(change.proposed_at.as_ref()),
            expires_at: print::time(change.expires_at.as_ref()),
        }
    }
}

fn settled(change: Option<v1::Change>, id: u64, word: &str, show: &Show) -> Done {
    let summary = change.as_ref().map(|change| change.summary.clone()).unwrap_or_default();
    match show.output {
        Output::Json => print::json(&change.map(Listed::from)),
        Output::Table => print::line(&format!("Change {id} is {word}: {summary}.")),
    }
}

fn list(changes: Vec<v1::Change>, show: &Show) -> Done {
    let listed: Vec<Listed> = changes.into_iter().map(Listed::from).collect();
    if show.output == Output::Json {
        return print::json(&listed);
    }
    let row = |c: Listed| {
        vec![
            c.change.to_string(),
            c.proposed_by,
            c.summary,
            c.proposed_at.unwrap_or_default(),
            c.expires_at.unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = listed.into_iter().map(row).collect();
    print::table(
        &["CHANGE", "ASKED FOR BY", "WHAT IT DOES", "SINCE", "UNTIL"],
        &rows,
        "Nothing waits for a second administrator.",
    )
}
