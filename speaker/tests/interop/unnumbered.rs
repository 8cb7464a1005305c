//! Sessions on a link without configured addresses, as root in namespaces of their own: routers
//! find each other by router advertisements (RFC 4861), and IPv4 routes have link-local IPv6 next
//! hops (RFC 8950).
//!
//! 1. FRR with `neighbor eth0 interface remote-as external`: routes of both families go both ways
//!    and are withdrawn; the FIB gets the interface; the session comes back when FRR does.
//! 2. The same between two of us.
//! 3. With TCP MD5 (RFC 2385) the key is for whoever is found there: FRR and one of us with the right key
//!    come up, also after a new start, and one with another or none does not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use margay_lab::eventually;
use margay_speaker::{FilterConfig, PeerConfig, RemoteAs, Secret, Shutdown, SpeakerConfig, State};

use crate::{
    frr::Frr,
    support::{Lab, Ours, PATIENCE, ip, local_routes, them},
};

const FRR: &str = "router bgp 65002
 bgp router-id 192.0.2.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor eth0 interface remote-as external
 neighbor eth0 timers 3 9
 neighbor eth0 timers connect 1
 address-family ipv4 unicast
  network 10.1.0.0/24
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:beef::/48
  neighbor eth0 activate
 exit-address-family
";

/// A link with nothing but link-local addresses.
pub(crate) fn bare_link() -> Result<Lab> {
    let lab = Lab::new()?;
    for ns in [&lab.us, &lab.them] {
        ip(&format!("-n {ns} addr flush dev eth0 scope global"))?;
    }
    Ok(lab)
}

pub(crate) fn on_eth0(asn: u32) -> Result<SpeakerConfig> {
    let host = u8::try_from(asn - 65000)?;
    let mut config = SpeakerConfig::new(asn, [192, 0, 2, host].into());
    config.listen.insert("[::]:179".parse()?);
    let peer = PeerConfig {
        remote_as: RemoteAs::External,
        import: FilterConfig::accept_all(),
        ..them()
    };
    config.peers.insert("%eth0".parse()?, peer);
    Ok(config)
}

/// The route of an IPv4 prefix for the FIB leads to a link-local address on an interface.
fn reaches_the_fib(ours: &mut Ours, prefix: &str) -> Result<()> {
    loop {
        let next = async { tokio::time::timeout(PATIENCE, ours.fib.recv()).await };
        let batch = ours
            .runtime
            .block_on(next)?
            .context("the speaker stopped")?;
        let mut changes = batch.changes.iter();
        if let Some(change) = changes.find(|c| c.prefix.to_string() == prefix) {
            let [hop] = &change.next_hops[..] else {
                continue;
            };
            ensure!(
                hop.addr.to_string().starts_with("fe80::") && hop.scope != 0,
                "{hop:?}"
            );
            return Ok(());
        }
    }
}

#[test]
fn frr_is_found_on_the_interface() -> Result<()> {
    let lab = bare_link()?;
    let frr = Frr::start(&lab, FRR)?;
    let mut ours = lab.speaker(&on_eth0(65001)?)?;
    ours.originate(&["198.51.100.0/24", "2001:db8:100::/48"], true)?;
    ours.is_up()?;
    let status = ours.status()?;
    ensure!(
        status.key.to_string() == "%eth0" && status.remote_as == 65002,
        "{status:?}"
    );
    let hop = ours.learns("10.1.0.0/24")?;
    ensure!(hop.contains("fe80::"), "{hop}");
    ours.learns("2001:db8:beef::/48")?;
    reaches_the_fib(&mut ours, "10.1.0.0/24")?;
    frr.shows("show bgp ipv4 unicast 198.51.100.0/24", "fe80::", true)?;
    frr.shows(
        "show bgp ipv4 unicast 198.51.100.0/24",
        "Community: 65001:7",
        true,
    )?;
    frr.shows("show bgp ipv6 unicast 2001:db8:100::/48", "fe80::", true)?;
    // zebra has put it into the kernel.
    eventually(PATIENCE, "the kernel has the route", || {
        let routes = ip(&format!("-n {} route show 198.51.100.0/24", lab.them))?;
        ensure!(routes.contains("via inet6 fe80::"), "{routes}");
        Ok(())
    })?;
    ours.originate(&["198.51.100.0/24"], false)?;
    frr.shows("show bgp ipv4 unicast", "198.51.100.0/24", false)?;
    drop(frr);
    ours.loses("10.1.0.0/24")?;
    let _frr = Frr::start(&lab, FRR)?;
    ours.learns("10.1.0.0/24")?;
    Ok(())
}

#[test]
fn two_of_us_find_each_other() -> Result<()> {
    let lab = bare_link()?;
    let ours = lab.speaker_with(&on_eth0(65001)?, local_routes(&["198.51.100.0/24"], true)?)?;
    let theirs = local_routes(&["203.0.113.0/24"], true)?;
    let theirs = Lab::speaker_in(&lab.them, &on_eth0(65002)?, theirs)?;
    let hop = ours.learns("203.0.113.0/24")?;
    ensure!(hop.contains("fe80::"), "{hop}");
    theirs.learns("198.51.100.0/24")?;
    Ok(())
}

fn with_key(mut config: SpeakerConfig, key: Option<&str>) -> SpeakerConfig {
    for peer in config.peers.values_mut() {
        peer.password = key.map(|key| Secret::new(key.to_owned()));
    }
    config
}

#[test]
fn rfc2385_frr_on_the_interface_has_the_key() -> Result<()> {
    let lab = bare_link()?;
    let text = FRR.replace("external\n", "external\n neighbor eth0 password a-key\n");
    let frr = Frr::start(&lab, &text)?;
    let ours = lab.speaker(&with_key(on_eth0(65001)?, Some("a-key")))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    ours.learns("10.1.0.0/24")?;
    frr.shows("show bgp ipv4 unicast 198.51.100.0/24", "fe80::", true)?;
    drop(frr);
    ours.loses("10.1.0.0/24")?;
    let _frr = Frr::start(&lab, &text)?;
    ours.learns("10.1.0.0/24").map(drop)
}

#[test]
fn rfc2385_whoever_lacks_the_key_is_not_heard_on_the_interface() -> Result<()> {
    let lab = bare_link()?;
    let ours = lab.speaker(&with_key(on_eth0(65001)?, Some("a-key")))?;
    for wrong in [None, Some("another")] {
        // It finds us, and connects; who dials does not matter, one way is tried after the other.
        for passive in [false, true] {
            let mut config = with_key(on_eth0(65002)?, wrong);
            for peer in config.peers.values_mut() {
                peer.passive = passive;
            }
            let theirs = Lab::speaker_in(&lab.them, &config, Vec::new())?;
            let deadline = Instant::now() + Duration::from_secs(3);
            while Instant::now() < deadline {
                let (here, there) = (ours.status()?, theirs.status()?);
                ensure!(
                    here.state < State::OpenConfirm && there.state < State::OpenConfirm,
                    "{here:?} {there:?}"
                );
                std::thread::sleep(Duration::from_millis(50));
            }
            let bye = Shutdown::Administrative(String::new());
            theirs.runtime.block_on(theirs.speaker.shutdown(bye));
        }
    }
    let right = with_key(on_eth0(65002)?, Some("a-key"));
    let theirs = Lab::speaker_in(&lab.them, &right, local_routes(&["203.0.113.0/24"], true)?)?;
    ours.learns("203.0.113.0/24")?;
    // Of who listened for it before only the connection is left.
    drop(theirs);
    ours.loses("203.0.113.0/24")
}
