//! The endpoints, their connections, and which of them to ask.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Channel, Client, ConnectOptions, Identity, KvClient, TlsOptions};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Endpoint;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

use super::EtcdConfigError;
use super::dial::dial;
use super::error::Failure;
use super::unary::Unary;
use crate::config::DatastoreConfig;
use crate::secret::Secret;

/// Where Linux distributions keep the certificates of public authorities.
const SYSTEM_CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A TCP or TLS handshake that takes longer counts as an endpoint that is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// etcd closes connections that ping more often than every 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before all endpoints are asked once more, while a cluster elects its leader.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// One page of a list, or one batch of events, has to fit; requests bound both, not this limit.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Whether a request may be sent a second time when the fate of the first is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Reads.
    Repeatable,
    /// Transactions.
    Once,
}

pub(super) struct Members {
    list: Vec<Member>,
    /// Who answered last. Shared by all requests, so that one finds out and all follow.
    current: AtomicUsize,
    request_timeout: Duration,
}

struct Member {
    endpoint: String,
    target: Endpoint,
    user: Option<(String, Secret)>,
    client: OnceCell<Client>,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.list.iter().map(|m| &m.endpoint);
        f.debug_list().entries(endpoints).finish()
    }
}

impl Members {
    pub(super) fn new(config: &DatastoreConfig) -> Result<Self, EtcdConfigError> {
        if config.endpoints.is_empty() {
            return Err(EtcdConfigError::NoEndpoint);
        }
        let user = both(
            ("username", config.username.as_ref()),
            ("password", config.password.as_ref()),
        )?;
        let mut list = Vec::with_capacity(config.endpoints.len());
        for endpoint in &config.endpoints {
            list.push(Member {
                endpoint: endpoint.clone(),
                target: target(endpoint, config)?,
                user: user.map(|(name, password)| (name.clone(), password.clone())),
                client: OnceCell::new(),
            });
        }
        Ok(Self {
            list,
            current: AtomicUsize::new(0),
            request_timeout: Duration::from_millis(config.request_timeout_ms),
        })
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// The index and client of the endpoint to ask now.
    pub(super) async fn client(&self) -> Result<(usize, Client), Failure> {
        let index = self.current.load(Ordering::Relaxed) % self.list.len();
        match self.list[index].connected().await {
            Ok(client) => Ok((index, client)),
            Err(failure) => {
                self.leave(index);
                Err(failure)
            }
        }
    }

    /// Turns away from an endpoint that failed, unless another request already did.
    pub(super) fn leave(&self, index: usize) {
        let next = (index + 1) % self.list.len();
        // Losing the race means that the endpoint was left already.
        self.current
            .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed)
            .ok();
    }

    /// Runs a request within the request timeout, moving on from endpoints that fail.
    pub(super) async fn call<T, F, R>(&self, attempt: Attempt, run: F) -> Result<T, Failure>
    where
        F: Fn(KvClient) -> R,
        R: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + self.request_timeout;
        let mut tried = 0;
        loop {
            tried += 1;
            let time = self.attempt_time(attempt, tried, deadline);
            let failure = match self.ask(&run, time).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let again = match &failure {
                // When nobody listens, say so at once instead of using up the timeout.
                Failure::Unsent(_) => tried < self.list.len(),
                Failure::Unknown(_) => attempt == Attempt::Repeatable,
                _ => false,
            };
            if !again || Instant::now() + ROUND_PAUSE >= deadline {
                return Err(failure);
            }
            if tried % self.list.len() == 0 {
                sleep(ROUND_PAUSE).await;
            }
        }
    }

    /// What is left until the deadline; in the first round of a read, this endpoint's share of it.
    fn attempt_time(&self, attempt: Attempt, tried: usize, deadline: Instant) -> Duration {
        let left = deadline.saturating_duration_since(Instant::now());
        let untried = (self.list.len() + 1).saturating_sub(tried).max(1);
        match (attempt, u32::try_from(untried)) {
            (Attempt::Repeatable, Ok(untried)) => left / untried,
            _ => left,
        }
    }

    async fn ask<T, F, R>(&self, run: &F, time: Duration) -> Result<T, Failure>
    where
        F: Fn(KvClient) -> R,
        R: Future<Output = Result<T, etcd_client::Error>>,
    {
        let asked = self.current.load(Ordering::Relaxed) % self.list.len();
        let answer = timeout(time, async {
            let (index, client) = self.client().await?;
            let kv = client
                .kv_client()
                .max_decoding_message_size(MAX_MESSAGE_BYTES);
            let answer = run(kv).await.map_err(Failure::from);
            if let Err(Failure::Unsent(_) | Failure::Unknown(_)) = &answer {
                self.leave(index);
            }
            answer
        })
        .await;
        answer.unwrap_or_else(|_elapsed| {
            self.leave(asked);
            Err(Failure::timeout(time))
        })
    }
}

impl Member {
    async fn connected(&self) -> Result<Client, Failure> {
        let connect = || async {
            let anonymous = ConnectOptions::new()
                .with_require_leader(true)
                .with_auto_token_refresh(true);
            let Some((name, password)) = &self.user else {
                return self.connect(anonymous).await;
            };
            let known = anonymous.clone().with_user(name, password.reveal());
            match self.connect(known).await {
                Err(Failure::AuthDisabled) => {
                    tracing::warn!(
                        endpoint = self.endpoint,
                        "etcd has authentication switched off, user name and password are not used"
                    );
                    self.connect(anonymous).await
                }
                other => other,
            }
        };
        self.client.get_or_try_init(connect).await.cloned()
    }

    async fn connect(&self, options: ConnectOptions) -> Result<Client, Failure> {
        let channel = self.target.connect_with_connector_lazy(service_fn(dial));
        let channel = BoxCloneSyncService::new(Unary::new(channel));
        Client::from_channel(Channel::Custom(channel), Some(options))
            .await
            .map_err(Failure::from)
    }
}

fn both<'a, A, B>(
    (name_a, a): (&'static str, Option<&'a A>),
    (name_b, b): (&'static str, Option<&'a B>),
) -> Result<Option<(&'a A, &'a B)>, EtcdConfigError> {
    let incomplete = |present, missing| EtcdConfigError::Incomplete { present, missing };
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(incomplete(name_a, name_b)),
        (None, Some(_)) => Err(incomplete(name_b, name_a)),
    }
}

fn target(endpoint: &str, config: &DatastoreConfig) -> Result<Endpoint, EtcdConfigError> {
    let with_tls = is_tls(endpoint)?;
    let target = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|error| EtcdConfigError::BadEndpoint {
            endpoint: endpoint.to_owned(),
            reason: error.to_string(),
        })?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    if !with_tls {
        return Ok(target);
    }
    target
        .tls_config(tls(config)?)
        .map_err(|error| EtcdConfigError::Tls {
            reason: error.to_string(),
        })
}

fn is_tls(endpoint: &str) -> Result<bool, EtcdConfigError> {
    let bad = |reason: &str| EtcdConfigError::BadEndpoint {
        endpoint: endpoint.to_owned(),
        reason: reason.to_owned(),
    };
    let (tls, rest) = match (
        endpoint.strip_prefix("https://"),
        endpoint.strip_prefix("http://"),
    ) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err(bad("no http:// or https:// before it")),
    };
    let uri: tonic::transport::Uri = endpoint.parse().map_err(|e| bad(&format!("{e}")))?;
    if uri.host().is_none_or(str::is_empty) || rest.is_empty() {
        return Err(bad("no host in it"));
    }
    Ok(tls)
}

fn tls(config: &DatastoreConfig) -> Result<TlsOptions, EtcdConfigError> {
    let ca = config
        .ca_cert_file
        .as_deref()
        .unwrap_or(Path::new(SYSTEM_CA_FILE));
    let mut options =
        TlsOptions::new().ca_certificate(Certificate::from_pem(pem("ca_cert_file", ca)?));
    let pair = both(
        ("cert_file", config.cert_file.as_ref()),
        ("key_file", config.key_file.as_ref()),
    )?;
    if let Some((cert, key)) = pair {
        let (cert, key) = (pem("cert_file", cert)?, pem("key_file", key)?);
        options = options.identity(Identity::from_pem(cert, key));
    }
    Ok(options)
}

fn pem(field: &'static str, path: &Path) -> Result<Vec<u8>, EtcdConfigError> {
    let bytes = std::fs::read(path).map_err(|source| EtcdConfigError::File {
        field,
        path: path.to_owned(),
        source,
    })?;
    if !bytes.windows(11).any(|w| w == b"-----BEGIN ") {
        return Err(EtcdConfigError::Tls {
            reason: format!("{field} {} is not a PEM file", path.display()),
        });
    }
    Ok(bytes)
}
