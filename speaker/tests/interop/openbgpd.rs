//! Against OpenBGPD, as root in namespaces of their own.
//!
//! 1. Routes go both ways, those of each family on a session of its own, with communities of all
//!    three kinds, and are withdrawn (RFC 4760, RFC 1997, RFC 4360, RFC 8092).
//! 2. Several paths of a prefix are sent to it (RFC 7911).
//! 3. An administrative stop tells it why (RFC 9003), and it drops our routes; what its operator says when he
//!    takes the session down or clears it is shown here.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, ensure};
use margay_lab::{Process, eventually, run};
use margay_speaker::{
    AddPathConfig, FilterConfig, LocalAction, LocalAttrs, LocalRouteChange, PathLimit, PeerConfig,
    Shutdown,
};

use crate::support::{Lab, PATIENCE, config, them};

/// The directory that its unprivileged processes are locked into.
const JAIL: &str = "/run/openbgpd";

/// A running bgpd.
struct OpenBgpd {
    _process: Process,
    socket: PathBuf,
}

impl OpenBgpd {
    /// `neighbor` goes into the block about us.
    fn start(lab: &Lab, neighbor: &str) -> Result<Self> {
        std::fs::create_dir_all(JAIL)?;
        let (conf, socket) = (
            lab.dir.path().join("bgpd.conf"),
            lab.dir.path().join("sock"),
        );
        let text = format!(
            "AS 65002
router-id 192.0.2.2
fib-update no
listen on 192.0.2.2
listen on 2001:db8::2
socket \"{}\"
network 10.1.0.0/24 set {{ community 65002:9 large-community 65002:1:2 ext-community rt 65002:3 }}
network 2001:db8:beef::/48
neighbor 192.0.2.1 {{
  remote-as 65001
  local-address 192.0.2.2
  announce IPv4 unicast
  announce IPv6 none
  holdtime 9
  {neighbor}
}}
# Over IPv4 it would tell the loopback as the next hop of IPv6 routes.
neighbor 2001:db8::1 {{
  remote-as 65001
  local-address 2001:db8::2
  announce IPv4 none
  announce IPv6 unicast
  holdtime 9
}}
allow from any
allow to any
",
            socket.display()
        );
        std::fs::write(&conf, text)?;
        // It refuses a file that others may write.
        run(Command::new("chmod").arg("600").arg(&conf))?;
        let mut command = Command::new("/usr/sbin/bgpd");
        command.arg("-d").arg("-f").arg(&conf);
        let log = lab.dir.path().join("openbgpd.log");
        let process = Process::spawn("openbgpd", command, Some(&lab.them), &log)?;
        let bgpd = Self {
            _process: process,
            socket,
        };
        eventually(PATIENCE, "bgpd answers", || bgpd.ask("show"))?;
        Ok(bgpd)
    }

    fn ask(&self, command: &str) -> Result<String> {
        run(Command::new("bgpctl")
            .arg("-s")
            .arg(&self.socket)
            .args(command.split_whitespace()))
    }

    /// An operator's word on our session, with the reason.
    fn neighbor(&self, verb: &str, why: &str) -> Result<String> {
        run(Command::new("bgpctl").arg("-s").arg(&self.socket).args([
            "neighbor",
            "192.0.2.1",
            verb,
            why,
        ]))
    }

    fn shows(&self, command: &str, text: &str, wanted: bool) -> Result<()> {
        let what = format!("bgpctl's `{command}` and `{text}`: {wanted}");
        eventually(PATIENCE, &what, || {
            let answer = self.ask(command)?;
            ensure!(answer.contains(text) == wanted, "{answer}");
            Ok(())
        })
    }
}

#[test]
fn routes_of_both_families_go_both_ways_with_communities_and_are_withdrawn() -> Result<()> {
    let lab = Lab::new()?;
    let bgpd = OpenBgpd::start(&lab, "")?;
    let mut config = config(them());
    config.peers.insert("2001:db8::2".parse()?, them());
    let ours = lab.speaker(&config)?;
    let attrs = LocalAttrs {
        communities: vec![65001 << 16 | 7],
        large_communities: vec![[65001, 5, 6]],
        med: Some(42),
        ..LocalAttrs::default()
    };
    let tell = |prefix: &str, action| -> Result<()> {
        let prefix = prefix.parse()?;
        let changes = vec![LocalRouteChange { prefix, action }];
        Ok(ours.runtime.block_on(ours.speaker.originate(changes))?)
    };
    for prefix in ["198.51.100.0/24", "2001:db8:100::/48"] {
        tell(prefix, LocalAction::Announce(attrs.clone()))?;
    }
    ours.is_up()?;
    ensure!(ours.learns("10.1.0.0/24")? == "[192.0.2.2]");
    ours.learns("2001:db8:beef::/48")?;
    let heard = ours.best("10.1.0.0/24")?.attrs;
    ensure!(heard.communities == [65002 << 16 | 9], "{heard:?}");
    ensure!(heard.large_communities == [[65002, 1, 2]], "{heard:?}");
    // Two-octet AS specific, route target (RFC 4360).
    let target = [0, 2, 0xfd, 0xea, 0, 0, 0, 3];
    ensure!(heard.ext_communities == [target], "{heard:?}");
    let command = "show rib detail 198.51.100.0/24";
    bgpd.shows(command, "Communities: 65001:7", true)?;
    bgpd.shows(command, "65001:5:6", true)?;
    bgpd.shows(command, "metric 42", true)?;
    bgpd.shows("show rib 2001:db8:100::/48", "2001:db8:100::/48", true)?;

    for prefix in ["198.51.100.0/24", "2001:db8:100::/48"] {
        tell(prefix, LocalAction::Withdraw)?;
        bgpd.shows("show rib", prefix, false)?;
    }
    bgpd.ask("network add 10.9.0.0/24")?;
    ours.learns("10.9.0.0/24")?;
    bgpd.ask("network delete 10.9.0.0/24")?;
    ours.loses("10.9.0.0/24")
}

#[test]
fn several_paths_are_sent() -> Result<()> {
    let lab = Lab::new()?;
    let bgpd = OpenBgpd::start(&lab, "announce add-path recv yes")?;
    let add_path = AddPathConfig {
        receive: false,
        send: Some(PathLimit::All),
    };
    let mut config = config(PeerConfig { add_path, ..them() });
    for asn in [65003, 65004] {
        let peer = PeerConfig {
            import: FilterConfig::accept_all(),
            passive: true,
            ..PeerConfig::new(asn)
        };
        let host = u8::try_from(asn - 65000)?;
        let key = std::net::IpAddr::from([192, 0, 2, host]).into();
        config.peers.insert(key, peer);
    }
    let _ours = lab.speaker(&config)?;
    let sources = [3, 4].map(|host| lab.source(&lab.them, host, 1, &["10.2.0.0/24"]));
    let [first, second] = sources;
    let (first, _second) = (first?, second?);
    let command = "show rib 10.2.0.0/24";
    bgpd.shows(command, "65001 65003", true)?;
    bgpd.shows(command, "65001 65004", true)?;
    first.originate(&["10.2.0.0/24"], false)?;
    bgpd.shows(command, "65001 65003", false)?;
    bgpd.shows(command, "65001 65004", true)
}

#[test]
fn rfc9003_a_stop_tells_why() -> Result<()> {
    let lab = Lab::new()?;
    let bgpd = OpenBgpd::start(&lab, "")?;
    let ours = lab.speaker(&config(them()))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    bgpd.shows("show rib", "198.51.100.0/24", true)?;
    let why = Shutdown::Administrative("new fans".to_owned());
    ours.runtime.block_on(ours.speaker.shutdown(why));
    bgpd.shows("show neighbor 192.0.2.1", "new fans", true)?;
    bgpd.shows("show rib", "198.51.100.0/24", false)
}

#[test]
fn rfc9003_why_it_stops_is_shown_here() -> Result<()> {
    let lab = Lab::new()?;
    let bgpd = OpenBgpd::start(&lab, "")?;
    let ours = lab.speaker(&config(them()))?;
    ours.is_up()?;
    bgpd.neighbor("down", "ticket 4711: neue Lüfter")?;
    let shown = "received cease: administrative shutdown (6/2): ticket 4711: neue Lüfter";
    ours.ended_by(shown)?;
    bgpd.ask("neighbor 192.0.2.1 up")?;
    ours.is_up()?;
    bgpd.neighbor("clear", "ticket 4712")?;
    ours.ended_by("received cease: administrative reset (6/4): ticket 4712")
}
