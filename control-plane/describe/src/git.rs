//! Git's smart HTTP: what a push would do to refs (gitprotocol-http, gitprotocol-pack). What is in the pack is not looked into,
//! so a fast-forward cannot be told from a rewrite: an update *may* rewrite.

use countersign_policy::Head;
use http::header::CONTENT_TYPE;

use crate::ask::Ask;
use crate::words::{count, row, word};
use crate::{Risk, Said, Undecidable};

const PUSH: &str = "git-receive-pack";
const PUSH_TYPE: &[u8] = b"application/x-git-receive-pack-request";
const MOST_REFS: usize = 1000;

/// Whether a request speaks it, at whichever host.
pub(crate) fn may_be(head: &Head<'_>) -> bool {
    if head.path.ends_with("/info/refs") {
        return head.query == Some("service=git-receive-pack");
    }
    head.path.ends_with("/git-receive-pack")
        && head.headers.get(CONTENT_TYPE).is_some_and(|it| it.as_bytes() == PUSH_TYPE)
}

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let path = ask.path();
    let (repository, advertised) = match path.as_slice() {
        [repository @ .., info, refs] if info == "info" && refs == "refs" => (repository, true),
        [repository @ .., service] if service == PUSH => (repository, false),
        _ => return Ok(None),
    };
    let repository = repository.join("/");
    let name = word(repository.strip_suffix(".git").unwrap_or(&repository));
    let host = ask.host.to_owned();
    match (advertised, ask.method) {
        (true, "GET") => {
            ask.cover("?service");
            return Ok(Some((Risk::Read, format!("Ask {host} for the refs of {name}, to push"))));
        }
        (false, "POST") => {}
        _ => return Ok(None),
    }
    let push = Push::read(ask.bytes)?;
    let mut words = Vec::new();
    for update in &push.updates {
        let name = word(update.name());
        let (verb, old, new) = (update.verb(), short(&update.old), short(&update.new));
        let (what, said) = match verb {
            Verb::Create => (format!("Create {}", update.kind()), format!("{name} at {new}")),
            Verb::Delete => (format!("Delete {}", update.kind()), format!("{name}, now {old}")),
            Verb::Update => (
                format!("Update {}", update.kind()),
                format!("{name} from {old} to {new}: may rewrite its history"),
            ),
        };
        words.push(format!("{} {} {name}", verb.word(), update.kind()));
        ask.say(&what, said, &[]);
    }
    for option in &push.options {
        ask.say("Push option", option.clone(), &[]);
    }
    if push.pack > 0 {
        ask.say("Commits and files", format!("{} bytes, not looked into", push.pack), &[]);
    }
    ask.cover_body();
    let verbs: Vec<_> = push.updates.iter().map(Update::verb).collect();
    if verbs.is_empty() {
        return Ok(Some((Risk::Read, format!("Ask {host} whether a push to {name} may begin"))));
    }
    let rewrites = if verbs.contains(&Verb::Update) { " (may rewrite its history)" } else { "" };
    let deletes = verbs.contains(&Verb::Delete);
    let risk = if deletes { Risk::Destructive } else { Risk::Write };
    let several = match words.len() {
        1 => String::new(),
        more => format!("{}: ", count(more, "ref")),
    };
    Ok(Some((risk, format!("Push to {name}: {several}{}{rewrites}", row(&words)))))
}

/// What a push asks for.
struct Push {
    updates: Vec<Update>,
    options: Vec<String>,
    /// Of the pack, bytes.
    pack: usize,
}

/// One ref: what it is taken to be, and what it should become.
struct Update {
    old: String,
    new: String,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Delete,
    Update,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Update => "update",
        }
    }
}

impl Update {
    fn verb(&self) -> Verb {
        let none = |id: &str| id.bytes().all(|digit| digit == b'0');
        match (none(&self.old), none(&self.new)) {
            (true, _) => Verb::Create,
            (false, true) => Verb::Delete,
            (false, false) => Verb::Update,
        }
    }

    fn kind(&self) -> &'static str {
        match self.name.as_str() {
            name if name.starts_with("refs/heads/") => "branch",
            name if name.starts_with("refs/tags/") => "tag",
            _ => "ref",
        }
    }

    /// Without what its kind says already.
    fn name(&self) -> &str {
        let short = self.name.strip_prefix("refs/heads/");
        short.or_else(|| self.name.strip_prefix("refs/tags/")).unwrap_or(&self.name)
    }
}

const UNREAD: Undecidable = Undecidable("a push that is not as Git writes it");

impl Push {
    fn read(bytes: &[u8]) -> Result<Self, Undecidable> {
        let mut lines = Lines { rest: bytes };
        let mut push = Self { updates: Vec::new(), options: Vec::new(), pack: 0 };
        let mut capabilities = Vec::new();
        let mut length = None;
        while let Some(line) = lines.next()? {
            if line.starts_with(b"push-cert") {
                return Err(Undecidable("a signed push"));
            }
            // The history that the client itself lacks.
            if push.updates.is_empty() && line.starts_with(b"shallow ") {
                continue;
            }
            let (command, said) = match line.iter().position(|byte| *byte == 0) {
                Some(at) if push.updates.is_empty() => (&line[..at], Some(&line[at + 1..])),
                Some(_) => return Err(UNREAD),
                None if push.updates.is_empty() => return Err(UNREAD),
                None => (line, None),
            };
            if let Some(said) = said {
                let said = std::str::from_utf8(said).map_err(|_| UNREAD)?;
                capabilities = said.split_ascii_whitespace().map(str::to_owned).collect();
            }
            let command = std::str::from_utf8(command).map_err(|_| UNREAD)?;
            let command = command.strip_suffix('\n').unwrap_or(command);
            let mut parts = command.splitn(3, ' ');
            let (Some(old), Some(new), Some(name)) = (parts.next(), parts.next(), parts.next())
            else {
                return Err(UNREAD);
            };
            let digits = *length.get_or_insert(old.len());
            let id = |text: &str| {
                let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                hex && text.len() == digits && matches!(digits, 40 | 64)
            };
            let plain = |c: char| !c.is_control() && c != ' ';
            if !id(old) || !id(new) || name.is_empty() || !name.chars().all(plain) {
                return Err(UNREAD);
            }
            if push.updates.iter().any(|update| update.name == name) {
                return Err(Undecidable("a push of one ref to two places"));
            }
            if push.updates.len() == MOST_REFS {
                return Err(Undecidable("a push of more than a thousand refs"));
            }
            push.updates.push(Update { old: old.into(), new: new.into(), name: name.into() });
        }
        if capabilities.iter().any(|it| it == "push-options") {
            while let Some(line) = lines.next()? {
                let text = std::str::from_utf8(line).map_err(|_| UNREAD)?;
                push.options.push(text.strip_suffix('\n').unwrap_or(text).to_owned());
            }
        }
        if !lines.rest.is_empty() && !lines.rest.starts_with(b"PACK") {
            return Err(UNREAD);
        }
        push.pack = lines.rest.len();
        Ok(push)
    }
}

/// pkt-lines: four hexadecimal digits of length, which count themselves.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    /// The next line; None for a flush.
    fn next(&mut self) -> Result<Option<&'a [u8]>, Undecidable> {
        let (length, rest) = self.rest.split_at_checked(4).ok_or(UNREAD)?;
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let length = length.iter().try_fold(0, |sum, byte| Some(sum * 16 + digit(byte)?));
        match length.ok_or(UNREAD)? as usize {
            0 => {
                self.rest = rest;
                Ok(None)
            }
            length @ 5..=65520 => {
                let (line, rest) = rest.split_at_checked(length - 4).ok_or(UNREAD)?;
                self.rest = rest;
                Ok(Some(line))
            }
            _ => Err(UNREAD),
        }
    }
}

fn short(id: &str) -> &str {
    &id[..id.len().min(12)]
}
