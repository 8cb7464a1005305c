//! CHECK: what ADD made is still there: interface, addresses, routes, endpoint, address record.

use std::collections::BTreeSet;
use std::net::IpAddr;

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code};
use margay_dataplane::attach::{self, AttachError, AttachSpec};
use margay_dataplane::bandwidth;
use margay_model::workload_endpoint::EndpointPort;
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
        problems.extend(compare_interface(previous, &call, &spec.mac));
        problems.extend(compare_ports(&call, &spec.ports));
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
            mtu_follows: false,
            container_mac: parse_mac(&spec.mac),
            allow_spoofing: world.allow_spoofing,
            container_forwarding: None,
            ipv6: false,
            queues: None,
        };
        let limits = call.bandwidth;
        let found = tokio::task::spawn_blocking(move || {
            let mut found = attach::check(&attach, &ips)?;
            match bandwidth::check(&attach.host_ifname, &limits) {
                Ok(differences) => found.extend(differences),
                Err(error) => found.push(in_full(&error)),
            }
            Ok::<_, AttachError>(found)
        });
        match found.await {
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

/// The container's interface as the runtime remembers it.
fn compare_interface(previous: &Value, call: &Call, mac: &str) -> Option<String> {
    let listed = previous.get("interfaces").and_then(Value::as_array);
    let is_ours = |entry: &&Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        text("name") == Some(&call.ifname) && text("sandbox").is_some_and(|s| !s.is_empty())
    };
    let Some(entry) = listed.into_iter().flatten().find(is_ours) else {
        return Some(format!("prevResult lacks the interface {}", call.ifname));
    };
    let remembered = entry.get("mac").and_then(Value::as_str).unwrap_or_default();
    let differs = !remembered.is_empty() && !remembered.eq_ignore_ascii_case(mac);
    differs.then(|| {
        let ifname = &call.ifname;
        format!("prevResult has {ifname} with the hardware address {remembered}, not {mac}")
    })
}

fn compare_ports(call: &Call, ports: &[EndpointPort]) -> Option<String> {
    let differs = !call.host_ports.iter().all(|wanted| ports.contains(wanted));
    differs.then(|| "the endpoint lacks ports of runtimeConfig.portMappings".to_owned())
}

fn compare_allocation(allocated: &[IpAddr], ips: &[IpAddr]) -> Vec<String> {
    ips.iter()
        .filter(|ip| !allocated.contains(ip))
        .map(|ip| format!("address {ip} is not allocated to this container"))
        .collect()
}
