//! Addresses of tunnel devices: one for each kind of tunnel, under the handle that the established system gives it.

use std::net::IpAddr;

use margay_ipam::{AssignRequest, Pool, ReleaseRequest, Request};
use margay_model::ippool::PoolUse;

use super::{Extra, IpamHandle, Job, Task, TaskError};
use crate::derive::TunnelKind;

/// Who holds the address of a tunnel device.
pub(crate) fn handle_id(kind: TunnelKind, node: &str) -> String {
    let kind = match kind {
        TunnelKind::VxlanV4 => "vxlan",
        TunnelKind::VxlanV6 => "vxlan-v6",
        TunnelKind::Ipip => "ipip",
        TunnelKind::WireguardV4 => "wireguard",
        TunnelKind::WireguardV6 => "wireguard-v6",
    };
    format!("{kind}-tunnel-addr-{node}")
}

/// What is recorded beside the address.
const fn attribute(kind: TunnelKind) -> &'static str {
    match kind {
        TunnelKind::VxlanV4 => "vxlanTunnelAddress",
        TunnelKind::VxlanV6 => "vxlanV6TunnelAddress",
        TunnelKind::Ipip => "ipipTunnelAddress",
        TunnelKind::WireguardV4 => "wireguardTunnelAddress",
        TunnelKind::WireguardV6 => "wireguardV6TunnelAddress",
    }
}

impl IpamHandle {
    /// The address of this host's tunnel device, from one of these pools; the one that it has, if it has one.
    pub(crate) async fn tunnel_address(
        &self,
        kind: TunnelKind,
        pools: Vec<String>,
    ) -> Result<IpAddr, TaskError> {
        self.ask(|answer| Job::Tunnel(kind, pools, answer)).await
    }

    /// Gives the address of a tunnel device back. None is success.
    pub(crate) async fn release_tunnel_address(&self, kind: TunnelKind) -> Result<(), TaskError> {
        self.ask(|answer| Job::ReleaseTunnel(kind, answer)).await
    }
}

impl Task {
    pub(super) async fn tunnel_address(
        &mut self,
        kind: TunnelKind,
        pools: Vec<String>,
    ) -> Result<IpAddr, TaskError> {
        let handle = handle_id(kind, &self.node);
        let serving: Vec<Pool> = self.serving(&pools).cloned().collect();
        if serving.is_empty() {
            return Err(TaskError::NoTunnelPool);
        }
        let held = self.allocator.ips_of_handle(&handle).await?;
        let is_good = |ip: IpAddr| serving.iter().any(|pool| pool.cidr.contains(ip));
        if let Some(held) = held.iter().find(|held| is_good(held.ip)) {
            return Ok(held.ip);
        }
        if !held.is_empty() {
            self.release_tunnel_address(kind).await?;
        }
        let v4 = !kind.is_v6();
        let now = jiff::Timestamp::now();
        let mut request = AssignRequest::new(handle.clone(), u32::from(v4), u32::from(!v4), now);
        request.wanted = PoolUse::Tunnel;
        request.attrs.insert("type".into(), attribute(kind).into());
        let names = serving.iter().filter_map(|pool| pool.name.parse().ok());
        match v4 {
            true => request.v4_pools = names.collect(),
            false => request.v6_pools = names.collect(),
        }
        let outcome = self.allocator.assign(request).await?;
        let first = outcome.addresses.first().map(|address| address.ip);
        first.ok_or(TaskError::Empty(handle))
    }

    pub(super) async fn release_tunnel_address(
        &mut self,
        kind: TunnelKind,
    ) -> Result<(), TaskError> {
        let request = ReleaseRequest {
            handle_id: handle_id(kind, &self.node),
            now: jiff::Timestamp::now(),
            extra: Extra::default(),
        };
        let outcomes = self.allocator.run(vec![Request::Release(request)]).await;
        for outcome in outcomes {
            outcome?;
        }
        Ok(())
    }

    /// Pools of these names that this host may take the address of a tunnel from.
    fn serving(&self, names: &[String]) -> impl Iterator<Item = &Pool> {
        let pools = self.allocator.view().pools.iter();
        pools.filter(|pool| {
            names.contains(&pool.name)
                && !pool.disabled
                && pool.selects_node
                && pool.uses.contains(&PoolUse::Tunnel)
        })
    }
}
