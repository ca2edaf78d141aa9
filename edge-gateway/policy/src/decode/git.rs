//! Git's smart HTTP (gitprotocol-http, gitprotocol-pack): which refs a push would move.
//!
//! What is in the pack is not looked into, so a fast-forward cannot be told from a rewrite: of an update it is not known
//! whether it is forced. References are read as Git's own receiver reads them, and what it would refuse is undecidable.

use http::header::CONTENT_TYPE;

use crate::Head;
use crate::body::Undecodable;

/// What a request asks of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `GET …/info/refs?service=…`: which refs there are, before a service is used.
    Advertise(Service),
    /// `POST …/git-upload-pack`: it reads.
    Fetch,
    /// `POST …/git-receive-pack`.
    Push(Push<'a>),
}

impl Request<'_> {
    pub fn service(&self) -> Service {
        match self {
            Self::Advertise(service) => *service,
            Self::Fetch => Service::UploadPack,
            Self::Push(_) => Service::ReceivePack,
        }
    }
}

/// One of the two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    ReceivePack,
    UploadPack,
}

impl Service {
    /// As URLs have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReceivePack => "git-receive-pack",
            Self::UploadPack => "git-upload-pack",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::ReceivePack => "application/x-git-receive-pack-request",
            Self::UploadPack => "application/x-git-upload-pack-request",
        }
    }
}

/// What a push asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push<'a> {
    pub updates: Vec<Update<'a>>,
    /// What `--push-option` gave, for hooks of the server.
    pub options: Vec<&'a str>,
    /// All of the updates or none.
    pub atomic: bool,
    /// Of the pack, bytes.
    pub pack: usize,
}

/// One ref: what it is taken to be, and what it should become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    pub reference: &'a str,
    /// Of 40 or 64 hexadecimal digits; all zero for a ref that there is not yet.
    pub old: &'a str,
    /// All zero for one that there should not be any more.
    pub new: &'a str,
}

/// What becomes of a ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Create,
    Delete,
    Update,
}

impl Change {
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Update => "update",
        }
    }
}

impl Update<'_> {
    pub fn change(&self) -> Change {
        let none = |id: &str| id.bytes().all(|digit| digit == b'0');
        match (none(self.old), none(self.new)) {
            // A ref that there is not, to be deleted, is none to be created.
            (_, true) => Change::Delete,
            (true, false) => Change::Create,
            (false, false) => Change::Update,
        }
    }

    /// Whether history is overwritten. None: that cannot be seen without the history.
    pub fn forced(&self) -> Option<bool> {
        (self.change() != Change::Update).then_some(false)
    }
}

/// Whether a request is one of Git's, at whichever host: for cards, which say nothing of others.
pub fn may_be(head: &Head<'_>) -> bool {
    let service = |service: Service| {
        let path = head.path.rsplit_once('/').is_some_and(|(_, last)| last == service.name());
        path && is_type(head, service)
    };
    head.path.ends_with("/info/refs") && advertised(head).is_some()
        || service(Service::ReceivePack)
        || service(Service::UploadPack)
}

/// Reads a request. `body` is without its Content-Encoding.
///
/// # Errors
/// What is none of Git's, and what Git would not write.
pub fn read<'a>(head: &Head<'_>, body: &'a [u8]) -> Result<Request<'a>, Undecodable> {
    let none = Undecodable("a request that is none of Git's");
    let last = head.path.rsplit_once('/').map_or("", |(_, last)| last);
    match (head.method.as_str(), last) {
        ("GET", "refs") if head.path.ends_with("/info/refs") => {
            let service = advertised(head).ok_or(none)?;
            if body.is_empty() { Ok(Request::Advertise(service)) } else { Err(none) }
        }
        ("POST", "git-upload-pack") if is_type(head, Service::UploadPack) => Ok(Request::Fetch),
        ("POST", "git-receive-pack") if is_type(head, Service::ReceivePack) => {
            Push::read(body).map(Request::Push)
        }
        _ => Err(none),
    }
}

fn advertised(head: &Head<'_>) -> Option<Service> {
    let services = [Service::ReceivePack, Service::UploadPack];
    let name = head.query?.strip_prefix("service=")?;
    services.into_iter().find(|service| service.name() == name)
}

fn is_type(head: &Head<'_>, service: Service) -> bool {
    let mut values = head.headers.get_all(CONTENT_TYPE).iter();
    let one = values.next().filter(|_| values.next().is_none());
    let one = head.query.is_none_or(str::is_empty).then_some(one).flatten();
    one.is_some_and(|it| it.as_bytes() == service.content_type().as_bytes())
}

const UNREAD: Undecodable = Undecodable("a push that is not as Git writes it");
const MOST_REFS: usize = 1000;
const MOST_OPTIONS: usize = 100;

impl<'a> Push<'a> {
    /// Reads the body of a request to `git-receive-pack`.
    ///
    /// # Errors
    /// What Git's receiver refuses, signed pushes, one ref twice, and more than 1000 refs.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Undecodable> {
        let mut lines = Lines { rest: bytes };
        let mut push = Self::default();
        let mut options = false;
        let mut length = None;
        while let Some(line) = lines.next()? {
            if line.starts_with(b"push-cert") {
                return Err(Undecodable("a signed push"));
            }
            // The history that the client itself lacks.
            if push.updates.is_empty() && line.starts_with(b"shallow ") {
                continue;
            }
            // The first update carries what the client can do; a receiver would take it from a later one too.
            let (command, said) = match line.iter().position(|byte| *byte == 0) {
                Some(at) if push.updates.is_empty() => (&line[..at], Some(&line[at + 1..])),
                None if !push.updates.is_empty() => (line, None),
                _ => return Err(UNREAD),
            };
            if let Some(said) = said {
                let said = std::str::from_utf8(said).map_err(|_| UNREAD)?;
                let has = |wanted: &str| said.split_ascii_whitespace().any(|it| it == wanted);
                (push.atomic, options) = (has("atomic"), has("push-options"));
            }
            let update = Update::read(command, &mut length).ok_or(UNREAD)?;
            if push.updates.iter().any(|other| other.reference == update.reference) {
                return Err(Undecodable("a push of one ref to two places"));
            }
            if push.updates.len() == MOST_REFS {
                return Err(Undecodable("a push of more than a thousand refs"));
            }
            push.updates.push(update);
        }
        if options {
            while let Some(line) = lines.next()? {
                let text = std::str::from_utf8(line).map_err(|_| UNREAD)?;
                let text = text.strip_suffix('\n').unwrap_or(text);
                if push.options.len() == MOST_OPTIONS || text.contains(char::is_control) {
                    return Err(UNREAD);
                }
                push.options.push(text);
            }
        }
        // Without a command there is nothing that a pack could be for.
        let pack = lines.rest.starts_with(b"PACK") && !push.updates.is_empty();
        if !lines.rest.is_empty() && !pack {
            return Err(UNREAD);
        }
        push.pack = lines.rest.len();
        Ok(push)
    }
}

impl<'a> Update<'a> {
    fn read(command: &'a [u8], length: &mut Option<usize>) -> Option<Self> {
        let command = std::str::from_utf8(command).ok()?;
        let command = command.strip_suffix('\n').unwrap_or(command);
        let mut parts = command.splitn(3, ' ');
        let (old, new, reference) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = *length.get_or_insert(old.len());
        let id = |text: &str| {
            let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            hex && text.len() == digits && matches!(digits, 40 | 64)
        };
        (id(old) && id(new) && is_reference(reference)).then_some(Self { reference, old, new })
    }
}

/// Whether Git's receiver takes it for a ref (git-check-ref-format): below `refs/`.
fn is_reference(name: &str) -> bool {
    let plain = |c: char| !c.is_control() && !" ~^:?*[\\".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    name.strip_prefix("refs/").is_some_and(|rest| rest.split('/').all(part))
        && name.chars().all(plain)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
}

/// pkt-lines: four hexadecimal digits of length, which count themselves.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    /// The next line; None for a flush.
    fn next(&mut self) -> Result<Option<&'a [u8]>, Undecodable> {
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
