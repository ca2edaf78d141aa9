//! Founds the town before anything goes wrong: the cluster, its members, whom edges trust, and what everyone knows.

use std::sync::Arc;
use std::time::Duration;

use countersign_control_plane::cluster::{ProposeError, Start};
use countersign_control_plane::sign::RootKey;
use countersign_control_plane::state::{Actor, Command, CommandId, Genesis, State};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::gateway::{Enrollment, Gateway};
use crate::node::{Ask, House, Up};
use crate::world::{beginning, issue, member, population};

const PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Mayor {
    pub(crate) houses: Vec<Arc<House>>,
    pub(crate) gateways: Vec<Arc<Gateway>>,
}

impl Mayor {
    /// Returns when every node is a voter, signs, and knows what the others know.
    pub(crate) async fn found(self) -> turmoil::Result {
        let first = &self.houses[0];
        first.start.set(Start::Found).unwrap();
        let up = self.come_up(first).await;
        let (vault, root) = (&first.ground.vault, RootKey::generate());
        let keys = first.ground.keys();
        let genesis = beginning(vault, &root, &keys, up.cluster.node_id(), &first.address());
        self.order(Command::Genesis(Box::new(genesis.clone()))).await;
        for house in &self.houses[1..] {
            self.invite(house).await;
        }
        self.until(|up| {
            let members = up.cluster.members();
            members.len() == self.houses.len() && members.iter().all(|member| member.voter)
        })
        .await;
        for command in population(vault) {
            self.order(command).await;
        }
        if let Some(next) = up.cluster.peek(State::next_trust) {
            self.order(Command::SetTrust(root.sign(next.encode()))).await;
        }
        for gateway in &self.gateways {
            self.enroll(gateway, &genesis).await;
        }
        let applied = up.cluster.applied_index();
        self.until(|up| up.cluster.applied_index() >= applied).await;
        Ok(())
    }

    async fn invite(&self, house: &House) {
        let (id, name) = (rand::random(), house.name.clone());
        let token_sha256 = Sha256::digest(&name).into();
        let keys = vec![house.ground.keys().newest_public()];
        let node = member(id, &name, &house.address(), keys);
        self.order(Command::InviteNode { name, token_sha256 }).await;
        self.order(Command::JoinNode { token_sha256, node }).await;
        house.start.set(Start::Join { node_id: id }).unwrap();
    }

    async fn enroll(&self, gateway: &Gateway, genesis: &Genesis) {
        let enrolled =
            issue(genesis, &self.houses[0].ground.vault, &format!("id-of-{}", gateway.name));
        self.order(Command::EnrollEdge {
            id: enrolled.id.clone(),
            name: gateway.name.clone(),
            key_sha256: enrolled.key_sha256,
        })
        .await;
        let (api_ca_pem, root) = (genesis.api_ca_pem.clone(), genesis.root_public_key);
        assert!(gateway.enrolled.set(Enrollment { enrolled, api_ca_pem, root }).is_ok());
    }

    /// By the first node; said again until its outcome is known.
    async fn order(&self, command: Command) {
        let id = CommandId { client: rand::random(), serial: 0 };
        loop {
            let (answer, answered) = oneshot::channel();
            let ask = Ask::Propose(id, Actor::System, Box::new(command.clone()), answer);
            if self.houses[0].ask(ask) {
                match answered.await {
                    Ok(Ok(_)) => return,
                    Ok(Err(ProposeError::Refused(why))) => panic!("{command:?}: {why}"),
                    Ok(Err(ProposeError::Unavailable(_))) | Err(_) => {}
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn come_up(&self, house: &House) -> Up {
        loop {
            match house.up() {
                Some(up) => return up,
                None => sleep(PAUSE).await,
            }
        }
    }

    async fn until(&self, is_so: impl Fn(&Up) -> bool) {
        for house in &self.houses {
            while !house.up().is_some_and(|up| is_so(&up)) {
                sleep(PAUSE).await;
            }
        }
    }
}
