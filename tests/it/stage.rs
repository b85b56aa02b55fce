//! `larder stage` from outside: what lands in the cache, what is printed, what is asked of the hub.

mod stops;
mod surroundings;
mod together;

use std::fs;

use serde_json::Value;
use support::cache::{Snapshot, assert_clean, published_early, repo_folder, walk};
use support::{Hub, Larder, Model, larder, models};

/// What nobody wants beside safetensors.
const OTHER_FORMATS: [&str; 5] =
    ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/", "model-Q8_0.gguf"];

fn snapshot(larder: &Larder, model: &Model, revision: &str) -> Snapshot {
    Snapshot::read(larder.cache(), model.id(), revision)
        .unwrap_or_else(|| panic!("{}@{revision} is not in the cache", model.id()))
}

/// Stages and returns the job.
#[track_caller]
fn stage(larder: &Larder, args: &[&str]) -> Value {
    let args = [&["stage", "--json"], args].concat();
    let job = larder.run(&args).expect_code(0).json();
    assert_eq!(job["state"], "ready", "{job}");
    job
}

fn receipt(larder: &Larder, model: &Model) -> Value {
    let path = repo_folder(larder.cache(), model.id())
        .join(".larder/receipts")
        .join(format!("{}.json", model.commit()));
    serde_json::from_slice(&fs::read(&path).expect("a receipt")).expect("JSON")
}

/// Requests whose answers were bytes of files.
fn content_requests(hub: &Hub) -> usize {
    hub.requests().iter().filter(|request| request.content).count()
}

#[test]
fn a_model_is_staged_from_nothing_in_one_weight_format() {
    let hub = Hub::start();
    let model = models::every_format(1, 200_000);
    hub.add(model.clone());
    hub.page_size(3);
    hub.redirect_small_files(true);
    let larder = larder!(&hub);

    let output = larder.run(&["stage", model.id()]).expect_code(0);
    let staged = snapshot(&larder, &model, "main");
    assert_eq!(output.stdout.trim_end(), staged.path.display().to_string(), "stdout is the path and no more");
    assert!(output.stderr.contains("staged and verified"), "{}", output.stderr);
    staged.assert_is_without(&model, &OTHER_FORMATS);
    assert!(staged.names().contains(&"1_Pooling/config.json"), "subfolders too");
    assert_clean(larder.cache());
    for left_out in OTHER_FORMATS {
        assert_eq!(hub.bytes_of(left_out), 0, "{left_out} was fetched");
    }
    let main = repo_folder(larder.cache(), model.id()).join("refs/main");
    assert_eq!(fs::read_to_string(main).expect("a ref"), model.commit(), "no newline, as Python reads it");

    let receipt = receipt(&larder, &model);
    assert_eq!(receipt["commit"], model.commit());
    assert_eq!(receipt["source"], hub.endpoint());
    assert_eq!(receipt["pinned"], false);
    let files = receipt["files"].as_array().expect("files");
    assert_eq!(files.len(), staged.files.len());
}

#[test]
fn the_json_object_says_everything_that_others_rely_on() {
    let hub = Hub::start();
    let model = models::every_format(2, 200_000);
    hub.add(model.clone());
    let larder = larder!(&hub).env("LARDER__HOST__NAME", "box-7");
    let job = stage(&larder, &[model.id()]);
    let staged = snapshot(&larder, &model, "main");

    assert_eq!(job["kind"], "download");
    assert_eq!(job["reason"], Value::Null);
    assert_eq!(job["repo"], model.id());
    assert_eq!(job["revision"], "main");
    assert_eq!(job["commit"], model.commit());
    assert_eq!(job["path"], staged.path.display().to_string());
    assert_eq!(job["bytes_total"], staged.bytes());
    assert_eq!(job["bytes_done"], staged.bytes());
    assert_eq!(job["bytes_fetched"], staged.bytes(), "no byte twice, none forgotten");
    assert_eq!(job["hosts"], serde_json::json!(["box-7"]));
    let id = job["id"].as_str().expect("an id");
    let time = |name: &str| {
        let text = job[name].as_str().unwrap_or_else(|| panic!("{name} is a time"));
        assert!(text.ends_with('Z') && text.contains('T'), "{name} is RFC 3339: {text}");
        text.to_owned()
    };
    assert!(time("created_at") <= time("finished_at"));

    let shown = larder.run(&["jobs", "show", id, "--json"]).expect_code(0).json();
    assert_eq!(shown, job, "the record stays");
}

#[test]
fn what_is_there_is_not_asked_for_again() {
    let hub = Hub::start();
    let model = models::tiny_gpt2(3, 300_000);
    hub.add(model.clone());
    let larder = larder!(&hub);
    assert!(stage(&larder, &[model.id()])["bytes_fetched"].as_u64() > Some(0));

    hub.clear_requests();
    let again = stage(&larder, &[model.id()]);
    assert_eq!(again["bytes_fetched"], 0);
    assert_eq!(again["bytes_done"], again["bytes_total"]);
    assert_eq!(content_requests(&hub), 0);
    assert_eq!(hub.requests_for("/tree/").len(), 0, "the listing is known");
    assert_eq!(hub.requests().len(), 1, "where main is now, and nothing else");

    hub.clear_requests();
    let exact = format!("{}@{}", model.id(), model.commit());
    assert_eq!(stage(&larder, &[&exact])["bytes_fetched"], 0);
    assert_eq!(hub.requests().len(), 0, "a commit never changes");

    // Without larder's own records the receipt still knows, since the disk is the truth about bytes.
    fs::remove_dir_all(larder.state()).expect("removes the records");
    assert_eq!(stage(&larder, &[&exact])["bytes_fetched"], 0);
    assert_eq!(hub.requests().len(), 0);
    snapshot(&larder, &model, "main").assert_is(&model);
}

#[test]
fn a_blob_that_changed_on_the_disk_is_noticed_and_fetched_again() {
    let hub = Hub::start();
    let model = models::tiny_gpt2(4, 300_000);
    hub.add(model.clone());
    let larder = larder!(&hub);
    stage(&larder, &[model.id()]);
    let weights = snapshot(&larder, &model, "main").files["model.safetensors"].clone();
    let mut bytes = fs::read(&weights.target).expect("reads");
    bytes[1000] ^= 1;
    fs::write(&weights.target, bytes).expect("writes");
    assert_eq!(published_early(larder.cache()).len(), 1, "it is spoilt");

    let mended = stage(&larder, &[model.id()]);
    assert_eq!(mended["bytes_fetched"], weights.size);
    snapshot(&larder, &model, "main").assert_is(&model);
    assert_clean(larder.cache());
}

#[test]
fn shards_and_one_gguf_quantization() {
    let hub = Hub::start();
    let (sharded, gguf) = (models::sharded_gpt2(5, 500_000, 4), models::gguf_only(6));
    hub.add(sharded.clone());
    hub.add(gguf.clone());
    let larder = larder!(&hub);
    stage(&larder, &[sharded.id()]);
    snapshot(&larder, &sharded, "main").assert_is(&sharded);

    stage(&larder, &[gguf.id()]);
    let names = snapshot(&larder, &gguf, "main");
    let weights: Vec<_> = names.names().into_iter().filter(|name| name.ends_with(".gguf")).collect();
    assert_eq!(weights, ["tiny-Q4_K_M.gguf"]);
    assert_clean(larder.cache());
}

#[test]
fn patterns_choose_and_later_patterns_add() {
    let hub = Hub::start();
    let gguf = models::gguf_only(7);
    hub.add(gguf.clone());
    let larder = larder!(&hub);
    stage(&larder, &[gguf.id(), "--include", "Q8_0/*", "--include", "*.md"]);
    let parts = ["Q8_0/tiny-Q8_0-00001-of-00002.gguf", "Q8_0/tiny-Q8_0-00002-of-00002.gguf"];
    assert_eq!(snapshot(&larder, &gguf, "main").names(), [parts[0], parts[1], "README.md"]);

    stage(&larder, &[gguf.id(), "--include", "*.gguf", "--exclude", "*F16*", "--exclude", "*Q[245]*"]);
    assert_eq!(snapshot(&larder, &gguf, "main").names(), [parts[0], parts[1], "README.md"], "nothing new");
    stage(&larder, &[gguf.id(), "--include", "tiny-Q2_K.gguf"]);
    let all = [parts[0], parts[1], "README.md", "tiny-Q2_K.gguf"];
    assert_eq!(snapshot(&larder, &gguf, "main").names(), all, "what was there stays");
    assert_eq!(receipt(&larder, &gguf)["files"].as_array().map(Vec::len), Some(all.len()));
    assert_clean(larder.cache());
}

#[test]
fn a_file_that_somebody_removed_does_not_stand_in_the_way_of_another() {
    let hub = Hub::start();
    let model = models::tiny_gpt2(7, 100_000);
    hub.add(model.clone());
    let larder = larder!(&hub);
    stage(&larder, &[model.id()]);
    let weights = fs::canonicalize(snapshot(&larder, &model, "main").path.join("model.safetensors"));
    fs::remove_file(weights.expect("the blob")).expect("removes it");

    stage(&larder, &[model.id(), "--include", "config.json"]);
    let files = receipt(&larder, &model)["files"].clone();
    let mut names = files.as_array().expect("files").iter().map(|file| &file["path"]);
    assert!(
        !names.any(|name| name == "model.safetensors"),
        "the receipt promises only what is there: {files}"
    );
    let again = stage(&larder, &[model.id()]);
    assert_eq!(again["bytes_fetched"], model.at("model.safetensors").content.len());
    snapshot(&larder, &model, "main").assert_is(&model);
    assert_clean(larder.cache());
}

#[test]
fn pickle_comes_only_when_it_is_accepted() {
    let hub = Hub::start();
    let all = models::every_format(8, 50_000);
    let model =
        all.without("model.safetensors").without("model-Q8_0.gguf").file("modeling.py", "import os\n");
    hub.add(model.clone());
    let larder = larder!(&hub);
    let output = larder.run(&["stage", model.id(), "--json"]).expect_code(4);
    assert_eq!(output.json()["reason"], "unsafe_format");
    assert!(output.stderr.contains("--allow-unsafe"), "{}", output.stderr);
    assert_eq!(content_requests(&hub), 0);
    assert!(Snapshot::read(larder.cache(), model.id(), "main").is_none());

    stage(&larder, &[model.id(), "--allow-unsafe"]);
    let staged = snapshot(&larder, &model, "main");
    staged.assert_is_without(&model, &["tf_model.h5", "flax_model.msgpack", "onnx/"]);
    assert_clean(larder.cache());
}

#[test]
fn tags_pull_requests_and_commits_are_revisions() {
    let hub = Hub::start();
    let (v1, pr) = (models::tiny_gpt2(9, 40_000), models::tiny_gpt2(9, 60_000));
    hub.add(v1.clone().reference("refs/tags/v1").reference("v1"));
    hub.add(pr.clone().branch("draft").reference("refs/pr/1"));
    let larder = larder!(&hub);
    for (revision, model) in [("v1", &v1), ("refs/pr/1", &pr), ("draft", &pr)] {
        let job = stage(&larder, &[&format!("{}@{revision}", model.id())]);
        assert_eq!((&job["revision"], &job["commit"]), (&revision.into(), &model.commit().into()));
        snapshot(&larder, model, revision).assert_is(model);
    }
    stage(&larder, &[&format!("{}@{}", v1.id(), v1.commit())]);
    let repo = repo_folder(larder.cache(), v1.id());
    let refs = repo.join("refs");
    let names: Vec<_> =
        walk(&refs).iter().map(|path| path.strip_prefix(&refs).expect("below").to_owned()).collect();
    assert_eq!(names, ["draft", "refs/pr/1", "v1"].map(std::path::PathBuf::from), "a commit needs no ref");
    assert_eq!(receipt(&larder, &pr)["revisions"], serde_json::json!(["refs/pr/1", "draft"]));
    assert_clean(larder.cache());
}

#[test]
fn a_branch_that_moved_is_staged_anew_and_the_old_commit_stays() {
    let hub = Hub::start();
    let old = models::sharded_gpt2(10, 400_000, 2);
    hub.add(old.clone());
    let larder = larder!(&hub);
    stage(&larder, &[old.id()]);

    let new = old.clone().file("config.json", "{\"model_type\": \"gpt2\", \"n_embd\": 8}\n");
    hub.update(new.clone());
    let job = stage(&larder, &[new.id()]);
    assert_eq!(job["commit"], new.commit());
    assert_eq!(
        job["bytes_fetched"],
        new.at("config.json").size,
        "weights that did not change are not fetched"
    );
    snapshot(&larder, &new, "main").assert_is(&new);
    snapshot(&larder, &old, &old.commit()).assert_is(&old);
    assert_clean(larder.cache());
    let models = larder.run(&["ls", "--json"]).expect_code(0).json();
    assert_eq!(models.as_array().map(Vec::len), Some(2), "{models}");
}
