//! The field's own readers: `huggingface_hub`, `safetensors`, `tokenizers` judge what larder wrote.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::process::{self, Output};

/// Variable that names the Python to use.
pub const VARIABLE: &str = "LARDER_TEST_PYTHON";

/// The Python to use: [`VARIABLE`], or `target/pyenv/bin/python` of the workspace.
pub fn interpreter() -> PathBuf {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/pyenv/bin/python");
    std::env::var_os(VARIABLE).map_or_else(default, PathBuf::from)
}

/// Whether that Python exists and imports these modules.
pub fn has(modules: &[&str]) -> bool {
    let script = format!("import {}", modules.join(", "));
    let python = interpreter();
    python.is_file()
        && process::run(Command::new(python).args(["-c", &script]), Duration::from_secs(60)).code == 0
}

/// Runs a script with arguments and variables; five minutes at most. Panics with what to do when there is no Python.
#[track_caller]
pub fn python(script: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    let python = interpreter();
    assert!(
        python.is_file(),
        "no Python at {}. `tests/run.sh` makes it and runs all tests; another one is named by \
         `{VARIABLE}=/path/to/python cargo test` (huggingface_hub, safetensors, tokenizers, numpy).",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg("-c").arg(script).args(args).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("NO_PROXY", "*");
    command
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .envs(env.iter().copied());
    process::run(&mut command, Duration::from_secs(300))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Snapshot, assert_clean};
    use crate::{Hub, models};

    #[test]
    fn the_fields_own_client_accepts_the_test_hub() {
        if !has(&["huggingface_hub"]) {
            return eprintln!("skipped: no huggingface_hub in {}", interpreter().display());
        }
        let (hub, dir) = (Hub::start(), tempfile::tempdir().expect("a temporary folder"));
        let home = dir.path().to_str().expect("temporary paths are UTF-8");
        let model = models::every_format(1, 20_000).gated();
        hub.add(model.clone());
        hub.page_size(3);
        hub.redirect_small_files(true);
        let script = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1]))";
        let fetch = |token: &str| {
            let endpoint = hub.endpoint();
            let env = [("HF_ENDPOINT", endpoint.as_str()), ("HF_HOME", home), ("HF_TOKEN", token)];
            python(script, &[model.id()], &env)
        };
        hub.allow_token("hf_other");
        assert!(fetch("hf_other").expect_code(1).stderr.contains("GatedRepoError"));
        hub.grant("hf_good", model.id());
        fetch("hf_good").expect_code(0);
        let cache = dir.path().join("hub");
        Snapshot::read(&cache, model.id(), "main").expect("the snapshot").assert_is(&model);
        assert_clean(&cache);
        assert!(!hub.token_reached_cdn());
    }
}
