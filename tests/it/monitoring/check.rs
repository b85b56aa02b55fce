//! What is wrong with dashboards and rules, found by asking a Prometheus that scrapes a larder: metrics that do not exist,
//! queries without an answer, labels that the answer does not have, units that are not those of the metrics.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use support::Prometheus;
use support::prometheus::Sample;

use super::dashboards::{Dashboard, Target};
use super::promql::{self, Recorded};

/// Metrics that may have no series in the test, and why.
const MAY_BE_MISSING: &[(&str, &str)] = &[
    ("larder_disk_inodes", NO_INODES),
    ("larder_disk_inodes_free", NO_INODES),
    ("instance:larder_disk_inodes_free:ratio", NO_INODES),
    (
        "larder_deadline_slack_seconds",
        "there is one only while the deadline of a job that has not ended is ahead",
    ),
];
const NO_INODES: &str = "a filesystem that makes inodes as needed has no such series";
/// What a query asks of that time has no answer: the Prometheus of the test is younger.
const LONG_AGO: &str = " offset 1h";

/// An alert or a recording rule as Prometheus has read it.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    query: String,
    is_alert: bool,
    json: Value,
}

/// All rules that it has loaded.
pub(super) fn rules(prometheus: &Prometheus) -> Vec<Rule> {
    let data = prometheus.get("/api/v1/rules", &[]).expect("rules");
    let groups = data["groups"].as_array().expect("groups").iter();
    let all = groups.flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
    let rule = |json: Value| Rule {
        name: json["name"].as_str().expect("a name").to_owned(),
        query: json["query"].as_str().expect("a query").to_owned(),
        is_alert: json["type"] == "alerting",
        json,
    };
    all.map(rule).collect()
}

pub(super) fn recorded(rules: &[Rule]) -> Recorded {
    let recorded = rules.iter().filter(|rule| !rule.is_alert);
    recorded.map(|rule| (rule.name.clone(), rule.query.clone())).collect()
}

fn may_be_missing(metric: &str) -> bool {
    MAY_BE_MISSING.iter().any(|(name, _)| *name == metric)
}

/// Whether a part of a query may have no answer in the test.
fn may_be_empty(part: &str) -> bool {
    let metrics = promql::parse(part).map(|expr| promql::metrics(&expr)).unwrap_or_default();
    part.contains(LONG_AGO) || metrics.iter().any(|metric| may_be_missing(metric))
}

/// What a query answers, or an example of what it is about if it answers nothing now; findings go to `found`.
fn answer(prometheus: &Prometheus, place: &str, query: &str, found: &mut Vec<String>) -> Option<Vec<Sample>> {
    let expr = match promql::parse(query) {
        Ok(expr) => expr,
        Err(error) => {
            found.push(format!("{place}: {error}"));
            return None;
        }
    };
    let known: BTreeSet<String> = prometheus.names().into_iter().collect();
    for metric in promql::metrics(&expr).into_iter().filter(|metric| !known.contains(metric)) {
        if !may_be_missing(&metric) {
            found.push(format!("{place}: no metric is called {metric}"));
            return None;
        }
    }
    let mut ask = |query: &str| match prometheus.query(query) {
        Ok(series) => series,
        Err(error) => {
            found.push(format!("{place}: {query}: {error}"));
            Vec::new()
        }
    };
    let now = ask(query);
    let parts: Vec<_> = promql::parts(&expr).into_iter().map(|part| (ask(&part), part)).collect();
    let empty = parts.iter().filter(|(series, part)| series.is_empty() && !may_be_empty(part));
    let empty: Vec<_> = empty.map(|(_, part)| format!("{place}: no answer to {part}")).collect();
    found.extend(empty);
    Some(if now.is_empty() { parts.into_iter().next()?.0 } else { now })
}

fn missing<'a>(labels: &'a [String], series: &[Sample]) -> Vec<&'a String> {
    let lacks = |one: &Sample, label: &str| one.labels.get(label).is_none_or(String::is_empty);
    labels.iter().filter(|label| series.iter().any(|one| lacks(one, label))).collect()
}

/// What is wrong with the queries of a dashboard.
pub(super) fn dashboard(prometheus: &Prometheus, dashboard: &Dashboard, recorded: &Recorded) -> Vec<String> {
    let mut found = Vec::new();
    for target in dashboard.targets() {
        let Target { place, expr, labels, unit } = &target;
        let Some(series) = answer(prometheus, place, expr, &mut found) else { continue };
        for label in missing(labels, &series) {
            found.push(format!("{place}: the answer has no label {label}"));
        }
        let Some(unit) = unit else { continue };
        match promql::parse(expr).and_then(|expr| promql::quantity(&expr, recorded)) {
            Ok(Some(quantity)) if !quantity.units().contains(&unit.as_str()) => {
                found.push(format!("{place}: {unit} is not the unit of {expr}, but {:?}", quantity.units()));
            }
            Ok(_) => {}
            Err(error) => found.push(format!("{place}: {error}")),
        }
    }
    for (selector, label) in dashboard.variables() {
        let place = format!("{}, variable of {label}", dashboard.name);
        let Some(series) = answer(prometheus, &place, &selector, &mut found) else { continue };
        for label in missing(std::slice::from_ref(&label), &series) {
            found.push(format!("{place}: the answer has no label {label}"));
        }
    }
    found
}

/// What is wrong with a rule; `runbook` is the text that its link points into.
pub(super) fn rule(prometheus: &Prometheus, rule: &Rule, recorded: &Recorded, runbook: &str) -> Vec<String> {
    let mut found = Vec::new();
    let place = &rule.name;
    let series = answer(prometheus, place, &rule.query, &mut found).unwrap_or_default();
    if let Err(error) = promql::parse(&rule.query).and_then(|expr| promql::quantity(&expr, recorded)) {
        found.push(format!("{place}: {error}"));
    }
    if rule.json["health"] != "ok" {
        found.push(format!("{place}: {}", rule.json["lastError"]));
    }
    if !rule.is_alert {
        return found;
    }
    if !["critical", "warning", "info"]
        .contains(&rule.json["labels"]["severity"].as_str().unwrap_or_default())
    {
        found.push(format!("{place}: severity is {}", rule.json["labels"]["severity"]));
    }
    let annotation = |name: &str| rule.json["annotations"][name].as_str().unwrap_or_default().to_owned();
    let (summary, description) = (annotation("summary"), annotation("description"));
    if summary.is_empty() || description.is_empty() {
        found.push(format!("{place}: no summary or no description"));
    }
    let named = summary.split("$labels.").chain(description.split("$labels.").skip(1)).skip(1);
    let end = |rest: &str| rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    let named: Vec<String> = named.map(|rest| rest[..end(rest)].to_owned()).collect();
    for label in missing(&named, &series) {
        found.push(format!("{place}: the answer has no label {label}"));
    }
    let heading = format!("## {place}");
    let link = format!("monitoring/runbook.md#{}", place.to_lowercase());
    if annotation("runbook_url") != link || !runbook.lines().any(|line| line == heading) {
        found.push(format!("{place}: the runbook has no such heading, or the link is not {link}"));
    }
    found
}

/// Alerts whose tests lack a firing or a silent case.
pub(super) fn untested(rules: &[Rule], tests: &Path) -> Vec<String> {
    let files = std::fs::read_dir(tests).expect("the tests of the rules");
    let text: String =
        files.map(|file| std::fs::read_to_string(file.expect("an entry").path()).expect("reads")).collect();
    let alerts = rules.iter().filter(|rule| rule.is_alert);
    let cases = alerts.flat_map(|rule| [format!("{} fires", rule.name), format!("{} is silent", rule.name)]);
    let is_there = |case: &String| text.lines().any(|line| line.trim() == format!("- name: {case}"));
    cases.filter(|case| !is_there(case)).collect()
}

#[test]
fn what_may_be_missing_is_a_whole_name() {
    assert!(may_be_missing("larder_deadline_slack_seconds") && may_be_empty("larder_deadline_slack_seconds"));
    assert!(
        !may_be_missing("larder_deadline_slack_seconds_x")
            && !may_be_empty("larder_deadline_slack_seconds_x")
    );
    assert!(may_be_empty(r#"x_total{kind="y"} offset 1h"#) && !may_be_empty(r#"x_total{kind="y"}"#));
}
