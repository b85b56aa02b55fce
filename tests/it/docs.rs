//! The documents say what the program does: reasons, default configuration, examples, the first commands to type.

use std::fs;
use std::path::{Path, PathBuf};

use larder_jobs::Reason;
use support::Larder;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn larder() -> Larder {
    Larder::new(Path::new(env!("CARGO_BIN_EXE_larder")))
}

fn examples() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("config/examples")).expect("config/examples");
    let mut found: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    // A manifest is no configuration.
    found.retain(|path| !path.ends_with("warm.toml"));
    found.sort();
    assert!(found.len() >= 2, "examples: {found:?}");
    found
}

/// Keys of a TOML text that have no comment right above them.
fn bare_keys(text: &str) -> Vec<String> {
    let (mut bare, mut commented) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') {
            commented = true;
            continue;
        }
        if let Some((key, _)) = line.split_once('=').filter(|_| !commented) {
            bare.push(key.trim().to_owned());
        }
        commented = false;
    }
    bare
}

#[test]
fn every_reason_is_in_the_table_and_no_other() {
    let text = read("docs/reasons.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let written: Vec<Vec<String>> = rows
        .map(|line| line.split('|').skip(1).take(4).map(|cell| cell.trim().replace('`', "")).collect())
        .collect();
    let class = |reason: &Reason| match format!("{:?}", reason.class()).as_str() {
        "TransientOnce" => "transient once".to_owned(),
        class => class.to_lowercase(),
    };
    let table: Vec<Vec<String>> = Reason::ALL
        .iter()
        .map(|reason| {
            let (exit, http) = (reason.exit_code().to_string(), reason.http_status().to_string());
            vec![reason.word().to_owned(), class(reason), exit, http]
        })
        .collect();
    assert_eq!(written, table);
}

#[test]
fn every_default_is_explained() {
    let text = read("config/default.toml");
    assert_eq!(bare_keys(&text), Vec::<String>::new());
    let shown = larder().run(&["config", "show", "--json"]).expect_code(0).json();
    let keys = text.lines().filter(|line| !line.starts_with('#') && line.contains('=')).count();
    assert_eq!(shown.as_array().map(Vec::len), Some(keys), "every key of the default is shown");
    assert_eq!(
        bare_keys("# why\na = 1\nb = 2\n\n[x]\nc = 3\n"),
        ["b", "c"],
        "the check itself finds bare keys"
    );
}

#[test]
fn the_example_configurations_are_valid_and_explained() {
    for path in examples() {
        let text = fs::read_to_string(&path).expect("reads");
        let file = path.to_str().expect("UTF-8");
        assert_eq!(bare_keys(&text), Vec::<String>::new(), "{file}");
        let mut command = larder();
        command.set_env("LARDER_CONFIG", file);
        let checked = command.run(&["config", "check"]).expect_code(0);
        assert!(checked.stdout.contains(file), "{}", checked.stdout);
        let shown = command.run(&["config", "show", "--json"]).expect_code(0).json();
        let from_file = shown.as_array().expect("keys").iter();
        let from_file =
            from_file.filter(|key| key["source"].as_str().is_some_and(|from| from.ends_with(".toml")));
        assert!(from_file.count() >= 3, "{file} is read: {shown}");
    }
}

#[test]
fn the_example_manifest_is_explained() {
    let text = read("config/examples/warm.toml");
    assert_eq!(bare_keys(&text), Vec::<String>::new());
    // That it reads is held where manifests are read, but not that the registry knows its short name.
    larder().run(&["models", "Qwen2.5-32B-Instruct"]).expect_code(0);
}

#[test]
fn the_readme_names_the_first_commands() {
    let text = read("README.md");
    let code: String = text.split("```").skip(1).step_by(2).collect();
    for command in ["cargo run --release -- stage openai-community/gpt2", "bash tests/run.sh"] {
        assert!(
            code.lines().any(|line| line.trim().trim_start_matches("$ ") == command),
            "README.md: no `{command}`"
        );
    }
    assert!(root().join("tests/run.sh").is_file());
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn every_key_that_a_document_names_exists() {
    let shown = larder().run(&["config", "show", "--json"]).expect_code(0).json();
    let shown = shown.as_array().expect("keys").iter();
    let keys: Vec<&str> = shown.map(|key| key["key"].as_str().expect("a key")).collect();
    let sections: Vec<&str> = keys.iter().filter_map(|key| key.split('.').next()).collect();
    let is_key = |word: &str| {
        let (section, rest) = word.split_once('.').unwrap_or((word, ""));
        let fits = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '.');
        sections.contains(&section) && !rest.is_empty() && rest.chars().all(fits)
    };
    let mut named = 0;
    for path in ["README.md", "docs/queue.md", "docs/api.md", "docs/architecture.md", "docs/reasons.md"] {
        for word in quoted(&read(path)).filter(|word| is_key(word)) {
            let is_file =
                [".toml", ".rs", ".lua", ".json", ".sock", ".md"].iter().any(|end| word.ends_with(end));
            assert!(is_file || keys.contains(&word), "{path} names {word}, which is no key");
            named += usize::from(!is_file);
        }
    }
    assert!(named >= 20, "keys are found: {named}");
}

#[test]
fn the_document_of_the_queue_says_what_the_program_does() {
    let (text, client) = (read("docs/queue.md"), read("jobs/src/client/mod.rs"));
    let example =
        text.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    for line in example.lines() {
        assert!(client.contains(&format!("//! {line}\n")), "the doc test of the client has: {line}");
    }

    let head = read("jobs/src/client/lua/records.lua");
    let head = head.lines().take_while(|line| line.starts_with("--"));
    let keys: Vec<String> = head
        .filter_map(|line| line.strip_prefix("--   "))
        .flat_map(|line| line.split("  ").next().unwrap_or_default().split(", ").map(str::to_owned))
        .collect();
    assert!(keys.len() >= 12, "{keys:?}");
    for key in &keys {
        assert!(quoted(&text).any(|word| word == key), "docs/queue.md lists {key}");
    }

    let sources = [
        "jobs/src/client/error.rs",
        "jobs/src/client/server.rs",
        "src/queue/redis/attend.rs",
        "src/queue/redis/inbox.rs",
    ];
    let sources = sources.map(read).concat();
    let table = text.split("## When something is wrong").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows = table.expect("the section").lines().filter(|line| line.starts_with("| `"));
    let symptoms: Vec<&str> =
        rows.flat_map(|row| quoted(row.split('|').nth(1).unwrap_or_default())).collect();
    assert!(symptoms.len() >= 9, "{symptoms:?}");
    for symptom in symptoms {
        for part in symptom.split('…') {
            assert!(sources.contains(part.trim()), "larder says `{}`", part.trim());
        }
    }

    let defaults = read("config/default.toml");
    for (key, shown) in [
        ("max_queued = 100000", "100,000"),
        ("max_finished = 10000", "10,000"),
        ("retention = \"7d\"", "7 days"),
    ] {
        assert!(defaults.contains(key) && text.contains(shown), "{key}: {shown}");
    }
}
