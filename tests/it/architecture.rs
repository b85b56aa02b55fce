//! The house keeps its shape: arrows between rooms point downwards, files stay small, and the crates that are
//! walled in are named only where they are walled in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Floors from the bottom; a room may use rooms of lower floors, and of its own floor only itself.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["metrics"],
    &["store", "layout", "plan", "disk", "fit", "weights"],
    &["hub", "host", "gpu", "catalogue", "warm"],
    &["queue", "ledger"],
    &["keeper", "scout"],
    &["worker", "api"],
    &["config"],
    &["serve"],
    &["cli"],
];
/// Where a crate may be named, as prefixes of paths below `src`.
const WALLS: &[(&str, &[&str])] = &[
    ("sled", &["store/"]),
    ("hf_hub", &["hub/"]),
    ("nvml_wrapper", &["gpu/"]),
    ("apalis_core", &["queue/backend.rs"]),
    ("apalis", &["queue/backend.rs", "worker/runtime.rs"]),
    ("reqwest", &["hub/", "cli/client.rs"]),
    // The room of that name; the crate is larder-jobs' alone.
    ("redis", &["queue/mod.rs"]),
    ("indicatif", &["cli/"]),
    ("clap", &["cli/"]),
    ("metrics_exporter_prometheus", &["metrics.rs", "api/mod.rs", "serve.rs"]),
];
/// Crates behind larder-jobs, itself included: exactly, and at most with the feature `client`.
const LETTERBOX: usize = 30;
const LETTERBOX_CLIENT: usize = 95;
const HARD_LIMIT: usize = 600;
/// At most one file in so many may be longer than the soft limit.
const SOFT_LIMIT: usize = 400;
const SOFT_ONE_IN: usize = 10;

fn sources(below: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable").map(|entry| entry.expect("entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|ending| ending == "rs" || ending == "lua") {
                let text = fs::read_to_string(&entry).expect("UTF-8");
                found.push((entry.strip_prefix(root).expect("inside").to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{below} has sources");
    found
}

/// Code without comments and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn room(path: &Path) -> String {
    let first = path.iter().nth(1).expect("below src").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn arrows_point_downwards() {
    let floor: BTreeMap<_, _> =
        FLOORS.iter().enumerate().flat_map(|(n, rooms)| rooms.iter().map(move |room| (*room, n))).collect();
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let here = room(&path);
        if here == "lib" || here == "main" {
            continue;
        }
        let own = *floor.get(here.as_str()).unwrap_or_else(|| panic!("{here} stands on no floor"));
        for part in code(&text).split("crate::").skip(1) {
            // `crate::{a, b}` names several rooms.
            let names: Vec<&str> = match part.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or("").split(',').map(str::trim).collect(),
                None => vec![part],
            };
            for name in names {
                let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
                let used = &name[..end];
                let Some(target) = floor.get(used) else { continue };
                if used != here && *target >= own {
                    wrong.push(format!("{} uses {used}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that do not point downwards:\n{}", wrong.join("\n"));
}

#[test]
fn walled_crates_are_named_only_inside_their_walls() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let below = path.strip_prefix("src").expect("below src").to_string_lossy().into_owned();
        // Test modules in files of their own look over the walls.
        if below.ends_with("tests.rs") || below.contains("/tests/") {
            continue;
        }
        let code = code(&text);
        for (name, walls) in WALLS {
            let used = code.contains(&format!("{name}::")) || code.contains(&format!("use {name};"));
            // `apalis::` is also the end of no other crate's name; `larder_metrics::` and the like are not.
            let exact = code.match_indices(&format!("{name}::")).any(|(at, _)| {
                !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':')
            });
            if used && exact && !walls.iter().any(|wall| below.starts_with(wall)) {
                wrong.push(format!("src/{below} names {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn decisions_read_no_clock_and_do_no_io() {
    let pure =
        ["src/plan", "src/fit", "src/weights", "src/catalogue", "src/warm"].into_iter().flat_map(sources);
    // Tests may read what they like.
    let is_test = |path: &Path| path.ends_with("tests.rs") || path.iter().any(|part| part == "tests");
    for (path, text) in pure.filter(|(path, _)| !is_test(path)) {
        let code = code(&text);
        for forbidden in ["async ", "std::fs", "std::net", "tokio", "::now()", "std::env", "Instant"] {
            assert!(!code.contains(forbidden), "{} contains `{forbidden}`", path.display());
        }
    }
}

#[test]
fn files_are_small_and_say_what_they_are_for() {
    let all: Vec<_> =
        ["src", "jobs/src", "tests", "examples"].iter().flat_map(|folder| sources(folder)).collect();
    let mut long = 0;
    for (path, text) in &all {
        let lines = text.lines().count();
        assert!(lines <= HARD_LIMIT, "{} has {lines} lines", path.display());
        let head = if path.extension().is_some_and(|ending| ending == "lua") { "-- " } else { "//!" };
        assert!(text.starts_with(head), "{} does not say what it is for", path.display());
        long += usize::from(lines > SOFT_LIMIT);
    }
    let allowed = all.len() / SOFT_ONE_IN;
    assert!(long <= allowed, "{long} of {} files are longer than {SOFT_LIMIT} lines", all.len());
}

#[test]
fn the_letterbox_stays_light() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs/Cargo.toml")).expect("reads");
    let section =
        manifest.split("[dependencies]").nth(1).expect("section").split("\n[").next().expect("section");
    let required: Vec<_> = section
        .lines()
        .filter(|line| line.contains('=') && !line.starts_with('#') && !line.contains("optional = true"))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .collect();
    assert_eq!(
        required,
        [
            "bytesize",
            "humantime",
            "hex",
            "jiff",
            "serde",
            "serde_json",
            "serde_path_to_error",
            "thiserror",
            "ulid"
        ]
    );
}

/// Names and versions of everything that larder-jobs is built from.
fn behind_the_letterbox(features: &[&str]) -> BTreeSet<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--locked", "-p", "larder-jobs", "-e", "normal", "--prefix", "none"]);
    let output = tree.args(features).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    lines.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn little_is_behind_the_letterbox() {
    let plain = behind_the_letterbox(&[]);
    assert_eq!(plain.len(), LETTERBOX, "{plain:#?}");
    for heavy in ["tokio ", "redis ", "reqwest ", "sled ", "rustls "] {
        assert!(!plain.iter().any(|name| name.starts_with(heavy)), "{heavy}");
    }
    let client = behind_the_letterbox(&["--features", "client"]);
    assert!(client.len() <= LETTERBOX_CLIENT, "{}: {client:#?}", client.len());
    assert!(client.iter().any(|name| name.starts_with("redis ")), "the feature brings the client");
}

#[test]
fn only_the_letterbox_depends_on_redis() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("reads");
    let package = manifest.split("[package]").nth(1).expect("the section");
    assert!(!package.lines().any(|line| line.starts_with("redis")), "the server asks larder-jobs");
}
