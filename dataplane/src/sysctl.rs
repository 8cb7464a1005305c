//! Kernel switches under `/proc/sys`, of the calling thread's network namespace.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{fs, io};

/// Where the host's `/proc/sys/net` is mounted for an agent in a container, whose own is read-only.
const IN_A_CONTAINER: &str = "/host/proc/sys/net";

static IS_IN_A_CONTAINER: LazyLock<bool> = LazyLock::new(|| Path::new(IN_A_CONTAINER).is_dir());

/// Reading or writing one key failed. Not worth retrying by itself: it is absent, read-only or takes no such value.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Writing failed.
    #[error("cannot set sysctl {key} to {value}")]
    Write {
        /// The key, with slashes: `net/ipv4/ip_forward`.
        key: String,
        /// The value that was to be written.
        value: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Reading failed.
    #[error("cannot read sysctl {key}")]
    Read {
        /// The key, with slashes.
        key: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl SysctlError {
    /// The key does not exist: the kernel lacks the feature, or the interface is gone.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let (Self::Write { source, .. } | Self::Read { source, .. }) = self;
        source.kind() == io::ErrorKind::NotFound
    }
}

/// Writes a key such as `net/ipv4/ip_forward`. Keys take slashes because interface names may contain dots.
pub fn write(key: &str, value: &str) -> Result<(), SysctlError> {
    put(key, value).map_err(|source| SysctlError::Write {
        key: key.into(),
        value: value.into(),
        source,
    })
}

fn put(key: &str, value: &str) -> io::Result<()> {
    #[cfg(test)]
    if let Some((_, fault)) = crate::faults::strike(1) {
        return Err(io::Error::from_raw_os_error(
            fault.errno().unwrap_or(libc::EIO),
        ));
    }
    // Plain `fs::write` would ask to create the file, and /proc then says "permission denied" for a missing key.
    let mut file = fs::OpenOptions::new().write(true).open(path(key))?;
    io::Write::write_all(&mut file, value.as_bytes())
}

/// Reads a key, without the line end.
pub fn read(key: &str) -> Result<String, SysctlError> {
    fs::read_to_string(path(key))
        .map(|value| value.trim_end().to_owned())
        .map_err(|source| SysctlError::Read {
            key: key.into(),
            source,
        })
}

/// Makes the host a router for IPv4 and, where the kernel has it, for IPv6.
pub fn host_forwarding_on() -> Result<(), SysctlError> {
    write("net/ipv4/ip_forward", "1")?;
    match write("net/ipv6/conf/all/forwarding", "1") {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

/// Switches that the host end of a workload's interface has from its attachment.
const OF_WORKLOAD: [(&str, &str, &str); 10] = [
    ("net/ipv4/conf", "forwarding", "1"),
    ("net/ipv4/conf", "proxy_arp", "1"),
    ("net/ipv4/conf", "route_localnet", "1"),
    ("net/ipv4/neigh", "proxy_delay", "0"),
    ("net/ipv6/conf", "accept_dad", "0"),
    ("net/ipv6/conf", "accept_ra", "0"),
    ("net/ipv6/conf", "addr_gen_mode", "0"),
    ("net/ipv6/conf", "disable_ipv6", "0"),
    ("net/ipv6/conf", "forwarding", "1"),
    ("net/ipv6/conf", "proxy_ndp", "1"),
];

/// Puts right what somebody changed of what makes the host a router. How many switches that were.
pub fn repair_host() -> Result<usize, SysctlError> {
    let of_host = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    repair(of_host.into_iter().map(|key| (key.to_owned(), "1")))
}

/// The same for the host end of a workload's interface; those of IPv6 only where the workload has such addresses, for
/// IPv6 may be off on purpose. An interface that is gone has no switches.
pub fn repair_workload(ifname: &str, ipv6: bool) -> Result<usize, SysctlError> {
    let all = OF_WORKLOAD.into_iter();
    let wanted = all.filter(|(base, ..)| ipv6 || base.starts_with("net/ipv4"));
    repair(wanted.map(|(base, name, value)| (format!("{base}/{ifname}/{name}"), value)))
}

/// How many of these keys were otherwise; those that do not exist are left out.
pub(crate) fn repair(
    wanted: impl Iterator<Item = (String, &'static str)>,
) -> Result<usize, SysctlError> {
    let mut repaired = 0;
    for (key, value) in wanted {
        let found = match read(&key) {
            Err(error) if error.is_missing() => continue,
            other => other?,
        };
        if found != value {
            write(&key, value)?;
            repaired += 1;
        }
    }
    Ok(repaired)
}

fn path(key: &str) -> PathBuf {
    match key.strip_prefix("net/") {
        Some(rest) if *IS_IN_A_CONTAINER => Path::new(IN_A_CONTAINER).join(rest),
        _ => Path::new("/proc/sys").join(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::NetNs;

    #[test]
    fn forwarding_is_switched_on_in_the_current_namespace_only() {
        let ns = NetNs::new();
        ns.run(|| {
            write("net/ipv4/ip_forward", "0").unwrap();
            host_forwarding_on().unwrap();
            assert_eq!(read("net/ipv4/ip_forward").unwrap(), "1");
            assert_eq!(read("net/ipv6/conf/all/forwarding").unwrap(), "1");
        });
        let other = NetNs::new();
        other.run(|| assert_eq!(read("net/ipv4/conf/lo/proxy_arp").unwrap(), "0"));
    }

    #[test]
    fn every_switch_that_somebody_changed_is_put_right_and_counted() {
        let ns = NetNs::new();
        ns.ip("link add mgy1 up type veth peer name eth0");
        ns.run(|| {
            host_forwarding_on().unwrap();
            repair_workload("mgy1", true).unwrap();
            assert_eq!(
                repair_host().unwrap() + repair_workload("mgy1", true).unwrap(),
                0
            );
            for (base, name, value) in OF_WORKLOAD {
                let key = format!("{base}/mgy1/{name}");
                let other = match (name, value) {
                    ("proxy_delay", _) => "80",
                    (_, "1") => "0",
                    _ => "1",
                };
                write(&key, other).unwrap();
                assert!(repair_workload("mgy1", true).unwrap() >= 1, "{key}");
                assert_eq!(read(&key).unwrap(), value);
                assert_eq!(repair_workload("mgy1", true).unwrap(), 0, "{key}");
            }
            write("net/ipv6/conf/mgy1/proxy_ndp", "0").unwrap();
            assert_eq!(repair_workload("mgy1", false).unwrap(), 0);
            // This one switches all interfaces.
            write("net/ipv4/ip_forward", "0").unwrap();
            write("net/ipv6/conf/all/forwarding", "0").unwrap();
            assert_eq!(repair_host().unwrap(), 2);
            repair_workload("mgy1", true).unwrap();
            assert_eq!(read("net/ipv4/conf/mgy1/forwarding").unwrap(), "1");
            assert_eq!(read("net/ipv6/conf/mgy1/forwarding").unwrap(), "1");
            assert_eq!(repair_workload("nope0", true).unwrap(), 0);
        });
    }

    #[test]
    fn errors_name_key_and_value() {
        let error = write("net/ipv4/conf/nope0/proxy_arp", "1").unwrap_err();
        assert!(error.is_missing(), "{error:?}");
        assert_eq!(
            error.to_string(),
            "cannot set sysctl net/ipv4/conf/nope0/proxy_arp to 1"
        );
        assert!(read("net/nope").unwrap_err().is_missing());
    }
}
