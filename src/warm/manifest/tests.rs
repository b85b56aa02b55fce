//! Manifests in both syntaxes, and everything that can be wrong with one.

use std::time::{Duration, Instant};

use larder_jobs::{Format, Variant};

use super::*;

/// Two short names of the registry, which is not known here.
fn name(text: &str) -> Result<ModelRef, Invalid> {
    match text {
        "gpt2" => "openai-community/gpt2".parse(),
        "Qwen2.5-32B-Instruct" => "Qwen/Qwen2.5-32B-Instruct".parse(),
        text => text.parse(),
    }
}

fn toml(text: &str) -> Result<Manifest, Invalid> {
    Manifest::read(text, Syntax::Toml, name)
}

fn yaml(text: &str) -> Result<Manifest, Invalid> {
    Manifest::read(text, Syntax::Yaml, name)
}

const FULL: &str = r#"
zone = "Europe/Berlin"
windows = ["22:00-06:00", "12:00-13:00 UTC"]
bandwidth = "100MB"
bandwidth_outside = "5MB"
deadline = "06:30"
order = "listed"
impossible = "warn"
[defaults]
variant = "auto"
lease_ttl = "12h"
priority = 3
hosts = "pool"
[[models]]
model = "gpt2"
[[models]]
model = "Qwen/Qwen3-8B@v1"
variant = ["fp8", "int4"]
pin = true
priority = 9
hosts = ["gpu-7"]
[[models]]
model = "Qwen/Qwen3-8B-GGUF"
revision = "main"
include = ["*Q6_K*"]
"#;

const FULL_YAML: &str = r#"
zone: Europe/Berlin
windows: ["22:00-06:00", "12:00-13:00 UTC"]
bandwidth: 100MB
bandwidth_outside: 5MB
deadline: "06:30"
order: listed
impossible: warn
defaults: {variant: auto, lease_ttl: 12h, priority: 3, hosts: pool}
models:
  - gpt2
  - model: Qwen/Qwen3-8B@v1
    variant: [fp8, int4]
    pin: true
    priority: 9
    hosts: [gpu-7]
  - {model: Qwen/Qwen3-8B-GGUF, revision: main, include: ["*Q6_K*"]}
"#;

#[test]
fn two_manifests_that_mean_the_same_are_one() {
    let plain = "zone = \"UTC\"\ndeadline = \"06:30\"\nmodels = [\"gpt2\", \"a/b@main\"]\n";
    let digest = |text: &str| toml(text).expect(text).digest();
    let commented = format!("# of the night\n\n{}   # both", plain.replace(" = ", "="));
    assert_eq!(digest(plain), digest(&commented));
    let spelled =
        "deadline: '06:30'\nzone: UTC\nmodels: [openai-community/gpt2, {model: a/b, priority: 0}]\n";
    assert_eq!(digest(plain), yaml(spelled).expect("YAML").digest());
    for other in [
        plain.replace("06:30", "06:31"),
        plain.replace("UTC", "Europe/Berlin"),
        plain.replace("a/b@main", "a/b@other"),
        format!("impossible = \"warn\"\n{plain}"),
        format!("bandwidth = \"1MB\"\n{plain}"),
        format!("order = \"listed\"\n{plain}"),
        format!("windows = [\"22:00-06:00\"]\n{plain}"),
        format!("{plain}[defaults]\npriority = 1\n"),
        format!("{plain}[defaults]\nhosts = \"all\"\n"),
        format!("{plain}[defaults]\npin = true\n"),
    ] {
        assert_ne!(digest(plain), digest(&other), "{other}");
    }
}

#[test]
fn both_syntaxes_say_the_same() {
    let manifest = toml(FULL).expect("reads");
    assert_eq!(yaml(FULL_YAML).expect("reads"), manifest);
    assert_eq!(
        manifest.windows.as_ref().map(ToString::to_string).as_deref(),
        Some("22:00-06:00 Europe/Berlin; 12:00-13:00 UTC")
    );
    assert_eq!((manifest.order, manifest.impossible), (NightOrder::Listed, Impossible::Warn));
    let [first, second, third] = &manifest.wishes[..] else { panic!("three") };
    assert_eq!(first.download.model().to_string(), "openai-community/gpt2@main");
    assert_eq!((&first.download.variant, first.priority, &first.hosts), (&Variant::Auto, 3, &Hosts::Pool));
    assert_eq!(second.download.revision.as_str(), "v1");
    assert_eq!((second.download.pin, second.priority), (true, 9));
    assert_eq!(second.hosts, Hosts::named("gpu-7".parse().expect("a name")));
    assert_eq!(
        (&third.download.variant, third.download.format),
        (&Variant::Exact, Format::Auto),
        "files are named"
    );
}

#[test]
fn a_deadline_is_the_next_morning_in_its_zone() {
    let manifest = toml(FULL).expect("reads");
    let deadline = manifest.deadline.as_ref().expect("one");
    let after = |now: &str| deadline.after(now.parse().expect("a time")).to_string();
    assert_eq!(after("2026-06-01T20:00:00Z"), "2026-06-02T04:30:00Z");
    assert_eq!(after("2026-06-02T04:30:00Z"), "2026-06-03T04:30:00Z");
    assert_eq!(after("2026-03-28T20:00:00Z"), "2026-03-29T04:30:00Z", "the clock changes in between");
    let skipped = Deadline::Daily(jiff::civil::time(2, 30, 0, 0), "Europe/Berlin".parse().expect("a zone"));
    let after = skipped.after("2026-03-29T00:00:00Z".parse().expect("a time"));
    assert_eq!(after.to_string(), "2026-03-29T01:30:00Z");
}

#[test]
fn a_job_carries_what_the_manifest_says() {
    let mut manifest = toml(FULL).expect("reads");
    let now: Timestamp = "2026-06-01T16:00:00Z".parse().expect("a time");
    let job = manifest.job(&manifest.wishes[1], now, None);
    let json = serde_json::to_value(&job).expect("JSON");
    assert_eq!(json["deadline"], "2026-06-02T04:30:00Z");
    assert_eq!(json["window"], "22:00-06:00 Europe/Berlin; 12:00-13:00 UTC");
    assert_eq!((&json["bandwidth"], &json["bandwidth_outside"]), (&100_000_000.into(), &5_000_000.into()));
    assert_eq!(
        (&json["not_before"], &json["priority"], &json["requested_by"]),
        (&serde_json::Value::Null, &9.into(), &"warm".into())
    );
    job.validate().expect("valid");
    manifest.bandwidth_outside = None;
    let job = manifest.job(&manifest.wishes[1], now, Some(("warm/abc/2026-06-01T16:00:00Z", "gpu-1")));
    assert_eq!(job.common.not_before.map(|at| at.to_string()).as_deref(), Some("2026-06-01T20:00:00Z"));
    job.validate().expect("the key is short enough");
    manifest.wishes[0].hosts = Hosts::This;
    let key = |wish: usize, host| {
        manifest.job(&manifest.wishes[wish], now, Some(("run", host))).common.idempotency_key
    };
    assert_ne!(key(0, "gpu-1"), key(1, "gpu-1"));
    assert_ne!(key(0, "gpu-1"), key(0, "gpu-2"), "each host asks for its own");
    assert_ne!(key(1, "gpu-1"), key(1, "gpu-2"), "and for a job for each of the others");
    manifest.wishes[1].hosts = Hosts::Pool;
    let key = |host| manifest.job(&manifest.wishes[1], now, Some(("run", host))).common.idempotency_key;
    assert_eq!(key("gpu-1"), key("gpu-2"), "but one of several has it whichever that is");
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let model = "[[models]]\nmodel = \"a/b\"\n";
    for (text, part, hint) in [
        (String::new(), "names no model", "[[models]]"),
        ("models = []".into(), "names no model", ""),
        (format!("windws = []\n{model}"), "line 1: unknown key `windws`", "did you mean `windows`?"),
        (format!("{model}varaint = \"auto\"\n"), "line 3: unknown key `varaint`", "did you mean `variant`?"),
        (
            format!("windows = [\"22:00-06:00\"]\n{model}"),
            "line 1: the window `22:00-06:00` has no time zone",
            "set `zone`",
        ),
        (format!("windows = [\"22-6 UTC\"]\n{model}"), "line 1: `22-6 UTC` is not a window", ""),
        (
            format!("deadline = 2026-12-01T06:30:00\n{model}"),
            "line 1: `2026-12-01T06:30:00` is not a deadline",
            "",
        ),
        (format!("deadline = 7\n{model}"), "expected a time of the day (\"06:30\") or a moment", ""),
        (
            format!("zone = \"Berlin\"\n{model}"),
            "line 1: the manifest cannot be read: `Berlin` is not a time zone",
            "",
        ),
        (format!("\ndeadline = \"soon\"\n{model}"), "line 2: `soon` is not a deadline", "06:30"),
        (format!("deadline = \"06:30\"\n{model}"), "line 1: the deadline 06:30 has no time zone", "zone ="),
        (format!("bandwidth_outside = 5\n{model}"), "line 1: `bandwidth_outside` is set", "windows"),
        (format!("bandwidth = 0\n{model}"), "line 1: the manifest cannot be read: a bandwidth of 0", ""),
        (format!("impossible = \"panic\"\n{model}"), "line 1: ", ""),
        (
            format!("{model}{model}"),
            "line 4, models[1]: a/b@main is there twice, first as models[0]",
            "leave one",
        ),
        (format!("{model}revision = \"a b\"\n"), "line 3: ", ""),
        ("[[models]]\nmodel = \"nobody\"\n".into(), "line 2, models[0]: ", ""),
        (
            "[[models]]\nmodel = \"a/b@x\"\nrevision = \"y\"\n".into(),
            "the revision is in `model` and in `revision`",
            "",
        ),
        (
            format!("{model}variant = \"auto\"\ninclude = [\"*\"]\n"),
            "models[0]: `variant` chooses the files",
            "",
        ),
        ("[[models]".into(), "line 1: ", ""),
    ] {
        let error = toml(&text).expect_err(&text);
        assert!(error.to_string().contains(part), "{text}\n{error}");
        assert!(error.hint().contains(hint), "{text}\n{}", error.hint());
    }
    for (text, part) in [
        ("", "names no model"),
        ("# nothing\n", "names no model"),
        ("models:\n  - a/b\nwindws: []\n", "line 3: unknown key `windws`"),
        ("models:\n  - {model: a/b, pni: true}\n", "line 2: unknown key `pni`"),
        ("models:\n  - a/b\n  - a/b\n", "line 3, models[1]: a/b@main is there twice"),
        ("models: [a/b", "line 1"),
        ("windows: [\"22:00-06:00\"]\nmodels: [a/b]\n", "line 1: the window"),
        ("---\n", "names no model"),
        ("[]\n", "names no model"),
        ("models:\n", "names no model"),
        ("defaults:\nwindows:\nmodels: []\n", "names no model"),
        ("- a/b\n", "keys with values are expected here"),
        ("models: 3\n", "line 1: the manifest cannot be read: a list is expected here"),
        ("models: {a: b}\n", "a list is expected here"),
    ] {
        let error = yaml(text).expect_err(text);
        assert!(error.to_string().contains(part), "{text}\n{error}");
        assert!(!error.to_string().contains("start"), "{text}\n{error}");
    }
    let error = yaml("models:\n  - {model: a/b, vraiant: auto}\n").expect_err("a typo");
    assert!(error.hint().contains("did you mean `variant`"), "{}", error.hint());
    let error = yaml("models:\n  - {model: a/b, xyzzy: auto}\n").expect_err("no key");
    assert!(error.hint().contains("known here: model, revision, include"), "{}", error.hint());
}

#[test]
fn a_hint_is_about_what_is_wrong() {
    let hint = |window: &str| {
        let text = format!("windows = [\"{window}\"]\nmodels = [\"a/b\"]\n");
        toml(&text).expect_err(window).hint().to_owned()
    };
    assert!(hint("22:00-06:00").ends_with("or set `zone`"));
    assert_eq!(hint("22:00-22:00"), "write 00:00-24:00 for the whole day, or leave the window out");
}

#[test]
fn a_deadline_may_be_one_of_tomls_own_times() {
    let deadline = |text: &str| {
        let text = format!("zone = \"UTC\"\ndeadline = {text}\nmodels = [\"a/b\"]\n");
        toml(&text).expect(&text).deadline.expect("one")
    };
    assert_eq!(deadline("2026-12-01T06:30:00+01:00"), deadline("\"2026-12-01T06:30:00+01:00\""));
    assert_eq!(deadline("06:30:00"), deadline("\"06:30\""));
}

#[test]
fn what_comes_through_a_pipe_tells_its_syntax() {
    for (text, syntax) in [
        ("# a night\n\nmodels = [\"a/b\"]", Syntax::Toml),
        ("[[models]]\nmodel = \"a/b\"", Syntax::Toml),
        ("[defaults]", Syntax::Toml),
        ("deadline = \"06:30\"", Syntax::Toml),
        ("models:\n  - a/b", Syntax::Yaml),
        ("---\nmodels: [a/b]", Syntax::Yaml),
        ("- a/b", Syntax::Yaml),
        ("{models: [a/b]}", Syntax::Yaml),
        ("", Syntax::Toml),
    ] {
        assert_eq!(Syntax::of_text(text), syntax, "{text}");
    }
}

#[test]
fn a_huge_manifest_is_answered_fast_and_with_the_bound() {
    let begun = Instant::now();
    let lines: String = (0..100_000).map(|n| format!("[[models]]\nmodel = \"a/b{n}\"\n")).collect();
    let error = toml(&lines).expect_err("too long").to_string();
    assert!(error.contains("1 MiB and 1000 models"), "{error}");
    let names: String = (0..40_000).map(|n| format!("- a/b{n}\n")).collect();
    let error = yaml(&format!("models:\n{names}")).expect_err("too many").to_string();
    assert!(error.contains("40000 models; at most 1000") || error.contains("budget"), "{error}");
    // Each alias doubles what it stands for.
    let bomb: String = (1..40).map(|n| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1)).collect();
    yaml(&format!("a0: &a0 [x]\n{bomb}")).expect_err("a bomb");
    let most: String = (0..MAX_MODELS).map(|n| format!("- a/b{n}\n")).collect();
    assert_eq!(yaml(&format!("models:\n{most}")).expect("reads").wishes.len(), MAX_MODELS);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn the_example_reads() {
    let manifest = toml(include_str!("../../../config/examples/warm.toml")).expect("reads");
    assert!(manifest.windows.is_some() && manifest.deadline.is_some() && manifest.wishes.len() > 2);
}

#[test]
fn a_listed_night_runs_in_its_order_whatever_the_priorities_say() {
    let priorities = |order: &str| -> Vec<i16> {
        let text = format!(
            "order = \"{order}\"\n[[models]]\nmodel = \"a/b\"\n[[models]]\nmodel = \"c/d\"\npriority = 7\n"
        );
        let manifest = toml(&text).expect("a manifest");
        let jobs = manifest.wishes.iter().map(|wish| manifest.job(wish, Timestamp::UNIX_EPOCH, None));
        jobs.map(|job| job.common.priority).collect()
    };
    assert_eq!(priorities("priority"), [0, 7]);
    for order in ["listed", "smallest"] {
        assert_eq!(priorities(order), [7, 7], "{order}");
    }
}
