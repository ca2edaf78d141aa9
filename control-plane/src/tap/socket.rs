//! Listens over connections that we open to a platform: does what its conversation says, and comes back when one ends.
//!
//! Nothing is acknowledged before it is known what became of it: what the platform then sends again is the same event, and
//! counts once. The listener is aborted with the leadership, or when the channel is changed; whoever leads then is sent what
//! was not acknowledged.

use std::sync::Arc;
use std::time::Duration;

use countersign_chat::{Begin, Conversation, Failure, Forged, Heard, Reply, Secret, Step};
use futures::stream::FuturesUnordered;
use futures::{Sink, SinkExt as _, StreamExt as _};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{reply, send_aside};
use crate::node::Unsealed;
use crate::notify::channels::{Connection, OpenChannel};

/// A connection is pinged so often, and dead when nothing at all has come over it for so long.
const PING: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(45);
/// How long a frame may take to leave.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many answers are worked on at once; further frames wait.
const AT_ONCE: usize = 64;

/// Between two connections: at first short, then twice as long each time, until one has held.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
const HELD: Duration = Duration::from_secs(60);
/// Where only somebody can help, who may do so on the platform's side.
const UNTIL_SOMEBODY_ACTS: Duration = Duration::from_secs(5 * 60);

/// Codes of the applications' own begin with 4: with 1000, Discord would end the session that the next connection is to take up.
const CLOSE: u16 = 4000;

/// Never ends by itself.
pub(super) async fn listen(house: Arc<Unsealed>, open: Arc<OpenChannel>) {
    let Some(mut conversation) = open.adapter.socket() else { return };
    let mut pause = SHORTEST_PAUSE;
    loop {
        let began = Instant::now();
        let left = match connect(&open, &mut *conversation).await {
            Ok(connection) => converse(&house, &open, &mut *conversation, connection).await,
            Err(failure) => Err(failure),
        };
        if began.elapsed() >= HELD {
            pause = SHORTEST_PAUSE;
        }
        let at_least = match &left {
            Ok(()) => Duration::ZERO,
            Err(failure) => {
                tracing::warn!(channel = open.name, ?failure, "nothing can be heard for now");
                match failure {
                    Failure::Later { after, .. } => after.unwrap_or_default(),
                    Failure::Never { .. } => UNTIL_SOMEBODY_ACTS,
                }
            }
        };
        sleep(at_least + pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect(
    open: &OpenChannel,
    conversation: &mut dyn Conversation,
) -> Result<Connection, Failure> {
    let address = match conversation.begin() {
        Begin::Ask(call) => conversation.found(&open.send(call).await?)?,
        Begin::At(address) => address,
    };
    open.dial(&address).await
}

/// One connection, until it ends; with an error, for a reason that is worth a line in the log.
async fn converse(
    house: &Arc<Unsealed>,
    open: &Arc<OpenChannel>,
    conversation: &mut dyn Conversation,
    connection: Connection,
) -> Result<(), Failure> {
    let (mut out, mut frames) = connection.split();
    let mut answers = FuturesUnordered::new();
    let (mut pings, mut heard_at) = (interval(PING), Instant::now());
    let mut beats: Option<Interval> = None;
    let left = 'connected: loop {
        let steps = tokio::select! {
            frame = frames.next(), if answers.len() < AT_ONCE => {
                heard_at = Instant::now();
                match frame {
                    Some(Ok(Message::Text(text))) => conversation.heard(&text),
                    Some(Ok(Message::Close(close))) => {
                        break conversation.closed(close.map(|close| close.code.into()));
                    }
                    Some(Ok(_)) => Vec::new(),
                    Some(Err(error)) => break gone(conversation, broken(&error)),
                    None => break conversation.closed(None),
                }
            }
            Some((to, reply)) = answers.next() => answered(conversation, &to, reply),
            () = tick(&mut beats) => vec![conversation.beat()],
            _ = pings.tick() => {
                if heard_at.elapsed() > SILENCE {
                    break gone(conversation, later("nothing came over the connection"));
                }
                if let Err(failure) = send(&mut out, Message::Ping(Default::default())).await {
                    break gone(conversation, failure);
                }
                Vec::new()
            }
        };
        for step in steps {
            match step {
                Step::Beat(every) => beats = Some(beating(every)),
                Step::Call(call) => send_aside(house, open, call),
                Step::Heard { heard, to } => answers.push(answer(house, open, heard, to)),
                Step::Leave(left) => break 'connected left,
                Step::Send(frame) => {
                    if let Err(failure) = send(&mut out, text(&frame)).await {
                        break 'connected gone(conversation, failure);
                    }
                }
            }
        }
    };
    // What was heard is still answered, as far as the other side listens.
    while let Some((to, reply)) = answers.next().await {
        for step in answered(conversation, &to, reply) {
            match step {
                Step::Call(call) => send_aside(house, open, call),
                Step::Send(frame) => drop(send(&mut out, text(&frame)).await),
                Step::Beat(_) | Step::Heard { .. } | Step::Leave(_) => {}
            }
        }
    }
    let close = CloseFrame { code: CLOSE.into(), reason: Default::default() };
    let _ = send(&mut out, Message::Close(Some(close))).await;
    left
}

/// None: it is not the platform's, or not known yet what became of it, so it is not acknowledged.
async fn answer(
    house: &Arc<Unsealed>,
    open: &Arc<OpenChannel>,
    heard: Result<Heard, Forged>,
    to: Secret,
) -> (Secret, Option<Reply>) {
    let reply = match heard {
        Ok(heard) => reply(house, open, heard).await.ok(),
        Err(forged) => {
            tracing::warn!(channel = open.name, why = %forged, "what came over a connection was refused");
            None
        }
    };
    (to, reply)
}

fn answered(conversation: &dyn Conversation, to: &Secret, reply: Option<Reply>) -> Vec<Step> {
    reply.and_then(|reply| conversation.answer(to, &reply)).into_iter().collect()
}

/// For the first time after a random part of it.
fn beating(every: Duration) -> Interval {
    let mut beats = interval_at(Instant::now() + every.mul_f64(rand::random()), every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

async fn tick(beats: &mut Option<Interval>) {
    match beats {
        Some(beats) => drop(beats.tick().await),
        None => std::future::pending().await,
    }
}

async fn send(
    out: &mut (impl Sink<Message, Error = Error> + Unpin),
    message: Message,
) -> Result<(), Failure> {
    match timeout(PATIENCE, out.send(message)).await {
        Ok(sent) => sent.map_err(|error| broken(&error)),
        Err(_) => Err(later("the platform takes nothing from the connection")),
    }
}

/// The connection ends, for a reason that the conversation may know better.
fn gone(conversation: &mut dyn Conversation, failure: Failure) -> Result<(), Failure> {
    conversation.closed(None)?;
    Err(failure)
}

fn text(frame: &Secret) -> Message {
    Message::Text(frame.expose().into())
}

fn broken(error: &Error) -> Failure {
    match error {
        Error::Capacity(_) => later("the platform sent a frame that is larger than 1 MiB"),
        _ => later("the connection to the platform broke"),
    }
}

fn later(why: &str) -> Failure {
    Failure::Later { after: None, why: why.into() }
}
