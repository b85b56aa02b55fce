//! The registry with entries of one's own: `models.registry` names a file, and every command that takes a name knows what
//! stands there. A file that is no good is refused with its place and what to do.

use std::path::PathBuf;

use serde_json::{Value, json};
use support::repos::Repo;
use support::{Hub, Larder};

use super::row;

const OWN: &str = r#"
[[model]]
name = "house-coder"
id = "acme/house-coder"
aliases = ["hc"]
category = "coding"
parameters = 494_032_768
context = 2048
access = { licence = "mit", gated = "no", remote_code = false }

[[model]]
name = "gpt2"
id = "openai-community/gpt2"
category = "general"
parameters = 100_000_000
context = 512
access = { licence = "mit", gated = "no", remote_code = false }
note = "ours"
"#;

fn with(larder: &Larder, text: &str) -> PathBuf {
    let path = larder.root().join("models.toml");
    std::fs::write(&path, text).expect("written");
    path
}

fn names(listed: &Value) -> Vec<&str> {
    listed.as_array().expect("a list").iter().map(|model| model["name"].as_str().expect("a name")).collect()
}

#[test]
fn own_entries_are_added_and_take_the_place_of_others() {
    let hub = Hub::start();
    let mut own = Repo::from_row(&row("Qwen/Qwen2.5-0.5B-Instruct"));
    own.id = "acme/house-coder".into();
    hub.add(own.model());
    hub.add(Repo::from_row(&row("openai-community/gpt2")).model());
    let larder = support::larder!(&hub);
    let builtin = larder.run(&["models", "--json"]).expect_code(0).json();
    let path = with(&larder, OWN);
    let larder = larder.env("LARDER__MODELS__REGISTRY", &path);
    let all = larder.run(&["models", "--json"]).expect_code(0).json();
    assert_eq!(names(&all).len(), names(&builtin).len() + 1, "one more, and one in place of another");
    let coding = larder.run(&["models", "--category", "coding", "--json"]).expect_code(0).json();
    assert!(names(&coding).contains(&"house-coder") && names(&coding).contains(&"starcoder2-3b"));
    let gpt2 = larder.run(&["models", "gpt2", "--json"]).expect_code(0).json();
    assert_eq!(
        (&gpt2["category"], &gpt2["context"], &gpt2["note"]),
        (&json!("general"), &json!(512), &json!("ours"))
    );
    assert!(
        gpt2["batches"] == json!([]) || gpt2["batches"].is_null(),
        "as a whole, nothing of the old one: {gpt2}"
    );
    let person = larder.run(&["models"]).expect_code(0).stdout;
    assert!(
        person.lines().any(|line| line.starts_with("house-coder") && line.contains("acme/house-coder")),
        "{person}"
    );
    // Every command that takes a name knows it.
    let plan = larder.run(&["plan", "hc", "--json"]).expect_code(0).json();
    assert_eq!(plan["repo"], "acme/house-coder");
    let category = ["plan", "--category", "coding", "--vram", "24GiB", "--local", "--json"];
    let plan = larder.run(&category).expect_code(0).json();
    let is_planned = |row: &&Value| row["model"] == "acme/house-coder" && row["job"].is_object();
    assert_eq!(plan["models"].as_array().expect("rows").iter().filter(is_planned).count(), 1, "{plan}");
    // The repo is the truth about it, too.
    let fit = larder.run(&["fit", "gpt2", "--vram", "24GiB", "--local", "--json"]).expect_code(0).json();
    assert_eq!(
        fit["drift"],
        json!([{"key": "parameters", "registry": 100_000_000, "repo": 124_439_808}]),
        "{fit}"
    );
    let daemon = larder.serve();
    let listed = daemon.get("/v1/registry?category=coding").expect(200);
    assert!(names(&listed["models"]).contains(&"house-coder"), "{listed}");
    let fit =
        daemon.post("/v1/fit", &json!({"repo": "house-coder", "vram": "24GiB", "local": true})).expect(200);
    assert_eq!((&fit["repo"], &fit["drift"]), (&json!("acme/house-coder"), &json!([])), "{fit}");
    // By a file of settings instead of a variable.
    let file = larder.root().join("larder.toml");
    let text = format!("[models]\nregistry = {:?}\n", path.display().to_string());
    std::fs::write(&file, text).expect("written");
    let plain = larder.env("LARDER__MODELS__REGISTRY", "");
    let from_file = plain.run(&[
        "models",
        "house-coder",
        "--json",
        "--set",
        &format!("models.registry={}", path.display()),
    ]);
    assert_eq!(from_file.expect_code(0).json()["id"], "acme/house-coder");
}

#[test]
fn a_file_that_is_no_good_is_refused_with_its_place_and_what_to_do() {
    let larder = support::larder!(&Hub::start());
    let entry =
        |line: &str| format!("\n[[model]]\nname = \"x\"\nid = \"a/x\"\ncategory = \"coding\"\n{line}\n");
    let twice = format!("{}{}", entry(""), entry(""));
    let path = larder.root().join("models.toml");
    let larder = larder.env("LARDER__MODELS__REGISTRY", &path);
    for (text, place, wanted, hint) in [
        (entry("contxt = 5"), "line 6", "unknown key `contxt`", "did you mean `context`?"),
        (entry("context = 1.5"), "line 6", "1.5", "write all digits"),
        (entry("").replace("coding", "codng"), "line 5", "codng", "`coding`"),
        (entry("").replace("a/x", "x"), "line 4", "the owner is missing", "config/models.toml"),
        (twice, "line", "x", ""),
        ("[[model]\n".to_owned(), "line 1", "", ""),
        ("[[model]]\nname = \"x\"\n".to_owned(), "line", "", ""),
    ] {
        with(&larder, &text);
        for args in [&["models"][..], &["plan", "gpt2"], &["fit", "gpt2"], &["models", "gpt2", "--json"]] {
            let refused = larder.run(args).expect_code(2);
            let said = &refused.stderr;
            assert!(said.contains("models.toml") && said.contains(place), "{text}: {said}");
            assert!(said.contains(wanted) && said.contains(hint), "{text}: {said}");
            assert!(refused.stdout.is_empty() || args.contains(&"--json"), "{refused:?}");
        }
    }
    // A daemon does not start with it, either, and a check of the settings finds it.
    larder.run(&["serve"]).expect_code(2);
    std::fs::remove_file(&path).expect("removed");
    let missing = larder.run(&["models"]).expect_code(2).stderr;
    assert!(missing.contains("models.registry") && missing.contains("cannot be read"), "{missing}");
}
