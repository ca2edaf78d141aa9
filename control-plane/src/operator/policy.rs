//! The policy: compiled before it is committed, shown, explained.

use countersign_gate::{Destination, Scheme};
use countersign_policy::{Body, Diagnostic, Explained, Head, Match, Policy, Subject, analysis};
use countersign_proto::v1;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::once::{Once, reused};
use super::refuse;
use crate::access::Admitted;
use crate::state::{Command, Event, ReleaseClass, Role, State};

const TEXT_BYTES: usize = 1024 * 1024;

pub(super) async fn set(
    asked: &Admitted,
    request: v1::SetPolicyRequest,
) -> Result<v1::SetPolicyResponse, Status> {
    let once = Once::of(asked, "SetPolicy", &request.request_id)?;
    if request.text.len() > TEXT_BYTES {
        return Err(refuse::field(
            "text",
            "is longer than 1 MiB: split what it says into fewer, wider rules",
        ));
    }
    let file = if request.file_name.is_empty() { "policy.toml" } else { &request.file_name };
    let policy = Policy::compile(&request.text, file).map_err(|wrong| in_text(&wrong))?;
    let read = asked.house.cluster.read(|state| {
        let leased = state.credentials().filter(|c| c.active && c.class == ReleaseClass::Lease);
        let in_force = state.policy().map(|p| (p.version, p.text.clone()));
        let leased: Vec<String> = leased.map(|c| c.name.clone()).collect();
        let keyed = state.credentials().filter(|c| c.active);
        let keyed: Vec<(String, String)> =
            keyed.map(|c| (c.name.clone(), c.host.clone())).collect();
        (leased, keyed, warnings(state, &policy), in_force)
    });
    let (leased, keyed, warnings, in_force) = read.await.map_err(|e| refuse::unavailable(&e))?;
    refuse_leases_of_approved(leased.iter().map(String::as_str), &policy)?;
    refuse_tunnels_to_keyed(
        keyed.iter().map(|(name, host)| (name.as_str(), host.as_str())),
        &policy,
    )?;
    let idle = analysis::warnings(&policy);
    let warnings = warnings.into_iter().chain(idle.iter().map(ToString::to_string)).collect();

    let sha256: [u8; 32] = Sha256::digest(&request.text).into();
    let expected = Some(request.expected_version).filter(|version| *version != 0);
    let ground = expected.or_else(|| in_force.as_ref().map(|(version, _)| *version));
    // Said of this ground alone: applied to another, it says nothing.
    let narrows = match in_force {
        Some((version, text)) if ground == Some(version) => narrows(text, policy).await,
        _ => false,
    };
    let expected_version = if narrows { ground } else { expected };
    let command = Command::SetPolicy { text: request.text, sha256, expected_version, narrows };
    let event = once.propose(asked, command).await?;
    match &*event {
        Event::PolicyChanged { version } => {
            let (version, sha256) = (*version, hex::encode(sha256));
            Ok(v1::SetPolicyResponse { version, sha256, warnings, change_id: 0 })
        }
        Event::ChangeProposed { id } => Ok(v1::SetPolicyResponse {
            version: 0,
            sha256: hex::encode(sha256),
            warnings,
            change_id: *id,
        }),
        _ => Err(reused("a policy")),
    }
}

pub(super) async fn get(
    asked: &Admitted,
    _: v1::GetPolicyRequest,
) -> Result<v1::GetPolicyResponse, Status> {
    let policy = asked
        .house
        .cluster
        .read(|state| state.policy().cloned())
        .await
        .map_err(|e| refuse::unavailable(&e))?;
    Ok(policy.map_or_else(v1::GetPolicyResponse::default, |policy| v1::GetPolicyResponse {
        version: policy.version,
        text: policy.text,
        sha256: hex::encode(policy.sha256),
    }))
}

pub(super) async fn explain(
    asked: &Admitted,
    request: v1::ExplainPolicyRequest,
) -> Result<v1::ExplainPolicyResponse, Status> {
    let current =
        asked.house.cluster.read(|state| state.policy().map(|p| (p.version, p.text.clone())));
    let (policy_version, policy) = match current.await.map_err(|e| refuse::unavailable(&e))? {
        Some((version, text)) => (version, compiled(&text)?),
        None => (0, Policy::empty()),
    };
    if request.agent.is_empty() {
        return Err(refuse::field("agent", "is empty: say who asks, by the agent's name"));
    }
    let method = Method::from_bytes(request.method.to_ascii_uppercase().as_bytes())
        .map_err(|_| refuse::field("method", "is not an HTTP method"))?;
    let url = Url::parse(&request.url).map_err(|what| refuse::field("url", what))?;
    policy.check_target(&url.destination, url.path, url.query).map_err(|why| {
        refuse::field(
            "url",
            format!(
                "can be read in two ways ({why}): an edge answers it with 400 ambiguous_target"
            ),
        )
    })?;
    let headers = headers_of(&request.headers)?;
    let head = Head {
        agent: &request.agent,
        destination: &url.destination,
        method: &method,
        path: url.path,
        query: url.query,
        headers: &headers,
    };
    let explanation = policy.explain(&Subject { head, body: Body::Whole(&request.body) });
    Ok(v1::ExplainPolicyResponse {
        decision: explanation.decision.then.word().into(),
        rule: explanation.decision.rule,
        rules: explanation.rules.into_iter().chain(explanation.missed).map(explained).collect(),
        policy_version,
    })
}

/// Whether a policy lets nothing more through than the one in force, and asks no fewer people. What cannot be told
/// counts as wider.
async fn narrows(in_force: String, policy: Policy) -> bool {
    let compared = tokio::task::spawn_blocking(move || {
        let former = Policy::compile(&in_force, "policy.toml").ok()?;
        Some(!analysis::compare(&former, &policy).widens())
    });
    compared.await.ok().flatten().unwrap_or(false)
}

/// A policy that was compiled before it was committed.
pub(super) fn compiled(text: &str) -> Result<Policy, Status> {
    Policy::compile(text, "policy.toml").map_err(|wrong| {
        let first = wrong.first().map(ToString::to_string).unwrap_or_default();
        refuse::internal(&format!("the committed policy does not compile: {first}"))
    })
}

/// A key on loan is used without asking anybody, so approval would be for nothing (T3-CLASS).
pub(super) fn refuse_leases_of_approved<'a>(
    leased: impl IntoIterator<Item = &'a str>,
    policy: &Policy,
) -> Result<(), Status> {
    for name in leased {
        let using = policy.credential_use(name);
        if using.approve && !using.accept_edge_enforced {
            return Err(refuse::precondition(
                "LEASE_NEEDS_NO_APPROVAL",
                name,
                format!(
                    "nothing was changed: credential {name} has the class lease, and a rule asks for approval before it is used; \
                     give the credential the class auto or per-request, or write accept_edge_enforced = true in that rule"
                ),
            ));
        }
    }
    Ok(())
}

/// What is tunnelled is not looked into: a host that has a key is not one to be tunnelled to, since nothing would be swapped.
pub(super) fn refuse_tunnels_to_keyed<'a>(
    keyed: impl IntoIterator<Item = (&'a str, &'a str)>,
    policy: &Policy,
) -> Result<(), Status> {
    for (name, host) in keyed {
        if let Some(rule) = policy.tunnels_to(host).first() {
            return Err(refuse::precondition(
                "TUNNEL_NEEDS_NO_KEY",
                name,
                format!(
                    "nothing was changed: credential {name} is for {host}, and rule {rule:?} tunnels to that host, where no key \
                     can be put in; take the tunnel rule away, or revoke the credential"
                ),
            ));
        }
    }
    Ok(())
}

/// What is legal and probably not meant.
fn warnings(state: &State, policy: &Policy) -> Vec<String> {
    let approves = |name: &str| {
        let mut people =
            state.principals().filter(|p| p.active && p.roles.contains(&Role::Approver));
        people.any(|p| name == "*" || p.name == name || p.groups.contains(name))
    };
    let nobody = policy.approvers().into_iter().filter(|name| !approves(name)).map(|name| match name.as_str() {
        "*" => "rules ask for approval, and no principal has the approver role yet: add one with `countersign approver add`".to_owned(),
        name => format!("nobody who may approve is, or belongs to, {name:?} yet: what its rules hold will expire"),
    });
    let credentials = policy.credentials().into_iter().filter_map(|name| {
        let Some(credential) = state.credentials().find(|c| c.active && c.name == name) else {
            return Some(format!("there is no credential {name:?} yet: what its rules let through will be refused"));
        };
        let authority = format!("{}:{}", credential.host, credential.port);
        let spoken = [Scheme::Https, Scheme::Postgres];
        let destinations =
            spoken.into_iter().filter_map(|scheme| Destination::parse(scheme, &authority, None).ok());
        (!destinations.into_iter().any(|destination| policy.names_host(&destination))).then(|| {
            format!("credential {name:?} is for {authority}, and no rule is about that host: it will never be used")
        })
    });
    let surer = policy.requirements().filter_map(|asked| {
        let (strength, proof) = (asked.strength.word(), asked.proof.word());
        let more = asked.strength > SUREST.0 || asked.proof > SUREST.1;
        more.then(|| {
            format!(
                "rule {:?} asks for strength {strength} and proof {proof}, and nobody can answer so surely yet: what it holds will expire",
                asked.rule
            )
        })
    });
    nobody.chain(credentials).chain(surer).collect()
}

/// The most that any face gives a vote today: a session.
const SUREST: (countersign_policy::Strength, countersign_policy::Proof) =
    (countersign_policy::Strength::L2, countersign_policy::Proof::None);

fn in_text(wrong: &[Diagnostic]) -> Status {
    refuse::fields(
        wrong.iter().map(|diagnostic| ("text".to_owned(), diagnostic.to_string())).collect(),
    )
}

struct Url<'a> {
    destination: Destination,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let (scheme, rest, port) = if let Some(rest) = text.strip_prefix("https://") {
            (Scheme::Https, rest, 443)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (Scheme::Http, rest, 80)
        } else if let Some(rest) = text.strip_prefix("postgres://") {
            (Scheme::Postgres, rest, 5432)
        } else {
            return Err("must begin with https://, http:// or postgres://".into());
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let destination = Destination::parse(scheme, authority, Some(port))
            .map_err(|why| format!("has {why}"))?;
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        Ok(Self { destination, path: if path.is_empty() { "/" } else { path }, query })
    }
}

fn headers_of(given: &[v1::Header]) -> Result<HeaderMap, Status> {
    let mut headers = HeaderMap::new();
    for header in given {
        let wrong = |_| refuse::field("headers", format!("{:?} is not a header", header.name));
        let name =
            HeaderName::from_bytes(header.name.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let value = HeaderValue::from_bytes(&header.value).map_err(|e| wrong(e.to_string()))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn explained(rule: Explained) -> v1::RuleExplanation {
    let matched = match rule.matched {
        Match::No => "no",
        Match::Undecidable => "undecidable",
        Match::Yes => "yes",
    };
    v1::RuleExplanation {
        rule: rule.rule,
        matched: matched.into(),
        then: rule.then.word().into(),
        why: rule.why,
    }
}
