//! The page in headless Chromium: what a person sees in each main state. The pictures are left in
//! `target/screenshots`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use margay_lab::{NetNs, eventually, run};
use tempfile::TempDir;

use crate::rig::{Rig, SOON, get};

/// Chromium without a window and without a word to anybody but the page.
pub(crate) const ALONE: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

const PAGE: &str = "http://127.0.0.1:9089/";

/// How long the page may draw, in milliseconds of its own clock, which runs as fast as it can.
const BUDGET: &str = "--virtual-time-budget=3000";

/// Chromium inside a host, with a folder of its own.
struct Browser<'a> {
    host: &'a NetNs,
    profile: TempDir,
    pictures: PathBuf,
}

/// The folder for pictures.
pub(crate) fn pictures() -> Result<PathBuf> {
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/screenshots");
    fs::create_dir_all(&pictures)?;
    Ok(pictures)
}

impl<'a> Browser<'a> {
    fn new(host: &'a NetNs) -> Result<Self> {
        Ok(Self {
            host,
            profile: tempfile::tempdir()?,
            pictures: pictures()?,
        })
    }

    fn command(&self) -> Command {
        let mut command = self.host.command("chromium");
        command.args(ALONE).args(["--hide-scrollbars", BUDGET]);
        let profile = self.profile.path().display();
        command.arg(format!("--user-data-dir={profile}"));
        command
    }

    /// The elements of a view, after its script has run.
    fn dom(&self, view: &str) -> Result<String> {
        let mut command = self.command();
        let dom = run(command.arg("--dump-dom").arg(format!("{PAGE}#{view}")))?;
        ensure!(
            dom.contains(&format!("data-ready=\"{view}\"")),
            "not drawn: {dom}"
        );
        Ok(dom)
    }

    /// Waits until a view shows all of these words.
    fn await_words(&self, view: &str, words: &[&str]) -> Result<()> {
        eventually(SOON, &format!("the view {view} shows {words:?}"), || {
            let dom = self.dom(view)?;
            let missing: Vec<_> = words.iter().filter(|word| !dom.contains(**word)).collect();
            ensure!(missing.is_empty(), "{missing:?} not in {dom}");
            Ok(())
        })
    }

    fn picture(&self, view: &str, name: &str, height: u32) -> Result<()> {
        let file = self.pictures.join(format!("{name}.png"));
        let mut command = self.command();
        command.arg(format!("--screenshot={}", file.display()));
        command.arg(format!("--window-size=1280,{height}"));
        run(command.arg(format!("{PAGE}#{view}")))?;
        let size = fs::metadata(&file).context("no picture")?.len();
        ensure!(size > 10_000, "{} has {size} octets", file.display());
        Ok(())
    }
}

#[test]
fn the_page_shows_each_main_state() -> Result<()> {
    let mut rig = Rig::start(2)?;
    let Rig { cluster, tor } = &mut rig;
    let mut containers = vec![cluster.attach(0, "web")?, cluster.attach(1, "db")?];
    let host = &cluster.lab.hosts[0].netns;
    let browser = Browser::new(host)?;

    browser.await_words(
        "overview",
        &["all is well", "h1-tor-v4", "Established", "demo-v4"],
    )?;
    browser.picture("overview", "healthy", 900)?;
    browser.await_words("topology", &["<svg", "mesh h2: Established", "AS 65000"])?;
    browser.picture("topology", "topology", 700)?;
    browser.await_words("routes", &["10.65.", "192.0.2."])?;
    browser.await_words("endpoints", &["web", "eth0"])?;
    browser.await_words("policy", &["class=\"matrix\"", "✓"])?;
    guarded(host)?;

    // A pool of four, all of them held.
    let small = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: small}\n\
        spec: {cidr: 10.66.0.0/30, blockSize: 30}\n";
    cluster.ctl().apply(small)?;
    cluster
        .ctl()
        .run("patch ippool demo-v4 -p {\"spec\":{\"disabled\":true}}")?;
    browser.await_words("addresses", &["small", "(disabled)", "2⁸⁰"])?;
    for number in 0..4 {
        containers.push(cluster.attach(0, &format!("c{number}"))?);
    }
    browser.await_words("overview", &["Pool small is full", "4 of 4"])?;
    browser.picture("addresses", "pool-full", 700)?;

    // Packets that policy drops.
    let closed = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: closed}\n\
        spec: {selector: all(), types: [Ingress], ingress: [{action: Deny, protocol: ICMP}]}\n";
    cluster.ctl().apply(closed)?;
    let to = containers[2].addresses[0];
    browser.await_words("policy", &["✕"])?;
    eventually(SOON, "a packet is dropped", || {
        // It has no answer: that is what is wanted.
        drop(
            containers[0]
                .netns
                .exec(&format!("ping -c 3 -i 0.2 -W 1 {to}")),
        );
        let dom = browser.dom("flows")?;
        ensure!(
            dom.contains("rule 0 of GlobalNetworkPolicy/closed"),
            "{dom}"
        );
        Ok(())
    })?;
    browser.await_words("overview", &["dropped by policy lately"])?;
    browser.picture("flows", "drops", 700)?;
    browser.picture("policy", "policy", 900)?;

    // The router goes.
    tor.process().stop()?;
    browser.await_words("overview", &["Session with h1-tor-v4", "to look at"])?;
    browser.picture("overview", "session-down", 1000)?;
    browser.picture("topology", "topology-down", 700)
}

/// The headers, and names that are not ours.
fn guarded(host: &NetNs) -> Result<()> {
    let headers = host.exec(&format!("curl -sS -D - -o /dev/null {PAGE}"))?;
    for header in [
        "content-security-policy: default-src 'none'",
        "cache-control: no-store",
    ] {
        ensure!(headers.contains(header), "{headers}");
    }
    let foreign = host.exec(&format!(
        "curl -sS -o /dev/null -w %{{http_code}} -H Host:evil.example {PAGE}"
    ))?;
    ensure!(foreign == "421", "{foreign}");
    let written = host.exec(&format!(
        "curl -sS -o /dev/null -w %{{http_code}} -X POST {PAGE}api/node"
    ))?;
    ensure!(written == "405", "{written}");
    let none = host.exec(&format!(
        "curl -sS -o /dev/null -w %{{http_code}} {PAGE}api/none"
    ))?;
    ensure!(none == "404", "{none}");
    ensure!(
        get(host, &format!("{PAGE}api/node"))?.contains("\"node\":\"h1\""),
        "the node"
    );
    Ok(())
}
