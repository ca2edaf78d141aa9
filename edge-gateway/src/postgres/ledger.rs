//! What the server owes answers for, in their order, and what its answers say: which names stand for which statements,
//! whether a transaction is open, whether it discards what comes.
//!
//! The server answers in the order in which it was asked, so that answers of our own have their place in the same row.
//! What a name stands for counts once the server has said so: until then it does so within its own segment alone (up to
//! the next Sync), because a server that met an error discards the whole rest of that segment, and a name that was thought
//! to be harmless could still be what it was before.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::HeaderValue;
use tokio::sync::oneshot;

use super::deed::Deed;
use super::figures::{self, Asking, Figure, Heard};
use super::message::Malformed;
use super::statement::{self, Aftermath, Settings, Transaction};

/// More answers than this are not waited for at a time.
pub(super) const MOST_DUE: usize = 4096;
/// Prepared statements of one connection, and bytes of their texts.
const MOST_STATEMENTS: usize = 4096;
const MOST_TEXT: usize = 4 * 1024 * 1024;

/// A statement that was prepared.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) text: String,
    pub(super) types: Vec<u32>,
    pub(super) aftermath: Aftermath,
    /// What was said of its tables before it was prepared, and in which segment: in others it is too old.
    pub(super) figures: Option<(u64, HeaderValue)>,
}

/// A statement with its values, which came out of the gate.
pub(super) struct Portal {
    pub(super) aftermath: Aftermath,
    /// What was asked about it, and the revision of what it was judged by; none where a decision released it.
    pub(super) judged: Option<(Bytes, u64)>,
    /// To be reported once it is carried out.
    pub(super) deed: Option<Deed>,
}

/// What is answered.
pub(super) enum What {
    Bind(String, Arc<Mutex<Portal>>),
    CloseStatement(String),
    ClosePortal(String),
    Describe,
    Execute {
        portal: String,
        deed: Option<Deed>,
        unsettling: bool,
    },
    /// A question of ours, up to its own Sync: the agent hears nothing of it.
    Figures(Asking),
    /// Our own words, which need no answer.
    Ours(Bytes),
    Parse(String, Arc<Prepared>),
    Query {
        deed: Option<Deed>,
        failed: bool,
    },
    /// Something that the server cannot do, so that it takes back what the segment did: what it says to that is replaced
    /// by our own words.
    Undo(Bytes),
    Sync,
}

struct Due {
    what: What,
    segment: u64,
}

/// What a name stands for.
struct Names<T> {
    known: HashMap<String, Arc<T>>,
    /// What it will stand for (nothing, if it is closed), once the server says so, and in which segment that was asked.
    coming: HashMap<String, (u64, Option<Arc<T>>)>,
}

/// What is known of a name now.
pub(super) enum Known<T> {
    Unknown,
    /// Whatever it is, it is only known when the server has answered.
    Unsettled,
    Value(Arc<T>),
}

impl<T> Names<T> {
    fn new() -> Self {
        Self { known: HashMap::new(), coming: HashMap::new() }
    }

    fn get(&self, name: &str, segment: u64) -> Known<T> {
        let value = match self.coming.get(name) {
            Some((asked, _)) if *asked != segment => return Known::Unsettled,
            Some((_, value)) => value.clone(),
            None => self.known.get(name).cloned(),
        };
        value.map_or(Known::Unknown, Known::Value)
    }

    fn ask(&mut self, name: String, segment: u64, value: Option<Arc<T>>) {
        self.coming.insert(name, (segment, value));
    }

    /// The server did as it was asked.
    fn done(&mut self, name: String, value: Option<Arc<T>>) {
        self.forget(&name, value.as_ref());
        match value {
            Some(value) => self.known.insert(name, value),
            None => self.known.remove(&name),
        };
    }

    /// It did not.
    fn forget(&mut self, name: &str, value: Option<&Arc<T>>) {
        let same = |coming: &Option<Arc<T>>| match (coming, value) {
            (Some(coming), Some(value)) => Arc::ptr_eq(coming, value),
            (None, None) => true,
            _ => false,
        };
        if self.coming.get(name).is_some_and(|(_, coming)| same(coming)) {
            self.coming.remove(name);
        }
    }
}

/// Whether something is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The server waits for what is to be copied, and takes whatever comes for a part of that.
    Copying,
    /// The server would pass over it, up to the next Sync.
    Discarded,
    Yes,
}

/// What an answer means for whoever passes it on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passed {
    AsItIs,
    /// Our own words instead.
    Instead(Bytes),
    Nothing,
}

type Portals = Names<Mutex<Portal>>;

pub(super) struct Ledger {
    due: VecDeque<Due>,
    statements: Names<Prepared>,
    portals: Portals,
    /// Grows with each Sync and Query that is sent.
    segment: u64,
    /// The segment of which the server discards the rest.
    failed: Option<u64>,
    /// Whether something of the segment was sent.
    begun: bool,
    /// Whether something of the segment was carried out, or may have been.
    executed: bool,
    /// What was released and carried out, and is taken back if the segment's transaction cannot be committed.
    uncommitted: Vec<Deed>,
    /// Whether the server is one that can be asked about its tables, and has answered when it was.
    tells_figures: bool,
    pub(super) transaction: Transaction,
    pub(super) settings: Settings,
    /// The server waits for what is to be copied in.
    pub(super) copying: bool,
    /// The connection's encoding is not UTF-8 any more.
    pub(super) misread: bool,
}

/// An answer that fits nothing that was asked.
const STRAY: Malformed = Malformed("an answer to something that was not asked");

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            due: VecDeque::new(),
            statements: Names::new(),
            portals: Names::new(),
            segment: 0,
            failed: None,
            begun: false,
            executed: false,
            uncommitted: Vec::new(),
            tells_figures: false,
            transaction: Transaction::Idle,
            settings: Settings::new(),
            copying: false,
            misread: false,
        }
    }

    /// Whether everything is answered that the agent asked.
    pub(super) fn is_settled(&self) -> bool {
        self.due.iter().all(|due| matches!(due.what, What::Figures(_)))
    }

    pub(super) fn segment(&self) -> u64 {
        self.segment
    }

    /// Whether the server can be asked about its tables once everything before is answered, as far as is known now. Only
    /// between transactions, where nothing of the segment was sent: there it makes no difference to the agent.
    pub(super) fn may_ask_figures(&self) -> bool {
        let outside = self.transaction == Transaction::Idle || !self.due.is_empty();
        self.tells_figures && !self.begun && !self.copying && outside
    }

    /// Enters a question about tables, if it can be asked now.
    pub(super) fn ask_figures(&mut self) -> Option<oneshot::Receiver<Vec<Figure>>> {
        if !self.may_ask_figures() || !self.due.is_empty() {
            return None;
        }
        let (tell, told) = oneshot::channel();
        (self.ask(What::Figures(Asking::new(tell))) == Asked::Yes).then_some(told)
    }

    /// The server did not answer in time: it is not asked again.
    pub(super) fn asked_in_vain(&mut self) {
        self.tells_figures = false;
    }

    /// Whether what comes now answers a question of ours.
    pub(super) fn hears_figures(&self) -> bool {
        matches!(self.due.front(), Some(Due { what: What::Figures(_), .. }))
    }

    pub(super) fn is_full(&self) -> bool {
        self.due.len() >= MOST_DUE
    }

    /// Whether the server answers the last of it without being asked to.
    pub(super) fn needs_flush(&self) -> bool {
        self.due.back().is_some_and(|due| due.segment == self.segment)
    }

    /// Whether how text is read may be about to change.
    pub(super) fn is_unsettling(&self) -> bool {
        self.due.iter().any(|due| {
            matches!(&due.what, What::Execute { unsettling: true, .. } | What::Query { .. })
        })
    }

    /// Whether the server discards what is sent now.
    pub(super) fn discards(&self) -> bool {
        self.failed == Some(self.segment)
    }

    /// Whether what this segment did is not yet part of anything: an error takes it back.
    pub(super) fn can_be_undone(&self) -> bool {
        self.executed && self.transaction == Transaction::Idle
    }

    /// Whether something that a decision released is on its way, so that the server will say what came of it. It says
    /// nothing of what is not committed without a Sync.
    pub(super) fn has_deeds(&self) -> bool {
        self.due.iter().any(|due| match &due.what {
            What::Execute { deed: Some(_), .. } | What::Query { deed: Some(_), .. } => true,
            What::Query { .. } | What::Sync => !self.uncommitted.is_empty(),
            _ => false,
        })
    }

    pub(super) fn statement(&self, name: &str) -> Known<Prepared> {
        self.statements.get(name, self.segment)
    }

    pub(super) fn portal(&self, name: &str) -> Known<Mutex<Portal>> {
        self.portals.get(name, self.segment)
    }

    /// Whether there is room for one more statement.
    pub(super) fn has_room_for(&self, text: &str) -> bool {
        let coming = self.statements.coming.values().filter_map(|(_, value)| value.as_ref());
        let all = self.statements.known.values().chain(coming);
        let (count, bytes) =
            all.fold((0, text.len()), |(count, bytes), it| (count + 1, bytes + it.text.len()));
        count < MOST_STATEMENTS && bytes <= MOST_TEXT
    }

    /// What was prepared by name does not count any more: a statement may have given its name to another.
    pub(super) fn forget_statements(&mut self) {
        self.statements.known.clear();
        self.statements.coming.clear();
    }

    /// It is about to be sent (or, if it is our own, said). To be called before it is, and it must not be unless the
    /// answer is [`Asked::Yes`].
    pub(super) fn ask(&mut self, what: What) -> Asked {
        let segment = self.segment;
        match &what {
            What::Ours(_) => {}
            _ if self.copying => return Asked::Copying,
            What::Sync => {}
            _ if self.discards() => return Asked::Discarded,
            _ => {}
        }
        match &what {
            What::Parse(name, prepared) => {
                self.statements.ask(name.clone(), segment, Some(Arc::clone(prepared)));
            }
            What::CloseStatement(name) => self.statements.ask(name.clone(), segment, None),
            What::Bind(name, portal) => {
                self.portals.ask(name.clone(), segment, Some(Arc::clone(portal)));
            }
            What::ClosePortal(name) => self.portals.ask(name.clone(), segment, None),
            What::Execute { .. } => self.executed = true,
            What::Figures(_) | What::Sync | What::Query { .. } => {
                self.segment += 1;
                self.executed = false;
            }
            What::Describe | What::Ours(_) | What::Undo(_) => {}
        }
        match &what {
            What::Figures(_) | What::Sync | What::Query { .. } => self.begun = false,
            What::Ours(_) => {}
            _ => self.begun = true,
        }
        self.due.push_back(Due { what, segment });
        Asked::Yes
    }

    /// The agent has said all that was to be copied in.
    pub(super) fn copied(&mut self) {
        self.copying = false;
    }

    /// Our own words that are next, if they are.
    pub(super) fn ours(&mut self) -> Option<Bytes> {
        // The agent hears nothing of questions of ours, so that these words need not wait for their answers.
        let next = self.due.iter().position(|due| !matches!(due.what, What::Figures(_)))?;
        if !matches!(self.due[next].what, What::Ours(_)) {
            return None;
        }
        match self.due.remove(next) {
            Some(Due { what: What::Ours(words), .. }) => Some(words),
            _ => None,
        }
    }

    /// A parameter as the server reported it.
    pub(super) fn reported(&mut self, name: &str, value: &str) {
        statement::reported(&mut self.settings, name, value);
        self.misread |= name == "client_encoding" && value != "UTF8";
        if name == "server_version" {
            self.tells_figures = figures::understood_by(value);
        }
    }

    /// Takes in an answer, other than what comes unasked. `body` may be left out for rows and what is copied.
    ///
    /// # Errors
    /// One that fits nothing that was asked.
    pub(super) fn answered(&mut self, tag: u8, body: &[u8]) -> Result<Passed, Malformed> {
        if self.hears_figures() {
            return self.figures(tag, body);
        }
        match tag {
            b'E' => return self.failed(),
            b'Z' => return self.ready(body).map(|()| Passed::AsItIs),
            _ => {}
        }
        let Some(due) = self.due.front() else { return Err(STRAY) };
        let ends = match (&due.what, tag) {
            (What::Parse(..), b'1')
            | (What::Bind(..), b'2')
            | (What::CloseStatement(_) | What::ClosePortal(_), b'3')
            | (What::Describe, b'T' | b'n')
            | (What::Execute { .. }, b'C' | b'I' | b's') => true,
            (What::Describe, b't')
            | (What::Execute { .. }, b'D' | b'H' | b'd' | b'c' | b'G')
            | (What::Query { .. }, b'T' | b'D' | b'C' | b'I' | b'H' | b'd' | b'c' | b'G') => false,
            _ => return Err(STRAY),
        };
        if tag == b'G' {
            self.copies_in()?;
        }
        if !ends {
            return Ok(Passed::AsItIs);
        }
        let Some(Due { what, .. }) = self.due.pop_front() else { return Err(STRAY) };
        match what {
            What::Parse(name, prepared) => self.statements.done(name, Some(prepared)),
            What::CloseStatement(name) => self.statements.done(name, None),
            What::Bind(name, portal) => self.portals.done(name, Some(portal)),
            What::ClosePortal(name) => self.portals.done(name, None),
            What::Execute { portal, deed, .. } => {
                self.copying = false;
                match (deed, tag) {
                    // There is more of it: it goes on with the next Execute.
                    (Some(deed), b's') => {
                        if let Some(portal) = self.portals.known.get(&portal) {
                            super::lock(portal).deed = Some(deed);
                        }
                    }
                    // Its own transaction, which Sync ends: committing it may fail.
                    (Some(deed), _) if self.transaction == Transaction::Idle => {
                        self.uncommitted.push(deed);
                    }
                    (Some(deed), _) => deed.done(),
                    (None, _) => {}
                }
                // Within a segment, these end what went before, for good.
                if tag == b'C' && [&b"COMMIT\0"[..], b"ROLLBACK\0"].contains(&body) {
                    self.uncommitted.drain(..).for_each(Deed::done);
                }
            }
            _ => {}
        }
        Ok(Passed::AsItIs)
    }

    fn figures(&mut self, tag: u8, body: &[u8]) -> Result<Passed, Malformed> {
        let Some(Due { what: What::Figures(asking), .. }) = self.due.front_mut() else {
            return Err(STRAY);
        };
        match asking.hears(tag, body)? {
            Heard::Fatal => return Ok(Passed::AsItIs),
            Heard::More => {}
            Heard::Answered(told) => {
                self.tells_figures &= told;
                if let Some(Due { what: What::Figures(asking), .. }) = self.due.pop_front() {
                    asking.end();
                }
            }
        }
        Ok(Passed::Nothing)
    }

    /// The server waits for what is to be copied. A Sync that was sent behind the statement is read as part of that, and
    /// not answered; anything else there would be taken for an error of the copying.
    fn copies_in(&mut self) -> Result<(), Malformed> {
        let extended = matches!(self.due.front(), Some(Due { what: What::Execute { .. }, .. }));
        let behind = self.due.iter().skip(1);
        if behind.clone().any(|due| !extended || !matches!(due.what, What::Sync)) {
            return Err(Malformed("something sent behind a COPY that waits for its data"));
        }
        self.due.truncate(1);
        self.copying = true;
        Ok(())
    }

    fn failed(&mut self) -> Result<Passed, Malformed> {
        self.copying = false;
        match self.due.front_mut() {
            // Unasked: the last that the server says.
            None => Ok(Passed::AsItIs),
            Some(Due { what: What::Query { failed, .. }, .. }) => {
                *failed = true;
                Ok(Passed::AsItIs)
            }
            Some(Due { what: What::Ours(_) | What::Figures(_), .. }) => Ok(Passed::AsItIs),
            // What the segment did could not be committed.
            Some(Due { what: What::Sync, segment }) => {
                self.failed = Some(*segment);
                Ok(Passed::AsItIs)
            }
            Some(Due { segment, .. }) => {
                let segment = *segment;
                self.failed = Some(segment);
                let mut passed = Passed::AsItIs;
                let mut first = true;
                // What was asked behind it, up to the Sync, is discarded. Our own words come after the error.
                while self.due.front().is_some_and(|due| {
                    due.segment == segment && !matches!(due.what, What::Sync | What::Ours(_))
                }) {
                    let Some(Due { what, .. }) = self.due.pop_front() else { break };
                    match what {
                        What::Undo(words) if first => passed = Passed::Instead(words),
                        what => self.discarded(what, first),
                    }
                    first = false;
                }
                Ok(passed)
            }
        }
    }

    fn discarded(&mut self, what: What, tried: bool) {
        match what {
            What::Parse(name, prepared) => self.statements.forget(&name, Some(&prepared)),
            What::CloseStatement(name) => self.statements.forget(&name, None),
            What::Bind(name, portal) => {
                self.portals.forget(&name, Some(&portal));
                let deed = super::lock(&portal).deed.take();
                if let Some(deed) = deed {
                    if tried { deed.failed() } else { deed.not_sent() }
                }
            }
            What::ClosePortal(name) => self.portals.forget(&name, None),
            What::Execute { deed: Some(deed), .. } => {
                if tried {
                    deed.failed();
                } else {
                    deed.not_sent();
                }
            }
            _ => {}
        }
    }

    fn ready(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let [status] = body else { return Err(Malformed("a ReadyForQuery of another length")) };
        let transaction = Transaction::of(*status)
            .ok_or(Malformed("a transaction in a state that is not known"))?;
        let Some(Due { what, segment }) = self.due.pop_front() else { return Err(STRAY) };
        let (deed, failed) = match what {
            What::Sync => (None, self.failed == Some(segment)),
            What::Query { deed, failed } => (deed, failed),
            _ => return Err(STRAY),
        };
        for deed in self.uncommitted.drain(..).chain(deed) {
            if failed {
                deed.failed();
            } else {
                deed.done();
            }
        }
        if self.failed == Some(segment) {
            self.failed = None;
        }
        self.copying = false;
        self.transaction = transaction;
        if transaction == Transaction::Idle {
            // Portals end with their transaction.
            self.portals.known.clear();
        }
        Ok(())
    }
}
