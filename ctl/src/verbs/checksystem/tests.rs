use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::terminal::Terminal;

/// A host made of files.
struct Fake(tempfile::TempDir);

impl Fake {
    fn new() -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        fake.write("/proc/sys/kernel/osrelease", "6.1.0-56-amd64\n");
        fake.write("/proc/sys/net/ipv4/ip_forward", "1\n");
        fake.write("/proc/sys/net/ipv6/conf/all/forwarding", "1\n");
        fake.write("/proc/sys/net/netfilter/nf_conntrack_count", "10\n");
        fake.write("/proc/sys/net/netfilter/nf_conntrack_max", "1000\n");
        fake.write(
            "/proc/modules",
            "veth 1 0 - Live 0x0\nnf_conntrack 1 0 - Live 0x0\n",
        );
        fake.write(
            "/lib/modules/6.1.0-56-amd64/modules.builtin",
            "kernel/net/netfilter/nf_tables.ko\n",
        );
        let loadable: String = kernel::MODULES
            .iter()
            .map(|(name, ..)| format!("kernel/x/{}.ko.xz: kernel/y.ko\n", name.replace('_', "-")))
            .collect();
        fake.write("/lib/modules/6.1.0-56-amd64/modules.dep", &loadable);
        fake.write("/proc/net/tcp", "  sl  local_address\n");
        for program in ["iptables", "ip6tables"] {
            fake.write(&format!("/usr/sbin/{program}-nft-restore"), "");
        }
        fake.write(
            "/etc/cni/net.d/10-margay.conflist",
            "{\"type\": \"margay-cni\"}",
        );
        fake.write("/opt/cni/bin/margay-cni", "");
        fake
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.host().path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn host(&self) -> Host {
        Host::at(self.0.path())
    }

    fn outcome(&self, name: &str) -> (Outcome, String, String) {
        let checks = look(&self.host(), None);
        let check = checks.into_iter().find(|check| check.name == name).unwrap();
        (check.outcome, check.found, check.fix)
    }

    fn shown(&self, output: StatusOutput) -> (String, bool) {
        let mut out = Vec::new();
        let mut streams = Streams {
            stdin: &mut std::io::empty(),
            stdout: &mut out,
            stderr: &mut std::io::sink(),
            terminal: Terminal::default(),
            failed: false,
        };
        let args = Checksystem {
            kernel_config: None,
            all: false,
            output,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let host = self.host();
        let looked = checksystem(&args, &host, &mut streams);
        runtime.unwrap().block_on(looked).unwrap();
        let failed = streams.failed;
        (String::from_utf8(out).unwrap(), failed)
    }
}

#[test]
fn a_host_that_has_all_is_told_so_in_a_line() {
    let (shown, failed) = Fake::new().shown(StatusOutput::Text);
    assert!(!failed);
    assert_eq!(
        shown,
        "23 checks: 23 ok, 0 to look at, 0 failed. This host can run the agent.\n"
    );
}

#[test]
fn what_is_missing_is_told_with_what_to_do() {
    let fake = Fake::new();
    fake.write(
        "/lib/modules/6.1.0-56-amd64/modules.dep",
        "kernel/x/veth.ko.xz:\n",
    );
    fs::remove_file(fake.host().path("/usr/sbin/ip6tables-nft-restore")).unwrap();
    fake.write("/proc/sys/net/ipv4/ip_forward", "0\n");
    fake.write("/proc/sys/net/netfilter/nf_conntrack_count", "900\n");
    fake.write("/proc/sys/kernel/osrelease", "6.1.0-56-amd64\n");
    let (outcome, found, fix) = fake.outcome("module xt_set");
    assert_eq!(outcome, Outcome::Failed);
    assert_eq!(found, "not there (policy)");
    assert!(fix.ends_with("CONFIG_NETFILTER_XT_SET=m"), "{fix}");
    assert_eq!(fake.outcome("program ip6tables").0, Outcome::Failed);
    let (outcome, found, fix) = fake.outcome("sysctl net.ipv4.ip_forward");
    assert_eq!(
        (outcome, found.as_str()),
        (Outcome::Warning, "0: IPv4 is not forwarded")
    );
    assert!(
        fix.contains("echo 'net.ipv4.ip_forward = 1' > /etc/sysctl.d/90-margay.conf"),
        "{fix}"
    );
    let (outcome, found, fix) = fake.outcome("sysctl net.netfilter.nf_conntrack_max");
    assert_eq!(
        (outcome, found.as_str()),
        (Outcome::Warning, "900 of 1000 connections")
    );
    assert_eq!(fix, "sysctl -w net.netfilter.nf_conntrack_max=2000");
    let (shown, failed) = fake.shown(StatusOutput::Text);
    assert!(failed);
    assert!(
        shown.ends_with("This host cannot run the agent.\n"),
        "{shown}"
    );
    let (json, _) = fake.shown(StatusOutput::Json);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["ready"], false);
    assert_eq!(json["checks"][0]["outcome"], "ok");
}

#[test]
fn a_kernel_that_tells_nothing_of_its_modules_is_warned_about() {
    let fake = Fake::new();
    fs::remove_dir_all(fake.host().path("/lib/modules")).unwrap();
    assert_eq!(fake.outcome("module xt_set").0, Outcome::Warning);
    let config = "CONFIG_NETFILTER_XT_SET=y\nCONFIG_NF_TABLES=m\n";
    fake.write("/boot/config-6.1.0-56-amd64", config);
    assert_eq!(fake.outcome("module xt_set").1, "built in (policy)");
    assert_eq!(fake.outcome("module xt_mark").0, Outcome::Failed);
    assert_eq!(fake.outcome("iptables backend").1, "nf_tables");
    fake.write("/proc/sys/kernel/osrelease", "4.4.0\n");
    assert_eq!(fake.outcome("kernel").0, Outcome::Warning);
}

#[test]
fn whoever_holds_the_port_of_bgp_is_named() {
    let fake = Fake::new();
    let line =
        "   0: 00000000:00B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1\n";
    fake.write("/proc/net/tcp", &format!("  sl  local_address\n{line}"));
    assert_eq!(fake.outcome("BGP port 179").0, Outcome::Warning);
    fake.write("/proc/12/comm", "bird\n");
    fs::create_dir_all(fake.host().path("/proc/12/fd")).unwrap();
    symlink("socket:[4711]", fake.host().path("/proc/12/fd/7")).unwrap();
    let (outcome, found, fix) = fake.outcome("BGP port 179");
    assert_eq!(
        (outcome, found.as_str()),
        (Outcome::Failed, "held by bird (12)")
    );
    assert!(fix.starts_with("stop bird; or set listenPort"), "{fix}");
    fake.write("/proc/12/comm", "margayd\n");
    assert_eq!(fake.outcome("BGP port 179").1, "held by margayd");
}

#[test]
fn whoever_else_is_at_work_is_named() {
    let fake = Fake::new();
    for (pid, name) in [(1, "calico-node"), (2, "firewalld"), (3, "NetworkManager")] {
        fake.write(&format!("/proc/{pid}/comm"), &format!("{name}\n"));
    }
    assert_eq!(
        fake.outcome("other agents").1,
        "Calico: process calico-node (1)"
    );
    assert_eq!(fake.outcome("firewalld").0, Outcome::Warning);
    assert_eq!(fake.outcome("NetworkManager").0, Outcome::Warning);
    fake.write(
        "/etc/NetworkManager/conf.d/margay.conf",
        "[keyfile]\nunmanaged-devices=interface-name:mgy*\n",
    );
    assert_eq!(fake.outcome("NetworkManager").0, Outcome::Ok);
    fake.write("/proc/net/ip_tables_names", "filter\nnat\n");
    assert_eq!(fake.outcome("iptables variants").0, Outcome::Ok);
    fake.write("/proc/modules", "nft_compat 1 0 - Live 0x0\n");
    assert_eq!(
        fake.outcome("iptables variants").1,
        "both: legacy has tables filter, nat"
    );
    fake.write("/etc/cni/net.d/05-other.conflist", "{}");
    assert_eq!(
        fake.outcome("CNI configuration").1,
        "05-other.conflist comes first"
    );
}

#[test]
fn the_host_at_hand_can_be_looked_at() {
    let checks = look(&Host::at("/"), None);
    assert!(checks.len() > 20);
}
