//! `countersign approval`.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use countersign_proto::v1;
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout_at};
use v1::ApprovalState::{Approved, Completed, Pending, Released};

use super::card::{self, Card, Extent, WithBody};
use super::{every_page, part};
use crate::args::{Answer, Approval, Output, Show, State};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::gateway::Gateway;
use crate::{client, print, variable};

/// Between two attempts to reach a control plane that went away: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long a watch over several nodes goes on without any of them.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(context: &Context, command: Approval) -> Done {
    match command {
        Approval::List { state, all, show } => list(context, state, all, &show).await,
        Approval::Show { id, body, show } => {
            print_one(&fetch(&mut client::connect(context).await?, id).await?, body, &show)
        }
        Approval::Approve { answer, break_glass } => {
            vote(context, answer, v1::VoteDecision::Approve, break_glass).await
        }
        Approval::Deny(answer) => vote(context, answer, v1::VoteDecision::Deny, false).await,
        Approval::Wait { id, timeout, proxy: _, show } => wait(context, id, timeout, &show).await,
        Approval::Watch(show) => watch(context, &show).await,
        Approval::Cancel(answer) => cancel(context, answer).await,
    }
}

impl From<State> for v1::ApprovalState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Approved => Self::Approved,
            State::Denied => Self::Denied,
            State::Expired => Self::Expired,
            State::Cancelled => Self::Cancelled,
            State::Released => Self::Released,
            State::Completed => Self::Completed,
            State::Unknown => Self::Unknown,
            State::Revoked => Self::Revoked,
        }
    }
}

async fn list(context: &Context, state: Option<State>, all: bool, show: &Show) -> Done {
    let mut admin = client::connect(context).await?;
    let state: i32 = state.map_or(v1::ApprovalState::Unspecified, Into::into).into();
    let approvals = every_page!(admin, list_approvals, ListApprovalsRequest { state }, approvals);
    if show.output == Output::Json {
        return print::json(&approvals.iter().map(Card::from).collect::<Vec<_>>());
    }
    let pending: HashSet<&str> = approvals
        .iter()
        .filter(|approval| approval.state() == Pending)
        .map(|approval| approval.approval_id.as_str())
        .collect();
    let counted = |approval: &&v1::Approval| {
        approval.state() == Pending && pending.contains(approval.announced_with.as_str())
    };
    let row = |approval: &v1::Approval| {
        let similar = match approval.similar {
            0 => String::new(),
            similar if all => format!(" ({similar} similar)"),
            similar => format!(" and {similar} similar: --all shows them"),
        };
        vec![
            approval.approval_id.clone(),
            card::state_name(approval.state()).into(),
            approval.agent.clone(),
            format!("{} {}{similar}", approval.method, card::url(approval)),
            format!("{} B", approval.body_bytes),
            approval.rule.clone(),
            print::time_or_dash(approval.created_at.as_ref()),
        ]
    };
    let rows: Vec<_> = approvals.iter().filter(|a| all || !counted(a)).map(row).collect();
    print::table(
        &["ID", "STATE", "AGENT", "REQUEST", "BODY", "RULE", "CREATED"],
        &rows,
        "Nothing there.",
    )
}

fn print_one(approval: &v1::Approval, body: bool, show: &Show) -> Done {
    match show.output {
        Output::Json if body => print::json(&WithBody::from(approval)),
        Output::Json => print::json(&Card::from(approval)),
        Output::Table => {
            print::lines(&card::sentences(approval, Extent::of(approval, body)))?;
            card::how_to_answer(approval).map_or(Ok(()), |how| print::line(&how))
        }
    }
}

async fn fetch(admin: &mut client::Admin, approval_id: String) -> Result<v1::Approval, Failure> {
    part(admin.get_approval(v1::GetApprovalRequest { approval_id }).await?.into_inner().approval)
}

/// The vote is bound to what was just read: it counts for these bytes or not at all.
async fn vote(
    context: &Context,
    answer: Answer,
    decision: v1::VoteDecision,
    break_glass: bool,
) -> Done {
    let mut admin = client::connect(context).await?;
    let seen = fetch(&mut admin, answer.id).await?;
    let request = v1::VoteApprovalRequest {
        request_id: client::request_id(),
        approval_id: seen.approval_id,
        decision: decision.into(),
        reason: answer.reason,
        intent_digest: seen.intent_digest,
        break_glass,
    };
    let voted = part(admin.vote_approval(request).await?.into_inner().approval)?;
    if answer.show.output == Output::Json {
        return print::json(&Card::from(&voted));
    }
    let standing = match (decision, voted.state()) {
        (v1::VoteDecision::Approve, Pending) => "Your yes is counted; others have to agree".into(),
        (v1::VoteDecision::Approve, Approved | Released | Completed) => "Approved".into(),
        (_, state) => sentence_case(card::state_name(state)),
    };
    print::line(&format!("{standing}: {}.", card::summary(&voted)))
}

async fn cancel(context: &Context, answer: Answer) -> Done {
    let Answer { id: approval_id, reason, show } = answer;
    let request =
        v1::CancelApprovalRequest { request_id: client::request_id(), approval_id, reason };
    let cancelled = part(
        client::connect(context).await?.cancel_approval(request).await?.into_inner().approval,
    )?;
    match show.output {
        Output::Json => print::json(&Card::from(&cancelled)),
        Output::Table => print::line(&format!("Cancelled: {}.", card::summary(&cancelled))),
    }
}

/// For as long as it takes: a control plane that goes away is asked again, politely.
pub(crate) async fn wait(
    context: &Context,
    approval_id: String,
    limit: Option<Duration>,
    show: &Show,
) -> Done {
    let answered = async {
        let mut backoff = BACKOFF.0;
        // A mistake in the id, the token or the address shows now.
        fetch(&mut client::connect(context).await?, approval_id.clone()).await?;
        loop {
            match answered(context, &approval_id).await {
                Ok(Some(approval)) => return Ok(approval),
                Ok(None) => backoff = BACKOFF.0,
                Err(Failure::Unreachable(_)) => {}
                Err(failure) => return Err(failure),
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    };
    let approval = match limit {
        None => answered.await?,
        Some(limit) => timeout_at(Instant::now() + limit, answered).await.map_err(|_| {
            Failure::Refused(format!(
                "nobody has answered {approval_id} yet: wait again, it stays open"
            ))
        })??,
    };
    print_one(&approval, false, show)?;
    match approval.state() {
        Approved | Released | Completed => Ok(()),
        state => Err(Failure::Refused(format!(
            "{} is {}",
            approval.approval_id,
            card::state_name(state)
        ))),
    }
}

/// The gateway to ask, when it is an agent that waits: it has a proxy URL and no token of ours.
///
/// # Errors
/// A proxy URL that is none.
pub(crate) fn waiting_as_agent(
    proxy: Option<String>,
    context: impl Fn() -> Result<Context, Failure>,
) -> Result<Option<Gateway>, Failure> {
    if let Some(url) = proxy {
        return Gateway::parse(&url, "--proxy").map(Some);
    }
    let Some(url) = variable("COUNTERSIGN_PROXY") else { return Ok(None) };
    if context().is_ok_and(|context| context.token.is_some()) {
        return Ok(None);
    }
    Gateway::parse(&url, "COUNTERSIGN_PROXY").map(Some)
}

/// As [`wait`], through the gateway, about one of the agent's own approvals.
pub(crate) async fn wait_as_agent(
    gateway: &Gateway,
    id: &str,
    limit: Option<Duration>,
    show: &Show,
) -> Done {
    let decided = gateway.decided(id);
    let seen = match limit {
        None => decided.await?,
        Some(limit) => timeout_at(Instant::now() + limit, decided).await.map_err(|_| {
            Failure::Refused(format!("nobody has answered {id} yet: wait again, it stays open"))
        })??,
    };
    match show.output {
        Output::Json => print::json(seen.json())?,
        Output::Table => print::line(&seen.sentence())?,
    }
    if seen.is_approved() {
        return Ok(());
    }
    Err(Failure::Refused(format!("{id} is {}", seen.text("state"))))
}

/// The approval once it is no longer pending; None when the stream ended before.
async fn answered(context: &Context, approval_id: &str) -> Result<Option<v1::Approval>, Failure> {
    let mut admin = client::connect_to_watch(context).await?;
    let request = v1::WatchApprovalsRequest { approval_id: approval_id.to_owned() };
    let mut changes = admin.watch_approvals(request).await?.into_inner();
    while let Some(change) = changes.message().await? {
        let approval = part(change.approval)?;
        if approval.state() != Pending {
            return Ok(Some(approval));
        }
    }
    Ok(None)
}

/// Where several nodes are known, one that goes away is followed by the next, and what changed meanwhile is printed
/// before what changes then. Where there is one, its end is ours: whoever relies on this has to know.
async fn watch(context: &Context, show: &Show) -> Done {
    let several = context.nodes.len() > 1;
    let mut seen = Seen::default();
    let mut lost: Option<Instant> = None;
    for first in (0..context.nodes.len()).cycle() {
        let began = Instant::now();
        match follow(&context.beginning_with(first), several, &mut seen, show).await {
            Ok(()) if several => lost = None,
            Ok(()) => break,
            Err(Failure::Unreachable(why)) if several => {
                if lost.get_or_insert(began).elapsed() > PATIENCE {
                    return Err(Failure::Unreachable(why));
                }
            }
            Err(failure) => return Err(failure),
        }
        if began.elapsed() < BACKOFF.0 {
            sleep(BACKOFF.0).await;
        }
    }
    Err(Failure::Unreachable("the control plane ended the stream: watch again".into()))
}

/// What was last known of each approval.
#[derive(Default)]
struct Seen {
    digests: HashMap<String, u64>,
    /// All of them were looked at once.
    all: bool,
}

impl Seen {
    /// Whether this is news.
    fn news(&mut self, approval: &v1::Approval) -> bool {
        let mut digest = DefaultHasher::new();
        approval.encode_to_vec().hash(&mut digest);
        let digest = digest.finish();
        self.digests.insert(approval.approval_id.clone(), digest) != Some(digest)
    }
}

/// Prints changes until the stream ends.
async fn follow(context: &Context, several: bool, seen: &mut Seen, show: &Show) -> Done {
    let mut admin = client::connect_to_watch(context).await?;
    let mut changes =
        admin.watch_approvals(v1::WatchApprovalsRequest::default()).await?.into_inner();
    if several {
        // The stream is open, so nothing falls between it and this list.
        let again = std::mem::replace(&mut seen.all, true);
        let state = v1::ApprovalState::Unspecified.into();
        let all = every_page!(admin, list_approvals, ListApprovalsRequest { state }, approvals);
        for approval in all.iter().rev() {
            if seen.news(approval) && again {
                print_change(approval, show)?;
            }
        }
    }
    while let Some(change) = changes.message().await? {
        let approval = part(change.approval)?;
        if !several || seen.news(&approval) {
            print_change(&approval, show)?;
        }
    }
    Ok(())
}

fn print_change(approval: &v1::Approval, show: &Show) -> Done {
    match show.output {
        Output::Json => print::json_line(&Card::from(approval)),
        Output::Table => {
            let state = card::state_name(approval.state());
            print::line(&format!(
                "{}  {state:9}  {}",
                approval.approval_id,
                card::summary(approval)
            ))
        }
    }
}

fn sentence_case(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
