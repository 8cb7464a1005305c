//! What kernels and agents say: the kernel of this host, and the agents of all.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use margay_api::bgp::{BgpRequest, Route};
use serde::Deserialize;

use crate::agent::Agent;
use crate::client::Client;
use crate::context::Context;
use crate::host::Host;

/// Ways to ask.
pub(super) struct Live<'a> {
    /// The node that this host is, if its agent answers.
    here: Option<String>,
    host: &'a Host,
    client: &'a Client,
    socket: &'a Path,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) mtu: Option<u32>,
    pub(super) up: bool,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.up { "up" } else { "DOWN" })?;
        match self.mtu {
            Some(mtu) => write!(f, ", MTU {mtu}"),
            None => Ok(()),
        }
    }
}

/// A route as the kernel takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelRoute {
    /// `via 192.0.2.6 dev eth0`.
    words: String,
    pub(super) mtu: Option<u32>,
    /// What kind of tunnel the interface is, if it is one.
    pub(super) tunnel: Option<String>,
}

impl fmt::Display for KernelRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)?;
        match self.mtu {
            Some(mtu) => write!(f, ", MTU {mtu}"),
            None => Ok(()),
        }
    }
}

/// Of `ip -j route get`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Got {
    #[serde(rename = "type")]
    kind: String,
    gateway: Option<String>,
    via: Option<Via>,
    dev: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Via {
    host: String,
}

/// Of `ip -d -j link show`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Link {
    mtu: Option<u32>,
    flags: Vec<String>,
    linkinfo: Info,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    info_kind: String,
}

/// Interfaces that wrap packets up.
const TUNNELS: [&str; 6] = ["vxlan", "ipip", "sit", "ip6tnl", "gre", "wireguard"];

impl<'a> Live<'a> {
    pub(super) fn new(here: Option<String>, context: &'a Context<'_>) -> Self {
        Self {
            here,
            host: &context.host,
            client: &context.client,
            socket: &context.socket,
        }
    }

    fn is_here(&self, node: &str) -> bool {
        self.here.as_deref() == Some(node)
    }

    /// None where the kernel of that host cannot be asked; an error where there is no such interface.
    pub(super) async fn interface(
        &self,
        node: &str,
        name: &str,
    ) -> Option<Result<Interface, String>> {
        if !self.is_here(node) {
            return None;
        }
        Some(match self.link(name).await {
            Ok(link) => Ok(Interface {
                mtu: link.mtu,
                up: link.flags.iter().any(|flag| flag == "UP"),
            }),
            Err(_) => Err(format!("interface {name} does not exist")),
        })
    }

    /// None where the kernel of that host cannot be asked; an error where it has no route.
    pub(super) async fn kernel_route(
        &self,
        node: &str,
        to: IpAddr,
    ) -> Option<Result<KernelRoute, String>> {
        if !self.is_here(node) {
            return None;
        }
        Some(self.route_get(to).await)
    }

    async fn route_get(&self, to: IpAddr) -> Result<KernelRoute, String> {
        let address = to.to_string();
        let text = self.host.run(&["ip", "-j", "route", "get", &address]).await;
        let text = text.map_err(|error| first_line(&error))?;
        let got: Vec<Got> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let got = got.into_iter().next().ok_or("no route")?;
        if ["blackhole", "unreachable", "prohibit"].contains(&got.kind.as_str()) {
            return Err(got.kind);
        }
        let via = got.gateway.or(got.via.map(|via| via.host));
        let via = via.map_or_else(|| "on-link".to_owned(), |gateway| format!("via {gateway}"));
        let link = self.link(&got.dev).await.unwrap_or_default();
        let kind = link.linkinfo.info_kind;
        let tunnel = TUNNELS
            .contains(&kind.as_str())
            .then(|| format!("{} is a {kind} interface", got.dev));
        Ok(KernelRoute {
            words: format!("{via} dev {}", got.dev),
            mtu: link.mtu,
            tunnel,
        })
    }

    async fn link(&self, name: &str) -> Result<Link, String> {
        let words = ["ip", "-d", "-j", "link", "show", "dev", name];
        let text = self.host.run(&words).await?;
        let links: Vec<Link> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        links
            .into_iter()
            .next()
            .ok_or_else(|| "no such interface".to_owned())
    }

    /// What the BGP speaker of a node has for an address, the best first.
    pub(super) async fn paths(&self, node: &str, to: IpAddr) -> Result<Vec<Route>, String> {
        let agent = match self.is_here(node) {
            true => Agent::Here(self.socket),
            false => Agent::There(self.client, node),
        };
        let target = to.to_string();
        let asked = agent.bgp(BgpRequest::Lookup { target }).await;
        asked.map_err(|error| error.to_string())
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
