//! Requests to agents: to that of this host by its socket, to those of other hosts by way of etcd.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use margay_api::bgp::{BgpRequest, Route};
use margay_api::config::HostSettings;
use margay_api::flows::{FlowQuery, FlowReport};
use margay_api::kernel::{Found, KernelRequest};
use margay_api::policy::Counters;
use margay_api::status::NodeStatus;
use margay_api::{Reply, Request};
use margay_datastore::AnyStore;
use margay_datastore::ask::{AskError, ask};
use margay_ipam::own_keys;
use margay_model::kind::{Kind, ResourceKey};
use margay_model::store::{Store, StoreError};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::client::Client;
use crate::failure::Fatal;
use crate::verbs::fatal;

/// How long the agent may take; it answers from memory.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An agent, and the way to it.
#[derive(Clone, Copy)]
pub(crate) enum Agent<'a> {
    /// Of this host.
    Here(&'a Path),
    /// Of another host.
    There(&'a Client, &'a str),
}

impl fmt::Display for Agent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(socket) => write!(f, "agent at {}", socket.display()),
            Self::There(_, node) => write!(f, "agent of {node}"),
        }
    }
}

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// Nobody answers.
    #[error("{who}: {reason}")]
    Unreachable { who: String, reason: String },
    /// The agent says no, or is not there to be asked.
    #[error("{who}: {reason}")]
    Refused { who: String, reason: String },
    /// The datastore does not take the question there.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<AgentError> for Fatal {
    fn from(error: AgentError) -> Self {
        match &error {
            AgentError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            AgentError::Refused { .. } => Self::Refused(error.to_string()),
            AgentError::Store(error) => fatal(error),
        }
    }
}

impl<'a> Agent<'a> {
    /// The agent of `node`, or of this host if none is named.
    ///
    /// # Errors
    /// There is no such node.
    pub(crate) async fn of(
        node: Option<&'a str>,
        socket: &'a Path,
        client: &'a Client,
    ) -> Result<Self, Fatal> {
        let here = Self::Here(socket);
        let Some(node) = node else { return Ok(here) };
        if here.status().await.is_ok_and(|status| status.node == node) {
            return Ok(here);
        }
        let key = ResourceKey::global(Kind::Node, node);
        let found = client.store.get(&client.keys.resource(&key)).await;
        if found.map_err(|error| fatal(&error))?.is_some() {
            return Ok(Self::There(client, node));
        }
        let nodes = client.list(Kind::Node, None).await;
        let nodes = nodes.map_err(|error| fatal(&error))?.resources;
        let names: Vec<_> = nodes.iter().map(|n| n.metadata().name.as_str()).collect();
        let known = if names.is_empty() {
            "there are none".to_owned()
        } else {
            format!("there are: {}", names.join(", "))
        };
        let line = format!("node: found \"{node}\", which is no node of the cluster; {known}");
        Err(Fatal::Refused(line))
    }

    /// The state of its host.
    pub(crate) async fn status(self) -> Result<NodeStatus, AgentError> {
        self.once(&Request::NodeStatus {}).await
    }

    /// What the rules of its host matched.
    pub(crate) async fn policy_counters(self) -> Result<Counters, AgentError> {
        self.once(&Request::PolicyCounters {}).await
    }

    /// What policy of its host decided about which traffic.
    pub(crate) async fn flows(self, query: FlowQuery) -> Result<FlowReport, AgentError> {
        self.once(&Request::Flows(query)).await
    }

    /// What its host's kernel says.
    pub(crate) async fn kernel<T: DeserializeOwned>(
        self,
        request: KernelRequest,
    ) -> Result<Found<T>, AgentError> {
        self.once(&Request::Kernel(request)).await
    }

    /// What it was told beside the datastore.
    pub(crate) async fn settings(self) -> Result<HostSettings, AgentError> {
        self.once(&Request::Settings {}).await
    }

    /// What the BGP speaker answers in one line.
    pub(crate) async fn bgp<T: DeserializeOwned>(
        self,
        request: BgpRequest,
    ) -> Result<T, AgentError> {
        self.once(&Request::Bgp(request)).await
    }

    /// Routes, which the BGP speaker gives in many lines.
    pub(crate) async fn bgp_routes(self, request: BgpRequest) -> Result<Vec<Route>, AgentError> {
        self.bgp_routes_up_to(request, usize::MAX).await
    }

    /// The first of them, of a table that nobody wants to read as a whole.
    pub(crate) async fn bgp_routes_up_to(
        self,
        request: BgpRequest,
        most: usize,
    ) -> Result<Vec<Route>, AgentError> {
        let mut lines = self.open(&Request::Bgp(request)).await?;
        let mut all = Vec::new();
        loop {
            let page: Vec<Route> = self.next(&mut lines).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
            if all.len() >= most {
                all.truncate(most);
                return Ok(all);
            }
        }
    }

    /// The table as MRT records, which the BGP speaker gives in many lines.
    pub(crate) async fn bgp_dump(
        self,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), AgentError> {
        let mut lines = self.open(&Request::Bgp(BgpRequest::Dump {})).await?;
        let refused = |reason: String| AgentError::Refused {
            who: self.to_string(),
            reason,
        };
        loop {
            let page: String = self.next(&mut lines).await?;
            if page.is_empty() {
                return Ok(());
            }
            let records = BASE64_STANDARD
                .decode(page)
                .map_err(|e| refused(e.to_string()))?;
            take(&records).map_err(|e| refused(format!("the table cannot be kept: {e}")))?;
        }
    }

    async fn once<T: DeserializeOwned>(self, request: &Request) -> Result<T, AgentError> {
        let mut lines = self.open(request).await?;
        self.next(&mut lines).await
    }

    async fn open(self, request: &Request) -> Result<Lines, AgentError> {
        let unreachable = |error: &dyn fmt::Display| self.unreachable(error.to_string());
        let line = serde_json::to_string(request).map_err(|error| unreachable(&error))? + "\n";
        match self {
            Self::Here(socket) => {
                let sending = async {
                    let mut stream = UnixStream::connect(socket).await?;
                    stream.write_all(line.as_bytes()).await?;
                    Ok(stream)
                };
                let stream = self.in_time(sending).await?;
                Ok(Lines::Coming(BufReader::new(stream)))
            }
            Self::There(client, node) => {
                let (root, id) = (client.keys.prefix(), (client.new_uid)());
                if matches!(client.store, AnyStore::Etcd(_)) {
                    let alive = own_keys::alive(root) + node;
                    if client.store.get(&alive).await?.is_none() {
                        let why = "it does not run, there is no sign of life of it in etcd";
                        return Err(self.unreachable(why.to_owned()));
                    }
                }
                let answer = ask(&client.store, root, (node, &id), &line, TIMEOUT).await;
                let text = answer.map_err(|error| self.unanswered(error))?;
                Ok(Lines::Come(text, 0))
            }
        }
    }

    async fn next<T: DeserializeOwned>(self, lines: &mut Lines) -> Result<T, AgentError> {
        let line = match lines {
            Lines::Coming(reader) => {
                let mut line = String::new();
                let reading = async {
                    reader.read_line(&mut line).await?;
                    Ok(())
                };
                self.in_time(reading).await?;
                line
            }
            Lines::Come(text, from) => {
                let rest = text.get(*from..).unwrap_or_default();
                let line = rest.split_inclusive('\n').next().unwrap_or_default();
                *from += line.len();
                line.to_owned()
            }
        };
        if line.is_empty() {
            return Err(self.unreachable(io::Error::from(io::ErrorKind::UnexpectedEof).to_string()));
        }
        match serde_json::from_str::<Reply<T>>(&line) {
            Ok(Reply::Ok(answer)) => Ok(answer),
            Ok(Reply::Error(reason)) => Err(self.refused(reason)),
            Err(error) => Err(self.unreachable(format!("an answer of another version: {error}"))),
        }
    }

    fn unreachable(self, reason: String) -> AgentError {
        let who = self.to_string();
        AgentError::Unreachable { who, reason }
    }

    fn refused(self, reason: String) -> AgentError {
        let who = self.to_string();
        AgentError::Refused { who, reason }
    }

    fn unanswered(self, error: AskError) -> AgentError {
        match error {
            AskError::Store(error) => error.into(),
            AskError::NoLeases => self.refused(error.to_string()),
            AskError::Silent(_) => self.unreachable(format!(
                "{error}; is it cut off from etcd, overloaded, or too old to be asked through etcd?"
            )),
            AskError::Damaged(_) => self.unreachable(error.to_string()),
        }
    }

    async fn in_time<T>(self, work: impl Future<Output = io::Result<T>>) -> Result<T, AgentError> {
        match tokio::time::timeout(TIMEOUT, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.unreachable(error.to_string())),
            Err(_elapsed) => {
                Err(self.unreachable(format!("no answer within {} s", TIMEOUT.as_secs())))
            }
        }
    }
}

/// The answers to a request.
enum Lines {
    /// As they come.
    Coming(BufReader<UnixStream>),
    /// All of them, and where the next one begins.
    Come(String, usize),
}
