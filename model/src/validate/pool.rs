//! Pools and the settings of address management.

use crate::field_error::FieldError;
use crate::ipam_configuration::IpamConfigurationSpec;
use crate::ippool::{EncapMode, IpPool, IpPoolSpec, PoolUse};
use crate::net::Cidr;
use crate::validate::{Findings, is_set};

pub(super) fn check_ipam(spec: &IpamConfigurationSpec, findings: &mut Findings<'_>) {
    if !spec.strict_affinity && !spec.auto_allocate_blocks() {
        findings.other(
            "spec.autoAllocateBlocks",
            "false",
            "true, unless strictAffinity is true",
        );
    }
    if !spec.strict_affinity && spec.max_blocks_per_host.unwrap_or(0) > 0 {
        let found = spec.max_blocks_per_host.unwrap_or(0);
        findings.other(
            "spec.maxBlocksPerHost",
            found,
            "0, unless strictAffinity is true",
        );
    }
    if let Some(seconds) = spec.ip_cooldown_seconds.filter(|seconds| *seconds > 1200) {
        findings.other("spec.ipCooldownSeconds", seconds, "0 to 1200");
    }
}

pub(super) fn check_pool(spec: &IpPoolSpec, findings: &mut Findings<'_>) {
    check_cidr(spec, findings);
    check_encapsulation(spec, findings);
    check_uses(spec, findings);
    findings.selector("spec.nodeSelector", spec.node_selector.as_deref());
    findings.selector("spec.namespaceSelector", spec.namespace_selector.as_deref());
}

fn check_cidr(spec: &IpPoolSpec, findings: &mut Findings<'_>) {
    for link_local in ["169.254.0.0/16", "fe80::/10"] {
        if link_local
            .parse()
            .is_ok_and(|range| spec.cidr.overlaps(range))
        {
            let allowed = format!("a range outside of link local {link_local}");
            findings.other("spec.cidr", spec.cidr, allowed);
        }
    }
    let (min, max) = if spec.cidr.is_ipv4() {
        (20, 32)
    } else {
        (116, 128)
    };
    let size = spec.block_size();
    if !(min..=max).contains(&size) {
        findings.other("spec.blockSize", size, format!("{min} to {max}"));
    } else if !spec.disabled && spec.cidr.prefix_len() > size {
        let allowed = format!("a range of at least one block, that is /{size} or shorter");
        findings.other("spec.cidr", spec.cidr, allowed);
    }
}

fn enabled(mode: Option<EncapMode>) -> Option<EncapMode> {
    mode.filter(|mode| *mode != EncapMode::Never)
}

fn check_encapsulation(spec: &IpPoolSpec, findings: &mut Findings<'_>) {
    let Some(ipip) = enabled(spec.ipip_mode) else {
        return;
    };
    if enabled(spec.vxlan_mode).is_some() {
        findings.text(
            "spec.ipipMode",
            ipip.as_str(),
            "Never, because vxlanMode is enabled",
        );
    }
    if !spec.cidr.is_ipv4() {
        findings.text(
            "spec.ipipMode",
            ipip.as_str(),
            "Never, because the pool is IPv6",
        );
    }
}

fn check_uses(spec: &IpPoolSpec, findings: &mut Findings<'_>) {
    let uses = |wanted| spec.allowed_uses.contains(&wanted);
    if uses(PoolUse::LoadBalancer) {
        if uses(PoolUse::Workload) || uses(PoolUse::Tunnel) {
            let found = spec
                .allowed_uses
                .iter()
                .map(|u| u.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            findings.other(
                "spec.allowedUses",
                found,
                "LoadBalancer alone, or without it",
            );
        }
        for (path, mode) in [
            ("spec.ipipMode", spec.ipip_mode),
            ("spec.vxlanMode", spec.vxlan_mode),
        ] {
            if let Some(mode) = enabled(mode) {
                findings.text(
                    path,
                    mode.as_str(),
                    "Never, because the pool is for LoadBalancer",
                );
            }
        }
        if spec.disable_bgp_export {
            findings.other(
                "spec.disableBGPExport",
                "true",
                "false, because the pool is for LoadBalancer",
            );
        }
        if let Some(selector) = spec.node_selector.as_deref().filter(|s| *s != "all()") {
            let allowed = "all(), because the pool is for LoadBalancer";
            findings.text("spec.nodeSelector", selector, allowed);
        }
    }
    if spec.allows(PoolUse::Tunnel) && is_set(spec.namespace_selector.as_deref()) {
        let found = spec.namespace_selector.as_deref().unwrap_or_default();
        let allowed = "nothing while allowedUses has Tunnel, as it has by default";
        findings.text("spec.namespaceSelector", found, allowed);
    }
}

/// Each of `others` whose range shares addresses with `pool`; a pool does not overlap with itself.
pub fn overlapping_pools<'a>(
    pool: &IpPool,
    others: impl IntoIterator<Item = (&'a str, Cidr)>,
) -> Vec<FieldError> {
    let overlaps =
        |(name, cidr): &(&str, Cidr)| *name != pool.metadata.name && cidr.overlaps(pool.spec.cidr);
    let error = |(name, cidr)| {
        let allowed = format!("a range that does not overlap with IPPool {name} ({cidr})");
        FieldError::new("spec.cidr", pool.spec.cidr.to_string(), allowed)
    };
    others.into_iter().filter(overlaps).map(error).collect()
}
