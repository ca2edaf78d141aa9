//! One approval on every chat at once, and one answer on any of them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use countersign_tests::mail::MailServer;
use countersign_tests::origin::certificate;
use countersign_tests::platforms::connection::{
    CHANNELS, Connection, GRANTED, Keys, PLATFORMS, connection,
};
use countersign_tests::platforms::people::People;
use countersign_tests::platforms::real::Real;
use countersign_tests::platforms::{Message, Platforms};
use countersign_tests::world::Setup;
use countersign_tests::{Credential, Origin, REAL_KEY, Waiting, World, eventually};
use serde_json::Value;

use super::HOST;

/// Each has an account on every platform, and is asked about what is theirs.
const PEOPLE: [&str; 8] = ["ana", "bo", "cy", "dee", "eve", "flo", "gus", "hal"];

/// What is heard of nothing: mails, by Resend and over SMTP.
const DEAF: [&str; 2] = ["email", "smtp"];
/// They keep a card as it was sent.
const NO_EDITS: [&str; 9] =
    ["whatsapp", "messenger", "instagram", "webex", "x", "xchat", "twilio", "email", "smtp"];
/// They take fifteen messages in fifteen minutes, and Linear two in three seconds: so they are asked about fewer people's.
const OF_X: [&str; 2] = ["x", "xchat"];
const ASKED_ON_X: usize = 1;
const ASKED_ON_LINEAR: usize = 4;

struct Everywhere {
    there: Platforms,
    real: Real,
    keys: Keys,
    connections: Vec<(&'static str, Connection, String)>,
    origin: Origin,
    world: World,
    credential: Credential,
    tokens: Vec<String>,
}

/// An approval that is settled, and what it looked like on each platform before.
struct Settled {
    id: String,
    person: usize,
    path: String,
    cards: Vec<Message>,
}

impl Everywhere {
    fn start() -> Self {
        let keys = Keys::make();
        let real = Real::start(PEOPLE.len());
        let (ca_pem, leaf, key) = certificate(&["localhost"]);
        let server = MailServer::start("starttls", &leaf, &key);
        let trusted = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(trusted.path(), ca_pem).unwrap();
        let there = Platforms::start(keys.key_set.clone(), &real, server);
        let origin = Origin::start(&[HOST], REAL_KEY);
        let world = World::with(Setup {
            policy: policy(),
            connect_to: vec![format!("{HOST}:443:127.0.0.1:{}", origin.address().port())],
            upstream_ca: vec![origin.ca_pem().to_owned()],
            environment: vec![("SSL_CERT_FILE".into(), trusted.path().display().to_string())],
            ..Setup::default()
        });
        let web = world.web();
        let connections: Vec<_> = CHANNELS
            .iter()
            .map(|platform| {
                let hook = format!("{}/hooks/{platform}", web.trim_end_matches('/'));
                (*platform, connection(platform, &there, &hook, &keys), hook)
            })
            .collect();
        let credential =
            world.credential("example", REAL_KEY, &["--host", HOST, "--slot", "header"]);
        let tokens = PEOPLE
            .iter()
            .map(|name| {
                let added = world.json(&["approver", "add", name]);
                added["token"].as_str().unwrap().to_owned()
            })
            .collect();
        let all = Self { there, real, keys, connections, origin, world, credential, tokens };
        all.connections.iter().for_each(|(platform, ..)| all.connect(platform));
        eventually("that Matrix is listened to", || {
            let calls = all.there.calls();
            calls
                .iter()
                .any(|it| it.platform == "matrix" && it.path.contains("since="))
                .then_some(())
        });
        all
    }

    /// `countersign channel add`, which also sets a channel anew.
    fn connect(&self, platform: &str) {
        let (_, connection, hook) = self.known(platform);
        let settings: Vec<_> =
            connection.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let secrets: Vec<_> = connection
            .sent
            .iter()
            .chain(&connection.kept)
            .map(|(name, secret)| {
                let path = self.world.dir().join(format!("{platform}-{name}"));
                std::fs::write(&path, secret).unwrap();
                format!("{name}={}", path.display())
            })
            .collect();
        let of = if platform == "smtp" { "email" } else { platform };
        let mut arguments = vec!["channel", "add", platform, "--platform", of];
        settings.iter().for_each(|it| arguments.extend(["--set", it]));
        secrets.iter().for_each(|it| arguments.extend(["--secret-file", it]));
        let room = self.there.room(platform);
        room.iter().for_each(|room| arguments.extend(["--room", room]));
        if platform == "linear" {
            PEOPLE.iter().take(ASKED_ON_LINEAR).for_each(|it| arguments.extend(["--only", it]));
        }
        let added = self.world.json(&arguments);
        assert_eq!(added["hook_url"], hook.as_str());
    }

    /// A token has had its time, while there is something to be said with it: the channel is given another.
    fn renews(&mut self, platform: &str) {
        let known = self.connections.iter_mut().find(|(known, ..)| *known == platform).unwrap();
        let token = &mut known.1.sent[0].1;
        self.there.expire(token);
        token.push_str("-renewed");
        self.connect(platform);
    }

    /// Somebody says on each platform whose account it is.
    fn link(&self, person: usize) {
        let platforms: Vec<_> = PLATFORMS
            .into_iter()
            .filter(|platform| {
                !DEAF.contains(platform) && (!OF_X.contains(platform) || person < ASKED_ON_X)
            })
            .collect();
        for platform in &platforms {
            let link = ["approver", "link", platform, "-o", "json"];
            let offer = self.world.cli_as(&self.tokens[person], &link).output().unwrap();
            let offer: Value = serde_json::from_slice(&offer.stdout).unwrap();
            let words = format!("link {}", offer["code"].as_str().unwrap());
            let told = self.people(platform).writes(person, &words).reaches(&self.there);
            assert_eq!(told.0, 200, "{platform}: {told:?}");
        }
        eventually(&format!("accounts of {}", PEOPLE[person]), || {
            let listed = self.world.json(&["approver", "list"]);
            let own =
                listed.as_array()?.iter().find(|it| it["approver"] == PEOPLE[person])?.clone();
            let linked = own["accounts"].as_array()?.len();
            (linked == platforms.len()).then_some(())
        });
    }

    fn people(&self, platform: &str) -> People<'_> {
        let (platform, connection, hook) = self.known(platform);
        People { platform, there: &self.there, connection, keys: &self.keys, hook }
    }

    fn known(&self, platform: &str) -> &(&'static str, Connection, String) {
        self.connections.iter().find(|(known, ..)| *known == platform).unwrap()
    }

    /// Where somebody is asked.
    fn asked(&self, person: usize) -> Vec<&'static str> {
        let is_asked = |platform: &&&str| match **platform {
            "x" | "xchat" => person < ASKED_ON_X,
            "linear" => person < ASKED_ON_LINEAR,
            _ => true,
        };
        CHANNELS.iter().filter(is_asked).copied().collect()
    }

    /// An agent asks for something that is this person's to decide, and everywhere there is a card.
    fn hold(&self, person: usize, path: &str) -> (Waiting, Settled) {
        let agent = self.world.agent(&format!("robot{}", path.replace('/', "-")));
        let (url, bearer) = (
            format!("https://{HOST}{path}"),
            format!("authorization: Bearer {}", self.credential.fake_key),
        );
        let arguments =
            ["-X", "DELETE", "-H", &bearer, "-H", "countersign-approval-wait: 60", &url];
        let waiting = self.world.fetch_later(&agent, &arguments);
        let id = eventually("that it is held", || {
            let held = self.world.approvals();
            let found = held.iter().find(|approval| approval["path"] == path)?;
            found["id"].as_str().map(str::to_owned)
        });
        let cards = self
            .asked(person)
            .iter()
            .map(|platform| {
                eventually(&format!("the card on {platform}"), || self.cards(platform, &id).pop())
            })
            .collect();
        (waiting, Settled { id, person, path: path.to_owned(), cards })
    }

    fn cards(&self, platform: &str, id: &str) -> Vec<Message> {
        let all = self.there.messages(platform);
        all.into_iter().filter(|message| message.words().contains(id)).collect()
    }

    fn state(&self, id: &str) -> String {
        let shown = self.world.json(&["approval", "show", id]);
        shown["state"].as_str().unwrap().to_owned()
    }

    /// The person says yes on one platform, and the platform says it twice.
    fn settle(&self, person: usize, platform: &str) -> Settled {
        let path = format!("/on/{platform}/of/{}", PEOPLE[person]);
        let (waiting, asked) = self.hold(person, &path);
        for card in asked.cards.iter().filter(|card| !DEAF.contains(&card.platform.as_str())) {
            assert!(card.buttons().is_some() || card.code().is_some(), "{card:?}");
        }
        let said = self.people(platform).answers(person, asked.card(platform), true);
        let told = said.reaches(&self.there);
        assert_eq!(told.0, 200, "{platform}: {told:?}");
        let answer = waiting.answer();
        assert_eq!(answer.status, 200, "{platform}: {answer:?}");
        // A homeserver takes no reaction twice.
        assert!(platform == "matrix" || said.reaches(&self.there).0 == 200);
        eventually("its end", || (self.state(&asked.id) == "completed").then_some(()));
        asked
    }

    /// They say no on another, when it is too late: nothing changes, and where that can be told to them alone, it is.
    fn comes_too_late(&self, settled: &Settled, platform: &str) {
        let said = self.people(platform).answers(settled.person, settled.card(platform), false);
        let (before, read) = (self.there.calls().len(), self.there.messages(platform).len());
        let told = said.reaches(&self.there);
        assert_eq!(told.0, 200, "{platform}: {told:?}");
        let word = match platform {
            "linear" | "notion" => return,
            "github" => "confused",
            _ => "already",
        };
        eventually(&format!("{platform} says {word:?}; in place: {told:?}"), || {
            // What is sealed on its way is read where it arrives.
            if platform == "xchat" {
                let now = self.there.messages(platform);
                return now[read..].iter().any(|it| it.words().contains(word)).then_some(());
            }
            let calls = self.there.calls();
            let mut since = calls[before..].iter().filter(|call| call.platform == platform);
            (told.1.contains(word) || since.any(|call| call.body.contains(word))).then_some(())
        });
        assert_eq!(self.state(&settled.id), "completed");
    }

    /// Everywhere, the card has its last face without anything to answer; or, where it stays as it was, words follow.
    fn shows_its_end(&self, settled: &Settled) {
        let end = "Carried out once; the other side answered 200";
        for card in &settled.cards {
            let platform = card.platform.as_str();
            let of_it = || {
                let all = self.there.messages(platform).into_iter();
                all.filter(|it| it.words().contains(&settled.path)).collect::<Vec<_>>()
            };
            let what = format!("the end of {} on {platform}", settled.path);
            if NO_EDITS.contains(&platform) {
                eventually(&what, || {
                    of_it().iter().any(|it| it.words().contains(end)).then_some(())
                });
                let now = of_it();
                assert_eq!(now[0].shown, card.shown, "it stays as it was");
            } else {
                eventually(&what, || {
                    let now = of_it().into_iter().find(|it| it.id == card.id)?;
                    let answered = now.buttons().is_none() && now.code().is_none();
                    (answered && now.words().contains(end)).then_some(())
                });
                assert_eq!(of_it().len(), 1, "one card, and no words beside it: {platform}");
            }
            let last = of_it().pop().unwrap();
            // What was heard here goes on to the platform itself, where there is one.
            eventually(&format!("{what} itself"), || {
                self.real.shows(&last).is_none_or(|shown| shown.contains(end)).then_some(())
            });
        }
    }
}

impl Settled {
    fn card(&self, platform: &str) -> &Message {
        self.cards.iter().find(|card| card.platform == platform).expect("it was asked there")
    }
}

fn policy() -> String {
    let rules = PEOPLE.iter().map(|name| {
        format!(
            "[[rule]]\nname = \"of {name}\"\nhost = \"{HOST}\"\npath = \"/on/{{platform}}/of/{name}\"\nthen = \"approve\"\n\
             credential = \"example\"\napprovers = [\"{name}\"]\nstrength = \"L0\"\n\n"
        )
    });
    format!("version = 1\n\n{}", rules.collect::<String>())
}

#[test]
fn one_approval_is_on_every_chat_at_once_and_one_answer_on_any_of_them_settles_it_on_all() {
    let mut all = Everywhere::start();
    // None is forgotten here.
    let guide = all.world.ok(&["channel", "guide"]);
    let listed: Vec<_> =
        guide.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(listed, PLATFORMS);

    // The first of them is asked on all, and answers on X, in the open and encrypted.
    all.link(0);
    let first = all.settle(0, "x");
    assert_eq!(first.cards.len(), CHANNELS.len());
    for platform in PLATFORMS.iter().filter(|platform| !DEAF.contains(platform)) {
        all.comes_too_late(&first, platform);
    }
    all.renews("x");
    let encrypted = all.settle(0, "xchat");

    // Each of the others is asked on nearly all, and answers on one after another.
    (1..PEOPLE.len()).for_each(|person| all.link(person));

    let mut settled = vec![first, encrypted];
    let deaf = |platform: &&&str| DEAF.contains(*platform) || OF_X.contains(*platform);
    let others = PLATFORMS.iter().filter(|platform| !deaf(platform));
    for (at, platform) in others.enumerate() {
        let asked_there = if *platform == "linear" { ASKED_ON_LINEAR } else { PEOPLE.len() };
        settled.push(all.settle(ASKED_ON_X + at % (asked_there - ASKED_ON_X), platform));
    }
    for settled in &settled {
        all.shows_its_end(settled);
    }

    // Each was carried out once, by one vote, and every card came once.
    let mut arrived: Vec<_> = all.origin.seen().into_iter().map(|seen| seen.target).collect();
    let mut asked: Vec<_> = settled.iter().map(|settled| settled.path.clone()).collect();
    arrived.sort();
    asked.sort();
    assert_eq!(arrived, asked);
    for settled in &settled {
        let shown = all.world.json(&["approval", "show", &settled.id]);
        let votes = shown["votes"].as_array().unwrap();
        let on = settled.path.split('/').nth(2).unwrap();
        assert_eq!((votes.len(), &votes[0]["channel"]), (1, &on.into()), "{shown}");
        for card in &settled.cards {
            assert_eq!(all.cards(&card.platform, &settled.id).len(), 1, "{}", card.platform);
        }
    }
    let dead = all.world.json(&["channel", "deliveries", "--state", "dead"]);
    assert_eq!(dead, serde_json::json!([]));
    all.keeps_its_secrets();
}

impl Everywhere {
    /// A secret is in the header that proves who calls, or at Telegram in the address, and there only its own platform's.
    fn keeps_its_secrets(&self) {
        let key: Value = serde_json::from_str(&self.keys.service_account).unwrap();
        let key = key["private_key"].as_str().unwrap().lines().nth(1).unwrap().to_owned();
        let mails = self.there.mail().raw();
        let sealed = self.there.calls().into_iter().filter(|it| it.platform == "xchat");
        let sealed: String = sealed.map(|call| format!("{}\n{}\n", call.path, call.body)).collect();
        for word in [HOST, "approve", "already"] {
            assert!(!sealed.contains(word), "{word:?} is there for X to read");
        }
        for (platform, connection, _) in &self.connections {
            for (name, secret) in connection.sent.iter().chain(&connection.kept) {
                assert!(!mails.contains(secret.as_str()), "{platform}'s {name} is in a mail");
            }
        }
        for call in self.there.calls() {
            let authorization = call.headers.get("authorization").cloned().unwrap_or_default();
            let basic =
                authorization.strip_prefix("Basic ").map(|it| BASE64_STANDARD.decode(it).unwrap());
            let proof = basic.map_or(authorization, |it| String::from_utf8(it).unwrap());
            let others = call.headers.iter().filter(|(name, _)| *name != "authorization");
            let others: String = others.map(|(_, value)| format!("{value}\n")).collect();
            let elsewhere = format!("{}\n{others}\n{}", call.path, call.body);
            for (platform, connection, _) in &self.connections {
                for (name, secret) in connection.sent.iter().chain(&connection.kept) {
                    let own = call.platform == *platform;
                    let sent = connection.sent.iter().any(|(sent, _)| sent == name);
                    let in_path = own && *platform == "telegram" && *name == "bot_token";
                    let place = elsewhere
                        .replace(&format!("bot{secret}/"), if in_path { "" } else { secret });
                    assert!(!place.contains(secret.as_str()), "{platform}'s {name}: {call:?}");
                    assert!(!proof.contains(secret.as_str()) || (own && sent), "{name}: {call:?}");
                }
            }
            assert!(!elsewhere.contains(GRANTED) && !elsewhere.contains(&key), "{call:?}");
            let granted = proof.split_once(GRANTED).map(|(_, platform)| platform);
            assert!(granted.is_none_or(|platform| call.platform == platform), "{call:?}");
        }
    }
}
