//! How far long work is, on one line of a terminal that is taken away in the end.

use std::time::{Duration, Instant};

use crate::context::Streams;

/// Work that takes less is done before anybody wonders.
const FIRST: Duration = Duration::from_millis(500);

/// Between two lines: often enough to look alive, seldom enough to cost nothing.
const BETWEEN: Duration = Duration::from_millis(100);

/// The state of some work.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    next: Instant,
    shown: bool,
}

impl Progress {
    /// Begins to show the work on `total` things; never before it has taken a moment, and only where
    /// standard error is a terminal.
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        Self {
            what,
            total,
            next: Instant::now() + FIRST,
            shown: false,
        }
    }

    /// Says how many are done.
    pub(crate) fn at(&mut self, done: usize, streams: &mut Streams<'_>) {
        let now = Instant::now();
        if !streams.terminal.progress || now < self.next {
            return;
        }
        self.next = now + BETWEEN;
        self.shown = true;
        // Progress that cannot be shown is no reason to stop.
        drop(write!(
            streams.stderr,
            "\r{}: {done} of {}\x1b[K",
            self.what, self.total
        ));
        drop(streams.stderr.flush());
    }

    /// Takes the line away.
    pub(crate) fn end(self, streams: &mut Streams<'_>) {
        if self.shown {
            drop(write!(streams.stderr, "\r\x1b[K"));
            drop(streams.stderr.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::Terminal;

    fn shown(progress: bool, wait: Duration) -> String {
        let mut err = Vec::new();
        let mut streams = Streams {
            stdin: &mut std::io::empty(),
            stdout: &mut std::io::sink(),
            stderr: &mut err,
            terminal: Terminal {
                progress,
                ..Terminal::default()
            },
            failed: false,
        };
        let mut work = Progress::new("import", 10);
        work.next = Instant::now() + wait;
        work.at(3, &mut streams);
        work.end(&mut streams);
        String::from_utf8(err).unwrap()
    }

    #[test]
    fn only_a_terminal_sees_it_and_only_if_it_takes_long() {
        assert_eq!(shown(false, Duration::ZERO), "");
        assert_eq!(shown(true, Duration::from_secs(3600)), "");
        assert_eq!(
            shown(true, Duration::ZERO),
            "\rimport: 3 of 10\x1b[K\r\x1b[K"
        );
    }
}
