//! Whoever else does on this host what the agent does.

use super::{Check, Outcome};
use crate::host::Host;

/// The port of BGP, as /proc/net/tcp has it, and the state of a listener.
const BGP_PORT: &str = "00B3";
const LISTENS: &str = "0A";

/// What our interfaces are named after.
const INTERFACES: &str = "mgy";

/// Other agents: process, what it is.
const AGENTS: [(&str, &str); 7] = [
    ("calico-node", "Calico"),
    ("calico-felix", "Calico"),
    ("cilium-agent", "Cilium"),
    ("flanneld", "Flannel"),
    ("kube-router", "kube-router"),
    ("antrea-agent", "Antrea"),
    ("weaver", "Weave Net"),
];

pub(super) fn checks(host: &Host) -> Vec<Check> {
    let processes = host.processes();
    let runs = |name: &str| processes.iter().find(|(_, running)| running == name);
    let mut checks = vec![bgp_port(host)];
    let others: Vec<_> = AGENTS
        .iter()
        .filter_map(|(process, what)| Some((*what, runs(process)?)))
        .collect();
    checks.push(match others.first() {
        None => Check::new("other agents", Outcome::Ok, "none"),
        Some((what, (pid, name))) => Check::new(
            "other agents",
            Outcome::Warning,
            format!("{what}: process {name} ({pid})"),
        )
        .fix(format!(
            "both can run while containers move from one to the other; give each its own pools, and \
             in the end stop {what} and remove its file from /etc/cni/net.d"
        )),
    });
    if let Some((pid, _)) = runs("firewalld") {
        checks.push(
            Check::new("firewalld", Outcome::Warning, format!("runs ({pid})")).fix(
                "its reload flushes the rules of others, which come back within a minute: stop it, \
                 or put the interfaces into its zone trusted",
            ),
        );
    }
    checks.extend(network_manager(host, runs("NetworkManager").is_some()));
    checks.extend(backends(host));
    checks.push(cni(host));
    checks
}

/// Who holds the port of BGP.
fn bgp_port(host: &Host) -> Check {
    let name = "BGP port 179";
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let sockets = host.read(table).unwrap_or_default();
        for line in sockets.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (Some(local), Some(state), Some(inode)) =
                (fields.get(1), fields.get(3), fields.get(9))
            else {
                continue;
            };
            if *state != LISTENS || !local.ends_with(&format!(":{BGP_PORT}")) {
                continue;
            }
            return match host.holder(inode) {
                Some((_, holder)) if holder == "margayd" => {
                    Check::new(name, Outcome::Ok, "held by margayd")
                }
                Some((pid, holder)) => Check::new(
                    name,
                    Outcome::Failed,
                    format!("held by {holder} ({pid})"),
                )
                .fix(format!(
                    "stop {holder}; or set listenPort in BGPConfiguration, or bgp_listen in the \
                         agent's configuration to an address that {holder} does not use"
                )),
                None => Check::new(
                    name,
                    Outcome::Warning,
                    "held by a process that cannot be seen",
                )
                .fix("run this as root to see which; only the agent may hold it"),
            };
        }
    }
    Check::new(name, Outcome::Ok, "free")
}

fn network_manager(host: &Host, runs: bool) -> Option<Check> {
    if !runs {
        return None;
    }
    let folder = "/etc/NetworkManager/conf.d";
    let files = host
        .names(folder)
        .into_iter()
        .map(|name| format!("{folder}/{name}"));
    let told = files
        .chain(["/etc/NetworkManager/NetworkManager.conf".to_owned()])
        .filter_map(|file| host.read(&file))
        .any(|text| text.contains("unmanaged-devices") && text.contains(INTERFACES));
    Some(if told {
        Check::new("NetworkManager", Outcome::Ok, "leaves our interfaces alone")
    } else {
        Check::new(
            "NetworkManager",
            Outcome::Warning,
            "manages every interface",
        )
        .fix(format!(
            "printf '[keyfile]\\nunmanaged-devices=interface-name:{INTERFACES}*\\n' > \
             {folder}/margay.conf && nmcli general reload"
        ))
    })
}

/// Rules in both variants of iptables: each sees only its own.
fn backends(host: &Host) -> Option<Check> {
    let legacy = host.read("/proc/net/ip_tables_names")?;
    let legacy: Vec<_> = legacy.split_whitespace().collect();
    let modules = host.read("/proc/modules").unwrap_or_default();
    let nft = modules.lines().any(|line| line.starts_with("nft_compat "));
    Some(if nft && !legacy.is_empty() {
        Check::new(
            "iptables variants",
            Outcome::Warning,
            format!("both: legacy has tables {}", legacy.join(", ")),
        )
        .fix(
            "the agent uses the one that the host's rules are in; move all rules to one of them: \
             iptables-legacy-save, then restore with iptables-nft-restore and reboot",
        )
    } else {
        Check::new("iptables variants", Outcome::Ok, "one in use")
    })
}

/// The network that a container runtime would take: the first file.
fn cni(host: &Host) -> Check {
    let folder = "/etc/cni/net.d";
    let mut files = host.names(folder).into_iter();
    let first = files.find(|name| {
        [".conf", ".conflist", ".json"]
            .iter()
            .any(|ending| name.ends_with(ending))
    });
    let Some(first) = first else {
        return Check::new(
            "CNI configuration",
            Outcome::Warning,
            format!("none in {folder}"),
        )
        .fix(format!(
            "write {folder}/10-margay.conflist, if a container runtime shall use us"
        ));
    };
    let text = host.read(&format!("{folder}/{first}")).unwrap_or_default();
    if !text.contains("\"margay-cni\"") {
        return Check::new(
            "CNI configuration",
            Outcome::Warning,
            format!("{first} comes first"),
        )
        .fix(format!(
            "runtimes use the first file of {folder}: remove it, or name ours before it"
        ));
    }
    if host.exists("/opt/cni/bin/margay-cni") {
        return Check::new("CNI configuration", Outcome::Ok, first);
    }
    Check::new(
        "CNI configuration",
        Outcome::Warning,
        format!("{first} without /opt/cni/bin/margay-cni"),
    )
    .fix("make install puts the plugin there")
}
