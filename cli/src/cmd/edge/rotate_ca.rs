//! `countersign edge rotate-ca`.

use countersign_proto::v1;

use crate::args::{Output, Show};
use crate::cmd::cluster::standing::EdgeCa;
use crate::cmd::part;
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{client, print, secret};

pub(super) async fn begin(context: &Context, show: &Show) -> Done {
    let request = v1::RotateEdgeCaRequest { request_id: client::request_id() };
    let mut admin = client::connect(context).await?;
    let ca: EdgeCa = part(admin.rotate_edge_ca(request).await?.into_inner().edge_ca)?.into();
    if show.output == Output::Json {
        return print::json(&ca);
    }
    print::line(&format!("CA {} signs edges' certificates from now on.", ca.number))?;
    if let Some(until) = &ca.former_until {
        print::line(&format!(
            "Edges renew by themselves ({} to go). Those of the CA before count until {until}, or until `countersign edge rotate-ca --finish`.",
            ca.edges_to_renew.len()
        ))?;
    }
    print::line("Make a backup now: one made before does not know this CA.")
}

pub(super) async fn finish(context: &Context, yes: bool, show: &Show) -> Done {
    let mut admin = client::connect(context).await?;
    let cluster = admin.get_cluster(v1::GetClusterRequest {}).await?.into_inner();
    let EdgeCa { former_until, edges_to_renew, .. } = part(cluster.edge_ca)?.into();
    if former_until.is_some() && !edges_to_renew.is_empty() && !yes {
        let left = print::words(&edges_to_renew);
        if !secret::can_ask() {
            return Err(Failure::Refused(format!(
                "nothing was done: these edges have no certificate of the new CA yet, and would have to be enrolled again: {left}; wait for them, or say --yes"
            )));
        }
        let question = format!("{left} would have to be enrolled again. Finish?");
        if !secret::confirmed(&question)? {
            return Err(Failure::refused("nothing was done"));
        }
    }
    let request = v1::FinishEdgeCaRotationRequest { request_id: client::request_id() };
    let answer = admin.finish_edge_ca_rotation(request).await?.into_inner();
    let ca: EdgeCa = part(answer.edge_ca)?.into();
    if show.output == Output::Json {
        return print::json(&ca);
    }
    print::line(&format!("Certificates of CA {} alone let edges in.", ca.number))?;
    if ca.edges_to_renew.is_empty() {
        return Ok(());
    }
    let left = print::words(&ca.edges_to_renew);
    print::line(&format!("To be enrolled again: {left}."))
}
