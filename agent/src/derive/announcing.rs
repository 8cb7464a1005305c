//! What this node's own routes carry, and which ranges it announces beside its endpoints.

use ipnetwork::IpNetwork;
use margay_bgp::prefix::Prefix;
use margay_model::bgp_configuration::{NamedCommunity, Toggle};
use margay_speaker::{Community, LocalAttrs};
use tracing::warn;

use super::filters::community;
use super::peers::Settings;
use super::speaker::prefix;
use crate::graph::Cache;

/// How this node announces what it originates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Announcing {
    /// Communities for everything in a prefix.
    tags: Vec<(Prefix, Vec<Community>)>,
    /// Service ranges, announced as they are.
    pub(crate) ranges: Vec<IpNetwork>,
}

impl Announcing {
    pub(super) fn of(cache: &Cache, node: &str) -> Self {
        let settings = Settings::of(cache, node);
        let names = settings.first(|s| Some(&s.communities).filter(|list| !list.is_empty()));
        let names = names.map_or(&[][..], Vec::as_slice);
        let listed =
            settings.first(|s| Some(&s.prefix_advertisements).filter(|list| !list.is_empty()));
        let tags = listed.into_iter().flatten().filter_map(|advertisement| {
            let communities = advertisement.communities.iter();
            let found = communities.filter_map(|text| named(text, names)).collect();
            Some((prefix(advertisement.cidr)?, found))
        });
        let mut ranges: Vec<IpNetwork> = Vec::new();
        for list in [
            settings.first(|s| Some(&s.service_cluster_ips).filter(|l| !l.is_empty())),
            settings.first(|s| Some(&s.service_external_ips).filter(|l| !l.is_empty())),
            // Without aggregation only the addresses that services have are announced: those are not known here.
            settings
                .first(|s| Some(&s.service_load_balancer_ips).filter(|l| !l.is_empty()))
                .filter(|_| {
                    settings.first(|s| s.service_load_balancer_aggregation)
                        != Some(Toggle::Disabled)
                }),
        ] {
            ranges.extend(list.into_iter().flatten().map(|entry| entry.cidr.network()));
        }
        ranges.sort_unstable();
        ranges.dedup();
        Self {
            tags: tags.collect(),
            ranges,
        }
    }

    /// Adds the communities that a route of ours is announced with.
    pub(crate) fn tag(&self, route: Prefix, attrs: &mut LocalAttrs) {
        let within = self
            .tags
            .iter()
            .filter(|(prefix, _)| prefix.contains(route));
        for community in within.flat_map(|(_, communities)| communities) {
            match community {
                Community::Standard(c) if !attrs.communities.contains(c) => {
                    attrs.communities.push(*c);
                }
                Community::Large(c) if !attrs.large_communities.contains(c) => {
                    attrs.large_communities.push(*c);
                }
                _ => {}
            }
        }
    }
}

/// The community of a name, or that the text itself is.
fn named(text: &str, names: &[NamedCommunity]) -> Option<Community> {
    let value = names.iter().find(|known| known.name == text);
    match community(value.map_or(text, |known| &known.value)) {
        Ok(found) => Some(found),
        Err(reason) => {
            warn!(
                community = text,
                reason, "prefixAdvertisements: community left out"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use margay_model::manifest::decode_manifest;

    use super::*;

    fn announcing(spec: &str) -> Announcing {
        let manifest = format!(
            "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\n\
             spec: {spec}\n"
        );
        let mut cache = Cache::default();
        for document in decode_manifest(&manifest, &|_| Ok(())) {
            let resource = document.result.unwrap();
            cache.apply(resource.key(), Some(resource), 1);
        }
        Announcing::of(&cache, "h1")
    }

    fn carried(announcing: &Announcing, route: &str) -> (Vec<u32>, Vec<[u32; 3]>) {
        let mut attrs = LocalAttrs::default();
        announcing.tag(route.parse().unwrap(), &mut attrs);
        (attrs.communities, attrs.large_communities)
    }

    #[test]
    fn everything_in_an_advertised_prefix_carries_its_communities() {
        let announcing = announcing(
            "{communities: [{name: red, value: '65000:7'}], prefixAdvertisements: [\
             {cidr: 10.65.0.0/16, communities: [red, '65000:1:2']}, \
             {cidr: 10.65.1.0/24, communities: ['65000:7', '65000:8']}]}",
        );
        let seven = 65000 << 16 | 7;
        assert_eq!(
            carried(&announcing, "10.65.9.9/32"),
            (vec![seven], vec![[65000, 1, 2]])
        );
        assert_eq!(
            carried(&announcing, "10.65.1.9/32"),
            (vec![seven, 65000 << 16 | 8], vec![[65000, 1, 2]])
        );
        assert_eq!(carried(&announcing, "10.0.0.0/8"), (vec![], vec![]));
        assert_eq!(carried(&announcing, "2001:db8::/32"), (vec![], vec![]));
    }

    #[test]
    fn service_ranges_are_announced_and_those_of_load_balancers_only_as_a_whole() {
        let ranges = |spec: &str| -> Vec<String> {
            let ranges = announcing(spec).ranges;
            ranges.iter().map(ToString::to_string).collect()
        };
        let all = "serviceClusterIPs: [{cidr: 10.96.0.0/12}], serviceExternalIPs: [{cidr: \
                   198.51.100.0/24}], serviceLoadBalancerIPs: [{cidr: 203.0.113.0/24}]";
        assert_eq!(
            ranges(&format!("{{{all}}}")),
            ["10.96.0.0/12", "198.51.100.0/24", "203.0.113.0/24"]
        );
        assert_eq!(
            ranges(&format!(
                "{{{all}, serviceLoadBalancerAggregation: Disabled}}"
            )),
            ["10.96.0.0/12", "198.51.100.0/24"]
        );
    }
}
