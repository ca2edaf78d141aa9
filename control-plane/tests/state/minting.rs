//! Tokens that are minted: whose turn it is, what is kept, and for how long it is handed out.

use std::collections::BTreeMap;

use countersign_control_plane::state::{
    ClientAuth, Command, Credential, Event, Mint, NewToken, OAuthGrant, Refused, ReleaseClass,
    Successor,
};

use crate::world::{MINUTE, World, credential, open, sealed};

const HOUR: u64 = 60 * MINUTE;
const ATTEMPT: [u8; 16] = [1; 16];

fn oauth() -> Mint {
    Mint::OAuth {
        grant: OAuthGrant::RefreshToken,
        token_url: "https://auth.example.com/token".into(),
        client_id: "client".into(),
        client_auth: ClientAuth::Basic,
        scopes: vec!["a".into()],
        parameters: BTreeMap::new(),
    }
}

fn github() -> Mint {
    Mint::GitHubApp {
        api_url: "https://api.github.com".into(),
        app_id: "1".into(),
        installation_id: 2,
        repositories: Vec::new(),
        permissions: BTreeMap::new(),
    }
}

/// With credential `m1`, named minted.
fn minting(mint: Mint) -> World {
    let mut world = World::begun();
    let minted = Credential { mint: Some(mint), ..credential("m1", "minted") };
    world.admin(Command::CreateCredential(Box::new(minted))).expect("is created");
    world
}

fn begin(attempt: [u8; 16]) -> Command {
    Command::BeginMint { id: "m1".into(), version: 1, attempt }
}

fn token(world: &World, lasts: u64) -> NewToken {
    NewToken {
        credential: "m1".into(),
        version: 1,
        attempt: ATTEMPT,
        token: sealed(50),
        expires_at: world.now + lasts,
        request_id: None,
        successor: None,
    }
}

fn keep(token: NewToken) -> Command {
    Command::KeepToken(Box::new(token))
}

fn fail(attempt: [u8; 16], for_good: bool) -> Command {
    let why = "its issuer cannot serve it now".into();
    Command::FailMint { id: "m1".into(), version: 1, attempt, why, for_good }
}

fn minted(world: &World) -> &Credential {
    world.state.credential("m1").expect("is there")
}

#[test]
fn one_attempt_is_under_way_at_a_time_and_is_given_up_after_twenty_seconds() {
    let mut world = minting(oauth());
    let records = world.records();
    assert_eq!(world.system(begin(ATTEMPT)), Ok(Event::MintBegun { id: "m1".into() }));
    assert!(matches!(world.system(begin([2; 16])), Err(Refused::Precondition(_))));
    world.pass(19_999);
    assert!(matches!(world.system(begin([2; 16])), Err(Refused::Precondition(_))));
    world.pass(1);
    assert!(world.system(begin([2; 16])).is_ok(), "whoever began the first may be gone");
    assert!(matches!(world.admin(begin([3; 16])), Err(Refused::Denied(_))));
    assert_eq!(world.actions_since(records), ["credential.mint_attempt"; 2]);
}

#[test]
fn a_token_is_kept_for_everybody_until_it_ends_and_edges_decide_as_before() {
    let mut world = minting(oauth());
    let revision = world.state.bundle_revision();
    world.system(begin(ATTEMPT)).expect("begins");
    let new = token(&world, HOUR);
    let kept = world.system(keep(new));
    assert_eq!(kept, Ok(Event::TokenMinted { id: "m1".into(), version: 1 }));
    let credential = minted(&world);
    assert!(credential.minting.attempt.is_none());
    let token = credential.token_for(None).expect("is kept");
    let now = world.now;
    assert!(token.is_usable(now) && !token.is_due(now));
    assert!(!token.is_due(now + 47 * MINUTE) && token.is_due(now + 48 * MINUTE), "at four fifths");
    assert!(token.is_usable(now + HOUR - 30_000) && !token.is_usable(now + HOUR - 29_999));
    assert_eq!(world.state.bundle_revision(), revision);
}

#[test]
fn a_short_token_is_minted_anew_with_a_margin_of_seconds() {
    let mut world = minting(oauth());
    let new = token(&world, 10_000);
    world.system(keep(new)).expect("is kept");
    let token = minted(&world).token_for(None).expect("is kept");
    let now = world.now;
    assert!(!token.is_due(now + 5_999) && token.is_due(now + 6_000));
    assert!(token.is_usable(now + 8_000) && !token.is_usable(now + 8_001));
}

#[test]
fn a_token_that_ends_at_once_or_never_is_not_kept() {
    let mut world = minting(oauth());
    for lasts in [0, 4_999] {
        let new = token(&world, lasts);
        assert!(matches!(world.system(keep(new)), Err(Refused::Expired(_))), "{lasts}");
    }
    for lasts in [24 * HOUR + 1, u64::MAX - world.now] {
        let new = token(&world, lasts);
        assert!(matches!(world.system(keep(new)), Err(Refused::Invalid(_))), "{lasts}");
    }
    assert!(minted(&world).token_for(None).is_none());
}

#[test]
fn a_secret_that_was_used_up_is_replaced_in_the_place_of_that_very_one() {
    let mut world = minting(oauth());
    let former_sha256 = minted(&world).payload.sha256();
    let successor = Successor { former_sha256, payload: sealed(60) };
    let new = NewToken { successor: Some(successor), ..token(&world, HOUR) };
    world.system(keep(new.clone())).expect("is kept");
    assert_eq!(minted(&world).payload.sha256(), sealed(60).sha256());
    assert_eq!(minted(&world).version, 1, "the same credential, for edges and for decisions");
    // Late, by another that used the same one: what is stored is younger.
    let late = Successor { former_sha256, payload: sealed(61) };
    let late = NewToken { successor: Some(late), token: sealed(51), ..new };
    assert!(matches!(world.system(keep(late)), Err(Refused::Precondition(_))));
    assert_eq!(minted(&world).payload.sha256(), sealed(60).sha256());
    let kept = minted(&world).token_for(None).expect("is kept").token.sha256();
    assert_eq!(kept, sealed(50).sha256());
}

#[test]
fn what_somebody_rotated_or_revoked_meanwhile_is_not_overwritten_and_has_no_token() {
    let mut world = minting(oauth());
    let new = token(&world, HOUR);
    world.system(keep(new.clone())).expect("is kept");
    let rotate = Command::RotateCredential {
        name: "minted".into(),
        expected_version: 1,
        payload: sealed(70),
    };
    world.admin(rotate).expect("is rotated");
    assert!(minted(&world).token_for(None).is_none(), "it was minted with the former secret");
    assert!(matches!(world.system(keep(new.clone())), Err(Refused::Precondition(_))));
    assert!(matches!(world.system(begin(ATTEMPT)), Err(Refused::Precondition(_))));
    let new = NewToken { version: 2, ..new };
    world.system(keep(new.clone())).expect("is kept");
    world.admin(Command::RevokeCredential { name: "minted".into() }).expect("is revoked");
    assert!(minted(&world).token_for(None).is_none());
    assert!(matches!(world.system(keep(new)), Err(Refused::Precondition(_))));
}

#[test]
fn attempts_after_failures_wait_twice_as_long_each_time_and_a_rotation_ends_that() {
    for (for_good, longest) in [(false, 30_000), (true, 300_000)] {
        let mut world = minting(oauth());
        let mut expected = 1_000;
        for _ in 0..12 {
            world.system(begin(ATTEMPT)).expect("begins");
            world.system(fail(ATTEMPT, for_good)).expect("is noted");
            assert!(matches!(world.system(begin(ATTEMPT)), Err(Refused::Exhausted(_))));
            world.pass(expected - 1);
            assert!(matches!(world.system(begin(ATTEMPT)), Err(Refused::Exhausted(_))));
            world.pass(1);
            expected = (2 * expected).min(longest);
        }
        let failure = minted(&world).minting.failure.clone().expect("is kept");
        assert_eq!((failure.times, failure.why.as_str()), (12, "its issuer cannot serve it now"));
        assert!(matches!(world.system(fail([9; 16], for_good)), Err(Refused::Precondition(_))));
        let rotate = Command::RotateCredential {
            name: "minted".into(),
            expected_version: 1,
            payload: sealed(70),
        };
        world.admin(rotate).expect("is rotated");
        let again = Command::BeginMint { id: "m1".into(), version: 2, attempt: ATTEMPT };
        assert!(world.system(again).is_ok());
    }
}

#[test]
fn a_lease_ends_before_its_token_does() {
    let mut world = minting(oauth());
    let lease = |ttl_ms| Command::Lease {
        id: [5; 16],
        edge: "e1".into(),
        incarnation: [1; 16],
        credential: "m1".into(),
        version: 1,
        agent: "a1".into(),
        ttl_ms,
    };
    assert!(matches!(world.system(lease(1)), Err(Refused::Invalid(_))), "there is no token");
    let new = token(&world, MINUTE);
    world.system(keep(new)).expect("is kept");
    assert!(matches!(world.system(lease(MINUTE + 1)), Err(Refused::Invalid(_))));
    assert!(world.system(lease(MINUTE)).is_ok());
    world.pass(1);
    assert!(matches!(world.system(lease(MINUTE)), Err(Refused::Invalid(_))));
}

#[test]
fn a_token_for_one_release_is_for_that_one_alone_and_goes_with_it() {
    let mut world = minting(github());
    let mut opened = open(1);
    opened.credentials = vec![("m1".into(), 1)];
    world.open(opened).expect("opens");
    let new = NewToken { request_id: Some([1; 16]), ..token(&world, HOUR) };
    world.system(keep(new.clone())).expect("is kept");
    let credential = minted(&world);
    let held = world.state.held(&[1; 16]).expect("is held");
    assert!(credential.token_for(Some(held)).is_some());
    assert!(credential.token_for(None).is_none(), "nobody else has it");
    let records = world.records();
    let other = NewToken { request_id: Some([77; 16]), ..new };
    world.system(keep(other)).expect("that one is gone, and so is its token");
    assert_eq!(world.actions_since(records), ["credential.mint"]);
    assert!(minted(&world).token_for(None).is_none());
}

#[test]
fn a_release_of_an_oauth_client_shares_the_token_that_there_is() {
    let mut world = minting(oauth());
    let mut opened = open(1);
    opened.credentials = vec![("m1".into(), 1)];
    world.open(opened).expect("opens");
    let new = token(&world, HOUR);
    world.system(keep(new)).expect("is kept");
    let held = world.state.held(&[1; 16]).expect("is held");
    assert!(minted(&world).token_for(Some(held)).is_some());
}

#[test]
fn a_key_that_is_handed_out_itself_is_never_minted() {
    let mut world = World::begun();
    let begin = Command::BeginMint { id: "c1".into(), version: 1, attempt: ATTEMPT };
    assert!(matches!(world.system(begin), Err(Refused::Precondition(_))));
    assert_eq!(world.state.credential("c1").expect("is there").class, ReleaseClass::Auto);
}

#[test]
fn what_was_stored_before_there_was_minting_is_read_still() {
    let world = World::begun();
    let mut bytes = Vec::new();
    ciborium::into_writer(&world.state, &mut bytes).expect("is written");
    let mut value: ciborium::Value = ciborium::from_reader(bytes.as_slice()).expect("is read");
    assert!(forget(&mut value, &["mint", "minting", "tokens"]) >= 2, "they were there");
    let mut former = Vec::new();
    ciborium::into_writer(&value, &mut former).expect("is written");
    let read: countersign_control_plane::state::State =
        ciborium::from_reader(former.as_slice()).expect("is read");
    let credential = read.credential("c1").expect("is there");
    assert!(credential.mint.is_none() && credential.minting.token.is_none());
}

/// Takes fields of these names out, wherever they are; gives how many there were.
pub(crate) fn forget(value: &mut ciborium::Value, names: &[&str]) -> usize {
    match value {
        ciborium::Value::Map(fields) => {
            let before = fields.len();
            fields.retain(|(name, _)| name.as_text().is_none_or(|name| !names.contains(&name)));
            let gone = before - fields.len();
            gone + fields.iter_mut().map(|(_, value)| forget(value, names)).sum::<usize>()
        }
        ciborium::Value::Array(items) => items.iter_mut().map(|item| forget(item, names)).sum(),
        _ => 0,
    }
}

#[test]
fn where_and_how_a_secret_is_used_has_one_digest_for_each_way_to_say_it() {
    let mut seen = vec![oauth().sha256(), github().sha256()];
    let Mint::OAuth { token_url, client_id, scopes, .. } = oauth() else { panic!("is one") };
    for (token_url, client_id, scopes, name) in [
        ("https://evil.example.com/token".to_owned(), client_id.clone(), scopes.clone(), ""),
        (token_url.clone(), "other".into(), scopes, ""),
        (token_url.clone(), client_id.clone(), vec!["a".into(), "b".into()], ""),
        (token_url, client_id, Vec::new(), "a"),
    ] {
        let parameters = match name {
            "" => BTreeMap::new(),
            name => BTreeMap::from([(name.to_owned(), String::new())]),
        };
        let mint = Mint::OAuth {
            grant: OAuthGrant::RefreshToken,
            token_url,
            client_id,
            client_auth: ClientAuth::Basic,
            scopes,
            parameters,
        };
        assert!(!seen.contains(&mint.sha256()), "{mint:?}");
        seen.push(mint.sha256());
    }
}
