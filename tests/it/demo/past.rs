//! The days before that the simulated host makes up: a real Prometheus has them, and there is nothing in them that the
//! live host does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use support::prometheus::get;

use super::{Host, PATIENCE, scrape};
use crate::metrics::series;
use crate::monitoring::dashboards::Dashboard;

const DAY: i64 = 86_400;
/// Labels whose values are this host's, or come and go.
const OPEN: &[&str] = &[
    "instance",
    "job",
    "source",
    "mountpoint",
    "manifest",
    "repo",
    "commit",
    "architecture",
    "engine",
    "variant",
];

type Labels = BTreeMap<String, String>;

/// Name and labels, without the values that may differ.
fn shape(mut labels: Labels, name: &str) -> (String, Labels) {
    labels.remove("instance");
    labels.remove("job");
    for (label, value) in &mut labels {
        if OPEN.contains(&label.as_str()) {
            value.clear();
        }
    }
    (name.to_owned(), labels)
}

#[test]
fn the_days_before_have_an_answer_to_every_panel_and_no_name_of_their_own() {
    let host = Host::start(&["--prometheus", "127.0.0.1:0", "--days", "2"]);
    let (live, prometheus) = (host.place("metrics"), host.place("history"));
    let data = |what: &str, query: &[(&str, &str)]| {
        get(&prometheus, &format!("/api/v1/{what}"), query)
            .unwrap_or_else(|error| panic!("{query:?}: {error}"))
    };
    assert!(host.folder.path().join("prometheus").is_dir());
    let now = jiff::Timestamp::now().as_second();
    // In the middle of its last night, when the most is going on.
    let at = (now - 7_200) - (now - 7_200 - 2 * 3_600).rem_euclid(DAY);
    let (from, to) = ((now - DAY).to_string(), (now - 300).to_string());
    let matching = r#"{__name__=~"larder_.*"}"#;
    let answer = data("series", &[("match[]", matching), ("start", &from), ("end", &to)]);
    let made_up: Vec<Labels> = serde_json::from_value(answer).expect("labels");
    assert!(made_up.len() > 150, "{} series", made_up.len());
    let made_up: BTreeSet<_> = made_up
        .into_iter()
        .map(|labels| shape(labels.clone(), &labels["__name__"]))
        .map(|(name, mut labels)| {
            labels.remove("__name__");
            (name, labels)
        })
        .collect();

    let (begun, mut seen) = (Instant::now(), BTreeSet::new());
    loop {
        let found = scrape(&live);
        seen.extend(series(&found).into_iter().map(|(name, labels, _)| shape(labels, &name)));
        let missing: Vec<_> = made_up.difference(&seen).collect();
        if missing.is_empty() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the live host has nothing like {missing:#?}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }

    let counted = format!("count_over_time(larder_queue_up[{}s])", DAY - 600);
    let samples = data("query", &[("query", &counted), ("time", &to)]);
    let samples = samples["result"][0]["value"][1].as_str().and_then(|count| count.parse::<i64>().ok());
    assert!(samples > Some(DAY / 30 - 30), "{samples:?} samples of a day");
    let mut empty = Vec::new();
    for dashboard in Dashboard::all(&crate::monitoring::root().join("monitoring/grafana/dashboards")) {
        for panel in dashboard.panels() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expr = asked(target["expr"].as_str().expect("a query"));
                let answer = data("query", &[("query", &expr), ("time", &at.to_string())]);
                // At that moment nothing is wrong.
                let may_be_empty = expr.contains("larder_host_health_reasons");
                if answer["result"].as_array().is_none_or(Vec::is_empty) && !may_be_empty {
                    empty.push(format!("{}, {}: {expr}", dashboard.name, panel["title"]));
                }
            }
        }
    }
    assert_eq!(empty, [""; 0]);
    host.end();
}

/// A query with the ranges that Grafana would have at this distance between samples.
fn asked(expr: &str) -> String {
    let known = [
        ("$__rate_interval", "2m"),
        ("$__interval", "30s"),
        ("$__range", "6h"),
        ("$queue", "max"),
        ("$host", ".*"),
        ("$gpu", ".*"),
        ("$card", ".*"),
    ];
    known.iter().fold(expr.to_owned(), |expr, (name, value)| expr.replace(name, value))
}
