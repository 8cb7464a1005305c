//! Against ExaBGP, which sends whatever it is told, as root in namespaces of their own.
//!
//! 1. Routes of both families go both ways with communities and are withdrawn.
//! 2. Malformed attributes cost what RFC 7606 says, each its route or only itself, and never the
//!    session; an unknown attribute stays.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use margay_lab::{Process, eventually, run};

use crate::support::{Lab, PATIENCE, config, them};

/// A running ExaBGP, and the pipe by which it is told what to do.
struct Exabgp {
    _process: Process,
    say: File,
    heard: std::path::PathBuf,
}

impl Exabgp {
    fn start(lab: &Lab) -> Result<Self> {
        let dir = lab.dir.path();
        let (say, heard) = (dir.join("say"), dir.join("heard"));
        run(Command::new("mkfifo").arg(&say))?;
        let script = dir.join("helper");
        // What ExaBGP hears goes into one file, what it is told comes from another.
        let text = format!(
            "#!/bin/sh\nexec 3<&0\ncat <&3 >>{} &\nexec cat {}\n",
            heard.display(),
            say.display()
        );
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let conf = dir.join("exabgp.conf");
        std::fs::write(
            &conf,
            format!(
                "process helper {{ run {}; encoder text; }}
                 neighbor 192.0.2.1 {{
                   router-id 192.0.2.2; local-address 192.0.2.2; local-as 65002; peer-as 65001;
                   hold-time 9;
                   family {{ ipv4 unicast; ipv6 unicast; }}
                   api {{ processes [ helper ]; receive {{ parsed; update; }} }}
                 }}\n",
                script.display()
            ),
        )?;
        let mut command = Command::new("exabgp");
        command
            .arg(&conf)
            .env("exabgp.api.cli", "false")
            .env("exabgp.api.ack", "false")
            .env("exabgp.daemon.user", "root")
            .env("exabgp.daemon.drop", "false");
        let log = dir.join("exabgp.log");
        let process = Process::spawn("exabgp", command, Some(&lab.them), &log)?;
        // Opened for both, so that neither side waits for the other nor sees an end.
        let say = OpenOptions::new().read(true).write(true).open(&say)?;
        Ok(Self {
            _process: process,
            say,
            heard,
        })
    }

    fn say(&mut self, command: &str) -> Result<()> {
        Ok(writeln!(self.say, "{command}")?)
    }

    fn hears(&self, text: &str) -> Result<()> {
        eventually(PATIENCE, &format!("exabgp hears `{text}`"), || {
            let all = std::fs::read_to_string(&self.heard).context("nothing yet")?;
            ensure!(all.contains(text), "{all}");
            Ok(())
        })
    }
}

#[test]
fn routes_go_both_ways_with_communities_and_are_withdrawn() -> Result<()> {
    let lab = Lab::new()?;
    let mut exabgp = Exabgp::start(&lab)?;
    let ours = lab.speaker(&config(them()))?;
    ours.originate(&["198.51.100.0/24", "2001:db8:100::/48"], true)?;
    ours.is_up()?;
    exabgp.say(
        "announce route 10.1.0.0/24 next-hop 192.0.2.2 med 7 community [65002:9] \
         large-community [65002:1:2] extended-community [target:65002:3]",
    )?;
    exabgp.say("announce route 2001:db8:beef::/48 next-hop 2001:db8::2")?;
    ours.learns("2001:db8:beef::/48")?;
    ensure!(ours.learns("10.1.0.0/24")? == "[192.0.2.2]");
    let heard = ours.best("10.1.0.0/24")?.attrs;
    ensure!(heard.communities == [65002 << 16 | 9], "{heard:?}");
    ensure!(heard.large_communities == [[65002, 1, 2]], "{heard:?}");
    let target = [0, 2, 0xfd, 0xea, 0, 0, 0, 3];
    ensure!(
        heard.ext_communities == [target] && heard.med == Some(7),
        "{heard:?}"
    );
    exabgp.hears("198.51.100.0/24 next-hop 192.0.2.1")?;
    exabgp.hears("2001:db8:100::/48 next-hop 2001:db8::1")?;
    ours.originate(&["198.51.100.0/24"], false)?;
    exabgp.hears("withdrawn 198.51.100.0/24")?;
    exabgp.say("withdraw route 10.1.0.0/24 next-hop 192.0.2.2")?;
    ours.loses("10.1.0.0/24")?;
    ours.learns("2001:db8:beef::/48")?;
    Ok(())
}

#[test]
fn rfc7606_malformed_attributes_cost_what_they_should_and_no_session() -> Result<()> {
    let lab = Lab::new()?;
    let mut exabgp = Exabgp::start(&lab)?;
    let ours = lab.speaker(&config(them()))?;
    ours.is_up()?;
    let announce = |more: &str| format!("announce route 10.9.0.0/24 next-hop 192.0.2.2 {more}");
    // Type, flags and value; the section is of RFC 7606.
    for (attribute, section) in [
        ("[0x04 0x80 0x01]", "7.4, MULTI_EXIT_DISC of one octet"),
        ("[0x08 0xc0 0x010203]", "7.8, COMMUNITIES of three octets"),
        (
            "[0x10 0xc0 0x01020304]",
            "7.14, EXTENDED COMMUNITIES of four octets",
        ),
        (
            "[0x20 0xc0 0x0102]",
            "RFC 8092 section 6, LARGE COMMUNITIES of two octets",
        ),
    ] {
        exabgp.say(&announce(""))?;
        ours.learns("10.9.0.0/24")?;
        exabgp.say(&announce(&format!("attribute {attribute}")))?;
        ours.loses("10.9.0.0/24")
            .with_context(|| section.to_owned())?;
    }
    // Discarded, the route stays: 7.7, AGGREGATOR of one octet.
    exabgp.say(&announce("attribute [0x07 0xc0 0x01] community [65002:77]"))?;
    ours.learns("10.9.0.0/24")?;
    let attrs = ours.best("10.9.0.0/24")?.attrs;
    ensure!(attrs.aggregator.is_none() && attrs.communities == [65002 << 16 | 77]);
    // Unknown, optional and transitive: RFC 4271 section 5.
    exabgp.say(&announce(
        "attribute [0x99 0xc0 0x0102] community [65002:78]",
    ))?;
    eventually(PATIENCE, "the unknown attribute is kept", || {
        let attrs = ours.best("10.9.0.0/24")?.attrs;
        ensure!(attrs.communities == [65002 << 16 | 78], "{attrs:?}");
        ensure!(attrs.unknown.len() == 1, "{attrs:?}");
        Ok(())
    })?;
    let status = ours.status()?;
    ensure!(
        status.established_count == 1 && status.uptime.is_some(),
        "{status:?}"
    );
    Ok(())
}
