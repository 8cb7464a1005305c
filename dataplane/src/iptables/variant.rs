//! The two variants of iptables, and how their programs are run.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use super::{ChainHits, Saved};
use crate::filter::Family;

/// Which kernel interface holds the rules. The two do not see each other's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// `iptables-legacy`: the `ip_tables` kernel interface.
    Legacy,
    /// `iptables-nft`: nf_tables underneath.
    Nft,
}

impl Variant {
    /// The other variant.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Legacy => Self::Nft,
            Self::Nft => Self::Legacy,
        }
    }

    /// The word in program names and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }

    /// Finds the variant that this network namespace already uses: the one with more rules of
    /// others, else the one with rules of ours, else nft if installed.
    ///
    /// # Errors
    /// When neither variant is installed.
    pub fn detect(programs: &Programs) -> Result<Self, BackendError> {
        let holdings = holdings(programs);
        in_use(&holdings).map(|holding| holding.variant)
    }
}

/// What a variant holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub(crate) variant: Variant,
    /// Rules of others, and chains of theirs that do not accept at their end.
    pub(crate) others: usize,
    pub(crate) ours: usize,
}

/// What each variant that is installed holds. The four programs run at the same time.
pub(crate) fn holdings(programs: &Programs) -> Vec<Holding> {
    let one = |variant: Variant| {
        thread::scope(|scope| {
            let v6 = scope.spawn(move || programs.save(variant, Family::V6).ok());
            let v4 = programs.save(variant, Family::V4).ok()?;
            let v6 = v6.join().ok().flatten().unwrap_or_default();
            Some(Holding {
                variant,
                others: v4.foreign_rules + v6.foreign_rules,
                ours: v4.our_rules + v6.our_rules,
            })
        })
    };
    thread::scope(|scope| {
        let legacy = scope.spawn(move || one(Variant::Legacy));
        let nft = one(Variant::Nft);
        let legacy = legacy.join().ok().flatten();
        nft.into_iter().chain(legacy).collect()
    })
}

/// The variant to use beside what there is.
///
/// # Errors
/// When neither is installed.
pub(crate) fn in_use(holdings: &[Holding]) -> Result<&Holding, BackendError> {
    let weight = |holding: &&Holding| {
        let is_nft = holding.variant == Variant::Nft;
        (holding.others, holding.ours, is_nft)
    };
    let heaviest = holdings.iter().max_by_key(weight);
    heaviest.ok_or(BackendError::NotInstalled)
}

/// Why no variant can be used.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No iptables at all.
    #[error("neither iptables-nft nor iptables-legacy is installed or usable")]
    NotInstalled,
}

/// Why a program failed. The caller retries: at once in smaller parts when
/// [`RestoreError::is_refusal`], else later.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The program could not be run.
    #[error("{program}: {source}")]
    Spawn {
        /// Program name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program ended with an error.
    #[error("{program} failed ({status}): {message}")]
    Failed {
        /// Program name.
        program: String,
        /// Exit status.
        status: String,
        /// Exit code, if it was not killed.
        code: Option<i32>,
        /// What it wrote, on one line.
        message: String,
    },
}

/// iptables' exit code when the lock was not to be had or the kernel was short of something.
const RESOURCE_PROBLEM: i32 = 4;

impl RestoreError {
    /// The input itself was refused, so that another attempt with the same input is useless.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Spawn { .. } => false,
            // The nft variant reports a refusal by the kernel with the same code as a busy lock.
            Self::Failed { code, message, .. } => match code {
                Some(RESOURCE_PROBLEM) => !message.contains("xtables lock"),
                Some(_) => true,
                None => false,
            },
        }
    }
}

impl RestoreError {
    /// There is no such program.
    #[must_use]
    pub fn is_not_installed(&self) -> bool {
        matches!(self, Self::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Where the iptables programs are and how long they may wait for the lock.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Directory searched before `PATH`.
    pub directory: Option<PathBuf>,
    /// Limit for waiting for the xtables lock (legacy only; nft has none), in whole seconds.
    pub lock_timeout: Duration,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            directory: None,
            lock_timeout: Duration::from_secs(10),
        }
    }
}

impl Programs {
    fn command(&self, variant: Variant, family: Family, verb: &str) -> (String, Command) {
        let base = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let program = format!("{base}-{}-{verb}", variant.name());
        let in_directory = self.directory.as_ref().map(|dir| dir.join(&program));
        let path = in_directory
            .filter(|path| path.exists())
            .unwrap_or_else(|| (&program).into());
        let mut command = Command::new(path);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        (program, command)
    }

    /// Reads all tables of a family back.
    pub(crate) fn save(&self, variant: Variant, family: Family) -> Result<Saved, RestoreError> {
        let (program, mut command) = self.command(variant, family, "save");
        let output = command
            .output()
            .map_err(|source| spawn_error(&program, source))?;
        let output = check(program, output)?;
        Ok(Saved::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Reads how often the rules of our chains matched.
    pub(crate) fn counters(
        &self,
        variant: Variant,
        family: Family,
    ) -> Result<ChainHits, RestoreError> {
        let (program, mut command) = self.command(variant, family, "save");
        let output = command
            .arg("--counters")
            .output()
            .map_err(|source| spawn_error(&program, source))?;
        let output = check(program, output)?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(super::counters::parse(&text))
    }

    /// Runs one batch; each table in it is changed atomically. Whatever comes of it, the process is one of `writers`.
    pub(crate) fn restore(
        &self,
        variant: Variant,
        family: Family,
        input: &str,
        writers: &mut Vec<u32>,
    ) -> Result<(), RestoreError> {
        let (program, mut command) = self.command(variant, family, "restore");
        command
            .arg("--noflush")
            .arg(format!("--wait={}", self.lock_timeout.as_secs().max(1)));
        let fail = |source| spawn_error(&program, source);
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(fail)?;
        writers.push(child.id());
        // A program that ends before it read everything explains itself on stderr.
        let written = match child.stdin.take() {
            Some(mut stdin) => stdin.write_all(input.as_bytes()),
            None => Ok(()),
        };
        let output = child.wait_with_output().map_err(fail)?;
        check(program.clone(), output)?;
        written.map_err(fail)
    }
}

fn spawn_error(program: &str, source: io::Error) -> RestoreError {
    RestoreError::Spawn {
        program: program.to_owned(),
        source,
    }
}

fn check(program: String, output: Output) -> Result<Output, RestoreError> {
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = text.lines().map(str::trim).filter(|line| {
        !line.is_empty() && !line.starts_with("Try `") && !line.starts_with("# Warning")
    });
    let message = lines.collect::<Vec<_>>().join("; ");
    let status = output.status.to_string();
    Err(RestoreError::Failed {
        program,
        status,
        code: output.status.code(),
        message,
    })
}
