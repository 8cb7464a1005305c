//! Prometheus, and what the shipped dashboard asks it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::eventually::eventually;
use crate::netns::NetNs;
use crate::process::{Process, run, within};

const START: Duration = Duration::from_secs(60);

const URL: &str = "http://127.0.0.1:9090";

/// A running Prometheus. Dropping it kills it.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    netns: String,
}

impl Prometheus {
    /// Runs this command, which is to listen on port 9090 of the namespace's loopback address, and waits until it
    /// answers.
    pub fn start(netns: &NetNs, command: Command, log: &Path) -> Result<Self> {
        let netns = netns.name();
        let mut prometheus = Self {
            process: Process::spawn("prometheus", command, Some(netns), log)?,
            netns: netns.to_owned(),
        };
        eventually(START, "Prometheus is ready", || {
            prometheus.process.ensure_running()?;
            prometheus.get("/-/ready", &[])
        })?;
        Ok(prometheus)
    }

    /// What a query gives.
    pub fn query(&mut self, expr: &str) -> Result<Vec<Value>> {
        self.process.ensure_running()?;
        let text = self.get("/api/v1/query", &[&format!("query={expr}")])?;
        let answer: Value = serde_json::from_str(&text)?;
        ensure!(answer["status"] == "success", "{expr}: {answer}");
        let result = answer["data"]["result"].as_array();
        Ok(result.cloned().unwrap_or_default())
    }

    /// All rules of all groups, each with its health and state.
    pub fn rules(&self) -> Result<Vec<Value>> {
        let answer: Value = serde_json::from_str(&self.get("/api/v1/rules", &[])?)?;
        let groups = answer["data"]["groups"].as_array().context("no groups")?;
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    fn get(&self, path: &str, fields: &[&str]) -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "--max-time", "10", "-G"]);
        for field in fields {
            command.args(["--data-urlencode", field]);
        }
        command.arg(format!("{URL}{path}"));
        run(&mut within(&self.netns, &command))
    }
}

/// A file of `deploy/monitoring`.
pub fn monitoring_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/monitoring")
        .join(name)
}

/// The queries of every panel of the dashboard with the panel's title, as Grafana would send them.
pub fn dashboard_queries() -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(monitoring_file("grafana-margay.json"))?;
    let board: Value = serde_json::from_str(&text)?;
    let mut queries = Vec::new();
    let panels = board["panels"].as_array().context("no panels")?;
    for panel in panels {
        let title = panel["title"].as_str().context("a panel without a title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"]
                .as_str()
                .context("a target without a query")?;
            let expr = expr
                .replace("$instance", ".*")
                .replace("$__rate_interval", "30s");
            queries.push((title.to_owned(), expr));
        }
    }
    ensure!(queries.len() > 40, "{} queries", queries.len());
    Ok(queries)
}
