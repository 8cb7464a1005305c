//! TCP proxies between one worker and each member of etcd, which cut, delay and swallow.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What goes wrong between a worker and the store. Shared with the connections.
#[derive(Debug)]
pub(crate) struct Faults {
    /// Before requests go on, in milliseconds.
    pub(crate) request_delay_ms: AtomicU32,
    /// Before answers go on, in milliseconds.
    pub(crate) answer_delay_ms: AtomicU32,
    /// Answers are thrown away. The connection is useless from the first one on: cut it.
    pub(crate) swallow_answers: AtomicBool,
    cuts: watch::Sender<u64>,
}

impl Faults {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            request_delay_ms: AtomicU32::new(0),
            answer_delay_ms: AtomicU32::new(0),
            swallow_answers: AtomicBool::new(false),
            cuts: watch::Sender::new(0),
        })
    }

    /// Closes all connections; what is under way in them is lost.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }

    /// No faults from here on.
    pub(crate) fn heal(&self) {
        self.request_delay_ms.store(0, Ordering::Relaxed);
        self.answer_delay_ms.store(0, Ordering::Relaxed);
        if self.swallow_answers.swap(false, Ordering::Relaxed) {
            self.cut();
        }
    }
}

/// Listens on a port of its own and passes on to `target`, `127.0.0.1:2379`. Returns the URL.
pub(crate) async fn listen(target: SocketAddr, faults: Arc<Faults>) -> Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}", listener.local_addr().context("no address")?);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, target, Arc::clone(&faults)));
        }
    });
    Ok(url)
}

async fn serve(client: TcpStream, target: SocketAddr, faults: Arc<Faults>) {
    let mut cuts = faults.cuts.subscribe();
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&client, &server] {
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = pass(from_client, to_server, || {
        (faults.request_delay_ms.load(Ordering::Relaxed), false)
    });
    let answers = pass(from_server, to_client, || {
        let swallow = faults.swallow_answers.load(Ordering::Relaxed);
        (faults.answer_delay_ms.load(Ordering::Relaxed), swallow)
    });
    // Whichever ends takes the others along: dropped halves close both sockets.
    tokio::select! {
        () = requests => {}
        () = answers => {}
        _ = cuts.changed() => {}
    }
}

/// Copies until either side ends. `fault` says how long to wait and whether to throw away.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, fault: impl Fn() -> (u32, bool)) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => n,
        };
        let (delay_ms, swallow) = fault();
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms.into())).await;
        }
        if !swallow && to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
