//! Git's smart HTTP: what a push would do to refs. Read by the policy's own reader; an update *may* rewrite history.

use countersign_policy::decode::git::{Change, Push, Service, Update};

use crate::ask::Ask;
use crate::words::{count, row, word};
use crate::{Risk, Said};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let path = ask.path();
    let (repository, service) = match path.as_slice() {
        [repository @ .., info, refs] if info == "info" && refs == "refs" => (repository, None),
        [repository @ .., service] => (repository, Some(service.as_str())),
        _ => return Ok(None),
    };
    let repository = repository.join("/");
    let name = word(repository.strip_suffix(".git").unwrap_or(&repository));
    let host = ask.host.to_owned();
    match (service, ask.method) {
        (None, "GET") => {
            let push = ask.is("?service", Service::ReceivePack.name());
            ask.cover("?service");
            let to = if push { "push" } else { "fetch" };
            return Ok(Some((Risk::Read, format!("Ask {host} for the refs of {name}, to {to}"))));
        }
        (Some(service), "POST") if service == Service::UploadPack.name() => {
            return Ok(Some((Risk::Read, format!("Fetch from {name} at {host}"))));
        }
        (Some(service), "POST") if service == Service::ReceivePack.name() => {}
        _ => return Ok(None),
    }
    let push = Push::read(ask.bytes)?;
    let mut words = Vec::new();
    for update in &push.updates {
        let (kind, name) = kind(update);
        let name = word(name);
        let (old, new) = (short(update.old), short(update.new));
        let (verb, said) = match update.change() {
            Change::Create => ("Create", format!("{name} at {new}")),
            Change::Delete => ("Delete", format!("{name}, now {old}")),
            Change::Update => {
                ("Update", format!("{name} from {old} to {new}: may rewrite its history"))
            }
        };
        words.push(format!("{} {kind} {name}", update.change().word()));
        ask.say(&format!("{verb} {kind}"), said, &[]);
    }
    for option in &push.options {
        ask.say("Push option", (*option).to_owned(), &[]);
    }
    if push.pack > 0 {
        ask.say("Commits and files", format!("{} bytes, not looked into", push.pack), &[]);
    }
    ask.cover_body();
    let changes: Vec<_> = push.updates.iter().map(Update::change).collect();
    if changes.is_empty() {
        return Ok(Some((Risk::Read, format!("Ask {host} whether a push to {name} may begin"))));
    }
    let rewrites =
        if changes.contains(&Change::Update) { " (may rewrite its history)" } else { "" };
    let deletes = changes.contains(&Change::Delete);
    let risk = if deletes { Risk::Destructive } else { Risk::Write };
    let several = match words.len() {
        1 => String::new(),
        more => format!("{}: ", count(more, "ref")),
    };
    Ok(Some((risk, format!("Push to {name}: {several}{}{rewrites}", row(&words)))))
}

/// "branch", "tag", "ref": what a push calls it, and its name without what that says already.
fn kind<'u>(update: &Update<'u>) -> (&'static str, &'u str) {
    let short = |prefix: &str| update.reference.strip_prefix(prefix);
    match (short("refs/heads/"), short("refs/tags/")) {
        (Some(name), _) => ("branch", name),
        (_, Some(name)) => ("tag", name),
        _ => ("ref", update.reference),
    }
}

fn short(id: &str) -> &str {
    &id[..id.len().min(12)]
}
