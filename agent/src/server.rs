//! The agent's unix socket: one line in, one line out (a store watch: many lines out).

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use margay_api::bgp::BgpRequest;
use margay_api::cni::CniReply;
use margay_api::{MAX_REQUEST_BYTES, Reply, Request};
use margay_datastore::{AnyStore, serve_store_request};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

use crate::accept;
use crate::bgp_view;
use crate::cni::{Cni, Journal};
use crate::fault;
use crate::kernel_view;
use crate::status::StatusSource;

/// Connections served at once; the rest wait in the kernel's backlog. A runtime that starts a hundred
/// containers at once fits, a runaway client does not exhaust file descriptors.
const MAX_CONNECTIONS: usize = 512;

/// A client that connects and says nothing is closed after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// What requests are answered from.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) cni: Arc<Cni>,
    pub(crate) status: StatusSource,
    pub(crate) store: AnyStore,
}

impl Server {
    /// Binds the socket, for root only. A file left by an agent that died is replaced; one that a
    /// living agent listens on is not.
    ///
    /// # Errors
    /// `AddrInUse` when another agent listens there; else the file system's.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another agent listens on this socket",
                ));
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                // A file that is no socket is refused too, and may be anything.
                if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                    return Err(io::Error::new(
                        io::ErrorKind::AlreadyExists,
                        "there is a file of this name that is no socket",
                    ));
                }
                std::fs::remove_file(path)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers while the agent has no datastore yet, until the future is dropped: its state is told, a DEL is
    /// journalled, everything else is told to come back.
    pub(crate) async fn turn_away(&self, journal: &Journal, status: &StatusSource, why: &str) {
        let turn_away = |stream| turn_away(stream, journal.clone(), status.clone(), why.to_owned());
        self.accept(turn_away).await;
    }

    /// Serves until the future is dropped.
    pub(crate) async fn run(&self, services: Services) {
        self.accept(|stream| serve(stream, services.clone())).await;
    }

    /// Serves each connection by itself, until the future is dropped.
    pub(crate) async fn accept<F>(&self, serve: impl Fn(UnixStream) -> F)
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let accept = || async { self.listener.accept().await.map(|(stream, _)| stream) };
        let serve = |stream| {
            let serving = serve(stream);
            async move {
                if let Err(e) = serving.await {
                    debug!(error = %e, "a client of the socket went away");
                }
            }
        };
        accept::each("socket", MAX_CONNECTIONS, accept, serve).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path) {
            debug!(error = %e, "cannot remove the socket's file");
        }
    }
}

/// Reads the one request of a connection. None when it was answered here, or never came.
async fn read_request(
    reader: OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> io::Result<Option<Request>> {
    // The file's mode keeps others out; a socket passed on by its owner is still checked.
    let peer = AsRef::<UnixStream>::as_ref(writer).peer_cred()?;
    let refusal = if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        "only root may use this socket".to_owned()
    } else {
        let mut line = Vec::new();
        let mut reader = BufReader::new(reader.take(MAX_REQUEST_BYTES));
        match tokio::time::timeout(REQUEST_TIMEOUT, reader.read_until(b'\n', &mut line)).await {
            Ok(read) => read?,
            Err(_elapsed) => return Ok(None),
        };
        match serde_json::from_slice(&line) {
            Ok(request) => return Ok(Some(request)),
            Err(_) if line.len() as u64 == MAX_REQUEST_BYTES => {
                // Who is still writing does not read; the answer would be lost in a broken pipe.
                let rest = skip_line(reader.into_inner().into_inner());
                tokio::time::timeout(REQUEST_TIMEOUT, rest)
                    .await
                    .unwrap_or(Ok(()))?;
                format!("request is longer than {MAX_REQUEST_BYTES} bytes")
            }
            Err(e) => format!("request is not understood: {e}"),
        }
    };
    answer(writer, &Reply::<()>::Error(refusal)).await?;
    Ok(None)
}

async fn skip_line(reader: OwnedReadHalf) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    loop {
        let buffer = reader.fill_buf().await?;
        let length = buffer.len();
        if length == 0 || buffer.contains(&b'\n') {
            return Ok(());
        }
        reader.consume(length);
    }
}

async fn turn_away(
    stream: UnixStream,
    journal: Journal,
    status: StatusSource,
    why: String,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let Some(request) = read_request(reader, &mut writer).await? else {
        return Ok(());
    };
    match request {
        Request::Cni(call)
            if call.command == "DEL"
                && call.check_environment().is_ok()
                && journal.write(&call).is_ok() =>
        {
            answer(&mut writer, &Reply::Ok(CniReply::done())).await
        }
        Request::Cni(_) | Request::Store(_) | Request::Bgp(BgpRequest::Refresh { .. }) => {
            answer(&mut writer, &Reply::<()>::Error(why)).await
        }
        question => inform(&status, question, &mut writer).await,
    }
}

async fn serve(stream: UnixStream, services: Services) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let Some(request) = read_request(reader, &mut writer).await? else {
        return Ok(());
    };
    match request {
        Request::Cni(request) => {
            // Runs to its end even if the runtime gives up and the connection closes: half an ADD
            // must be finished or undone.
            let cni = Arc::clone(&services.cni);
            let (command, begun) = (request.command.clone(), Instant::now());
            let work = tokio::spawn(async move { cni.handle(request).await });
            let done = work.await;
            let failed = !done.as_ref().is_ok_and(|reply| reply.exit == 0);
            let meters = &services.status.meters;
            meters.called(&command, begun.elapsed(), failed);
            fault::point("before-reply");
            match done {
                Ok(reply) => {
                    let told = answer(&mut writer, &Reply::Ok(reply)).await;
                    fault::point("after-reply");
                    told
                }
                Err(e) => {
                    answer(
                        &mut writer,
                        &Reply::<()>::Error(format!("the call failed: {e}")),
                    )
                    .await
                }
            }
        }
        // In boxes, so that a connection for a call is small.
        Request::Store(request) => {
            Box::pin(serve_store_request(&services.store, request, &mut writer)).await
        }
        Request::Bgp(refresh @ BgpRequest::Refresh { .. }) => {
            bgp_view::serve(services.status.bgp.as_ref(), refresh, &mut writer).await
        }
        question => Box::pin(inform(&services.status, question, &mut writer)).await,
    }
}

/// Answers a question of this host or of another one. What would change something is refused.
pub(crate) async fn inform(
    status: &StatusSource,
    question: Request,
    writer: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    match question {
        Request::NodeStatus {} => answer(writer, &Reply::Ok(status.collect().await)).await,
        Request::PolicyCounters {} => {
            let reply = match status.policy_counters().await {
                Ok(counters) => Reply::Ok(counters),
                Err(error) => Reply::Error(error),
            };
            answer(writer, &reply).await
        }
        Request::Flows(query) => answer(writer, &Reply::Ok(status.flows.report(query).await)).await,
        Request::Settings {} => answer(writer, &Reply::Ok(&*status.settings)).await,
        Request::Kernel(question) => kernel_view::serve(question, writer).await,
        Request::Cni(_) | Request::Store(_) | Request::Bgp(BgpRequest::Refresh { .. }) => {
            let refusal = "this is for the socket of the host alone".to_owned();
            answer(writer, &Reply::<()>::Error(refusal)).await
        }
        Request::Bgp(question) => bgp_view::serve(status.bgp.as_ref(), question, writer).await,
    }
}

pub(crate) async fn answer<T: Serialize>(
    writer: &mut (impl AsyncWriteExt + Unpin),
    reply: &Reply<T>,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
