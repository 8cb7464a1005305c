//! What a pod's annotations, and those of its namespace, ask of address management.
//!
//! They come with the call: `args.cni.annotations` and `args.cni.namespaceAnnotations` in the
//! configuration, or a pair of the same name in `CNI_ARGS`. A pod's own win over its namespace's, those over
//! the configuration's pools.

use std::collections::BTreeMap;

use margay_api::cni::{CniError, code};
use margay_model::net::Cidr;

use super::shaping;

const PREFIX: &str = "cni.projectcalico.org/";

/// What is asked for; empty means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) v4_pools: Vec<String>,
    pub(super) v6_pools: Vec<String>,
    /// `ipAddrs`: to be allocated.
    pub(super) ips: Vec<String>,
    /// `ipAddrsNoIpam`: to be used as they are.
    pub(super) ips_without_ipam: Vec<String>,
    /// `ipFamilies`: whether IPv4 and whether IPv6 is wanted.
    pub(super) families: Option<(bool, bool)>,
    /// `hwAddr`.
    pub(super) mac: Option<String>,
    /// `allowedSourcePrefixes`.
    pub(super) source_prefixes: Vec<Cidr>,
    /// `floatingIPs`: at most one a family.
    pub(super) floating_ips: Vec<String>,
}

impl Wishes {
    /// Reads the annotations of a pod and of its namespace. The namespace can ask for pools only.
    pub(super) fn read(
        pod: &BTreeMap<String, String>,
        namespace: &BTreeMap<String, String>,
    ) -> Result<Self, CniError> {
        let pools = |name: &str| match list(pod, name)? {
            found if found.is_empty() => list(namespace, name),
            found => Ok(found),
        };
        let wishes = Self {
            v4_pools: pools("ipv4pools")?,
            v6_pools: pools("ipv6pools")?,
            ips: list(pod, "ipAddrs")?,
            ips_without_ipam: list(pod, "ipAddrsNoIpam")?,
            families: families(&list(pod, "ipFamilies")?)?,
            mac: pod.get(&format!("{PREFIX}hwAddr")).cloned(),
            source_prefixes: source_prefixes(&list(pod, "allowedSourcePrefixes")?)?,
            floating_ips: list(pod, "floatingIPs")?,
        };
        if !wishes.ips.is_empty() && !wishes.ips_without_ipam.is_empty() {
            let msg = "annotations ipAddrs and ipAddrsNoIpam are both set, at most one may be";
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        }
        Ok(wishes)
    }
}

fn families(words: &[String]) -> Result<Option<(bool, bool)>, CniError> {
    let mut wanted = None;
    for word in words {
        let (v4, v6) = wanted.unwrap_or((false, false));
        wanted = Some(match word.to_ascii_lowercase().as_str() {
            "ipv4" => (true, v6),
            "ipv6" => (v4, true),
            _ => {
                let msg = format!(
                    "annotation {PREFIX}ipFamilies has {word:?}, must be \"IPv4\" or \"IPv6\""
                );
                return Err(CniError::new(code::INVALID_CONFIG, msg));
            }
        });
    }
    Ok(wanted)
}

fn source_prefixes(prefixes: &[String]) -> Result<Vec<Cidr>, CniError> {
    let parse = |text: &String| {
        text.parse().map_err(|_not_a_prefix| {
            let msg = format!(
                "annotation {PREFIX}allowedSourcePrefixes has {text:?}, must be a prefix such as \
                 \"192.0.2.0/24\""
            );
            CniError::new(code::INVALID_CONFIG, msg)
        })
    };
    prefixes.iter().map(parse).collect()
}

/// Whether a key of `CNI_ARGS` is an annotation.
pub(super) fn is_annotation(key: &str) -> bool {
    key.starts_with(PREFIX) || shaping::is_annotation(key)
}

fn list(annotations: &BTreeMap<String, String>, name: &str) -> Result<Vec<String>, CniError> {
    let Some(text) = annotations.get(&format!("{PREFIX}{name}")) else {
        return Ok(Vec::new());
    };
    serde_json::from_str(text).map_err(|_not_a_list| {
        let msg = format!(
            "annotation {PREFIX}{name} is {text:?}, must be a JSON list such as [\"10.0.0.1\"]"
        );
        CniError::new(code::INVALID_CONFIG, msg)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let named = pairs
            .iter()
            .map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned()));
        named.collect()
    }

    #[test]
    fn the_pod_wins_over_its_namespace_for_each_family_by_itself() {
        let pod = annotations(&[("ipv4pools", r#"["a"]"#)]);
        let namespace = annotations(&[
            ("ipv4pools", r#"["b"]"#),
            ("ipv6pools", r#"["c"]"#),
            ("ipAddrs", r#"["10.0.0.1"]"#),
        ]);
        let wishes = Wishes::read(&pod, &namespace).unwrap();
        assert_eq!(
            (wishes.v4_pools, wishes.v6_pools),
            (vec!["a".into()], vec!["c".into()])
        );
        assert!(wishes.ips.is_empty());
    }

    #[test]
    fn families_hardware_address_and_sources_are_those_of_the_pod() {
        let pod = annotations(&[
            ("ipFamilies", r#"["IPv6"]"#),
            ("hwAddr", "02:00:00:00:00:07"),
            ("allowedSourcePrefixes", r#"["192.0.2.0/24"]"#),
        ]);
        let wishes = Wishes::read(&pod, &BTreeMap::new()).unwrap();
        assert_eq!(wishes.families, Some((false, true)));
        assert_eq!(wishes.mac.as_deref(), Some("02:00:00:00:00:07"));
        assert_eq!(wishes.source_prefixes, ["192.0.2.0/24".parse().unwrap()]);
        for (name, value, needle) in [
            ("ipFamilies", r#"["IPX"]"#, "must be \"IPv4\" or \"IPv6\""),
            ("allowedSourcePrefixes", r#"["all"]"#, "must be a prefix"),
        ] {
            let error = Wishes::read(&annotations(&[(name, value)]), &BTreeMap::new());
            assert!(error.unwrap_err().msg.contains(needle));
        }
    }

    #[test]
    fn what_the_established_plugin_tells_others_is_no_wish() {
        let told = annotations(&[
            ("podIP", "10.0.0.9/32"),
            ("podIPs", "10.0.0.9/32,fd00::9/128"),
            ("containerID", "0123456789abcdef"),
        ]);
        assert_eq!(Wishes::read(&told, &told).unwrap(), Wishes::default());
    }

    #[test]
    fn what_is_no_list_or_contradicts_itself_is_refused() {
        let none = BTreeMap::new();
        let error = Wishes::read(&annotations(&[("ipAddrs", "10.0.0.1")]), &none).unwrap_err();
        assert!(
            error
                .msg
                .contains("ipAddrs is \"10.0.0.1\", must be a JSON list")
        );
        let both = [
            ("ipAddrs", r#"["10.0.0.1"]"#),
            ("ipAddrsNoIpam", r#"["10.0.0.2"]"#),
        ];
        let error = Wishes::read(&annotations(&both), &none).unwrap_err();
        assert!(error.msg.contains("both set"));
    }
}
