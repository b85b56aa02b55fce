//! The compose files as they are put together, by an independent reader of the specification (`podman-compose config`, which
//! merges and substitutes, and starts nothing).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::python::{interpreter, python};

const GPU: &str = "docker-compose.gpu.yml";
const CPU: &str = "docker-compose.cpu.yml";

/// The program beside the tests' Python; `None`, with a word, where it is not installed.
fn tool(name: &str) -> Option<PathBuf> {
    let tool = interpreter().with_file_name(name);
    if !tool.is_file() {
        println!("skipped: no {name} beside {}; tests/run.sh installs it", interpreter().display());
    }
    Some(tool).filter(|tool| tool.is_file())
}

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn config(tool: &Path, files: &[&Path], profile: Option<&str>) -> Output {
    let mut command = Command::new(tool);
    // It wants an engine to be there, and asks it for nothing but its version.
    command.args(["--podman-path", "/bin/echo"]);
    command.args(profile.into_iter().flat_map(|profile| ["--profile", profile]));
    command.args(files.iter().flat_map(|file| [Path::new("-f"), *file])).arg("config");
    command.current_dir(here(".")).env("LARDER_HOST", "gpu-7").env("LARDER_CACHE", "/srv/models/hub");
    command.output().expect("it runs")
}

/// What these files are together, and the text of it.
fn merged(tool: &Path, files: &[&Path], profile: Option<&str>) -> (Value, String) {
    let told = config(tool, files, profile);
    let text = String::from_utf8(told.stdout).expect("UTF-8");
    assert!(told.status.success(), "{files:?}: {}", String::from_utf8_lossy(&told.stderr));
    let read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))";
    (python(read, &[&text], &[]).expect_code(0).json(), text)
}

fn devices(compose: &Value) -> &Value {
    &compose["services"]["larder"]["deploy"]["resources"]["reservations"]["devices"]
}

#[test]
fn without_a_gpu_only_the_gpu_is_missing() {
    let (Some(tool), Some(schema)) = (tool("podman-compose"), tool("check-jsonschema")) else { return };
    let (gpu, cpu) = (here(GPU), here(CPU));
    let (with, _) = merged(&tool, &[&gpu], None);
    let wanted = json!([{"driver": "nvidia", "count": "all", "capabilities": ["gpu", "utility"]}]);
    assert_eq!(devices(&with), &wanted);
    let (without, text) = merged(&tool, &[&gpu, &cpu], None);
    assert!(devices(&without).as_array().is_none_or(Vec::is_empty), "{text}");
    let mut rest = with.clone();
    let reservations = &mut rest["services"]["larder"]["deploy"]["resources"]["reservations"];
    reservations.as_object_mut().expect("a mapping").remove("devices");
    assert_eq!(rest, without, "nothing else differs");

    // What is put together is by itself what the specification asks for.
    let folder = tempfile::tempdir().expect("temp folder");
    let file = folder.path().join("merged.yml");
    std::fs::write(&file, &text).expect("written");
    let checked = Command::new(&schema).args(["--builtin-schema", "vendor.compose-spec"]).arg(&file).output();
    let checked = checked.expect("it runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));

    // The tag is what does it: an empty list adds nothing, and takes nothing away.
    let plain = folder.path().join("plain.yml");
    let override_text = std::fs::read_to_string(&cpu).expect("reads");
    assert!(override_text.contains("devices: !reset []"), "{override_text}");
    std::fs::write(&plain, override_text.replace("!reset ", "")).expect("written");
    assert_eq!(devices(&merged(&tool, &[&gpu, &plain], None).0), &wanted);
}

#[test]
fn every_service_is_closed_and_names_only_what_is_there() {
    let Some(tool) = tool("podman-compose") else { return };
    let (gpu, cpu) = (here(GPU), here(CPU));
    let (compose, text) = merged(&tool, &[&gpu, &cpu], Some("monitoring"));
    let services = compose["services"].as_object().expect("services");
    let names: Vec<_> = services.keys().map(String::as_str).collect();
    assert_eq!(names, ["grafana", "larder", "prometheus", "redis"], "{text}");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for (name, service) in services {
        assert_eq!((&service["read_only"], &service["cap_drop"]), (&json!(true), &json!(["ALL"])), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        assert!(service["user"].as_str().is_some_and(|user| !user.starts_with("0:")), "{name}: {service}");
        for port in list(&service["ports"]) {
            assert!(port.as_str().is_some_and(|port| port.starts_with("127.0.0.1:")), "{name}: {port}");
        }
        for (what, all) in [
            ("secrets", &compose["secrets"]),
            ("configs", &compose["configs"]),
            ("networks", &compose["networks"]),
        ] {
            for used in list(&service[what]) {
                let used = used.as_str().or(used["source"].as_str()).expect("a name").to_owned();
                assert!(all.get(&used).is_some(), "{name} uses {what}/{used}, which is not there");
                let file = all[&used]["file"].as_str();
                let is_shipped =
                    file.is_none_or(|file| !file.starts_with("./deploy") || here(file).is_file());
                assert!(is_shipped, "{name}: {used} is the file {file:?}, which is not there");
            }
        }
        for volume in list(&service["volumes"]) {
            let Some((source, _)) = volume.as_str().and_then(|volume| volume.split_once(':')) else {
                continue;
            };
            let is_there = match source.starts_with(['.', '/']) {
                true => here(source).exists(),
                false => compose["volumes"].get(source).is_some(),
            };
            assert!(is_there, "{name}: {source} is not there");
        }
        let needs = &service["depends_on"];
        let needs =
            needs.as_object().map(|needs| needs.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        assert!(needs.iter().all(|needed| services.contains_key(needed)), "{name} needs {needs:?}");
    }
}

#[test]
fn a_host_without_a_name_is_refused_before_anything_starts() {
    let Some(tool) = tool("podman-compose") else { return };
    let mut command = Command::new(tool);
    command.args(["--podman-path", "/bin/echo", "-f"]).arg(here(GPU)).arg("config").current_dir(here("."));
    let told = command.env_remove("LARDER_HOST").env("LARDER_CACHE", "/x").output().expect("it runs");
    assert!(
        !told.status.success() && String::from_utf8_lossy(&told.stderr).contains("the name of this host"),
        "{told:?}"
    );
}
