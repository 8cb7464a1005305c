//! Reaching into the container's network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::AttachError;

/// A container's namespace, and the way back from it.
#[derive(Debug)]
pub(super) struct Netns {
    path: PathBuf,
    theirs: File,
    ours: File,
}

impl Netns {
    /// Opens a namespace file and checks that it is a container's.
    pub(super) fn open(path: &Path) -> Result<Self, AttachError> {
        let missing = |source| AttachError::NetnsMissing {
            netns: path.into(),
            source,
        };
        let theirs = File::open(path).map_err(missing)?;
        // A path under /run/netns whose mount is gone is an ordinary empty file.
        if !fstatfs(&theirs).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC) {
            return Err(AttachError::NotNetns { netns: path.into() });
        }
        let ours = File::open("/proc/thread-self/ns/net").map_err(missing)?;
        let identity = |file: &File| file.metadata().map(|m| (m.st_dev(), m.st_ino()));
        if identity(&theirs).map_err(missing)? == identity(&ours).map_err(missing)? {
            return Err(AttachError::OwnNetns { netns: path.into() });
        }
        Ok(Self {
            path: path.into(),
            theirs,
            ours,
        })
    }

    /// The namespace, as netlink takes it.
    pub(super) const fn file(&self) -> &File {
        &self.theirs
    }

    /// Runs `inside` in the namespace, on the calling thread, which is back when this returns or unwinds. A thread made
    /// for it would cost more than all that is done inside.
    pub(super) fn run<T>(
        &self,
        inside: impl FnOnce() -> Result<T, AttachError>,
    ) -> Result<T, AttachError> {
        let way_back = WayBack(&self.ours);
        enter(&self.theirs).map_err(|source| AttachError::Enter {
            netns: self.path.clone(),
            source,
        })?;
        let result = inside();
        drop(way_back);
        result
    }
}

struct WayBack<'a>(&'a File);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if let Err(error) = enter(self.0) {
            // Whatever this thread did next would be done to the container. Forwarding goes on without the process.
            tracing::error!(%error, "cannot return from a container's network namespace, stopping at once");
            std::process::abort();
        }
    }
}

fn enter(netns: &File) -> io::Result<()> {
    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}
