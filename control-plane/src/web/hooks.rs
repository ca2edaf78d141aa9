//! Where chat platforms call: the way to [`tap`](crate::tap), with a bound on what is read before it is verified.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use countersign_chat::{Inbound, Reply};

use crate::node::Node;
use crate::tap;

/// Larger than any platform's webhook about a button.
const BODY_BYTES: usize = 256 * 1024;

pub(super) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/hooks/{channel}", any(hook))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(node)
}

async fn hook(
    State(node): State<Arc<Node>>,
    Path(channel): Path<String>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(house) = node.unsealed() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let public_url = house.channels.hook_url(&channel);
    let inbound = Inbound {
        method: &method,
        public_url: &public_url,
        query: query.as_deref(),
        headers: &headers,
        body: &body,
    };
    let Reply { status, content_type, body } =
        tap::hook(&house, &house.channels, &channel, &inbound).await;
    let content_type = HeaderValue::from_static(content_type);
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}
