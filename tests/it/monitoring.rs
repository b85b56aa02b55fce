//! `monitoring/`: the rules and dashboards are asked of a real Prometheus that scrapes a real larder, promtool judges them,
//! and what is generated is what lies here.

mod check;
pub(crate) mod dashboards;
mod promql;
mod scene;

use std::path::{Path, PathBuf};
use std::process::Command;

use dashboards::{Dashboard, colour};
use scene::Scene;
use support::Prometheus;
use support::http::ask;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn all() -> Vec<Dashboard> {
    let all = Dashboard::all(&root().join("monitoring/grafana/dashboards"));
    assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["fit", "fleet", "host", "jobs"]);
    all
}

fn named(name: &str) -> Dashboard {
    all().into_iter().find(|one| one.name == name).expect("a dashboard")
}

/// Files of a folder below `monitoring/prometheus`, as promtool wants them there.
fn files(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join("monitoring/prometheus").join(folder)).expect(folder);
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|path| path.to_str().expect("UTF-8").to_owned()).collect()
}

#[test]
fn every_query_has_an_answer_with_its_labels_and_unit() {
    let scene = Scene::start();
    let prometheus = &scene.prometheus;
    let rules = check::rules(prometheus);
    let recorded = check::recorded(&rules);
    let runbook = std::fs::read_to_string(root().join("monitoring/runbook.md")).expect("the runbook");
    let mut found = check::untested(&rules, &root().join("monitoring/prometheus/tests"));
    found.extend(rules.iter().flat_map(|rule| check::rule(prometheus, rule, &recorded, &runbook)));
    let mut targets = 0;
    for dashboard in all() {
        found.extend(check::dashboard(prometheus, &dashboard, &recorded));
        targets += dashboard.targets().len();
    }
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
    println!("{} rules and {targets} queries of dashboards", rules.len());

    // What is wrong on this host is said, with no template that failed.
    prometheus.wait_for(r#"ALERTS{alertname="LarderXidCritical", alertstate="firing"}"#, scene::SOON);
    let alerts = prometheus.get("/api/v1/alerts", &[]).expect("alerts").to_string();
    for name in ["LarderDown", "LarderGpuLost", "LarderGpuEccUncorrected"] {
        assert!(alerts.contains(&format!(r#""alertname":"{name}""#)), "{name} in {alerts}");
    }
    assert!(!alerts.contains("error expanding"), "{alerts}");

    the_check_finds_mistakes(prometheus, &recorded);
    let scraped = ask(&scene.daemon.place(), "GET /metrics", &[("Host", "localhost")], b"").text();
    let page = scraped_page(&scraped);
    let checked =
        Command::new("promtool").args(["check", "metrics"]).stdin(page).output().expect("promtool runs");
    assert!(checked.status.success(), "promtool check metrics: {checked:?}");
}

fn scraped_page(text: &str) -> std::fs::File {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(text.as_bytes()).and_then(|()| file.rewind()).expect("the file takes it");
    file
}

/// Mistakes, each put into a dashboard that has none.
fn the_check_finds_mistakes(prometheus: &Prometheus, recorded: &promql::Recorded) {
    let seeded = |place: &str, from: &str, to: &str| {
        let text = named("host").json.to_string();
        assert!(text.contains(from), "{place}: {from} is in the dashboard");
        let json = serde_json::from_str(&text.replace(from, to)).expect("still JSON");
        check::dashboard(prometheus, &Dashboard { name: "host".into(), json }, recorded)
    };
    for (place, from, to, finding) in [
        ("metric", "max(larder_queue_up{", "max(larder_queue_upp{", "no metric is called larder_queue_upp"),
        ("label", "{{source}}", "{{mirror}}", "the answer has no label mirror"),
        ("column", r#""xid":"Xid""#, r#""code":"Xid""#, "the answer has no label code"),
        (
            "unit",
            r#""unit":"celsius""#,
            r#""unit":"watt""#,
            "watt is not the unit of larder_gpu_temperature_celsius",
        ),
        (
            "answer",
            "sum(larder_cache_reserved_bytes{",
            r#"sum(larder_cache_reserved_bytes{class=\"x\", "#,
            "no answer to",
        ),
    ] {
        let found = seeded(place, from, to);
        assert!(found.iter().all(|one| one.contains(finding)), "only that: {found:#?}");
        assert!(!found.is_empty(), "{place}: {to} is found");
    }
}

#[test]
fn colours_are_those_of_good_and_bad() {
    for (dashboard, panel, value, expected) in [
        ("fleet", "Hosts up", 0.0, "red"),
        ("fleet", "Hosts up", 3.0, "green"),
        ("fleet", "Hosts down", 0.0, "green"),
        ("fleet", "Hosts down", 1.0, "red"),
        ("fleet", "Degraded hosts", 1.0, "red"),
        ("fleet", "GPUs lost", 0.0, "green"),
        ("fleet", "GPUs lost", 1.0, "red"),
        ("fleet", "Failed in a day", 0.0, "green"),
        ("fleet", "Failed in a day", 1.0, "orange"),
        ("fleet", "Failed in a day", 10.0, "red"),
        ("host", "Health", 0.0, "red"),
        ("host", "Health", 1.0, "green"),
        ("host", "GPUs lost", 1.0, "red"),
        ("host", "GPUs up", 0.0, "red"),
        ("host", "Free disk", 0.01, "red"),
        ("host", "Free disk", 0.05, "orange"),
        ("host", "Free disk", 0.5, "green"),
        ("host", "Queue", 0.0, "red"),
        ("jobs", "Models that will not come", 0.0, "green"),
        ("jobs", "Models that will not come", 1.0, "red"),
        ("jobs", "Until the deadline", -60.0, "red"),
        ("jobs", "Until the deadline", 600.0, "orange"),
        ("jobs", "Until the deadline", 7200.0, "green"),
        ("jobs", "Failed", 0.0, "green"),
        ("jobs", "Missed deadlines", 1.0, "red"),
        ("jobs", "Thrown away", 0.3, "red"),
        ("jobs", "Oldest in the queue", 7200.0, "red"),
        ("fit", "Wrong yes", 1.0, "red"),
        ("fit", "Largest error", 0.05, "green"),
        ("fit", "Largest error", 0.3, "red"),
    ] {
        let dashboard = named(dashboard);
        assert_eq!(colour(dashboard.panel(panel), value), expected, "{}, {panel}: {value}", dashboard.name);
    }
}

#[test]
fn every_panel_is_explained_and_the_variables_are_there() {
    for dashboard in all() {
        let explained =
            |panel: &serde_json::Value| panel["description"].as_str().is_some_and(|text| text.len() > 10);
        let bare: Vec<_> =
            dashboard.panels().filter(|panel| !explained(panel)).map(|panel| &panel["title"]).collect();
        assert!(bare.is_empty(), "{}: no description of {bare:?}", dashboard.name);
        let variables = dashboard.json["templating"]["list"].as_array().expect("variables").iter();
        let names: Vec<_> = variables.filter_map(|variable| variable["name"].as_str()).collect();
        assert!(names.starts_with(&["datasource", "host"]), "{}: {names:?}", dashboard.name);
    }
    let host = named("host").json["templating"]["list"].to_string();
    assert!(host.contains(r#""name":"gpu""#), "{host}");
}

#[test]
fn the_dashboards_are_what_their_script_writes() {
    let script = root().join("monitoring/grafana/dashboards.py");
    let run = Command::new("python3").arg("-B").arg(script).arg("--check").output().expect("python3 runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn promtool_finds_nothing_wrong() {
    let here = root().join("monitoring/prometheus");
    let run = |args: &[&str], files: &[String]| {
        let args: Vec<&str> = args.iter().copied().chain(files.iter().map(String::as_str)).collect();
        let done = Prometheus::promtool(&here, &args).expect_code(0);
        assert!(!format!("{}{}", done.stdout, done.stderr).contains("FAILED"), "{done:?}");
    };
    run(&["check", "config", "prometheus.yml"], &[]);
    run(&["check", "rules"], &files("rules"));
    run(&["test", "rules"], &files("tests"));
}

#[test]
fn the_recipes_of_the_runbook_are_tested() {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let runbook = std::fs::read_to_string(root().join("monitoring/runbook.md")).expect("the runbook");
    let tests =
        std::fs::read_to_string(root().join("monitoring/prometheus/tests/joins.yml")).expect("the tests");
    let recipes = runbook.split("```promql").skip(1).filter_map(|rest| rest.split("```").next());
    let untested: Vec<_> = recipes.map(plain).filter(|recipe| !plain(&tests).contains(recipe)).collect();
    assert!(untested.is_empty(), "{untested:#?}");
    assert_eq!(runbook.matches("```promql").count(), 4);
}

/// The numbers of an alternation such as `46|14[2-9]|15[01]`, by trying them.
fn matched(pattern: &str, number: u64) -> bool {
    let digits = number.to_string();
    let fits = |part: &str| match part.split_once('[') {
        None => part == digits,
        Some((head, class)) => {
            let class = class.trim_end_matches(']');
            let Some(last) = digits.strip_prefix(head).filter(|last| last.len() == 1) else { return false };
            match class.split_once('-') {
                Some((from, to)) => (from..=to).contains(&last),
                None => class.contains(last),
            }
        }
    };
    pattern.split('|').any(fits)
}

#[test]
fn the_xids_of_the_alerts_are_those_that_the_health_goes_by() {
    let text =
        std::fs::read_to_string(root().join("monitoring/prometheus/rules/gpu.yml")).expect("the rules");
    let pattern = |start: &str| {
        let rest = text.split(start).nth(1).unwrap_or_else(|| panic!("{start} is in the rules"));
        rest.split('"').next().expect("an end").to_owned()
    };
    let (critical, neither) = (pattern(r#"xid=~""#), pattern(r#"xid!~""#));
    for code in 0..1000 {
        let class = larder::gpu::xid::class(code);
        let is_critical = class.degrades() == Some(true);
        let is_warning = !is_critical && class != larder::gpu::xid::Class::Ignore;
        assert_eq!(matched(&critical, code), is_critical, "LarderXidCritical and {code}");
        assert_eq!(!matched(&neither, code), is_warning, "LarderXidWarning and {code}");
    }
}
