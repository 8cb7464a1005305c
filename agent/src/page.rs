//! The web page for people: a few files that are part of this program, and JSON that they ask for again and again.
//!
//! It shows and changes nothing. Whoever reaches the port sees it, so that it is on the loopback address unless told
//! otherwise; a browser that was led here under another name (DNS rebinding) is turned away.

mod cluster;
mod matrix;
mod node;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use margay_api::Request;
use margay_api::bgp::BgpRequest;
use margay_api::flows::FlowQuery;
use margay_datastore::AnyStore;
use margay_model::keys::Keys;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::http::{self, ANSWER, Answer, Question, response, stuck, text};
use crate::server::inform;
use crate::status::StatusSource;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What is read from the datastore is kept so long: several tabs, or several people, cost one reading.
const FRESH: Duration = Duration::from_secs(5);

/// The latest flows that are shown.
const FLOWS: usize = 300;

/// The files of the page: path, type, content.
const ASSETS: [(&str, HeaderValue, &str); 3] = [
    (
        "/",
        HeaderValue::from_static("text/html; charset=utf-8"),
        include_str!("page/assets/index.html"),
    ),
    (
        "/style.css",
        HeaderValue::from_static("text/css; charset=utf-8"),
        include_str!("page/assets/style.css"),
    ),
    (
        "/app.js",
        HeaderValue::from_static("text/javascript; charset=utf-8"),
        include_str!("page/assets/app.js"),
    ),
];

/// Nothing from elsewhere, nothing inline, no frame around it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// What the page is made from.
#[derive(Clone)]
pub(crate) struct Page(Arc<Sources>);

struct Sources {
    status: StatusSource,
    store: AnyStore,
    keys: Keys,
    cluster: Kept,
    matrix: Kept,
}

/// The last answer, and what it was asked for. The lock makes a second caller wait for the reading of the first.
#[derive(Default)]
struct Kept(Mutex<Option<(Instant, String, Value)>>);

impl Kept {
    async fn get(
        &self,
        asked: &str,
        read: impl Future<Output = Result<Value, String>>,
    ) -> Result<Value, String> {
        let mut kept = self.0.lock().await;
        if let Some((at, before, value)) = &*kept
            && at.elapsed() < FRESH
            && before == asked
        {
            return Ok(value.clone());
        }
        let value = read.await?;
        *kept = Some((Instant::now(), asked.to_owned(), value.clone()));
        Ok(value)
    }
}

impl Page {
    pub(crate) fn new(status: StatusSource, store: AnyStore, keys: Keys) -> Self {
        Self(Arc::new(Sources {
            status,
            store,
            keys,
            cluster: Kept::default(),
            matrix: Kept::default(),
        }))
    }

    /// Serves until the future is dropped.
    pub(crate) async fn serve(self, addr: SocketAddr) {
        let answer = move |question| {
            let page = self.clone();
            async move { guarded(page.answer(question).await) }
        };
        http::serve("the page", addr, None, answer).await;
    }

    async fn answer(&self, question: Question) -> Answer {
        if !is_own_name(&question.host, &self.0.status.node) {
            let line = "this page is called by its address, by localhost or by the node's name\n";
            return text(StatusCode::MISDIRECTED_REQUEST, line.to_owned());
        }
        if let Some((_, kind, body)) = ASSETS.iter().find(|(path, ..)| *path == question.path) {
            return response(StatusCode::OK, kind.clone(), *body);
        }
        let Some(what) = question.path.strip_prefix("/api/") else {
            return text(
                StatusCode::NOT_FOUND,
                "there is nothing of this name\n".to_owned(),
            );
        };
        match timeout(ANSWER, self.json(what, &question.query)).await {
            Ok(Some(Ok(value))) => response(StatusCode::OK, JSON, value.to_string()),
            Ok(Some(Err(why))) => {
                let body = json!({"error": why}).to_string();
                response(StatusCode::SERVICE_UNAVAILABLE, JSON, body)
            }
            Ok(None) => text(
                StatusCode::NOT_FOUND,
                "there is nothing of this name\n".to_owned(),
            ),
            Err(_elapsed) => stuck(),
        }
    }

    /// None for what there is not.
    async fn json(&self, what: &str, query: &str) -> Option<Result<Value, String>> {
        let Sources {
            status,
            store,
            keys,
            ..
        } = &*self.0;
        Some(match what {
            "node" => Ok(node::node(status).await),
            "endpoints" => Ok(node::endpoints(&status.world.borrow())),
            "routes" => node::routes(status).await,
            "peers" => self.asked(Request::Bgp(BgpRequest::Peers {})).await,
            "events" => self.asked(Request::Bgp(BgpRequest::Events {})).await,
            "flows" => {
                let query = FlowQuery {
                    after: 0,
                    limit: FLOWS,
                };
                self.asked(Request::Flows(query)).await
            }
            "counters" => self.asked(Request::PolicyCounters {}).await,
            "cluster" => {
                let read = cluster::read(store, keys, status);
                self.0.cluster.get("", read).await
            }
            "policy" => {
                let read = matrix::read(store, keys, status, query);
                self.0.matrix.get(query, read).await
            }
            _ => return None,
        })
    }

    /// What the socket answers to the same question.
    async fn asked(&self, question: Request) -> Result<Value, String> {
        let mut line = Vec::new();
        let informed = inform(&self.0.status, question, &mut line).await;
        informed.map_err(|error| error.to_string())?;
        let mut reply: Value = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        match reply.get_mut("ok") {
            Some(value) => Ok(value.take()),
            None => Err(reply["error"].as_str().unwrap_or("no answer").to_owned()),
        }
    }
}

fn guarded(mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Whether a browser means this host by the name. A page of somebody else whose name was pointed here would carry that
/// name.
fn is_own_name(host: &str, node: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.eq_ignore_ascii_case(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_localhost_and_the_nodes_name_are_names_of_the_page() {
        for host in [
            "127.0.0.1:9089",
            "127.0.0.1",
            "[::1]:9089",
            "[::1]",
            "localhost:9089",
            "h1",
            "H1:9089",
        ] {
            assert!(is_own_name(host, "h1"), "{host}");
        }
        for host in ["", "evil.example:9089", "h1.evil.example", "127.0.0.1.evil"] {
            assert!(!is_own_name(host, "h1"), "{host}");
        }
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        for (path, _, content) in &ASSETS {
            for foreign in ["https://", "//cdn", "@import", "innerHTML", "eval("] {
                assert!(!content.contains(foreign), "{path}: {foreign}");
            }
            // The namespace of SVG is a name and nothing that is fetched.
            let links = content.matches("http://").count();
            let names = content.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(links, names, "{path}");
        }
    }
}
