//! The way out: what the agent says, judged where it could have an effect, and sent only as it came out of the gate.
//!
//! * A Query is one request, with all of its statements.
//! * Parse has no effect but that names are looked up (the manual's "Extended Query": a statement is planned when it is
//!   bound), so it goes on at once, unless no values could make the policy let it through; and so does Describe, whose answer
//!   clients need before they have values.
//! * Bind plans the statement, which may evaluate functions, and has all the values: here it is judged, and held if it has
//!   to be. So nothing of it happens before its approval, and Execute, which may come again to go on, needs no second one.
//! * Before people are asked, the server is asked how many rows the tables hold that are written: where that makes no
//!   difference to the agent, which is between transactions and before anything of the same row was sent. So of a statement
//!   that is prepared in the row that runs it, it is asked before Parse, and of others as they are bound.
//! * What is refused or held waits first until everything before it is answered: so the state of the transaction is known,
//!   and nobody is asked about what the server would discard.
//! * A refusal takes back what the same segment did outside of a transaction, as an error of the server would; within a
//!   transaction it leaves that as it is, so that the identical statement can be run again and attach to its approval.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::deed::Deed;
use super::figures::Question;
use super::ledger::{Asked, Known, Ledger, Portal, Prepared, What};
use super::lock;
use super::message::{
    self, Bind, Frontend, HEADER, Malformed, Of, Parse, body_length, put_bare, put_bind,
    put_execute, put_named, put_parse, put_query, write,
};
use super::report::{Report, Severity, TOO_LARGE, UNSUPPORTED};
use super::session::{End, Out, Session, forbidden};
use super::statement::{self, Aftermath, Released};
use super::weigh::{Holding, LetGo, Weighed};
use crate::agent::Spooled;
use crate::judge::refused_if_it_fails;
use crate::refuse::Refusal;
use crate::tripwire::Watch;

/// As much is read ahead while something is held: so it is seen when the agent leaves.
const READ_AHEAD: usize = 64 * 1024;
const READ: usize = 16 * 1024;
/// A larger message counts among the bytes that the agent may have here.
const SMALL: usize = 64 * 1024;
/// How long people wait to be asked for what the server says of its tables, milliseconds.
const FIGURES_WITHIN_MS: u64 = 2_000;
/// Nothing has this name.
const NO_PORTAL: &str = "countersign: refused, so nothing of it is carried out";

pub(super) struct Outward<'a, R, W> {
    session: &'a Session,
    from: R,
    read: BytesMut,
    to: &'a mut Out<W>,
    out: BytesMut,
    /// We said no to something of this segment: what follows is passed over, up to the next Sync.
    skipping: bool,
    /// For a large message that is not all here.
    spooled: Option<Spooled>,
    /// Of what is copied in.
    watch: Watch,
}

/// What came of asking.
enum Cleared {
    No(Report),
    Yes { outbound: Box<countersign_gate::Outbound>, deed: Option<Deed>, revision: Option<u64> },
}

impl<'a, R, W> Outward<'a, R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    pub(super) fn new(session: &'a Session, from: R, read: BytesMut, to: &'a mut Out<W>) -> Self {
        let out = BytesMut::new();
        let watch = Watch::default();
        Self { session, from, read, to, out, skipping: false, spooled: None, watch }
    }

    /// Passes on what comes, until something ends that.
    pub(super) async fn run(&mut self) -> End {
        match self.serve().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn serve(&mut self) -> Result<Infallible, End> {
        let most = self.session.rooms().limits.max_held_body;
        loop {
            while let Some(message) = message::next(&mut self.read, most).map_err(malformed)? {
                self.message(message).await?;
            }
            self.flush().await?;
            self.fill().await?;
        }
    }

    async fn message(&mut self, message: Frontend) -> Result<(), End> {
        if self.session.ledger().is_full() {
            self.until(|ledger| !ledger.is_full()).await?;
        }
        match message {
            Frontend::Terminate => Err(End::Closed),
            Frontend::CopyData(_) | Frontend::CopyDone | Frontend::CopyFail(_) => {
                self.copy(message).await
            }
            Frontend::Flush => {
                // While something is copied in, the server passes over it.
                if !self.session.ledger().copying {
                    put_bare(&mut self.out, b'H');
                }
                Ok(())
            }
            Frontend::Sync => {
                self.skipping = false;
                self.ask(What::Sync, |out| put_bare(out, b'S'))
            }
            _ if self.skipping => Ok(()),
            Frontend::Bind(bind) => self.bind(bind).await,
            Frontend::Close { of, name } => {
                let what = match of {
                    Of::Portal => What::ClosePortal(name.clone()),
                    Of::Statement => What::CloseStatement(name.clone()),
                };
                self.ask(what, |out| put_named(out, b'C', of, &name))
            }
            Frontend::Describe { of, name } => {
                self.ask(What::Describe, |out| put_named(out, b'D', of, &name))
            }
            Frontend::Execute { portal, rows } => self.execute(portal, rows).await,
            Frontend::FunctionCall => {
                self.settle().await?;
                let why = "Functions are called in statements here: SELECT f(…).".to_owned();
                let report = Report::error(UNSUPPORTED, "no function calls by number", why);
                self.refuse_query(&report)
            }
            Frontend::Parse(parse) => self.parse(parse).await,
            Frontend::Query(text) => self.query(text).await,
        }
    }

    async fn query(&mut self, text: String) -> Result<(), End> {
        self.settle().await?;
        let body = {
            let ledger = self.session.ledger();
            if ledger.discards() {
                return Ok(());
            }
            statement::simple(&text, ledger.transaction, &ledger.settings)
        };
        let (outbound, deed) = match self.cleared(&body, &text, None).await? {
            Cleared::No(report) => return self.refuse_query(&report),
            Cleared::Yes { outbound, deed, .. } => (outbound, deed),
        };
        let Ok(Released::Query(text)) = statement::released(*outbound) else {
            return Err(forbidden(Refusal::PolicyFailed));
        };
        if Aftermath::of(&text).renames {
            self.session.ledger().forget_statements();
        }
        self.ask(What::Query { deed, failed: false }, |out| put_query(out, &text))
    }

    async fn parse(&mut self, parse: Parse) -> Result<(), End> {
        self.calm().await?;
        if !self.session.ledger().has_room_for(&parse.text) {
            let why =
                "This connection has prepared as many statements as it may. Close some of them.";
            let report = Report::error(TOO_LARGE, "too many prepared statements", why.into());
            return self.refuse(&report).await;
        }
        let Parse { text, types, .. } = &parse;
        let body = {
            let ledger = self.session.ledger();
            statement::extended(text, types, &[], ledger.transaction, &ledger.settings)
        };
        let weighed = refused_if_it_fails(async { self.session.scales.would_hold(&body) }).await;
        let figures = match weighed {
            Err(refusal) => return self.refuse(&self.no(&refusal)).await,
            Ok(true) if self.session.ledger().may_ask_figures() => {
                self.settle().await?;
                match self.figures(text).await? {
                    Err(report) => return self.refuse(&report).await,
                    Ok(figures) => figures,
                }
            }
            Ok(_) => None,
        };
        let segment = self.session.ledger().segment();
        let prepared = Prepared {
            aftermath: Aftermath::of(&parse.text),
            text: parse.text.clone(),
            types: parse.types.clone(),
            figures: figures.map(|figures| (segment, figures)),
        };
        let what = What::Parse(parse.name.clone(), Arc::new(prepared));
        self.ask(what, |out| put_parse(out, &parse))
    }

    async fn bind(&mut self, bind: Bind) -> Result<(), End> {
        self.calm().await?;
        let Some((mut prepared, mut body)) = self.bound(&bind).await? else {
            return self.refuse(&unknown("26000", "there is no such prepared statement")).await;
        };
        let weighed = refused_if_it_fails(self.session.scales.weigh_at_once(&body)).await;
        let cleared = match weighed {
            Ok(Some((outbound, revision))) => {
                Cleared::Yes { outbound: Box::new(outbound), deed: None, revision: Some(revision) }
            }
            Ok(None) | Err(_) => {
                self.settle().await?;
                if self.session.ledger().discards() {
                    return Ok(());
                }
                // What is known now, after all that went before, is what counts.
                let Some(known) = self.bound(&bind).await? else {
                    let report = unknown("26000", "there is no such prepared statement");
                    return self.refuse(&report).await;
                };
                (prepared, body) = known;
                let segment = self.session.ledger().segment();
                let figures = prepared.figures.as_ref().filter(|(asked, _)| *asked == segment);
                let figures = figures.map(|(_, figures)| figures.clone());
                self.cleared(&body, &prepared.text, figures).await?
            }
        };
        let (outbound, deed, revision) = match cleared {
            Cleared::No(report) => return self.refuse(&report).await,
            Cleared::Yes { outbound, deed, revision } => (outbound, deed, revision),
        };
        let Ok(Released::Values(parameters)) = statement::released(*outbound) else {
            return Err(forbidden(Refusal::PolicyFailed));
        };
        let bind = Bind { parameters, ..bind };
        let judged = revision.map(|revision| (body, revision));
        let aftermath = prepared.aftermath;
        let portal = Arc::new(Mutex::new(Portal { aftermath, judged, deed }));
        let what = What::Bind(bind.portal.clone(), portal);
        self.ask(what, |out| put_bind(out, &bind))
    }

    /// The statement that a Bind is about, and what is asked about it.
    async fn bound(&mut self, bind: &Bind) -> Result<Option<(Arc<Prepared>, Bytes)>, End> {
        let prepared = loop {
            let known = self.session.ledger().statement(&bind.statement);
            match known {
                Known::Unknown => return Ok(None),
                Known::Unsettled => self.settle().await?,
                Known::Value(prepared) => break prepared,
            }
        };
        let ledger = self.session.ledger();
        let body = statement::extended(
            &prepared.text,
            &prepared.types,
            &bind.parameters,
            ledger.transaction,
            &ledger.settings,
        );
        drop(ledger);
        Ok(Some((prepared, body)))
    }

    async fn execute(&mut self, name: String, rows: i32) -> Result<(), End> {
        let portal = loop {
            let known = self.session.ledger().portal(&name);
            match known {
                Known::Unknown => {
                    return self.refuse(&unknown("34000", "there is no such portal")).await;
                }
                Known::Unsettled => self.settle().await?,
                Known::Value(portal) => break portal,
            }
        };
        // What the policy allowed was allowed by the policy of then.
        let judged = lock(&portal).judged.clone();
        if let Some((body, revision)) = judged
            && self.session.scales.revision() != Some(revision)
        {
            match refused_if_it_fails(self.session.scales.weigh_at_once(&body)).await {
                Ok(Some((_, revision))) => lock(&portal).judged = Some((body, revision)),
                Ok(None) => {
                    let why = "The policy changed since this was bound, and asks people about it now. Bind it again.";
                    let report = Report::error("55000", "the policy changed", why.into());
                    return self.refuse(&report).await;
                }
                Err(refusal) => return self.refuse(&self.no(&refusal)).await,
            }
        }
        let (deed, aftermath) = {
            let mut portal = lock(&portal);
            (portal.deed.take(), portal.aftermath)
        };
        if aftermath.renames {
            self.session.ledger().forget_statements();
        }
        let unsettling = aftermath.unsettles;
        let what = What::Execute { portal: name.clone(), deed, unsettling };
        self.ask(what, |out| put_execute(out, &name, rows))
    }

    /// What is copied in goes on once the server waits for it, and is dropped otherwise, as the server itself would.
    async fn copy(&mut self, message: Frontend) -> Result<(), End> {
        self.until(|ledger| ledger.copying || ledger.is_settled()).await?;
        if !self.session.ledger().copying {
            return Ok(());
        }
        match message {
            Frontend::CopyData(data) => {
                if let Some(force) = self.session.rooms().control.in_force()
                    && let Some(owner) = self.watch.feed(&force.bundle.tripwire, &data)
                {
                    let place = "in what is copied in";
                    return Err(forbidden(self.session.scales.tripped(&force, owner, place)));
                }
                write(&mut self.out, b'd', |out| out.put_slice(&data));
                if self.out.len() >= READ_AHEAD {
                    self.flush().await?;
                }
            }
            Frontend::CopyFail(why) => {
                self.session.ledger().copied();
                write(&mut self.out, b'f', |out| message::put_text(out, &why));
            }
            _ => {
                self.session.ledger().copied();
                put_bare(&mut self.out, b'c');
            }
        }
        Ok(())
    }

    /// Asks, and waits for people if it has to be. Everything before it is answered. `figures` are what is known of the
    /// tables already.
    async fn cleared(
        &mut self,
        body: &Bytes,
        text: &str,
        mut figures: Option<HeaderValue>,
    ) -> Result<Cleared, End> {
        let session = self.session;
        match refused_if_it_fails(session.scales.weigh_at_once(body)).await {
            Ok(Some((outbound, revision))) => {
                let outbound = Box::new(outbound);
                return Ok(Cleared::Yes { outbound, deed: None, revision: Some(revision) });
            }
            Ok(None) if figures.is_none() => match self.figures(text).await? {
                Ok(asked) => figures = asked,
                Err(report) => return Ok(Cleared::No(report)),
            },
            Ok(None) => {}
            Err(refusal) => return Ok(Cleared::No(self.no(&refusal))),
        }
        let weighed = refused_if_it_fails(session.scales.weigh(body, figures)).await;
        Ok(match weighed {
            Ok(Weighed::Passes(outbound, revision)) => {
                Cleared::Yes { outbound: Box::new(outbound), deed: None, revision: Some(revision) }
            }
            Ok(Weighed::Holds(holding)) => self.held(*holding).await?,
            Err(refusal) => Cleared::No(self.no(&refusal)),
        })
    }

    /// What the server says of the tables that a text writes; nothing where it cannot be asked, or does not say it. What is
    /// on its way longer than people wait for it answers nobody, and delays only what the agent asks next.
    ///
    /// Or, what the agent is told that cancelled meanwhile.
    async fn figures(&mut self, text: &str) -> Result<Result<Option<HeaderValue>, Report>, End> {
        let session = self.session;
        if !session.ledger().may_ask_figures() {
            return Ok(Ok(None));
        }
        let Some(question) = Question::about(text) else { return Ok(Ok(None)) };
        let Some(told) = session.ledger().ask_figures() else { return Ok(Ok(None)) };
        let clock = session.rooms().control.clock();
        let until = clock.boottime_ms().saturating_add(FIGURES_WITHIN_MS);
        let (_cancellable, mut cancelled) = session.holds();
        question.put(&mut self.out);
        self.flush().await?;
        Ok(tokio::select! {
            told = told => Ok(told.ok().and_then(|figures| question.said(&figures))),
            Ok(()) = &mut cancelled => Err(Report::cancelled()),
            () = clock.reached(until) => {
                session.ledger().asked_in_vain();
                Ok(None)
            }
        })
    }

    async fn held(&mut self, holding: Holding) -> Result<Cleared, End> {
        self.flush().await?;
        let session = self.session;
        let (asks, mut known) = (holding.asks_people(), holding.known());
        let (_cancellable, mut cancelled) = session.holds();
        let mut letting_go = pin!(holding.let_go(session.rooms(), &session.scales.badge));
        let let_go = loop {
            let room = self.read.len() < READ_AHEAD;
            tokio::select! {
                let_go = &mut letting_go => break let_go,
                Ok(()) = &mut cancelled => return Ok(Cleared::No(Report::cancelled())),
                Ok(()) = known.changed(), if asks => {
                    let approval_id = known.borrow_and_update().clone();
                    if let Some(approval_id) = approval_id {
                        self.waits(&approval_id);
                    }
                }
                read = self.from.read_buf(&mut self.read), if room => match read {
                    Ok(0) | Err(_) => return Err(End::Gone),
                    Ok(_) => {}
                },
            }
        };
        Ok(match let_go {
            Err(refusal) => Cleared::No(self.no(&refusal)),
            Ok(LetGo { outbound, by, body, .. }) => {
                let approval_id = outbound.approval_id().copied();
                let control = Arc::clone(&session.rooms().control);
                let deed = by.map(|id| Deed::new(control, id, approval_id, body));
                Cleared::Yes { outbound: Box::new(outbound), deed, revision: None }
            }
        })
    }

    /// Tells the client that it waits.
    fn waits(&self, approval_id: &str) {
        let mut ledger = self.session.ledger();
        let open = ledger.transaction != statement::Transaction::Idle;
        let mut words = BytesMut::new();
        Report::waits(approval_id, open).put(&mut words);
        ledger.ask(What::Ours(words.freeze()));
        drop(ledger);
        self.session.words.notify_one();
    }

    fn no(&self, refusal: &Refusal) -> Report {
        self.session.rooms().metrics.requests.with_label_values(&[refusal.code()]).inc();
        Report::refused(refusal, Severity::Error)
    }

    /// Says no to something of the extended protocol: what follows is passed over, up to the next Sync.
    async fn refuse(&mut self, report: &Report) -> Result<(), End> {
        self.settle().await?;
        let mut words = BytesMut::new();
        report.put(&mut words);
        let words = words.freeze();
        let mut ledger = self.session.ledger();
        if ledger.discards() {
            return Ok(());
        }
        self.skipping = true;
        if ledger.can_be_undone() {
            drop(ledger);
            return self.ask(What::Undo(words), |out| put_execute(out, NO_PORTAL, 0));
        }
        ledger.ask(What::Ours(words));
        drop(ledger);
        self.session.words.notify_one();
        Ok(())
    }

    /// Says no to a Query, or to what is answered as one. Everything before it is answered.
    fn refuse_query(&mut self, report: &Report) -> Result<(), End> {
        let mut words = BytesMut::new();
        report.put(&mut words);
        let mut ledger = self.session.ledger();
        if ledger.discards() {
            return Ok(());
        }
        if ledger.can_be_undone() {
            drop(ledger);
            self.ask(What::Undo(words.freeze()), |out| put_execute(out, NO_PORTAL, 0))?;
            return self.ask(What::Sync, |out| put_bare(out, b'S'));
        }
        let status = ledger.transaction.status();
        write(&mut words, b'Z', |out| out.put_u8(status));
        ledger.ask(What::Ours(words.freeze()));
        drop(ledger);
        self.session.words.notify_one();
        Ok(())
    }

    /// Enters what will be answered, and writes it.
    fn ask(&mut self, what: What, put: impl FnOnce(&mut BytesMut)) -> Result<(), End> {
        let sync = matches!(what, What::Sync);
        let counted = matches!(what, What::Execute { .. } | What::Query { .. });
        match self.session.ledger().ask(what) {
            Asked::Yes => {
                if counted {
                    self.session.rooms().metrics.requests.with_label_values(&["forwarded"]).inc();
                }
                put(&mut self.out);
                Ok(())
            }
            Asked::Discarded => Ok(()),
            Asked::Copying if sync => Ok(()),
            Asked::Copying => {
                Err(End::Malformed("a statement where data to be copied was waited for"))
            }
        }
    }

    /// Waits while something is under way that may change how text is read.
    async fn calm(&mut self) -> Result<(), End> {
        if self.session.ledger().is_unsettling() {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits until everything is answered.
    async fn settle(&mut self) -> Result<(), End> {
        self.until(|ledger| ledger.is_settled() || ledger.copying).await?;
        if self.session.ledger().copying {
            return Err(End::Malformed("a statement where data to be copied was waited for"));
        }
        Ok(())
    }

    /// Waits until this is so. The server says what it has done so far, even without a Sync.
    async fn until(&mut self, so: impl Fn(&Ledger) -> bool) -> Result<(), End> {
        let mut flushed = false;
        loop {
            let needs_flush = {
                let ledger = self.session.ledger();
                if so(&ledger) {
                    return Ok(());
                }
                ledger.needs_flush() && !ledger.copying
            };
            if !flushed {
                if needs_flush {
                    put_bare(&mut self.out, b'H');
                }
                self.flush().await?;
                flushed = true;
                continue;
            }
            self.session.moved.notified().await;
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        let written = self.to.write(&self.out, true).await;
        self.out.clear();
        written.map_err(|_| End::ServerGone)
    }

    /// Reads more. A large message is counted among what the agent may have here, before it is.
    async fn fill(&mut self) -> Result<(), End> {
        let expected = body_length(&self.read).map_err(malformed)?.map_or(0, |body| HEADER + body);
        if expected <= SMALL {
            self.spooled = None;
        } else if self.spooled.is_none() {
            let force = self.session.rooms().control.in_force();
            let agent = force.as_ref().and_then(|force| {
                force.bundle.agent(&self.session.scales.badge).map(|agent| agent.id.clone())
            });
            let Some(agent) = agent else { return Err(forbidden(Refusal::ProxyCredential)) };
            let seats = self.session.rooms().hall.seats(&agent);
            seats.spool(expected, &mut self.spooled).map_err(forbidden)?;
        }
        self.read.reserve(READ);
        match self.from.read_buf(&mut self.read).await {
            Ok(0) | Err(_) => Err(End::Gone),
            Ok(_) => Ok(()),
        }
    }
}

fn malformed(Malformed(what): Malformed) -> End {
    End::Malformed(what)
}

fn unknown(code: &'static str, message: &'static str) -> Report {
    Report::error(code, message, "Nothing of it was sent.".into())
}
