//! The speakers under test: each a process in a network namespace of its own, configured for the same task. They
//! listen on one address, accept and advertise everything, write nothing to the kernel; over eBGP they put
//! themselves as next hop, over iBGP all peers are their reflection clients.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use margay_lab::{NetNs, Process, binary, eventually, run};

use crate::meter::{DUT, DUT_AS, DUT_PORT, Opts};

/// How long a daemon may take to listen.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// A speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dut {
    Margay,
    Bird,
    Frr,
    Gobgp,
}

impl Dut {
    pub(crate) const ALL: [Self; 4] = [Self::Margay, Self::Bird, Self::Frr, Self::Gobgp];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Margay => "margay",
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::Gobgp => "gobgp",
        }
    }

    /// What its package says of itself, on one line.
    pub(crate) fn version(self) -> Result<String> {
        let mut command = match self {
            Self::Margay => Command::new(binary("margay-speaker")?),
            Self::Bird => Command::new("bird"),
            Self::Frr => Command::new("/usr/lib/frr/bgpd"),
            Self::Gobgp => Command::new("gobgpd"),
        };
        // BIRD tells it on standard error.
        let output = command.arg("--version").output().context(self.name())?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Starts it in `netns` for the peers of `opts`; it listens when this returns.
    pub(crate) fn start(self, netns: &NetNs, opts: &Opts, dir: &Path) -> Result<Process> {
        let conf = dir.join("dut.conf");
        std::fs::write(&conf, self.config(opts))?;
        let mut command = match self {
            Self::Margay => {
                let mut command = Command::new(binary("margay-speaker")?);
                command.env("RUST_LOG", "warn").arg("--config").arg(&conf);
                command
            }
            Self::Bird => {
                let mut command = Command::new("bird");
                command.arg("-f").arg("-c").arg(&conf);
                command.arg("-s").arg(dir.join("bird.ctl"));
                command
            }
            Self::Frr => frr(&conf, dir)?,
            Self::Gobgp => {
                let mut command = Command::new("gobgpd");
                command
                    .arg("-f")
                    .arg(&conf)
                    .args(["-l", "warn", "--pprof-disable"]);
                command.args(["--api-hosts", "127.0.0.1:50051"]);
                command
            }
        };
        command.current_dir(dir);
        let log = dir.join("dut.log");
        let mut process = Process::spawn(self.name(), command, Some(netns.name()), &log)?;
        let listens = format!("ss -Hltn sport = :{DUT_PORT}");
        eventually(PATIENCE, "the speaker listens", || {
            process.ensure_running()?;
            let sockets = netns.exec(&listens)?;
            anyhow::ensure!(!sockets.trim().is_empty(), "nothing listens");
            Ok(())
        })?;
        Ok(process)
    }

    fn config(self, opts: &Opts) -> String {
        let peers: Vec<_> = (0..opts.peer_count())
            .map(|i| opts.addr_and_as(i))
            .collect();
        let ibgp = opts.spec.ibgp;
        match self {
            Self::Margay => margay_config(&peers, ibgp),
            Self::Bird => bird_config(&peers, ibgp),
            Self::Frr => frr_config(&peers, ibgp),
            Self::Gobgp => gobgp_config(&peers, ibgp),
        }
    }
}

type Peers = [(Ipv4Addr, u32)];

/// Appends a formatted line. Writing to a string cannot fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => { writeln!($out, $($arg)*).expect("a string takes everything") };
}

fn margay_config(peers: &Peers, ibgp: bool) -> String {
    let mut out = format!(
        "speaker:\n  local_as: {DUT_AS}\n  router_id: {DUT}\n  listen: ['{DUT}:{DUT_PORT}']\n  peers:\n"
    );
    for (addr, asn) in peers {
        line!(
            out,
            "    {addr}: {{remote_as: {asn}, passive: true, hold_time_secs: 240, ttl: multihop, \
             families: [ipv4-unicast], next_hop_self: {}, route_reflector_client: {ibgp}, \
             import: {{default: accept}}, export: {{default: accept}}}}",
            !ibgp
        );
    }
    out
}

fn bird_config(peers: &Peers, ibgp: bool) -> String {
    let (session, channel) = if ibgp {
        (
            format!("rr client; rr cluster id {DUT};"),
            "gateway direct;",
        )
    } else {
        (String::new(), "next hop self;")
    };
    let mut out = format!(
        "log stderr {{ warning, error, fatal, bug }};\nrouter id {DUT};\nprotocol device {{ }}\n\
         template bgp common {{ local {DUT} port {DUT_PORT} as {DUT_AS}; passive on; direct; \
         hold time 240; {session} ipv4 {{ import all; export all; {channel} }}; }}\n"
    );
    for (i, (addr, asn)) in peers.iter().enumerate() {
        line!(
            out,
            "protocol bgp p{i} from common {{ neighbor {addr} as {asn}; }}"
        );
    }
    out
}

fn frr_config(peers: &Peers, ibgp: bool) -> String {
    let mut out = format!(
        "frr defaults datacenter\nlog stdout warnings\nrouter bgp {DUT_AS}\n bgp router-id {DUT}\n \
         no bgp ebgp-requires-policy\n no bgp network import-check\n bgp cluster-id {DUT}\n \
         neighbor P peer-group\n neighbor P passive\n neighbor P timers 20 240\n \
         neighbor P disable-connected-check\n"
    );
    for (addr, asn) in peers {
        line!(
            out,
            " neighbor {addr} remote-as {asn}\n neighbor {addr} peer-group P"
        );
    }
    let role = if ibgp {
        "route-reflector-client"
    } else {
        "next-hop-self"
    };
    line!(
        out,
        " address-family ipv4 unicast\n  neighbor P activate\n  neighbor P {role}\n exit-address-family"
    );
    out
}

/// -Z -n: no zebra and no kernel routes; -P 0: no telnet.
fn frr(conf: &Path, dir: &Path) -> Result<Command> {
    // It gives up its rights and has to reach its files all the same.
    run(Command::new("chmod").arg("755").arg(dir))?;
    run(Command::new("chown").args(["-R", "frr:frr"]).arg(dir))?;
    let mut command = Command::new("/usr/lib/frr/bgpd");
    command
        .arg("-f")
        .arg(conf)
        .args(["-Z", "-n", "-P", "0", "-u", "frr", "-g", "frr"]);
    command.args(["-p", &DUT_PORT.to_string(), "-l", &DUT.to_string()]);
    command
        .arg("-i")
        .arg(dir.join("bgpd.pid"))
        .arg("-z")
        .arg(dir.join("none.api"));
    command
        .arg("--vty_socket")
        .arg(dir)
        .args(["--log", "stdout", "--log-level", "warnings"]);
    Ok(command)
}

fn gobgp_config(peers: &Peers, ibgp: bool) -> String {
    let mut out = format!(
        "[global.config]\n as = {DUT_AS}\n router-id = \"{DUT}\"\n port = {DUT_PORT}\n \
         local-address-list = [\"{DUT}\"]\n"
    );
    for (addr, asn) in peers {
        line!(
            out,
            "[[neighbors]]\n [neighbors.config]\n neighbor-address = \"{addr}\"\n peer-as = {asn}\n \
             [neighbors.transport.config]\n passive-mode = true\n local-address = \"{DUT}\"\n \
             [neighbors.timers.config]\n hold-time = 240\n keepalive-interval = 80"
        );
        if ibgp {
            line!(
                out,
                " [neighbors.route-reflector.config]\n route-reflector-client = true\n \
                 route-reflector-cluster-id = \"{DUT}\""
            );
        }
        line!(
            out,
            " [[neighbors.afi-safis]]\n [neighbors.afi-safis.config]\n afi-safi-name = \"ipv4-unicast\""
        );
    }
    out
}
