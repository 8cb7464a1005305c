//! Metrics, alerts and the dashboard, by Prometheus itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use margay_lab::{EtcdTls, Prometheus, dashboard_queries, eventually, monitoring_file, run};

use crate::rig::{Rig, SOON, get};

const METRICS: &str = "http://127.0.0.1:9091/metrics";

/// Of the text format: every name, without what a summary adds.
fn names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|rest| Some(rest.split(' ').next()?.to_owned()))
        .collect()
}

/// Every name of ours, or of the established system, that a text speaks of.
fn spoken_of(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c));
    let prefixes = ["margay_", "felix_", "ipam_", "process_"];
    words
        .filter(|w| {
            prefixes
                .iter()
                .any(|prefix| w.starts_with(prefix) && w.len() > prefix.len())
        })
        .map(|w| {
            w.trim_end_matches("_count")
                .trim_end_matches("_sum")
                .to_owned()
        })
        .collect()
}

/// A Prometheus on the host that asks the agent every second.
fn start_prometheus(rig: &Rig) -> Result<Prometheus> {
    let dir = rig.cluster.lab.hosts[0].dir.join("prometheus");
    fs::create_dir_all(&dir)?;
    let config = fs::read_to_string(monitoring_file("prometheus.yaml"))?;
    let config = config.replace(
        "scrape_interval: 15s",
        "scrape_interval: 1s\n  evaluation_interval: 1s",
    );
    fs::write(dir.join("prometheus.yaml"), config)?;
    fs::copy(monitoring_file("rules.yaml"), dir.join("rules.yaml"))?;
    let mut command = Command::new("prometheus");
    command
        .arg(format!(
            "--config.file={}",
            dir.join("prometheus.yaml").display()
        ))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.join("data").display()
        ))
        .arg("--web.listen-address=127.0.0.1:9090");
    Prometheus::start(rig.host(), command, &dir.join("prometheus.log"))
}

#[test]
fn every_metric_alert_and_panel_resolves_against_a_live_agent() -> Result<()> {
    run(Command::new("promtool")
        .args(["check", "rules"])
        .arg(monitoring_file("rules.yaml")))?;
    run(Command::new("promtool")
        .args(["test", "rules"])
        .arg(monitoring_file("rules-test.yaml")))?;
    run(Command::new("promtool")
        .args(["check", "config"])
        .arg(monitoring_file("prometheus.yaml")))?;
    let rig = Rig::start(2)?;
    let _container = rig.cluster.attach(0, "c1")?;
    let mut prometheus = start_prometheus(&rig)?;

    let text = get(rig.host(), METRICS)?;
    well_formed(&text)?;
    let live = names(&text);
    let rules = fs::read_to_string(monitoring_file("rules.yaml"))?;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let docs = fs::read_to_string(docs)?;
    let queries = dashboard_queries()?;
    let board: String = queries
        .iter()
        .map(|(_, expr)| format!("{expr}\n"))
        .collect();
    // Where BFD watches nothing there is nothing to tell.
    let known: BTreeSet<_> = live
        .iter()
        .cloned()
        .chain(
            [
                "margay_bfd_up",
                "margay_dns_endpoints",
                "margay_dns_queries_total",
            ]
            .map(str::to_owned),
        )
        .collect();
    for (whose, text) in [
        ("rules.yaml", &rules),
        ("the dashboard", &board),
        ("docs/metrics.md", &docs),
    ] {
        let missing: Vec<_> = spoken_of(text).difference(&known).cloned().collect();
        // The page of the documentation says which beginnings of names there are not.
        let missing: Vec<_> = missing
            .into_iter()
            .filter(|name| {
                ![
                    "felix_exec_time",
                    "felix_route_table_per_iface_sync",
                    "felix_route_table_conntrack",
                ]
                .contains(&name.as_str())
            })
            .collect();
        ensure!(
            missing.is_empty(),
            "{whose} speaks of {missing:?}, the agent has {live:?}"
        );
    }
    let undocumented: Vec<_> = live.difference(&spoken_of(&docs)).cloned().collect();
    ensure!(
        undocumented.is_empty(),
        "not in docs/metrics.md: {undocumented:?}"
    );

    for (title, expr) in &queries {
        eventually(SOON, &format!("panel {title:?}"), || {
            let result = prometheus.query(expr)?;
            ensure!(!result.is_empty(), "{expr} gives nothing");
            Ok(())
        })?;
    }
    // What was so while the hosts started is over then.
    eventually(SOON, "no alert", || {
        let rules = prometheus.rules()?;
        ensure!(rules.len() > 12, "{} rules", rules.len());
        for rule in &rules {
            ensure!(rule["health"] != "err", "{rule}");
            ensure!(rule["state"] == "inactive", "nothing is wrong, but: {rule}");
        }
        Ok(())
    })
}

/// By the tool of Prometheus; names of the established system are not to its taste.
fn well_formed(text: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    std::io::Write::write_all(&mut stdin, text.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let ours = said
        .lines()
        .filter(|line| line.starts_with("margay_") || line.starts_with("process_"));
    let ours: Vec<_> = ours.collect();
    // 3: there is something to be said about names.
    match output.status.code() {
        Some(0 | 3) if ours.is_empty() => Ok(()),
        _ => bail!("promtool check metrics: {said}"),
    }
}

#[test]
fn metrics_by_tls_are_for_those_with_a_certificate() -> Result<()> {
    let tls = EtcdTls::new("prometheus")?;
    let mut rig = Rig::start(1)?;
    let agent = &mut rig.cluster.agents[0];
    let mut config = fs::read_to_string(agent.config_file())?;
    config += &format!(
        "metrics_tls: {{cert_file: {}, key_file: {}, client_ca_file: {}}}\n",
        tls.file("server.pem").display(),
        tls.file("server.key").display(),
        tls.file("ca.pem").display()
    );
    fs::write(agent.config_file(), config)?;
    agent.restart()?;
    let ca = format!("--cacert {}", tls.file("ca.pem").display());
    let own = format!(
        "--cert {} --key {}",
        tls.file("client.pem").display(),
        tls.file("client.key").display()
    );
    let ask = |flags: &str| {
        let line = format!("curl -sS --fail --max-time 10 {flags} https://127.0.0.1:9091/metrics");
        rig.host().exec(&line)
    };
    let text = eventually(SOON, "metrics by TLS", || ask(&format!("{ca} {own}")))?;
    ensure!(text.contains("margay_agent_ready"), "{text}");
    ensure!(ask(&ca).is_err(), "answered without a certificate");
    ensure!(ask("").is_err(), "believed without its authority");
    ensure!(get(rig.host(), METRICS).is_err(), "answered without TLS");
    Ok(())
}
