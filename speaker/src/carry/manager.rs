//! The way to a service manager: `sd_notify(3)`, by one datagram each.

use std::{
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd, RawFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg},
};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// Who has started this process, and wants to hear of it.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl ServiceManager {
    /// Whether there is one.
    pub fn is_there() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
    }

    /// As `NOTIFY_SOCKET` says; `None` when no service manager wants to hear.
    pub fn from_env() -> Option<Self> {
        let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        match Self::open(path.as_bytes()) {
            Ok(manager) => Some(manager),
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot tell the service manager");
                None
            }
        }
    }

    /// One that listens at a path, or at an abstract name behind `@`.
    pub fn open(path: &[u8]) -> io::Result<Self> {
        let address = match path.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not listen must not stop anyone.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    /// Tells it something; where that fails, the log says so.
    pub fn tell(&self, state: &str) {
        if let Err(error) = self.socket.send_to_addr(state.as_bytes(), &self.address) {
            warn!(%error, state, "the service manager was not told");
        }
    }

    /// Tells it something that comes with descriptors, as long as `until` while its queue is full.
    pub(super) async fn tell_with(
        &self,
        text: &str,
        numbers: &[RawFd],
        until: Instant,
    ) -> io::Result<()> {
        let address = match self.address.as_pathname() {
            Some(path) => UnixAddr::new(path)?,
            None => UnixAddr::new_abstract(self.address.as_abstract_name().unwrap_or_default())?,
        };
        loop {
            let rights = [ControlMessage::ScmRights(numbers)];
            let sent = sendmsg(
                self.socket.as_raw_fd(),
                &[IoSlice::new(text.as_bytes())],
                &rights,
                MsgFlags::empty(),
                Some(&address),
            );
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) if Instant::now() < until => {
                    sleep(Duration::from_millis(5)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
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
            ServiceManager::open(address.as_bytes())
                .unwrap()
                .tell("STATUS=well");
            let mut heard = [0; 64];
            let length = listener.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"STATUS=well");
        }
    }
}
