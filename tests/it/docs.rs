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
