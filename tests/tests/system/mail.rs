//! Cards by mail, over SMTP: a server that others wrote, and nothing said to it that anybody else could read.

use countersign_tests::eventually;
use countersign_tests::mail::{Arrived, MailServer, PASSWORD, USER};
use countersign_tests::origin::certificate;
use serde_json::{Value, json};

use super::deciding::Team;

const ROOM: &str = "ops@example.test";
const PAGE: &str = "https://countersign.example.test/approvals";

/// A team whose nodes trust one authority more, and a server with a certificate of it.
struct Post {
    team: Team,
    server: MailServer,
    ca_pem: tempfile::TempDir,
}

impl Post {
    /// `names`: what the server's certificate is for.
    fn start(tls: &str, names: &[&str]) -> Self {
        let (ca_pem, leaf, key) = certificate(names);
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("mail-ca.pem");
        std::fs::write(&ca, ca_pem).unwrap();
        let server = MailServer::start(tls, &leaf, &key);
        let team = Team::with("", &[("SSL_CERT_FILE", ca.display().to_string())]);
        Self { team, server, ca_pem: dir }
    }

    /// `countersign channel add mail`, with these settings and password.
    fn connect(&self, tls: &str, to: &str, password: &str) {
        let file = self.ca_pem.path().join("password");
        std::fs::write(&file, password).unwrap();
        let settings = [
            "host=localhost".to_owned(),
            format!("port={}", self.server.port),
            format!("tls={tls}"),
            format!("user={USER}"),
            "from=Countersign <countersign@example.test>".to_owned(),
            format!("page_url={PAGE}"),
        ];
        let secret = format!("password={}", file.display());
        let mut arguments = vec!["channel", "add", "mail", "--platform", "email", "--room", to];
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        arguments.extend(["--secret-file", &secret]);
        self.team.world.json(&arguments);
    }

    fn mails_about(&self, id: &str) -> Vec<Arrived> {
        let about = |mail: &Arrived| mail.part("text/plain").contains(id);
        self.server.mails().into_iter().filter(about).collect()
    }

    /// What the delivery of an approval's card has come to, once this is so.
    fn delivery(&self, id: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually("what became of the mail", || {
            let all = self.team.world.json(&["channel", "deliveries", "--approval", id]);
            all.as_array()?.iter().find(|it| is(it)).cloned()
        })
    }

    /// Nothing of a mail and nobody's login was said, to anybody.
    fn heard_nothing(&self) {
        let said = self.server.said();
        assert!(said.iter().all(|it| it["event"] == "greeting"), "{said:?}");
    }
}

#[test]
fn i_13_a_card_comes_by_mail_and_its_end_as_a_reply_to_it() {
    for tls in ["starttls", "implicit"] {
        let post = Post::start(tls, &["localhost"]);
        post.connect(tls, ROOM, PASSWORD);
        let (waiting, id) = post.team.hold("DELETE", "/one/1");
        let card = eventually("the card", || post.mails_about(&id).pop());
        assert_eq!(card.to, [ROOM]);
        assert_eq!(card.read["defects"], json!([]));
        let text = card.part("text/plain");
        assert!(text.starts_with(&format!("To answer, log in at {PAGE}/{id}")), "{text}");
        assert!(text.contains("robot (of owner) wants to DELETE api.example.test/one/1"), "{text}");
        assert!(card.part("text/html").contains("DELETE api.example.test/one/1"));
        post.delivery(&id, |it| it["state"] == "sent");

        post.team.does("ana", &["approval", "approve", &id]);
        assert_eq!(waiting.answer().status, 200);
        let end = eventually("its end", || {
            let mails = post.server.mails().into_iter();
            let mut replies = mails.filter(|mail| !mail.header("in-reply-to").is_empty());
            replies.find(|mail| mail.part("text/plain").contains("Carried out once"))
        });
        assert_eq!(end.header("in-reply-to"), card.header("message-id"));
        assert_eq!(end.header("references"), card.header("message-id"));
        assert_eq!(end.header("subject"), format!("Re: {}", card.header("subject")));
        assert_eq!(post.mails_about(&id).len(), 1, "one card");

        // What could be read on the way is a greeting and no more.
        let said = post.server.said();
        let open: Vec<_> = said.iter().filter(|it| it["tls"] == false).collect();
        assert!(open.iter().all(|it| it["event"] == "greeting"), "{open:?}");
        assert!(said.iter().any(|it| it["event"] == "login" && it["genuine"] == true), "{said:?}");
        assert!(!post.server.raw().contains(PASSWORD));
        for listed in [&["channel", "list"][..], &["channel", "deliveries"], &["audit", "export"]] {
            assert!(!post.team.world.ok(listed).contains(PASSWORD), "{listed:?}");
        }
        for (path, bytes) in post.team.world.files() {
            let held = bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes());
            assert!(!held, "{}", path.display());
        }
        assert!(!post.team.world.log().contains(PASSWORD));
    }
}

#[test]
fn c_10_a_server_with_a_certificate_for_another_name_is_told_nothing() {
    for tls in ["starttls", "implicit"] {
        let post = Post::start(tls, &["mx.example.test"]);
        post.connect(tls, ROOM, PASSWORD);
        let (waiting, id) = post.team.hold("DELETE", "/one/1");
        let tried = post.delivery(&id, |it| it["tries"].as_u64() > Some(0));
        let why = tried["why"].as_str().unwrap();
        assert!(why.contains("nothing was sent: TLS with the mail server failed"), "{why}");
        post.heard_nothing();
        waiting.hang_up();
    }
}

#[test]
fn c_10_a_server_with_a_certificate_of_an_authority_that_nobody_trusts_is_told_nothing() {
    let post = Post::start("starttls", &["localhost"]);
    let (_, leaf, key) = certificate(&["localhost"]);
    let other = MailServer::start("starttls", &leaf, &key);
    let post = Post { server: other, ..post };
    post.connect("starttls", ROOM, PASSWORD);
    let (waiting, id) = post.team.hold("DELETE", "/one/1");
    let tried = post.delivery(&id, |it| it["tries"].as_u64() > Some(0));
    assert!(tried["why"].as_str().unwrap().contains("TLS with the mail server failed"), "{tried}");
    post.heard_nothing();
    waiting.hang_up();
}

#[test]
fn c_10_a_wrong_password_and_an_address_of_nobody_are_dead_letters_that_say_why() {
    let post = Post::start("starttls", &["localhost"]);
    post.connect("starttls", ROOM, "another-password");
    let (first, id) = post.team.hold("DELETE", "/one/1");
    let dead = post.delivery(&id, |it| it["state"] == "dead");
    let why = dead["why"].as_str().unwrap();
    assert!(why.contains("did not take the login") && why.contains("535"), "{why}");
    first.hang_up();
    assert!(post.server.mails().is_empty());

    post.connect("starttls", "nobody@example.test", PASSWORD);
    let (second, id) = post.team.hold("DELETE", "/two/1");
    let dead = post.delivery(&id, |it| it["state"] == "dead");
    assert!(dead["why"].as_str().unwrap().contains("there is nobody of that name"), "{dead}");
    second.hang_up();

    post.connect("starttls", "later@example.test", PASSWORD);
    let (third, id) = post.team.hold("DELETE", "/glass/1");
    let due = post.delivery(&id, |it| it["tries"].as_u64() > Some(0));
    assert_eq!(due["state"], "due");
    assert!(due["why"].as_str().unwrap().contains("come again later"), "{due}");
    third.hang_up();
    assert!(post.server.mails().is_empty());
}

#[test]
fn r_22_a_mail_whose_fate_is_unknown_is_sent_again_as_the_same_mail() {
    let post = Post::start("starttls", &["localhost"]);
    post.connect("starttls", ROOM, PASSWORD);
    post.server.swallow_next();
    let (waiting, id) = post.team.hold("DELETE", "/one/1");
    post.delivery(&id, |it| it["state"] == "sent" && it["tries"].as_u64() > Some(0));
    let both = post.mails_about(&id);
    assert_eq!(both.len(), 2);
    assert!(!both[0].header("message-id").is_empty());
    assert_eq!(both[0].header("message-id"), both[1].header("message-id"));
    // And says so, to whoever gets both.
    let again = |mail: &Arrived| mail.part("text/plain").contains("Sent again");
    assert_eq!((again(&both[0]), again(&both[1])), (false, true));
    waiting.hang_up();
}

#[test]
fn plain_text_to_another_machine_is_not_set_up() {
    let team = Team::start();
    let file = team.world.dir().join("password");
    std::fs::write(&file, PASSWORD).unwrap();
    let secret = format!("password={}", file.display());
    let said = team
        .world
        .cli(&[
            "channel",
            "add",
            "mail",
            "--platform",
            "email",
            "--room",
            ROOM,
            "--set",
            "host=mx.example.test",
            "--set",
            "tls=none",
            "--set",
            "from=c@example.test",
            "--set",
            "page_url=https://c.example.test",
            "--set",
            "user=u",
            "--secret-file",
            &secret,
        ])
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let why = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(why.contains("not this very machine") && why.contains("starttls or implicit"), "{why}");
    assert_eq!(team.world.json(&["channel", "list"]), json!([]));
}
