//! `countersign cluster rotate-ca`.

use countersign_proto::v1;

use super::standing::ShownCa;
use crate::args::{Output, Show, WhichCa};
use crate::cmd::part;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{client, print, secret};

const PIN: &str = "Edges follow by themselves. Where people pin the API's CA, put `.api_ca.trusted_pem` of `countersign cluster status -o json`: what they have now serves until the next change.";

pub(super) async fn begin(context: &Context, which: WhichCa, show: &Show) -> Done {
    let request = v1::RotateCaRequest { request_id: client::request_id(), ca: kind(which).into() };
    let mut admin = client::connect(context).await?;
    let ca: ShownCa = part(admin.rotate_ca(request).await?.into_inner().ca)?.into();
    if show.output == Output::Json {
        return print::json(&ca);
    }
    let whom = match which {
        WhichCa::Api => "operators and edges",
        WhichCa::Nodes => "each other",
    };
    print::line(&format!("CA {} signs what nodes show to {whom} from now on.", ca.number))?;
    if ca.former_counts {
        print::line(&format!(
            "Unsealed nodes go over by themselves ({} to go). Certificates of the CA before count until the last has, or until `countersign cluster rotate-ca {} --finish`.",
            ca.nodes_to_renew.len(),
            name(which)
        ))?;
    }
    if which == WhichCa::Api {
        print::line(PIN)?;
        print::line("Make a backup now: one made before does not know this CA.")?;
    }
    print::line("`countersign cluster status` tells how far they are.")
}

pub(super) async fn finish(context: &Context, which: WhichCa, yes: bool, show: &Show) -> Done {
    let mut admin = client::connect(context).await?;
    let cluster = admin.get_cluster(v1::GetClusterRequest {}).await?.into_inner();
    let now = match which {
        WhichCa::Api => cluster.api_ca,
        WhichCa::Nodes => cluster.node_ca,
    };
    let ShownCa { former_counts, nodes_to_renew, .. } = part(now)?.into();
    let then = match which {
        WhichCa::Api => "would not be known to edges until they are unsealed",
        WhichCa::Nodes => "would have to be removed and added anew",
    };
    if former_counts && !yes {
        let left = print::words(&nodes_to_renew);
        if !secret::can_ask() {
            return Err(Failure::Refused(format!(
                "nothing was done: these nodes show no certificate of the new CA yet, and {then}: {left}; unseal them and wait, or say --yes"
            )));
        }
        if !secret::confirmed(&format!("{left} {then}. Finish?"))? {
            return Err(Failure::refused("nothing was done"));
        }
    }
    let request =
        v1::FinishCaRotationRequest { request_id: client::request_id(), ca: kind(which).into() };
    let ca: ShownCa = part(admin.finish_ca_rotation(request).await?.into_inner().ca)?.into();
    if show.output == Output::Json {
        return print::json(&ca);
    }
    print::line(&format!("Certificates of CA {} alone count.", ca.number))?;
    if ca.nodes_to_renew.is_empty() {
        return Ok(());
    }
    let left = print::words(&ca.nodes_to_renew);
    print::line(&match which {
        WhichCa::Api => format!("To be unsealed: {left}."),
        WhichCa::Nodes => {
            format!("To be removed, and added anew with an empty data directory: {left}.")
        }
    })
}

fn kind(which: WhichCa) -> v1::ShownCaKind {
    match which {
        WhichCa::Api => v1::ShownCaKind::Api,
        WhichCa::Nodes => v1::ShownCaKind::Nodes,
    }
}

fn name(which: WhichCa) -> &'static str {
    match which {
        WhichCa::Api => "api",
        WhichCa::Nodes => "nodes",
    }
}
