//! Where resources are kept in etcd.

use crate::kind::{Kind, ResourceKey};

/// The prefix of every key unless configured otherwise.
pub const DEFAULT_PREFIX: &str = "/calico";

/// The group that stands in every key of a resource.
const GROUP: &str = "projectcalico.org";

/// Keys below one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self::new(DEFAULT_PREFIX)
    }
}

impl Keys {
    /// Keys below `prefix`; slashes around it do not matter.
    pub fn new(prefix: &str) -> Self {
        let inner = prefix.trim_matches('/');
        let prefix = if inner.is_empty() {
            String::new()
        } else {
            format!("/{inner}")
        };
        Self { prefix }
    }

    /// The prefix, such as `/calico`, without a slash at the end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What the key of every resource starts with.
    pub fn resources(&self) -> String {
        format!("{}/resources/v3/{GROUP}/", self.prefix)
    }

    /// What the key of every resource of this kind starts with.
    pub fn kind(&self, kind: Kind) -> String {
        format!("{}{}/", self.resources(), kind.plural())
    }

    /// What the key of every resource of this kind in this namespace starts with.
    pub fn namespace(&self, kind: Kind, namespace: &str) -> String {
        format!("{}{namespace}/", self.kind(kind))
    }

    /// The key of a resource.
    pub fn resource(&self, key: &ResourceKey) -> String {
        match &key.namespace {
            Some(namespace) => format!("{}{}", self.namespace(key.kind, namespace), key.name),
            None => format!("{}{}", self.kind(key.kind), key.name),
        }
    }

    /// The resource that an etcd key is about; `None` if it is about none that we know.
    pub fn parse(&self, key: &str) -> Option<ResourceKey> {
        let rest = key
            .strip_prefix(&self.prefix)?
            .strip_prefix("/resources/v3/")?;
        let (plural, rest) = rest
            .strip_prefix(GROUP)?
            .strip_prefix('/')?
            .split_once('/')?;
        let kind = Kind::from_plural(plural)?;
        let (namespace, name) = match rest.split_once('/') {
            Some((namespace, name)) if kind.namespaced() => (Some(namespace), name),
            None if !kind.namespaced() => (None, rest),
            _ => return None,
        };
        if name.is_empty() || name.contains('/') || namespace.is_some_and(str::is_empty) {
            return None;
        }
        Some(ResourceKey {
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_those_of_the_established_layout() {
        let keys = Keys::default();
        let wep = ResourceKey::namespaced(Kind::WorkloadEndpoint, "default", "n1-cni-cid1-eth0");
        let text =
            "/calico/resources/v3/projectcalico.org/workloadendpoints/default/n1-cni-cid1-eth0";
        assert_eq!(keys.resource(&wep), text);
        assert_eq!(keys.parse(text), Some(wep));
        let pool = ResourceKey::global(Kind::IpPool, "default");
        let text = "/calico/resources/v3/projectcalico.org/ippools/default";
        assert_eq!(keys.resource(&pool), text);
        assert_eq!(keys.parse(text), Some(pool));
    }

    #[test]
    fn both_plurals_of_ipamconfiguration_are_read() {
        let parse = |plural: &str| {
            Keys::default().parse(&format!(
                "/calico/resources/v3/projectcalico.org/{plural}/default"
            ))
        };
        let expected = Some(ResourceKey::global(Kind::IpamConfiguration, "default"));
        assert_eq!(parse("ipamconfigurations"), expected);
        assert_eq!(parse("ipamconfigs"), expected);
    }

    #[test]
    fn foreign_keys_are_no_resources() {
        let keys = Keys::default();
        for key in [
            "",
            "/calico",
            "/calico/ipam/v2/config",
            "/other/resources/v3/projectcalico.org/nodes/n1",
            "/calico/resources/v3/projectcalico.org/nodes/",
            "/calico/resources/v3/projectcalico.org/nodes/a/b",
            "/calico/resources/v3/projectcalico.org/unheardof/a",
            "/calico/resources/v3/projectcalico.org/networkpolicies/a",
            "/calico/resources/v3/projectcalico.org/networkpolicies//a",
            "/calico/resources/v3/projectcalico.orgx/nodes/a",
        ] {
            assert_eq!(keys.parse(key), None, "{key}");
        }
    }

    #[test]
    fn slashes_around_the_prefix_do_not_matter() {
        assert_eq!(Keys::new("lab/a/"), Keys::new("/lab/a"));
        let node = ResourceKey::global(Kind::Node, "n1");
        assert_eq!(
            Keys::new("").resource(&node),
            "/resources/v3/projectcalico.org/nodes/n1"
        );
    }

    proptest! {
        #[test]
        fn every_resource_key_is_read_back(
            kind in proptest::sample::select(Kind::ALL),
            namespace in "[a-z0-9-]{1,9}",
            name in "[a-z0-9.-]{1,20}",
            prefix in "(/[a-z]{1,4}){0,3}",
        ) {
            let keys = Keys::new(&prefix);
            let namespace = kind.namespaced().then_some(namespace);
            let key = ResourceKey { kind, namespace, name };
            prop_assert_eq!(keys.parse(&keys.resource(&key)), Some(key));
        }

        #[test]
        fn any_text_is_parsed_without_panic(key in ".{0,80}") {
            Keys::default().parse(&key);
        }
    }
}
