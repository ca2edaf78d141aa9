//! One delivery, one try: its card, words, or new face.

use countersign_chat::{
    Answers, Card, Face, Failure, Handle, Message as Posted, Notice, Outgoing, Text, Words,
};

use super::Errand;
use super::channels::{Channels, OpenChannel};
use super::client::UNREACHED;
use crate::card;
use crate::cluster::{Clock as _, SystemClock};
use crate::node::Unsealed;
use crate::state::{
    Actor, Command, Delivery, DeliveryId, DeliveryStatus, Message, Recipient, State, Strength,
};

/// What a card says of itself that was sent again: a question that comes twice is better than one that never comes.
const AGAIN: &str =
    "Sent again: it is not known whether a first try arrived. Both are of one request.";

/// Whether there is nothing left to do about it now.
pub(super) async fn carry_out(
    house: &Unsealed,
    channels: &Channels,
    id: DeliveryId,
    errand: Errand,
) -> bool {
    let found = house.cluster.peek(|state| {
        let delivery = state.delivery(id)?.clone();
        let channel = state.channel(&delivery.channel)?.clone();
        Some((delivery, channel, state.genesis()?.cluster_id.clone()))
    });
    let Some((delivery, channel, cluster)) = found else { return true };
    let open = match channels.open(&house.vault, &cluster, &channel) {
        Ok(open) => open,
        Err(unfit) => {
            let why = format!("the channel cannot be opened: {unfit}");
            return failed(house, &delivery, Failure::Never { why }).await;
        }
    };
    match errand {
        Errand::Face => show_face(house, &open, &delivery).await,
        // Nobody is asked any more; whoever may have been sent it is told how it ended.
        Errand::Send if house.cluster.peek(|state| is_over(state, &delivery)) => {
            show_face(house, &open, &delivery).await
        }
        Errand::Send => match send(house, &open, &delivery).await {
            Ok(()) => true,
            Err(failure) => failed(house, &delivery, failure).await,
        },
    }
}

/// What a delivery says, and how it is to look.
enum Rendering {
    Card(Box<Card>, Face),
    Words(Text),
}

async fn send(house: &Unsealed, open: &OpenChannel, delivery: &Delivery) -> Result<(), Failure> {
    let place = match &delivery.to {
        Recipient::Room(room) => room.clone(),
        Recipient::Account(account) => open.place(account).await?,
    };
    open.turn(&place).await;
    if !is_ours(house, open) {
        return Ok(());
    }
    let rendering = house.cluster.peek(|state| rendering(state, delivery, worth(open)));
    let Some(rendering) = rendering else {
        return Err(Failure::Never { why: "there is nothing to say any more".into() });
    };
    // What is sent now may be there already, where the platform would take it for another message.
    let again = !open.takes_once()
        && delivery
            .attempts
            .iter()
            .filter(|attempt| attempt.message.is_none() && attempt.place == place)
            .any(|attempt| !open.has_not_taken(&attempt.handle));
    let shown = match &rendering {
        Rendering::Card(_, face) => Some(if again { told_again(face) } else { face.clone() }),
        Rendering::Words(_) => None,
    };
    let whole = match (&rendering, &shown) {
        (Rendering::Card(card, _), Some(shown)) => is_whole(open, &place, card, shown),
        _ => false,
    };
    // Where the platform takes the same key once, a try in doubt is made again; elsewhere it stays in doubt.
    let doubtful = delivery.attempts.iter().find(|attempt| {
        attempt.message.is_none() && attempt.place == place && attempt.whole == whole
    });
    let handle = match doubtful.filter(|_| open.adapter.caps().keyed_send) {
        Some(attempt) => attempt.handle,
        None => {
            let handle = rand::random();
            let place = place.clone();
            let attempt = Command::AttemptDelivery { delivery: delivery.id, handle, place, whole };
            if !record(house, attempt).await {
                return Ok(());
            }
            handle
        }
    };
    let key = hex::encode(handle);
    let (outgoing, face, is_card) = match &rendering {
        Rendering::Words(words) => (open.adapter.say(&place, None, words), [0; 32], false),
        Rendering::Card(card, face) => {
            let answers = Some(answers(open, &place, handle, card));
            let notice = Notice { card, face: shown.unwrap_or_else(|| face.clone()), answers };
            let digest = card::face_digest(face);
            match open.adapter.post(&place, &notice, &key) {
                Ok(outgoing) => (outgoing, digest, true),
                Err(countersign_chat::TooLarge) => {
                    let words = Text::of(&format!(
                        "An agent asks for your consent, and its request does not fit here. Read and answer it with: {}",
                        elsewhere(&card.approval)
                    ));
                    (open.adapter.say(&place, None, &words), digest, false)
                }
            }
        }
    };
    let rendered_sha256 = outgoing.sha256();
    let posted = match outgoing {
        Outgoing::Call(call) => {
            let answer = open.send(call).await.inspect_err(|failure| {
                if matches!(failure, Failure::Later { why, .. } if why == UNREACHED) {
                    open.did_not_take(handle);
                }
            })?;
            let posted = match is_card {
                true => open.adapter.posted(&place, &answer),
                false => {
                    let said = open.adapter.spoke(&answer);
                    said.map(|()| Posted { place: place.clone(), id: String::new() })
                }
            };
            // Where something went wrong on its side, it may have got it all the same.
            if matches!(posted, Err(Failure::Later { .. })) && !answer.status.is_server_error() {
                open.did_not_take(handle);
            }
            open.heed(posted)?
        }
        Outgoing::Mail(mail) => {
            open.mail(&mail).await.map_err(|unhanded| {
                if !unhanded.in_doubt {
                    open.did_not_take(handle);
                }
                unhanded.failure
            })?;
            Posted { place, id: mail.id.filter(|_| is_card).unwrap_or_default() }
        }
    };
    let delivered = Command::Delivered {
        handle,
        place: posted.place,
        message: posted.id,
        rendered_sha256,
        face,
    };
    record(house, delivered).await;
    Ok(())
}

/// Every message of a card is brought to where the approval stands; those that cannot change are followed by words.
async fn show_face(house: &Unsealed, open: &OpenChannel, delivery: &Delivery) -> bool {
    let current = || match house.cluster.peek(|state| rendering(state, delivery, worth(open))) {
        Some(Rendering::Card(card, face)) => Some((card, face)),
        _ => None,
    };
    let Some((_, mut face)) = current() else { return true };
    // The oldest that is shown: if another message got a newer one, all of them are looked at again.
    let mut shown_first = None;
    let mut why_not = String::new();
    for attempt in &delivery.attempts {
        if attempt.face == Some(card::face_digest(&face)) {
            shown_first.get_or_insert_with(|| card::face_digest(&face));
            continue;
        }
        let message = attempt.message.clone().filter(|id| !id.is_empty());
        let message = message.map(|id| Posted { place: attempt.place.clone(), id });
        let is_edited = open.adapter.caps().edit && message.is_some();
        if !is_edited && !is_last(&face) {
            shown_first.get_or_insert_with(|| card::face_digest(&face));
            continue;
        }
        open.turn(&attempt.place).await;
        if !is_ours(house, open) {
            return true;
        }
        // It may have gone on while this waited for its turn.
        let Some((card, now)) = current() else { return true };
        face = now;
        shown_first.get_or_insert_with(|| card::face_digest(&face));
        let answers = Some(answers(open, &attempt.place, attempt.handle, &card));
        let notice = Notice { card: &card, face: face.clone(), answers };
        let edit = message.as_ref().and_then(|message| open.adapter.edit(message, &notice));
        let shown = match edit {
            Some(Ok(call)) => match open.send(call).await {
                Ok(answer) => open.heed(open.adapter.edited(&answer)),
                Err(failure) => Err(failure),
            },
            // Too large to be edited, or not to be edited at all, or perhaps there: words follow, once it is settled.
            _ if is_last(&face) => {
                let said: Vec<_> = notice.standing().iter().map(Text::as_str).collect();
                let words = format!("{} ({})", said.join(" "), card.sentence);
                say(open, open.adapter.say(&attempt.place, message.as_ref(), &Text::of(&words)))
                    .await
            }
            _ => Ok(()),
        };
        match shown {
            Ok(()) => {}
            Err(Failure::Later { why, .. }) => {
                tracing::debug!(
                    channel = open.name,
                    why,
                    "a card does not show yet where its approval stands"
                );
                return false;
            }
            Err(Failure::Never { why }) => why_not = why,
        }
    }
    if !why_not.is_empty() {
        tracing::warn!(
            channel = open.name,
            why = why_not,
            "a card will not show where its approval stands"
        );
    }
    let face = shown_first.unwrap_or_else(|| card::face_digest(&face));
    record(house, Command::Faced { delivery: delivery.id, face, why_not }).await
}

/// Whether the platform shows all of what a rule may want to be seen whole.
fn is_whole(open: &OpenChannel, place: &str, card: &Card, face: &Face) -> bool {
    let answers = Some(answers(open, place, [0; 16], card));
    open.adapter.shows_whole(place, &Notice { card, face: face.clone(), answers })
}

/// Words, of which nothing is remembered.
async fn say(open: &OpenChannel, words: Outgoing) -> Result<(), Failure> {
    match words {
        Outgoing::Call(call) => open.heed(open.adapter.spoke(&open.send(call).await?)),
        Outgoing::Mail(mail) => open.mail(&mail).await.map_err(|unhanded| unhanded.failure),
    }
}

/// The face of a card that may be there twice, until its next one.
fn told_again(face: &Face) -> Face {
    match face {
        Face::Asking { standing } => {
            let again = Text::of(AGAIN);
            Face::Asking { standing: [again].into_iter().chain(standing.iter().cloned()).collect() }
        }
        Face::Settled { .. } => face.clone(),
    }
}

fn is_last(face: &Face) -> bool {
    matches!(face, Face::Settled { .. })
}

/// Whether this node still leads, and the channel is as it was opened: what has waited for its turn is begun anew otherwise.
fn is_ours(house: &Unsealed, open: &OpenChannel) -> bool {
    let is_open = |state: &State| {
        state.channel(&open.name).is_some_and(|channel| channel.version == open.version)
    };
    house.cluster.is_leader() && house.cluster.peek(is_open)
}

/// Whether it is about something that was settled while it was in doubt that it is there.
fn is_over(state: &State, delivery: &Delivery) -> bool {
    let Message::Card(about) = delivery.what else { return false };
    let asks = |approval| matches!(card::face(state, approval), Face::Asking { .. });
    !delivery.attempts.is_empty() && !state.approval(about).is_some_and(asks)
}

/// None: what it is about is gone, or settled before anybody was asked.
fn rendering(state: &State, delivery: &Delivery, worth: Strength) -> Option<Rendering> {
    match &delivery.what {
        Message::Words { words, .. } => Some(Rendering::Words(Text::of(words))),
        Message::Test { by, .. } => {
            let face = Face::Asking { standing: Vec::new() };
            Some(Rendering::Card(Box::new(card::test(by)), face))
        }
        Message::Card(about) => {
            let approval = state.approval(*about)?;
            let face = card::face(state, approval);
            let asks = matches!(face, Face::Asking { .. });
            let is_there = matches!(delivery.status, DeliveryStatus::Sent { .. })
                || !delivery.attempts.is_empty();
            (asks || is_there)
                .then(|| Rendering::Card(Box::new(card::of(state, approval, worth)), face))
        }
    }
}

/// What an answer on this channel is worth.
fn worth(open: &OpenChannel) -> Strength {
    if open.adapter.caps().buttons { Strength::L1 } else { Strength::L0 }
}

fn answers(open: &OpenChannel, place: &str, handle: [u8; 16], card: &Card) -> Answers {
    let handle = Handle(handle);
    Answers {
        approve: open.taps.token(&open.name, place, handle, Words::Approve),
        deny: open.taps.token(&open.name, place, handle, Words::Deny),
        code: open.taps.code(&open.name, place, handle),
        elsewhere: Text::of(&elsewhere(&card.approval)),
    }
}

fn elsewhere(approval: &str) -> String {
    format!("countersign approval show {approval}")
}

async fn failed(house: &Unsealed, delivery: &Delivery, failure: Failure) -> bool {
    if !matches!(delivery.status, DeliveryStatus::Due { .. }) {
        return true;
    }
    let (why, after, for_good) = match failure {
        Failure::Later { after, why } => (why, after, false),
        Failure::Never { why } => (why, None, true),
    };
    tracing::warn!(channel = delivery.channel, to = %delivery.to, why, for_good, "a card was not delivered");
    let not_before = after.map(|after| {
        SystemClock.wall().saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
    });
    record(house, Command::NotDelivered { delivery: delivery.id, why, not_before, for_good }).await
}

/// What could not be recorded is done again by whoever leads then.
async fn record(house: &Unsealed, command: Command) -> bool {
    match house.cluster.propose(Actor::System, command).await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "what became of a card is not on record");
            false
        }
    }
}
