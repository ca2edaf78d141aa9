//! What a channel of each platform is connected with, and where people are found there.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::Platforms;
use super::encrypted::CONSUMER_SECRET;
use crate::mail;

/// Settings and secrets of one channel.
pub struct Connection {
    pub settings: Vec<(&'static str, String)>,
    /// Secrets that go to the platform, with every call.
    pub sent: Vec<(&'static str, String)>,
    /// Secrets that stay here.
    pub kept: Vec<(&'static str, String)>,
}

pub const PLATFORMS: [&str; 19] = [
    "slack",
    "teams",
    "gchat",
    "discord",
    "telegram",
    "whatsapp",
    "messenger",
    "instagram",
    "mattermost",
    "webex",
    "github",
    "linear",
    "notion",
    "x",
    "xchat",
    "twilio",
    "matrix",
    "email",
    "webhook",
];

/// A channel for each of them, and one that takes the other way of mails.
pub const CHANNELS: [&str; 20] = {
    let mut all = ["smtp"; 20];
    let (head, _) = all.split_at_mut(19);
    head.copy_from_slice(&PLATFORMS);
    all
};

/// What the access tokens that platforms grant begin with.
pub const GRANTED: &str = "granted-canary-of-";
/// Discord's key is made of this.
pub const DISCORD_SEED: &str = "canary: the application signs with this";
pub const TEAMS_APP: &str = "6f1a3f4e-0000-4000-8000-000000000001";

const MAILS: &[(&str, &str)] = &[
    ("from", "Countersign <countersign@example.test>"),
    ("page_url", "https://countersign.example.test/approvals"),
];

/// How a platform's channel is connected, at this address, for webhooks to that one.
pub fn connection(platform: &str, there: &Platforms, hook: &str, keys: &Keys) -> Connection {
    let base = &there.base(platform);
    let set = |pairs: &[(&'static str, &str)]| {
        pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    };
    let canary = |name: &str| format!("canary-{platform}-{name}-s3cret");
    let mut settings: Vec<(&str, String)> = vec![("base_url", base.to_owned())];
    let more: &[(&'static str, &str)] = match platform {
        "slack" => &[("app", "A1")],
        "teams" => &[("app", TEAMS_APP), ("tenant", "T1")],
        "discord" => &[("application", "1001")],
        "whatsapp" => &[("phone_number_id", "106540352242922")],
        "messenger" => &[("page_id", "104728521537301")],
        "instagram" => &[("account_id", "204728521537301")],
        "mattermost" => &[("bot", "bot1")],
        "webex" => &[("bot", "Y2lzY29zcGFyazovL3VzL1BFT1BMRS9ib3Q")],
        "github" => &[("account", "999")],
        "linear" => &[("organization", &there.names.linear_organization), ("account", "gateway")],
        "notion" => &[("workspace", "W1"), ("integration", "I1"), ("bot", "B1")],
        "x" => &[("account_id", "1111111111111111111")],
        "xchat" => {
            let account = &there.names.xchat;
            &[("account_id", &account.id), ("public_key_version", &account.key_version)]
        }
        "twilio" => &[("account_sid", "AC1"), ("from", "+15005550006")],
        "matrix" => &[("user", "@bot:countersign.test"), ("per_second", "50")],
        "email" => MAILS,
        "smtp" => {
            settings = vec![("host", "localhost".into()), ("port", there.mail().port.to_string())];
            settings.push(("user", mail::USER.into()));
            MAILS
        }
        _ => &[],
    };
    settings.extend::<Vec<_>>(set(more));
    match platform {
        "teams" => settings.extend([
            ("login_url", format!("{base}/login")),
            ("keys_url", format!("{base}/keys")),
            ("service_urls", format!("{base}/")),
        ]),
        "gchat" => settings
            .extend([("token_url", format!("{base}/token")), ("keys_url", format!("{base}/keys"))]),
        "discord" => settings.push(("public_key", keys.discord.clone())),
        "mattermost" => settings.push(("hook_url", hook.to_owned())),
        _ => {}
    }
    let token = |name: &'static str| vec![(name, secret(platform))];
    let named =
        |names: &[&'static str]| names.iter().map(|name| (*name, canary(name))).collect::<Vec<_>>();
    let (sent, kept) = match platform {
        "slack" => (token("bot_token"), named(&["signing_secret"])),
        "teams" => (token("client_secret"), vec![]),
        "discord" => (token("bot_token"), vec![]),
        "whatsapp" | "instagram" => (token("access_token"), named(&["app_secret", "verify_token"])),
        "messenger" => (token("page_access_token"), named(&["app_secret", "verify_token"])),
        "mattermost" => (token("bot_token"), named(&["command_token", "action_secret"])),
        "webex" => (token("bot_token"), named(&["webhook_secret"])),
        "github" => (token("token"), named(&["webhook_secret"])),
        "linear" => (token("token"), named(&["signing_secret"])),
        "notion" => (token("token"), named(&["verification_token"])),
        "x" => (token("access_token"), named(&["consumer_secret"])),
        "xchat" => {
            let keys = ("private_keys", there.names.xchat.private_keys.clone());
            let signed = ("consumer_secret", CONSUMER_SECRET.to_owned());
            (token("access_token"), vec![signed, keys])
        }
        "twilio" => (token("auth_token"), vec![]),
        "matrix" => (vec![("access_token", there.names.matrix_bot.clone())], vec![]),
        "email" => (token("api_key"), vec![]),
        "smtp" => (vec![("password", mail::PASSWORD.to_owned())], vec![]),
        "telegram" => {
            (vec![("bot_token", format!("7001:{}", secret(platform)))], named(&["webhook_secret"]))
        }
        "gchat" => (vec![], vec![("service_account", keys.service_account.clone())]),
        "webhook" => {
            let ours = ("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
            let theirs = ("answer_secret", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".to_owned());
            (vec![], vec![ours, theirs])
        }
        other => panic!("{other} is not known here"),
    };
    Connection { settings, sent, kept }
}

/// The token that calls to a platform come with, where it is one that nobody grants.
pub fn secret(platform: &str) -> String {
    format!("canary-{platform}-t0ken-s3cret")
}

/// The keys that are public in part.
pub struct Keys {
    /// In hexadecimal digits.
    pub discord: String,
    /// What Teams and Google Chat sign with.
    pub theirs: String,
    pub key_set: Value,
    /// A key file of Google's.
    pub service_account: String,
    /// What their webhooks are signed with, for the hour that this lasts.
    pub(super) of_teams: OnceLock<String>,
    pub(super) of_google: OnceLock<String>,
}

impl Keys {
    pub fn make() -> Self {
        let pairs = super::people::oracle("jwt_sign.py", &json!({ "make": 2 }));
        let mut key = pairs[0]["key"].clone();
        key["kid"] = "k1".into();
        let account = json!({
            "type": "service_account", "client_email": "bot@p.iam.gserviceaccount.com",
            "private_key": pairs[1]["pem"], "private_key_id": "ours",
        });
        let question = json!({ "secret": DISCORD_SEED, "timestamp": 0, "body": "" });
        let discord = super::people::oracle("discord_sign.py", &question);
        Self {
            discord: discord["public_key"].as_str().unwrap().to_owned(),
            theirs: pairs[0]["pem"].as_str().unwrap().to_owned(),
            key_set: json!({ "keys": [key] }),
            service_account: account.to_string(),
            of_teams: OnceLock::new(),
            of_google: OnceLock::new(),
        }
    }
}

/// The place for one person alone, as the platform calls it.
pub fn place_of(platform: &str, account: &str) -> String {
    match platform {
        "teams" => format!("a:{account}"),
        "gchat" => format!("spaces/DM{}", account.trim_start_matches("users/")),
        "discord" => format!("30{account}"),
        "mattermost" => format!("direct-{account}"),
        "webex" => format!("Y2lzY29zcGFyazovL3VzL1JPT00v{account}"),
        _ => account.to_owned(),
    }
}
