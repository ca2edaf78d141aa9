//! The platforms that others have built to be run here: they take what is sent, and keep what their messages show.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::connection::secret;
use super::encrypted::{Account, Encrypted};
use super::homeserver::{self, Homeserver};
use super::{Call, Message};
use crate::peers::free_ports_in_a_row;
use crate::world::eventually;

/// Emulated Slack, GitHub, Linear, Twilio and Resend; a homeserver of Matrix; and X's SDK at the other end of its encrypted
/// chat.
pub struct Real {
    dir: TempDir,
    child: Child,
    homeserver: Homeserver,
    encrypted: Encrypted,
    port: u16,
    /// What only they know: ids of accounts, and of what cards are written under.
    pub names: Names,
}

#[derive(Clone, Debug, Default)]
pub struct Names {
    pub slack_users: Vec<String>,
    pub linear_organization: String,
    pub linear_issue: String,
    pub github_issue: String,
    pub matrix_bot: String,
    /// Access tokens of people, and the rooms where they write to the bot.
    pub matrix_people: Vec<(String, String)>,
    pub xchat: Account,
}

/// In the order of their ports.
const SERVICES: [(&str, &str); 5] = [
    ("slack", "slack"),
    ("github", "github"),
    ("linear", "linear"),
    ("twilio", "twilio"),
    ("email", "resend"),
];

impl Real {
    pub fn start(people: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("seed.yaml"), seed(people).to_string()).unwrap();
        let port = free_ports_in_a_row(5);
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let services = SERVICES.map(|(_, service)| service).join(",");
        let child =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("node_modules/.bin/emulate"))
                .args(["start", "-p", &port.to_string(), "-s", &services, "--seed"])
                .arg(dir.path().join("seed.yaml"))
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap_or_else(|error| panic!("emulate: {error}; ./tests/run setup installs it"));
        let homeserver = Homeserver::start(dir.path());
        let (encrypted, names) = (Encrypted::start(), Names::default());
        let mut real = Self { dir, child, homeserver, encrypted, port, names };
        for at in 0..5 {
            eventually(&format!("port {}\n{}", port + at, real.log()), || {
                TcpStream::connect(("127.0.0.1", port + at)).ok()
            });
        }
        real.homeserver.settle(people);
        real.names = real.look(people);
        real
    }

    /// Where each of them is.
    pub(super) fn bases(&self) -> BTreeMap<String, String> {
        let bases = SERVICES.iter().zip(self.port..).map(|((platform, _), port)| {
            let below = if *platform == "slack" { "/api" } else { "" };
            ((*platform).to_owned(), format!("http://127.0.0.1:{port}{below}"))
        });
        let matrix = ("matrix".to_owned(), self.homeserver.base.clone());
        bases.chain([matrix, ("xchat".to_owned(), self.encrypted.api())]).collect()
    }

    /// What a message shows over there, as that side tells it; none where this is not one of them.
    pub fn shows(&self, message: &Message) -> Option<String> {
        let (id, place) = (&message.id, &message.place);
        let kept = match message.platform.as_str() {
            "slack" => {
                let within = json!({
                    "channel": place, "latest": id, "oldest": id, "inclusive": true,
                });
                let history = self.ask("slack", "conversations.history", Some(&within));
                history["messages"][0].clone()
            }
            "github" => {
                let (repository, _) = place.split_once('#').unwrap();
                self.ask("github", &format!("repos/{repository}/issues/comments/{id}"), None)
            }
            "linear" => {
                let query = "query($id: String!) { comment(id: $id) { body } }";
                let asked = json!({ "query": query, "variables": { "id": id } });
                self.ask("linear", "graphql", Some(&asked))
            }
            "twilio" => {
                self.ask("twilio", &format!("2010-04-01/Accounts/AC1/Messages/{id}.json"), None)
            }
            "email" => self.ask("email", &format!("emails/{id}"), None),
            "matrix" => {
                let path = format!("rooms/{place}/event/{id}");
                let bot = &self.homeserver.bot;
                homeserver::asks(&self.homeserver.base, "GET", &path, &Value::Null, bot)
            }
            _ => return None,
        };
        Some(super::strings(&kept).join("\n"))
    }

    fn look(&self, people: usize) -> Names {
        let issue = self.ask(
            "github",
            "repos/acme/deploy.tools/issues",
            Some(&json!({ "title": "Deploy" })),
        );
        let asked = json!({ "query": "{ organization { id } issues { nodes { id } } }" });
        let linear = self.ask("linear", "graphql", Some(&asked))["data"].clone();
        let listed = self.ask("slack", "users.list", Some(&json!({})));
        let user = |person: usize| {
            let mut members = listed["members"].as_array().unwrap().iter();
            let member = members.find(|member| member["name"] == format!("person{person}"));
            member.unwrap_or_else(|| panic!("{listed}"))["id"].as_str().unwrap().to_owned()
        };
        Names {
            slack_users: (0..people).map(user).collect(),
            linear_organization: linear["organization"]["id"].as_str().unwrap().to_owned(),
            linear_issue: linear["issues"]["nodes"][0]["id"].as_str().unwrap().to_owned(),
            matrix_bot: self.homeserver.bot.clone(),
            matrix_people: self.homeserver.people.clone(),
            xchat: self.encrypted.account(),
            github_issue: format!("acme/deploy.tools#{}", issue["number"]),
        }
    }

    fn ask(&self, platform: &str, path: &str, body: Option<&Value>) -> Value {
        let token = secret(platform);
        let proof = match platform {
            "twilio" => {
                let pair = BASE64_STANDARD.encode(format!("AC1:{token}"));
                format!("Basic {pair}")
            }
            _ => format!("Bearer {token}"),
        };
        let headers = [("authorization", proof), ("content-type", "application/json".to_owned())];
        let call = Call {
            platform: platform.to_owned(),
            method: if body.is_some() { "POST" } else { "GET" }.to_owned(),
            path: path.to_owned(),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            body: body.map(Value::to_string).unwrap_or_default(),
        };
        let (status, answer) = forward(&call, &self.bases()[platform]);
        assert!(
            (200..300).contains(&status),
            "{platform} {path}: {status} {answer}\n{}",
            self.log()
        );
        serde_json::from_str(&answer).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the same call there.
pub(super) fn forward(call: &Call, base: &str) -> (u16, String) {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-w", "\n%{http_code}", "--noproxy", "*", "--max-time", "60"]);
    curl.args(["-X", &call.method]);
    let own = ["host", "content-length", "connection", "accept-encoding"];
    for (name, value) in call.headers.iter().filter(|(name, _)| !own.contains(&name.as_str())) {
        curl.arg("-H").arg(format!("{name}: {value}"));
    }
    if !call.body.is_empty() {
        curl.args(["--data-binary", &call.body]);
    }
    let output = curl.arg(format!("{base}/{}", call.path)).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// JSON is YAML.
fn seed(people: usize) -> Value {
    let named = |name: String| json!({ "name": name });
    let mut users = vec![named("gateway".into())];
    users.extend((0..people).map(|person| named(format!("person{person}"))));
    let of_github =
        json!({ secret("github"): { "login": "acme", "scopes": ["repo", "admin:repo_hook"] } });
    json!({
        "tokens": of_github,
        "slack": {
            "users": users,
            "tokens": [{
                "token": secret("slack"), "user": "gateway",
                "scopes": ["chat:write", "im:write", "im:history", "users:read"],
            }],
        },
        "github": {
            "users": [{ "login": "acme", "name": "Acme" }],
            "repos": [{ "owner": "acme", "name": "deploy.tools", "private": false }],
        },
        "linear": {
            "organization": { "name": "Acme", "url_key": "acme" },
            "users": [{ "email": "gateway@example.test", "name": "Gateway", "admin": true }],
            "teams": [{ "key": "ENG", "name": "Engineering" }],
            "issues": [{ "team": "ENG", "title": "Deploy" }],
            "tokens": [{
                "token": secret("linear"), "user": "gateway@example.test",
                "scopes": ["read", "write", "issues:create", "comments:create", "admin"],
            }],
        },
        "twilio": {
            "account": { "sid": "AC1", "auth_token": secret("twilio") },
            "phone_numbers": [{ "phone_number": "+15005550006" }],
        },
        "resend": { "domains": [{ "name": "example.test" }] },
    })
}
