//! What the streams are connected to: widths, colours and progress are for terminals only.

use std::io::IsTerminal;

/// What the streams are connected to; by default to no terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terminal {
    /// Columns of the terminal that standard output is.
    pub(crate) width: Option<usize>,
    /// Whether standard output gets colours.
    pub(crate) colour: bool,
    /// Whether standard error gets colours.
    pub(crate) error_colour: bool,
    /// Whether standard error is a terminal: somebody waits there and likes to see progress.
    pub(crate) progress: bool,
}

/// A way to set text apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Headings.
    Bold,
    /// What goes away or failed.
    Red,
    /// What comes or is right.
    Green,
    /// Places.
    Cyan,
}

impl Paint {
    /// The text between the codes of a terminal.
    pub(crate) fn on(self, text: &str) -> String {
        let code = match self {
            Self::Bold => "1",
            Self::Red => "31",
            Self::Green => "32",
            Self::Cyan => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

impl Terminal {
    /// Looks at the streams of this process, `NO_COLOR` and `TERM`.
    pub(crate) fn detect(lookup: fn(&str) -> Option<String>) -> Self {
        let (out, err) = (
            std::io::stdout().is_terminal(),
            std::io::stderr().is_terminal(),
        );
        let wanted = lookup("NO_COLOR").is_none_or(|value| value.is_empty())
            && lookup("TERM").is_none_or(|term| term != "dumb");
        let size = terminal_size::terminal_size_of(std::io::stdout());
        Self {
            width: size
                .filter(|_| out)
                .map(|(width, _)| usize::from(width.0))
                .filter(|width| *width > 0),
            colour: out && wanted,
            error_colour: err && wanted,
            progress: err,
        }
    }

    /// The text for standard output, set apart where that is wanted.
    pub(crate) fn paint(self, paint: Paint, text: &str) -> String {
        if self.colour {
            paint.on(text)
        } else {
            text.to_owned()
        }
    }
}
