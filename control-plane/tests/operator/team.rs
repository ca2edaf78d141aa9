//! A seal that takes several people: begun, opened, changed and rotated through the API, and all of it on record.

use std::fs;

use age::x25519::Identity;
use bytes::Bytes;
use countersign_control_plane::node::{ControlPlane, SealConfig};
use countersign_control_plane::sign::RootKey;
use countersign_proto::v1;
use countersign_proto::v1::seal_parameters::Provider;
use tonic::{Code, Status};

use crate::town::{Town, agent};
use crate::world::{World, config};

/// Who keeps a share each.
struct Keepers(Vec<Identity>);

impl Keepers {
    fn of(count: usize) -> Self {
        Self((0..count).map(|_| Identity::generate()).collect())
    }

    /// So many of all of them open it.
    fn seal(&self, threshold: u32) -> v1::SealParameters {
        let recipients = self.0.iter().map(|it| it.to_public().to_string()).collect();
        parameters(Provider::Shamir(v1::ShamirSeal { threshold, recipients }))
    }

    /// What each reads in the one that is for them.
    fn read(&self, shares: &[v1::EncryptedShare]) -> Vec<Bytes> {
        assert_eq!(shares.len(), self.0.len());
        let opened = shares.iter().zip(&self.0).map(|(share, keeper)| {
            assert_eq!(share.recipient, keeper.to_public().to_string());
            Bytes::from(age::decrypt(keeper, share.encrypted.as_bytes()).unwrap())
        });
        opened.collect()
    }
}

fn parameters(provider: Provider) -> v1::SealParameters {
    v1::SealParameters { provider: Some(provider) }
}

fn passphrase(text: &'static str) -> v1::SealParameters {
    let passphrase = Bytes::from_static(text.as_bytes());
    parameters(Provider::Passphrase(v1::PassphraseSeal { passphrase }))
}

fn init(seal: v1::SealParameters) -> v1::InitClusterRequest {
    v1::InitClusterRequest { seal: Some(seal) }
}

fn with(share: &Bytes) -> v1::UnsealRequest {
    v1::UnsealRequest { share: share.clone(), ..Default::default() }
}

async fn unseal(world: &World, request: v1::UnsealRequest) -> Result<v1::UnsealResponse, Status> {
    world.client("").await.unseal(request).await.map(tonic::Response::into_inner)
}

async fn seal_status(world: &World) -> v1::GetSealStatusResponse {
    let mut client = world.client("").await;
    client.get_seal_status(v1::GetSealStatusRequest {}).await.unwrap().into_inner()
}

/// A node that waits for shares, and one that was begun with them.
async fn begun_by(keepers: &Keepers, threshold: u32) -> (World, String, Vec<Bytes>) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder.path().join("data"), SealConfig::Shamir);
    let world = World { node: ControlPlane::start(config).await.unwrap(), folder };
    let request = init(keepers.seal(threshold));
    let begun = world.client("").await.init_cluster(request).await.unwrap().into_inner();
    (world, begun.admin_token, keepers.read(&begun.shares))
}

async fn audit(world: &World, token: &str) -> Vec<v1::AuditRecord> {
    let request = v1::ListAuditRequest { page_size: 1000, ..Default::default() };
    world.client(token).await.list_audit(request).await.unwrap().into_inner().records
}

fn actions<'a>(records: &'a [v1::AuditRecord], prefix: &str) -> Vec<&'a str> {
    let actions = records.iter().map(|record| record.action.as_str());
    actions.filter(|action| action.starts_with(prefix)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seal_audit_a_team_begins_a_cluster_and_opens_it_with_enough_of_its_shares() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder.path().join("data"), SealConfig::Shamir);
    let world = World { node: ControlPlane::start(config).await.unwrap(), folder };
    let status = seal_status(&world).await;
    assert!(status.sealed && !status.initialized);
    assert_eq!(status.provider, "shamir");
    let refused = unseal(&world, with(&Bytes::from_static(b"cs-share-1"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);

    let keepers = Keepers::of(3);
    let mut nobody = world.client("").await;
    for (seal, field) in [(keepers.seal(4), "2 to 16"), (keepers.seal(1), "2 to 16")] {
        let refused = nobody.init_cluster(init(seal)).await.unwrap_err();
        assert!(refused.message().contains(field), "{refused}");
    }
    let none = nobody.init_cluster(v1::InitClusterRequest::default()).await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument);
    let begun = nobody.init_cluster(init(keepers.seal(2))).await.unwrap().into_inner();
    let shares = keepers.read(&begun.shares);

    // What was answered is nowhere else, and works.
    let root = RootKey::from_hex(&begun.root_private_key).unwrap();
    assert_eq!(root.public().to_vec(), begun.root_public_key);
    for file in ["admin-token", "trust-root.key", "tls/api-ca.key"] {
        assert!(!world.data_dir().join(file).exists(), "{file}");
    }
    world.client(&begun.admin_token).await.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    let again = nobody.init_cluster(init(keepers.seal(2))).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);

    let world = world.restart(|_| SealConfig::Shamir).await;
    let status = seal_status(&world).await;
    assert!(status.sealed && status.initialized);
    assert_eq!((status.shares, status.threshold, status.given), (3, 2, Vec::new()));
    let first = unseal(&world, with(&shares[2])).await.unwrap();
    assert!(first.sealed);
    assert_eq!((first.threshold, first.given), (2, vec![3]));
    assert_eq!(seal_status(&world).await.given, [3]);

    // Each bad one is named, and costs nobody what was given before.
    let others = Keepers::of(3);
    let (_other_world, _, others) = begun_by(&others, 2).await;
    let mut damaged = shares[0].to_vec();
    let last = damaged.iter().rposition(u8::is_ascii_alphanumeric).unwrap();
    damaged[last - 3] = if damaged[last - 3] == b'7' { b'8' } else { b'7' };
    for (bad, named) in [
        (shares[2].clone(), "share 3 was given already"),
        (others[0].clone(), "share 1 belongs to another set"),
        (damaged.into(), "share 1"),
        (Bytes::from_static(b"nonsense"), "is not a share"),
    ] {
        let refused = unseal(&world, with(&bad)).await.unwrap_err();
        assert!(refused.message().contains(named), "{named}: {refused}");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert_eq!(seal_status(&world).await.given, [3]);
    }
    let reset = v1::UnsealRequest { reset: true, ..with(&shares[0]) };
    assert_eq!(unseal(&world, reset).await.unwrap().given, [1]);
    assert!(!unseal(&world, with(&shares[1])).await.unwrap().sealed);

    // SEAL-AUDIT: what could not be recorded then is on record now.
    let records = audit(&world, &begun.admin_token).await;
    let refused: Vec<_> =
        records.iter().filter(|record| record.action == "seal.unseal_refused").collect();
    assert_eq!(refused.len(), 5);
    assert!(refused[0].details.iter().any(|it| it.value.contains("no vault")));
    assert!(refused[1].details.iter().any(|it| it.value.contains("share 3 was given already")));
    let unsealed = records.iter().rfind(|record| record.action == "seal.unseal").unwrap();
    assert_eq!(unsealed.details[0].value, "4", "the first of them was on record already");
    let given: Vec<_> = records
        .iter()
        .filter(|r| matches!(&*r.action, "seal.unseal_share" | "seal.unseal_reset"))
        .map(|r| r.details.iter().find(|it| it.name == "why").unwrap().value.as_str())
        .collect();
    let forgotten = "the shares that were given are forgotten";
    assert_eq!(given, ["share 3 was taken", forgotten, "share 1 was taken", "share 2 was taken"]);
    let text = format!("{records:?}");
    for share in shares.iter().chain(&others) {
        assert!(!text.contains(std::str::from_utf8(share).unwrap().trim()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_tries_have_to_wait() {
    let keepers = Keepers::of(2);
    let (world, _, shares) = begun_by(&keepers, 2).await;
    let world = world.restart(|_| SealConfig::Shamir).await;
    let mut nobody = world.client("").await;
    let nonsense = with(&Bytes::from_static(b"cs-share-1-nonsense"));
    let mut tries = 0;
    let refused = loop {
        let refused = nobody.unseal(nonsense.clone()).await.unwrap_err();
        if refused.code() == Code::ResourceExhausted {
            break refused;
        }
        tries += 1;
        assert!(tries <= 40, "nobody is made to wait");
    };
    assert!(refused.message().contains("try again in"), "{refused}");
    // Whoever has the right one waits too.
    let refused = nobody.unseal(with(&shares[0])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rekey_changes_nothing_before_the_new_shares_were_shown() {
    let (former, next) = (Keepers::of(3), Keepers::of(2));
    let (world, token, old) = begun_by(&former, 2).await;
    let mut admin = world.client(&token).await;
    let start = |request_id: &str| v1::StartRekeyRequest {
        request_id: request_id.into(),
        to: Some(next.seal(2)),
    };
    let started = admin.start_rekey(start("a")).await.unwrap().into_inner();
    assert_eq!(started.needed, 2);
    assert_eq!(admin.start_rekey(start("a")).await.unwrap().into_inner(), started);
    let busy = admin.start_rekey(start("b")).await.unwrap_err();
    assert_eq!(busy.code(), Code::FailedPrecondition);
    let rekey_id = started.rekey_id;
    let share_of = |rekey_id: &str, share: &Bytes| v1::AuthorizeRekeyRequest {
        rekey_id: rekey_id.into(),
        share: share.clone(),
        ..Default::default()
    };
    let back = |rekey_id: &str, share: &Bytes| v1::VerifyRekeyRequest {
        rekey_id: rekey_id.into(),
        share: share.clone(),
        ..Default::default()
    };
    // Not before the old ones were.
    let early = admin.verify_rekey(back(&rekey_id, &old[0])).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition);
    let one = admin.authorize_rekey(share_of(&rekey_id, &old[0])).await.unwrap().into_inner();
    assert!(!one.authorized && one.shares.is_empty());
    assert_eq!((one.needed, one.given), (2, vec![1]));
    let twice = admin.authorize_rekey(share_of(&rekey_id, &old[0])).await.unwrap_err();
    assert!(twice.message().contains("share 1"), "{twice}");
    let two = admin.authorize_rekey(share_of(&rekey_id, &old[2])).await.unwrap().into_inner();
    assert!(two.authorized);
    let new = next.read(&two.shares);
    let one = admin.verify_rekey(back(&rekey_id, &new[0])).await.unwrap().into_inner();
    assert!(!one.complete);
    let wrong = admin.verify_rekey(back(&rekey_id, &old[1])).await.unwrap_err();
    assert!(wrong.message().contains("another set"), "{wrong}");

    // Cut short here, the old ones open it and the new ones do not.
    let world = world.restart(|_| SealConfig::Shamir).await;
    let refused = unseal(&world, with(&new[0])).await.unwrap_err();
    assert!(refused.message().contains("another set"), "{refused}");
    unseal(&world, with(&old[0])).await.unwrap();
    assert!(!unseal(&world, with(&old[1])).await.unwrap().sealed);
    let mut admin = world.client(&token).await;
    let gone = admin.verify_rekey(back(&rekey_id, &new[1])).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);

    // One that is cancelled is over, one that is gone through with counts.
    let id = admin.start_rekey(start("c")).await.unwrap().into_inner().rekey_id;
    admin.cancel_rekey(v1::CancelRekeyRequest { rekey_id: id.clone() }).await.unwrap();
    let over = admin.authorize_rekey(share_of(&id, &old[0])).await.unwrap_err();
    assert_eq!(over.code(), Code::NotFound);
    let id = admin.start_rekey(start("d")).await.unwrap().into_inner().rekey_id;
    admin.authorize_rekey(share_of(&id, &old[0])).await.unwrap();
    let made = admin.authorize_rekey(share_of(&id, &old[1])).await.unwrap().into_inner();
    let new = next.read(&made.shares);
    admin.verify_rekey(back(&id, &new[0])).await.unwrap();
    let done = admin.verify_rekey(back(&id, &new[1])).await.unwrap().into_inner();
    assert!(done.complete);

    let ann = v1::AddApproverRequest { name: "ann".into(), ..Default::default() };
    let approver = world.client(&token).await.add_approver(ann).await.unwrap();
    let approver = approver.into_inner().token;
    let denied = world.client(&approver).await.start_rekey(start("e")).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);

    // SEAL-AUDIT: every step is on record, and every refusal.
    let records = audit(&world, &token).await;
    let begun = ["seal.rekey_start", "seal.rekey_start_refused", "seal.rekey_verify_refused"];
    let steps = actions(&records, "seal.rekey");
    assert_eq!(steps[..3], begun, "{steps:?}");
    for action in [
        "seal.rekey_share",
        "seal.rekey_authorize",
        "seal.rekey_authorize_refused",
        "seal.rekey_share_back",
        "seal.rekey_cancel",
    ] {
        assert!(steps.contains(&action), "{action} in {steps:?}");
    }
    assert_eq!(actions(&records, "seal.change").len(), 1);
    let refused = records.iter().find(|record| record.action == "seal.refused").unwrap();
    assert_eq!(refused.actor, "principal:ann");

    let world = world.restart(|_| SealConfig::Shamir).await;
    let status = seal_status(&world).await;
    assert_eq!((status.shares, status.threshold), (2, 2));
    let refused = unseal(&world, with(&old[0])).await.unwrap_err();
    assert!(refused.message().contains("another set"), "{refused}");
    unseal(&world, with(&new[1])).await.unwrap();
    assert!(!unseal(&world, with(&new[0])).await.unwrap().sealed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rekeyed_cluster_is_opened_by_the_new_seal_on_every_node() {
    let town = Town::of(3).await;
    let mut admin = town.admin(0).await;
    let start =
        v1::StartRekeyRequest { to: Some(passphrase("correct horse")), ..Default::default() };
    let id = admin.start_rekey(start).await.unwrap().into_inner().rekey_id;
    // The key file opens it without anybody.
    let authorize = v1::AuthorizeRekeyRequest { rekey_id: id.clone(), ..Default::default() };
    assert!(admin.authorize_rekey(authorize).await.unwrap().into_inner().authorized);
    let back = |text: &'static str| v1::VerifyRekeyRequest {
        rekey_id: id.clone(),
        passphrase: Bytes::from_static(text.as_bytes()),
        ..Default::default()
    };
    let wrong = admin.verify_rekey(back("correct hose")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::PermissionDenied);
    assert!(admin.verify_rekey(back("correct horse")).await.unwrap().into_inner().complete);
    for place in 0..3 {
        town.until("every node has the new seal", async |town| {
            let mut admin = town.admin(place).await;
            let status = admin.get_seal_status(v1::GetSealStatusRequest {}).await.unwrap();
            status.into_inner().provider == "passphrase"
        })
        .await;
    }
    let follower = town.follower().await;
    let mut admin = town.admin(follower).await;
    admin.seal(v1::SealRequest {}).await.unwrap();
    let none = admin.unseal(v1::UnsealRequest::default()).await.unwrap_err();
    assert_eq!(none.code(), Code::PermissionDenied);
    let open = v1::UnsealRequest { passphrase: "correct horse".into(), ..Default::default() };
    assert!(!admin.unseal(open).await.unwrap().into_inner().sealed);
    town.until("it serves", async |town| {
        town.admin(follower).await.who_am_i(v1::WhoAmIRequest {}).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_stored_under_a_rotated_key_opens_on_every_node_and_after_a_restart() {
    let mut town = Town::of(3).await;
    town.admin(0).await.create_agent(agent("before")).await.unwrap();
    let stored = crate::world::credential("gitlab", "glpat_canary");
    town.admin(0).await.create_credential(stored).await.unwrap();
    let follower = town.follower().await;
    let rotate = v1::RotateKeyringRequest { request_id: "once".into() };
    for _ in 0..2 {
        let rotated = town.admin(follower).await.rotate_keyring(rotate.clone()).await.unwrap();
        assert_eq!(rotated.into_inner().keyring_term, 2);
    }
    town.admin(0).await.create_agent(agent("after")).await.unwrap();
    let secret = crate::world::credential("github", "ghp_canary");
    town.admin(1).await.create_credential(secret).await.unwrap();
    let mut resealed = Vec::new();
    town.until("what was there is under the new key too", async |town| {
        let request = v1::ListAuditRequest { page_size: 1000, ..Default::default() };
        let Ok(records) = town.admin(1).await.list_audit(request).await else { return false };
        resealed = records.into_inner().records;
        resealed.retain(|record| record.action == "credential.reseal");
        !resealed.is_empty()
    })
    .await;
    assert_eq!(resealed.len(), 1, "once, by the leader alone");
    assert_eq!((resealed[0].actor.as_str(), resealed[0].subject.as_str()), ("system", "gitlab"));
    // One that comes later has the former key too.
    town.add().await;
    for place in 0..4 {
        let mut admin = town.admin(place).await;
        let status = admin.get_seal_status(v1::GetSealStatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.keyring_term, status.sealed), (2, false), "{place}");
        assert_eq!(status.under_older_terms, 0, "{place}");
        town.until("it reads both", async |town| {
            let mut admin = town.admin(place).await;
            let agents = admin.list_agents(v1::ListAgentsRequest::default()).await;
            agents.is_ok_and(|agents| agents.into_inner().agents.len() == 2)
        })
        .await;
    }
    let mut configs = Vec::new();
    for place in 0..4 {
        configs.push(town.stop(place).await);
    }
    let files: Vec<_> =
        (0..4).map(|it| fs::read(town.data_dir(it).join("seal.json")).unwrap()).collect();
    assert!(files.iter().all(|file| *file == files[0]), "one seal for all");
    for (place, config) in configs.into_iter().enumerate() {
        town.start(place, config).await;
    }
    for place in 0..4 {
        town.until("it reads both still", async |town| {
            let mut admin = town.admin(place).await;
            let agents = admin.list_agents(v1::ListAgentsRequest::default()).await;
            agents.is_ok_and(|agents| agents.into_inner().agents.len() == 2)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_joins_a_team_waits_for_the_team() {
    let keepers = Keepers::of(3);
    let mut town = Town::begun(SealConfig::Shamir, init(keepers.seal(2))).await;
    let shares = keepers.read(&town.shares);
    let invited = town.admin(0).await.add_node(crate::town::invitation("n1")).await.unwrap();
    let joined = ControlPlane::start(town.joining(1, &invited.into_inner())).await.unwrap();
    town.nodes.push(Some(joined));
    let dir = town.data_dir(1);
    assert!(dir.join("signing-key.waiting").exists() && !dir.join("signing-keys.json").exists());
    let mut joiner = town.admin(1).await;
    let status = joiner.get_seal_status(v1::GetSealStatusRequest {}).await.unwrap().into_inner();
    assert!(status.sealed && status.initialized);
    assert_ne!(town.state_of(1).await, v1::NodeState::Voter);
    joiner.unseal(with(&shares[1])).await.unwrap();
    assert!(!joiner.unseal(with(&shares[2])).await.unwrap().into_inner().sealed);
    town.until("it votes", async |town| town.state_of(1).await == v1::NodeState::Voter).await;
    assert!(!dir.join("signing-key.waiting").exists() && dir.join("signing-keys.json").exists());
}
