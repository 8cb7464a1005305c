//! CHECK: what ADD made is still there: interface, addresses, routes, endpoint, address record.

use std::collections::BTreeSet;
use std::net::IpAddr;

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use margay_dataplane::attach::{self, AttachSpec};
use serde_json::Value;

use super::mac::parse_mac;
use super::netconf::Call;
use super::{Cni, delegate};
use crate::causes::in_full;

impl Cni {
    pub(super) async fn check(
        &self,
        request: &CniRequest,
        header: &Header,
    ) -> Result<CniReply, CniError> {
        if header.cni_version.starts_with("0.3.") {
            let msg = format!(
                "CHECK came with cniVersion {}, it exists since 0.4.0",
                header.cni_version
            );
            return Err(CniError::new(code::INCOMPATIBLE_VERSION, msg));
        }
        let call = Call::parse(request, header)?;
        let Some(previous) = &call.prev_result else {
            let msg = "prevResult is missing, CHECK needs the result of ADD";
            return Err(CniError::new(code::INVALID_CONFIG, msg));
        };
        let world = self.synced_world().await?;
        let _turn = self.turns.take(&call.container_id).await;
        let Some((key, endpoint)) = world.endpoint_of(&call.container_id, &call.ifname) else {
            let msg = format!(
                "container {} has no endpoint for {}",
                call.container_id, call.ifname
            );
            return Err(CniError::new(code::UNKNOWN_CONTAINER, msg));
        };
        let spec = &endpoint.resource.spec;
        let ips: Vec<IpAddr> = spec.ip_networks.iter().map(|net| net.addr()).collect();
        let mut problems = compare_result(previous, &ips)?;
        if let Some(plugin) = &call.delegate {
            delegate::forward(plugin, "CHECK", request).await?;
        } else if call.given_ips.is_empty() {
            match self.ipam.addresses_of(call.handle_id()).await {
                Ok(allocated) => problems.extend(compare_allocation(&allocated, &ips)),
                Err(e) => return Err(CniError::new(code::TRY_AGAIN_LATER, e.to_string())),
            }
        }
        let attach = AttachSpec {
            netns: call.netns.clone().into(),
            container_ifname: call.ifname.clone(),
            host_ifname: spec.interface_name.clone(),
            mtu: call.mtu,
            container_mac: parse_mac(&spec.mac),
            allow_spoofing: world.allow_spoofing,
            container_forwarding: None,
            ipv6: false,
        };
        let found = tokio::task::spawn_blocking(move || attach::check(&attach, &ips)).await;
        match found {
            Ok(Ok(found)) => problems.extend(found),
            Ok(Err(error)) => problems.push(in_full(&error)),
            Err(panic) => problems.push(format!("the interface cannot be checked: {panic}")),
        }
        if let Err(reason) = self.graph.endpoint_programmed(key.clone()).await {
            problems.push(reason);
        }
        if problems.is_empty() {
            return Ok(CniReply::done());
        }
        let msg = format!("container {} differs from what ADD made", call.container_id);
        Err(CniError::new(code::CHECK_FAILED, msg).with_details(problems.join("; ")))
    }
}

/// The addresses that the runtime remembers against those of the endpoint.
fn compare_result(previous: &Value, ips: &[IpAddr]) -> Result<Vec<String>, CniError> {
    let invalid = |msg: &str| CniError::new(code::INVALID_CONFIG, format!("prevResult: {msg}"));
    let listed = match previous.get("ips") {
        None => &Vec::new(),
        Some(Value::Array(listed)) => listed,
        Some(_) => return Err(invalid("ips must be a list")),
    };
    let mut remembered = BTreeSet::new();
    for entry in listed {
        let address = entry.get("address").and_then(Value::as_str);
        let bare = address.map(|a| a.split('/').next().unwrap_or_default());
        let ip = bare.and_then(|b| b.parse::<IpAddr>().ok());
        remembered.insert(ip.ok_or_else(|| invalid("ips has an entry without a valid address"))?);
    }
    Ok(ips
        .iter()
        .filter(|ip| !remembered.contains(ip))
        .map(|ip| format!("prevResult lacks the endpoint's address {ip}"))
        .collect())
}

fn compare_allocation(allocated: &[IpAddr], ips: &[IpAddr]) -> Vec<String> {
    ips.iter()
        .filter(|ip| !allocated.contains(ip))
        .map(|ip| format!("address {ip} is not allocated to this container"))
        .collect()
}
