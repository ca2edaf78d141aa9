//! Cards that go out, and answers that come back from chats.

use std::collections::{BTreeMap, BTreeSet};

use countersign_control_plane::state::{
    Account, Actor, ApprovalId, ApprovalState, Channel, Command, Credential, Delivery,
    DeliveryStatus, Event, Message, Open, Recipient, Refused, Requirement, Role, State, Strength,
    Tap, VoteWord,
};

use crate::minting::forget;
use crate::world::{
    EXPIRES, MINUTE, World, add_principal, credential, encoded, open, requirement, sealed,
};

fn channel(name: &str, room: Option<&str>) -> Channel {
    Channel {
        name: name.into(),
        platform: "slack".into(),
        version: 1,
        settings: BTreeMap::from([("app".into(), "A1".into())]),
        secrets: sealed(9),
        tenant: None,
        room: room.map(str::to_owned),
        only: BTreeSet::new(),
        after_ms: 0,
        fallback: None,
        active: true,
        created_at: 0,
    }
}

fn account(user: &str) -> Account {
    Account { platform: "slack".into(), tenant: "T1".into(), user: user.into() }
}

/// `ana` has two accounts, `ben` one; both are of the group ops. One channel, slack, reaches them directly.
fn world() -> World {
    let mut world = World::begun();
    set(&mut world, channel("slack", None)).unwrap();
    for (name, user) in [("ana", "U1"), ("ana", "U2"), ("ben", "U3")] {
        link(&mut world, name, account(user));
    }
    world
}

fn set(world: &mut World, channel: Channel) -> Result<Event, Refused> {
    world.admin(Command::SetChannel(Box::new(channel)))
}

fn link(world: &mut World, name: &str, account: Account) {
    let code_sha256 = [42; 32];
    let platform = account.platform.clone();
    world.act(Actor::Principal(name.into()), Command::OfferLink { platform, code_sha256 }).unwrap();
    world.system(Command::LinkAccount { code_sha256, account }).unwrap();
}

fn asks_ops(request: u8, quorum: u32) -> Open {
    Open { requirements: vec![requirement(&["ops"], quorum)], ..open(request) }
}

fn cards(world: &World, id: ApprovalId) -> Vec<Delivery> {
    world.state.deliveries_of(id).cloned().collect()
}

/// Sends the card that goes to this recipient, with this handle, as this message.
fn send(world: &mut World, id: ApprovalId, to: &Recipient, handle: u8) {
    let delivery = cards(world, id).into_iter().find(|d| d.to == *to).expect("has a card");
    attempt(world, &delivery, handle).unwrap();
    world.system(delivered(handle)).unwrap();
}

fn attempt(world: &mut World, delivery: &Delivery, handle: u8) -> Result<Event, Refused> {
    let place = format!("D-{}", delivery.to);
    let whole = true;
    let handle = [handle; 16];
    world.system(Command::AttemptDelivery { delivery: delivery.id, handle, place, whole })
}

fn delivered(handle: u8) -> Command {
    Command::Delivered {
        handle: [handle; 16],
        place: String::new(),
        message: format!("m{handle}"),
        rendered_sha256: [1; 32],
        face: [2; 32],
    }
}

/// A press of the button of that attempt, as its recipient does it.
fn tap(handle: u8, user: &str) -> Tap {
    Tap {
        channel: "slack".into(),
        handle: [handle; 16],
        word: VoteWord::Approve,
        account: account(user),
        place: String::new(),
        message: Some(format!("m{handle}")),
        button: true,
        event: format!("event of {user} on {handle}"),
        reason: String::new(),
        evidence: "shared-mac".into(),
    }
}

fn says(world: &mut World, tap: Tap) -> Result<ApprovalState, Refused> {
    match world.system(Command::Tap(Box::new(tap)))? {
        Event::Voted { state, .. } => Ok(state),
        other => panic!("a tap answers with a state, not {other:?}"),
    }
}

fn to(user: &str) -> Recipient {
    Recipient::Account(account(user))
}

#[test]
fn a_card_goes_to_every_account_of_whoever_is_asked_and_to_rooms_that_it_concerns() {
    let mut world = world();
    link(&mut world, "cat", account("U4"));
    set(&mut world, channel("everything", Some("C1"))).unwrap();
    set(&mut world, Channel { only: ["ops".to_owned()].into(), ..channel("ops", Some("C2")) })
        .unwrap();
    set(
        &mut world,
        Channel { only: ["finance".to_owned()].into(), ..channel("money", Some("C3")) },
    )
    .unwrap();
    let id = world.opened(asks_ops(1, 1));
    let sent: BTreeSet<_> = cards(&world, id).into_iter().map(|d| (d.channel, d.to)).collect();
    let room = |room: &str| Recipient::Room(room.into());
    let expected = [
        ("slack", to("U1")),
        ("slack", to("U2")),
        ("slack", to("U3")),
        ("everything", room("C1")),
        ("ops", room("C2")),
    ];
    assert_eq!(sent, expected.map(|(channel, to)| (channel.to_owned(), to)).into());
    // The same request again joins: nobody gets a second card.
    world.opened(Open { request_id: [2; 16], ..asks_ops(1, 1) });
    assert_eq!(cards(&world, id).len(), 5);
    // What is allowed is nobody's card.
    world.open(Open { requirements: Vec::new(), ..open(9) }).unwrap();
    assert_eq!(world.state.deliveries().count(), 5);
}

#[test]
fn an_account_of_another_tenant_is_not_reached() {
    let mut world = World::begun();
    set(&mut world, Channel { tenant: Some("T2".into()), ..channel("slack", None) }).unwrap();
    link(&mut world, "ana", account("U1"));
    let id = world.opened(asks_ops(1, 1));
    assert_eq!(cards(&world, id).len(), 0);
}

#[test]
fn a_tap_is_its_principals_vote_with_the_strength_of_a_button() {
    let mut world = world();
    let id = world.opened(asks_ops(1, 1));
    send(&mut world, id, &to("U1"), 1);
    assert_eq!(says(&mut world, tap(1, "U1")), Ok(ApprovalState::Approved));
    let vote = &world.state.approval(id).unwrap().votes[0];
    assert_eq!((vote.principal.as_str(), vote.channel.as_str()), ("ana", "slack"));
    assert_eq!(vote.strength, Strength::L1);
    let record =
        world.state.audit().records().iter().rev().find(|r| r.action == "approval.vote").unwrap();
    assert!(
        record.details.contains(&("evidence".to_owned(), "shared-mac".to_owned())),
        "{record:?}"
    );
    assert!(world.claim(1).is_ok());
}

#[test]
fn a_5_where_all_of_a_request_has_to_be_seen_nothing_counts_that_was_said_on_less() {
    let mut world = world();
    let demanding = |n| {
        let rule =
            Requirement { whole_card: true, strength: Strength::L0, ..requirement(&["ops"], 1) };
        Open { requirements: vec![requirement(&["*"], 1), rule], ..open(n) }
    };
    let sent = |world: &mut World, id, handle: u8, whole| {
        let delivery = cards(world, id).into_iter().find(|d| d.to == to("U1")).unwrap();
        let (place, handle) = (String::new(), [handle; 16]);
        let attempt = Command::AttemptDelivery { delivery: delivery.id, handle, place, whole };
        world.system(attempt).unwrap();
        world.system(delivered(handle[0])).unwrap();
    };
    let id = world.opened(demanding(1));
    sent(&mut world, id, 1, false);
    let typed = Tap { button: false, message: None, event: "typed".into(), ..tap(1, "U1") };
    let reaction = Tap { button: false, event: "reaction".into(), ..tap(1, "U1") };
    let no = Tap { word: VoteWord::Deny, event: "no".into(), ..tap(1, "U1") };
    for said in [tap(1, "U1"), typed, reaction, no] {
        let refused = says(&mut world, said).unwrap_err();
        assert!(
            matches!(&refused, Refused::Denied(why) if why.contains("does not show it")),
            "{refused:?}"
        );
    }
    let approval = world.state.approval(id).unwrap();
    assert_eq!((approval.state, approval.votes.len()), (ApprovalState::Pending, 0));

    // On one that shows it, a button counts and a reaction does not: it does not tell what was seen.
    let mut world = self::world();
    let id = world.opened(demanding(2));
    sent(&mut world, id, 2, true);
    let reaction = Tap { button: false, event: "another".into(), ..tap(2, "U1") };
    let refused = says(&mut world, reaction).unwrap_err();
    assert!(
        matches!(&refused, Refused::Denied(why) if why.contains("does not tell what was seen")),
        "{refused:?}"
    );
    assert_eq!(says(&mut world, tap(2, "U1")), Ok(ApprovalState::Approved));

    // Where no rule wants it, a card that is cut can be answered.
    let mut world = self::world();
    let id = world.opened(asks_ops(3, 1));
    sent(&mut world, id, 3, false);
    assert_eq!(says(&mut world, tap(3, "U1")), Ok(ApprovalState::Approved));
}

#[test]
fn attempts_are_found_by_their_place_and_deliveries_by_whom_they_are_to_until_they_are_gone() {
    let mut world = world();
    let id = world.opened(asks_ops(1, 1));
    let ids = |world: &World, user: &str| -> Vec<_> {
        world.state.deliveries_to("slack", to(user)).map(|delivery| delivery.id).collect()
    };
    let found = |world: &World, place: &str| -> Vec<_> {
        world.state.attempts_in("slack", place).map(|(_, attempt)| attempt.handle).collect()
    };
    assert_eq!(ids(&world, "U1").len(), 1);
    let delivery = cards(&world, id).into_iter().find(|d| d.to == to("U1")).unwrap();
    attempt(&mut world, &delivery, 1).unwrap();
    let first = format!("D-{}", delivery.to);
    assert_eq!(found(&world, &first), [[1; 16]]);
    // The platform has another name for the place.
    let moved = match delivered(1) {
        Command::Delivered { handle, message, rendered_sha256, face, .. } => {
            Command::Delivered { handle, place: "D1".into(), message, rendered_sha256, face }
        }
        other => other,
    };
    world.system(moved).unwrap();
    assert_eq!((found(&world, &first), found(&world, "D1")), (vec![], vec![[1; 16]]));
    assert_eq!(world.state.attempts_in("other", "D1").count(), 0);
    world.admin(Command::TestChannel { channel: "slack".into(), to: to("U1") }).unwrap();
    let both = ids(&world, "U1");
    assert_eq!((both.len(), both[1]), (2, delivery.id), "the newest first");
    world.admin(Command::RemoveChannel { name: "slack".into() }).unwrap();
    assert_eq!((ids(&world, "U1"), found(&world, "D1")), (vec![], vec![]));
}

#[test]
fn an_account_whose_id_has_a_slash_is_linked_and_unlinked() {
    let mut world = World::begun();
    let user = "@ana/ops:matrix.example";
    let account =
        Account { platform: "matrix".into(), tenant: "matrix.example".into(), user: user.into() };
    link(&mut world, "ana", account.clone());
    assert_eq!(
        world.state.principal("ana").unwrap().accounts.iter().collect::<Vec<_>>(),
        [&account]
    );
    assert_eq!(account.to_string().parse(), Ok(account.clone()));
    for wrong in ["matrix/x", "matrix", "matrix/x/", "/x/y", "matrix/x/a,b", "ma,trix/x/y"] {
        assert!(wrong.parse::<Account>().is_err(), "{wrong}");
    }
    let unlink = Command::UnlinkAccount { principal: "ana".into(), account };
    world.act(Actor::Principal("ana".into()), unlink).unwrap();
    assert!(world.state.principal("ana").unwrap().accounts.is_empty());
}

#[test]
fn a_10_two_accounts_of_one_person_count_once() {
    let mut world = world();
    let id = world.opened(asks_ops(1, 2));
    send(&mut world, id, &to("U1"), 1);
    send(&mut world, id, &to("U2"), 2);
    assert_eq!(says(&mut world, tap(1, "U1")), Ok(ApprovalState::Pending));
    assert_eq!(says(&mut world, tap(2, "U2")), Ok(ApprovalState::Pending));
    assert!(world.claim(1).is_err());
    send(&mut world, id, &to("U3"), 3);
    assert_eq!(says(&mut world, tap(3, "U3")), Ok(ApprovalState::Approved));
}

#[test]
fn a_11_owner_stranger_guest_and_an_agents_own_account_decide_nothing() {
    let mut world = world();
    link(&mut world, "dan", account("U5"));
    world
        .admin(Command::CreateCredential(Box::new(Credential {
            acts_as: Some(account("U3")),
            ..credential("c2", "bot-of-ben")
        })))
        .unwrap();
    set(&mut world, channel("room", Some("C1"))).unwrap();
    // Whoever may approve is asked, dan owns the agent.
    let id = world.opened(open(1));
    send(&mut world, id, &Recipient::Room("C1".into()), 1);
    let in_room = |user: &str| Tap { channel: "room".into(), place: String::new(), ..tap(1, user) };
    let guest = Account { tenant: "T9".into(), ..account("U1") };
    for (who, why) in [
        (in_room("U5"), "owns the agent"),
        (in_room("U9"), "linked to no active principal"),
        (Tap { account: guest, ..in_room("U1") }, "linked to no active principal"),
        (in_room("U3"), "tainted"),
    ] {
        let refused = says(&mut world, who.clone()).unwrap_err();
        assert!(
            matches!(&refused, Refused::Denied(said) if said.contains(why)),
            "{refused} {who:?}"
        );
    }
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    assert_eq!(world.state.approval(id).unwrap().votes.len(), 0);
    assert!(world.actions_since(0).contains(&"vote.refused"));
    assert_eq!(says(&mut world, in_room("U1")), Ok(ApprovalState::Approved));
}

#[test]
fn a_12_an_account_that_is_unlinked_or_whose_person_is_removed_in_between_decides_nothing() {
    for command in [
        Command::UnlinkAccount { principal: "ana".into(), account: account("U1") },
        Command::RemovePrincipal { name: "ana".into() },
    ] {
        let mut world = world();
        let id = world.opened(asks_ops(1, 1));
        send(&mut world, id, &to("U1"), 1);
        world.admin(command).unwrap();
        assert!(matches!(says(&mut world, tap(1, "U1")), Err(Refused::Denied(_))));
        assert_eq!(world.state_of(id), ApprovalState::Pending);
    }
}

#[test]
fn a_13_a_card_that_was_forwarded_or_copied_decides_nothing() {
    let mut world = world();
    set(&mut world, channel("other", Some("C1"))).unwrap();
    let id = world.opened(asks_ops(1, 1));
    send(&mut world, id, &to("U1"), 1);
    for moved in [
        Tap { message: Some("m9".into()), ..tap(1, "U1") },
        Tap { place: "D9".into(), ..tap(1, "U1") },
        Tap { channel: "other".into(), ..tap(1, "U1") },
        // Somebody who may decide, but on a card that was sent to somebody else.
        tap(1, "U3"),
        Tap { handle: [9; 16], ..tap(1, "U1") },
    ] {
        assert!(matches!(says(&mut world, moved.clone()), Err(Refused::Denied(_))), "{moved:?}");
    }
    assert_eq!(world.state_of(id), ApprovalState::Pending);
    assert_eq!(says(&mut world, tap(1, "U1")), Ok(ApprovalState::Approved));
}

#[test]
fn a_19_the_same_event_twice_is_one_vote_and_answers_with_what_is() {
    let mut world = world();
    let id = world.opened(asks_ops(1, 2));
    send(&mut world, id, &to("U1"), 1);
    assert_eq!(says(&mut world, tap(1, "U1")), Ok(ApprovalState::Pending));
    let records = world.records();
    assert_eq!(says(&mut world, tap(1, "U1")), Ok(ApprovalState::Pending));
    assert_eq!(world.records(), records);
    // A denial that came in between is not undone by the approval that comes late for the second time.
    let deny = Tap { word: VoteWord::Deny, event: "later".into(), ..tap(1, "U1") };
    assert_eq!(says(&mut world, deny), Ok(ApprovalState::Denied));
    assert_eq!(says(&mut world, tap(1, "U1")), Ok(ApprovalState::Denied));
}

#[test]
fn a_3_a_tap_that_comes_after_the_end_decides_nothing() {
    let mut world = world();
    let id = world.opened(asks_ops(1, 1));
    send(&mut world, id, &to("U1"), 1);
    world.pass(EXPIRES);
    assert!(says(&mut world, tap(1, "U1")).is_err());
    world.tick();
    assert_eq!(world.state_of(id), ApprovalState::Expired);
}

#[test]
fn what_is_typed_or_reacted_is_worth_less_than_a_button() {
    let mut world = world();
    let id = world.opened(asks_ops(1, 1));
    send(&mut world, id, &to("U1"), 1);
    let typed = Tap { button: false, message: None, place: "elsewhere".into(), ..tap(1, "U1") };
    // The rule asks for L1.
    let refused = says(&mut world, typed.clone()).unwrap_err();
    assert!(matches!(refused, Refused::Denied(_)), "{refused}");
    // A denial counts at any strength.
    let no = Tap { word: VoteWord::Deny, event: "no".into(), ..typed };
    assert_eq!(says(&mut world, no), Ok(ApprovalState::Denied));
    assert_eq!(world.state_of(id), ApprovalState::Denied);
}

#[test]
fn after_five_wrong_codes_none_of_that_account_counts_for_ten_minutes() {
    let mut world = world();
    let lenient = |request| {
        let mut asked = asks_ops(request, 1);
        asked.requirements[0].strength = Strength::L0;
        asked
    };
    let id = world.opened(lenient(1));
    send(&mut world, id, &to("U1"), 1);
    let typed = Tap { button: false, message: None, ..tap(1, "U1") };
    for _ in 0..5 {
        world.system(Command::WrongCode { account: account("U1") }).unwrap();
    }
    assert!(matches!(says(&mut world, typed.clone()), Err(Refused::Denied(_))));
    world.pass(10 * MINUTE);
    assert_eq!(says(&mut world, typed), Ok(ApprovalState::Approved));
    let outsider =
        world.act(Actor::Principal("ana".into()), Command::WrongCode { account: account("U3") });
    assert!(outsider.is_err(), "only an adapter says so");
}

#[test]
fn r_22_a_card_whose_sender_died_is_known_by_its_tap_and_by_it_alone() {
    let mut world = world();
    let id = world.opened(asks_ops(1, 2));
    let card = cards(&world, id).into_iter().find(|d| d.to == to("U1")).unwrap();
    // The first try is in doubt, the second one is on record.
    attempt(&mut world, &card, 1).unwrap();
    attempt(&mut world, &card, 2).unwrap();
    world.system(delivered(2)).unwrap();
    let place = format!("D-{}", card.to);
    let on = |handle: u8, message: &str| Tap {
        message: Some(message.into()),
        place: place.clone(),
        event: format!("{handle} {message}"),
        ..tap(handle, "U1")
    };
    assert!(says(&mut world, Tap { place: "D9".into(), ..on(1, "old") }).is_err());
    assert_eq!(says(&mut world, on(1, "old")), Ok(ApprovalState::Pending));
    assert!(says(&mut world, on(1, "copied")).is_err(), "from then on it is that message");
    let known = cards(&world, id).into_iter().find(|d| d.id == card.id).unwrap();
    let messages: Vec<_> = known.attempts.iter().map(|a| a.message.clone().unwrap()).collect();
    assert_eq!(messages, ["old", "m2"], "both will show how it ends");
}

#[test]
fn what_is_not_delivered_is_tried_again_ever_later_and_then_goes_another_way() {
    let mut world = World::begun();
    set(&mut world, Channel { platform: "mail".into(), ..channel("mail", None) }).unwrap();
    set(&mut world, Channel { fallback: Some("mail".into()), ..channel("slack", None) }).unwrap();
    link(&mut world, "ana", account("U1"));
    let mail = Account { platform: "mail".into(), tenant: String::new(), user: "ana".into() };
    link(&mut world, "ana", mail.clone());
    world.admin(Command::UnlinkAccount { principal: "ana".into(), account: mail.clone() }).unwrap();
    let id = world.opened(asks_ops(1, 1));
    link(&mut world, "ana", mail.clone());
    let card = cards(&world, id)[0].id;
    let mut last = 0;
    for tries in 1..8 {
        let fails = |not_before| Command::NotDelivered {
            delivery: card,
            why: "busy".into(),
            not_before,
            for_good: false,
        };
        world.system(fails(None)).unwrap();
        let DeliveryStatus::Due { at, .. } = world.state.delivery(card).unwrap().status else {
            panic!()
        };
        assert!(at > world.now && at - world.now >= last, "{tries}");
        assert!(at - world.now <= MINUTE);
        assert_eq!(world.state.deliveries_due(at - 1).count(), 0);
        assert_eq!(world.state.deliveries_due(at).count(), 1);
        last = at - world.now;
        world.pass(last);
    }
    world
        .system(Command::NotDelivered {
            delivery: card,
            why: "busy".into(),
            not_before: None,
            for_good: false,
        })
        .unwrap();
    assert!(
        matches!(&world.state.delivery(card).unwrap().status, DeliveryStatus::Dead { why, .. } if why == "busy")
    );
    let others: Vec<_> = cards(&world, id).into_iter().filter(|d| d.id != card).collect();
    assert_eq!(others.len(), 1);
    assert_eq!((others[0].channel.as_str(), &others[0].to), ("mail", &Recipient::Account(mail)));
    assert!(world.actions_since(0).contains(&"card.dead"));
}

#[test]
fn a_platform_that_says_when_is_not_asked_before() {
    let mut world = world();
    let id = world.opened(asks_ops(1, 1));
    let card = cards(&world, id)[0].id;
    let until = world.now + 5 * MINUTE;
    let fails = Command::NotDelivered {
        delivery: card,
        why: "429".into(),
        not_before: Some(until),
        for_good: false,
    };
    world.system(fails).unwrap();
    assert!(
        matches!(world.state.delivery(card).unwrap().status, DeliveryStatus::Due { at, .. } if at == until)
    );
}

#[test]
fn a_later_channel_is_called_off_by_an_answer_and_what_was_sent_stays_known() {
    let mut world = world();
    set(&mut world, Channel { after_ms: 5 * MINUTE, ..channel("room", Some("C1")) }).unwrap();
    let id = world.opened(asks_ops(1, 1));
    send(&mut world, id, &to("U1"), 1);
    assert!(cards(&world, id).iter().any(|d| d.channel == "room"));
    says(&mut world, tap(1, "U1")).unwrap();
    let left = cards(&world, id);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].to, to("U1"));
    assert_eq!(world.state.deliveries_due(world.now + EXPIRES).count(), 0);
}

#[test]
fn people_are_told_again_and_whoever_can_decide_later_gets_a_card_then() {
    let mut world = world();
    link(&mut world, "cat", account("U4"));
    let mut asked = asks_ops(1, 1);
    asked.requirements[0].escalations = vec![countersign_control_plane::state::Escalation {
        after_ms: 5 * MINUTE,
        to: vec!["cat".into()],
    }];
    asked.remind_ms = Some(5 * MINUTE);
    let id = world.opened(asked);
    assert_eq!(cards(&world, id).len(), 3);
    world.pass(5 * MINUTE);
    world.tick();
    assert!(cards(&world, id).iter().any(|d| d.to == to("U4")));
    world.pass(5 * MINUTE);
    world.tick();
    let words =
        cards(&world, id).into_iter().filter(|d| matches!(d.what, Message::Words { .. })).count();
    assert_eq!(words, 4, "everyone who has a card");
}

#[test]
fn a_test_says_who_has_answered_it_and_decides_nothing() {
    let mut world = world();
    let sent = world.admin(Command::TestChannel { channel: "slack".into(), to: to("U1") });
    let Ok(Event::DeliveryChanged { id }) = sent else { panic!("{sent:?}") };
    let card = world.state.delivery(id).unwrap().clone();
    attempt(&mut world, &card, 1).unwrap();
    world.system(delivered(1)).unwrap();
    world.system(Command::Tap(Box::new(tap(1, "U1")))).unwrap();
    let Message::Test { answered: Some((who, _)), .. } = &world.state.delivery(id).unwrap().what
    else {
        panic!()
    };
    assert_eq!(who, "ana");
    let outsider = world.act(
        Actor::Principal("ana".into()),
        Command::TestChannel { channel: "slack".into(), to: to("U1") },
    );
    assert!(matches!(outsider, Err(Refused::Denied(_))));
}

#[test]
fn a_removed_channel_sends_nothing_hears_nothing_and_keeps_no_secret() {
    let mut world = world();
    let id = world.opened(asks_ops(1, 1));
    send(&mut world, id, &to("U1"), 1);
    world.admin(Command::RemoveChannel { name: "slack".into() }).unwrap();
    assert!(says(&mut world, tap(1, "U1")).is_err());
    assert_eq!(cards(&world, id).len(), 0);
    assert_eq!(world.state.channels().count(), 0);
    // It comes back as another version: what was sealed before opens nothing.
    assert!(set(&mut world, channel("slack", None)).is_err());
    assert!(set(&mut world, Channel { version: 2, ..channel("slack", None) }).is_ok());
}

#[test]
fn c_two_person_a_channel_whose_secrets_one_knows_waits_for_another_administrator() {
    let mut world = World::begun();
    world.admin(add_principal("eve", &[Role::Admin], &[])).unwrap();
    let proposed = set(&mut world, channel("slack", None));
    assert!(matches!(proposed, Ok(Event::ChangeProposed { .. })), "{proposed:?}");
    assert_eq!(world.state.channels().count(), 0);
    let approver = world
        .act(Actor::Principal("ana".into()), Command::SetChannel(Box::new(channel("x", None))));
    assert!(matches!(approver, Err(Refused::Denied(_))));
}

#[test]
fn only_the_control_plane_says_what_was_sent_and_who_has_tapped() {
    let mut world = world();
    let id = world.opened(asks_ops(1, 1));
    send(&mut world, id, &to("U1"), 1);
    let card = cards(&world, id)[1].id;
    for command in [
        Command::AttemptDelivery {
            delivery: card,
            handle: [7; 16],
            place: "D".into(),
            whole: true,
        },
        delivered(1),
        Command::NotDelivered {
            delivery: card,
            why: String::new(),
            not_before: None,
            for_good: true,
        },
        Command::Faced { delivery: card, face: [1; 32], why_not: String::new() },
        Command::Tap(Box::new(tap(1, "U1"))),
    ] {
        for actor in [
            Actor::Principal("ana".into()),
            Actor::Principal("admin".into()),
            Actor::Edge("e1".into()),
        ] {
            let refused = world.act(actor.clone(), command.clone());
            assert!(
                matches!(refused, Err(Refused::Denied(_))),
                "{actor:?} {command:?} {refused:?}"
            );
        }
    }
    assert_eq!(world.state_of(id), ApprovalState::Pending);
}

/// As a snapshot was written before it was known of a card whether it shows everything, and before anything but its handle
/// led to it.
#[test]
fn cards_of_a_snapshot_by_an_earlier_build_are_found_and_are_not_taken_for_whole() {
    let rule = |whole_card| Requirement { whole_card, ..requirement(&["ops"], 1) };
    for whole_card in [false, true] {
        let mut world = world();
        let id = world.opened(Open { requirements: vec![rule(whole_card)], ..open(1) });
        send(&mut world, id, &to("U1"), 1);
        let now = encoded(&world.state);
        let mut value: ciborium::Value = ciborium::from_reader(now.as_slice()).unwrap();
        assert_eq!(forget(&mut value, &["by_handle", "by_place", "by_recipient", "whole"]), 4);
        let mut former = Vec::new();
        ciborium::into_writer(&value, &mut former).unwrap();
        world.state = ciborium::from_reader(former.as_slice()).unwrap();

        let found: Vec<_> =
            world.state.attempts_in("slack", "").map(|(_, attempt)| attempt.handle).collect();
        assert_eq!(found, [[1; 16]]);
        assert_eq!(world.state.deliveries_to("slack", to("U1")).count(), 1);
        match (whole_card, says(&mut world, tap(1, "U1"))) {
            (false, said) => assert_eq!(said, Ok(ApprovalState::Approved)),
            (true, Err(Refused::Denied(why))) => assert!(why.contains("does not show it"), "{why}"),
            (true, other) => panic!("{other:?}"),
        }

        // What leads to a card is its row's to say, also where a snapshot has it.
        let again: State = ciborium::from_reader(now.as_slice()).unwrap();
        assert!(encoded(&again) == now);
    }
}

/// A command of the log, as well.
#[test]
fn an_attempt_that_an_earlier_build_put_into_the_log_is_read_as_one_that_does_not_show_everything()
{
    let attempt =
        Command::AttemptDelivery { delivery: 7, handle: [1; 16], place: "D1".into(), whole: true };
    let mut value = ciborium::Value::serialized(&attempt).unwrap();
    assert_eq!(forget(&mut value, &["whole"]), 1);
    let Command::AttemptDelivery { delivery, whole, .. } = value.deserialized().unwrap() else {
        panic!("it is another command");
    };
    assert_eq!((delivery, whole), (7, false));
}
