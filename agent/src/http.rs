//! A small HTTP listener: GET only, one question a connection, a bounded number of callers, TLS where configured.

mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::{debug, info, warn};

pub(crate) use tls::{Tls, TlsFiles};

use crate::accept;

/// Callers at once; more wait to be accepted.
const CALLERS: usize = 16;
/// How long a caller may keep its connection.
const CALL: Duration = Duration::from_secs(30);
/// How long the parts of the agent may take to answer; one that does not is stuck.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// Pause before another attempt to listen.
const RETRY: Duration = Duration::from_secs(10);

pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What is answered.
pub(crate) type Answer = Response<Full<Bytes>>;

/// A request as far as anybody here wants to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The path, without a query.
    pub(crate) path: String,
    /// What stands behind the `?`; empty if nothing does.
    pub(crate) query: String,
    /// The `Host` header; empty if there is none.
    pub(crate) host: String,
}

/// Serves until the future is dropped. An address that is taken is tried again: the agent works without.
pub(crate) async fn serve<F, Fut>(what: &'static str, addr: SocketAddr, tls: Option<Tls>, answer: F)
where
    F: Fn(Question) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let listener = loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => break listener,
            Err(error) => warn!(%addr, %error, "{what}: cannot listen"),
        }
        tokio::time::sleep(RETRY).await;
    };
    info!(%addr, tls = tls.is_some(), "{what}: served");
    let accept = || async { listener.accept().await.map(|(stream, _)| stream) };
    let serve = |stream| {
        let (answer, tls) = (answer.clone(), tls.clone());
        async move {
            let call = async {
                match tls {
                    None => connection(stream, answer).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => connection(stream, answer).await,
                        Err(error) => debug!(%error, "{what}: no TLS with a caller"),
                    },
                }
            };
            if timeout(CALL, call).await.is_err() {
                debug!("{what}: a caller took too long");
            }
        }
    };
    accept::each(what, CALLERS, accept, serve).await;
}

async fn connection<S, F, Fut>(stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Question) -> Fut,
    Fut: Future<Output = Answer>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let asked = question(&request).map(&answer);
        async move {
            Ok::<_, Infallible>(match asked {
                Some(answering) => answering.await,
                None => text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned()),
            })
        }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a caller went away");
    }
}

/// None for what would change something.
fn question(request: &Request<Incoming>) -> Option<Question> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let host = request.headers().get(hyper::header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    Some(Question {
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        host: host.to_owned(),
    })
}

/// An answer for a person.
pub(crate) fn text(status: StatusCode, text: String) -> Answer {
    response(status, TEXT, text)
}

/// An answer of any type.
pub(crate) fn response(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A part of the agent is silent.
pub(crate) fn stuck() -> Answer {
    let line = format!(
        "a part of the agent did not answer in {} s\n",
        ANSWER.as_secs()
    );
    text(StatusCode::SERVICE_UNAVAILABLE, line)
}
