//! Events of X's encrypted chat: who says to have written what in which conversation, and what they have signed of it.
//!
//! The Chat XDK's `thrift/event.thrift` and `product.thrift` (MessageEvent, MessageCreateEvent, ConversationKeyChangeEvent,
//! MessageEventSignature, MessageEntryHolder) and its `pipeline.rs` and `signatures.rs`: what is signed is a name and values
//! with commas between them. A change of keys is signed over the key itself since version 6 of signatures, and the first
//! version leaves things out that matter.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::keys::{self, ConversationKey, Identity, Keys};
use super::thrift::{Fields, Writer};

/// Of what is signed here.
const SIGNATURE_VERSION: &str = "7";
const MESSAGES_SINCE: u32 = 2;
const KEY_CHANGES_SINCE: u32 = 6;

/// As it came in; nothing of it is believed before [`Event::is_signed_by`].
#[derive(Debug)]
pub(super) struct Event {
    pub(super) message: String,
    pub(super) sender: String,
    pub(super) conversation: String,
    /// Milliseconds since 1970, as X says; nobody has signed that.
    pub(super) at: Option<u64>,
    pub(super) detail: Detail,
    signature: Option<Signed>,
}

#[derive(Debug)]
pub(super) enum Detail {
    KeyChange(KeyChange),
    Message(Message),
    /// Read receipts, deleted messages, changes of groups.
    Other,
}

#[derive(Debug)]
pub(super) struct Message {
    sealed: Vec<u8>,
    pub(super) key_version: String,
}

#[derive(Debug)]
pub(super) struct KeyChange {
    pub(super) key_version: String,
    /// For whom, of which version of their keys, and what was wrapped for them.
    wrapped: Vec<(String, String, String)>,
}

#[derive(Debug)]
struct Signed {
    signature: Vec<u8>,
    /// Of the sender's keys.
    keys_version: String,
    version: u32,
}

impl Event {
    pub(super) fn parse(encoded: &str) -> Option<Self> {
        let bytes = keys::base64(encoded)?;
        let event = Fields::parse(&bytes)?;
        let text = |id| event.text(id).map(str::to_owned);
        Some(Self {
            message: text(2)?,
            sender: text(3)?,
            conversation: text(4)?,
            at: event.text(6).and_then(|at| at.parse().ok()),
            detail: event.fields(7).map_or(Some(Detail::Other), Detail::read)?,
            signature: match event.fields(9) {
                Some(signature) => Some(Signed::read(signature)?),
                None => None,
            },
        })
    }

    /// Whether this is what the holder of these keys, which are the sender's, has signed. A change of keys is signed over the
    /// key that it brings.
    pub(super) fn is_signed_by(&self, keys: &Keys, brings: Option<&ConversationKey>) -> bool {
        let Some(signature) = &self.signature else { return false };
        let (name, since, rest) = match (&self.detail, brings) {
            (Detail::Message(message), None) => {
                let rest = signed(&message.key_version, &message.sealed);
                ("MessageCreateEvent", MESSAGES_SINCE, rest)
            }
            (Detail::KeyChange(change), Some(key)) => {
                let rest = signed(&change.key_version, key.as_slice());
                ("ConversationKeyChangeEvent", KEY_CHANGES_SINCE, rest)
            }
            _ => return false,
        };
        let parts = [name, self.message.as_str(), &self.sender, &self.conversation];
        // Nothing escapes a comma: with one in a part, two readers could read two things.
        let ambiguous = parts.iter().any(|part| part.contains(','));
        let payload = Zeroizing::new(format!("{},{}", parts.join(","), *rest));
        !ambiguous
            && rest.bytes().filter(|b| *b == b',').count() == 1
            && signature.version >= since
            && signature.keys_version == keys.version
            && keys.have_signed(payload.as_bytes(), &signature.signature)
    }
}

impl Detail {
    /// A union; of what is not of a kind that is known, nothing is read.
    fn read(detail: &Fields<'_>) -> Option<Self> {
        let (kind, fields) = detail.only()?;
        Some(match kind {
            1 => match (fields.bytes(100), fields.text(101)) {
                (Some(sealed), Some(version)) => Self::Message(Message {
                    sealed: sealed.to_vec(),
                    key_version: version.to_owned(),
                }),
                // What is not encrypted is not signed either.
                _ => Self::Other,
            },
            3 => Self::KeyChange(KeyChange {
                key_version: fields.text(1)?.to_owned(),
                wrapped: fields
                    .each(2)?
                    .filter_map(|person| {
                        let text = |id| person.text(id).map(str::to_owned);
                        Some((text(1)?, text(3)?, text(2)?))
                    })
                    .collect(),
            }),
            _ => Self::Other,
        })
    }
}

impl Message {
    /// What was written, if it is words: reactions, edits and files are none.
    pub(super) fn words(&self, key: &ConversationKey) -> Option<String> {
        let content = keys::opened(key, &self.sealed)?;
        let holder = Fields::parse(&content)?;
        match holder.fields(1)?.only()? {
            (1, message) => message.text(1).map(str::to_owned),
            _ => None,
        }
    }
}

impl KeyChange {
    /// The key that it brings to this account.
    pub(super) fn key(
        &self,
        account: &str,
        version: &str,
        ours: &Identity,
    ) -> Option<ConversationKey> {
        let (.., wrapped) =
            self.wrapped.iter().find(|(user, of, _)| user == account && of == version)?;
        ours.unwrapped(&keys::base64(wrapped)?)
    }
}

/// The last two values of what is signed.
fn signed(key_version: &str, bytes: &[u8]) -> Zeroizing<String> {
    let bytes = Zeroizing::new(STANDARD_NO_PAD.encode(bytes));
    Zeroizing::new(format!("{key_version},{}", *bytes))
}

impl Signed {
    fn read(signature: &Fields<'_>) -> Option<Self> {
        Some(Self {
            signature: keys::base64(signature.text(1)?)?,
            keys_version: signature.text(2)?.to_owned(),
            version: signature.text(3)?.parse().ok()?,
        })
    }
}

/// Words, as they are sealed and signed and sent.
pub(super) struct Draft<'a> {
    pub(super) message: &'a str,
    pub(super) conversation: &'a str,
    pub(super) key: &'a ConversationKey,
    pub(super) key_version: &'a str,
}

/// Whose hand it is.
pub(super) struct Hand<'a> {
    pub(super) account: &'a str,
    pub(super) version: &'a str,
    pub(super) keys: &'a Identity,
}

impl Draft<'_> {
    /// The body of a call to `/messages`.
    pub(super) fn written(&self, words: &str, hand: &Hand<'_>, nonce: &[u8; 24]) -> Option<Value> {
        let message = Writer::default().structure(1, Writer::default().string(1, words));
        let content = Writer::default().structure(1, message).finished();
        let sealed = keys::sealed(self.key, &content, nonce)?;
        let create = Writer::default()
            .string(100, &sealed)
            .string(101, self.key_version)
            .boolean(102, true)
            .finished();
        let rest = signed(self.key_version, &sealed);
        let signature = self.signature("MessageCreateEvent", hand, &rest);
        let signature = Writer::default()
            .string(1, signature)
            .string(2, hand.version)
            .string(3, SIGNATURE_VERSION)
            .finished();
        Some(json!({
            "message_id": self.message,
            "encoded_message_create_event": STANDARD.encode(create),
            "encoded_message_event_signature": STANDARD.encode(signature),
        }))
    }

    /// The body of a call to `/keys`: this key, wrapped for each of these.
    pub(super) fn announced(
        &self,
        people: &[(&str, &Keys, &[u8; 32])],
        hand: &Hand<'_>,
    ) -> Option<Value> {
        let wrapped = people.iter().map(|(user, keys, chance)| {
            Some((*user, STANDARD.encode(keys.wrapped(self.key, chance)?), keys.version.as_str()))
        });
        let wrapped: Vec<_> = wrapped.collect::<Option<_>>()?;
        let each = wrapped.iter().map(|(user, key, version)| {
            Writer::default().string(1, user).string(2, key).string(3, version)
        });
        let change =
            Writer::default().string(1, self.key_version).list(2, each.collect()).boolean(5, false);
        let rest = signed(self.key_version, self.key.as_slice());
        let signature = self.signature("ConversationKeyChangeEvent", hand, &rest);
        let participants: Vec<_> = wrapped
            .iter()
            .map(|(user, key, version)| {
                json!({ "user_id": user, "encrypted_conversation_key": key, "public_key_version": version })
            })
            .collect();
        Some(json!({
            "conversation_key_version": self.key_version,
            "conversation_participant_keys": participants,
            "action_signatures": [{
                "message_id": self.message,
                "encoded_message_event_detail":
                    STANDARD.encode(Writer::default().structure(3, change).finished()),
                "message_event_signature": {
                    "signature": signature,
                    "signature_version": SIGNATURE_VERSION,
                    "public_key_version": hand.version,
                    "signing_public_key": hand.keys.public(hand.version).signing_public_key(),
                },
            }],
        }))
    }

    fn signature(&self, name: &str, hand: &Hand<'_>, rest: &str) -> String {
        let parts = [name, self.message, hand.account, self.conversation, rest];
        let payload = Zeroizing::new(parts.join(","));
        STANDARD_NO_PAD.encode(hand.keys.sign(payload.as_bytes()))
    }
}
