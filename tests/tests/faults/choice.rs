//! Which pool an address comes from: the namespace's labels, the pod's annotations, its namespace's.

use margay_lab::eventually;
use serde_json::json;

use crate::rig::{Answer, NETWORK, Rig, SOON, Sandbox};

const POOLS: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: blue\n\
    spec:\n  cidr: 10.66.0.0/24\n  namespaceSelector: team == 'blue'\n  allowedUses: [Workload]\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: others\n\
    spec:\n  cidr: 10.65.0.0/24\n  namespaceSelector: team != 'blue'\n  allowedUses: [Workload]\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: asked\n\
    spec:\n  cidr: 10.67.0.0/24\n  assignmentMode: Manual\n---\n\
    apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: inner\n\
    spec:\n  cidr: 10.68.0.0/24\n  assignmentMode: Manual\n---\n\
    apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata:\n  name: kns.shop\n\
    spec:\n  ingress:\n  - action: Allow\n  egress:\n  - action: Allow\n  \
    labelsToApply:\n    pcns.team: blue\n";

fn pod(rig: &Rig, verb: &str, sandbox: &Sandbox, args: &str, of_namespace: &str) -> Answer {
    let mut config = rig.config(NETWORK);
    config["ipam"] = json!({"type": "margay-ipam"});
    if !of_namespace.is_empty() {
        let annotations = json!({"cni.projectcalico.org/ipv4pools": of_namespace});
        config["args"] = json!({"cni": {"namespaceAnnotations": annotations}});
    }
    let netns = sandbox.netns.path();
    let env = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", &sandbox.id),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", netns.to_str().unwrap()),
        ("CNI_ARGS", args),
    ];
    rig.shim(&env, config.to_string().as_bytes())
}

#[test]
fn namespaces_and_annotations_choose_the_pool() {
    let rig = Rig::with_etcd(POOLS);
    let args = |namespace: &str, name: &str| {
        format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}")
    };
    let annotation = |pools: &str| format!(";cni.projectcalico.org/ipv4pools={pools}");
    for (id, args, of_namespace, net) in [
        ("a", args("shop", "a"), "", "10.66.0."),
        ("b", args("office", "b"), "", "10.65.0."),
        (
            "c",
            args("shop", "c") + &annotation("[\"asked\"]"),
            "",
            "10.67.0.",
        ),
        ("d", args("shop", "d"), "[\"inner\"]", "10.68.0."),
        (
            "e",
            args("shop", "e") + &annotation("[\"10.67.0.0/24\"]"),
            "[\"inner\"]",
            "10.67.0.",
        ),
    ] {
        let sandbox = rig.sandbox(id, NETWORK);
        let ips = pod(&rig, "ADD", &sandbox, &args, of_namespace).ips();
        assert!(
            ips.len() == 1 && ips[0].to_string().starts_with(net),
            "{id}: {ips:?}"
        );
        assert!(
            pod(&rig, "DEL", &sandbox, &args, of_namespace)
                .ips()
                .is_empty()
        );
    }
    let sandbox = rig.sandbox("f", NETWORK);
    let wrong = args("shop", "f") + &annotation("[\"none\"]");
    pod(&rig, "ADD", &sandbox, &wrong, "").refused(101, "none");
    // The labels as they are at the moment count.
    let changed = POOLS.replace("pcns.team: blue", "pcns.team: red");
    rig.ctl().apply(&changed).unwrap();
    let args = args("shop", "f");
    eventually(SOON, "the namespace has changed", || {
        let ips = pod(&rig, "ADD", &sandbox, &args, "").ips();
        assert!(pod(&rig, "DEL", &sandbox, &args, "").ips().is_empty());
        match ips[0].to_string() {
            ip if ip.starts_with("10.65.0.") => Ok(()),
            ip => Err(ip),
        }
    })
    .unwrap();
    rig.ensure_exact(&[]);
}
