//! Tells the service manager how the agent is: `sd_notify(3)`, by one datagram each.
//!
//! Ready is told when everything local is programmed, which is when a container may be attached. The watchdog is fed
//! only while the kernel thread answers: an agent that hangs is started again, and forwarding goes on meanwhile.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use margay_datastore::SyncStatus;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::kernel::KernelHandle;
use crate::world::World;

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    pub(crate) socket: UnixDatagram,
    pub(crate) manager: SocketAddr,
    /// It expects to be fed at least as often.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As `NOTIFY_SOCKET` and `WATCHDOG_USEC` say; `None` when no service manager wants to hear.
    pub(crate) fn from_env() -> Option<Self> {
        let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        // Meant for another process of ours otherwise.
        let for_us = match std::env::var("WATCHDOG_PID") {
            Ok(pid) => pid == std::process::id().to_string(),
            Err(_unset) => true,
        };
        let micros = std::env::var("WATCHDOG_USEC").ok();
        let micros = micros.and_then(|micros| micros.parse::<u64>().ok());
        let watchdog = micros.filter(|micros| *micros > 0 && for_us);
        match Self::open(path.as_bytes()) {
            Ok((socket, manager)) => Some(Self {
                socket,
                manager,
                watchdog: watchdog.map(Duration::from_micros),
            }),
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot tell the service manager");
                None
            }
        }
    }

    fn open(path: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
        let manager = match path.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not listen must not stop the agent.
        socket.set_nonblocking(true)?;
        Ok((socket, manager))
    }

    /// Its name, if that is an abstract one.
    pub(crate) fn name(&self) -> &[u8] {
        self.manager.as_abstract_name().unwrap_or_default()
    }

    pub(crate) fn tell(&self, state: &str) {
        if let Err(error) = self.socket.send_to_addr(state.as_bytes(), &self.manager) {
            warn!(%error, state, "the service manager was not told");
        }
    }

    /// Tells that the agent is ready once it is, then what comes of the datastore; and feeds the watchdog for as long
    /// as the kernel thread answers, from the start: the datastore may be away for long.
    pub(crate) async fn run(
        self,
        mut world: watch::Receiver<Arc<World>>,
        mut datastore: watch::Receiver<SyncStatus>,
        kernel: KernelHandle,
    ) {
        let watched = async {
            let Some(period) = self.watchdog else { return };
            let mut turn = interval(period / 3);
            turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turn.tick().await;
                kernel.settled().await;
                self.tell("WATCHDOG=1");
            }
        };
        let state = async {
            if world.wait_for(|world| world.in_sync).await.is_ok() {
                self.tell("READY=1");
            }
        };
        let status = async {
            loop {
                let line = line(&datastore.borrow_and_update());
                self.tell(&line);
                if datastore.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(watched, state, status);
    }
}

/// What `systemctl status` shows.
fn line(datastore: &SyncStatus) -> String {
    match datastore {
        SyncStatus::Connected { .. } => "STATUS=in sync with the datastore".to_owned(),
        SyncStatus::Disconnected { reason, .. } => {
            format!("STATUS=datastore away: {}", reason.replace('\n', " "))
        }
    }
}

/// Whether a service manager wants to hear.
pub(crate) fn has_manager() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
}

/// Tells that the agent is about to end, for the reason in the log.
pub(crate) fn stopping() {
    if let Some(notifier) = Notifier::from_env() {
        notifier.tell("STOPPING=1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_an_abstract_name_are_both_heard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("margay-notify-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let listeners = [
            (
                UnixDatagram::bind(&path).unwrap(),
                path.to_str().unwrap().to_owned(),
            ),
            (
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
                format!("@{name}"),
            ),
        ];
        for (listener, address) in listeners {
            let (socket, manager) = Notifier::open(address.as_bytes()).unwrap();
            let notifier = Notifier {
                socket,
                manager,
                watchdog: None,
            };
            let reason = "a\nb".to_owned();
            let since = std::time::Instant::now();
            notifier.tell(&line(&SyncStatus::Disconnected { since, reason }));
            let mut heard = [0; 64];
            let length = listener.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"STATUS=datastore away: a b");
        }
    }
}
