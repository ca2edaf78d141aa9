//! Every chat platform at once: one server that answers each call in the shape of the platform that it plays, and remembers
//! what was sent and what its messages show now.

mod answers;
pub mod connection;
pub mod encrypted;
mod homeserver;
pub mod people;
pub mod real;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::mail::{Arrived, MailServer};
use real::{Names, Real};

/// Something that was sent to one of them.
#[derive(Clone, Debug)]
pub struct Call {
    pub platform: String,
    pub method: String,
    /// Below the platform's base address, with its query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// A message there, as it is now.
#[derive(Clone, Debug)]
pub struct Message {
    pub platform: String,
    pub place: String,
    pub id: String,
    pub shown: Value,
}

/// The other side of all channels.
pub struct Platforms {
    port: u16,
    names: Names,
    mail: MailServer,
    there: Arc<There>,
}

struct There {
    kept: Mutex<Kept>,
    /// Where those are that others have built.
    real: BTreeMap<String, String>,
}

#[derive(Default)]
struct Kept {
    calls: Vec<Call>,
    messages: Vec<Message>,
    /// What webhooks only name, by platform and id.
    things: BTreeMap<(String, String), Value>,
    /// The messages of calls that are known again by a key.
    keyed: BTreeMap<String, String>,
    key_set: Value,
    /// Tokens that are taken no more.
    expired: Vec<String>,
}

impl Platforms {
    /// `key_set`: the keys that the platforms with public ones sign with. Calls to those that others have built go on to them.
    pub fn start(key_set: Value, real: &Real, mail: MailServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let kept = Mutex::new(Kept { key_set, ..Kept::default() });
        let there = Arc::new(There { kept, real: real.bases() });
        let shared = there.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { port, names: real.names.clone(), mail, there }
    }

    /// Where a platform's API is.
    pub fn base(&self, platform: &str) -> String {
        format!("http://127.0.0.1:{}/{platform}", self.port)
    }

    /// Where cards are for everybody to see, on platforms that have no other place.
    pub fn room(&self, platform: &str) -> Option<String> {
        Some(match platform {
            "email" | "smtp" => "ops@example.test".to_owned(),
            "github" => self.names.github_issue.clone(),
            "linear" => self.names.linear_issue.clone(),
            "notion" => "5c6a2821-6bb1-4a7e-b6e1-c50111515c3d".to_owned(),
            _ => return None,
        })
    }

    pub fn calls(&self) -> Vec<Call> {
        self.there.kept().calls.clone()
    }

    /// A platform's messages as they are now, oldest first.
    pub fn messages(&self, platform: &str) -> Vec<Message> {
        if platform == "smtp" {
            return self.mail.mails().iter().map(Message::mailed).collect();
        }
        if platform == "xchat" {
            let texts = encrypted::read(&self.there.real["xchat"]);
            return texts.into_iter().enumerate().map(Message::decrypted).collect();
        }
        let all = self.there.kept().messages.clone();
        all.into_iter().filter(|message| message.platform == platform).collect()
    }

    pub fn mail(&self) -> &MailServer {
        &self.mail
    }

    /// From now on, nothing is taken that comes with this token.
    pub fn expire(&self, token: &str) {
        self.there.kept().expired.push(token.to_owned());
    }

    /// What a webhook is going to name.
    fn keep(&self, platform: &str, id: &str, thing: Value) {
        self.there.kept().things.insert((platform.into(), id.into()), thing);
    }

    /// What X sends when its one person with encrypted chat has written there.
    fn encrypted(&self, hook: &str, words: &str) -> people::Said {
        encrypted::writes(&self.there.real["xchat"], hook, words, false)
    }

    /// Somebody is in a room, and says something there.
    fn tell(&self, person: usize, room: &str, kind: &str, content: &Value) {
        let (base, token) = (&self.there.real["matrix"], &self.names.matrix_people[person].0);
        homeserver::asks(base, "POST", &format!("join/{room}"), &json!({}), token);
        let path = format!("rooms/{room}/send/{kind}/{}", hex::encode(rand::random::<[u8; 8]>()));
        homeserver::asks(base, "PUT", &path, content, token);
    }
}

impl Message {
    fn decrypted((at, text): (usize, String)) -> Self {
        let place = encrypted::PERSON.into();
        Self { platform: "xchat".into(), place, id: at.to_string(), shown: json!(text) }
    }

    fn mailed(mail: &Arrived) -> Self {
        let id = mail.header("message-id");
        let shown = json!([mail.header("subject"), mail.part("text/plain")]);
        Self { platform: "smtp".into(), place: mail.to.join(" "), id, shown }
    }

    /// Everything that it shows or carries, in whatever form the platform has for it.
    pub fn words(&self) -> String {
        strings(&self.shown).join("\n")
    }

    /// What its buttons for yes and no carry.
    pub fn buttons(&self) -> Option<(String, String)> {
        let all = strings(&self.shown);
        let of = |letter: char| all.iter().find(|text| is_token(text, letter)).cloned();
        Some((of('a')?, of('d')?))
    }

    /// What is typed about it.
    pub fn code(&self) -> Option<String> {
        let words = self.words();
        let mut after = words.split("approve ").skip(1);
        after.find_map(|rest| {
            let code = rest.get(..9)?;
            let digit = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
            let (first, second) = code.split_once('-')?;
            let whole = first.len() == 4 && first.chars().all(digit) && second.chars().all(digit);
            whole.then(|| code.to_owned())
        })
    }
}

impl Call {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// A form as JSON, which is how messages are kept.
    fn form(&self) -> Value {
        let pairs = self.body.split('&').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), Value::from(decoded(value)))).collect()
    }
}

impl There {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(stream: &TcpStream, there: &There) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(call) = read(&mut reader) {
        there.kept().calls.push(call.clone());
        let (status, answer) = match there.real.get(&call.platform) {
            Some(base) => {
                let (status, answer) = real::forward(&call, base);
                if (200..300).contains(&status) {
                    there.kept().learn(&call, &serde_json::from_str(&answer).unwrap());
                }
                (status, answer)
            }
            None => {
                let (status, answer) = there.kept().answer(&call);
                (status, answer.to_string())
            }
        };
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        if (&mut &*stream).write_all(format!("{head}{answer}").as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Call> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (platform, path) = target
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or_else(|| (target.trim_start_matches('/'), ""));
    Some(Call {
        platform: platform.to_owned(),
        method,
        path: path.to_owned(),
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(array) => array.iter().flat_map(strings).collect(),
        Value::Object(object) => object.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

/// 38 characters, of which one says which word it is for.
fn is_token(text: &str, letter: char) -> bool {
    let of_it = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.len() == 38
        && text.starts_with('1')
        && text.chars().all(of_it)
        && text.chars().nth(23) == Some(letter)
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8().unwrap().into_owned()
}
