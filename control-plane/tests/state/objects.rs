//! Genesis, principals, agents, credentials, policies, edges, and the memory of answered commands.

use countersign_control_plane::state::{
    Actor, Command, CommandId, Credential, Event, Payload, Proposal, Refused, Role,
};

use crate::world::{
    MINUTE, World, add_principal, command_id, create_agent, credential, encoded, genesis, sealed,
};

fn note(action: &str) -> Command {
    Command::Note { action: action.into(), subject: String::new(), details: vec![] }
}

#[test]
fn a_cluster_begins_once_with_an_admin_who_can_do_everything() {
    let mut world = World::empty();
    assert_eq!(world.system(Command::Genesis(Box::new(genesis()))), Ok(Event::Began));
    let admin = world.state.principal_by_token(&[9; 32]).expect("is there");
    assert_eq!((admin.name.as_str(), admin.roles.len()), ("admin", 3));
    let other = Command::Genesis(Box::new(countersign_control_plane::state::Genesis {
        cluster_id: "other".into(),
        ..genesis()
    }));
    assert!(matches!(world.system(other), Err(Refused::AlreadyExists(_))));
    assert_eq!(world.state.genesis().map(|g| g.cluster_id.as_str()), Some("cluster-1"));
}

#[test]
fn nothing_is_done_before_the_beginning() {
    let mut world = World::empty();
    let outcome = world.system(add_principal("ana", &[Role::Admin], &[]));
    assert!(matches!(outcome, Err(Refused::Precondition(_))));
    assert!(matches!(world.system(Command::Tick), Ok(Event::Ticked { .. })));
    assert_eq!(world.state.principals().count(), 0);
}

#[test]
fn the_last_admin_stays() {
    let mut world = World::begun();
    let remove = Command::RemovePrincipal { name: "admin".into() };
    assert!(matches!(world.admin(remove.clone()), Err(Refused::Precondition(_))));
    world.admin(add_principal("eve", &[Role::Admin], &[])).expect("is added");
    assert!(world.admin(remove).is_ok());
    assert!(world.state.principal_by_token(&[9; 32]).is_none());
    let remove_eve = Command::RemovePrincipal { name: "eve".into() };
    assert!(matches!(world.system(remove_eve), Err(Refused::Precondition(_))));
}

#[test]
fn i_9_an_admin_who_was_removed_meanwhile_does_nothing() {
    let mut world = World::begun();
    world.admin(add_principal("eve", &[Role::Admin], &[])).expect("is added");
    world.system(Command::RemovePrincipal { name: "eve".into() }).expect("is removed");
    let before = encoded(&world.state).len();
    let outcome = world.act(Actor::Principal("eve".into()), create_agent("a9", "late", None));
    assert!(matches!(outcome, Err(Refused::Denied(_))));
    assert!(world.state.agent_named("late").is_none());
    assert!(encoded(&world.state).len() >= before);
}

#[test]
fn only_admins_administer() {
    let commands = [
        add_principal("eve", &[Role::Admin], &[]),
        Command::RemovePrincipal { name: "ben".into() },
        create_agent("a9", "mine", None),
        Command::RevokeAgent { name: "mailer".into() },
        Command::CreateCredential(Box::new(credential("c9", "mine"))),
        Command::RevokeCredential { name: "stripe".into() },
        Command::SetPolicy {
            text: String::new(),
            sha256: [0; 32],
            expected_version: None,
            narrows: false,
        },
        Command::EnrollEdge { id: "e9".into(), name: "mine".into(), key_sha256: [0; 32] },
        Command::EvictEdge { name: "east".into(), reason: String::new() },
    ];
    let mut world = World::begun();
    for actor in [
        Actor::Principal("ana".into()),
        Actor::Edge("e1".into()),
        Actor::Principal("nobody".into()),
    ] {
        for command in &commands {
            let outcome = world.act(actor.clone(), command.clone());
            assert!(matches!(outcome, Err(Refused::Denied(_))), "{actor:?} {command:?}");
        }
    }
}

#[test]
fn names_are_short_and_plain() {
    let mut world = World::begun();
    let long = "x".repeat(65);
    for name in ["", "Ana", "a b", "a/b", "ä", "a\n", long.as_str()] {
        let outcome = world.admin(add_principal(name, &[Role::Approver], &[]));
        assert!(matches!(outcome, Err(Refused::Invalid(_))), "{name:?}");
        assert!(
            matches!(world.admin(create_agent("a9", name, None)), Err(Refused::Invalid(_))),
            "{name:?}"
        );
    }
    let longest = "x".repeat(64);
    assert!(world.admin(add_principal(&longest, &[Role::Approver], &["on-call_1.eu"])).is_ok());
}

#[test]
fn a_name_that_is_taken_is_refused_and_a_revoked_one_is_free_again() {
    let mut world = World::begun();
    assert!(matches!(
        world.admin(create_agent("a9", "mailer", None)),
        Err(Refused::AlreadyExists(_))
    ));
    assert!(matches!(
        world.admin(create_agent("a1", "other", None)),
        Err(Refused::AlreadyExists(_))
    ));
    world.admin(Command::RevokeAgent { name: "mailer".into() }).expect("is revoked");
    assert!(matches!(
        world.admin(Command::RevokeAgent { name: "mailer".into() }),
        Err(Refused::NotFound(_))
    ));
    assert!(world.admin(create_agent("a9", "mailer", None)).is_ok());
    assert_eq!(world.state.agent_named("mailer").map(|a| a.id.as_str()), Some("a9"));
    assert!(world.state.agent("a1").is_some_and(|a| !a.active));
}

#[test]
fn an_owner_must_be_somebody() {
    let mut world = World::begun();
    let outcome = world.admin(create_agent("a9", "orphan", Some("dann")));
    assert!(matches!(outcome, Err(Refused::NotFound(_))));
}

#[test]
fn a_credential_begins_at_version_one_and_rotates_with_its_fake_key() {
    let mut world = World::begun();
    let fresh = world.state.credential("c1").expect("is there");
    assert_eq!((fresh.version, fresh.active, fresh.created_at), (1, true, world.now));
    let rotate = |expected_version| Command::RotateCredential {
        name: "stripe".into(),
        expected_version,
        payload: sealed(8),
    };
    assert!(matches!(world.admin(rotate(2)), Err(Refused::Precondition(_))));
    assert_eq!(
        world.admin(rotate(1)),
        Ok(Event::CredentialChanged { id: "c1".into(), version: 2 })
    );
    assert!(matches!(world.admin(rotate(1)), Err(Refused::Precondition(_))));
    assert_eq!(world.state.credential("c1").map(|c| c.fakes[0].key.as_str()), Some("fake-of-c1"));
}

#[test]
fn a_revoked_credential_keeps_no_key() {
    let mut world = World::begun();
    world.admin(Command::RevokeCredential { name: "stripe".into() }).expect("is revoked");
    let credential = world.state.credential("c1").expect("is still listed");
    let Payload::Sealed { wrapped_key, ciphertext, .. } = &credential.payload;
    assert!(wrapped_key.is_empty() && ciphertext.is_empty());
    assert!(!credential.active && credential.fakes.iter().all(|f| !f.active));
}

#[test]
fn a_fake_key_belongs_to_one_credential() {
    let mut world = World::begun();
    let copy = Credential { fakes: credential("c1", "x").fakes, ..credential("c2", "copy") };
    let outcome = world.admin(Command::CreateCredential(Box::new(copy)));
    assert!(matches!(outcome, Err(Refused::AlreadyExists(_))));
}

#[test]
fn a_policy_replaces_the_version_that_was_expected() {
    let mut world = World::begun();
    let set = |expected_version| Command::SetPolicy {
        text: "# p".into(),
        sha256: [0; 32],
        expected_version,
        narrows: false,
    };
    assert!(matches!(world.admin(set(Some(0))), Err(Refused::Precondition(_))));
    assert_eq!(world.admin(set(Some(1))), Ok(Event::PolicyChanged { version: 2 }));
    assert_eq!(world.admin(set(None)), Ok(Event::PolicyChanged { version: 3 }));
    assert_eq!(
        world.state.policy().map(|p| (p.version, p.set_by.as_str())),
        Some((3, "principal:admin"))
    );
}

#[test]
fn an_edge_that_is_enrolled_again_keeps_its_id_unless_it_was_evicted() {
    let mut world = World::begun();
    let enroll = Command::EnrollEdge { id: "e9".into(), name: "east".into(), key_sha256: [7; 32] };
    assert_eq!(world.admin(enroll.clone()), Ok(Event::EdgeChanged { id: "e1".into() }));
    assert_eq!(
        world.state.edge("e1").map(|e| (e.key_sha256, e.incarnation)),
        Some(([7; 32], None))
    );
    world
        .admin(Command::EvictEdge { name: "east".into(), reason: "stolen".into() })
        .expect("is evicted");
    assert!(matches!(world.admin(enroll), Err(Refused::Denied(_))));
    let attach = Command::AttachEdge { id: "e1".into(), incarnation: [3; 16] };
    assert!(matches!(world.act(Actor::Edge("e1".into()), attach), Err(Refused::Denied(_))));
}

#[test]
fn a_command_is_remembered_for_a_day() {
    let mut world = World::begun();
    let proposal =
        Proposal { id: command_id(1 << 40), actor: Actor::System, command: note("once") };
    world.propose(proposal.clone()).expect("is noted");
    let records = world.records();
    world.pass(24 * 60 * MINUTE);
    assert_eq!(world.propose(proposal.clone()), Ok(Event::Noted));
    assert_eq!(world.records(), records);
    world.pass(1);
    world.system(note("another")).expect("is noted");
    world.propose(proposal).expect("is taken for a new one");
    assert_eq!(world.records(), records + 2);
}

#[test]
fn a_serial_lower_than_the_last_is_refused() {
    let mut world = World::begun();
    let with = |serial| Proposal {
        id: CommandId { client: [7; 16], serial },
        actor: Actor::System,
        command: note("numbered"),
    };
    assert!(world.propose(with(5)).is_ok());
    let records = world.records();
    assert!(matches!(world.propose(with(4)), Err(Refused::Invalid(_))));
    assert_eq!(world.propose(with(5)), Ok(Event::Noted));
    assert_eq!(world.records(), records);
    assert!(world.propose(with(6)).is_ok());
}

#[test]
fn the_first_outcome_comes_again_even_when_it_was_a_refusal() {
    let mut world = World::begun();
    let open = Proposal {
        id: command_id(1 << 41),
        actor: Actor::System,
        command: Command::Claim { request_id: [1; 16], decision_id: [1; 16], policy_version: 1 },
    };
    let refused = world.propose(open.clone());
    assert!(matches!(refused, Err(Refused::NotFound(_))));
    world
        .open(countersign_control_plane::state::Open {
            requirements: vec![],
            ..crate::world::open(1)
        })
        .expect("opens");
    assert_eq!(world.propose(open), refused);
    assert!(world.state.held(&[1; 16]).is_some_and(|h| h.claim.is_none()));
}

#[test]
fn no_more_than_a_hundred_thousand_commands_are_remembered() {
    let mut world = World::empty();
    let proposals = |from: u64, to: u64| {
        (from..to).map(|n| Proposal {
            id: CommandId { client: u128::from(n).to_be_bytes(), serial: 2 },
            actor: Actor::System,
            command: Command::Tick,
        })
    };
    for proposal in proposals(0, 100_001) {
        world.propose(proposal).expect("ticks");
    }
    let older_serial = |n: u64| Proposal {
        id: CommandId { client: u128::from(n).to_be_bytes(), serial: 1 },
        actor: Actor::System,
        command: Command::Tick,
    };
    assert!(matches!(world.propose(older_serial(1)), Err(Refused::Invalid(_))), "remembered");
    assert!(world.propose(older_serial(0)).is_ok(), "forgotten");
}

#[test]
fn a_key_and_its_fake_do_not_show_themselves() {
    let shown = format!("{:?}", Command::CreateCredential(Box::new(credential("c1", "stripe"))));
    assert!(shown.contains("Payload(sealed)"));
    assert!(!shown.contains("ciphertext") && !shown.contains("wrapped_key"));
    assert!(!shown.contains("fake-of-c1"), "{shown}");
}

#[test]
fn a_key_is_sealed_anew_in_the_place_of_that_very_payload_and_of_no_other() {
    let under = |term, byte| Payload::Sealed {
        keyring_term: term,
        wrapped_key: vec![byte; 4],
        ciphertext: vec![byte; 8],
    };
    let mut world = World::begun();
    let former = world.state.credential("c1").expect("is there").payload.sha256();
    let reseal = |version, former_sha256, payload| Command::ResealCredential {
        id: "c1".into(),
        version,
        former_sha256,
        payload,
    };
    assert_eq!(world.state.credentials_under_older_terms(1).count(), 0);
    assert_eq!(world.state.credentials_under_older_terms(2).count(), 1);
    let records = world.records();
    let (revision, good) = (world.state.bundle_revision(), reseal(1, former, under(2, 9)));
    assert!(matches!(world.admin(good.clone()), Err(Refused::Denied(_))));
    assert!(matches!(world.system(reseal(2, former, under(2, 9))), Err(Refused::Precondition(_))));
    assert!(matches!(world.system(reseal(1, [0; 32], under(2, 9))), Err(Refused::Precondition(_))));
    assert!(matches!(world.system(reseal(1, former, under(1, 9))), Err(Refused::Invalid(_))));
    assert_eq!(world.records(), records);

    assert_eq!(world.system(good.clone()), Ok(Event::CredentialResealed { id: "c1".into() }));
    let credential = world.state.credential("c1").expect("is there");
    assert_eq!((credential.version, credential.payload.keyring_term()), (1, 2));
    assert_eq!(world.state.credentials_under_older_terms(2).count(), 0);
    assert_eq!(world.actions_since(records), ["credential.reseal"]);
    assert_eq!(world.state.bundle_revision(), revision, "edges decide as before");
    assert!(matches!(world.system(good), Err(Refused::Precondition(_))), "that one is gone");
}

#[test]
fn a_key_that_somebody_rotated_or_revoked_meanwhile_is_not_overwritten() {
    let mut world = World::begun();
    let former = world.state.credential("c1").expect("is there").payload.sha256();
    let payload = Payload::Sealed { keyring_term: 2, wrapped_key: vec![9], ciphertext: vec![9] };
    let reseal = |version| Command::ResealCredential {
        id: "c1".into(),
        version,
        former_sha256: former,
        payload: payload.clone(),
    };
    let rotate = Command::RotateCredential {
        name: "stripe".into(),
        expected_version: 1,
        payload: sealed(7),
    };
    world.admin(rotate).expect("is rotated");
    for version in [1, 2] {
        assert!(matches!(world.system(reseal(version)), Err(Refused::Precondition(_))));
    }
    let there = world.state.credential("c1").expect("is there").payload.sha256();
    assert_eq!(there, sealed(7).sha256());
    world.admin(Command::RevokeCredential { name: "stripe".into() }).expect("is revoked");
    assert!(matches!(world.system(reseal(2)), Err(Refused::Precondition(_))));
    assert_eq!(world.state.credentials_under_older_terms(9).count(), 0, "nothing is left of it");
}
