//! The dashboards as Grafana reads them: panels with their queries, units and legends, and the variables at the top.

use std::path::Path;

use serde_json::Value;

/// One dashboard.
#[derive(Clone, Debug)]
pub(crate) struct Dashboard {
    pub(crate) name: String,
    pub(super) json: Value,
}

/// One query of a panel.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Where it stands: dashboard, panel, letter.
    pub(super) place: String,
    /// With Grafana's variables replaced by what a test can ask.
    pub(super) expr: String,
    /// Labels that the legend, or the columns of a table, name.
    pub(super) labels: Vec<String>,
    /// The unit that its values are shown in; `None` if they are not shown.
    pub(super) unit: Option<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// All hosts, all GPUs, and ranges that a young Prometheus has samples for.
pub(super) fn substituted(expr: &str) -> String {
    let known = [
        ("$__rate_interval", "10s"),
        ("$__interval", "1s"),
        ("$__range", "5m"),
        ("$queue", "sum"),
        ("$host", ".*"),
        ("$gpu", ".*"),
        ("$card", ".*"),
    ];
    known.iter().fold(expr.to_owned(), |expr, (name, value)| expr.replace(name, value))
}

impl Dashboard {
    /// All of the folder.
    pub(crate) fn all(folder: &Path) -> Vec<Self> {
        let files =
            std::fs::read_dir(folder).expect("the dashboards").map(|entry| entry.expect("an entry").path());
        let mut files: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
        files.sort();
        let read = |path: &std::path::PathBuf| {
            let json = std::fs::read(path).expect("reads");
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            Self { name, json: serde_json::from_slice(&json).expect("JSON") }
        };
        files.iter().map(read).collect()
    }

    pub(crate) fn panels(&self) -> impl Iterator<Item = &Value> {
        list(&self.json["panels"])
    }

    /// The panel with this title.
    pub(super) fn panel(&self, title: &str) -> &Value {
        self.panels().find(|panel| panel["title"] == title).unwrap_or_else(|| panic!("no panel {title}"))
    }

    /// Every query of every panel.
    pub(super) fn targets(&self) -> Vec<Target> {
        let of = |panel: &Value| {
            let targets = list(&panel["targets"]);
            targets.map(|target| self.target(panel, target)).collect::<Vec<_>>()
        };
        self.panels().flat_map(of).collect()
    }

    fn target(&self, panel: &Value, target: &Value) -> Target {
        let letter = text(&target["refId"]);
        let place = format!("{}, {}, {letter}", self.name, text(&panel["title"]));
        let expr = substituted(&text(&target["expr"]));
        if panel["type"] == "table" {
            let names = &list(&panel["transformations"]).last().expect("columns")["options"]["renameByName"];
            let columns = names.as_object().expect("names");
            let several = list(&panel["targets"]).count() > 1;
            let value = if several { format!("Value #{letter}") } else { "Value".to_owned() };
            let unit = columns.get(&value).map(|shown| unit(panel, "byName", &text(shown)));
            // Several queries fill a table; a column that none of them names is looked for in the first.
            let names = |target: &Value, key: &str| text(&target["expr"]).contains(key);
            let here = |key: &&String| match list(&panel["targets"]).any(|one| names(one, key)) {
                true => expr.contains(key.as_str()),
                false => letter == "A",
            };
            let labels =
                columns.keys().filter(|key| !key.starts_with("Value")).filter(here).cloned().collect();
            return Target { place, expr, labels, unit };
        }
        let legend = text(&target["legendFormat"]);
        let labels = legend.split("{{").skip(1).filter_map(|rest| rest.split_once("}}"));
        let labels = labels.map(|(label, _)| label.trim().to_owned()).collect();
        Target { place, expr, labels, unit: Some(unit(panel, "byFrameRefID", &letter)) }
    }

    /// Metric selector and label of each variable that asks Prometheus.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let queries = list(&self.json["templating"]["list"]).filter(|variable| variable["type"] == "query");
        let asked = queries.map(|variable| {
            let query = text(&variable["query"]["query"]);
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) =
                inner.and_then(|inner| inner.rsplit_once(", ")).expect("label_values(x, y)");
            (substituted(selector), label.to_owned())
        });
        asked.collect()
    }
}

/// The unit of what the override matches, else the panel's.
fn unit(panel: &Value, matcher: &str, name: &str) -> String {
    let overrides = list(&panel["fieldConfig"]["overrides"]);
    let mut of = overrides.filter(|one| one["matcher"]["id"] == matcher && one["matcher"]["options"] == name);
    let own = of.find_map(|one| list(&one["properties"]).find(|property| property["id"] == "unit"));
    own.map_or_else(|| text(&panel["fieldConfig"]["defaults"]["unit"]), |property| text(&property["value"]))
}

/// The colour that a panel gives a value by its thresholds.
pub(super) fn colour(panel: &Value, value: f64) -> String {
    let steps = list(&panel["fieldConfig"]["defaults"]["thresholds"]["steps"]);
    let reached = steps.filter(|step| step["value"].as_f64().is_none_or(|from| value >= from));
    reached.last().map(|step| text(&step["color"])).expect("a first step")
}
