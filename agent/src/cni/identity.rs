//! Sticky addresses: which identity a workload has, if any.
//!
//! `"sticky": {"identity": "web-0", "leaseSeconds": 3600}` in the configuration names one for all containers
//! of the network; `MARGAY_IDENTITY=web-0` in `CNI_ARGS` names one for a container, and wins;
//! `"sticky": {"pods": true}` makes each pod's namespace and name its identity. A pod's own annotations
//! do not count: an identity takes its addresses away from whoever has them.
//!
//! An identity's addresses move with it. The transaction that writes the new endpoint hands them over and
//! removes the old endpoint, wherever that is; the old host's watch sees it go and the host withdraws
//! its route. Between two workloads they are kept for the lease time; see [`margay_ipam::sticky`].

use margay_api::cni::{CniError, code};
use serde::Deserialize;
use sha1::{Digest, Sha1};

use super::netconf::Pod;

const DEFAULT_LEASE_SECS: u32 = 3600;
/// A year: an address that nobody wants for longer is lost rather than sticky.
const MAX_LEASE_SECS: u32 = 31_536_000;
const MAX_IDENTITY: usize = 253;

/// A workload's name that outlives its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `NAME`, or `NAMESPACE/NAME` of a pod: a name has no slash, so the two cannot be mistaken.
    pub(crate) name: String,
    pub(crate) lease_secs: u32,
}

/// The `sticky` section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StickyConf {
    identity: Option<String>,
    #[serde(rename = "leaseSeconds")]
    lease_secs: Option<u32>,
    #[serde(default)]
    pods: bool,
}

impl StickyConf {
    /// The identity of one workload; `from_args` is that of `CNI_ARGS`.
    pub(super) fn identity(
        self,
        from_args: Option<String>,
        pod: Option<&Pod>,
    ) -> Result<Option<Identity>, CniError> {
        let lease_secs = self.lease_secs.unwrap_or(DEFAULT_LEASE_SECS);
        if !(1..=MAX_LEASE_SECS).contains(&lease_secs) {
            let msg = format!("sticky.leaseSeconds is {lease_secs}, must be 1 to {MAX_LEASE_SECS}");
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        }
        let named = match (from_args, self.identity) {
            (Some(name), _) => Some(check("CNI_ARGS MARGAY_IDENTITY", name)?),
            (None, Some(name)) => Some(check("sticky.identity", name)?),
            (None, None) => None,
        };
        let of_pod = pod.filter(|_| self.pods);
        let name = named.or_else(|| of_pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)));
        Ok(name.map(|name| Identity { name, lease_secs }))
    }
}

fn check(source: &str, name: String) -> Result<String, CniError> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=MAX_IDENTITY).contains(&name.len()) && name.bytes().all(valid) {
        return Ok(name);
    }
    let msg = format!(
        "{source} is {name:?}, must be 1 to {MAX_IDENTITY} letters, digits, '-', '_' and '.'"
    );
    Err(CniError::new(code::INVALID_CONFIG, msg))
}

/// The handle of an identity's addresses on this interface in this network. A digest, because a handle is part
/// of a key and the names of networks may hold whatever would separate the parts.
pub(super) fn handle_id(network: &str, identity: &str, ifname: &str) -> String {
    let digest = Sha1::digest(format!("{network}\n{identity}\n{ifname}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{network}.sticky-{}", &hex[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(json: &str) -> StickyConf {
        serde_json::from_str(json).unwrap()
    }

    fn pod() -> Pod {
        Pod {
            namespace: "shop".into(),
            name: "web-0".into(),
        }
    }

    #[test]
    fn arguments_win_over_configuration_and_that_over_the_pod() {
        let all = r#"{"identity":"a","pods":true,"leaseSeconds":5}"#;
        let name = |json: &str, args: Option<&str>, pod: Option<&Pod>| {
            let identity = conf(json).identity(args.map(str::to_owned), pod).unwrap();
            identity.map(|identity| identity.name)
        };
        assert_eq!(name(all, Some("b"), Some(&pod())).as_deref(), Some("b"));
        assert_eq!(name(all, None, Some(&pod())).as_deref(), Some("a"));
        let pods = r#"{"pods":true}"#;
        assert_eq!(
            name(pods, None, Some(&pod())).as_deref(),
            Some("shop/web-0")
        );
        assert_eq!(name(pods, None, None), None);
        assert_eq!(name("{}", None, Some(&pod())), None);
    }

    #[test]
    fn bad_identities_and_leases_are_refused_with_what_is_allowed() {
        let error = |json: &str| conf(json).identity(None, None).unwrap_err().msg;
        assert!(error(r#"{"identity":"a/b"}"#).contains("sticky.identity is \"a/b\", must be"));
        assert!(error(r#"{"leaseSeconds":0}"#).contains("leaseSeconds is 0, must be 1 to"));
    }

    #[test]
    fn handles_differ_by_network_identity_and_interface() {
        let a = handle_id("net1", "a", "eth0");
        assert!(a.starts_with("net1.sticky-"), "{a}");
        assert_eq!(a, handle_id("net1", "a", "eth0"));
        for other in [
            handle_id("net1", "b", "eth0"),
            handle_id("net2", "a", "eth0"),
            handle_id("net1", "a", "eth1"),
        ] {
            assert_ne!(a, other);
        }
    }
}
