//! Samples of many moments as OpenMetrics text, family by family, which is how `promtool` wants history.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a family is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// The families so far.
pub(super) struct Page {
    instance: String,
    families: BTreeMap<String, (Type, String)>,
}

impl Page {
    pub(super) fn new(instance: &str) -> Self {
        Self { instance: instance.to_owned(), families: BTreeMap::new() }
    }

    /// One sample; `end` is what a series of a histogram adds to the family's name.
    pub(super) fn sample(
        &mut self,
        (family, end, kind): (&str, &str, Type),
        labels: &[(&str, &str)],
        value: f64,
        at: i64,
    ) {
        if !self.families.contains_key(family) {
            self.families.insert(family.to_owned(), (kind, String::new()));
        }
        let Some((_, text)) = self.families.get_mut(family) else { return };
        let _ = write!(text, "{family}{end}{{instance=\"{}\",job=\"larder\"", self.instance);
        for (name, value) in labels {
            let _ = write!(text, ",{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        }
        let _ = writeln!(text, "}} {value} {at}");
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        let mut all = String::new();
        for (name, (kind, samples)) in &self.families {
            let (name, kind) = match kind {
                // Here a family has no suffix, its samples have.
                Type::Counter => (name.trim_end_matches("_total"), "counter"),
                Type::Gauge => (name.as_str(), "gauge"),
                Type::Histogram => (name.as_str(), "histogram"),
            };
            let _ = write!(all, "# TYPE {name} {kind}\n{samples}");
        }
        all.push_str("# EOF\n");
        all
    }
}
