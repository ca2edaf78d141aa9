//! One channel to several nodes: a call that one of them cannot take goes to the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tonic::Code;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{BoxError, Service, ServiceExt as _};

/// The nodes that are known, and the one that answered last: it is asked first.
///
/// A call may reach a second node after the first one took it and fell silent. Mutations have an identity, so that they
/// are done once all the same; what is meant for one node is said over a context of that node alone.
#[derive(Clone)]
pub(crate) struct Nodes {
    channels: Arc<[Channel]>,
    current: Arc<AtomicUsize>,
}

impl Nodes {
    /// `current` is the one to ask first.
    pub(super) fn new(channels: Vec<Channel>, current: usize) -> Self {
        Self { channels: channels.into(), current: Arc::new(current.into()) }
    }

    async fn ask(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let count = self.channels.len();
        let first = self.current.load(Ordering::Relaxed);
        let mut answer = self.ask_one(first, &head, &body).await;
        for index in (1..count).map(|step| (first + step) % count) {
            if answer.as_ref().is_ok_and(takes) {
                break;
            }
            // A node that says why it cannot says more than one that cannot be reached.
            match self.ask_one(index, &head, &body).await {
                Err(_) if answer.is_ok() => {}
                next => answer = next,
            }
        }
        answer
    }

    async fn ask_one(
        &self,
        index: usize,
        head: &http::request::Parts,
        body: &Bytes,
    ) -> Result<Response<Body>, BoxError> {
        let body = Body::new(Full::new(body.clone()));
        let request = Request::from_parts(head.clone(), body);
        let answer = self.channels[index].clone().oneshot(request).await?;
        if takes(&answer) {
            self.current.store(index, Ordering::Relaxed);
        }
        Ok(answer)
    }
}

/// Whether the node took the call: one that is sealed or has no leader says UNAVAILABLE, before it says anything else.
fn takes(answer: &Response<Body>) -> bool {
    let said = answer.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    said != Some(Code::Unavailable)
}

impl Service<Request<Body>> for Nodes {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().ask(request))
    }
}
