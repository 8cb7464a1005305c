//! The names of workload endpoints: what identifies the attachment, joined by dashes.
//!
//! A dash inside of a part is doubled, so that the parts can be told apart again:
//! `node1-k8s-my--pod-eth0`.

use std::fmt;

/// What identifies an attachment within a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointName {
    /// The host.
    pub node: String,
    /// Who runs the workload: `k8s`, `cni`, `libnetwork`, ...
    pub orchestrator: String,
    /// The pod (`k8s`), the container (`cni`), `libnetwork` itself, or the workload.
    pub workload: String,
    /// The interface, or the endpoint's id.
    pub endpoint: String,
}

/// Why parts do not make a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointNameError {
    /// A part is empty.
    #[error("{part} is empty")]
    Empty {
        /// Which part.
        part: &'static str,
    },
    /// A part begins or ends with a dash, which doubling could not tell from a separator.
    #[error("{part}: found \"{found}\", allowed: no dash at its begin or end")]
    Dash {
        /// Which part.
        part: &'static str,
        /// What it is.
        found: String,
    },
}

impl EndpointName {
    /// Checks the parts.
    pub fn new(
        node: impl Into<String>,
        orchestrator: impl Into<String>,
        workload: impl Into<String>,
        endpoint: impl Into<String>,
    ) -> Result<Self, EndpointNameError> {
        let name = Self {
            node: node.into(),
            orchestrator: orchestrator.into(),
            workload: workload.into(),
            endpoint: endpoint.into(),
        };
        let parts = ["node", "orchestrator", "workload", "endpoint"]
            .into_iter()
            .zip(name.parts());
        for (part, text) in parts {
            if text.is_empty() {
                return Err(EndpointNameError::Empty { part });
            }
            if text.starts_with('-') || text.ends_with('-') {
                return Err(EndpointNameError::Dash {
                    part,
                    found: text.to_owned(),
                });
            }
        }
        Ok(name)
    }

    /// The name of a pod's interface.
    pub fn k8s(node: &str, pod: &str, interface: &str) -> Result<Self, EndpointNameError> {
        Self::new(node, "k8s", pod, interface)
    }

    /// The name of a container's interface.
    pub fn cni(node: &str, container: &str, interface: &str) -> Result<Self, EndpointNameError> {
        Self::new(node, "cni", container, interface)
    }

    /// The name of a Docker endpoint.
    pub fn libnetwork(node: &str, endpoint: &str) -> Result<Self, EndpointNameError> {
        Self::new(node, "libnetwork", "libnetwork", endpoint)
    }

    fn parts(&self) -> [&str; 4] {
        [
            &self.node,
            &self.orchestrator,
            &self.workload,
            &self.endpoint,
        ]
    }

    /// Takes a name apart; `None` if it is not one of four parts.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = split(name);
        // Some writers name a Docker endpoint with three parts.
        if parts.len() == 3 && parts[1] == "libnetwork" {
            parts.insert(1, "libnetwork".to_owned());
        }
        let [node, orchestrator, workload, endpoint] = <[String; 4]>::try_from(parts).ok()?;
        Self::new(node, orchestrator, workload, endpoint).ok()
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.parts().into_iter().enumerate() {
            if i > 0 {
                f.write_str("-")?;
            }
            f.write_str(&part.replace('-', "--"))?;
        }
        Ok(())
    }
}

/// Splits at single dashes and makes single ones of double ones.
fn split(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let last = parts.len() - 1;
        match c {
            '-' if chars.next_if_eq(&'-').is_some() => parts[last].push('-'),
            '-' => parts.push(String::new()),
            other => parts[last].push(other),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_those_of_the_established_system() {
        let text = |name: Result<EndpointName, _>| name.unwrap().to_string();
        assert_eq!(
            text(EndpointName::k8s("node1", "my-pod", "eth0")),
            "node1-k8s-my--pod-eth0"
        );
        assert_eq!(
            text(EndpointName::cni("n1", "cid1", "eth0")),
            "n1-cni-cid1-eth0"
        );
        assert_eq!(
            text(EndpointName::libnetwork("a-b", "0f1e")),
            "a--b-libnetwork-libnetwork-0f1e"
        );
    }

    #[test]
    fn a_docker_endpoint_of_three_parts_is_read() {
        let name = EndpointName::parse("n1-libnetwork-ep").unwrap();
        assert_eq!(name, EndpointName::libnetwork("n1", "ep").unwrap());
    }

    #[test]
    fn ambiguous_parts_are_refused() {
        let error = EndpointName::cni("n1", "cid-", "eth0").unwrap_err();
        assert_eq!(
            error.to_string(),
            "workload: found \"cid-\", allowed: no dash at its begin or end"
        );
        let error = EndpointName::cni("n1", "", "eth0").unwrap_err();
        assert_eq!(error, EndpointNameError::Empty { part: "workload" });
    }

    #[test]
    fn other_names_are_not_taken_apart() {
        for name in ["", "a", "a-b", "a-b-c", "a-b-c-d-e", "-a-b-c-d", "a-b-c-"] {
            assert_eq!(EndpointName::parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_read_back(
            node in "[a-z0-9]([a-z0-9.-]{0,6}[a-z0-9])?",
            orchestrator in "[a-z0-9]{1,5}",
            workload in "[a-z0-9]([a-z0-9.-]{0,12}[a-z0-9])?",
            endpoint in "[a-z0-9]([a-z0-9-]{0,4}[a-z0-9])?",
        ) {
            let name = EndpointName::new(node, orchestrator, workload, endpoint).unwrap();
            prop_assert_eq!(EndpointName::parse(&name.to_string()), Some(name));
        }
    }
}
