//! Threads for what a device receives (NAPI): a file of the device in sysfs, and nothing else in the kernel has it.
//!
//! What sysfs shows is of the network namespace that it was mounted in, which may be another one than the device's. So a file
//! counts as the device's only if name, index and alias are.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use super::OverlayError;
use super::device::Device;

fn of(name: &str, what: &str) -> PathBuf {
    PathBuf::from("/sys/class/net").join(name).join(what)
}

/// Where it is said.
pub(super) fn file(name: &str) -> PathBuf {
    of(name, "threaded")
}

/// Has threads do it, or not. How much differed. Where there is no such file there are no threads; and none can be had before
/// there is a queue to receive from, which WireGuard makes for each peer.
pub(super) fn set(device: &Device, wanted: bool) -> Result<usize, OverlayError> {
    let name = &device.link.name;
    match write(device, if wanted { "1" } else { "0" }) {
        Err(error) if error.kind() == ErrorKind::NotFound && !wanted => Ok(0),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(0),
        other => other.map_err(|source| OverlayError::Threads {
            name: name.clone(),
            source,
        }),
    }
}

fn write(device: &Device, value: &str) -> io::Result<usize> {
    let name = &device.link.name;
    let read = |what: &str| -> io::Result<String> {
        Ok(fs::read_to_string(of(name, what))?.trim_end().to_owned())
    };
    if read("ifindex")? != device.index.to_string() || read("ifalias")? != device.alias {
        return Err(ErrorKind::NotFound.into());
    }
    if read("threaded")? == value {
        return Ok(0);
    }
    #[cfg(test)]
    if let Some((_, fault)) = crate::faults::strike(1) {
        return Err(io::Error::from_raw_os_error(
            fault.errno().unwrap_or(libc::EIO),
        ));
    }
    let mut file = OpenOptions::new().write(true).open(file(name))?;
    file.write_all(value.as_bytes())?;
    Ok(1)
}

#[cfg(test)]
pub(super) mod tests {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::lab::NetNs;
    use crate::netlink::Socket;
    use crate::overlay::device::find;

    /// From here on this thread sees the devices of its namespace in sysfs.
    pub(in crate::overlay) fn own_sysfs() {
        const NONE: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(NONE, "/", NONE, private, NONE).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE).unwrap();
    }

    #[test]
    fn threads_come_and_go_and_another_namespaces_device_is_left_alone() {
        let ns = NetNs::new();
        ns.ip("link add mgythr0 type vxlan id 7 dstport 4790 local 127.0.0.1");
        ns.ip("link set mgythr0 alias ours");
        ns.ip("link add bare type veth peer name other");
        ns.run(|| {
            let device = find(&mut Socket::route().unwrap(), "mgythr0")
                .unwrap()
                .unwrap();
            // What the test's own mount shows is another namespace.
            assert_eq!(set(&device, false).unwrap(), 0);
            let told = set(&device, true).unwrap_err().to_string();
            assert!(
                told.starts_with("cannot set /sys/class/net/mgythr0/threaded: "),
                "{told}"
            );
            own_sysfs();
            let now = || fs::read_to_string(file("mgythr0")).unwrap();
            assert_eq!(set(&device, false).unwrap(), 0);
            assert_eq!(set(&device, true).unwrap(), 1);
            assert_eq!(now(), "1\n");
            assert_eq!(set(&device, true).unwrap(), 0);
            let mut other = find(&mut Socket::route().unwrap(), "mgythr0")
                .unwrap()
                .unwrap();
            other.alias = "theirs".to_owned();
            assert!(set(&other, true).is_err());
            assert_eq!(set(&device, false).unwrap(), 1);
            assert_eq!(now(), "0\n");
            let bare = find(&mut Socket::route().unwrap(), "bare");
            assert_eq!(set(&bare.unwrap().unwrap(), true).unwrap(), 0, "no queues");
        });
    }
}
