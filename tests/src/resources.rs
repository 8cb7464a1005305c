//! What the operator writes: ordinary `projectcalico.org/v3` resources.

use crate::lab::Lab;

/// The router's AS.
pub const TOR_AS: u32 = 65000;
/// The hosts' AS.
pub const HOST_AS: u32 = 64512;

/// The network the containers join. Its profile lets everything in and out, so that reaching each other
/// proves routing; policies come later.
pub const NETWORK: &str = "demo";

/// The same under another name: its profile labels its containers `vault`.
pub const VAULT: &str = "vault";

/// A pool of each family, and the networks' profiles.
pub fn pools_and_profile(nat_outgoing: bool) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: demo-v4\n\
         spec:\n  cidr: 10.65.0.0/16\n  blockSize: 26\n  ipipMode: Never\n  vxlanMode: Never\n  \
         natOutgoing: {nat_outgoing}\n  nodeSelector: all()\n---\n\
         apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: demo-v6\n\
         spec:\n  cidr: fd00:65::/48\n  blockSize: 122\n  ipipMode: Never\n  vxlanMode: Never\n  \
         natOutgoing: {nat_outgoing}\n  nodeSelector: all()\n---\n\
         apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata:\n  name: {NETWORK}\n\
         spec:\n  ingress:\n  - action: Allow\n  egress:\n  - action: Allow\n---\n\
         apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata:\n  name: {VAULT}\n\
         spec:\n  ingress:\n  - action: Allow\n  egress:\n  - action: Allow\n  \
         labelsToApply:\n    vault: \"\"\n"
    )
}

/// The hosts' own mesh, and each host's sessions with the router.
pub fn bgp(lab: &Lab) -> String {
    let mut text = format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata:\n  name: default\n\
         spec:\n  asNumber: {HOST_AS}\n  nodeToNodeMeshEnabled: true\n"
    );
    for host in &lab.hosts {
        for (family, address) in [
            ("v4", host.tor_v4.to_string()),
            ("v6", host.tor_v6.to_string()),
        ] {
            text += &format!(
                "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  \
                 name: {name}-tor-{family}\nspec:\n  node: {name}\n  peerIP: \"{address}\"\n  \
                 asNumber: {TOR_AS}\n",
                name = host.name
            );
        }
    }
    text
}

/// Nothing in, nothing out, for the containers of the network [`VAULT`].
pub fn isolation() -> String {
    "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  name: isolate\n  \
     namespace: default\nspec:\n  order: 10\n  selector: has(vault)\n  types:\n  \
     - Ingress\n  - Egress\n"
        .to_owned()
}
