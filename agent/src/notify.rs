//! Tells the service manager how the agent is: `sd_notify(3)`, by one datagram each.
//!
//! Ready is told when everything local is programmed, which is when a container may be attached. The watchdog is fed
//! only while the kernel thread answers: an agent that hangs is started again, and forwarding goes on meanwhile.

use std::sync::Arc;
use std::time::Duration;

use margay_datastore::SyncStatus;
use margay_speaker::carry::ServiceManager;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::kernel::KernelHandle;
use crate::world::World;

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    manager: ServiceManager,
    /// It expects to be fed at least as often.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As `NOTIFY_SOCKET` and `WATCHDOG_USEC` say; `None` when no service manager wants to hear.
    pub(crate) fn from_env() -> Option<Self> {
        let manager = ServiceManager::from_env()?;
        // Meant for another process of ours otherwise.
        let for_us = match std::env::var("WATCHDOG_PID") {
            Ok(pid) => pid == std::process::id().to_string(),
            Err(_unset) => true,
        };
        let micros = std::env::var("WATCHDOG_USEC").ok();
        let micros = micros.and_then(|micros| micros.parse::<u64>().ok());
        let watchdog = micros.filter(|micros| *micros > 0 && for_us);
        Some(Self {
            manager,
            watchdog: watchdog.map(Duration::from_micros),
        })
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
                self.manager.tell("WATCHDOG=1");
            }
        };
        let state = async {
            if world.wait_for(|world| world.in_sync).await.is_ok() {
                self.manager.tell("READY=1");
            }
        };
        let status = async {
            loop {
                let line = line(&datastore.borrow_and_update());
                self.manager.tell(&line);
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

/// Tells that the agent is about to end, for the reason in the log.
pub(crate) fn stopping() {
    if let Some(manager) = ServiceManager::from_env() {
        manager.tell("STOPPING=1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        let reason = "a\nb".to_owned();
        let since = std::time::Instant::now();
        let status = SyncStatus::Disconnected { since, reason };
        assert_eq!(line(&status), "STATUS=datastore away: a b");
    }
}
