//! Approvals in a browser: who gets a page, what is on it, and what it takes to answer.

use countersign_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::approvals::with_edge;
use crate::world::World;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// What a browser would send: its cookie, and with a form the page's origin.
async fn send(
    world: &World,
    method: &str,
    path: &str,
    headers: &[(&str, String)],
    form: &str,
) -> Answer {
    let address = world.node.web_addr().unwrap();
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("content-length: {}\r\n\r\n{form}", form.len());
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn origin(world: &World) -> (&'static str, String) {
    ("origin", format!("http://{}", world.node.web_addr().unwrap()))
}

async fn log_in(world: &World, token: &str) -> (&'static str, String) {
    let answer = send(world, "POST", "/login", &[origin(world)], &format!("token={token}")).await;
    assert_eq!(answer.status, 303, "{}", answer.body);
    let cookie = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("httponly") && cookie.contains("samesite=strict"), "{cookie}");
    ("cookie", cookie.split(';').next().unwrap().to_owned())
}

fn hidden(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_12_an_answer_takes_this_session_this_page_and_the_digest_that_was_shown() {
    let (world, mut edge) = with_edge().await;
    let id = edge.hold_delete("/a%3Cb").await;
    let path = format!("/approvals/{id}");
    let state = || async {
        let get = v1::GetApprovalRequest { approval_id: id.clone() };
        world.admin().await.get_approval(get).await.unwrap().into_inner().approval.unwrap()
    };

    // Without a session there is the way to one, and nothing else.
    for path in ["/", path.as_str()] {
        let answer = send(&world, "GET", path, &[], "").await;
        assert_eq!(answer.status, 303);
        assert!(answer.head.contains("location: /login") && !answer.body.contains("DELETE"));
    }
    assert_eq!(
        send(&world, "POST", "/login", &[origin(&world)], "token=cs_adm_wrong").await.status,
        401
    );
    let foreign = ("origin", "http://evil.example".to_owned());
    let token = world.admin_token();
    assert_eq!(
        send(&world, "POST", "/login", std::slice::from_ref(&foreign), &format!("token={token}"))
            .await
            .status,
        403
    );

    let cookie = log_in(&world, &token).await;
    let list = send(&world, "GET", "/", std::slice::from_ref(&cookie), "").await;
    assert!(list.body.contains(&path) && list.body.contains("DELETE"), "{}", list.body);
    let card = send(&world, "GET", &path, std::slice::from_ref(&cookie), "").await;
    assert_eq!(card.status, 200);
    for header in [
        "frame-ancestors 'none'",
        "default-src 'none'",
        "x-frame-options: deny",
        "cache-control: no-store",
    ] {
        assert!(card.head.contains(header), "{header} in {}", card.head);
    }
    // What the agent wrote is text.
    assert!(card.body.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{}", card.body);
    assert!(!card.body.contains("<script"));

    let form_token = hidden(&card.body, "form_token");
    let digest = hidden(&card.body, "intent_digest");
    assert_eq!(digest, state().await.intent_digest);
    let form = |token: &str, digest: &str| {
        format!("form_token={token}&intent_digest={digest}&decision=approve&reason=it+is+%66ine")
    };
    type Attempt = (&'static str, Vec<(&'static str, String)>, String);
    let refused: [Attempt; 7] = [
        ("no cookie", vec![origin(&world)], form(&form_token, &digest)),
        ("no origin", vec![cookie.clone()], form(&form_token, &digest)),
        ("another site's page", vec![cookie.clone(), foreign], form(&form_token, &digest)),
        ("no form token", vec![cookie.clone(), origin(&world)], form("", &digest)),
        (
            "another form token",
            vec![cookie.clone(), origin(&world)],
            form(&"0".repeat(64), &digest),
        ),
        ("no digest", vec![cookie.clone(), origin(&world)], form(&form_token, "")),
        (
            "another digest",
            vec![cookie.clone(), origin(&world)],
            form(&form_token, &"0".repeat(64)),
        ),
    ];
    for (what, headers, form) in refused {
        let answer = send(&world, "POST", &path, &headers, &form).await;
        assert!(!answer.head.contains(&format!("location: {path}")), "{what}");
        assert!(state().await.votes.is_empty(), "{what}");
    }
    // A link answers nothing.
    let link = format!("{path}?{}", form(&form_token, &digest));
    send(&world, "GET", &link, &[cookie.clone(), origin(&world)], "").await;
    assert!(state().await.votes.is_empty());

    let answer =
        send(&world, "POST", &path, &[cookie.clone(), origin(&world)], &form(&form_token, &digest))
            .await;
    assert_eq!(answer.status, 303, "{}", answer.body);
    let voted = state().await;
    assert_eq!(
        (voted.votes[0].channel.as_str(), voted.votes[0].reason.as_str()),
        ("dashboard", "it is fine")
    );
    assert_ne!(voted.state(), v1::ApprovalState::Pending);

    let out = send(
        &world,
        "POST",
        "/logout",
        &[cookie.clone(), origin(&world)],
        &format!("form_token={form_token}"),
    )
    .await;
    assert_eq!(out.status, 303);
    assert_eq!(send(&world, "GET", "/", &[cookie], "").await.status, 303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_token_and_gives_no_role() {
    let (world, mut edge) = with_edge().await;
    let id = edge.hold_delete("/x").await;
    let path = format!("/approvals/{id}");
    let auditor = world.principal("dora", &[v1::Role::Auditor]).await;
    let cookie = log_in(&world, &auditor).await;
    let card = send(&world, "GET", &path, std::slice::from_ref(&cookie), "").await;
    let form = format!(
        "form_token={}&intent_digest={}&decision=approve",
        hidden(&card.body, "form_token"),
        hidden(&card.body, "intent_digest")
    );
    assert_eq!(
        send(&world, "POST", &path, &[cookie.clone(), origin(&world)], &form).await.status,
        403
    );
    let remove = v1::RemoveApproverRequest { name: "dora".into(), ..Default::default() };
    world.admin().await.remove_approver(remove).await.unwrap();
    let gone = send(&world, "GET", &path, &[cookie], "").await;
    assert_eq!(gone.status, 303);
    assert!(gone.head.contains("location: /login"));
    let get = v1::GetApprovalRequest { approval_id: id };
    let approval =
        world.admin().await.get_approval(get).await.unwrap().into_inner().approval.unwrap();
    assert!(approval.votes.is_empty());
}
