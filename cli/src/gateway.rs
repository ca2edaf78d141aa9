//! An agent's line to its gateway: `countersign.local`, with the agent's own proxy URL and no other authority.
//!
//! It goes in plain HTTP through the proxy, as the agent's token does in every CONNECT: nothing of it leaves the way to
//! the gateway, so no CA file is needed.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION, RETRY_AFTER};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// How long the gateway may be asked to wait at a time.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(50);
const CONNECT: Duration = Duration::from_secs(10);
/// Past the time that the gateway was asked to wait.
const PATIENCE: Duration = Duration::from_secs(30);
const LARGEST_ANSWER: usize = 8 * 1024 * 1024;
/// Between two attempts at a gateway or a control plane that is away: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Where the gateway is, and as whom to ask it.
#[derive(Clone)]
pub(crate) struct Gateway {
    address: String,
    authorization: HeaderValue,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum No {
    /// It may be otherwise in a moment; so long, if the gateway said.
    Later { code: String, detail: String, after: Option<Duration> },
    /// The gateway said no.
    Refused { code: String, detail: String },
    /// Nobody answers there.
    Unreachable(String),
}

/// An approval, as the gateway tells its agent of it.
#[derive(Clone, Debug)]
pub(crate) struct Seen(Value);

impl Gateway {
    /// Reads `http://NAME:TOKEN@HOST:PORT`, as in HTTPS_PROXY. `source` is where it was found.
    ///
    /// # Errors
    /// `Usage`, without the URL: it holds the token.
    pub(crate) fn parse(url: &str, source: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::Usage(format!(
                "{source} {why}: it must be http://NAME:TOKEN@HOST:PORT, as `countersign env` prints it"
            ))
        };
        let uri: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("does not begin with http://"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        let (user, _) =
            authority.as_str().rsplit_once('@').ok_or_else(|| wrong("names no agent"))?;
        let pair = Zeroizing::new(percent_decode_str(user).collect::<Vec<u8>>());
        if !pair.contains(&b':') {
            return Err(wrong("holds no token"));
        }
        let basic = base64::engine::general_purpose::STANDARD.encode(&*pair);
        let mut authorization = HeaderValue::from_str(&format!("Basic {basic}"))
            .map_err(|_| wrong("holds a token that is none"))?;
        authorization.set_sensitive(true);
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self { address: format!("{}:{port}", authority.host()), authorization })
    }

    /// The agent's approvals that wait, and those of the last hour.
    ///
    /// # Errors
    /// [`No`].
    pub(crate) async fn list(&self) -> Result<Vec<Seen>, No> {
        let mut answer = self.get("/approvals", Duration::ZERO).await?;
        match answer.get_mut("approvals").map(Value::take) {
            Some(Value::Array(approvals)) => Ok(approvals.into_iter().map(Seen).collect()),
            _ => Err(not_ours()),
        }
    }

    /// One of them, once it is no longer pending or `wait` is over, which is at most [`LONGEST_WAIT`].
    ///
    /// # Errors
    /// [`No`].
    pub(crate) async fn one(&self, id: &str, wait: Duration) -> Result<Seen, No> {
        let wait = wait.min(LONGEST_WAIT);
        let path = format!("/approvals/{}?wait={}", named(id)?, wait.as_secs());
        let answer = self.get(&path, wait).await?;
        answer["state"].is_string().then_some(Seen(answer)).ok_or_else(not_ours)
    }

    /// What came of a parked one.
    ///
    /// # Errors
    /// [`No`], with a code that says how it stands.
    pub(crate) async fn result(&self, id: &str) -> Result<Value, No> {
        self.get(&format!("/approvals/{}/result", named(id)?), Duration::ZERO).await
    }

    /// Waits for as long as it takes. A gateway that was there once, and a control plane that is away, are asked again.
    ///
    /// # Errors
    /// What asking again does not change.
    pub(crate) async fn decided(&self, id: &str) -> Result<Seen, No> {
        let mut backoff = BACKOFF.0;
        let mut reached = false;
        loop {
            let pause = match self.one(id, LONGEST_WAIT).await {
                Ok(seen) if !seen.is_pending() => return Ok(seen),
                Ok(_) => {
                    (backoff, reached) = (BACKOFF.0, true);
                    continue;
                }
                Err(No::Later { after, .. }) => {
                    reached = true;
                    after.unwrap_or_default().max(backoff)
                }
                Err(No::Unreachable(_)) if reached => backoff,
                Err(no) => return Err(no),
            };
            sleep(pause.min(BACKOFF.1)).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn get(&self, path: &str, wait: Duration) -> Result<Value, No> {
        let answered = timeout(wait + PATIENCE, self.exchange(path)).await;
        answered.unwrap_or_else(|_| Err(self.unreachable("it does not answer")))
    }

    async fn exchange(&self, path: &str) -> Result<Value, No> {
        let stream = timeout(CONNECT, TcpStream::connect(&self.address)).await;
        let stream = stream
            .map_err(|_| self.unreachable("it does not take the connection"))?
            .map_err(|why| self.unreachable(&why.to_string()))?;
        let broke_off = |why: hyper::Error| self.unreachable(&why.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke_off)?;
        tokio::spawn(connection);
        let request = Request::get(format!("http://countersign.local{path}"))
            .header(HOST, "countersign.local")
            .header(PROXY_AUTHORIZATION, &self.authorization)
            .body(Empty::<Bytes>::new())
            .map_err(|_| not_ours())?;
        let (head, body) = sender.send_request(request).await.map_err(broke_off)?.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await;
        let body = body.map_err(|why| self.unreachable(&why.to_string()))?.to_bytes();
        let answer: Value = serde_json::from_slice(&body).map_err(|_| not_ours())?;
        if head.status == StatusCode::OK {
            return Ok(answer);
        }
        let text = |field: &str| answer[field].as_str().map(str::to_owned);
        let (code, detail) =
            (text("code").ok_or_else(not_ours)?, text("detail").unwrap_or_default());
        let after =
            head.headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let later = head.status == StatusCode::SERVICE_UNAVAILABLE && code != "edge_evicted";
        Err(match later {
            true => No::Later { code, detail, after: after.map(Duration::from_secs) },
            false => No::Refused { code, detail },
        })
    }

    fn unreachable(&self, why: &str) -> No {
        No::Unreachable(format!(
            "the gateway at {} cannot be reached ({why}): is the proxy's address right?",
            self.address
        ))
    }
}

impl Seen {
    pub(crate) fn json(&self) -> &Value {
        &self.0
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.text("state") == "pending"
    }

    /// It was approved, whether or not it was used since.
    pub(crate) fn is_approved(&self) -> bool {
        matches!(self.text("state"), "approved" | "released" | "completed")
    }

    /// What it is about and how it stands, in one sentence, and what to do in the next.
    pub(crate) fn sentence(&self) -> String {
        format!(
            "{} is {}: {} {}. {}",
            self.text("id"),
            self.text("state"),
            self.text("method"),
            self.text("url"),
            self.text("next")
        )
    }
}

impl From<No> for Failure {
    fn from(no: No) -> Self {
        match no {
            No::Later { detail, .. } | No::Unreachable(detail) => Self::Unreachable(detail),
            No::Refused { detail, .. } => Self::Refused(detail),
        }
    }
}

/// An id goes into a path: it must be nothing else.
fn named(id: &str) -> Result<&str, No> {
    if id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Ok(id);
    }
    Err(No::Refused {
        code: "approval_not_found".into(),
        detail: "An approval's id is 32 hexadecimal digits, as in Countersign-Approval-Id of the answer that said that \
                 a request waits."
            .into(),
    })
}

fn not_ours() -> No {
    No::Refused {
        code: "not_a_gateway".into(),
        detail: "What answers there is no Countersign gateway, or one of another version: set the proxy to the gateway \
                 that the agent goes through."
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_url_is_read_and_a_wrong_one_is_not_repeated() {
        let gateway = Gateway::parse("http://robot:cs_agt_%41b@127.0.0.1:7080", "--proxy").unwrap();
        assert_eq!(gateway.address, "127.0.0.1:7080");
        let basic = base64::engine::general_purpose::STANDARD.encode("robot:cs_agt_Ab");
        assert_eq!(gateway.authorization, format!("Basic {basic}"));
        assert!(!format!("{:?}", gateway.authorization).contains(&basic));
        for wrong in
            ["https://robot:s3cret@h:1", "http://h:1/s3cret", "http://s3cret@h:1", "s3cret"]
        {
            let Err(Failure::Usage(why)) = Gateway::parse(wrong, "--proxy") else {
                panic!("{wrong}")
            };
            assert!(why.starts_with("--proxy") && !why.contains("s3cret"), "{why}");
        }
    }

    #[test]
    fn what_is_no_id_never_reaches_the_gateway() {
        assert!(named("0123456789abcdef0123456789abcdef").is_ok());
        for id in [
            "",
            "../approvals",
            "0123456789abcdef0123456789abcde/",
            "0123456789ABCDEF0123456789ABCDEF",
        ] {
            assert!(named(id).is_err(), "{id}");
        }
    }
}
