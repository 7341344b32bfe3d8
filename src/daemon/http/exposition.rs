//! The text format of Prometheus, version 0.0.4: families of samples. Not OpenMetrics, whose
//! counters have a family name without `_total`, which Prometheus' own `promtool check metrics` does
//! not read.

use std::fmt::Write as _;

/// A metric's type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Text that grows by families.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    /// Begins a family: its samples follow.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        // Writing into a string does not fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A sample of the family that was begun last.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.suffixed("", labels, value);
    }

    /// The same, with a suffix to its name.
    pub(super) fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (index, (name, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// A family of one sample without labels.
    pub(super) fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    pub(super) fn into_text(self) -> String {
        self.text
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
    fn samples_stand_below_their_family_and_labels_are_escaped() {
        let mut exposition = Exposition::default();
        exposition.family("a_total", Kind::Counter, "Of a.");
        exposition.sample(
            &[("source", "x\"\\\n"), ("reason", "y")],
            18_014_398_509_481_984.0,
        );
        exposition.single("b", Kind::Gauge, "Of b.", 0.25);
        assert_eq!(
            exposition.into_text(),
            "# HELP a_total Of a.\n# TYPE a_total counter\n\
             a_total{source=\"x\\\"\\\\\\n\",reason=\"y\"} 18014398509481984\n\
             # HELP b Of b.\n# TYPE b gauge\nb 0.25\n"
        );
    }
}
