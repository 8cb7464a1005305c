//! The agent's log as an object a line.

use std::fs;

use anyhow::{Context, Result, ensure};
use margay_lab::{Agent, Datastore, Lab, eventually};
use serde_json::Value;

use crate::rig::SOON;

#[test]
fn the_log_is_an_object_a_line_when_it_is_asked_for() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut agent = Agent::prepare(&lab.hosts[0], &Datastore::Embedded)?;
    let config = fs::read_to_string(agent.config_file())? + "log_format: json\n";
    fs::write(agent.config_file(), config)?;
    agent.restart()?;
    eventually(SOON, "the agent is ready", || agent.ensure_ready())?;
    agent.process()?.stop()?;
    let log = fs::read_to_string(agent.log_file())?;
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    ensure!(lines.len() > 3, "{log}");
    for line in &lines {
        for key in ["timestamp", "level", "target", "message"] {
            ensure!(line[key].is_string(), "no {key}: {line}");
        }
    }
    // Values are fields of their own, to be searched for.
    ensure!(
        lines
            .iter()
            .any(|line| line.as_object().is_some_and(|o| o.len() > 4)),
        "{log}"
    );
    Ok(())
}
