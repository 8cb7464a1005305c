//! Errors for people: with their causes, on one line.

use std::error::Error;

/// `what failed: why: why that`. A cause that its error quotes already is not said twice.
pub(crate) fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: &'static str,
        #[source]
        source: io::Error,
    }

    #[test]
    fn each_cause_is_said_once() {
        let outer = |text| Outer {
            text,
            source: io::Error::other("disk full"),
        };
        assert_eq!(in_full(&outer("cannot write")), "cannot write: disk full");
        assert_eq!(
            in_full(&outer("cannot write: disk full")),
            "cannot write: disk full"
        );
    }
}
