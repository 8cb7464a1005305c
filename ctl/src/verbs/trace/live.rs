//! What kernels and BGP speakers say, asked of the agent of each host on the way.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use margay_api::bgp::{BgpRequest, Route};
use margay_api::kernel::{self, KernelRequest};

use crate::agent::{Agent, AgentError};
use crate::client::Client;
use crate::context::Context;

/// Ways to ask.
pub(super) struct Live<'a> {
    /// The node that this host is, if its agent answers.
    here: Option<String>,
    client: &'a Client,
    socket: &'a Path,
    /// Agents that did not answer, and why: they are not waited for again.
    silent: RefCell<BTreeMap<String, String>>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface(pub(super) kernel::Interface);

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            kernel::Interface { up: false, .. } => "DOWN",
            kernel::Interface {
                no_carrier: true, ..
            } => "up, NO CARRIER",
            _ => "up",
        };
        write!(f, "{state}, MTU {}", self.0.mtu)
    }
}

/// A route as the kernel takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelRoute(pub(super) kernel::Way);

impl fmt::Display for KernelRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.gateway {
            Some(gateway) => write!(f, "via {gateway}")?,
            None => f.write_str("on-link")?,
        }
        write!(f, " dev {}, MTU {}", self.0.interface, self.0.mtu)
    }
}

impl KernelRoute {
    /// What kind of tunnel the interface is, if it is one.
    pub(super) fn tunnel(&self) -> Option<String> {
        let kernel::Way {
            interface, kind, ..
        } = &self.0;
        TUNNELS
            .contains(&kind.as_str())
            .then(|| format!("{interface} is a {kind} interface"))
    }
}

/// Interfaces that wrap packets up.
const TUNNELS: [&str; 7] = [
    "vxlan",
    "ipip",
    "sit",
    "ip6tnl",
    "gre",
    "geneve",
    "wireguard",
];

/// What an agent says: what there is, or why there is nothing; why it was not asked.
pub(super) type Said<T> = Result<Result<T, String>, String>;

impl<'a> Live<'a> {
    pub(super) fn new(here: Option<String>, context: &'a Context<'_>) -> Self {
        Self {
            here,
            client: &context.client,
            socket: &context.socket,
            silent: RefCell::default(),
        }
    }

    fn agent<'b>(&'b self, node: &'b str) -> Result<Agent<'b>, String> {
        if let Some(why) = self.silent.borrow().get(node) {
            return Err(why.clone());
        }
        Ok(match self.here.as_deref() == Some(node) {
            true => Agent::Here(self.socket),
            false => Agent::There(self.client, node),
        })
    }

    /// Takes note of an agent that is not there to be asked.
    fn heard<T>(&self, node: &str, answer: Result<T, AgentError>) -> Result<T, String> {
        answer.map_err(|error| {
            let why = match &error {
                AgentError::Refused { who, reason } if reason.contains("not understood") => {
                    format!("{who}: it is of an earlier version")
                }
                _ => error.to_string(),
            };
            if !matches!(error, AgentError::Refused { .. }) {
                let mut silent = self.silent.borrow_mut();
                silent.insert(node.to_owned(), why.clone());
            }
            why
        })
    }

    /// An interface of a host.
    pub(super) async fn interface(&self, node: &str, name: &str) -> Said<Interface> {
        let name = name.to_owned();
        let request = KernelRequest::Interface { name };
        let answer = self.agent(node)?.kernel(request).await;
        let answer = self.heard(node, answer)?;
        Ok(answer.found.map(Interface).ok_or(answer.missing))
    }

    /// The way that the kernel of a host takes.
    pub(super) async fn kernel_route(&self, node: &str, to: IpAddr) -> Said<KernelRoute> {
        let answer = self.agent(node)?.kernel(KernelRequest::Way { to }).await;
        let answer = self.heard(node, answer)?;
        Ok(answer.found.map(KernelRoute).ok_or(answer.missing))
    }

    /// What the BGP speaker of a node has for an address, the best first.
    pub(super) async fn paths(&self, node: &str, to: IpAddr) -> Result<Vec<Route>, String> {
        let target = to.to_string();
        let answer = self.agent(node)?.bgp(BgpRequest::Lookup { target }).await;
        self.heard(node, answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_says_what_keeps_packets_from_passing() {
        let says = |up, no_carrier| {
            let interface = kernel::Interface {
                mtu: 1450,
                up,
                no_carrier,
                ..kernel::Interface::default()
            };
            Interface(interface).to_string()
        };
        assert_eq!(says(true, false), "up, MTU 1450");
        assert_eq!(says(true, true), "up, NO CARRIER, MTU 1450");
        assert_eq!(says(false, false), "DOWN, MTU 1450");
    }
}
