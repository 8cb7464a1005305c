//! Requests that are one message go out in one frame.
//!
//! gRPC's encoder learns only after a message that it was the last one, and ends the request with an empty frame: one
//! more write, and one more wake-up of etcd, in the middle of its work. What is known to be one message is gathered
//! here, so that its only frame ends the request.

use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, StdError};
use tonic::transport::Channel;
use tower::Service;

/// Where each request is one message: get, transaction, compaction.
const KV: &str = "/etcdserverpb.KV/";

/// A channel to one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Unary(Channel);

impl Unary {
    pub(super) const fn new(channel: Channel) -> Self {
        Self(channel)
    }
}

impl Service<Request<Body>> for Unary {
    type Response = Response<Body>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !request.uri().path().starts_with(KV) {
            let answer = self.0.call(request);
            return Box::pin(async { Ok(answer.await?) });
        }
        // The one that is ready; a clone might not be.
        let mut channel = std::mem::replace(self, self.clone()).0;
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let message = body.collect().await?.to_bytes();
            let body = Body::new(Full::new(message));
            Ok(channel.call(Request::from_parts(head, body)).await?)
        })
    }
}
