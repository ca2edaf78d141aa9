//! What is served over plain HTTP on its own listener: is it alive, is it ready, how does it do, and [`pages`] for
//! people who approve in a browser, and [`hooks`] for the chats of others.

mod hooks;
mod pages;
mod session;

use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::node::{Node, Readiness};

/// How long a request that is under way may take once the listener was told to stop.
const GRACE: Duration = Duration::from_secs(3);

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, node: Arc<Node>, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node.clone())
        .merge(pages::router(node.clone()))
        .merge(hooks::router(node));
    let told = stop.clone();
    let serving = axum::serve(listener, router).with_graceful_shutdown(told.cancelled_owned());
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serving.into_future() => {
            if let Err(error) = served {
                tracing::error!(%error, "the web listener ended");
            }
        }
        () = too_long => {}
    }
}

async fn ready(State(node): State<Arc<Node>>) -> Response {
    let why = match node.readiness() {
        Readiness::Ready => return (StatusCode::OK, "ready\n").into_response(),
        Readiness::Sealed => "sealed".to_owned(),
        Readiness::Not(why) => why,
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    match node.metrics.render(&node.snapshot()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the figures could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
