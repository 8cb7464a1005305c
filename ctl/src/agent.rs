//! Requests to this host's agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use margay_api::status::NodeStatus;
use margay_api::{Reply, Request};
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
    let unreachable = |reason: String| AgentError::Unreachable {
        socket: socket.to_owned(),
        reason,
    };
    let line = match tokio::time::timeout(TIMEOUT, ask(socket, &Request::NodeStatus {})).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_elapsed) => return Err(unreachable("no answer within 10 s".to_owned())),
    };
    match serde_json::from_str::<Reply<NodeStatus>>(&line) {
        Ok(Reply::Ok(status)) => Ok(status),
        Ok(Reply::Error(reason)) => Err(AgentError::Refused {
            socket: socket.to_owned(),
            reason,
        }),
        Err(error) => Err(unreachable(format!(
            "an answer of another version: {error}"
        ))),
    }
}

async fn ask(socket: &Path, request: &Request) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}
