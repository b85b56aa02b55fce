//! What the command line prints: transcripts under `snapshots/`, exit codes, JSON, closed pipes, no colours.

use std::path::Path;
use std::process::{Command, Stdio};

use support::{Hub, Larder, Model, models};

const DEFAULT: &str = include_str!("../../config/default.toml");

fn larder() -> Larder {
    Larder::new(Path::new(env!("CARGO_BIN_EXE_larder"))).env("LARDER__HOST__NAME", "host-1")
}

/// The words as a shell would need them.
fn quoted(args: &[&str]) -> String {
    let word = |arg: &&str| if arg.is_empty() { "''".to_owned() } else { (*arg).to_owned() };
    args.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Runs the commands one after the other; what they print, with stderr marked by `!`.
fn transcript(larder: &Larder, hub: Option<&Hub>, commands: &[&[&str]]) -> String {
    let mut text = String::new();
    for args in commands {
        let output = larder.run(args);
        text.push_str(&format!("$ larder {}\n{}", quoted(args), output.stdout));
        // Which steps of a transfer are seen depends on how fast it is.
        let steps = ["queued", "planning", "fetching", "verifying"];
        for line in output.stderr.lines().filter(|line| !steps.iter().any(|step| line.starts_with(step))) {
            text.push_str(&format!("! {line}\n"));
        }
        text.push_str(&format!("[exit {}]\n\n", output.code));
    }
    let text = text.replace(larder.root().to_str().expect("UTF-8"), "[ROOT]");
    hub.map_or(text.clone(), |hub| text.replace(&hub.endpoint(), "[HUB]"))
}

macro_rules! assert_transcript {
    ($name:literal, $text:expr) => {
        insta::with_settings!({
            omit_expression => true,
            filters => vec![
                (r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "[ID]"),
                (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "[TIME]"),
                (r" in [\d.]+(s|ms), [^/\n]+/s", " in [TIME], [SPEED]"),
                (r"127\.0\.0\.1:\d+", "127.0.0.1:[PORT]"),
                (r"disk: .* free, .* after it", "disk: [SIZE] free, [SIZE] after it"),
                (r#""disk_free": \d+"#, r#""disk_free": [BYTES]"#),
                (r"larder \d+\.\d+\.\d+", "larder [VERSION]"),
            ],
        }, { insta::assert_snapshot!($name, $text) });
    };
}

#[test]
fn help() {
    let jobs = ["list", "show", "cancel", "retry", "redrive", "watch"];
    let mut commands = vec![vec!["--version"], vec!["--help"]];
    commands.extend(["serve", "stage", "plan", "ls", "doctor", "limit", "jobs"].map(|verb| vec![verb, "-h"]));
    commands.extend(jobs.map(|verb| vec!["jobs", verb, "-h"]));
    commands.extend(["show", "check", "functions"].map(|verb| vec!["config", verb, "-h"]));
    commands.extend([vec!["config", "-h"], vec!["completions", "-h"]]);
    let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
    let text = transcript(&larder(), None, &commands);
    // The same for every verb, so once is enough.
    let common = text.split("[exit 0]").nth(1).and_then(|help| help.split_once("Everywhere:"));
    let common = format!("Everywhere:{}", common.expect("options of every verb").1);
    assert_eq!(text.matches(&common).count(), commands.len() - 1, "every verb has the common options");
    assert_transcript!(
        "help",
        text.replacen(&common, "\0", 1).replace(&common, "Everywhere: …\n").replace('\0', &common)
    );
}

#[test]
fn plan_of_every_format() {
    let hub = Hub::start();
    hub.add(models::every_format(1, 20_000));
    hub.add(models::gguf_only(2));
    let larder = larder().hub(&hub).env("LARDER__GPU__NVML_LIBRARY", "/no/such/library");
    let model = "test/every-format-1";
    let text = transcript(
        &larder,
        Some(&hub),
        &[
            &["plan", model],
            &["plan", model, "--bytes", "--include", "*.gguf"],
            &["plan", model, "--format", "pickle", "--allow-unsafe"],
            &["plan", "test/gguf-2"],
            &["plan", model, "--json"],
        ],
    );
    assert_transcript!("plan", text);
    assert!(support::cache::walk(larder.cache()).is_empty(), "a plan writes nothing");
    let same = larder.run(&["stage", model, "--dry-run", "--json"]).expect_code(0).json();
    assert_eq!(same["files"], larder.run(&["plan", model, "--json"]).json()["files"]);
}

#[test]
fn models_and_jobs() {
    let hub = Hub::start();
    hub.add(models::every_format(1, 20_000));
    let larder = larder().hub(&hub).env("LARDER__GPU__NVML_LIBRARY", "/no/such/library");
    let model = "test/every-format-1";
    let before = transcript(
        &larder,
        Some(&hub),
        &[
            &["ls"],
            &["ls", "--json"],
            &["jobs"],
            &["jobs", "--json"],
            &["stage", model, "--requested-by", "me"],
            &["ls"],
            &["ls", "--bytes", model],
            &["ls", "--json"],
            &["ls", "test/other"],
            &["plan", model],
            &["jobs"],
            &["jobs", "list", "--state", "failed"],
            &["stage", model, "--pin"],
            &["ls", model],
        ],
    );
    let listed = larder.run(&["jobs", "--json"]).expect_code(0).json();
    let id = listed[1]["id"].as_str().expect("the first job").to_owned();
    let commands: &[&[&str]] = &[
        &["jobs", "show", &id],
        &["jobs", "show", &id, "--json"],
        &["jobs", "retry", &id],
        &["jobs", "watch", &id],
    ];
    assert_transcript!("models_and_jobs", before + transcript(&larder, Some(&hub), commands).as_str());
}

#[test]
fn configuration() {
    let shown = larder().run(&["config", "show", "--default"]).expect_code(0).stdout;
    assert_eq!(shown, DEFAULT);
    let larder = larder().env("LARDER__QUEUE__MAX_ATTEMPTS", "3");
    std::fs::write(larder.root().join("larder.toml"), "[hub]\nconnections = 4\n").expect("writes");
    std::fs::write(larder.root().join("bad.toml"), "[hub]\nconections = 4\n").expect("writes");
    let text = transcript(
        &larder,
        None,
        &[
            &["config", "show", "--set", "log.level=warn"],
            &["config", "check"],
            &["config", "check", "--config", "bad.toml"],
            &["config", "check", "--json"],
        ],
    );
    assert_transcript!("configuration", text);
    let keys = larder.run(&["config", "show", "--json"]).expect_code(0).json();
    let source = |key: &str| {
        let found = keys.as_array().into_iter().flatten().find(|shown| shown["key"] == key);
        found.unwrap_or_else(|| panic!("{key} is shown"))["source"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(source("queue.max_attempts"), "environment");
    assert!(source("hub.connections").ends_with("larder.toml"), "{}", source("hub.connections"));
    assert_eq!(source("queue.lease"), "default");
}

#[test]
fn failures_say_what_happened_and_what_to_do() {
    let hub = Hub::start();
    hub.add(Model::new("test/pickle").file("config.json", "{}").lfs("pytorch_model.bin", "PK"));
    let larder = larder().hub(&hub);
    let unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let commands: &[&[&str]] = &[
        &["stage", "gtp2"],
        &["stage", "test/pickle"],
        &["stage", "test/pickle", "--format", "pickle"],
        &["stage", "test/unknown"],
        &["stage", "test/pickle@unknown"],
        &["stage", "test/pickle", "--detach"],
        &["stage", "test/pickle", "--deadline", "soon"],
        &["jobs", "show", "1"],
        &["jobs", "show", unknown],
        &["jobs", "cancel", unknown],
        &["jobs", "watch", unknown],
        &["jobs", "list", "--state", "finished"],
        &["ls", "--api-url", "http://127.0.0.1:1"],
        &["ls", "--api-url", "nonsense"],
        &["ls", "--set", "cache.root"],
        &["sing"],
        &["stage"],
    ];
    assert_transcript!("failures", transcript(&larder, Some(&hub), commands));
    for args in commands {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let output = larder.run(&args);
        let said = output.json();
        let word =
            said["reason"].as_str().unwrap_or_else(|| panic!("{args:?}: no reason: {said}")).to_owned();
        let reason: larder_jobs::Reason = word.parse().expect("a word of the table");
        assert_eq!(output.code, i32::from(reason.exit_code()), "{args:?}: {said}");
        // A job that failed is printed as the job that it is, everything else as a problem.
        let (what, hint) = if said["id"].is_string() { ("message", "message") } else { ("detail", "hint") };
        assert!(said[what].as_str().is_some_and(|text| text.len() > 10), "{args:?}: {said}");
        assert!(said[hint].as_str().is_some_and(|text| text.len() > 10), "{args:?}: {said}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let larder = larder();
    for args in [
        &["ls", "--json"][..],
        &["--help"],
        &["config", "show"],
        &["completions", "bash"],
        &["sing", "--json"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = larder.command(args);
        let output =
            command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).output().expect("runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert_eq!(output.status.code(), Some(if args[0] == "sing" { 2 } else { 0 }), "{args:?}: {stderr}");
    }
}

#[test]
fn without_a_terminal_there_are_no_colours() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let larder = larder().hub(&hub).env("NO_COLOR", "").env("TERM", "xterm-256color");
    let commands: &[&[&str]] = &[
        &["stage", "test/tiny-gpt2-1"],
        &["ls"],
        &["--help"],
        &["sing"],
        &["stage", "../x"],
        &["-v", "plan", "a/b"],
    ];
    for args in commands {
        let output = larder.run(args);
        assert!(
            !(output.stdout + output.stderr.as_str()).contains('\u{1b}'),
            "{args:?} prints escape sequences"
        );
    }
    let mut daemon = larder.serve();
    assert!(daemon.terminate(std::time::Duration::from_secs(30)).success());
    assert!(
        daemon.logs().iter().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "JSON lines"
    );
}

#[test]
fn exact_bytes_on_request() {
    let hub = Hub::start();
    let model = models::tiny_gpt2(1, 20_000);
    let bytes = model.bytes().to_string();
    hub.add(model);
    let larder = larder().hub(&hub);
    let stage = larder.run(&["stage", "test/tiny-gpt2-1", "--bytes"]).expect_code(0);
    assert!(stage.stderr.contains(&format!("verified: {bytes} in")), "{}", stage.stderr);
    for args in [&["ls", "--bytes"][..], &["plan", "test/tiny-gpt2-1", "--bytes"]] {
        let exact = larder.run(args).expect_code(0).stdout;
        assert!(exact.contains(&bytes) && !exact.contains("iB"), "{exact}");
        let human = larder.run(&args[..args.len() - 1]).expect_code(0).stdout;
        assert!(human.contains("KiB") && !human.contains(&bytes), "{human}");
    }
}

/// The script is sound for its shell, as far as that shell is installed, and knows the verbs.
#[test]
fn completions() {
    let larder = larder();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = larder.run(&["completions", shell]).expect_code(0).stdout;
        assert!(
            script.contains("completions") && script.contains("detach"),
            "the script for {shell} knows the verbs"
        );
    }
    let script = larder.root().join("larder.bash");
    std::fs::write(&script, larder.run(&["completions", "bash"]).stdout).expect("writes");
    let bash = |args: &[&str]| {
        Command::new("bash").args(["--norc", "--noprofile"]).args(args).output().expect("bash")
    };
    let path = script.to_str().expect("UTF-8");
    let checked = bash(&["-n", path]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let complete =
        "source \"$0\"; COMP_WORDS=(larder $1); COMP_CWORD=1; _larder larder $1 larder; echo ${COMPREPLY[*]}";
    for (typed, offered) in [("st", "stage"), ("se", "serve"), ("conf", "config")] {
        let output = bash(&["-c", complete, path, typed]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), offered, "{typed}: {errors}");
    }
}
