//! What the demo prints: steps, checks, and the sum.

use std::fmt::Display;
use std::time::Instant;

use anyhow::{Result, anyhow};
use margay_lab::ensure_not_interrupted;

/// Counts checks and prints them as they come.
#[derive(Debug)]
pub(crate) struct Report {
    begun: Instant,
    steps: usize,
    passed: usize,
    failed: usize,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            steps: 0,
            passed: 0,
            failed: 0,
        }
    }

    /// Begins a step: its title and what it proves.
    pub(crate) fn step(&mut self, title: &str, proves: &str) {
        self.steps += 1;
        let at = self.begun.elapsed().as_secs_f32();
        println!("\n{}. {title}  [{at:.1} s]\n   {proves}", self.steps);
    }

    /// Anything worth seeing, indented.
    pub(crate) fn show(&self, text: &str) {
        for line in text.lines() {
            println!("     {line}");
        }
    }

    /// Counts a check. The answer tells whether it passed.
    pub(crate) fn check<T: Display>(&mut self, what: &str, result: Result<T>) -> Result<bool> {
        ensure_not_interrupted()?;
        match &result {
            Ok(detail) => {
                self.passed += 1;
                let detail = detail.to_string();
                let dash = if detail.is_empty() { "" } else { ": " };
                println!("   ok    {what}{dash}{detail}");
            }
            Err(error) => {
                self.failed += 1;
                println!("   FAIL  {what}: {error:#}");
            }
        }
        Ok(result.is_ok())
    }

    /// A check without which there is no going on.
    pub(crate) fn need<T>(
        &mut self,
        what: &str,
        result: Result<T>,
        detail: impl FnOnce(&T) -> String,
    ) -> Result<T> {
        match result {
            Ok(value) => {
                self.check(what, Ok(detail(&value)))?;
                Ok(value)
            }
            Err(error) => {
                self.check::<&str>(what, Err(error))?;
                Err(anyhow!("cannot go on: {what} failed"))
            }
        }
    }

    /// Prints the sum; true when all is well.
    pub(crate) fn finish(&self) -> bool {
        let took = self.begun.elapsed().as_secs_f32();
        println!(
            "\ndemo: {} checks passed, {} failed  ({took:.0} s)",
            self.passed, self.failed
        );
        self.failed == 0 && self.passed > 0
    }
}

/// A duration in milliseconds, for people.
pub(crate) fn millis(time: std::time::Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
