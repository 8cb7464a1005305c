//! The plugin socket: HTTP/1.1, POST, JSON both ways.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::UnixStream;
use tracing::debug;

use super::{Answer, Driver};
use crate::server::Server;

/// More than any call of dockerd; options of a network with thousands of published ports fit.
const BODY_MAX: usize = 4 << 20;

/// How long a caller may take for the head of a request.
const HEAD: Duration = Duration::from_secs(10);

/// And for its body.
const BODY: Duration = Duration::from_secs(10);

const JSON: HeaderValue = HeaderValue::from_static("application/vnd.docker.plugins.v1.2+json");

/// Serves until the future is dropped.
pub(crate) async fn serve(driver: Arc<Driver>, socket: Server) {
    let describing = Arc::clone(&driver).describe_all();
    let sweeping = Arc::clone(&driver).sweep();
    let health = Arc::clone(&driver).follow_health();
    let serving = socket.accept(|stream| connection(stream, Arc::clone(&driver)));
    tokio::join!(describing, sweeping, health, serving);
}

async fn connection(stream: UnixStream, driver: Arc<Driver>) -> std::io::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let driver = Arc::clone(&driver);
        async move { Ok::<_, Infallible>(respond(driver, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD);
    let served = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a caller of the plugin socket went away");
    }
    Ok(())
}

async fn respond(driver: Arc<Driver>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if *request.method() != Method::POST {
        return failed(StatusCode::METHOD_NOT_ALLOWED, "POST only");
    }
    let method = request.uri().path().trim_start_matches('/').to_owned();
    if request.body().size_hint().lower() > BODY_MAX as u64 {
        return failed(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
    }
    let body = Limited::new(request.into_body(), BODY_MAX).collect();
    let body = match tokio::time::timeout(BODY, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return failed(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(_elapsed) => return failed(StatusCode::REQUEST_TIMEOUT, "the body did not come"),
    };
    // Runs to its end even if dockerd gives up: half an attachment must be finished or undone.
    let work = tokio::spawn(async move { driver.call(&method, &body).await });
    match work.await {
        Ok(Answer::Done(value)) => response(StatusCode::OK, value.to_string()),
        Ok(Answer::Failed { field, text }) => {
            response(StatusCode::OK, json!({field: text}).to_string())
        }
        Ok(Answer::Undecodable(text)) => failed(StatusCode::BAD_REQUEST, &text),
        Ok(Answer::Unknown) => failed(StatusCode::NOT_FOUND, "no such method"),
        Err(panic) => failed(StatusCode::INTERNAL_SERVER_ERROR, &panic.to_string()),
    }
}

fn failed(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, json!({"Err": text}).to_string())
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}
