//! Approvals in a browser: log in, see what waits, see one whole, answer it.
//!
//! A card shows the frozen request and nothing that an agent says about it. Every text of it is escaped, and what
//! has no shape on a page is shown as an escape. A form carries the session's own token and the digest of what was
//! shown, so an answer is about exactly what its author saw, and comes from this page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use countersign_proto::v1;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};

use super::session::{Session, Sessions};
use crate::access::{self, Admitted};
use crate::node::Node;
use crate::operator::{approval, pending, vote_in};
use crate::state::Role;
use countersign_chat::visible::is_hidden;

const FORM_BYTES: usize = 16 * 1024;

struct Pages {
    node: Arc<Node>,
    sessions: Sessions,
}

pub(super) fn router(node: Arc<Node>) -> Router {
    let pages = Arc::new(Pages { node, sessions: Sessions::default() });
    Router::new()
        .route("/", get(list))
        .route("/login", get(login_page).post(login))
        .route("/logout", post(logout))
        .route("/approvals/{id}", get(card).post(answer))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .layer(from_fn(with_fences))
        .with_state(pages)
}

/// What keeps other sites from framing, reading or scripting a page.
async fn with_fences(request: axum::extract::Request, next: Next) -> Response {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    let mut response = next.run(request).await;
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not no-referrer: browsers would then send their forms with `Origin: null`.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn login_page() -> Html<String> {
    page("Log in", LOGIN)
}

async fn login(
    State(pages): State<Arc<Pages>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failed> {
    from_here(&headers)?;
    let token = Form::of(&body).take("token");
    let token_sha256: [u8; 32] = Sha256::digest(token.trim()).into();
    let house = pages.node.unsealed().ok_or(Failed::Sealed)?;
    access::authenticate(&house.cluster, &token_sha256).await?;
    let cookie = pages.sessions.begin(token_sha256);
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response())
}

async fn logout(
    State(pages): State<Arc<Pages>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Redirect, Failed> {
    from_here(&headers)?;
    let session = pages.sessions.of(&headers).ok_or(Failed::LoggedOut)?;
    demand_form_token(&session, &Form::of(&body))?;
    pages.sessions.end(&headers);
    Ok(Redirect::to("/login"))
}

async fn list(State(pages): State<Arc<Pages>>, headers: HeaderMap) -> Result<Html<String>, Failed> {
    let (asked, session) = pages.admit(&headers).await?;
    let approvals = pending(&asked).await?;
    let mut rows = String::new();
    for a in &approvals {
        let _ = write!(
            rows,
            "<tr><td>{}<a href=\"/approvals/{}\">{} {}</a></td><td>{}</td><td>{}</td></tr>",
            match a.summary.as_str() {
                "" => String::new(),
                summary => format!("{} ({})<br>", escaped(summary), escaped(&a.risk)),
            },
            escaped(&a.approval_id),
            escaped(&a.method),
            escaped(&target(a)),
            escaped(&a.agent),
            escaped(&a.rule),
        );
    }
    let table = match approvals.is_empty() {
        true => "<p>Nothing waits for an answer.</p>".to_owned(),
        false => {
            format!("<table><tr><th>request</th><th>agent</th><th>rule</th></tr>{rows}</table>")
        }
    };
    let who = escaped(&asked.caller.name);
    let out = format!(
        "<form method=\"post\" action=\"/logout\"><input type=\"hidden\" name=\"form_token\" value=\"{}\">\
         <p>{who} <button>log out</button></p></form>",
        session.form_token
    );
    Ok(page("Approvals", &format!("{table}{out}")))
}

async fn card(
    State(pages): State<Arc<Pages>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Html<String>, Failed> {
    let (asked, session) = pages.admit(&headers).await?;
    let shown = approval(&asked, &id).await?;
    Ok(page("Approval", &whole(&shown, &session)))
}

async fn answer(
    State(pages): State<Arc<Pages>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Redirect, Failed> {
    from_here(&headers)?;
    let (asked, session) = pages.admit(&headers).await?;
    let mut form = Form::of(&body);
    demand_form_token(&session, &form)?;
    if !asked.caller.roles.contains(&Role::Approver) {
        return Err(
            Status::permission_denied("nothing was answered: it takes the role approver").into()
        );
    }
    let decision = match form.take("decision").as_str() {
        "approve" => v1::VoteDecision::Approve,
        "deny" => v1::VoteDecision::Deny,
        _ => {
            return Err(Status::invalid_argument(
                "nothing was answered: the form says neither approve nor deny",
            )
            .into());
        }
    };
    let intent_digest = form.take("intent_digest");
    if intent_digest.is_empty() {
        return Err(Status::invalid_argument(
            "nothing was answered: the form does not say what it is about",
        )
        .into());
    }
    let vote = v1::VoteApprovalRequest {
        request_id: form.take("request_id"),
        approval_id: id.clone(),
        decision: decision.into(),
        reason: form.take("reason"),
        intent_digest,
        break_glass: false,
    };
    vote_in(&asked, "dashboard", vote).await?;
    // It was read as an id: it is 32 hexadecimal digits.
    Ok(Redirect::to(&format!("/approvals/{id}")))
}

impl Pages {
    async fn admit(&self, headers: &HeaderMap) -> Result<(Admitted, Session), Failed> {
        let session = self.sessions.of(headers).ok_or(Failed::LoggedOut)?;
        let house = self.node.unsealed().ok_or(Failed::Sealed)?;
        let admitted = access::admit_session(house, &session.token_sha256).await;
        match admitted {
            Ok(admitted) => Ok((admitted, session)),
            Err(status) if status.code() == Code::Unauthenticated => {
                self.sessions.end(headers);
                Err(Failed::LoggedOut)
            }
            Err(status) => Err(status.into()),
        }
    }
}

/// Why there is no page.
enum Failed {
    LoggedOut,
    Sealed,
    Status(Status),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let (code, sentence) = match self {
            Self::LoggedOut => return Redirect::to("/login").into_response(),
            Self::Sealed => {
                (StatusCode::SERVICE_UNAVAILABLE, "The control plane is sealed.".to_owned())
            }
            Self::Status(status) => {
                let code = match status.code() {
                    Code::InvalidArgument => StatusCode::BAD_REQUEST,
                    Code::NotFound => StatusCode::NOT_FOUND,
                    Code::PermissionDenied => StatusCode::FORBIDDEN,
                    Code::Unauthenticated => StatusCode::UNAUTHORIZED,
                    Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => {
                        StatusCode::CONFLICT
                    }
                    Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                (code, status.message().to_owned())
            }
        };
        let back = "<p><a href=\"/\">Back to what waits</a></p>";
        (code, page("Not done", &format!("<p>{}</p>{back}", escaped(&sentence)))).into_response()
    }
}

/// A form that another site made says so; one without an origin comes from no browser's page.
fn from_here(headers: &HeaderMap) -> Result<(), Failed> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let refused =
        || Status::permission_denied("nothing was done: the form was not sent from this page");
    let host = text(header::HOST).ok_or_else(refused)?;
    let origin = text(header::ORIGIN).ok_or_else(refused)?;
    let same =
        origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) == Some(host);
    if same { Ok(()) } else { Err(refused().into()) }
}

fn demand_form_token(session: &Session, form: &Form) -> Result<(), Failed> {
    let refused = || {
        Status::permission_denied(
            "nothing was done: the form is not this session's; load the page again",
        )
    };
    if session.made(form.0.get("form_token").map_or("", String::as_str)) {
        Ok(())
    } else {
        Err(refused().into())
    }
}

/// `application/x-www-form-urlencoded`, the last of each name.
struct Form(BTreeMap<String, String>);

impl Form {
    fn of(body: &[u8]) -> Self {
        let decoded = |text: &[u8]| {
            let spaced: Vec<u8> = text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
            percent_encoding::percent_decode(&spaced).decode_utf8_lossy().into_owned()
        };
        let pairs = body.split(|b| *b == b'&').map(|pair| {
            let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            (decoded(&pair[..at]), decoded(pair.get(at + 1..).unwrap_or_default()))
        });
        Self(pairs.collect())
    }

    fn take(&mut self, name: &str) -> String {
        self.0.remove(name).unwrap_or_default()
    }
}

fn page(title: &str, body: &str) -> Html<String> {
    Html(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title} · Countersign</title>\
         <style>{STYLE}</style></head><body><h1><a href=\"/\">Countersign</a> · {title}</h1>{body}</body></html>"
    ))
}

/// The whole card, and, while it can be answered, the two answers.
fn whole(a: &v1::Approval, session: &Session) -> String {
    let mut rows = String::new();
    let mut row = |name: &str, value: String| {
        let _ = write!(rows, "<tr><th>{name}</th><td>{value}</td></tr>");
    };
    let code = |text: &str| format!("<code>{}</code>", escaped(text));
    row(
        "state",
        escaped(a.state().as_str_name().trim_start_matches("APPROVAL_STATE_")).to_lowercase(),
    );
    row("agent", code(&a.agent));
    if !a.summary.is_empty() {
        row("would do", format!("<strong>{}</strong>", escaped(&a.summary)));
        row("risk", escaped(&a.risk));
    }
    for fact in &a.facts {
        row(&escaped(&fact.name), code(&fact.value));
    }
    if !a.also_contains.is_empty() {
        row("also contains", code(&a.also_contains));
    }
    row("rule", code(&a.rule));
    row("method", code(&a.method));
    row("to", code(&format!("{}://{}:{}", a.scheme, a.host, a.port)));
    row("path", code(&a.path));
    row("query", a.query.as_deref().map_or_else(|| "none".to_owned(), code));
    let credentials: Vec<_> = a.credentials.iter().map(|name| code(name)).collect();
    row("credentials", if credentials.is_empty() { "none".into() } else { credentials.join(" ") });
    row("body", format!("{} bytes, SHA-256 {}", a.body_bytes, code(&a.body_sha256)));
    row("intent digest", code(&a.intent_digest));
    for requirement in &a.requirements {
        for panel in &requirement.panels {
            let people = match panel.of.join(", ") {
                anyone if anyone == "*" => "whoever may approve".to_owned(),
                named => named,
            };
            let takes = format!("{} of {people} (rule {})", panel.quorum, requirement.rule);
            row("takes", escaped(&takes));
        }
        if requirement.critical {
            row("critical", "no grant and no broken glass stands in for people".to_owned());
        }
        if requirement.whole_card {
            row("chats", "count only where they show all of it".to_owned());
        }
    }
    for vote in &a.votes {
        let word = if vote.decision() == v1::VoteDecision::Approve { "approved" } else { "denied" };
        row(
            "vote",
            escaped(&format!("{} {word} ({}) {}", vote.approver, vote.channel, vote.reason)),
        );
    }
    if !a.reason.is_empty() {
        row("reason", escaped(&a.reason));
    }
    let uninspectable =
        a.uninspectable.then_some("Not all of this request can be shown or decoded.");
    let undecidable = (!a.undecidable.is_empty())
        .then(|| format!("What it would do is not certain, because of {}.", a.undecidable));
    let said = uninspectable.into_iter().chain(undecidable.as_deref());
    let warned = said.chain(a.warnings.iter().map(String::as_str));
    let warning: String =
        warned.map(|w| format!("<p class=\"warning\">{}</p>", escaped(w))).collect();
    let headers: String = a
        .headers
        .iter()
        .map(|h| format!("{}: {}\n", escaped(&h.name), escaped(&String::from_utf8_lossy(&h.value))))
        .collect();
    let shown = a.body_preview.len() as u64;
    let cut = if shown < a.body_bytes {
        format!("<p class=\"warning\">Shown {shown} of {} bytes.</p>", a.body_bytes)
    } else {
        String::new()
    };
    let body = escaped(&String::from_utf8_lossy(&a.body_preview));
    // Enter in the reason's field presses the first button: that is the one that does no harm.
    let forms = if matches!(a.state(), v1::ApprovalState::Pending | v1::ApprovalState::Approved) {
        format!(
            "<form method=\"post\"><input type=\"hidden\" name=\"form_token\" value=\"{}\">\
             <input type=\"hidden\" name=\"request_id\" value=\"{}\">\
             <input type=\"hidden\" name=\"intent_digest\" value=\"{}\">\
             <p><label>Reason <input name=\"reason\" maxlength=\"1000\"></label></p>\
             <p><button name=\"decision\" value=\"deny\">Deny</button> \
             <button name=\"decision\" value=\"approve\">Approve</button></p></form>",
            session.form_token,
            hex::encode(rand::random::<[u8; 16]>()),
            escaped(&a.intent_digest),
        )
    } else {
        String::new()
    };
    format!(
        "{warning}<table>{rows}</table>{forms}<h2>Content chosen by the agent</h2>\
         <pre>{headers}</pre>{cut}<pre>{body}</pre>"
    )
}

fn target(a: &v1::Approval) -> String {
    let query = a.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}://{}:{}{}{query}", a.scheme, a.host, a.port, a.path)
}

/// As text in HTML. What would be invisible, or would turn the line around, is shown as its number.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if is_hidden(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

const LOGIN: &str = "<form method=\"post\" action=\"/login\"><p><label>Token \
    <input type=\"password\" name=\"token\" autocomplete=\"off\" autofocus required></label> <button>Log in</button></p></form>";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
    table{border-collapse:collapse}th,td{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}\
    code,pre{font-family:ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}\
    pre{background:#f4f4f4;padding:.8rem}.warning{background:#fff0c0;padding:.4rem .8rem}\
    button{font:inherit;padding:.3rem 1rem}";
