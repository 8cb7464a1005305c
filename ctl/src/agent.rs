//! Requests to this host's agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use margay_api::bgp::{BgpRequest, Route};
use margay_api::policy::Counters;
use margay_api::status::NodeStatus;
use margay_api::{Reply, Request};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::failure::Fatal;

/// How long the agent may take; it answers from memory.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// Nobody answers.
    #[error("agent at {}: {reason}", socket.display())]
    Unreachable { socket: PathBuf, reason: String },
    /// The agent says no.
    #[error("agent at {}: {reason}", socket.display())]
    Refused { socket: PathBuf, reason: String },
}

impl From<AgentError> for Fatal {
    fn from(error: AgentError) -> Self {
        match &error {
            AgentError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            AgentError::Refused { .. } => Self::Refused(error.to_string()),
        }
    }
}

/// The state of this host.
pub(crate) async fn node_status(socket: &Path) -> Result<NodeStatus, AgentError> {
    once(socket, &Request::NodeStatus {}).await
}

/// What the rules of this host matched.
pub(crate) async fn policy_counters(socket: &Path) -> Result<Counters, AgentError> {
    once(socket, &Request::PolicyCounters {}).await
}

/// Asks the BGP speaker of this host what it answers in one line.
pub(crate) async fn bgp_once<T: DeserializeOwned>(
    socket: &Path,
    request: BgpRequest,
) -> Result<T, AgentError> {
    once(socket, &Request::Bgp(request)).await
}

/// Asks the BGP speaker of this host for routes, which come in many lines.
pub(crate) async fn bgp_routes(
    socket: &Path,
    request: BgpRequest,
) -> Result<Vec<Route>, AgentError> {
    let mut lines = Lines::open(socket, &Request::Bgp(request)).await?;
    let mut all = Vec::new();
    loop {
        let page: Vec<Route> = lines.next().await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

async fn once<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, AgentError> {
    Lines::open(socket, request).await?.next().await
}

/// The answers to a request, line by line.
struct Lines<'a> {
    socket: &'a Path,
    reader: BufReader<UnixStream>,
}

impl<'a> Lines<'a> {
    async fn open(socket: &'a Path, request: &Request) -> Result<Self, AgentError> {
        let sending = async {
            let mut stream = UnixStream::connect(socket).await?;
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            stream.write_all(&line).await?;
            Ok(stream)
        };
        let stream = in_time(socket, sending).await?;
        Ok(Self {
            socket,
            reader: BufReader::new(stream),
        })
    }

    async fn next<T: DeserializeOwned>(&mut self) -> Result<T, AgentError> {
        let mut line = String::new();
        let read = async {
            self.reader.read_line(&mut line).await?;
            if line.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(())
        };
        in_time(self.socket, read).await?;
        match serde_json::from_str::<Reply<T>>(&line) {
            Ok(Reply::Ok(answer)) => Ok(answer),
            Ok(Reply::Error(reason)) => Err(AgentError::Refused {
                socket: self.socket.to_owned(),
                reason,
            }),
            Err(error) => Err(unreachable(
                self.socket,
                format!("an answer of another version: {error}"),
            )),
        }
    }
}

fn unreachable(socket: &Path, reason: String) -> AgentError {
    AgentError::Unreachable {
        socket: socket.to_owned(),
        reason,
    }
}

async fn in_time<T>(
    socket: &Path,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, AgentError> {
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(unreachable(socket, error.to_string())),
        Err(_elapsed) => Err(unreachable(socket, "no answer within 10 s".to_owned())),
    }
}
