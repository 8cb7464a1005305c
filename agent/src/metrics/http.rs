//! The listener: three paths, GET only, a bounded number of callers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use super::collect;
use crate::status::StatusSource;

/// Callers at once; more wait to be accepted.
const CALLERS: usize = 16;
/// How long a caller may keep its connection.
const CALL: Duration = Duration::from_secs(30);
/// How long the parts of the agent may take to answer; one that does not is stuck.
const ANSWER: Duration = Duration::from_secs(5);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) async fn serve(listener: TcpListener, source: StatusSource) {
    let slots = Arc::new(Semaphore::new(CALLERS));
    loop {
        let slot = Arc::clone(&slots)
            .acquire_owned()
            .await
            .expect("never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = source.clone();
                tokio::spawn(async move {
                    if let Ok(Err(error)) = timeout(CALL, connection(stream, source)).await {
                        debug!(%error, "metrics: a caller went away");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                debug!(%error, "metrics: cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, source: StatusSource) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let source = source.clone();
        async move {
            let asked = (request.method(), request.uri().path());
            Ok::<_, Infallible>(answer(asked, &source).await)
        }
    });
    http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer((method, path): (&Method, &str), source: &StatusSource) -> Response<Full<Bytes>> {
    if *method != Method::GET && *method != Method::HEAD {
        return response(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "GET only\n".to_owned(),
        );
    }
    match path {
        "/metrics" => match timeout(ANSWER, collect::collect(source)).await {
            Ok(text) => response(StatusCode::OK, PROMETHEUS, text),
            Err(_elapsed) => stuck(),
        },
        "/liveness" => match timeout(ANSWER, source.collect()).await {
            Ok(_) => response(StatusCode::OK, TEXT, "alive\n".to_owned()),
            Err(_elapsed) => stuck(),
        },
        "/readiness" => match timeout(ANSWER, source.collect()).await {
            Ok(status) if status.ready => response(StatusCode::OK, TEXT, "ready\n".to_owned()),
            Ok(status) => {
                let reasons = status.not_ready_reasons.join("\n") + "\n";
                response(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons)
            }
            Err(_elapsed) => stuck(),
        },
        _ => {
            let known = "there are /metrics, /liveness and /readiness\n".to_owned();
            response(StatusCode::NOT_FOUND, TEXT, known)
        }
    }
}

fn stuck() -> Response<Full<Bytes>> {
    let text = format!(
        "a part of the agent did not answer in {} s\n",
        ANSWER.as_secs()
    );
    response(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
}

fn response(status: StatusCode, kind: HeaderValue, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
