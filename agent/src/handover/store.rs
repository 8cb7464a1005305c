//! The service manager's store of descriptors (`FileDescriptorStoreMax=` in systemd).

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context, anyhow};
use margay_speaker::Handover;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::unistd::pipe2;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{NAME, descriptors};
use crate::notify::Notifier;

/// Descriptors in one datagram: the kernel takes 253.
const MOST: usize = 200;

/// How long the manager may take to hear.
const PATIENCE: Duration = Duration::from_secs(3);

/// Has the service manager keep everything for the process that follows. Where it does not, the connections close
/// with this process.
pub(crate) async fn keep(handover: Handover) {
    match try_keep(handover).await {
        Ok(count) => info!(descriptors = count, "kept by the service manager"),
        Err(error) => warn!(
            error = format!("{error:#}"),
            "the service manager does not keep the sessions, peers see a restart"
        ),
    }
}

async fn try_keep(handover: Handover) -> anyhow::Result<usize> {
    let manager = Notifier::from_env().ok_or_else(|| anyhow!("there is none"))?;
    let all = descriptors(handover)?;
    let until = Instant::now() + PATIENCE;
    for some in all.chunks(MOST) {
        let numbers: Vec<RawFd> = some.iter().map(AsRawFd::as_raw_fd).collect();
        let text = format!("FDSTORE=1\nFDNAME={NAME}");
        send(&manager, &text, &numbers, until).await?;
    }
    // It closes its end once it has heard all that was said before.
    let (ours, its) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    send(&manager, "BARRIER=1", &[its.as_raw_fd()], until).await?;
    drop::<OwnedFd>(its);
    let mut ours = pipe::Receiver::from_owned_fd(ours)?;
    let heard = timeout(PATIENCE, ours.read(&mut [0; 1])).await;
    heard.context("it does not answer")??;
    Ok(all.len())
}

/// Tells the manager to let go of what it kept.
pub(super) fn forget() {
    if let Some(manager) = Notifier::from_env() {
        manager.tell(&format!("FDSTOREREMOVE=1\nFDNAME={NAME}"));
    }
}

async fn send(
    manager: &Notifier,
    text: &str,
    numbers: &[RawFd],
    until: Instant,
) -> anyhow::Result<()> {
    let address = match manager.manager.as_pathname() {
        Some(path) => UnixAddr::new(path),
        None => UnixAddr::new_abstract(manager.name()),
    };
    let address = address.context("its socket has no usable name")?;
    loop {
        let rights = [ControlMessage::ScmRights(numbers)];
        let sent = sendmsg(
            manager.socket.as_raw_fd(),
            &[IoSlice::new(text.as_bytes())],
            &rights,
            MsgFlags::empty(),
            Some(&address),
        );
        match sent {
            Ok(_) => return Ok(()),
            // Its queue is full.
            Err(Errno::EAGAIN) if Instant::now() < until => sleep(Duration::from_millis(5)).await,
            Err(error) => return Err(io::Error::from(error)).context("cannot be told"),
        }
    }
}
