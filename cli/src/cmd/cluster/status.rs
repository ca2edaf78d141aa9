//! `countersign cluster status`.

use countersign_proto::v1;

use super::standing::{EdgeCa, Node, ShownCa, Standing, Trouble, standing};
use crate::args::{Output, Show};
use crate::client;
use crate::cmd::yes_no;
use crate::context::Context;
use crate::failure::Done;
use crate::print;

pub(super) async fn run(context: &Context, show: &Show) -> Done {
    let mut admin = client::connect(context).await?;
    let answer = admin.get_cluster(v1::GetClusterRequest {}).await?.into_inner();
    let standing = standing(context, &mut admin, answer).await;
    if show.output == Output::Json { print::json(&standing) } else { told(&standing) }
}

fn told(standing: &Standing) -> Done {
    let answers = standing.nodes.iter().find(|node| node.node_id == standing.node_id);
    print::facts(&[
        ("cluster", standing.cluster_id.clone()),
        ("answered by", answers.map_or_else(|| standing.node_id.clone(), |node| node.name.clone())),
        ("log", format!("term {}, {} committed", standing.term, standing.commit_index)),
        (
            "trust bundle",
            match standing.trust_threshold {
                1 => format!("{}: one node has to sign", standing.trust_epoch),
                needed => format!("{}: {needed} nodes have to sign", standing.trust_epoch),
            },
        ),
        ("edges' ca", edge_ca(standing)),
        ("nodes' ca", shown_ca(&standing.node_ca)),
        ("api's ca", shown_ca(&standing.api_ca)),
        ("invited", print::words(&standing.invited)),
    ])?;
    print::line("")?;
    let there = standing.nodes.iter().filter(|node| node.state != "removed");
    let rows: Vec<_> = there.map(row).collect();
    print::table(
        &["NODE", "ID", "STATE", "LEADER", "BEHIND", "SIGNS", "VAULT", "API"],
        &rows,
        "There is no node.",
    )?;
    standing.troubles.iter().try_for_each(Trouble::tell)
}

fn edge_ca(standing: &Standing) -> String {
    let EdgeCa { number, former_until, edges_to_renew } = &standing.edge_ca;
    match former_until {
        None => number.to_string(),
        Some(until) if edges_to_renew.is_empty() => {
            format!("{number}; the one before counts until {until}, and no edge needs it")
        }
        Some(until) => format!(
            "{number}; the one before counts until {until}, and {} still need it: {}",
            edges_to_renew.len(),
            print::words(edges_to_renew)
        ),
    }
}

fn shown_ca(ca: &ShownCa) -> String {
    let ShownCa { number, former_counts, nodes_to_renew, .. } = ca;
    if !former_counts {
        return number.to_string();
    }
    let left = print::words(nodes_to_renew);
    let show = if nodes_to_renew.len() == 1 { "shows" } else { "show" };
    format!("{number}; the one before counts until {left} {show} one of it")
}

fn row(node: &Node) -> Vec<String> {
    let vault = match node.sealed {
        None => "-",
        Some(true) => "sealed",
        Some(false) => "open",
    };
    vec![
        node.name.clone(),
        node.node_id.clone(),
        node.state.into(),
        yes_no(node.leader),
        node.behind.map_or_else(|| "-".into(), |behind| behind.to_string()),
        yes_no(node.trusted),
        vault.into(),
        node.api_address.clone(),
    ]
}
