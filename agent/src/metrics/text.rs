//! The text format of Prometheus, version 0.0.4.

use std::fmt::Write;

use crate::meters::{QUANTILES, Summary};

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
            self.sample(name, &labels, value);
        }
    }

    /// A metric without labels.
    pub(super) fn single(&mut self, kind: Kind, name: &str, help: &str, value: f64) {
        self.metric(kind, name, help, [(Vec::new(), value)]);
    }

    /// A distribution: its quantiles, and sum and number of all that was observed. Several with different labels
    /// stand together.
    pub(super) fn summaries<'a>(
        &mut self,
        name: &str,
        help: &str,
        all: impl IntoIterator<Item = (Vec<(&'a str, String)>, Summary)>,
    ) {
        let mut all = all.into_iter().peekable();
        if all.peek().is_none() {
            return;
        }
        self.line(&format!("# HELP {name} {help}\n# TYPE {name} summary"));
        for (labels, summary) in all {
            for (quantile, value) in QUANTILES.iter().zip(&summary.quantiles) {
                let mut labels = labels.clone();
                labels.push(("quantile", quantile.to_string()));
                self.sample(name, &labels, *value);
            }
            self.sample(&format!("{name}_sum"), &labels, summary.sum);
            self.sample(&format!("{name}_count"), &labels, summary.count as f64);
        }
    }

    /// A distribution without labels.
    pub(super) fn summary(&mut self, name: &str, help: &str, summary: Summary) {
        self.summaries(name, help, [(Vec::new(), summary)]);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, String)], value: f64) {
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
        let took = Summary {
            quantiles: vec![0.25, 0.5, 1.0],
            sum: 2.5,
            count: 4,
        };
        text.summary("took", "Seconds.", took);
        assert_eq!(
            text.finish(),
            "# HELP up Whether.\n# TYPE up gauge\nup{peer=\"a\\\"b\\\\c\\n\"} 1\nup{peer=\"d\"} 0.5\n\
             # HELP n_total Number.\n# TYPE n_total counter\nn_total 3\n\
             # HELP took Seconds.\n# TYPE took summary\ntook{quantile=\"0.5\"} 0.25\n\
             took{quantile=\"0.9\"} 0.5\ntook{quantile=\"0.99\"} 1\ntook_sum 2.5\ntook_count 4\n"
        );
    }
}
