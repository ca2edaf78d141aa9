//! `countersign demo`: the whole story, told to a newcomer in plain sentences.
//!
//! Nothing is acted: an agent that has a fake key goes through a real edge to a real HTTPS API, and a person's answer
//! is a vote like any other. Whatever is claimed is checked first, and a claim that does not hold ends the story.

mod evidence;
mod production;
mod robot;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use countersign_proto::v1;
use tokio::time::timeout;
use v1::ApprovalState::{Completed, Denied, Pending};
use zeroize::Zeroizing;

use self::evidence::Trail;
use self::production::Production;
use self::robot::{Answer, Robot};
use crate::args::{Demo, Word};
use crate::client::{self, Admin};
use crate::cmd::card::{self, Extent};
use crate::failure::{Done, Failure};
use crate::print;
use crate::site::{Plan, Policy, Site};

/// Where the production API is, as far as the agent knows.
const HOST: &str = "api.production.example";

const TARGET: &str = "/v1/projects/42";
const WISH: &str = r#"{"reason":"nobody has used it for a year"}"#;

/// How long a step that asks nobody may take.
const STEP: Duration = Duration::from_secs(30);

pub(crate) async fn run(command: &Demo) -> Done {
    if command.answer.is_none()
        && !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal())
    {
        return Err(Failure::usage(
            "there is no terminal to ask you in: give --answer approve or --answer deny",
        ));
    }
    quiet()?;
    let began = std::time::Instant::now();
    let told = tokio::select! {
        told = story(command.answer) => told,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("it was interrupted")),
    };
    // A reader who left has not heard it to its end either: that is no success.
    told.map_err(|why| Failure::Refused(format!("the story did not hold: {why:#}")))?;
    tell(&format!("\nEvery sentence above was checked as it happened, in {:.0?}.", began.elapsed()))
}

/// What the story itself brings about is no warning: a key file, and a policy that comes before its credential.
const QUIET: &str =
    "warn,openraft=error,sled=error,countersign=error,countersign_control_plane::vault=error";

/// Only what is wrong interrupts the story.
fn quiet() -> Result<(), Failure> {
    let filter = std::env::var("COUNTERSIGN_LOG").unwrap_or_else(|_| QUIET.into());
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(Failure::refused)?;
    let started = tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    started.map_err(Failure::refused)
}

async fn story(answer: Option<Word>) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let data_dir = dir.path().canonicalize()?.join("data");
    let production = Production::start(HOST).await?;
    let site = Site::start(plan(&data_dir, &production)?).await?;
    let mut admin = client::connect(&site.context).await?;

    let mut robot = introduce(&site, &mut admin, &production).await?;
    read_passes(&mut robot, &production).await?;
    let (approval, word) = delete_freezes(&mut robot, &mut admin, &production, answer).await?;
    match word {
        Word::Approve => second_try(&mut robot, &mut admin, &production, &approval).await?,
        Word::Deny => {}
    }
    let trail = Trail::read(&mut admin).await?;
    site.shutdown().await;
    what_is_left(&trail, &robot, &production, &approval, word, &data_dir)
}

fn plan(data_dir: &Path, production: &Production) -> anyhow::Result<Plan> {
    std::fs::create_dir(data_dir)?;
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let connect_to = format!("{HOST}:443:{}", production.address());
    Ok(Plan {
        data_dir: data_dir.to_owned(),
        api_listen: anywhere,
        edge_listen: anywhere,
        gateway_listen: anywhere,
        web_listen: anywhere,
        policy: Some(Policy { text: POLICY.into(), file_name: "policy.toml".into() }),
        upstream_ca: vec![production.authority().clone()],
        connect_to: vec![connect_to.parse().context("the way to the production API")?],
        allow_private: Vec::new(),
    })
}

const POLICY: &str = r#"version = 1

[[rule]]
name = "read projects"
host = "api.production.example"
methods = ["GET"]
path = "/v1/projects/{id}"
then = "allow"
credential = "production"

[[rule]]
name = "delete a project"
host = "api.production.example"
methods = ["DELETE"]
path = "/v1/projects/{id}"
then = "approve"
credential = "production"
expires = "10m"
hold = "50s"
"#;

async fn introduce(
    site: &Site,
    admin: &mut Admin,
    production: &Production,
) -> anyhow::Result<Robot> {
    tell("1. Who takes part\n")?;
    tell(&format!(
        "The production API serves https://{HOST} and takes one key: {}.",
        hint(production.key())
    ))?;
    let fake_key = store_key(admin, production).await?;
    let real_key = production.key();
    ensure!(fake_key.as_str() != real_key.as_str(), "the fake key is the real one");
    ensure!(fake_key.len() == real_key.len(), "the fake key has another length than the real one");
    tell(&format!(
        "The control plane at {} keeps that key, sealed, and made a fake one of the same shape.",
        site.context.nodes
    ))?;
    let request = v1::CreateAgentRequest {
        request_id: client::request_id(),
        name: "robot".into(),
        owner: String::new(),
    };
    let token = Zeroizing::new(admin.create_agent(request).await?.into_inner().token);
    tell(&format!(
        "The agent, robot, is given the fake key, {}, and the edge at {} as its proxy.",
        fake_key.as_str(),
        site.proxy()
    ))?;
    tell(
        "The policy: reading a project passes, deleting one asks a person, anything else is refused.",
    )?;
    let (proxy, ca_pem) = (site.proxy_addr(), site.edge_ca_pem());
    let mut robot = Robot::new(HOST, proxy, "robot", token, fake_key, ca_pem)?;
    timeout(STEP, robot.introduced()).await.context("the edge does not know robot")??;
    Ok(robot)
}

async fn store_key(
    admin: &mut Admin,
    production: &Production,
) -> anyhow::Result<Zeroizing<String>> {
    let request = v1::CreateCredentialRequest {
        request_id: client::request_id(),
        name: "production".into(),
        host: HOST.into(),
        slot: "header:authorization".into(),
        template: "Bearer {key}".into(),
        class: v1::CredentialClass::Auto.into(),
        value: Bytes::from_owner(production.key().as_bytes().to_vec()),
        acts_as: None,
        mint: None,
    };
    Ok(Zeroizing::new(admin.create_credential(request).await?.into_inner().fake_key))
}

async fn read_passes(robot: &mut Robot, production: &Production) -> anyhow::Result<()> {
    tell("\n2. A read passes\n")?;
    tell(&format!("robot: GET https://{HOST}{TARGET}, with its fake key."))?;
    let answer = robot.ask("GET", TARGET, "", None).await?;
    ensure!(answer.status == 200, "the read was answered {}", answer.said());
    ensure!(
        production.deliveries("GET").len() == 1,
        "the API saw {} reads",
        production.deliveries("GET").len()
    );
    production.all_had_the_real_key()?;
    tell(&format!("The API saw the real key, and answered 200: {}", answer.text()))?;
    tell("robot has that answer. It never had the key.")?;
    Ok(())
}

/// From the delete to its end: what robot was answered is checked against what the person said.
async fn delete_freezes(
    robot: &mut Robot,
    admin: &mut Admin,
    production: &Production,
    answer: Option<Word>,
) -> anyhow::Result<(v1::Approval, Word)> {
    tell("\n3. A delete freezes\n")?;
    tell(&format!(
        "robot: DELETE https://{HOST}{TARGET}, with its fake key and {} bytes of body.",
        WISH.len()
    ))?;
    let mut changes =
        admin.watch_approvals(v1::WatchApprovalsRequest::default()).await?.into_inner();
    let deleting = async {
        let answer = robot.insist("DELETE", TARGET, WISH).await?;
        ensure!(
            answer.status == 200 || answer.code() == "approval_denied",
            "the delete was answered {}",
            answer.said()
        );
        Ok(answer)
    };
    let deciding = async {
        let approval =
            timeout(STEP, next(&mut changes, Pending)).await.context("nothing was frozen")??;
        ensure!(
            production.deliveries("DELETE").is_empty(),
            "the delete reached the API before anyone was asked"
        );
        ensure!(
            approval.body_sha256 == evidence::sha256(WISH.as_bytes()),
            "the card is about another body"
        );
        tell("The edge holds it. Nothing has reached the API. The person sees:\n")?;
        for line in card::sentences(&approval, Extent::Beginning).lines() {
            tell(format!("    {line}").trim_end())?;
        }
        tell("\n4. A person answers\n")?;
        let word = match answer {
            Some(word) => word,
            None => asked().await?,
        };
        vote(admin, &approval, word).await?;
        anyhow::Ok((approval, word))
    };
    // The person decides in their own time; the agent's request waits beside it.
    let (answer, (approval, word)) = tokio::try_join!(deleting, deciding)?;
    match word {
        Word::Approve => {
            let completed =
                timeout(STEP, next(&mut changes, Completed)).await.context("no receipt came")??;
            carried_out(&answer, &completed, production)?;
        }
        Word::Deny => {
            let denied = admin
                .get_approval(v1::GetApprovalRequest { approval_id: approval.approval_id.clone() })
                .await?;
            let state = denied.into_inner().approval.map(|approval| approval.state());
            ensure!(state == Some(Denied), "the approval is {state:?}");
            left_undone(&answer, production)?;
        }
    }
    Ok((approval, word))
}

/// The next change to an approval that brings it into this state.
async fn next(
    changes: &mut tonic::Streaming<v1::WatchApprovalsResponse>,
    state: v1::ApprovalState,
) -> anyhow::Result<v1::Approval> {
    while let Some(change) = changes.message().await? {
        if let Some(approval) = change.approval.filter(|approval| approval.state() == state) {
            return Ok(approval);
        }
    }
    bail!("the control plane ended the stream")
}

/// In the terminal, until there is an answer.
async fn asked() -> anyhow::Result<Word> {
    let ask = || {
        loop {
            eprint!("May this leave? [approve/deny] ");
            let _ = std::io::stderr().flush();
            let mut line = String::new();
            if std::io::stdin().lock().read_line(&mut line)? == 0 {
                bail!("nobody answered");
            }
            match line.trim().to_ascii_lowercase().as_str() {
                "a" | "approve" | "y" | "yes" => return Ok(Word::Approve),
                "d" | "deny" | "n" | "no" => return Ok(Word::Deny),
                _ => {}
            }
        }
    };
    tokio::task::spawn_blocking(ask).await?
}

/// Bound to the bytes that the person was shown.
async fn vote(admin: &mut Admin, approval: &v1::Approval, word: Word) -> anyhow::Result<()> {
    let (decision, reason, said) = match word {
        Word::Approve => (v1::VoteDecision::Approve, "it is really unused", "approves"),
        Word::Deny => (v1::VoteDecision::Deny, "that project is still needed", "denies"),
    };
    let request = v1::VoteApprovalRequest {
        request_id: client::request_id(),
        approval_id: approval.approval_id.clone(),
        decision: decision.into(),
        reason: reason.into(),
        intent_digest: approval.intent_digest.clone(),
        break_glass: false,
    };
    admin.vote_approval(request).await.context("the vote was not taken")?;
    tell(&format!(
        "admin {said} exactly these bytes (intent {}…): {reason}.",
        &approval.intent_digest[..16.min(approval.intent_digest.len())]
    ))?;
    Ok(())
}

fn carried_out(
    answer: &Answer,
    completed: &v1::Approval,
    production: &Production,
) -> anyhow::Result<()> {
    ensure!(answer.status == 200, "the approved delete was answered {}", answer.said());
    let deletes = production.deliveries("DELETE");
    ensure!(deletes.len() == 1, "the API saw {} deletes", deletes.len());
    ensure!(
        deletes[0].path == TARGET && deletes[0].body == WISH.as_bytes(),
        "the API saw other bytes than were approved"
    );
    ensure!(
        completed.body_sha256 == evidence::sha256(&deletes[0].body),
        "the API saw another body than the card says"
    );
    production.all_had_the_real_key()?;
    tell("The edge verified the signed release, put the real key in, and sent it.")?;
    tell(&format!(
        "The API saw one DELETE, with the real key and exactly the approved bytes, and answered 200: {}",
        answer.text()
    ))?;
    Ok(())
}

fn left_undone(answer: &Answer, production: &Production) -> anyhow::Result<()> {
    ensure!(
        answer.status == 403 && answer.code() == "approval_denied",
        "the denied delete was answered {}",
        answer.said()
    );
    ensure!(production.deliveries("DELETE").is_empty(), "a denied delete reached the API");
    tell(&format!("robot is told no: 403 approval_denied. {}", answer.detail()))?;
    tell("The API saw nothing of it: no DELETE, and no key for one.")?;
    Ok(())
}

/// The same bytes again: what was approved was one execution, and that is spent.
async fn second_try(
    robot: &mut Robot,
    admin: &mut Admin,
    production: &Production,
    first: &v1::Approval,
) -> anyhow::Result<()> {
    tell("\n5. The same again\n")?;
    tell("robot sends the identical DELETE once more, and will wait for one second.")?;
    let answer = robot.ask("DELETE", TARGET, WISH, Some(1)).await?;
    ensure!(production.deliveries("DELETE").len() == 1, "one approval was carried out twice");
    match (answer.status, answer.code().as_str()) {
        (503, "approval_pending") => {
            let second =
                answer.header("countersign-approval-id").context("the answer names no approval")?;
            ensure!(second != first.approval_id, "the spent approval is pending again");
            tell(&format!(
                "It is frozen again, under a new approval ({second}): yes was for one delete, not for deletes."
            ))?;
            let reason = "the story ends here".into();
            let request = v1::CancelApprovalRequest {
                request_id: client::request_id(),
                approval_id: second,
                reason,
            };
            admin
                .cancel_approval(request)
                .await
                .context("the second approval could not be cancelled")?;
        }
        (409, "already_executed") => {
            tell(&format!("It is refused, 409 already_executed. {}", answer.detail()))?;
        }
        _ => bail!("the second delete was answered {}", answer.said()),
    }
    Ok(())
}

fn what_is_left(
    trail: &Trail,
    robot: &Robot,
    production: &Production,
    approval: &v1::Approval,
    word: Word,
    data_dir: &Path,
) -> anyhow::Result<()> {
    tell("\nWhat is written down\n")?;
    print::table(&["AT", "WHO", "WHAT", "ABOUT"], &trail.rows(), "nothing")?;
    let votes = trail.count("approval.vote", &approval.approval_id);
    let claims = trail.count("request.claim", &approval.approval_id);
    ensure!(votes == 1, "the audit log has {votes} votes on the approval");
    let expected = match word {
        Word::Approve => 1,
        Word::Deny => 0,
    };
    ensure!(claims == expected, "the audit log has {claims} releases of the approval");
    tell(&format!(
        "\n{} records, each bound to the one before by its hash; verified here. Head {}.",
        trail.entries(),
        trail.head()
    ))?;

    tell("\nWhat each party saw\n")?;
    ensure!(!evidence::holds(robot.heard(), production.key()), "the real key reached the agent");
    ensure!(!evidence::holds(robot.sent(), production.key()), "the agent sent the real key");
    tell(&format!(
        "robot:          its fake key only. {} bytes came to it, and the real key is nowhere in them.",
        robot.heard().len()
    ))?;
    let (reads, deletes) =
        (production.deliveries("GET").len(), production.deliveries("DELETE").len());
    ensure!(reads == 1 && deletes == expected, "the API saw {reads} reads and {deletes} deletes");
    ensure!(!production.saw(robot.fake_key()), "the fake key reached the API");
    tell(&match word {
        Word::Approve => "production API: the real key, once for the read and once for the delete; never the fake one.".to_owned(),
        Word::Deny => "production API: the real key, once, for the read; no delete at all; never the fake one.".to_owned(),
    })?;
    let searched = evidence::search(data_dir, production.key())?;
    ensure!(searched.bytes > 0, "the data directory is empty");
    if let Some(found) = searched.found {
        bail!("the real key lies in {}", found.display());
    }
    tell(&format!(
        "the disk:       {} bytes in {} files, and the real key in none of them: not raw, in base64 or in hex.",
        searched.bytes, searched.files
    ))?;
    Ok(())
}

fn tell(sentence: &str) -> Result<(), Failure> {
    if sentence.is_empty() {
        return print::raw("\n");
    }
    sentence.split('\n').try_for_each(|line| print::raw(&format!("{}\n", print::visible(line))))
}

/// Enough of a secret to recognise it.
fn hint(secret: &str) -> String {
    format!("{}… ({} characters)", &secret[..secret.len().min(8)], secret.len())
}
