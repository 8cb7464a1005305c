//! What monitoring asks for: `/metrics` in the text format of Prometheus, `/liveness` and `/readiness`.
//!
//! Everything is collected from its owners when somebody asks; nothing is counted here. Names of our own begin
//! with `margay_`; where the established system has a metric of the same meaning, its name is there as well.
//! Labels are bounded: peers outside of the mesh by name, the mesh as one.

mod collect;
mod http;
mod text;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::status::StatusSource;

/// Pause before another attempt to listen.
const RETRY: Duration = Duration::from_secs(10);

/// Serves until the future is dropped. An address that is taken is tried again: the agent works without.
pub(crate) async fn serve(addr: SocketAddr, source: StatusSource) {
    let listener = loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => break listener,
            Err(error) => warn!(%addr, %error, "metrics: cannot listen"),
        }
        tokio::time::sleep(RETRY).await;
    };
    info!(%addr, "metrics, liveness and readiness are served");
    http::serve(listener, source).await;
}
