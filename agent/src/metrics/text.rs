//! The text format of Prometheus, version 0.0.4.

use std::fmt::Write;

/// What a value means over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Metrics under construction, each with its help and all its samples together.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// A metric and its samples; nothing if there are none.
    pub(super) fn metric<'a>(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'a str, String)>, f64)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.line(&format!("# HELP {name} {help}\n# TYPE {name} {kind}"));
        for (labels, value) in samples {
            let labels: Vec<String> = labels
                .iter()
                .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
                .collect();
            if labels.is_empty() {
                self.line(&format!("{name} {value}"));
            } else {
                self.line(&format!("{name}{{{}}} {value}", labels.join(",")));
            }
        }
    }

    /// A metric without labels.
    pub(super) fn single(&mut self, kind: Kind, name: &str, help: &str, value: f64) {
        self.metric(kind, name, help, [(Vec::new(), value)]);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    fn line(&mut self, line: &str) {
        writeln!(self.0, "{line}").expect("a string takes everything");
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_together_and_labels_are_escaped() {
        let mut text = Text::default();
        let label = |value: &str| vec![("peer", value.to_owned())];
        let samples = [(label("a\"b\\c\n"), 1.0), (label("d"), 0.5)];
        text.metric(Kind::Gauge, "up", "Whether.", samples);
        text.metric(Kind::Gauge, "none", "Nothing.", []);
        text.single(Kind::Counter, "n_total", "Number.", 3.0);
        assert_eq!(
            text.finish(),
            "# HELP up Whether.\n# TYPE up gauge\nup{peer=\"a\\\"b\\\\c\\n\"} 1\nup{peer=\"d\"} 0.5\n\
             # HELP n_total Number.\n# TYPE n_total counter\nn_total 3\n"
        );
    }
}
