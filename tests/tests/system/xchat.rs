//! X's encrypted chat, from the request to the answer, with X's own SDK in the person's hand.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use countersign_tests::eventually;
use countersign_tests::peers::tools;
use serde_json::{Value, json};

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

const CONSUMER_SECRET: &str = "canary-consumer-s3cret";
const ACCESS_TOKEN: &str = "canary-user-t0ken";

/// X, which puts events together and reads none; and a person there.
struct X {
    child: Child,
    base: String,
}

impl X {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../control-plane/chat/tests/oracles/xchat_server.py");
        let mut child = Command::new(tools().join("python/bin/python3"))
            .arg(script)
            .arg(CONSUMER_SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("chatxdk: {error}; ./tests/run setup installs it"));
        let mut base = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut base).unwrap();
        Self { child, base: base.trim().to_owned() }
    }

    fn asks(&self, path: &str, body: Option<&Value>) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "30"]);
        if let Some(body) = body {
            curl.args(["--json", &body.to_string()]);
        }
        let output = curl.arg(format!("{}/{path}", self.base)).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// What the webhook is answered with.
    fn writes(&self, hook: &str, text: &str, forged: bool) -> Value {
        let body = json!({ "hook": hook, "text": text, "forged": forged });
        self.asks("_write", Some(&body))["status"].clone()
    }

    /// What the person can read, and verify that the bot wrote it.
    fn read(&self, words: &str) -> String {
        eventually(&format!("{words:?} on X"), || {
            let read = self.asks("_read", None);
            assert_eq!(read["errors"], json!({}));
            let texts = read["texts"].as_array().unwrap().iter().filter_map(Value::as_str);
            texts.filter(|text| text.contains(words)).map(str::to_owned).next_back()
        })
    }
}

impl Drop for X {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(team: &Team, x: &X) -> String {
    let account = x.asks("_account", None)["account"].clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let secrets = [
        ("access_token", ACCESS_TOKEN.to_owned()),
        ("consumer_secret", CONSUMER_SECRET.to_owned()),
        ("private_keys", text(&account["private_keys"])),
    ];
    let settings = [
        ("base_url", format!("{}/2", x.base)),
        ("account_id", text(&account["id"])),
        ("public_key_version", text(&account["registered"]["public_key_version"])),
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

#[test]
fn a_request_is_shown_and_answered_where_x_itself_can_read_neither() {
    let (team, x) = (Team::with(RULES, &[]), X::start());
    let hook = connect(&team, &x);

    // The person begins the conversation, and gives it its key.
    let offer = team.does("ana", &["approver", "link", "xchat", "-o", "json"]);
    let offer: Value = serde_json::from_str(&offer).unwrap();
    let link = format!("link {}", offer["code"].as_str().unwrap());
    assert_eq!(x.writes(&hook, &link, false), 200);
    x.read("This account is ana's");

    let (waiting, id) = team.hold("DELETE", "/encrypted/1");
    let card = x.read(&id);
    assert!(card.contains(&format!("DELETE {HOST}/encrypted/1")), "{card}");
    let code = card.split("approve ").nth(1).unwrap()[..9].to_owned();

    // Whoever signs with other keys in the person's name is not heard, and X is told to try again.
    assert_eq!(x.writes(&hook, &format!("approve {code}"), true), 503);
    assert_eq!((team.state(&id).as_str(), team.requests()), ("pending", 0));

    assert_eq!(x.writes(&hook, &format!("approve {code}"), false), 200);
    assert_eq!(waiting.answer().status, 200);
    x.read("Approved");
    let votes = team.shown(&id)["votes"].clone();
    assert_eq!((&votes[0]["approver"], &votes[0]["channel"]), (&"ana".into(), &"xchat".into()));
    // The last face is words that follow, which say how it ended.
    x.read("Carried out once");

    let seen = x.asks("_account", None)["bodies"].clone();
    assert!(seen.as_array().unwrap().len() >= 3, "{seen}");
    for secret in [HOST, &code, "approve", "This account is"] {
        assert!(!seen.to_string().contains(secret), "{secret} is there for X to read");
    }
}
