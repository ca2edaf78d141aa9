//! How the cluster stands: what its nodes say of it, and what is wrong.

use std::time::Duration;

use countersign_proto::v1;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{self, Admin};
use crate::context::{Context, Nodes};
use crate::failure::{Done, Failure};
use crate::print;

/// How long a node may take to say whether it is sealed.
const PATIENCE: Duration = Duration::from_secs(3);

/// A node that lacks more entries than this is behind, and not merely on the way.
const BEHIND: u64 = 100;

/// One node, as the others and it itself say.
#[derive(Serialize)]
pub(crate) struct Node {
    pub(super) node_id: String,
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) leader: bool,
    matched_index: Option<u64>,
    /// Committed entries that it lacks, as the leader knows.
    pub(super) behind: Option<u64>,
    /// Whether its signature counts.
    pub(super) trusted: bool,
    /// None: it does not answer here, which its peers may see otherwise.
    pub(super) sealed: Option<bool>,
    cluster_address: String,
    pub(super) api_address: String,
    gateway_address: String,
    public_keys: Vec<String>,
}

/// The CA that signs edges' certificates.
#[derive(Serialize)]
pub(crate) struct EdgeCa {
    pub(crate) number: u64,
    /// Until when certificates of the CA before count, if they do.
    pub(crate) former_until: Option<String>,
    /// Edges that were given no certificate of this CA yet.
    pub(crate) edges_to_renew: Vec<String>,
}

impl From<v1::EdgeCa> for EdgeCa {
    fn from(ca: v1::EdgeCa) -> Self {
        Self {
            number: ca.number,
            former_until: print::time(ca.former_until.as_ref()),
            edges_to_renew: ca.edges_to_renew,
        }
    }
}

/// A CA that signs what nodes show.
#[derive(Serialize)]
pub(crate) struct ShownCa {
    pub(crate) number: u64,
    /// Whether certificates of the CA before count still.
    pub(crate) former_counts: bool,
    /// Nodes that show no certificate of this CA yet.
    pub(crate) nodes_to_renew: Vec<String>,
    /// It, and the one before while that counts.
    pub(crate) trusted_pem: String,
}

impl From<v1::ShownCa> for ShownCa {
    fn from(ca: v1::ShownCa) -> Self {
        let v1::ShownCa { number, former_counts, nodes_to_renew, trusted_pem } = ca;
        Self { number, former_counts, nodes_to_renew, trusted_pem }
    }
}

impl ShownCa {
    /// Nodes that show a CA's certificate which does not count any more.
    fn left_out(&self) -> impl Iterator<Item = &String> {
        self.nodes_to_renew.iter().filter(|_| !self.former_counts)
    }
}

/// The cluster.
#[derive(Serialize)]
pub(crate) struct Standing {
    pub(super) cluster_id: String,
    /// Of the node that answered.
    pub(super) node_id: String,
    pub(super) term: u64,
    pub(super) commit_index: u64,
    pub(super) trust_epoch: u64,
    pub(super) trust_threshold: u32,
    pub(super) nodes: Vec<Node>,
    pub(super) invited: Vec<String>,
    pub(super) edge_ca: EdgeCa,
    pub(super) api_ca: ShownCa,
    pub(super) node_ca: ShownCa,
    pub(super) rolled_back: Option<String>,
    /// By how much the cluster's clock jumped ahead, until somebody confirms it.
    pub(super) clock_jump_ms: Option<u64>,
    pub(crate) troubles: Vec<Trouble>,
}

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Trouble {
    pub(crate) found: String,
    pub(crate) advice: String,
}

impl Trouble {
    pub(crate) fn tell(&self) -> Done {
        print::line("")?;
        print::line(&format!("BAD   {}", self.found))?;
        print::line(&format!("      {}", self.advice))
    }
}

impl Standing {
    /// `3 voters, n1 leads`.
    pub(crate) fn summary(&self) -> String {
        let voters = self.nodes.iter().filter(|node| node.state == "voter").count();
        let leader = self.nodes.iter().find(|node| node.leader);
        let leads = leader.map_or("nobody", |leader| leader.name.as_str());
        let voters = if voters == 1 { "1 voter".into() } else { format!("{voters} voters") };
        format!("{voters}, {leads} leads")
    }
}

/// Asks every node whether it is sealed; that takes no token, and none is sent.
pub(crate) async fn standing(
    context: &Context,
    admin: &mut Admin,
    answer: v1::GetClusterResponse,
) -> Standing {
    let answer = as_the_leader_knows(context, answer).await;
    let mut asked = JoinSet::new();
    for node in answer.nodes.iter().filter(|node| node.state() != v1::NodeState::Removed) {
        let (id, address) = (node.node_id.clone(), format!("https://{}", node.api_address));
        let Ok(nodes) = Nodes::parse(&address, "the control plane") else { continue };
        let one = Context { nodes, token: None, ..context.clone() };
        asked.spawn(async move { (id, timeout(PATIENCE, sealed(&one)).await) });
    }
    let mut seals = Vec::new();
    while let Some(asked) = asked.join_next().await {
        if let Ok((id, Ok(Ok(sealed)))) = asked {
            seals.push((id, sealed));
        }
    }
    let mut standing = judged(context, answer, &seals);
    let trust = admin.get_trust(v1::GetTrustRequest {}).await;
    if trust.is_ok_and(|trust| !trust.get_ref().proposed.is_empty()) {
        standing.troubles.push(Trouble {
            found: "another trust bundle is called for".into(),
            advice: "countersign cluster trust shows it, and signs it with --root-key".into(),
        });
    }
    standing
}

/// Who is behind, only the leader knows: it is asked too, if its address is among those that are known.
async fn as_the_leader_knows(
    context: &Context,
    answer: v1::GetClusterResponse,
) -> v1::GetClusterResponse {
    let leads = |answer: &v1::GetClusterResponse| {
        answer.nodes.iter().any(|node| node.leader && node.node_id == answer.node_id)
    };
    if leads(&answer) || !answer.rolled_back.is_empty() {
        return answer;
    }
    for one in context.each().filter(|_| context.nodes.len() > 1) {
        let said = async {
            let mut admin = client::connect(&one).await?;
            Ok::<_, Failure>(admin.get_cluster(v1::GetClusterRequest {}).await?.into_inner())
        };
        if let Ok(Ok(said)) = timeout(PATIENCE, said).await
            && leads(&said)
        {
            return said;
        }
    }
    answer
}

async fn sealed(one: &Context) -> Result<bool, Failure> {
    let mut admin = client::connect_to_sealed(one).await?;
    Ok(admin.get_seal_status(v1::GetSealStatusRequest {}).await?.into_inner().sealed)
}

fn judged(context: &Context, answer: v1::GetClusterResponse, seals: &[(String, bool)]) -> Standing {
    let commit_index = answer.commit_index;
    let node = |node: v1::ClusterNode| Node {
        state: state_name(node.state()),
        leader: node.leader,
        matched_index: node.matched_index,
        behind: node.matched_index.map(|matched| commit_index.saturating_sub(matched)),
        trusted: node.trusted,
        sealed: seals.iter().find(|(id, _)| *id == node.node_id).map(|(_, sealed)| *sealed),
        public_keys: node.public_keys.iter().map(hex::encode).collect(),
        node_id: node.node_id,
        name: node.name,
        cluster_address: node.cluster_address,
        api_address: node.api_address,
        gateway_address: node.gateway_address,
    };
    let mut standing = Standing {
        cluster_id: answer.cluster_id,
        node_id: answer.node_id,
        term: answer.term,
        commit_index,
        trust_epoch: answer.trust_epoch,
        trust_threshold: answer.trust_threshold,
        nodes: answer.nodes.into_iter().map(node).collect(),
        invited: answer.invited,
        edge_ca: answer.edge_ca.unwrap_or_default().into(),
        api_ca: answer.api_ca.unwrap_or_default().into(),
        node_ca: answer.node_ca.unwrap_or_default().into(),
        rolled_back: Some(answer.rolled_back).filter(|why| !why.is_empty()),
        clock_jump_ms: answer.clock_jump.map(|jump| jump.by_ms),
        troubles: Vec::new(),
    };
    standing.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    standing.troubles = troubles(context, &standing);
    standing
}

fn troubles(context: &Context, standing: &Standing) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let mut trouble = |found: String, advice: String| troubles.push(Trouble { found, advice });
    if let Some(why) = &standing.rolled_back {
        trouble(
            format!("the node that answers takes no part any more: {why}"),
            "remove it with `countersign cluster remove`, and add it anew with an empty data directory".into(),
        );
    }
    if !standing.nodes.iter().any(|node| node.leader) {
        trouble(
            "there is no leader: nothing can be decided".into(),
            "start and unseal nodes until more than half of the voters are up".into(),
        );
    }
    if let Some(by_ms) = standing.clock_jump_ms {
        let minutes = by_ms / 60_000;
        trouble(
            format!(
                "the cluster's clock jumped ahead by {} h {} min: nothing is released",
                minutes / 60,
                minutes % 60
            ),
            "see that the time is right on every node; then countersign cluster confirm-clock"
                .into(),
        );
    }
    for name in standing.api_ca.left_out() {
        trouble(
            format!("{name} shows edges no certificate that they know"),
            "start it and unseal it: it has one issued then".into(),
        );
    }
    for name in standing.node_ca.left_out() {
        trouble(
            format!("{name} shows no certificate of the nodes' CA: the others do not know it"),
            format!(
                "countersign cluster remove {name}; then add it anew with an empty data directory"
            ),
        );
    }
    for node in &standing.nodes {
        let name = &node.name;
        if node.state == "removed" {
            continue;
        }
        if node.sealed == Some(true) {
            let address = &node.api_address;
            let advice = match context.of(address) {
                Ok(_) => format!("countersign seal unseal --node https://{address}"),
                Err(_) => format!(
                    "set COUNTERSIGN_ADDR=https://{address} and COUNTERSIGN_CA; then countersign seal unseal"
                ),
            };
            trouble(format!("{name} is sealed: it neither votes nor serves"), advice);
        } else if let Some(behind) = node.behind.filter(|behind| *behind > BEHIND) {
            trouble(
                format!("{name} is {behind} entries behind"),
                "wait, if that number falls; else see its log, and whether its peers reach it"
                    .into(),
            );
        } else if node.sealed.is_none() && node.behind.is_none() && node.node_id != standing.node_id
        {
            trouble(
                format!("{name} does not answer, and nobody says how far it is"),
                "start it; if its disk is lost, remove it and add it anew".into(),
            );
        }
        if node.state == "voter" && !node.trusted {
            trouble(
                format!("{name} votes, and its signature does not count"),
                "countersign cluster trust --root-key FILE".into(),
            );
        }
    }
    troubles
}

fn state_name(state: v1::NodeState) -> &'static str {
    match state {
        v1::NodeState::Pending => "pending",
        v1::NodeState::Learner => "learner",
        v1::NodeState::Voter => "voter",
        v1::NodeState::Removed => "removed",
        v1::NodeState::Unspecified => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Context {
        Context {
            nodes: Nodes::parse("https://n1:8443,https://n2:8443", "a test").unwrap(),
            ca: None,
            token: None,
            edge: Default::default(),
            source: "a test".into(),
        }
    }

    fn node(name: &str, leader: bool) -> v1::ClusterNode {
        v1::ClusterNode {
            node_id: format!("id-{name}"),
            name: name.into(),
            api_address: format!("{name}:8443"),
            state: v1::NodeState::Voter.into(),
            leader,
            matched_index: Some(1000),
            trusted: true,
            ..Default::default()
        }
    }

    fn cluster(nodes: Vec<v1::ClusterNode>) -> v1::GetClusterResponse {
        v1::GetClusterResponse { commit_index: 1000, nodes, ..Default::default() }
    }

    fn found(answer: v1::GetClusterResponse, seals: &[(String, bool)]) -> Vec<String> {
        judged(&known(), answer, seals).troubles.into_iter().map(|trouble| trouble.found).collect()
    }

    #[test]
    fn a_cluster_that_stands_well_has_no_troubles() {
        let nodes = vec![node("n1", true), node("n2", false), node("n3", false)];
        let open: Vec<_> = ["n1", "n2"].map(|name| (format!("id-{name}"), false)).into();
        assert_eq!(
            found(cluster(nodes), &open),
            Vec::<String>::new(),
            "n3 cannot be reached from here"
        );
    }

    #[test]
    fn each_trouble_is_found_and_has_its_advice() {
        let mut behind = node("n2", false);
        behind.matched_index = Some(10);
        let mut untrusted = node("n3", false);
        untrusted.trusted = false;
        let mut lost = node("n4", false);
        lost.matched_index = None;
        let mut removed = node("n5", false);
        removed.state = v1::NodeState::Removed.into();
        let mut answer = cluster(vec![node("n1", false), behind, untrusted, lost, removed]);
        answer.rolled_back = "its log ends at 7, and it acknowledged 9".into();
        let standing = judged(&known(), answer, &[("id-n1".into(), true)]);
        assert_eq!(standing.troubles[2].advice, "countersign seal unseal --node https://n1:8443");
        let said: Vec<&str> = standing.troubles.iter().map(|it| it.found.as_str()).collect();
        assert_eq!(
            said,
            [
                "the node that answers takes no part any more: its log ends at 7, and it acknowledged 9",
                "there is no leader: nothing can be decided",
                "n1 is sealed: it neither votes nor serves",
                "n2 is 990 entries behind",
                "n3 votes, and its signature does not count",
                "n4 does not answer, and nobody says how far it is",
            ]
        );
        assert!(standing.troubles.iter().all(|trouble| !trouble.advice.is_empty()));
    }
}
