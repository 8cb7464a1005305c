//! What a command works with: datastore, streams and the exit code so far.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::client::Client;
use crate::config::Explained;
use crate::failure::{Failure, Fatal, single};
use crate::host::Host;
use crate::table::Table;
use crate::terminal::{Paint, Terminal};
use margay_model::kind::ResourceKey;

/// Streams, and whether something failed.
pub(crate) struct Streams<'a> {
    pub(crate) stdin: &'a mut dyn Read,
    pub(crate) stdout: &'a mut dyn Write,
    pub(crate) stderr: &'a mut dyn Write,
    /// What stdout and stderr are connected to.
    pub(crate) terminal: Terminal,
    /// Whether something was refused, damaged or not found.
    pub(crate) failed: bool,
}

/// Everything that a command works with.
pub(crate) struct Context<'a> {
    pub(crate) client: Client,
    /// The agent's socket.
    pub(crate) socket: PathBuf,
    /// Every setting of this program.
    pub(crate) explained: Vec<Explained>,
    /// This host.
    pub(crate) host: Host,
    /// How long a check waits before it looks again.
    pub(crate) look_again: Duration,
    pub(crate) streams: Streams<'a>,
}

impl Streams<'_> {
    /// Prints text that ends with a line end.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Fatal> {
        Ok(self.stdout.write_all(text.as_bytes())?)
    }

    /// Prints a table.
    pub(crate) fn show(&mut self, table: &Table) -> Result<(), Fatal> {
        let text = table.render_for(self.terminal);
        self.print(&text)
    }

    /// Says one line.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), Fatal> {
        Ok(writeln!(self.stdout, "{line}")?)
    }

    /// Says one line beside the output, of something that is no failure.
    pub(crate) fn note(&mut self, line: &str) -> Result<(), Fatal> {
        Ok(writeln!(self.stderr, "{}", line.replace('\n', " "))?)
    }

    /// Complains in one line and remembers it for the exit code.
    pub(crate) fn fail(&mut self, line: &str) -> Result<(), Fatal> {
        self.failed = true;
        let mut line = line.replace('\n', " ");
        if self.terminal.error_colour {
            line = Paint::Red.on(&line);
        }
        Ok(writeln!(self.stderr, "{line}")?)
    }

    /// Complains about one resource; ends the command if all others would fail too.
    pub(crate) fn fail_one(
        &mut self,
        place: Option<&str>,
        key: &ResourceKey,
        failure: &Failure,
    ) -> Result<(), Fatal> {
        let lines = match failure {
            // A line for each thing that is wrong.
            Failure::Refused(errors) => errors
                .iter()
                .map(|error| format!("{key}: {error}"))
                .collect(),
            other => vec![single(key, other)?],
        };
        for line in lines {
            match place {
                Some(place) => self.fail(&format!("{place}: {line}"))?,
                None => self.fail(&line)?,
            }
        }
        Ok(())
    }
}
