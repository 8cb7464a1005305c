//! One of our hosts among hosts of the established system, on its data.
//!
//! ```text
//!   c1 - h1 (margayd)      etcd holds what the established system wrote: pool, profile, nodes n1 and n2,
//!             \            an endpoint of n1, and blocks of both
//!              tor         (routes packets, speaks no BGP)
//!             /
//!        n2 (BIRD as its node runs it: iBGP over IPv4 only, the node's /26 and nothing else)
//! ```
//! 1. The agent reads the data as it is, and peers with n2 (RFC 4760, section 8: a peer without IPv6 unicast gets
//!    IPv4 alone). A node that cannot be reached (n1 says 127.0.0.1) disturbs nothing.
//! 2. n2's block is a route in the kernel; n2 hears of our containers by /32.
//! 3. Our addresses come from blocks of our own: not one octet of the others' blocks, affinities, handles and
//!    resources changes.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use margay_lab::{Agent, Bird, Container, Datastore, Etcd, Lab, Plugin, STORE_V4, eventually};
use serde_json::json;

use crate::support::{PROMPT, SOON, ensure_up, our_route};

const RESOURCES: &str = "/calico/resources/v3/projectcalico.org";
const IPAM: &str = "/calico/ipam/v2";

/// The block of n1 has its first address in use, as the established plugin wrote it.
const N1_BLOCK: &str = r#"{"cidr":"10.65.40.128/26","affinity":"host:n1","affinity_claim_time":"2026-11-21T05:02:52Z","allocations":[0,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null],"unallocated":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63],"attributes":[{"handle_id":"net1.cid1","secondary":{"node":"n1","timestamp":"2026-11-21 05:02:52.314675961 +0000 UTC"}}],"sequenceNumber":1795237372320066566,"sequenceNumberForAllocation":{"0":1795237372320066565},"deleted":false}"#;

/// Keys and values as the established system leaves them; n2 alike.
fn established() -> Vec<(String, String)> {
    let n2_block = N1_BLOCK
        .replace("10.65.40.128/26", "10.65.41.64/26")
        .replace("host:n1", "host:n2")
        .replace("\"node\":\"n1\"", "\"node\":\"n2\"")
        .replace("net1.cid1", "net1.cid2");
    let confirmed = r#"{"state":"confirmed","deleted":false}"#;
    let node = |name: &str, address: &str| {
        format!(
            r#"{{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}","uid":"11111111-1111-1111-1111-111111111111","creationTimestamp":"2026-11-21T00:00:00Z"}},"spec":{{"bgp":{{"ipv4Address":"{address}"}}}}}}"#
        )
    };
    let pairs = [
        (IPAM, "assignment/ipv4/block/10.65.40.128-26", N1_BLOCK.to_owned()),
        (IPAM, "assignment/ipv4/block/10.65.41.64-26", n2_block),
        (IPAM, "handle/net1.cid1", r#"{"block":{"10.65.40.128/26":1},"deleted":false}"#.to_owned()),
        (IPAM, "handle/net1.cid2", r#"{"block":{"10.65.41.64/26":1},"deleted":false}"#.to_owned()),
        (IPAM, "host/n1/ipv4/block/10.65.40.128-26", confirmed.to_owned()),
        (IPAM, "host/n2/ipv4/block/10.65.41.64-26", confirmed.to_owned()),
        (RESOURCES, "clusterinformations/default", r#"{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"33333333-3333-3333-3333-333333333333","creationTimestamp":"2026-11-21T00:00:00Z"},"spec":{"clusterGUID":"abc","datastoreReady":true}}"#.to_owned()),
        (RESOURCES, "ippools/default", r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"22222222-2222-2222-2222-222222222222","creationTimestamp":"2026-11-21T00:00:00Z"},"spec":{"cidr":"10.65.0.0/16","blockSize":26,"ipipMode":"Never","vxlanMode":"Never","nodeSelector":"all()","allowedUses":["Workload","Tunnel"]}}"#.to_owned()),
        (RESOURCES, "nodes/n1", node("n1", "127.0.0.1/8")),
        (RESOURCES, "nodes/n2", node("n2", "192.0.2.9/30")),
        (RESOURCES, "profiles/net1", r#"{"kind":"Profile","apiVersion":"projectcalico.org/v3","metadata":{"name":"net1","uid":"2b6b5471-94bf-48d9-8b40-b241eb04d175","creationTimestamp":"2026-11-21T05:02:52Z"},"spec":{"ingress":[{"action":"Allow","source":{"selector":"has(net1)"}}],"egress":[{"action":"Allow"}],"labelsToApply":{"net1":""}}}"#.to_owned()),
        (RESOURCES, "workloadendpoints/default/n1-cni-cid1-eth0", r#"{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1-cni-cid1-eth0","namespace":"default","uid":"6b6e5e6b-98df-4f9a-9dc9-a8cf7806cb8c","creationTimestamp":"2026-11-21T05:02:52Z","labels":{"projectcalico.org/namespace":"default","projectcalico.org/orchestrator":"cni"}},"spec":{"orchestrator":"cni","node":"n1","containerID":"cid1","endpoint":"eth0","ipNetworks":["10.65.40.128/32"],"profiles":["net1"],"interfaceName":"calicid1","mac":"d6:d2:d1:51:2a:c7"}}"#.to_owned()),
    ];
    pairs
        .into_iter()
        .map(|(root, key, value)| (format!("{root}/{key}"), value))
        .collect()
}

/// What a node of the established system runs, without its IPv6 half.
const N2: &str = "router id 192.0.2.9;
protocol device {}
protocol static { ipv4; route 10.65.41.64/26 blackhole; }
protocol bgp Mesh_192_0_2_5 {
  local 192.0.2.9 as 64512; neighbor 192.0.2.5 as 64512;
  multihop; connect delay time 1; connect retry time 1; graceful restart;
  ipv4 { import all; export where net ~ [10.65.41.64/26]; next hop self; };
}
";

#[test]
fn a_host_joins_a_cluster_of_the_established_system() -> Result<()> {
    let lab = Lab::new(2)?;
    let etcd = Etcd::start_in(lab.store.name(), STORE_V4.into())?;
    let before = established();
    for (key, value) in &before {
        etcd.ctl(&["put", key, "--", value])?;
    }
    let [h1, n2] = &lab.hosts[..] else {
        anyhow::bail!("two hosts");
    };
    let bird = Bird::start(&n2.netns, &n2.dir, N2)?;
    let agent = Agent::start(h1, &Datastore::Etcd(etcd.url().to_owned()))?;
    eventually(SOON, "ready", || agent.ensure_ready())?;
    eventually(SOON, "our end", || ensure_up(&agent, n2.v4))?;
    eventually(SOON, "n2's end", || {
        bird.ensure_established("Mesh_192_0_2_5")
    })?;
    eventually(PROMPT, "the block of n2", || {
        let route = our_route(&h1.netns, "10.65.41.64/26")?;
        ensure!(route.gateway == Some(h1.tor_v4.to_string()), "{route:?}");
        Ok(())
    })?;

    let mut plugin = Plugin::new(&agent, h1, "net1")?;
    plugin.config["ipam"] = json!({"type": "calico-ipam"});
    let mut container = Container::new(&lab, "c1", plugin)?;
    container.cni_add()?;
    let IpAddr::V4(address) = container.v4()? else {
        anyhow::bail!("an IPv4 address");
    };
    for theirs in ["10.65.40.128", "10.65.41.64"] {
        let base = u32::from(theirs.parse::<std::net::Ipv4Addr>()?);
        ensure!(
            u32::from(address) & !63 != base,
            "{address} is of another's block"
        );
    }
    eventually(PROMPT, "n2 hears of the container", || {
        let told = bird.ctl(&format!("show route {address}/32 all"))?;
        ensure!(told.contains("BGP.next_hop: 192.0.2.5"), "{told}");
        Ok(())
    })?;
    // Its own address is a /32 of a block of ours, which n2 does not hear of by block.
    ensure!(
        our_route(&h1.netns, &address.to_string())?
            .gateway
            .is_none(),
        "routed away"
    );
    container.cni_del()?;
    eventually(PROMPT, "n2 hears that it is gone", || {
        let told = bird.ctl("show route")?;
        ensure!(!told.contains(&format!("{address}/32")), "{told}");
        Ok(())
    })?;

    for (key, value) in &before {
        let now = etcd.ctl(&["get", key, "--print-value-only"])?;
        ensure!(now.trim_end() == value, "{key} is {now}, was {value}");
    }
    bird.ensure_established("Mesh_192_0_2_5")
        .context("to the end")
}
