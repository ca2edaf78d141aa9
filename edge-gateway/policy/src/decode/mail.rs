//! A mail as it would be sent (RFC 5322, 2045 to 2047), read strictly: what readers of mail do not agree on is undecidable.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::body::Undecodable;
use crate::decode::fold;
use crate::json::{self, Json, Members};

/// What a mail says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    pub from: Vec<Address>,
    pub to: Vec<Address>,
    pub cc: Vec<Address>,
    /// Whom the others do not see.
    pub bcc: Vec<Address>,
    pub subject: Option<String>,
    /// The first part that is text.
    pub text: Option<String>,
    /// What else there is: attachments, other texts, HTML.
    pub parts: Vec<Part>,
    /// Headers that are none of the above, their names in lower case.
    pub others: Vec<(String, String)>,
}

impl Mail {
    /// Everyone whom it goes to.
    pub fn recipients(&self) -> impl Iterator<Item = &Address> {
        [&self.to, &self.cc, &self.bcc].into_iter().flatten()
    }
}

/// Where a mail goes, and the name beside it, which is anybody's to choose; empty if there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub address: String,
    pub name: String,
}

/// A part that is not the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of a file.
    pub name: Option<String>,
    /// `text/html`
    pub kind: String,
    /// Bytes, decoded.
    pub size: usize,
}

const MOST_HEADERS: usize = 200;
const MOST_PARTS: usize = 64;
const DEEPEST: usize = 8;
/// In one list.
const MOST_ADDRESSES: usize = 1000;

const FLEXIBLE: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const URL: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, FLEXIBLE);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, FLEXIBLE);

/// Reads what Gmail calls `raw`.
///
/// # Errors
/// What is not base64url, and what [`read`] does not take.
pub fn raw(text: &str) -> Result<Mail, Undecodable> {
    let bytes = URL.decode(text).map_err(|_| Undecodable("a mail that is not base64url"))?;
    read(&bytes)
}

/// Reads an upload of this Content-Type: a mail, or what stands beside it, JSON, and then the mail (`multipart/related`).
///
/// # Errors
/// Anything else, a second mail in the JSON, and what [`read`] does not take.
pub fn uploaded<'b>(kind: &str, bytes: &'b [u8]) -> Result<(Mail, Members<'b>), Undecodable> {
    let other = Undecodable("an upload that is not one mail");
    let kind = Kind::read(kind)?;
    if kind.name == "message/rfc822" {
        return Ok((read(bytes)?, Vec::new()));
    }
    if kind.name != "multipart/related" {
        return Err(other);
    }
    let parts = parts(bytes, kind.parameter("boundary").ok_or(PARTS)?)?;
    let [about, mail] = parts.as_slice() else { return Err(other) };
    let ((about, text), (labels, mail)) = (split(about)?, split(mail)?);
    let is = |headers: &Headers, wanted: &str| match headers.as_slice() {
        [(name, kind)] if name == "content-type" => {
            Kind::read(kind).is_ok_and(|it| it.name == wanted)
        }
        _ => false,
    };
    if !is(&about, "application/json") || !is(&labels, "message/rfc822") {
        return Err(other);
    }
    let Json::Object(members) = json::parse(text)? else { return Err(other) };
    let says_raw = |value: &Json<'_>| match value {
        Json::Object(members) => members.iter().any(|(name, _)| name == "raw"),
        _ => false,
    };
    if members.iter().any(|(name, value)| name == "raw" || says_raw(value)) {
        return Err(Undecodable("an upload with two mails"));
    }
    Ok((read(mail)?, members))
}

/// Reads the mail that JSON has as its `raw`, or as the `raw` of its `message`: Gmail's bodies.
///
/// # Errors
/// None or both of them, another case of their names, and what [`raw`] does not take.
pub fn inside(json: &Json<'_>) -> Result<Mail, Undecodable> {
    let none = Undecodable("JSON that has no mail, or more than one");
    let one = |json: &Json<'_>, wanted: &str| {
        let Json::Object(members) = json else { return false };
        members.iter().all(|(name, _)| name == wanted || fold(name) != wanted)
    };
    let message = json.member("message");
    let inner = message.and_then(|message| message.member("raw"));
    let clear = one(json, "raw") && one(json, "message");
    if !clear || message.is_some_and(|message| !one(message, "raw")) {
        return Err(none);
    }
    match (json.member("raw"), inner) {
        (Some(Json::Text(text)), None) | (None, Some(Json::Text(text))) => raw(text),
        _ => Err(none),
    }
}

/// Reads a message.
///
/// # Errors
/// Headers that are there twice or are not as RFC 5322 has them, addresses that are not plain ones, character sets other than
/// UTF-8, ASCII and Latin-1, parts without clear boundaries.
pub fn read(bytes: &[u8]) -> Result<Mail, Undecodable> {
    let (headers, body) = split(bytes)?;
    let mut mail = Mail::default();
    for (name, value) in &headers {
        let once = headers.iter().filter(|(other, _)| other == name).count() == 1;
        let known = matches!(
            name.as_str(),
            "from" | "to" | "cc" | "bcc" | "subject" | "content-type" | "content-transfer-encoding"
        );
        if known && !once {
            return Err(Undecodable("a mail with a header twice"));
        }
        match name.as_str() {
            "from" => mail.from = addresses(value)?,
            "to" => mail.to = addresses(value)?,
            "cc" => mail.cc = addresses(value)?,
            "bcc" => mail.bcc = addresses(value)?,
            "subject" => mail.subject = Some(words(value)?),
            "content-type" | "content-transfer-encoding" | "mime-version" => {}
            name if name.starts_with("resent-") => {
                return Err(Undecodable("a mail that is sent on with headers of its own"));
            }
            _ => mail.others.push((name.clone(), words(value)?)),
        }
    }
    part(&mut mail, &headers, body, 0)?;
    Ok(mail)
}

type Headers = Vec<(String, String)>;

/// Headers, unfolded, their names in lower case; and what comes after the empty line.
fn split(bytes: &[u8]) -> Result<(Headers, &[u8]), Undecodable> {
    let broken = Undecodable("a mail whose headers are not as RFC 5322 has them");
    let mut headers: Headers = Vec::new();
    let mut rest = bytes;
    loop {
        if rest.is_empty() {
            return Ok((headers, rest));
        }
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or(broken)?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line));
        let line = line.map_err(|_| broken)?;
        if line.is_empty() {
            return Ok((headers, rest));
        }
        if line.contains(['\r', '\0']) {
            return Err(broken);
        }
        if line.starts_with([' ', '\t']) {
            let (_, value) = headers.last_mut().ok_or(broken)?;
            value.push_str(line);
            continue;
        }
        let (name, value) = line.split_once(':').ok_or(broken)?;
        if name.is_empty() || !name.bytes().all(|byte| matches!(byte, 0x21..=0x7e)) {
            return Err(broken);
        }
        if headers.len() == MOST_HEADERS {
            return Err(Undecodable("a mail with very many headers"));
        }
        headers.push((name.to_ascii_lowercase(), value.trim_start().to_owned()));
    }
}

/// One part, or the whole.
fn part(mail: &mut Mail, headers: &Headers, body: &[u8], depth: usize) -> Result<(), Undecodable> {
    let header = |wanted: &str| {
        let mut found = headers.iter().filter(|(name, _)| name == wanted);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Ok(Some(value.as_str())),
            (None, _) => Ok(None),
            _ => Err(Undecodable("a mail with a header twice")),
        }
    };
    let kind = Kind::read(header("content-type")?.unwrap_or("text/plain"))?;
    let disposition = header("content-disposition")?.map(Kind::read).transpose()?;
    let encoding = header("content-transfer-encoding")?.unwrap_or("7bit").to_ascii_lowercase();
    if kind.name.starts_with("multipart/") {
        if depth == DEEPEST {
            return Err(Undecodable("a mail whose parts are nested too deeply"));
        }
        if !matches!(encoding.trim(), "7bit" | "8bit" | "binary") {
            return Err(Undecodable("a mail with parts inside an encoding"));
        }
        let boundary = kind.parameter("boundary").ok_or(PARTS)?;
        for inner in parts(body, boundary)? {
            let (headers, body) = split(inner)?;
            part(mail, &headers, body, depth + 1)?;
        }
        return Ok(());
    }
    let decoded = transfer(body, encoding.trim())?;
    let attached = disposition.as_ref().is_some_and(|it| it.name != "inline");
    let named = disposition.as_ref().and_then(|it| it.parameter("filename"));
    if kind.name == "text/plain" && !attached && named.is_none() && mail.text.is_none() {
        let text = characters(&decoded, kind.parameter("charset").unwrap_or("us-ascii"))?;
        mail.text = Some(text.replace("\r\n", "\n"));
        return Ok(());
    }
    if mail.parts.len() == MOST_PARTS {
        return Err(Undecodable("a mail with very many parts"));
    }
    let name = named.or_else(|| kind.parameter("name")).map(words).transpose()?;
    mail.parts.push(Part { name, kind: kind.name, size: decoded.len() });
    Ok(())
}

const PARTS: Undecodable = Undecodable("a mail whose parts have no clear boundaries");

/// What stands between the boundaries. Nothing but blank lines may stand before or after them: some readers show it.
fn parts<'b>(body: &'b [u8], boundary: &str) -> Result<Vec<&'b [u8]>, Undecodable> {
    if boundary.is_empty() || boundary.len() > 70 || boundary.ends_with(' ') {
        return Err(PARTS);
    }
    let delimiter = format!("--{boundary}");
    let mut found = Vec::new();
    let (mut start, mut at) = (None, 0);
    let mut ended = false;
    while at < body.len() {
        let end = body[at..].iter().position(|byte| *byte == b'\n').map(|it| at + it + 1);
        let end = end.unwrap_or(body.len());
        let line = body[at..end].trim_ascii_end();
        if let Some(after) = line.strip_prefix(delimiter.as_bytes()) {
            if ended || !(after.is_empty() || after == b"--") {
                return Err(PARTS);
            }
            if let Some(start) = start {
                let inner: &[u8] = &body[start..at];
                let inner = inner.strip_suffix(b"\n").unwrap_or(inner);
                found.push(inner.strip_suffix(b"\r").unwrap_or(inner));
            }
            ended = after == b"--";
            start = (!ended).then_some(end);
        } else if start.is_none() && !line.is_empty() {
            return Err(Undecodable("a mail with something before or after its parts"));
        }
        at = end;
    }
    if ended && !found.is_empty() { Ok(found) } else { Err(PARTS) }
}

/// `text/plain; charset=utf-8`.
struct Kind {
    name: String,
    parameters: Vec<(String, String)>,
}

impl Kind {
    fn read(value: &str) -> Result<Self, Undecodable> {
        let broken = Undecodable("a mail whose parts are not clearly labelled");
        let (name, mut rest) = value.split_once(';').unwrap_or((value, ""));
        let mut parameters: Vec<(String, String)> = Vec::new();
        loop {
            rest = rest.trim_start();
            if rest.is_empty() {
                break;
            }
            let (key, after) = rest.split_once('=').ok_or(broken)?;
            let key = key.trim().to_ascii_lowercase();
            let (text, after) = match after.trim_start().strip_prefix('"') {
                Some(inner) => quoted_string(inner).ok_or(broken)?,
                None => {
                    let end = after.find(';').unwrap_or(after.len());
                    (after[..end].trim().to_owned(), &after[end..])
                }
            };
            // RFC 2231 writes long and foreign names in pieces; readers differ in which they take.
            let twice = parameters.iter().any(|(other, _)| *other == key);
            if twice || key.contains('*') || text.contains(['(', ')']) {
                return Err(broken);
            }
            parameters.push((key, text));
            rest = match after.trim_start() {
                "" => "",
                after => after.strip_prefix(';').ok_or(broken)?,
            };
        }
        Ok(Self { name: name.trim().to_ascii_lowercase(), parameters })
    }

    fn parameter(&self, wanted: &str) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

/// What is in quotes, and what comes after them.
fn quoted_string(inner: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut letters = inner.char_indices();
    while let Some((at, c)) = letters.next() {
        match c {
            '"' => return Some((text, &inner[at + 1..])),
            '\\' => text.push(letters.next()?.1),
            _ => text.push(c),
        }
    }
    None
}

fn transfer(body: &[u8], encoding: &str) -> Result<Vec<u8>, Undecodable> {
    match encoding {
        "7bit" | "8bit" | "binary" => Ok(body.to_vec()),
        "base64" => {
            let packed: Vec<u8> =
                body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            STANDARD.decode(packed).map_err(|_| Undecodable("a part of a mail that is not base64"))
        }
        "quoted-printable" => printable(body),
        _ => Err(Undecodable("a mail in an encoding that is not known")),
    }
}

fn printable(body: &[u8]) -> Result<Vec<u8>, Undecodable> {
    let broken = Undecodable("a part of a mail that is not quoted-printable");
    let mut out = Vec::with_capacity(body.len());
    let mut at = 0;
    while let Some(byte) = body.get(at) {
        if *byte != b'=' {
            out.push(*byte);
            at += 1;
            continue;
        }
        let rest = &body[at + 1..];
        if rest.starts_with(b"\r\n") {
            at += 3;
        } else if rest.starts_with(b"\n") || rest.is_empty() {
            at += 2;
        } else {
            out.push(hex(rest).ok_or(broken)?);
            at += 3;
        }
    }
    Ok(out)
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

fn characters(bytes: &[u8], set: &str) -> Result<String, Undecodable> {
    let unread = Undecodable("a mail in a character set that is not known, or not as it says");
    match set.to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" => String::from_utf8(bytes.to_vec()).map_err(|_| unread),
        "us-ascii" | "ascii" if bytes.is_ascii() => {
            String::from_utf8(bytes.to_vec()).map_err(|_| unread)
        }
        // Mail readers take it for Windows-1252, which differs in these.
        "iso-8859-1" if !bytes.iter().any(|byte| matches!(byte, 0x80..=0x9f)) => {
            Ok(bytes.iter().map(|byte| char::from(*byte)).collect())
        }
        _ => Err(unread),
    }
}

/// A header's text with its encoded words decoded (RFC 2047).
fn words(value: &str) -> Result<String, Undecodable> {
    let broken = Undecodable("a mail with a header that is not encoded as it says");
    let mut out = String::new();
    let mut rest = value;
    let mut after_word = false;
    while let Some(at) = rest.find("=?") {
        let between = &rest[..at];
        // White space between two encoded words is not part of the text.
        if !(after_word && between.bytes().all(|byte| matches!(byte, b' ' | b'\t'))) {
            out.push_str(between);
        }
        let mut pieces = rest[at + 2..].splitn(4, '?');
        let (Some(set), Some(encoding), Some(text), Some(after)) =
            (pieces.next(), pieces.next(), pieces.next(), pieces.next())
        else {
            return Err(broken);
        };
        let after = after.strip_prefix('=').ok_or(broken)?;
        let bytes = match encoding {
            "B" | "b" => STANDARD.decode(text).map_err(|_| broken)?,
            "Q" | "q" => printable(text.replace('_', " ").as_bytes())?,
            _ => return Err(broken),
        };
        let set = set.split('*').next().unwrap_or_default();
        out.push_str(&characters(&bytes, set)?);
        (rest, after_word) = (after, true);
    }
    out.push_str(rest);
    Ok(out.trim().to_owned())
}

/// `Ana <ana@example.com>, ben@example.com`.
fn addresses(value: &str) -> Result<Vec<Address>, Undecodable> {
    let unclear = Undecodable("a mail with addresses that can be read in more than one way");
    let mut found = Vec::new();
    let mut rest = value.trim();
    while !rest.is_empty() {
        let mut name = String::new();
        if let Some(inner) = rest.strip_prefix('"') {
            let (text, after) = quoted_string(inner).ok_or(unclear)?;
            (name, rest) = (text, after.trim_start());
        }
        let end = rest.find(',').unwrap_or(rest.len());
        let (mailbox, after) = (rest[..end].trim(), &rest[end..]);
        let address = match mailbox.split_once('<') {
            Some((before, address)) => {
                let before = before.trim();
                if !before.is_empty() {
                    name = if name.is_empty() { words(before)? } else { return Err(unclear) };
                }
                address.strip_suffix('>').ok_or(unclear)?.trim()
            }
            None if name.is_empty() => mailbox,
            None => return Err(unclear),
        };
        let plain = |c: char| !c.is_control() && !" \t\"()<>[]:;,\\".contains(c);
        let (local, domain) = address.split_once('@').ok_or(unclear)?;
        let dotted = !domain.is_empty() && !domain.contains('@') && domain.chars().all(plain);
        if local.is_empty() || !local.chars().all(plain) || !dotted {
            return Err(unclear);
        }
        if found.len() == MOST_ADDRESSES {
            return Err(Undecodable("a mail with very many addresses"));
        }
        found.push(Address { address: address.to_owned(), name });
        rest = after.strip_prefix(',').unwrap_or_default().trim_start();
        if after.starts_with(',') && rest.is_empty() {
            return Err(unclear);
        }
    }
    Ok(found)
}
