//! X's encrypted chat, from the request to the answer, with X's own SDK in the person's hand.

use countersign_tests::eventually;
use countersign_tests::platforms::connection::secret;
use countersign_tests::platforms::encrypted::{self, CONSUMER_SECRET, Encrypted};
use serde_json::Value;

use super::HOST;
use super::deciding::Team;

const RULES: &str = r#"
[[rule]]
name = "encrypted"
host = "api.example.test"
methods = ["DELETE"]
path = "/encrypted/{id}"
then = "approve"
credential = "example"
approvers = ["ops"]
strength = "L0"
"#;

fn connect(team: &Team, x: &Encrypted) -> String {
    let account = x.account();
    let secrets = [
        ("access_token", secret("xchat")),
        ("consumer_secret", CONSUMER_SECRET.to_owned()),
        ("private_keys", account.private_keys),
    ];
    let settings = [
        ("base_url", x.api()),
        ("account_id", account.id),
        ("public_key_version", account.key_version),
    ]
    .map(|(name, value)| format!("{name}={value}"));
    let files = secrets.map(|(name, secret)| {
        let path = team.world.dir().join(name);
        std::fs::write(&path, secret).unwrap();
        format!("{name}={}", path.display())
    });
    let mut arguments = vec!["channel", "add", "xchat", "--platform", "xchat"];
    settings.iter().for_each(|it| arguments.extend(["--set", it]));
    files.iter().for_each(|it| arguments.extend(["--secret-file", it]));
    team.world.json(&arguments)["hook_url"].as_str().unwrap().to_owned()
}

/// What the channel answers when the person has written.
fn writes(x: &Encrypted, hook: &str, text: &str, forged: bool) -> u16 {
    encrypted::writes(&x.api(), hook, text, forged).arrives().0
}

fn read(x: &Encrypted, words: &str) -> String {
    eventually(&format!("{words:?} on X"), || {
        encrypted::read(&x.api()).into_iter().rfind(|text| text.contains(words))
    })
}

#[test]
fn a_request_is_shown_and_answered_where_x_itself_can_read_neither() {
    let (team, x) = (Team::with(RULES, &[]), Encrypted::start());
    let hook = connect(&team, &x);

    // The person begins the conversation, and gives it its key.
    let offer = team.does("ana", &["approver", "link", "xchat", "-o", "json"]);
    let offer: Value = serde_json::from_str(&offer).unwrap();
    let link = format!("link {}", offer["code"].as_str().unwrap());
    assert_eq!(writes(&x, &hook, &link, false), 200);
    read(&x, "This account is ana's");

    let (waiting, id) = team.hold("DELETE", "/encrypted/1");
    let card = read(&x, &id);
    assert!(card.contains(&format!("DELETE {HOST}/encrypted/1")), "{card}");
    let code = card.split("approve ").nth(1).unwrap()[..9].to_owned();

    // Whoever signs with other keys in the person's name is not heard, and X is told to try again.
    assert_eq!(writes(&x, &hook, &format!("approve {code}"), true), 503);
    assert_eq!((team.state(&id).as_str(), team.requests()), ("pending", 0));

    assert_eq!(writes(&x, &hook, &format!("approve {code}"), false), 200);
    assert_eq!(waiting.answer().status, 200);
    read(&x, "Approved");
    let votes = team.shown(&id)["votes"].clone();
    assert_eq!((&votes[0]["approver"], &votes[0]["channel"]), (&"ana".into(), &"xchat".into()));
    // The last face is words that follow, which say how it ended.
    read(&x, "Carried out once");

    let seen = x.bodies();
    assert!(seen.as_array().unwrap().len() >= 3, "{seen}");
    for secret in [HOST, &code, "approve", "This account is"] {
        assert!(!seen.to_string().contains(secret), "{secret} is there for X to read");
    }
}
