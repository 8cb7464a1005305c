//! The kernel: its version, modules and switches, and the programs that drive it.

use super::{Check, NOT_FORWARDED, Outcome};
use crate::host::Host;

/// Modules that the agent needs, the option that builds each, and what for.
pub(super) const MODULES: [(&str, &str, &str); 13] = [
    ("veth", "VETH", "links to containers"),
    ("ip_set", "IP_SET", "sets of addresses"),
    ("ip_set_hash_net", "IP_SET_HASH_NET", "sets of addresses"),
    ("ip_set_hash_netport", "IP_SET_HASH_NETPORT", "named ports"),
    (
        "ip_set_hash_netiface",
        "IP_SET_HASH_NETIFACE",
        "dispatch to endpoints",
    ),
    ("xt_set", "NETFILTER_XT_SET", "policy"),
    ("xt_mark", "NETFILTER_XT_MARK", "policy"),
    (
        "xt_multiport",
        "NETFILTER_XT_MATCH_MULTIPORT",
        "ports in policies",
    ),
    (
        "xt_conntrack",
        "NETFILTER_XT_MATCH_CONNTRACK",
        "connections",
    ),
    ("nf_conntrack", "NF_CONNTRACK", "connections"),
    (
        "nf_conntrack_netlink",
        "NF_CT_NETLINK",
        "forgetting connections",
    ),
    ("nf_nat", "NF_NAT", "natOutgoing"),
    (
        "xt_MASQUERADE",
        "NETFILTER_XT_TARGET_MASQUERADE",
        "natOutgoing",
    ),
];

/// Either backend of iptables will do.
const BACKENDS: [(&str, &str); 2] = [("nf_tables", "NF_TABLES"), ("ip_tables", "IP_NF_IPTABLES")];

/// The oldest release that is looked after by anybody.
const OLDEST: (u32, u32) = (5, 4);

pub(super) fn checks(host: &Host, config: Option<&str>) -> Vec<Check> {
    let release = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut checks = vec![version(release)];
    let modules = Modules::of(host, release, config);
    checks.extend(
        MODULES
            .iter()
            .map(|(name, option, why)| modules.check(name, option, why)),
    );
    checks.push(modules.backend());
    checks.extend(programs(host));
    checks.extend(switches(host));
    checks
}

fn version(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => {
            Check::new("kernel", Outcome::Ok, release)
        }
        (Some(Ok(_)), Some(Ok(_))) => Check::new("kernel", Outcome::Warning, release).fix(format!(
            "older than {}.{}: nobody tests the agent with it; upgrade the kernel",
            OLDEST.0, OLDEST.1
        )),
        _ => Check::new("kernel", Outcome::Warning, format!("release {release:?}"))
            .fix("/proc/sys/kernel/osrelease cannot be read: is /proc mounted?"),
    }
}

/// What is known of the kernel's modules.
struct Modules<'a> {
    host: &'a Host,
    loaded: String,
    builtin: String,
    loadable: String,
    /// As built; absent if no such file is found.
    config: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Loaded,
    BuiltIn,
    Loadable,
    Absent,
    /// There is nothing that would say.
    Unknown,
}

impl<'a> Modules<'a> {
    fn of(host: &'a Host, release: &str, config: Option<&str>) -> Self {
        let read = |path: &str| host.read(path).unwrap_or_default();
        let folder = format!("/lib/modules/{release}");
        let config = match config {
            Some(named) => std::fs::read_to_string(named).ok(),
            None => host.read_gz("/proc/config.gz").or_else(|| {
                [
                    format!("/boot/config-{release}"),
                    format!("{folder}/build/.config"),
                    format!("{folder}/config"),
                    format!("/usr/src/linux-headers-{release}/.config"),
                ]
                .iter()
                .find_map(|path| host.read(path))
            }),
        };
        Self {
            host,
            loaded: read("/proc/modules"),
            builtin: read(&format!("{folder}/modules.builtin")),
            loadable: read(&format!("{folder}/modules.dep")),
            config,
        }
    }

    fn state(&self, name: &str, option: &str) -> State {
        // Files of modules have either sign.
        let file = |list: &str| {
            [name.to_owned(), name.replace('_', "-")]
                .iter()
                .any(|name| {
                    let file = format!("/{name}.ko");
                    list.lines().any(|line| {
                        let path = line.split(':').next().unwrap_or_default();
                        let end = path.find(&file).map(|at| &path[at + file.len()..]);
                        end.is_some_and(|end| end.is_empty() || end.starts_with('.'))
                    })
                })
        };
        let option = |value: &str| {
            let line = format!("CONFIG_{option}={value}");
            self.config
                .as_ref()
                .is_some_and(|config| config.lines().any(|known| known == line))
        };
        if self
            .loaded
            .lines()
            .any(|line| line.split(' ').next() == Some(name))
        {
            State::Loaded
        } else if self.host.exists(&format!("/sys/module/{name}"))
            || file(&self.builtin)
            || option("y")
        {
            State::BuiltIn
        } else if file(&self.loadable) || option("m") {
            State::Loadable
        } else if self.config.is_some() || !self.loadable.is_empty() {
            State::Absent
        } else {
            State::Unknown
        }
    }

    fn check(&self, name: &str, option: &str, why: &str) -> Check {
        let title = format!("module {name}");
        let check = |outcome, found: &str| Check::new(&title, outcome, format!("{found} ({why})"));
        match self.state(name, option) {
            State::Loaded => check(Outcome::Ok, "loaded"),
            State::BuiltIn => check(Outcome::Ok, "built in"),
            State::Loadable => check(Outcome::Ok, "can be loaded"),
            State::Absent => check(Outcome::Failed, "not there").fix(format!(
                "install the package with all modules of this kernel, or build it with CONFIG_{option}=m"
            )),
            State::Unknown => check(Outcome::Warning, "not loaded, and nothing says whether it can be").fix(
                format!(
                    "modprobe {name} to see; or name the kernel's configuration with --kernel-config"
                ),
            ),
        }
    }

    fn backend(&self) -> Check {
        let states = BACKENDS.map(|(name, option)| (name, self.state(name, option)));
        let usable =
            |state: &State| matches!(state, State::Loaded | State::BuiltIn | State::Loadable);
        let found: Vec<_> = states
            .iter()
            .filter(|(_, state)| usable(state))
            .map(|(name, _)| *name)
            .collect();
        match found.as_slice() {
            [] if states.iter().any(|(_, state)| *state == State::Unknown) => {
                Check::new("iptables backend", Outcome::Warning, "none is loaded")
                    .fix("modprobe nf_tables to see whether it can be")
            }
            [] => Check::new(
                "iptables backend",
                Outcome::Failed,
                "neither nf_tables nor ip_tables",
            )
            .fix("build the kernel with CONFIG_NF_TABLES=m"),
            found => Check::new("iptables backend", Outcome::Ok, found.join(", ")),
        }
    }
}

fn programs(host: &Host) -> Vec<Check> {
    let families = [
        ("iptables", "policy of IPv4"),
        ("ip6tables", "policy of IPv6"),
    ];
    let check = |(name, why): (&str, &str)| {
        let variants: Vec<_> = ["nft", "legacy"]
            .into_iter()
            .filter(|variant| host.has_program(&format!("{name}-{variant}-restore")))
            .collect();
        let title = format!("program {name}");
        match variants.as_slice() {
            [] => Check::new(title, Outcome::Failed, format!("not installed ({why})"))
                .fix("install the package iptables"),
            variants => Check::new(title, Outcome::Ok, variants.join(", ")),
        }
    };
    families.into_iter().map(check).collect()
}

fn switches(host: &Host) -> Vec<Check> {
    let read = |key: &str| {
        let text = host.read(&format!("/proc/sys/net/{key}"))?;
        Some(text.trim().to_owned())
    };
    let mut checks = Vec::new();
    for (key, family) in [
        ("ipv4/ip_forward", "IPv4"),
        ("ipv6/conf/all/forwarding", "IPv6"),
    ] {
        let name = format!("sysctl net.{}", key.replace('/', "."));
        checks.push(match read(key).as_deref() {
            Some("1") => Check::new(name, Outcome::Ok, "1"),
            Some(value) => Check::new(
                &name,
                Outcome::Warning,
                format!("{value}: {family} {NOT_FORWARDED}"),
            )
            .fix(format!(
                "sysctl -w net.{key}=1 (the agent does so when it starts); so that nothing switches it off again: \
                     echo 'net.{key} = 1' > /etc/sysctl.d/90-margay.conf",
                key = key.replace('/', ".")
            )),
            None => Check::new(
                name,
                Outcome::Warning,
                format!("not there: no {family} on this host"),
            ),
        });
    }
    checks.extend(connections(
        read("netfilter/nf_conntrack_count"),
        read("netfilter/nf_conntrack_max"),
    ));
    checks
}

/// A table of connections that is nearly full drops packets of new ones.
fn connections(count: Option<String>, most: Option<String>) -> Option<Check> {
    let (count, most) = (count?.parse::<u64>().ok()?, most?.parse::<u64>().ok()?);
    let found = format!("{count} of {most} connections");
    let name = "sysctl net.netfilter.nf_conntrack_max";
    Some(
        if most > 0 && count.saturating_mul(10) >= most.saturating_mul(8) {
            Check::new(name, Outcome::Warning, found).fix(format!(
                "sysctl -w net.netfilter.nf_conntrack_max={}",
                most.saturating_mul(2)
            ))
        } else {
            Check::new(name, Outcome::Ok, found)
        },
    )
}
