//! What goes on by itself while a node is unsealed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use countersign_proto::v1;
use countersign_proto::v1::cluster_service_client::ClusterServiceClient;
use tokio::time::{MissedTickBehavior, interval};
use tonic_health::ServingStatus;

use super::shown_ca::{GoneOver, shown_cas_changed};
use super::{Node, Unsealed};
use crate::cluster::{Clock as _, SystemClock};
use crate::operator::rotation;
use crate::state::{Actor, Audience};

/// How late at most the health service says that there is no leader, or that there is one again.
const LOOK: Duration = Duration::from_millis(250);
/// A node that cannot read the state for so long is not ready: longer than an election takes, mostly.
const TOO_LONG: Duration = Duration::from_secs(2);
/// How often certificates and keys are looked at.
const RENEWAL: Duration = Duration::from_secs(60 * 60);
/// Between two tries to say what this node shows, and two to have that renewed.
const PAUSE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(60);
/// How often, and how long, other nodes are asked whether they are unsealed.
const NEIGHBOURS: Duration = Duration::from_secs(5);

/// Why a node does not serve, or that it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    Sealed,
    /// What this node waits for, or why it takes no part any more.
    Not(String),
}

impl Node {
    pub(crate) fn readiness(&self) -> Readiness {
        let Some(house) = self.unsealed() else { return Readiness::Sealed };
        if let Some(why) = house.cluster.rolled_back() {
            return Readiness::Not(format!("rolled back: {why}"));
        }
        if let Some(why) = house.out_of_touch() {
            return Readiness::Not(format!(
                "no leader: {why}; most nodes of the cluster must be unsealed and reach each other"
            ));
        }
        match house.settled.get() {
            Some(_) => Readiness::Ready,
            None => Readiness::Not("catching up with the cluster".into()),
        }
    }

    /// Until the node is sealed.
    pub(super) async fn keep_up(self: Arc<Self>, house: Arc<Unsealed>) {
        let going_on = async {
            self.settle_sometime(&house).await;
            tokio::join!(self.record_attempts_always(&house), self.renew_always(&house));
        };
        tokio::select! {
            () = house.closing.cancelled() => {}
            () = self.tell_health_always(&house) => {}
            () = keep_in_touch(&house) => {}
            () = count_neighbours(&house) => {}
            () = house.reseal_always() => {}
            () = going_on => {}
        }
    }

    async fn renew_always(&self, house: &Unsealed) {
        // First, so that no change of a CA is missed.
        let mut events = house.cluster.subscribe();
        let mut due = interval(RENEWAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        due.tick().await;
        loop {
            let gone_over = self.renew(house).await;
            let is_all = gone_over.len() == Audience::ALL.len();
            let until_there_is_more_to_do = async {
                for gone_over in gone_over {
                    while let Err(error) = self.tell_gone_over(house, gone_over).await {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "the others do not know yet that this node shows a certificate of the newest CA"
                        );
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                shown_cas_changed(&mut events).await;
            };
            tokio::select! {
                _ = due.tick() => {}
                () = until_there_is_more_to_do => {}
                () = tokio::time::sleep(AGAIN), if !is_all => {}
            }
        }
    }

    async fn tell_health_always(&self, house: &Unsealed) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        while !house.closing.is_cancelled() {
            let now = self.readiness();
            if told != Some(std::mem::discriminant(&now)) {
                // The reason may change many times; that there is one is said once.
                let status = match &now {
                    Readiness::Ready => {
                        tracing::info!("this node serves");
                        ServingStatus::Serving
                    }
                    Readiness::Sealed => ServingStatus::NotServing,
                    Readiness::Not(why) => {
                        tracing::warn!(why, "this node does not serve");
                        ServingStatus::NotServing
                    }
                };
                self.tell_health(status).await;
                told = Some(std::mem::discriminant(&now));
            }
            looks.tick().await;
        }
    }

    /// Which certificates are of the newest CAs now: of each kind, unless that failed.
    async fn renew(&self, house: &Unsealed) -> Vec<GoneOver> {
        let mut gone_over = Vec::new();
        for to in Audience::ALL {
            match self.go_over(house, to) {
                Ok(done) => gone_over.push(done),
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "a certificate of {to} was not renewed; it is tried again in a minute"
                ),
            }
        }
        if house.cluster.is_leader() && house.vault.rotation_due(SystemClock.wall()) {
            let rotated = house.cluster.propose(Actor::System, rotation(&house.vault)).await;
            if let Err(error) = rotated {
                tracing::warn!(%error, "the keyring was not rotated; it is tried again in an hour");
            }
        }
        gone_over
    }
}

/// Finds out again and again whether this node can serve: whether it can read what anybody was told.
async fn keep_in_touch(house: &Unsealed) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !house.closing.is_cancelled() {
        let read = tokio::time::timeout(TOO_LONG, house.cluster.read(|_| ())).await;
        house.tell_out_of_touch(match read {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why.to_string()),
            Err(_) => Some(format!("nobody confirmed the state within {} s", TOO_LONG.as_secs())),
        });
        looks.tick().await;
    }
}

/// Asks the other nodes for something that any unsealed one answers.
async fn count_neighbours(house: &Unsealed) {
    let mut looks = interval(NEIGHBOURS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !house.closing.is_cancelled() {
        looks.tick().await;
        let members = house.cluster.members().into_iter();
        let asked =
            members.filter_map(|member| house.cluster.channel_to(member.id)).map(|channel| {
                let asking = v1::SnapshotOffsetRequest {
                    cluster_id: house.cluster.cluster_id(),
                    ..Default::default()
                };
                async move {
                    let mut peer = ClusterServiceClient::new(channel);
                    let answer =
                        tokio::time::timeout(NEIGHBOURS, peer.snapshot_offset(asking)).await;
                    answer.is_ok_and(|answer| answer.is_ok())
                }
            });
        let answered = futures::future::join_all(asked).await.into_iter().filter(|it| *it).count();
        let before = house.neighbours.swap(answered, Ordering::Relaxed);
        if before != answered {
            let members = house.cluster.members().len();
            tracing::info!(members, unsealed = answered + 1, "other nodes were lost or found");
        }
    }
}
