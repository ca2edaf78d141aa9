//! All that a run left behind, put together for the checker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use countersign_proto::v1::ApprovalState;
use http::Method;

use super::load::Load;
use super::people::card;
use super::robot::{Asked, Errand, Robot};
use super::{ClusterWorld, HOST, READ_KEY, WRITE_KEY, http_get, tap};
use crate::history::{Op, Operation, Told};
use crate::invariants::{Arrival, Evidence, Node, SETTLED_WITHIN, Service, Slot};
use crate::origin::Seen;

/// Evidence, and how much of it there is.
pub struct Gathered {
    pub evidence: Evidence,
    /// Approvals with a history.
    pub histories: usize,
}

/// Where the requests begin that are asked after the last fault.
pub(super) const AFTER: &str = "/after/";

impl ClusterWorld {
    /// After the last fault: an agent asks at each edge, a person approves, the upstream gets it. Each is timed from
    /// `healed`.
    pub fn serve_again(&self, robot: &Robot, healed: Instant) -> Vec<Service> {
        let mut services = Vec::new();
        for edge in self.edges.iter().filter(|edge| edge.process.is_running()) {
            let answer = std::cell::RefCell::new("no answer".to_owned());
            let target = format!("{AFTER}{}/{}", edge.name(), services.len());
            let errand = Errand::new(Method::DELETE, HOST, &target).with(r#"{"after":"all"}"#);
            let served = async {
                let sent = async {
                    loop {
                        let Some(way) = edge.way() else { continue };
                        match robot.send(&way, &errand).await {
                            Ok(reply) if reply.status == 200 => return reply.answered,
                            other => {
                                *answer.borrow_mut() = match other {
                                    Ok(reply) => format!("{} {}", reply.status, reply.code()),
                                    Err(broken) => broken.to_string(),
                                };
                                tokio::time::sleep(Duration::from_millis(100)).await;
                            }
                        }
                    }
                };
                tokio::select! {
                    at = sent => Some(at),
                    () = self.approve_whatever_asks(&target) => None,
                    () = tokio::time::sleep(super::SOON) => None,
                }
            };
            let completed = self.block_on(served);
            let what = format!("an approval at {} (last {})", edge.name(), answer.borrow());
            services.push(Service { what, healed, completed });
        }
        services
    }

    /// Approves this path's approvals, at whichever node answers, for as long as it is polled.
    pub async fn approve_whatever_asks(&self, path: &str) {
        let desks = self.desks(&self.people[0]);
        for desk in desks.iter().cycle() {
            let listed = tokio::time::timeout(
                Duration::from_secs(2),
                desk.approvals(ApprovalState::Pending),
            );
            let pending = listed.await.map_or(Vec::new(), Result::unwrap_or_default);
            for approval in pending.iter().filter(|approval| approval.path == path) {
                let id = &approval.approval_id;
                tap(&desks, &self.journal, id, true, Duration::from_secs(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every running node has the same records and every release has an end, or has had the time for one,
    /// and takes down everything that can be seen.
    pub fn gather(&self, loads: &[&Load], services: Vec<Service>, healed: Instant) -> Gathered {
        let running: Vec<usize> =
            (0..self.nodes.len()).filter(|n| self.nodes[*n].process.is_running()).collect();
        let mut nodes = self.read_alike(&running);
        while open_ended(&nodes) && healed.elapsed() < SETTLED_WITHIN {
            std::thread::park_timeout(Duration::from_millis(500));
            nodes = self.read_alike(&running);
        }
        let arrivals: Vec<Arrival> = self.origin.seen().iter().map(arrival).collect();
        let mut operations = self.journal.operations();
        operations.extend(claims(&arrivals, &nodes, &self.asked(), self.began));
        operations.extend(expiries(&nodes, self.began));
        let histories =
            operations.iter().map(|o| o.approval.as_str()).collect::<BTreeSet<_>>().len();
        let cluster = running
            .iter()
            .find_map(|place| Some(self.block_on(self.desk(*place).cluster()).ok()?.cluster_id));
        let evidence = Evidence {
            cluster: cluster.unwrap_or_default(),
            arrivals,
            operations,
            quorum: 1,
            nodes,
            sinks: self.sinks(),
            secrets: vec![READ_KEY.into(), WRITE_KEY.into()],
            attempts: Vec::new(),
            services,
            harmless: loads.iter().flat_map(|load| load.harmless()).collect(),
            healed_for: healed.elapsed(),
        };
        Gathered { evidence, histories }
    }

    /// When any agent first asked for what.
    fn asked(&self) -> Asked {
        let mut all = Asked::new();
        for robot in self.robots.lock().unwrap().iter() {
            for (what, at) in robot.asked.lock().unwrap().iter() {
                let first = all.entry(what.clone()).or_insert(*at);
                *first = (*first).min(*at);
            }
        }
        all
    }

    fn read_alike(&self, running: &[usize]) -> Vec<Node> {
        let start = Instant::now();
        loop {
            let read = running.iter().map(|place| {
                self.block_on(async {
                    let desk = self.desk(*place);
                    let cards = desk.approvals(ApprovalState::Unspecified).await?;
                    let audit = desk.audit().await?;
                    Ok::<_, tonic::Status>(Node {
                        name: desk.node.clone(),
                        cards: cards.iter().map(card).collect(),
                        audit,
                    })
                })
            });
            let read: Result<Vec<Node>, _> = read.collect();
            let alike = read.as_ref().is_ok_and(|nodes| {
                nodes.windows(2).all(|pair| {
                    pair[0].audit.len() == pair[1].audit.len() && pair[0].cards == pair[1].cards
                })
            });
            // Whoever still differs by then is for the checker to name.
            if alike || start.elapsed() > super::SOON {
                return read.expect("every running node answers");
            }
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// Every place where bytes end up: disks, logs, metrics, agents, and what a wiretap has.
    pub fn sinks(&self) -> Vec<(String, Vec<u8>)> {
        let mut sinks = Vec::new();
        if self.plan.tapped {
            sinks.push(("the wire".into(), self.network.captured()));
        }
        for robot in self.robots.lock().unwrap().iter() {
            let heard = robot.heard.lock().unwrap().clone();
            sinks.push((format!("what {} heard", robot.name), heard));
        }
        for node in &self.nodes {
            sinks.push((format!("the log of {}", node.name()), node.process.log().into_bytes()));
            for (path, bytes) in node.files() {
                sinks.push((path.display().to_string(), bytes));
            }
            if let Some((_, text)) = http_get(node.web, "/metrics") {
                sinks.push((format!("the metrics of {}", node.name()), text.into_bytes()));
            }
        }
        for edge in &self.edges {
            sinks.push((format!("the log of {}", edge.name()), edge.process.log().into_bytes()));
            if let Some((_, text)) = http_get(edge.metrics, "/metrics") {
                sinks.push((format!("the metrics of {}", edge.name()), text.into_bytes()));
            }
        }
        sinks
    }
}

fn arrival(seen: &Seen) -> Arrival {
    // What the last sender writes anew for each connection.
    const HOP_BY_HOP: [&str; 4] = ["connection", "content-length", "host", "transfer-encoding"];
    let mut slot = None;
    let mut headers = Vec::new();
    for (name, value) in &seen.headers {
        let (name, value) = (name.as_str(), value.as_bytes());
        let key = [READ_KEY, WRITE_KEY].into_iter().find_map(|key| {
            let start = memchr::memmem::find(value, key.as_bytes())?;
            let (before, rest) = (&value[..start], &value[start + key.len()..]);
            // A later value of a credential is the first one with a dash and a number behind it.
            let digits = rest.iter().skip(1).take_while(|byte| byte.is_ascii_digit()).count();
            let later = if rest.first() == Some(&b'-') { 1 + digits } else { 0 };
            let after = &rest[later..];
            Some(Slot { name: name.into(), before: before.into(), after: after.into() })
        });
        if key.is_some() {
            slot = key;
        } else if !HOP_BY_HOP.contains(&name) {
            headers.push((name.to_owned(), value.to_vec()));
        }
    }
    Arrival {
        at: seen.arrived,
        method: seen.method.to_string(),
        target: seen.target.clone(),
        body_sha256: seen.body_sha256(),
        body_bytes: seen.body.len() as u64,
        host: seen.host.clone(),
        headers,
        slot,
        keyed: seen.carries(READ_KEY) || seen.carries(WRITE_KEY),
        risky: !seen.method.is_safe(),
    }
}

/// The ends of approvals' times, which come when the cluster's clock says so, and are told to nobody.
fn expiries(nodes: &[Node], began: Instant) -> impl Iterator<Item = Operation> {
    let records = nodes.first().into_iter().flat_map(|node| &node.audit);
    records.filter(|record| record.action == "approval.expire").map(move |record| Operation {
        approval: record.subject.clone(),
        op: Op::Expire,
        at: "the log".into(),
        invoked: began,
        returned: None,
    })
}

fn open_ended(nodes: &[Node]) -> bool {
    nodes.iter().flat_map(|node| &node.cards).any(|card| card.open_ended)
}

/// The releases that the upstream saw, as operations: the n-th arrival of some bytes belongs to the n-th claim of an
/// approval that shows them. Such a release was committed at any time from the agent's first request on; where nobody
/// knows of one, from the run's beginning on. A claim in the log without an arrival is one that nobody answered.
fn claims(arrivals: &[Arrival], nodes: &[Node], asked: &Asked, began: Instant) -> Vec<Operation> {
    let Some(node) = nodes.first() else { return Vec::new() };
    let place: BTreeMap<&str, u64> = node
        .audit
        .iter()
        .filter(|record| record.action == "request.claim")
        .filter_map(|record| Some((record.detail("approval")?, record.index)))
        .collect();
    let mut groups: BTreeMap<(&str, &str, &str), Vec<&Arrival>> = BTreeMap::new();
    for arrival in arrivals.iter().filter(|arrival| arrival.keyed && arrival.risky) {
        let bytes = (&*arrival.method, &*arrival.target, &*arrival.body_sha256);
        groups.entry(bytes).or_default().push(arrival);
    }
    let mut operations = Vec::new();
    for ((method, target, body), mut arrived) in groups {
        arrived.sort_by_key(|arrival| arrival.at);
        let first = asked.get(&(method.to_owned(), target.to_owned())).copied().unwrap_or(began);
        let same = node.cards.iter().filter(|card| {
            (&*card.method, &*card.target, &*card.body_sha256) == (method, target, body)
        });
        let mut cards: Vec<_> = same.collect();
        cards.sort_by_key(|card| place.get(&*card.id).copied().unwrap_or(u64::MAX));
        for (number, arrival) in arrived.iter().enumerate() {
            // What nobody was shown, another check finds.
            let Some(card) = cards.get(number).or_else(|| cards.last()) else { continue };
            operations.push(Operation {
                approval: card.id.clone(),
                op: Op::Claim(format!("arrival {number}")),
                at: "edge".into(),
                invoked: first,
                returned: Some((arrival.at, Told::Accepted)),
            });
        }
    }
    // What was released and did not arrive, its edge may have refused, or died with: it took effect, or will have.
    let arrived: BTreeSet<String> = operations.iter().map(|o| o.approval.clone()).collect();
    operations.extend(place.keys().filter(|id| !arrived.contains(**id)).map(|id| Operation {
        approval: (*id).to_owned(),
        op: Op::Claim("no arrival".into()),
        at: "edge".into(),
        invoked: began,
        returned: None,
    }));
    operations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{self, check};
    use crate::invariants::{Card, Record};

    /// One release of `/late`, which arrived at 59 ms.
    fn released(asked: &Asked, began: Instant, at: impl Fn(u64) -> Instant) -> Vec<Operation> {
        let arrival = Arrival {
            at: at(59),
            method: "DELETE".into(),
            target: "/late".into(),
            body_sha256: "00".into(),
            body_bytes: 1,
            host: HOST.into(),
            headers: Vec::new(),
            slot: None,
            keyed: true,
            risky: true,
        };
        let card = Card {
            id: "a".into(),
            state: history::Seen::Released,
            method: "DELETE".into(),
            target: "/late".into(),
            body_sha256: "00".into(),
            intent_digest: String::new(),
            expires_at: 900_000,
            open_ended: false,
        };
        let claim = Record {
            index: 1,
            at: 20,
            actor: "system".into(),
            action: "request.claim".into(),
            subject: "r".into(),
            details: vec![("approval".into(), "a".into())],
            previous: String::new(),
            hash: String::new(),
        };
        let node = Node { name: "n1".into(), cards: vec![card], audit: vec![claim] };
        claims(&[arrival], &[node], asked, began)
    }

    #[test]
    fn a_release_is_as_early_as_the_first_request_and_may_refuse_whoever_taps_before_it_arrives() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let tapped = |op, from, to, told| Operation {
            approval: "a".into(),
            op,
            at: "n1".into(),
            invoked: at(from),
            returned: Some((at(to), told)),
        };
        let taps = [
            tapped(Op::Approve("ana".into()), 10, 18, Told::Accepted),
            tapped(Op::Approve("bo".into()), 27, 57, Told::Refused),
            tapped(Op::Deny("ana".into()), 27, 54, Told::Refused),
            tapped(Op::Read, 57, 84, Told::State(history::Seen::Released)),
        ];
        let asked = |ms| Asked::from([(("DELETE".to_owned(), "/late".to_owned()), at(ms))]);
        for asked in [asked(5), Asked::new()] {
            let operations = [&taps[..], &released(&asked, began, at)].concat();
            assert_eq!(check(&operations, 1), Ok(1));
        }
        // Asked for only when both had been refused, it is not what refused them.
        let operations = [&taps[..], &released(&asked(58), began, at)].concat();
        check(&operations, 1).unwrap_err();
    }
}
