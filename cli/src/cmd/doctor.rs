//! `countersign doctor`: finds what is in the way, and says what to do about it.
//!
//! Run it in the environment that the agent gets: what it judges is the variables that it sees itself.

mod toolchains;

use std::time::{Duration, SystemTime};

use countersign_proto::v1;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::cluster::standing::Trouble;
use super::{env, status};
use crate::args::{Doctor, Output};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{client, print, variable};
use toolchains::toolchains;

/// Longer than this, and approvals that are about to expire are judged differently here and there.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(context: impl Fn() -> Result<Context, Failure>, command: &Doctor) -> Done {
    let mut findings = Vec::new();
    let context = match context() {
        Ok(context) => Some(context),
        Err(Failure::Usage(why) | Failure::Refused(why) | Failure::Unreachable(why)) => {
            findings.push(Finding::bad("control plane", why, ""));
            None
        }
        Err(Failure::Left) => None,
    };
    if let Some(context) = &context {
        findings.extend(control_plane(context).await);
        findings.extend(addresses(context).await);
        findings.extend(edge(context).await);
    }
    findings.push(proxy_token().await);
    findings.push(no_proxy());
    let ca = context.and_then(|context| context.edge.ca);
    findings.extend(toolchains(ca.as_deref()).await);
    told(&findings, command)
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    what: String,
    ok: bool,
    /// What is the case.
    found: String,
    /// What to do; empty when nothing has to be done.
    advice: String,
}

impl Finding {
    fn good(what: &str, found: impl Into<String>) -> Self {
        Self { what: what.into(), ok: true, found: found.into(), advice: String::new() }
    }

    fn bad(what: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), ok: false, found: found.into(), advice: advice.into() }
    }
}

fn told(findings: &[Finding], command: &Doctor) -> Done {
    let bad = findings.iter().filter(|finding| !finding.ok).count();
    if command.show.output == Output::Json {
        print::json(&findings)?;
    } else {
        for Finding { what, ok, found, advice } in findings {
            print::line(&format!("{:4}  {what}: {found}", if *ok { "ok" } else { "BAD" }))?;
            if !advice.is_empty() {
                print::line(&format!("      {advice}"))?;
            }
        }
    }
    match bad {
        0 => Ok(()),
        1 => Err(Failure::Refused("one thing is in the way".into())),
        bad => Err(Failure::Refused(format!("{bad} things are in the way"))),
    }
}

async fn control_plane(context: &Context) -> Vec<Finding> {
    const WHAT: &str = "control plane";
    let reached = async {
        let mut admin = client::connect(context).await?;
        let status = admin.get_status(v1::GetStatusRequest {}).await?.into_inner();
        let now = SystemTime::now();
        let attached = status::attached(context, &status).await;
        Ok::<_, Failure>((status, now, attached, status::cluster(context, &mut admin).await?))
    };
    let (status, now, attached, cluster) = match reached.await {
        Ok(reached) => reached,
        Err(Failure::Usage(why) | Failure::Refused(why) | Failure::Unreachable(why)) => {
            return vec![Finding::bad(WHAT, why, "")];
        }
        Err(Failure::Left) => return Vec::new(),
    };
    let mut findings =
        vec![Finding::good(WHAT, format!("{} answers, version {}", context.nodes, status.version))];
    findings.extend(
        status
            .log_time
            .and_then(|at| SystemTime::try_from(at).ok())
            .map(|theirs| clock(theirs, now)),
    );
    if let Some(cluster) = cluster {
        let bad = |trouble: &Trouble| Finding::bad("cluster", &trouble.found, &trouble.advice);
        findings.extend(cluster.troubles.iter().map(bad));
        if cluster.troubles.is_empty() {
            findings.push(Finding::good("cluster", cluster.summary()));
        }
    }
    if status.policy_version == 0 {
        findings.push(Finding::bad(
            "policy",
            "none was ever set: everything is refused",
            "countersign policy set FILE",
        ));
    }
    if attached == 0 {
        findings.push(Finding::bad(
            "edges",
            "none is connected",
            "start one, and read its log: it says why it cannot attach",
        ));
    }
    findings
}

/// Of several nodes, those that do not answer: the others take their calls, until they do not answer either.
async fn addresses(context: &Context) -> Vec<Finding> {
    let mut findings = Vec::new();
    for one in context.each().filter(|_| context.nodes.len() > 1) {
        let silent = match timeout(PATIENCE, client::connect_to_sealed(&one)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => format!("{} does not answer", one.nodes),
        };
        findings.push(Finding::bad("node", silent, "start it, or take it out of COUNTERSIGN_ADDR"));
    }
    findings
}

/// Log time moves when something is committed, so it may lie behind; ahead of us it never should be.
fn clock(theirs: SystemTime, ours: SystemTime) -> Finding {
    match theirs.duration_since(ours) {
        Ok(ahead) if ahead > CLOCK_TOLERANCE => Finding::bad(
            "clock",
            format!(
                "this machine is {} behind the control plane",
                humantime::format_duration(Duration::from_secs(ahead.as_secs()))
            ),
            "let both machines keep time by NTP",
        ),
        _ => Finding::good("clock", "not behind the control plane's"),
    }
}

async fn edge(context: &Context) -> Option<Finding> {
    const WHAT: &str = "edge";
    let Some(proxy) = context.edge.proxy.as_deref() else {
        return Some(Finding::bad(
            WHAT,
            "its address is not known here",
            "set COUNTERSIGN_EDGE to its http://host:port",
        ));
    };
    let address = proxy.split_once("://").map_or(proxy, |(_, rest)| rest).trim_end_matches('/');
    Some(match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Finding::good(WHAT, format!("{proxy} accepts connections")),
        Ok(Err(why)) => Finding::bad(
            WHAT,
            format!("{proxy} cannot be reached: {why}"),
            "is it running, and is the address right?",
        ),
        Err(_) => Finding::bad(
            WHAT,
            format!("{proxy} does not answer"),
            "is something between us and it?",
        ),
    })
}

/// Asks the proxy that the environment names for a destination that no policy allows: it says 407 when the token is
/// wrong, and something else when it is not.
async fn proxy_token() -> Finding {
    const WHAT: &str = "proxy variables";
    let missing: Vec<&str> =
        env::PROXY.into_iter().filter(|name| variable(name).is_none()).collect();
    let advice = "eval \"$(countersign env --agent NAME)\" in the agent's environment";
    if !missing.is_empty() {
        return Finding::bad(WHAT, format!("{} not set here", missing.join(", ")), advice);
    }
    let url = variable(env::PROXY[0]).unwrap_or_default();
    let Some((credentials, address)) =
        url.split_once("://").and_then(|(_, rest)| rest.trim_end_matches('/').rsplit_once('@'))
    else {
        return Finding::bad(WHAT, "HTTPS_PROXY holds no agent's name and token", advice);
    };
    match timeout(PATIENCE, asked(address, credentials)).await {
        Ok(Ok(407)) => Finding::bad(
            WHAT,
            "the edge does not know the agent's token",
            "countersign agent rotate NAME, then set the variables anew",
        ),
        Ok(Ok(_)) => Finding::good(WHAT, format!("the edge at {address} knows the agent's token")),
        Ok(Err(why)) => Finding::bad(
            WHAT,
            format!("{address} does not answer as a proxy: {why}"),
            "is that the edge's address?",
        ),
        Err(_) => {
            Finding::bad(WHAT, format!("{address} does not answer"), "is that the edge's address?")
        }
    }
}

async fn asked(address: &str, credentials: &str) -> std::io::Result<u16> {
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.encode(credentials);
    let request = format!(
        "CONNECT doctor.invalid:443 HTTP/1.1\r\nHost: doctor.invalid:443\r\nProxy-Authorization: Basic {basic}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    let status = std::str::from_utf8(&head)
        .ok()
        .and_then(|head| head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
    status.ok_or_else(|| std::io::Error::other("that is not HTTP"))
}

/// A way around the edge that tools take by themselves.
fn no_proxy() -> Finding {
    match variable("NO_PROXY").or_else(|| variable("no_proxy")) {
        None => Finding::good("NO_PROXY", "not set: nothing goes around the edge by itself"),
        Some(hosts) => Finding::bad(
            "NO_PROXY",
            format!("tools go around the edge for {hosts}"),
            "unset NO_PROXY no_proxy",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_behind_is_found() {
        let now = SystemTime::now();
        assert!(!clock(now + Duration::from_secs(60), now).ok);
        assert!(clock(now - Duration::from_secs(3600), now).ok);
    }
}
