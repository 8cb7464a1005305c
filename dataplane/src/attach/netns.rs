//! Reaching into the container's network namespace.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::{io, thread};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::AttachError;

/// Opens a namespace file and checks that it is a container's.
pub(super) fn open(netns: &Path) -> Result<File, AttachError> {
    let missing = |source| AttachError::NetnsMissing {
        netns: netns.into(),
        source,
    };
    let file = File::open(netns).map_err(missing)?;
    // A path under /run/netns whose mount is gone is an ordinary empty file.
    if !fstatfs(&file).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC) {
        return Err(AttachError::NotNetns {
            netns: netns.into(),
        });
    }
    let theirs = file.metadata().map_err(missing)?;
    let ours = std::fs::metadata("/proc/thread-self/ns/net").map_err(missing)?;
    if (theirs.st_dev(), theirs.st_ino()) == (ours.st_dev(), ours.st_ino()) {
        return Err(AttachError::OwnNetns {
            netns: netns.into(),
        });
    }
    Ok(file)
}

/// Runs `inside` in the namespace while `outside` runs on the calling thread. The thread that enters is made for this
/// and ends with it, so no thread can be left in the wrong namespace and none keeps a dying one alive.
pub(super) fn run_in(
    netns: &Path,
    file: &File,
    inside: impl FnOnce() -> Result<(), AttachError> + Send,
    outside: impl FnOnce() -> Result<(), AttachError>,
) -> Result<(), AttachError> {
    let enter = |source: io::Error| AttachError::Enter {
        netns: netns.into(),
        source,
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| enter(e.into()))?;
                inside()
            })
            .map_err(enter)?;
        let outside = outside();
        let inside = thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        inside.and(outside)
    })
}
