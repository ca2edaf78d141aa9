//! Where our key goes, no other says who is asking.

use crate::control::secret;
use crate::world::{World, bearer, no};

/// Everything that services look into for keys, with something of the agent's own in it.
const OWN: &str = "X-Api-Key: sk_live_own\r\nx-goog-api-key: AIzaOwn\r\nPRIVATE-TOKEN: glpat-own\r\nX-Auth-Token: own\r\n\
                   Api-Key: own\r\nApiKey: own\r\nJob-Token: own\r\nDeploy-Token: own\r\nX-Access-Token: own\r\n\
                   Cookie: session=own\r\nProxy-Authorization: Bearer own\r\nX-Kept: yes\r\n";

#[tokio::test]
async fn p_10_keys_of_the_agents_own_do_not_go_beside_ours_and_are_on_record() {
    let world = World::start().await;
    for (host, line, slot, real) in [
        ("api.test", "GET /things/1".to_owned(), bearer("api"), "authorization"),
        (
            "query.test",
            format!("GET /?key={}", secret("query").fake),
            "Authorization: Bearer own\r\n".into(),
            "",
        ),
        (
            "bot.test",
            format!("GET /bot{}/getMe", secret("bot").fake),
            "Authorization: Bearer own\r\n".into(),
            "",
        ),
    ] {
        let answer = world.agent.send(host, &line, &format!("{slot}{OWN}"), "").await;
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
        let got = world.origin.got().pop().expect("it arrived");
        assert_eq!(got.headers["x-kept"], "yes", "what is no key goes as it was sent");
        let said = format!("{:?}", got.headers).to_ascii_lowercase();
        assert!(!said.contains("own"), "{host}: {said}");
        assert_eq!(got.headers.contains_key("authorization"), real == "authorization", "{host}");
        let alarm = world.control.alarm().await;
        assert_eq!((alarm.kind.as_str(), alarm.agent_id.as_str()), ("own_key_dropped", "agent-1"));
        assert!(alarm.detail.contains("\"x-api-key\" and"), "{alarm:?}");
        assert!(!format!("{alarm:?}").contains("sk_live"), "the alarm does not repeat them");
    }
    let got = world.origin.got();
    assert_eq!(got[0].headers["authorization"], format!("Bearer {}", secret("api").real));
}

#[tokio::test]
async fn p_10_cookies_alone_are_dropped_without_a_word() {
    let world = World::start().await;
    let rest = format!("{}Cookie: session=own\r\n", bearer("api"));
    assert_eq!(world.agent.send("api.test", "GET /things/1", &rest, "").await.status, 200);
    assert!(!world.origin.got()[0].headers.contains_key("cookie"));
    assert!(world.control.alarmed().await.is_none());
}

#[tokio::test]
async fn p_10_where_no_key_of_ours_goes_the_agents_own_are_its_own_business() {
    let world = World::start().await;
    let rest = "Authorization: Bearer own\r\nX-Api-Key: own\r\nCookie: a=b\r\n";
    assert_eq!(world.agent.send("open.test", "GET /", rest, "").await.status, 200);
    let got = &world.origin.got()[0];
    assert_eq!(
        (&got.headers["authorization"], &got.headers["x-api-key"]),
        (&"Bearer own".parse().unwrap(), &"own".parse().unwrap())
    );
    assert_eq!(got.headers["cookie"], "a=b");
    assert!(world.control.alarmed().await.is_none());
}

#[tokio::test]
async fn cookies_that_came_in_pieces_leave_as_what_was_judged() {
    let world = World::start().await;
    let rest = "Cookie: a=b\r\nCookie:\r\nCookie: c=d\r\nCookie: \r\n";
    assert_eq!(world.agent.send("open.test", "GET /", rest, "").await.status, 200);
    let got = &world.origin.got()[0];
    assert_eq!(got.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=b; c=d"]);
}

#[tokio::test]
async fn p_10_a_parameter_in_which_a_key_goes_is_there_once() {
    let world = World::start().await;
    let fake = secret("query").fake;
    for query in [
        format!("key={fake}&key=own"),
        format!("key=own&key={fake}"),
        format!("key={fake}&%6bey=own"),
        format!("key={fake}&KEY=own"),
        format!("key={fake}&key"),
    ] {
        let answer = world.agent.send("query.test", &format!("GET /?{query}"), "", "").await;
        assert_eq!(no(&answer), (400, "bad_request".into()), "{query}");
        assert!(answer.body.contains("send it once"), "{}", answer.body);
    }
    assert!(world.origin.got().is_empty());
    let answer =
        world.agent.send("query.test", &format!("GET /?a=key&key={fake}&b=1"), "", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
}
