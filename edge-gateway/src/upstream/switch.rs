//! A handshake that may become a WebSocket (RFC 6455 §4.1): over HTTP/1.1, on a connection of its own, and only as it was
//! asked for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gate::{Outbound, Scheme};
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Response, StatusCode};
use hyper::upgrade::Upgraded;
use sha1::{Digest as _, Sha1};

use super::connection::{self, NotAnswered};
use super::silence::Over;
use super::{BoxBody, Failure, Upstream, prepare, receive, without_hops};

/// What came of a handshake.
pub enum Switched {
    /// The upstream answered it as any other request.
    Answer(Response<BoxBody>),
    /// It is a WebSocket now.
    Socket {
        /// Of the 101, without what belonged to the one connection.
        head: http::response::Parts,
        upstream: Upgraded,
        /// Whether an extension was agreed on.
        extended: bool,
    },
}

/// What a handshake asked for.
struct Offer {
    accept: String,
    protocols: Vec<String>,
    extensions: Vec<String>,
}

impl Upstream {
    /// Writes a WebSocket's handshake once. It never shares a connection.
    ///
    /// # Errors
    /// As [`Upstream::send`]; and [`Failure::Unknown`] for a 101 that is not the answer to what was asked.
    pub async fn switch(&self, outbound: Outbound) -> Result<Switched, Failure> {
        let destination = outbound.destination().clone();
        if outbound.keyed() && destination.scheme() != Scheme::Https {
            return Err(Failure::NotSent { why: "a key leaves over https only".into() });
        }
        let (mut head, body) = prepare(outbound.into_parts(), None)?;
        let Some(offer) = Offer::of(head.headers()) else {
            return Err(Failure::NotSent { why: "it is not the handshake of a WebSocket".into() });
        };
        head.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        head.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        let (body, progress) = connection::watched(body);
        let connection = self.dialler.dial_to_switch(&destination).await?;
        let manner = self.manner(true);
        let exchanged =
            connection.exchange(head.map(|()| body), &destination, &progress, manner).await;
        let (mut answer, connection) = match exchanged {
            Ok(answered) => answered,
            Err(NotAnswered::Unwritten(_, why)) => return Err(Failure::NotSent { why }),
            Err(NotAnswered::Written(why)) => return Err(Failure::Unknown { why }),
        };
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let over = Over { connection, shelf: None };
            return receive(answer, over, manner.patience).map(Switched::Answer);
        }
        let extended = offer.agrees(answer.headers()).map_err(|why| Failure::Unknown {
            why: format!("the upstream's 101 is not the answer to this handshake: {why}"),
        })?;
        let upgraded = hyper::upgrade::on(&mut answer).await;
        let upstream = upgraded.map_err(|why| Failure::Unknown { why: why.to_string() })?;
        let head = without_hops(answer).into_parts().0;
        Ok(Switched::Socket { head, upstream, extended })
    }
}

impl Offer {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let key = headers.get(SEC_WEBSOCKET_KEY)?;
        let extensions = tokens(headers, &SEC_WEBSOCKET_EXTENSIONS);
        Some(Self {
            accept: accept_of(key.as_bytes()),
            protocols: tokens(headers, &SEC_WEBSOCKET_PROTOCOL),
            extensions: extensions.iter().map(|text| name_of(text)).collect(),
        })
    }

    /// Whether a 101 answers what was asked, and whether an extension is agreed on.
    fn agrees(&self, headers: &HeaderMap) -> Result<bool, &'static str> {
        let says = |name: &HeaderName, word: &str| {
            tokens(headers, name).iter().any(|token| token.eq_ignore_ascii_case(word))
        };
        if !says(&UPGRADE, "websocket") || !says(&CONNECTION, "upgrade") {
            return Err("it switches to something else");
        }
        let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
        match (accepts.next(), accepts.next()) {
            (Some(accept), None) if accept.as_bytes() == self.accept.as_bytes() => {}
            _ => return Err("its Sec-WebSocket-Accept does not belong to the key"),
        }
        let chosen = tokens(headers, &SEC_WEBSOCKET_PROTOCOL);
        if chosen.len() > 1 || !chosen.iter().all(|name| self.protocols.contains(name)) {
            return Err("it names a protocol that was not asked for");
        }
        let agreed = tokens(headers, &SEC_WEBSOCKET_EXTENSIONS);
        if !agreed.iter().all(|text| self.extensions.contains(&name_of(text))) {
            return Err("it names an extension that was not asked for");
        }
        Ok(!agreed.is_empty())
    }
}

/// RFC 6455 §4.2.2, 5.4.
fn accept_of(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key.trim_ascii());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// The elements of a header that is a list.
fn tokens(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty())
        .collect()
}

/// An extension without its parameters.
fn name_of(extension: &str) -> String {
    extension.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_rfcs_own_key_is_accepted_as_it_says() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_what_was_asked_for_is_agreed_to() {
        let offer = Offer::of(&headers(&[
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "chat, superchat"),
            ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ]))
        .expect("an offer");
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let with = |more: &[(&'static str, &'static str)]| {
            offer.agrees(&headers(&[&good[..], more].concat()))
        };
        assert_eq!(with(&[]), Ok(false));
        assert_eq!(with(&[("sec-websocket-protocol", "chat")]), Ok(false));
        assert_eq!(with(&[("sec-websocket-extensions", "permessage-deflate")]), Ok(true));
        for other in [
            ("sec-websocket-protocol", "chess"),
            ("sec-websocket-protocol", "chat, superchat"),
            ("sec-websocket-extensions", "x-other"),
            ("sec-websocket-extensions", "permessage-deflate, x-other"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ] {
            assert!(with(&[other]).is_err(), "{other:?}");
        }
        for missing in 0..good.len() {
            let mut less = good.to_vec();
            less.remove(missing);
            assert!(offer.agrees(&headers(&less)).is_err(), "without {:?}", good[missing]);
        }
    }
}
