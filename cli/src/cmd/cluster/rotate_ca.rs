//! `countersign cluster rotate-ca`.

use countersign_proto::v1;

use super::standing::NodeCa;
use crate::args::{Output, Show};
use crate::cmd::part;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{client, print, secret};

pub(super) async fn begin(context: &Context, show: &Show) -> Done {
    let request = v1::RotateNodeCaRequest { request_id: client::request_id() };
    let mut admin = client::connect(context).await?;
    let ca: NodeCa = part(admin.rotate_node_ca(request).await?.into_inner().node_ca)?.into();
    if show.output == Output::Json {
        return print::json(&ca);
    }
    print::line(&format!("CA {} signs what nodes show to each other from now on.", ca.number))?;
    if ca.former_counts {
        print::line(&format!(
            "Unsealed nodes go over by themselves ({} to go). Certificates of the CA before count until the last has, or until `countersign cluster rotate-ca --finish`.",
            ca.nodes_to_renew.len()
        ))?;
    }
    print::line("`countersign cluster status` tells how far they are.")
}

pub(super) async fn finish(context: &Context, yes: bool, show: &Show) -> Done {
    let mut admin = client::connect(context).await?;
    let cluster = admin.get_cluster(v1::GetClusterRequest {}).await?.into_inner();
    let NodeCa { former_counts, nodes_to_renew, .. } = part(cluster.node_ca)?.into();
    if former_counts && !yes {
        let left = print::words(&nodes_to_renew);
        if !secret::can_ask() {
            return Err(Failure::Refused(format!(
                "nothing was done: these nodes show no certificate of the new CA yet, and would have to be removed and added anew: {left}; unseal them and wait, or say --yes"
            )));
        }
        let question = format!("{left} would have to be removed and added anew. Finish?");
        if !secret::confirmed(&question)? {
            return Err(Failure::refused("nothing was done"));
        }
    }
    let request = v1::FinishNodeCaRotationRequest { request_id: client::request_id() };
    let answer = admin.finish_node_ca_rotation(request).await?.into_inner();
    let ca: NodeCa = part(answer.node_ca)?.into();
    if show.output == Output::Json {
        return print::json(&ca);
    }
    print::line(&format!("Certificates of CA {} alone let nodes in.", ca.number))?;
    if ca.nodes_to_renew.is_empty() {
        return Ok(());
    }
    let left = print::words(&ca.nodes_to_renew);
    print::line(&format!("To be removed, and added anew with an empty data directory: {left}."))
}
