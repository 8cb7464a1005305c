//! The kernel's routing tables as a test wants to see them.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::netns::NetNs;
use crate::process::run;

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Route {
    /// `default`, or a prefix; a host route is written without a length.
    pub dst: String,
    /// The gateway of a single-path route.
    #[serde(default)]
    pub gateway: Option<String>,
    /// The gateway of the other family.
    #[serde(default)]
    pub via: Option<Via>,
    /// The outgoing interface of a single-path route.
    #[serde(default)]
    pub dev: Option<String>,
    /// Who made it.
    #[serde(default)]
    pub protocol: Option<String>,
    /// More than one path.
    #[serde(default)]
    pub nexthops: Vec<NextHop>,
}

/// A gateway with its family.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Via {
    /// Its address.
    pub host: String,
}

/// One of several paths.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NextHop {
    /// Its gateway.
    #[serde(default)]
    pub gateway: Option<String>,
    /// Its outgoing interface.
    #[serde(default)]
    pub dev: Option<String>,
}

/// All routes of the main table, of both families.
pub fn routes(netns: &NetNs) -> Result<Vec<Route>> {
    let mut all = Vec::new();
    for family in ["-4", "-6"] {
        let text = run(netns.command("ip").args(["-j", family, "route", "show"]))?;
        let routes: Vec<Route> =
            serde_json::from_str(&text).with_context(|| format!("ip -j route show says {text}"))?;
        all.extend(routes);
    }
    Ok(all)
}

/// The route to exactly this address; an error that names the namespace when there is none.
pub fn host_route(netns: &NetNs, to: IpAddr) -> Result<Route> {
    let dst = to.to_string();
    let found = routes(netns)?.into_iter().find(|r| r.dst == dst);
    found.with_context(|| format!("{} has no route to {dst}", netns.name()))
}

/// An error while there is a route to exactly this address.
pub fn ensure_no_route(netns: &NetNs, to: IpAddr) -> Result<()> {
    let found = host_route(netns, to);
    ensure!(found.is_err(), "{} still has {found:?}", netns.name());
    Ok(())
}
