//! What monitoring asks for: `/metrics` in the text format of Prometheus, `/liveness` and `/readiness`.
//!
//! Everything is collected from its owners when somebody asks; what only they can count they keep in
//! [`Meters`](crate::meters::Meters). Names of our own begin with `margay_`; where the established system has a metric
//! of the same meaning, its name is there as well. Labels are bounded: peers outside of the mesh by name, the mesh as
//! one, pools, the commands of CNI.

mod addresses;
mod bgp;
mod dataplane;
mod handover;
mod names;
mod process;
mod text;
mod wireguard;

use std::net::SocketAddr;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use margay_api::status::NodeStatus;
use tokio::time::timeout;

use crate::http::{self, ANSWER, Answer, Question, Tls, response, stuck};
use crate::status::StatusSource;
use text::{Kind, Text};

const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Serves until the future is dropped.
pub(crate) async fn serve(addr: SocketAddr, tls: Option<Tls>, source: StatusSource) {
    let answer = move |question| {
        let source = source.clone();
        async move { answer(&question, &source).await }
    };
    http::serve("metrics, liveness and readiness", addr, tls, answer).await;
}

async fn answer(question: &Question, source: &StatusSource) -> Answer {
    match question.path.as_str() {
        "/metrics" => match timeout(ANSWER, collect(source)).await {
            Ok(text) => response(StatusCode::OK, PROMETHEUS, text),
            Err(_elapsed) => stuck(),
        },
        "/liveness" => match timeout(ANSWER, source.collect()).await {
            Ok(_) => http::text(StatusCode::OK, "alive\n".to_owned()),
            Err(_elapsed) => stuck(),
        },
        "/readiness" => match timeout(ANSWER, source.collect()).await {
            Ok(status) if status.ready => http::text(StatusCode::OK, "ready\n".to_owned()),
            Ok(status) => {
                let reasons = status.not_ready_reasons.join("\n") + "\n";
                http::text(StatusCode::SERVICE_UNAVAILABLE, reasons)
            }
            Err(_elapsed) => stuck(),
        },
        _ => {
            let known = "there are /metrics, /liveness and /readiness\n".to_owned();
            http::text(StatusCode::NOT_FOUND, known)
        }
    }
}

async fn collect(source: &StatusSource) -> String {
    let mut text = Text::default();
    let status = source.collect().await;
    agent(&status, &mut text);
    bgp::collect(source, &mut text).await;
    handover::collect(source.meters.handover.get(), &mut text);
    dataplane::collect(&source.meters, &status, &mut text);
    let world = source.world.borrow().clone();
    addresses::collect(&source.node, &world, &source.meters, &mut text);
    if let Some(responder) = &source.names {
        names::collect(responder, &mut text);
    }
    wireguard::collect(&source.node, &source.kernel.encrypted().await, &mut text);
    process::collect(&mut text);
    text.finish()
}

fn bit(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn agent(status: &NodeStatus, text: &mut Text) {
    let labels = vec![
        ("node", status.node.clone()),
        ("version", status.version.clone()),
    ];
    let help = "Constant 1, with the agent's version and node.";
    text.metric(Kind::Gauge, "margay_agent_info", help, [(labels, 1.0)]);
    let mut gauge =
        |name: &str, help: &str, value: f64| text.single(Kind::Gauge, name, help, value);
    gauge(
        "margay_agent_ready",
        "Whether everything local is programmed.",
        bit(status.ready),
    );
    gauge(
        "margay_agent_uptime_seconds",
        "Time since the agent started.",
        status.uptime_secs as f64,
    );
    gauge(
        "margay_datastore_connected",
        "Whether the watch of the datastore is up.",
        bit(status.datastore.connected),
    );
    gauge(
        "margay_datastore_state_seconds",
        "Time since that last changed.",
        status.datastore.since_secs as f64,
    );
    // 3: in sync; 1: waiting for the datastore to be ready.
    gauge(
        "felix_resync_state",
        "Current datastore state.",
        if status.datastore.connected { 3.0 } else { 1.0 },
    );
}
