//! The service manager's store of descriptors (`FileDescriptorStoreMax=` in systemd).

use std::{
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use nix::{fcntl::OFlag, unistd::pipe2};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{CarryError, NAME, ServiceManager, descriptors};
use crate::Handover;

/// Descriptors in one datagram: the kernel takes 253.
const MOST: usize = 200;

/// How long the manager may take to hear.
const PATIENCE: Duration = Duration::from_secs(3);

/// Has the service manager keep everything for the process that follows. Where it does not, the connections close
/// with this process.
pub async fn keep(handover: Handover) {
    match try_keep(handover).await {
        Ok(count) => info!(descriptors = count, "kept by the service manager"),
        Err(error) => warn!(
            %error,
            "the service manager does not keep the sessions, peers see a restart"
        ),
    }
}

async fn try_keep(handover: Handover) -> Result<usize, CarryError> {
    let manager = ServiceManager::from_env().ok_or(CarryError::NoManager)?;
    let all = descriptors(handover)?;
    let until = Instant::now() + PATIENCE;
    for some in all.chunks(MOST) {
        let numbers: Vec<RawFd> = some.iter().map(AsRawFd::as_raw_fd).collect();
        let text = format!("FDSTORE=1\nFDNAME={NAME}");
        let told = manager.tell_with(&text, &numbers, until).await;
        told.map_err(CarryError::Untold)?;
    }
    // It closes its end once it has heard all that was said before.
    let untold = |error: nix::Error| CarryError::Untold(error.into());
    let (ours, its) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(untold)?;
    let barrier = [its.as_raw_fd()];
    let told = manager.tell_with("BARRIER=1", &barrier, until).await;
    told.map_err(CarryError::Untold)?;
    drop::<OwnedFd>(its);
    let mut ours = pipe::Receiver::from_owned_fd(ours).map_err(CarryError::Untold)?;
    match timeout(PATIENCE, ours.read(&mut [0; 1])).await {
        Ok(heard) => heard.map_err(CarryError::Untold)?,
        Err(_elapsed) => return Err(CarryError::Silent),
    };
    Ok(all.len())
}

/// Tells the manager to let go of what it kept.
pub(super) fn forget() {
    if let Some(manager) = ServiceManager::from_env() {
        manager.tell(&format!("FDSTOREREMOVE=1\nFDNAME={NAME}"));
    }
}
