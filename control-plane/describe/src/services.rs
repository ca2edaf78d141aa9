//! Who is described, by host.

use countersign_gate::Destination;

use crate::Said;
use crate::ask::Ask;

mod anthropic;
mod aws;
mod calendar;
mod cloudflare;
mod drive;
mod github;
mod gitlab;
mod gmail;
mod graphql;
mod kubernetes;
mod linear;
mod notion;
mod openai;
mod slack;
mod stripe;
mod vercel;

/// Says what a request would do at one service.
pub(crate) type Describer = fn(&mut Ask<'_>) -> Said;

/// The describer of a host; services are known at their own hosts and ports alone. None leaves it to the protocols that any
/// host may speak.
pub(crate) fn of(destination: &Destination, path: &str) -> Option<Describer> {
    let host = destination.host();
    let usual = destination.scheme().as_str() == "https" && destination.port() == 443;
    match host {
        _ if kubernetes::is_at(host) => Some(kubernetes::describe),
        _ if !usual => None,
        "api.anthropic.com" => Some(anthropic::describe),
        "api.cloudflare.com" => Some(cloudflare::describe),
        "api.github.com" | "uploads.github.com" => Some(github::describe),
        "api.linear.app" => Some(linear::describe),
        "api.notion.com" => Some(notion::describe),
        "api.openai.com" => Some(openai::describe),
        "api.stripe.com" | "files.stripe.com" => Some(stripe::describe),
        "api.vercel.com" => Some(vercel::describe),
        "gitlab.com" if path.starts_with("/api/") => Some(gitlab::describe),
        "gmail.googleapis.com" => Some(gmail::describe),
        "slack.com" | "www.slack.com" => Some(slack::describe),
        "www.googleapis.com" if path.contains("/drive/") => Some(drive::describe),
        "www.googleapis.com" if path.contains("/gmail/") => Some(gmail::describe),
        "www.googleapis.com" => Some(calendar::describe),
        _ if host.ends_with(".amazonaws.com") => Some(aws::describe),
        _ => None,
    }
}

/// The describer of an API that is served at anybody's host.
pub(crate) fn elsewhere(path: &str) -> Option<Describer> {
    kubernetes::may_be(path).then_some(kubernetes::elsewhere)
}
