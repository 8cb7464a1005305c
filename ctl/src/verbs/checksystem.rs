//! `node checksystem`: whether this host can run the agent, and what to do if not.

mod conflicts;
mod forward;
mod kernel;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::cli::StatusOutput;
use crate::context::Streams;
use crate::failure::Fatal;
use crate::host::Host;
use crate::table::Table;
use crate::verbs::selector::print_json;

pub(crate) const HELP: &str = "\
Example:
  margayctl node checksystem

Changes nothing. Exit code 1 if anything failed; warnings are none.";

/// How to check.
#[derive(Debug, Args)]
pub(crate) struct Checksystem {
    /// The configuration that the kernel was built with [default: /proc/config.gz, /boot/config-RELEASE]
    #[arg(short = 'f', long, value_name = "FILE")]
    kernel_config: Option<String>,
    /// Also list what is as it should be
    #[arg(short, long)]
    all: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

/// What is found where forwarding is switched off.
const NOT_FORWARDED: &str = "is not forwarded";

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// As it should be.
    Ok,
    /// The agent works, not all of it or not well.
    Warning,
    /// The agent does not work.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What.
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    /// What was found.
    pub(crate) found: String,
    /// What to do; empty where there is nothing to do.
    pub(crate) fix: String,
}

impl Check {
    fn new(name: impl Into<String>, outcome: Outcome, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            outcome,
            found: found.into(),
            fix: String::new(),
        }
    }

    /// Whether the host was told to forward nothing.
    pub(crate) fn is_forwarding_off(&self) -> bool {
        self.outcome == Outcome::Warning && self.found.ends_with(NOT_FORWARDED)
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

/// Looks at everything.
pub(crate) fn look(host: &Host, kernel_config: Option<&str>) -> Vec<Check> {
    let mut checks = kernel::checks(host, kernel_config);
    checks.extend(conflicts::checks(host));
    checks
}

/// The same, and what programs of the host have to be asked for.
pub(crate) async fn look_and_ask(host: &Host, kernel_config: Option<&str>) -> Vec<Check> {
    let mut checks = look(host, kernel_config);
    if host.is_this() {
        checks.extend(forward::checks(host).await);
    }
    checks
}

/// Prints what was found, and what to do.
pub(crate) async fn checksystem(
    args: &Checksystem,
    host: &Host,
    streams: &mut Streams<'_>,
) -> Result<(), Fatal> {
    let checks = look_and_ask(host, args.kernel_config.as_deref()).await;
    let count = |outcome| {
        checks
            .iter()
            .filter(|check| check.outcome == outcome)
            .count()
    };
    let (failed, warnings) = (count(Outcome::Failed), count(Outcome::Warning));
    streams.failed |= failed > 0;
    if args.output == StatusOutput::Json {
        return print_json(&json!({"ready": failed == 0, "checks": checks}), streams);
    }
    let mut table = Table::new(["CHECK", "RESULT", "FOUND"]);
    let shown = checks
        .iter()
        .filter(|check| args.all || check.outcome != Outcome::Ok);
    for check in shown.clone() {
        let word = match check.outcome {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "FAILED",
        };
        table.row([check.name.as_str(), word, check.found.as_str()]);
    }
    if shown.clone().next().is_some() {
        streams.show(&table)?;
        streams.say("")?;
    }
    for check in shown.filter(|check| !check.fix.is_empty()) {
        streams.say(&format!("{}: {}", check.name, check.fix))?;
    }
    streams.say(&format!(
        "{} checks: {} ok, {} to look at, {failed} failed. This host can{} run the agent.",
        checks.len(),
        checks.len() - failed - warnings,
        warnings,
        if failed == 0 { "" } else { "not" }
    ))
}

/// The checks as text, for an archive.
pub(crate) fn text(checks: &[Check]) -> String {
    let line = |check: &Check| {
        format!(
            "{:?}\t{}\t{}\t{}\n",
            check.outcome, check.name, check.found, check.fix
        )
    };
    checks.iter().map(line).collect()
}

#[cfg(test)]
mod tests;
