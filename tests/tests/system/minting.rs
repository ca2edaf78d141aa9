//! Credentials whose tokens are minted by the control plane: what they are minted with goes nowhere but to their issuer,
//! and agents see neither that nor the tokens.

use std::io::Write as _;
use std::process::{Command, Stdio};

use countersign_tests::invariants::holds;
use countersign_tests::issuer::{
    API, AUTH, CLIENT_ID, CLIENT_SECRET, Issuer, REFRESH_TOKEN, client_value, distinct, form,
    refresh_token, rsa_key,
};
use countersign_tests::peers::{clients, tools};
use countersign_tests::{Agent, Answer, Credential, World, eventually};
use serde_json::Value;

/// Reads alone: the token is lent to the edge.
const READS: &str = r#"
version = 1

[[rule]]
name = "read"
host = "api.example.test"
methods = ["GET", "HEAD"]
then = "allow"
credential = "minted"
"#;

/// Everything is released one request at a time.
const ASKED: &str = r#"
version = 1

[[rule]]
name = "read"
host = "api.example.test"
methods = ["GET", "HEAD"]
then = "allow"
credential = "minted"

[[rule]]
name = "change"
host = "api.example.test"
methods = ["DELETE", "POST"]
then = "approve"
credential = "minted"
approvers = ["admin"]
"#;

const TOKEN_URL: &str = "https://auth.example.test/token";
const OAUTH: [&str; 12] = [
    "--host",
    API,
    "--slot",
    "header",
    "--mint",
    "oauth-refresh-token",
    "--token-url",
    TOKEN_URL,
    "--client-id",
    CLIENT_ID,
    "--scope",
    "read",
];

fn world(issuer: &Issuer, policy: &str) -> World {
    World::start(&issuer.origin, &[API, AUTH], policy)
}

fn oauth(world: &World) -> Credential {
    world.credential("minted", &client_value(), &OAUTH)
}

fn get(world: &World, agent: &Agent, credential: &Credential, path: &str) -> Answer {
    let bearer = format!("authorization: Bearer {}", credential.fake_key);
    world.fetch(agent, &["-H", &bearer, &format!("https://{API}{path}")])
}

fn listed(world: &World) -> Value {
    world.json(&["credential", "list"]).as_array().unwrap()[0].clone()
}

fn actions(world: &World) -> Vec<String> {
    let records = world.json(&["audit", "list"]);
    let name = |record: &Value| record["action"].as_str().unwrap().to_owned();
    records.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn sixty_four_needs_at_once_make_one_call_and_all_of_them_get_the_token() {
    let issuer = Issuer::start();
    let world = world(&issuer, READS);
    let agent = world.agent("robot");
    let credential = oauth(&world);
    assert_eq!(issuer.calls(), 0, "a token that nobody needs is not asked for");
    let bearer = format!("authorization: Bearer {}", credential.fake_key);
    let waiting: Vec<_> = (0..64)
        .map(|n| world.fetch_later(&agent, &["-H", &bearer, &format!("https://{API}/{n}")]))
        .collect();
    for answer in waiting {
        assert_eq!(answer.answer().status, 200);
    }
    assert_eq!(issuer.calls(), 1);
    let used = issuer.used();
    assert_eq!((used.len(), distinct(&used)), (64, 1), "{used:?}");
    assert_eq!(used[0], format!("Bearer {}", issuer.issued()[0]));
    let call = &issuer.ledger.lock().unwrap().calls[0].0;
    assert_eq!(form(&call.body)["scope"], "read");
    assert!(call.carries(CLIENT_SECRET), "in the header, as it is unless told otherwise");

    let listed = listed(&world);
    assert_eq!(listed["kind"], "oauth-refresh-token", "{listed}");
    assert!(listed["token_expires_at"].is_string(), "{listed}");
    assert_eq!(listed["mint_failure"], Value::Null);
    let actions = actions(&world);
    let count = |of: &str| actions.iter().filter(|action| *action == of).count();
    assert_eq!((count("credential.mint_attempt"), count("credential.mint")), (1, 1), "{actions:?}");
}

#[test]
fn a_refresh_token_that_was_used_is_replaced_and_the_next_one_outlives_a_crash() {
    let issuer = Issuer::start();
    issuer.ledger.lock().unwrap().expires_in = 10;
    let mut world = world(&issuer, READS);
    let agent = world.agent("robot");
    let credential = oauth(&world);
    let answer = get(&world, &agent, &credential, "/1");
    assert_eq!(answer.status, 200, "{answer:?}");
    let again = |world: &World, calls: usize| {
        eventually("the next token", || {
            let answer = get(world, &agent, &credential, "/again");
            assert_eq!(answer.status, 200, "there is always one that counts: {answer:?}");
            (issuer.calls() >= calls).then_some(())
        });
    };
    again(&world, 2);
    world.kill();
    world.run();
    let agent =
        Agent { proxy: agent.proxy.replace(&port(&agent.proxy), &world.edge_address()), ..agent };
    let answer = eventually("served again", || {
        let answer = get(&world, &agent, &credential, "/after");
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(answer.status, 200);
    eventually("the third token", || {
        let answer = get(&world, &agent, &credential, "/again");
        assert_eq!(answer.status, 200, "{answer:?}");
        (issuer.calls() >= 3).then_some(())
    });
    let ledger = issuer.ledger.lock().unwrap();
    for (number, (call, issued)) in ledger.calls.iter().enumerate() {
        assert!(issued, "call {number} was refused");
        let shown = &form(&call.body)["refresh_token"];
        assert_eq!(*shown, refresh_token(number as u64 + 1), "each is used once, and in turn");
    }
}

fn port(proxy: &str) -> String {
    proxy.rsplit_once('@').unwrap().1.trim_end_matches('/').to_owned()
}

#[test]
fn what_an_issuer_refuses_is_a_503_that_names_the_key_and_says_nothing_of_the_issuers() {
    let issuer = Issuer::start();
    let said = r#"{"error":"invalid_grant","error_description":"canary-of-the-provider"}"#;
    issuer.ledger.lock().unwrap().refusing = Some((400, said.into()));
    let world = world(&issuer, READS);
    let agent = world.agent("robot");
    let credential = oauth(&world);
    for n in 0..5 {
        let answer = get(&world, &agent, &credential, &format!("/{n}"));
        assert_eq!((answer.status, answer.code().as_str()), (503, "credential_unavailable"));
        assert!(
            answer.body.contains("minted") && answer.body.contains("invalid_grant"),
            "{answer:?}"
        );
        assert!(!answer.body.contains("canary"), "{answer:?}");
        assert!(answer.header("retry-after").is_some());
    }
    assert!(issuer.calls() < 5, "failures are spaced out: {}", issuer.calls());
    assert_eq!(issuer.used().len(), 0, "nothing was sent without a token");
    let listed = listed(&world);
    assert_eq!(listed["mint_failure"], "its issuer refused it (HTTP 400, invalid_grant)");
    assert!(actions(&world).contains(&"credential.mint_failed".to_owned()));
    let audit = world.ok(&["audit", "export"]);
    assert!(!audit.contains("canary-of-the-provider") && !world.log().contains("canary-of"));

    // Somebody puts it right, and does not have to wait for the next attempt.
    issuer.ledger.lock().unwrap().refusing = None;
    let file = world.dir().join("value.json");
    std::fs::write(&file, client_value()).unwrap();
    world.ok(&["credential", "rotate", "minted", "--from-file", file.to_str().unwrap()]);
    eventually("a token after the rotation", || {
        (get(&world, &agent, &credential, "/right").status == 200).then_some(())
    });
}

#[test]
fn a_redirect_of_an_issuer_is_not_followed() {
    let issuer = Issuer::start();
    issuer.ledger.lock().unwrap().refusing = Some((307, "{}".into()));
    let world = world(&issuer, READS);
    let agent = world.agent("robot");
    let credential = oauth(&world);
    let answer = get(&world, &agent, &credential, "/");
    assert_eq!((answer.status, answer.code().as_str()), (503, "credential_unavailable"));
    assert!(answer.body.contains("redirect"), "{answer:?}");
    assert_eq!(issuer.origin.seen().len(), 1, "it was asked once, and nobody else was");
}

#[test]
fn an_approval_is_not_used_up_while_no_token_can_be_had() {
    let issuer = Issuer::start();
    issuer.ledger.lock().unwrap().refusing = Some((500, "{}".into()));
    let world = world(&issuer, ASKED);
    let agent = world.agent("robot");
    let credential = oauth(&world);
    let bearer = format!("authorization: Bearer {}", credential.fake_key);
    let url = format!("https://{API}/doomed");
    let delete = ["-X", "DELETE", "-H", &bearer, &url];
    let waiting = world.fetch_later(&agent, &delete);
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    assert_eq!(issuer.calls(), 0, "nothing is minted for what nobody has approved");
    world.ok(&["approval", "approve", &id]);
    let answer = waiting.answer();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "credential_unavailable"),
        "{answer:?}"
    );
    assert_eq!(answer.header("countersign-approval-id"), Some(id.as_str()));
    assert_eq!(world.json(&["approval", "show", &id])["state"], "approved");

    issuer.ledger.lock().unwrap().refusing = None;
    let answer = eventually("carried out", || {
        let answer = world.fetch(&agent, &delete);
        (answer.status == 200).then_some(answer)
    });
    assert!(answer.body.contains("\"ok\":true"), "{answer:?}");
    let carried_out =
        issuer.origin.seen().into_iter().filter(|seen| seen.method == "DELETE").count();
    assert_eq!((carried_out, world.approvals().len()), (1, 1), "once, and nobody was asked again");
}

fn verified(assertion: &str, key: &std::path::Path, audience: &str) -> Value {
    let mut judge = Command::new(tools().join("python/bin/python"))
        .current_dir(clients())
        .args(["verify_assertion.py", key.to_str().unwrap(), audience])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    judge.stdin.take().unwrap().write_all(assertion.as_bytes()).unwrap();
    let said = judge.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

#[test]
fn a_github_app_mints_a_token_of_its_own_for_each_release_and_one_for_all_that_lend() {
    let issuer = Issuer::start();
    let world = world(&issuer, ASKED);
    let (pem, public) = rsa_key(world.dir());
    let agent = world.agent("robot");
    let arguments = [
        "--host",
        API,
        "--slot",
        "header",
        "--mint",
        "github-app",
        "--api-url",
        "https://auth.example.test",
        "--app-id",
        "12345",
        "--installation-id",
        "42",
        "--repository",
        "one",
        "--permission",
        "contents=read",
    ];
    let credential = world.credential("minted", &pem, &arguments);
    assert!(credential.fake_key.starts_with("ghs_"), "{}", credential.fake_key);
    for n in 0..3 {
        let answer = get(&world, &agent, &credential, &format!("/{n}"));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let used = issuer.used();
    assert_eq!((issuer.calls(), used.len(), distinct(&used)), (3, 3, 3), "{used:?}");
    for (call, _) in &issuer.ledger.lock().unwrap().calls {
        assert_eq!(call.target, "/app/installations/42/access_tokens");
        let wanted: Value = serde_json::from_slice(&call.body).unwrap();
        let scoped = serde_json::json!({"repositories":["one"],"permissions":{"contents":"read"}});
        assert_eq!(wanted, scoped);
        let assertion = call.credential().unwrap().strip_prefix("Bearer ").unwrap();
        let verified = verified(assertion, &public, "-");
        assert_eq!(verified["claims"]["iss"], "12345");
        let lasts = |of: &str| verified["claims"][of].as_u64().unwrap();
        assert!(lasts("exp") - lasts("iat") <= 600, "{verified}");
    }

    // Where only reads are allowed, its token is lent, and shared.
    std::fs::write(world.dir().join("policy.toml"), READS).unwrap();
    world.ok(&["policy", "set", "policy.toml"]);
    for n in 0..3 {
        assert_eq!(get(&world, &agent, &credential, &format!("/lent/{n}")).status, 200);
    }
    assert_eq!(issuer.calls(), 4);
}

#[test]
fn a_service_account_shows_an_assertion_and_its_key_goes_nowhere() {
    let issuer = Issuer::start();
    let world = world(&issuer, READS);
    let (pem, public) = rsa_key(world.dir());
    let agent = world.agent("robot");
    let email = "robot@project.iam.gserviceaccount.com";
    let key = serde_json::json!({
        "type": "service_account",
        "client_email": email,
        "private_key": pem,
        "private_key_id": "key-1",
        "token_uri": "https://auth.example.test/google",
    });
    let scope = "https://www.googleapis.com/auth/cloud-platform";
    let arguments =
        ["--host", API, "--slot", "header", "--mint", "google-service-account", "--scope", scope];
    let credential = world.credential("minted", &key.to_string(), &arguments);
    assert_eq!(get(&world, &agent, &credential, "/").status, 200);
    let ledger = issuer.ledger.lock().unwrap();
    let fields = form(&ledger.calls[0].0.body);
    assert_eq!(fields["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let verified = verified(&fields["assertion"], &public, "https://auth.example.test/google");
    assert_eq!(verified["header"]["kid"], "key-1");
    assert_eq!(verified["claims"]["iss"], email);
    assert_eq!(verified["claims"]["scope"], scope);
    let line = pem.lines().nth(3).unwrap();
    for seen in issuer.origin.seen() {
        assert!(!seen.text().contains(line), "the private key does not travel");
    }
}

#[test]
fn client_credentials_come_in_files_of_their_own_and_are_shown_in_the_body() {
    let issuer = Issuer::start();
    let world = world(&issuer, READS);
    let agent = world.agent("robot");
    let file = world.dir().join("client-secret");
    std::fs::write(&file, format!("{CLIENT_SECRET}\n")).unwrap();
    let made = world.json(&[
        "credential",
        "create",
        "minted",
        "--host",
        API,
        "--slot",
        "header",
        "--mint",
        "oauth-client-credentials",
        "--token-url",
        TOKEN_URL,
        "--client-id",
        CLIENT_ID,
        "--client-auth",
        "body",
        "--parameter",
        "audience=https://api.example.test",
        "--client-secret-file",
        file.to_str().unwrap(),
    ]);
    let fake_key = made["fake_key"].as_str().unwrap().to_owned();
    let credential = Credential { name: "minted".into(), fake_key };
    assert_eq!(get(&world, &agent, &credential, "/").status, 200);
    let ledger = issuer.ledger.lock().unwrap();
    let fields = form(&ledger.calls[0].0.body);
    assert_eq!(fields["grant_type"], "client_credentials");
    assert_eq!(fields["audience"], "https://api.example.test");
    assert_eq!(fields["client_secret"], CLIENT_SECRET);
    assert!(ledger.calls[0].0.headers.get("authorization").is_none());
}

#[test]
fn e2e_canary_neither_a_token_nor_what_it_is_minted_with_is_anywhere_but_where_it_belongs() {
    let issuer = Issuer::start();
    let mut world = world(&issuer, ASKED);
    let agent = world.agent("robot");
    let credential = oauth(&world);
    let mut heard = String::new();
    // The API says back what it was given.
    let answer = get(&world, &agent, &credential, "/echo");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("\"echo\":\"***"), "{answer:?}");
    heard.push_str(&format!("{answer:?}"));
    let bearer = format!("authorization: Bearer {}", credential.fake_key);
    let url = format!("https://{API}/approved");
    let waiting = world.fetch_later(&agent, &["-X", "POST", "-H", &bearer, "-d", "{}", &url]);
    let id = world.approval("pending")["id"].as_str().unwrap().to_owned();
    world.ok(&["approval", "approve", &id]);
    let answer = waiting.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    heard.push_str(&format!("{answer:?}"));
    let form = format!("grant_type=refresh_token&refresh_token={}", credential.fake_key);
    heard.push_str(&format!("{:?}", world.fetch(&agent, &["-d", &form, TOKEN_URL])));
    for arguments in [
        vec!["credential", "list", "-o", "json"],
        vec!["audit", "export"],
        vec!["approval", "list", "-o", "json"],
    ] {
        heard.push_str(&world.ok(&arguments));
    }
    let metrics = world.fetch_page(&format!("{}/metrics", world.web()));
    assert!(metrics.contains("countersign_"), "{metrics}");
    world.kill();
    let secrets = issuer.secrets();
    assert!(
        secrets.len() >= 4,
        "the first refresh token, the second, the client's secret, a token"
    );
    for secret in secrets {
        for (path, bytes) in world.files() {
            assert!(!holds(&bytes, &secret), "{secret} is in {}", path.display());
        }
        for (what, text) in
            [("an answer", &heard), ("the log", &world.log()), ("metrics", &metrics)]
        {
            assert!(!holds(text.as_bytes(), &secret), "{secret} is in {what}");
        }
    }
    for seen in issuer.origin.seen().iter().filter(|seen| seen.host.starts_with(API)) {
        let text = seen.text();
        assert!(!holds(text.as_bytes(), REFRESH_TOKEN) && !holds(text.as_bytes(), CLIENT_SECRET));
        assert!(!text.contains(&credential.fake_key), "no fake key leaves");
    }
}

// N-TOKENEP: an agent's own client asks for a token itself.

#[test]
fn n_tokenep_googles_own_client_asks_for_a_token_gets_the_fake_key_and_uses_it() {
    let issuer = Issuer::start();
    let world = world(&issuer, READS);
    let agent = world.agent("robot");
    let credential = oauth(&world);
    let mut environment = world.cli(&["env", "--agent", "robot", "--format", "json"]);
    let printed = environment.env("COUNTERSIGN_AGENT_TOKEN", &agent.token).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let variables: serde_json::Map<String, Value> =
        serde_json::from_slice(&printed.stdout).unwrap();
    let said = Command::new(tools().join("python/bin/python"))
        .current_dir(clients())
        .args(["google_auth_user.py", TOKEN_URL, &format!("https://{API}/sdk"), CLIENT_ID])
        .arg(&credential.fake_key)
        .envs(variables.iter().map(|(name, value)| (name, value.as_str().unwrap())))
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["token"], credential.fake_key, "{said}");
    assert_eq!(said["status"], 200, "{said}");
    assert_eq!(issuer.calls(), 1, "the control plane's own, for what the fake key stands for");
    assert!(!said.to_string().contains(&issuer.issued()[0]), "no fresh token reaches the agent");
}

#[test]
fn n_tokenep_a_fake_key_is_answered_by_the_edge_wherever_a_client_shows_it() {
    let issuer = Issuer::start();
    let world = world(&issuer, READS);
    let agent = world.agent("robot");
    let credential = oauth(&world);
    let fake = credential.fake_key.as_str();
    let pair = format!("{CLIENT_ID}:{fake}");
    let refresh = format!("grant_type=refresh_token&refresh_token={fake}&client_id={CLIENT_ID}");
    let json = format!(r#"{{"grant_type":"refresh_token","refresh_token":"{fake}"}}"#);
    for arguments in [
        vec!["-d", &refresh],
        vec!["-u", &pair, "-d", "grant_type=client_credentials"],
        vec!["-H", "content-type: application/json", "-d", &json],
    ] {
        for protocol in ["--http1.1", "--http2"] {
            let answer = world.fetch(&agent, &[&arguments[..], &[protocol, TOKEN_URL]].concat());
            assert_eq!(answer.status, 200, "{answer:?}");
            let token: Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(token["access_token"], fake);
            assert_eq!(
                (&token["token_type"], &token["expires_in"]),
                (&"Bearer".into(), &3600.into())
            );
            assert_eq!(token.as_object().unwrap().len(), 3, "{token}");
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }
    assert!(issuer.origin.seen().is_empty(), "nothing was sent: {:?}", issuer.origin.seen());
}

#[test]
fn n_tokenep_an_agent_that_no_rule_gives_the_key_to_is_refused_and_that_is_an_alarm() {
    let issuer = Issuer::start();
    let policy = READS.replace("then = \"allow\"", "agents = [\"other\"]\nthen = \"allow\"");
    let world = world(&issuer, &policy);
    let agent = world.agent("robot");
    let credential = oauth(&world);
    let form = format!("grant_type=refresh_token&refresh_token={}", credential.fake_key);
    let answer = world.fetch(&agent, &["-d", &form, TOKEN_URL]);
    assert_eq!((answer.status, answer.code().as_str()), (403, "fake_key_misplaced"), "{answer:?}");
    assert!(issuer.origin.seen().is_empty());
    eventually("the alarm", || {
        let alarms = world.json(&["audit", "list"]).to_string();
        alarms.contains("fake_key_misplaced").then_some(())
    });
}

#[test]
fn n_tokenep_any_other_request_to_the_issuer_goes_by_the_policy() {
    let issuer = Issuer::start();
    let rule = r#"
[[rule]]
name = "the issuer itself"
host = "auth.example.test"
methods = ["GET", "POST"]
path = "/token"
then = "allow"
"#;
    let world = world(&issuer, &format!("{READS}{rule}"));
    let agent = world.agent("robot");
    let credential = oauth(&world);
    // Of its own, without a fake key: it is sent, and what comes back is the agent's.
    let own = "grant_type=refresh_token&refresh_token=the-agents-own-0123456789";
    let answer = world.fetch(&agent, &["-d", own, TOKEN_URL]);
    assert_eq!(answer.status, 400, "the issuer's own answer: {answer:?}");
    assert!(answer.body.contains("invalid_grant"), "{answer:?}");
    assert_eq!(issuer.calls(), 1);
    // With a fake key, and not as a client asks for a token; or elsewhere at the issuer.
    let fake = credential.fake_key.as_str();
    let (form, header) = (format!("refresh_token={fake}"), format!("x-key: {fake}"));
    for arguments in [
        vec!["-d", &form, "https://auth.example.test/token?x=1"],
        vec!["-d", &form, "https://auth.example.test/other"],
        vec!["-H", &header, "https://auth.example.test/token"],
    ] {
        let answer = world.fetch(&agent, &arguments);
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert!(!answer.body.contains("access_token"), "{answer:?}");
    }
    let elsewhere = world.fetch(&agent, &["-d", own, "https://auth.example.test/other"]);
    assert_eq!((elsewhere.status, elsewhere.code().as_str()), (403, "policy_denied"));
    assert_eq!(issuer.calls(), 1, "nothing of it was sent");
}

#[test]
fn n_tokenep_an_issuers_answer_to_a_request_with_a_real_key_is_not_passed_on() {
    let issuer = Issuer::start();
    let rule = r#"
[[rule]]
name = "the issuer, with a real key"
host = "auth.example.test"
methods = ["POST"]
then = "allow"
credential = "client"
"#;
    let world = world(&issuer, &format!("{READS}{rule}"));
    let agent = world.agent("robot");
    oauth(&world);
    // The client's secret, as a key of its own for the issuer's host: by it the upstream would give tokens away.
    let arguments = ["--host", AUTH, "--slot", "basic", "--template", "client-of-the-tests:{key}"];
    let client = world.credential("client", CLIENT_SECRET, &arguments);
    let pair = format!("{CLIENT_ID}:{}", client.fake_key);
    let answer =
        world.fetch(&agent, &["-u", &pair, "-d", "grant_type=client_credentials", TOKEN_URL]);
    assert_eq!((answer.status, answer.code().as_str()), (502, "tokens_withheld"), "{answer:?}");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    let issued = issuer.issued();
    assert_eq!(issued.len(), 1, "the issuer gave one");
    assert!(!holds(format!("{answer:?}").as_bytes(), &issued[0]), "and no agent has it");
    // What has no token in it is passed on.
    issuer.ledger.lock().unwrap().refusing = Some((401, r#"{"error":"invalid_client"}"#.into()));
    let answer =
        world.fetch(&agent, &["-u", &pair, "-d", "grant_type=client_credentials", TOKEN_URL]);
    assert_eq!(answer.status, 401, "{answer:?}");
    assert!(answer.body.contains("invalid_client"), "{answer:?}");
}
